//! What whoever watches over a daemon sees: `metrics`, the health in `status.json`, the log, what the service manager is
//! told, and that `docs/operations.md` speaks of nothing else. Each test has a daemon of its own, since counters are of a
//! process.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a failed expectation is a failed test, and volumes are plain files"
)]

#[path = "../support/mod.rs"]
mod support;

mod health;
mod logs;
mod metrics;
mod page;
mod prometheus;
mod service;

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use support::bytes::pattern;
use support::daemon::Daemon;

/// A daemon over a directory of images.
struct Watched {
    daemon: Daemon,
    volumes: tempfile::TempDir,
}

impl Watched {
    fn start() -> Self {
        let volumes = tempfile::tempdir().unwrap();
        let daemon = Daemon::start(&Self::sections(&volumes));
        Self { daemon, volumes }
    }

    fn sections(volumes: &tempfile::TempDir) -> String {
        format!("[source.local]\ntype = \"dir\"\npath = \"{}\"\n", volumes.path().display())
    }

    fn volume(&self, name: &str, seed: u64, bytes: usize) -> Vec<u8> {
        let bytes = pattern(seed, bytes);
        fs::write(self.path(name), &bytes).unwrap();
        bytes
    }

    fn path(&self, name: &str) -> PathBuf {
        self.volumes.path().join(format!("{name}.raw"))
    }

    fn repository(&self) -> PathBuf {
        self.daemon.folder().join("repository")
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.daemon.mount().join(name)).unwrap()
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.text("status.json")).unwrap()
    }

    /// Returns a problem by what is wrong.
    fn problem(&self, what: &str) -> Option<Value> {
        let problems = self.status()["problems"].as_array().unwrap().clone();
        problems.into_iter().find(|problem| problem["what"] == what)
    }

    fn metrics(&self) -> prometheus::Metrics {
        prometheus::Metrics::parse(&self.text("metrics"))
    }

    /// Flips a bit in the middle of the only pack.
    fn damage_pack(&self) {
        let packs: Vec<PathBuf> = fs::read_dir(self.repository().join("packs"))
            .unwrap()
            .flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap())
            .map(|pack| pack.unwrap().path())
            .collect();
        assert_eq!(packs.len(), 1);
        let mut bytes = fs::read(&packs[0]).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&packs[0], bytes).unwrap();
    }
}
