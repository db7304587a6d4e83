//! One scratch image and its files.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::ScratchError;
use super::about::About;
use super::map::{BLOCK_BYTES, BlockMap};
use super::overlay::Overlay;
use super::space::Space;
use crate::image::Image;
use crate::repository::Repository;
use crate::sysio::device::{ReadAt, WriteAt};
use crate::sysio::{PathError, atomic, holes, process, rename};
use crate::types::ByteRange;

/// Beside the files of one that could not be synced.
const FAILED: &str = "failed";

/// One scratch image. It can be read and written as long as somebody holds it, even when it has been removed.
pub struct ScratchImage {
    about: About,
    pub(super) folder: PathBuf,
    overlay: Overlay,
    users: Mutex<Users>,
    /// A writer has gone.
    gone: Condvar,
    is_kept: AtomicBool,
}

/// So long a writer may take to be gone after his close.
const CLOSED_WITHIN: Duration = Duration::from_secs(2);

/// Who uses a scratch image: any number of writers, or one who wants it to stand still.
#[derive(Default)]
struct Users {
    writers: usize,
    taken: Option<&'static str>,
}

impl ScratchImage {
    pub(super) fn create(
        path: &Path,
        about: About,
        base: Arc<Image>,
        space: &Arc<Space>,
    ) -> Result<Self, ScratchError> {
        atomic::create_folder(path)?;
        let image = Self::on_files(path, about, base, space)?;
        if image.about.keep {
            // Its first map is there before it says that it is to be kept.
            image.sync().map_err(|error| PathError::new("sync", path, error))?;
        }
        image.about.write(path)?;
        rename::sync_folder(path).map_err(|error| PathError::new("sync folder", path, error))?;
        Ok(image)
    }

    pub(super) fn reopen(
        repository: &Repository,
        path: &Path,
        mut about: About,
        space: &Arc<Space>,
    ) -> Result<Self, ScratchError> {
        if path.join(FAILED).exists() {
            let why = io::Error::other("what was written to it could not be synced; remove its folder");
            return Err(PathError::new("trust", path, why).into());
        }
        let base = repository.image(about.backup)?;
        if ReadAt::size_bytes(base.as_ref()) != about.size_bytes {
            let why = format!("backup {} has another size than it had", about.backup);
            return Err(PathError::new("open", path, io::Error::new(io::ErrorKind::InvalidData, why)).into());
        }
        // After a restart of the machine, what was not synced may be there in part only.
        let is_same_boot = about.boot_id.is_some() && about.boot_id == process::boot_id();
        let (from, to) = if is_same_boot { ("map", "map.synced") } else { ("map.synced", "map") };
        let failed = |action, error| ScratchError::from(PathError::new(action, path, error));
        if is_same_boot {
            open_file(&path.join("data"))?.sync_data().map_err(|error| failed("sync", error))?;
        }
        copy_durably(path, from, to).map_err(|error| failed("take over the map of", error))?;
        about.boot_id = process::boot_id();
        about.write(path)?;
        Self::on_files(path, about, base, space)
    }

    fn on_files(
        path: &Path,
        about: About,
        base: Arc<Image>,
        space: &Arc<Space>,
    ) -> Result<Self, ScratchError> {
        let is_kept = AtomicBool::new(about.keep);
        let blocks = about.size_bytes.div_ceil(BLOCK_BYTES);
        let data = open_file(&path.join("data"))?;
        let (now, synced) = (open_file(&path.join("map"))?, open_file(&path.join("map.synced"))?);
        let overlay = data
            .set_len(about.size_bytes)
            .and_then(|()| BlockMap::new(now, synced, blocks))
            .and_then(|map| Overlay::new(base, data, map, Arc::clone(space)))
            .map_err(|error| PathError::new("open", path, error))?;
        Ok(Self {
            about,
            folder: path.to_owned(),
            overlay,
            users: Mutex::default(),
            gone: Condvar::new(),
            is_kept,
        })
    }

    pub fn about(&self) -> &About {
        &self.about
    }

    /// Bytes that were written to it, in blocks of 4 KiB.
    pub fn held_bytes(&self) -> u64 {
        self.overlay.held_bytes()
    }

    /// What is not a hole, about: the backup's, and what was written.
    pub fn allocated_bytes(&self) -> u64 {
        self.about.backup_allocated_bytes + self.held_bytes()
    }

    /// How often it was written to since it was opened.
    pub fn writes(&self) -> u64 {
        self.overlay.writes()
    }

    /// When it was last written to.
    pub fn changed_at(&self) -> SystemTime {
        self.overlay.changed_at().unwrap_or_else(|_| self.about.created_at.to_system_time())
    }

    /// Makes a range read as zeros, and gives its space back.
    pub fn discard(&self, range: ByteRange) -> io::Result<()> {
        self.overlay.discard(range)
    }

