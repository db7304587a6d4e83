//! A long run of mixed work on a real cluster: backups, reads, restores, deletes, flattens, collections of garbage, kills of
//! the daemon and stops of the OSD, with a model of what every backup must read as.
//!
//! `AMBERFS_SOAK_SECONDS` asks for more than the minute of the default.

#![cfg(feature = "rbd")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a failed expectation is a failed test, and what is counted is printed"
)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use support::bytes::{Numbers, pattern};
use support::ceph::{CephCluster, Driver, POOL, RESTORE_USER};
use support::daemon::{Daemon, until};

const MIB: usize = 1 << 20;
const VOLUMES: [&str; 3] = ["a", "b", "c"];
/// Each volume keeps about so many backups: what is older goes.
const BACKUPS_KEPT: usize = 12;
/// In the memory of the daemon: caches, what is in flight, and librbd's own.
const CONFIGURATION: &str = "[limits]\nmemory = \"128MiB\"\nmax_operations = 4\n";

/// What the work so far has been: printed in the end.
#[derive(Debug, Default)]
struct Counts {
    backups: u64,
    restores: u64,
    deletes: u64,
    flattens: u64,
    collections: u64,
    kills: u64,
    osd_stops: u64,
    images_compared: Arc<AtomicU64>,
}

/// What a daemon holds at a moment at which it has nothing to do.
#[derive(Debug, Clone, Copy, Default)]
struct Holdings {
    memory_bytes: u64,
    descriptors: usize,
    threads: usize,
}

struct Soak {
    cluster: CephCluster,
    driver: Driver,
    daemon: Daemon,
    volumes: BTreeMap<&'static str, Vec<u8>>,
    /// What each backup must read as, from the moment at which its command was accepted.
    model: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    numbers: Numbers,
    counts: Counts,
}

impl Soak {
    fn start() -> Self {
        let cluster = CephCluster::start();
        let source = format!(
            "{CONFIGURATION}[source.rbd]\ntype = \"rbd\"\nconf = \"{}\"\nuser = \"{RESTORE_USER}\"\npool = \"{POOL}\"\ntimeout_seconds = 60\n",
            cluster.conf().display()
        );
        let daemon = Daemon::start_with("cache = \"64MiB\"\n", &source);
        let driver = cluster.driver();
        let mut soak = Self {
            cluster,
            driver,
            daemon,
            volumes: BTreeMap::new(),
            model: Arc::default(),
            numbers: Numbers::new(5),
            counts: Counts::default(),
        };
        for (number, name) in VOLUMES.iter().enumerate() {
            soak.driver.create(name, 8 * MIB as u64);
            soak.change(name, &pattern(number as u64, 8 * MIB));
        }
        soak
    }

    /// Makes a volume equal to these bytes, its size included.
    fn change(&mut self, name: &'static str, bytes: &[u8]) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        self.driver.run(json!({"op": "resize", "name": name, "size": bytes.len()}));
        self.driver.run(json!({"op": "write_file", "name": name, "path": file.path()}));
        self.driver.run(json!({"op": "close", "name": name}));
        self.volumes.insert(name, bytes.to_vec());
    }

    fn change_a_little(&mut self, name: &'static str) {
        let mut bytes = self.volumes[name].clone();
        match self.numbers.below(8) {
            0 => bytes.resize((6 + self.numbers.below(6) as usize) * MIB, 0),
            1 => {
                let start = self.numbers.below(4) as usize * MIB;
                bytes[start..start + MIB].fill(0);
            }
            _ => {
                for _ in 0..1 + self.numbers.below(20) {
                    // Of few contents, so that chunks which nobody needs any more come again.
                    let block = pattern(self.numbers.below(50), 64 << 10);
                    let start = self.numbers.below(64) as usize * block.len();
                    bytes[start..start + block.len()].copy_from_slice(&block);
                }
            }
        }
        self.change(name, &bytes);
    }

    /// Takes a backup of a volume and returns its id and its job.
    fn begin_backup(&mut self, name: &'static str) -> (String, String) {
        let options = if self.numbers.below(6) == 0 { "" } else { "--incremental" };
        let mut last = String::new();
        let said = until("the cluster to forget a daemon that was killed", || {
            let said = self.daemon.say("backup", &format!("rbd/{name} {options}\n"));
            if said.answer != last {
                println!("{name}: {}", said.answer.trim_end());
                last.clone_from(&said.answer);
            }
            let is_held = said.answer.contains("VolumeInUse") || said.answer.contains("SourceUnavailable");
            assert!(said.write.is_ok() || is_held, "{}", said.answer);
            (!is_held).then_some(said)
        });
        let value = |key: &str| {
            let found = said.answer.split_whitespace().find_map(|pair| pair.strip_prefix(key));
            found.unwrap_or_else(|| panic!("{}", said.answer)).to_owned()
        };
        let id = value("backup=");
        self.model.lock().unwrap().insert(id.clone(), self.volumes[name].clone());
        self.counts.backups += 1;
        (id, value("job="))
    }

