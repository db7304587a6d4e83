//! The real `amberfs` over a folder that is laid out like a mount: whole outputs, and exit statuses.
//!
//! Control files need the daemon's answers and are tested on a real mount.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation is a failed test"
)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

const MONDAY: &str = "9027e97a-0000-4000-8000-000000000001";
const TUESDAY: &str = "9027e97a-1111-4000-8000-000000000002";
const OTHER: &str = "aaaaaaaa-0000-4000-8000-000000000003";

struct Tree(tempfile::TempDir);

impl Tree {
    /// Two backups of rbd/myvol10, one of local/myvol10, and a finished and a running job.
    fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        for folder in ["backups", "jobs", "volumes/local/unused"] {
            fs::create_dir_all(tree.path(folder)).unwrap();
        }
        tree.backup(MONDAY, "monday", "rbd", 16, &json!({"size": 10, "description": "first\nsecond line"}));
        tree.backup(TUESDAY, "tuesday", "rbd", 17, &json!({"is_incremental": true, "parent_id": MONDAY}));
        tree.backup(OTHER, "we \x1b[31m\u{fc}", "local", 18, &json!({"size": 2, "properties": {"k": "v w"}}));
        tree.job(9, "done", &json!({"bytes_done": 4096, "bytes_total": 4096}));
        tree.job(12, "running", &json!({"bytes_done": 1024, "bytes_total": 4096}));
        tree
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        File::create(self.path(path)).unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn backup(&self, id: &str, name: &str, source: &str, day: u32, fields: &Value) {
        let time = format!("2026-11-{day}T02:00:00.000000Z");
        let mut info = json!({
            "id": id, "name": name, "status": "available", "source": source, "volume_name": "myvol10",
            "volume_id": format!("{source}-1"), "size": 10, "is_incremental": false, "created_at": time,
            "data_timestamp": time, "project": "default", "container": "dir:/b", "stored_bytes": 4096,
            "protected": false,
        });
        info.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        fs::create_dir(self.path("backups").join(id)).unwrap();
        self.write(&format!("backups/{id}/info.json"), &info.to_string());
        let volume = self.path("volumes").join(source).join("myvol10");
        fs::create_dir_all(&volume).unwrap();
        let _ = fs::remove_file(volume.join("latest"));
        for link in [name, "latest"] {
            symlink(format!("../../../backups/{id}"), volume.join(link)).unwrap();
        }
    }

    fn job(&self, id: u32, state: &str, fields: &Value) {
        let mut job = json!({"id": id, "kind": "backup", "state": state, "volume": "rbd/myvol10",
            "queued_at": "2026-11-18T02:00:00.000000Z"});
        job.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        self.write(&format!("jobs/{id}"), &job.to_string());
    }

    /// Returns exit status, standard output and standard error.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        run(Some(self.0.path()), arguments)
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let (status, output, error) = self.run(arguments);
        assert_eq!((status, error.as_str()), (0, ""), "{arguments:?}");
        output
    }
}

fn amberfs(mount: Option<&Path>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_amberfs"));
    command.env_remove("AMBERFS_MOUNT").stdin(Stdio::null());
    if let Some(mount) = mount {
        command.env("AMBERFS_MOUNT", mount);
    }
    command
}

