//! Writes records again that are lost, from the manifests: each carries the record that its backup had when it was
//! written. Records that are there are never touched.
//!
//! A manifest that a readable record names is that record's, also one that is on its way out, or one of a backup that
//! was never finished. Of a backup without a record there may be several: it was flattened, and the manifest that it
//! had before was still in use; or one is left of a try that was cut off. Those with all their data are compared:
//! when they give the same image, the flattened one is taken, which leans on nobody; when they do not, nobody can tell
//! which is right, and none is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::{CheckError, Watch};
use crate::catalog::{BackupRecord, BackupStatus, ManifestReference};
use crate::format::manifest::Target;
use crate::image::Image;
use crate::objects::{ObjectEntry, ObjectError, ObjectKind, ObjectName};
use crate::repository::{Location, Repository, RepositoryOptions};
use crate::store::{ManifestReader, PageCache, StoreError};
use crate::sysio::clock;
use crate::types::{BackupId, ByteRange, ManifestId, sentence};

/// So much of an image is resolved at once.
const STEP_BYTES: u64 = 64 << 20;
/// The longest chain that is followed: a bound for records that anybody may have written.
const CHAIN_LENGTH_MAX: usize = 100_000;
/// A page or two of each manifest is read.
const PAGE_CACHE_BYTES: u64 = 1 << 20;
/// Of a backup that is left out, so many reasons are told.
const REASONS_MAX: usize = 4;

/// A backup without a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RebuiltBackup {
    /// The record that was written, or would have been.
    pub record: BackupRecord,
    /// Why it was not.
    pub left_out: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RebuildReport {
    /// Parents before those that lean on them.
    pub backups: Vec<RebuiltBackup>,
    /// Records that were there and stay as they are.
    pub existing: u64,
    /// Objects that cannot be read, with the reason: backups of theirs may be missing here.
    pub unreadable: Vec<(String, String)>,
    /// Manifests that were passed over, since their backups have records.
    pub passed_over: u64,
}

/// Writes the records that are lost; with `dry_run` only says which.
///
/// What only a record knows, not the manifest, is lost: a later name or description, properties that were set since,
/// the protection, when it was verified.
pub fn rebuild(
    location: &Location,
    options: &RepositoryOptions,
    dry_run: bool,
    watch: &Watch,
) -> Result<RebuildReport, CheckError> {
    let repository = if dry_run {
        Repository::open_read_only(location, options)?
    } else {
        super::open_for_writing(location, options)?
    };
    let mut rebuild = Rebuild::new(&repository, watch);
    rebuild.find()?;
    rebuild.choose(dry_run)?;
    Ok(rebuild.report)
}

/// A manifest whose backup has no record.
struct Candidate {
    reference: ManifestReference,
    about: BackupRecord,
}

impl Candidate {
    /// A flattened backup's manifest carries a record that had one already.
    fn is_flattened(&self) -> bool {
        self.about.manifest.is_some()
    }
}

pub(super) struct Rebuild<'a> {
    repository: &'a Repository,
    watch: &'a Watch,
    /// Backups that can be leaned on.
    known: HashMap<BackupId, BackupRecord>,
    candidates: BTreeMap<BackupId, Vec<Candidate>>,
    report: RebuildReport,
}

impl<'a> Rebuild<'a> {
    pub(super) fn new(repository: &'a Repository, watch: &'a Watch) -> Self {
        let all = repository.catalog().all();
        let existing = (all.len() + repository.catalog().unreadable().len()) as u64;
        let stays = |record: &&Arc<BackupRecord>| {
            let is_going = matches!(record.status, BackupStatus::Deleting | BackupStatus::ErrorDeleting);
            record.manifest.is_some() && !is_going
        };
        let known = all.iter().filter(stays).map(|record| (record.id, BackupRecord::clone(record))).collect();
        let report = RebuildReport { existing, ..RebuildReport::default() };
        Self { repository, watch, known, candidates: BTreeMap::new(), report }
    }

