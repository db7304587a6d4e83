//! The words of the domain: ids, names, sizes, ranges, times and refusals. Checked once, no I/O.

mod byte_rate;
mod ids;
mod metadata;
mod names;
mod range;
mod refusal;
mod sentence;
mod size;
mod span;
mod timestamp;

pub use byte_rate::ByteRate;
pub use ids::{BackupId, ChunkId, IdError, ManifestId, PackId, RepositoryId, ScratchId, VolumeId};
pub use metadata::VolumeMetadata;
pub use names::{NameError, ProjectName, SnapshotName, SourceName, VolumeName};
pub use range::ByteRange;
pub use refusal::{Refusal, RefusalKind};
pub use sentence::sentence;
pub use size::{ByteSize, GIB, KIB, MIB, gib_rounded_up};
pub use span::TimeSpan;
pub use timestamp::Timestamp;
