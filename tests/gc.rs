//! Garbage collection: what goes, what stays, and that nobody who reads or writes meanwhile is hurt.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a failed expectation is a failed test, and volumes are plain files"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use amberfs::catalog::BackupStatus;
use amberfs::format::codec::Compression;
use amberfs::format::pack::{PackEntry, PackTail, TAIL_LENGTH, decode_footer};
use amberfs::jobs::{JobReport, JobState};
use amberfs::operations::{DeleteRequest, GcRequest, REWRITE_BELOW_PERCENT, Requester};
use amberfs::repository::{Location, Repository, RepositoryOptions};
use amberfs::source::Source;
use amberfs::source::dir::DirSource;
use amberfs::types::{BackupId, ByteSize, ChunkId, RefusalKind};

use support::bytes::{Numbers, pattern};
use support::engine::{Engine, full, incremental};
use support::gated::GatedSource;
use support::tree;

const CHUNK: usize = 64 << 10;
const OPERATOR: &Requester = &Requester::OPERATOR;

struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("volumes")).unwrap();
        Self { folder }
    }

    fn open(&self) -> Engine {
        self.open_with_memory(256 << 20)
    }

    fn open_with_memory(&self, memory_bytes: u64) -> Engine {
        let source = DirSource::open("local".parse().unwrap(), self.folder.path().join("volumes")).unwrap();
        let sources = vec![Arc::new(source) as Arc<dyn Source>];
        Engine::open_with(&self.repository(), sources, 15, |options| options.memory_bytes = memory_bytes)
    }

    fn repository(&self) -> PathBuf {
        self.folder.path().join("repository")
    }

    /// Writes a volume that has these chunks.
    fn write(&self, volume: &str, chunks: &[u64]) -> Vec<u8> {
        let bytes: Vec<u8> = chunks.iter().flat_map(|seed| pattern(*seed, CHUNK)).collect();
        std::fs::write(self.folder.path().join(format!("volumes/{volume}.raw")), &bytes).unwrap();
        bytes
    }

    fn objects(&self, kind: &str) -> BTreeMap<String, Vec<u8>> {
        tree::files(&self.repository().join(kind))
    }

    fn packs(&self) -> BTreeSet<String> {
        self.objects("packs").into_keys().collect()
    }

    fn pack_bytes(&self) -> u64 {
        self.objects("packs").values().map(|pack| pack.len() as u64).sum()
    }

    fn pack_path(&self, pack: &str) -> PathBuf {
        self.repository().join("packs").join(pack)
    }
}

fn gc(engine: &Engine, request: GcRequest) -> JobReport {
    let job = engine.operations.gc(OPERATOR, request).unwrap();
    engine.operations.jobs().wait(job).unwrap()
}

const COLLECT: GcRequest = GcRequest { dry_run: false, rewrite_below_percent: REWRITE_BELOW_PERCENT };

/// Collects, and returns the numbers of its report.
fn collect(engine: &Engine, request: GcRequest) -> BTreeMap<String, u64> {
    let report = gc(engine, request);
    assert_eq!((report.state, &report.error), (JobState::Done, &None));
    let result = report.result.unwrap();
    let numbers = result.as_object().unwrap().iter();
    numbers.filter_map(|(name, value)| Some((name.clone(), value.as_u64()?))).collect()
}

fn delete(engine: &Engine, ids: &[BackupId]) {
    let requests: Vec<_> =
        ids.iter().map(|id| DeleteRequest { backup: id.to_string(), force: false }).collect();
    for accepted in engine.operations.delete(OPERATOR, &requests).unwrap() {
        assert_eq!(engine.operations.jobs().wait(accepted.job).unwrap().error, None);
    }
}

fn flatten(engine: &Engine, id: BackupId) {
    let accepted = engine.operations.flatten(OPERATOR, &id.to_string()).unwrap();
    assert_eq!(engine.operations.jobs().wait(accepted.job).unwrap().error, None);
}

