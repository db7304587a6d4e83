//! Frozen snapshots: reflinks of a volume's file beside it, under hidden names that say whose they are. A snapshot
//! has its name only when it is whole and durable, and is never written to afterwards.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use super::names::FILE_NAME_BYTES_MAX;
use super::place::{Found, Place};
use super::snapshot::OpenedFile;
use crate::source::{SnapshotInfo, SourceError};
use crate::sysio::{reflink, rename};
use crate::types::{SnapshotName, VolumeName};

const PREFIX: &str = ".amberfs-snapshot-";

/// Clones a volume's file. `None` where the file system has no reflinks.
pub(super) fn create(
    place: &Place,
    found: &Found,
    file: &File,
    snapshot: &SnapshotName,
) -> Result<Option<OpenedFile>, SourceError> {
    let Some(clone) = reflink::clone_unnamed(&place.folder, file).map_err(place.io("clone", &found.path))?
    else {
        return Ok(None);
    };
    let created_at = SystemTime::now();
    let path = path(place, &found.name, &found.file_name, snapshot)?;
    let name_it = || {
        // With its nanoseconds the time of change tells a snapshot from one made later under its name.
        clone.set_modified(created_at)?;
        clone.sync_all()?;
        reflink::give_name(&clone, &path)
    };
    name_it().map_err(place.io("make snapshot", &path))?;
    let finish = || {
        place.sync()?;
        // Opened again for reading only: nothing in this process can write to it.
        let file = File::open(&path).map_err(place.io("open", &path))?;
        let metadata = file.metadata().map_err(place.io("look at", &path))?;
        Ok((file, info(snapshot, &metadata)))
    };
    match finish() {
        Ok((file, info)) => Ok(Some(OpenedFile { volume: found.name.clone(), path, file, info })),
        Err(error) => {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove a snapshot that failed");
            }
            Err(error)
        }
    }
}

pub(super) fn open(place: &Place, found: &Found, snapshot: &SnapshotName) -> Result<OpenedFile, SourceError> {
    let path = path(place, &found.name, &found.file_name, snapshot)?;
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(SourceError::SnapshotNotFound {
                source_name: place.source_name.clone(),
                volume: found.name.clone(),
                snapshot: snapshot.clone(),
            });
        }
        opened => opened.map_err(place.io("open", &path))?,
    };
    let metadata = file.metadata().map_err(place.io("look at", &path))?;
    let info = info(snapshot, &metadata);
    Ok(OpenedFile { volume: found.name.clone(), path, file, info })
}

/// Lists the snapshots of a volume's file, oldest first.
pub(super) fn list(place: &Place, file_name: &str) -> Result<Vec<SnapshotInfo>, SourceError> {
    let mut infos = Vec::new();
    for (snapshot, path) in names(place, file_name)? {
        match std::fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_file() => infos.push(info(&snapshot, &metadata)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(place.io("look at", &path)(error)),
        }
    }
    infos.sort_by(|a, b| (a.created_at, a.name.as_str()).cmp(&(b.created_at, b.name.as_str())));
    Ok(infos)
}

/// Removes a snapshot if it is there and is this one.
pub(super) fn remove(place: &Place, file_name: &str, snapshot: &SnapshotInfo) -> Result<(), SourceError> {
    let Some(name) = snapshot_file_name(file_name, &snapshot.name) else { return Ok(()) };
    let path = place.path(&name);
    match std::fs::symlink_metadata(&path) {
        Ok(metadata) if info(&snapshot.name, &metadata).id == snapshot.id => {}
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(place.io("look at", &path)(error)),
    }
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        removed => removed.map_err(place.io("remove", &path))?,
    }
    place.sync()
}

/// Lets the snapshots follow a file that was renamed.
pub(super) fn rename_all(place: &Place, from: &str, to: &str) -> Result<(), SourceError> {
    for (snapshot, path) in names(place, from)? {
        let Some(name) = snapshot_file_name(to, &snapshot) else { continue };
        if let Err(error) = rename::rename_no_replace(&path, &place.path(&name)) {
            // The volume has its new name already; a snapshot left behind costs a full comparison, not a backup.
            tracing::warn!(path = %path.display(), %error, "a snapshot could not follow its volume's new name");
        }
    }
    Ok(())
}

/// Names a snapshot for good, from its file's number and time of making.
pub(super) fn snapshot_id(inode_number: u64, created_at: SystemTime) -> u64 {
    let nanos = created_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let nanos = u64::try_from(nanos & u128::from(u64::MAX)).unwrap_or_default();
    inode_number.rotate_left(40) ^ nanos
}

fn info(name: &SnapshotName, metadata: &Metadata) -> SnapshotInfo {
    let created_at = metadata.modified().unwrap_or(UNIX_EPOCH);
    let id = snapshot_id(metadata.ino(), created_at);
    SnapshotInfo { name: name.clone(), id, created_at, size_bytes: metadata.len() }
}

fn names(place: &Place, file_name: &str) -> Result<Vec<(SnapshotName, PathBuf)>, SourceError> {
    let prefix = prefix(file_name);
    let read = || -> io::Result<Vec<_>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&place.folder)? {
            let entry = entry?;
            let file_name = entry.file_name();
            let escaped = file_name.to_str().and_then(|name| name.strip_prefix(&prefix));
            if let Some(name) = escaped.and_then(unescaped).and_then(|name| name.parse().ok()) {
                names.push((name, entry.path()));
            }
        }
        Ok(names)
    };
    read().map_err(place.io("list", &place.folder))
}

fn path(
    place: &Place,
    volume: &VolumeName,
    file_name: &str,
    snapshot: &SnapshotName,
) -> Result<PathBuf, SourceError> {
    let too_long = || place.invalid_name(volume, "the name of its snapshot does not fit into a file name");
    Ok(place.path(&snapshot_file_name(file_name, snapshot).ok_or_else(too_long)?))
}

fn snapshot_file_name(file_name: &str, snapshot: &SnapshotName) -> Option<String> {
    let name = prefix(file_name) + &escaped(snapshot.as_str());
    (name.len() <= FILE_NAME_BYTES_MAX).then_some(name)
}

/// Says whose a snapshot is. The volume's file name itself may have no room beside the snapshot's.
fn prefix(file_name: &str) -> String {
    let digest = Sha256::digest(file_name.as_bytes());
    let volume: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{PREFIX}{volume}-")
}

fn escaped(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2F")
}

/// Takes only what `escaped` makes, so that one snapshot has one name.
fn unescaped(text: &str) -> Option<String> {
    let name = text.replace("%2F", "/").replace("%25", "%");
    (escaped(&name) == text).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_snapshot_name_survives_being_a_file_name() {
        for name in ["amberfs.9027e97a", "a/b", "100%", "%2F", "%252F", "a b\n\u{fc}", "."] {
            assert_eq!(unescaped(&escaped(name)).as_deref(), Some(name));
        }
        assert_eq!(unescaped("100%"), None);
        let long: SnapshotName = "x".repeat(300).parse().unwrap();
        assert_eq!(snapshot_file_name("v.raw", &long), None);
    }
}
