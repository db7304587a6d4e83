//! A disk in memory: a few sectors that are not zeros, and every access counted.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use amberfs::sysio::device::{ReadAt, WriteAt, check_within};

use super::input::Input;

pub const SECTOR: usize = 512;

pub type Contents = BTreeMap<u64, [u8; SECTOR]>;

pub struct Sectors {
    size_bytes: u64,
    sectors: Mutex<Contents>,
    reads: AtomicU64,
    bytes_read: AtomicU64,
    writes: AtomicU64,
}

impl Sectors {
    pub fn new(size_bytes: u64, sectors: Contents) -> Self {
        let [reads, bytes_read, writes] = [(); 3].map(|()| AtomicU64::new(0));
        Self { size_bytes, sectors: Mutex::new(sectors), reads, bytes_read, writes }
    }

    /// What is not zeros, by the number of the sector.
    pub fn contents(&self) -> Contents {
        let mut sectors = self.sectors.lock().unwrap_or_else(PoisonError::into_inner).clone();
        sectors.retain(|_, bytes| bytes != &[0; SECTOR]);
        sectors
    }

    /// Reads, and bytes in them, since the last call.
    pub fn cost(&self) -> (u64, u64) {
        (self.reads.swap(0, Ordering::Relaxed), self.bytes_read.swap(0, Ordering::Relaxed))
    }

    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }
}

/// Reads a disk: runs of sectors, each with its place (three bytes, in sectors), its length (two, in bytes), and its bytes.
pub fn sectors(input: &mut Input<'_>) -> Contents {
    let mut sectors = Contents::new();
    while !input.is_empty() {
        let (place, length) = (input.number(3), input.number(2) as usize);
        for (number, bytes) in (place..).zip(input.bytes(length).chunks(SECTOR)) {
            sectors.entry(number).or_insert([0; SECTOR])[..bytes.len()].copy_from_slice(bytes);
        }
    }
    sectors
}

impl ReadAt for Sectors {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes_read.fetch_add(into.len() as u64, Ordering::Relaxed);
        let asked = check_within(self.size_bytes, offset, into.len(), io::ErrorKind::UnexpectedEof);
        assert!(asked.is_ok(), "read beyond the end: {} at {offset} of {}", into.len(), self.size_bytes);
        into.fill(0);
        let end = offset + into.len() as u64;
        let sectors = self.sectors.lock().unwrap_or_else(PoisonError::into_inner);
        let first = offset / SECTOR as u64;
        for (number, bytes) in sectors.range(first..end.div_ceil(SECTOR as u64)) {
            let start = number * SECTOR as u64;
            let (from, to) = (start.max(offset), (start + SECTOR as u64).min(end));
            into[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
        }
        Ok(())
    }
}

impl WriteAt for Sectors {
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        check_within(self.size_bytes, offset, bytes.len(), io::ErrorKind::WriteZero).expect("a write within");
        assert!(
            offset.is_multiple_of(SECTOR as u64) && bytes.len().is_multiple_of(SECTOR),
            "not whole sectors"
        );
        let mut sectors = self.sectors.lock().unwrap_or_else(PoisonError::into_inner);
        for (number, sector) in (offset / SECTOR as u64..).zip(bytes.chunks_exact(SECTOR)) {
            sectors.insert(number, sector.try_into().expect("a whole sector"));
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
