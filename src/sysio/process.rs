//! Other processes, as far as the kernel tells of them.

use std::fs::File;
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

fn groups_in(status: &str) -> Vec<u32> {
    // A process names itself, but its name cannot hold a line feed that is not escaped.
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    line.unwrap_or_default().split_whitespace().filter_map(|group| group.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
