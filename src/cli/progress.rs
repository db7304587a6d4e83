//! How a running job is shown: a bar on a terminal, lines elsewhere. On standard error, so that standard output holds
//! the result alone.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{BinaryBytes, FormattedDuration, ProgressBar, ProgressStyle};

use super::fields::Fields;
use super::output::{note, plain};

pub enum Progress {
    /// Made when there is something to show.
    Bar(Option<ProgressBar>),
    Lines {
        every: Duration,
        next: Instant,
    },
}

impl Progress {
    pub fn new(line_seconds: u64) -> Self {
        if io::stderr().is_terminal() {
            return Self::Bar(None);
        }
        let every = Duration::from_secs(line_seconds);
        // What ends at once needs no line but the last.
        Self::Lines { every, next: Instant::now() + every }
    }

    pub fn update(&mut self, job: &Fields) {
        match self {
            Self::Bar(bar) => {
                let bar = bar.get_or_insert_with(|| new_bar(job));
                bar.set_length(job.number("bytes_total").unwrap_or(0));
                bar.set_position(job.number("bytes_done").unwrap_or(0));
                // Draws it; in front of the others it would show the numbers of two looks.
                bar.set_message(numbers(job));
            }
            Self::Lines { every, next } => {
                let now = Instant::now();
                if now >= *next {
                    note(&format!("job {}: {}: {}", id(job), title(job), numbers(job)));
                    *next = now + *every;
                }
            }
        }
    }

    /// Takes the bar away and leaves a line with the result; that of a failure is the error's.
    pub fn finish(&self, job: &Fields) {
        if let Self::Bar(Some(bar)) = self {
            bar.finish_and_clear();
        }
        if job.text("state") != "done" {
            return;
        }
        let mut line = format!("job {}: {} {}", id(job), title(job), job.text("state"));
        // A delete counts none.
        if let Some(done) = job.number("bytes_done").filter(|done| *done > 0) {
            line.push_str(&format!(", {}", BinaryBytes(done)));
        }
        note(&line);
    }

    /// Takes the bar away for as long as the terminal is needed for something else.
    pub fn aside<T>(&self, other: impl FnOnce() -> T) -> T {
        match self {
            Self::Bar(Some(bar)) => bar.suspend(other),
            Self::Bar(None) | Self::Lines { .. } => other(),
        }
    }
}

fn new_bar(job: &Fields) -> ProgressBar {
    // Without the style it is still a bar.
    let style = ProgressStyle::with_template("{prefix} [{wide_bar}] {msg}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ");
    let bar = ProgressBar::new(job.number("bytes_total").unwrap_or(0)).with_style(style);
    let done = job.number("bytes_done").unwrap_or(0);
    bar.with_position(done).with_prefix(title(job)).with_message(numbers(job))
}

pub fn id(job: &Fields) -> String {
    job.number("id").map_or_else(|| job.text("id").to_owned(), |number| number.to_string())
}

/// Returns how much of a job is done, rounded down: 100 only when all of it is.
pub fn percent(job: &Fields) -> Option<u64> {
    let done = job.number("bytes_done")?;
    let total = job.number("bytes_total").filter(|total| *total > 0)?;
    u64::try_from(u128::from(done.min(total)) * 100 / u128::from(total)).ok()
}

fn title(job: &Fields) -> String {
    plain(format!("{} {}", job.text("kind"), job.text("volume")).trim_end())
}

/// Returns `1.50 GiB of 10.00 GiB (15%), 120.00 MiB/s, 00:01:12 left`, or how far that is known.
fn numbers(job: &Fields) -> String {
    if job.text("state") == "queued" {
        return "waiting for its turn".to_owned();
    }
    let done = job.number("bytes_done").unwrap_or(0);
    let mut text = BinaryBytes(done).to_string();
    let total = job.number("bytes_total");
    if let (Some(total), Some(percent)) = (total, percent(job)) {
        text.push_str(&format!(" of {} ({percent}%)", BinaryBytes(total)));
    }
    if let Some(rate) = job.number("bytes_per_second").filter(|rate| *rate > 0) {
        text.push_str(&format!(", {}/s", BinaryBytes(rate)));
        if let Some(left) = total.map(|total| total.saturating_sub(done)) {
            text.push_str(&format!(", {} left", FormattedDuration(Duration::from_secs(left.div_ceil(rate)))));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(json: &str) -> Fields {
        Fields::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn a_line_tells_bytes_rate_and_time_left() {
        let running = job(r#"{"state":"running","bytes_done":1610612736,"bytes_total":10737418240,
            "bytes_per_second":125829120}"#);
        assert_eq!(numbers(&running), "1.50 GiB of 10.00 GiB (15%), 120.00 MiB/s, 00:01:13 left");
        assert_eq!(numbers(&job(r#"{"state":"queued"}"#)), "waiting for its turn");
        assert_eq!(numbers(&job(r#"{"state":"running","bytes_total":0}"#)), "0 B");
    }

    #[test]
    fn a_hundred_percent_means_all() {
        assert_eq!(percent(&job(r#"{"bytes_done":999,"bytes_total":1000}"#)), Some(99));
        assert_eq!(percent(&job(r#"{"bytes_done":1001,"bytes_total":1000}"#)), Some(100));
        assert_eq!(percent(&job(r#"{"bytes_done":5,"bytes_total":0}"#)), None);
    }
}
