//! What a repository may bring along beside its objects: an index and the memory of a machine, which are written to at
//! once. A link in there would have that written wherever the maker of the repository likes.

use std::fs;
use std::io;
use std::path::Path;

use super::RepositoryError;
use crate::objects::ObjectKind;

/// Below the state folder there are folders of scratch images, and nothing below those.
const DEPTH_MAX: u32 = 4;

/// Refuses a folder that is a link, or has one anywhere in it. One that is not there has none.
pub(super) fn refuse_links(folder: &Path) -> Result<(), RepositoryError> {
    refuse(folder, DEPTH_MAX)
}

/// Refuses folders of objects that are links, or have a link to a folder in them: what is removed in them would be
/// removed somewhere else.
pub(super) fn refuse_linked_objects(root: &Path) -> Result<(), RepositoryError> {
    for folder in ObjectKind::ALL.map(|kind| root.join(kind.folder())) {
        refuse(&folder, 0)?;
    }
    let packs = root.join(ObjectKind::Pack.folder());
    let failed = |source| RepositoryError::Io { path: packs.clone(), source };
    match fs::read_dir(&packs) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        entries => entries.map_err(failed)?.try_for_each(|entry| refuse(&entry.map_err(failed)?.path(), 0)),
    }
}

fn refuse(path: &Path, depth_left: u32) -> Result<(), RepositoryError> {
    let failed = |source| RepositoryError::Io { path: path.to_owned(), source };
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata.map_err(failed)?,
    };
    if metadata.is_symlink() {
        return Err(RepositoryError::Link { path: path.to_owned() });
    }
    if !metadata.is_dir() || depth_left == 0 {
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(failed)? {
        refuse(&entry.map_err(failed)?.path(), depth_left - 1)?;
    }
    Ok(())
}
