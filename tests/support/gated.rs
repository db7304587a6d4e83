//! A directory source whose reads and writes can be held up, or made to fail, and are counted.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use amberfs::source::dir::DirSource;
use amberfs::source::{
    Changes, Consistency, EmitExtent, InUse, Snapshot, SnapshotInfo, Source, SourceError, VolumeInfo,
    VolumeWriter,
};
use amberfs::types::{ByteRange, SnapshotName, SourceName, VolumeMetadata, VolumeName};

#[derive(Default)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_closed: bool,
    /// So many more come through before the gate closes.
    open_for: Option<usize>,
    fails: bool,
    waiting: usize,
}

impl Gate {
    pub fn close(&self) {
        self.state.lock().unwrap().is_closed = true;
    }

    /// Lets so many through, and is closed then.
    pub fn close_after(&self, count: usize) {
        self.state.lock().unwrap().open_for = Some(count);
    }

    pub fn open(&self) {
        let mut state = self.state.lock().unwrap();
        (state.is_closed, state.open_for) = (false, None);
        drop(state);
        self.changed.notify_all();
    }

    /// From now on whoever comes here meets an error.
    pub fn fail(&self, fails: bool) {
        self.state.lock().unwrap().fails = fails;
    }

    pub fn wait_until_waiting(&self, count: usize) {
        let mut state = self.state.lock().unwrap();
        while state.waiting < count {
            state = self.changed.wait(state).unwrap();
        }
    }

