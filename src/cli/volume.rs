//! `amberfs volume list` and `show`: the volumes that exist or have backups.

use clap::Args;
use serde_json::Value;

use super::error::CliError;
use super::fields::Fields;
use super::format::{List, OutputArgs};
use super::mounted::{Mounted, VolumeFolder};
use super::resolve;
use crate::types::RefusalKind;

const HEADINGS: [&str; 6] = ["Name", "Source", "Backups", "Latest Backup", "Latest At", "Size"];

/// List the volumes that exist or have backups
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs volume list
  amberfs volume list --source rbd -f value -c Name")]
pub struct VolumeListArgs {
    /// Only volumes of this source
    #[arg(long)]
    source: Option<String>,

    #[command(flatten)]
    output: OutputArgs,
}

/// Show one volume and its latest backup
///
/// For all of its backups: amberfs backup list --volume VOLUME
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs volume show myvol10
  amberfs volume show rbd/myvol10 -f value -c latest_backup_id")]
pub struct VolumeShowArgs {
    /// Volume: SOURCE/NAME, a NAME that only one source has, or the volume's id
    volume: String,

    #[command(flatten)]
    output: OutputArgs,
}

/// A volume's folder, with its latest backup when there is one.
struct Volume {
    folder: VolumeFolder,
    latest: Option<Fields>,
}

impl Volume {
    fn latest(&self, field: &str) -> Value {
        self.latest.as_ref().map_or(Value::Null, |latest| latest.value(field).clone())
    }

    /// Returns the volume's own name, as its backups keep it; its folder's name when there are none.
    fn name(&self) -> &str {
        self.latest.as_ref().map_or(&self.folder.name, |latest| latest.text("volume_name"))
    }

    fn full_name(&self) -> String {
        format!("{}/{}", self.folder.source, self.name())
    }

    fn is_named(&self, text: &str) -> bool {
        self.name() == text || self.full_name() == text || self.latest("volume_id").as_str() == Some(text)
    }
}

fn volumes(mounted: &Mounted) -> Result<Vec<Volume>, CliError> {
    let with_latest = |folder: VolumeFolder| {
        let latest = folder.latest.as_deref().map(|id| mounted.backup(id)).transpose()?.flatten();
        Ok(Volume { folder, latest })
    };
    mounted.volumes()?.into_iter().map(with_latest).collect()
}

pub fn list(mounted: &Mounted, args: &VolumeListArgs) -> Result<(), CliError> {
    let of_source = |volume: &&Volume| args.source.as_ref().is_none_or(|s| *s == volume.folder.source);
    let row = |volume: &Volume| {
        vec![
            Value::from(volume.name()),
            Value::from(volume.folder.source.as_str()),
            Value::from(volume.folder.backups.len()),
            volume.latest("id"),
            volume.latest("data_timestamp"),
            volume.latest("size"),
        ]
    };
    let rows = volumes(mounted)?.iter().filter(of_source).map(row).collect();
    args.output.print_list(List { headings: &HEADINGS, shown: HEADINGS.len(), rows })
}

pub fn show(mounted: &Mounted, args: &VolumeShowArgs) -> Result<(), CliError> {
    let text = args.volume.as_str();
    let mut found = volumes(mounted)?;
    found.retain(|volume| volume.is_named(text));
    if found.is_empty() {
        let sentence = format!("there is no volume {text:?}: see amberfs volume list");
        return Err(CliError::refused(RefusalKind::VolumeNotFound, sentence));
    }
    let volume = resolve::only(text, "volumes", found, |volume| volume.full_name())?;
    let fields = [
        ("name", Value::from(volume.name())),
        ("source", Value::from(volume.folder.source.as_str())),
        ("id", volume.latest("volume_id")),
        ("backups", Value::from(volume.folder.backups.len())),
        ("latest_backup_id", volume.latest("id")),
        ("latest_backup_name", volume.latest("name")),
        ("latest_data_timestamp", volume.latest("data_timestamp")),
        ("size", volume.latest("size")),
        ("size_bytes", volume.latest("size_bytes")),
    ];
    args.output.print_object(&fields.map(|(name, value)| (name.to_owned(), value)))
}
