//! 6: restores as a user sees them. How they compare, grow and go on is in `tests/restores/`.

use rustix::io::Errno;

use crate::support::bytes::pattern;
use crate::world::{MIB, World, changed, everywhere, with_hole};

/// Takes a good deal longer to restore than to look at a mark and to cancel.
const LARGE: usize = 384 * MIB;

/// A restore makes a new volume, in `--source S`, else the type's source, else the backup's. It fills as
/// `restore_backup_<backup id>` and has its final name only when it is complete: `--name N`, or `--to N` where there is
/// no such volume (`VolumeExists` if the name is taken); else the source volume's name if that is free, else that name
/// with `-<UTC time>` appended.
#[test]
fn a_new_volume_has_its_name_when_it_is_complete() {
    everywhere(|world| {
        let bytes = pattern(1, 48 * MIB);
        world.fill("v", &bytes);
        let id = world.backup("v", "");
        let named = world.name("named");
        let job = world.daemon.accepted("restore", &format!("{id} --name {named}\n"), "job");
        let mut seen = std::collections::BTreeSet::new();
        crate::support::daemon::until("the restore", || {
            seen.extend(world.volumes());
            // Whatever has the final name is complete.
            if let Some(there) = world.bytes("named") {
                assert!(there == bytes);
            }
            (world.daemon.job(&job)["state"] == "done").then_some(())
        });
        let temporary = format!("restore_backup_{id}");
        assert!(seen.iter().any(|name| name.starts_with(&temporary)), "{seen:?}");
        world.daemon.refused("restore", &format!("{id} --name {named}\n"), Errno::EXIST, "VolumeExists");
        world.daemon.restore(&format!("{id} --to {}", world.volume("to")));
        assert!(world.bytes("to").unwrap() == bytes);
        let volume = world.daemon.accepted("restore", &format!("{id}\n"), "volume");
        let stem = format!("{}-2", world.volume("v"));
        assert!(volume.starts_with(&stem) && volume.ends_with('Z'), "{volume}");
        settle(world, &id);
        assert!(world.bytes_of(volume.split_once('/').unwrap().1).unwrap() == bytes);
    });
}

/// Over a volume that exists (`--to`), a restore needs `--force` (`VolumeExists` without) and room for the backup
/// (`VolumeTooSmall`). All of it is overwritten, and reads zero beyond the backup's end. Meanwhile it carries the mark
/// `amberfs.restore=incomplete`: image-meta on RBD, the extended attribute `user.amberfs.restore` on a file. The mark
/// stays when the restore is cancelled or fails, until a later one into it ends well.
#[test]
fn an_existing_volume_is_overwritten_and_marked_meanwhile() {
    everywhere(|world| {
        let bytes = with_hole(2, LARGE);
        world.fill("v", &bytes);
        let id = world.backup("v", "");
        let mut other = vec![0; LARGE + MIB + 512];
        other[LARGE - MIB..].copy_from_slice(&pattern(3, 2 * MIB + 512));
        world.fill("target", &other);
        world.fill("small", &pattern(4, MIB));
        let over = format!("{id} --to {}", world.volume("target"));
        world.daemon.refused("restore", &format!("{over}\n"), Errno::EXIST, "VolumeExists");
        let small = format!("{id} --to {} --force\n", world.volume("small"));
        world.daemon.refused("restore", &small, Errno::FBIG, "VolumeTooSmall");
        assert_eq!(mark(world), None);
        // On a busy machine a whole restore may go by between two looks of Ceph's tool.
        let job = (0..5).find_map(|_| {
            world.fill("target", &other);
            let job = world.daemon.accepted("restore", &format!("{over} --force\n"), "job");
            let seen = crate::support::daemon::until("the mark, or the end", || {
                let has_ended = world.daemon.job(&job)["state"] == "done";
                mark(world).map(Some).or_else(|| has_ended.then_some(None))
            });
            seen.map(|marked| {
                assert_eq!(marked, "incomplete");
                job
            })
        });
        let job = job.expect("the mark of one of five restores");
        world.accepted_pairs("cancel", &job);
        let job = world.daemon.ended(&job);
        assert_eq!(job["state"], "cancelled", "it was restored too fast to be cancelled");
        assert_eq!(mark(world).as_deref(), Some("incomplete"));
        world.daemon.restore(&format!("{over} --force"));
        assert_eq!(mark(world), None);
        let mut expected = bytes;
        expected.resize(LARGE + MIB + 512, 0);
        assert!(world.bytes("target").unwrap() == expected);
    });
}

fn mark(world: &World) -> Option<String> {
    #[cfg(feature = "rbd")]
    if world.is_rbd() {
        let listed = world.cluster().rbd(&["image-meta", "ls", &world.name("target")]);
        let listed = String::from_utf8(listed).unwrap();
        let marked = listed.lines().find_map(|line| line.strip_prefix("amberfs.restore"));
        return marked.map(|value| value.trim().to_owned());
    }
    let mut value = [0; 100];
    let length = rustix::fs::getxattr(world.path("target"), "user.amberfs.restore", &mut value[..]).ok()?;
    Some(String::from_utf8_lossy(&value[..length]).into_owned())
}

/// A restore to a new volume that is cancelled or fails leaves no volume, neither under its final name nor under its
/// temporary one.
#[test]
fn a_cancelled_restore_leaves_no_volume() {
    everywhere(|world| {
        let bytes = changed(&pattern(5, 128 * MIB), 6);
        world.fill("v", &bytes);
        let id = world.backup("v", "");
        let job = world.daemon.accepted("restore", &format!("{id} --name {}\n", world.name("r")), "job");
        crate::support::daemon::until("the volume to fill", || {
            let job = world.daemon.job(&job);
            assert_ne!(job["state"], "done", "it was restored too fast to be cancelled");
            (job["bytes_done"] != 0).then_some(())
        });
        world.accepted_pairs("cancel", &job);
        assert_eq!(world.daemon.ended(&job)["state"], "cancelled");
        assert_eq!(world.volumes(), [world.name("v")]);
        assert_eq!(world.daemon.info(&id)["status"], "available");
        assert!(world.image(&id) == bytes);
    });
}

fn settle(world: &World, id: &str) {
    crate::support::daemon::until("the restore", || {
        (world.daemon.info(id)["status"] == "available").then_some(())
    });
}
