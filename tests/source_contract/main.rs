//! Holds every source to what `src/source/mod.rs` promises: one suite of claims, run on each kind of source and of
//! what lies under it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation is a failed test"
)]

#[path = "../support/mod.rs"]
mod support;

mod directory;
mod names;
mod snapshots;
mod writers;

use std::any::Any;

use amberfs::source::{Consistency, Extent, ExtentKind, InUse, Snapshot, Source, SourceError, VolumeWriter};
use amberfs::types::{ByteRange, SnapshotName, VolumeName};

/// A source, and ways to its volumes behind its back.
pub trait Fixture: Sync {
    fn source(&self) -> &dyn Source;

    /// Makes a volume of zeros but for these pieces.
    fn make(&self, name: &str, size_bytes: u64, pieces: &[(u64, &[u8])]);

    /// Opens a volume, writes, and closes it, as its user would; waits where its user is made to wait.
    fn write(&self, name: &str, offset: u64, bytes: &[u8]);

    /// Opens a volume for writing as its user would, until the answer is dropped.
    fn open_for_writing(&self, name: &str) -> Box<dyn Any>;

    fn content(&self, name: &str) -> Vec<u8>;

    fn mark(&self, name: &str, key: &str) -> Option<String>;

    /// What a snapshot is of a volume that nobody uses, and of one that is in use.
    fn consistency(&self) -> (Consistency, Consistency);

    /// Names everything there is, to see that nothing was left behind.
    fn everything(&self) -> Vec<String>;

    /// Names that are hard, and possible; and names that are not.
    fn hard_names(&self) -> Vec<String>;
    fn impossible_names(&self) -> Vec<String>;

    fn freezes(&self) -> bool {
        self.consistency().0 == Consistency::Frozen
    }
}

/// Runs every claim on one fixture, each as a test of its own.
macro_rules! claims {
    ($(#[$attribute:meta])* $module:ident, $fixture:expr) => {
        claims!(@tests $(#[$attribute])* $module, $fixture,
            snapshots: a_snapshot_has_the_bytes_of_its_moment_whoever_writes_later,
            snapshots: a_snapshot_of_any_size_is_exact,
            snapshots: a_snapshot_reads_many_ranges_in_any_order_and_refuses_wrong_ones,
            snapshots: what_is_not_allocated_reads_as_zeros,
            snapshots: an_error_of_the_receiver_stops_the_enumeration,
            snapshots: a_volume_in_use_is_refused_unless_accepted,
            snapshots: a_snapshot_of_no_volume_leaves_nothing,
            snapshots: a_frozen_snapshot_is_listed_opened_again_and_removed,
            snapshots: a_snapshot_made_again_under_its_name_is_another,
            snapshots: a_taken_snapshot_name_is_an_error_and_the_old_one_stays,
            snapshots: what_is_not_called_changed_is_as_it_was,
            snapshots: several_threads_read_one_snapshot,
            snapshots: a_snapshot_survives_its_volumes_new_name,
            writers: a_new_volume_reads_as_zeros_and_takes_what_is_written,
            writers: any_mixture_of_writes_and_zeros_is_exact,
            writers: nothing_reaches_beyond_the_end,
            writers: a_taken_name_is_refused_and_its_volume_untouched,
            writers: an_existing_volume_is_opened_for_writing,
            writers: a_volume_in_use_is_not_opened_for_writing,
            writers: several_threads_write_one_volume,
            writers: what_a_writer_does_not_call_allocated_is_zero,
            writers: a_mark_is_set_replaced_and_taken_away,
            writers: a_renamed_volume_keeps_its_bytes,
            writers: a_rename_onto_a_taken_name_changes_nothing,
            writers: a_volume_can_be_removed_twice,
            names: volumes_are_listed_by_name_in_order,
            names: hard_names_work_everywhere,
            names: impossible_names_are_refused_everywhere_and_leave_nothing,
            names: a_volume_is_described,
        );
    };
    (@tests $(#[$attribute:meta])* $module:ident, $fixture:expr, $($claims:ident: $claim:ident,)*) => {
        $(#[$attribute])*
        mod $module {
            $(
                #[test]
                fn $claim() {
                    crate::$claims::$claim(&$fixture);
                }
            )*
        }
    };
}

claims!(dir_on_ext4, crate::directory::Directory::on(crate::support::file_system::Kind::Ext4));
claims!(dir_on_xfs, crate::directory::Directory::on(crate::support::file_system::Kind::Xfs));

fn volume(name: &str) -> VolumeName {
    name.parse().unwrap()
}

fn snapshot_name(name: &str) -> SnapshotName {
    name.parse().unwrap()
}

fn snapshot_of(fixture: &dyn Fixture, name: &str) -> Box<dyn Snapshot> {
    fixture.source().create_snapshot(&volume(name), &snapshot_name("s"), InUse::Refuse).unwrap()
}

fn read_all(snapshot: &dyn Snapshot) -> Result<Vec<u8>, SourceError> {
    let size_bytes = snapshot.info().size_bytes;
    let mut bytes = vec![0xee; usize::try_from(size_bytes).unwrap()];
    snapshot.read(&[ByteRange::new(0, size_bytes)], &mut bytes)?;
    Ok(bytes)
}

fn written(writer: &dyn VolumeWriter) -> Vec<u8> {
    let mut bytes = vec![0xee; usize::try_from(writer.size_bytes()).unwrap()];
    writer.read(ByteRange::new(0, writer.size_bytes()), &mut bytes).unwrap();
    bytes
}

/// Collects an enumeration and checks that it is in order, within the size and without overlaps.
fn extents(
    size_bytes: u64,
    enumerate: impl FnOnce(&mut dyn FnMut(Extent) -> Result<(), SourceError>) -> Result<(), SourceError>,
) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    enumerate(&mut |extent| {
        extents.push(extent);
        Ok(())
    })
    .unwrap();
    let mut end = 0;
    for extent in &extents {
        assert!(!extent.range.is_empty() && extent.range.start() >= end, "{extents:?}");
        end = extent.range.end();
    }
    assert!(end <= size_bytes, "{extents:?}");
    extents
}

/// Returns the bytes with everything outside the data set to zero.
fn only_data(bytes: &[u8], extents: &[Extent]) -> Vec<u8> {
    let mut only = vec![0; bytes.len()];
    for extent in extents.iter().filter(|extent| extent.kind == ExtentKind::Data) {
        let range =
            usize::try_from(extent.range.start()).unwrap()..usize::try_from(extent.range.end()).unwrap();
        only[range.clone()].copy_from_slice(&bytes[range]);
    }
    only
}

/// Compares without printing megabytes.
#[track_caller]
fn assert_same(actual: &[u8], expected: &[u8]) {
    assert_eq!(actual.len(), expected.len(), "the lengths differ");
    if let Some(place) = actual.iter().zip(expected).position(|(a, b)| a != b) {
        panic!("byte {place} of {} is {} and not {}", actual.len(), actual[place], expected[place]);
    }
}
