//! Commands that run for long in this process: their progress, and Ctrl-C, which stops them in order. A second one ends
//! the process at once.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::output::note;
use super::wait::LINE_SECONDS;
use crate::check::Watch;

/// As a shell has it for a process that a signal ended.
const INTERRUPTED: i32 = 130;

/// Watches a run until it is dropped, which takes the bar away.
pub struct LongRun {
    pub watch: Watch,
    bar: Option<ProgressBar>,
}

impl LongRun {
    pub fn begin() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // Without them the first signal ends the process at once, which leaves a temporary index.
            let _ = flag::register_conditional_shutdown(signal, INTERRUPTED, Arc::clone(&stop));
            let _ = flag::register(signal, Arc::clone(&stop));
        }
        let bar = io::stderr().is_terminal().then(new_bar);
        let shown = bar.clone();
        let lines = Lines::new();
        let tell = move |what: &'static str, done: u64, total: u64| match &shown {
            Some(bar) => {
                bar.set_prefix(what);
                bar.set_length(total);
                bar.set_position(done);
            }
            None => lines.tell(what, done, total),
        };
        Self { watch: Watch::new(stop, Box::new(tell)), bar }
    }
}

impl Drop for LongRun {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn new_bar() -> ProgressBar {
    // Without the style it is still a bar.
    let style = ProgressStyle::with_template("{prefix} [{wide_bar}] {percent}%, {eta} left");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ");
    ProgressBar::new(0).with_style(style)
}

/// Where there is no terminal: a line now and then.
struct Lines {
    next: Mutex<Instant>,
    is_writing: AtomicBool,
}

impl Lines {
    fn new() -> Self {
        Self { next: Mutex::new(Instant::now() + every()), is_writing: AtomicBool::new(false) }
    }

    fn tell(&self, what: &'static str, done: u64, total: u64) {
        // Threads that work do not wait for each other here.
        if self.is_writing.swap(true, Ordering::Acquire) {
            return;
        }
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if Instant::now() >= *next {
            let percent = (u128::from(done) * 100).checked_div(u128::from(total)).unwrap_or(100);
            note(&format!("{what}: {percent}%"));
            *next = Instant::now() + every();
        }
        drop(next);
        self.is_writing.store(false, Ordering::Release);
    }
}

fn every() -> Duration {
    Duration::from_secs(LINE_SECONDS)
}
