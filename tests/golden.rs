//! Repositories as each version of the format wrote them, without an index, must read the same for ever.
//!
//! `tests/golden/VERSION/` holds `repository/` and, for each backup, `expected/ID` with its size, the SHA-256 of its
//! image and its fields. To add the present version: `AMBERFS_GOLDEN_OUT=tests/golden/VERSION cargo test --test golden`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a failed expectation is a failed test"
)]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use amberfs::catalog::BackupInfo;
use amberfs::operations::BackupRequest;
use amberfs::source::Source;
use amberfs::source::dir::DirSource;
use amberfs::types::{BackupId, ByteRange, ChunkId};

use serde_json::Value;
use support::bytes::pattern;
use support::engine::{Engine, full, incremental};
use support::tree;

/// What is expected of a backup, as text.
fn expected_of(engine: &Engine, id: BackupId) -> String {
    let repository = engine.operations.repository();
    let record = repository.catalog().get(id).unwrap();
    let image = engine.image(id);
    let opened = repository.image(id).unwrap();
    let mut text = format!("{} bytes, SHA-256 {}\n", image.len(), ChunkId::of(&image));
    writeln!(
        text,
        "{} bytes allocated",
        opened.allocated_bytes(ByteRange::new(0, image.len() as u64)).unwrap()
    )
    .unwrap();
    text + &BackupInfo::new(&record, repository.catalog().has_dependents(id), "golden").to_json()
}

/// Splits the lines about the bytes from the fields.
fn parts(text: &str) -> (&str, BTreeMap<String, Value>) {
    let (lines, fields) = text.split_at(text.find('{').unwrap());
    (lines, serde_json::from_str(fields).unwrap())
}

/// Compares with what an older version wrote. Fields that it did not have do not apply.
fn assert_same(actual: &str, expected: &str, title: &str) {
    let ((lines, mut fields), (expected_lines, expected_fields)) = (parts(actual), parts(expected));
    assert_eq!(lines, expected_lines, "{title}");
    fields.retain(|name, value| expected_fields.contains_key(name) || !value.is_null());
    assert_eq!(fields, expected_fields, "{title}");
}

/// Opens a copy, so that what is kept is never changed, and checks every byte of it.
fn check(golden: &Path) {
    let copy = tempfile::tempdir().unwrap();
    tree::copy(golden, copy.path());
    let expected = tree::files(&copy.path().join("expected"));
    assert!(!expected.is_empty(), "{} expects nothing", golden.display());
    assert!(!copy.path().join("repository/index").exists());
    // The second time with the index that the first one built.
    for _ in 0..2 {
        let engine = Engine::open(&copy.path().join("repository"), Vec::new());
        assert_eq!(engine.operations.repository().catalog().count(), expected.len());
        for (id, expected) in &expected {
            let actual = expected_of(&engine, id.parse().unwrap());
            let expected = String::from_utf8_lossy(expected);
            assert_same(&actual, &expected, &format!("{id} in {}", golden.display()));
        }
        engine.close();
    }
}

#[test]
fn every_version_is_read_to_the_byte() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let versions: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!versions.is_empty());
    for golden in versions {
        let bytes: usize = tree::files(&golden).values().map(Vec::len).sum();
        assert!(bytes < 200 << 10, "{} has {bytes} bytes", golden.display());
        check(&golden);
    }
}

/// What is written today is read by the same check, so that the next golden folder is a sound one.
#[test]
fn what_is_written_today_can_be_kept() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    std::fs::remove_dir_all(folder.path().join("volumes")).unwrap();
    check(folder.path());
    if let Some(out) = std::env::var_os("AMBERFS_GOLDEN_OUT") {
        tree::copy(folder.path(), Path::new(&out));
    }
}

/// Every kind of extent and of chunk: raw and compressed, whole and gathered, holes, growing and shrinking.
fn write(folder: &Path) {
    let volumes = folder.join("volumes");
    std::fs::create_dir(&volumes).unwrap();
    let source = DirSource::open("local".parse().unwrap(), &volumes).unwrap();
    let engine = Engine::open(&folder.join("repository"), vec![Arc::new(source) as Arc<dyn Source>]);
    let mut bytes = vec![0; 600_001];
    bytes[..20_000].copy_from_slice(&pattern(1, 20_000));
    bytes[131_072..400_000].copy_from_slice(&b"the same line again and again\n".repeat(8965)[..268_928]);
    bytes[600_000] = 7;
    let mut ids = Vec::new();
    let mut back_up = |bytes: &[u8], request: BackupRequest| {
        std::fs::write(volumes.join("v \u{fc}.raw"), bytes).unwrap();
        ids.push(engine.backup(request).id);
    };
    let first = BackupRequest {
        name: Some("first \u{1f600}".to_owned()),
        description: Some("with \"quotes\" and\nlines".to_owned()),
        properties: [("key".to_owned(), "value".to_owned())].into(),
        ..full("v \u{fc}")
    };
    back_up(&bytes, first);
    for place in [1000, 150_000, 300_003, 520_000] {
        bytes[place..place + 600].copy_from_slice(&pattern(place as u64, 600));
    }
    bytes[196_608..262_144].fill(0);
    back_up(&bytes, incremental("v \u{fc}"));
    bytes.truncate(140_001);
    back_up(&bytes, incremental("v \u{fc}"));
    bytes.resize(700_000, 0);
    bytes[699_000..].copy_from_slice(&pattern(5, 1000));
    back_up(&bytes, incremental("v \u{fc}"));
    back_up(&[], full("v \u{fc}"));
    let expected = folder.join("expected");
    std::fs::create_dir(&expected).unwrap();
    for id in ids {
        std::fs::write(expected.join(id.to_string()), expected_of(&engine, id)).unwrap();
    }
    engine.close();
    std::fs::remove_dir_all(folder.join("repository/index")).unwrap();
    std::fs::remove_file(folder.join("repository/lock")).unwrap();
}
