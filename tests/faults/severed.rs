//! A source on a file system of its own, which a process that was killed cannot touch any more.

use std::path::Path;
use std::sync::Arc;

use amberfs::source::dir::DirSource;
use amberfs::source::{
    Changes, Consistency, EmitExtent, InUse, Snapshot, SnapshotInfo, Source, SourceError, VolumeInfo,
    VolumeWriter,
};
use amberfs::types::{ByteRange, SnapshotName, SourceName, VolumeMetadata, VolumeName};

type IsDead = Arc<dyn Fn() -> bool + Send + Sync>;

pub struct SeveredSource {
    inner: DirSource,
    is_dead: IsDead,
}

impl SeveredSource {
    pub fn open(
        folder: &Path,
        is_dead: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Result<Arc<dyn Source>, SourceError> {
        let inner = DirSource::open("local".parse().unwrap(), folder)?;
        Ok(Arc::new(Self { inner, is_dead: Arc::new(is_dead) }))
    }

    fn alive(&self) -> Result<&DirSource, SourceError> {
        check(&self.is_dead, self.inner.name()).map(|()| &self.inner)
    }

    fn snapshot(&self, inner: Box<dyn Snapshot>) -> Box<dyn Snapshot> {
        Box::new(SeveredSnapshot {
            inner,
            name: self.inner.name().clone(),
            is_dead: Arc::clone(&self.is_dead),
        })
    }

    fn writer(&self, inner: Box<dyn VolumeWriter>) -> Box<dyn VolumeWriter> {
        Box::new(SeveredWriter { inner, name: self.inner.name().clone(), is_dead: Arc::clone(&self.is_dead) })
    }
}

fn check(is_dead: &IsDead, name: &SourceName) -> Result<(), SourceError> {
    if !is_dead() {
        return Ok(());
    }
    let source = std::io::Error::from_raw_os_error(5);
    Err(SourceError::Io { source_name: name.clone(), what: "the process is dead".to_owned(), source })
}

impl Source for SeveredSource {
    fn name(&self) -> &SourceName {
        self.inner.name()
    }

    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn list(&self) -> Result<Vec<VolumeName>, SourceError> {
        self.alive()?.list()
    }

    fn volume(&self, name: &VolumeName) -> Result<VolumeInfo, SourceError> {
        self.alive()?.volume(name)
    }

    fn create_snapshot(
        &self,
        volume: &VolumeName,
        snapshot: &SnapshotName,
        in_use: InUse,
    ) -> Result<Box<dyn Snapshot>, SourceError> {
        Ok(self.snapshot(self.alive()?.create_snapshot(volume, snapshot, in_use)?))
    }

    fn open_snapshot(
        &self,
        volume: &VolumeName,
        snapshot: &SnapshotName,
    ) -> Result<Box<dyn Snapshot>, SourceError> {
        Ok(self.snapshot(self.alive()?.open_snapshot(volume, snapshot)?))
    }

    fn snapshots(&self, volume: &VolumeName) -> Result<Vec<SnapshotInfo>, SourceError> {
        self.alive()?.snapshots(volume)
    }

    fn remove_snapshot(&self, volume: &VolumeName, snapshot: &SnapshotInfo) -> Result<(), SourceError> {
        self.alive()?.remove_snapshot(volume, snapshot)
    }

    fn create_volume(
        &self,
        name: &VolumeName,
        size_bytes: u64,
        metadata: &VolumeMetadata,
    ) -> Result<Box<dyn VolumeWriter>, SourceError> {
        Ok(self.writer(self.alive()?.create_volume(name, size_bytes, metadata)?))
    }

    fn open_volume(&self, name: &VolumeName) -> Result<Box<dyn VolumeWriter>, SourceError> {
        Ok(self.writer(self.alive()?.open_volume(name)?))
    }

    fn check_new_name(&self, name: &VolumeName) -> Result<(), SourceError> {
        self.alive()?.check_new_name(name)
    }

    fn size_bytes(&self, name: &VolumeName) -> Result<u64, SourceError> {
        self.alive()?.size_bytes(name)
    }

    fn rename_volume(&self, from: &VolumeName, to: &VolumeName) -> Result<(), SourceError> {
        self.alive()?.rename_volume(from, to)
    }

    fn sync_name(&self, name: &VolumeName) -> Result<(), SourceError> {
        self.alive()?.sync_name(name)
    }

    fn remove_volume(&self, name: &VolumeName) -> Result<(), SourceError> {
        self.alive()?.remove_volume(name)
    }
}

struct SeveredSnapshot {
    inner: Box<dyn Snapshot>,
    name: SourceName,
    is_dead: IsDead,
}

impl Snapshot for SeveredSnapshot {
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
        check(&self.is_dead, &self.name)?;
        self.inner.allocated(emit)
    }

    fn changed_since(&self, base: &SnapshotInfo, emit: &mut EmitExtent<'_>) -> Result<Changes, SourceError> {
        check(&self.is_dead, &self.name)?;
        self.inner.changed_since(base, emit)
    }

    fn read(&self, ranges: &[ByteRange], into: &mut [u8]) -> Result<(), SourceError> {
        check(&self.is_dead, &self.name)?;
        self.inner.read(ranges, into)
    }

    fn confirm(&self) -> Result<(), SourceError> {
        self.inner.confirm()
    }
}

struct SeveredWriter {
    inner: Box<dyn VolumeWriter>,
    name: SourceName,
    is_dead: IsDead,
}

impl VolumeWriter for SeveredWriter {
    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }

    fn read(&self, range: ByteRange, into: &mut [u8]) -> Result<(), SourceError> {
        check(&self.is_dead, &self.name)?;
        self.inner.read(range, into)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), SourceError> {
        check(&self.is_dead, &self.name)?;
        self.inner.write(offset, bytes)
    }

    fn zero(&self, range: ByteRange) -> Result<(), SourceError> {
        check(&self.is_dead, &self.name)?;
        self.inner.zero(range)
    }

    fn allocated(&self, emit: &mut EmitExtent<'_>) -> Result<(), SourceError> {
        check(&self.is_dead, &self.name)?;
        self.inner.allocated(emit)
    }

    fn flush(&self) -> Result<(), SourceError> {
        check(&self.is_dead, &self.name)?;
        self.inner.flush()
    }

    fn set_mark(&self, key: &str, value: Option<&str>) -> Result<(), SourceError> {
        check(&self.is_dead, &self.name)?;
        self.inner.set_mark(key, value)
    }

    fn mark(&self, key: &str) -> Result<Option<String>, SourceError> {
        check(&self.is_dead, &self.name)?;
        self.inner.mark(key)
    }
}
