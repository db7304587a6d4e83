//! `amberfs files mount` and `umount`: a file system inside a backup, mounted by the kernel.
//!
//! The kernel writes to what it mounts, were it only to replay the journal. So it gets a scratch image, whose name is taken
//! away as soon as it is mounted, and a loop device that goes with its last user: an unmount, whoever does it, leaves nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use uuid::Uuid;

use super::error::CliError;
use super::files::part_spec;
use super::mount_table;
use super::mounted::Mounted;
use super::output::note;
use crate::contents::{self, FoundPart, Kind, PartName};
use crate::control::{self, ScratchArgs, XfsUuidArgs};
use crate::sysio::device::FileDevice;
use crate::types::RefusalKind;

/// In front of the names of the scratch images that are made here.
const PREFIX: &str = "files-mount-";

/// What is inside a guest's file system is not to become anybody's program or device here.
const OPTIONS: &str = "ro,nosuid,nodev";

/// A loop device goes with its last user, when the kernel gets to it.
const GONE_WITHIN: Duration = Duration::from_secs(10);
const POLLED_EVERY: Duration = Duration::from_millis(20);

/// Mount a file system inside a backup, read-only
///
/// The journal is replayed, and an XFS gets another UUID, in a scratch image: the backup stays as it is, and copies of
/// one guest can be mounted side by side. Needs root, since only root may mount; `amberfs files ls`, `cat` and `cp`
/// do not.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs files mount monday /mnt
  amberfs files mount monday --partition 3 /mnt
  amberfs files mount monday --partition 3 --lv root /mnt
  amberfs files umount /mnt")]
pub struct FilesMountArgs {
    /// Backup to mount a file system of
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    backup: String,

    /// Folder to mount it on
    #[arg(value_name = "DIR")]
    directory: PathBuf,

    /// Partition to mount, when there are several with a file system
    #[arg(long, value_name = "N")]
    partition: Option<u32>,

    /// Logical volume of LVM to mount, of that partition or wherever there is one of this name
    ///
    /// It must lie on this one disk; thin volumes, mirrors and snapshots are not mounted.
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    lv: Option<String>,
}

/// Unmount what `files mount` has mounted
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs files umount /mnt")]
pub struct FilesUmountArgs {
    /// Folder that it is mounted on
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

pub fn mount(mounted: &Mounted, args: FilesMountArgs) -> Result<(), CliError> {
    check_root("mount")?;
    if !args.directory.is_dir() {
        let sentence = format!("{} is no folder: make it first", args.directory.display());
        return Err(CliError::refused(RefusalKind::InvalidInput, sentence));
    }
    let name = format!("{PREFIX}{}", Uuid::new_v4().simple());
    let scratch = ScratchArgs { backup: args.backup, name: Some(name.clone()), keep: false };
    mounted.send_one(control::Command::Scratch(scratch))?;
    // Its name goes in any case: while it is mounted, it is open.
    let result = mount_scratch(mounted, &name, args.partition, args.lv.as_deref(), &args.directory);
    if let Err(error) = mounted.remove_scratch(&name) {
        note(&error.with_causes());
    }
    result
}

fn mount_scratch(
    mounted: &Mounted,
    name: &str,
    partition: Option<u32>,
    lv: Option<&str>,
    directory: &Path,
) -> Result<(), CliError> {
    let image = mounted.scratch_path(name);
    let (part, kind) = choose(&image, partition, lv)?;
    let image = image.display();
    let file = match (part.partition, part.logical_volume.as_deref()) {
        (None, None) => image.to_string(),
        (None, Some(name)) => format!("{image}.lvm/{name}"),
        (Some(number), None) => format!("{image}.partitions/{number}"),
        (Some(number), Some(name)) => format!("{image}.partitions/{number}.lvm/{name}"),
    };
    let mut options = OPTIONS.to_owned();
    if kind == Kind::Xfs {
        // The kernel does not mount two of one UUID.
        let target = format!("scratch/{name}");
        let lv = part.logical_volume.map(|name| name.to_string());
        let change = XfsUuidArgs { target, uuid: None, partition: part.partition, lv, dry_run: false };
        match mounted.send_one(control::Command::XfsUuid(change)) {
            Ok(_) => {}
            // The kernel may mount what no UUID can be given, if it does not look at the one that it has.
            Err(CliError::Refused { sentence, .. }) => {
                note(&format!("it keeps its UUID: {sentence}"));
                options.push_str(",nouuid");
            }
            Err(error) => return Err(error),
        }
    }
    if matches!(kind, Kind::Ext2 | Kind::Ext3 | Kind::Ext4) {
        // A guest's superblock may ask for a panic, and this machine is not to do that.
        options.push_str(",errors=remount-ro");
    }
    let device = run(Command::new("losetup").args(["--find", "--show", "--direct-io=on"]).arg(&file))?;
    let device = device.trim();
    let mounting =
        run(Command::new("mount").args(["-t", kind.name(), "-o", &options, "--"]).arg(device).arg(directory));
    // Where it is in use, by the mount, it goes with that.
    let detached = run(Command::new("losetup").args(["--detach", device]));
    mounting?;
    detached.map(drop)
}

/// Returns what to mount: what was named, or the only file system that there is.
fn choose(image: &Path, partition: Option<u32>, lv: Option<&str>) -> Result<(PartName, Kind), CliError> {
    let failed = |source| CliError::Io { what: "look into", path: image.to_owned(), source };
    let disk = FileDevice::open(image).map_err(failed)?;
    let contents = contents::look_into(&disk).map_err(|error| refused(error.to_string()))?;
    if let Some(number) = partition
        && contents.table.is_none()
    {
        return Err(refused(format!("the backup has no partition table, and so no partition {number}")));
    }
    if let Some(name) = lv {
        let part = contents.find_logical_volume(partition, name).map_err(refused)?;
        let kind = contents.content(&part).map(|content| content.kind);
        return check_mountable(&part, kind).map(|kind| (part, kind));
    }
    let parts = contents.parts();
    let meant: Vec<_> = parts
        .iter()
        .filter(|part| partition.is_none_or(|number| part.name.partition == Some(number)))
        .collect();
    let mountable: Vec<_> = meant
        .iter()
        .filter_map(|part| {
            part.kind().filter(|kind| is_mountable(*kind)).map(|kind| (part.name.clone(), kind))
        })
        .collect();
    match (mountable.as_slice(), meant.as_slice()) {
        ([one], _) => Ok(one.clone()),
        ([], []) => Err(refused(format!(
            "there is no partition {}; there are {}",
            partition.unwrap_or_default(),
            described(&parts)
        ))),
        ([], [one]) => check_mountable(&one.name, one.kind()).map(|kind| (one.name.clone(), kind)),
        ([], _) => {
            Err(refused(format!("nothing has a file system that can be mounted: {}", described(meant))))
        }
        (several, _) => {
            let is_partition = |(name, _): &(PartName, Kind)| name.logical_volume.is_none();
            let options = match (partition, several.iter().all(is_partition)) {
                (None, true) => "--partition",
                (None, false) if contents.table.is_some() => "--partition and --lv",
                (_, _) => "--lv",
            };
            Err(refused(format!("choose one with {options}: {}", described(meant))))
        }
    }
}

/// As `amberfs files ls` writes partitions and logical volumes.
fn described<'a>(parts: impl IntoIterator<Item = &'a FoundPart<'a>>) -> String {
    let one = |part: &FoundPart<'_>| {
        let kind = part.kind().map_or("unknown", Kind::name);
        match part_spec(&part.name) {
            Some(spec) => format!("{spec} ({kind})"),
            None => kind.to_owned(),
        }
    };
    parts.into_iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Is it a file system, and not something that others are in?
