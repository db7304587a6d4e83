//! What each command takes: one clap struct per command, used as it is by control lines and by the command line.
//!
//! Words are taken as they are; what they mean (which volume, which backup) is found out when the command runs.
//! A volume or backup whose name starts with a dash is written behind `--` (`--force -- -name`), or, for a volume,
//! with its source (`rbd/-name`); the value of an option that starts with a dash, as `--name=-name`. Quotes do not
//! help there: they are gone before the words are looked at, as in a shell.

use std::fmt;
use std::str::FromStr;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};

use uuid::Uuid;

use crate::operations::REWRITE_BELOW_PERCENT;
use crate::types::{ByteRate, ByteSize, TimeSpan, Timestamp};

#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub struct BackupArgs {
    /// Volume to back up: SOURCE/NAME, a NAME that only one source has, or the volume's id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub volume: String,

    /// Name of the backup
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub name: Option<String>,

    /// Description of the backup
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,

    /// Store only what changed since the volume's latest available backup
    ///
    /// With none to lean on, a full backup is taken and `is_incremental` says so.
    #[arg(long)]
    pub incremental: bool,

    /// Back up a volume that is in use
    ///
    /// The backup is what a power cut at this moment would leave (crash-consistent).
    #[arg(long)]
    pub force: bool,

    /// Back up this snapshot of the volume instead of its present state
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub snapshot: Option<String>,

    /// Property to keep with the backup (repeat for several)
    #[arg(long = "property", value_name = "KEY=VALUE", value_parser = property)]
    pub properties: Vec<(String, String)>,

    /// Never delete or prune the backup until `set --no-protect`
    #[arg(long)]
    pub protect: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub struct RestoreArgs {
    /// Backup to restore: its id, 8 or more characters of the id's start, its name, or VOLUME@latest
    #[arg(value_parser = NonEmptyStringValueParser::new(), required_unless_present = "from_scratch",
          conflicts_with = "from_scratch")]
    pub backup: Option<String>,

    /// Restore what this scratch image now holds, in the place of a backup
    #[arg(long, value_name = "SCRATCH", value_parser = NonEmptyStringValueParser::new())]
    pub from_scratch: Option<String>,

    /// The same as --to VOLUME, as OpenStack has it
    #[arg(value_parser = NonEmptyStringValueParser::new(),
          conflicts_with_all = ["to", "name", "source", "volume_type"])]
    pub volume: Option<String>,

    /// Overwrite this existing volume (needs --force); without it a new volume is made
    #[arg(long, value_name = "VOLUME", value_parser = NonEmptyStringValueParser::new(),
          conflicts_with_all = ["name", "source", "volume_type"])]
    pub to: Option<String>,

    /// Name of the new volume
    ///
    /// Without it: the name of the volume that was backed up when that is free, else that name with the time
    /// appended.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub name: Option<String>,

    /// Source to make the new volume in (default: the backup's)
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub source: Option<String>,

    /// Volume type of the new volume
    #[arg(long = "type", value_name = "TYPE", value_parser = NonEmptyStringValueParser::new())]
    pub volume_type: Option<String>,

    /// Size of the new volume, as 20GiB or in bytes, when it is to be larger than the backup
    ///
    /// What is beyond the backup's end reads as zeros.
    #[arg(long)]
    pub size: Option<ByteSize>,

    /// Allow an existing volume to be overwritten
    #[arg(long)]
    pub force: bool,

    /// Give each XFS, bare, in a partition or in a logical volume of LVM, a new UUID on the way, so that it mounts beside
    /// its original
    ///
    /// Logical volumes that are thin, mirrored, snapshots, or on several physical volumes stay as they are.
    #[arg(long)]
    pub new_xfs_uuid: bool,

    /// Write zeros where the backup is damaged, list these places, and mark the volume
    #[arg(long, conflicts_with = "from_scratch")]
    pub skip_damaged: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub struct XfsUuidArgs {
    /// What has the XFS in it: scratch/NAME, a VOLUME, or the path of an image file or block device (/..., ./...)
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub target: String,

    /// The new UUID (default: a random one)
    #[arg(long)]
    pub uuid: Option<Uuid>,

    /// Only the file system in this partition (default: the disk itself, or every XFS in its partitions)
    #[arg(long, value_name = "N")]
    pub partition: Option<u32>,

    /// Only the file system in this logical volume of LVM, in the partition or wherever there is one of this name
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub lv: Option<String>,

    /// Say what would be done, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub struct DeleteArgs {
    /// Backup to delete: its id, 8 or more characters of the id's start, its name, or VOLUME@latest (repeat for
    /// several, in any order)
    #[arg(required = true, value_name = "BACKUP", value_parser = NonEmptyStringValueParser::new())]
    pub backups: Vec<String>,

    /// Also when it is being made or restored: that is cancelled
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub struct FlattenArgs {
    /// Incremental backup to make a full one
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub backup: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Args)]
pub struct GcArgs {
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Write a pack again when less than this share of it is needed: 0 (never) to 100
    #[arg(long, value_name = "PERCENT", default_value_t = REWRITE_BELOW_PERCENT,
          value_parser = clap::value_parser!(u64).range(..=100))]
    pub rewrite_below: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub struct VerifyArgs {
    /// Backup to verify: its id, 8 or more characters of the id's start, its name, or VOLUME@latest (repeat for
    /// several)
    #[arg(value_name = "BACKUP", value_parser = NonEmptyStringValueParser::new(),
          required_unless_present_any = ["volume", "all", "older_than"])]
    pub backups: Vec<String>,

    /// Verify all backups of this volume: SOURCE/NAME, NAME or its id
    #[arg(long, conflicts_with = "all", value_parser = NonEmptyStringValueParser::new())]
    pub volume: Option<String>,

    /// Verify all backups
    #[arg(long)]
    pub all: bool,

    /// Only those that were not verified for so long (30d, 12h), or since then (2026-11-21T10:00:00Z); of all backups,
    /// unless some are named
    #[arg(long, value_name = "AGE")]
    pub older_than: Option<OlderThan>,

    /// Compare with the snapshot that the backup is of, too, byte by byte; refused when that is gone
    #[arg(long)]
    pub against_source: bool,

    /// Read so many bytes a second, as 200MiB, or none for as fast as it goes (default: the rate that the configuration
    /// gives all verifications together)
    #[arg(long, value_name = "BYTES")]
    pub rate: Option<ByteRate>,
}

