//! Partition tables by `sfdisk`, `sgdisk` and `parted`, whole and damaged.

use std::path::Path;

use amberfs::contents::{Table, TableKind, identify_all, partitions, table_json};
use serde_json::Value;
use tempfile::tempdir;

use super::{Loop, device, run, sfdisk, sparse, write_at};

const MIB: u64 = 1 << 20;

const GPT: &str = "label: gpt\nsize=4M, type=uefi, name=esp\nsize=1M, type=21686148-6449-6E6F-744E-656564454649\nstart=12M, size=8M, type=linux, name=\"a root\"\n";

/// The links are in the order in which they were made, which is not that of the disk: the last one leads back.
const LOGICAL_BACKWARDS: &str = "label: dos\nlabel-id: 0x1234abcd\n1: start=2048, size=8192, type=83, bootable\n3: start=20480, size=100000, type=5\n5: start=65536, size=8192, type=82\n6: start=90112, size=2048, type=c\n7: start=24576, size=8192, type=8e\n";

fn read(image: &Path) -> Table {
    partitions(&device(image)).unwrap().unwrap()
}

/// What `sfdisk` says of an image, or of a loop device over it, with the numbers as the names end.
fn by_sfdisk(node: &str, sector_bytes: u64) -> Vec<(u32, u64, u64, String)> {
    let printed = run("sfdisk", ["-J", node]);
    // A remark may stand before it.
    let json: Value = serde_json::from_str(&printed[printed.find('{').unwrap()..]).unwrap();
    let listed = json["partitiontable"]["partitions"].as_array().unwrap().iter();
    let mut listed: Vec<_> = listed
        .map(|partition| {
            let name = partition["node"].as_str().unwrap();
            let number = name.strip_prefix(node).unwrap().trim_start_matches('p').parse().unwrap();
            let bytes = |field: &str| partition[field].as_u64().unwrap() * sector_bytes;
            let kind = partition["type"].as_str().unwrap().to_owned();
            (number, bytes("start"), bytes("size"), kind)
        })
        // The frame around the logical ones.
        .filter(|(_, _, _, kind)| !["5", "f", "85"].contains(&kind.as_str()))
        .collect();
    listed.sort();
    listed
}

fn by_amberfs(table: &Table) -> Vec<(u32, u64, u64, String)> {
    let listed = table.partitions.iter();
    listed
        .map(|partition| {
            let kind = partition.type_id.trim_start_matches("0x").trim_start_matches('0').to_owned();
            let kind = if table.kind == TableKind::Gpt { partition.type_id.clone() } else { kind };
            (partition.number, partition.start, partition.length, kind)
        })
        .collect()
}

fn assert_as_sfdisk(image: &Path) -> Table {
    let table = read(image);
    assert_eq!(by_amberfs(&table), by_sfdisk(image.to_str().unwrap(), 512));
    assert_eq!(by_amberfs(&table), by_partx(image));
    assert_eq!(table.remarks, Vec::<String>::new());
    table
}

/// What `partx` says of an image; its numbers are those of `udev`, and of Linux.
fn by_partx(image: &Path) -> Vec<(u32, u64, u64, String)> {
    let image = image.to_str().unwrap();
    let listed = run("partx", ["-g", "-r", "-o", "NR,START,SECTORS,TYPE", image]);
    let partitions = listed.lines().map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let number = |field: &str| field.parse::<u64>().unwrap();
        let kind = fields[3].trim_start_matches("0x");
        let kind = if kind.len() > 2 { kind.to_uppercase() } else { kind.to_owned() };
        (number(fields[0]) as u32, number(fields[1]) * 512, number(fields[2]) * 512, kind)
    });
    partitions.filter(|(_, _, _, kind)| !["5", "f", "85"].contains(&kind.as_str())).collect()
}

