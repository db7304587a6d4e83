//! The amberfs mounts in `/proc/self/mounts`.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::error::CliError;

const MOUNTS: &str = "/proc/self/mounts";

/// Some hundred thousand mounts.
const MOUNTS_BYTES_MAX: u64 = 64 << 20;

/// Returns the mount points, in the order in which they were mounted; one twice when it is mounted over.
pub fn amberfs_mounts() -> Result<Vec<PathBuf>, CliError> {
    Ok(parse(&read()?))
}

/// Returns the device that is mounted on a folder, the last one where there are several.
pub fn device_of(directory: &Path) -> Result<Option<PathBuf>, CliError> {
    let table = read()?;
    let mut devices = table.split(|&byte| byte == b'\n').filter_map(|line| {
        let mut words = line.split(|&byte| byte == b' ');
        let (device, mountpoint) = (words.next()?, words.next()?);
        let mountpoint = PathBuf::from(OsString::from_vec(unescape(mountpoint)));
        (mountpoint == directory).then(|| PathBuf::from(OsString::from_vec(unescape(device))))
    });
    Ok(devices.next_back())
}

fn read() -> Result<Vec<u8>, CliError> {
    let mut table = Vec::new();
    File::open(MOUNTS)
        .and_then(|file| file.take(MOUNTS_BYTES_MAX).read_to_end(&mut table))
        .map_err(|source| CliError::Io { what: "read", path: MOUNTS.into(), source })?;
    Ok(table)
}

fn parse(table: &[u8]) -> Vec<PathBuf> {
    let lines = table.split(|&byte| byte == b'\n');
    let mounts = lines.filter_map(|line| {
        let mut words = line.split(|&byte| byte == b' ');
        let (name, directory, kind) = (words.next()?, words.next()?, words.next()?);
        is_amberfs(name, kind).then(|| PathBuf::from(OsString::from_vec(unescape(directory))))
    });
    mounts.collect()
}

/// Is this the name and type of a mount of ours? fusermount3 writes our name behind the type; fuser's own mount, which
/// root makes, leaves the type bare.
fn is_amberfs(name: &[u8], kind: &[u8]) -> bool {
    kind == b"fuse.amberfs" || (kind == b"fuse" && name == b"amberfs")
}

/// Undoes the kernel's `\040` for blanks and backslashes.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        match after {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', behind @ ..] if first == b'\\' => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = behind;
            }
            _ => plain.push(first),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amberfs_mounts_are_found_whatever_their_names() {
        let table = b"proc /proc proc rw 0 0\namberfs /mnt/a\\040b\\134c\\011\xff fuse.amberfs ro 0 0\n\
            x /fuse.amberfs fuse.other rw 0 0\namberfs /root fuse rw 0 0\nx /x fuse rw 0 0\namberfs /a ext4\nbroken\n /dev/sda /mnt\\04 fuse.amberfs\namberfs /m\\04 fuse.amberfs rw 0 0";
        let expected: Vec<PathBuf> = [&b"/mnt/a b\\c\t\xff"[..], b"/root", b"/m\\04"]
            .map(|name| PathBuf::from(OsString::from_vec(name.to_vec())))
            .to_vec();
        assert_eq!(parse(table), expected);
        assert!(parse(b"").is_empty());
    }
}
