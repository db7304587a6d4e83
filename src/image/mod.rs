//! A backup as bytes: its chain of manifests laid over each other, newest on top, and the chunks they name.
//!
//! Regions of the image are resolved into lists of segments when they are first touched, and kept in a bounded
//! cache. A read then costs a lookup in such a list, however long the chain is.

mod resolve;
mod salvage;
mod uses;

use std::io;
use std::sync::Arc;

pub use resolve::{Readable, resolve_what_is_there};

use crate::format::manifest::{ManifestExtent, Target};
use crate::format::record::ManifestReference;
use crate::objects::ObjectStore;
use crate::store::{ChunkStore, LoadingCache, ManifestReader, PageCache, StoreError};
use crate::sysio::device::{self, ReadAt};
use crate::types::{ByteRange, ManifestId};
pub use salvage::{Part, Salvage};
use uses::{ManifestUse, ManifestUses};

/// A region is resolved at once: large enough that the walk down the chain is shared by many reads, small enough
/// that a random read does not wait for it.
const REGION_BYTES: u64 = 4 << 20;

/// The roots of one chain take at most so much: a usual one takes some kilobytes.
const ROOTS_BYTES_MAX: u64 = 64 << 20;

/// The resolved segments of a region, ascending, without gaps.
type Segments = Arc<[ManifestExtent]>;

/// What all images share: decoded manifest pages and resolved regions, each bounded in bytes.
pub struct ImageCaches {
    pages: Arc<PageCache>,
    regions: LoadingCache<(ManifestId, u64), Segments>,
    uses: Arc<ManifestUses>,
}

impl ImageCaches {
    pub fn new(bytes_max: u64) -> Arc<Self> {
        Self::with_uses(bytes_max, Arc::default())
    }

    fn with_uses(bytes_max: u64, uses: Arc<ManifestUses>) -> Arc<Self> {
        let weigh = |segments: &Segments| (segments.len() * size_of::<ManifestExtent>()) as u64;
        Arc::new(Self {
            pages: Arc::new(PageCache::new(bytes_max / 2)),
            regions: LoadingCache::new(bytes_max / 2, weigh),
            uses,
        })
    }

    /// Returns caches of one's own, for whoever has to see what the repository has now. The manifests that are in use
    /// are known to both.
    pub fn apart(&self, bytes_max: u64) -> Arc<Self> {
        Self::with_uses(bytes_max, Arc::clone(&self.uses))
    }

    /// Runs `action` when no open image reads any of these manifests: at once, or when the last one is closed.
    pub fn when_unused(&self, manifests: Vec<ManifestId>, action: impl FnOnce() + Send + 'static) {
        self.uses.when_unused(manifests, Box::new(action));
    }
}

/// One backup's image. It never changes; reading needs no lock of its own.
pub struct Image {
    store: Arc<ChunkStore>,
    caches: Arc<ImageCaches>,
    /// Newest first; the last one is of a full backup.
    layers: Vec<ManifestReader>,
    newest: ManifestId,
    size_bytes: u64,
    _use: ManifestUse,
}

impl Image {
    /// Opens the image whose chain is given newest first and ends with a full backup.
    pub fn open(
        store: Arc<ChunkStore>,
        caches: Arc<ImageCaches>,
        chain: &[ManifestReference],
    ) -> Result<Self, StoreError> {
        // Before they are opened: from here on none of them is removed.
        let newest = chain.first().map(|manifest| manifest.id);
        let Some(in_use) = caches.uses.begin(chain.iter().map(|manifest| manifest.id).collect()) else {
            let why = "its backup, or one below it, has just been deleted or flattened".to_owned();
            let id = newest.unwrap_or_else(ManifestId::random);
            return Err(StoreError::ManifestCorrupt { id, why });
        };
        let open = |reference| {
            let objects: Arc<dyn ObjectStore> = Arc::clone(store.objects());
            ManifestReader::open(objects, Arc::clone(&caches.pages), reference)
        };
        let mut layers: Vec<ManifestReader> = Vec::with_capacity(chain.len());
        let mut roots_bytes = 0;
        for reference in chain {
            let layer = open(reference)?;
            roots_bytes += layer.root_bytes();
            if roots_bytes > ROOTS_BYTES_MAX {
                let why = format!("the roots of the manifests it leans on take over {ROOTS_BYTES_MAX} bytes");
                return Err(StoreError::ManifestCorrupt { id: layer.id(), why });
            }
            layers.push(layer);
        }
        // The catalog gives no empty chain; without a layer there is nothing that could be read.
        let newest = layers.first().ok_or(StoreError::Stopped)?;
        let (newest, size_bytes) = (newest.id(), newest.size_bytes());
        Ok(Self { store, caches, layers, newest, size_bytes, _use: in_use })
    }

    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Does any backup that the image is made of have this manifest?
    pub fn has_manifest(&self, manifest: ManifestId) -> bool {
        self.layers.iter().any(|layer| layer.id() == manifest)
    }

