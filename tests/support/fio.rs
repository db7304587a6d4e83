//! `fio` with verification, on a file or block device of a fixed size: every block carries its own checksum, so that
//! they can be checked later, by another process, after whoever serves them was restarted.

use std::path::Path;
use std::process::Command;

/// Writes half of all blocks in random order, syncing now and then and at the end, and reads all of them back.
pub fn write_and_verify(path: &Path, bytes: u64, direct: bool) -> Result<(), String> {
    fio(path, bytes, &["--do_verify=1", "--end_fsync=1", if direct { "--direct=1" } else { "--direct=0" }])
}

/// Reads back what `write_and_verify` wrote there.
pub fn verify(path: &Path, bytes: u64) -> Result<(), String> {
    fio(path, bytes, &["--verify_only=1"])
}

fn fio(path: &Path, bytes: u64, options: &[&str]) -> Result<(), String> {
    let fio = Command::new("fio")
        .args([
            "--name=blocks",
            "--rw=randwrite",
            "--bs=4k",
            "--ioengine=psync",
            "--fsync=64",
            "--randseed=7",
        ])
        .args(["--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--allow_file_create=0"])
        .args([format!("--size={bytes}"), format!("--io_size={}", bytes / 2)])
        .arg(format!("--filename={}", path.display()))
        .args(options)
        // Where it would leave files of its own.
        .current_dir(std::env::temp_dir())
        .output()
        .unwrap();
    let said = [fio.stdout, fio.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    if fio.status.success() { Ok(()) } else { Err(said) }
}
