//! Scratch images in the tree: found, opened, written to, removed.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use serde::Serialize;

use super::attributes::Attributes;
use super::control_file::Caller;
use super::documents::{self, Document};
use super::handles::Seek;
use super::insides::Disk;
use super::node::Node;
use super::viewer::Viewer;
use super::{Access, Allocation, Vfs, VfsError};
use crate::contents::{Part, Place};
use crate::scratch::{About, ScratchError, ScratchImage, Writing};
use crate::sysio::device::{ReadAt, WriteAt};
use crate::types::{BackupId, ByteRange, ProjectName, ScratchId, Timestamp};

/// Behind the name of a scratch image, it is the name of what is known of it.
const INFO_ENDING: &str = ".json";
/// And so, of the folder of its partitions.
const PARTITIONS_ENDING: &str = ".partitions";
/// And of the folder of its logical volumes, where the disk itself is LVM's.
const GROUP_ENDING: &str = ".lvm";

type NodeOf = fn(ScratchId) -> Node;

#[derive(Serialize)]
struct ScratchInfo<'a> {
    name: &'a str,
    backup: BackupId,
    project: &'a ProjectName,
    keep: bool,
    size_bytes: u64,
    written_bytes: u64,
    created_at: Timestamp,
}

impl Vfs {
    pub(super) fn scratch_called(&self, viewer: &Viewer, name: &str) -> Option<Node> {
        // No scratch image has a name with such an ending.
        let beside: [(_, NodeOf); 3] = [
            (INFO_ENDING, Node::ScratchInfo),
            (PARTITIONS_ENDING, |id| Node::PartitionsFolder(Disk::Scratch(id))),
            (GROUP_ENDING, |id| Node::GroupFolder(Disk::Scratch(id), None)),
        ];
        let beside = beside.into_iter().find_map(|(ending, node)| Some((name.strip_suffix(ending)?, node)));
        let (name, node) = beside.unwrap_or((name, Node::Scratch));
        let image = self.scratch.get(name).ok().filter(|image| self.sees_scratch(viewer, image))?;
        let node = node(image.about().id);
        let is_there = match node {
            Node::PartitionsFolder(disk) => self.has_partitions(disk),
            Node::GroupFolder(disk, partition) => self.has_group(disk, partition),
            _ => true,
        };
        is_there.then_some(node)
    }

    pub(super) fn scratch_children(&self, viewer: &Viewer) -> Vec<(String, Node)> {
        let mut images = self.scratch.all();
        images.retain(|image| self.sees_scratch(viewer, image));
        let mut children = Vec::new();
        for image in images {
            let About { id, name, .. } = image.about();
            let disk = Disk::Scratch(*id);
            children.push((name.clone(), Node::Scratch(*id)));
            children.push((format!("{name}{INFO_ENDING}"), Node::ScratchInfo(*id)));
            if self.has_partitions(disk) {
                children.push((format!("{name}{PARTITIONS_ENDING}"), Node::PartitionsFolder(disk)));
            }
            if self.has_group(disk, None) {
                children.push((format!("{name}{GROUP_ENDING}"), Node::GroupFolder(disk, None)));
            }
        }
        children
    }

    pub(super) fn scratch_info(&self, id: ScratchId) -> Result<Document, VfsError> {
        let image = self.scratch_image(id)?;
        let about = image.about();
        let info = ScratchInfo {
            name: &about.name,
            backup: about.backup,
            project: &about.project,
            keep: image.is_kept(),
            size_bytes: about.size_bytes,
            written_bytes: image.held_bytes(),
            created_at: about.created_at,
        };
        let (owner, time) = (self.owners.project(&about.project), about.created_at);
        Ok(Document { text: Cow::Owned(documents::line(&info)), mode: 0o440, owner, time: time.into() })
    }

    fn sees_scratch(&self, viewer: &Viewer, image: &ScratchImage) -> bool {
        viewer.sees(self.owners.project(&image.about().project))
    }

    /// Returns one that is in the tree, or was removed and is still open.
    pub(super) fn scratch_image(&self, id: ScratchId) -> Result<Arc<ScratchImage>, VfsError> {
        self.scratch.by_id(id).or_else(|| self.handles.scratch(id)).ok_or(VfsError::NotFound)
    }

    pub(super) fn scratch_attributes(&self, id: ScratchId) -> Result<Attributes, VfsError> {
        let image = self.scratch_image(id)?;
        let about = image.about();
        let owner = self.owners.project(&about.project);
        Ok(Attributes::of_scratch(&image, owner))
    }

