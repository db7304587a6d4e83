//! What is inside a disk: its partitions, what lies in each of them, and the logical volumes of LVM.
//!
//! Every byte that is read here was written by a guest, who may be hostile: lengths are checked before anything is allocated,
//! loops have an end, and the answer to nonsense is an error that says what is wrong with it.

mod bytes;
mod disk;
mod error;
mod gpt;
mod group_json;
pub mod identify;
pub mod lvm;
mod mbr;
mod part;
pub mod table;
mod table_json;
mod type_names;

pub use disk::{DiskContents, FoundPart, Identified, look_into};
pub use error::ContentsError;
pub use identify::{Content, Kind, identify};
pub use part::{Part, PartName, Place};
pub use table::{Partition, Table, TableKind, partitions};
pub use table_json::{identify_all, table_json};
