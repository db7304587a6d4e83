//! An advisory lock on a file that is open: one holder, given back with the last descriptor of that opening.

use std::fs::File;
use std::io;

use rustix::fs::FlockOperation;

/// Takes the lock; `false` when somebody else holds it.
pub fn try_lock(file: &File) -> io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
