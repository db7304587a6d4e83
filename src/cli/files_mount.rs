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
use super::mount_table;
use super::mounted::Mounted;
use super::output::note;
use crate::contents::{self, Kind, Table};
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
    let result = mount_scratch(mounted, &name, args.partition, &args.directory);
    if let Err(error) = mounted.remove_scratch(&name) {
        note(&error.with_causes());
    }
    result
}

fn mount_scratch(
    mounted: &Mounted,
    name: &str,
    partition: Option<u32>,
    directory: &Path,
) -> Result<(), CliError> {
    let image = mounted.scratch_path(name);
    let (partition, kind) = choose(&image, partition)?;
    let file = match partition {
        Some(number) => PathBuf::from(format!("{}.partitions/{number}", image.display())),
        None => image,
    };
    if kind == Kind::Xfs {
        // The kernel does not mount two of one UUID.
        let target = format!("scratch/{name}");
        let change = XfsUuidArgs { target, uuid: None, partition, dry_run: false };
        mounted.send_one(control::Command::XfsUuid(change))?;
    }
    let device = run(Command::new("losetup").args(["--find", "--show", "--direct-io=on"]).arg(&file))?;
    let device = device.trim();
    let mounting =
        run(Command::new("mount").args(["-t", kind.name(), "-o", OPTIONS, "--"]).arg(device).arg(directory));
    // Where it is in use, by the mount, it goes with that.
    let detached = run(Command::new("losetup").args(["--detach", device]));
    mounting?;
    detached.map(drop)
}

/// Returns what to mount: the partition that was named, or the only one with a file system, or the disk itself.
fn choose(image: &Path, partition: Option<u32>) -> Result<(Option<u32>, Kind), CliError> {
    let failed = |source| CliError::Io { what: "look into", path: image.to_owned(), source };
    let disk = FileDevice::open(image).map_err(failed)?;
    let refused = |sentence: String| Err(CliError::refused(RefusalKind::InvalidInput, sentence));
    let table = match contents::partitions(&disk) {
        Ok(table) => table,
        Err(error) => return refused(error.to_string()),
    };
    let Some(table) = table else {
        if let Some(number) = partition {
            return refused(format!("the backup has no partition table, and so no partition {number}"));
        }
        let content = contents::identify(&disk).map_err(failed)?;
        return match content {
            Some(content) => check_mountable("the backup", content.kind).map(|kind| (None, kind)),
            None => refused("there is no file system in the backup that is known here".to_owned()),
        };
    };
    let kinds = kinds(&disk, &table);
    if let Some(number) = partition {
        let Some((_, kind)) = kinds.iter().find(|(found, _)| *found == number) else {
            return refused(format!("there is no partition {number}; there are {}", described(&kinds)));
        };
        return match kind {
            Some(kind) => {
                check_mountable(&format!("partition {number}"), *kind).map(|kind| (partition, kind))
            }
            None => refused(format!("there is no file system in partition {number} that is known here")),
        };
    }
    let known = |(number, kind): &(u32, Option<Kind>)| {
        kind.filter(|kind| is_mountable(*kind)).map(|kind| (*number, kind))
    };
    let mountable: Vec<(u32, Kind)> = kinds.iter().filter_map(known).collect();
    match mountable.as_slice() {
        [(number, kind)] => Ok((Some(*number), *kind)),
        [] => refused(format!("no partition has a file system that can be mounted: {}", described(&kinds))),
        _ => refused(format!("choose one with --partition: {}", described(&kinds))),
    }
}

fn kinds(disk: &FileDevice, table: &Table) -> Vec<(u32, Option<Kind>)> {
    let contents =
        contents::identify_all(disk, table).into_iter().map(|content| content.map(|content| content.kind));
    table.partitions.iter().map(|partition| partition.number).zip(contents).collect()
}

fn described(kinds: &[(u32, Option<Kind>)]) -> String {
    let one =
        |(number, kind): &(u32, Option<Kind>)| format!("{number} ({})", kind.map_or("unknown", Kind::name));
    kinds.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Is it a file system, and not something that others are in?
fn is_mountable(kind: Kind) -> bool {
    !matches!(kind, Kind::Swap | Kind::Luks | Kind::LvmPhysicalVolume | Kind::Mdraid)
}

fn check_mountable(what: &str, kind: Kind) -> Result<Kind, CliError> {
    if is_mountable(kind) {
        return Ok(kind);
    }
    let sentence = format!("{what} holds {}, which is no file system", kind.name());
    Err(CliError::refused(RefusalKind::InvalidInput, sentence))
}

pub fn umount(args: &FilesUmountArgs) -> Result<(), CliError> {
    check_root("umount")?;
    let failed = |why: String| CliError::Unmount { path: args.directory.clone(), why };
    let directory = fs::canonicalize(&args.directory).map_err(|source| CliError::Io {
        what: "look at",
        path: args.directory.clone(),
        source,
    })?;
    let device = mount_table::device_of(&directory)?
        .filter(|device| backing_file(device).is_some_and(|file| file.contains(PREFIX)));
    let Some(device) = device else {
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
    while backing_file(&device).is_some_and(|file| file.contains(PREFIX)) {
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
