//! What is refused, with nothing changed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use amberfs::sysio::device::ReadAt;
use amberfs::xfs::{self, Refused, XfsError};
use uuid::Uuid;

use super::overlay::Overlay;
use super::volume::{
    Mount, Volume, assert_mounts_beside, device, edit_superblock, text, try_run, write_file,
};

fn refusal(path: &Path) -> Refused {
    let overlay = Overlay::new(path);
    let error = xfs::change(&overlay, Uuid::new_v4()).unwrap_err();
    assert!(error.is_refusal() && overlay.writes() == 0, "{error}");
    match error {
        XfsError::Refused(refused) => refused,
        other => panic!("{other}"),
    }
}

/// Where the headers of the log's records are, with the payload length of each; newest last.
fn records(path: &Path) -> Vec<(u64, u32)> {
    let device = device(path);
    let mut superblock = [0; 512];
    device.read_exact_at(0, &mut superblock).unwrap();
    let be32 = |bytes: &[u8], at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    let be64 = |bytes: &[u8], at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let (address, bits) = (be64(&superblock, 48), superblock[124]);
    let blocks = (address >> bits) * u64::from(be32(&superblock, 84)) + (address & ((1 << bits) - 1));
    let start = blocks * u64::from(be32(&superblock, 4));
    let mut log = vec![0; (be32(&superblock, 96) * be32(&superblock, 4)) as usize];
    device.read_exact_at(start, &mut log).unwrap();
    let mut found: Vec<(u64, u64, u32)> = log
        .chunks(512)
        .zip((start..).step_by(512))
        .filter(|(block, _)| block.starts_with(&[0xfe, 0xed, 0xba, 0xbe]) && be32(block, 12) > 0)
        .map(|(block, at)| (be64(block, 16), at, be32(block, 12)))
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, at, length)| (at, length)).collect()
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x55], at).unwrap();
}

#[test]
fn file_systems_that_it_does_not_know_how_to_change() {
    let volume = Volume::make(&[]);
    for (at, bytes, wanted) in [
        (126, &[1][..], Refused::InProgress),
        (219, &[0x10 | 0x0b], Refused::NeedsRepair),
        (16, &[0, 0, 0, 0, 0, 0, 1, 0], Refused::Realtime),
        (218, &[1], Refused::Realtime),
        (217, &[1], Refused::UnknownFeatures { set: "incompatible", bits: 0x1_0000 }),
        (213, &[1], Refused::UnknownFeatures { set: "read-only compatible", bits: 0x1_0000 }),
        (220, &[0x80], Refused::UnknownFeatures { set: "log-incompatible", bits: 0x8000_0000 }),
        (101, &[0xb3], Refused::UnsupportedVersion { found: 3 }),
        (48, &[0; 8], Refused::ExternalLog),
    ] {
        let edited = volume.copy("edited");
        edit_superblock(&edited, at, bytes);
        assert_eq!(refusal(&edited), wanted);
    }
}

#[test]
fn geometry_that_cannot_be() {
    let volume = Volume::make(&[]);
    for (at, bytes) in [
        (4, &[0, 0, 0, 0][..]),
        (4, &[0, 0, 0x20, 1]),
        (8, &[0xff; 8]),
        (8, &[0; 8]),
        (84, &[0; 4]),
        (84, &[0xff; 4]),
        (88, &[0; 4]),
        (88, &[0xff; 4]),
        (96, &[0xff; 4]),
        (96, &[0; 4]),
        (48, &[0xff; 8]),
        (102, &[0, 0]),
        (102, &[0x80, 0]),
        (124, &[0xff]),
        (124, &[0]),
    ] {
        let edited = volume.copy("edited");
        edit_superblock(&edited, at, bytes);
        let refused = refusal(&edited);
        assert!(matches!(refused, Refused::Damaged { .. }), "{at}: {refused}");
    }
    let edited = volume.copy("edited");
    flip(&edited, 300);
    assert!(matches!(refusal(&edited), Refused::Damaged { .. }));
}

#[test]
fn a_device_that_is_shorter_than_the_file_system() {
    let volume = Volume::make(&[]);
    File::options().write(true).open(&volume.path).unwrap().set_len(300 << 20).unwrap();
    assert_eq!(
        refusal(&volume.path),
        Refused::BeyondDevice { size_bytes: 320 << 20, device_bytes: 300 << 20 }
    );
}