#[test]
fn a_gpt_is_read_as_sfdisk_and_blkid_read_it() {
    let folder = tempdir().unwrap();
    let image = sparse(folder.path(), "gpt", 32 * MIB);
    sfdisk(&image, GPT);
    run(
        "sfdisk",
        [
            "-q".as_ref(),
            "--part-attrs".as_ref(),
            image.as_os_str(),
            "2".as_ref(),
            "LegacyBIOSBootable".as_ref(),
        ],
    );
    let table = assert_as_sfdisk(&image);
    assert_eq!((table.kind, table.sector_bytes, table.from_backup_header), (TableKind::Gpt, 512, false));
    let names: Vec<_> = table.partitions.iter().map(|partition| partition.name.as_deref()).collect();
    assert_eq!(names, [Some("esp"), None, Some("a root")]);
    let types: Vec<_> = table.partitions.iter().map(|partition| partition.type_name.unwrap()).collect();
    assert_eq!(types, ["EFI System", "BIOS boot", "Linux filesystem"]);
    let bootable: Vec<_> = table.partitions.iter().map(|partition| partition.is_bootable).collect();
    assert_eq!(bootable, [false, true, false]);
    let disk = run(
        "blkid",
        ["-p".as_ref(), "-s".as_ref(), "PTUUID".as_ref(), "-o".as_ref(), "value".as_ref(), image.as_os_str()],
    );
    assert_eq!(table.uuid.as_deref(), Some(disk.trim()));
    let uuids =
        run("partx", ["-g".as_ref(), "-r".as_ref(), "-o".as_ref(), "UUID".as_ref(), image.as_os_str()]);
    let ours: Vec<_> = table.partitions.iter().map(|partition| partition.uuid.clone().unwrap()).collect();
    assert_eq!(ours, uuids.lines().collect::<Vec<_>>());
}

#[test]
fn tables_of_disks_with_sectors_of_4096_bytes_are_read() {
    let folder = tempdir().unwrap();
    let gpt = sparse(folder.path(), "gpt", 64 * MIB);
    let attached = Loop::attach(&gpt, 4096);
    sfdisk(attached.0.as_ref(), GPT);
    let expected = by_sfdisk(&attached.0, 4096);
    drop(attached);
    let table = read(&gpt);
    assert_eq!((table.sector_bytes, by_amberfs(&table)), (4096, expected.clone()));
    // The primary header, and with it the entries.
    write_at(&gpt, 4096, &[0; 8192]);
    let table = read(&gpt);
    assert_eq!((table.from_backup_header, by_amberfs(&table)), (true, expected));

    let mbr = sparse(folder.path(), "mbr", 256 * MIB);
    let attached = Loop::attach(&mbr, 4096);
    sfdisk(
        attached.0.as_ref(),
        "label: dos\n1: size=16M, type=83\n2: size=200M, type=5\n5: size=24M, type=83\n6: size=32M, type=83\n",
    );
    let expected = by_sfdisk(&attached.0, 4096);
    drop(attached);
    // An MBR does not say for which sectors it is: that is seen by what lies in its partitions.
    let root = sparse(folder.path(), "root", 16 * MIB);
    run("mkfs.ext4", ["-q".as_ref(), root.as_os_str()]);
    write_at(&mbr, expected[0].1, &std::fs::read(&root).unwrap());
    let table = read(&mbr);
    assert_eq!((table.sector_bytes, by_amberfs(&table)), (4096, expected));
}

#[test]
fn tables_by_sgdisk_and_parted_are_read() {
    let folder = tempdir().unwrap();
    let image = sparse(folder.path(), "sgdisk", 32 * MIB);
    let path = image.to_str().unwrap();
    run("sgdisk", ["-n", "3:0:+4M", "-t", "3:8e00", "-c", "3:vg", "-n", "128:0:+1M", "-A", "3:set:2", path]);
    let table = assert_as_sfdisk(&image);
    assert_eq!(table.partitions.iter().map(|partition| partition.number).collect::<Vec<_>>(), [3, 128]);
    // More than 128 entries are seldom, and numbers above 255 are none that Linux knows.
    run("sgdisk", ["-S", "512", "-n", "200:0:+1M", "-n", "300:0:+1M", path]);
    let table = read(&image);
    let numbers: Vec<u32> = table.partitions.iter().map(|partition| partition.number).collect();
    assert_eq!((numbers, table.remarks.len()), (vec![3, 128, 200], 1));
    // A hybrid MBR repeats partitions; the GPT counts.
    run("sgdisk", ["-h", "3", path]);
    assert_eq!(read(&image).kind, TableKind::Gpt);

    let image = sparse(folder.path(), "parted", 32 * MIB);
    let path = image.to_str().unwrap();
    run(
        "parted",
        [
            "-s", path, "mklabel", "gpt", "mkpart", "one", "ext4", "1MiB", "4MiB", "mkpart", "two", "xfs",
            "4MiB", "100%",
        ],
    );
    assert_as_sfdisk(&image);
    run(
        "parted",
        [
            "-s", path, "mklabel", "msdos", "mkpart", "primary", "1MiB", "4MiB", "mkpart", "extended",
            "4MiB", "100%",
        ],
    );
    run(
        "parted",
        [
            "-s", path, "mkpart", "logical", "5MiB", "8MiB", "mkpart", "logical", "9MiB", "12MiB", "set",
            "1", "boot", "on",
        ],
    );
    let table = assert_as_sfdisk(&image);
    assert!(table.partitions[0].is_bootable && !table.partitions[1].is_bootable);
}

