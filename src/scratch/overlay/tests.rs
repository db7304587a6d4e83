//! An overlay against a model, at its limit, and after a power cut.

use super::*;
use crate::sysio::device::FileDevice;
use proptest::prelude::{
    Just, ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest,
};

/// Not a multiple of a block, and more than one page of the map would be too slow to compare whole.
const SIZE: u64 = 37 * BLOCK_BYTES + 700;

/// A backup with data in every other block.
fn base() -> (Arc<dyn ReadAt>, Vec<u8>) {
    let mut bytes: Vec<u8> = (0..SIZE).map(|at| (at % 251) as u8 + 1).collect();
    for block in bytes.chunks_mut(BLOCK_BYTES as usize).step_by(2) {
        block.fill(0);
    }
    let file = tempfile::tempfile().unwrap();
    file.set_len(SIZE).unwrap();
    for (number, block) in bytes.chunks(BLOCK_BYTES as usize).enumerate().skip(1).step_by(2) {
        file.write_all_at(block, number as u64 * BLOCK_BYTES).unwrap();
    }
    (Arc::new(FileDevice::new(file).unwrap()), bytes)
}

struct Files {
    data: File,
    now: File,
    synced: File,
}

fn files() -> Files {
    let file = || tempfile::tempfile().unwrap();
    Files { data: file(), now: file(), synced: file() }
}

fn overlay(files: &Files, base: &Arc<dyn ReadAt>, space: &Arc<Space>) -> Overlay {
    let clone = |file: &File| file.try_clone().unwrap();
    let blocks = base.size_bytes().div_ceil(BLOCK_BYTES);
    let map = BlockMap::new(clone(&files.now), clone(&files.synced), blocks).unwrap();
    Overlay::new(Arc::clone(base), clone(&files.data), map, Arc::clone(space)).unwrap()
}

fn contents(device: &dyn ReadAt) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(device.size_bytes()).unwrap()];
    device.read_exact_at(0, &mut bytes).unwrap();
    bytes
}

#[derive(Debug, Clone)]
enum Step {
    Write(u64, u64, u8),
    Discard(u64, u64),
    Sync,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let range = || (0..SIZE, prop_oneof![1..64_u64, 1..SIZE]);
    prop_oneof![
        4 => (range(), any::<u8>()).prop_map(|((at, length), byte)| Step::Write(at, length, byte)),
        2 => range().prop_map(|(at, length)| Step::Discard(at, length)),
        1 => Just(Step::Sync),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_overlay_is_what_was_written_over_the_backup(steps in proptest::collection::vec(step(), 1..30)) {
        let (base, mut model) = base();
        let before = model.clone();
        let (files, space) = (files(), Space::new(u64::MAX));
        let mut under_test = overlay(&files, &base, &space);
        for step in steps {
            match step {
                Step::Write(at, length, byte) => {
                    let end = (at + length).min(SIZE);
                    under_test.write_all_at(at, &vec![byte; (end - at) as usize]).unwrap();
                    model[at as usize..end as usize].fill(byte);
                }
                Step::Discard(at, length) => {
                    under_test.discard(ByteRange::new(at, length)).unwrap();
                    model[at as usize..(at + length).min(SIZE) as usize].fill(0);
                }
                Step::Sync => under_test.sync().unwrap(),
                Step::Reopen => {
                    drop(under_test);
                    prop_assert_eq!(space.used_bytes(), 0);
                    under_test = overlay(&files, &base, &space);
                }
            }
            prop_assert_eq!(under_test.held_bytes(), space.used_bytes());
        }
        prop_assert_eq!(&contents(&under_test), &model);
        // What is called a hole holds zeros, and the search for data ends.
        let mut from = 0;
        while let Some(data) = under_test.next_data(from).unwrap() {
            prop_assert!(model[from as usize..data as usize].iter().all(|byte| *byte == 0));
            let hole = under_test.next_hole(data).unwrap();
            prop_assert!(hole > data);
            from = hole;
        }
        prop_assert!(model[from as usize..].iter().all(|byte| *byte == 0));
        prop_assert_eq!(contents(base.as_ref()), before, "the backup has changed");
    }
}

#[test]
fn what_is_full_takes_no_more_and_loses_nothing() {
    let (base, _) = base();
    let space = Space::new(3 * BLOCK_BYTES);
    let files = files();
    let under_test = overlay(&files, &base, &space);
    under_test.write_all_at(0, &[7; 2 * BLOCK_BYTES as usize]).unwrap();
    let error = under_test.write_all_at(4 * BLOCK_BYTES, &[8; 2 * BLOCK_BYTES as usize]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(error.to_string().contains("limits.scratch"), "{error}");
    let mut before = [0; BLOCK_BYTES as usize];
    under_test.read_exact_at(5 * BLOCK_BYTES, &mut before).unwrap();
    assert_ne!(before, [8; BLOCK_BYTES as usize], "the refused write is not there");
    // What is there can be written over, and what is discarded makes room.
    under_test.write_all_at(10, &[9; 100]).unwrap();
    under_test.discard(ByteRange::new(0, 2 * BLOCK_BYTES)).unwrap();
    assert_eq!(space.used_bytes(), 0);
    under_test.write_all_at(4 * BLOCK_BYTES, &[8; 3 * BLOCK_BYTES as usize]).unwrap();
}

#[test]
fn the_synced_map_never_speaks_of_data_that_was_not_synced() {
    let (base, model) = base();
    let space = Space::new(u64::MAX);
    let files = files();
    let under_test = overlay(&files, &base, &space);
    under_test.write_all_at(0, &[1; BLOCK_BYTES as usize]).unwrap();
    under_test.sync().unwrap();
    under_test.write_all_at(BLOCK_BYTES, &[2; BLOCK_BYTES as usize]).unwrap();
    drop(under_test);
    // As after a power cut: the synced map is what there is.
    let after = Files { now: files.synced.try_clone().unwrap(), data: files.data, synced: files.synced };
    let read = contents(&overlay(&after, &base, &space));
    let block = BLOCK_BYTES as usize;
    assert_eq!(read[..block], [1; BLOCK_BYTES as usize]);
    assert_eq!(read[block..], model[block..]);
}
