//! Writes a manifest streaming: memory does not grow with the image.

use std::mem;

use super::StoreError;
use crate::format::manifest::{
    self, EXTENTS_PER_LEAF, HEAD_LENGTH, ManifestExtent, PageReference, REFERENCES_PER_BRANCH, TAIL_LENGTH,
    Tail, Target,
};
use crate::format::record::ManifestReference;
use crate::objects::{ObjectName, ObjectStore, ObjectWriter};
use crate::types::{ByteRange, ManifestId};

pub struct ManifestWriter {
    id: ManifestId,
    object: Box<dyn ObjectWriter>,
    position: u64,
    size_bytes: u64,
    extents: Vec<ManifestExtent>,
    leaves: Vec<PageReference>,
    branches: Vec<PageReference>,
    /// The last extent, which may still grow.
    last: Option<ManifestExtent>,
    extent_count: u64,
    chunk_bytes: u64,
}

impl ManifestWriter {
    /// Starts the manifest of an image of this size.
    pub fn create(objects: &dyn ObjectStore, size_bytes: u64) -> Result<Self, StoreError> {
        let id = ManifestId::random();
        let mut object = objects.create(ObjectName::Manifest(id))?;
        object.append(&manifest::encode_head())?;
        Ok(Self {
            id,
            object,
            position: HEAD_LENGTH,
            size_bytes,
            extents: Vec::with_capacity(EXTENTS_PER_LEAF),
            leaves: Vec::new(),
            branches: Vec::new(),
            last: None,
            extent_count: 0,
            chunk_bytes: 0,
        })
    }

    pub fn id(&self) -> ManifestId {
        self.id
    }

    /// Adds an extent behind those before it. Neighbouring zeros, and runs that continue in a chunk, become one.
    pub fn add(&mut self, extent: ManifestExtent) -> Result<(), StoreError> {
        if extent.range.is_empty() {
            return Ok(());
        }
        let end = self.last.map_or(0, |last| last.range.end());
        if extent.range.start() < end || extent.range.end() > self.size_bytes {
            let why = format!("{} cannot follow byte {end} in an image of {}", extent.range, self.size_bytes);
            return Err(StoreError::ManifestCorrupt { id: self.id, why });
        }
        if let Some(last) = &mut self.last
            && last.is_continued_by(&extent)
        {
            last.range = ByteRange::between(last.range.start(), extent.range.end());
            return Ok(());
        }
        self.keep_last()?;
        self.last = Some(extent);
        Ok(())
    }

    fn keep_last(&mut self) -> Result<(), StoreError> {
        let Some(extent) = self.last else { return Ok(()) };
        self.extent_count += 1;
        if extent.target != Target::Zero {
            self.chunk_bytes += extent.range.len();
        }
        self.extents.push(extent);
        if self.extents.len() == EXTENTS_PER_LEAF {
            self.write_leaf()?;
        }
        Ok(())
    }

    fn write_leaf(&mut self) -> Result<(), StoreError> {
        let extents = mem::take(&mut self.extents);
        if let (Some(first), Some(last)) = (extents.first(), extents.last()) {
            let range = ByteRange::between(first.range.start(), last.range.end());
            let reference = self.write_page(range, extents.len(), &manifest::encode_leaf(&extents))?;
            self.leaves.push(reference);
        }
        if self.leaves.len() == REFERENCES_PER_BRANCH {
            self.write_branch()?;
        }
        Ok(())
    }

    fn write_branch(&mut self) -> Result<(), StoreError> {
        let leaves = mem::take(&mut self.leaves);
        if let (Some(first), Some(last)) = (leaves.first(), leaves.last()) {
            let range = ByteRange::between(first.range.start(), last.range.end());
            let reference = self.write_page(range, leaves.len(), &manifest::encode_references(&leaves))?;
            self.branches.push(reference);
        }
        Ok(())
    }

    fn write_page(
        &mut self,
        range: ByteRange,
        count: usize,
        page: &[u8],
    ) -> Result<PageReference, StoreError> {
        let position = self.append(page)?;
        let too_long = |_| StoreError::ManifestCorrupt { id: self.id, why: "a page is too long".to_owned() };
        Ok(PageReference {
            range,
            position,
            length: u32::try_from(page.len()).map_err(too_long)?,
            count: u32::try_from(count).map_err(too_long)?,
            sha256: manifest::checksum(page),
        })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<u64, StoreError> {
        let position = self.position;
        self.object.append(bytes)?;
        self.position += bytes.len() as u64;
        Ok(position)
    }

    /// Makes the manifest durable. `about` is the backup's record, as text.
    pub fn finish(mut self, about: &str) -> Result<ManifestReference, StoreError> {
        self.keep_last()?;
        self.write_leaf()?;
        self.write_branch()?;
        let root = manifest::encode_references(&mem::take(&mut self.branches));
        let root_position = self.append(&root)?;
        let about_position = self.append(about.as_bytes())?;
        let tail = Tail {
            size_bytes: self.size_bytes,
            extent_count: self.extent_count,
            chunk_bytes: self.chunk_bytes,
            root_position,
            root_length: root.len() as u64,
            about_position,
            about_length: about.len() as u64,
            root_sha256: manifest::checksum(&root),
            about_sha256: manifest::checksum(about.as_bytes()),
        };
        let tail = tail.encode();
        debug_assert_eq!(tail.len(), TAIL_LENGTH);
        self.append(&tail)?;
        self.object.finish()?;
        let tail_sha256 = manifest::checksum(&tail).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(ManifestReference { id: self.id, length: self.position, tail_sha256 })
    }
}
