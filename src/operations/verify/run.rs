//! The job of a verification.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::accept::check_verifiable;
use super::progress::Progress;
use super::walk::Walk;
use crate::catalog::{BackupRecord, CatalogError};
use crate::format::image_hash::ImageHash;
use crate::image::Image;
use crate::jobs::{JobControl, JobEnd, Pace, Stop};
use crate::operations::Operations;
use crate::repository::RepositoryError;
use crate::store::{ManifestReader, Visited};
use crate::types::{ByteRange, GIB, MIB, Refusal, sentence};

/// Manifest pages that a verification keeps.
const PAGE_CACHE_BYTES: u64 = 16 * MIB;
/// So much of an image is read between two looks at whether to go on.
const STEP_BYTES: u64 = 4 * MIB;
/// At most so much is read again after a kill.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// So many zeros are hashed in any case: half a minute.
const HASHED_ZEROS: u64 = 64 * GIB;
/// More of them, as long as they are not more than so many times the data.
const HASHED_ZEROS_PER_BYTE: u64 = 4;

/// A queued or running verification.
pub(super) struct VerifyJob {
    pub(super) operations: Arc<Operations>,
    pub(super) progress: Progress,
    has_ended: bool,
}

impl VerifyJob {
    pub(super) fn new(operations: Arc<Operations>, progress: Progress) -> Self {
        Self { operations, progress, has_ended: false }
    }

    pub(super) fn run(mut self, control: &JobControl) -> Result<(), JobEnd> {
        let result = self.verify(control);
        self.has_ended = true;
        match &result {
            Err(JobEnd::Stopped(Stop::Shutdown)) => self.progress.save(&self.operations.repository),
            _ => self.progress.remove(&self.operations.repository),
        }
        result
    }

    fn verify(&mut self, control: &JobControl) -> Result<(), JobEnd> {
        let operations = Arc::clone(&self.operations);
        let record = self.record()?;
        let pace = match self.progress.rate {
            Some(rate) => Pace::new(rate.limit()),
            None => operations.verify_pace.clone(),
        };
        control.set_total(record.size_bytes);
        control.add_done(self.progress.position.min(record.size_bytes));
        // What is beside the image is looked at again, also when the image itself was read in part.
        self.progress.found.beside.clear();
        self.progress.found.concerns_others = false;
        self.check_record()?;
        let opened = operations.repository.open_image_apart(record.id, PAGE_CACHE_BYTES);
        let hash = match opened {
            Ok(image) => {
                self.check_manifests(&image, &pace, control)?;
                self.read(&record, &image, &pace, control)?
            }
            Err(error) => {
                self.record()?;
                self.nothing_can_be_read(&record, error)?;
                None
            }
        };
        self.conclude(hash)
    }

    /// Returns the record; a backup that is gone or going is not verified any more.
    pub(super) fn record(&self) -> Result<Arc<BackupRecord>, JobEnd> {
        let record = self.operations.repository.catalog().get(self.progress.backup);
        let staying = record.filter(|record| check_verifiable(record).is_ok());
        staying.ok_or(JobEnd::Stopped(Stop::Cancelled))
    }

    fn check_record(&mut self) -> Result<(), JobEnd> {
        match self.operations.repository.catalog().check_stored(self.progress.backup) {
            Ok(()) => Ok(()),
            Err(CatalogError::NotFound { .. }) => Err(JobEnd::Stopped(Stop::Cancelled)),
            Err(error) => {
                // The end of the verification writes it anew.
                self.progress.found.beside.push(format!(
                    "its record could not be read as it was written ({}); it was written again from what the daemon knows",
                    sentence(&error)
                ));
                Ok(())
            }
        }
    }

    /// Reads every page of the chain's manifests, those too that this image does not need.
    fn check_manifests(&mut self, image: &Image, pace: &Pace, control: &JobControl) -> Result<(), JobEnd> {
        for (depth, manifest) in image.manifests().iter().enumerate() {
            control.checkpoint()?;
            let mut error = manifest.check_ends().err().map(|error| sentence(&error));
            if depth == 0 {
                // Its pages are read with the image.
                self.progress.found.beside.extend(error.map(|error| {
                    format!(
                        "its manifest {} is damaged where the image does not need it ({error}), and could not bring the record back; flatten the backup, or take a new one",
                        manifest.id()
                    )
                }));
                continue;
            }
            error = error.or(self.first_damaged_page(manifest, pace, control)?);
            if let Some(error) = error {
                tracing::error!(backup = %self.progress.backup, manifest = %manifest.id(), error, "a manifest of the chain is damaged");
                self.progress.found.concerns_others = true;
            }
        }
        Ok(())
    }

