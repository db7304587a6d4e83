//! Thousands of damaged tables, superblocks and volume groups: an answer each time, without a panic, caught or not, and never
//! more than a few reads.

use std::io;
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use amberfs::contents::lvm::{Mapped, volume_group};
use amberfs::contents::{identify, identify_all, look_into, partitions, table_json};
use amberfs::sysio::device::ReadAt;

use super::{Loop, run, sfdisk, sparse, write_at};
use crate::support::bytes::Numbers;

const MIB: u64 = 1 << 20;
const MIBU: usize = 1 << 20;

/// What one look may cost: for 16 partitions two sizes of a sector are tried, each with a look at its head.
const CALLS_MAX: u64 = 1500;
const BYTES_MAX: u64 = 16 * MIB;

/// A device in memory that counts what is read, and can be larger than its bytes: zeros follow.
struct Counted {
    bytes: Vec<u8>,
    size_bytes: u64,
    calls: AtomicU64,
    read: AtomicU64,
}

impl Counted {
    fn new(bytes: Vec<u8>, size_bytes: u64) -> Self {
        Self { bytes, size_bytes, calls: AtomicU64::new(0), read: AtomicU64::new(0) }
    }

    fn cost(&self) -> (u64, u64) {
        (self.calls.swap(0, Ordering::Relaxed), self.read.swap(0, Ordering::Relaxed))
    }
}

impl ReadAt for Counted {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.read.fetch_add(into.len() as u64, Ordering::Relaxed);
        let end = offset.checked_add(into.len() as u64).unwrap();
        assert!(end <= self.size_bytes, "read beyond the end: {} at {offset}", into.len());
        into.fill(0);
        let known = self.bytes.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
        let length = known.len().min(into.len());
        into[..length].copy_from_slice(&known[..length]);
        Ok(())
    }
}

/// Looks at everything in a device, and says what that cost.
fn look(device: &Counted) {
    let what = || format!("{} bytes", device.size_bytes);
    let _ = identify(device);
    let (calls, read) = device.cost();
    assert!(calls <= 16 && read <= 512 << 10, "identify: {calls} calls, {read} bytes; {}", what());
    let table = partitions(device);
    let (calls, read) = device.cost();
    assert!(calls <= CALLS_MAX && read <= BYTES_MAX, "partitions: {calls} calls, {read} bytes; {}", what());
    if let Err(error) = &table {
        assert!(!error.to_string().contains("could not be decoded"), "a panic that was caught");
    }
    if let Ok(Some(table)) = table {
        assert!(table.partitions.len() <= 255);
        for partition in &table.partitions {
            assert!((1..=255).contains(&partition.number) && partition.length > 0);
            assert!(partition.start.checked_add(partition.length).unwrap() <= device.size_bytes);
        }
        assert!(table.partitions.windows(2).all(|pair| pair[0].number < pair[1].number));
        let contents = identify_all(device, &table);
        let json = table_json(&table, &contents);
        serde_json::from_str::<serde_json::Value>(&json).unwrap();
        device.cost();
    }
    if let Ok(Some(group)) = volume_group(device) {
        for volume in group.logical_volumes {
            let Ok(mapping) = volume.mapping else { continue };
            let mapped = Mapped::new(device, mapping);
            let mut last = [0; 16];
            let length = mapped.size_bytes();
            mapped.read_exact_at(0, &mut last[..length.min(16) as usize]).unwrap();
            mapped.read_exact_at(length.saturating_sub(16), &mut last[..length.min(16) as usize]).unwrap();
        }
    }
    let (calls, read) = device.cost();
    assert!(calls <= 4096 && read <= BYTES_MAX, "LVM: {calls} calls, {read} bytes; {}", what());
    if let Ok(disk) = look_into(device) {
        for part in disk.parts() {
            let place = disk.place(&part.name).unwrap();
            let (opened, length) = (place.of(device), place.size_bytes());
            assert_eq!(opened.size_bytes(), length);
            let (data, hole) = (opened.next_data(length / 2).unwrap(), opened.next_hole(length / 2).unwrap());
            assert_eq!((data, hole), ((length > 0).then_some(length / 2), length));
            let runs = place.runs(0..length);
            assert_eq!(runs.iter().map(|(_, length)| length).sum::<u64>(), length);
            assert!(runs.iter().all(|(start, length)| start + length <= device.size_bytes));
            let _ = disk.group_json(part.name.partition);
        }
        assert!(disk.remarks().len() <= 4096);
    }
    let (calls, _) = device.cost();
    assert!(calls <= 24_000, "the whole disk: {calls} calls; {}", what());
}

