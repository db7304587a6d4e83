//! Closes what a process inherited: a program that is to have nothing but what it was given.
#![expect(unsafe_code, reason = "no crate wraps close_range")]

use std::io;

/// Closes every descriptor from `first` on, for good. To be called before anything was opened: whatever holds one of
/// them in this process holds a number that means nothing any more.
pub fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: takes three numbers. Closing a descriptor that a value still owns would break that value's promise; the
    // caller says that there is none.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