fn footer(pack: &[u8]) -> Vec<PackEntry> {
    let tail_at = pack.len() - TAIL_LENGTH;
    let tail = PackTail::decode(pack[tail_at..].try_into().unwrap(), pack.len() as u64).unwrap();
    decode_footer(tail, &pack[usize::try_from(tail.chunks_end()).unwrap()..tail_at + TAIL_LENGTH]).unwrap()
}

#[test]
fn what_only_deleted_backups_needed_goes_and_everything_else_reads_back() {
    let world = World::new();
    let engine = world.open();
    world.write("gone", &[1, 2, 3, 4]);
    let gone = engine.backup(full("gone")).id;
    let packs_of_gone = world.packs();
    let bytes = world.write("kept", &[3, 10, 11]);
    let kept = engine.backup(full("kept")).id;
    let more = world.write("kept", &[3, 10, 12]);
    let child = engine.backup(incremental("kept")).id;
    assert_eq!(collect(&engine, COLLECT)["freed_bytes"], 0, "all of it is needed");
    let open_image = engine.operations.repository().image(gone).unwrap();
    delete(&engine, &[gone]);
    assert_eq!(collect(&engine, COLLECT)["freed_bytes"], 0, "an open image needs it still");
    drop(open_image);
    let before = world.pack_bytes();
    let dry = collect(&engine, GcRequest { dry_run: true, ..COLLECT });
    assert_eq!(world.pack_bytes(), before, "a dry run removes nothing");
    assert_eq!(dry["packs_rewritten"], 1, "chunk 3 of four is shared");
    let done = collect(&engine, COLLECT);
    assert_eq!((done["packs_rewritten"], done["packs_removed"]), (1, 0));
    assert_eq!(done["freed_bytes"], before - world.pack_bytes());
    assert!(done["freed_bytes"] > 3 * 50_000, "{done:?}");
    assert!(packs_of_gone.is_disjoint(&world.packs()));
    for engine in [engine, world.open()] {
        assert_eq!(engine.image(kept), bytes);
        assert_eq!(engine.image(child), more);
        engine.close();
    }
    std::fs::remove_dir_all(world.repository().join("index")).unwrap();
    let engine = world.open();
    assert_eq!((engine.image(kept), engine.image(child)), (bytes, more));
    delete(&engine, &[kept, child]);
    collect(&engine, COLLECT);
    assert_eq!((world.packs().len(), world.objects("manifests").len()), (0, 0));
    assert_eq!(engine.operations.repository().store().index_stats().chunk_count, 0);
}

/// The memory of a collection is a share of what all jobs may take: here what holds some 4,000 ids at once.
#[test]
fn little_memory_takes_longer_and_gives_the_same() {
    const SMALL_CHUNK: u64 = 4096;
    let world = World::new();
    Repository::create(&Location::Directory(world.repository()), ByteSize(SMALL_CHUNK)).unwrap();
    let engine = world.open();
    // 10,240 chunks, of which every tenth is needed in the end.
    let mut bytes = pattern(1, 40 << 20);
    std::fs::write(world.folder.path().join("volumes/v.raw"), &bytes).unwrap();
    let old = engine.backup(full("v")).id;
    for chunk in bytes.chunks_mut(SMALL_CHUNK as usize).enumerate().filter(|(number, _)| number % 10 != 0) {
        chunk.1.fill(7);
    }
    std::fs::write(world.folder.path().join("volumes/v.raw"), &bytes).unwrap();
    let new = engine.backup(incremental("v")).id;
    flatten(&engine, new);
    let all = collect(&engine, GcRequest { dry_run: true, ..COLLECT });
    assert_eq!(all["chunks_needed"], 10_241);
    engine.close();
    let engine = world.open_with_memory(64 << 10);
    let in_parts = collect(&engine, GcRequest { dry_run: true, ..COLLECT });
    assert_eq!(in_parts, all);
    delete(&engine, &[old]);
    let done = collect(&engine, COLLECT);
    assert_eq!((done["chunks_needed"], done["garbage_left_bytes"]), (1025, 0));
    assert!(done["packs_rewritten"] > 0, "{done:?}");
    assert!(engine.image(new) == bytes);
}

