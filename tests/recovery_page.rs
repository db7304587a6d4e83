//! docs/recovery.md, as a reader follows it: every command of the page, as it stands, in a mount namespace that has the
//! folders which the page names. Needs root.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation is a failed test"
)]

mod support;

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use support::attach::{Loop, Mounted, Range, run, text};
use support::bytes::pattern;
use support::daemon::until;
use support::guest::Kind;
use support::guest::disk::{make_file_system, table, uuid};

const PAGE: &str = include_str!("../docs/recovery.md");

const ALICE: u32 = 1000;
const DATABASE: u32 = 999;

/// A mount namespace with folders of its own. Its daemon and its mounts end with it.
struct Machine {
    holder: Child,
    folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Alice has to come as far as her home.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        for name in ["home", "mnt", "srv"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        // Without the mounts of others who work here: they would stay in this namespace when they are unmounted in theirs.
        let script = r#"
            while read -r device at _; do
              case "$device" in /dev/loop*|amberfs) umount -l "$at" ;; esac
            done < /proc/self/mounts
            for name in home mnt srv; do mount --bind "$1/$name" "/$name"; done
            echo ready; read -r _
        "#;
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation=private", "bash", "-euc", script, "bash"])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { holder, folder }
    }

    /// Returns what is `/NAME` on the machine.
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn shell(&self, user: Option<u32>, script: &str) -> Output {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id()));
        if let Some(user) = user {
            command.args([
                "setpriv",
                &format!("--reuid={user}"),
                &format!("--regid={user}"),
                "--clear-groups",
            ]);
        }
        let program = Path::new(env!("CARGO_BIN_EXE_amberfs")).parent().unwrap();
        let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
        command.args(["bash", "-euo", "pipefail", "-c", script]).env("PATH", path).current_dir("/");
        command
            .env("AMBERFS_LOG_FILE", self.path("log"))
            .env("AMBERFS_MOUNT", "/mnt/amberfs")
            .output()
            .unwrap()
    }

    /// Runs what must succeed, and returns what it printed.
    fn runs(&self, user: Option<u32>, script: &str) -> String {
        let output = self.shell(user, script);
        let [printed, said] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        assert!(output.status.success(), "{script}\n{printed}{said}\n{log}");
        printed.into_owned()
    }

    /// Waits until what was unmounted is no longer in use: a loop device goes when the kernel gets to it, and a reader of
    /// the page is slower.
    fn settle(&self) {
        until("the end of the loop devices", || {
            let files = self.runs(None, "losetup --list --noheadings --output BACK-FILE");
            let places = [text(self.folder.path()), "/srv/volumes/", "/mnt/amberfs/"];
            let is_ours = |line: &str| places.iter().any(|place| line.starts_with(place));
            (!files.lines().any(is_ours)).then_some(())
        });
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let end = r#"
            pid=$(grep -o '"pid":[0-9]*' /mnt/amberfs/status.json | cut -d: -f2)
            amberfs umount || kill -KILL "$pid"
        "#;
        // Where none runs there is none to be ended.
        let _ = self.shell(None, end);
        // Its end is the end of its mounts.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

/// A fenced block of the page.
struct Block {
    /// `sh`, `sh alice`, `toml`.
    language: &'static str,
    text: String,
}

/// Returns the blocks before the first heading, and below each.
fn sections() -> Vec<Vec<Block>> {
    let mut sections = vec![Vec::new()];
    let mut lines = PAGE.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("## ") {
            sections.push(Vec::new());
        } else if let Some(language) = line.strip_prefix("```") {
            let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            sections.last_mut().unwrap().push(Block { language, text: block.join("\n") });
        }
    }
    sections
}

/// The disk of the machine that things happen to.
struct Disk {
    image: PathBuf,
    parts: Vec<Range>,
}

impl Disk {
    fn make(image: PathBuf) -> Self {
        File::create(&image).unwrap().set_len(430 << 20).unwrap();
        run("sgdisk", &["-n", "1:0:+80M", "-n", "2:0:+320M", text(&image)]);
        let parts = table(&image, 512).into_iter().map(|(_, range)| range).collect();
        let disk = Self { image, parts };
        for (number, kind, label) in [(1, Kind::Ext4, "system"), (2, Kind::Xfs, "data")] {
            make_file_system(kind, disk.attach(number).device(), label, 512);
        }
        disk
    }

    fn attach(&self, number: usize) -> Loop {
        Loop::new(&self.image, Some(self.parts[number - 1]))
    }

    fn mount(&self, number: usize, at: &Path) -> Mounted {
        Mounted::new(self.attach(number), at, "rw")
    }

    /// Changes what is in both file systems, and copies the disk while they are in use and synced, as a snapshot does.
    fn change(&self, copy: &Path, folder: &Path, change: impl FnOnce(&Path, &Path)) {
        let folders = [1, 2].map(|number| folder.join(format!("partition-{number}")));
        let mounted = [1, 2].map(|number| self.mount(number, &folders[number - 1]));
        change(&folders[0], &folders[1]);
        folders.iter().for_each(|folder| drop(run("sync", &["-f", text(folder)])));
        for device in mounted.iter().map(Mounted::device) {
            run("blockdev", &["--flushbufs", text(device)]);
        }
        run("cp", &["--sparse=always", text(&self.image), text(copy)]);
    }
}

