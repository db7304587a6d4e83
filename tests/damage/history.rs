//! A repository with a full backup and two incrementals of one volume, and what can be said of it after damage.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use amberfs::catalog::BackupRecord;
use amberfs::format::manifest::Target;
use amberfs::format::pack::{PackEntry, PackTail, TAIL_LENGTH, decode_footer};
use amberfs::objects::ObjectName;
use amberfs::source::Source;
use amberfs::source::dir::DirSource;
use amberfs::store::StoreError;
use amberfs::types::{BackupId, ByteRange, ChunkId, PackId};

use crate::support::bytes::pattern;
use crate::support::engine::{Engine, full, incremental};
use crate::support::tree;

pub const CHUNK: usize = 64 << 10;
/// The grain in which images are probed.
const PROBE: usize = 4096;
/// Two regions of the image, so that damage in one can be told from the other.
const SIZE: usize = (5 << 20) + 100;

struct Template {
    folder: tempfile::TempDir,
    backups: Vec<BackupId>,
    images: Vec<Vec<u8>>,
}

/// A copy of the repository, closed, to be damaged.
pub struct History {
    folder: tempfile::TempDir,
    /// Full, first and second incremental.
    pub backups: Vec<BackupId>,
    pub images: Vec<Vec<u8>>,
}

/// What reading an image in small pieces gave.
pub struct Reading {
    pub unreadable: Vec<ByteRange>,
    pub errors: Vec<Arc<StoreError>>,
}

fn template() -> &'static Template {
    static TEMPLATE: OnceLock<Template> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("volumes")).unwrap();
        let engine = open(folder.path());
        let mut bytes = vec![0; SIZE];
        for chunk in [0_usize, 1, 2, 3, 10, 30, 64, 65, 80] {
            let end = ((chunk + 1) * CHUNK).min(SIZE);
            bytes[chunk * CHUNK..end].copy_from_slice(&pattern(chunk as u64, end - chunk * CHUNK));
        }
        let mut images = Vec::new();
        let mut backups = Vec::new();
        for turn in 0..3_u64 {
            if turn > 0 {
                // A chunk of its own, a small change, and a hole.
                let own = (10 + turn as usize) * CHUNK;
                bytes[own..own + CHUNK].copy_from_slice(&pattern(100 + turn, CHUNK));
                let small = turn as usize * CHUNK + 8192;
                bytes[small..small + 5000].copy_from_slice(&pattern(200 + turn, 5000));
                bytes[65 * CHUNK..65 * CHUNK + 4096 * turn as usize].fill(0);
            }
            std::fs::write(folder.path().join("volumes/v.raw"), &bytes).unwrap();
            let record = engine.backup(if turn == 0 { full("v") } else { incremental("v") });
            assert_eq!(record.is_incremental(), turn > 0);
            images.push(bytes.clone());
            backups.push(record.id);
        }
        engine.close();
        Template { folder, backups, images }
    })
}

fn open(folder: &Path) -> Engine {
    let source = DirSource::open("local".parse().unwrap(), folder.join("volumes")).unwrap();
    Engine::open(&folder.join("repository"), vec![Arc::new(source) as Arc<dyn Source>])
}

impl History {
    pub fn new() -> Self {
        let template = template();
        let folder = tempfile::tempdir().unwrap();
        tree::copy(template.folder.path(), folder.path());
        Self { folder, backups: template.backups.clone(), images: template.images.clone() }
    }

    pub fn repository(&self) -> PathBuf {
        self.folder.path().join("repository")
    }

    pub fn open(&self) -> Engine {
        open(self.folder.path())
    }

    pub fn path(&self, name: ObjectName) -> PathBuf {
        self.repository().join(name.to_string())
    }

    pub fn record(&self, number: usize) -> BackupRecord {
        let bytes = std::fs::read(self.path(ObjectName::Record(self.backups[number]))).unwrap();
        BackupRecord::decode(&bytes).unwrap()
    }

    pub fn manifest(&self, number: usize) -> ObjectName {
        ObjectName::Manifest(self.record(number).manifest.unwrap().id)
    }

    pub fn delete_index(&self) {
        std::fs::remove_dir_all(self.repository().join("index")).unwrap();
    }

