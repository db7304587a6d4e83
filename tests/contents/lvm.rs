//! Volume groups that LVM itself made, on loop devices and without a device mapper, read without either.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use amberfs::contents::lvm::{LogicalVolume, Mapped, VolumeGroup, volume_group};
use amberfs::contents::{Kind, identify};
use amberfs::sysio::device::{FileDevice, ReadAt, WriteAt};
use tempfile::TempDir;

use super::{Loop, device, run, sparse, write_at};
use crate::support::bytes::{Numbers, pattern};

const MIB: u64 = 1 << 20;

/// Two guests may be looked at while others make groups of the same name: LVM sees `devices` only.
pub fn lvm(program: &str, devices: &[&str], arguments: &[&str]) -> String {
    let accepted: Vec<String> = devices.iter().map(|device| format!("\"a|^{device}$|\"")).collect();
    let config = format!(
        "devices{{use_devicesfile=0 filter=[{},\"r|.*|\"]}} backup{{backup=0 archive=0}}",
        accepted.join(",")
    );
    let mut words = vec!["--driverloaded", "n", "--config", &config];
    words.extend(arguments);
    run(program, words)
}

/// A group of two physical volumes of 128 MiB with extents of 1 MiB.
struct Group {
    folder: TempDir,
    images: [PathBuf; 2],
    loops: [Loop; 2],
}

impl Group {
    /// `one` is in two pieces, `two` lies between them, `other` is on the second physical volume, and `both` on both.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let images = ["a", "b"].map(|name| sparse(folder.path(), name, 128 * MIB));
        let loops = images.each_ref().map(|image| Loop::attach(image, 512));
        let group = Self { folder, images, loops };
        let [a, b] = group.devices();
        group.lvm("vgcreate", &["-s", "1M", "vg", a, b]);
        group.create("one", "10M", &[a]);
        group.create("two", "5M", &[a]);
        group.lvm("lvextend", &["-l", "+20", "vg/one", a]);
        group.create("other", "4M", &[b]);
        group.lvm("lvcreate", &["-an", "-Zn", "-Wn", "-n", "both", "-i", "2", "-I", "64k", "-L", "8M", "vg"]);
        group
    }

    fn devices(&self) -> [&str; 2] {
        self.loops.each_ref().map(|attached| attached.0.as_str())
    }

    fn lvm(&self, program: &str, arguments: &[&str]) -> String {
        lvm(program, &self.devices(), arguments)
    }

    fn create(&self, name: &str, size: &str, on: &[&str]) {
        self.lvm("lvcreate", &[&["-an", "-Zn", "-Wn", "-n", name, "-L", size, "vg"], on].concat());
    }

    /// Changes the group's text with a function, and has LVM check and write it.
    fn edit(&self, change: impl Fn(&str) -> String) {
        let path = self.folder.path().join("text");
        let path = path.to_str().unwrap();
        self.lvm("vgcfgbackup", &["-f", path, "vg"]);
        std::fs::write(path, change(&std::fs::read_to_string(path).unwrap())).unwrap();
        self.lvm("vgcfgrestore", &["--force", "-f", path, "vg"]);
    }

    /// Ends the use of the loop devices, so that everything is in the images.
    fn into_images(self) -> (TempDir, [PathBuf; 2]) {
        drop(self.loops);
        (self.folder, self.images)
    }

    /// Where the pieces of each segment of a logical volume are, by LVM: image, first and last extent.
    fn pieces(&self, name: &str) -> Vec<Vec<(usize, u64, u64)>> {
        let listed = self.lvm(
            "lvs",
            &["--noheadings", "--segments", "-o", "seg_pe_ranges", "-S", &format!("lv_name={name}"), "vg"],
        );
        let piece = |word: &str| {
            let (device, range) = word.split_once(':').unwrap();
            let (first, last) = range.split_once('-').unwrap();
            let image = self.devices().iter().position(|known| *known == device).unwrap();
            (image, first.parse().unwrap(), last.parse().unwrap())
        };
        listed.lines().map(|line| line.split_whitespace().map(piece).collect()).collect()
    }
}

