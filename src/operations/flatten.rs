//! Flatten: an incremental backup becomes a full one by a manifest of its own. No chunk is read or copied, and the
//! source is not asked.

use std::sync::Arc;

use super::{Operations, Requester};
use crate::catalog::{BackupRecord, BackupStatus, ManifestReference};
use crate::format::manifest::ManifestExtent;
use crate::image::Image;
use crate::jobs::{JobControl, JobEnd, JobId, JobSubject, Slot};
use crate::objects::ObjectName;
use crate::store::{ManifestWriter, StoreError};
use crate::types::{BackupId, ByteRange, Refusal, RefusalKind};

/// So much of the image is resolved at once.
const STEP_BYTES: u64 = 64 << 20;

/// A flatten that is queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlattenAccepted {
    pub backup: BackupId,
    pub job: JobId,
}

impl Operations {
    /// Checks that a flatten would not be refused now.
    pub fn check_flatten(&self, requester: &Requester, backup: &str) -> Result<(), Refusal> {
        self.flattenable(requester, backup).map(|_| ())
    }

    /// Queues the job that makes an incremental backup a full one.
    pub fn flatten(
        self: &Arc<Self>,
        requester: &Requester,
        backup: &str,
    ) -> Result<FlattenAccepted, Refusal> {
        let record = self.flattenable(requester, backup)?;
        let id = record.id;
        let subject = JobSubject {
            backup: Some(id.to_string()),
            volume: Some(format!("{}/{}", record.source, record.volume_name)),
            project: record.project.to_string(),
        };
        let operations = Arc::clone(self);
        let job = self
            .jobs
            .submit("flatten", subject, Slot::Free, move |control| operations.run_flatten(id, control))?;
        Ok(FlattenAccepted { backup: id, job })
    }

    fn flattenable(&self, requester: &Requester, backup: &str) -> Result<Arc<BackupRecord>, Refusal> {
        self.check_writable()?;
        let record = self.select_backup(requester, backup)?;
        check_flattenable(&record)?;
        Ok(record)
    }

    fn run_flatten(self: &Arc<Self>, id: BackupId, control: &JobControl) -> Result<(), JobEnd> {
        let record = self.record(id)?;
        let image = self.repository.image(id).map_err(Refusal::from)?;
        control.set_total(image.size_bytes());
        let manifest = self.write_flat_manifest(&record, &image, control)?;
        let verified = self.verify_flat(&manifest, &image);
        if verified.is_err() {
            // No record names it, and none is going to.
            if let Err(error) = self.repository.objects().remove(ObjectName::Manifest(manifest.id)) {
                tracing::warn!(manifest = %manifest.id, %error, "a manifest that is not needed cannot be removed");
            }
        }
        drop(image);
        verified?;
        // From here on the manifest stays whatever happens: a record whose change failed may name it all the same.
        self.publish_flat(&record, &manifest)?;
        self.remove_retired_manifests(&*self.record(id)?);
        Ok(())
    }

    /// Writes the whole image's extents, durably.
    fn write_flat_manifest(
        &self,
        record: &BackupRecord,
        image: &Image,
        control: &JobControl,
    ) -> Result<ManifestReference, JobEnd> {
        let objects = self.repository.objects();
        let mut manifest =
            ManifestWriter::create(objects.as_ref(), image.size_bytes()).map_err(Refusal::from)?;
        let mut extents = Vec::new();
        for piece in ByteRange::new(0, image.size_bytes()).split_on_grid(STEP_BYTES) {
            control.checkpoint()?;
            resolve(image, piece, &mut extents)?;
            for extent in extents.drain(..) {
                manifest.add(extent).map_err(Refusal::from)?;
            }
            control.add_done(piece.len());
        }
        let about = BackupRecord { parent_id: None, ..record.clone() }.encode();
        let about = about.map_err(|source| {
            Refusal::from(StoreError::Format { name: ObjectName::Record(record.id), source })
        })?;
        Ok(manifest.finish(&about).map_err(Refusal::from)?)
    }

    /// Compares the new manifest, as it is read back, with the image.
    fn verify_flat(&self, manifest: &ManifestReference, image: &Image) -> Result<(), Refusal> {
        let flat = self.repository.open_image(std::slice::from_ref(manifest))?;
        if let Some(range) = first_difference(image, &flat)? {
            let sentence = format!(
                "the new manifest does not give the same image: {range} differ; the backup stays as it was"
            );
            return Err(Refusal::new(RefusalKind::Failed, sentence));
        }
        Ok(())
    }

    /// Puts the new manifest in the place of the chain.
    fn publish_flat(&self, before: &BackupRecord, manifest: &ManifestReference) -> Result<(), Refusal> {
        self.repository.catalog().try_update(before.id, |record| {
            // It may be being restored by now: that reads the same bytes.
            if !record.has_image() || !record.is_incremental() {
                check_flattenable(record)?;
            }
            let old = record.manifest.replace(manifest.clone());
            let old_length = old.as_ref().map_or(0, |old| old.length);
            record.retired_manifests.extend(old.map(|old| old.id));
            record.parent_id = None;
            record.stored_bytes = (record.stored_bytes + manifest.length).saturating_sub(old_length);
            Ok::<_, Refusal>(())
        })?;
        Ok(())
    }

    /// Removes the manifests that a backup had before, as soon as no open image reads them.
    pub(super) fn remove_retired_manifests(self: &Arc<Self>, record: &BackupRecord) {
        if record.retired_manifests.is_empty() {
            return;
        }
        let removed = record.retired_manifests.clone();
        let (repository, id) = (Arc::clone(&self.repository), record.id);
        self.repository.retire_manifests(record.retired_manifests.clone(), move || {
            // A backup that was deleted meanwhile has no record that could name them.
            let _ = repository.catalog().update(id, |record| {
                record.retired_manifests.retain(|manifest| !removed.contains(manifest));
            });
        });
    }
}

fn check_flattenable(record: &BackupRecord) -> Result<(), Refusal> {
    let invalid = |sentence: String| Err(Refusal::new(RefusalKind::InvalidState, sentence));
    if record.status != BackupStatus::Available {
        return invalid(format!(
            "backup {} is {}; only an available one can be flattened",
            record.id, record.status
        ));
    }
    if !record.is_incremental() {
        return invalid(format!("backup {} is a full backup already", record.id));
    }
    Ok(())
}

/// Appends the extents of a range, neighbours that continue each other joined.
fn resolve(image: &Image, range: ByteRange, extents: &mut Vec<ManifestExtent>) -> Result<(), Refusal> {
    image.segments(range, |extent| match extents.last_mut() {
        Some(last) if last.is_continued_by(&extent) => {
            last.range = ByteRange::between(last.range.start(), extent.range.end());
        }
        _ => extents.push(extent),
    })?;
    Ok(())
}

fn first_difference(old: &Image, new: &Image) -> Result<Option<ByteRange>, Refusal> {
    if old.size_bytes() != new.size_bytes() {
        return Ok(Some(ByteRange::between(0, old.size_bytes().max(new.size_bytes()))));
    }
    let (mut old_extents, mut new_extents) = (Vec::new(), Vec::new());
    for piece in ByteRange::new(0, old.size_bytes()).split_on_grid(STEP_BYTES) {
        resolve(old, piece, &mut old_extents)?;
        resolve(new, piece, &mut new_extents)?;
        if old_extents != new_extents {
            return Ok(Some(piece));
        }
        old_extents.clear();
        new_extents.clear();
    }
    Ok(None)
}
