//! Holes in files: found, and made. A file system without holes is one whose files are data from end to end.

use std::fs::File;
use std::io;
use std::ops::Range;

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

/// Returns the next run of data in `from..end`; `None` when the rest is a hole.
///
/// Moves the file's position, which nobody may rely on; threads do not disturb each other.
pub fn next_data(file: &File, from: u64, end: u64) -> io::Result<Option<Range<u64>>> {
    if from >= end {
        return Ok(None);
    }
    let start = match rustix::fs::seek(file, SeekFrom::Data(from)) {
        Ok(start) if start >= end => return Ok(None),
        Ok(start) => start.max(from),
        Err(Errno::NXIO) => return Ok(None),
        Err(error) if has_no_holes(error) => return Ok(Some(from..end)),
        Err(error) => return Err(error.into()),
    };
    let data_end = match rustix::fs::seek(file, SeekFrom::Hole(start)) {
        // An answer that does not move on could be asked for without end.
        Ok(hole) if hole > start => hole.min(end),
        Ok(_) => end,
        // The file was cut meanwhile: reading the rest says so.
        Err(Errno::NXIO) => end,
        Err(error) if has_no_holes(error) => end,
        Err(error) => return Err(error.into()),
    };
    Ok(Some(start..data_end))
}

/// Makes a range within the file read as zeros and gives its space back. `false` when the file system cannot.
pub fn punch(file: &File, offset: u64, length: u64) -> io::Result<bool> {
    if length == 0 {
        return Ok(true);
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    loop {
        match rustix::fs::fallocate(file, flags, offset, length) {
            Ok(()) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(error) if has_no_holes(error) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

fn has_no_holes(error: Errno) -> bool {
    matches!(error, Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV)
}
