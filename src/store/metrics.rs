//! What is counted of chunks: those that backups bring, and those that are read.

use crate::metrics::{Counter, Kind, MetricsText};

pub(super) static STORED: Chunks = Chunks::new();
/// Brought by a backup, and there already.
pub(super) static DEDUPLICATED: Chunks = Chunks::new();
/// Decoded and checked: not from a cache.
pub(super) static LOADED: Chunks = Chunks::new();
pub(super) static READS_DAMAGED: Counter = Counter::new();

/// Chunks and their plain bytes.
pub(super) struct Chunks {
    count: Counter,
    bytes: Counter,
}

impl Chunks {
    const fn new() -> Self {
        Self { count: Counter::new(), bytes: Counter::new() }
    }

    pub(super) fn add(&self, plain_length: u32) {
        self.count.increment();
        self.bytes.add(plain_length.into());
    }
}

pub(super) fn write(text: &mut MetricsText) {
    let help = "Chunks that backups brought, by whether the repository had them already.";
    let mut chunks = text.family("amberfs_backup_chunks_total", Kind::Counter, help);
    chunks.sample(&[("outcome", "stored")], STORED.count.get());
    chunks.sample(&[("outcome", "deduplicated")], DEDUPLICATED.count.get());
    let help = "Bytes of these chunks before they are compressed.";
    let mut bytes = text.family("amberfs_backup_chunk_bytes_total", Kind::Counter, help);
    bytes.sample(&[("outcome", "stored")], STORED.bytes.get());
    bytes.sample(&[("outcome", "deduplicated")], DEDUPLICATED.bytes.get());
    let help = "Chunks that were read from packs, decoded and checked.";
    text.counter("amberfs_chunk_loads_total", help, &LOADED.count);
    let help = "Bytes of these chunks as they are in the image.";
    text.counter("amberfs_chunk_load_bytes_total", help, &LOADED.bytes);
    let help = "Reads that met a chunk which is damaged or missing in a pack.";
    text.counter("amberfs_chunk_damaged_reads_total", help, &READS_DAMAGED);
}
