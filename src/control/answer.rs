//! What a control file answers: one `ok key=value ...` line a command, or one `error: NAME: sentence`.
//!
//! Values are quoted as in a shell, so that an answer can be read back by [`Answer::parse`] and by `eval`.

use std::fmt;

use crate::types::Refusal;

/// What one accepted command answers, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Accepted(Vec<(String, String)>);

impl Accepted {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a pair. The key is a plain word; of the value, what no line can carry becomes a space.
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.0.push((key.to_owned(), value.to_string().replace(['\n', '\r', '\0'], " ")));
        self
    }

    /// Returns all pairs, in order.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    pub fn value(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }
}

impl fmt::Display for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ok")?;
        for (key, value) in &self.0 {
            let quoted = shlex::try_quote(value).map_err(|_| fmt::Error)?;
            write!(f, " {key}={quoted}")?;
        }
        Ok(())
    }
}

/// The answer to one write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// One for each command, in the order of the lines.
    Accepted(Vec<Accepted>),
    Refused {
        name: String,
        sentence: String,
    },
}

impl Answer {
    /// Reads an answer's text; `None` when it is none.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(error) = text.strip_prefix("error: ") {
            let (name, sentence) = error.trim_end().split_once(": ")?;
            return Some(Self::Refused { name: name.to_owned(), sentence: sentence.to_owned() });
        }
        let lines: Option<Vec<Accepted>> = text.lines().map(parse_accepted).collect();
        lines.filter(|lines| !lines.is_empty()).map(Self::Accepted)
    }
}

fn parse_accepted(line: &str) -> Option<Accepted> {
    let words = shlex::split(line)?;
    let (first, pairs) = words.split_first()?;
    let pairs = pairs.iter().map(|pair| {
        let (key, value) = pair.split_once('=')?;
        Some((key.to_owned(), value.to_owned()))
    });
    (first == "ok").then(|| pairs.collect::<Option<_>>().map(Accepted))?
}

impl From<&Refusal> for Answer {
    fn from(refusal: &Refusal) -> Self {
        Self::Refused { name: refusal.kind.name().to_owned(), sentence: refusal.sentence.clone() }
    }
}

/// The text that a reader of the control file gets, with its line ends.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted(lines) => lines.iter().try_for_each(|line| writeln!(f, "{line}")),
            Self::Refused { name, sentence } => {
                writeln!(f, "error: {name}: {}", sentence.replace(['\n', '\r'], " "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::RefusalKind;

    #[test]
    fn an_answer_reads_as_the_contract_says_and_parses_back() {
        let accepted = Answer::Accepted(vec![
            Accepted::new().with("backup", "9027e97a-0000-4000-8000-000000000000").with("job", 12),
            Accepted::new().with("volume", "rbd/it's a \"name\"").with("is_incremental", false).with("x", ""),
        ]);
        let text = accepted.to_string();
        assert_eq!(text.lines().next(), Some("ok backup=9027e97a-0000-4000-8000-000000000000 job=12"));
        assert_eq!(Answer::parse(&text), Some(accepted));

        let refusal = Refusal::new(RefusalKind::VolumeInUse, "volume \"a\" is in use:\nclose it");
        let text = Answer::from(&refusal).to_string();
        assert_eq!(text, "error: VolumeInUse: volume \"a\" is in use: close it\n");
        let Some(Answer::Refused { name, sentence }) = Answer::parse(&text) else { panic!("{text}") };
        assert_eq!((name.as_str(), sentence.as_str()), ("VolumeInUse", "volume \"a\" is in use: close it"));
    }

    #[test]
    fn what_is_no_answer_is_none() {
        for text in ["", "\n", "okay", "ok a", "ok 'a", "error: x", "12"] {
            assert_eq!(Answer::parse(text), None, "{text:?}");
        }
    }
}