    fn pass(&self, source_name: &SourceName) -> Result<(), SourceError> {
        let mut state = self.state.lock().unwrap();
        if let Some(count) = &mut state.open_for {
            match count.checked_sub(1) {
                Some(left) => *count = left,
                None => state.is_closed = true,
            }
        }
        state.waiting += 1;
        self.changed.notify_all();
        while state.is_closed {
            state = self.changed.wait(state).unwrap();
        }
        state.waiting -= 1;
        if state.fails {
            let error = std::io::Error::from_raw_os_error(5);
            return Err(SourceError::Io {
                source_name: source_name.clone(),
                what: "the disk fails".to_owned(),
                source: error,
            });
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct Gates {
    pub reads: Gate,
    pub writes: Gate,
    /// Of snapshots, and of volumes that are open for writing.
    pub bytes_read: AtomicU64,
    pub bytes_written: AtomicU64,
    /// Does the source say that it knows what has changed? Then snapshots are kept.
    pub keeps_snapshots: AtomicBool,
}

pub struct GatedSource {
    inner: DirSource,
    gates: Arc<Gates>,
}

impl GatedSource {
    pub fn open(folder: &Path) -> (Arc<dyn Source>, Arc<Gates>) {
        let gates = Arc::new(Gates::default());
        let inner = DirSource::open("local".parse().unwrap(), folder).unwrap();
        (Arc::new(Self { inner, gates: Arc::clone(&gates) }), gates)
    }

    fn snapshot(&self, inner: Box<dyn Snapshot>) -> Box<dyn Snapshot> {
        Box::new(GatedSnapshot { inner, name: self.inner.name().clone(), gates: Arc::clone(&self.gates) })
    }

    fn writer(&self, inner: Box<dyn VolumeWriter>) -> Box<dyn VolumeWriter> {
        Box::new(GatedWriter { inner, name: self.inner.name().clone(), gates: Arc::clone(&self.gates) })
    }
}

impl Source for GatedSource {
    fn name(&self) -> &SourceName {
        self.inner.name()
    }

    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn tracks_changes(&self) -> bool {
        self.gates.keeps_snapshots.load(Ordering::Relaxed)
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
        in_use: InUse,
    ) -> Result<Box<dyn Snapshot>, SourceError> {
        Ok(self.snapshot(self.inner.create_snapshot(volume, snapshot, in_use)?))
    }

    fn open_snapshot(
        &self,
        volume: &VolumeName,
        snapshot: &SnapshotName,
    ) -> Result<Box<dyn Snapshot>, SourceError> {
        Ok(self.snapshot(self.inner.open_snapshot(volume, snapshot)?))
    }

    fn snapshots(&self, volume: &VolumeName) -> Result<Vec<SnapshotInfo>, SourceError> {
        self.inner.snapshots(volume)
    }

    fn remove_snapshot(&self, volume: &VolumeName, snapshot: &SnapshotInfo) -> Result<(), SourceError> {
        self.inner.remove_snapshot(volume, snapshot)
    }

    fn create_volume(
        &self,
        name: &VolumeName,
        size_bytes: u64,
        metadata: &VolumeMetadata,
    ) -> Result<Box<dyn VolumeWriter>, SourceError> {
        Ok(self.writer(self.inner.create_volume(name, size_bytes, metadata)?))
    }

    fn open_volume(&self, name: &VolumeName) -> Result<Box<dyn VolumeWriter>, SourceError> {
        Ok(self.writer(self.inner.open_volume(name)?))
    }

    fn check_new_name(&self, name: &VolumeName) -> Result<(), SourceError> {
        self.inner.check_new_name(name)
    }

    fn size_bytes(&self, name: &VolumeName) -> Result<u64, SourceError> {
        self.inner.size_bytes(name)
    }

    fn rename_volume(&self, from: &VolumeName, to: &VolumeName) -> Result<(), SourceError> {
        self.inner.rename_volume(from, to)
    }

    fn sync_name(&self, name: &VolumeName) -> Result<(), SourceError> {
        self.inner.sync_name(name)
    }

    fn remove_volume(&self, name: &VolumeName) -> Result<(), SourceError> {
        self.inner.remove_volume(name)
    }
}

struct GatedSnapshot {
    inner: Box<dyn Snapshot>,
    name: SourceName,
    gates: Arc<Gates>,
}

impl Snapshot for GatedSnapshot {
    fn info(&self) -> &SnapshotInfo {
        self.inner.info()
    }

    fn consistency(&self) -> Consistency {
        self.inner.consistency()
    }

    fn metadata(&self) -> &VolumeMetadata {
        self.inner.metadata()
    }

    fn allocated(&self, emit: &mut EmitExtent<'_>) -> Result<(), SourceError> {
        self.inner.allocated(emit)
    }

    fn changed_since(&self, base: &SnapshotInfo, emit: &mut EmitExtent<'_>) -> Result<Changes, SourceError> {
        self.inner.changed_since(base, emit)
    }

    fn read(&self, ranges: &[ByteRange], into: &mut [u8]) -> Result<(), SourceError> {
        self.gates.reads.pass(&self.name)?;
        self.gates.bytes_read.fetch_add(into.len() as u64, Ordering::Relaxed);
        self.inner.read(ranges, into)
    }

    fn confirm(&self) -> Result<(), SourceError> {
        self.inner.confirm()
    }
}

struct GatedWriter {
    inner: Box<dyn VolumeWriter>,
    name: SourceName,
    gates: Arc<Gates>,
}

impl VolumeWriter for GatedWriter {
    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }

    fn read(&self, range: ByteRange, into: &mut [u8]) -> Result<(), SourceError> {
        self.gates.bytes_read.fetch_add(into.len() as u64, Ordering::Relaxed);
        self.inner.read(range, into)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), SourceError> {
        self.gates.writes.pass(&self.name)?;
        self.gates.bytes_written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.inner.write(offset, bytes)
    }

    fn zero(&self, range: ByteRange) -> Result<(), SourceError> {
        self.inner.zero(range)
    }

    fn allocated(&self, emit: &mut EmitExtent<'_>) -> Result<(), SourceError> {
        self.inner.allocated(emit)
    }

    fn flush(&self) -> Result<(), SourceError> {
        self.inner.flush()
    }

    fn set_mark(&self, key: &str, value: Option<&str>) -> Result<(), SourceError> {
        self.inner.set_mark(key, value)
    }

    fn mark(&self, key: &str) -> Result<Option<String>, SourceError> {
        self.inner.mark(key)
    }
}