#[test]
fn a_running_backup_keeps_what_it_wrote_and_what_it_counts_on() {
    let world = World::new();
    let (source, gates) = GatedSource::open(&world.folder.path().join("volumes"));
    let engine = Engine::open(&world.repository(), vec![source]);
    let seeds: Vec<u64> = (0..128).collect();
    world.write("old", &seeds);
    let old = engine.backup(full("old")).id;
    delete(&engine, &[old]);
    // A thousand new chunks: a pack of them is published before the gate closes.
    let bytes = world.write("new", &[&seeds[..], &(1000..2000).collect::<Vec<u64>>()[..]].concat());
    gates.reads.close_after(13);
    let accepted = engine.operations.backup(OPERATOR, &full("new")).unwrap();
    gates.reads.wait_until_waiting(1);
    while world.packs().len() < 2 {
        thread::yield_now();
    }
    let during = collect(&engine, COLLECT);
    assert_eq!(during["packs_removed"] + during["packs_rewritten"], 0, "{during:?}");
    assert_eq!(during["packs_in_use"], 2);
    gates.reads.open();
    assert_eq!(engine.operations.jobs().wait(accepted.job).unwrap().error, None);
    collect(&engine, COLLECT);
    assert_eq!(engine.image(accepted.backup), bytes);
}

#[test]
fn what_a_cancelled_backup_left_goes() {
    let world = World::new();
    let (source, gates) = GatedSource::open(&world.folder.path().join("volumes"));
    let engine = Engine::open(&world.repository(), vec![source]);
    world.write("v", &(0..1000).collect::<Vec<u64>>());
    gates.reads.close_after(11);
    let accepted = engine.operations.backup(OPERATOR, &full("v")).unwrap();
    while world.packs().is_empty() {
        thread::yield_now();
    }
    engine.operations.cancel(OPERATOR, &accepted.job.to_string()).unwrap();
    gates.reads.open();
    assert_eq!(engine.operations.jobs().wait(accepted.job).unwrap().state, JobState::Cancelled);
    collect(&engine, COLLECT);
    assert_eq!((world.packs().len(), world.objects("manifests").len()), (0, 0));
}

#[test]
fn nothing_goes_while_a_manifest_cannot_be_read_or_a_record_is_lost() {
    let world = World::new();
    let engine = world.open();
    world.write("a", &[1, 2, 3]);
    world.write("b", &[4, 5, 6]);
    let (a, b) = (engine.backup(full("a")).id, engine.backup(full("b")).id);
    let bytes = engine.image(b);
    delete(&engine, &[a]);
    let record = engine.operations.repository().catalog().get(b).unwrap();
    let manifest = record.manifest.as_ref().unwrap().id.to_string();
    engine.close();

    let path = world.repository().join("manifests").join(&manifest);
    let whole = std::fs::read(&path).unwrap();
    for damaged in [whole.len() - 20, 30] {
        let mut bytes = whole.clone();
        bytes[damaged] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let engine = world.open();
        let packs = world.packs();
        let report = gc(&engine, COLLECT);
        let error = report.error.unwrap();
        assert!(error.sentence.contains(&manifest), "{error}");
        assert!(error.sentence.contains("amberfs repo check"), "{error}");
        assert_eq!(world.packs(), packs);
    }
    std::fs::remove_file(&path).unwrap();
    let engine = world.open();
    let packs = world.packs();
    let error = gc(&engine, COLLECT).error.unwrap();
    assert!(error.sentence.contains(&manifest), "{error}");
    assert_eq!(world.packs(), packs, "a lost manifest may come back");
    engine.close();
    std::fs::write(&path, &whole).unwrap();

    let record_path = world.repository().join("records").join(b.to_string());
    let text = std::fs::read(&record_path).unwrap();
    std::fs::remove_file(&record_path).unwrap();
    let engine = world.open();
    let done = collect(&engine, COLLECT);
    assert_eq!((done["manifests_without_record"], done["packs_removed"]), (1, 1), "only what was of a");
    engine.close();
    std::fs::write(&record_path, text).unwrap();
    assert_eq!(world.open().image(b), bytes);
}

