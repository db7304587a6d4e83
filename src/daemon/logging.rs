//! The log: lines on standard error; `AMBERFS_LOG` chooses what is told (`warn`, `debug`, `amberfs::store=trace`).

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging; a second call does nothing.
pub(super) fn start() {
    // sled and fuser tell things that concern nobody but their authors.
    let default = || EnvFilter::new("info,sled=warn,fuser=error");
    let filter = EnvFilter::try_from_env("AMBERFS_LOG").unwrap_or_else(|_| default());
    let colours = std::io::stderr().is_terminal();
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(std::io::stderr)
        .try_init();
}
