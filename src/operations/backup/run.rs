//! The job of a backup: copies the snapshot, makes it durable, publishes the record, and only then lets go of the
//! snapshots that nobody needs any more.

use std::sync::{Arc, Mutex};

use super::super::restore::patiently;
use super::super::{Operations, metrics};
use super::assemble::Assembler;
use super::copy;
use super::plan::Strategy;
use super::work::Worker;
use crate::catalog::{BackupRecord, BackupStatus, CatalogError, DiffCheck, ManifestReference};
use crate::format::manifest::Target;
use crate::image::Image;
use crate::jobs::{JobControl, JobEnd, Stop};
use crate::source::{Consistency, ExtentKind, Snapshot, SnapshotInfo, Source, SourceError};
use crate::store::{ManifestWriter, StoreError, WriteStats};
use crate::types::{BackupId, ByteRange, Refusal, RefusalKind};

/// A queued or running backup. Dropped unrun, it is put right as if it had been stopped.
pub(super) struct BackupJob {
    operations: Arc<Operations>,
    id: BackupId,
    snapshot: Option<Box<dyn Snapshot>>,
    ended: bool,
    /// Whatever goes wrong from here on, the record may say that the backup is available.
    publishes: bool,
}

impl BackupJob {
    pub(super) fn new(
        operations: Arc<Operations>,
        id: BackupId,
        snapshot: Option<Box<dyn Snapshot>>,
    ) -> Self {
        Self { operations, id, snapshot, ended: false, publishes: false }
    }

    pub(super) fn run(mut self, control: &JobControl) -> Result<(), JobEnd> {
        let result = self.copy(control);
        // The snapshot is closed before anybody removes it.
        self.snapshot = None;
        self.ended = true;
        match &result {
            Ok(()) => self.operations.clean_up_snapshots_of(self.id),
            Err(end) => {
                // The record of one that could not be published may name it all the same: the next start looks.
                if !self.publishes || matches!(end, JobEnd::Stopped(_)) {
                    self.operations.discard_manifest(self.id);
                }
                self.operations.end_backup(self.id, end);
            }
        }
        result
    }

    fn copy(&mut self, control: &JobControl) -> Result<(), JobEnd> {
        let operations = &self.operations;
        let record = operations.record(self.id)?;
        let snapshot = match &self.snapshot {
            Some(snapshot) => snapshot,
            // After a power cut a cluster needs longer than we do to start.
            None => self.snapshot.insert(operations.open_recorded_snapshot(&record, control)?),
        };
        let snapshot = snapshot.as_ref();
        let parent = record.parent_id.map(|parent| operations.repository.image(parent)).transpose();
        let parent = parent.map_err(Refusal::from)?;
        control.set_total(snapshot.info().size_bytes);
        let stored = operations.store_snapshot(&record, snapshot, parent.as_deref(), control)?;
        let image = operations.open_new_image(&record, &stored.manifest)?;
        confirm(snapshot, &image, control)?;
        self.publishes = true;
        operations.publish(&record, stored, &image, parent.as_deref())
    }
}

/// What is durable of a backup before its record says so.
struct Stored {
    manifest: ManifestReference,
    stats: WriteStats,
    diff_check: DiffCheck,
}

/// What stays the same when a backup is stored in another way.
struct Attempt<'a> {
    record: &'a BackupRecord,
    snapshot: &'a dyn Snapshot,
    parent: Option<&'a Image>,
    control: &'a JobControl,
}

impl Drop for BackupJob {
    fn drop(&mut self) {
        if !self.ended {
            self.snapshot = None;
            if std::thread::panicking() {
                let refusal = Refusal::new(RefusalKind::Failed, "the job met a fault in amberfs");
                self.operations.end_backup(self.id, &JobEnd::Failed(refusal));
                return;
            }
            let stop = if self.operations.is_shutting_down() { Stop::Shutdown } else { Stop::Cancelled };
            self.operations.end_backup(self.id, &JobEnd::Stopped(stop));
        }
    }
}

