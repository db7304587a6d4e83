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
use crate::types::RefusalKind;

/// As many links as the kernel follows.
const LINKS_MAX: usize = 40;

const SPEC: &str = "BACKUP[:PARTITION]:PATH";

/// List files inside a backup
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs files ls monday:/
  amberfs files ls -l monday:3:/var/lib
  amberfs files ls myvol10@latest:2:")]
pub struct FilesListArgs {
    /// What to list: a backup, the number of a partition if it has partitions, and a path inside
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
  amberfs files cat monday:3:/var/lib/db.sql > db.sql")]
pub struct FilesCatArgs {
    /// File to write (repeat for several)
    #[arg(value_name = SPEC, required = true)]
    specs: Vec<Spec>,
}

/// Copy files and folders out of a backup
///
/// With mode, times and, for root, owners, as cp -a does. Links are copied as links.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs files cp monday:3:/home/alice /tmp/
  amberfs files cp monday:3:/etc/passwd monday:3:/etc/group /tmp/")]
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
    partition: Option<u32>,
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
        let numbered = rest.split_once(':').and_then(|(number, path)| Some((number.parse().ok()?, path)));
        let (partition, path) = numbered.map_or((None, rest), |(number, path)| (Some(number), path));
        Ok(Self { backup: backup.to_owned(), partition, path: PathBuf::from(path) })
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
        let mut file = File::open(&path).map_err(failed)?;
        if file.metadata().map_err(failed)?.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
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
    let root = match spec.partition {
        Some(number) => folder.join(format!("partitions/{number}.files")),
        None => folder.join("files"),
    };
    if fs::symlink_metadata(&root).is_ok() {
        return Ok((root, spec.path.clone()));
    }
    let partitions = readable_partitions(&folder);
    let what = match spec.partition {
        Some(number) => format!("partition {number} of backup {} has no file system", backup.text("id")),
        None => format!("backup {} is no bare file system", backup.text("id")),
    };
    let known = match partitions.is_empty() {
        true => "nor has any partition of it one that can be read".to_owned(),
        false => format!(
            "there are files in partitions {}: name one, as in {}:{}:/",
            partitions.join(", "),
            spec.backup,
            partitions.first().map(String::as_str).unwrap_or_default()
        ),
    };
    Err(CliError::refused(RefusalKind::InvalidInput, format!("{what} that can be read; {known}")))
}

fn readable_partitions(backup: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(backup.join("partitions")) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut numbers: Vec<String> =
        names.filter_map(|name| Some(name.strip_suffix(".files")?.to_owned())).collect();
    numbers.sort_by_key(|number| number.parse::<u32>().unwrap_or(u32::MAX));
    numbers
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
            Spec { backup: "monday".into(), partition: None, path: "/etc".into() }
        );
        assert_eq!(
            spec("m:3:etc/a:b"),
            Spec { backup: "m".into(), partition: Some(3), path: "etc/a:b".into() }
        );
        assert_eq!(spec("m:a:b").path, PathBuf::from("a:b"));
        assert_eq!(spec("rbd/vol@latest:2:").path, PathBuf::from(""));
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
