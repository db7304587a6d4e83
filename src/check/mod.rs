//! Looks at a whole repository: which backups are hurt, where, and by what; repairs it, and makes records anew.
//!
//! A check believes nothing but the objects: it reads every pack into an index of its own, walks over all manifests
//! against that, and resolves the chains of those backups that anything is missing for. Its memory is bounded
//! by the numbers of packs, manifests and records, not by that of chunks. It takes no lock: a daemon may go on
//! meanwhile, and what it deletes or collects beside the check is no damage.

mod backups;
mod error;
mod manifests;
mod packs;
mod rebuild;
mod repair;
mod report;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use error::CheckError;
pub use rebuild::{RebuildReport, RebuiltBackup, rebuild};
pub use repair::{RepairReport, Repaired, repair};
pub use report::{CheckCounts, CheckReport, DamagedObject, DamagedPlace, HurtBackup, Stray};
pub use watch::{Tell, Watch};

use backups::Records;
use manifests::{Manifests, Wants};
use packs::Packs;

use crate::objects::{ObjectName, ObjectStore};
use crate::repository::{Location, ObjectsAndIndex, Repository, RepositoryOptions};
pub use crate::store::Depth;
use crate::store::remember_damage;
use crate::types::{ByteRange, ManifestId};

/// So many files that are no objects are listed.
const FOREIGN_MAX: usize = 1000;
/// So often a check looks again when what it looks at changes meanwhile.
const TURNS_MAX: usize = 5;

/// Checks the repository, and when nobody has it open for writing puts what is damaged into the memory of the next
/// daemon. Returns whether that could be done.
pub fn check_and_remember(
    location: &Location,
    options: &RepositoryOptions,
    depth: Depth,
    watch: &Watch,
) -> Result<(CheckReport, bool), CheckError> {
    let mut checker = Checker::open(location, options, depth)?;
    let report = checker.run(watch, &mut |_, _| {})?;
    let found = checker.packs.found_damage();
    // Chunks that were not read say nothing of what was known before.
    let is_remembered = depth == Depth::Everything
        && Repository::while_unused(location, options, |folder| remember_damage(folder, &found))?.is_some();
    Ok((report, is_remembered))
}

fn open_for_writing(location: &Location, options: &RepositoryOptions) -> Result<Repository, CheckError> {
    let repository = Repository::open(location, options)?;
    if repository.is_read_only() {
        return Err(CheckError::InUse { location: location.to_string() });
    }
    Ok(repository)
}

/// A repository that is being checked, once or again after a repair.
struct Checker {
    location: Location,
    options: RepositoryOptions,
    objects: Arc<dyn ObjectStore>,
    packs: Packs,
    manifests: Manifests,
    records: Records,
}

impl Checker {
    fn open(location: &Location, options: &RepositoryOptions, depth: Depth) -> Result<Self, CheckError> {
        let opened = Repository::open_objects(location, options.cache_bytes / 2)?;
        Ok(Self::over(opened, location, options, depth))
    }

    /// Checks the objects that somebody else has open, who may replace some of them: whoever reads by another way may
    /// have the old ones open still.
    fn open_with(
        objects: &Arc<dyn ObjectStore>,
        location: &Location,
        options: &RepositoryOptions,
        depth: Depth,
    ) -> Result<Self, CheckError> {
        let opened = Repository::open_objects(location, options.cache_bytes / 2)?;
        let opened = ObjectsAndIndex { objects: Arc::clone(objects), ..opened };
        Ok(Self::over(opened, location, options, depth))
    }

    fn over(opened: ObjectsAndIndex, location: &Location, options: &RepositoryOptions, depth: Depth) -> Self {
        let objects = Arc::clone(&opened.objects);
        Self {
            location: location.clone(),
            options: options.clone(),
            packs: Packs::new(opened, depth),
            manifests: Manifests::new(Arc::clone(&objects)),
            records: Records::default(),
            objects,
        }
    }

    /// Looks until nothing changes beside us that could be taken for damage.
    fn run(&mut self, watch: &Watch, wants: &mut Wants<'_>) -> Result<CheckReport, CheckError> {
        let mut report = self.look(watch, wants)?;
        for _ in 1..TURNS_MAX {
            if report.hurt.is_empty() || !self.has_changed()? {
                break;
            }
            report = self.look(watch, wants)?;
        }
        Ok(report)
    }

    fn has_changed(&self) -> Result<bool, CheckError> {
        let now = Records::read(self.objects.as_ref())?;
        Ok(now.readable != self.records.readable || self.packs.has_changed()?)
    }

    fn look(&mut self, watch: &Watch, wants: &mut Wants<'_>) -> Result<CheckReport, CheckError> {
        // In this order: what a manifest names was there before the manifest, and that before its record.
        let mut listed = self.manifests.list()?;
        self.records = Records::read(self.objects.as_ref())?;
        let named = self.records.with_data().filter_map(|record| record.manifest.as_ref());
        listed.extend(named.map(|manifest| (manifest.id, manifest.length)));
        self.packs.read_new(watch)?;
        let named = self.records.named_manifests();
        self.manifests.read(&listed, &named, &mut self.packs, watch, wants)?;
        self.report(watch)
    }

