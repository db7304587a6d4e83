//! The tree without a kernel: what is where, whose it is, and what stays when something goes.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation is a failed test"
)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use amberfs::catalog::{BackupRecord, BackupStatus};
use amberfs::jobs::{JobSubject, Slot};
use amberfs::types::BackupId;
use amberfs::vfs::{Access, Attributes, Caller, Entry, NodeKind, ROOT_INODE, Seek, Vfs, VfsError};
use support::bytes::pattern;
use support::hand_made::{CHUNK, HandMade, Recipe};
use support::vfs_tree::{self, NamedVolumes, TENANT};

const ROOT: Caller = user(0);

/// A user with a group of his own, of whose process nothing is known.
const fn user(id: u32) -> Caller {
    Caller { uid: id, gid: id, pid: 0 }
}

fn find(vfs: &Vfs, path: &str) -> Result<Entry, VfsError> {
    find_as(vfs, ROOT, path)
}

fn find_as(vfs: &Vfs, caller: Caller, path: &str) -> Result<Entry, VfsError> {
    let mut entry = None;
    for name in path.split('/') {
        entry =
            Some(vfs.lookup(caller, entry.map_or(ROOT_INODE, |entry: Entry| entry.inode), name.as_ref())?);
    }
    Ok(entry.unwrap())
}

fn attributes(vfs: &Vfs, path: &str) -> Attributes {
    find(vfs, path).unwrap().attributes
}

fn is_missing(vfs: &Vfs, path: &str) -> bool {
    matches!(find(vfs, path), Err(VfsError::NotFound))
}

fn read(vfs: &Vfs, path: &str) -> Vec<u8> {
    let entry = find(vfs, path).unwrap();
    let opened = vfs.open(entry.inode, Access::Read, 0).unwrap();
    let bytes = read_all(vfs, opened.handle);
    vfs.close(opened.handle);
    assert_eq!(bytes.len() as u64, entry.attributes.size_bytes, "{path}");
    bytes
}

fn read_all(vfs: &Vfs, handle: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut piece = vec![0xa5; 100_000];
    loop {
        let length = vfs.read(handle, bytes.len() as u64, &mut piece).unwrap();
        if length == 0 {
            return bytes;
        }
        bytes.extend_from_slice(&piece[..length]);
    }
}

fn target_of(vfs: &Vfs, link: u64) -> String {
    String::from_utf8(vfs.link_target(link).unwrap()).unwrap()
}

/// Lists a folder, a few entries at a time; the dots are left out.
fn names(vfs: &Vfs, path: &str) -> Vec<String> {
    names_as(vfs, ROOT, path)
}

fn names_as(vfs: &Vfs, caller: Caller, path: &str) -> Vec<String> {
    let folder = if path.is_empty() { ROOT_INODE } else { find_as(vfs, caller, path).unwrap().inode };
    let handle = vfs.open_folder(caller, folder).unwrap();
    let mut names = Vec::new();
    let mut position = 0;
    loop {
        let mut taken = 0;
        vfs.list(handle, position, |entry, _| {
            if taken == 3 {
                return false;
            }
            taken += 1;
            position = entry.next;
            names.push(entry.name.to_str().unwrap().to_owned());
            true
        })
        .unwrap();
        if taken == 0 {
            break;
        }
    }
    vfs.close(handle);
    assert_eq!(names[..2], [".", ".."]);
    names.split_off(2)
}

fn hand_made_with_image() -> (HandMade, BackupId, Vec<u8>) {
    let hand_made = HandMade::new();
    let mut image = pattern(1, 5 * CHUNK + 1000);
    image[CHUNK..3 * CHUNK].fill(0);
    let id = hand_made.full(&Recipe::named("first"), &image);
    (hand_made, id, image)
}

