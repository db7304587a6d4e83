//! `metrics`: the state of things as numbers, and what the layers have counted, in Prometheus's text format.
//!
//! Labels have values that the configuration or the code names: there is no series for each backup, volume or job.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Vfs;
use super::health::{Health, PROBLEMS, health};
use crate::catalog::{BackupRecord, BackupStatus};
use crate::metrics::{Kind, MetricsText, write_registered};
use crate::sysio::process;
use crate::types::{GIB, ProjectName, SourceName, Timestamp, gib_rounded_up};

const STATUSES: [BackupStatus; 6] = [
    BackupStatus::Creating,
    BackupStatus::Available,
    BackupStatus::Restoring,
    BackupStatus::Deleting,
    BackupStatus::Error,
    BackupStatus::ErrorDeleting,
];

/// What one pass over all backups finds.
#[derive(Default)]
struct Census {
    by_status: BTreeMap<&'static str, u64>,
    /// The newest data of each source that can be read.
    newest: BTreeMap<SourceName, Timestamp>,
    /// How many backups each project has, and their gigabytes, as quotas count them.
    projects: BTreeMap<ProjectName, (u64, u64)>,
    never_verified: u64,
    /// Of the readable backup that was verified, or else made, longest ago.
    unverified_since: Option<Timestamp>,
}

impl Census {
    fn of(records: &[Arc<BackupRecord>]) -> Self {
        let mut census = Self::default();
        for record in records {
            *census.by_status.entry(record.status.as_str()).or_default() += 1;
            if !record.holds_nothing() {
                let (count, gigabytes) = census.projects.entry(record.project.clone()).or_default();
                *count += 1;
                *gigabytes += gib_rounded_up(record.size_bytes);
            }
            if record.status.is_readable() {
                census.count_readable(record);
            }
        }
        census
    }

    fn count_readable(&mut self, record: &BackupRecord) {
        let newest = self.newest.entry(record.source.clone()).or_insert(record.data_timestamp);
        *newest = (*newest).max(record.data_timestamp);
        self.never_verified += u64::from(record.last_verified_at.is_none());
        let since = record.last_verified_at.unwrap_or(record.created_at);
        self.unverified_since = Some(self.unverified_since.map_or(since, |before| before.min(since)));
    }
}

impl Vfs {
    pub(super) fn metrics(&self) -> String {
        let mut text = MetricsText::default();
        let help = "Which amberfs this is; always 1.";
        let mut build = text.family("amberfs_build_info", Kind::Gauge, help);
        build.sample(&[("version", env!("CARGO_PKG_VERSION"))], true);
        self.write_health(&mut text);
        self.write_repository(&mut text);
        let census = Census::of(&self.repository.catalog().all());
        self.write_backups(&mut text, &census);
        self.write_sources(&mut text, &census);
        self.write_projects(&mut text, &census);
        self.write_uses(&mut text);
        write_registered(&mut text);
        self.write_process(&mut text);
        text.into_string()
    }

    fn write_health(&self, text: &mut MetricsText) {
        let problems = self.problems();
        let help = "1 when all is well, 0 when status.json has problems.";
        text.gauge("amberfs_healthy", help, health(&problems) == Health::Ok);
        let help = "Problems in status.json, by what is wrong.";
        let mut by_kind = text.family("amberfs_problems", Kind::Gauge, help);
        for what in PROBLEMS {
            let count = problems.iter().filter(|problem| problem.what == what).count();
            by_kind.sample(&[("what", what)], count);
        }
    }

    fn write_repository(&self, text: &mut MetricsText) {
        let help = "1 when the repository is open for reading only.";
        text.gauge("amberfs_repository_read_only", help, self.repository.is_read_only());
        if let Ok(space) = self.health.space() {
            let help = "Size of the file system that the repository is on.";
            text.gauge("amberfs_repository_filesystem_size_bytes", help, space.total);
            let help = "What is left of it.";
            text.gauge("amberfs_repository_filesystem_free_bytes", help, space.free);
        }
        let index = self.repository.store().index_stats();
        text.gauge("amberfs_index_packs", "Packs in the index.", index.pack_count);
        text.gauge("amberfs_index_chunks", "Chunks in the index.", index.chunk_count);
        text.gauge("amberfs_repository_pack_bytes", "Bytes of these packs.", index.pack_bytes);
        let damaged = self.repository.store().known_damage().len();
        text.gauge("amberfs_chunks_damaged", "Places in packs that are known to be damaged.", damaged);
        let unreadable = self.repository.catalog().unreadable().len();
        text.gauge("amberfs_records_unreadable", "Records that could not be read at the start.", unreadable);
        let cache = self.repository.store().cache_stats();
        text.gauge("amberfs_chunk_cache_bytes", "Memory of the cache of decoded chunks.", cache.bytes);
        let help = "Reads of chunks that the cache answered.";
        text.family("amberfs_chunk_cache_hits_total", Kind::Counter, help).sample(&[], cache.hits);
        let help = "Reads of chunks that the cache did not answer; those of whole chunks pass it by.";
        text.family("amberfs_chunk_cache_misses_total", Kind::Counter, help).sample(&[], cache.loads);
    }