#[test]
fn a_damaged_primary_gpt_is_read_from_its_copy() {
    let folder = tempdir().unwrap();
    let image = sparse(folder.path(), "gpt", 32 * MIB);
    sfdisk(&image, GPT);
    let expected = read(&image);
    let whole = std::fs::read(&image).unwrap();
    let damages: [(&str, u64, usize, u8); 4] = [
        ("one byte of the header", 512 + 60, 1, 0x5a),
        ("the entries", 1024, 200, 0),
        ("the header and the entries", 512, 4096, 0x5a),
        ("the first megabyte, with the protective MBR", 0, 1 << 20, 0),
    ];
    for (what, offset, length, byte) in damages {
        write_at(&image, offset, &vec![byte; length]);
        let table = read(&image);
        assert!(table.from_backup_header, "{what}");
        assert_eq!(table.partitions, expected.partitions, "{what}");
        assert_eq!(table.uuid, expected.uuid, "{what}");
        write_at(&image, 0, &whole);
    }
    // A disk that has grown has its copy where the old end was.
    run("truncate", ["-s".as_ref(), "48M".as_ref(), image.as_os_str()]);
    write_at(&image, 512, &[0; 4096]);
    assert_eq!(read(&image).partitions, expected.partitions, "found through the protective MBR");
}

#[test]
fn a_gpt_of_which_both_headers_are_damaged_is_an_error_with_a_reason() {
    let folder = tempdir().unwrap();
    let image = sparse(folder.path(), "gpt", 32 * MIB);
    sfdisk(&image, GPT);
    write_at(&image, 512 + 60, &[0xff]);
    write_at(&image, 32 * MIB - 512 + 60, &[0xff]);
    let error = partitions(&device(&image)).unwrap_err().to_string();
    assert!(error.contains("GPT") && error.contains("checksum"), "{error}");
}

#[test]
fn partitions_beyond_the_end_are_left_out_of_a_gpt_and_cut_in_an_mbr() {
    let folder = tempdir().unwrap();
    let image = sparse(folder.path(), "gpt", 32 * MIB);
    sfdisk(&image, GPT);
    run("truncate", ["-s".as_ref(), "16M".as_ref(), image.as_os_str()]);
    let table = read(&image);
    assert_eq!(table.partitions.len(), 2);
    assert!(table.remarks[0].contains("partition 3 is left out"), "{:?}", table.remarks);

    let image = sparse(folder.path(), "mbr", 32 * MIB);
    sfdisk(&image, "label: dos\nsize=4M\nsize=8M\nsize=8M\n");
    run("truncate", ["-s".as_ref(), "7M".as_ref(), image.as_os_str()]);
    let table = read(&image);
    assert_eq!(table.remarks.len(), 2, "{:?}", table.remarks);
    let lengths: Vec<u64> = table.partitions.iter().map(|partition| partition.length).collect();
    assert_eq!(lengths, [4 * MIB, 2 * MIB]);
}

#[test]
fn logical_partitions_are_numbered_from_five_in_the_order_of_their_chain() {
    let folder = tempdir().unwrap();
    let image = sparse(folder.path(), "mbr", 64 * MIB);
    sfdisk(&image, LOGICAL_BACKWARDS);
    let table = assert_as_sfdisk(&image);
    assert_eq!(table.partitions.iter().map(|partition| partition.number).collect::<Vec<_>>(), [1, 5, 6, 7]);
    assert_eq!(table.uuid.as_deref(), Some("1234abcd"));
    assert_eq!(table.partitions[1].uuid.as_deref(), Some("1234abcd-05"));
    assert_eq!((table.partitions[0].is_bootable, table.partitions[2].type_name), (true, Some("FAT32")));
    // The first one gone: its link stays, without a partition, and the others move up.
    write_at(&image, 20480 * 512 + 446, &[0; 16]);
    let table = assert_as_sfdisk(&image);
    assert_eq!(table.partitions.iter().map(|partition| partition.number).collect::<Vec<_>>(), [1, 5, 6]);

    let image = sparse(folder.path(), "many", 128 * MIB);
    let logical = "size=1M, type=83\n".repeat(50);
    sfdisk(&image, &format!("label: dos\nsize=1M\nsize=120M, type=f\n{logical}"));
    assert_eq!(assert_as_sfdisk(&image).partitions.len(), 51);
}

