//! A device in memory over a file that stays as it is; it can lose power in the middle of a write.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Mutex;

use amberfs::sysio::device::{FileDevice, ReadAt, WriteAt};

const SECTOR: usize = 512;

pub type Sectors = BTreeMap<u64, [u8; SECTOR]>;

pub struct Overlay {
    base: FileDevice,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    durable: Sectors,
    /// Written since the last sync.
    pending: Sectors,
    writes: usize,
    writes_max: Option<usize>,
    syncs: usize,
}

impl Overlay {
    pub fn new(base: &Path) -> Self {
        Self { base: FileDevice::open(base).unwrap(), state: Mutex::default() }
    }

    /// Lets so many more writes through; the next one fails, and all after it.
    pub fn fail_after(&self, writes: usize) {
        let mut state = self.state.lock().unwrap();
        state.writes_max = Some(state.writes + writes);
    }

    /// Loses power: of what was not synced, `keeps` says which sectors came to be on the disk. From here on all goes well.
    pub fn crash(&self, mut keeps: impl FnMut() -> bool) {
        let mut state = self.state.lock().unwrap();
        let pending = std::mem::take(&mut state.pending);
        state.durable.extend(pending.into_iter().filter(|_| keeps()));
        state.writes_max = None;
    }

    pub fn writes(&self) -> usize {
        self.state.lock().unwrap().writes
    }

    /// What differs from the file.
    pub fn sectors(&self) -> Sectors {
        let state = self.state.lock().unwrap();
        let mut sectors = state.durable.clone();
        sectors.extend(state.pending.iter().map(|(at, bytes)| (*at, *bytes)));
        sectors.retain(|at, bytes| {
            let mut below = [0; SECTOR];
            self.base.read_exact_at(*at, &mut below).unwrap();
            below != *bytes
        });
        sectors
    }
}

impl ReadAt for Overlay {
    fn size_bytes(&self) -> u64 {
        self.base.size_bytes()
    }

    fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        assert!(offset.is_multiple_of(512) && into.len().is_multiple_of(512), "not whole sectors");
        self.base.read_exact_at(offset, into)?;
        let state = self.state.lock().unwrap();
        let end = offset + into.len() as u64;
        for sectors in [&state.durable, &state.pending] {
            for (at, bytes) in sectors.range(offset..end) {
                into[(at - offset) as usize..][..SECTOR].copy_from_slice(bytes);
            }
        }
        Ok(())
    }
}

impl WriteAt for Overlay {
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        assert!(offset.is_multiple_of(512) && bytes.len().is_multiple_of(512), "not whole sectors");
        let mut state = self.state.lock().unwrap();
        let fails = state.writes_max.is_some_and(|max| state.writes >= max);
        state.writes += 1;
        // A write that fails may have gone through in part: which, `crash` says.
        for (index, sector) in bytes.chunks_exact(SECTOR).enumerate() {
            state.pending.insert(offset + (index * SECTOR) as u64, sector.try_into().unwrap());
        }
        if fails { Err(io::Error::other("no power")) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if state.writes_max.is_some_and(|max| state.writes > max) {
            return Err(io::Error::other("no power"));
        }
        state.syncs += 1;
        let pending = std::mem::take(&mut state.pending);
        state.durable.extend(pending);
        Ok(())
    }
}