    fn write_backups(&self, text: &mut MetricsText, census: &Census) {
        let mut backups = text.family("amberfs_backups", Kind::Gauge, "Backups by status.");
        for status in STATUSES.map(BackupStatus::as_str) {
            backups.sample(&[("status", status)], census.by_status.get(status).copied().unwrap_or(0));
        }
        let help = "Readable backups that were never verified.";
        text.gauge("amberfs_backups_never_verified", help, census.never_verified);
        if let Some(since) = census.unverified_since {
            let help = "Since when the backup is unverified that is so for longest; one that never was, since it was made.";
            text.gauge("amberfs_backup_unverified_since_timestamp_seconds", help, seconds(since));
        }
    }

    fn write_sources(&self, text: &mut MetricsText, census: &Census) {
        let mut up = text.family("amberfs_source_up", Kind::Gauge, "1 when the source answered last.");
        for state in self.volumes.states() {
            up.sample(&[("source", state.name.as_str())], state.error.is_none());
        }
        let help = "The moment of the newest data of a source that is in an available backup; 0 without one.";
        let name = "amberfs_source_last_backup_timestamp_seconds";
        let mut newest = text.family(name, Kind::Gauge, help);
        for source in self.volumes.sources() {
            let time = census.newest.get(source).copied().map_or(0.0, seconds);
            newest.sample(&[("source", source.as_str())], time);
        }
    }

    /// Volumes are not among it: to count them is to ask the sources for each.
    fn write_projects(&self, text: &mut MetricsText, census: &Census) {
        let used = |project| census.projects.get(project).copied().unwrap_or_default();
        let help = "Backups of a project, as its quota counts them.";
        let mut backups = text.family("amberfs_project_backups", Kind::Gauge, help);
        for (project, _) in self.quotas.limits() {
            backups.sample(&[("project", project.as_str())], used(project).0);
        }
        let help = "Backups that a project may have; absent without a limit.";
        let mut limits = text.family("amberfs_project_backups_limit", Kind::Gauge, help);
        for (project, quota) in self.quotas.limits() {
            if let Ok(limit) = u64::try_from(quota.backups) {
                limits.sample(&[("project", project.as_str())], limit);
            }
        }
        let help =
            "Sizes of the volumes of a project's backups, each in whole gibibytes, as its quota counts them.";
        let mut bytes = text.family("amberfs_project_backup_size_bytes", Kind::Gauge, help);
        for (project, _) in self.quotas.limits() {
            bytes.sample(&[("project", project.as_str())], used(project).1.saturating_mul(GIB));
        }
        let help = "What they may amount to; absent without a limit.";
        let mut limits = text.family("amberfs_project_backup_size_limit_bytes", Kind::Gauge, help);
        for (project, quota) in self.quotas.limits() {
            if let Ok(limit) = u64::try_from(quota.backup_gigabytes) {
                limits.sample(&[("project", project.as_str())], limit.saturating_mul(GIB));
            }
        }
    }

    fn write_uses(&self, text: &mut MetricsText) {
        let reports = self.jobs.reports();
        let mut jobs = text.family("amberfs_jobs", Kind::Gauge, "Jobs that have not ended, by state.");
        for state in ["queued", "running"] {
            let count = reports.iter().filter(|report| report.state.to_string() == state).count();
            jobs.sample(&[("state", state)], count);
        }
        let (used, limit) = self.scratch.use_of_space();
        text.gauge("amberfs_scratch_images", "Scratch images.", self.scratch.all().len());
        text.gauge("amberfs_scratch_used_bytes", "What was written to scratch images.", used);
        text.gauge("amberfs_scratch_limit_bytes", "limits.scratch.", limit);
        text.gauge(
            "amberfs_open_files",
            "Files and folders of the tree that are open.",
            self.handles.count(),
        );
        text.gauge("amberfs_known_inodes", "Inodes that the kernel knows of.", self.inodes.count());
    }

    fn write_process(&self, text: &mut MetricsText) {
        let help = "Start time of the process since the Unix epoch.";
        text.gauge("process_start_time_seconds", help, seconds(self.started_at));
        let Some(usage) = process::own_usage() else { return };
        text.gauge("process_resident_memory_bytes", "Resident memory.", usage.resident_bytes);
        text.gauge("process_virtual_memory_bytes", "Virtual memory.", usage.virtual_bytes);
        text.gauge("process_open_fds", "Open file descriptors.", usage.open_descriptors);
        text.gauge("process_max_fds", "File descriptors that may be open.", usage.descriptors_max);
        text.gauge("process_threads", "Threads of the process.", usage.threads);
        let help = "User and system CPU time spent.";
        text.family("process_cpu_seconds_total", Kind::Counter, help).sample(&[], usage.cpu_seconds);
    }
}

fn seconds(time: Timestamp) -> f64 {
    time.as_micros() as f64 / 1e6
}
