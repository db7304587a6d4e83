//! Which cases there are, and how one is run.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering;

use crate::check::{Expected, Seen, settle};
use crate::operations::{self, Change, Command, Model, Plan, Preparing};
use crate::support::bytes::Numbers;
use crate::support::engine::incremental;
use crate::support::faultfs::{Disk, Fault, Step, StepKind, Survival};
use crate::support::file_system::{self, Folder, Kind};
use crate::world::{Life, Places, Told, World};

/// The cut of a start comes at one of so many steps, or behind it.
const START_STEPS: u64 = 40;

/// Where volumes and index are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// Repository and volumes fault, and the index is safe.
    Volumes,
    /// The index faults too.
    Index,
    /// The volumes are on a file system that has snapshots, and is safe: a backup goes on after a kill.
    Snapshots,
}

/// An operation with the world that it begins in.
struct Prepared {
    layout: Layout,
    disk: Disk,
    model: Model,
    plan: Plan,
    /// For volumes elsewhere: a folder for each case in here.
    folder: Option<Folder>,
}

#[derive(Clone, Copy)]
struct Case {
    at: usize,
    fault: Fault,
    survival: Survival,
    /// The start behind it is cut too, at this step.
    then_at: Option<usize>,
}

/// A backup that was taken, and its bytes.
type TakenBackup = (amberfs::types::BackupId, Vec<u8>);

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {:?}", self.at, self.fault, self.survival)?;
        self.then_at.map_or(Ok(()), |at| write!(f, " and the start at {at}"))
    }
}

