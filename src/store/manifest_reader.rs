//! Reads a manifest page by page. Every page is checked against the checksum in its reference, the root against
//! the tail, and the tail against the backup's record.

use std::sync::Arc;

use super::{LoadingCache, StoreError};
use crate::format::manifest::{
    self, Leaf, ManifestExtent, PageReference, TAIL_LENGTH, Tail, decode_branch, decode_leaf,
    decode_references,
};
use crate::format::record::ManifestReference;
use crate::objects::{ObjectName, ObjectStore};
use crate::types::{ByteRange, ManifestId};

/// Decoded pages of all manifests, bounded in bytes, shared by all images.
pub struct PageCache {
    pages: LoadingCache<(ManifestId, u64), Page>,
}

impl PageCache {
    pub fn new(bytes_max: u64) -> Self {
        Self { pages: LoadingCache::new(bytes_max, Page::weight) }
    }
}

#[derive(Clone)]
enum Page {
    Leaf(Arc<Leaf>),
    Branch(Arc<[PageReference]>),
}

impl Page {
    fn weight(&self) -> u64 {
        let bytes = match self {
            Self::Leaf(leaf) => leaf.extents.len() * size_of::<ManifestExtent>(),
            Self::Branch(references) => references.len() * size_of::<PageReference>(),
        };
        bytes as u64
    }
}

/// What a walk over a manifest comes by.
pub enum Visited<'a> {
    Extent(&'a ManifestExtent),
    /// A page that cannot be read: what it says of this part of the image is lost.
    Lost {
        range: ByteRange,
        error: Arc<StoreError>,
    },
}

pub struct ManifestReader {
    objects: Arc<dyn ObjectStore>,
    cache: Arc<PageCache>,
    id: ManifestId,
    tail: Tail,
    root: Vec<PageReference>,
}

impl ManifestReader {
    pub fn open(
        objects: Arc<dyn ObjectStore>,
        cache: Arc<PageCache>,
        reference: &ManifestReference,
    ) -> Result<Self, StoreError> {
        let id = reference.id;
        let tail = read_tail(objects.as_ref(), id, reference.length)?;
        if hexadecimal(&tail) != reference.tail_sha256 {
            let why = "its tail is not the one that the backup's record names".to_owned();
            return Err(StoreError::ManifestCorrupt { id, why });
        }
        Self::with_tail(objects, cache, id, reference.length, &tail)
    }

    /// Opens a manifest that no record may name, and returns the reference that a record of it has.
    pub fn open_unreferenced(
        objects: Arc<dyn ObjectStore>,
        cache: Arc<PageCache>,
        id: ManifestId,
    ) -> Result<(Self, ManifestReference), StoreError> {
        let length = objects.length(ObjectName::Manifest(id))?;
        let tail = read_tail(objects.as_ref(), id, length)?;
        let reference = ManifestReference { id, length, tail_sha256: hexadecimal(&tail) };
        Ok((Self::with_tail(objects, cache, id, length, &tail)?, reference))
    }

    fn with_tail(
        objects: Arc<dyn ObjectStore>,
        cache: Arc<PageCache>,
        id: ManifestId,
        length: u64,
        tail: &[u8],
    ) -> Result<Self, StoreError> {
        let format = |source| StoreError::Format { name: ObjectName::Manifest(id), source };
        let tail = Tail::decode(tail, length).map_err(format)?;
        let root =
            read_checked(objects.as_ref(), id, tail.root_position, tail.root_length, &tail.root_sha256)?;
        let root = decode_references(&root).map_err(format)?;
        Ok(Self { objects, cache, id, tail, root })
    }

    pub fn id(&self) -> ManifestId {
        self.id
    }

    pub fn size_bytes(&self) -> u64 {
        self.tail.size_bytes
    }

    pub fn extent_count(&self) -> u64 {
        self.tail.extent_count
    }

    /// What the root takes of memory, in bytes, for as long as the reader is there.
    pub fn root_bytes(&self) -> u64 {
        (self.root.len() * size_of::<PageReference>()) as u64
    }

    /// Bytes of the image that this manifest takes from chunks.
    pub fn chunk_bytes(&self) -> u64 {
        self.tail.chunk_bytes
    }

    /// Returns the backup's record as it was when the manifest was written.
    pub fn about(&self) -> Result<Vec<u8>, StoreError> {
        let Tail { about_position, about_length, about_sha256, .. } = self.tail;
        if about_length > crate::format::document::LENGTH_MAX {
            let why = "the record in it is too long".to_owned();
            return Err(StoreError::ManifestCorrupt { id: self.id, why });
        }
        read_checked(self.objects.as_ref(), self.id, about_position, about_length, &about_sha256)
    }

