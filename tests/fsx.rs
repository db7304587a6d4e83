//! The model checker and fio, on what is known to be right: they accept a file and a loop device, and notice one byte
//! that is wrong, lost or too old.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a failed expectation is a failed test"
)]

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use support::attach::{Export, Loop};
use support::daemon::until;
use support::fio;
use support::fsx::{Allowed, Failure, Fsx};

const SIZE: u64 = (4 << 20) + 4096;

fn image(folder: &Path) -> PathBuf {
    let path = folder.join("image");
    File::create(&path).unwrap().set_len(SIZE).unwrap();
    path
}

fn set_byte(path: &Path, at: u64, change: impl Fn(u8) -> u8) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&byte.map(change), at).unwrap();
}

#[test]
fn a_plain_file_and_a_loop_device_hold_what_was_written_to_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path());
    for seed in 0..4 {
        let mut fsx = Fsx::new(&path, seed, Allowed::ALL).unwrap();
        fsx.run(&path, 3000).unwrap();
    }
    let device = Loop::new(&path, None);
    for seed in 4..6 {
        let mut fsx = Fsx::new(device.device(), seed, Allowed::ALL).unwrap();
        fsx.run(device.device(), 1500).unwrap();
        fsx.run(device.device(), 500).unwrap();
    }
}

#[test]
fn one_changed_byte_is_noticed_wherever_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path());
    for at in [0, 1_234_567, SIZE - 1] {
        let mut fsx = Fsx::new(&path, at, Allowed::ALL).unwrap();
        fsx.run(&path, 200).unwrap();
        set_byte(&path, at, |byte| byte ^ 1);
        let Err(Failure::Wrong { at: noticed, .. }) = fsx.compare(&path) else {
            panic!("not noticed at {at}")
        };
        assert_eq!(noticed, at);
        // Nor is it missed when the file is opened again and nothing is written.
        assert!(matches!(fsx.run(&path, 0), Err(Failure::Wrong { .. })));
        set_byte(&path, at, |byte| byte ^ 1);
        fsx.run(&path, 200).unwrap();
    }
}

#[test]
fn a_crash_may_lose_what_was_not_synced_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path());
    let mut fsx = Fsx::new(&path, 7, Allowed::ALL).unwrap();
    fsx.run(&path, 300).unwrap();
    fsx.sync(&path).unwrap();
    let synced = std::fs::read(&path).unwrap();

    // What is durable may not be lost, nor turn into something else.
    set_byte(&path, 99_999, |byte| byte ^ 4);
    assert!(matches!(fsx.after_crash(&path), Err(Failure::Wrong { at: 99_999, .. })));
    set_byte(&path, 99_999, |byte| byte ^ 4);

    // Few operations, so that none of them is a sync with this seed.
    fsx.run(&path, 12).unwrap();
    let written = std::fs::read(&path).unwrap();
    let changed: Vec<_> =
        (0..SIZE).filter(|at| synced.get(*at as usize) != written.get(*at as usize)).collect();
    let (first, last) = (*changed.first().unwrap(), *changed.last().unwrap());
    let to_old = |at: u64| {
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .write_all_at(synced.get(at as usize..=at as usize).unwrap(), at)
    };
    to_old(first).unwrap();
    to_old(last).unwrap();
    assert!(matches!(fsx.compare(&path), Err(Failure::Wrong { .. })), "without a crash nothing is lost");
    fsx.after_crash(&path).unwrap();
    fsx.run(&path, 300).unwrap();
}

#[test]
fn it_goes_on_after_the_server_of_the_file_was_killed_in_the_middle() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path());
    let driver = format!("driver=file,filename={}", path.display());
    let start = || Export::new(&driver, &folder.path().join("shown"), true);
    // qemu's files cannot be mapped.
    let allowed = Allowed { mmap: false, ..Allowed::ALL };
    let mut server = start();
    let mut fsx = Fsx::new(server.file(), 9, allowed).unwrap();
    for _ in 0..3 {
        let (shown, before) = (server.file().to_owned(), std::fs::read(&path).unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                until("a write", || (std::fs::read(&path).unwrap() != before).then_some(()));
                server.kill();
            });
            let ended = fsx.run(&shown, u64::MAX);
            assert!(matches!(ended, Err(Failure::Io { .. })), "{ended:?}");
        });
        server = start();
        fsx.after_crash(server.file()).unwrap();
        fsx.run(server.file(), 100).unwrap();
    }
}

#[test]
fn an_operation_that_the_system_refuses_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path());
    let device = Loop::with(&path, None, &["-r"]);
    let mut fsx = Fsx::new(device.device(), 8, Allowed { punch: false, mmap: false, direct: false }).unwrap();
    let Err(Failure::Io { operation, .. }) = fsx.run(device.device(), 100) else {
        panic!("nothing was refused")
    };
    assert!(operation.contains("open") || operation.contains("pwrite"), "{operation}");
}

#[test]
fn fio_finds_what_it_wrote_before_and_notices_one_changed_byte() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path());
    fio::write_and_verify(&path, SIZE, false).unwrap();
    let device = Loop::new(&path, None);
    fio::write_and_verify(device.device(), SIZE, true).unwrap();
    fio::verify(device.device(), SIZE).unwrap();
    drop(device);
    fio::verify(&path, SIZE).unwrap();
    // A block that was written: the others are zeros.
    let bytes = std::fs::read(&path).unwrap();
    let block = bytes.chunks(4096).position(|block| block.iter().any(|byte| *byte != 0)).unwrap() as u64;
    set_byte(&path, block * 4096 + 2000, |byte| byte ^ 1);
    assert!(fio::verify(&path, SIZE).unwrap_err().contains("verify failed"));
}