fn run(mount: Option<&Path>, arguments: &[&str]) -> (i32, String, String) {
    let output = amberfs(mount).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn backups_are_listed_as_openstack_lists_them_the_newest_first() {
    let expected = "\
+--------------------------------------+----------------+-------------+-----------+------+-------------+-----------------------------+
| ID                                   | Name           | Description | Status    | Size | Incremental | Created At                  |
+--------------------------------------+----------------+-------------+-----------+------+-------------+-----------------------------+
| aaaaaaaa-0000-4000-8000-000000000003 | we \\u{1b}[31m\u{fc} | None        | available | 2    | False       | 2026-11-18T02:00:00.000000Z |
| 9027e97a-1111-4000-8000-000000000002 | tuesday        | None        | available | 10   | True        | 2026-11-17T02:00:00.000000Z |
| 9027e97a-0000-4000-8000-000000000001 | monday         | first       | available | 10   | False       | 2026-11-16T02:00:00.000000Z |
|                                      |                | second line |           |      |             |                             |
+--------------------------------------+----------------+-------------+-----------+------+-------------+-----------------------------+
";
    assert_eq!(Tree::new().ok(&["backup", "list"]), expected);
}

#[test]
fn columns_and_formats_are_those_of_the_openstack_client() {
    let tree = Tree::new();
    let list =
        |format| tree.ok(&["backup", "list", "--limit", "2", "-f", format, "-c", "size", "-c", "Name"]);
    assert_eq!(list("value"), "we \x1b[31m\u{fc} 2\ntuesday 10\n");
    assert_eq!(
        list("yaml"),
        "- Name: \"we \\u001b[31m\u{fc}\"\n  Size: 2\n- Name: \"tuesday\"\n  Size: 10\n"
    );
    let json = "[\n  {\n    \"Name\": \"we \\u001b[31m\u{fc}\",\n    \"Size\": 2\n  },\n  {\n    \
        \"Name\": \"tuesday\",\n    \"Size\": 10\n  }\n]\n";
    assert_eq!(list("json"), json);

    let show = |format| {
        let columns = ["-c", "parent_id", "-c", "properties", "-c", "is_incremental"];
        tree.ok(&[&["backup", "show", OTHER, "-f", format], columns.as_slice()].concat())
    };
    assert_eq!(show("value"), "False\nNone\n{\"k\":\"v w\"}\n");
    assert_eq!(show("yaml"), "is_incremental: false\nparent_id: null\nproperties: {\"k\":\"v w\"}\n");
    assert_eq!(
        show("table"),
        "\
+----------------+---------+
| Field          | Value   |
+----------------+---------+
| is_incremental | False   |
| parent_id      | None    |
| properties     | k='v w' |
+----------------+---------+
"
    );
    let (status, output, error) = tree.run(&["backup", "list", "-c", "Colour"]);
    assert_eq!((status, output.as_str()), (2, ""));
    assert!(error.starts_with("error: there is no column \"Colour\": there are ID, Name, "), "{error}");
}

#[test]
fn filters_order_and_pages_select_backups() {
    let tree = Tree::new();
    let names = |arguments: &[&str]| {
        let all = [&["backup", "list", "-f", "value", "-c", "ID"], arguments].concat();
        let name = |id: &str| match id {
            MONDAY => "monday",
            TUESDAY => "tuesday",
            _ => "other",
        };
        tree.ok(&all).lines().map(name).collect::<Vec<_>>()
    };
    assert_eq!(names(&["--volume", "rbd/myvol10"]), ["tuesday", "monday"]);
    assert_eq!(names(&["--volume", "local-1"]), ["other"]);
    assert_eq!(names(&["--name", "monday"]), ["monday"]);
    assert_eq!(names(&["--property", "k=v w"]), ["other"]);
    assert!(names(&["--property", "k=v w", "--property", "k=x"]).is_empty());
    assert!(names(&["--status", "error"]).is_empty());
    assert!(names(&["--project", "elsewhere"]).is_empty());
    assert_eq!(names(&["--all-projects", "--sort", "created_at"]), ["monday", "tuesday", "other"]);
    assert_eq!(names(&["--sort", "size:desc,incremental"]), ["monday", "tuesday", "other"]);
    assert_eq!(names(&["--sort", "size", "--sort", "Name:desc"]), ["other", "tuesday", "monday"]);
    assert_eq!(names(&["--marker", OTHER, "--limit", "1"]), ["tuesday"]);
    assert_eq!(names(&["--marker", "tuesday"]), ["monday"]);
    let (status, _, error) = tree.run(&["backup", "list", "--marker", "nowhere"]);
    assert_eq!(
        (status, error.as_str()),
        (1, "error: BackupNotFound: there is no backup \"nowhere\": see amberfs backup list\n")
    );
}

#[test]
fn a_backup_is_meant_by_id_prefix_name_or_latest_and_never_by_guessing() {
    let tree = Tree::new();
    let id = |text: &str| tree.ok(&["backup", "show", text, "-f", "value", "-c", "id"]);
    for (text, expected) in [
        (MONDAY, MONDAY),
        ("9027e97a-1", TUESDAY),
        ("monday", MONDAY),
        ("rbd/myvol10@latest", TUESDAY),
        ("local-1@latest", OTHER),
    ] {
        assert_eq!(id(text).trim_end(), expected, "{text}");
    }
    let (status, _, error) = tree.run(&["backup", "show", "9027e97a"]);
    let candidates = format!("{MONDAY} (monday of rbd/myvol10), {TUESDAY} (tuesday of rbd/myvol10)");
    assert_eq!(
        (status, error),
        (1, format!("error: AmbiguousName: \"9027e97a\" names 2 backups: {candidates}\n"))
    );
    let (status, _, error) = tree.run(&["backup", "show", "myvol10@latest"]);
    assert!(status == 1 && error.contains(OTHER) && error.contains(TUESDAY), "{error}");
    for text in ["9027e97", "rbd/nothing@latest", "../jobs/12"] {
        let (status, output, error) = tree.run(&["backup", "show", text]);
        assert_eq!((status, output.as_str()), (1, ""), "{text}");
        assert!(error.starts_with("error: BackupNotFound: "), "{error}");
    }
}

#[test]
fn volumes_are_listed_with_and_without_backups() {
    let tree = Tree::new();
    let expected = "\
+---------+--------+---------+--------------------------------------+-----------------------------+------+
| Name    | Source | Backups | Latest Backup                        | Latest At                   | Size |
+---------+--------+---------+--------------------------------------+-----------------------------+------+
| myvol10 | local  | 1       | aaaaaaaa-0000-4000-8000-000000000003 | 2026-11-18T02:00:00.000000Z | 2    |
| unused  | local  | 0       | None                                 | None                        | None |
| myvol10 | rbd    | 2       | 9027e97a-1111-4000-8000-000000000002 | 2026-11-17T02:00:00.000000Z | 10   |
+---------+--------+---------+--------------------------------------+-----------------------------+------+
";
    assert_eq!(tree.ok(&["volume", "list"]), expected);
    assert_eq!(
        tree.ok(&["volume", "show", "rbd/myvol10", "-f", "value", "-c", "backups", "-c", "id"]),
        "rbd-1\n2\n"
    );
    assert_eq!(
        tree.run(&["volume", "show", "myvol10"]).2,
        "error: AmbiguousName: \"myvol10\" names 2 volumes: local/myvol10, rbd/myvol10\n"
    );
    assert_eq!(tree.run(&["volume", "show", "nothing"]).0, 1);
}

#[test]
fn jobs_are_listed_in_their_order_and_shown_whole() {
    let tree = Tree::new();
    let columns = ["-c", "ID", "-c", "State", "-c", "Progress"];
    assert_eq!(
        tree.ok(&[&["job", "list", "-f", "value"], columns.as_slice()].concat()),
        "9 done 100%\n12 running 25%\n"
    );
    let shown: Value = serde_json::from_str(&tree.ok(&["job", "show", "12", "-f", "json"])).unwrap();
    assert_eq!((&shown["bytes_done"], &shown["error"]), (&json!(1024), &Value::Null));
    assert_eq!(
        tree.run(&["job", "show", "../status"]),
        (
            1,
            String::new(),
            "error: JobNotFound: there is no job \"../status\": see amberfs job list\n".into()
        )
    );
}

#[test]
fn quotas_are_shown_as_openstack_shows_their_usage() {
    let tree = Tree::new();
    let quota = |project: &str, used: Value, limit: i64| {
        let one = json!({"limit": limit, "used": used});
        json!({"project": project, "backups": one, "backup_gigabytes": {"limit": -1, "used": 31},
            "volumes": {"limit": 10, "used": null}, "gigabytes": {"limit": 1000, "used": 0},
            "stored_bytes": 123_456})
        .to_string()
    };
    assert_eq!(tree.ok(&["quota", "show"]), "");
    fs::create_dir(tree.path("quotas")).unwrap();
    tree.write("quotas/web", &quota("web", json!(3), 10));
    let expected = "\
+------------------+--------+-------+
| Resource         | In Use | Limit |
+------------------+--------+-------+
| backups          | 3      | 10    |
| backup_gigabytes | 31     | -1    |
| volumes          | None   | 10    |
| gigabytes        | 0      | 1000  |
| stored_bytes     | 123456 | -1    |
+------------------+--------+-------+
";
    assert_eq!(tree.ok(&["quota", "show"]), expected, "the only one that is visible");
    tree.write("quotas/db", &quota("db", json!(0), 5));
    assert_eq!(tree.ok(&["quota", "show", "web"]), expected);
    let columns = ["-f", "value", "-c", "Project", "-c", "Resource", "-c", "Limit"];
    let all = tree.ok(&[&["quota", "show"], columns.as_slice()].concat());
    let backups: Vec<_> = all.lines().filter(|line| line.starts_with("backups ")).collect();
    assert_eq!((all.lines().count(), backups), (10, vec!["backups 5 db", "backups 10 web"]));
    let (status, output, error) = tree.run(&["quota", "show", "../jobs/9"]);
    assert_eq!((status, output.as_str()), (1, ""));
    assert!(error.starts_with("error: NotAuthorized: there is no project \"../jobs/9\""), "{error}");
}

#[test]
fn a_dry_run_of_prune_shows_what_would_be_done_and_why() {
    let tree = Tree::new();
    let expected = "\
+--------------------------------------+----------------+---------------+-----------------------------+---------+------------------+
| ID                                   | Name           | Volume        | Data Timestamp              | Action  | Reason           |
+--------------------------------------+----------------+---------------+-----------------------------+---------+------------------+
| aaaaaaaa-0000-4000-8000-000000000003 | we \\u{1b}[31m\u{fc} | local/myvol10 | 2026-11-18T02:00:00.000000Z | keep    | daily            |
| 9027e97a-1111-4000-8000-000000000002 | tuesday        | rbd/myvol10   | 2026-11-17T02:00:00.000000Z | flatten | daily            |
| 9027e97a-0000-4000-8000-000000000001 | monday         | rbd/myvol10   | 2026-11-16T02:00:00.000000Z | delete  | no rule keeps it |
+--------------------------------------+----------------+---------------+-----------------------------+---------+------------------+
";
    assert_eq!(tree.ok(&["backup", "prune", "--keep-daily", "1", "--dry-run"]), expected);
    let prune = |arguments: &[&str]| {
        let all = ["backup", "prune", "--dry-run", "-f", "value", "-c", "Action"];
        tree.run(&[all.as_slice(), arguments].concat())
    };
    let of_one = prune(&["--keep-last", "2", "--volume", "rbd/myvol10"]);
    assert_eq!(of_one, (0, "keep\nkeep\n".to_owned(), String::new()));
    assert_eq!(prune(&["--keep-last", "1", "--project", "elsewhere"]), (0, String::new(), String::new()));

    let (status, output, error) = prune(&["--keep-last", "1", "--volume", "myvol10"]);
    assert_eq!((status, output.as_str()), (1, ""));
    assert!(error.starts_with("error: AmbiguousName: \"myvol10\" names 2 volumes: "), "{error}");
    let (status, _, error) = prune(&["--keep-last", "1", "--volume", "nothing"]);
    assert!(status == 1 && error.starts_with("error: VolumeNotFound: "), "{error}");
    for no_rule in [&[][..], &["--keep-last", "0", "--keep-yearly", "0"]] {
        let (status, output, error) = prune(no_rule);
        assert_eq!((status, output.as_str()), (2, ""));
        assert!(error.starts_with("error: no rule keeps anything, so that all backups would go"), "{error}");
    }
    // Who does not see all backups does not know what leans on what.
    tree.write(&format!("backups/{TUESDAY}/info.json"), "{");
    let (status, output, _) = prune(&["--keep-last", "1"]);
    assert_eq!((status, output.as_str()), (1, ""));
}

#[test]
fn a_failed_backup_that_holds_nothing_does_not_keep_what_it_was_to_lean_on() {
    let tree = Tree(tempfile::tempdir().unwrap());
    fs::create_dir_all(tree.path("backups")).unwrap();
    tree.backup(MONDAY, "monday", "rbd", 16, &json!({"has_dependent_backups": false}));
    tree.backup(TUESDAY, "tuesday", "rbd", 17, &json!({"has_dependent_backups": false}));
    tree.backup(OTHER, "failed", "rbd", 18, &json!({"status": "error", "parent_id": MONDAY}));
    let columns = ["-f", "value", "-c", "Name", "-c", "Action", "-c", "Reason"];
    let prune = [&["backup", "prune", "--dry-run", "--keep-last", "1"], columns.as_slice()].concat();
    assert_eq!(tree.ok(&prune), "failed keep error\ntuesday keep last\nmonday delete no rule keeps it\n");
}

#[test]
fn a_record_is_exported_to_a_file_that_is_not_there_or_to_standard_output() {
    let tree = Tree::new();
    let record = "a record\n";
    tree.write(&format!("backups/{MONDAY}/record"), record);
    assert_eq!(tree.ok(&["backup", "export", "monday"]), record);
    assert_eq!(tree.ok(&["backup", "record", "export", "monday", "-"]), record);
    let file = tree.path("exported");
    let export = ["backup", "export", "monday", file.to_str().unwrap()];
    assert_eq!(tree.ok(&export), "");
    assert_eq!(fs::read_to_string(&file).unwrap(), record);

    tree.write("exported", "something else");
    let (status, _, error) = tree.run(&export);
    assert_eq!(status, 1);
    assert!(error.contains("exported") && error.contains("File exists"), "{error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "something else");
    let left: Vec<_> = fs::read_dir(tree.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 4, "no temporary file is left: {left:?}");
}

#[test]
fn of_several_deletes_each_that_fails_is_named_and_they_are_counted() {
    let tree = Tree::new();
    let delete = json!({"kind": "delete"});
    tree.job(20, "done", &delete);
    tree.job(21, "failed", &json!({"kind": "delete", "error": "SourceUnavailable: the pool is gone"}));
    tree.job(22, "cancelled", &delete);
    let answer = format!("ok backup={MONDAY} job=20\nok backup={TUESDAY} job=21\nok backup={OTHER} job=22\n");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/answering.py");
    let mut daemon = Command::new("python3")
        .arg(script)
        .args(["3", &answer])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut device = String::new();
    BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut device).unwrap();
    fs::create_dir(tree.path("control")).unwrap();
    symlink(device.trim_end(), tree.path("control/delete")).unwrap();
    let (status, output, error) = tree.run(&["backup", "delete", "monday", "tuesday", OTHER]);
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert_eq!((status, output.as_str()), (1, ""));
    let expected = format!(
        "job 20: delete rbd/myvol10 done\n\
         error: job 21 failed: SourceUnavailable: the pool is gone; backup {TUESDAY} is not deleted\n\
         error: job 22 was cancelled; backup {OTHER} is not deleted\n\
         error: 2 of 3 backups failed to delete.\n"
    );
    assert_eq!(error, expected);
}

#[test]
fn watching_a_job_follows_it_to_its_end() {
    let tree = Tree::new();
    let (status, output, error) = tree.run(&["job", "watch", "9"]);
    assert_eq!((status, output.as_str()), (0, ""));
    assert_eq!(error, "job 9: backup rbd/myvol10 done, 4.00 KiB\n");

    let mut watching = amberfs(Some(tree.0.path()))
        .args(["job", "watch", "12", "--interval", "1"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watching.stderr.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line, "job 12: backup rbd/myvol10: 1.00 KiB of 4.00 KiB (25%)\n");
    // As a whole, like the daemon's: a reader must not see half of it.
    tree.job(13, "failed", &json!({"id": 12, "error": "SourceUnavailable: the pool is gone"}));
    fs::hard_link(tree.path("jobs/13"), tree.path("jobs/new")).unwrap();
    rustix::fs::rename(tree.path("jobs/new"), tree.path("jobs/12")).unwrap();
    let status = watching.wait().unwrap();
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    let last = rest.lines().last().unwrap();
    assert_eq!((status.code(), last), (Some(1), "error: job 12 failed: SourceUnavailable: the pool is gone"));
}

#[test]
fn what_cannot_be_read_is_said_and_the_rest_is_shown() {
    let tree = Tree::new();
    tree.write(&format!("backups/{OTHER}/info.json"), "{");
    // A folder that went away, or has no info yet.
    fs::create_dir(tree.path("backups/new")).unwrap();
    let (status, output, error) = tree.run(&["backup", "list", "-f", "value", "-c", "Name"]);
    assert_eq!((status, output.as_str()), (1, "tuesday\nmonday\n"));
    assert!(error.starts_with("error: 1 of the entries could not be read; the first: "), "{error}");
    assert!(error.contains("info.json: it is not a JSON object"), "{error}");
}

#[test]
fn the_mount_is_the_named_one_before_the_environment() {
    let (tree, empty) = (Tree::new(), tempfile::tempdir().unwrap());
    let mount = tree.0.path().to_str().unwrap();
    for arguments in [["--mount", mount, "job", "list"], ["job", "list", "--mount", mount]] {
        assert_eq!(run(Some(empty.path()), &arguments).0, 0, "{arguments:?}");
    }
    let expected = format!("error: {} is not an amberfs mount: it has no backups/\n", empty.path().display());
    assert_eq!(run(Some(empty.path()), &["job", "list"]), (1, String::new(), expected));
}

#[test]
fn bad_usage_is_2_and_a_refusal_is_1() {
    let tree = Tree::new();
    for arguments in [
        &["backup", "create"][..],
        &["backup", "list", "--status", "fine"],
        &["backup", "list", "--sort", "colour"],
        &["backup", "list", "--sort", "name:up"],
        &["backup", "create", "v", "--property", "novalue"],
        &["backup", "restore", "b", "--to", "v", "--name", "n"],
        &["backup", "restore", "b", "v", "--name", "n"],
        &["backup", "restore", "b", "v", "--to", "v"],
        &["backup", "delete"],
        &["backup", "set", "b"],
        &["backup", "set", "b", "--protect", "--no-protect"],
        &["backup", "set", "b", "--state", "creating"],
        &["backup", "unset", "b"],
        &["backup", "reset-state", "b", "--state", "deleting"],
        &["backup", "prune", "--keep-last", "-1"],
        &["repo", "init", "--compression", "lz4"],
        &["repo", "init", "--chunk-size", "large"],
        &["backup"],
        &[],
    ] {
        let (status, output, error) = tree.run(arguments);
        assert_eq!((status, output.as_str(), error.is_empty()), (2, "", false), "{arguments:?}");
    }
    let plain_folder = tree.0.path().to_str().unwrap();
    let (status, _, error) = tree.run(&["umount", plain_folder]);
    assert_eq!(
        (status, error),
        (1, format!("error: cannot unmount {plain_folder}: no amberfs is mounted there\n"))
    );
    let (status, _, error) = tree.run(&["backup", "create", "a\nb"]);
    assert_eq!(
        (status, error.as_str()),
        (
            1,
            "error: the command cannot be sent: \"a\\nb\" holds a line break, which a control line cannot carry\n"
        )
    );
}

#[test]
fn help_and_completions_are_printed_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (status, output, error) = run(None, &["completions", shell]);
        assert_eq!((status, error.as_str()), (0, ""));
        assert!(output.contains("umount"), "{shell}");
    }
    for command in [
        "backup create",
        "backup list",
        "backup show",
        "backup set",
        "backup unset",
        "backup restore",
        "backup delete",
        "backup flatten",
        "backup verify",
        "backup prune",
        "backup export",
        "backup import",
        "backup reset-state",
        "volume list",
        "volume show",
        "quota show",
        "job list",
        "job watch",
        "job cancel",
        "umount",
    ] {
        let words: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let (status, output, _) = run(None, &words);
        let example = format!("  amberfs {command}");
        let has_example = output.split_once("Examples:\n").is_some_and(|(_, text)| text.contains(&example));
        assert!(status == 0 && has_example, "{command}: {output}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure_and_a_full_disk_is_one() {
    let tree = Tree::new();
    for number in 0..2000 {
        tree.job(1000 + number, "done", &json!({}));
    }
    let mut child = amberfs(Some(tree.0.path()))
        .args(["job", "list"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));

    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = amberfs(Some(tree.0.path())).args(["job", "list"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "error: cannot write the output: No space left on device (os error 28)\n"
    );
}
