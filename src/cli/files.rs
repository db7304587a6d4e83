//! `amberfs files ls`, `cat` and `cp`: the files inside backups, for scripts.
//!
//! They are read through the mount, so nobody reads here what he could not read there.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use clap::Args;

use super::error::CliError;
use super::mounted::Mounted;
use super::resolve;
use crate::contents::PartName;
use crate::types::RefusalKind;

/// As many links as the kernel follows.
const LINKS_MAX: usize = 40;

const SPEC: &str = "BACKUP[:PARTITION]:PATH";

/// In the place of a partition, where the disk itself is LVM's: as the folder in the tree is called.
const BARE_LVM: &str = "lvm";

/// List files inside a backup
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs files ls monday:/
  amberfs files ls -l monday:3:/var/lib
  amberfs files ls myvol10@latest:2:
  amberfs files ls monday:3/root:/etc    (logical volume root in partition 3)
  amberfs files ls monday:lvm/root:/etc  (logical volume root, on a disk without partitions)

A path that itself begins like a partition (3:, 3/root:, lvm/root:) is written with a slash in front.")]
pub struct FilesListArgs {
    /// What to list: a backup, the number of a partition if it has partitions (3, or 3/root for a logical volume of LVM),
    /// and a path inside
    #[arg(value_name = SPEC)]
    spec: Spec,

    /// With mode, owner, size and time
    #[arg(short)]
    long: bool,
}

/// Write files inside a backup to standard output
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs files cat monday:3:/etc/fstab
  amberfs files cat monday:3/root:/etc/fstab
  amberfs files cat monday:3:/var/lib/db.sql > db.sql")]
pub struct FilesCatArgs {
    /// File to write (repeat for several)
    #[arg(value_name = SPEC, required = true)]
    specs: Vec<Spec>,
}

/// Copy files and folders out of a backup
///
/// With mode, times and, for root, owners, as cp -a does. Links are copied as links. As root, set-user-id files and
/// device nodes of the guest are copied too: not to where others can reach them.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs files cp monday:3:/home/alice .
  amberfs files cp monday:3:/etc/passwd monday:3:/etc/group /root/restored/")]
pub struct FilesCopyArgs {
    /// File or folder to copy (repeat for several)
    #[arg(value_name = SPEC, required = true)]
    specs: Vec<Spec>,

    /// Where to
    #[arg(value_name = "DESTINATION")]
    destination: PathBuf,
}

/// A path inside a backup, as a user writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Spec {
    backup: String,
    part: PartName,
    path: PathBuf,
}

impl std::str::FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("it is written {SPEC}, as monday:3:/etc/fstab");
        let (backup, rest) = text.split_once(':').ok_or_else(wrong)?;
        if backup.is_empty() {
            return Err(wrong());
        }
        let parted = rest.split_once(':').and_then(|(part, path)| Some((parse_part(part)?, path)));
        let (part, path) = parted.unwrap_or((PartName::default(), rest));
        Ok(Self { backup: backup.to_owned(), part, path: PathBuf::from(path) })
    }
}

/// Reads `3`, `3/root` or `lvm/root`.
fn parse_part(text: &str) -> Option<PartName> {
    match text.split_once('/') {
        None => text.parse().ok().map(PartName::partition),
        Some((_, "")) => None,
        Some((_, name)) if name.contains('/') => None,
        Some((BARE_LVM, name)) => Some(PartName::logical_volume(None, name)),
        Some((number, name)) => Some(PartName::logical_volume(Some(number.parse().ok()?), name)),
    }
}

/// Returns how a part is written between a backup and a path; nothing for the disk itself.
pub(super) fn part_spec(part: &PartName) -> Option<String> {
    match (part.partition, part.logical_volume.as_deref()) {
        (None, None) => None,
        (Some(number), None) => Some(number.to_string()),
        (Some(number), Some(name)) => Some(format!("{number}/{name}")),
        (None, Some(name)) => Some(format!("{BARE_LVM}/{name}")),
    }
}

pub fn list(mounted: &Mounted, args: &FilesListArgs) -> Result<(), CliError> {
    let (root, path) = found(mounted, &args.spec)?;
    let path = inside(&root, &path, true)?;
    let mut ls = Command::new("ls");
    ls.arg(if args.long { "-lA" } else { "-1A" }).arg("--").arg(path);
    // It takes the place of this program: its exit status is ours.
    Err(CliError::Io { what: "run", path: "ls".into(), source: ls.exec() })
}

pub fn cat(mounted: &Mounted, args: &FilesCatArgs) -> Result<(), CliError> {
    for spec in &args.specs {
        let (root, path) = found(mounted, spec)?;
        let path = inside(&root, &path, true)?;
        let failed = |source| CliError::Io { what: "read", path: path.clone(), source };
        // Looked at before it is opened: to open a pipe would wait for ever.
        if !fs::symlink_metadata(&path).map_err(failed)?.is_file() {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "it is no file with contents");
            return Err(failed(source));
        }
        let mut file = File::open(&path).map_err(failed)?;
        match io::copy(&mut file, &mut io::stdout().lock()) {
            // A reader that has enough is no failure.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            copied => drop(copied.map_err(failed)?),
        }
    }
    Ok(())
}

pub fn copy(mounted: &Mounted, args: &FilesCopyArgs) -> Result<(), CliError> {
    let mut cp = Command::new("cp");
    cp.args(["-a", "--"]);
    for spec in &args.specs {
        let (root, path) = found(mounted, spec)?;
        cp.arg(inside(&root, &path, false)?);
    }
    cp.arg(&args.destination);
    Err(CliError::Io { what: "run", path: "cp".into(), source: cp.exec() })
}

