//! Bytes with a few changes that are kept in memory: what something would look like if it had been written to.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use super::device::{ReadAt, WriteAt, check_within};

/// Changes are kept in pieces of this many bytes: the least that a disk writes.
const SECTOR: u64 = 512;

/// A device and what was written over it. The device itself is never written to.
pub struct Patched {
    device: Arc<dyn ReadAt>,
    sectors_max: usize,
    sectors: RwLock<BTreeMap<u64, [u8; SECTOR as usize]>>,
}

impl Patched {
    /// Takes no more than so many changed bytes, in whole sectors.
    pub fn new(device: Arc<dyn ReadAt>, bytes_max: u64) -> Self {
        let sectors_max = usize::try_from(bytes_max / SECTOR).unwrap_or(usize::MAX);
        Self { device, sectors_max, sectors: RwLock::default() }
    }

    fn sector(&self, number: u64) -> io::Result<[u8; SECTOR as usize]> {
        let mut sector = [0; SECTOR as usize];
        let start = number * SECTOR;
        let length = SECTOR.min(self.size_bytes() - start) as usize;
        self.device.read_exact_at(start, sector.get_mut(..length).unwrap_or_default())?;
        Ok(sector)
    }
}

impl ReadAt for Patched {
    fn size_bytes(&self) -> u64 {
        self.device.size_bytes()
    }

    fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.device.read_exact_at(offset, into)?;
        let end = offset + into.len() as u64;
        let sectors = self.sectors.read().unwrap_or_else(PoisonError::into_inner);
        for (number, sector) in sectors.range(offset / SECTOR..end.div_ceil(SECTOR)) {
            let start = number * SECTOR;
            let (from, to) = (start.max(offset), (start + SECTOR).min(end));
            let part = sector.get((from - start) as usize..(to - start) as usize).unwrap_or_default();
            let at = (from - offset) as usize;
            if let Some(into) = into.get_mut(at..at + part.len()) {
                into.copy_from_slice(part);
            }
        }
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        let sectors = self.sectors.read().unwrap_or_else(PoisonError::into_inner);
        let patched =
            sectors.range(offset / SECTOR..).next().map(|(number, _)| (number * SECTOR).max(offset));
        let patched = patched.filter(|patched| *patched < self.size_bytes());
        let data = self.device.next_data(offset)?;
        Ok(data.into_iter().chain(patched).min())
    }

    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        let sectors = self.sectors.read().unwrap_or_else(PoisonError::into_inner);
        let mut from = offset;
        loop {
            let hole = self.device.next_hole(from)?;
            if hole >= self.size_bytes() || !sectors.contains_key(&(hole / SECTOR)) {
                return Ok(hole);
            }
            // Written over: the hole begins behind that, if it goes on there.
            from = ((hole / SECTOR + 1) * SECTOR).min(self.size_bytes());
        }
    }
}

impl WriteAt for Patched {
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        check_within(self.size_bytes(), offset, bytes.len(), io::ErrorKind::WriteZero)?;
        let mut sectors = self.sectors.write().unwrap_or_else(PoisonError::into_inner);
        let mut position = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (number, at) = (position / SECTOR, (position % SECTOR) as usize);
            let (part, behind) = rest.split_at(rest.len().min(SECTOR as usize - at));
            let mut sector = match sectors.get(&number) {
                Some(sector) => *sector,
                None if sectors.len() >= self.sectors_max => return Err(io::ErrorKind::StorageFull.into()),
                None => self.sector(number)?,
            };
            if let Some(into) = sector.get_mut(at..at + part.len()) {
                into.copy_from_slice(part);
            }
            sectors.insert(number, sector);
            (position, rest) = (position + part.len() as u64, behind);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::sysio::device::FileDevice;

    #[test]
    fn what_is_written_is_read_and_the_device_stays_as_it_is() {
        let file = tempfile::tempfile().unwrap();
        let mut model: Vec<u8> = (0..5000_u32).map(|at| (at % 251) as u8).collect();
        file.write_all_at(&model, 0).unwrap();
        let before = model.clone();
        let device = Arc::new(FileDevice::new(file).unwrap());
        let patched = Patched::new(device.clone(), 1 << 20);
        for (offset, length) in [(0, 1), (500, 30), (1024, 512), (4990, 10), (2000, 1500)] {
            patched.write_all_at(offset as u64, &vec![0xee; length]).unwrap();
            model[offset..offset + length].fill(0xee);
        }
        for (offset, length) in [(0, 5000), (511, 2), (1030, 4), (3400, 700), (4999, 1)] {
            let mut read = vec![0; length];
            patched.read_exact_at(offset as u64, &mut read).unwrap();
            assert_eq!(read, model[offset..offset + length], "{offset}");
        }
        let mut read = vec![0; 5000];
        device.read_exact_at(0, &mut read).unwrap();
        assert_eq!(read, before);
        assert!(patched.write_all_at(4999, &[1, 2]).is_err());
    }

    #[test]
    fn what_is_written_into_a_hole_is_no_hole_and_there_is_a_limit() {
        struct Hole;
        impl ReadAt for Hole {
            fn size_bytes(&self) -> u64 {
                1 << 20
            }
            fn read_exact_at(&self, _: u64, into: &mut [u8]) -> io::Result<()> {
                into.fill(0);
                Ok(())
            }
            fn next_data(&self, _: u64) -> io::Result<Option<u64>> {
                Ok(None)
            }
            fn next_hole(&self, offset: u64) -> io::Result<u64> {
                Ok(offset)
            }
        }
        let patched = Patched::new(Arc::new(Hole), 1024);
        patched.write_all_at(1000, &[1; 500]).unwrap();
        assert_eq!(patched.next_data(0).unwrap(), Some(512));
        assert_eq!(patched.next_hole(512).unwrap(), 1536);
        assert_eq!(patched.next_data(1536).unwrap(), None);
        assert_eq!(patched.write_all_at(5000, &[1]).unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
