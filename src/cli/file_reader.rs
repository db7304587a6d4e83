//! The hidden subcommand that makes a worker of this process; the daemon starts it, nobody else.

use std::env;
use std::process::ExitCode;

use crate::files::{READER_COMMAND, run_reader};

/// Runs the worker when the arguments ask for it. It comes before clap: a worker has no other arguments and no help.
pub fn run_if_asked() -> Option<ExitCode> {
    let mut arguments = env::args_os().skip(1);
    if arguments.next()? != READER_COMMAND {
        return None;
    }
    let memory_bytes = arguments.next()?.to_str()?.parse().ok()?;
    Some(run_reader(memory_bytes))
}
