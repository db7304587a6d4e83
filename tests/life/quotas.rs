//! 7: quotas of a project.

use rustix::io::Errno;

use crate::support::bytes::pattern;
use crate::world::{KIB, MIB, World};

fn with_quota(source: &str, quota: &str) -> World {
    let sections = format!("[project.p]\nsources = [\"{source}\"]\nquota = {{ {quota} }}\n");
    #[cfg(feature = "rbd")]
    if source == "rbd" {
        return World::images(&sections);
    }
    World::files(&sections)
}

fn sources() -> &'static [&'static str] {
    if cfg!(feature = "rbd") { &["local", "rbd"] } else { &["local"] }
}

/// A project's quota is checked before anything is made. Over `backups`: `VolumeBackupLimitExceeded`; over
/// `backup_gigabytes`, counted in whole GiB a backup: `VolumeBackupSizeExceedsAvailableQuota`. What is deleted, and
/// what failed and holds nothing, does not count.
#[test]
fn the_eleventh_backup_is_refused_and_a_deleted_one_gives_its_place_back() {
    for source in sources() {
        let world = with_quota(source, "backups = 10");
        world.fill("v", &pattern(1, 64 * KIB));
        let ids: Vec<_> = (0..10).map(|_| world.backup("v", "--incremental")).collect();
        let line = format!("{}\n", world.volume("v"));
        let sentence = world.daemon.refused("backup", &line, Errno::DQUOT, "VolumeBackupLimitExceeded");
        assert_eq!(sentence, "Maximum number of backups allowed (10) exceeded");
        assert!(world.own_snapshots("v").len() <= 1, "a refused backup has made nothing");
        world.delete(&[&ids[9]]);
        world.backup("v", "");
        world.daemon.refused("backup", &line, Errno::DQUOT, "VolumeBackupLimitExceeded");
    }
    for source in sources() {
        let world = with_quota(source, "backup_gigabytes = 2");
        world.fill("v", &pattern(1, 64 * KIB));
        world.backup("v", "");
        let second = world.backup("v", "");
        let line = format!("{}\n", world.volume("v"));
        let name = "VolumeBackupSizeExceedsAvailableQuota";
        let sentence = world.daemon.refused("backup", &line, Errno::DQUOT, name);
        assert_eq!(
            sentence,
            "Requested backup exceeds allowed Backup gigabytes quota. Requested 1G, quota is 2G and 2G has been consumed."
        );
        world.delete(&[&second]);
        world.backup("v", "");
    }
}

/// A restore to a new volume over `volumes` is refused as `VolumeLimitExceeded`, one over `gigabytes` as
/// `VolumeSizeExceedsAvailableQuota`. All volumes in the project's sources count. Over an existing volume nothing is
/// counted.
#[test]
fn a_restore_over_the_quota_of_volumes_is_refused() {
    let cases = [
        ("volumes = 2", "VolumeLimitExceeded", "Maximum number of volumes allowed (2) exceeded"),
        (
            "gigabytes = 2",
            "VolumeSizeExceedsAvailableQuota",
            "Requested volume or snapshot exceeds allowed gigabytes quota. Requested 1G, quota is 2G and 2G has been consumed.",
        ),
    ];
    for (quota, name, expected) in cases {
        // The cluster's pool is shared with other tests: what else is in it would count.
        let world = with_quota("local", quota);
        world.fill("v", &pattern(2, MIB));
        let id = world.backup("v", "");
        world.daemon.restore(&format!("{id} --name {}", world.name("second")));
        let sentence = world.daemon.refused("restore", &format!("{id}\n"), Errno::DQUOT, name);
        assert_eq!(sentence, expected);
        assert_eq!(world.volumes().len(), 2);
        assert_eq!(world.daemon.info(&id)["status"], "available");
        world.daemon.restore(&format!("{id} --to {} --force", world.volume("second")));
    }
}

/// `stored_bytes` in `quotas/PROJECT` is what the project's backups take in the repository: each chunk that one of them
/// needs, once, compressed, and the manifests.
#[test]
fn what_is_stored_is_counted_once_and_for_as_long_as_somebody_needs_it() {
    let world = World::files("");
    let stored = || {
        let quota = std::fs::read(world.daemon.mount().join("quotas/default")).unwrap();
        let quota: serde_json::Value = serde_json::from_slice(&quota).unwrap();
        quota["stored_bytes"].as_u64().unwrap()
    };
    assert_eq!(stored(), 0);
    let bytes = pattern(3, 3 * MIB);
    world.fill("v", &bytes);
    let full = world.backup("v", "");
    let after_full = stored();
    let size = bytes.len() as u64;
    assert!((size / 2..size + 100_000).contains(&after_full), "{after_full}");
    world.fill("copy", &bytes);
    world.backup("copy", "");
    let manifest = 100_000;
    assert!(stored() - after_full < manifest, "the same chunks are counted once");
    let incremental = world.backup("v", "--incremental");
    world.flatten(&incremental);
    world.delete(&[&full]);
    assert!(stored() >= after_full, "others need the chunks of the deleted backup");
}
