//! An index that is gone, damaged, another's, behind or ahead: it is a cache, so nothing is lost with it.

use std::path::Path;

use crate::history::{History, truncate};
use crate::support::engine::full;
use crate::support::tree;

/// All images read exactly, each pack is known once, and backups go on.
fn assert_harmless(history: &History) {
    let engine = history.open();
    let stats = engine.operations.repository().store().index_stats();
    let packs = history.packs();
    assert_eq!(stats.pack_count, packs.len() as u64);
    assert_eq!(stats.chunk_count, packs.iter().map(|(_, entries)| entries.len() as u64).sum::<u64>());
    history.assert_whole(&engine);
    history.assert_backed_up_again(engine);
}

fn index_files(history: &History) -> Vec<std::path::PathBuf> {
    let index = history.repository().join("index");
    let files: Vec<_> = tree::files(&index).into_keys().map(|name| index.join(name)).collect();
    assert!(files.len() >= 2, "{files:?}");
    files
}

#[test]
fn a_deleted_index_is_built_again() {
    let history = History::new();
    history.delete_index();
    assert_harmless(&history);
}

#[test]
fn whatever_happens_to_a_file_of_the_index_it_is_built_again() {
    let damages: [fn(&Path); 5] = [
        |path| std::fs::remove_file(path).unwrap(),
        |path| truncate(path, 0),
        |path| truncate(path, std::fs::metadata(path).unwrap().len() / 2),
        |path| std::fs::write(path, vec![0xa5; 100_000]).unwrap(),
        |path| {
            // A bit in every sector that is not zeros.
            let mut bytes = std::fs::read(path).unwrap();
            for sector in bytes.chunks_mut(512).filter(|sector| sector.iter().any(|byte| *byte != 0)) {
                sector[17 % sector.len()] ^= 4;
            }
            std::fs::write(path, bytes).unwrap();
        },
    ];
    let count = index_files(&History::new()).len();
    for damage in damages {
        for number in 0..count {
            let history = History::new();
            damage(&index_files(&history)[number]);
            assert_harmless(&history);
        }
    }
}

#[test]
fn an_index_of_another_repository_is_not_believed() {
    let history = History::new();
    let other = tempfile::tempdir().unwrap();
    let engine = crate::support::engine::Engine::open(other.path(), Vec::new());
    let store = engine.operations.repository().store();
    let session = store.session();
    let mut writer = session.writer();
    writer.add(session.prepare(b"another's chunk").unwrap()).unwrap();
    writer.finish().unwrap();
    engine.close();
    history.delete_index();
    tree::copy(&other.path().join("index"), &history.repository().join("index"));
    assert_harmless(&history);
}

#[test]
fn an_older_index_is_brought_up_to_date() {
    let history = History::new();
    let older = tempfile::tempdir().unwrap();
    tree::copy(&history.repository().join("index"), older.path());
    std::fs::write(history.repository().join("../volumes/v.raw"), crate::support::bytes::pattern(9, 300_000))
        .unwrap();
    let engine = history.open();
    let id = engine.backup(full("v")).id;
    let image = engine.image(id);
    engine.close();
    history.delete_index();
    tree::copy(older.path(), &history.repository().join("index"));
    let engine = history.open();
    assert!(engine.image(id) == image);
    assert_eq!(engine.operations.repository().store().index_stats().pack_count, history.packs().len() as u64);
    history.assert_whole(&engine);
}

#[test]
fn packs_that_only_the_index_has_are_forgotten() {
    let history = History::new();
    let before = tree::files(&history.repository());
    let bytes = crate::support::bytes::pattern(9, 300_000);
    let volume = history.repository().join("../volumes/v.raw");
    let content = std::fs::read(&volume).unwrap();
    std::fs::write(&volume, bytes).unwrap();
    let engine = history.open();
    engine.backup(full("v"));
    engine.close();
    // All but the index as it was before, as a restored copy of a repository would be.
    for path in tree::files(&history.repository()).into_keys() {
        if !before.contains_key(&path) && !path.starts_with("index/") {
            std::fs::remove_file(history.repository().join(path)).unwrap();
        }
    }
    // The chunks that the index remembers are in no pack: they have to be stored again.
    let engine = history.open();
    let id = engine.backup(full("v")).id;
    assert!(engine.image(id) == std::fs::read(&volume).unwrap());
    engine.close();
    std::fs::write(&volume, content).unwrap();
    assert_harmless(&history);
}