impl Operations {
    pub(in super::super) fn record(&self, id: BackupId) -> Result<Arc<BackupRecord>, Refusal> {
        Ok(self.repository.catalog().get(id).ok_or(CatalogError::NotFound { id })?)
    }

    pub(in super::super) fn source(&self, record: &BackupRecord) -> Result<&Arc<dyn Source>, Refusal> {
        self.sources.get(&record.source).ok_or_else(|| {
            let sentence = format!("source {} is not in the configuration", record.source);
            Refusal::new(RefusalKind::SourceUnavailable, sentence)
        })
    }

    /// Opens the snapshot that a `creating` backup was made of before the daemon was started again.
    fn open_recorded_snapshot(
        &self,
        record: &BackupRecord,
        control: &JobControl,
    ) -> Result<Box<dyn Snapshot>, JobEnd> {
        let gone = || {
            let sentence = "the snapshot that the backup was being made of is gone".to_owned();
            Refusal::new(RefusalKind::SnapshotNotFound, sentence)
        };
        let reference = record.snapshot.as_ref().ok_or_else(gone)?;
        let source = self.source(record)?;
        let snapshot = patiently(control, || source.open_snapshot(&record.volume_name, &reference.name))?;
        if snapshot.info().id == reference.id { Ok(snapshot) } else { Err(gone().into()) }
    }

    /// Stores the snapshot's bytes and the manifest, durably. What the source says of changes is checked on the way; once
    /// it is found wrong, everything is compared.
    fn store_snapshot(
        &self,
        record: &BackupRecord,
        snapshot: &dyn Snapshot,
        parent: Option<&Image>,
        control: &JobControl,
    ) -> Result<Stored, JobEnd> {
        let base = self.base_of(record, parent);
        let mut check = self.diff_check_before(record);
        let strategy = match (parent, &base) {
            (None, _) => Strategy::Full,
            (Some(parent), Some(base)) => self.changes_strategy(record, parent, base, &mut check),
            (Some(_), None) => Strategy::Compare,
        };
        let attempt = Attempt { record, snapshot, parent, control };
        let missed = match self.attempt(&attempt, strategy, check)? {
            Ok(stored) => return Ok(stored),
            Err(missed) => missed,
        };
        self.report_missed_change(record, missed);
        check.misses = check.misses.saturating_add(1);
        control.set_total(control.bytes_done().saturating_add(snapshot.info().size_bytes));
        self.attempt(&attempt, Strategy::Compare, check)?.map_err(|missed| {
            // Nothing is taken for granted there, and so nothing can be missed.
            Refusal::new(RefusalKind::Failed, format!("{missed} were missed by a comparison")).into()
        })
    }

    /// Stores the snapshot, unless a range is met that has changed and of which the source did not say so.
    fn attempt(
        &self,
        attempt: &Attempt<'_>,
        strategy: Strategy<'_>,
        diff_check: DiffCheck,
    ) -> Result<Result<Stored, ByteRange>, JobEnd> {
        let Attempt { record, snapshot, parent, control } = *attempt;
        // Lasts until the manifest is published.
        let session = self.repository.store().session();
        let chunk_size = self.repository.chunk_size();
        let size_bytes = snapshot.info().size_bytes;
        let objects = self.repository.objects();
        let manifest = ManifestWriter::create(objects.as_ref(), size_bytes).map_err(Refusal::from)?;
        // What is not of a backup that became available is known as that from before it is there: bringing records
        // back from manifests must not bring back one that was never confirmed.
        let id = manifest.id();
        self.repository
            .catalog()
            .update(record.id, |record| record.retired_manifests.push(id))
            .map_err(Refusal::from)?;
        let mut assembler = Assembler::new(&session, chunk_size, session.writer(), manifest);
        let bytes_read = metrics::BYTES_READ.with([record.source.as_str()]);
        let missed = Mutex::new(None);
        let worker = Worker { snapshot, session: &session, parent, chunk_size, bytes_read, missed };
        let copied = copy::copy(&worker, strategy, &mut assembler, &self.budget, control);
        if let Some(missed) = worker.into_missed() {
            control.checkpoint()?;
            return Ok(Err(missed));
        }
        copied?;
        let about = |stats: WriteStats| {
            let record = BackupRecord { stored_bytes: stats.pack_bytes, diff_check, ..record.clone() };
            record.encode().map_err(|source| StoreError::Format {
                name: crate::objects::ObjectName::Record(record.id),
                source,
            })
        };
        let (manifest, stats) = assembler.finish(about).map_err(Refusal::from)?;
        Ok(Ok(Stored { manifest, stats, diff_check }))
    }