    /// Finds the manifests of backups without a readable record.
    fn find(&mut self) -> Result<(), CheckError> {
        let all = self.repository.catalog().all();
        let named: BTreeSet<ManifestId> = all
            .iter()
            .flat_map(|record| {
                record.manifest.iter().map(|manifest| manifest.id).chain(record.retired_manifests.clone())
            })
            .collect();
        let with_record: BTreeSet<BackupId> = all.iter().map(|record| record.id).collect();
        let unreadable = self.repository.catalog().unreadable();
        for id in &unreadable {
            let why = "it is a record that cannot be read, and stays; `amberfs repo check --repair` puts a good one in its place";
            self.report.unreadable.push((ObjectName::Record(*id).to_string(), why.to_owned()));
        }
        let mut listed = self.repository.objects().list(ObjectKind::Manifest)?;
        listed.sort_by_key(|entry| entry.name);
        let total = listed.len() as u64;
        for (done, ObjectEntry { name, .. }) in listed.into_iter().enumerate() {
            self.watch.checkpoint()?;
            self.watch.tell("manifests", done as u64, total);
            let ObjectName::Manifest(id) = name else { continue };
            if named.contains(&id) {
                continue;
            }
            match self.read(id) {
                Ok(candidate) if with_record.contains(&candidate.about.id) => self.report.passed_over += 1,
                Ok(candidate) if unreadable.contains(&candidate.about.id) => {}
                Ok(candidate) => self.candidates.entry(candidate.about.id).or_default().push(candidate),
                Err(StoreError::Object(ObjectError::Missing { .. })) => {}
                Err(error) => self.report.unreadable.push((name.to_string(), sentence(&error))),
            }
        }
        Ok(())
    }

    fn read(&self, id: ManifestId) -> Result<Candidate, StoreError> {
        let cache = Arc::new(PageCache::new(PAGE_CACHE_BYTES));
        let objects = Arc::clone(self.repository.objects());
        let (reader, reference) = ManifestReader::open_unreferenced(objects, cache, id)?;
        let name = ObjectName::Manifest(id);
        let about = BackupRecord::decode(&reader.about()?);
        let about = about.map_err(|source| StoreError::Format { name, source })?;
        if about.size_bytes != reader.size_bytes() {
            let why = "the record in it is of an image of another size".to_owned();
            return Err(StoreError::ManifestCorrupt { id, why });
        }
        Ok(Candidate { reference, about })
    }

    /// Decides backup by backup, parents first.
    fn choose(&mut self, dry_run: bool) -> Result<(), CheckError> {
        let mut waiting: Vec<(BackupId, Vec<Candidate>)> =
            std::mem::take(&mut self.candidates).into_iter().collect();
        // So that parents usually come first.
        waiting.sort_by_key(|(id, candidates)| {
            (candidates.iter().map(|candidate| candidate.about.data_timestamp).min(), *id)
        });
        while !waiting.is_empty() {
            let ids: BTreeSet<BackupId> = waiting.iter().map(|(id, _)| *id).collect();
            let mut later = Vec::new();
            let count = waiting.len();
            let mut decided: BTreeSet<BackupId> = BTreeSet::new();
            for (id, candidates) in waiting {
                self.watch.checkpoint()?;
                let waits = candidates.iter().any(|candidate| {
                    let parent = candidate.about.parent_id;
                    parent.is_some_and(|parent| ids.contains(&parent) && !decided.contains(&parent))
                });
                if waits {
                    later.push((id, candidates));
                    continue;
                }
                decided.insert(id);
                self.decide(candidates, dry_run)?;
            }
            if later.len() == count {
                // They lean on each other in a circle, which no backup of ours does.
                for (_, candidates) in later {
                    self.leave_out(&candidates, "it leans on itself".to_owned());
                }
                break;
            }
            waiting = later;
        }
        Ok(())
    }

    fn decide(&mut self, candidates: Vec<Candidate>, dry_run: bool) -> Result<(), CheckError> {
        match self.best(&candidates)? {
            Ok(record) => {
                self.known.insert(record.id, record.clone());
                if !dry_run {
                    self.repository.catalog().insert(record.clone())?;
                }
                self.report.backups.push(RebuiltBackup { record, left_out: None });
            }
            Err(why) => self.leave_out(&candidates, why),
        }
        Ok(())
    }

    fn leave_out(&mut self, candidates: &[Candidate], why: String) {
        let Some(candidate) = candidates.first() else { return };
        let record = candidate.about.clone();
        self.report.backups.push(RebuiltBackup { record, left_out: Some(why) });
    }

    /// Returns the record of the one manifest that can be taken, or why there is none.
    fn best(&self, candidates: &[Candidate]) -> Result<Result<BackupRecord, String>, CheckError> {
        let (mut complete, mut reasons) = (Vec::new(), Vec::new());
        for candidate in candidates {
            match self.image(candidate)? {
                Ok(image) => complete.push((candidate, image)),
                Err(why) => reasons.push(why),
            }
        }
        complete.sort_by_key(|(candidate, _)| {
            (!candidate.is_flattened(), std::cmp::Reverse(candidate.about.updated_at), candidate.reference.id)
        });
        let Some(((candidate, image), others)) = complete.split_first() else {
            reasons.truncate(REASONS_MAX);
            return Ok(Err(reasons.join("; ")));
        };
        for (other, other_image) in others {
            if let Some(range) = first_difference(image, other_image, self.watch)? {
                return Ok(Err(format!(
                    "{} and {} say different things of {range}, and nothing tells which is right; move the wrong one out of the repository",
                    ObjectName::Manifest(candidate.reference.id),
                    ObjectName::Manifest(other.reference.id)
                )));
            }
        }
        let allocated = image.allocated_bytes(ByteRange::new(0, image.size_bytes()));
        Ok(allocated.map(|bytes| record_of(candidate, bytes)).map_err(|error| sentence(&*error)))
    }