/// An age, or a point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OlderThan {
    Age(TimeSpan),
    Time(Timestamp),
}

impl FromStr for OlderThan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = text.parse() {
            return Ok(Self::Time(time));
        }
        text.parse().map(Self::Age).map_err(|error: String| format!("{error}; or a time in ISO 8601"))
    }
}

impl fmt::Display for OlderThan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Age(age) => age.fmt(f),
            Self::Time(time) => time.fmt(f),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub struct ScratchArgs {
    /// Backup to look into: its id, 8 or more characters of the id's start, its name, or VOLUME@latest
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub backup: String,

    /// Name of the scratch image (default: the backup's)
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub name: Option<String>,

    /// Keep it, with what was written to it, when the daemon is restarted
    #[arg(long)]
    pub keep: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub struct SetArgs {
    /// Backup to change
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub backup: String,

    /// New name; an empty one takes the name away
    #[arg(long)]
    pub name: Option<String>,

    /// New description; an empty one takes it away
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,

    /// Take all properties away, before --property adds some
    #[arg(long)]
    pub no_property: bool,

    /// Property to add or to change (repeat for several)
    #[arg(long = "property", value_name = "KEY=VALUE", value_parser = property)]
    pub properties: Vec<(String, String)>,

    /// Property to take away (repeat for several)
    #[arg(long = "remove-property", value_name = "KEY", value_parser = NonEmptyStringValueParser::new())]
    pub removed_properties: Vec<String>,

    /// Never delete or prune the backup
    #[arg(long)]
    pub protect: bool,

    /// Allow the backup to be deleted and pruned again
    #[arg(long, conflicts_with = "protect")]
    pub no_protect: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ResetStateArgs {
    /// Backup whose state is wrong
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub backup: String,

    /// State to set; without it: available
    #[arg(value_name = "STATE", value_enum)]
    pub new_state: Option<NewState>,

    /// State to set, as an option
    #[arg(long, value_enum, conflicts_with = "new_state")]
    pub state: Option<NewState>,
}

/// What a state can be reset to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NewState {
    Available,
    Error,
}

/// The text of one exported record; in a control file it is a line as it is, not shell words.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImportArgs {
    pub record: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub struct CancelArgs {
    /// Job to cancel: its id, as in `amberfs job list`
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub job: String,
}

/// Reads `KEY=VALUE`; the error is a sentence.
pub fn property(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a property is written KEY=VALUE".to_owned()),
    }
}
