//! A daemon over one source, and the volumes in it as their owner sees them.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
#[cfg(feature = "rbd")]
use std::sync::Mutex;

#[cfg(feature = "rbd")]
use serde_json::json;

use crate::support::bytes::pattern;
#[cfg(feature = "rbd")]
use crate::support::ceph::{CephCluster, Driver, POOL, RESTORE_USER};
use crate::support::daemon::Daemon;

pub const KIB: usize = 1 << 10;
pub const MIB: usize = 1 << 20;

pub struct World {
    pub daemon: Daemon,
    kind: Kind,
    /// Makes the names of this world's volumes its own: all worlds share the cluster's pool.
    tag: String,
}

enum Kind {
    Files(tempfile::TempDir),
    #[cfg(feature = "rbd")]
    Images {
        cluster: &'static CephCluster,
        driver: Mutex<Driver>,
    },
}

/// Runs a test on files, and on RBD images.
pub fn everywhere(test: impl Fn(&mut World)) {
    test(&mut World::files(""));
    #[cfg(feature = "rbd")]
    test(&mut World::images(""));
}

impl World {
    /// Directory of images; `sections` are added to the configuration.
    pub fn files(sections: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = format!("[source.local]\ntype = \"dir\"\npath = \"{}\"\n", folder.path().display());
        let daemon = Daemon::start(&format!("{sections}\n{source}"));
        Self { daemon, kind: Kind::Files(folder), tag: tag() }
    }

    /// RBD images on this test binary's cluster.
    #[cfg(feature = "rbd")]
    pub fn images(sections: &str) -> Self {
        Self::images_on(CephCluster::shared(), sections, 20)
    }

    /// RBD images on a cluster that the test may break; it goes with this process.
    #[cfg(feature = "rbd")]
    pub fn images_to_break() -> Self {
        Self::images_on(Box::leak(Box::new(CephCluster::start())), "", 5)
    }

    #[cfg(feature = "rbd")]
    fn images_on(cluster: &'static CephCluster, sections: &str, timeout_seconds: u64) -> Self {
        let source = format!(
            "[source.rbd]\ntype = \"rbd\"\nconf = \"{}\"\nuser = \"{RESTORE_USER}\"\npool = \"{POOL}\"\ntimeout_seconds = {timeout_seconds}\n",
            cluster.conf().display()
        );
        let daemon = Daemon::start(&format!("{sections}\n{source}"));
        Self { daemon, kind: Kind::Images { cluster, driver: Mutex::new(cluster.driver()) }, tag: tag() }
    }

    pub fn is_rbd(&self) -> bool {
        !matches!(self.kind, Kind::Files(_))
    }