    /// Calls `visit` for each extent that meets the range, in order, until it says to stop with `false`.
    pub fn visit(
        &self,
        range: ByteRange,
        mut visit: impl FnMut(&ManifestExtent) -> bool,
    ) -> Result<(), Arc<StoreError>> {
        for branch in overlapping(&self.root, range) {
            let Page::Branch(leaves) = self.page(branch, Level::Branch)? else { continue };
            for leaf in overlapping(&leaves, range) {
                let Page::Leaf(leaf) = self.page(leaf, Level::Leaf)? else { continue };
                for extent in leaf.overlapping(range) {
                    if !visit(extent) {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Calls `visit` with all that can be read of the range, in order, and with what cannot.
    pub fn visit_what_is_there(&self, range: ByteRange, mut visit: impl FnMut(Visited<'_>)) {
        for branch in overlapping(&self.root, range) {
            let leaves = match self.page(branch, Level::Branch) {
                Ok(Page::Branch(leaves)) => leaves,
                Ok(Page::Leaf(_)) => continue,
                Err(error) => {
                    visit(Visited::Lost { range: branch.range, error });
                    continue;
                }
            };
            for leaf in overlapping(&leaves, range) {
                match self.page(leaf, Level::Leaf) {
                    Ok(Page::Leaf(leaf)) => {
                        leaf.overlapping(range).iter().for_each(|extent| visit(Visited::Extent(extent)));
                    }
                    Ok(Page::Branch(_)) => {}
                    Err(error) => visit(Visited::Lost { range: leaf.range, error }),
                }
            }
        }
    }

    /// Reads the first bytes, which nobody needs to read an image.
    pub fn check_head(&self) -> Result<(), StoreError> {
        let mut head = [0; manifest::HEAD_LENGTH as usize];
        self.objects.read(ObjectName::Manifest(self.id), 0, &mut head)?;
        if head != manifest::encode_head() {
            let why = format!("the {} bytes at 0 are not those that a manifest starts with", head.len());
            return Err(StoreError::ManifestCorrupt { id: self.id, why });
        }
        Ok(())
    }

    /// Reads what an image does not need, and the repository does: the first bytes, and the record.
    pub fn check_ends(&self) -> Result<(), StoreError> {
        self.check_head()?;
        self.about().map(drop)
    }

    fn page(&self, reference: &PageReference, level: Level) -> Result<Page, Arc<StoreError>> {
        self.cache.pages.get_or_load((self.id, reference.position), || {
            let length = u64::from(reference.length);
            let bytes =
                read_checked(self.objects.as_ref(), self.id, reference.position, length, &reference.sha256)?;
            let page = match level {
                Level::Leaf => decode_leaf(&bytes, reference.range).map(|leaf| Page::Leaf(Arc::new(leaf))),
                Level::Branch => {
                    decode_branch(&bytes, reference.range).map(|branch| Page::Branch(branch.into()))
                }
            };
            page.map_err(|source| StoreError::Format { name: ObjectName::Manifest(self.id), source })
        })
    }
}

fn read_tail(objects: &dyn ObjectStore, id: ManifestId, length: u64) -> Result<Vec<u8>, StoreError> {
    let position = length
        .checked_sub(TAIL_LENGTH as u64)
        .ok_or_else(|| StoreError::ManifestCorrupt { id, why: "it is too short".to_owned() })?;
    let mut tail = vec![0; TAIL_LENGTH];
    objects.read(ObjectName::Manifest(id), position, &mut tail)?;
    Ok(tail)
}

/// The SHA-256 of a tail, as records have it.
fn hexadecimal(tail: &[u8]) -> String {
    manifest::checksum(tail).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Clone, Copy)]
enum Level {
    Leaf,
    Branch,
}

fn overlapping(references: &[PageReference], range: ByteRange) -> &[PageReference] {
    let first = references.partition_point(|reference| reference.range.end() <= range.start());
    let behind = references.partition_point(|reference| reference.range.start() < range.end());
    references.get(first..behind).unwrap_or_default()
}

fn read_checked(
    objects: &dyn ObjectStore,
    id: ManifestId,
    position: u64,
    length: u64,
    sha256: &[u8; 32],
) -> Result<Vec<u8>, StoreError> {
    // The lengths were bounded by the decoders of the tail and of the references.
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    objects.read(ObjectName::Manifest(id), position, &mut bytes)?;
    if manifest::checksum(&bytes) != *sha256 {
        let why = format!("the {length} bytes at {position} have another SHA-256");
        return Err(StoreError::ManifestCorrupt { id, why });
    }
    Ok(bytes)
}
