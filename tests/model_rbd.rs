//! A model of RBD images on a real cluster: random writes, discards, write-zeroes, grows, shrinks, snapshots,
//! clones and flattens; full and incremental backups, also of snapshots; restores; restarts; losses of the index and
//! of the base snapshot. After every step every image is what Ceph said the volume was at the moment of its backup.
//!
//! `AMBERFS_MODEL_CASES` asks for more cases than the default.

#![cfg(feature = "rbd")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed expectation is a failed test")]

mod support;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use amberfs::operations::{BackupRequest, RestoreRequest};
use amberfs::source::Source;
use amberfs::types::{BackupId, MIB};
use proptest::prelude::*;
use serde_json::json;
use support::ceph::{CephCluster, Driver, RESTORE_USER};
use support::engine::{Engine, full, incremental};

const SIZE_MAX: u64 = 10 * MIB;
/// 1 MiB objects: an image has several, and a case is fast.
const ORDER: u64 = 20;
const FEATURES_ALL: u64 = 61;
const FEATURES_LAYERING: u64 = 1;

#[derive(Debug, Clone)]
enum Op {
    Write {
        offset: u64,
        length: u64,
        seed: u64,
    },
    Discard {
        offset: u64,
        length: u64,
    },
    WriteZeroes {
        offset: u64,
        length: u64,
    },
    Resize {
        size: u64,
    },
    Flatten,
    Full,
    Incremental,
    /// A snapshot of the user's, a change behind it, and a backup of the snapshot.
    OfSnapshot {
        incremental: bool,
    },
    /// Somebody removes the snapshots that amberfs keeps.
    LoseBase,
    RestoreNew {
        backup: usize,
    },
    RestoreOver {
        backup: usize,
    },
    Restart,
    LoseIndex,
}

fn op() -> impl Strategy<Value = Op> {
    let offset = prop_oneof![0..SIZE_MAX, (0..SIZE_MAX / 4096).prop_map(|block| block * 4096)];
    let length = prop_oneof![Just(100_u64), Just(512), Just(4096), Just(65_536), 1..2 * MIB];
    let range = (offset, length);
    prop_oneof![
        6 => (range.clone(), 0..1000_u64).prop_map(|((offset, length), seed)| Op::Write { offset, length, seed }),
        2 => range.clone().prop_map(|(offset, length)| Op::Discard { offset, length }),
        1 => range.prop_map(|(offset, length)| Op::WriteZeroes { offset, length }),
        2 => prop_oneof![Just(0), Just(1), Just(513), 0..SIZE_MAX].prop_map(|size| Op::Resize { size }),
        1 => Just(Op::Flatten),
        1 => Just(Op::Full),
        7 => Just(Op::Incremental),
        1 => any::<bool>().prop_map(|incremental| Op::OfSnapshot { incremental }),
        1 => Just(Op::LoseBase),
        1 => any::<usize>().prop_map(|backup| Op::RestoreNew { backup }),
        1 => any::<usize>().prop_map(|backup| Op::RestoreOver { backup }),
        1 => Just(Op::Restart),
        1 => Just(Op::LoseIndex),
    ]
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    features: u64,
    is_clone: bool,
    striped: bool,
}

fn shape() -> impl Strategy<Value = Shape> {
    (prop_oneof![Just(FEATURES_ALL), Just(FEATURES_LAYERING)], any::<bool>(), any::<bool>())
        .prop_map(|(features, is_clone, striped)| Shape { features, is_clone, striped: striped && !is_clone })
}

struct World {
    folder: tempfile::TempDir,
    cluster: &'static CephCluster,
    driver: Driver,
    engine: Option<Engine>,
    name: String,
    size: u64,
    backups: Vec<(BackupId, Vec<u8>)>,
    steps: usize,
}

impl World {
    fn new(shape: Shape) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let cluster = CephCluster::shared();
        let mut driver = cluster.driver();
        let name = format!("model-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let size = 6 * MIB;
        let create = |name: &str, features: u64| {
            let mut command =
                json!({"op": "create", "name": name, "size": size, "order": ORDER, "features": features});
            if shape.striped {
                command["stripe_unit"] = json!(65_536);
                command["stripe_count"] = json!(3);
            }
            command
        };
        if shape.is_clone {
            let parent = format!("{name}-parent");
            driver.run(create(&parent, FEATURES_ALL));
            driver.write(&parent, MIB / 2, 3 * MIB, 7);
            driver.snapshot(&parent, "base");
            driver.run(json!({"op": "clone", "parent": parent, "snapshot": "base", "name": name, "features": shape.features, "order": ORDER}));
        } else {
            driver.run(create(&name, shape.features));
        }
        let folder = tempfile::tempdir().unwrap();
        let mut world =
            Self { folder, cluster, driver, engine: None, name, size, backups: Vec::new(), steps: 0 };
        world.open();
        world
    }

    fn open(&mut self) {
        let sources: Vec<Arc<dyn Source>> = vec![Arc::new(self.cluster.source(RESTORE_USER))];
        self.engine = Some(Engine::open(&self.folder.path().join("repository"), sources));
    }