fn monday(system: &Path, data: &Path) {
    let home = system.join("home/alice");
    fs::create_dir_all(&home).unwrap();
    fs::create_dir(system.join("etc")).unwrap();
    fs::write(system.join("etc/fstab"), "LABEL=system / ext4\nLABEL=data /srv xfs\n").unwrap();
    fs::write(home.join("thesis.tex"), "chapter one\nchapter four\n").unwrap();
    fs::write(home.join("notes.txt"), "of monday\n").unwrap();
    for path in [&home, &home.join("thesis.tex"), &home.join("notes.txt")] {
        chown(path, Some(ALICE), Some(ALICE)).unwrap();
    }
    let database = data.join("database");
    fs::create_dir(&database).unwrap();
    for number in 1..5_u64 {
        let file = database.join(format!("table-{number}"));
        fs::write(&file, pattern(number, 1 << 20)).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        chown(&file, Some(DATABASE), Some(DATABASE)).unwrap();
    }
}

fn tuesday(system: &Path, data: &Path) {
    fs::write(system.join("etc/fstab"), "LABEL=system / ext4\nUUID=0000-WRONG /srv xfs\n").unwrap();
    fs::write(system.join("home/alice/notes.txt"), "of tuesday\n").unwrap();
    fs::write(data.join("database/table-4"), pattern(44, 2 << 20)).unwrap();
}

/// Makes what the page begins with: the machine's disk, the daemon, two backups.
fn prepare(machine: &Machine, configuration: &str) -> Disk {
    for name in ["srv/volumes", "srv/backups", "mnt/amberfs", "home/alice"] {
        fs::create_dir(machine.path(name)).unwrap();
    }
    chown(machine.path("home/alice"), Some(ALICE), Some(ALICE)).unwrap();
    fs::write(machine.path("srv/amberfs.toml"), configuration).unwrap();
    let (disk, volume) = (Disk::make(machine.path("live")), machine.path("srv/volumes/web1.raw"));
    disk.change(&volume, &machine.path(""), monday);
    machine.runs(None, "amberfs repo init --config /srv/amberfs.toml");
    machine.runs(None, "amberfs mount --daemon --config /srv/amberfs.toml /mnt/amberfs");
    machine.runs(None, "amberfs backup create web1 --name monday");
    disk.change(&volume, &machine.path(""), tuesday);
    machine.runs(None, "amberfs backup create web1 --name tuesday --incremental");
    // Shut down since: its logs are clean.
    run("cp", &["--sparse=always", text(&disk.image), text(&volume)]);
    disk
}

fn file_of(volume: &Disk, number: usize, name: &str, machine: &Machine) -> String {
    let mounted = volume.mount(number, &machine.path("seen"));
    fs::read_to_string(mounted.path().join(name)).unwrap()
}

#[test]
fn every_command_of_the_page_does_what_the_page_says() {
    let machine = Machine::new();
    let mut sections = sections().into_iter();
    let beginning = sections.next().unwrap();
    let configuration = beginning.iter().find(|block| block.language == "toml").unwrap();
    let disk = prepare(&machine, &configuration.text);
    let follow = |blocks: &[Block]| {
        let printed = blocks.iter().filter_map(|block| {
            machine.settle();
            match block.language {
                "sh" => Some(machine.runs(None, &block.text)),
                "sh alice" => Some(machine.runs(Some(ALICE), &block.text)),
                _ => None,
            }
        });
        printed.collect::<String>()
    };
    let volume =
        |name: &str| Disk { image: machine.path("srv/volumes").join(name), parts: disk.parts.clone() };
    let said = follow(&beginning);
    for expected in ["monday", "tuesday", "\"xfs\"", "\"data\""] {
        assert!(said.contains(expected), "{expected}: {said}");
    }

    let said = follow(&sections.next().unwrap());
    let thesis = machine.path("home/alice/thesis.tex");
    assert_eq!(fs::read_to_string(&thesis).unwrap(), "chapter one\nchapter four\n");
    assert_eq!(fs::metadata(thesis).unwrap().uid(), ALICE);
    for expected in ["monday/partitions/1.files/home/alice/thesis.tex", "< of monday", "> of tuesday"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert!(run("tar", &["-tf", text(&machine.path("home/alice/all.tar"))]).contains("alice/thesis.tex"));

    follow(&sections.next().unwrap());
    let table = machine.path("srv/recovered/database/table-4");
    assert_eq!(fs::read(&table).unwrap(), pattern(44, 2 << 20));
    let found = fs::metadata(table).unwrap();
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (DATABASE, DATABASE, 0o600));
    assert_eq!(machine.runs(None, "ls /mnt/amberfs/scratch"), "");

    let said = follow(&sections.next().unwrap());
    assert!(
        said.contains("Files /mnt/original/database/table-4 and /mnt/monday/database/table-4 differ"),
        "{said}"
    );
    let uuids = [&disk, &volume("web1-monday.raw")].map(|disk| uuid(disk.attach(2).device()));
    assert_ne!(uuids[0], uuids[1]);

    follow(&sections.next().unwrap());
    let fstab = file_of(&volume("web1.raw"), 1, "etc/fstab", &machine);
    assert_eq!(fstab, "LABEL=system / ext4\nLABEL=data /srv xfs\n");
    assert_eq!(file_of(&volume("web1.raw"), 1, "home/alice/notes.txt", &machine), "of tuesday\n");
    assert_eq!(machine.runs(None, "ls /mnt/amberfs/scratch"), "");

    machine.runs(None, "amberfs umount; rm -r /srv/backups/index /srv/backups/index-state /srv/volumes/*");
    follow(&sections.next().unwrap());
    let fstab = file_of(&volume("web1.raw"), 1, "etc/fstab", &machine);
    assert!(fstab.contains("WRONG"), "the backup is as it was: {fstab}");
    let shown =
        "amberfs backup create web1 --incremental --name wednesday; amberfs backup show wednesday -f json";
    let said = machine.runs(None, shown);
    let info: Value = serde_json::from_str(said.get(said.find("{\n").unwrap()..).unwrap()).unwrap();
    assert_eq!(info["is_incremental"], true);
    assert!(sections.next().is_none(), "a recovery that nobody looks at");
}
