//! Processes, this one among them, as far as the kernel tells of them.

use std::fs::{self, File};
use std::io::Read;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const HOST_NAME: &str = "/proc/sys/kernel/hostname";
/// A line of some fifty numbers, and a name of at most 64 bytes.
const STAT_BYTES_MAX: u64 = 4096;

/// With as many groups as the kernel allows, a status has less than a mebibyte.
const STATUS_BYTES_MAX: u64 = 1 << 20;

/// Returns the supplementary groups of a process or thread; none when it is gone or may not be looked at.
pub fn supplementary_groups(pid: u32) -> Vec<u32> {
    let mut status = Vec::new();
    let read = File::open(format!("/proc/{pid}/status"))
        .and_then(|file| file.take(STATUS_BYTES_MAX).read_to_end(&mut status));
    if read.is_err() {
        return Vec::new();
    }
    groups_in(&String::from_utf8_lossy(&status))
}

/// What this process uses at the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub threads: u64,
    /// In user and kernel mode, since its start.
    pub cpu_seconds: f64,
    pub open_descriptors: u64,
    pub descriptors_max: u64,
}

/// Returns what this process uses; nothing where the kernel does not say.
pub fn own_usage() -> Option<Usage> {
    let mut usage = usage_in(&fs::read_to_string("/proc/self/stat").ok()?)?;
    // The one that lists them is among them.
    usage.open_descriptors = (fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    usage.descriptors_max = limit.current.unwrap_or(u64::MAX);
    Some(usage)
}

fn usage_in(stat: &str) -> Option<Usage> {
    // The name stands in parentheses, and may hold some itself.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).and_then(|field| field.parse::<u64>().ok());
    let ticks = field(14)? + field(15)?;
    Some(Usage {
        resident_bytes: field(24)? * rustix::param::page_size() as u64,
        virtual_bytes: field(23)?,
        threads: field(20)?,
        cpu_seconds: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
        ..Usage::default()
    })
}

/// Returns what tells this start of the machine from every other one, if the kernel says it.
pub fn boot_id() -> Option<String> {
    std::fs::read_to_string(BOOT_ID).ok().map(|id| id.trim().to_owned())
}

/// Returns the name of this machine, if the kernel says it.
pub fn host_name() -> Option<String> {
    std::fs::read_to_string(HOST_NAME).ok().map(|name| name.trim().to_owned())
}

/// Returns when a process was started, in clock ticks since the machine was: with its number it tells it from every
/// other one. `None` when there is no such process.
pub fn started_ticks(pid: u32) -> Option<u64> {
    let mut stat = Vec::new();
    File::open(format!("/proc/{pid}/stat")).ok()?.take(STAT_BYTES_MAX).read_to_end(&mut stat).ok()?;
    started_in(&String::from_utf8_lossy(&stat))
}

fn started_in(stat: &str) -> Option<u64> {
    // The name is in parentheses, and may hold some itself; the time is the twentieth field behind it.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

fn groups_in(status: &str) -> Vec<u32> {
    // A process names itself, but its name cannot hold a line feed that is not escaped.
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    line.unwrap_or_default().split_whitespace().filter_map(|group| group.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_uses_is_found() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 7 8 20 0 9 0 100 4096 3 0 0";
        let found = usage_in(stat).unwrap();
        assert_eq!((found.threads, found.virtual_bytes), (9, 4096));
        assert_eq!(found.resident_bytes, 3 * rustix::param::page_size() as u64);
        assert!((found.cpu_seconds * rustix::param::clock_ticks_per_second() as f64 - 200.0).abs() < 1e-6);
        let own = own_usage().unwrap();
        assert!(own.threads >= 1 && own.resident_bytes > 1 << 20 && own.open_descriptors >= 3, "{own:?}");
    }

    #[test]
    fn the_groups_of_a_process_are_found() {
        let status = "Name:\tGroups:\\n7\nUid:\t0\t0\t0\t0\nGroups:\t27 1000 4294967294 \nNStgid:\t1\n";
        assert_eq!(groups_in(status), [27, 1000, 4_294_967_294]);
        assert_eq!(groups_in("Name:\tx\nGroups:\t \n"), [0_u32; 0]);
        let own = rustix::process::getgroups().unwrap();
        let own: Vec<u32> = own.into_iter().map(rustix::process::Gid::as_raw).collect();
        assert_eq!(supplementary_groups(std::process::id()), own);
        assert_eq!(supplementary_groups(0), [0_u32; 0]);
    }

    #[test]
    fn the_start_of_a_process_is_found_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 99 100";
        assert_eq!(started_in(stat), Some(4711));
        assert!(started_ticks(std::process::id()).is_some());
        assert_eq!(started_ticks(0), None);
    }
}
