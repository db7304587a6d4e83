//! The layers of `docs/architecture.md`, checked against the sources: who may name whom, which crate stays in which
//! folder, and where unsafe code may stand. Folders alone do not keep an architecture; this does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed expectation is a failed test"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// In reading order: each layer may name those above it only.
const LAYERS: [&str; 23] = [
    "types",
    "sysio",
    "metrics",
    "jobs",
    "format",
    "objects",
    "index",
    "store",
    "catalog",
    "source",
    "image",
    "contents",
    "xfs",
    "files",
    "repository",
    "check",
    "scratch",
    "operations",
    "vfs",
    "control",
    "fuse",
    "daemon",
    "cli",
];

/// Crates that only these folders or files may name.
const CONFINED_CRATES: [(&str, &[&str]); 14] = [
    ("fuser", &["fuse/"]),
    ("sled", &["index/"]),
    ("ceph", &["source/rbd/"]),
    ("clap", &["control/", "cli/"]),
    ("clap_complete", &["cli/"]),
    ("comfy_table", &["cli/"]),
    ("crc32c", &["xfs/"]),
    ("indicatif", &["cli/"]),
    ("toml", &["daemon/"]),
    ("fs_xfs", &["files/reader/"]),
    ("fs_core", &["files/reader/"]),
    ("fatfs", &["files/reader/"]),
    ("gptman", &["contents/"]),
    ("mbrman", &["contents/"]),
];

/// The only files with unsafe code: C functions that nobody wraps.
const UNSAFE_FILES: [&str; 5] = [
    "source/rbd/librbd/",
    "sysio/allocator.rs",
    "sysio/descriptors.rs",
    "sysio/durable_sync_file_range.rs",
    "sysio/lease.rs",
];

struct SourceFile {
    /// Below `src`, with slashes.
    path: String,
    /// Without line comments.
    code: String,
}

impl SourceFile {
    fn layer(&self) -> Option<&str> {
        self.path.split_once('/').map(|(layer, _)| layer)
    }
}

fn sources() -> Vec<SourceFile> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 50, "the sources were not found");
    files
        .into_iter()
        .map(|file| {
            let path = file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            let text = fs::read_to_string(&file).unwrap();
            let code =
                text.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n");
            SourceFile { path, code }
        })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Returns the first path segments behind each `crate::`, those in braces too.
fn named_layers(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (position, _) in code.match_indices("crate::") {
        let rest = &code[position + "crate::".len()..];
        let segment = |text: &str| {
            text.trim_start()
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .next()
                .unwrap_or("")
                .to_owned()
        };
        match rest.strip_prefix('{') {
            Some(group) => {
                let mut depth = 0;
                let mut item = String::new();
                for c in group.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => {
                            names.insert(segment(&item));
                            item.clear();
                            continue;
                        }
                        _ => {}
                    }
                    item.push(c);
                }
                names.insert(segment(&item));
            }
            None => {
                names.insert(segment(rest));
            }
        }
    }
    names.remove("");
    names
}

/// Is a crate named as a path (`sled::`) or imported whole (`use sled`)?
fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(position, _)| {
        let before = code[..position].chars().next_back();
        let after = &code[position + name.len()..];
        let starts_word =
            before.is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '_' | ':' | '"' | '-' | '.' | '/'));
        starts_word && (after.starts_with("::") || after.starts_with(';'))
    })
}