#[test]
fn logical_partitions_in_a_circle_are_an_error() {
    let folder = tempdir().unwrap();
    let image = sparse(folder.path(), "mbr", 64 * MIB);
    sfdisk(&image, "label: dos\n1: size=60M, type=5\n5: size=4M\n6: size=4M\n7: size=4M\n");
    let bytes = std::fs::read(&image).unwrap();
    let extended = u64::from(u32::from_le_bytes(bytes[446 + 8..446 + 12].try_into().unwrap())) * 512;
    // The third link leads back to the second one.
    let second = &bytes[extended as usize + 446 + 16..][..16];
    let third_at = extended
        + u64::from(u32::from_le_bytes(
            bytes[extended as usize + 512 - 2 - 48 + 8..][..4].try_into().unwrap(),
        )) * 512;
    let next_at = bytes[third_at as usize + 446 + 16 + 8..][..4].to_vec();
    let third = extended + u64::from(u32::from_le_bytes(next_at.try_into().unwrap())) * 512;
    write_at(&image, third + 446 + 16, second);
    let error = partitions(&device(&image)).unwrap_err().to_string();
    assert!(error.contains("circle"), "{error}");
}

#[test]
fn what_has_no_table_has_none() {
    let folder = tempdir().unwrap();
    let none = |image: &Path| assert_eq!(partitions(&device(image)).unwrap(), None, "{}", image.display());
    none(&sparse(folder.path(), "nothing", 0));
    none(&sparse(folder.path(), "tiny", 511));
    none(&sparse(folder.path(), "zeros", 4 * MIB));
    // The boot program of a system on the whole disk.
    let image = sparse(folder.path(), "boot program", 8 * MIB);
    run("mkfs.ext4", ["-q".as_ref(), image.as_os_str()]);
    write_at(&image, 440, &[1, 2, 3, 4]);
    write_at(&image, 510, &[0x55, 0xaa]);
    none(&image);
    // The first sector of an earlier table, on a disk that was given to a file system as a whole.
    let image = sparse(folder.path(), "reused", 8 * MIB);
    sfdisk(&image, "label: gpt\n");
    let protective = std::fs::read(&image).unwrap()[..512].to_vec();
    std::fs::remove_file(&image).unwrap();
    run("mkfs.ext4", ["-q".as_ref(), sparse(folder.path(), "reused", 8 * MIB).as_os_str()]);
    write_at(&image, 0, &protective);
    none(&image);
    // A boot sector of which the program looks like an entry.
    let image = sparse(folder.path(), "fat", 8 * MIB);
    run("mkfs.vfat", [image.as_os_str()]);
    write_at(&image, 446, &[0, 0, 0, 0, 0x83, 0, 0, 0, 8, 0, 0, 0, 64, 0, 0, 0]);
    none(&image);
    // What is no flag of an entry is no table.
    let image = sparse(folder.path(), "garbage", 8 * MIB);
    write_at(&image, 0, &[0x99; 510]);
    write_at(&image, 510, &[0x55, 0xaa]);
    none(&image);
}

#[test]
fn a_table_without_partitions_is_a_table() {
    let folder = tempdir().unwrap();
    for label in ["gpt", "dos"] {
        let image = sparse(folder.path(), label, 8 * MIB);
        sfdisk(&image, &format!("label: {label}\n"));
        assert_eq!(read(&image).partitions, []);
    }
}

#[test]
fn the_table_is_told_as_json_with_what_lies_in_the_partitions() {
    let folder = tempdir().unwrap();
    let image = sparse(folder.path(), "gpt", 32 * MIB);
    sfdisk(&image, GPT);
    let esp = sparse(folder.path(), "esp", 4 * MIB);
    run("mkfs.vfat", ["-i".as_ref(), "ab12cd34".as_ref(), "-n".as_ref(), "BOOT".as_ref(), esp.as_os_str()]);
    let table = read(&image);
    write_at(&image, table.partitions[0].start, &std::fs::read(&esp).unwrap());
    let json: Value =
        serde_json::from_str(&table_json(&table, &identify_all(&device(&image), &table))).unwrap();
    assert_eq!(json["table"], "gpt");
    assert_eq!(json["from_backup_header"], false);
    let first = serde_json::json!({
        "number": 1,
        "type": "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
        "type_name": "EFI System",
        "name": "esp",
        "uuid": table.partitions[0].uuid,
        "bootable": false,
        "start_bytes": 1048576,
        "length_bytes": 4194304,
        "file_system": "vfat",
        "file_system_uuid": "AB12-CD34",
        "file_system_label": "BOOT",
    });
    assert_eq!(json["partitions"][0], first);
    assert_eq!(json["partitions"][2]["file_system"], Value::Null);
}
