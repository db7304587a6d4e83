//! Which commands there are, and how each is written as a line that parses back to itself.

use clap::{ArgMatches, Args, FromArgMatches};

use super::grammar::{BackupArgs, CancelArgs, RestoreArgs};

/// A file in `control/`; its name is the command that its lines are arguments of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ControlFile {
    Backup,
    Restore,
    Cancel,
}

impl ControlFile {
    pub const ALL: [Self; 3] = [Self::Backup, Self::Restore, Self::Cancel];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Restore => "restore",
            Self::Cancel => "cancel",
        }
    }

    /// Returns the clap command that reads a line's words.
    pub(super) fn grammar(self) -> clap::Command {
        let command = clap::Command::new(self.name()).no_binary_name(true).term_width(0);
        match self {
            Self::Backup => BackupArgs::augment_args(command),
            Self::Restore => RestoreArgs::augment_args(command),
            Self::Cancel => CancelArgs::augment_args(command),
        }
    }

    pub(super) fn command(self, matches: &ArgMatches) -> Result<Command, clap::Error> {
        match self {
            Self::Backup => BackupArgs::from_arg_matches(matches).map(Command::Backup),
            Self::Restore => RestoreArgs::from_arg_matches(matches).map(Command::Restore),
            Self::Cancel => CancelArgs::from_arg_matches(matches).map(Command::Cancel),
        }
    }
}

/// A parsed command, not yet looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Backup(BackupArgs),
    Restore(RestoreArgs),
    Cancel(CancelArgs),
}

/// A word that no control line can carry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} holds {what}, which a control line cannot carry")]
pub struct UnwritableWord {
    pub word: String,
    pub what: &'static str,
}

impl Command {
    pub const fn file(&self) -> ControlFile {
        match self {
            Self::Backup(_) => ControlFile::Backup,
            Self::Restore(_) => ControlFile::Restore,
            Self::Cancel(_) => ControlFile::Cancel,
        }
    }

    /// Returns the line, without its end, that [`super::parse_lines`] reads as this command.
    pub fn to_line(&self) -> Result<String, UnwritableWord> {
        let words = match self {
            Self::Backup(args) => backup_words(args),
            Self::Restore(args) => restore_words(args),
            Self::Cancel(args) => Words::default().finish(&args.job),
        };
        for word in &words {
            for (c, what) in [('\n', "a line break"), ('\0', "a NUL byte")] {
                if word.contains(c) {
                    return Err(UnwritableWord { word: word.clone(), what });
                }
            }
        }
        shlex::try_join(words.iter().map(String::as_str))
            .map_err(|_| UnwritableWord { word: words.join(" "), what: "a NUL byte" })
    }
}

fn backup_words(args: &BackupArgs) -> Vec<String> {
    let mut words = Words::default();
    words.option("--name", args.name.as_deref());
    words.option("--description", args.description.as_deref());
    words.flag("--incremental", args.incremental);
    words.flag("--force", args.force);
    words.option("--snapshot", args.snapshot.as_deref());
    for (key, value) in &args.properties {
        words.option("--property", Some(&format!("{key}={value}")));
    }
    words.finish(&args.volume)
}

fn restore_words(args: &RestoreArgs) -> Vec<String> {
    let mut words = Words::default();
    words.option("--to", args.to.as_deref());
    words.option("--name", args.name.as_deref());
    words.option("--source", args.source.as_deref());
    words.option("--type", args.volume_type.as_deref());
    words.flag("--force", args.force);
    words.finish(&args.backup)
}

/// The options of a line, in order.
#[derive(Default)]
struct Words(Vec<String>);

impl Words {
    fn flag(&mut self, name: &str, on: bool) {
        if on {
            self.0.push(name.to_owned());
        }
    }

    fn option(&mut self, name: &str, value: Option<&str>) {
        match value {
            // As a word of its own it would be read as the next option.
            Some(value) if value.starts_with('-') => self.0.push(format!("{name}={value}")),
            Some(value) => self.0.extend([name.to_owned(), value.to_owned()]),
            None => {}
        }
    }

    /// Adds the operand: in front, or behind `--` when it would be read as an option.
    fn finish(mut self, operand: &str) -> Vec<String> {
        if operand.starts_with('-') {
            self.0.extend(["--".to_owned(), operand.to_owned()]);
        } else {
            self.0.insert(0, operand.to_owned());
        }
        self.0
    }
}
