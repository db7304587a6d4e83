//! File systems that were made, or damaged, to do harm.

use amberfs::sysio::device::{ReadAt, WriteAt};
use amberfs::xfs;
use uuid::Uuid;

use super::overlay::Overlay;
use super::volume::{Mount, Volume, copy_file, device, run, text};

const ROUNDS: u64 = 10_000;

/// Numbers that are the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }

    /// A value at which code likes to be wrong.
    fn number(&mut self) -> u32 {
        match self.below(6) {
            0 => 0,
            1 => u32::MAX,
            2 => 1 << self.below(32),
            3 => (1 << self.below(32)) - 1,
            4 => self.below(1024) as u32,
            _ => self.below(1 << 32) as u32,
        }
    }
}

/// A small file system with a log that went some way, and the place of that log.
struct Victim {
    volume: Volume,
    log_at: u64,
    log: Vec<u8>,
    headers: Vec<usize>,
}

impl Victim {
    fn make() -> Self {
        let mut volume = Volume::make_sized(
            64 << 20,
            &["--unsupported", "-d", "agcount=2", "-m", "reflink=0,rmapbt=0", "-l", "size=4m"],
        );
        let crashed = volume.folder.path().join("crashed");
        let mounted = Mount::new(&volume.path, "");
        for round in 0..6 {
            mounted.write_files(&format!("round-{round}"), 20);
            run("fsfreeze", &["-f", text(&mounted.at)]);
            if round == 5 {
                copy_file(&volume.path, &crashed);
            }
            run("fsfreeze", &["-u", text(&mounted.at)]);
        }
        drop(mounted);
        volume.path = crashed;
        let answer = run(
            "xfs_db",
            &["-r", "-c", "sb 0", "-c", "p logstart", "-c", "convert fsblock $(p)", text(&volume.path)],
        );
        let start: u64 = answer.lines().next().unwrap().split_once(" = ").unwrap().1.trim().parse().unwrap();
        let bytes =
            run("xfs_db", &["-r", "-c", &format!("convert fsblock {start} byte"), text(&volume.path)]);
        let log_at = bytes.split(['(', ')']).nth(1).unwrap().parse().unwrap();
        let mut log = vec![0; 4 << 20];
        device(&volume.path).read_exact_at(log_at, &mut log).unwrap();
        let headers: Vec<usize> = (0..log.len())
            .step_by(512)
            .filter(|at| log[*at..].starts_with(&[0xfe, 0xed, 0xba, 0xbe]))
            .collect();
        Self { volume, log_at, log, headers }
    }

    fn mutated(&self, dice: &mut Dice) -> Overlay {
        let overlay = Overlay::new(&self.volume.path);
        for _ in 0..1 + dice.below(3) {
            if dice.below(3) == 0 {
                self.mutate_superblock(&overlay, dice)
            } else {
                self.mutate_record(&overlay, dice)
            }
        }
        overlay.sync().unwrap();
        overlay
    }

    fn mutate_superblock(&self, overlay: &Overlay, dice: &mut Dice) {
        let group = dice.below(4) / 3;
        let mut sector = [0; 512];
        overlay.read_exact_at((group as u64) * (32 << 20), &mut sector).unwrap();
        let fields = [
            4, 8, 12, 16, 32, 48, 52, 84, 88, 96, 100, 101, 102, 120, 123, 126, 208, 212, 216, 220, 248, 448,
        ];
        let at = if dice.below(4) == 0 { dice.below(508) } else { fields[dice.below(fields.len())] };
        sector[at..at + 4].copy_from_slice(&dice.number().to_be_bytes());
        if dice.below(8) > 0 {
            sector[224..228].fill(0);
            let crc = crc32c::crc32c(&sector);
            sector[224..228].copy_from_slice(&crc.to_le_bytes());
        }
        overlay.write_all_at((group as u64) * (32 << 20), &sector).unwrap();
    }

    /// Changes a record and, most of the time, makes its checksum right, so that its inside is looked at.
    fn mutate_record(&self, overlay: &Overlay, dice: &mut Dice) {
        let real: Vec<usize> =
            self.headers.iter().copied().filter(|at| self.log[at + 14..at + 16] != [0, 0]).collect();
        let at = real[dice.below(real.len())];
        let length = u32::from_be_bytes(self.log[at + 12..at + 16].try_into().unwrap()) as usize;
        let end = (at + 512 + length.next_multiple_of(512)).min(self.log.len());
        let mut record = vec![0; end - at];
        overlay.read_exact_at(self.log_at + at as u64, &mut record).unwrap();
        for _ in 0..1 + dice.below(3) {
            let field = match dice.below(4) {
                0 => [4, 8, 12, 16, 20, 24, 28, 40, 44, 300, 304, 320][dice.below(12)],
                // An operation's header, or a buffer's description, or anything.
                1 => 512 + 12 * dice.below(12),
                _ => 4 * dice.below(record.len() / 4 - 1),
            };
            let value = dice.number();
            let bytes = if dice.below(2) == 0 { value.to_be_bytes() } else { value.to_le_bytes() };
            record[field..field + 4].copy_from_slice(&bytes);
        }
        if dice.below(8) > 0 {
            record[32..36].fill(0);
            let crc = crc32c::crc32c_append(
                crc32c::crc32c(&record[..328]),
                &record[512..][..length.min(record.len() - 512)],
            );
            record[32..36].copy_from_slice(&crc.to_le_bytes());
        }
        overlay.write_all_at(self.log_at + at as u64, &record).unwrap();
    }
}

#[test]
fn ten_thousand_damaged_file_systems_neither_crash_it_nor_are_changed_when_refused() {
    let victim = Victim::make();
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let (mut refused, mut changed) = (0, 0);
    for round in 0..ROUNDS {
        let overlay = victim.mutated(&mut dice);
        let (before, writes) = (overlay.sectors(), overlay.writes());
        let new = Uuid::from_u128(u128::from(round) + 1);
        // Writing and reading back takes five times as long as planning.
        let changing = || if round % 10 == 0 { xfs::change(&overlay, new) } else { xfs::plan(&overlay, new) };
        match changing() {
            Ok(_) => changed += 1,
            Err(error) if error.is_refusal() => {
                assert!(overlay.writes() == writes && overlay.sectors() == before, "round {round}: {error}");
                refused += 1;
            }
            Err(error) => panic!("round {round}: {error}"),
        }
    }
    assert!(refused > 1000 && changed > 1000, "{refused} refused, {changed} changed");
}
