//! A model of volumes in a directory: random changes, backups, restores, restarts and losses of the index. After
//! every step every image equals what the volume was at the moment of its backup.
//!
//! The model keeps the volumes' bytes. `AMBERFS_MODEL_CASES` asks for more cases than the default.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed expectation is a failed test")]

mod support;

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use amberfs::operations::RestoreRequest;
use amberfs::source::Source;
use amberfs::source::dir::DirSource;
use amberfs::types::BackupId;
use proptest::prelude::*;
use rustix::fs::FallocateFlags;
use support::engine::{Engine, full, incremental};

const SIZE_MAX: u64 = 3 << 20;

#[derive(Debug, Clone)]
enum Op {
    /// Bytes from a pattern of this seed; seed 0 is zeros.
    Write {
        offset: u64,
        length: u64,
        seed: u8,
    },
    Punch {
        offset: u64,
        length: u64,
    },
    Resize {
        size: u64,
    },
    Full,
    Incremental,
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
    let length = prop_oneof![Just(512_u64), Just(4096), Just(65_536), 1..300_000_u64];
    prop_oneof![
        6 => (offset.clone(), length.clone(), 0..6_u8).prop_map(|(offset, length, seed)| Op::Write { offset, length, seed }),
        2 => (offset, length).prop_map(|(offset, length)| Op::Punch { offset, length }),
        2 => prop_oneof![Just(0), Just(1), Just(511), Just(513), 0..SIZE_MAX].prop_map(|size| Op::Resize { size }),
        2 => Just(Op::Full),
        6 => Just(Op::Incremental),
        1 => any::<usize>().prop_map(|backup| Op::RestoreNew { backup }),
        1 => any::<usize>().prop_map(|backup| Op::RestoreOver { backup }),
        1 => Just(Op::Restart),
        1 => Just(Op::LoseIndex),
    ]
}

struct World {
    folder: tempfile::TempDir,
    engine: Option<Engine>,
    volume: Vec<u8>,
    backups: Vec<(BackupId, Vec<u8>)>,
    restored: usize,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("volumes")).unwrap();
        let mut world = Self { folder, engine: None, volume: Vec::new(), backups: Vec::new(), restored: 0 };
        File::create(world.path("v")).unwrap();
        world.open();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("volumes").join(format!("{name}.raw"))
    }

    fn open(&mut self) {
        let source = DirSource::open("local".parse().unwrap(), self.folder.path().join("volumes")).unwrap();
        let sources: Vec<Arc<dyn Source>> = vec![Arc::new(source)];
        self.engine = Some(Engine::open(&self.folder.path().join("repository"), sources));
    }

    fn close(&mut self) {
        self.engine.take().unwrap().close();
    }

    fn apply(&mut self, op: &Op) {
        let file = File::options().write(true).open(self.path("v")).unwrap();
        let size = self.volume.len() as u64;
        let clip = |offset: u64, length: u64| (offset.min(size), length.min(size - offset.min(size)));
        match *op {
            Op::Write { offset, length, seed } => {
                let (offset, length) = clip(offset, length);
                let bytes: Vec<u8> = (0..length).map(|n| pattern(seed, offset + n)).collect();
                file.write_all_at(&bytes, offset).unwrap();
                self.volume[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
            }
            Op::Punch { offset, length } => {
                let (offset, length) = clip(offset, length);
                if length > 0 {
                    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    rustix::fs::fallocate(&file, flags, offset, length).unwrap();
                }
                self.volume[offset as usize..][..length as usize].fill(0);
            }
            Op::Resize { size } => {
                file.set_len(size).unwrap();
                self.volume.resize(size as usize, 0);
            }
            Op::Full | Op::Incremental => {
                drop(file);
                let request = if matches!(op, Op::Full) { full("v") } else { incremental("local/v") };
                let record = self.engine().backup(request);
                assert_eq!(record.size_bytes, self.volume.len() as u64);
                self.backups.push((record.id, self.volume.clone()));
            }
            Op::RestoreNew { backup } if !self.backups.is_empty() => {
                let (id, bytes) = &self.backups[backup % self.backups.len()];
                let name = format!("restored-{}", self.restored);
                let request = RestoreRequest {
                    backup: id.to_string(),
                    name: Some(name.clone()),
                    ..RestoreRequest::default()
                };
                assert_eq!(self.engine().restore(request), name);
                assert!(fs::read(self.path(&name)).unwrap() == *bytes, "the restored volume differs");
                fs::remove_file(self.path(&name)).unwrap();
                self.restored += 1;
            }
            Op::RestoreOver { backup } if !self.backups.is_empty() => {
                drop(file);
                let (id, bytes) = self.backups[backup % self.backups.len()].clone();
                if bytes.len() > self.volume.len() {
                    return;
                }
                let request = RestoreRequest {
                    backup: id.to_string(),
                    to: Some("local/v".to_owned()),
                    force: true,
                    ..RestoreRequest::default()
                };
                self.engine().restore(request);
                self.volume.fill(0);
                self.volume[..bytes.len()].copy_from_slice(&bytes);
                assert!(fs::read(self.path("v")).unwrap() == self.volume, "the volume restored over differs");
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

    fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    fn check(&self) {
        let allocated: HashMap<_, _> = self
            .engine()
            .operations
            .repository()
            .catalog()
            .all()
            .iter()
            .map(|r| (r.id, r.allocated_bytes))
            .collect();
        for (id, bytes) in &self.backups {
            assert!(self.engine().image(*id) == *bytes, "the image of {id} differs");
            let image = self.engine().operations.repository().image(*id).unwrap();
            let whole = amberfs::types::ByteRange::new(0, image.size_bytes());
            assert_eq!(image.allocated_bytes(whole).unwrap(), allocated[id], "allocated bytes of {id}");
            check_holes(&image, bytes);
        }
    }
}

/// Holes are zeros, and data and holes alternate to the end.
fn check_holes(image: &amberfs::image::Image, bytes: &[u8]) {
    let mut from = 0;
    while let Some(data) = image.next_data(from).unwrap() {
        assert!(bytes[from as usize..data as usize].iter().all(|byte| *byte == 0));
        let hole = image.next_hole(data).unwrap();
        assert!(hole > data);
        from = hole;
    }
    assert!(bytes[from as usize..].iter().all(|byte| *byte == 0));
}

fn pattern(seed: u8, offset: u64) -> u8 {
    if seed == 0 { 0 } else { (offset / 7 % 251) as u8 ^ seed }
}

fn cases() -> u32 {
    std::env::var("AMBERFS_MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_image_is_what_the_volume_was(ops in prop::collection::vec(op(), 1..30)) {
        let mut world = World::new();
        for op in &ops {
            world.apply(op);
            world.check();
        }
        world.close();
    }
}
