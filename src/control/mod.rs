//! Control files: a line is a command, written as the arguments of the command line's command of that name.
//!
//! One grammar ([`BackupArgs`] and its like) serves the control files and `cli`, so the two cannot drift apart.
//! A new command is one `Args` struct in `grammar.rs`, its words in `words.rs`, and one arm in each `match` of
//! `command.rs` and `run.rs`.

mod answer;
mod command;
mod grammar;
mod lines;
mod run;
mod words;

pub use answer::{Accepted, Answer};
pub use command::{Command, ControlFile, UnwritableWord};
pub use grammar::{
    BackupArgs, CancelArgs, DeleteArgs, FlattenArgs, GcArgs, ImportArgs, NewState, ResetStateArgs,
    RestoreArgs, ScratchArgs, SetArgs, VerifyArgs, XfsUuidArgs, property,
};
pub use lines::{LINE_BYTES_MAX, LINES_MAX, parse_lines};
pub use run::{Commands, xfs_uuid_request};
