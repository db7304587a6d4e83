//! A restore over a volume that holds most of the data writes what differs, and over any other everything.

use std::sync::atomic::Ordering;

use amberfs::types::{KIB, MIB};

use crate::support::bytes::pattern;
use crate::support::engine::full;
use crate::{World, mark, over};

const SIZE: usize = 40 * MIB as usize;

/// A restore over an existing volume that holds most of the data already compares, and writes only the 4 KiB blocks that
/// differ.
#[test]
fn over_a_volume_that_holds_most_of_the_data_only_what_differs_is_written() {
    let world = World::new();
    let bytes = pattern(1, SIZE + 777);
    world.volume("v", &bytes);
    let id = world.engine().backup(full("v")).id;
    let mut changed = bytes.clone();
    // Blocks far from each other, two beside each other, the last bytes.
    let blocks = [5, 1000, 1001, 4097, 9000];
    for block in blocks {
        changed[block * 4096 + 17] ^= 1;
    }
    changed[SIZE + 776] ^= 1;
    world.volume("v", &changed);
    world.engine().restore(over(id, "v"));
    assert!(std::fs::read(world.path("v")).unwrap() == bytes);
    assert_eq!(world.bytes_written(), blocks.len() as u64 * 4 * KIB + 777);
    assert_eq!(mark(&world.path("v")), None);
}

#[test]
fn over_a_volume_that_holds_something_else_nothing_but_a_sample_is_read() {
    let world = World::new();
    let bytes = pattern(1, SIZE);
    world.volume("v", &bytes);
    let id = world.engine().backup(full("v")).id;
    world.volume("v", &pattern(2, SIZE));
    world.gates.bytes_read.store(0, Ordering::Relaxed);
    world.engine().restore(over(id, "v"));
    assert!(std::fs::read(world.path("v")).unwrap() == bytes);
    assert_eq!(world.bytes_written(), SIZE as u64);
    assert!(world.gates.bytes_read.load(Ordering::Relaxed) <= 64 * 4 * KIB);
}

#[test]
fn many_small_differences_are_written_in_one_go() {
    let world = World::new();
    let bytes = pattern(1, 4 * MIB as usize);
    world.volume("v", &bytes);
    let id = world.engine().backup(full("v")).id;
    let mut changed = bytes.clone();
    for block in (0..1024).step_by(5) {
        changed[block * 4096] ^= 1;
    }
    world.volume("v", &changed);
    world.engine().restore(over(id, "v"));
    assert!(std::fs::read(world.path("v")).unwrap() == bytes);
    assert_eq!(world.bytes_written(), 4 * MIB);
}

#[test]
fn what_is_zero_in_the_backup_is_given_back_and_not_written() {
    use std::os::unix::fs::MetadataExt;

    let world = World::new();
    let mut bytes = vec![0; SIZE];
    bytes[..2 * MIB as usize].copy_from_slice(&pattern(1, 2 * MIB as usize));
    world.volume("v", &bytes);
    let id = world.engine().backup(full("v")).id;
    let mut changed = bytes.clone();
    changed[20 * MIB as usize..].copy_from_slice(&pattern(2, SIZE - 20 * MIB as usize));
    world.volume("v", &changed);
    world.engine().restore(over(id, "v"));
    assert!(std::fs::read(world.path("v")).unwrap() == bytes);
    assert_eq!(world.bytes_written(), 0);
    assert!(std::fs::metadata(world.path("v")).unwrap().blocks() * 512 < 3 * MIB);
}