    /// Returns the snapshot of the parent that the source may be asked about.
    fn base_of(&self, record: &BackupRecord, parent: Option<&Image>) -> Option<SnapshotInfo> {
        let parent_record = self.repository.catalog().get(record.parent_id?)?;
        let base = parent_record.snapshot.as_ref()?;
        // Changes are told relative to the snapshot's size: it must be that of the parent's image.
        if parent?.size_bytes() != base.size_bytes {
            return None;
        }
        Some(SnapshotInfo {
            name: base.name.clone(),
            id: base.id,
            created_at: base.created_at.to_system_time(),
            size_bytes: base.size_bytes,
        })
    }

    /// Removes the manifest of a backup that ended before it was available.
    fn discard_manifest(self: &Arc<Self>, id: BackupId) {
        if let Some(record) = self.repository.catalog().get(id) {
            self.remove_retired_manifests(&record);
        }
    }

    /// Opens the image of a backup whose record does not name its manifest yet.
    fn open_new_image(&self, record: &BackupRecord, manifest: &ManifestReference) -> Result<Image, Refusal> {
        let mut chain = vec![manifest.clone()];
        if let Some(parent) = record.parent_id {
            chain.extend(self.repository.catalog().chain(parent)?);
        }
        Ok(self.repository.open_image(&chain)?)
    }

    /// Makes the backup available.
    fn publish(
        &self,
        record: &BackupRecord,
        stored: Stored,
        image: &Image,
        parent: Option<&Image>,
    ) -> Result<(), JobEnd> {
        let parent_record = record.parent_id.and_then(|parent| self.repository.catalog().get(parent));
        let parent = parent.zip(parent_record.map(|parent| parent.allocated_bytes));
        // A parent that is damaged where this backup does not need it does not tell what was there.
        let allocated_bytes = allocated_bytes(image, parent)
            .or_else(|_| image.allocated_bytes(ByteRange::new(0, image.size_bytes())))
            .map_err(Refusal::from)?;
        let Stored { manifest, stats, diff_check } = stored;
        let keeps_snapshot = self.source(record)?.tracks_changes();
        let mut is_wanted = true;
        self.repository
            .catalog()
            .update(record.id, |record| {
                // A delete only waits for this job to stop.
                is_wanted = record.status == BackupStatus::Creating;
                if !is_wanted {
                    return;
                }
                record.status = BackupStatus::Available;
                record.fail_reason = None;
                record.stored_bytes = stats.pack_bytes + manifest.length;
                // The packs, the manifest and the record.
                record.object_count = stats.pack_count + 2;
                record.allocated_bytes = allocated_bytes;
                // Of its own attempts only, of which the others left none.
                record.retired_manifests.clear();
                record.manifest = Some(manifest);
                record.diff_check = diff_check;
                if !keeps_snapshot && record.snapshot.as_ref().is_some_and(|snapshot| !snapshot.ours) {
                    record.snapshot = None;
                }
            })
            .map_err(Refusal::from)?;
        if is_wanted { Ok(()) } else { Err(Stop::Cancelled.into()) }
    }
}