/// Damages bytes: some at random, numbers to extremes, sectors to noise or to each other.
fn damage(bytes: &mut [u8], numbers: &mut Numbers, interesting: &[usize]) {
    const EXTREMES: [[u8; 8]; 6] = [
        [0; 8],
        [0xff; 8],
        [0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0x80, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0x80],
    ];
    for _ in 0..1 + numbers.below(6) {
        let base = interesting[numbers.below(interesting.len() as u64) as usize];
        let at = base + numbers.below(512) as usize;
        match numbers.below(8) {
            0..=3 => bytes[at.min(MIBU)] = numbers.next() as u8,
            4 | 5 => {
                let extreme = EXTREMES[numbers.below(6) as usize];
                let width = 1 << numbers.below(4);
                if let Some(place) = bytes.get_mut(at..at + width) {
                    place.copy_from_slice(&extreme[..width]);
                }
            }
            6 => {
                let from = interesting[numbers.below(interesting.len() as u64) as usize];
                if from + 512 <= bytes.len() && base + 512 <= bytes.len() {
                    bytes.copy_within(from..from + 512, base);
                }
            }
            _ => {
                for byte in bytes.iter_mut().skip(base).take(512) {
                    *byte = numbers.next() as u8;
                }
            }
        }
    }
}

/// CRC-32 of `crc32` tools, for headers that are hostile and still valid.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 },
        )
    })
}

/// Makes the checksums of a damaged GPT right again, so that what is behind them is reached.
fn seal_gpt(bytes: &mut [u8], sector: usize) {
    let entries = crc32(&bytes[2 * sector..2 * sector + 128 * 128]);
    bytes[sector + 88..sector + 92].copy_from_slice(&entries.to_le_bytes());
    bytes[sector + 16..sector + 20].fill(0);
    let header = crc32(&bytes[sector..sector + 92]);
    bytes[sector + 16..sector + 20].copy_from_slice(&header.to_le_bytes());
}

/// LVM's CRC, for the same reason.
fn seal_lvm(bytes: &mut [u8]) {
    let crc = |bytes: &[u8]| {
        bytes.iter().fold(0xf597_a6cf_u32, |crc, byte| {
            (0..8).fold(
                crc ^ u32::from(*byte),
                |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 },
            )
        })
    };
    let label = crc(&bytes[532..1024]);
    bytes[528..532].copy_from_slice(&label.to_le_bytes());
    let field = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let (offset, length) = (field(bytes, 4096 + 40), field(bytes, 4096 + 48));
    if let Some(text) =
        offset.checked_add(4096).and_then(|start| bytes.get(start..start.checked_add(length)?))
    {
        let text = crc(text);
        bytes[4096 + 56..4096 + 60].copy_from_slice(&text.to_le_bytes());
    }
    let header = crc(&bytes[4100..4608]);
    bytes[4096..4100].copy_from_slice(&header.to_le_bytes());
}

struct Seed {
    name: &'static str,
    bytes: Vec<u8>,
    size_bytes: u64,
    /// Sectors in which the structures are.
    interesting: Vec<usize>,
}

impl Seed {
    fn new(name: &'static str, image: &Path, interesting: &[usize]) -> Self {
        let bytes = std::fs::read(image).unwrap();
        Self { name, size_bytes: bytes.len() as u64, bytes, interesting: interesting.to_vec() }
    }
}