fn is_mountable(kind: Kind) -> bool {
    !matches!(
        kind,
        Kind::Swap | Kind::Luks | Kind::LvmPhysicalVolume | Kind::Mdraid | Kind::BitLocker | Kind::Jbd
    )
}

fn check_mountable(part: &PartName, kind: Option<Kind>) -> Result<Kind, CliError> {
    match kind {
        Some(kind) if is_mountable(kind) => Ok(kind),
        Some(kind) => Err(refused(format!("{part} holds {}, which is no file system", kind.name()))),
        None => Err(refused(format!("there is no file system in {part} that is known here"))),
    }
}

fn refused(sentence: String) -> CliError {
    CliError::refused(RefusalKind::InvalidInput, sentence)
}

pub fn umount(args: &FilesUmountArgs) -> Result<(), CliError> {
    check_root("umount")?;
    let failed = |why: String| CliError::Unmount { path: args.directory.clone(), why };
    let directory = fs::canonicalize(&args.directory).map_err(|source| CliError::Io {
        what: "look at",
        path: args.directory.clone(),
        source,
    })?;
    let device = mount_table::device_of(&directory)?;
    let file = device.as_deref().and_then(backing_file).filter(|file| file.contains(PREFIX));
    let (Some(device), Some(file)) = (device, file) else {
        return Err(failed("nothing that `amberfs files mount` has mounted is there".to_owned()));
    };
    match unmount(&directory, UnmountFlags::NOFOLLOW) {
        Ok(()) => {}
        Err(Errno::BUSY) => {
            let why = "it is in use: a file in it is open, or a shell stands in it";
            return Err(failed(why.to_owned()));
        }
        Err(errno) => return Err(failed(errno.to_string())),
    }
    let deadline = Instant::now() + GONE_WITHIN;
    while backing_file(&device).as_ref() == Some(&file) {
        if Instant::now() >= deadline {
            let why = format!("it is unmounted, but {} is still in use", device.display());
            return Err(failed(why));
        }
        thread::sleep(POLLED_EVERY);
    }
    Ok(())
}

/// Returns the file behind a loop device.
fn backing_file(device: &Path) -> Option<String> {
    let name = device.file_name()?;
    fs::read_to_string(Path::new("/sys/block").join(name).join("loop/backing_file")).ok()
}

fn check_root(what: &str) -> Result<(), CliError> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let sentence = format!(
        "amberfs files {what} needs root, since only root may mount; amberfs files ls, cat and cp need not"
    );
    Err(CliError::refused(RefusalKind::NotAuthorized, sentence))
}

/// Runs a program that must succeed, and returns what it prints.
fn run(command: &mut Command) -> Result<String, CliError> {
    let program = PathBuf::from(command.get_program());
    let output =
        command.output().map_err(|source| CliError::Io { what: "run", path: program.clone(), source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let what = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(CliError::Unreadable { path: program, what })
}