    /// Opens a scratch image, or a part of it: a partition or a logical volume.
    pub(super) fn open_scratch(
        &self,
        id: ScratchId,
        part: Option<Place>,
        access: Access,
    ) -> Result<OpenScratch, VfsError> {
        let image = self.scratch_image(id)?;
        let place = part.unwrap_or_else(|| Place::whole(image.size_bytes()));
        let writing = match access {
            Access::Read => None,
            Access::Write => Some(image.begin_writing().map_err(|error| refused(&error))?),
        };
        Ok(OpenScratch { part: place.of(Arc::clone(&image)), image, place, writing })
    }

    pub(super) fn remove_scratch(&self, caller: Caller, name: &str) -> Result<(), VfsError> {
        let image = self.scratch.get(name).map_err(|error| refused(&error))?;
        let owner = self.owners.project(&image.about().project);
        // The kernel has looked at the sticky folder already, where it checks permissions at all.
        if ![0, owner.uid, self.owners.operator.uid].contains(&caller.uid) {
            return Err(VfsError::NotYours);
        }
        self.scratch.remove(name).map_err(|error| {
            tracing::warn!(scratch = name, %error, "a scratch image is not removed");
            refused(&error)
        })
    }
}

/// What the kernel is told; the sentence is for those who use commands.
fn refused(error: &ScratchError) -> VfsError {
    match error {
        ScratchError::NotFound { .. } => VfsError::NotFound,
        ScratchError::Busy { .. } => VfsError::InUse,
        error => VfsError::Scratch { source: io::Error::other(error.to_string()) },
    }
}

/// One opening of a scratch image.
pub(super) struct OpenScratch {
    image: Arc<ScratchImage>,
    /// What of it was opened.
    part: Part<Arc<ScratchImage>>,
    place: Place,
    /// Set when it was opened for writing too.
    writing: Option<Writing>,
}

impl OpenScratch {
    pub(super) fn image(&self) -> &Arc<ScratchImage> {
        &self.image
    }

    /// Fills `into` from an offset and returns how many bytes there are before the end.
    pub(super) fn read(&self, offset: u64, into: &mut [u8]) -> Result<usize, VfsError> {
        let length = ByteRange::new(offset, into.len() as u64).below(self.part.size_bytes()).len();
        let length = usize::try_from(length).unwrap_or(into.len());
        let into = into.get_mut(..length).unwrap_or_default();
        self.part.read_exact_at(offset, into).map_err(|error| self.failed("read", error))?;
        Ok(length)
    }

    pub(super) fn seek(&self, offset: u64, seek: Seek) -> Result<u64, VfsError> {
        if offset >= self.part.size_bytes() {
            return Err(VfsError::NothingBehind);
        }
        let found = match seek {
            Seek::Data => self.part.next_data(offset),
            Seek::Hole => self.part.next_hole(offset).map(Some),
        };
        found.map_err(|error| self.failed("read", error))?.ok_or(VfsError::NothingBehind)
    }

    /// Writes all, or nothing when it would reach beyond the end, as at the end of a disk.
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), VfsError> {
        self.check_writing()?;
        self.part.write_all_at(offset, bytes).map_err(|error| self.failed("write", error))
    }

    /// Discards a range. Nothing is reserved: that there is room is found out by writing, as on a thin disk.
    pub(super) fn allocate(&self, range: ByteRange, allocation: Allocation) -> Result<(), VfsError> {
        self.check_writing()?;
        let within = range.below(self.part.size_bytes());
        match allocation {
            Allocation::Reserve if within != range => Err(VfsError::FixedSize),
            Allocation::Zero if within.is_empty() => Ok(()),
            Allocation::Zero => {
                let mut runs = self.place.runs(within.start()..within.end()).into_iter();
                let discarded =
                    runs.try_for_each(|(start, length)| self.image.discard(ByteRange::new(start, length)));
                discarded.map_err(|error| self.failed("discard", error))
            }
            Allocation::Reserve => Ok(()),
        }
    }

    pub(super) fn sync(&self) -> Result<(), VfsError> {
        self.image.sync().map_err(|error| self.failed("sync", error))
    }

    fn check_writing(&self) -> Result<(), VfsError> {
        self.writing.as_ref().map(|_| ()).ok_or(VfsError::ReadOnly)
    }

    fn failed(&self, what: &'static str, source: io::Error) -> VfsError {
        // As on a disk: there is no more of it.
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::WriteZero) {
            return VfsError::Full;
        }
        tracing::error!(scratch = self.image.about().name, what, error = %source, "a scratch image fails");
        VfsError::Scratch { source }
    }
}