    /// Returns the newest backup's record as it was when its manifest was written.
    pub fn about(&self) -> Result<Vec<u8>, StoreError> {
        self.layers.first().map_or(Ok(Vec::new()), ManifestReader::about)
    }

    /// How many backups the image is made of.
    pub fn chain_length(&self) -> usize {
        self.layers.len()
    }

    /// Fills `into` from `offset` and returns how many bytes there are before the end of the image.
    ///
    /// All bytes were checked in this process. An error concerns this range only.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<usize, Arc<StoreError>> {
        let range = ByteRange::new(offset, into.len() as u64).below(self.size_bytes);
        let mut rest = into;
        for piece in range.split_on_grid(REGION_BYTES) {
            let segments = match self.region(piece.start() / REGION_BYTES) {
                Ok(segments) => segments,
                // What is damaged may be beside this piece, or below what newer layers have.
                Err(_) => resolve::resolve(&self.layers, piece)?.into(),
            };
            for segment in overlapping(&segments, piece) {
                let wanted = segment.range.intersection(piece);
                let (part, behind) = rest.split_at_mut(length_of(wanted));
                self.read_segment(segment, wanted, part)?;
                rest = behind;
            }
        }
        Ok(length_of(range))
    }

    fn read_segment(
        &self,
        segment: &ManifestExtent,
        wanted: ByteRange,
        into: &mut [u8],
    ) -> Result<(), Arc<StoreError>> {
        let Target::Chunk { id, offset } = segment.target else {
            into.fill(0);
            return Ok(());
        };
        // Most segments are whole chunks, which need not be copied from a cache.
        if offset == 0 && segment.range == wanted && self.store.load_whole(id, into)? {
            return Ok(());
        }
        let chunk = self.store.load(id)?;
        let start = offset as usize + length_of(ByteRange::between(segment.range.start(), wanted.start()));
        let bytes = chunk.get(start..start + into.len()).ok_or_else(|| {
            let why = format!("{wanted} reach beyond the end of chunk {id}");
            StoreError::ManifestCorrupt { id: self.newest, why }
        })?;
        into.copy_from_slice(bytes);
        Ok(())
    }

    /// Calls `visit` with the resolved segments of a range, ascending, without gaps, cut to the range.
    pub fn segments(
        &self,
        range: ByteRange,
        mut visit: impl FnMut(ManifestExtent),
    ) -> Result<(), Arc<StoreError>> {
        for piece in range.below(self.size_bytes).split_on_grid(REGION_BYTES) {
            for segment in overlapping(&self.region(piece.start() / REGION_BYTES)?, piece) {
                visit(resolve::cut(segment, segment.range.intersection(piece)));
            }
        }
        Ok(())
    }

    /// Returns the segments of a range, neighbours that continue each other joined: the same for the same image,
    /// however it is put together.
    pub fn joined_segments(&self, range: ByteRange) -> Result<Vec<ManifestExtent>, Arc<StoreError>> {
        let mut segments: Vec<ManifestExtent> = Vec::new();
        self.segments(range, |segment| match segments.last_mut() {
            Some(last) if last.is_continued_by(&segment) => {
                last.range = ByteRange::between(last.range.start(), segment.range.end());
            }
            _ => segments.push(segment),
        })?;
        Ok(segments)
    }

    /// Returns how many bytes of a range are not holes.
    pub fn allocated_bytes(&self, range: ByteRange) -> Result<u64, Arc<StoreError>> {
        let mut bytes = 0;
        if range.len() <= REGION_BYTES {
            self.segments(range, |segment| {
                if segment.target != Target::Zero {
                    bytes += segment.range.len();
                }
            })?;
            return Ok(bytes);
        }
        let mut from = range.start();
        while let Some(data) = self.next_data(from)?.filter(|data| *data < range.end()) {
            let end = self.next_hole(data)?.min(range.end());
            bytes += end - data;
            from = end;
        }
        Ok(bytes)
    }

    /// Calls `visit` with the extents that the newest backup of the chain brought itself.
    pub fn newest_layer(&self, mut visit: impl FnMut(&ManifestExtent)) -> Result<(), Arc<StoreError>> {
        let Some(layer) = self.layers.first() else { return Ok(()) };
        layer.visit(ByteRange::new(0, self.size_bytes), |extent| {
            visit(extent);
            true
        })
    }

    /// Bytes of the image that the newest backup of the chain brought itself.
    pub fn newest_layer_chunk_bytes(&self) -> u64 {
        self.layers.first().map_or(0, ManifestReader::chunk_bytes)
    }

    /// Returns the first offset from here on that is not in a hole.
    pub fn next_data(&self, offset: u64) -> Result<Option<u64>, Arc<StoreError>> {
        let mut from = offset;
        while from < self.size_bytes {
            // What no layer has as data is a hole: skipping it makes a 4 TiB hole one step.
            let Some(candidate) = self.first_chunk_of_any_layer(from) else { return Ok(None) };
            let region = region_around(candidate);
            let segments = self.region(candidate / REGION_BYTES)?;
            let rest = ByteRange::between(candidate, region.end());
            let data = overlapping(&segments, rest).iter().find(|segment| segment.target != Target::Zero);
            if let Some(segment) = data {
                return Ok(Some(segment.range.start().max(candidate)));
            }
            from = region.end();
        }
        Ok(None)
    }

    /// Returns the first offset from here on that is in a hole; the end of the image counts as one.
    pub fn next_hole(&self, offset: u64) -> Result<u64, Arc<StoreError>> {
        if let [only] = self.layers.as_slice() {
            let mut hole = self.size_bytes;
            only.visit(ByteRange::between(offset, self.size_bytes), |extent| {
                if extent.target == Target::Zero {
                    hole = extent.range.start().max(offset);
                }
                extent.target != Target::Zero
            })?;
            return Ok(hole);
        }
        for piece in ByteRange::between(offset, self.size_bytes).split_on_grid(REGION_BYTES) {
            let segments = self.region(piece.start() / REGION_BYTES)?;
            let hole = overlapping(&segments, piece).iter().find(|segment| segment.target == Target::Zero);
            if let Some(segment) = hole {
                return Ok(segment.range.start().max(offset));
            }
        }
        Ok(self.size_bytes)
    }

    /// Returns the first offset from here on that may not be in a hole, as far as single layers tell.
    fn first_chunk_of_any_layer(&self, from: u64) -> Option<u64> {
        let mut first: Option<u64> = None;
        for layer in &self.layers {
            let end = first.unwrap_or(self.size_bytes);
            let visited = layer.visit(ByteRange::between(from, end), |extent| {
                if extent.target == Target::Zero {
                    return true;
                }
                first = Some(extent.range.start().max(from));
                false
            });
            if visited.is_err() {
                // It may have data right here. Newer layers may hide that: the region tells, or cannot either.
                first = Some(from);
            }
        }
        first
    }

    fn region(&self, number: u64) -> Result<Segments, Arc<StoreError>> {
        self.caches.regions.get_or_load((self.newest, number), || {
            let region = region_around(number * REGION_BYTES).below(self.size_bytes);
            resolve::resolve(&self.layers, region).map(Segments::from)
        })
    }
}

impl ReadAt for Image {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        device::check_within(self.size_bytes, offset, into.len(), io::ErrorKind::UnexpectedEof)?;
        self.read(offset, into).map(drop).map_err(io::Error::other)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        Image::next_data(self, offset).map_err(io::Error::other)
    }

    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        Image::next_hole(self, offset).map_err(io::Error::other)
    }
}

fn region_around(offset: u64) -> ByteRange {
    ByteRange::new(offset - offset % REGION_BYTES, REGION_BYTES)
}

fn overlapping(segments: &[ManifestExtent], range: ByteRange) -> &[ManifestExtent] {
    let first = segments.partition_point(|segment| segment.range.end() <= range.start());
    let behind = segments.partition_point(|segment| segment.range.start() < range.end());
    segments.get(first..behind).unwrap_or_default()
}

/// The length of a range that lies within a buffer.
fn length_of(range: ByteRange) -> usize {
    usize::try_from(range.len()).unwrap_or(usize::MAX)
}
