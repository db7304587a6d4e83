//! The real daemon, `amberfs mount`, and its command line, on a real kernel mount. Needs root.
//!
//! A daemon ends with its test, also when the test panics; the mount and the temporary folder go with it.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal};
use serde_json::Value;

/// Nothing here takes so long, on the slowest machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until something is so; a test that waits in vain fails.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A folder with a configuration, a repository and a mountpoint, and the daemon that serves it.
pub struct Daemon {
    folder: tempfile::TempDir,
    repository: PathBuf,
    repository_lines: String,
    process: Option<Child>,
}

/// What a control file said: the answer's text, and how the write ended.
pub struct Said {
    pub write: io::Result<()>,
    pub answer: String,
}

impl Daemon {
    /// Starts a daemon whose configuration has these sections besides the repository's.
    pub fn start(sections: &str) -> Self {
        Self::start_with("", sections)
    }

    /// Starts a daemon with these lines more in the repository's section.
    pub fn start_with(repository_lines: &str, sections: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["mnt", "repository"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let repository = folder.path().join("repository");
        let repository_lines = repository_lines.to_owned();
        let mut daemon = Self { folder, repository: repository.clone(), repository_lines, process: None };
        daemon.configure(sections);
        let made = Command::new(env!("CARGO_BIN_EXE_amberfs"))
            .args(["repo", "init", "--repo"])
            .arg(repository)
            .output();
        let made = made.unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        daemon.serve();
        daemon
    }

    /// Makes a place for another daemon with this one's repository, which is not started yet.
    pub fn beside(&self, repository_lines: &str, sections: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mnt")).unwrap();
        let (repository, repository_lines) = (self.repository.clone(), repository_lines.to_owned());
        let mut daemon = Self { folder, repository, repository_lines, process: None };
        daemon.configure(sections);
        daemon
    }

    /// Writes the configuration for the next start. What stands before the first section is not of one; `[repository]`
    /// is completed if it is there.
    pub fn configure(&mut self, sections: &str) {
        let (top, sections) = sections.split_at(sections.find('[').unwrap_or(sections.len()));
        let repository =
            format!("[repository]\nurl = \"dir:{}\"\n{}", self.repository.display(), self.repository_lines);
        let sections = match sections.contains("[repository]") {
            true => sections.replacen("[repository]", &repository, 1),
            false => format!("{repository}\n{sections}"),
        };
        let text = format!("{top}\n{sections}\n");
        let mut file = File::create(self.folder.path().join("amberfs.toml")).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// Starts the process and waits until it serves.
    pub fn serve(&mut self) {
        self.serve_with(|_| ());
    }

    /// Starts it in another way, and waits until it serves.
    pub fn serve_with(&mut self, change: impl FnOnce(&mut Command)) {
        self.process = Some(self.start_process(change));
        self.wait_until_serving();
    }

    /// Starts the process.
    pub fn launch(&mut self) {
        self.process = Some(self.start_process(|_| ()));
    }

    pub fn wait_until_serving(&mut self) {
        until("the mount", || {
            if let Some(status) = self.process.as_mut().unwrap().try_wait().unwrap() {
                panic!("the daemon ended with {status}: {}", self.log());
            }
            // Read, not looked at: the kernel still knows the names of a mount whose daemon was killed.
            fs::read(self.mount().join("status.json")).ok()
        });
    }

    pub fn status(&self) -> Value {
        serde_json::from_slice(&fs::read(self.mount().join("status.json")).unwrap()).unwrap()
    }

    pub fn events(&self) -> String {
        fs::read_to_string(self.mount().join("events")).unwrap()
    }

    /// Starts the process in another way, and waits for nothing. It ends with what is returned, if not before.
    pub fn spawn(&self, change: impl FnOnce(&mut Command)) -> Started {
        Started { process: self.start_process(change), mountpoint: self.mount() }
    }

    fn start_process(&self, change: impl FnOnce(&mut Command)) -> Child {
        let log = OpenOptions::new().append(true).create(true).open(self.folder.path().join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_amberfs"));
        command.args(["mount", "--config"]).arg(self.folder.path().join("amberfs.toml")).arg(self.mount());
        command.stderr(log).stdout(Stdio::null());
        change(&mut command);
        command.spawn().unwrap()
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn mount(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    pub fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mountpoint = self.mount();
        mounts.lines().any(|line| line.split(' ').nth(1) == mountpoint.to_str())
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Sends SIGTERM, as often as wanted.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Keeps the process from doing anything until it may go on.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self) -> ExitStatus {
        let mut process = self.process.take().unwrap();
        until("the end of the daemon", || process.try_wait().unwrap())
    }

    /// Ends it in order.
    pub fn stop(&mut self) {
        self.terminate();
        let status = self.wait();
        assert!(status.success(), "the daemon ended with {status}: {}", self.log());
        assert!(!self.is_mounted());
    }

    /// Ends it as a power cut would, as far as the process goes.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// Writes to a control file and reads the answer from the same open file.
    pub fn say(&self, file: &str, text: &str) -> Said {
        let path = self.mount().join("control").join(file);
        let mut control = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let write = control.write_all(text.as_bytes());
        let mut answer = String::new();
        control.read_to_string(&mut answer).unwrap();
        Said { write, answer }
    }

    /// Says something that is accepted; returns the value of a key of the answer.
    pub fn accepted(&self, file: &str, text: &str, key: &str) -> String {
        let said = self.say(file, text);
        assert!(said.write.is_ok(), "{text:?}: {}", said.answer);
        let pair = said.answer.split_whitespace().find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        pair.unwrap_or_else(|| panic!("no {key} in {:?}", said.answer)).to_owned()
    }

    /// Says something that is refused; checks the errno and the name, and returns the sentence.
    pub fn refused(&self, file: &str, text: &str, errno: rustix::io::Errno, name: &str) -> String {
        let said = self.say(file, text);
        let error = said.write.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(errno.raw_os_error()), "{text:?}: {}", said.answer);
        let sentence = said.answer.strip_prefix(&format!("error: {name}: "));
        sentence.unwrap_or_else(|| panic!("another error: {}", said.answer)).trim_end().to_owned()
    }

    pub fn job(&self, id: &str) -> Value {
        let text = fs::read(self.mount().join("jobs").join(id)).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    /// Waits for the end of a job, however it ends.
    pub fn ended(&self, id: &str) -> Value {
        until("the end of a job", || {
            let job = self.job(id);
            (job["state"] != "queued" && job["state"] != "running").then_some(job)
        })
    }

    /// Waits for a job to end well.
    pub fn done(&self, id: &str) {
        let job = self.ended(id);
        assert_eq!(job["state"], "done", "{job}\n{}", self.log());
    }

    /// Backs up, waits, and returns the backup's id.
    pub fn backup(&self, line: &str) -> String {
        let said = self.say("backup", &format!("{line}\n"));
        assert!(said.write.is_ok(), "{line:?}: {}", said.answer);
        let value = |key: &str| {
            let pair = said.answer.split_whitespace().find_map(|pair| pair.strip_prefix(key));
            pair.unwrap_or_else(|| panic!("no {key} in {:?}", said.answer)).to_owned()
        };
        self.done(&value("job="));
        value("backup=")
    }

    /// Restores and waits.
    pub fn restore(&self, line: &str) {
        let job = self.accepted("restore", &format!("{line}\n"), "job");
        self.done(&job);
    }

    pub fn info(&self, backup: &str) -> Value {
        let path = self.mount().join("backups").join(backup).join("info.json");
        let text = fs::read(path).unwrap_or_else(|error| panic!("{error}: {}", self.log()));
        serde_json::from_slice(&text).unwrap()
    }

    pub fn image(&self, backup: &str) -> PathBuf {
        self.mount().join("backups").join(backup).join("image")
    }

    /// Runs the command line on this mount.
    pub fn cli<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_amberfs"))
            .env("AMBERFS_MOUNT", self.mount())
            .args(arguments)
            .output()
            .unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let process = self.process.take();
        end(process, &self.mount());
    }
}

/// A daemon that a test started by itself, on a mountpoint of its own; it ends with the test, also when that fails.
pub struct Started {
    pub process: Child,
    pub mountpoint: PathBuf,
}

impl Started {
    /// Starts a command that mounts there.
    pub fn new(command: &mut Command, mountpoint: &Path) -> Self {
        Self { process: command.arg(mountpoint).spawn().unwrap(), mountpoint: mountpoint.to_owned() }
    }

    pub fn wait(&mut self) -> ExitStatus {
        until("the end of the daemon", || self.process.try_wait().unwrap())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        end(Some(&mut self.process), &self.mountpoint);
    }
}

fn end(process: Option<impl std::borrow::BorrowMut<Child>>, mountpoint: &Path) {
    if let Some(mut process) = process {
        let _ = process.borrow_mut().kill();
        let _ = process.borrow_mut().wait();
    }
    let _ = rustix::mount::unmount(mountpoint, UnmountFlags::DETACH);
}