    fn report(&mut self, watch: &Watch) -> Result<CheckReport, CheckError> {
        let mut report = CheckReport::default();
        let mut damaged = Damaged::default();
        for (done, record) in self.records.with_data().enumerate() {
            watch.tell("backups", done as u64, self.records.readable.len() as u64);
            report.counts.backups += 1;
            match backups::examine(record, &self.records, &self.manifests, &mut self.packs, watch)? {
                Some(hurt) => report.hurt.push(hurt),
                None => report.whole.push(record.id),
            }
        }
        self.add_manifests(&mut report, &mut damaged);
        self.add_records(&mut report, &mut damaged);
        self.add_packs(&mut report, &mut damaged);
        for file in Repository::foreign_files(&self.location, &self.options, FOREIGN_MAX)? {
            let (path, why) =
                (file.path.display().to_string(), "it is no object of the repository".to_owned());
            report.strays.push(Stray { path, bytes: file.length, why });
        }
        report.counts.records = (self.records.readable.len() + self.records.unreadable.len()) as u64;
        report.hurt.sort_by_key(|hurt| (hurt.data_timestamp, hurt.id));
        report.damaged = damaged.objects.into_values().collect();
        Ok(report)
    }

    fn add_manifests(&self, report: &mut CheckReport, damaged: &mut Damaged) {
        report.counts.manifests = self.manifests.known.len() as u64;
        for state in self.manifests.known.values() {
            if let Some(object) = &state.object {
                damaged.put(object);
            }
        }
        for record in self.records.with_data() {
            let Some(manifest) = &record.manifest else { continue };
            let known = self.manifests.known.get(&manifest.id);
            let reference = known.map(|state| &state.reference);
            let why = match reference {
                None => format!("it is missing; backup {} needs it", record.id),
                Some(Some(reference)) if reference != manifest => {
                    format!("it is not the one that the record of backup {} names", record.id)
                }
                Some(_) => continue,
            };
            damaged.add(ObjectName::Manifest(manifest.id), why);
        }
        let named = self.records.named_manifests();
        for (id, state) in &self.manifests.known {
            if !named.contains(id) && state.reference.is_some() {
                self.add_unnamed(*id, state, report);
            }
        }
    }

    /// A manifest that no record names: its record is lost, or it never became one of a backup's.
    fn add_unnamed(&self, id: ManifestId, state: &manifests::ManifestState, report: &mut CheckReport) {
        let Some(about) = &state.about else { return };
        if self.records.readable.contains_key(&about.id) {
            let why = format!("no record names it; backup {} has another one, or needs none", about.id);
            let path = ObjectName::Manifest(id).to_string();
            report.strays.push(Stray { path, bytes: state.length, why });
            return;
        }
        if report.hurt.iter().any(|hurt| hurt.id == about.id) {
            return;
        }
        let mut hurt = backups::unhurt(about);
        hurt.add(ByteRange::new(0, about.size_bytes));
        hurt.because(|| match self.records.unreadable.contains_key(&about.id) {
            true => "its record cannot be read".to_owned(),
            false => "its record is missing; `amberfs repo rebuild` writes it again".to_owned(),
        });
        report.hurt.push(hurt);
    }

    fn add_records(&self, report: &mut CheckReport, damaged: &mut Damaged) {
        for (id, why) in &self.records.unreadable {
            damaged.add(ObjectName::Record(*id), why.clone());
            if !report.hurt.iter().any(|hurt| hurt.id == *id) {
                report.hurt.push(HurtBackup {
                    id: *id,
                    name: None,
                    volume: None,
                    data_timestamp: None,
                    size_bytes: 0,
                    hurt_bytes: 0,
                    ranges: Vec::new(),
                    ranges_left_out: 0,
                    why: vec!["its record cannot be read".to_owned()],
                });
            }
        }
        for record in self.records.with_data() {
            if let Some(parent) = record.parent_id.filter(|parent| !self.records.has(*parent)) {
                damaged.add(
                    ObjectName::Record(parent),
                    format!("it is missing; backup {} leans on it", record.id),
                );
            }
        }
    }

    fn add_packs(&self, report: &mut CheckReport, damaged: &mut Damaged) {
        for (id, pack) in &self.packs.known {
            report.counts.packs += 1;
            report.counts.pack_bytes += pack.length;
            report.counts.chunks += pack.chunk_count;
            if let Some(damage) = &pack.damage {
                damaged.put(&damage.object);
            }
            // What is in a pack that cannot be listed is not known.
            if pack.is_used || pack.damage.as_ref().is_some_and(|damage| damage.is_unlisted) {
                continue;
            }
            report.unused_packs += 1;
            report.unused_bytes += pack.length;
            if report.unused_packs <= FOREIGN_MAX as u64 {
                let path = ObjectName::Pack(*id).to_string();
                let why = "no manifest needs anything in it; `amberfs repo gc` removes it".to_owned();
                report.strays.push(Stray { path, bytes: pack.length, why });
            }
        }
    }
}

/// Damaged objects by their paths, each once.
#[derive(Default)]
struct Damaged {
    objects: BTreeMap<String, DamagedObject>,
}

impl Damaged {
    fn put(&mut self, object: &DamagedObject) {
        self.objects.insert(object.path.clone(), object.clone());
    }

    fn add(&mut self, name: ObjectName, why: String) {
        let path = name.to_string();
        self.objects.entry(path.clone()).or_insert_with(|| DamagedObject::new(path)).add(None, why);
    }
}