    /// Opens the image of a manifest; says why when not all of its data is there.
    fn image(&self, candidate: &Candidate) -> Result<Result<Image, String>, CheckError> {
        let chain = match self.chain(candidate) {
            Ok(chain) => chain,
            Err(why) => return Ok(Err(why)),
        };
        let image = match self.repository.open_image(&chain) {
            Ok(image) => image,
            Err(error) => return Ok(Err(sentence(&error))),
        };
        Ok(match self.first_missing(&image)? {
            None => Ok(image),
            Some(why) => Err(why),
        })
    }

    fn chain(&self, candidate: &Candidate) -> Result<Vec<ManifestReference>, String> {
        let mut chain = vec![candidate.reference.clone()];
        let mut parent = candidate.about.parent_id;
        while let Some(id) = parent {
            if chain.len() >= CHAIN_LENGTH_MAX {
                return Err(format!("its chain is longer than {CHAIN_LENGTH_MAX} backups, or a circle"));
            }
            let record = self.known.get(&id).ok_or_else(|| {
                format!("it leans on backup {id}, of which there is no whole image: its manifest or a part of its data is missing")
            })?;
            chain.extend(record.manifest.clone());
            parent = record.parent_id;
        }
        Ok(chain)
    }

    /// Looks up every chunk that the image needs.
    fn first_missing(&self, image: &Image) -> Result<Option<String>, CheckError> {
        let store = self.repository.store();
        let mut last = None;
        for piece in ByteRange::new(0, image.size_bytes()).split_on_grid(STEP_BYTES) {
            self.watch.checkpoint()?;
            let mut chunks = Vec::new();
            let resolved = image.segments(piece, |segment| {
                if let Target::Chunk { id, .. } = segment.target {
                    chunks.push((segment.range, id));
                }
            });
            if let Err(error) = resolved {
                return Ok(Some(sentence(&*error)));
            }
            for (range, id) in chunks {
                if last != Some(id) && !store.is_there(id)? {
                    return Ok(Some(format!("chunk {id}, for {range}, is in no pack")));
                }
                last = Some(id);
            }
        }
        Ok(None)
    }

    /// Returns the record of a backup whose own cannot be read, from its manifest, when all of its data is there.
    pub(super) fn record_again(&self, manifests: &[ManifestId]) -> Result<Option<BackupRecord>, CheckError> {
        let candidates: Vec<Candidate> = manifests.iter().filter_map(|id| self.read(*id).ok()).collect();
        Ok(self.best(&candidates)?.ok())
    }
}

/// Returns the record as it was when the backup became available, as far as its manifest tells.
fn record_of(candidate: &Candidate, allocated_bytes: u64) -> BackupRecord {
    let about = candidate.about.clone();
    let old_length = about.manifest.as_ref().map_or(0, |old| old.length);
    BackupRecord {
        status: BackupStatus::Available,
        fail_reason: None,
        restore_target: None,
        image_sha256: None,
        last_verified_at: None,
        retired_manifests: Vec::new(),
        allocated_bytes,
        stored_bytes: (about.stored_bytes + candidate.reference.length).saturating_sub(old_length),
        // A record and a manifest at least: how many packs there were, the manifest does not say.
        object_count: about.object_count.max(2),
        manifest: Some(candidate.reference.clone()),
        updated_at: clock::now(),
        ..about
    }
}

fn first_difference(one: &Image, other: &Image, watch: &Watch) -> Result<Option<ByteRange>, CheckError> {
    if one.size_bytes() != other.size_bytes() {
        return Ok(Some(ByteRange::between(0, one.size_bytes().max(other.size_bytes()))));
    }
    for piece in ByteRange::new(0, one.size_bytes()).split_on_grid(STEP_BYTES) {
        watch.checkpoint()?;
        let (first, second) = (one.joined_segments(piece), other.joined_segments(piece));
        if first.ok() != second.ok() {
            return Ok(Some(piece));
        }
    }
    Ok(None)
}
