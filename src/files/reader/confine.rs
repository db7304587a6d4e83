//! What a worker gives up before it reads the first byte of an image.

use std::io;

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, geteuid, nice, set_dumpable_behavior,
    set_parent_process_death_signal, setrlimit,
};
use rustix::thread::{set_no_new_privs, set_thread_gid, set_thread_groups, set_thread_uid};
use rustix::{process::Gid, process::Uid};

use crate::sysio::descriptors::close_from;

/// `nobody` and `nogroup`.
const NOBODY: u32 = 65534;
/// A worker computes while others read their images through the same daemon.
const NICENESS: i32 = 5;

/// Gives up all descriptors but the first, which is the socket, all rights, and everything but a bounded memory and the
/// processor. The process has one thread, so what is set for a thread is set for the process.
pub fn confine(memory_bytes: u64) -> io::Result<()> {
    close_from(1)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, 0)?;
    // The socket is open already; there is never another, not even in its place.
    limit(Resource::Nofile, 0)?;
    limit(Resource::As, memory_bytes)?;
    nice(NICENESS)?;
    if geteuid().is_root() {
        set_thread_groups(&[])?;
        set_thread_gid(Gid::from_raw(NOBODY))?;
        set_thread_uid(Uid::from_raw(NOBODY))?;
    }
    limit(Resource::Nproc, 0)?;
    set_no_new_privs(true)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // Last, since a change of the user clears it. Should the daemon be gone already, the socket says so.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(())
}

fn limit(resource: Resource, value: u64) -> io::Result<()> {
    Ok(setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })?)
}
