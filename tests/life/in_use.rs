//! 2: a volume that somebody has open for writing.

use rustix::io::Errno;

use crate::world::{MIB, everywhere, with_hole};

/// A volume is in use while somebody else has it open for writing: an RBD image that a client watches or holds the
/// lock of, a file with an open descriptor. It is backed up with `--force` only (`VolumeInUse` without), as a power
/// cut at that moment would leave it, and never restored to, with `--force` neither.
#[test]
fn a_volume_in_use_is_backed_up_with_force_and_never_restored_to() {
    everywhere(|world| {
        let bytes = with_hole(1, 2 * MIB);
        world.fill("v", &bytes);
        let before = world.backup("v", "");
        let held = world.hold_open("v");
        let volume = world.volume("v");
        let sentence = world.daemon.refused("backup", &format!("{volume}\n"), Errno::BUSY, "VolumeInUse");
        assert!(sentence.contains(&world.name("v")), "{sentence}");
        let over = format!("{before} --to {volume} --force\n");
        world.daemon.refused("restore", &over, Errno::BUSY, "VolumeInUse");
        let now = world.bytes("v").unwrap();
        let forced = world.backup("v", "--force");
        assert!(world.image(&forced) == now);
        drop(held);
        world.daemon.restore(&over);
        assert!(world.bytes("v").unwrap() == bytes);
    });
}

/// An image that somebody locked by hand (`rbd lock add`) is in use until the lock is removed, whether its owner is there
/// or not.
#[cfg(feature = "rbd")]
#[test]
fn a_locked_image_is_in_use() {
    let world = crate::world::World::images("");
    let name = world.name("v");
    // Where librbd locks by itself, nobody can take a snapshot past a lock that was made by hand.
    let layering = 1;
    let create =
        serde_json::json!({"op": "create", "name": name, "size": MIB, "features": layering, "order": 22});
    world.client(create);
    world.fill("v", &with_hole(2, MIB));
    world.cluster().rbd(&["lock", "add", &name, "by hand"]);
    let volume = world.volume("v");
    let sentence = world.daemon.refused("backup", &format!("{volume}\n"), Errno::BUSY, "VolumeInUse");
    assert!(sentence.contains("by hand"), "{sentence}");
    let id = world.backup("v", "--force");
    let over = format!("{id} --to {volume} --force\n");
    world.daemon.refused("restore", &over, Errno::BUSY, "VolumeInUse");
    let locks = world.cluster().rbd_json(&["lock", "ls", &name]);
    let locker = locks[0]["locker"].as_str().unwrap_or_else(|| panic!("{locks}")).to_owned();
    world.cluster().rbd(&["lock", "rm", &name, "by hand", &locker]);
    world.backup("v", "");
    world.daemon.restore(&over);
}