#[test]
fn the_tree_is_that_of_the_contract() {
    let (hand_made, id, image) = hand_made_with_image();
    let vfs = vfs_tree::tree(&hand_made, vec![NamedVolumes::new("local", ["vol", "other"])]);
    assert_eq!(
        names(&vfs, ""),
        [
            "README",
            "backups",
            "control",
            "events",
            "jobs",
            "metrics",
            "quotas",
            "scratch",
            "status.json",
            "volumes"
        ]
    );
    let commands = [
        "backup",
        "cancel",
        "delete",
        "flatten",
        "gc",
        "import",
        "reset-state",
        "restore",
        "scratch",
        "set",
        "verify",
        "xfs-uuid",
    ];
    assert_eq!(names(&vfs, "control"), commands);
    assert_eq!(names(&vfs, "volumes"), ["local"]);
    assert_eq!(names(&vfs, "volumes/local"), ["other", "vol"]);
    assert_eq!(names(&vfs, "volumes/local/vol"), ["first", "latest"]);
    assert_eq!(names(&vfs, "volumes/local/other"), [""; 0]);
    assert_eq!(names(&vfs, "backups"), [id.to_string()]);
    assert_eq!(names(&vfs, &format!("backups/{id}")), ["image", "info.json", "record"]);
    assert_eq!(read(&vfs, &format!("backups/{id}/image")), image);
    let info: serde_json::Value =
        serde_json::from_slice(&read(&vfs, &format!("backups/{id}/info.json"))).unwrap();
    assert_eq!(
        (info["name"].as_str(), info["size_bytes"].as_u64()),
        (Some("first"), Some(image.len() as u64))
    );
    let record = BackupRecord::decode(&read(&vfs, &format!("backups/{id}/record"))).unwrap();
    assert_eq!(record, *hand_made.repository.catalog().get(id).unwrap());
    let status: serde_json::Value = serde_json::from_slice(&read(&vfs, "status.json")).unwrap();
    assert_eq!(status["counts"]["backups"]["available"], 1);
    assert!(String::from_utf8(read(&vfs, "README")).unwrap().contains("control/backup"));
    for path in ["none", "control/none", "volumes/rbd", "volumes/local/none", "backups/1", "jobs/1"] {
        assert!(is_missing(&vfs, path), "{path}");
    }
}

