//! The guest's disk as a raw file: partitioned, formatted and filled by the usual tools.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::contents;
use super::listing::{self, Listing};
use crate::support::attach::{Loop, Mounted, Range, run, text};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    Gpt,
    /// GPT on a disk with sectors of 4096 bytes.
    Gpt4096,
    /// With the root and home partitions as logical ones in an extended one.
    Mbr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// This kernel does not mount it; mtools reads it.
    Fat,
    Ext4,
    Xfs,
}

#[derive(Debug, Clone)]
pub struct Partition {
    /// As in the table, from 1.
    pub number: u32,
    pub kind: Kind,
    /// `efi`, `boot`, `root`, `home`.
    pub label: &'static str,
    /// In bytes.
    pub range: Range,
    /// The disk's, in bytes: 512 or 4096.
    pub sector: u64,
    /// Of the file system, as blkid says it.
    pub uuid: String,
}

impl Partition {
    /// Attaches the partition of an image, with the disk's sectors and more of losetup's options.
    pub fn attach(&self, image: &Path, options: &[&str]) -> Loop {
        let sector = self.sector.to_string();
        Loop::with(image, Some(self.range), &[&["-b", &sector], options].concat())
    }

    /// Mounts the partition of an image that may be written to, with mount's options.
    pub fn mount(&self, image: &Path, mountpoint: &Path, options: &str) -> Mounted {
        Mounted::new(self.attach(image, &[]), mountpoint, options)
    }

    /// Lets the kernel replay the log, beside the guest itself, which has an XFS with this UUID mounted.
    pub fn mount_replayed(&self, image: &Path, mountpoint: &Path) -> Mounted {
        self.mount(image, mountpoint, if self.kind == Kind::Xfs { "rw,nouuid" } else { "rw" })
    }

    /// Shows what lies there without the log: not what the guest had.
    pub fn mount_without_replay(&self, image: &Path, mountpoint: &Path) -> Mounted {
        let options = if self.kind == Kind::Xfs { "ro,norecovery,nouuid" } else { "ro,noload" };
        Mounted::new(self.attach(image, &["-r"]), mountpoint, options)
    }

    /// Tells whether the log has to be replayed: only then does the kernel refuse a device that it cannot write to.
    pub fn is_dirty(&self, image: &Path, mountpoint: &Path) -> bool {
        let options = if self.kind == Kind::Xfs { "ro,nouuid" } else { "ro" };
        Mounted::try_new(self.attach(image, &["-r"]), mountpoint, options).is_err()
    }

    /// The same partition in an image of its own, as in `partitions/N`.
    pub fn alone(&self) -> Self {
        Self { range: Range { offset: 0, ..self.range }, ..self.clone() }
    }
}

/// A disk that nobody uses: what a template of virtual machines is.
pub struct Disk {
    pub layout: Layout,
    pub partitions: Vec<Partition>,
    /// By the partition's number.
    pub lists: BTreeMap<u32, Listing>,
    folder: tempfile::TempDir,
}

const MIB: u64 = 1 << 20;
/// Sizes in MiB. The smallest XFS that mkfs.xfs makes is 300.
const PARTS: [(&str, Kind, u64); 4] =
    [("efi", Kind::Fat, 40), ("boot", Kind::Ext4, 112), ("root", Kind::Xfs, 512), ("home", Kind::Ext4, 256)];

impl Layout {
    fn sector(self) -> u64 {
        if self == Self::Gpt4096 { 4096 } else { 512 }
    }
}

impl Disk {
    pub fn make(layout: Layout) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("disk");
        File::create(&image).unwrap().set_len(940 * MIB).unwrap();
        let partitions = partition(&image, layout);
        let mut disk = Self { layout, partitions, lists: BTreeMap::new(), folder };
        for mut partition in std::mem::take(&mut disk.partitions) {
            let device = partition.attach(&image, &[]);
            make_file_system(partition.kind, device.device(), partition.label, layout.sector());
            partition.uuid = uuid(device.device());
            disk.partitions.push(partition.clone());
            if partition.kind == Kind::Fat {
                let list = disk.fill_efi(device.device());
                disk.lists.insert(partition.number, list);
                continue;
            }
            let mounted = Mounted::new(device, &disk.folder.path().join(partition.label), "rw");
            match partition.label {
                "boot" => contents::boot(mounted.path()),
                "root" => contents::root(mounted.path()),
                _ => contents::home(mounted.path()),
            }
            disk.lists.insert(partition.number, listing::list(mounted.path()));
        }
        disk
    }

    fn fill_efi(&self, device: &Path) -> Listing {
        let source = self.folder.path().join("efi");
        fs::create_dir(&source).unwrap();
        contents::efi(&source);
        let copied = Command::new("mcopy")
            .env("MTOOLS_SKIP_CHECK", "1")
            .args(["-s", "-i", text(device), text(&source.join("EFI")), "::/"])
            .output()
            .unwrap();
        assert!(copied.status.success(), "mcopy: {}", String::from_utf8_lossy(&copied.stderr));
        listing::list(&source)
    }

    pub fn image(&self) -> PathBuf {
        self.folder.path().join("disk")
    }
}

