//! The folder of what this machine remembers between two daemons. All of it may be lost at any time.

use std::path::{Path, PathBuf};

use crate::sysio::{PathError, atomic};

/// Where files are before they have their name.
pub(super) fn temporary(folder: &Path) -> PathBuf {
    folder.join("tmp")
}

/// Makes the folder, if it is not there (any more).
pub(super) fn make(folder: &Path) -> Result<(), PathError> {
    atomic::create_folder(&temporary(folder))
}

/// Makes the folder and removes what a killed daemon left unfinished: for the start, before anything is written.
pub(super) fn prepare(folder: &Path) -> Result<(), PathError> {
    make(folder)?;
    atomic::clear_folder(&temporary(folder))
}
