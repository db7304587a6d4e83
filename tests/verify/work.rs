//! Verifies, and says what came of it.

use std::sync::Arc;

use amberfs::catalog::{BackupRecord, BackupStatus};
use amberfs::jobs::{JobReport, JobState};
use amberfs::operations::{Requester, VerifyRequest};
use amberfs::types::{BackupId, ByteRange, ByteRate};

use crate::support::daemon::until;
use crate::support::engine::Engine;

pub fn all() -> VerifyRequest {
    VerifyRequest { all: true, rate: Some(ByteRate::UNLIMITED), ..VerifyRequest::default() }
}

pub fn one(id: BackupId) -> VerifyRequest {
    VerifyRequest { backups: vec![id.to_string()], all: false, ..all() }
}

pub fn slowly(id: BackupId, bytes_per_second: u64) -> VerifyRequest {
    VerifyRequest { rate: Some(ByteRate::per_second(bytes_per_second)), ..one(id) }
}

/// Verifies, and waits for the verifications that follow from it, too.
pub fn verify(engine: &Engine, request: &VerifyRequest) -> Vec<JobReport> {
    let accepted = engine.operations.verify(&Requester::OPERATOR, request).unwrap();
    let reports = accepted.iter().map(|one| engine.operations.jobs().wait(one.job).unwrap()).collect();
    wait_for_all(engine);
    reports
}

pub fn wait_for_all(engine: &Engine) {
    until("the end of all jobs", || {
        let reports = engine.operations.jobs().reports();
        reports.iter().all(|report| report.state.has_ended()).then_some(())
    });
}

/// Verifies a backup in which nothing is wrong.
pub fn assert_right(engine: &Engine, id: BackupId) -> Arc<BackupRecord> {
    for report in verify(engine, &one(id)) {
        assert_eq!((report.state, report.error), (JobState::Done, None));
    }
    let record = record(engine, id);
    assert_eq!((record.status, record.damage.as_ref()), (BackupStatus::Available, None));
    record
}

pub fn record(engine: &Engine, id: BackupId) -> Arc<BackupRecord> {
    engine.operations.repository().catalog().get(id).unwrap()
}

/// The ranges that the record calls damaged.
pub fn damaged(record: &BackupRecord) -> Vec<ByteRange> {
    let ranges = record.damage.as_ref().map(|damage| damage.ranges.ranges.clone()).unwrap_or_default();
    ranges.iter().map(|range| ByteRange::between(range.start, range.end)).collect()
}

/// The blocks that meet these ranges, neighbours as one.
pub fn in_blocks(ranges: &[ByteRange], block: u64) -> Vec<ByteRange> {
    let mut merged: Vec<ByteRange> = Vec::new();
    for range in ranges.iter().map(|range| range.rounded_out(block)) {
        match merged.last_mut() {
            Some(last) if last.end() >= range.start() => {
                *last = ByteRange::between(last.start(), range.end().max(last.end()));
            }
            _ => merged.push(range),
        }
    }
    merged
}