#[test]
fn no_uuid_and_no_xfs() {
    let volume = Volume::make(&[]);
    let error = xfs::plan(&device(&volume.path), Uuid::nil()).unwrap_err();
    assert!(matches!(error, XfsError::Refused(Refused::NilUuid)));
    for bytes in [0, 100, 512, 1 << 20] {
        File::create(&volume.path).unwrap().set_len(bytes).unwrap();
        let error = xfs::plan(&device(&volume.path), Uuid::new_v4()).unwrap_err();
        assert!(matches!(error, XfsError::NotXfs { .. }) && error.is_refusal());
        assert_eq!(xfs::identify(&device(&volume.path)).unwrap(), None);
    }
}

#[test]
fn a_log_on_another_device() {
    let folder = tempfile::tempdir().unwrap();
    let (path, log) = (folder.path().join("volume"), folder.path().join("log"));
    File::create(&path).unwrap().set_len(320 << 20).unwrap();
    File::create(&log).unwrap().set_len(80 << 20).unwrap();
    let log_device = format!("logdev={},size=64m", text(&log));
    try_run("mkfs.xfs", &["-q", "-l", &log_device, text(&path)]).unwrap();
    assert_eq!(refusal(&path), Refused::ExternalLog);
}

#[test]
fn groups_whose_superblocks_are_not_those_of_the_first() {
    let volume = Volume::make(&[]);
    let damaged = volume.copy("damaged");
    flip(&damaged, (80 << 20) + 400);
    assert_eq!(refusal(&damaged), Refused::GroupDamaged { group: 1, why: "its checksum does not match" });
    let other = volume.copy("other");
    try_run(
        "xfs_db",
        &["-x", "-c", "sb 2", "-c", "write -d uuid 11111111-2222-3333-4444-555555555555", text(&other)],
    )
    .unwrap();
    assert!(matches!(refusal(&other), Refused::GroupUuid { group: 2, .. }));
}

#[test]
fn a_log_that_is_torn_where_a_mount_would_replay_it() {
    let volume = Volume::crashed(&["--unsupported", "-l", "size=16m"], "");
    // More records than can be under way at once, and one torn in the middle of them.
    let mut torn = volume.copy("torn");
    {
        let mounted = Mount::new(&torn, "");
        for number in 0..30 {
            write_file(&mounted.at.join(format!("late-{number}")), b"synced");
            try_run("sync", &[text(&mounted.at.join(format!("late-{number}")))]).unwrap();
        }
        let copy = volume.folder.path().join("copy");
        super::volume::copy_file(&torn, &copy);
        drop(mounted);
        torn = copy;
    }
    let records = records(&torn);
    let (at, _) = records[records.len() - 15];
    let whole = volume.folder.path().join("whole");
    super::volume::copy_file(&torn, &whole);
    flip(&torn, at + 512 + 100);
    assert!(matches!(refusal(&torn), Refused::TornLog { .. }));
    assert!(Mount::try_new(&torn, "").is_err(), "the kernel replays it all the same");

    // A record of another file system there.
    let file = File::options().write(true).open(&whole).unwrap();
    file.write_all_at(&[7; 16], at + 304).unwrap();
    assert!(matches!(refusal(&whole), Refused::ForeignLog { .. }));
}

/// A mount cuts the log off at the first such record, whichever of the last eight it is, and has the same files under either UUID.
#[test]
fn records_that_were_under_way_at_the_end_are_no_reason() {
    let volume = Volume::crashed(&["--unsupported", "-l", "size=16m"], "logbsize=32k");
    let records = records(&volume.path);
    let since_mount = records.len() - 1;
    assert!(since_mount >= 2, "{since_mount} records");
    for (at, length) in records.iter().rev().take(since_mount.min(8)) {
        let (original, changed) = (volume.copy("original"), volume.copy("changed"));
        flip(&original, at + 512 + u64::from(*length) - 10);
        flip(&changed, at + 512 + u64::from(*length) - 10);
        xfs::change(&device(&changed), Uuid::new_v4()).unwrap();
        assert_mounts_beside(&original, &changed);
    }
}
