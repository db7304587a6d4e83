//! A real Ceph cluster for tests, by `scripts/ceph-cluster`, and Ceph's own tools as the oracle.
//!
//! Nothing is left running: the cluster stops itself when this process is gone, however it ended (`until=`). When
//! Ceph cannot run here, the test that wanted it fails.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use amberfs::source::rbd::{RbdOptions, RbdSource};
use serde_json::{Value, json};

pub const POOL: &str = "rbd";
pub const DATA_POOL: &str = "fast";
/// Reads images, makes and removes snapshots.
pub const BACKUP_USER: &str = "amberfs-backup";
/// Makes and fills images too.
pub const RESTORE_USER: &str = "amberfs-restore";

pub struct CephCluster {
    folder: PathBuf,
}

impl CephCluster {
    /// Returns this test binary's cluster, started by the first who asks.
    pub fn shared() -> &'static Self {
        static CLUSTER: OnceLock<CephCluster> = OnceLock::new();
        CLUSTER.get_or_init(Self::start)
    }

    /// Starts a cluster of one's own, for tests that break it.
    pub fn start() -> Self {
        let this =
            Self { folder: std::env::temp_dir().join(format!("amberfs-ceph-{}", uuid::Uuid::new_v4())) };
        let until = format!("until={}", std::process::id());
        this.script("start", &[&format!("pool={POOL}"), &format!("data_pool={DATA_POOL}"), "size=8", &until]);
        this
    }

    fn script(&self, command: &str, arguments: &[&str]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/ceph-cluster");
        let output = Command::new(script).arg(command).arg(&self.folder).args(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "ceph-cluster {command}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Requests to the only OSD wait from now on.
    pub fn stop_osd(&self) {
        self.script("osd-stop", &["0"]);
    }

    pub fn start_osd(&self) {
        self.script("osd-start", &["0"]);
    }

    pub fn conf(&self) -> PathBuf {
        self.folder.join("ceph.conf")
    }

    pub fn options(&self, user: &str) -> RbdOptions {
        RbdOptions {
            name: "ceph".parse().unwrap(),
            conf: self.conf(),
            user: user.into(),
            pool: POOL.into(),
            namespace: String::new(),
            timeout: Duration::from_secs(20),
        }
    }

    pub fn source(&self, user: &str) -> RbdSource {
        RbdSource::new(self.options(user))
    }

    /// Runs `rbd` as the administrator and returns what it printed.
    pub fn rbd(&self, arguments: &[&str]) -> Vec<u8> {
        self.tool("rbd", arguments)
    }

    /// Runs `rados` on the pool's objects.
    pub fn rados(&self, arguments: &[&str]) {
        self.tool("rados", &[&["-p", POOL], arguments].concat());
    }

    pub fn ceph(&self, arguments: &[&str]) {
        self.tool("ceph", arguments);
    }

    fn tool(&self, tool: &str, arguments: &[&str]) -> Vec<u8> {
        let output = Command::new(tool).arg("-c").arg(self.conf()).args(arguments).output().unwrap();
        assert!(output.status.success(), "{tool} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Runs `rbd` and returns what it said as JSON.
    pub fn rbd_json(&self, arguments: &[&str]) -> Value {
        serde_json::from_slice(&self.rbd(&[arguments, &["--format", "json"]].concat())).unwrap()
    }

    /// Returns an image's, or a snapshot's, bytes as Ceph's own tool sees them.
    pub fn export(&self, spec: &str) -> Vec<u8> {
        self.rbd(&["export", "--no-progress", spec, "-"])
    }

    /// Starts a process that works on images through Ceph's own Python binding.
    pub fn driver(&self) -> Driver {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/rbd_driver.py");
        // Debian's binding is for Debian's interpreter.
        let mut child = Command::new("/usr/bin/python3")
            .arg(script)
            .args([self.conf().as_os_str(), POOL.as_ref()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Driver { child, input, output: BufReader::new(output) }
    }
}

impl Drop for CephCluster {
    fn drop(&mut self) {
        // Only a cluster of one's own gets here; the shared one goes with the process.
        self.script("stop", &[]);
    }
}

/// A client of its own. It ends when its input does, so it outlives neither its test nor this process.
pub struct Driver {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Driver {
    /// Does one thing, which must succeed.
    pub fn run(&mut self, command: Value) -> Value {
        let answer = self.try_run(&command);
        assert!(answer.get("error").is_none(), "{command}: {answer}");
        answer
    }

    pub fn try_run(&mut self, command: &Value) -> Value {
        writeln!(self.input, "{command}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{command}: the driver ended"))
    }

    pub fn create(&mut self, name: &str, size: u64) {
        self.run(json!({"op": "create", "name": name, "size": size, "features": 61, "order": 22}));
    }

    pub fn write(&mut self, name: &str, offset: u64, length: u64, seed: u64) {
        self.run(json!({"op": "write", "name": name, "offset": offset, "length": length, "seed": seed}));
    }

    pub fn snapshot(&mut self, name: &str, snapshot: &str) {
        self.run(json!({"op": "snapshot", "name": name, "snapshot": snapshot}));
    }

    /// Returns the bytes of a snapshot, or of the head.
    pub fn read(&mut self, name: &str, snapshot: Option<&str>) -> Vec<u8> {
        let file = tempfile::NamedTempFile::new().unwrap();
        self.run(json!({"op": "read", "name": name, "snapshot": snapshot, "path": file.path()}));
        std::fs::read(file.path()).unwrap()
    }

    /// Ends it as a crash would: it closes nothing.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