fn tables(folder: &Path) -> Vec<Seed> {
    let gpt = sparse(folder, "gpt", 4 * MIB);
    sfdisk(&gpt, "label: gpt\nsize=1M, type=uefi, name=esp\nsize=1M, type=linux\n");
    let wide = sparse(folder, "wide", 8 * MIB);
    let attached = Loop::attach(&wide, 4096);
    sfdisk(attached.0.as_ref(), "label: gpt\nsize=1M\nsize=1M\n");
    drop(attached);
    let mbr = sparse(folder, "mbr", 16 * MIB);
    sfdisk(&mbr, "label: dos\n1: size=1M\n2: size=12M, type=5\n5: size=1M\n6: size=1M\n7: size=1M\n");
    let end = 4 * MIBU - 512;
    vec![
        Seed::new("gpt", &gpt, &[0, 512, 1024, end, end - 128 * 128]),
        Seed::new("gpt of 4096", &wide, &[0, 4096, 8192, 8 * MIBU - 4096]),
        Seed::new("mbr", &mbr, &[0, 0, 2 * MIBU, 4 * MIBU, 6 * MIBU]),
    ]
}

fn file_systems(folder: &Path) -> Vec<Seed> {
    let commands: [(&str, &str, u64, &[usize]); 8] = [
        ("ext4", "mkfs.ext4 -q", 4, &[1024]),
        ("fat12", "mkfs.vfat -F 12 -n LABEL", 4, &[0, 0, 8192]),
        ("fat16", "mkfs.vfat -F 16 -n LABEL", 16, &[0, 0, 0x9000]),
        ("fat32", "mkfs.vfat -F 32 -n LABEL", 40, &[0, 0, 0x84000]),
        ("exfat", "mkfs.exfat -L label", 8, &[0, 0]),
        ("ntfs", "mkfs.ntfs -q -F -f -L label", 8, &[0, 0, 16384 + 3072]),
        ("swap", "mkswap", 4, &[1024, 3584]),
        ("f2fs", "mkfs.f2fs -q -l label", 64, &[1024]),
    ];
    let made = commands.map(|(name, command, mebibytes, interesting)| {
        let image = sparse(folder, name, mebibytes * MIB);
        let mut words: Vec<&str> = command.split(' ').collect();
        words.push(image.to_str().unwrap());
        run(words[0], &words[1..]);
        let mut seed = Seed::new(name, &image, interesting);
        // Nothing behind is looked at.
        seed.bytes.truncate(2 * MIBU);
        seed
    });
    made.into()
}

fn group(folder: &Path) -> Seed {
    let image: PathBuf = sparse(folder, "pv", 16 * MIB);
    let attached = Loop::attach(&image, 512);
    let path = attached.0.as_str();
    super::lvm::lvm("vgcreate", &[path], &["-s", "1M", "vg", path]);
    for name in ["one", "two"] {
        super::lvm::lvm("lvcreate", &[path], &["-an", "-Zn", "-Wn", "-n", name, "-L", "2M", "vg"]);
    }
    drop(attached);
    let bytes = std::fs::read(&image).unwrap();
    let text = u64::from_le_bytes(bytes[4096 + 40..4096 + 48].try_into().unwrap()) as usize + 4096;
    Seed::new("lvm", &image, &[512, 4096, text, text + 512, text + 1024, text + 1536])
}

#[test]
fn ten_thousand_damaged_disks_get_an_answer_and_cost_little() {
    let folder = tempfile::tempdir().unwrap();
    let mut seeds = tables(folder.path());
    seeds.extend(file_systems(folder.path()));
    seeds.push(group(folder.path()));
    let count = 12_000 / seeds.len() as u64;
    let failures: Mutex<Vec<String>> = Mutex::new(Vec::new());
    for seed in &mut seeds {
        let whole = seed.bytes.clone();
        for number in 0..count {
            let mut numbers = Numbers::new(number);
            damage(&mut seed.bytes, &mut numbers, &seed.interesting);
            if number % 2 == 0 {
                match seed.name {
                    "gpt" => seal_gpt(&mut seed.bytes, 512),
                    "gpt of 4096" => seal_gpt(&mut seed.bytes, 4096),
                    "lvm" => seal_lvm(&mut seed.bytes),
                    _ => {}
                }
            }
            // Cut, whole, or with so much behind that no offset is beyond the end.
            let size_bytes = [seed.size_bytes, seed.size_bytes - numbers.below(seed.size_bytes), 1 << 60];
            let size_bytes = size_bytes[numbers.below(3) as usize];
            let device = Counted::new(std::mem::take(&mut seed.bytes), size_bytes);
            if let Err(payload) = panic::catch_unwind(panic::AssertUnwindSafe(|| look(&device))) {
                let why = payload.downcast_ref::<String>().cloned().unwrap_or_default();
                let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                failures.push(format!("{} {number}: {why}", seed.name));
            }
            seed.bytes = device.bytes;
            seed.bytes.copy_from_slice(&whole);
        }
    }
    let failures = failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "{} of {count} each:\n{}",
        failures.len(),
        failures[..failures.len().min(10)].join("\n")
    );
}