fn read(image: &Path) -> VolumeGroup {
    volume_group(&device(image)).unwrap().unwrap()
}

fn volume<'a>(group: &'a VolumeGroup, name: &str) -> &'a LogicalVolume {
    group.logical_volumes.iter().find(|volume| volume.name == name).unwrap()
}

fn why_not(group: &VolumeGroup, name: &str) -> String {
    volume(group, name).mapping.clone().unwrap_err()
}

fn mapped(image: &Path, name: &str) -> Mapped<FileDevice> {
    let mapping = volume(&read(image), name).mapping.clone().unwrap();
    let image = File::options().read(true).write(true).open(image).unwrap();
    Mapped::new(FileDevice::new(image).unwrap(), mapping)
}

/// The first extent starts where LVM puts it by default.
const EXTENTS_AT: u64 = MIB;

/// Writes what a logical volume is to hold to where LVM says that it lies, by stripes of 64 KiB.
fn write_pieces(images: &[PathBuf; 2], pieces: &[Vec<(usize, u64, u64)>], mut bytes: &[u8]) {
    for segment in pieces {
        let rows = (segment[0].2 - segment[0].1 + 1) * MIB / 65536;
        for row in 0..rows {
            // In one piece, stripes of any size are in the same order.
            for (image, first, _) in segment {
                let (stripe, rest) = bytes.split_at(65536);
                write_at(&images[*image], EXTENTS_AT + first * MIB + row * 65536, stripe);
                bytes = rest;
            }
        }
    }
    assert!(bytes.is_empty());
}

fn assert_reads(device: &dyn ReadAt, expected: &[u8]) {
    assert_eq!(device.size_bytes(), expected.len() as u64);
    let mut all = vec![0; expected.len()];
    device.read_exact_at(0, &mut all).unwrap();
    assert!(all == expected, "read whole");
    let mut numbers = Numbers::new(7);
    for _ in 0..300 {
        let offset = numbers.below(expected.len() as u64) as usize;
        let length = numbers.below((expected.len() - offset).min(400_000) as u64 + 1) as usize;
        let mut part = vec![0; length];
        device.read_exact_at(offset as u64, &mut part).unwrap();
        assert!(part == expected[offset..offset + length], "{length} at {offset}");
    }
    assert!(device.read_exact_at(expected.len() as u64, &mut [0]).is_err());
}

#[test]
fn a_group_is_listed_as_lvm_lists_it() {
    let group = Group::new();
    let listed = group.lvm(
        "lvs",
        &[
            "--noheadings",
            "--nosuffix",
            "--units",
            "b",
            "-o",
            "lv_name,lv_uuid,lv_size,vg_name,vg_uuid",
            "vg",
        ],
    );
    let mut expected: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    expected.sort();
    let (_folder, [a, b]) = group.into_images();
    for image in [&a, &b] {
        let read = read(image);
        let ours: Vec<Vec<String>> = read
            .logical_volumes
            .iter()
            .map(|volume| {
                let size = volume.size_bytes.to_string();
                vec![volume.name.clone(), volume.uuid.clone(), size, read.name.clone(), read.uuid.clone()]
            })
            .collect();
        assert_eq!(ours, expected);
    }
    let (first, second) = (read(&a), read(&b));
    assert!(why_not(&first, "other").contains("pv1") && why_not(&second, "one").contains("pv0"));
    assert!(why_not(&first, "both").contains("another physical volume"));
    assert!(volume(&second, "other").mapping.is_ok());
}

#[test]
fn a_logical_volume_in_pieces_reads_as_what_was_written_where_lvm_says() {
    let group = Group::new();
    let pieces = group.pieces("one");
    assert_eq!(pieces.len(), 2, "not in two pieces");
    let (folder, images) = group.into_images();
    let root = sparse(folder.path(), "root", 30 * MIB);
    run("mkfs.ext4", ["-q".as_ref(), "-L".as_ref(), "root".as_ref(), root.as_os_str()]);
    let noise = pattern(3, 4 << 20);
    write_at(&root, 8 * MIB, &noise);
    let bytes = std::fs::read(&root).unwrap();
    write_pieces(&images, &pieces, &bytes);
    let device = mapped(&images[0], "one");
    assert_reads(&device, &bytes);
    let content = identify(&device).unwrap().unwrap();
    assert_eq!((content.kind, content.label.as_deref()), (Kind::Ext4, Some("root")));
}

