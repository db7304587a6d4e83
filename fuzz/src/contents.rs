//! What is inside a disk: tables of partitions, superblocks, volume groups of LVM.

use amberfs::contents::{identify, look_into, partitions};
use amberfs::sysio::device::ReadAt;

use super::input::Input;
use super::sectors::{Contents, SECTOR, Sectors, sectors};

const BYTES_MAX: u64 = 16 << 20;
/// One look at a device.
const IDENTIFY_CALLS_MAX: u64 = 16;
const IDENTIFY_BYTES_MAX: u64 = 512 << 10;
const PARTITIONS_CALLS_MAX: u64 = 1500;
/// A look at each of 255 partitions, and into the volume groups in eight of them.
const CALLS_MAX: u64 = 24_000;
const TOTAL_BYTES_MAX: u64 = 400 << 20;

pub fn look(data: &[u8]) {
    let mut input = Input::new(data);
    let (mode, sectors_size) = (input.byte(), input.number(3));
    let mut disk = sectors(&mut input);
    match mode % 4 {
        0 => {}
        1 => seal_gpt(&mut disk, 512),
        2 => seal_gpt(&mut disk, 4096),
        _ => seal_lvm(&mut disk),
    }
    let odd = if mode & 0x40 == 0 { 0 } else { 100 };
    // So large that no offset is beyond the end, or as large as it says.
    let size_bytes = if mode & 0x80 == 0 { sectors_size * SECTOR as u64 + odd } else { 1 << 60 };
    check(&Sectors::new(size_bytes, disk));
}

fn check(device: &Sectors) {
    let _ = identify(device);
    let (calls, bytes) = device.cost();
    assert!(
        calls <= IDENTIFY_CALLS_MAX && bytes <= IDENTIFY_BYTES_MAX,
        "identify: {calls} calls, {bytes} bytes"
    );
    let table = partitions(device);
    let (calls, bytes) = device.cost();
    assert!(calls <= PARTITIONS_CALLS_MAX && bytes <= BYTES_MAX, "partitions: {calls} calls, {bytes} bytes");
    match table {
        Err(error) => assert!(!error.to_string().contains("could not be decoded"), "a panic that was caught"),
        Ok(None) => {}
        Ok(Some(table)) => {
            assert!(table.partitions.len() <= 255);
            assert!(table.partitions.windows(2).all(|pair| pair[0].number < pair[1].number));
            for partition in &table.partitions {
                assert!((1..=255).contains(&partition.number) && partition.length > 0);
                assert!(partition.start.checked_add(partition.length).unwrap() <= device.size_bytes());
            }
        }
    }
    let disk = look_into(device);
    let (calls, bytes) = device.cost();
    assert!(calls <= CALLS_MAX && bytes <= TOTAL_BYTES_MAX, "the whole disk: {calls} calls, {bytes} bytes");
    let Ok(disk) = disk else { return };
    let _ = disk.table_json();
    assert!(disk.remarks().len() <= 4096);
    for part in disk.parts() {
        let place = disk.place(&part.name).unwrap();
        let (opened, length) = (place.of(device), place.size_bytes());
        assert_eq!(opened.size_bytes(), length);
        let runs = place.runs(0..length);
        assert_eq!(runs.iter().map(|(_, length)| length).sum::<u64>(), length);
        assert!(runs.iter().all(|(start, length)| start + length <= device.size_bytes()));
        let mut bytes = [0; 16];
        let wanted = &mut bytes[..length.min(16) as usize];
        opened.read_exact_at(0, wanted).unwrap();
        opened.read_exact_at(length - wanted.len() as u64, wanted).unwrap();
        let _ = (disk.content(&part.name), disk.group_json(part.name.partition));
        if let Some(name) = &part.name.logical_volume {
            assert!(!name.contains('/') && ![".", ".."].contains(&&**name), "{name:?} is a file's name");
            let _ = disk.find_logical_volume(part.name.partition, name);
        }
    }
}

/// CRC-32 from a state on, without the inversions around it.
fn crc(start: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(start, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 },
        )
    })
}

fn bytes_of(disk: &Contents, start: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    for (number, sector) in disk.range(start / 512..(start + length as u64).div_ceil(512)) {
        let at = (number * 512).saturating_sub(start) as usize;
        let from = start.saturating_sub(number * 512) as usize;
        let count = (SECTOR - from).min(length - at);
        bytes[at..at + count].copy_from_slice(&sector[from..from + count]);
    }
    bytes
}

fn put(disk: &mut Contents, at: u64, bytes: &[u8]) {
    let within = (at % 512) as usize;
    if let Some(sector) = disk.get_mut(&(at / 512)) {
        sector[within..within + bytes.len()].copy_from_slice(bytes);
    }
}

/// Makes the checksums of a GPT right.
fn seal_gpt(disk: &mut Contents, sector: u64) {
    let header = bytes_of(disk, sector, 92);
    let field = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
    let at = u64::from(field(72)).min(1 << 20) * sector;
    let length = (field(80).min(1024) * field(84).min(1024)) as usize;
    let entries = !crc(!0, &bytes_of(disk, at, length.min(1 << 17)));
    put(disk, sector + 88, &entries.to_le_bytes());
    put(disk, sector + 16, &[0; 4]);
    let header = !crc(!0, &bytes_of(disk, sector, field(12).clamp(92, 512) as usize));
    put(disk, sector + 16, &header.to_le_bytes());
}

/// Makes the checksums of LVM's label, of its header and of its text right, at the beginning of the disk.
fn seal_lvm(disk: &mut Contents) {
    const START: u32 = 0xf597_a6cf;
    let label = crc(START, &bytes_of(disk, 532, 492));
    put(disk, 528, &label.to_le_bytes());
    let places = bytes_of(disk, 4096 + 40, 16);
    let field = |at: usize| u64::from_le_bytes(places[at..at + 8].try_into().unwrap());
    let (offset, length) = (field(0).min(1 << 20), field(8).min(1 << 18) as usize);
    let text = crc(START, &bytes_of(disk, 4096 + offset, length));
    put(disk, 4096 + 56, &text.to_le_bytes());
    let header = crc(START, &bytes_of(disk, 4100, 508));
    put(disk, 4096, &header.to_le_bytes());
}
