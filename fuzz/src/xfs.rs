//! Superblocks and logs of XFS: what is refused stays as it was, and what is changed is sound.

use amberfs::sysio::device::ReadAt;
use amberfs::xfs;
use uuid::Uuid;

use super::input::Input;
use super::sectors::{Contents, SECTOR, Sectors, sectors};

/// A log, and so the time that is spent on one, is never larger.
const DEVICE_SECTORS_MAX: u64 = (96 << 20) / SECTOR as u64;

pub fn look(data: &[u8]) {
    let mut input = Input::new(data);
    let (mode, size) = (input.byte(), input.number(3).min(DEVICE_SECTORS_MAX));
    let new = Uuid::from_u128(0x1234_5678_9abc_4def_8123_4567_89ab_0000 | u128::from(mode));
    let mut disk = sectors(&mut input);
    if mode & 1 == 0 {
        seal(&mut disk);
    }
    let device = Sectors::new(size * SECTOR as u64, disk);
    check(&device, new, mode & 2 == 0);
}

fn check(device: &Sectors, new: Uuid, changes: bool) {
    let before = device.contents();
    let _ = xfs::identify(device).unwrap();
    device.cost();
    let planned = xfs::plan(device, new);
    let (calls, bytes) = device.cost();
    // The log twice, and each group once.
    assert!(bytes <= 16 * device.size_bytes() + (256 << 20), "{calls} calls, {bytes} bytes");
    assert_eq!(device.writes(), 0, "a plan writes");
    let Ok(plan) = planned else {
        let error = xfs::change(device, new).expect_err("what cannot be planned cannot be changed");
        assert!(device.contents() == before && device.writes() == 0, "changed, and refused: {error}");
        return;
    };
    assert!(!plan.new_uuid.is_nil());
    let _ = xfs::check(device, plan.old_uuid);
    if !changes {
        return;
    }
    match xfs::change(device, new) {
        Ok(done) => {
            assert_eq!(done.new_uuid, new);
            xfs::check(device, new).unwrap();
            let again = xfs::plan(device, new).expect("what was changed can be planned");
            assert!(again.is_empty() && again.old_uuid == new);
            assert_eq!(again.is_log_dirty, done.is_log_dirty);
        }
        Err(error) if error.is_refusal() => {
            // Only the second of two steps may be refused: what was cut off has been finished then.
            let untouched = device.contents() == before && device.writes() == 0;
            assert!(untouched || plan.finishes_earlier, "changed, and refused: {error}");
        }
        Err(error) => panic!("planned, and not changed: {error}"),
    }
}

/// Makes the checksums of all superblocks and of all records of the log right.
fn seal(disk: &mut Contents) {
    let numbers: Vec<u64> = disk.keys().copied().collect();
    for number in numbers {
        let Some(sector) = disk.get_mut(&number) else { continue };
        if sector.starts_with(b"XFSB") {
            sector[224..228].fill(0);
            let crc = crc32c::crc32c(sector);
            sector[224..228].copy_from_slice(&crc.to_le_bytes());
        } else if sector.starts_with(&[0xfe, 0xed, 0xba, 0xbe]) {
            let header = *sector;
            let crc = record_crc(disk, number, &header);
            if let Some(sector) = disk.get_mut(&number) {
                sector[32..36].copy_from_slice(&crc.to_le_bytes());
            }
        }
    }
}

fn record_crc(disk: &Contents, number: u64, header: &[u8; SECTOR]) -> u32 {
    let field = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
    let (version, length, size) = (field(8), field(12).min(256 << 10) as usize, field(320));
    let headers = if version & 2 == 0 { 1 } else { u64::from(size.min(256 << 10).div_ceil(32 << 10).max(1)) };
    let mut fixed = *header;
    fixed[32..36].fill(0);
    let zeros = [0; SECTOR];
    let sector = |at: u64| disk.get(&at).unwrap_or(&zeros);
    let mut crc = crc32c::crc32c(&fixed[..328]);
    for extended in 1..headers {
        crc = crc32c::crc32c_append(crc, &sector(number + extended)[..260]);
    }
    let mut left = length;
    for block in number + headers.. {
        if left == 0 {
            return crc;
        }
        let count = left.min(SECTOR);
        crc = crc32c::crc32c_append(crc, &sector(block)[..count]);
        left -= count;
    }
    crc
}
