//! `metrics`: that Prometheus understands it, that it counts what was done, and that it tells no tenant's names.

use std::fs;

use rustix::io::Errno;

use super::Watched;
use super::prometheus::promtool;

const CHUNK: usize = 64 << 10;

#[test]
fn prometheus_understands_every_line() {
    let watched = Watched::start();
    watched.volume("v", 1, 10 * CHUNK);
    let id = watched.daemon.backup("v");
    fs::read(watched.daemon.image(&id)).unwrap();
    let text = watched.text("metrics");
    let metrics = super::prometheus::Metrics::parse(&text);
    promtool(&["check", "metrics"], &text);
    assert!(metrics.families.len() > 50, "{}", metrics.families.len());
}

#[test]
fn what_is_done_is_counted_exactly() {
    let watched = Watched::start();
    let before = watched.metrics();
    assert_eq!(before.value("amberfs_source_last_backup_timestamp_seconds{source=\"local\"}"), 0.0);
    assert_eq!(before.value("amberfs_backups{status=\"available\"}"), 0.0);
    let size = 100 * CHUNK;
    let bytes = watched.volume("first", 1, size);
    fs::write(watched.path("second"), &bytes).unwrap();
    let first = watched.daemon.backup("first");
    watched.daemon.backup("second");
    let metrics = watched.metrics();
    let chunks = |outcome: &str| {
        let value =
            |name: &str| metrics.value(&format!("amberfs_backup_{name}_total{{outcome=\"{outcome}\"}}"));
        (value("chunks"), value("chunk_bytes"))
    };
    assert_eq!(chunks("stored"), (100.0, size as f64));
    assert_eq!(chunks("deduplicated"), (100.0, size as f64));
    assert_eq!(metrics.value("amberfs_source_read_bytes_total{source=\"local\"}"), 2.0 * size as f64);
    assert_eq!(metrics.value("amberfs_jobs_ended_total{kind=\"backup\",state=\"done\"}"), 2.0);
    assert_eq!(metrics.value("amberfs_job_duration_seconds_count{kind=\"backup\"}"), 2.0);
    assert_eq!(metrics.value("amberfs_backups{status=\"available\"}"), 2.0);
    assert_eq!(metrics.value("amberfs_backups_never_verified"), 2.0);
    assert_eq!(metrics.value("amberfs_project_backups{project=\"default\"}"), 2.0);
    assert_eq!(
        metrics.value("amberfs_project_backup_size_bytes{project=\"default\"}"),
        2.0 * 1_073_741_824.0
    );
    let packs = metrics.value("amberfs_object_written_bytes_total{kind=\"pack\"}");
    assert_eq!(packs, metrics.value("amberfs_repository_pack_bytes"));
    let created = fs::metadata(watched.daemon.image(&first)).unwrap();
    let created = created.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    let newest = metrics.value("amberfs_source_last_backup_timestamp_seconds{source=\"local\"}");
    assert!(newest >= created.as_secs_f64() - 1.0, "{newest}");
    assert_eq!(metrics.value("amberfs_source_up{source=\"local\"}"), 1.0);
    assert!(metrics.value("process_resident_memory_bytes") > 1e6);
    assert!(!metrics.has("amberfs_project_backups_limit{project=\"default\"}"), "there is no limit");

    let read_before = metrics.value("amberfs_fuse_read_bytes_total");
    assert!(fs::read(watched.daemon.image(&first)).unwrap() == bytes);
    watched.daemon.restore(&first);
    let metrics = watched.metrics();
    assert!(metrics.value("amberfs_fuse_read_bytes_total") - read_before >= size as f64);
    assert_eq!(metrics.value("amberfs_chunk_loads_total"), 200.0, "one for the reader, one for the restore");
    assert_eq!(metrics.value("amberfs_restore_written_bytes_total"), size as f64);
    assert_eq!(metrics.value("amberfs_jobs_ended_total{kind=\"restore\",state=\"done\"}"), 1.0);
    assert_eq!(metrics.value("amberfs_memory_budget_used_bytes"), 0.0);
}

#[test]
fn damage_that_a_reader_meets_is_counted_and_makes_the_health_worse() {
    let mut watched = Watched::start();
    watched.volume("v", 1, 100 * CHUNK);
    let id = watched.daemon.backup("v");
    watched.daemon.stop();
    watched.damage_pack();
    watched.daemon.serve();
    assert!(watched.problem("chunks_damaged").is_none(), "nobody has read it yet");
    let error = fs::read(watched.daemon.image(&id)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()));
    let metrics = watched.metrics();
    assert!(metrics.value("amberfs_chunk_damaged_reads_total") >= 1.0);
    assert_eq!(metrics.value("amberfs_chunks_damaged"), 1.0);
    assert!(metrics.value("amberfs_fuse_errors_total{errno=\"EIO\"}") >= 1.0);
    assert_eq!(metrics.value("amberfs_healthy"), 0.0);
    assert_eq!(metrics.value("amberfs_problems{what=\"chunks_damaged\"}"), 1.0);
    assert!(watched.problem("chunks_damaged").is_some());

    let job = watched.daemon.accepted("restore", &format!("{id}\n"), "job");
    assert_eq!(watched.daemon.ended(&job)["state"], "failed");
    let problem = watched.problem("jobs_failed").unwrap();
    assert!(problem["why"].as_str().unwrap().contains(&format!("{job} (restore)")), "{problem}");
    assert_eq!(watched.metrics().value("amberfs_jobs_ended_total{kind=\"restore\",state=\"failed\"}"), 1.0);
}

#[test]
fn there_is_no_series_for_a_backup_a_volume_or_a_job() {
    let watched = Watched::start();
    for name in ["secretproject-a", "secretproject-b"] {
        watched.volume(name, 1, CHUNK);
    }
    let count = |watched: &Watched| {
        let metrics = watched.metrics();
        // An error that was not met before is a new series.
        metrics.series().filter(|series| !series.starts_with("amberfs_fuse_errors_total")).count()
    };
    let id = watched.daemon.backup("secretproject-a --name confidential");
    let before = count(&watched);
    for _ in 0..5 {
        watched.daemon.backup("secretproject-b --name confidential");
    }
    assert_eq!(count(&watched), before);
    let text = watched.text("metrics");
    for name in ["secretproject", "confidential", &id] {
        assert!(!text.contains(name), "{name}");
    }
    let mode = |name: &str| {
        let metadata = fs::metadata(watched.daemon.mount().join(name)).unwrap();
        std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777
    };
    assert_eq!((mode("metrics"), mode("status.json")), (0o440, 0o440), "the operator's");
}