    /// Opens it for writing, until the guard is dropped.
    pub fn begin_writing(self: &Arc<Self>) -> Result<Writing, ScratchError> {
        let mut users = self.users();
        self.check_not_taken(&users)?;
        users.writers += 1;
        Ok(Writing { image: Arc::clone(self) })
    }

    /// Takes it for somebody alone, until the guard is dropped: nobody else writes to it, removes it or takes it.
    pub fn take(self: &Arc<Self>, what_for: &'static str) -> Result<Taken, ScratchError> {
        let users = self.users();
        self.check_not_taken(&users)?;
        // The kernel tells of a file that was closed, or a loop device that was detached, a moment later.
        let waited = self.gone.wait_timeout_while(users, CLOSED_WITHIN, |users| users.writers > 0);
        let (mut users, _) = waited.unwrap_or_else(PoisonError::into_inner);
        self.check_not_taken(&users)?;
        if users.writers > 0 {
            let name = self.about.name.clone();
            let advice = "unmount it and detach its loop device first";
            return Err(ScratchError::Busy { name, what: "open for writing", advice });
        }
        users.taken = Some(what_for);
        Ok(Taken { image: Arc::clone(self) })
    }

    /// Refuses to remove what somebody has taken, and sees to it that nobody takes it any more.
    pub(super) fn begin_removal(&self) -> Result<(), ScratchError> {
        let mut users = self.users();
        self.check_not_taken(&users)?;
        users.taken = Some("being removed");
        Ok(())
    }

    /// It is not removed after all.
    pub(super) fn end_removal(&self) {
        self.users().taken = None;
    }

    /// Is it there again when the daemon was restarted?
    pub fn is_kept(&self) -> bool {
        self.is_kept.load(Ordering::Acquire)
    }

    /// Makes it durable as it is, and sees to it that it is there again when the daemon was restarted.
    pub fn keep(&self) -> Result<(), ScratchError> {
        self.sync().map_err(|error| PathError::new("sync", &self.folder, error))?;
        About { keep: true, ..self.about.clone() }.write(&self.folder)?;
        self.is_kept.store(true, Ordering::Release);
        Ok(())
    }

    fn check_not_taken(&self, users: &Users) -> Result<(), ScratchError> {
        match users.taken {
            None => Ok(()),
            Some(what) => {
                let advice = "wait for the job to end, or cancel it";
                Err(ScratchError::Busy { name: self.about.name.clone(), what, advice })
            }
        }
    }

    fn users(&self) -> MutexGuard<'_, Users> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadAt for ScratchImage {
    fn size_bytes(&self) -> u64 {
        self.about.size_bytes
    }

    fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.overlay.read_exact_at(offset, into)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.overlay.next_data(offset)
    }

    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        self.overlay.next_hole(offset)
    }
}

impl WriteAt for ScratchImage {
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.overlay.write_all_at(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        let synced = self.overlay.sync();
        if synced.is_err() {
            // A later start must not believe a sync that succeeds then: the kernel may have dropped what it could not write.
            let marked = File::create(self.folder.join(FAILED)).and_then(|mark| mark.sync_all());
            if let Err(error) = marked {
                tracing::error!(scratch = self.about.name, %error, "a failed sync cannot be noted");
            }
        }
        synced
    }
}

/// Somebody has a scratch image open for writing.
pub struct Writing {
    image: Arc<ScratchImage>,
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.image.users().writers -= 1;
        self.image.gone.notify_all();
    }
}

/// Somebody has a scratch image for himself.
pub struct Taken {
    image: Arc<ScratchImage>,
}

impl Taken {
    /// Keeps everybody else out until this process ends.
    pub fn for_good(self) {
        std::mem::forget(self);
    }

    pub fn image(&self) -> &Arc<ScratchImage> {
        &self.image
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.image.users().taken = None;
    }
}

fn open_file(path: &Path) -> Result<File, PathError> {
    let opened = File::options().read(true).write(true).create(true).truncate(false).open(path);
    opened.map_err(|error| PathError::new("open", path, error))
}

/// Puts one of the maps in the place of the other.
fn copy_durably(folder: &Path, from: &str, to: &str) -> io::Result<()> {
    let new = folder.join("map.new");
    // Holes stay holes.
    let (source, copy) = (File::open(folder.join(from))?, File::create(&new)?);
    let length = source.metadata()?.len();
    copy.set_len(length)?;
    let mut position = 0;
    while let Some(data) = holes::next_data(&source, position, length)? {
        copy_range(&source, &copy, data.clone())?;
        position = data.end;
    }
    copy.sync_all()?;
    rename::rename_over(&new, &folder.join(to))?;
    rename::sync_folder(folder)
}

fn copy_range(source: &File, copy: &File, range: Range<u64>) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut position = range.start;
    while position < range.end {
        let length = usize::try_from(range.end - position).unwrap_or(usize::MAX).min(buffer.len());
        let piece = buffer.get_mut(..length).unwrap_or_default();
        source.read_exact_at(piece, position)?;
        copy.write_all_at(piece, position)?;
        position += length as u64;
    }
    Ok(())
}
