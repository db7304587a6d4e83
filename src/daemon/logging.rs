//! The log: lines on standard error. `AMBERFS_LOG`, else `RUST_LOG`, chooses what is told (`warn`, `debug`,
//! `amberfs::store=trace`).
//!
//! error: an operator must act. warn: something went another way than asked. info: the life of jobs and the daemon.
//! debug: requests.

use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{self, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::sysio::service_manager;

/// sled and fuser tell things that concern nobody but their authors.
const DEFAULT_FILTER: &str = "info,sled=warn,fuser=error";

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    /// One object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("{text:?} is no format of a log: text or json")),
        }
    }
}

/// Starts logging; a second call does nothing.
pub(super) fn start(log_format: LogFormat) {
    let (filter, rejected) = filter();
    let is_journal = service_manager::logs_to_journal();
    let is_terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(is_terminal && log_format == LogFormat::Text)
        .with_writer(std::io::stderr);
    let json = || format::json().flatten_event(true).with_span_list(false);
    // A failure means that there is a log already.
    let _ = match (log_format, is_journal) {
        (LogFormat::Text, false) if is_terminal => builder.try_init(),
        (LogFormat::Text, false) => builder.event_format(OneLine(format::format())).try_init(),
        (LogFormat::Text, true) => builder
            .event_format(OneLine(ForJournal(format::format().without_time().with_level(false))))
            .try_init(),
        (LogFormat::Json, false) => builder.fmt_fields(JsonFields::new()).event_format(json()).try_init(),
        (LogFormat::Json, true) => {
            let lines = ForJournal(json().without_time());
            builder.fmt_fields(JsonFields::new()).event_format(lines).try_init()
        }
    };
    if let Some(why) = rejected {
        tracing::warn!(why, "what the log is to tell is not understood: it tells {DEFAULT_FILTER}");
    }
}

/// Returns what is to be told, and what is wrong with what was asked for.
fn filter() -> (EnvFilter, Option<String>) {
    let asked = ["AMBERFS_LOG", "RUST_LOG"].into_iter().find_map(|variable| {
        let value = std::env::var(variable).ok().filter(|value| !value.is_empty())?;
        Some((variable, value))
    });
    match asked.map(|(variable, value)| (variable, EnvFilter::try_new(value))) {
        None => (EnvFilter::new(DEFAULT_FILTER), None),
        Some((_, Ok(filter))) => (filter, None),
        Some((variable, Err(error))) => {
            (EnvFilter::new(DEFAULT_FILTER), Some(format!("{variable}: {error}")))
        }
    }
}

/// Says in front of each line how urgent it is, as journald reads it from standard error; the time journald knows.
struct ForJournal<F>(F);

impl<S, N, F> FormatEvent<S, N> for ForJournal<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        write!(writer, "<{priority}>")?;
        self.0.format_event(context, writer, event)
    }
}

/// Keeps each event in its line: names that guests and tenants give may hold line feeds, and would forge lines.
struct OneLine<F>(F);

impl<S, N, F> FormatEvent<S, N> for OneLine<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        writeln!(writer, "{}", escaped(&line))
    }
}

/// Returns a line without its end, control characters in it escaped.
fn escaped(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    for c in line.trim_end_matches('\n').chars() {
        match c.is_control() {
            true => text.extend(c.escape_default()),
            false => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        assert_eq!(escaped("caf\u{e9} a\nb\tc\u{1b}[31m\n"), "caf\u{e9} a\\nb\\tc\\u{1b}[31m");
    }

    #[test]
    fn a_format_of_the_log_is_named() {
        assert_eq!(("json".parse(), "text".parse()), (Ok(LogFormat::Json), Ok(LogFormat::Text)));
        assert!("xml".parse::<LogFormat>().is_err());
    }
}
