//! Scratch images: writable views of backups that are thrown away. The backup under one is never changed.
//!
//! Each has a folder of its own in the state folder: `about.json`, `data` (a sparse file with what was written),
//! `map` and `map.synced`. One that is kept is there again when the daemon starts the next time; the others go with it.

mod about;
mod image;
mod map;
mod overlay;
mod space;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

pub use about::About;
pub use image::{ScratchImage, Taken, Writing};
use space::Space;

use crate::image::Image;
use crate::repository::{Repository, RepositoryError};
use crate::sysio::device::{ReadAt, WriteAt};
use crate::sysio::{PathError, atomic, clock, process};
use crate::types::{BackupId, ProjectName, ScratchId};

/// The folder of scratch images in the state folder.
const FOLDER: &str = "scratch";

/// So many there can be: each has three files open.
pub const SCRATCH_IMAGES_MAX: usize = 128;

/// A name is that of a file in the tree, with room for what is put behind it.
pub const NAME_BYTES_MAX: usize = 200;

/// Why there is no scratch image.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    #[error("there is no scratch image {name:?}; `ls scratch` lists them")]
    NotFound { name: String },

    #[error(
        "there is a scratch image {name:?} already; remove it (rm scratch/{name}), or give another --name"
    )]
    Exists { name: String },

    #[error("{name:?} is no name for a scratch image: {why}")]
    InvalidName { name: String, why: &'static str },

    #[error("there are {SCRATCH_IMAGES_MAX} scratch images, and there can be no more; remove one")]
    TooMany,

    #[error("scratch image {name:?} is {what}; {advice}")]
    Busy { name: String, what: &'static str, advice: &'static str },

    #[error(transparent)]
    Path(#[from] PathError),

    #[error(transparent)]
    Repository(#[from] RepositoryError),
}

/// All scratch images of one repository.
pub struct ScratchImages {
    folder: PathBuf,
    space: Arc<Space>,
    by_name: RwLock<BTreeMap<String, Arc<ScratchImage>>>,
    /// Kept ones that could not be opened at the start. Their backups and names stay theirs.
    unopened: Vec<About>,
    /// Held while one is made or removed.
    changing: Mutex<()>,
}

/// What a new scratch image is to be like.
#[derive(Debug, Clone)]
pub struct NewScratch {
    pub name: String,
    pub backup: BackupId,
    pub project: ProjectName,
    pub backup_allocated_bytes: u64,
    /// Is it to be there again after a restart?
    pub keep: bool,
}

impl ScratchImages {
    /// Opens those that are kept, and removes what an earlier process left of the others.
    pub fn open(repository: &Repository, bytes_max: u64) -> Result<Arc<Self>, ScratchError> {
        let folder = repository.state_folder().join(FOLDER);
        let mut images = Self {
            folder,
            space: Space::new(bytes_max),
            by_name: RwLock::default(),
            unopened: Vec::new(),
            changing: Mutex::new(()),
        };
        images.reopen(repository)?;
        Ok(Arc::new(images))
    }

    fn reopen(&mut self, repository: &Repository) -> Result<(), ScratchError> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(PathError::new("list", &self.folder, error).into()),
        };
        let mut opened = BTreeMap::new();
        for entry in entries {
            let path = entry.map_err(|error| PathError::new("list", &self.folder, error))?.path();
            match About::read(&path) {
                Ok(about) if about.keep => {
                    match ScratchImage::reopen(repository, &path, about.clone(), &self.space) {
                        Ok(image) => drop(opened.insert(image.about().name.clone(), Arc::new(image))),
                        // It stays as it is: somebody wanted to keep it, and may know what to do.
                        Err(error) => {
                            tracing::error!(path = %path.display(), error = %Chain(&error), "a kept scratch image cannot be opened");
                            self.unopened.push(about);
                        }
                    }
                }
                Ok(_) => remove_folder(&path),
                Err(error) if error.is_not_found() => remove_folder(&path),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "what a scratch image says of itself cannot be read");
                }
            }
        }
        *self.by_name.write().unwrap_or_else(PoisonError::into_inner) = opened;
        Ok(())
    }

    /// Refuses a name that no new scratch image can have.
    pub fn check_new(&self, name: &str) -> Result<(), ScratchError> {
        check_name(name)?;
        let is_taken = self.read().contains_key(name) || self.unopened.iter().any(|about| about.name == name);
        if is_taken {
            return Err(ScratchError::Exists { name: name.to_owned() });
        }
        if self.read().len() >= SCRATCH_IMAGES_MAX { Err(ScratchError::TooMany) } else { Ok(()) }
    }

    /// Makes a scratch image over a backup's image. It is in the tree when this returns.
    pub fn create(&self, new: NewScratch, base: Arc<Image>) -> Result<Arc<ScratchImage>, ScratchError> {
        let _changing = self.changing();
        self.check_new(&new.name)?;
        atomic::create_folder(&self.folder)?;
        let id = ScratchId::random();
        let path = self.folder.join(id.to_string());
        let about = About {
            id,
            name: new.name,
            backup: new.backup,
            project: new.project,
            keep: new.keep,
            size_bytes: ReadAt::size_bytes(base.as_ref()),
            backup_allocated_bytes: new.backup_allocated_bytes,
            created_at: clock::now(),
            boot_id: process::boot_id(),
        };
        let made = ScratchImage::create(&path, about, base, &self.space);
        let image = match made {
            Ok(image) => Arc::new(image),
            Err(error) => {
                remove_folder(&path);
                return Err(error);
            }
        };
        let mut by_name = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        by_name.insert(image.about().name.clone(), Arc::clone(&image));
        Ok(image)
    }

    pub fn get(&self, name: &str) -> Result<Arc<ScratchImage>, ScratchError> {
        let found = self.read().get(name).cloned();
        found.ok_or_else(|| ScratchError::NotFound { name: name.to_owned() })
    }

    pub fn by_id(&self, id: ScratchId) -> Option<Arc<ScratchImage>> {
        self.read().values().find(|image| image.about().id == id).cloned()
    }

    /// Returns all, by name.
    pub fn all(&self) -> Vec<Arc<ScratchImage>> {
        self.read().values().cloned().collect()
    }

    /// Returns the names of those over one backup, which cannot be deleted as long as there are any.
    pub fn over(&self, backup: BackupId) -> Vec<String> {
        let opened = self.all().into_iter().map(|image| image.about().clone());
        let of_backup = opened.chain(self.unopened.iter().cloned()).filter(|about| about.backup == backup);
        of_backup.map(|about| about.name).collect()
    }

    /// Throws one away. Who has it open goes on with it until he closes it, as with any file.
    pub fn remove(&self, name: &str) -> Result<(), ScratchError> {
        let _changing = self.changing();
        let image = self.get(name)?;
        image.begin_removal()?;
        // The first thing to go is what makes it one that is kept.
        atomic::remove(&image.folder.join(about::FILE)).inspect_err(|_| image.end_removal())?;
        self.by_name.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        remove_folder(&image.folder);
        Ok(())
    }

    /// Makes what is kept durable, and removes the others: the end of the daemon.
    pub fn close(&self) {
        let _changing = self.changing();
        for image in self.all() {
            if !image.is_kept() {
                remove_folder(&image.folder);
            } else if let Err(error) = image.sync() {
                tracing::error!(scratch = image.about().name, %error, "a kept scratch image could not be synced");
            }
        }
    }

    /// Bytes that all of them hold, and may hold.
    pub fn use_of_space(&self) -> (u64, u64) {
        (self.space.used_bytes(), self.space.bytes_max())
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<String, Arc<ScratchImage>>> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name is one file name, and none that the tree gives itself.
fn check_name(name: &str) -> Result<(), ScratchError> {
    let why = match name {
        "" | "." | ".." => "a file cannot be called so",
        _ if name.len() > NAME_BYTES_MAX => "it has more than 200 bytes",
        _ if name.contains('/') || name.chars().any(char::is_control) => {
            "it holds what a file name cannot hold"
        }
        _ if [".partitions", ".lvm", ".json"].iter().any(|ending| name.ends_with(ending)) => {
            "what ends in .partitions, .lvm or .json, the tree has beside each scratch image"
        }
        _ => return Ok(()),
    };
    Err(ScratchError::InvalidName { name: name.to_owned(), why })
}

/// Removes a folder as far as that goes; what is left, the next start removes.
fn remove_folder(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "what is left of a scratch image cannot be removed");
    }
}

/// An error with its causes.
struct Chain<'a>(&'a ScratchError);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = std::error::Error::source(self.0);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
