//! 12: kills at any moment.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::bytes::{Numbers, pattern};
use crate::support::daemon::until;
use crate::world::{MIB, World, changed, everywhere, with_hole};

/// How often the daemon is killed; `AMBERFS_KILLS` asks for more.
fn kills() -> usize {
    std::env::var("AMBERFS_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(12)
}

/// After a crash every `available` backup reads back exactly. Backups that were being made and restores are resumed,
/// deletes are finished; what cannot be resumed is `error` with a `fail_reason`. No snapshot of ours that nobody needs
/// is left on a source, no volume of a restore under its final name that is not complete, and foreign snapshots are
/// never touched.
#[test]
fn kills_at_random_moments_lose_nothing_and_leave_nothing() {
    kill_again_and_again(World::files(""));
    #[cfg(feature = "rbd")]
    kill_again_and_again(World::images(""));
}

fn kill_again_and_again(mut world: World) {
    let mut numbers = Numbers::new(if world.is_rbd() { 1 } else { 2 });
    let mut bytes = with_hole(1, 24 * MIB);
    world.fill("v", &bytes);
    #[cfg(feature = "rbd")]
    if world.is_rbd() {
        world.client(serde_json::json!({"op": "snapshot", "name": world.name("v"), "snapshot": "foreign"}));
        world.client(serde_json::json!({"op": "close", "name": world.name("v")}));
    }
    // What each backup must read as, from the moment its command was accepted.
    let mut expected: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut states = Vec::new();
    for round in 0..kills() {
        bytes = changed(&bytes, numbers.next() % 1000);
        let start = usize::try_from(numbers.below(20)).unwrap() * MIB;
        bytes[start..start + MIB].copy_from_slice(&pattern(numbers.next(), MIB));
        world.fill("v", &bytes);
        states.push(bytes.clone());
        let options = if numbers.below(3) == 0 { "" } else { "--incremental" };
        let line = format!("{} {options}\n", world.volume("v"));
        let said = until("the cluster to forget the daemon that was killed", || {
            let said = world.daemon.say("backup", &line);
            let is_held = world.is_rbd() && said.answer.contains("VolumeInUse");
            assert!(said.write.is_ok() || is_held, "{}", said.answer);
            (!is_held).then_some(said)
        });
        let id = said.answer.split_whitespace().find_map(|pair| pair.strip_prefix("backup=")).unwrap();
        expected.insert(id.to_owned(), bytes.clone());
        let others: Vec<String> = expected.keys().filter(|other| *other != id).cloned().collect();
        if let Some(other) = pick(&others, &mut numbers) {
            match numbers.below(4) {
                // Refused while others lean on it.
                0 if world.daemon.say("delete", &format!("{other}\n")).write.is_ok() => {
                    expected.remove(&other);
                }
                1 => drop(world.daemon.say("flatten", &format!("{other}\n"))),
                2 => drop(world.daemon.say("restore", &format!("{other} --name {}\n", world.name("r")))),
                _ => {}
            }
        }
        std::thread::sleep(Duration::from_millis(numbers.below(400)));
        world.daemon.kill();
        world.daemon.serve();
        settle(&world);
        check(&world, &mut expected, &states, round);
    }
}

fn pick(ids: &[String], numbers: &mut Numbers) -> Option<String> {
    let count = u64::try_from(ids.len()).unwrap();
    (count > 0).then(|| ids[usize::try_from(numbers.below(count)).unwrap()].clone())
}

fn listed(world: &World) -> Vec<String> {
    let entries = std::fs::read_dir(world.daemon.mount().join("backups")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Waits until nothing is being made, restored or deleted any more.
fn settle(world: &World) {
    until("the work of the last daemon to be finished", || {
        let busy = listed(world).iter().any(|id| {
            let info = std::fs::read(world.daemon.mount().join("backups").join(id).join("info.json"));
            let Ok(info) = info else { return true };
            let info: serde_json::Value = serde_json::from_slice(&info).unwrap();
            !matches!(info["status"].as_str().unwrap(), "available" | "error")
        });
        let snapshots = world.own_snapshots("v").len();
        (!busy && snapshots <= 1).then_some(())
    });
}

fn check(world: &World, expected: &mut BTreeMap<String, Vec<u8>>, states: &[Vec<u8>], round: usize) {
    let there = listed(world);
    for id in &there {
        let info = world.daemon.info(id);
        if info["status"] == "error" {
            // Of a file there is no snapshot that could outlive the daemon.
            assert!(!world.is_rbd(), "round {round}: {info}");
            assert!(info["fail_reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{info}");
            expected.remove(id);
            continue;
        }
        let bytes = expected.get(id).unwrap_or_else(|| panic!("round {round}: {id} was deleted"));
        assert!(world.image(id) == *bytes, "round {round}: {info}");
    }
    for id in expected.keys() {
        assert!(there.contains(id), "round {round}: backup {id} is lost: {}", world.daemon.log());
    }
    let leftovers: Vec<_> =
        world.volumes().into_iter().filter(|name| name.starts_with("restore_backup_")).collect();
    let ours = leftovers.iter().filter(|name| there.iter().any(|id| name.contains(id.as_str()))).count();
    assert_eq!(ours, 0, "round {round}: {leftovers:?}");
    for volume in world.volumes() {
        if volume.starts_with(&world.name("r")) {
            let bytes = world.bytes_of(volume.trim_end_matches(".raw")).unwrap();
            assert!(states.contains(&bytes), "round {round}: {volume} is no backup");
        }
    }
    if world.is_rbd() {
        assert!(world.snapshots("v").contains(&"foreign".to_owned()));
    }
}

/// A backup, restore or delete that the next daemon goes on with keeps its job's number.
#[test]
fn a_killed_restore_ends_well_as_the_job_that_it_was() {
    everywhere(|world| {
        let bytes = with_hole(7, 384 * MIB);
        world.fill("v", &bytes);
        let id = world.backup("v", "");
        let job = world.daemon.accepted("restore", &format!("{id} --name {}\n", world.name("r")), "job");
        until("the volume to fill", || {
            let job = world.daemon.job(&job);
            assert_ne!(job["state"], "done", "it was restored too fast to be killed");
            (job["bytes_done"] != 0).then_some(())
        });
        world.daemon.kill();
        world.daemon.serve();
        world.daemon.done(&job);
        assert!(world.bytes("r").unwrap() == bytes);
        assert_eq!(world.daemon.info(&id)["status"], "available");
        assert_eq!(world.volumes(), [world.name("r"), world.name("v")].map(|name| file_name(world, name)));
    });
}

/// A restored volume in a directory is `NAME.raw`.
fn file_name(world: &World, name: String) -> String {
    if name == world.name("r") && !world.is_rbd() { format!("{name}.raw") } else { name }
}