/// Returns the folder of the file system that is meant, and the path in it.
fn found(mounted: &Mounted, spec: &Spec) -> Result<(PathBuf, PathBuf), CliError> {
    let backup = resolve::backup(mounted, &spec.backup)?;
    let folder = mounted.backup_path(backup.text("id"));
    let root = folder.join(match (spec.part.partition, spec.part.logical_volume.as_deref()) {
        (None, None) => "files".to_owned(),
        (Some(number), None) => format!("partitions/{number}.files"),
        (Some(number), Some(name)) => format!("partitions/{number}.lvm/{name}.files"),
        (None, Some(name)) => format!("lvm/{name}.files"),
    });
    if fs::symlink_metadata(&root).is_ok() {
        return Ok((root, spec.path.clone()));
    }
    let what = match spec.part == PartName::default() {
        true => format!("backup {} is no bare file system", backup.text("id")),
        false => format!("{} of backup {} has no file system", spec.part, backup.text("id")),
    };
    let readable = readable_parts(&folder);
    let are_partitions = readable.iter().all(|part| !part.contains('/'));
    let known = match readable.first() {
        None => "nor has any part of it one that can be read".to_owned(),
        Some(first) => format!(
            "there are files in {}{}: name one, as in {}:{first}:/",
            if are_partitions { "partitions " } else { "" },
            readable.join(", "),
            spec.backup,
        ),
    };
    Err(CliError::refused(RefusalKind::InvalidInput, format!("{what} that can be read; {known}")))
}

/// Returns the partitions and logical volumes whose files can be read, as a user writes them.
fn readable_parts(backup: &Path) -> Vec<String> {
    let partitions = names(&backup.join("partitions"));
    let mut numbers: Vec<u32> = partitions
        .iter()
        .filter_map(|name| name.strip_suffix(".files").or_else(|| name.strip_suffix(".lvm"))?.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    let volumes = |partition, folder: PathBuf| {
        let mut volumes: Vec<PartName> = names(&folder)
            .iter()
            .filter_map(|name| name.strip_suffix(".files"))
            .map(|name| PartName::logical_volume(partition, name))
            .collect();
        volumes.sort();
        volumes
    };
    let mut parts = volumes(None, backup.join("lvm"));
    for number in numbers {
        if partitions.contains(&format!("{number}.files")) {
            parts.push(PartName::partition(number));
        }
        parts.extend(volumes(Some(number), backup.join(format!("partitions/{number}.lvm"))));
    }
    parts.iter().filter_map(part_spec).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

/// Follows a path as the guest would: a link with an absolute target leads to the root of its own file system, not to
/// that of this machine. A link at the end is followed when that is wanted.
fn inside(root: &Path, path: &Path, follows_last: bool) -> Result<PathBuf, CliError> {
    let mut to_go: Vec<PathBuf> = reversed(path);
    let mut done = PathBuf::new();
    let mut links = 0;
    while let Some(name) = to_go.pop() {
        if name == Path::new("..") {
            done.pop();
            continue;
        }
        done.push(&name);
        let is_last = to_go.is_empty();
        let here = root.join(&done);
        let Ok(target) = fs::read_link(&here) else { continue };
        if is_last && !follows_last {
            break;
        }
        links += 1;
        if links > LINKS_MAX {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "too many links");
            return Err(CliError::Io { what: "follow the links of", path: here, source });
        }
        done.pop();
        if target.is_absolute() {
            done = PathBuf::new();
        }
        to_go.append(&mut reversed(&target));
    }
    Ok(root.join(done))
}

/// Returns the names of a path, the first one last.
fn reversed(path: &Path) -> Vec<PathBuf> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    });
    names.rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Spec {
        text.parse().unwrap()
    }

    #[test]
    fn a_path_is_written_with_or_without_a_partition() {
        assert_eq!(
            spec("monday:/etc"),
            Spec { backup: "monday".into(), part: PartName::default(), path: "/etc".into() }
        );
        assert_eq!(
            spec("m:3:etc/a:b"),
            Spec { backup: "m".into(), part: PartName::partition(3), path: "etc/a:b".into() }
        );
        assert_eq!(spec("m:a:b").path, PathBuf::from("a:b"));
        assert_eq!(spec("rbd/vol@latest:2:").path, PathBuf::from(""));
        assert_eq!(spec("m:3/root:/etc").part, PartName::logical_volume(Some(3), "root"));
        assert_eq!(spec("m:lvm/root:/etc").part, PartName::logical_volume(None, "root"));
        for bare in ["m:/3/root:/etc", "m:/lvm/root:/etc", "m:lvm:/etc", "m:3/:/etc", "m:3/a/b:/etc"] {
            assert_eq!(spec(bare).part, PartName::default(), "{bare}");
        }
        for part in ["3", "3/root", "lvm/root"] {
            assert_eq!(part_spec(&parse_part(part).unwrap()).as_deref(), Some(part));
        }
        assert!("monday".parse::<Spec>().is_err() && ":/etc".parse::<Spec>().is_err());
    }

    #[test]
    fn a_link_never_leads_out_of_the_backup() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir(root.join("etc")).unwrap();
        let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, root.join(name)).unwrap();
        link("/etc/passwd", "absolute");
        link("../../../../etc/passwd", "etc/up");
        link("loop", "loop");
        link("etc", "folder");
        for path in ["absolute", "/etc/up", "folder/../etc/passwd", "../../etc/passwd"] {
            assert_eq!(inside(root, Path::new(path), true).unwrap(), root.join("etc/passwd"), "{path}");
        }
        assert_eq!(inside(root, Path::new("absolute"), false).unwrap(), root.join("absolute"));
        assert!(inside(root, Path::new("loop"), true).is_err());
    }
}
