//! Which commands there are, and how each is written as a line that parses back to itself.

use clap::{ArgMatches, Args, FromArgMatches};

use super::grammar::{
    BackupArgs, CancelArgs, DeleteArgs, FlattenArgs, GcArgs, ImportArgs, ResetStateArgs, RestoreArgs,
    ScratchArgs, SetArgs, VerifyArgs, XfsUuidArgs,
};
use super::words;

/// A file in `control/`; its name is the command that its lines are arguments of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ControlFile {
    Backup,
    Restore,
    Delete,
    Cancel,
    Set,
    ResetState,
    Import,
    Flatten,
    Gc,
    Verify,
    Scratch,
    XfsUuid,
}

impl ControlFile {
    pub const ALL: [Self; 12] = [
        Self::Backup,
        Self::Restore,
        Self::Delete,
        Self::Cancel,
        Self::Set,
        Self::ResetState,
        Self::Import,
        Self::Flatten,
        Self::Gc,
        Self::Verify,
        Self::Scratch,
        Self::XfsUuid,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Restore => "restore",
            Self::Delete => "delete",
            Self::Cancel => "cancel",
            Self::Set => "set",
            Self::ResetState => "reset-state",
            Self::Import => "import",
            Self::Flatten => "flatten",
            Self::Gc => "gc",
            Self::Verify => "verify",
            Self::Scratch => "scratch",
            Self::XfsUuid => "xfs-uuid",
        }
    }

    /// Returns the clap command that reads a line's words.
    ///
    /// An import's line is a record as it was exported; its words are never read.
    pub(super) fn grammar(self) -> clap::Command {
        let command = clap::Command::new(self.name()).no_binary_name(true).term_width(0);
        match self {
            Self::Backup => BackupArgs::augment_args(command),
            Self::Restore => RestoreArgs::augment_args(command),
            Self::Delete => DeleteArgs::augment_args(command),
            Self::Cancel => CancelArgs::augment_args(command),
            Self::Set => SetArgs::augment_args(command),
            Self::ResetState => ResetStateArgs::augment_args(command),
            Self::Import => command.arg(clap::Arg::new("record")),
            Self::Flatten => FlattenArgs::augment_args(command),
            Self::Gc => GcArgs::augment_args(command),
            Self::Verify => VerifyArgs::augment_args(command),
            Self::Scratch => ScratchArgs::augment_args(command),
            Self::XfsUuid => XfsUuidArgs::augment_args(command),
        }
    }

    pub(super) fn parse_words(
        self,
        grammar: &mut clap::Command,
        words: Vec<String>,
    ) -> Result<Command, clap::Error> {
        self.command(&grammar.try_get_matches_from_mut(words)?)
    }

    fn command(self, matches: &ArgMatches) -> Result<Command, clap::Error> {
        match self {
            Self::Backup => BackupArgs::from_arg_matches(matches).map(Command::Backup),
            Self::Restore => RestoreArgs::from_arg_matches(matches).map(Command::Restore),
            Self::Delete => DeleteArgs::from_arg_matches(matches).map(Command::Delete),
            Self::Cancel => CancelArgs::from_arg_matches(matches).map(Command::Cancel),
            Self::Set => SetArgs::from_arg_matches(matches).map(Command::Set),
            Self::ResetState => ResetStateArgs::from_arg_matches(matches).map(Command::ResetState),
            Self::Import => {
                let record = matches.get_one::<String>("record").cloned().unwrap_or_default();
                Ok(Command::Import(ImportArgs { record }))
            }
            Self::Flatten => FlattenArgs::from_arg_matches(matches).map(Command::Flatten),
            Self::Gc => GcArgs::from_arg_matches(matches).map(Command::Gc),
            Self::Verify => VerifyArgs::from_arg_matches(matches).map(Command::Verify),
            Self::Scratch => ScratchArgs::from_arg_matches(matches).map(Command::Scratch),
            Self::XfsUuid => XfsUuidArgs::from_arg_matches(matches).map(Command::XfsUuid),
        }
    }
}

/// A parsed command, not yet looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Backup(BackupArgs),
    Restore(RestoreArgs),
    Delete(DeleteArgs),
    Cancel(CancelArgs),
    Set(SetArgs),
    ResetState(ResetStateArgs),
    Import(ImportArgs),
    Flatten(FlattenArgs),
    Gc(GcArgs),
    Verify(VerifyArgs),
    Scratch(ScratchArgs),
    XfsUuid(XfsUuidArgs),
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
            Self::Delete(_) => ControlFile::Delete,
            Self::Cancel(_) => ControlFile::Cancel,
            Self::Set(_) => ControlFile::Set,
            Self::ResetState(_) => ControlFile::ResetState,
            Self::Import(_) => ControlFile::Import,
            Self::Flatten(_) => ControlFile::Flatten,
            Self::Gc(_) => ControlFile::Gc,
            Self::Verify(_) => ControlFile::Verify,
            Self::Scratch(_) => ControlFile::Scratch,
            Self::XfsUuid(_) => ControlFile::XfsUuid,
        }
    }

    /// Returns the line, without its end, that [`super::parse_lines`] reads as this command.
    pub fn to_line(&self) -> Result<String, UnwritableWord> {
        let words = match self {
            Self::Backup(args) => words::of_backup(args),
            Self::Restore(args) => words::of_restore(args),
            Self::Delete(args) => words::of_delete(args),
            Self::Cancel(args) => words::of_operand(&args.job),
            Self::Set(args) => words::of_set(args),
            Self::ResetState(args) => words::of_reset_state(args),
            Self::Import(args) => return record_line(&args.record),
            Self::Flatten(args) => words::of_operand(&args.backup),
            Self::Gc(args) => words::of_gc(*args),
            Self::Verify(args) => words::of_verify(args),
            Self::Scratch(args) => words::of_scratch(args),
            Self::XfsUuid(args) => words::of_xfs_uuid(args),
        };
        words.iter().try_for_each(|word| check_word(word))?;
        shlex::try_join(words.iter().map(String::as_str))
            .map_err(|_| UnwritableWord { word: words.join(" "), what: "a NUL byte" })
    }
}

fn record_line(record: &str) -> Result<String, UnwritableWord> {
    let line = record.strip_suffix('\n').unwrap_or(record);
    check_word(line)?;
    Ok(line.to_owned())
}

fn check_word(word: &str) -> Result<(), UnwritableWord> {
    for (c, what) in [('\n', "a line break"), ('\0', "a NUL byte")] {
        if word.contains(c) {
            return Err(UnwritableWord { word: word.to_owned(), what });
        }
    }
    Ok(())
}