#[test]
fn a_manifest_that_a_killed_job_left_goes_with_its_chunks() {
    let world = World::new();
    let engine = world.open();
    world.write("v", &[1, 2, 3]);
    let old = engine.backup(full("v")).id;
    let bytes = world.write("v", &[4, 5, 6]);
    let new = engine.backup(full("v")).id;
    let manifest = |id| {
        let record = engine.operations.repository().catalog().get(id).unwrap();
        world.repository().join("manifests").join(record.manifest.as_ref().unwrap().id.to_string())
    };
    // The manifest of a job that was killed before its record named it; the next one made another.
    let left = world.repository().join("manifests").join(uuid::Uuid::new_v4().to_string());
    std::fs::copy(manifest(new), &left).unwrap();
    delete(&engine, &[old]);
    let done = collect(&engine, COLLECT);
    assert_eq!((done["manifests_removed"], done["packs_removed"]), (1, 1));
    assert!(!left.exists());
    assert_eq!(engine.image(new), bytes);
}

#[test]
fn a_copy_of_a_chunk_goes_only_when_another_was_found_good() {
    // Which pack's copy is the first one is left to chance.
    for turn in 0..8 {
        let world = World::new();
        let engine = world.open();
        let store = engine.operations.repository().store();
        // Two writers that know nothing of each other store the same chunk: in a pack that is needed, and in one of which
        // little else is.
        let sessions = [store.session(), store.session()];
        let mut writers = sessions.each_ref().map(|session| session.writer());
        for ((writer, session), seeds) in
            writers.iter_mut().zip(&sessions).zip([[1, 2, 3, 4], [1, 90, 91, 92]])
        {
            for seed in seeds {
                writer.add(session.prepare(&pattern(seed, CHUNK)).unwrap()).unwrap();
            }
        }
        for writer in writers {
            writer.finish().unwrap();
        }
        drop(sessions);
        let bytes = world.write("a", &[1, 2, 3, 4]);
        let id = engine.backup(full("a")).id;
        let shared = ChunkId::of(&pattern(1, CHUNK));
        let in_needed = ChunkId::of(&pattern(2, CHUNK));
        let packs = world.objects("packs");
        assert_eq!(packs.len(), 2, "the backup stored nothing");
        for (name, mut pack) in packs {
            let entries = footer(&pack);
            let is_needed = entries.iter().any(|entry| entry.id == in_needed);
            if is_needed == (turn % 2 == 0) {
                let entry = entries.iter().find(|entry| entry.id == shared).unwrap();
                pack[entry.offset as usize + 5] ^= 1;
                std::fs::write(world.pack_path(&name), pack).unwrap();
            }
        }
        collect(&engine, COLLECT);
        assert!(engine.image(id) == bytes, "{turn}");
        engine.close();
        let engine = world.open();
        assert!(engine.image(id) == bytes, "{turn}");
    }
}

#[test]
fn a_pack_whose_needed_chunk_is_damaged_and_nowhere_else_stays() {
    let world = World::new();
    let engine = world.open();
    world.write("v", &[1, 2, 3, 4]);
    let old = engine.backup(full("v")).id;
    world.write("v", &[1, 20, 30, 40]);
    let new = engine.backup(incremental("v")).id;
    flatten(&engine, new);
    delete(&engine, &[old]);
    let wanted = ChunkId::of(&pattern(1, CHUNK));
    let mut hurt = None;
    for (name, mut pack) in world.objects("packs") {
        if let Some(entry) = footer(&pack).into_iter().find(|entry| entry.id == wanted) {
            pack[entry.offset as usize + 5] ^= 1;
            std::fs::write(world.pack_path(&name), pack).unwrap();
            hurt = Some(name);
        }
    }
    let done = collect(&engine, COLLECT);
    assert_eq!((done["packs_damaged"], done["packs_rewritten"]), (1, 0));
    assert!(world.packs().contains(&hurt.unwrap()));
    let known = engine.operations.repository().store().known_damage();
    assert_eq!(
        known.iter().map(|damage| damage.chunk.clone()).collect::<Vec<_>>(),
        [Some(wanted.to_string())]
    );
    // What is still there of it can be brought back by whoever has the bytes.
    world.write("again", &[1]);
    engine.backup(full("again"));
    assert_eq!(engine.image(new)[..CHUNK], pattern(1, CHUNK)[..]);
    let done = collect(&engine, COLLECT);
    assert_eq!((done["packs_damaged"], engine.image(new)[..CHUNK] == pattern(1, CHUNK)[..]), (0, true));
    assert_eq!(engine.operations.repository().store().known_damage(), [], "the damaged pack is gone");
}

