//! Volumes with an XFS, made, mounted, crashed and looked at by the tools of the system.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use amberfs::sysio::device::FileDevice;
use tempfile::TempDir;
use uuid::Uuid;

/// A file with an XFS, and room for copies of it.
pub struct Volume {
    pub path: PathBuf,
    pub folder: TempDir,
}

impl Volume {
    /// Makes one of 320 MiB: mkfs.xfs makes none below 300.
    pub fn make(options: &[&str]) -> Self {
        Self::make_sized(320 << 20, options)
    }

    pub fn make_sized(bytes: u64, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("volume");
        File::create(&path).unwrap().set_len(bytes).unwrap();
        run("mkfs.xfs", &[&["-q", "-f"], options, &[text(&path)]].concat());
        Self { path, folder }
    }

    /// One that a writer was at when it was copied: what is in it is for the greater part in the log only.
    pub fn crashed(options: &[&str], mount_options: &str) -> Self {
        let mut volume = Self::make(options);
        let copy = volume.folder.path().join("crashed");
        let mounted = Mount::new(&volume.path, mount_options);
        mounted.write_files("synced", 200);
        run("sync", &["-f", text(&mounted.at)]);
        copy_file(&volume.path, &copy);
        drop(mounted);
        volume.path = copy;
        volume
    }

    pub fn copy(&self, name: &str) -> PathBuf {
        let copy = self.folder.path().join(name);
        copy_file(&self.path, &copy);
        copy
    }
}

pub fn copy_file(from: &Path, to: &Path) {
    run("cp", &["--sparse=always", text(from), text(to)]);
}

/// A mounted volume; unmounted on drop.
pub struct Mount {
    pub at: PathBuf,
    _folder: TempDir,
}

impl Mount {
    pub fn new(volume: &Path, options: &str) -> Self {
        Self::try_new(volume, options).unwrap()
    }

    pub fn try_new(volume: &Path, options: &str) -> Result<Self, String> {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().to_owned();
        let options = if options.is_empty() { "loop".to_owned() } else { format!("loop,{options}") };
        try_run("mount", &["-t", "xfs", "-o", &options, text(volume), text(&at)])?;
        Ok(Self { at, _folder: folder })
    }

    /// Makes small files in folders of 50, and some of them go again.
    pub fn write_files(&self, name: &str, count: u32) {
        for number in 0..count {
            let folder = self.at.join(format!("{name}-{}", number / 50));
            fs::create_dir_all(&folder).unwrap();
            let content = format!("{name} {number}\n").repeat(1 + number as usize % 700);
            write_file(&folder.join(format!("file-{number}")), content.as_bytes());
            if number % 7 == 3 && number % 50 > 0 {
                fs::remove_file(folder.join(format!("file-{}", number - 1))).unwrap();
            }
        }
    }

    /// The SHA-256 of each file, by its path.
    pub fn hashes(&self) -> BTreeMap<String, String> {
        let listing = run("sh", &["-c", "cd \"$0\" && find . -type f -exec sha256sum {} +", text(&self.at)]);
        listing
            .lines()
            .map(|line| line.split_once("  ").unwrap())
            .map(|(hash, path)| (path.to_owned(), hash.to_owned()))
            .collect()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let done = Command::new("umount").arg(&self.at).status().unwrap();
        if !done.success() {
            let _ = Command::new("umount").arg("-l").arg(&self.at).status();
        }
    }
}

pub fn write_file(path: &Path, content: &[u8]) {
    File::create(path).unwrap().write_all(content).unwrap();
}

pub fn device(path: &Path) -> FileDevice {
    FileDevice::new(File::options().read(true).write(true).open(path).unwrap()).unwrap()
}

/// The UUID that xfs_db finds in each group.
pub fn group_uuids(path: &Path, groups: u32) -> Vec<Uuid> {
    let commands: Vec<String> =
        (0..groups).flat_map(|group| [format!("sb {group}"), "p uuid".to_owned()]).collect();
    let mut arguments = vec!["-r"];
    arguments.extend(commands.iter().flat_map(|command| ["-c", command]));
    arguments.push(text(path));
    let answer = run("xfs_db", &arguments);
    answer.lines().map(|line| line.strip_prefix("uuid = ").unwrap().trim().parse().unwrap()).collect()
}

/// What xfs_db prints of a field of the first superblock.
pub fn field(path: &Path, name: &str) -> String {
    let answer = run("xfs_db", &["-r", "-c", "sb 0", "-c", &format!("p {name}"), text(path)]);
    answer.split_once(" = ").unwrap().1.trim().to_owned()
}

pub fn assert_repair_finds_nothing(path: &Path) {
    if let Err(complaint) = try_run("xfs_repair", &["-n", text(path)]) {
        panic!("xfs_repair -n: {complaint}");
    }
}

/// Mounts both at once, without `nouuid`, each replaying its log, and compares their files; says how many there are.
pub fn assert_mounts_beside(original: &Path, changed: &Path) -> usize {
    let (one, other) = (Mount::new(original, ""), Mount::new(changed, ""));
    let (files, others) = (one.hashes(), other.hashes());
    assert!(files == others, "{} files, and under the new UUID {}", files.len(), others.len());
    files.len()
}

/// Replaces bytes of the first superblock, and makes its checksum right.
pub fn edit_superblock(path: &Path, at: u64, bytes: &[u8]) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut sector = [0; 512];
    file.read_exact_at(&mut sector, 0).unwrap();
    sector[at as usize..][..bytes.len()].copy_from_slice(bytes);
    sector[224..228].fill(0);
    let crc = crc32c::crc32c(&sector);
    sector[224..228].copy_from_slice(&crc.to_le_bytes());
    file.write_all_at(&sector, 0).unwrap();
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    try_run(program, arguments).unwrap_or_else(|complaint| panic!("{program} {arguments:?}: {complaint}"))
}

pub fn try_run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(told),
        false => Err(told + &String::from_utf8_lossy(&output.stderr)),
    }
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
