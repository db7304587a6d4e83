//! What is left of a damaged backup: it is readable where it is right, and restored when that is asked for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use amberfs::catalog::BackupStatus;
use amberfs::jobs::{JobReport, JobState};
use amberfs::objects::ObjectName;
use amberfs::operations::{Requester, RestoreRequest, ScratchRequest};
use amberfs::source::Source;
use amberfs::types::{BackupId, ByteRange, RefusalKind};

use crate::history::{CHUNK, History, flip_bit};
use crate::support::bytes::pattern;
use crate::support::daemon::until;
use crate::support::damaged_pack::flip_chunk;
use crate::support::engine::{Engine, full, mark, over, restore};
use crate::support::gated::GatedSource;
use crate::support::tree;
use crate::work::{all, record, verify, wait_for_all};

fn skipping(request: RestoreRequest) -> RestoreRequest {
    RestoreRequest { skip_damaged: true, ..request }
}

fn run(engine: &Engine, request: &RestoreRequest) -> (JobReport, String) {
    let accepted = engine.operations.restore(&Requester::OPERATOR, request).unwrap();
    let report = engine.operations.jobs().wait(accepted.job).unwrap();
    (report, accepted.volume.to_string())
}

/// The second incremental, with a chunk of the full backup damaged that it needs; and where.
fn damage_newest(history: &History) -> (BackupId, ByteRange) {
    for (pack, entries) in history.packs() {
        for entry in &entries {
            if let [only] = history.ranges_of(&BTreeSet::from([entry.id]))[2][..]
                && entries.len() > 4
                && entry.plain_length as usize == CHUNK
                && only.len() == CHUNK as u64
            {
                flip_bit(&history.path(ObjectName::Pack(pack)), entry.offset as usize + 100);
                return (history.backups[2], only);
            }
        }
    }
    panic!("no chunk will do")
}

fn with_zeros(bytes: &[u8], ranges: &[ByteRange]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for range in ranges {
        bytes[usize::try_from(range.start()).unwrap()..usize::try_from(range.end()).unwrap()].fill(0);
    }
    bytes
}

#[test]
fn a_restore_that_meets_damage_fails_names_it_and_lets_it_be_known() {
    let history = History::new();
    let (id, lost) = damage_newest(&history);
    let engine = history.open();
    let (report, _) = run(&engine, &restore(id));
    assert_eq!(report.state, JobState::Failed);
    let sentence = report.error.unwrap().sentence;
    assert!(sentence.contains(&format!("({} to {})", lost.start(), lost.end())), "{sentence}");
    assert!(sentence.contains("--skip-damaged"), "{sentence}");
    wait_for_all(&engine);
    let found = record(&engine, id);
    assert_eq!((found.status, crate::work::damaged(&found)), (BackupStatus::Error, vec![lost]));
    // From now on it is refused at once.
    let refusal = engine.operations.restore(&Requester::OPERATOR, &restore(id)).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::InvalidState);
    assert!(refusal.sentence.contains("--skip-damaged"), "{}", refusal.sentence);
    assert!(refusal.sentence.contains(&format!("{} to {}", lost.start(), lost.end())));
}

#[test]
fn what_is_left_is_restored_with_zeros_for_the_rest_and_the_volume_says_so() {
    let history = History::new();
    let (id, lost) = damage_newest(&history);
    let engine = history.open();
    verify(&engine, &all());
    let volumes = history.repository().parent().unwrap().join("volumes");
    let expected = with_zeros(&history.images[2], &[lost]);
    let (report, volume) = run(&engine, &skipping(restore(id)));
    assert_eq!((report.state, report.error), (JobState::Done, None));
    let warning = report.warning.unwrap();
    assert!(warning.contains(&format!("({} to {})", lost.start(), lost.end())), "{warning}");
    let path = volumes.join(format!("{volume}.raw"));
    assert!(std::fs::read(&path).unwrap() == expected);
    assert_eq!(mark(&path).as_deref(), Some(b"damaged".as_slice()));
    let found = record(&engine, id);
    assert_eq!((found.status, found.restore_target.is_none()), (BackupStatus::Error, true), "as before");

    // Over a volume that holds something else.
    let path = volumes.join("other.raw");
    std::fs::write(&path, pattern(9, expected.len())).unwrap();
    let (report, _) = run(&engine, &skipping(over(id, "local/other")));
    assert_eq!(report.state, JobState::Done);
    assert!(std::fs::read(&path).unwrap() == expected);
    assert_eq!(mark(&path).as_deref(), Some(b"damaged".as_slice()));

    // A restore of a backup that is right takes the mark away.
    let whole = engine.backup(full("v")).id;
    let (report, _) = run(&engine, &skipping(over(whole, "local/other")));
    assert_eq!((report.state, report.warning), (JobState::Done, None));
    assert!(std::fs::read(&path).unwrap() == history.images[2]);
    assert_eq!(mark(&path), None);
}

