//! The tree's folders and small texts, for the programs that read them.

use std::fs;
use std::time::{Duration, Instant};

use amberfs::jobs::{Event, EventObserver, JobSubject, Slot};

use super::Mounted;
use super::support::bytes::pattern;
use super::support::hand_made::{HandMade, Recipe};
use super::support::vfs_tree::{self, NamedVolumes};

#[test]
fn the_tree_can_be_walked() {
    let hand_made = HandMade::new();
    let id = hand_made.full(&Recipe::named("first"), &pattern(1, 1000));
    let sources: Vec<std::sync::Arc<dyn amberfs::source::Source>> =
        vec![NamedVolumes::new("local", ["vol", "a/b", "caf\u{e9}"])];
    let mounted = Mounted::with_sources(hand_made, sources);
    let found = mounted.sh("find . | sort");
    let expected = format!(
        ".\n./README\n./backups\n./backups/{id}\n./backups/{id}/image\n./backups/{id}/info.json\n\
         ./backups/{id}/record\n./control\n./control/backup\n./control/cancel\n./control/delete\n./control/flatten\n./control/gc\n\
         ./control/import\n./control/reset-state\n./control/restore\n./control/scratch\n\
         ./control/set\n./control/verify\n./control/xfs-uuid\n./events\n./jobs\n./metrics\n\
         ./quotas\n./quotas/default\n./quotas/tenant\n./scratch\n./status.json\n./volumes\n./volumes/local\n./volumes/local/a%2Fb\n./volumes/local/caf\u{e9}\n\
         ./volumes/local/vol\n./volumes/local/vol/first\n./volumes/local/vol/latest\n"
    );
    assert_eq!(found, expected);
    assert_eq!(mounted.sh("readlink volumes/local/vol/first"), format!("../../../backups/{id}\n"));
    // An inode's number is the same in a listing and in its attributes.
    let listed = mounted.python(
        "import os\n\
         for folder, _, _ in os.walk('.'):\n\
         \x20for entry in os.scandir(folder):\n\
         \x20\x20assert entry.inode() == os.lstat(entry.path).st_ino, entry.path\n\
         print('same')",
    );
    assert_eq!(listed, "same\n");
    assert_eq!(mounted.sh("stat -c %a README control/backup backups control"), "444\n660\n555\n555\n");
    mounted.fails("cat volumes/local/none", "No such file or directory");
    mounted.fails("cat backups", "Is a directory");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = format!("amberfs {} fuse.amberfs ", mounted.root.display());
    assert!(mounts.contains(&line), "{mounts}");
}

#[test]
fn every_program_reads_a_text_whole() {
    let hand_made = HandMade::new();
    let id = hand_made.full(&Recipe::named("first"), &pattern(1, 1000));
    let runner = std::sync::Arc::default();
    let parts = vfs_tree::parts(&hand_made, Vec::new(), std::sync::Arc::clone(&runner));
    let subject = JobSubject { backup: None, volume: None, project: "default".to_owned() };
    let job = parts.jobs.submit("backup", subject, Slot::Free, |_| Ok(())).unwrap();
    parts.jobs.wait(job).unwrap();
    parts.events.observe(Event::Job(&parts.jobs.report(job).unwrap()));
    let mounted = Mounted::with_parts(hand_made, runner, parts);
    let folder = format!("backups/{id}");
    let files = [
        "README".to_owned(),
        "events".to_owned(),
        format!("{folder}/info.json"),
        format!("{folder}/record"),
        format!("jobs/{job}"),
    ];
    let copy = mounted.scratch("copy");
    let copy = copy.display();
    for file in files {
        let text = mounted.sh(&format!("cat {file}"));
        assert!(text.len() > 100 && text.ends_with('\n'), "{file}: {text:?}");
        for script in [
            format!("cp {file} {copy} && cat {copy}"),
            format!("dd if={file} bs=512 2>/dev/null"),
            format!("dd if={file} bs=1M iflag=direct 2>/dev/null"),
            format!("head -c 100 {file}; tail -c +101 {file}"),
            format!("grep -a '' {file}"),
            format!("python3 -c 'import sys; sys.stdout.write(open(\"{file}\").read())'"),
            format!("cat < {file}"),
        ] {
            assert_eq!(mounted.sh(&script), text, "{script}");
        }
        let length = text.len();
        assert_eq!(
            mounted.sh(&format!("wc -c < {file}; stat -c %s {file}")),
            format!("{length}\n{length}\n")
        );
        assert_eq!(mounted.sh(&format!("tail -c 10 {file}")), text[length - 10..]);
        assert_eq!(mounted.sh(&format!("tail -n 1 {file}")), format!("{}\n", text.lines().last().unwrap()));
    }
    let json: serde_json::Value = serde_json::from_str(&mounted.sh("cat status.json")).unwrap();
    assert_eq!(json["counts"]["backups"]["available"].as_u64(), Some(1));
    let info: serde_json::Value =
        serde_json::from_str(&mounted.sh(&format!("cat {folder}/info.json"))).unwrap();
    assert_eq!(info["name"], "first");
}

#[test]
fn a_hundred_thousand_entries_are_listed_quickly() {
    let hand_made = HandMade::new();
    let names: Vec<String> = (0..100_000).map(|number| format!("volume-{number:06}")).collect();
    let mut mounted_parts =
        vfs_tree::parts(&hand_made, vec![NamedVolumes::new("local", &names)], Default::default());
    mounted_parts.listing_times.fresh = Duration::from_secs(60);
    let mounted = Mounted::with_parts(hand_made, Default::default(), mounted_parts);
    let started = Instant::now();
    assert_eq!(mounted.sh("ls -f volumes/local | wc -l"), "100002\n");
    let names_only = started.elapsed();
    assert_eq!(mounted.sh("ls -l volumes/local | grep -c ^d"), "100000\n");
    let with_attributes = started.elapsed() - names_only;
    println!("100,000 entries: names {names_only:?}, with attributes {with_attributes:?}");
    assert!(names_only < Duration::from_secs(10) && with_attributes < Duration::from_secs(30));
}
