//! The one place that writes to standard output and standard error.

use std::io::{self, Write};

use super::error::CliError;

/// Writes to standard output. A reader that went away (`| head`) has all it wants: that is no failure.
pub fn print(bytes: &[u8]) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CliError::Output(error)),
        _ => Ok(()),
    }
}

/// Writes a line to standard error, where nobody can be told if that fails.
pub fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", plain(line));
}

/// Returns the text without what would act on a terminal: names come from anybody.
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' {
            plain.extend(c.escape_default());
        } else {
            plain.push(c);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_cannot_act_on_a_terminal() {
        assert_eq!(plain("a\x1b[2J\r\tb\u{9b}\u{7f}\n\u{fc}"), "a\\u{1b}[2J\\r\\tb\\u{9b}\\u{7f}\n\u{fc}");
    }
}
