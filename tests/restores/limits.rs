//! Rule 11: so many operations at once, the others in order, and one budget of memory for all of them.

use std::fs::{self, File};
use std::io::Write;

use amberfs::jobs::JobState;
use amberfs::operations::{Requester, RestoreRequest};

use crate::support::bytes::pattern;
use crate::support::daemon::Daemon;
use crate::support::engine::full;
use crate::{World, restore};

/// At most `limits.max_operations` backups and restores run at once, both together; the others wait in the order they
/// came.
#[test]
fn backups_and_restores_wait_in_one_line_and_a_queued_restore_is_cancelled() {
    let mut world = World::new();
    world.volume("v", &pattern(1, 100_000));
    let ids = [0; 4].map(|_| world.engine().backup(full("v")).id);
    world.stop();
    world.open(2, |_| {});
    world.gates.reads.close();
    world.gates.writes.close();
    let backup = || world.engine().operations.backup(&Requester::OPERATOR, &full("v")).unwrap().job;
    let to = |number: usize| {
        let request = RestoreRequest { name: Some(format!("n{number}")), ..restore(ids[number]) };
        world.accept(&request).job
    };
    let jobs = [backup(), to(0), to(1), backup(), to(2), backup(), to(3)];
    world.gates.reads.wait_until_waiting(1);
    world.gates.writes.wait_until_waiting(1);
    let report = |job| world.engine().operations.jobs().report(job).unwrap();
    let states = jobs.map(|job| report(job).state);
    assert_eq!((&states[..2], &states[2..]), (&[JobState::Running; 2][..], &[JobState::Queued; 5][..]));
    world.cancel(jobs[4]);
    assert_eq!(report(jobs[4]).state, JobState::Cancelled);
    world.assert_available(ids[2]);
    world.gates.reads.open();
    world.gates.writes.open();
    let mut started = Vec::new();
    for job in jobs.into_iter().filter(|job| *job != jobs[4]) {
        assert_eq!(world.wait(job).state, JobState::Done);
        started.push(report(job).started_at.unwrap());
    }
    assert!(started.is_sorted(), "{started:?}");
    assert_eq!(world.files(), ["n0.raw", "n1.raw", "n3.raw", "v"]);
}

/// What backups and restores hold of the data at any moment is taken from one budget, `limits.memory`, however many of
/// them run.
#[test]
fn fifteen_restores_of_incompressible_data_stay_within_the_memory_limit() {
    const VOLUME_MIB: usize = 200;
    let volumes = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&format!(
        "[repository]\ncache = \"64MiB\"\n[limits]\nmemory = \"64MiB\"\n[source.local]\ntype = \"dir\"\npath = \"{}\"\n",
        volumes.path().display()
    ));
    let mut file = File::create(volumes.path().join("v.raw")).unwrap();
    let bytes = pattern(1, VOLUME_MIB << 20);
    file.write_all(&bytes).unwrap();
    drop(file);
    let ids: Vec<_> = (0..15).map(|_| daemon.backup("local/v")).collect();
    let lines: String = ids.iter().enumerate().map(|(n, id)| format!("{id} --name r{n}\n")).collect();
    let said = daemon.say("restore", &lines);
    assert!(said.write.is_ok(), "{}", said.answer);
    for line in said.answer.lines() {
        daemon.done(line.split_whitespace().find_map(|pair| pair.strip_prefix("job=")).unwrap());
    }
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    // The limit of what is under way, the cache, and what any process needs: code, stacks, buffers of requests.
    assert!(peak_kib < (64 + 64 + 72) << 10, "{peak_kib} KiB resident at the peak");
    for number in 0..15 {
        let path = volumes.path().join(format!("r{number}.raw"));
        assert!(fs::read(&path).unwrap() == bytes, "{number}");
        fs::remove_file(path).unwrap();
    }
}