#[test]
fn stripes_on_one_physical_volume_are_put_together_and_can_be_written() {
    let group = Group::new();
    // LVM makes such only where a volume was moved; its own tool writes it.
    group.edit(|text| {
        text.replace("\"pv0\", 35,\n\t\t\t\t\t\"pv1\", 4\n", "\"pv0\", 35,\n\t\t\t\t\t\"pv0\", 60\n")
    });
    let pieces = group.pieces("both");
    assert_eq!(pieces, [[(0, 35, 38), (0, 60, 63)]], "LVM has it otherwise");
    let (_folder, images) = group.into_images();
    let mut bytes = pattern(9, 8 << 20);
    write_pieces(&images, &pieces, &bytes);
    let device = mapped(&images[0], "both");
    assert_reads(&device, &bytes);

    let before = std::fs::read(&images[0]).unwrap();
    let new = pattern(10, 300_000);
    device.write_all_at(65_000, &new).unwrap();
    device.sync().unwrap();
    bytes[65_000..365_000].copy_from_slice(&new);
    assert_reads(&device, &bytes);
    let beside =
        |image: &[u8]| [&image[..36 * MIB as usize], &image[40 * MIB as usize..61 * MIB as usize]].concat();
    assert!(beside(&before) == beside(&std::fs::read(&images[0]).unwrap()), "written beside the volume");
    assert!(device.write_all_at(8 * MIB - 1, &[1, 2]).is_err());
}

#[test]
fn snapshots_mirrors_and_thin_volumes_are_listed_with_the_reason_why_they_cannot_be_shown() {
    let group = Group::new();
    let volume = |name: &str, id: u32, status: &str, segment: &str| {
        format!(
            "{name} {{ id = \"AAAAAA-AAAA-AAAA-AAAA-AAAA-AAAA-AA{id:04}\" status = [\"READ\", \"WRITE\"{status}] flags = []\n\
             segment_count = 1 segment1 {{ start_extent = 0 extent_count = 4 {segment} }} }}\n"
        )
    };
    let visible = ", \"VISIBLE\"";
    let added = [
        volume("snap", 1, visible, "type = \"striped\" stripe_count = 1 stripes = [\"pv0\", 80]"),
        volume(
            "snapshot0",
            2,
            visible,
            "type = \"snapshot\" chunk_size = 8 origin = \"two\" cow_store = \"snap\"",
        )
        .replace("extent_count = 4", "extent_count = 5"),
        volume(
            "mirrored",
            3,
            visible,
            "type = \"mirror\" mirror_count = 2 region_size = 1024 mirrors = [\"half0\", 0, \"half1\", 0]",
        ),
        volume("half0", 4, "", "type = \"striped\" stripe_count = 1 stripes = [\"pv0\", 90]"),
        volume("half1", 5, "", "type = \"striped\" stripe_count = 1 stripes = [\"pv1\", 90]"),
        volume("thin", 6, visible, "type = \"thin\" thin_pool = \"pool\" transaction_id = 0 device_id = 1"),
        volume(
            "pool",
            7,
            visible,
            "type = \"thin-pool\" metadata = \"pool_tmeta\" pool = \"pool_tdata\" transaction_id = 1 \
             chunk_size = 128 discards = \"passdown\" zero_new_blocks = 1",
        ),
        volume("pool_tmeta", 8, "", "type = \"striped\" stripe_count = 1 stripes = [\"pv0\", 100]"),
        volume("pool_tdata", 9, "", "type = \"striped\" stripe_count = 1 stripes = [\"pv0\", 110]"),
    ];
    group.edit(|text| {
        text.replace("\tlogical_volumes {\n", &format!("\tlogical_volumes {{\n{}", added.concat()))
    });
    let listed = group.lvm("lvs", &["--noheadings", "-o", "lv_name", "-O", "lv_name", "vg"]);
    let (_folder, [image, _]) = group.into_images();
    let read = read(&image);
    let names: Vec<&str> = read.logical_volumes.iter().map(|volume| volume.name.as_str()).collect();
    assert_eq!(names, ["both", "mirrored", "one", "other", "pool", "snap", "thin", "two"]);
    assert_eq!(names, listed.split_whitespace().collect::<Vec<_>>(), "LVM lists others");
    assert!(why_not(&read, "snap").contains("snapshot"));
    assert!(why_not(&read, "mirrored").contains("type mirror"));
    assert!(why_not(&read, "thin").contains("type thin;"));
}