#[test]
fn only_the_operator_collects_one_at_a_time_and_a_reader_not_at_all() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.operations.requester(12_345);
    assert_eq!(engine.operations.gc(&tenant, COLLECT).unwrap_err().kind, RefusalKind::NotAuthorized);
    let reader = world.open();
    assert_eq!(reader.operations.gc(OPERATOR, COLLECT).unwrap_err().kind, RefusalKind::ReadOnly);
    let job = engine.operations.gc(OPERATOR, COLLECT).unwrap();
    if let Err(refusal) = engine.operations.gc(OPERATOR, COLLECT) {
        assert_eq!(refusal.kind, RefusalKind::InvalidState);
        assert!(refusal.sentence.contains(&job.to_string()), "{refusal}");
    }
}

/// What the volumes' backups must read as.
#[derive(Default)]
struct Model {
    backups: Mutex<BTreeMap<BackupId, Vec<u8>>>,
}

/// Backups that share chunks with garbage, deletes, flattens, readers and collections, all at once: the pool of
/// chunks is small, so that what is being collected is brought again all the time.
#[test]
fn a_storm_of_backups_deletes_and_readers_loses_nothing_to_the_collector() {
    let rounds: u64 =
        std::env::var("AMBERFS_GC_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let world = World::new();
    let engine = world.open();
    let model = Model::default();
    let (is_over, collections) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|number| {
                scope.spawn({
                    let (world, engine, model) = (&world, &engine, &model);
                    move || back_up_and_delete(world, engine, model, number, rounds)
                })
            })
            .collect();
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                collect(&engine, GcRequest { rewrite_below_percent: 100, ..COLLECT });
                collections.fetch_add(1, Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                read_one(&engine, &model, collections.load(Ordering::Relaxed));
            }
        });
        let ends: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        is_over.store(true, Ordering::Relaxed);
        assert!(ends.iter().all(Result::is_ok));
    });
    println!("{} collections beside {rounds} rounds", collections.load(Ordering::Relaxed));
    let check = |engine: &Engine| {
        for (id, bytes) in model.backups.lock().unwrap().iter() {
            assert!(engine.image(*id) == *bytes, "backup {id}");
        }
        assert_eq!(engine.operations.repository().store().known_damage(), []);
    };
    check(&engine);
    collect(&engine, GcRequest { rewrite_below_percent: 100, ..COLLECT });
    engine.close();
    check(&world.open());
    std::fs::remove_dir_all(world.repository().join("index")).unwrap();
    check(&world.open());
}

fn back_up_and_delete(world: &World, engine: &Engine, model: &Model, number: u64, rounds: u64) {
    let mut numbers = Numbers::new(number);
    let volume = format!("v{number}");
    for _ in 0..rounds {
        let seeds: Vec<u64> = (0..12).map(|_| numbers.below(24)).collect();
        let bytes = world.write(&volume, &seeds);
        let request = if numbers.below(3) == 0 { full(&volume) } else { incremental(&volume) };
        let id = engine.backup(request).id;
        model.backups.lock().unwrap().insert(id, bytes);
        if numbers.below(3) == 0 && engine.operations.repository().catalog().get(id).unwrap().is_incremental()
        {
            flatten(engine, id);
        }
        let name = volume.parse().unwrap();
        let own = engine.operations.repository().catalog().of_volume(&"local".parse().unwrap(), &name);
        let loose: Vec<_> = own
            .iter()
            .filter(|record| !engine.operations.repository().catalog().has_dependents(record.id))
            .collect();
        if own.len() > 4 && !loose.is_empty() {
            let chosen = loose[numbers.below(loose.len() as u64) as usize].id;
            // Before: nobody reads it any more.
            model.backups.lock().unwrap().remove(&chosen);
            delete(engine, &[chosen]);
        }
    }
}