#[test]
fn each_layer_names_only_those_above_it() {
    let rank = |layer: &str| LAYERS.iter().position(|known| *known == layer);
    let mut wrong = Vec::new();
    for file in sources() {
        let Some(layer) = file.layer() else { continue };
        let own = rank(layer)
            .unwrap_or_else(|| panic!("{} is in a folder that is not in the table of layers", file.path));
        for named in named_layers(&file.code) {
            match rank(&named) {
                Some(other) if other > own => {
                    wrong.push(format!("{} names {named}, a layer above it in the table", file.path))
                }
                Some(_) => {}
                None => wrong.push(format!("{} names crate::{named}, which is no layer", file.path)),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn special_crates_stay_in_their_folders() {
    let mut wrong = Vec::new();
    for file in sources() {
        for (name, folders) in CONFINED_CRATES {
            let allowed = folders.iter().any(|folder| file.path.starts_with(folder));
            if !allowed && names_crate(&file.code, name) {
                wrong.push(format!("{} names the crate {name}", file.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_stands_in_few_files() {
    let mut wrong = Vec::new();
    for file in sources() {
        let allowed = UNSAFE_FILES.iter().any(|known| file.path.starts_with(known));
        let has_unsafe = file.code.contains("unsafe {")
            || file.code.contains("unsafe fn")
            || file.code.contains("unsafe impl");
        if has_unsafe && !allowed {
            wrong.push(file.path);
        }
    }
    assert!(wrong.is_empty(), "unsafe code in {}", wrong.join(", "));
}

#[test]
fn every_file_says_what_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//! "), "{} does not begin with what it is", file.display());
        assert!(text.is_ascii(), "{} is not ASCII", file.display());
    }
}

#[test]
fn the_table_is_that_of_the_document() {
    let document =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md")).unwrap();
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `"));
    let named: Vec<&str> = rows
        .filter_map(|row| row.split_once('`'))
        .map(|(name, _)| name)
        .filter(|name| LAYERS.contains(name))
        .collect();
    assert_eq!(named, LAYERS, "docs/architecture.md lists other layers, or in another order");
}

#[test]
fn the_checks_see_what_they_look_for() {
    assert_eq!(
        named_layers("use crate::{types::X, sysio::{a, b}, jobs}; crate::cli::main()")
            .into_iter()
            .collect::<Vec<_>>(),
        ["cli", "jobs", "sysio", "types"]
    );
    assert!(names_crate("use sled::Db;", "sled"));
    assert!(names_crate("let x = sled::open();", "sled"));
    assert!(!names_crate("crate::sled::x", "sled"));
    assert!(!names_crate("assembled::x", "sled"));
}

/// Returns a text with its line ends and indentation as single spaces.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The doc comments above the tests of a file, each in one line, with the test's name.
fn proved_paragraphs(code: &str) -> Vec<(String, String)> {
    let (mut comment, mut is_test, mut found) = (String::new(), false, Vec::new());
    for line in code.lines() {
        if let Some(text) = line.strip_prefix("///") {
            comment.push_str(text);
        } else if line == "#[test]" {
            is_test = true;
        } else if !line.starts_with("#[") {
            if is_test && let Some(name) = line.strip_prefix("fn ") {
                let name = name.split('(').next().unwrap_or_default();
                found.push((name.to_owned(), one_line(&comment)));
            }
            (comment, is_test) = (String::new(), false);
        }
    }
    found
}

#[test]
fn what_the_tests_of_the_life_cycle_prove_stands_in_the_document() {
    let document = fs::read_to_string("docs/semantics.md").unwrap();
    let paragraphs: BTreeSet<String> = document.split("\n\n").map(one_line).collect();
    let mut files = Vec::new();
    collect(Path::new("tests/life"), &mut files);
    collect(Path::new("tests/restores"), &mut files);
    files.push(PathBuf::from("tests/jobs.rs"));
    let mut count = 0;
    for file in files {
        for (test, paragraph) in proved_paragraphs(&fs::read_to_string(&file).unwrap()) {
            // Of restores there are tests that prove how, and not what users are told.
            if paragraph.is_empty() && !file.starts_with("tests/life") {
                continue;
            }
            let place = file.display();
            assert!(paragraphs.contains(&paragraph), "{place}: {test}: not a paragraph of docs/semantics.md");
            count += 1;
        }
    }
    assert!(count > 20, "only {count} tests were found");
}