#[test]
fn stat_tells_size_blocks_and_times_of_an_image() {
    let (hand_made, id, image) = hand_made_with_image();
    let vfs = vfs_tree::tree(&hand_made, Vec::new());
    let attributes = attributes(&vfs, &format!("backups/{id}/image"));
    assert_eq!((attributes.kind, attributes.mode), (NodeKind::File, 0o440));
    assert_eq!(attributes.size_bytes, image.len() as u64);
    assert_eq!(attributes.blocks, (image.len() - 2 * CHUNK).div_ceil(512) as u64);
    let time = attributes.time.duration_since(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(time, Duration::from_secs(1_700_000_000));
}

#[test]
fn an_image_is_there_while_its_backup_is_readable_and_its_info_always() {
    let (hand_made, id, _) = hand_made_with_image();
    let vfs = vfs_tree::tree(&hand_made, Vec::new());
    for (status, is_readable) in [
        (BackupStatus::Creating, false),
        (BackupStatus::Available, true),
        (BackupStatus::Restoring, true),
        (BackupStatus::Deleting, false),
        (BackupStatus::Error, false),
        (BackupStatus::ErrorDeleting, false),
    ] {
        hand_made.set_status(id, status);
        assert_eq!(!is_missing(&vfs, &format!("backups/{id}/image")), is_readable, "{status}");
        assert_eq!(names(&vfs, &format!("backups/{id}")).len(), if is_readable { 3 } else { 2 });
        assert_eq!(is_missing(&vfs, "volumes/local/vol/latest"), !is_readable);
        let info = read(&vfs, &format!("backups/{id}/info.json"));
        assert!(info.ends_with(b"\n") && String::from_utf8(info).unwrap().contains(status.as_str()));
    }
}

#[test]
fn an_open_image_outlives_its_backup() {
    let (hand_made, id, image) = hand_made_with_image();
    let vfs = vfs_tree::tree(&hand_made, Vec::new());
    let entry = find(&vfs, &format!("backups/{id}/image")).unwrap();
    let first = vfs.open(entry.inode, Access::Read, 0).unwrap();
    let second = vfs.open(entry.inode, Access::Read, 0).unwrap();
    hand_made.set_status(id, BackupStatus::Deleting);
    vfs.close(first.handle);
    hand_made.delete(id);
    assert!(is_missing(&vfs, &format!("backups/{id}")));
    assert_eq!(read_all(&vfs, second.handle), image);
    assert_eq!(vfs.attributes(entry.inode).unwrap().0, entry.attributes);
    vfs.close(second.handle);
    assert!(matches!(vfs.attributes(entry.inode), Err(VfsError::NotFound)));
    assert!(matches!(vfs.open(entry.inode, Access::Read, 0), Err(VfsError::NotFound)));
}

#[test]
fn holes_are_found_through_a_chain() {
    let (hand_made, parent, mut image) = hand_made_with_image();
    let change = pattern(2, 512);
    image[CHUNK + 4096..CHUNK + 4608].copy_from_slice(&change);
    image[4 * CHUNK..5 * CHUNK].fill(0);
    let recipe = Recipe { parent: Some(parent), ..Recipe::default() };
    let zeros = vec![0; CHUNK];
    let changes = [(CHUNK + 4096, &change[..]), (4 * CHUNK, &zeros[..])];
    let id = hand_made.incremental(&recipe, image.len(), &changes);
    let vfs = vfs_tree::tree(&hand_made, Vec::new());
    assert_eq!(read(&vfs, &format!("backups/{id}/image")), image);
    let inode = find(&vfs, &format!("backups/{id}/image")).unwrap().inode;
    let handle = vfs.open(inode, Access::Read, 0).unwrap().handle;
    let seek = |offset: usize, seek| vfs.seek(handle, offset as u64, seek).ok().map(|found| found as usize);
    assert_eq!(seek(0, Seek::Hole), Some(CHUNK));
    assert_eq!(seek(CHUNK, Seek::Data), Some(CHUNK + 4096));
    assert_eq!(seek(CHUNK + 4100, Seek::Hole), Some(CHUNK + 4608));
    assert_eq!(seek(4 * CHUNK, Seek::Data), Some(5 * CHUNK));
    assert_eq!(seek(5 * CHUNK, Seek::Hole), Some(image.len()), "the end is a hole");
    assert_eq!(seek(image.len(), Seek::Hole), None);
    assert_eq!(seek(image.len(), Seek::Data), None);
    let blocks = attributes(&vfs, &format!("backups/{id}/image")).blocks;
    assert_eq!(blocks, ((CHUNK + 512 + CHUNK + 1000).div_ceil(512)) as u64);
}

#[test]
fn every_backup_has_one_name_and_keeps_it() {
    let hand_made = HandMade::new();
    let make = |name: Option<&str>, created_at, data_at| {
        let name = name.map(str::to_owned);
        hand_made.record_only(&Recipe { name, created_at, data_at, ..Recipe::default() })
    };
    let first = make(Some("nightly"), 10, 10);
    // Made later, of an older snapshot.
    let second = make(Some("nightly"), 20, 5);
    let unnamed = make(None, 30, 30);
    let called_latest = make(Some("latest"), 40, 40);
    let odd = make(Some("a/b%\n"), 50, 50);
    // Takes the name that the second one got.
    let id8 = second.to_string()[..8].to_owned();
    let copycat = make(Some(&format!("nightly~{id8}")), 60, 60);
    let long = make(Some(&"n".repeat(300)), 70, 70);
    let long_again = make(Some(&"n".repeat(300)), 80, 80);
    let vfs = vfs_tree::tree(&hand_made, Vec::new());

    let links = names(&vfs, "volumes/local/vol");
    assert_eq!(links.len(), 9, "eight backups and `latest`: {links:?}");
    let targets: BTreeMap<String, String> = links
        .iter()
        .map(|name| {
            let inode = find(&vfs, &format!("volumes/local/vol/{name}")).unwrap().inode;
            (name.clone(), target_of(&vfs, inode))
        })
        .collect();
    let target = |name: &str| targets[name].strip_prefix("../../../backups/").unwrap().to_owned();
    assert_eq!(target("nightly"), first.to_string());
    assert_eq!(target(&format!("nightly~{id8}")), second.to_string());
    assert_eq!(target(&unnamed.to_string()), unnamed.to_string());
    assert_eq!(target(&format!("latest~{}", &called_latest.to_string()[..8])), called_latest.to_string());
    assert_eq!(target("latest"), long_again.to_string());
    assert_eq!(target("a%2Fb%25%0A"), odd.to_string());
    assert_eq!(target(&format!("nightly~{id8}~{}", &copycat.to_string()[..8])), copycat.to_string());
    assert!(links.iter().all(|name| name.len() <= 255));
    assert!(targets.values().any(|target| target.ends_with(&long.to_string())));
}

#[test]
fn volumes_are_found_under_every_name() {
    let hand_made = HandMade::new();
    let long = "v".repeat(400);
    let gone = "gone\u{e4}/..";
    hand_made.record_only(&Recipe { volume: gone.to_owned(), ..Recipe::default() });
    hand_made.record_only(&Recipe { source: "former", ..Recipe::default() });
    let local = NamedVolumes::new("local", ["a", "x/y", ".", "..", "50%", &long]);
    let vfs = vfs_tree::tree(&hand_made, vec![local.clone()]);
    assert_eq!(names(&vfs, "volumes"), ["former", "local"]);
    let listed = names(&vfs, "volumes/local");
    assert_eq!(listed.len(), 7);
    for name in ["a", "x%2Fy", "%2E", "%2E%2E", "50%25", "gone\u{e4}%2F.."] {
        assert!(listed.iter().any(|listed| listed == name), "{name} in {listed:?}");
    }
    for name in &listed {
        assert_eq!(attributes(&vfs, &format!("volumes/local/{name}")).kind, NodeKind::Folder, "{name}");
    }
    local.set(["b"]);
    assert!(is_missing(&vfs, "volumes/local/a") && !is_missing(&vfs, "volumes/local/b"));
}

#[test]
fn what_belongs_to_a_project_is_closed_to_the_others() {
    let hand_made = HandMade::new();
    let recipe = |project, volume: &str| Recipe { project, volume: volume.to_owned(), ..Recipe::default() };
    let tenants = hand_made.full(&recipe("tenant", "t"), &pattern(1, 100));
    let unknown = hand_made.record_only(&recipe("former", "u"));
    hand_made.record_only(&recipe("tenant", "shared"));
    hand_made.record_only(&recipe("default", "shared"));
    let sources: Vec<Arc<dyn amberfs::source::Source>> =
        vec![NamedVolumes::new("local", ["empty"]), NamedVolumes::new("rented", ["empty"])];
    let parts = vfs_tree::parts(&hand_made, sources, Arc::default());
    let subject = JobSubject { backup: None, volume: None, project: "tenant".to_owned() };
    let job = parts.jobs.submit("backup", subject, Slot::Free, |_| Ok(())).unwrap();
    parts.jobs.wait(job).unwrap();
    let vfs = Vfs::new(parts);
    let expected = [
        (String::from("README"), 0o444, 0),
        (String::from("status.json"), 0o440, 0),
        (String::from("metrics"), 0o440, 0),
        (String::from("events"), 0o440, 0),
        (String::from("control"), 0o555, 0),
        (String::from("control/backup"), 0o660, 0),
        (String::from("backups"), 0o555, 0),
        (format!("backups/{tenants}"), 0o550, TENANT),
        (format!("backups/{tenants}/image"), 0o440, TENANT),
        (format!("backups/{tenants}/info.json"), 0o440, TENANT),
        (format!("backups/{tenants}/record"), 0o440, TENANT),
        (format!("backups/{unknown}"), 0o550, 0),
        (format!("jobs/{job}"), 0o440, TENANT),
        (String::from("volumes"), 0o555, 0),
        (String::from("volumes/rented"), 0o550, TENANT),
        (String::from("volumes/rented/empty"), 0o550, TENANT),
        (String::from("volumes/local/t"), 0o550, TENANT),
        (String::from("volumes/local/u"), 0o550, 0),
        (String::from("volumes/local/shared"), 0o555, 0),
    ];
    for (path, mode, uid) in expected {
        let attributes = attributes(&vfs, &path);
        assert_eq!((attributes.mode, attributes.owner.uid, attributes.owner.gid), (mode, uid, uid), "{path}");
    }
    let job: serde_json::Value = serde_json::from_slice(&read(&vfs, &format!("jobs/{job}"))).unwrap();
    assert_eq!(job["state"], "done");
}

/// Two projects, of users 1001 and 1002, that share a source.
fn shared_tree(hand_made: &HandMade) -> Arc<Vfs> {
    let volumes = ["unsaved", "of-a", "of-b", "of-both"];
    let mut parts = vfs_tree::parts(hand_made, vec![NamedVolumes::new("shared", volumes)], Arc::default());
    parts.projects = vec![vfs_tree::project("a", "shared", 1001), vfs_tree::project("b", "shared", 1002)];
    for project in ["a", "b", "b"] {
        let subject = JobSubject { backup: None, volume: None, project: project.to_owned() };
        let job = parts.jobs.submit("backup", subject, Slot::Free, |_| Ok(())).unwrap();
        parts.jobs.wait(job).unwrap();
    }
    Vfs::new(parts)
}

#[test]
fn in_a_shared_folder_everybody_finds_his_own_and_the_operator_all() {
    let hand_made = HandMade::new();
    let make = |project, volume: &str, name: &str, at| {
        let (volume, name) = (volume.to_owned(), Some(name.to_owned()));
        let (source, data_at, created_at) = ("shared", at, at);
        hand_made.record_only(&Recipe {
            source,
            project,
            volume,
            name,
            data_at,
            created_at,
            ..Recipe::default()
        })
    };
    let of_a = [make("a", "of-a", "x", 1), make("a", "of-both", "nightly", 2), make("a", "of-both", "y", 3)];
    let of_b = [make("b", "of-b", "x", 4), make("b", "of-both", "nightly", 5)];
    let vfs = shared_tree(&hand_made);
    let (a, b, stranger) = (user(1001), user(1002), user(1003));
    let sorted = |ids: &[BackupId]| {
        let mut names: Vec<String> = ids.iter().map(ToString::to_string).collect();
        names.sort();
        names
    };

    assert_eq!(names_as(&vfs, a, "backups"), sorted(&of_a));
    assert_eq!(names_as(&vfs, b, "backups"), sorted(&of_b));
    assert_eq!(names(&vfs, "backups").len(), 5);
    assert_eq!(names_as(&vfs, a, "jobs"), ["1"]);
    assert_eq!(names_as(&vfs, b, "jobs"), ["2", "3"]);
    assert_eq!(names_as(&vfs, a, "volumes/shared"), ["of-a", "of-both", "unsaved"]);
    assert_eq!(names_as(&vfs, b, "volumes/shared"), ["of-b", "of-both", "unsaved"]);
    assert_eq!(names(&vfs, "volumes/shared"), ["of-a", "of-b", "of-both", "unsaved"]);
    for folder in ["backups", "jobs", "volumes"] {
        assert_eq!(names_as(&vfs, stranger, folder), [""; 0], "{folder}");
    }
    // Another's backup does not even show in how one's own is called.
    assert_eq!(names_as(&vfs, a, "volumes/shared/of-both"), ["nightly", "y", "latest"]);
    assert_eq!(names_as(&vfs, b, "volumes/shared/of-both"), ["nightly", "latest"]);
    let target = |caller, name: &str| {
        let inode = find_as(&vfs, caller, &format!("volumes/shared/of-both/{name}")).unwrap().inode;
        target_of(&vfs, inode).strip_prefix("../../../backups/").unwrap().to_owned()
    };
    assert_eq!([target(a, "nightly"), target(a, "latest")], [of_a[1].to_string(), of_a[2].to_string()]);
    assert_eq!([target(b, "nightly"), target(b, "latest")], [of_b[1].to_string(), of_b[1].to_string()]);
    assert_eq!([target(ROOT, "nightly"), target(ROOT, "latest")], [of_a[1].to_string(), of_b[1].to_string()]);
}

#[test]
fn what_is_anothers_is_not_found_by_its_name_and_its_attributes_are_not_told() {
    let hand_made = HandMade::new();
    let recipe = Recipe { source: "shared", project: "a", ..Recipe::named("secret") };
    let id = hand_made.full(&Recipe { volume: "of-a".to_owned(), ..recipe.clone() }, &pattern(1, 100));
    let vfs = shared_tree(&hand_made);
    let closed = [format!("backups/{id}"), "jobs/1".to_owned()];
    let hidden = ["volumes/shared/of-a", "volumes/shared/of-a/secret", "quotas/a"].map(str::to_owned);
    for caller in [user(1002), user(1003)] {
        for path in &closed {
            assert!(matches!(find_as(&vfs, caller, path), Err(VfsError::NotYours)), "{path}");
        }
        for path in &hidden {
            assert!(matches!(find_as(&vfs, caller, path), Err(VfsError::NotFound)), "{path}");
        }
    }
    let cached_for = |path: &str| find_as(&vfs, user(1001), path).unwrap().name_cached_for;
    for path in closed.iter().chain(&hidden) {
        assert_eq!(cached_for(path), Duration::ZERO, "the kernel tells others of {path}");
    }
}

#[test]
fn nothing_but_a_control_file_is_opened_for_writing() {
    let (hand_made, id, _) = hand_made_with_image();
    let vfs = vfs_tree::tree(&hand_made, Vec::new());
    for path in [&format!("backups/{id}/image"), &format!("backups/{id}/info.json"), "README", "status.json"]
    {
        let inode = find(&vfs, path).unwrap().inode;
        assert!(matches!(vfs.open(inode, Access::Write, 0), Err(VfsError::ReadOnly)), "{path}");
    }
    assert!(vfs.open(find(&vfs, "control/backup").unwrap().inode, Access::Write, 0).is_ok());
}

#[test]
fn a_document_is_one_moment_however_long_it_is_read() {
    let (hand_made, id, _) = hand_made_with_image();
    let vfs = vfs_tree::tree(&hand_made, Vec::new());
    let inode = find(&vfs, &format!("backups/{id}/info.json")).unwrap().inode;
    let handle = vfs.open(inode, Access::Read, 0).unwrap().handle;
    let before = read_all(&vfs, handle);
    hand_made.set_status(id, BackupStatus::Error);
    assert_eq!(read_all(&vfs, handle), before);
    let after = read(&vfs, &format!("backups/{id}/info.json"));
    assert!(String::from_utf8(after).unwrap().contains("\"error\""));
}

#[test]
fn a_listing_goes_on_where_it_was_while_entries_come_and_go() {
    let hand_made = HandMade::new();
    let volumes: Vec<String> = (0..1000).map(|number| format!("v{number:04}")).collect();
    let local = NamedVolumes::new("local", &volumes);
    let vfs = vfs_tree::tree(&hand_made, vec![local.clone()]);
    let handle = vfs.open_folder(ROOT, find(&vfs, "volumes/local").unwrap().inode).unwrap();
    let mut seen = Vec::new();
    let mut position = 0;
    while seen.len() < 1000 {
        let mut taken = 0;
        vfs.list_with_attributes(handle, position, |listed, _| {
            taken += 1;
            if taken > 100 {
                return false;
            }
            position = listed.next;
            let name = listed.name.to_str().unwrap();
            if !name.starts_with('.') {
                seen.push(name.to_owned());
            }
            true
        })
        .unwrap();
        // Each time the beginning of the folder changes.
        local.set(volumes[seen.len() / 2..].iter().map(String::as_str).chain(["a", "b"]));
    }
    assert_eq!(seen, volumes);
    assert_eq!(names(&vfs, "volumes/local").len(), 502);
}

#[test]
fn memory_follows_what_the_kernel_knows() {
    let hand_made = HandMade::new();
    let volumes: Vec<String> = (0..100_000).map(|number| format!("volume-{number}")).collect();
    let vfs = vfs_tree::tree(&hand_made, vec![NamedVolumes::new("local", volumes)]);
    let inodes = |vfs: &Vfs| {
        let status: serde_json::Value = serde_json::from_slice(&read(vfs, "status.json")).unwrap();
        status["counts"]["inodes"].as_u64().unwrap()
    };
    let folder = find(&vfs, "volumes/local").unwrap().inode;
    let before = inodes(&vfs);
    let started = Instant::now();
    assert_eq!(names(&vfs, "volumes/local").len(), 100_000);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(inodes(&vfs), before, "to be listed makes nothing known");

    let handle = vfs.open_folder(ROOT, folder).unwrap();
    let mut known = Vec::new();
    vfs.list_with_attributes(handle, 0, |_, entry| {
        let is_taken = known.len() < 1000;
        known.extend(is_taken.then_some(entry.inode));
        is_taken
    })
    .unwrap();
    assert_eq!(inodes(&vfs), before + 998, "the dots are no lookups");
    known[2..].iter().for_each(|inode| vfs.forget(*inode, 1));
    assert_eq!(inodes(&vfs), before);
}

#[test]
fn a_source_that_hangs_keeps_nobody_waiting() {
    let hand_made = HandMade::new();
    hand_made.record_only(&Recipe { volume: "with-backup".to_owned(), ..Recipe::default() });
    let local = NamedVolumes::new("local", ["a"]);
    let vfs = vfs_tree::tree(&hand_made, vec![local.clone()]);
    let health = |vfs: &Vfs| {
        let status: serde_json::Value = serde_json::from_slice(&read(vfs, "status.json")).unwrap();
        // Not the health as a whole: the disk of this machine may be nearly full.
        let is_of_source = |problem: &serde_json::Value| problem["what"] == "source_unreachable";
        let is_wrong = status["problems"].as_array().unwrap().iter().any(is_of_source);
        if is_wrong { status["health"].as_str().unwrap().to_owned() } else { "ok".to_owned() }
    };
    assert_eq!(names(&vfs, "volumes/local"), ["a", "with-backup"]);
    assert_eq!(health(&vfs), "ok");
    let hanging = local.hang();
    let started = Instant::now();
    assert_eq!(names(&vfs, "volumes/local"), ["a", "with-backup"]);
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(300) && waited < Duration::from_secs(3), "{waited:?}");
    let again = Instant::now();
    assert_eq!(names(&vfs, "volumes/local"), ["a", "with-backup"]);
    assert!(again.elapsed() < Duration::from_millis(200), "only the first one waits");
    assert_eq!(health(&vfs), "degraded");
    local.set(["b"]);
    drop(hanging);
    let deadline = Instant::now() + Duration::from_secs(10);
    while names(&vfs, "volumes/local") != ["b", "with-backup"] {
        assert!(Instant::now() < deadline);
    }
    local.fail("no route to the cluster");
    assert_eq!(names(&vfs, "volumes/local"), ["b", "with-backup"], "what was known last is shown");
    assert_eq!(health(&vfs), "degraded");
}