    fn first_damaged_page(
        &self,
        manifest: &ManifestReader,
        pace: &Pace,
        control: &JobControl,
    ) -> Result<Option<String>, JobEnd> {
        let mut first = None;
        for step in ByteRange::new(0, manifest.size_bytes()).split_on_grid(PAGES_STEP_BYTES) {
            let mut extents = 0_u64;
            manifest.visit_what_is_there(step, |part| match part {
                Visited::Extent(_) => extents += 1,
                Visited::Lost { error, .. } => {
                    first.get_or_insert_with(|| sentence(error.as_ref()));
                }
            });
            pace.take(extents * EXTENT_BYTES, control)?;
        }
        Ok(first)
    }

    /// Reads the image; its SHA-256 when all of it is right and few enough of it are holes.
    fn read(
        &mut self,
        record: &BackupRecord,
        image: &Image,
        pace: &Pace,
        control: &JobControl,
    ) -> Result<Option<String>, JobEnd> {
        let operations = Arc::clone(&self.operations);
        let snapshot = match self.progress.against_source {
            true => Some(operations.recorded_snapshot(record)?),
            false => None,
        };
        let hash = self.hash_so_far(record);
        let found = self.progress.found.clone();
        let repository = &operations.repository;
        let (store, chunk_size) = (repository.store(), repository.chunk_size());
        let mut walk = Walk::new(image, store, chunk_size, snapshot.as_deref(), hash, found);
        let mut saved = Instant::now();
        let rest = ByteRange::between(self.progress.position, image.size_bytes());
        for step in rest.split_on_grid(STEP_BYTES) {
            let read = walk.range(step);
            let stopped = pace.take(walk.take_read_bytes(), control);
            read?;
            self.progress.position = step.end();
            self.progress.found.clone_from(&walk.found);
            if stopped.is_err() || saved.elapsed() >= SAVE_EVERY {
                self.record()?;
                self.progress.hash = walk.hash.as_ref().map(ImageHash::state);
                saved = Instant::now();
                if stopped.is_ok() {
                    self.progress.save(repository);
                }
            }
            stopped?;
            control.add_done(step.len());
        }
        Ok(walk.hash.map(ImageHash::finish))
    }

    /// Returns the hash of what was read already, if that is known and wanted.
    fn hash_so_far(&self, record: &BackupRecord) -> Option<ImageHash> {
        if self.progress.position > 0 {
            return ImageHash::resume(self.progress.hash.as_deref()?);
        }
        let holes = record.size_bytes.saturating_sub(record.allocated_bytes);
        let hashed = HASHED_ZEROS.max(record.allocated_bytes.saturating_mul(HASHED_ZEROS_PER_BYTE));
        (holes <= hashed).then(ImageHash::new)
    }

    /// The image cannot even be opened.
    fn nothing_can_be_read(&mut self, record: &BackupRecord, error: RepositoryError) -> Result<(), JobEnd> {
        let is_damage = match &error {
            RepositoryError::Store(error) => error.is_damage(),
            RepositoryError::Catalog(CatalogError::BrokenChain { .. }) => true,
            _ => false,
        };
        if !is_damage {
            return Err(Refusal::from(error).into());
        }
        let found = &mut self.progress.found;
        found.damaged = Default::default();
        found.damaged.add(ByteRange::new(0, record.size_bytes));
        found.differing_bytes = 0;
        found.cause = Some(sentence(&error));
        Ok(())
    }
}

/// A step of a manifest that is read for its own sake.
const PAGES_STEP_BYTES: u64 = 16 * GIB;
/// What an extent takes of a manifest, about.
const EXTENT_BYTES: u64 = 40;

impl Drop for VerifyJob {
    /// Of one that was never run, or met a fault in amberfs.
    fn drop(&mut self) {
        if !self.has_ended && !self.operations.is_shutting_down() {
            self.progress.remove(&self.operations.repository);
        }
    }
}
