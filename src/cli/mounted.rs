//! The running daemon, as its mount shows it: reads the tree, sends commands through `control/`.
//!
//! Everything read is bounded. What the caller's uid may not see is not there for it, as in any other tree.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::error::CliError;
use super::fields::Fields;
use super::mount_table;
use crate::control::{Accepted, Answer, Command};
use crate::types::{MIB, RefusalKind};

/// An `info.json` with a thousand properties; an answer to ten thousand lines.
const FILE_BYTES_MAX: u64 = 16 * MIB;

/// An answer that fits is read at once.
const ANSWER_BYTES_USUAL: usize = 4096;

const ENTRIES_MAX: usize = 4_000_000;

pub struct Mounted {
    root: PathBuf,
}

/// The entries of a folder that could be read, and what was wrong with the others.
pub struct Listing {
    pub entries: Vec<Fields>,
    pub unreadable: Vec<CliError>,
}

/// One folder `volumes/SOURCE/VOLUME`.
pub struct VolumeFolder {
    pub source: String,
    pub name: String,
    /// The ids of its backups, sorted.
    pub backups: Vec<String>,
    /// The id that the link `latest` leads to.
    pub latest: Option<String>,
}

/// Returns the mount that `$AMBERFS_MOUNT` names.
pub fn from_environment() -> Option<PathBuf> {
    std::env::var_os("AMBERFS_MOUNT").filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

impl Mounted {
    /// Finds the mount: the one that is named, else `$AMBERFS_MOUNT`, else the only one.
    pub fn find(named: Option<&Path>) -> Result<Self, CliError> {
        let root = match named.map(PathBuf::from).or_else(from_environment) {
            Some(root) => root,
            None => only_mount()?,
        };
        match fs::metadata(root.join("backups")) {
            Ok(_) => Ok(Self { root }),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Err(CliError::DaemonGone(root)),
            Err(error) if is_missing(&error) => Err(CliError::NotAMount(root)),
            Err(source) => Err(CliError::Io { what: "look into", path: root, source }),
        }
    }

    pub fn backup(&self, id: &str) -> Result<Option<Fields>, CliError> {
        read_fields(&self.root.join("backups").join(id).join("info.json"))
    }

    pub fn backups(&self) -> Result<Listing, CliError> {
        self.listing("backups", |folder| folder.join("info.json"), |_| true)
    }

    /// Reads a job. An id that cannot be one is a job that does not exist.
    pub fn job(&self, id: &str) -> Result<Fields, CliError> {
        let is_id = !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        let job = if is_id { read_fields(&self.root.join("jobs").join(id))? } else { None };
        job.ok_or_else(|| {
            CliError::refused(
                RefusalKind::JobNotFound,
                format!("there is no job {id:?}: see amberfs job list"),
            )
        })
    }

    pub fn jobs(&self) -> Result<Listing, CliError> {
        self.listing("jobs", |file| file, |_| true)
    }

    /// Reads what the projects that the caller may see use of their limits.
    pub fn quotas(&self) -> Result<Listing, CliError> {
        self.listing("quotas", |file| file, |_| true)
    }

    /// Reads what is known of the scratch images.
    pub fn scratch_images(&self) -> Result<Listing, CliError> {
        self.listing("scratch", |path| path, |name| name.ends_with(".json"))
    }

    pub fn backup_path(&self, id: &str) -> PathBuf {
        self.root.join("backups").join(id)
    }

    pub fn scratch_path(&self, name: &str) -> PathBuf {
        self.root.join("scratch").join(name)
    }

    /// Throws a scratch image away.
    pub fn remove_scratch(&self, name: &str) -> Result<(), CliError> {
        let path = self.scratch_path(name);
        // Nothing but one of the names in the folder.
        let is_name = !name.contains('/');
        match if is_name { fs::remove_file(&path) } else { Err(io::ErrorKind::NotFound.into()) } {
            Ok(()) => Ok(()),
            Err(error) if is_missing(&error) => {
                let sentence = format!("there is no scratch image {name:?}: see amberfs scratch list");
                Err(CliError::refused(RefusalKind::ScratchNotFound, sentence))
            }
            Err(source) => Err(CliError::Io { what: "remove", path, source }),
        }
    }

    /// Reads the record of a backup, to be imported again one day.
    pub fn record(&self, id: &str) -> Result<Vec<u8>, CliError> {
        let path = self.root.join("backups").join(id).join("record");
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
        read.map_err(|source| CliError::Io { what: "read", path, source })?;
        Ok(bytes)
    }

    pub fn volumes(&self) -> Result<Vec<VolumeFolder>, CliError> {
        let mut folders = Vec::new();
        let volumes = self.root.join("volumes");
        for source in names(&volumes)? {
            for name in names(&volumes.join(&source))? {
                folders.push(volume_folder(&volumes.join(&source).join(&name), source.clone(), name)?);
            }
        }
        Ok(folders)
    }

    /// Sends commands of one kind in one write, all accepted or none. Returns one answer for each.
    pub fn send(&self, commands: &[Command]) -> Result<Vec<Accepted>, CliError> {
        let Some(first) = commands.first() else { return Ok(Vec::new()) };
        let mut text = String::new();
        for command in commands {
            text.push_str(&command.to_line()?);
            text.push('\n');
        }
        let path = self.root.join("control").join(first.file().name());
        let failed = |what| {
            let path = path.clone();
            move |source| CliError::Io { what, path, source }
        };
        let mut file = OpenOptions::new().read(true).write(true).open(&path).map_err(failed("open"))?;
        let written = file.write(text.as_bytes());
        // A stream, as the daemon's control files are, has no place to go back to and reads the answer at once.
        let _ = file.rewind();
        let mut answer = Vec::with_capacity(ANSWER_BYTES_USUAL);
        let read = file.take(FILE_BYTES_MAX).read_to_end(&mut answer);
        let answer = Answer::parse(&String::from_utf8_lossy(&answer));
        match (written, answer) {
            (_, Some(Answer::Refused { name, sentence })) => Err(CliError::Refused { name, sentence }),
            (Err(source), _) => Err(failed("write to")(source)),
            (Ok(bytes), _) if bytes != text.len() => {
                let what = format!("it took {bytes} of {} bytes of the command", text.len());
                Err(CliError::Unreadable { path, what })
            }
            (Ok(_), Some(Answer::Accepted(answers))) if answers.len() == commands.len() => Ok(answers),
            (Ok(_), _) => {
                read.map_err(failed("read the answer of"))?;
                Err(CliError::Unreadable { path, what: "it did not answer the command".to_owned() })
            }
        }
    }

    /// Sends one command.
    pub fn send_one(&self, command: Command) -> Result<Accepted, CliError> {
        Ok(self.send(&[command])?.into_iter().next().unwrap_or_default())
    }

    /// Reads what the files say that belong to the wanted names in a folder.
    fn listing(
        &self,
        folder: &str,
        file: impl Fn(PathBuf) -> PathBuf,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<Listing, CliError> {
        let folder = self.root.join(folder);
        let mut listing = Listing { entries: Vec::new(), unreadable: Vec::new() };
        for name in names(&folder)?.into_iter().filter(|name| is_wanted(name)) {
            match read_fields(&file(folder.join(name))) {
                Ok(Some(fields)) => listing.entries.push(fields),
                // Gone since the folder was read.
                Ok(None) => {}
                Err(CliError::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {}
                Err(error) => listing.unreadable.push(error),
            }
        }
        Ok(listing)
    }
}

impl Listing {
    /// Returns what was wrong, to be said when the rest is shown.
    pub fn complete(unreadable: Vec<CliError>) -> Result<(), CliError> {
        let count = unreadable.len();
        match unreadable.into_iter().next() {
            Some(first) => Err(CliError::Incomplete { count, first: Box::new(first) }),
            None => Ok(()),
        }
    }
}

fn only_mount() -> Result<PathBuf, CliError> {
    let mut mounts = mount_table::amberfs_mounts()?;
    mounts.sort();
    mounts.dedup();
    match (mounts.pop(), mounts.is_empty()) {
        (Some(mount), true) => Ok(mount),
        (None, _) => Err(CliError::NoMount),
        (Some(mount), false) => {
            mounts.push(mount);
            Err(CliError::SeveralMounts(mounts))
        }
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Returns the names in a folder, sorted; none when the caller may not look into it, or it is gone.
fn names(folder: &Path) -> Result<Vec<String>, CliError> {
    let failed = |source| CliError::Io { what: "list", path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Err(error) if is_missing(&error) || error.kind() == io::ErrorKind::PermissionDenied => {
            return Ok(Vec::new());
        }
        entries => entries.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        if names.len() >= ENTRIES_MAX {
            let what = format!("it has more than {ENTRIES_MAX} entries");
            return Err(CliError::Unreadable { path: folder.to_owned(), what });
        }
        // The daemon writes every name as UTF-8.
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

fn read_fields(path: &Path) -> Result<Option<Fields>, CliError> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)) {
        Err(error) if is_missing(&error) => return Ok(None),
        Err(source) => return Err(CliError::Io { what: "read", path: path.to_owned(), source }),
        Ok(_) => {}
    }
    let fields = Fields::parse(&bytes);
    fields.map(Some).map_err(|what| CliError::Unreadable { path: path.to_owned(), what })
}

fn volume_folder(folder: &Path, source: String, name: String) -> Result<VolumeFolder, CliError> {
    let target = |link: &str| {
        let target = fs::read_link(folder.join(link)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    };
    let mut backups: Vec<String> = names(folder)?.iter().filter_map(|link| target(link)).collect();
    backups.sort();
    backups.dedup();
    Ok(VolumeFolder { source, name, backups, latest: target("latest") })
}