    fn close(&mut self) {
        self.engine.take().unwrap().close();
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    /// The volume as Ceph reads it now.
    fn bytes(&mut self) -> Vec<u8> {
        self.driver.run(json!({"op": "flush", "name": self.name}));
        self.driver.read(&self.name, None)
    }

    /// amberfs may write only to what nobody else has open.
    fn close_image(&mut self) {
        self.driver.run(json!({"op": "close", "name": self.name}));
    }

    fn backup(&mut self, request: BackupRequest, expected: Vec<u8>) {
        let record = self.engine().backup(BackupRequest { force: true, ..request });
        assert_eq!(record.size_bytes, expected.len() as u64);
        self.backups.push((record.id, expected));
    }

    fn apply(&mut self, op: &Op) {
        self.steps += 1;
        let (name, size) = (self.name.clone(), self.size);
        let within = |offset: u64, length: u64| {
            let offset = offset.min(size);
            (offset, length.min(size - offset))
        };
        match *op {
            Op::Write { offset, length, seed } => {
                let (offset, length) = within(offset, length);
                self.driver.write(&name, offset, length, seed);
            }
            Op::Discard { offset, length } => {
                let (offset, length) = within(offset, length);
                self.driver.run(json!({"op": "discard", "name": name, "offset": offset, "length": length}));
            }
            Op::WriteZeroes { offset, length } => {
                let (offset, length) = within(offset, length);
                self.driver
                    .run(json!({"op": "write_zeroes", "name": name, "offset": offset, "length": length}));
            }
            Op::Resize { size } => {
                self.driver.run(json!({"op": "resize", "name": name, "size": size}));
                self.size = size;
            }
            Op::Flatten => {
                // Not an error when there is no parent any more.
                self.driver.try_run(&json!({"op": "flatten", "name": name}));
            }
            Op::Full => {
                let bytes = self.bytes();
                self.backup(full(&name), bytes);
            }
            Op::Incremental => {
                let bytes = self.bytes();
                self.backup(incremental(&name), bytes);
            }
            Op::OfSnapshot { incremental: is_incremental } => {
                let snapshot = format!("user-{}", self.steps);
                let bytes = self.bytes();
                self.driver.snapshot(&name, &snapshot);
                let (offset, length) = within(0, 100_000);
                self.driver.write(&name, offset, length, 77);
                let request = if is_incremental { incremental(&name) } else { full(&name) };
                self.backup(BackupRequest { snapshot: Some(snapshot.clone()), ..request }, bytes);
                let there = self
                    .engine()
                    .operations
                    .sources()
                    .iter()
                    .next()
                    .unwrap()
                    .snapshots(&name.parse().unwrap());
                assert!(
                    there.unwrap().iter().any(|known| known.name.as_str() == snapshot),
                    "the user's snapshot is gone"
                );
            }
            Op::LoseBase => {
                let source = Arc::clone(self.engine().operations.sources().iter().next().unwrap());
                for snapshot in source.snapshots(&name.parse().unwrap()).unwrap() {
                    if snapshot.name.as_str().starts_with("amberfs.") {
                        let snapshot = snapshot.name.as_str();
                        self.driver.run(json!({"op": "remove_snapshot", "name": name, "snapshot": snapshot}));
                    }
                }
            }
            Op::RestoreNew { backup } if !self.backups.is_empty() => {
                let (id, bytes) = self.backups[backup % self.backups.len()].clone();
                let restored = format!("{name}-restored-{}", self.steps);
                let request = RestoreRequest {
                    backup: id.to_string(),
                    name: Some(restored.clone()),
                    ..RestoreRequest::default()
                };
                assert_eq!(self.engine().restore(request), restored);
                assert!(self.driver.read(&restored, None) == bytes, "the restored volume differs");
                self.cluster.rbd(&["rm", "--no-progress", &restored]);
            }
            Op::RestoreOver { backup } if !self.backups.is_empty() => {
                let (id, bytes) = self.backups[backup % self.backups.len()].clone();
                if bytes.len() as u64 > size {
                    return;
                }
                self.close_image();
                let request = RestoreRequest {
                    backup: id.to_string(),
                    to: Some(name.clone()),
                    force: true,
                    ..RestoreRequest::default()
                };
                self.engine().restore(request);
                let now = self.driver.read(&name, None);
                assert!(now[..bytes.len()] == bytes, "the volume restored over differs");
                assert!(
                    now[bytes.len()..].iter().all(|byte| *byte == 0),
                    "behind the backup's end there are no zeros"
                );
            }
            Op::RestoreNew { .. } | Op::RestoreOver { .. } => {}
            Op::Restart => {
                self.close();
                self.open();
            }
            Op::LoseIndex => {
                self.close();
                fs::remove_dir_all(self.folder.path().join("repository/index")).unwrap();
                self.open();
            }
        }
    }

    fn check(&self) {
        for (id, bytes) in &self.backups {
            let image = self.engine().image(*id);
            let difference = image.iter().zip(bytes).position(|(image, volume)| image != volume);
            assert!(image == *bytes, "the image of {id} differs, first at {difference:?}");
        }
    }

    /// Only the newest backup's snapshot, and those of users, are left.
    fn check_snapshots(&self) {
        let source = self.engine().operations.sources().iter().next().unwrap();
        let there = source.snapshots(&self.name.parse().unwrap()).unwrap();
        let ours = there.iter().filter(|snapshot| snapshot.name.as_str().starts_with("amberfs.")).count();
        assert!(ours <= 1, "{ours} snapshots of ours are left");
    }
}

fn cases() -> u32 {
    std::env::var("AMBERFS_MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(16)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn every_image_is_what_ceph_said_the_volume_was(shape in shape(), ops in prop::collection::vec(op(), 5..25)) {
        let mut world = World::new(shape);
        for op in &ops {
            world.apply(op);
            world.check();
        }
        world.check_snapshots();
        world.close();
    }
}
