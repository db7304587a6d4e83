//! The lines of one write, read as commands: all of them, or none and the reason.
//!
//! The bytes come from anybody who may write to the file: lines and their number are bounded, and nothing that they
//! hold reaches a terminal unescaped.

use clap::error::ErrorKind;

use super::command::{Command, ControlFile};
use super::grammar::ImportArgs;
use crate::types::{KIB, Refusal, RefusalKind};

/// A line is one command; a name has at most 4096 bytes, a description is a paragraph.
pub const LINE_BYTES_MAX: usize = 64 * KIB as usize;

/// Bounds what one write can start.
pub const LINES_MAX: usize = 10_000;

/// A longer word is cut when it is quoted in an answer.
const QUOTED_CHARS_MAX: usize = 400;

/// Reads every line of a write to `file`, with the quoting and the `#` comments of a shell.
///
/// Blank lines are skipped. The refusal names the line, the word that was not understood, and what is accepted.
pub fn parse_lines(file: ControlFile, bytes: &[u8]) -> Result<Vec<Command>, Refusal> {
    let mut grammar = file.grammar();
    let usage = usage(&grammar);
    let mut commands = Vec::new();
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    for (number, line) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
        let refusal = |reason: String| {
            Refusal::new(RefusalKind::InvalidInput, format!("line {number}: {reason}; usage: {usage}"))
        };
        if number > LINES_MAX {
            return Err(refusal(format!("one write can hold {LINES_MAX} lines")));
        }
        if let Some(command) = parse_line(file, &mut grammar, line).map_err(refusal)? {
            commands.push(command);
        }
    }
    if commands.is_empty() && file == ControlFile::Gc {
        // All that it can be told is optional.
        commands.extend(file.parse_words(&mut grammar, Vec::new()));
    }
    if commands.is_empty() {
        // An empty variable in a script must not look like a command that was accepted.
        return Err(Refusal::new(RefusalKind::InvalidInput, format!("there is no command; usage: {usage}")));
    }
    Ok(commands)
}

fn parse_line(
    file: ControlFile,
    grammar: &mut clap::Command,
    line: &[u8],
) -> Result<Option<Command>, String> {
    // A record holds texts of its own, and is bounded by the write that carries it.
    if line.len() > LINE_BYTES_MAX && file != ControlFile::Import {
        return Err(format!("it has {} bytes, and a line can have {LINE_BYTES_MAX}", line.len()));
    }
    let line = std::str::from_utf8(line).map_err(|error| {
        format!("it is not UTF-8: byte {} cannot stand there", error.valid_up_to().saturating_add(1))
    })?;
    // The carriage return of a file that was written elsewhere, of some more than one; one that is meant stands in quotes.
    let line = line.trim_end_matches('\r');
    if line.contains('\0') {
        return Err("it holds a NUL byte".to_owned());
    }
    if file == ControlFile::Import {
        let args = ImportArgs { record: line.to_owned() };
        return Ok((!line.trim().is_empty()).then_some(Command::Import(args)));
    }
    let words = shlex::split(line)
        .ok_or_else(|| format!("a quote is not closed, or a backslash ends it: {}", quoted(line)))?;
    if words.is_empty() {
        return Ok(None);
    }
    file.parse_words(grammar, words).map(Some).map_err(|error| reason(&error))
}

/// Returns what clap says, in one line and without what belongs to a terminal.
fn reason(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelp {
        return "help is in README".to_owned();
    }
    let rendered = error.render().to_string();
    let before_usage = rendered.split("\n\nUsage:").next().unwrap_or_default();
    let before_hint = before_usage.split("\n\nFor more information").next().unwrap_or_default();
    let text = before_hint.strip_prefix("error: ").unwrap_or(before_hint).trim_end();
    let words: Vec<&str> = text.split_whitespace().collect();
    quoted(&words.join(" "))
}

/// Returns the text with control characters escaped and a bounded length.
fn quoted(text: &str) -> String {
    let mut quoted: String = text
        .chars()
        .take(QUOTED_CHARS_MAX)
        .flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_default());
            let plain = (!c.is_control()).then_some(c);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect();
    if text.chars().nth(QUOTED_CHARS_MAX).is_some() {
        quoted.push_str("...");
    }
    quoted
}

/// Returns what a line can hold, in one line: `VOLUME [--name NAME] [--force]`.
fn usage(grammar: &clap::Command) -> String {
    let operands = grammar.get_positionals().map(|arg| arg.get_id().as_str().to_uppercase());
    let options = grammar.get_arguments().filter_map(|arg| {
        let name = arg.get_long()?;
        let value = match (arg.get_action(), arg.get_value_names()) {
            (clap::ArgAction::Set | clap::ArgAction::Append, Some([value, ..])) => format!(" {value}"),
            _ => String::new(),
        };
        let more = if matches!(arg.get_action(), clap::ArgAction::Append) { "..." } else { "" };
        Some(format!("[--{name}{value}]{more}"))
    });
    operands.chain(options).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
