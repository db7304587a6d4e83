//! Puts whole manifests and records in the place of damaged and missing ones.

use std::path::Path;
use std::sync::Arc;

use super::{Repair, RepairReport};
use crate::catalog::{BackupRecord, BackupStatus, CatalogError, ManifestReference, read_record};
use crate::check::CheckError;
use crate::check::rebuild::Rebuild;
use crate::format::{FormatError, document};
use crate::objects::{ObjectError, ObjectName, ObjectStore};
use crate::store::{ManifestReader, PageCache, StoreError, Visited};
use crate::sysio::{atomic, clock};
use crate::types::{BackupId, ByteRange, ManifestId, sentence};

/// A manifest is copied through memory, since it takes the place of the damaged one at once. One of 1 TiB in chunks of
/// 64 KiB, with hardly a hole, is about 700 MB long.
const MANIFEST_LENGTH_MAX: u64 = 1 << 30;
const PAGE_CACHE_BYTES: u64 = 16 << 20;

impl Repair<'_> {
    /// Returns whether anything was put in place.
    pub(super) fn documents(&mut self, report: &mut RepairReport) -> Result<bool, CheckError> {
        let before = report.count();
        self.manifests(report)?;
        self.records(report)?;
        Ok(report.count() > before)
    }

    fn manifests(&self, report: &mut RepairReport) -> Result<(), CheckError> {
        let Some(other) = self.other else { return Ok(()) };
        for (id, reference) in self.damaged_manifests() {
            self.watch.checkpoint()?;
            let name = ObjectName::Manifest(id);
            match good_manifest(other.objects(), id, reference.as_ref()) {
                Ok(bytes) => {
                    self.replace(name, &bytes)?;
                    report.add(name.to_string(), other.location());
                }
                Err(StoreError::Object(ObjectError::Missing { .. })) => {}
                Err(error) => {
                    report.note(format!("{name} of {} is not taken: {}", other.location(), sentence(&error)))
                }
            }
        }
        Ok(())
    }

    /// Returns the manifests that are damaged or missing, and what records say of them.
    fn damaged_manifests(&self) -> Vec<(ManifestId, Option<ManifestReference>)> {
        let checker = &self.checker;
        let mut damaged = Vec::new();
        let mut named = std::collections::BTreeSet::new();
        for manifest in checker.records.with_data().filter_map(|record| record.manifest.as_ref()) {
            let known = checker.manifests.known.get(&manifest.id);
            let is_good = known
                .is_some_and(|state| state.object.is_none() && state.reference.as_ref() == Some(manifest));
            if !is_good && named.insert(manifest.id) {
                damaged.push((manifest.id, Some(manifest.clone())));
            }
        }
        // Of backups whose records are lost, too: they are needed to write those again.
        let unnamed = checker
            .manifests
            .known
            .iter()
            .filter(|(id, state)| state.object.is_some() && !named.contains(id));
        damaged.extend(unnamed.map(|(id, state)| (*id, state.reference.clone())));
        damaged
    }

    /// One that comes from its manifest needs those of the backups that it leans on: as long as one is put right,
    /// the others are tried again.
    fn records(&self, report: &mut RepairReport) -> Result<(), CheckError> {
        loop {
            let before = report.count();
            self.records_once(report)?;
            if report.count() == before {
                return Ok(());
            }
        }
    }

    fn records_once(&self, report: &mut RepairReport) -> Result<(), CheckError> {
        for id in self.damaged_records() {
            self.watch.checkpoint()?;
            let name = ObjectName::Record(id);
            let taken = match self.other.map(|other| self.record_of_other(other.objects().as_ref(), id)) {
                Some(Ok(Some(record))) => Some((record, self.other.map_or("", |other| other.location()))),
                Some(Err(why)) => {
                    report.note(why);
                    None
                }
                Some(Ok(None)) | None => None,
            };
            let taken = match taken {
                Some(taken) => Some(taken),
                None => self.record_of_manifest(id)?.map(|record| (record, "its manifest")),
            };
            if let Some((record, from)) = taken {
                self.keep_replaced(name)?;
                self.repository.catalog().insert(record)?;
                report.add(name.to_string(), from);
            }
        }
        Ok(())
    }

    /// Returns the records that are there and damaged, and those of missing parents. One of a newer amberfs is not
    /// damaged, and a disk that cannot be read may be read later.
    fn damaged_records(&self) -> Vec<BackupId> {
        let records = &self.checker.records;
        let objects = self.repository.objects().as_ref();
        let is_damaged = |id: &BackupId| match read_record(objects, *id) {
            Err(CatalogError::Format { source, .. }) => {
                !matches!(source, FormatError::UnsupportedVersion { .. })
            }
            Err(CatalogError::Object(error)) => {
                matches!(error, ObjectError::Missing { .. } | ObjectError::TooLong { .. })
            }
            _ => false,
        };
        let parents = records.with_data().filter_map(|record| record.parent_id);
        let missing = parents.filter(|parent| !records.has(*parent));
        let mut damaged: Vec<BackupId> = records.unreadable.keys().copied().chain(missing).collect();
        damaged.sort_unstable();
        damaged.dedup();
        damaged.retain(is_damaged);
        damaged
    }

    /// Returns the other repository's record when it is of the manifest that is here.
    fn record_of_other(&self, other: &dyn ObjectStore, id: BackupId) -> Result<Option<BackupRecord>, String> {
        let record = match read_record(other, id) {
            Ok(record) => record,
            Err(CatalogError::Object(ObjectError::Missing { .. })) => return Ok(None),
            Err(error) => return Err(format!("{} of the other repository: {error}", ObjectName::Record(id))),
        };
        let is_finished = matches!(record.status, BackupStatus::Available | BackupStatus::Restoring);
        let Some(manifest) = record.manifest.clone().filter(|_| is_finished) else { return Ok(None) };
        let cache = Arc::new(PageCache::new(PAGE_CACHE_BYTES));
        let opened = ManifestReader::open(Arc::clone(self.repository.objects()), cache, &manifest);
        let about = opened.and_then(|reader| reader.about());
        let about = about.map_err(|error| {
            format!("{} of the other repository is not taken: {error}", ObjectName::Record(id))
        })?;
        match BackupRecord::decode(&about) {
            Ok(about) if about.is_of_same_backup(&record) => {}
            _ => {
                return Err(format!(
                    "{} of the other repository is of another backup",
                    ObjectName::Record(id)
                ));
            }
        }
        Ok(Some(BackupRecord {
            // Whatever is being done with it there is not being done here.
            status: BackupStatus::Available,
            fail_reason: None,
            restore_target: None,
            image_sha256: None,
            last_verified_at: None,
            retired_manifests: Vec::new(),
            updated_at: clock::now(),
            ..record
        }))
    }

    /// Returns the record that a backup's manifest has, when all of the backup's data is there.
    fn record_of_manifest(&self, id: BackupId) -> Result<Option<BackupRecord>, CheckError> {
        let named = self.checker.records.named_manifests();
        let is_of = |state: &crate::check::manifests::ManifestState| {
            state.about.as_ref().is_some_and(|about| about.id == id)
        };
        let known = self.checker.manifests.known.iter();
        let manifests: Vec<ManifestId> = known
            .filter(|(manifest, state)| is_of(state) && !named.contains(manifest))
            .map(|(manifest, _)| *manifest)
            .collect();
        Rebuild::new(self.repository, self.watch).record_again(&manifests)
    }

    /// Puts a whole object in the place of a damaged one, which is kept.
    fn replace(&self, name: ObjectName, bytes: &[u8]) -> Result<(), CheckError> {
        self.keep_replaced(name)?;
        Ok(self.repository.objects().replace(name, bytes)?)
    }

    /// Keeps a copy of a damaged document beside the index: somebody may be able to read more of it than we can.
    fn keep_replaced(&self, name: ObjectName) -> Result<(), CheckError> {
        let bytes = match self.repository.objects().read_whole(name, document::LENGTH_MAX) {
            Ok(bytes) => bytes,
            // Nothing to keep, or too much: a manifest is no text that somebody could read.
            Err(_) => return Ok(()),
        };
        let folder = self.replaced_folder();
        let temporary = folder.join("tmp");
        let file_name = format!("{}-{}", name.to_string().replace('/', "-"), clock::now());
        let kept = atomic::create_folder(&temporary)
            .and_then(|()| atomic::replace(&temporary, &folder.join(Path::new(&file_name)), &bytes));
        Ok(kept.map_err(|source| ObjectError::Io { name, source })?)
    }
}

/// Returns the bytes of a manifest every page of which is whole, and which is the one that the record means.
fn good_manifest(
    objects: &Arc<dyn ObjectStore>,
    id: ManifestId,
    reference: Option<&ManifestReference>,
) -> Result<Vec<u8>, StoreError> {
    let cache = Arc::new(PageCache::new(PAGE_CACHE_BYTES));
    let (reader, there) = ManifestReader::open_unreferenced(Arc::clone(objects), cache, id)?;
    let corrupt = |why: &str| Err(StoreError::ManifestCorrupt { id, why: why.to_owned() });
    if reference.is_some_and(|reference| *reference != there) {
        return corrupt("it is another one than the record here names");
    }
    if there.length > MANIFEST_LENGTH_MAX {
        return corrupt("it is too long to be copied through memory; copy the file by hand");
    }
    reader.check_head()?;
    reader.about()?;
    let mut is_whole = true;
    reader.visit_what_is_there(ByteRange::new(0, u64::MAX), |visited| {
        is_whole &= matches!(visited, Visited::Extent(_));
    });
    if !is_whole {
        return corrupt("it is damaged there as well");
    }
    Ok(objects.read_whole(ObjectName::Manifest(id), MANIFEST_LENGTH_MAX)?)
}
