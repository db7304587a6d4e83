//! Keeps freed memory from piling up in glibc's arenas.
//!
//! glibc gives every thread an arena of its own, up to eight for each core, and returns little of what was freed in
//! them. The threads of a job end with it, their arenas do not: after 25 incremental backups of 1 GB a daemon with
//! 400 MB of caches was 2.0 GB large, with two arenas 0.6 GB.
#![expect(unsafe_code, reason = "mallopt is wrapped by no crate")]

/// Fewer threads allocate at the same moment than there are cores, most of the time.
const ARENAS_MAX: i32 = 2;
/// Buffers from this size on are mapped on their own, and go back to the kernel when they are freed.
const MAPPED_FROM_BYTES: i32 = 1 << 20;

/// Sets the limits for this process; to be called before there are threads. Elsewhere than on glibc it does nothing.
pub fn limit_arenas() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [(libc::M_ARENA_MAX, ARENAS_MAX), (libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES)] {
        // SAFETY: takes two numbers; refuses what it does not know by returning 0, which costs memory only.
        unsafe { libc::mallopt(parameter, value) };
    }
}
