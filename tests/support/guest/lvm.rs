//! Two machines made from one template with LVM: the same names of volumes, the same UUIDs, other files.
//!
//! The metadata is lvm2's own. This kernel has no device mapper, so volumes are reached where lvm2 says that they lie.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::contents;
use super::disk::{Kind, make_file_system, table};
use super::listing::{self, Listing};
use crate::support::attach::{Loop, Mounted, Range, run, text};

/// The group of both machines.
pub const GROUP: &str = "vg0";

#[derive(Debug, Clone)]
pub struct Volume {
    pub name: &'static str,
    pub kind: Kind,
    /// In the disk, in bytes.
    pub range: Range,
}

pub struct LvmGuest {
    pub image: PathBuf,
    /// The partition with the physical volume.
    pub partition: u32,
    pub volumes: Vec<Volume>,
    /// By the volume's name.
    pub lists: BTreeMap<&'static str, Listing>,
}

const VOLUMES: [(&str, Kind, u64); 2] = [("root", Kind::Xfs, 304), ("home", Kind::Ext4, 64)];

/// Makes the two disks in a folder, `guest-0.raw` and `guest-1.raw`, as they were while mounted: with dirty logs.
pub fn lvm_pair(folder: &Path) -> [LvmGuest; 2] {
    let template = folder.join("template");
    let (partition, volumes) = make_template(&template);
    let pair = [0, 1].map(|number| {
        let (running, image) = (folder.join("running"), folder.join(format!("guest-{number}.raw")));
        run("cp", &["--sparse=always", text(&template), text(&running)]);
        let mount = |volume: &Volume| {
            Mounted::new(Loop::new(&running, Some(volume.range)), &folder.join(volume.name), "rw")
        };
        let mounted: Vec<_> = volumes.iter().map(mount).collect();
        let mut lists = BTreeMap::new();
        for (volume, mounted) in volumes.iter().zip(&mounted) {
            (1..=number + 1).for_each(|day| contents::change(mounted.path(), day));
            contents::put(&mounted.path().join("hostname"), format!("guest-{number}\n").as_bytes());
            run("sync", &["-f", text(mounted.path())]);
            lists.insert(volume.name, listing::list(mounted.path()));
        }
        // Nobody writes.
        run("cp", &["--sparse=always", text(&running), text(&image)]);
        LvmGuest { image, partition, volumes: volumes.clone(), lists }
    });
    for file in ["template", "running"] {
        std::fs::remove_file(folder.join(file)).unwrap();
    }
    pair
}

fn make_template(image: &Path) -> (u32, Vec<Volume>) {
    std::fs::File::create(image).unwrap().set_len(400 << 20).unwrap();
    run("sgdisk", &["-n", "1:0:+2M", "-t", "1:ef02", "-n", "2:0:0", "-t", "2:8e00", text(image)]);
    let whole = Loop::new(image, None);
    let (partition, range) = *table(whole.device(), 512).last().unwrap();
    drop(whole);
    let device = Loop::new(image, Some(range));
    lvm(device.device(), &["pvcreate", "-y", text(device.device())]);
    lvm(device.device(), &["vgcreate", "-y", GROUP, text(device.device())]);
    for (name, _, mib) in VOLUMES {
        let size = format!("{mib}M");
        lvm(device.device(), &["lvcreate", "-y", "-an", "-Zn", "-Wn", "-L", &size, "-n", name, GROUP]);
    }
    let volumes = volumes(device.device(), range.offset);
    for volume in &volumes {
        let device = Loop::new(image, Some(volume.range));
        make_file_system(volume.kind, device.device(), volume.name, 512);
        let mounted = Mounted::new(device, &image.with_extension("mnt"), "rw");
        contents::boot(mounted.path());
    }
    (partition, volumes)
}

/// Asks lvm2 where the volumes lie; each is one run of extents.
fn volumes(device: &Path, offset: u64) -> Vec<Volume> {
    let fields = "lv_name,pe_start,vg_extent_size,pvseg_start,pvseg_size";
    let report =
        ["pvs", "--segments", "--noheadings", "--units", "b", "--nosuffix", "-o", fields, text(device)];
    let said = lvm(device, &report);
    let place = |name: &str| {
        let line = said.lines().find(|line| line.split_whitespace().next() == Some(name)).unwrap();
        let numbers: Vec<u64> = line.split_whitespace().skip(1).map(|word| word.parse().unwrap()).collect();
        let [start, extent, first, count] = numbers.as_slice() else { panic!("pvs said {said}") };
        Range { offset: offset + start + first * extent, length: count * extent }
    };
    VOLUMES.iter().map(|(name, kind, _)| Volume { name, kind: *kind, range: place(name) }).collect()
}

/// Runs lvm2 on one device, away from the machine's own volumes and without the kernel's help.
pub fn lvm(device: &Path, arguments: &[&str]) -> String {
    let filter = format!("filter=[\"a|^{}$|\",\"r|.*|\"]", device.display());
    let config = format!(
        "devices {{ use_devicesfile=0 scan=[\"/dev\"] {filter} }} backup {{ backup=0 archive=0 }} \
         global {{ use_lvmpolld=0 }} activation {{ udev_sync=0 udev_rules=0 monitoring=0 }}"
    );
    let output = Command::new("lvm")
        .args(arguments)
        .args(["--driverloaded", "n", "--config", &config])
        .output()
        .unwrap();
    assert!(output.status.success(), "lvm {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
