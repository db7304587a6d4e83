//! Programs that write to the guest while it is backed up, and what must be there of their work afterwards.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::contents;
use crate::support::attach::{run, text};
use crate::support::bytes::pattern;
use crate::support::daemon::until;

/// So many rounds' small files are kept.
const KEPT: u64 = 50;
const FILES: u64 = 5;

/// A database, a git repository and small files, written to in rounds by a thread that ends on drop. A round is
/// counted when all of it is durable, as the programs themselves see to it.
pub struct Writer {
    rounds: Arc<AtomicU64>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Writes to `folder`, which must not exist.
    pub fn start(folder: &Path) -> Self {
        fs::create_dir(folder).unwrap();
        let (rounds, end) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let mut work = Work::new(folder);
        let (thread_rounds, thread_end) = (rounds.clone(), end.clone());
        let thread = std::thread::spawn(move || {
            for round in 1.. {
                if thread_end.load(Ordering::Relaxed) {
                    return;
                }
                work.round(round);
                thread_rounds.store(round, Ordering::Release);
                // The machine has others to serve, and the file systems have an end.
                std::thread::sleep(Duration::from_millis(30));
            }
        });
        Self { rounds, end, thread: Some(thread) }
    }

    /// Returns how many rounds are durable.
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Acquire)
    }

    /// Waits until it has written more than it had.
    pub fn wait_for_more(&self) {
        let before = self.rounds();
        until("the guest's writers", || {
            assert!(self.thread.as_ref().is_some_and(|thread| !thread.is_finished()), "a writer failed");
            (self.rounds() > before + 1).then_some(())
        });
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking(), "a writer failed");
    }
}

struct Work {
    folder: std::path::PathBuf,
    database: Database,
}

impl Work {
    fn new(folder: &Path) -> Self {
        let repository = folder.join("repository");
        contents::git_init(&repository);
        contents::git(&repository, &["config", "core.fsync", "all"]);
        // Which it never syncs.
        contents::git(&repository, &["config", "core.logAllRefUpdates", "false"]);
        fs::create_dir(folder.join("files")).unwrap();
        Self { folder: folder.to_owned(), database: Database::new(&folder.join("busy.db")) }
    }

    fn round(&mut self, round: u64) {
        self.database.insert(round);
        let files = self.folder.join("files");
        for number in 0..FILES {
            let mut file = File::create(files.join(format!("{round}-{number}.new"))).unwrap();
            file.write_all(&small_file(round, number)).unwrap();
            file.sync_all().unwrap();
            let name = |suffix: &str| files.join(format!("{round}-{number}{suffix}"));
            rustix::fs::rename(name(".new"), name("")).unwrap();
            if round > KEPT {
                fs::remove_file(files.join(format!("{}-{number}", round - KEPT))).unwrap();
            }
        }
        let repository = self.folder.join("repository");
        contents::put(&repository.join(format!("file-{}", round % 20)), &pattern(round, 3000));
        contents::git(&repository, &["add", "."]);
        contents::git(&repository, &["commit", "-q", "-m", &round.to_string()]);
        // git syncs files, not the folder that it renames them in.
        for folder in [&files, &repository.join(".git/refs/heads")] {
            File::open(folder).unwrap().sync_all().unwrap();
        }
    }
}

fn small_file(round: u64, number: u64) -> Vec<u8> {
    pattern(round * FILES + number, 500 + (round as usize * 37) % 6000)
}

/// A sqlite3 process that has a database open.
struct Database {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Database {
    fn new(path: &Path) -> Self {
        let mut process = Command::new("sqlite3")
            .args(["-batch", "-bail"])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut input, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        writeln!(input, "pragma synchronous = extra; create table t(round integer primary key, v blob);")
            .unwrap();
        Self { process, input, output: BufReader::new(output) }
    }

    /// Returns when the rows are committed.
    fn insert(&mut self, round: u64) {
        writeln!(self.input, "insert into t values ({round}, randomblob(2000)); select max(round) from t;")
            .unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), round.to_string(), "sqlite3 did not commit");
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Checks a writer's folder as it was found after a recovery; a copy of it, in `work`, is what the programs open.
pub fn check(folder: &Path, rounds: u64, work: &Path) {
    let copy = tempfile::tempdir_in(work).unwrap();
    let busy = copy.path().join("busy");
    run("cp", &["-r", text(folder), text(&busy)]);
    let sql = "pragma integrity_check; select max(round) = count(*), max(round) from t;";
    let said = run("sqlite3", &["-separator", "\n", text(&busy.join("busy.db")), sql]);
    let said: Vec<_> = said.lines().collect();
    let [integrity, complete, newest] = said.as_slice() else { panic!("sqlite3 said {said:?}") };
    assert_eq!((*integrity, *complete), ("ok", "1"), "the database is damaged");
    assert!(newest.parse::<u64>().unwrap() >= rounds, "{newest} rows, {rounds} were committed");

    let repository = busy.join("repository");
    contents::git(&repository, &["fsck", "--full", "--strict", "--no-progress"]);
    let commits: u64 = contents::git(&repository, &["rev-list", "--count", "HEAD"]).trim().parse().unwrap();
    assert!(commits >= rounds, "{commits} commits, {rounds} were made");

    // What was there is there, but for what its writer has removed since, and complete.
    let newest = newest.parse::<u64>().unwrap().max(commits);
    for round in (newest + 2).saturating_sub(KEPT).max(1)..=rounds {
        for number in 0..FILES {
            let path = busy.join(format!("files/{round}-{number}"));
            assert!(
                fs::read(&path).is_ok_and(|bytes| bytes == small_file(round, number)),
                "{}",
                path.display()
            );
        }
    }
}
