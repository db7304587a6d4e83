//! What the fuzzers of `fuzz/` have found, and where they began, without a fuzzer: every file of the corpora, and of the
//! findings that were fixed, goes through the same functions. `scripts/fuzz` looks for more.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a failed expectation is a failed test, and so is a panic of what the fuzzers run"
)]

use std::path::{Path, PathBuf};

#[path = "../fuzz/src/lib.rs"]
mod targets;

const TARGETS: [&str; 7] = ["contents", "control", "header", "manifest", "pack", "record", "xfs"];

/// Those who fetch the repository fetch the corpora too.
const BYTES_MAX: u64 = 2 << 20;

fn files(kind: &str, target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(kind).join(target);
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_seed_and_every_finding_keeps_what_is_promised() {
    let mut broken = Vec::new();
    for target in TARGETS {
        let seeds = files("corpus", target);
        assert!(!seeds.is_empty(), "{target} has no corpus");
        for file in seeds.into_iter().chain(files("regressions", target)) {
            let bytes = std::fs::read(&file).unwrap();
            if std::panic::catch_unwind(|| targets::look(target, &bytes)).is_err() {
                broken.push(file);
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_corpora_are_small_and_of_targets_that_there_are() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    for kind in ["corpus", "regressions"] {
        for entry in std::fs::read_dir(folder.join(kind)).into_iter().flatten() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(TARGETS.contains(&&*name), "{kind}/{name} is of no target");
        }
    }
    let all = TARGETS.iter().flat_map(|target| [files("corpus", target), files("regressions", target)]);
    let bytes: u64 = all.flatten().map(|file| std::fs::metadata(file).unwrap().len()).sum();
    assert!(bytes <= BYTES_MAX, "{bytes} bytes");
    for target in TARGETS {
        assert!(folder.join("fuzz_targets").join(format!("{target}.rs")).exists(), "{target}");
    }
}