pub fn make_file_system(kind: Kind, device: &Path, label: &str, sector: u64) {
    let device = text(device);
    match kind {
        Kind::Fat => run("mkfs.vfat", &["-S", &sector.to_string(), "-n", "EFI", device]),
        // Lazily, the kernel would go on writing for minutes.
        Kind::Ext4 => run("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0", "-L", label, device]),
        Kind::Xfs => run("mkfs.xfs", &["-q", "-f", "-L", label, device]),
    };
}

pub fn uuid(device: &Path) -> String {
    run("blkid", &["-p", "-o", "value", "-s", "UUID", text(device)]).trim().to_owned()
}

fn partition(image: &Path, layout: Layout) -> Vec<Partition> {
    let device = Loop::with(image, None, &["-b", &layout.sector().to_string()]);
    match layout {
        Layout::Gpt | Layout::Gpt4096 => make_gpt(device.device()),
        Layout::Mbr => make_mbr(device.device()),
    }
    let found = table(device.device(), layout.sector());
    let parts = PARTS.iter().map(|(label, kind, mib)| {
        let is = |range: &Range| range.length == mib * MIB;
        let (number, range) = found.iter().find(|(_, range)| is(range)).unwrap();
        Partition {
            number: *number,
            kind: *kind,
            label,
            range: *range,
            sector: layout.sector(),
            uuid: String::new(),
        }
    });
    parts.collect()
}

fn make_gpt(device: &Path) {
    let mut arguments = Vec::new();
    for (number, (label, kind, mib)) in (1..).zip(PARTS) {
        let code = if kind == Kind::Fat { "ef00" } else { "8300" };
        arguments.extend(["-n".into(), format!("{number}:0:+{mib}M")]);
        arguments.extend(["-t".into(), format!("{number}:{code}"), "-c".into(), format!("{number}:{label}")]);
    }
    arguments.push(text(device).to_owned());
    run("sgdisk", &arguments);
}

fn make_mbr(device: &Path) {
    let mut script = String::from("label: dos\n");
    for (number, (label, kind, mib)) in (1..).zip(PARTS) {
        if number == 3 {
            script += "type=5\n";
        }
        let code = if kind == Kind::Fat { "ef" } else { "83" };
        let bootable = if label == "boot" { ", bootable" } else { "" };
        script += &format!("size={mib}MiB, type={code}{bootable}\n");
    }
    let mut sfdisk = Command::new("sfdisk")
        .arg("-q")
        .arg(device)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut sfdisk.stdin.take().unwrap(), script.as_bytes()).unwrap();
    let output = sfdisk.wait_with_output().unwrap();
    assert!(output.status.success(), "sfdisk: {}", String::from_utf8_lossy(&output.stderr));
}

/// Returns a device's partitions as sfdisk sees them: number and place in bytes.
pub fn table(device: &Path, sector: u64) -> Vec<(u32, Range)> {
    let json: serde_json::Value = serde_json::from_str(&run("sfdisk", &["--json", text(device)])).unwrap();
    let partitions = json.pointer("/partitiontable/partitions").and_then(|list| list.as_array()).unwrap();
    let number =
        |node: &str| node.strip_prefix(text(device)).unwrap().trim_start_matches('p').parse().unwrap();
    let range = |partition: &serde_json::Value| {
        let bytes = |key| partition.get(key).and_then(serde_json::Value::as_u64).unwrap() * sector;
        Range { offset: bytes("start"), length: bytes("size") }
    };
    let node =
        |partition: &serde_json::Value| number(partition.get("node").and_then(|n| n.as_str()).unwrap());
    partitions.iter().map(|partition| (node(partition), range(partition))).collect()
}