    /// Returns the packs with their chunks; the full backup's has the most.
    pub fn packs(&self) -> Vec<(PackId, Vec<PackEntry>)> {
        let files = tree::files(&self.repository().join("packs"));
        let mut packs: Vec<_> = files
            .into_iter()
            .map(|(path, bytes)| {
                let tail =
                    PackTail::decode(bytes.last_chunk::<TAIL_LENGTH>().unwrap(), bytes.len() as u64).unwrap();
                let entries =
                    decode_footer(tail, &bytes[usize::try_from(tail.chunks_end()).unwrap()..]).unwrap();
                (path[3..].parse().unwrap(), entries)
            })
            .collect();
        packs.sort_by_key(|(_, entries)| std::cmp::Reverse(entries.len()));
        packs
    }

    /// Returns where each image takes bytes from one of these chunks, as probes find it. Needs an undamaged one.
    pub fn ranges_of(&self, chunks: &BTreeSet<ChunkId>) -> Vec<Vec<ByteRange>> {
        let whole = Self::new();
        let engine = whole.open();
        let ranges = self.backups.iter().map(|id| {
            let image = engine.operations.repository().image(*id).unwrap();
            let mut blocks = BTreeSet::new();
            let visit = |segment: amberfs::format::manifest::ManifestExtent| {
                if matches!(segment.target, Target::Chunk { id, .. } if chunks.contains(&id)) {
                    let last = segment.range.end() - 1;
                    blocks.extend(segment.range.start() / PROBE as u64..=last / PROBE as u64);
                }
            };
            image.segments(ByteRange::new(0, image.size_bytes()), visit).unwrap();
            merged(blocks)
        });
        ranges.collect()
    }

    /// Reads an image in small pieces: what can be read is right.
    pub fn read(&self, engine: &Engine, number: usize) -> Reading {
        let image = engine.operations.repository().image(self.backups[number]).unwrap();
        let expected = &self.images[number];
        assert_eq!(image.size_bytes(), expected.len() as u64);
        let (mut blocks, mut errors) = (BTreeSet::new(), Vec::new());
        for (block, expected) in expected.chunks(PROBE).enumerate() {
            let mut bytes = vec![0xa5; expected.len()];
            match image.read((block * PROBE) as u64, &mut bytes) {
                Ok(length) => {
                    assert!(length == expected.len() && bytes == expected, "image {number}, block {block}")
                }
                Err(error) => {
                    blocks.insert(block as u64);
                    errors.push(error);
                }
            }
        }
        Reading { unreadable: merged(blocks), errors }
    }

    pub fn assert_whole(&self, engine: &Engine) {
        for number in 0..3 {
            assert_eq!(self.read(engine, number).unreadable, [], "image {number}");
        }
    }

    /// A full and an incremental backup of the volume succeed and read back exactly, also without the index.
    pub fn assert_backed_up_again(&self, engine: Engine) {
        let full = engine.backup(full("v")).id;
        assert!(engine.image(full) == self.images[2]);
        let incremental = engine.backup(incremental("v")).id;
        assert!(engine.image(incremental) == self.images[2]);
        engine.close();
        self.delete_index();
        let engine = self.open();
        assert!(engine.image(full) == self.images[2], "without the index");
        assert!(engine.image(incremental) == self.images[2], "without the index");
    }

    /// An incremental backup that leans on whatever can be leaned on reads back exactly.
    pub fn assert_incremental_is_whole(&self, engine: Engine) -> Arc<BackupRecord> {
        let record = engine.backup(incremental("v"));
        assert!(engine.image(record.id) == self.images[2]);
        let image = engine.operations.repository().image(record.id).unwrap();
        assert_eq!(
            image.allocated_bytes(ByteRange::new(0, image.size_bytes())).unwrap(),
            record.allocated_bytes
        );
        engine.close();
        self.delete_index();
        assert!(self.open().image(record.id) == self.images[2], "without the index");
        record
    }
}

fn merged(blocks: BTreeSet<u64>) -> Vec<ByteRange> {
    let mut ranges: Vec<ByteRange> = Vec::new();
    for block in blocks {
        let range = ByteRange::new(block * PROBE as u64, PROBE as u64);
        match ranges.last_mut() {
            Some(last) if last.end() == range.start() => {
                *last = ByteRange::between(last.start(), range.end())
            }
            _ => ranges.push(range),
        }
    }
    ranges
}

pub fn flip_bit(path: &Path, position: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[position] ^= 0x10;
    // In place, as a disk does it: whoever has the file open sees it.
    std::fs::write(path, bytes).unwrap();
}

pub fn truncate(path: &Path, length: u64) {
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
}
