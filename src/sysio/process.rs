//! Processes, this one among them, as far as the kernel tells of them.

use std::fs::{self, File};
use std::io::Read;

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
}
