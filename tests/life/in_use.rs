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