    fn backups_of(&self, name: &str) -> Vec<Value> {
        let mut backups: Vec<Value> = listed(&self.daemon)
            .iter()
            .filter_map(|id| info(&self.daemon, id))
            .filter(|info| info["volume_name"] == name)
            .collect();
        backups.sort_by_key(|info| info["data_timestamp"].as_str().unwrap().to_owned());
        backups
    }

    /// Lets the oldest backups of a volume go.
    fn expire(&mut self, name: &str) {
        let backups = self.backups_of(name);
        let Some(first_kept) = backups.len().checked_sub(BACKUPS_KEPT) else { return };
        let kept = backups[first_kept]["id"].as_str().unwrap();
        if backups[first_kept]["is_incremental"] == true {
            let job = self.daemon.accepted("flatten", &format!("{kept}\n"), "job");
            self.daemon.done(&job);
            self.counts.flattens += 1;
        }
        let going: Vec<String> =
            backups[..first_kept].iter().map(|info| info["id"].as_str().unwrap().to_owned()).collect();
        if going.is_empty() {
            return;
        }
        // Before: nobody reads them from here on.
        let mut model = self.model.lock().unwrap();
        going.iter().for_each(|id| drop(model.remove(id)));
        drop(model);
        let lines: String = going.iter().map(|id| format!("{id}\n")).collect();
        let said = self.daemon.say("delete", &lines);
        assert!(said.write.is_ok(), "{}", said.answer);
        self.counts.deletes += going.len() as u64;
    }

    /// Restores a backup to a new volume, or over one that there is, and compares what Ceph has then.
    fn restore(&mut self) {
        let chosen = {
            let model = self.model.lock().unwrap();
            let at = self.numbers.below(model.len() as u64) as usize;
            model.iter().nth(at).map(|(id, bytes)| (id.clone(), bytes.clone())).unwrap()
        };
        let (id, bytes) = chosen;
        if info(&self.daemon, &id).is_none_or(|info| info["status"] != "available") {
            return;
        }
        let name = format!("restored-{}", self.counts.restores);
        self.daemon.restore(&format!("{id} --name {name}"));
        assert!(self.cluster.export(&name) == bytes, "{name} of {id}");
        self.cluster.rbd(&["rm", "--no-progress", &name]);
        self.counts.restores += 1;
    }

    fn collect(&mut self) {
        let job = self.daemon.accepted("gc", "--rewrite-below 80\n", "job");
        self.daemon.done(&job);
        self.counts.collections += 1;
    }

    fn round(&mut self, round: u64) {
        for name in VOLUMES {
            self.change_a_little(name);
        }
        let jobs: Vec<String> = VOLUMES.iter().map(|name| self.begin_backup(name).1).collect();
        if round.is_multiple_of(3) {
            self.collect();
        }
        for job in jobs {
            self.daemon.done(&job);
        }
        for name in VOLUMES {
            self.expire(name);
        }
        if round.is_multiple_of(2) {
            self.restore();
        }
    }

    /// Kills the daemon in the middle of work, or takes the OSD away for a while.
    fn disturb(&mut self, round: u64) {
        for name in VOLUMES {
            self.change_a_little(name);
        }
        let jobs: Vec<String> = VOLUMES.iter().map(|name| self.begin_backup(name).1).collect();
        let collecting = self.daemon.accepted("gc", "--rewrite-below 100\n", "job");
        if round % 4 == 3 {
            self.cluster.stop_osd();
            // Longer than librbd's own patience with one request, shorter than ours.
            thread::sleep(Duration::from_secs(2));
            self.cluster.start_osd();
            self.counts.osd_stops += 1;
            // Whether a backup outlasts that is the cluster's affair; that it ends is ours.
            for job in jobs {
                self.daemon.ended(&job);
            }
            self.daemon.done(&collecting);
        } else {
            // The moment is the test's input.
            thread::sleep(Duration::from_millis(self.numbers.below(300)));
            self.daemon.kill();
            self.counts.kills += 1;
            self.daemon.serve();
        }
        self.settle();
    }

    /// Waits until nothing is being made, restored or deleted any more.
    fn settle(&self) {
        until("the work to be finished", || {
            let is_busy = |id: &String| {
                info(&self.daemon, id)
                    .is_none_or(|info| !matches!(info["status"].as_str(), Some("available" | "error")))
            };
            (!listed(&self.daemon).iter().any(is_busy)).then_some(())
        });
    }

    /// Everything that is `available` is what the model says, and what was there is there still.
    fn check(&self) {
        let there = listed(&self.daemon);
        let mut model = self.model.lock().unwrap();
        for id in &there {
            let info = info(&self.daemon, id).unwrap();
            if info["status"] == "error" {
                let reason = info["fail_reason"].as_str().unwrap();
                assert!(reason.contains("SourceUnavailable"), "{info}\n{}", self.daemon.log());
                println!("{id}: {reason}");
                model.remove(id);
                continue;
            }
            assert_eq!(info["status"], "available", "{info}\n{}", self.daemon.log());
            assert!(fs::read(self.daemon.image(id)).unwrap() == model[id], "{info}");
            self.counts.images_compared.fetch_add(1, Ordering::Relaxed);
        }
        for id in model.keys() {
            assert!(there.contains(id), "backup {id} is lost: {}", self.daemon.log());
        }
    }