impl Prepared {
    fn new(layout: Layout, prepare: fn(&mut Preparing<'_>) -> Plan) -> Self {
        let folder = (layout == Layout::Snapshots).then(|| file_system::folder(Kind::Xfs));
        let places = places(layout, folder.as_ref(), 0);
        let world = World::mount(Disk::new(), &places);
        world.found();
        let life = world.start().unwrap();
        let mut preparing = Preparing { world: &world, life, model: Model::default() };
        preparing.begin();
        let plan = prepare(&mut preparing);
        let Preparing { life, model, .. } = preparing;
        life.end();
        let disk = world.fs.disk_after(Survival::Everything);
        Self { layout, disk, model, plan, folder }
    }

    fn begin(&self, number: usize) -> (Places, World) {
        let places = places(self.layout, self.folder.as_ref(), number + 1);
        let world = World::mount(self.disk.clone(), &places);
        if self.layout == Layout::Snapshots {
            self.model.volumes.iter().for_each(|(name, bytes)| world.fill(name, bytes));
        }
        (places, world)
    }

    /// The steps of a run without faults.
    fn steps(&self) -> Vec<Step> {
        let (_places, world) = self.begin(0);
        let life = world.start().unwrap();
        world.fs.arm(None);
        let told = run(&life, &world, &self.plan.command);
        assert_eq!(told, Told::Done);
        let steps = world.fs.steps();
        let expected = self.expected(&told, false);
        settle(&world, &life, &expected).unwrap();
        life.end();
        steps
    }

    fn expected<'a>(&'a self, told: &'a Told, restarted: bool) -> Expected<'a> {
        Expected { model: &self.model, changes: &self.plan.changes, told, restarted }
    }

    /// Runs a case to its end: the fault, the life behind it, a restart, and a power cut.
    fn run(&self, number: usize, case: Case) -> Result<(), String> {
        let (places, world) = self.begin(number + 1);
        let life = world.start().map_err(|error| format!("the first start: {error}"))?;
        world.fs.arm(Some((case.at, case.fault)));
        self.plan.accepted.store(false, Ordering::SeqCst);
        let mut told = run(&life, &world, &self.plan.command);
        if told == Told::Nothing && self.plan.accepted.load(Ordering::SeqCst) {
            told = Told::Accepted;
        }
        let steps = world.fs.steps();
        let at_first = told.clone();
        let in_case =
            |error: String| format!("{error}\n    told {at_first:?}\n{}", told_steps(&steps, case.at));
        world.fs.arm(None);
        let mut model = self.model.clone();
        let (mut seen, mut next) = (None, None);
        if !world.fs.is_cut() {
            let expected = self.expected(&told, false);
            let looked = settle(&world, &life, &expected)
                .map_err(|error| in_case(format!("behind the fault: {error}")))?;
            // Of the others it is seen whether what failed comes true at the next start.
            let again = (case.survival == Survival::SyncedOnly)
                .then(|| self.try_again(&world, &life, &told, &looked))
                .flatten();
            let looked = match again {
                None => looked,
                Some(again) => {
                    told = Told::Done;
                    again.map_err(|error| in_case(format!("the same again: {error}")))?
                }
            };
            let id = next_backup(&life, &mut model)
                .map_err(|error| in_case(format!("the next backup: {error}")))?;
            (seen, next) = (Some(looked), Some(id));
            world.fs.cut();
        }
        life.end();
        let mut disk = world.fs.disk_after(case.survival);
        if let Some(at) = case.then_at {
            disk = cut_start(disk, &places, at, case.survival);
        }
        let world = World::mount(disk, &places);
        let mut seen = self
            .look_again(&world, &model, &told, seen.as_ref(), next.is_none())
            .map_err(|error| in_case(format!("after the start: {error}")))?;
        if let Some((id, bytes)) = seen.1.take() {
            model.backups.insert(id, bytes);
            seen.0.add(id);
        }
        world.fs.cut();
        let world = World::mount(world.fs.disk_after(Survival::SyncedOnly), &places);
        self.look_again(&world, &model, &told, Some(&seen.0), false)
            .map_err(|error| in_case(format!("after the power cut behind it: {error}")))?;
        Ok(())
    }

    /// What failed is done when it is said again and nothing faults.
    fn try_again(
        &self,
        world: &World,
        life: &Life,
        told: &Told,
        seen: &Seen,
    ) -> Option<Result<Seen, String>> {
        if !matches!(told, Told::Failed(_) | Told::Refused(_)) || self.is_backup() || seen.all_happened() {
            return None;
        }
        let again = run(life, world, &self.plan.command);
        Some(match again {
            Told::Done => settle(world, life, &self.expected(&again, false)),
            told => Err(format!("{told:?}")),
        })
    }

    /// Another one is taken in any case.
    fn is_backup(&self) -> bool {
        self.plan.changes.iter().any(|change| matches!(change, Change::NewBackup(_)))
    }

    /// Starts again and looks; takes the next backup when none was taken before.
    fn look_again(
        &self,
        world: &World,
        model: &Model,
        told: &Told,
        before: Option<&Seen>,
        takes_next: bool,
    ) -> Result<(Seen, Option<TakenBackup>), String> {
        let life = world.start()?;
        if life.operations.repository().is_read_only() {
            return Err("the repository opens for reading only".to_owned());
        }
        let expected = Expected { model, changes: &self.plan.changes, told, restarted: true };
        let looked = settle(world, &life, &expected);
        let mut next = None;
        let result = looked.and_then(|seen| {
            if let Some(before) = before {
                let mut before = before.clone();
                model
                    .backups
                    .keys()
                    .filter(|id| !self.model.backups.contains_key(id))
                    .for_each(|id| before.add(*id));
                before.check_kept(&seen)?;
            }
            if takes_next {
                let mut model = model.clone();
                let id =
                    next_backup(&life, &mut model).map_err(|error| format!("the next backup: {error}"))?;
                next = Some((id, model.backups[&id].clone()));
            }
            Ok(seen)
        });
        world.fs.cut();
        life.end();
        Ok((result?, next))
    }
}

fn places(layout: Layout, folder: Option<&Folder>, number: usize) -> Places {
    // In memory, where there is such a place: nothing of it is what is tested.
    let index = || tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let volumes = folder.map(|folder| {
        let path = folder.path().join(number.to_string());
        std::fs::create_dir(&path).unwrap();
        path
    });
    Places { index: (layout != Layout::Index).then(index), volumes }
}

/// Starts, and cuts that: at a step of it, or when all has settled that was under way.
fn cut_start(disk: Disk, places: &Places, at: usize, survival: Survival) -> Disk {
    let world = World::mount(disk, places);
    world.fs.arm(Some((at, Fault::Cut)));
    if let Ok(life) = world.start() {
        life.wait_until_settled(&world);
        world.fs.cut();
        life.end();
    }
    world.fs.disk_after(survival)
}

fn run(life: &Life, world: &World, command: &Command) -> Told {
    let command = std::sync::Arc::clone(command);
    life.run(world, move |operations| command(operations))
}

/// The next backup works, and the model has it from then on.
fn next_backup(life: &Life, model: &mut Model) -> Result<amberfs::types::BackupId, String> {
    let id = life.backup(incremental("v"))?;
    model.backups.insert(id, model.volumes["v"].clone());
    Ok(id)
}

/// The steps around the one that was cut.
fn told_steps(steps: &[Step], at: usize) -> String {
    let first = at.saturating_sub(12);
    let steps = steps.iter().enumerate().skip(first).take(20);
    let line = |(number, step): (usize, &Step)| {
        format!("    {}{number} {}", if number == at { "> " } else { "  " }, step.what)
    };
    steps.map(line).collect::<Vec<_>>().join("\n")
}

/// The faults that can happen at a step, each with what the start behind it finds.
fn cases_at(at: usize, kind: StepKind, numbers: &mut Numbers) -> Vec<Case> {
    let seed = numbers.next();
    let cuts = [
        Survival::Everything,
        Survival::SyncedOnly,
        Survival::NamesWithoutData { seed },
        Survival::Torn { seed },
    ];
    let mut cases: Vec<_> =
        cuts.map(|survival| Case { at, fault: Fault::Cut, survival, then_at: None }).to_vec();
    let then_at = usize::try_from(numbers.below(START_STEPS)).unwrap();
    for survival in [Survival::Everything, Survival::SyncedOnly] {
        cases.push(Case { at, fault: Fault::Cut, survival, then_at: Some(then_at) });
    }
    let mut faults = vec![Fault::Eio];
    match kind {
        StepKind::Write => faults.extend([Fault::Enospc, Fault::TornWrite]),
        StepKind::Create | StepKind::MakeFolder | StepKind::Rename | StepKind::SetSize => {
            faults.push(Fault::Enospc)
        }
        StepKind::Sync => faults.push(Fault::SyncFailed),
        StepKind::Remove | StepKind::SyncFolder | StepKind::Attribute => {}
    }
    for fault in faults {
        for survival in [Survival::Everything, Survival::SyncedOnly] {
            cases.push(Case { at, fault, survival, then_at: None });
        }
    }
    cases
}

/// Cuts an operation at every step.
fn cut(name: &str, layout: Layout, prepare: fn(&mut Preparing<'_>) -> Plan) {
    quieten_sled();
    let began = std::time::Instant::now();
    let prepared = Prepared::new(layout, prepare);
    let steps = prepared.steps();
    let mut numbers = Numbers::new(20_261_121);
    let mut cases = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        cases.extend(cases_at(at, step.kind, &mut numbers));
    }
    let possible = cases.len();
    cases = chosen(name, cases, &mut numbers);
    let mut kinds = BTreeMap::<String, usize>::new();
    let mut failures = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        *kinds.entry(format!("{:?}", case.fault)).or_default() += 1;
        if let Err(error) = prepared.run(number, *case) {
            failures.push(format!("AMBERFS_FAULT_CASE=\"{name} {case}\": {error}"));
        }
        if failures.len() >= 5 {
            break;
        }
    }
    let (steps, cases) = (steps.len(), cases.len());
    eprintln!(
        "{name}: {steps} steps cut, {cases} of {possible} cases in {:.1} s {kinds:?}",
        began.elapsed().as_secs_f64()
    );
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

/// sled panics when the disk under it dies, which the index catches: that is nothing to be told a hundred times.
fn quieten_sled() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let is_of_sled = panic.location().is_some_and(|location| location.file().contains("sled-0."));
            if !is_of_sled {
                tell(panic);
            }
        }));
    });
}