fn read_one(engine: &Engine, model: &Model, turn: u64) {
    let chosen = {
        let backups = model.backups.lock().unwrap();
        let Some(at) = (turn as usize).checked_rem(backups.len()) else { return };
        backups.iter().nth(at).map(|(id, bytes)| (*id, bytes.clone()))
    };
    let Some((id, bytes)) = chosen else { return };
    // It may be deleted meanwhile; what is open stays readable.
    let Ok(image) = engine.operations.repository().image(id) else { return };
    let mut read = vec![0; bytes.len()];
    image.read(0, &mut read).unwrap();
    assert!(read == bytes, "backup {id}");
}

#[test]
fn a_reader_of_a_copied_repository_sees_what_was_collected_as_it_is() {
    let world = World::new();
    let engine = world.open();
    world.write("v", &[1, 2, 3, 4]);
    let old = engine.backup(full("v")).id;
    let bytes = world.write("v", &[1, 20, 30, 40]);
    let new = engine.backup(incremental("v")).id;
    flatten(&engine, new);
    delete(&engine, &[old]);
    collect(&engine, COLLECT);
    engine.close();
    let copy = tempfile::tempdir().unwrap();
    tree::copy(&world.repository(), copy.path());
    std::fs::remove_dir_all(copy.path().join("index")).unwrap();
    let options = RepositoryOptions { index: None, compression: Compression::None, cache_bytes: 8 << 20 };
    let copied = Repository::open(&Location::Directory(copy.path().to_owned()), &options).unwrap();
    let mut read = vec![0; bytes.len()];
    copied.image(new).unwrap().read(0, &mut read).unwrap();
    assert_eq!(read, bytes);
    assert!(copied.catalog().all().iter().all(|record| record.status == BackupStatus::Available));
}

/// `cargo test --release --test gc -- --ignored --nocapture how_long`: backups with a collection under way all the time,
/// against backups without.
#[test]
#[ignore = "a measurement"]
fn how_long_backups_wait_for_a_collection() {
    let mut rounds = Vec::new();
    for turn in 0..6 {
        let world = World::new();
        let engine = world.open();
        // Half of what there is, is garbage.
        for number in 0..8_u64 {
            world.write("old", &(number * 1000..number * 1000 + 500).collect::<Vec<u64>>());
            let id = engine.backup(full("old")).id;
            if number % 2 == 0 {
                delete(&engine, &[id]);
            }
        }
        let is_over = AtomicBool::new(turn % 2 == 0);
        let seconds: Vec<f64> = thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    collect(&engine, GcRequest { rewrite_below_percent: 100, ..COLLECT });
                }
            });
            let seconds = (0..20_u64).map(|number| {
                world.write(
                    "v",
                    &(0..100).map(|chunk| 1_000_000 + number * 100 + chunk).collect::<Vec<u64>>(),
                );
                let before = std::time::Instant::now();
                engine.backup(full("v"));
                before.elapsed().as_secs_f64()
            });
            let seconds = seconds.collect();
            is_over.store(true, Ordering::Relaxed);
            seconds
        });
        rounds.push((turn % 2 == 1, seconds));
    }
    for wanted in [false, true] {
        let mut all: Vec<f64> = rounds
            .iter()
            .filter(|(with, _)| *with == wanted)
            .flat_map(|(_, seconds)| seconds.clone())
            .collect();
        all.sort_by(f64::total_cmp);
        let (median, longest) = (all[all.len() / 2], all[all.len() - 1]);
        println!(
            "with a collection: {wanted}; median {median:.3} s, longest {longest:.3} s of {} backups of 6.5 MB",
            all.len()
        );
    }
}
