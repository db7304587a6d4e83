//! `amberfs xfs-uuid`: another UUID for an XFS, so that it mounts beside the one it is a copy of.

use std::path::Path;

use clap::Args;

use super::error::CliError;
use super::mount_table;
use super::mounted::Mounted;
use super::output;
use crate::contents::PartName;
use crate::control::{Accepted, Command, XfsUuidArgs, xfs_uuid_request};
use crate::operations::{XfsUuidChange, change_xfs_uuid_of_file, is_path};

/// Give an XFS another UUID
///
/// It is changed natively: every superblock, and the log, which may be dirty and is not thrown away. When it is
/// interrupted, run it again: it goes on. What is mounted or in use is refused. The old UUID can be given back.
///
/// The path of a file or block device is changed by this program, with your rights; anything else by the daemon.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs xfs-uuid scratch/try
  amberfs xfs-uuid rbd/myvol-restored --dry-run
  amberfs xfs-uuid ./disk.raw --partition 3 --uuid 4c9e6d1e-2f0b-4a0e-9d0a-0c6a86c1b3de
  amberfs xfs-uuid scratch/try --partition 3 --lv root
  amberfs xfs-uuid /dev/loop0")]
pub struct XfsUuidCommand {
    #[command(flatten)]
    command: XfsUuidArgs,
}

pub fn run(
    mounted: impl FnOnce() -> Result<Mounted, CliError>,
    args: XfsUuidCommand,
) -> Result<(), CliError> {
    let mut args = args.command;
    if let Some(target) = scratch_image_at(&args.target) {
        args.target = target;
    }
    if is_path(&args.target) {
        let changes = change_xfs_uuid_of_file(Path::new(&args.target), &xfs_uuid_request(&args))?;
        return output::print(text(&changes, args.dry_run).as_bytes());
    }
    let dry_run = args.dry_run;
    let accepted = mounted()?.send_one(Command::XfsUuid(args))?;
    output::print(text_of_answer(&accepted, dry_run).as_bytes())
}

/// Returns how a scratch image of a running daemon is named that somebody gives the path of: the daemon changes it.
fn scratch_image_at(target: &str) -> Option<String> {
    let path = std::fs::canonicalize(Path::new(target).parent()?).ok()?.join(Path::new(target).file_name()?);
    let mounts = mount_table::amberfs_mounts().ok()?;
    let name = mounts.iter().find_map(|mount| path.strip_prefix(mount.join("scratch")).ok())?;
    Some(format!("scratch/{}", name.to_str().filter(|name| !name.contains('/'))?))
}

fn text(changes: &[XfsUuidChange], dry_run: bool) -> String {
    let line = |change: &XfsUuidChange| {
        let log = if change.is_log_dirty { "its log is to be replayed" } else { "its log is clean" };
        let what = format!("{} groups, {} log records, {log}", change.groups, change.log_records);
        described(&change.part, &change.old_uuid.to_string(), &change.new_uuid.to_string(), dry_run)
            + &format!(" ({what})\n")
    };
    changes.iter().map(line).collect()
}

/// The answer has `partition`, `lv`, `old_uuid` and `new_uuid` for each file system, one behind the other.
fn text_of_answer(accepted: &Accepted, dry_run: bool) -> String {
    let (mut part, mut old, mut text) = (PartName::default(), "", String::new());
    for (key, value) in accepted.pairs() {
        match key {
            "partition" => part.partition = value.parse().ok(),
            "lv" => part.logical_volume = Some(value.into()),
            "old_uuid" => old = value,
            "new_uuid" => {
                text += &described(&std::mem::take(&mut part), old, value, dry_run);
                text.push('\n');
            }
            _ => {}
        }
    }
    text
}

fn described(part: &PartName, old: &str, new: &str, dry_run: bool) -> String {
    let place = if *part == PartName::default() { String::new() } else { format!("{part}: ") };
    match dry_run {
        // Without --uuid it is a random one, another one each time.
        true => format!("{place}{old} would become {new}"),
        false => format!("{place}{old} is now {new}"),
    }
}