    fn holdings(&self) -> Holdings {
        let process = format!("/proc/{}", self.daemon.pid());
        let status = fs::read_to_string(format!("{process}/status")).unwrap();
        let number = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        Holdings {
            memory_bytes: number("VmRSS:") << 10,
            descriptors: fs::read_dir(format!("{process}/fd")).unwrap().count(),
            threads: usize::try_from(number("Threads:")).unwrap(),
        }
    }

    /// Nothing of ours is left on the cluster or beside the repository that nobody needs.
    fn check_leftovers(&mut self) {
        self.settle();
        for name in VOLUMES {
            let snapshots = self.cluster.rbd_json(&["snap", "ls", "--all", name]);
            let names: Vec<_> = snapshots.as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
            assert!(names.len() <= 1, "{name}: {names:?}");
        }
        let volumes = self.cluster.rbd_json(&["ls"]);
        assert_eq!(volumes, json!(VOLUMES), "a restore left a volume");
        let temporary = self.daemon.folder().join("repository/tmp");
        assert_eq!(fs::read_dir(temporary).unwrap().count(), 0);
        self.daemon.stop();
        for name in VOLUMES {
            let status = self.cluster.rbd_json(&["status", name]);
            assert_eq!(status["watchers"], json!([]), "{name}");
        }
    }
}

fn listed(daemon: &Daemon) -> Vec<String> {
    let entries = fs::read_dir(daemon.mount().join("backups")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn info(daemon: &Daemon, id: &str) -> Option<Value> {
    let text = fs::read(daemon.mount().join("backups").join(id).join("info.json")).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Reads backups through the mount for as long as the work goes on without a kill.
fn read_on(
    mount: &std::path::Path,
    model: &Mutex<BTreeMap<String, Vec<u8>>>,
    is_over: &AtomicBool,
    compared: &AtomicU64,
) {
    let mut numbers = Numbers::new(9);
    while !is_over.load(Ordering::Relaxed) {
        let chosen = {
            let model = model.lock().unwrap();
            let count = model.len() as u64;
            let at = if count == 0 { 0 } else { numbers.below(count) as usize };
            model.iter().nth(at).map(|(id, bytes)| (id.clone(), bytes.clone()))
        };
        let Some((id, bytes)) = chosen else { continue };
        // It may not be there yet, or not any more.
        let Ok(read) = fs::read(mount.join("backups").join(&id).join("image")) else { continue };
        assert!(read == bytes, "{id}");
        compared.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_long_run_of_everything_loses_nothing_and_leaks_nothing() {
    let seconds = std::env::var("AMBERFS_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let mut soak = Soak::start();
    let half = Instant::now() + Duration::from_secs(seconds / 2);
    let mut samples = Vec::new();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let (mount, model) = (soak.daemon.mount(), Arc::clone(&soak.model));
        let compared = Arc::clone(&soak.counts.images_compared);
        let is_over = &is_over;
        let reader = scope.spawn(move || read_on(&mount, &model, is_over, &compared));
        let mut round = 0;
        // Enough rounds that all caches, pools and tables are as large as they get.
        while Instant::now() < half || round < 16 {
            soak.round(round);
            soak.settle();
            samples.push(soak.holdings());
            round += 1;
            assert!(!reader.is_finished(), "the reader met something else than it should");
        }
        is_over.store(true, Ordering::Relaxed);
    });
    soak.check();
    assert_no_growth(&samples);

    let end = half + Duration::from_secs(seconds / 2);
    let mut round = 0;
    while Instant::now() < end || round < 16 {
        soak.disturb(round);
        soak.check();
        round += 1;
    }
    soak.check_leftovers();
    fs::remove_dir_all(soak.daemon.folder().join("repository/index")).unwrap();
    fs::remove_dir_all(soak.daemon.folder().join("repository/index-state")).unwrap();
    soak.daemon.serve();
    soak.check();
    let first = samples.first().copied().unwrap_or_default();
    println!(
        "{:?}; {} rounds in {seconds} s; holdings {first:?} to {:?}",
        soak.counts,
        samples.len(),
        samples.last()
    );
}

/// Compares the last quarter of the samples with the second: the first one fills the caches.
fn assert_no_growth(samples: &[Holdings]) {
    let quarter = samples.len() / 4;
    let most = |samples: &[Holdings], what: fn(&Holdings) -> u64| samples.iter().map(what).max().unwrap();
    let (early, late) = (&samples[quarter..quarter * 2], &samples[samples.len() - quarter..]);
    let memory = |holdings: &Holdings| holdings.memory_bytes;
    let descriptors = |holdings: &Holdings| holdings.descriptors as u64;
    let threads = |holdings: &Holdings| holdings.threads as u64;
    let all = format!("{samples:?}");
    assert!(most(late, memory) < most(early, memory) * 5 / 4 + (16 << 20), "{all}");
    // The store keeps up to 128 objects open, and each open image its own.
    assert!(most(late, descriptors) <= most(early, descriptors) + 128, "{all}");
    assert!(most(late, threads) <= most(early, threads) + 16, "{all}");
}
