//! How fast one thread decodes the chunks of a backup, from memory, in image order: the measure for cold reads.
//!
//! `cargo bench --bench decode_limit -- REPOSITORY [BACKUP]` (the newest one when none is named). The repository is a
//! directory, opened for reading. What is timed for each chunk: zstd (or a copy), and SHA-256; nothing is cached, and the
//! stored bytes are in memory before. Counted in time on the CPU, so that others on the machine make little difference.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a measurement that fails is given up, and its result is printed"
)]

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use amberfs::format::codec::{self, Compression};
use amberfs::format::manifest::Target;
use amberfs::format::pack::{self, PackEntry, PackTail, TAIL_LENGTH};
use amberfs::objects::{ObjectKind, ObjectName, ObjectStore};
use amberfs::repository::{Location, Repository, RepositoryOptions};
use amberfs::types::{ByteRange, ChunkId, PackId};

/// Stored bytes are read in groups of about this size, and a group is decoded under the clock.
const GROUP_BYTES: usize = 64 << 20;

fn main() {
    // cargo bench adds --bench.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let Some(path) = arguments.first() else {
        println!("usage: cargo bench --bench decode_limit -- REPOSITORY [BACKUP]");
        return;
    };
    let path = PathBuf::from(path).canonicalize().expect("the repository's directory");
    let options = RepositoryOptions {
        index: None,
        compression: Compression::Zstd { level: 3 },
        cache_bytes: 256 << 20,
    };
    let repository = Repository::open(&Location::Directory(path), &options).expect("the repository opens");
    let objects = repository.objects();
    let places = places(objects.as_ref());
    let chunks = chunks_in_order(&repository, arguments.get(1).map(String::as_str));
    let mut decoder = Decoder::default();
    let mut group = Vec::new();
    let mut group_bytes = 0;
    for id in chunks {
        let (pack, entry) = places[&id];
        let mut stored = vec![0; entry.stored_length as usize];
        objects.read(ObjectName::Pack(pack), entry.offset.into(), &mut stored).unwrap();
        group_bytes += stored.len();
        group.push((entry, stored));
        if group_bytes >= GROUP_BYTES {
            decoder.decode(&group);
            group.clear();
            group_bytes = 0;
        }
    }
    decoder.decode(&group);
    let cpu_seconds = decoder.cpu_nanoseconds as f64 / 1e9;
    let megabytes_per_second = decoder.plain_bytes as f64 / 1e6 / cpu_seconds;
    println!(
        "chunks={} stored_bytes={} plain_bytes={} cpu_seconds={cpu_seconds:.3} megabytes_per_second={megabytes_per_second:.0}",
        decoder.chunks, decoder.stored_bytes, decoder.plain_bytes,
    );
}

/// Reads where every chunk is from the packs themselves.
fn places(objects: &dyn ObjectStore) -> HashMap<ChunkId, (PackId, PackEntry)> {
    let mut places = HashMap::new();
    for entry in objects.list(ObjectKind::Pack).unwrap() {
        let ObjectName::Pack(pack) = entry.name else { continue };
        let mut tail = [0; TAIL_LENGTH];
        objects.read(entry.name, entry.length - TAIL_LENGTH as u64, &mut tail).unwrap();
        let tail = PackTail::decode(&tail, entry.length).unwrap();
        let mut footer = vec![0; tail.footer_length() as usize];
        objects.read(entry.name, tail.chunks_end(), &mut footer).unwrap();
        for entry in pack::decode_footer(tail, &footer).unwrap() {
            places.insert(entry.id, (pack, entry));
        }
    }
    places
}

/// Returns the chunks of an image in the order in which a reader first needs them, each once.
fn chunks_in_order(repository: &Repository, backup: Option<&str>) -> Vec<ChunkId> {
    let mut records = repository.catalog().all();
    records.sort_by_key(|record| record.data_timestamp);
    let wanted = |id: String| backup.is_none_or(|backup| id.starts_with(backup));
    let record = records
        .iter()
        .rfind(|record| record.status.is_readable() && wanted(record.id.to_string()))
        .expect("an available backup");
    let image = repository.image(record.id).unwrap();
    let mut seen = HashSet::new();
    let mut chunks = Vec::new();
    image
        .segments(ByteRange::new(0, image.size_bytes()), |segment| {
            if let Target::Chunk { id, .. } = segment.target
                && seen.insert(id)
            {
                chunks.push(id);
            }
        })
        .unwrap();
    chunks
}

#[derive(Default)]
struct Decoder {
    plain: Vec<u8>,
    chunks: u64,
    stored_bytes: u64,
    plain_bytes: u64,
    cpu_nanoseconds: u64,
}

impl Decoder {
    fn decode(&mut self, group: &[(PackEntry, Vec<u8>)]) {
        let begin = cpu_nanoseconds();
        for (entry, stored) in group {
            self.plain.resize(entry.plain_length as usize, 0);
            codec::decompress(entry.codec, stored, &mut self.plain).unwrap();
            assert!(ChunkId::of(&self.plain) == entry.id, "chunk {} is damaged", entry.id);
            self.chunks += 1;
            self.stored_bytes += stored.len() as u64;
            self.plain_bytes += u64::from(entry.plain_length);
        }
        self.cpu_nanoseconds += cpu_nanoseconds() - begin;
    }
}

/// Returns how long this thread has been on a CPU.
fn cpu_nanoseconds() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a kernel with schedstat");
    text.split(' ').next().and_then(|field| field.parse().ok()).expect("nanoseconds")
}
