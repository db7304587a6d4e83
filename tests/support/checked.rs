//! Checks of whole repositories, and the model that they are held against: every image read by brute force.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use amberfs::check::{CheckReport, Depth, Watch, check_and_remember};
use amberfs::format::codec::Compression;
use amberfs::repository::{Location, Repository, RepositoryOptions};
use amberfs::types::{BackupId, ByteRange};

/// What is damaged is damaged in sectors.
const SECTOR: usize = 512;

pub fn location(repository: &Path) -> Location {
    Location::Directory(repository.to_owned())
}

pub fn options() -> RepositoryOptions {
    RepositoryOptions { index: None, compression: Compression::Zstd { level: 1 }, cache_bytes: 64 << 20 }
}

pub fn watch() -> Watch {
    Watch::new(Arc::new(AtomicBool::new(false)), Box::new(|_, _, _| {}))
}

pub fn check_full(repository: &Path) -> CheckReport {
    check_and_remember(&location(repository), &options(), Depth::Everything, &watch()).unwrap().0
}

pub fn check_quick(repository: &Path) -> CheckReport {
    check_and_remember(&location(repository), &options(), Depth::Structure, &watch()).unwrap().0
}

/// Returns the ranges of each backup with a readable record that cannot be read, of those that have any.
pub fn brute_force(repository: &Path) -> BTreeMap<BackupId, Vec<ByteRange>> {
    let repository = Repository::open_read_only(&location(repository), &options()).unwrap();
    let mut hurt = BTreeMap::new();
    for record in repository.catalog().all() {
        let whole = ByteRange::new(0, record.size_bytes);
        let mut ranges: Vec<ByteRange> = Vec::new();
        match repository.image(record.id) {
            Err(_) => ranges.push(whole),
            Ok(image) => {
                let mut sector = [0; SECTOR];
                for piece in whole.split_on_grid(SECTOR as u64) {
                    let sector = &mut sector[..piece.len() as usize];
                    if image.read(piece.start(), sector).is_ok() {
                        continue;
                    }
                    match ranges.last_mut() {
                        Some(last) if last.end() == piece.start() => {
                            *last = ByteRange::between(last.start(), piece.end());
                        }
                        _ => ranges.push(piece),
                    }
                }
            }
        }
        if !ranges.is_empty() {
            hurt.insert(record.id, ranges);
        }
    }
    hurt
}

/// Returns the hurt ranges of a report by backup.
pub fn hurt_ranges(report: &CheckReport) -> BTreeMap<BackupId, Vec<ByteRange>> {
    for hurt in &report.hurt {
        assert_eq!(hurt.hurt_bytes, hurt.ranges.iter().map(|range| range.len()).sum::<u64>());
        assert!(!hurt.why.is_empty());
    }
    report.hurt.iter().map(|hurt| (hurt.id, hurt.ranges.clone())).collect()
}

/// Returns the paths of damaged objects.
pub fn damaged_paths(report: &CheckReport) -> Vec<String> {
    report.damaged.iter().map(|object| object.path.clone()).collect()
}
