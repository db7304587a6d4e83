//! A directory source whose snapshots are kept in memory and say what has changed since each other, and which leaves
//! out of that what it is told to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use amberfs::source::dir::DirSource;
use amberfs::source::{
    Changes, Consistency, EmitExtent, Extent, ExtentKind, InUse, Snapshot, SnapshotInfo, Source, SourceError,
    VolumeInfo, VolumeWriter,
};
use amberfs::types::{ByteRange, SnapshotName, SourceName, VolumeMetadata, VolumeName};

/// The grain in which changes are told.
const BLOCK: usize = 4096;

type Snapshots = BTreeMap<(VolumeName, SnapshotName), Arc<Frozen>>;

#[derive(Default)]
pub struct Tracking {
    snapshots: Mutex<Snapshots>,
    /// What is left out of every diff.
    hidden: Mutex<Vec<ByteRange>>,
    pub bytes_read: AtomicU64,
    /// How often a diff was asked for.
    pub diffs: AtomicU64,
}

impl Tracking {
    pub fn hide(&self, range: ByteRange) {
        self.hidden.lock().unwrap().push(range);
    }

    pub fn hide_nothing(&self) {
        self.hidden.lock().unwrap().clear();
    }

    fn is_hidden(&self, range: ByteRange) -> bool {
        self.hidden.lock().unwrap().iter().any(|hidden| !hidden.intersection(range).is_empty())
    }
}

pub struct TrackingSource {
    inner: DirSource,
    folder: PathBuf,
    tracking: Arc<Tracking>,
}

struct Frozen {
    info: SnapshotInfo,
    metadata: VolumeMetadata,
    bytes: Vec<u8>,
}

impl TrackingSource {
    pub fn open(folder: &Path) -> (Arc<dyn Source>, Arc<Tracking>) {
        let tracking = Arc::new(Tracking::default());
        let inner = DirSource::open("local".parse().unwrap(), folder).unwrap();
        (Arc::new(Self { inner, folder: folder.to_owned(), tracking: Arc::clone(&tracking) }), tracking)
    }

    fn opened(&self, frozen: Arc<Frozen>) -> Box<dyn Snapshot> {
        Box::new(TrackingSnapshot { frozen, tracking: Arc::clone(&self.tracking) })
    }
}

impl Source for TrackingSource {
    fn name(&self) -> &SourceName {
        self.inner.name()
    }

    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn tracks_changes(&self) -> bool {
        true
    }

    fn list(&self) -> Result<Vec<VolumeName>, SourceError> {
        self.inner.list()
    }

    fn volume(&self, name: &VolumeName) -> Result<VolumeInfo, SourceError> {
        self.inner.volume(name)
    }

    fn create_snapshot(
        &self,
        volume: &VolumeName,
        snapshot: &SnapshotName,
        _in_use: InUse,
    ) -> Result<Box<dyn Snapshot>, SourceError> {
        let metadata = self.inner.volume(volume)?.metadata;
        let bytes = std::fs::read(self.folder.join(format!("{volume}.raw"))).unwrap();
        let mut snapshots = self.tracking.snapshots.lock().unwrap();
        let id = snapshots.values().map(|frozen| frozen.info.id).max().unwrap_or(0) + 1;
        let (name, size_bytes) = (snapshot.clone(), bytes.len() as u64);
        let info = SnapshotInfo { name, id, created_at: SystemTime::now(), size_bytes };
        let frozen = Arc::new(Frozen { info, metadata, bytes });
        snapshots.insert((volume.clone(), snapshot.clone()), Arc::clone(&frozen));
        Ok(self.opened(frozen))
    }

    fn open_snapshot(
        &self,
        volume: &VolumeName,
        snapshot: &SnapshotName,
    ) -> Result<Box<dyn Snapshot>, SourceError> {
        let snapshots = self.tracking.snapshots.lock().unwrap();
        Ok(self.opened(Arc::clone(&snapshots[&(volume.clone(), snapshot.clone())])))
    }

    fn snapshots(&self, volume: &VolumeName) -> Result<Vec<SnapshotInfo>, SourceError> {
        let snapshots = self.tracking.snapshots.lock().unwrap();
        let of_volume = snapshots.iter().filter(|((name, _), _)| name == volume);
        Ok(of_volume.map(|(_, frozen)| frozen.info.clone()).collect())
    }

    fn remove_snapshot(&self, volume: &VolumeName, snapshot: &SnapshotInfo) -> Result<(), SourceError> {
        let mut snapshots = self.tracking.snapshots.lock().unwrap();
        snapshots.retain(|(name, _), frozen| name != volume || frozen.info.id != snapshot.id);
        Ok(())
    }

    fn create_volume(
        &self,
        name: &VolumeName,
        size_bytes: u64,
        metadata: &VolumeMetadata,
    ) -> Result<Box<dyn VolumeWriter>, SourceError> {
        self.inner.create_volume(name, size_bytes, metadata)
    }

    fn open_volume(&self, name: &VolumeName) -> Result<Box<dyn VolumeWriter>, SourceError> {
        self.inner.open_volume(name)
    }

    fn check_new_name(&self, name: &VolumeName) -> Result<(), SourceError> {
        self.inner.check_new_name(name)
    }

    fn rename_volume(&self, from: &VolumeName, to: &VolumeName) -> Result<(), SourceError> {
        self.inner.rename_volume(from, to)
    }

    fn remove_volume(&self, name: &VolumeName) -> Result<(), SourceError> {
        self.inner.remove_volume(name)
    }
}

struct TrackingSnapshot {
    frozen: Arc<Frozen>,
    tracking: Arc<Tracking>,
}

impl Snapshot for TrackingSnapshot {
    fn info(&self) -> &SnapshotInfo {
        &self.frozen.info
    }

    fn consistency(&self) -> Consistency {
        Consistency::Frozen
    }

    fn metadata(&self) -> &VolumeMetadata {
        &self.frozen.metadata
    }

    fn allocated(&self, emit: &mut EmitExtent<'_>) -> Result<(), SourceError> {
        let range = ByteRange::new(0, self.frozen.info.size_bytes);
        emit(Extent { range, kind: ExtentKind::Data })
    }

    fn changed_since(&self, base: &SnapshotInfo, emit: &mut EmitExtent<'_>) -> Result<Changes, SourceError> {
        self.tracking.diffs.fetch_add(1, Ordering::Relaxed);
        let base = {
            let snapshots = self.tracking.snapshots.lock().unwrap();
            snapshots.values().find(|frozen| frozen.info.id == base.id).cloned()
        };
        let Some(base) = base else { return Ok(Changes::Unknown) };
        for (number, block) in self.frozen.bytes.chunks(BLOCK).enumerate() {
            let start = number * BLOCK;
            let range = ByteRange::new(start as u64, block.len() as u64);
            let is_same = base.bytes.get(start..start + block.len()) == Some(block);
            if !is_same && !self.tracking.is_hidden(range) {
                emit(Extent { range, kind: ExtentKind::Data })?;
            }
        }
        Ok(Changes::Known)
    }

    fn read(&self, ranges: &[ByteRange], into: &mut [u8]) -> Result<(), SourceError> {
        self.tracking.bytes_read.fetch_add(into.len() as u64, Ordering::Relaxed);
        let mut rest = into;
        for range in ranges {
            let (part, behind) = rest.split_at_mut(usize::try_from(range.len()).unwrap());
            part.copy_from_slice(&self.frozen.bytes[usize::try_from(range.start()).unwrap()..][..part.len()]);
            rest = behind;
        }
        Ok(())
    }

    fn confirm(&self) -> Result<(), SourceError> {
        Ok(())
    }
}
