//! Compared with the snapshot: an image that can be read and is not what the volume was is found.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use amberfs::catalog::BackupStatus;
use amberfs::format::manifest::{ManifestExtent, Target};
use amberfs::jobs::JobState;
use amberfs::operations::{Requester, VerifyRequest};
use amberfs::store::ManifestWriter;
use amberfs::types::{BackupId, ByteRange, RefusalKind};

use crate::support::bytes::pattern;
use crate::support::engine::{Engine, full};
use crate::support::file_system::{self, Kind};
use crate::support::gated::GatedSource;
use crate::work::{assert_right, damaged, one, record, verify};

const CHUNK: usize = 64 << 10;

/// Puts another image in the place of a backup's, as a diff that was wrong would have made it.
fn replace_image(engine: &Engine, id: BackupId, bytes: &[u8]) {
    let repository = engine.operations.repository();
    let session = repository.store().session();
    let mut chunks = session.writer();
    let mut manifest = ManifestWriter::create(repository.objects().as_ref(), bytes.len() as u64).unwrap();
    for (number, piece) in bytes.chunks(CHUNK).enumerate() {
        let range = ByteRange::new((number * CHUNK) as u64, piece.len() as u64);
        let target = if piece.iter().all(|byte| *byte == 0) {
            Target::Zero
        } else {
            let chunk = session.prepare(piece).unwrap();
            let id = chunk.id;
            chunks.add(chunk).unwrap();
            Target::Chunk { id, offset: 0 }
        };
        manifest.add(ManifestExtent { range, target }).unwrap();
    }
    chunks.finish().unwrap();
    let about = record(engine, id).encode().unwrap();
    let manifest = manifest.finish(&about).unwrap();
    repository.catalog().update(id, |record| record.manifest = Some(manifest)).unwrap();
}

#[test]
fn an_image_that_differs_from_its_snapshot_is_found_whichever_of_the_two_is_zero() {
    let folder = file_system::folder(Kind::Xfs);
    let volumes = folder.path().join("volumes");
    std::fs::create_dir(&volumes).unwrap();
    let (source, gates) = GatedSource::open(&volumes);
    gates.keeps_snapshots.store(true, Ordering::Relaxed);
    let mut bytes = pattern(1, 20 * CHUNK + 100);
    bytes[4 * CHUNK..8 * CHUNK].fill(0);
    std::fs::write(volumes.join("v.raw"), &bytes).unwrap();
    let engine = Engine::open(&folder.path().join("repository"), vec![Arc::clone(&source)]);
    let id = engine.backup(full("v")).id;
    // Later writes do not matter.
    std::fs::write(volumes.join("v.raw"), pattern(2, bytes.len())).unwrap();
    let compare = VerifyRequest { against_source: true, ..one(id) };
    let report = verify(&engine, &compare).swap_remove(0);
    assert_eq!((report.state, report.error), (JobState::Done, None));
    assert_right(&engine, id);

    let mut wrong = bytes.clone();
    wrong[2 * CHUNK + 5000] ^= 1;
    wrong[5 * CHUNK + 8191] = 7;
    wrong[10 * CHUNK..11 * CHUNK].fill(0);
    let last = wrong.len() - 1;
    wrong[last] ^= 1;
    replace_image(&engine, id, &wrong);
    engine.operations.repository().catalog().update(id, |record| record.image_sha256 = None).unwrap();
    let report = verify(&engine, &compare).swap_remove(0);
    assert_eq!(report.state, JobState::Failed);
    let sentence = report.error.unwrap().sentence;
    assert!(sentence.contains("snapshot"), "{sentence}");
    let block = |offset: usize| ByteRange::new(offset as u64, 4096);
    let expected = [
        block(2 * CHUNK + 4096),
        block(5 * CHUNK + 4096),
        ByteRange::new(10 * CHUNK as u64, CHUNK as u64),
        ByteRange::new(20 * CHUNK as u64, 100),
    ];
    let found = record(&engine, id);
    assert_eq!((found.status, damaged(&found)), (BackupStatus::Error, expected.to_vec()));
    assert!(found.damage.as_ref().unwrap().differs_from_source);

    // All of it can be read: that alone does not make it right.
    let report = verify(&engine, &one(id)).swap_remove(0);
    assert_eq!(report.state, JobState::Failed);
    assert_eq!(damaged(&record(&engine, id)), expected);

    replace_image(&engine, id, &bytes);
    let report = verify(&engine, &compare).swap_remove(0);
    assert_eq!((report.state, report.error), (JobState::Done, None));
    assert_right(&engine, id);

    engine.operations.repository().catalog().update(id, |record| record.snapshot = None).unwrap();
    let refusal = engine.operations.verify(&Requester::OPERATOR, &compare).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::SnapshotNotFound);
}