    pub fn source(&self) -> &'static str {
        if self.is_rbd() { "rbd" } else { "local" }
    }

    /// The name of a volume of this world.
    pub fn name(&self, name: &str) -> String {
        format!("{name}-{}", self.tag)
    }

    /// The same with its source, as commands take it.
    pub fn volume(&self, name: &str) -> String {
        format!("{}/{}", self.source(), self.name(name))
    }

    /// The file of a volume in a directory.
    pub fn path(&self, name: &str) -> PathBuf {
        match &self.kind {
            Kind::Files(folder) => folder.path().join(self.name(name)),
            #[cfg(feature = "rbd")]
            Kind::Images { .. } => panic!("RBD images are no files"),
        }
    }

    /// Runs something of the cluster's Python client.
    #[cfg(feature = "rbd")]
    pub fn client(&self, command: serde_json::Value) -> serde_json::Value {
        match &self.kind {
            Kind::Files(_) => panic!("files have no cluster"),
            Kind::Images { driver, .. } => driver.lock().unwrap().run(command),
        }
    }

    #[cfg(feature = "rbd")]
    pub fn cluster(&self) -> &'static CephCluster {
        match &self.kind {
            Kind::Files(_) => panic!("files have no cluster"),
            Kind::Images { cluster, .. } => cluster,
        }
    }

    /// Makes a volume, or makes one that there is equal to these bytes, size and holes included.
    pub fn fill(&self, name: &str, bytes: &[u8]) {
        match &self.kind {
            Kind::Files(_) => fill_file(&self.path(name), bytes),
            #[cfg(feature = "rbd")]
            Kind::Images { driver, cluster } => {
                let mut driver = driver.lock().unwrap();
                let name = self.name(name);
                let file = tempfile::NamedTempFile::new().unwrap();
                fs::write(file.path(), bytes).unwrap();
                let list = driver.run(json!({"op": "list"}));
                if !list["ok"].as_array().unwrap().iter().any(|listed| *listed == name.as_str()) {
                    let features = "layering,exclusive-lock,object-map,fast-diff,deep-flatten";
                    let path = file.path().to_str().unwrap();
                    cluster.rbd(&["import", "--no-progress", "--image-feature", features, path, &name]);
                    return;
                }
                driver.run(json!({"op": "resize", "name": name, "size": bytes.len()}));
                driver.run(json!({"op": "write_file", "name": name, "path": file.path()}));
                driver.run(json!({"op": "close", "name": name}));
            }
        }
    }

    /// Returns a volume's bytes; nothing when there is no such volume.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        self.bytes_of(&self.name(name))
    }

    /// Returns the bytes of a volume by its whole name.
    pub fn bytes_of(&self, whole_name: &str) -> Option<Vec<u8>> {
        match &self.kind {
            Kind::Files(folder) => {
                let candidates = [whole_name.to_owned(), format!("{whole_name}.raw")];
                candidates.iter().find_map(|name| fs::read(folder.path().join(name)).ok())
            }
            #[cfg(feature = "rbd")]
            Kind::Images { driver, .. } => {
                let mut driver = driver.lock().unwrap();
                let list = driver.run(json!({"op": "list"}));
                let is_there = list["ok"].as_array().unwrap().iter().any(|listed| *listed == whole_name);
                is_there.then(|| driver.read(whole_name, None))
            }
        }
    }

    /// Lists the names of this world's volumes, and of those that restores are filling.
    pub fn volumes(&self) -> Vec<String> {
        let mut names: Vec<String> = match &self.kind {
            Kind::Files(folder) => {
                let entries = fs::read_dir(folder.path()).unwrap();
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
            }
            #[cfg(feature = "rbd")]
            Kind::Images { driver, .. } => {
                let list = driver.lock().unwrap().run(json!({"op": "list"}));
                let names = list["ok"].as_array().unwrap().iter();
                names.map(|name| name.as_str().unwrap().to_owned()).collect()
            }
        };
        // Other worlds' restores are on the same cluster.
        let is_ours = |name: &String| {
            let of_backup = name.trim_end_matches(".raw").strip_prefix("restore_backup_");
            of_backup.is_some_and(|id| self.is_there(id))
        };
        names.retain(|name| name.contains(&self.tag) || is_ours(name));
        names.sort();
        names
    }

    /// Lists the snapshots that amberfs has on a volume.
    pub fn own_snapshots(&self, name: &str) -> Vec<String> {
        self.snapshots(name).into_iter().filter(|snapshot| snapshot.starts_with("amberfs.")).collect()
    }

    pub fn snapshots(&self, name: &str) -> Vec<String> {
        match &self.kind {
            // Nobody makes any, and ours are files beside the volume: `volumes` shows them.
            Kind::Files(_) => {
                let _ = name;
                Vec::new()
            }
            #[cfg(feature = "rbd")]
            Kind::Images { cluster, .. } => {
                let list = cluster.rbd_json(&["snap", "ls", &format!("{POOL}/{}", self.name(name))]);
                let names = list.as_array().unwrap().iter();
                names.map(|snapshot| snapshot["name"].as_str().unwrap().to_owned()).collect()
            }
        }
    }

    /// Opens a volume for writing, as a client does, until what is returned is dropped.
    pub fn hold_open(&self, name: &str) -> Held<'_> {
        match &self.kind {
            Kind::Files(_) => {
                let file = OpenOptions::new().write(true).open(self.path(name)).unwrap();
                Held { world: self, name: self.name(name), _file: Some(file) }
            }
            #[cfg(feature = "rbd")]
            Kind::Images { driver, .. } => {
                let name = self.name(name);
                let write = json!({"op": "write", "name": name, "offset": 0, "length": 1, "seed": 1});
                driver.lock().unwrap().run(write);
                Held { world: self, name, _file: None }
            }
        }
    }

    /// Backs up and returns the id; see [`Daemon::backup`].
    pub fn backup(&self, name: &str, options: &str) -> String {
        self.daemon.backup(&format!("{} {options}", self.volume(name)))
    }

    pub fn image(&self, id: &str) -> Vec<u8> {
        fs::read(self.daemon.image(id)).unwrap_or_else(|error| panic!("{id}: {error}: {}", self.daemon.log()))
    }

    pub fn is_there(&self, id: &str) -> bool {
        self.daemon.mount().join("backups").join(id).exists()
    }

    /// Deletes backups in one command and waits.
    pub fn delete(&self, backups: &[&str]) {
        for pair in self.accepted_pairs("delete", &backups.join(" ")) {
            if let Some(job) = pair.strip_prefix("job=") {
                self.daemon.done(job);
            }
        }
    }

    pub fn flatten(&self, backup: &str) {
        let job = self.daemon.accepted("flatten", &format!("{backup}\n"), "job");
        self.daemon.done(&job);
    }

    /// Says something that is accepted and returns the pairs of the answer.
    pub fn accepted_pairs(&self, file: &str, line: &str) -> Vec<String> {
        let said = self.daemon.say(file, &format!("{line}\n"));
        assert!(said.write.is_ok(), "{line:?}: {}", said.answer);
        said.answer.split_whitespace().map(str::to_owned).collect()
    }
}

/// A volume that is open for writing.
pub struct Held<'a> {
    #[cfg_attr(not(feature = "rbd"), allow(dead_code, reason = "an RBD client is told to close"))]
    world: &'a World,
    #[cfg_attr(not(feature = "rbd"), allow(dead_code, reason = "an RBD client is told to close"))]
    name: String,
    _file: Option<File>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        #[cfg(feature = "rbd")]
        if let Kind::Images { driver, .. } = &self.world.kind
            && let Ok(mut driver) = driver.lock()
        {
            let _ = driver.try_run(&json!({"op": "close", "name": self.name}));
        }
    }
}

fn tag() -> String {
    uuid::Uuid::new_v4().simple().to_string()[..8].to_owned()
}

/// Blocks of zeros become holes.
fn fill_file(path: &std::path::Path, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (number, block) in bytes.chunks(64 * KIB).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, (number * 64 * KIB) as u64).unwrap();
        }
    }
}

/// A volume's bytes: `length` of them, of a sort of its own for each seed, with a hole in the middle third.
pub fn with_hole(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = pattern(seed, length);
    bytes[length / 3..length / 3 * 2].fill(0);
    bytes
}

/// Changes a few places of a volume's bytes.
pub fn changed(bytes: &[u8], seed: u64) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    let step = (changed.len() / 5).max(1);
    for (number, start) in (0..changed.len()).step_by(step).enumerate() {
        let end = (start + 5000).min(changed.len());
        let new = pattern(seed * 1000 + number as u64, end - start);
        changed[start..end].copy_from_slice(&new);
    }
    changed
}