/// All of them, or those that one run has the time for: a kill and a power cut at each step, each sync that
/// fails, and of the others some.
fn chosen(name: &str, cases: Vec<Case>, numbers: &mut Numbers) -> Vec<Case> {
    if let Ok(wanted) = std::env::var("AMBERFS_FAULT_CASE") {
        let wanted_case = |case: &Case| format!("{name} {case}").starts_with(&wanted);
        return cases.into_iter().filter(wanted_case).collect();
    }
    if std::env::var("AMBERFS_FAULT_CASES").is_ok_and(|wanted| wanted == "all") {
        return cases;
    }
    let is_always = |case: &Case| {
        let is_plain = matches!(case.survival, Survival::Everything | Survival::SyncedOnly);
        case.fault == Fault::SyncFailed || (case.fault == Fault::Cut && is_plain && case.then_at.is_none())
    };
    cases.into_iter().filter(|case| is_always(case) || numbers.below(3) == 0).collect()
}

#[test]
fn a_full_backup_is_cut_at_every_step() {
    cut("full backup", Layout::Volumes, operations::full_backup);
}

#[test]
fn a_backup_with_its_index_is_cut_at_every_step() {
    cut("backup and index", Layout::Index, operations::backup_and_index);
}

#[test]
fn a_backup_of_a_snapshot_that_goes_on_is_cut_at_every_step() {
    cut("backup with a snapshot", Layout::Snapshots, operations::incremental_backup);
}

#[test]
fn an_incremental_backup_is_cut_at_every_step() {
    cut("incremental backup", Layout::Volumes, operations::incremental_backup);
}

#[test]
fn a_restore_to_a_new_volume_is_cut_at_every_step() {
    cut("restore", Layout::Volumes, operations::restore_to_a_new_volume);
}

#[test]
fn a_restore_over_a_volume_is_cut_at_every_step() {
    cut("restore over", Layout::Volumes, operations::restore_over_a_volume);
}

#[test]
fn a_delete_is_cut_at_every_step() {
    cut("delete", Layout::Volumes, operations::delete);
}

#[test]
fn a_delete_of_a_chain_is_cut_at_every_step() {
    cut("delete of a chain", Layout::Volumes, operations::delete_of_a_chain);
}

#[test]
fn a_forced_delete_of_a_backup_that_is_being_restored_is_cut_at_every_step() {
    cut("forced delete", Layout::Volumes, operations::delete_while_restoring);
}

#[test]
fn a_flatten_is_cut_at_every_step() {
    cut("flatten", Layout::Volumes, operations::flatten);
}

#[test]
fn an_import_is_cut_at_every_step() {
    cut("import", Layout::Volumes, operations::import);
}

#[test]
fn a_reset_to_error_is_cut_at_every_step() {
    cut("reset to error", Layout::Volumes, operations::reset_to_error);
}

#[test]
fn a_reset_to_available_is_cut_at_every_step() {
    cut("reset to available", Layout::Volumes, operations::reset_to_available);
}

#[test]
fn a_garbage_collection_is_cut_at_every_step() {
    cut("garbage collection", Layout::Volumes, operations::collect_garbage);
}