#[test]
fn damaged_metadata_is_read_from_its_second_copy_or_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let image = sparse(folder.path(), "pv", 64 * MIB);
    assert_eq!(volume_group(&device(&image)).unwrap(), None, "zeros");
    let attached = Loop::attach(&image, 512);
    let path = attached.0.as_str();
    lvm("pvcreate", &[path], &["--metadatacopies", "2", path]);
    File::open(path).unwrap().sync_all().unwrap();
    assert_eq!(volume_group(&device(&image)).unwrap(), None, "in no group");
    lvm("vgcreate", &[path], &["vg", path]);
    lvm("lvcreate", &[path], &["-an", "-Zn", "-Wn", "-n", "one", "-L", "8M", "vg"]);
    drop(attached);
    let whole = read(&image);
    write_at(&image, 4096, &[0x5a; 65536]);
    assert_eq!(read(&image), whole);
    write_at(&image, 63 * MIB, &[0x5a; 1 << 20]);
    let error = volume_group(&device(&image)).unwrap_err().to_string();
    assert!(error.contains("LVM metadata is malformed"), "{error}");
}

#[test]
fn the_ring_of_texts_is_followed_over_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let image = sparse(folder.path(), "pv", 64 * MIB);
    let attached = Loop::attach(&image, 512);
    let path = attached.0.as_str();
    lvm("vgcreate", &[path], &["vg", path]);
    lvm("lvcreate", &[path], &["-an", "-Zn", "-Wn", "-n", "one", "-L", "8M", "vg"]);
    // Long texts fill the ring soon.
    let tags: Vec<String> = (0..40).map(|number| format!("{number:t>1000}")).collect();
    let add = tags.iter().flat_map(|tag| ["--addtag", tag]).chain(["vg"]);
    lvm("vgchange", &[path], &add.collect::<Vec<_>>());
    let mut wrapped = false;
    for number in 0..100 {
        let change = if number % 2 == 0 { "--addtag" } else { "--deltag" };
        lvm("vgchange", &[path], &[change, "tag", "vg"]);
        File::open(path).unwrap().sync_all().unwrap();
        assert_eq!(read(&image).logical_volumes.len(), 1, "after {number} changes");
        // The area's header: where the text is, and how long.
        let mut header = [0; 72];
        File::open(&image).unwrap().read_exact_at(&mut header, 4096).unwrap();
        let field = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap());
        wrapped |= field(40) + field(48) > field(32);
        if wrapped {
            break;
        }
    }
    assert!(wrapped, "no text went over the end of the ring");
}

/// Nothing is activated, so names need not differ.
#[test]
fn two_guests_with_the_same_names_are_read_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let guests = [1, 2].map(|guest| {
        let image = sparse(folder.path(), &format!("guest {guest}"), 64 * MIB);
        let attached = Loop::attach(&image, 512);
        let path = attached.0.as_str();
        lvm("vgcreate", &[path], &["-s", "1M", "vg", path]);
        lvm("lvcreate", &[path], &["-an", "-Zn", "-Wn", "-n", "root", "-L", "8M", "vg"]);
        drop(attached);
        let bytes = pattern(guest, 8 << 20);
        write_at(&image, EXTENTS_AT, &bytes);
        (mapped(&image, "root"), bytes)
    });
    for (device, bytes) in &guests {
        assert_reads(device, bytes);
    }
}
