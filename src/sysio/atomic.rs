//! Files that are there whole and durable, or not at all.
//!
//! A file is written under a temporary name, synced, renamed, and its folder is synced. A rename never overwrites
//! unless the caller asks for it by [`replace`]. After a failed sync nothing is published and nothing is retried:
//! the kernel may have dropped the dirty pages, so a second sync that succeeds would prove nothing. What was renamed
//! before the sync of its folder failed is taken back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::PathError;

/// A file that is being written and nobody sees yet. Dropped without [`finish`](Self::finish) it is removed.
pub struct NewFile {
    file: File,
    temporary: PathBuf,
    destination: PathBuf,
    published: bool,
}

impl NewFile {
    /// Starts a file that will be published as `destination`; `temporary_folder` is on the same file system.
    pub fn create(temporary_folder: &Path, destination: &Path) -> Result<Self, PathError> {
        let temporary = temporary_folder.join(uuid::Uuid::new_v4().simple().to_string());
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(|error| PathError::new("create", &temporary, error))?;
        Ok(Self { file, temporary, destination: destination.to_owned(), published: false })
    }

    pub fn append(&mut self, bytes: &[u8]) -> Result<(), PathError> {
        self.file.write_all(bytes).map_err(|error| PathError::new("write", &self.temporary, error))
    }

    /// Makes the file durable under its final name. An error whose kind is `AlreadyExists` means that the name is
    /// taken; the file there is untouched.
    pub fn finish(mut self) -> Result<(), PathError> {
        self.sync()?;
        self.rename(RenameFlags::NOREPLACE)?;
        self.published = true;
        self.sync_name_or(|file| fs::remove_file(&file.destination))
    }

    /// The same in the place of whatever has the name; after an error that one has it still.
    fn finish_in_place(mut self) -> Result<(), PathError> {
        // A swap would put a folder away, which a rename does not.
        if fs::symlink_metadata(&self.destination).is_ok_and(|there| there.is_dir()) {
            let error = io::Error::from_raw_os_error(Errno::ISDIR.raw_os_error());
            return Err(PathError::new("replace", &self.destination, error));
        }
        self.sync()?;
        match self.rename(RenameFlags::EXCHANGE) {
            // What was there is behind the temporary name until the new one is durable.
            Ok(()) => self.sync_name_or(|file| {
                Ok(rustix::fs::renameat_with(
                    CWD,
                    &file.temporary,
                    CWD,
                    &file.destination,
                    RenameFlags::EXCHANGE,
                )?)
            }),
            Err(error) if error.is_not_found() => self.finish(),
            Err(error) if cannot_exchange(&error.source) => {
                self.rename(RenameFlags::empty())?;
                self.published = true;
                sync_folder_of(&self.destination)
            }
            Err(error) => Err(error),
        }
    }

    fn sync(&self) -> Result<(), PathError> {
        self.file.sync_all().map_err(|error| PathError::new("sync", &self.temporary, error))
    }

    fn rename(&self, flags: RenameFlags) -> Result<(), PathError> {
        let destination = &self.destination;
        rustix::fs::renameat_with(CWD, &self.temporary, CWD, destination, flags)
            .map_err(|error| PathError::new("publish", destination, error))
    }

    /// Makes the name durable. If that fails, whoever is told so must not find the change at the next start: it is
    /// undone, and that is made durable as far as it can be.
    fn sync_name_or(&self, undo: impl FnOnce(&Self) -> io::Result<()>) -> Result<(), PathError> {
        let synced = sync_folder_of(&self.destination);
        if synced.is_err() {
            let undone =
                undo(self).and_then(|()| sync_folder_of(&self.destination).map_err(|error| error.source));
            if let Err(error) = undone {
                tracing::error!(path = %self.destination.display(), %error, "a change that failed cannot be undone for certain");
            }
        }
        synced
    }
}

/// Not every file system can swap two names.
fn cannot_exchange(error: &io::Error) -> bool {
    let cannot = [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|number| cannot.contains(&number))
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.published {
            // A leftover is removed at the next start: see `clear_folder`.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Publishes a small file whole; `AlreadyExists` when the name is taken.
pub fn publish(temporary_folder: &Path, destination: &Path, bytes: &[u8]) -> Result<(), PathError> {
    let mut file = NewFile::create(temporary_folder, destination)?;
    file.append(bytes)?;
    file.finish()
}

/// Puts a small file in the place of whatever is there; a reader sees the old one or the new one, whole. After an error
/// it is the old one.
pub fn replace(temporary_folder: &Path, destination: &Path, bytes: &[u8]) -> Result<(), PathError> {
    let mut file = NewFile::create(temporary_folder, destination)?;
    file.append(bytes)?;
    file.finish_in_place()
}

/// Removes a file durably; not an error when it is not there.
pub fn remove(path: &Path) -> Result<(), PathError> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder_of(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(PathError::new("remove", path, error)),
    }
}

/// Makes a folder and all above it that are missing, durably.
pub fn create_folder(path: &Path) -> Result<(), PathError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_folder(parent)?;
    }
    ensure_folder(path)
}

/// Makes a folder whose parent is there, and its name durable also when it was there already: whoever made it may have
/// ended, or failed, before that.
pub fn ensure_folder(path: &Path) -> Result<(), PathError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(PathError::new("create folder", path, error))
        }
        _ => sync_folder_of(path),
    }
}

/// Makes the names in a folder durable: those that a killed writer gave, too.
pub fn sync_folder(folder: &Path) -> Result<(), PathError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| PathError::new("sync folder", folder, error))
}

/// Removes the files in a folder of temporary files: what a killed writer left. Folders in it are not ours, and a link is
/// refused: nobody says what is where it ends.
pub fn clear_folder(path: &Path) -> Result<(), PathError> {
    let itself = fs::symlink_metadata(path).map_err(|error| PathError::new("look at", path, error))?;
    if !itself.is_dir() {
        let error = std::io::Error::new(std::io::ErrorKind::NotADirectory, "it is a link, and no folder");
        return Err(PathError::new("clear", path, error));
    }
    let entries = fs::read_dir(path).map_err(|error| PathError::new("list", path, error))?;
    for entry in entries {
        let entry = entry.map_err(|error| PathError::new("list", path, error))?;
        if !entry.file_type().is_ok_and(|file_type| file_type.is_dir()) {
            fs::remove_file(entry.path()).map_err(|error| PathError::new("remove", &entry.path(), error))?;
        }
    }
    Ok(())
}

fn sync_folder_of(path: &Path) -> Result<(), PathError> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    sync_folder(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_file_is_never_overwritten_by_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("object");
        publish(folder.path(), &path, b"first").unwrap();
        assert!(publish(folder.path(), &path, b"second").unwrap_err().already_exists());
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the refused file leaves nothing behind");
    }

    #[test]
    fn an_unfinished_file_is_not_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("object");
        let mut file = NewFile::create(folder.path(), &path).unwrap();
        file.append(b"half").unwrap();
        assert!(!path.exists());
        drop(file);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn replace_puts_the_new_content_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record");
        replace(folder.path(), &path, b"first").unwrap();
        replace(folder.path(), &path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
    }
}