/// Returns how many bytes of the new image are not holes: the parent's, and what the new backup changed in them.
fn allocated_bytes(image: &Image, parent: Option<(&Image, u64)>) -> Result<u64, Refusal> {
    let Some((parent, parent_bytes)) = parent else { return Ok(image.newest_layer_chunk_bytes()) };
    let beyond = ByteRange::between(image.size_bytes(), parent.size_bytes());
    let (mut new, mut old) = (0, parent.allocated_bytes(beyond)?);
    let mut result = Ok(());
    image.newest_layer(|extent| {
        if extent.target != Target::Zero {
            new += extent.range.len();
        }
        match parent.allocated_bytes(extent.range) {
            Ok(bytes) => old += bytes,
            Err(error) => result = Err(error),
        }
    })?;
    result?;
    Ok((parent_bytes + new).saturating_sub(old))
}

/// Makes sure that the image is of one point in time, and still wanted.
fn confirm(snapshot: &dyn Snapshot, image: &Image, control: &JobControl) -> Result<(), JobEnd> {
    if snapshot.consistency() == Consistency::Unprotected {
        // Nobody keeps writers away: what reads the same twice was there in between.
        read_again(snapshot, image, control)?;
    }
    snapshot.confirm().map_err(Refusal::from)?;
    Ok(control.checkpoint()?)
}

/// Reads all data of the snapshot again and compares it with the image.
fn read_again(snapshot: &dyn Snapshot, image: &Image, control: &JobControl) -> Result<(), JobEnd> {
    let mut comparison = Comparison { snapshot, image, control, new: Vec::new(), old: Vec::new() };
    let mut stopped = None;
    let mut from = 0;
    let result = snapshot.allocated(&mut |extent| {
        let data = if extent.kind == ExtentKind::Data { extent.range } else { ByteRange::new(from, 0) };
        let gap = ByteRange::between(from, data.start());
        from = from.max(data.end());
        comparison.hole(gap).and_then(|()| comparison.data(data)).map_err(|end| {
            stopped = Some(end);
            SourceError::Stopped
        })
    });
    match (stopped, result) {
        (Some(end), _) => Err(end),
        (None, Err(error)) => Err(Refusal::from(error).into()),
        (None, Ok(())) => comparison.hole(ByteRange::between(from, snapshot.info().size_bytes)),
    }
}

struct Comparison<'a> {
    snapshot: &'a dyn Snapshot,
    image: &'a Image,
    control: &'a JobControl,
    new: Vec<u8>,
    old: Vec<u8>,
}

impl Comparison<'_> {
    fn data(&mut self, range: ByteRange) -> Result<(), JobEnd> {
        self.same(range, |snapshot, range, new| snapshot.read(&[range], new))
    }

    /// A hole reads as zeros; where the image has a hole too there is nothing to compare.
    fn hole(&mut self, range: ByteRange) -> Result<(), JobEnd> {
        let mut from = range.start();
        while let Some(data) =
            self.image.next_data(from).map_err(Refusal::from)?.filter(|data| *data < range.end())
        {
            let end = self.image.next_hole(data).map_err(Refusal::from)?.min(range.end());
            self.same(ByteRange::between(data, end), |_, _, new| {
                new.fill(0);
                Ok(())
            })?;
            from = end;
        }
        Ok(())
    }

    fn same(
        &mut self,
        range: ByteRange,
        read: impl Fn(&dyn Snapshot, ByteRange, &mut [u8]) -> Result<(), SourceError>,
    ) -> Result<(), JobEnd> {
        const STEP: u64 = 1 << 20;
        for range in range.split_on_grid(STEP) {
            self.control.checkpoint()?;
            let length = usize::try_from(range.len()).unwrap_or(usize::MAX);
            self.new.resize(length, 0);
            self.old.resize(length, 0);
            read(self.snapshot, range, &mut self.new).map_err(Refusal::from)?;
            self.image.read(range.start(), &mut self.old).map_err(Refusal::from)?;
            if self.new != self.old {
                let sentence = format!(
                    "the volume was written to while it was backed up: {range} changed; stop its writer, or keep it in a source that can make snapshots"
                );
                return Err(Refusal::new(RefusalKind::Failed, sentence).into());
            }
        }
        Ok(())
    }
}
