//! Serves the mount until a signal or an unmount, and ends in order.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::config::Config;
use super::refresh::Refresher;
use super::{DaemonError, MountOptions, assemble, detach, service};
use crate::control::Commands;
use crate::files::{FileTrees, FileTreesOptions};
use crate::fuse::{self, FuseOptions};
use crate::operations::{Operations, VerifySchedule};
use crate::vfs::{Vfs, VfsParts};

/// Starts a second process of this program, also when its file was replaced by another version.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// Jobs get so long to come to a checkpoint: more than a source's time limit for one request.
const JOBS_STOP_SECONDS: u64 = 90;

pub(super) fn run(options: &MountOptions) -> Result<(), DaemonError> {
    let config = Config::for_mount(options)?;
    // First of all, so that no signal finds the daemon unprepared.
    let signals = watch_signals()?;
    let control_group = assemble::control_group(&config)?;
    let repository = assemble::open_repository(&config, options)?;
    let events = assemble::events(&repository);
    let operations = assemble::operations(&config, repository, &events)?;
    operations.recover();
    let _refresher = Refresher::start(operations.repository(), config.repository.refresh_seconds)?;
    let _schedule = VerifySchedule::start(&operations);
    let commands = Arc::new(Commands::new(Arc::clone(&operations)));
    let file_trees = FileTrees::new(FileTreesOptions::new(PathBuf::from(OWN_PROGRAM)))
        .map_err(|source| DaemonError::Io { what: "start the thread that keeps readers of files", source })?;
    let mut parts = VfsParts::new(&operations, events, commands, file_trees);
    parts.control_group = control_group.unwrap_or(parts.control_group);
    parts.checks_permissions = config.mount.allow_other;
    let vfs = Vfs::new(parts);
    let fuse_options =
        FuseOptions { mountpoint: options.mountpoint.clone(), allow_other: config.mount.allow_other };
    let session = fuse::mount(vfs, fuse_options)?;
    tracing::info!(mountpoint = %options.mountpoint.display(), repository = operations.repository().location(), "serving");
    if detach::is_detached() {
        detach::report_ready()?;
    }
    let watchdog = service::ready(&options.mountpoint)?;
    let unmounted = session.unmounted();
    select! {
        recv(signals) -> _ => tracing::info!("told to end"),
        recv(unmounted) -> _ => tracing::info!("unmounted"),
    }
    service::stopping("waiting for the jobs to stop");
    end_jobs(&operations);
    drop(watchdog);
    session.unmount();
    if let Err(error) = operations.repository().store().flush_index() {
        tracing::warn!(%error, "the index could not be flushed; the next start brings it up to date");
    }
    tracing::info!("ended");
    Ok(())
}

fn end_jobs(operations: &Operations) {
    let left = operations.shut_down(Instant::now() + Duration::from_secs(JOBS_STOP_SECONDS));
    if left > 0 {
        tracing::warn!(left, "jobs did not stop in time; the next start puts them right");
    }
}

/// The first SIGTERM or SIGINT arrives in the channel; the second one ends the process.
fn watch_signals() -> Result<Receiver<()>, DaemonError> {
    let failed = |source| DaemonError::Io { what: "watch for signals", source };
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(failed)?;
    let (sender, receiver): (Sender<()>, _) = bounded(1);
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                if sender.try_send(()).is_err() {
                    tracing::warn!("told to end again: ending at once");
                    // What is durable stays so; the rest is put right by the next start.
                    let _ = signal_hook::low_level::emulate_default_handler(signal);
                }
            }
        })
        .map_err(failed)?;
    Ok(receiver)
}