#[test]
fn an_endless_chain_of_logical_partitions_ends_where_linux_ends_it() {
    /// Every sector is a link to the next one.
    struct Endless {
        has_partitions: bool,
        calls: AtomicU64,
    }
    impl ReadAt for Endless {
        fn size_bytes(&self) -> u64 {
            1 << 41
        }
        fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
            self.calls.fetch_add(1, Ordering::Relaxed);
            into.fill(0);
            if into.len() != 512 {
                return Ok(());
            }
            let sector = (offset / 512) as u32;
            into[510..].copy_from_slice(&[0x55, 0xaa]);
            let mut entry = |at: usize, kind: u8, start: u32| {
                into[at + 4] = kind;
                into[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
                into[at + 12..at + 16].copy_from_slice(&1_u32.to_le_bytes());
            };
            if sector == 0 {
                entry(446, 5, 1);
            } else {
                entry(446, if self.has_partitions { 0x83 } else { 0 }, 1);
                entry(462, 5, sector);
            }
            Ok(())
        }
    }
    for (has_partitions, count) in [(true, 251), (false, 0)] {
        let device = Endless { has_partitions, calls: AtomicU64::new(0) };
        let table = partitions(&device).unwrap().unwrap();
        assert_eq!(table.partitions.len(), count);
        let calls = device.calls.into_inner();
        assert!(calls < CALLS_MAX, "{calls} reads");
    }
}

#[test]
fn a_header_that_asks_for_billions_of_entries_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let image = sparse(folder.path(), "gpt", 4 * MIB);
    sfdisk(&image, "label: gpt\nsize=1M\n");
    let whole = std::fs::read(&image).unwrap();
    for (at, value) in
        [(80, u32::MAX), (84, u32::MAX), (84, 0), (80, 0), (84, 1 << 25), (80, 1 << 20), (12, 4096)]
    {
        let mut bytes = whole.clone();
        for header in [512, 4 * MIBU - 512] {
            bytes[header + at..header + at + 4].copy_from_slice(&value.to_le_bytes());
            bytes[header + 16..header + 20].fill(0);
            let checksum = crc32(&bytes[header..header + 92]);
            bytes[header + 16..header + 20].copy_from_slice(&checksum.to_le_bytes());
        }
        write_at(&image, 0, &bytes);
        // So large that nothing is beyond the end.
        let device = Counted::new(bytes, 1 << 60);
        partitions(&device).unwrap_err();
        let (calls, read) = device.cost();
        assert!(calls < 50 && read < 2 * MIB, "{at}: {calls} calls, {read} bytes");
    }
}

#[test]
fn a_partition_that_starts_nowhere_or_takes_all_numbers_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let image = sparse(folder.path(), "gpt", 4 * MIB);
    sfdisk(&image, "label: gpt\nsize=1M\nsize=1M\n");
    let whole = std::fs::read(&image).unwrap();
    for (first, last) in [(0, u64::MAX), (1, u64::MAX), (0, 4), (u64::MAX, u64::MAX), (9, 8)] {
        let mut bytes = whole.clone();
        bytes[1024 + 32..1024 + 40].copy_from_slice(&first.to_le_bytes());
        bytes[1024 + 40..1024 + 48].copy_from_slice(&last.to_le_bytes());
        seal_gpt(&mut bytes, 512);
        let size = bytes.len() as u64;
        let table = partitions(&Counted::new(bytes, size)).unwrap().unwrap();
        assert!(!table.from_backup_header);
        let numbers: Vec<u32> = table.partitions.iter().map(|partition| partition.number).collect();
        assert_eq!(numbers, [2], "{first} to {last}: {:?}", table.remarks);
        assert_eq!(table.remarks.len(), 1);
    }
}
