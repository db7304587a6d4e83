//! The beginning and the end of a mount.

use std::fs::File;
use std::io::Read;
use std::process::Command;
use std::time::Duration;

use amberfs::fuse::{self, FuseError, Unmounted};

use super::support::bytes::pattern;
use super::support::hand_made::{HandMade, Recipe};
use super::support::vfs_tree;
use super::{Mounted, options, run};

const PATIENCE: Duration = Duration::from_secs(20);

fn is_in_the_table(mounted: &Mounted) -> bool {
    std::fs::read_to_string("/proc/self/mounts").unwrap().contains(&format!(" {} ", mounted.root.display()))
}

#[test]
fn an_unmount_from_outside_is_noticed() {
    let mounted = Mounted::new(HandMade::new());
    assert!(mounted.session.unmounted().try_recv().unwrap_err().is_empty(), "it is served");
    run(Command::new("umount").arg(&mounted.root));
    let ended = mounted.session.unmounted().recv_timeout(PATIENCE);
    assert_eq!(ended, Err(crossbeam_channel::RecvTimeoutError::Disconnected));
    assert_eq!(mounted.session.unmount(), Unmounted::Gone, "a second unmount is none");
}

#[test]
fn an_unmount_ends_everything_and_the_mountpoint_can_be_used_again() {
    let mounted = Mounted::new(HandMade::new());
    mounted.sh("cat README");
    assert_eq!(mounted.session.unmount(), Unmounted::Gone);
    assert!(!is_in_the_table(&mounted));
    assert_eq!(std::fs::read_dir(&mounted.root).unwrap().count(), 0);
    let vfs = vfs_tree::tree(&mounted.hand_made, Vec::new());
    let again = fuse::mount(vfs, options(&mounted.root)).unwrap();
    assert!(mounted.path("README").exists());
    assert_eq!(again.unmount(), Unmounted::Gone);
}

#[test]
fn who_has_a_file_open_reads_on_after_the_unmount() {
    let hand_made = HandMade::new();
    let image = pattern(1, 3 << 20);
    let id = hand_made.full(&Recipe::default(), &image);
    let mounted = Mounted::new(hand_made);
    let mut file = File::open(mounted.path(format!("backups/{id}/image"))).unwrap();
    assert_eq!(mounted.session.unmount(), Unmounted::InUse);
    assert!(!is_in_the_table(&mounted));
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert!(bytes == image);
    drop(file);
    let ended = mounted.session.unmounted().recv_timeout(PATIENCE);
    assert_eq!(ended, Err(crossbeam_channel::RecvTimeoutError::Disconnected), "the last close ends it");
}

#[test]
fn a_mount_that_is_dropped_is_unmounted() {
    let mounted = Mounted::new(HandMade::new());
    let Mounted { session, root, .. } = &mounted;
    assert!(session.unmounted().try_recv().unwrap_err().is_empty());
    let root = root.clone();
    drop(mounted);
    assert!(!std::fs::read_to_string("/proc/self/mounts").unwrap().contains(&*root.to_string_lossy()));
}

#[test]
fn what_is_no_empty_directory_is_refused() {
    let mounted = Mounted::new(HandMade::new());
    let mount = |path: &std::path::Path| {
        fuse::mount(vfs_tree::tree(&mounted.hand_made, Vec::new()), options(path)).err()
    };
    assert!(matches!(mount(&mounted.root), Some(FuseError::NotEmpty { .. })), "a mount is there already");
    assert!(matches!(mount(&mounted.path("README")), Some(FuseError::NotADirectory { .. })));
    assert!(matches!(mount(&mounted.scratch("none")), Some(FuseError::Mountpoint { .. })));
}

#[test]
fn what_a_dead_daemon_left_is_detached_first() {
    let mounted = Mounted::new(HandMade::new());
    let mountpoint = mounted.scratch("stale");
    std::fs::create_dir(&mountpoint).unwrap();
    // A file system whose daemon ends at once.
    let daemon = "import ctypes, os, sys\n\
        fd = os.open('/dev/fuse', os.O_RDWR)\n\
        options = f'fd={fd},rootmode=40000,user_id=0,group_id=0'.encode()\n\
        libc = ctypes.CDLL(None, use_errno=True)\n\
        sys.exit(libc.mount(b'amberfs', sys.argv[1].encode(), b'fuse.amberfs', 0, options))";
    for _ in 0..2 {
        run(Command::new("python3").args(["-c", daemon]).arg(&mountpoint));
    }
    let error = std::fs::metadata(&mountpoint).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotConnected, "{error}");
    let session = fuse::mount(vfs_tree::tree(&mounted.hand_made, Vec::new()), options(&mountpoint)).unwrap();
    assert!(mountpoint.join("README").exists());
    assert_eq!(session.unmount(), Unmounted::Gone);
    assert_eq!(std::fs::read_dir(&mountpoint).unwrap().count(), 0, "nothing lies below");
}

#[test]
fn the_kernel_reads_far_ahead() {
    let mounted = Mounted::new(HandMade::new());
    let device = mounted.sh("mountpoint -d .").trim().to_owned();
    let kib = std::fs::read_to_string(format!("/sys/class/bdi/{device}/read_ahead_kb")).unwrap();
    assert!(kib.trim().parse::<u32>().unwrap() >= 4096, "{kib}");
}
