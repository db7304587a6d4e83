//! The repository header: a line with a checksum around JSON.

use amberfs::format::header::{CHUNK_SIZE_MAX, RepositoryHeader};

use super::sealed;

pub fn look(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    match mode % 2 {
        0 => check(rest),
        _ => check(sealed::document("amberfs-repository", 1, &String::from_utf8_lossy(rest)).as_bytes()),
    }
}

fn check(bytes: &[u8]) {
    let Ok(header) = RepositoryHeader::decode(bytes) else { return };
    assert!(header.chunk_size.0 <= CHUNK_SIZE_MAX && header.chunk_size.0.is_power_of_two());
    let _ = header.compatibility();
    let text = header.encode().unwrap();
    assert_eq!(RepositoryHeader::decode(text.as_bytes()), Ok(header));
}