#[test]
fn scratch_images_and_the_image_itself_are_there_where_nothing_is_damaged() {
    let history = History::new();
    let (id, lost) = damage_newest(&history);
    let engine = history.open();
    verify(&engine, &all());
    assert_eq!(history.read(&engine, 2).unreadable, [lost]);
    let request = ScratchRequest { backup: id.to_string(), name: Some("s".to_owned()), keep: false };
    engine.operations.scratch_image(&Requester::OPERATOR, &request).unwrap();
    // What was written over the damage can be restored.
    let request = RestoreRequest { from_scratch: Some("s".to_owned()), ..RestoreRequest::default() };
    let (report, _) = run(&engine, &request);
    assert_eq!(report.state, JobState::Failed, "it is still damaged there");
    assert_eq!(record(&engine, id).status, BackupStatus::Error);
}

#[test]
fn a_manifest_that_does_not_tell_costs_zeros_and_no_more() {
    let history = History::new();
    flip_bit(&history.path(history.manifest(0)), 16 + 20);
    let engine = history.open();
    verify(&engine, &all());
    let id = history.backups[1];
    let lost = crate::work::damaged(&record(&engine, id));
    assert!(!lost.is_empty());
    let (report, volume) = run(&engine, &skipping(restore(id)));
    assert_eq!((report.state, report.error), (JobState::Done, None));
    let path = history.repository().parent().unwrap().join("volumes").join(format!("{volume}.raw"));
    assert!(std::fs::read(&path).unwrap() == with_zeros(&history.images[1], &lost));
}

#[test]
fn a_restore_that_goes_on_after_a_stop_knows_what_was_left_out_before() {
    let folder = tempfile::tempdir().unwrap();
    let volumes = folder.path().join("volumes");
    std::fs::create_dir(&volumes).unwrap();
    let bytes = pattern(1, 24 << 20);
    std::fs::write(volumes.join("v.raw"), &bytes).unwrap();
    let open = || {
        let (source, gates) = GatedSource::open(&volumes);
        let change =
            |options: &mut amberfs::operations::OperationsOptions| options.restore_step_bytes = 4 << 20;
        let sources = vec![source as Arc<dyn Source>];
        (Engine::open_with(&folder.path().join("repository"), sources, 15, change), gates)
    };
    let (engine, gates) = open();
    let id = engine.backup(full("v")).id;
    let packs = folder.path().join("repository/packs");
    let pack = packs.join(tree::files(&packs).into_keys().next().unwrap());
    for chunk in [3, 200] {
        flip_chunk(&pack, &bytes[chunk * CHUNK..][..CHUNK]);
    }
    let lost = [3, 200].map(|chunk| ByteRange::new((chunk * CHUNK) as u64, CHUNK as u64));
    verify(&engine, &all());
    assert_eq!(crate::work::damaged(&record(&engine, id)), lost);
    gates.writes.close_after(2);
    let accepted = engine.operations.restore(&Requester::OPERATOR, &skipping(restore(id))).unwrap();
    gates.writes.wait_until_waiting(1);
    let target = || record(&engine, id).restore_target.clone().unwrap();
    until("durable progress", || (target().durable_bytes >= 8 << 20).then_some(()));
    assert_eq!(
        target().skipped.to_string(),
        format!("65536 bytes ({} to {})", lost[0].start(), lost[0].end())
    );
    engine.operations.shut_down(Instant::now());
    gates.writes.open();
    engine.close();
    let (engine, _gates) = open();
    wait_for_all(&engine);
    let report = engine.operations.jobs().reports().into_iter().find(|report| report.kind == "restore");
    let report = report.unwrap();
    assert_eq!((report.state, report.error), (JobState::Done, None));
    let warning = report.warning.unwrap();
    for range in lost {
        assert!(warning.contains(&format!("{} to {}", range.start(), range.end())), "{warning}");
    }
    let path = volumes.join(format!("{}.raw", accepted.volume));
    assert!(std::fs::read(&path).unwrap() == with_zeros(&bytes, &lost));
    assert_eq!(mark(&path).as_deref(), Some(b"damaged".as_slice()));
}
