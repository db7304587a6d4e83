//! Runs parsed commands: all of a write are checked before the first one is run.

use std::sync::Arc;

use super::{Accepted, Answer, BackupArgs, CancelArgs, Command, ControlFile, RestoreArgs, parse_lines};
use crate::operations::{BackupRequest, Operations, RestoreRequest};
use crate::types::{Refusal, RefusalKind};
use crate::vfs::{Caller, CommandOutcome, CommandRunner};

/// The commands of the control files over one repository.
pub struct Commands {
    operations: Arc<Operations>,
}

impl Commands {
    pub fn new(operations: Arc<Operations>) -> Self {
        Self { operations }
    }

    /// Runs the lines of one write.
    ///
    /// Lines that cannot be read, or would be refused as things stand, refuse the whole write before anything is
    /// done. A line that is refused only when its turn comes, because of the lines before it or of somebody else,
    /// ends the write there; the sentence says how many were accepted before.
    fn run_lines(&self, file: ControlFile, text: &[u8]) -> Result<Answer, Refusal> {
        let commands = parse_lines(file, text)?;
        if let [only] = commands.as_slice() {
            // What is checked first would be checked twice, and may cost a round trip to the source.
            return Ok(Answer::Accepted(vec![self.run_one(only)?]));
        }
        for (number, command) in (1..).zip(&commands) {
            self.check(command).map_err(|refusal| at_line(number, &refusal))?;
        }
        let mut accepted = Vec::with_capacity(commands.len());
        for command in &commands {
            match self.run_one(command) {
                Ok(one) => accepted.push(one),
                Err(refusal) => return Err(after_accepting(&accepted, &refusal)),
            }
        }
        Ok(Answer::Accepted(accepted))
    }

    fn check(&self, command: &Command) -> Result<(), Refusal> {
        match command {
            Command::Backup(args) => self.operations.check_backup(&backup_request(args)),
            Command::Restore(args) => self.operations.check_restore(&restore_request(args)),
            Command::Cancel(args) => self.operations.check_cancel(&args.job),
        }
    }

    fn run_one(&self, command: &Command) -> Result<Accepted, Refusal> {
        match command {
            Command::Backup(args) => self.backup(args),
            Command::Restore(args) => self.restore(args),
            Command::Cancel(args) => self.cancel(args),
        }
    }

    fn backup(&self, args: &BackupArgs) -> Result<Accepted, Refusal> {
        let accepted = self.operations.backup(&backup_request(args))?;
        Ok(Accepted::new()
            .with("backup", accepted.backup)
            .with("job", accepted.job)
            .with("is_incremental", accepted.is_incremental))
    }

    fn restore(&self, args: &RestoreArgs) -> Result<Accepted, Refusal> {
        let accepted = self.operations.restore(&restore_request(args))?;
        let volume = format!("{}/{}", accepted.source, accepted.volume);
        Ok(Accepted::new().with("backup", accepted.backup).with("job", accepted.job).with("volume", volume))
    }

    fn cancel(&self, args: &CancelArgs) -> Result<Accepted, Refusal> {
        self.operations.cancel(&args.job)?;
        Ok(Accepted::new().with("job", &args.job))
    }
}

fn backup_request(args: &BackupArgs) -> BackupRequest {
    BackupRequest {
        volume: args.volume.clone(),
        name: args.name.clone(),
        description: args.description.clone(),
        incremental: args.incremental,
        force: args.force,
        snapshot: args.snapshot.clone(),
        properties: args.properties.iter().cloned().collect(),
    }
}

fn restore_request(args: &RestoreArgs) -> RestoreRequest {
    RestoreRequest {
        backup: args.backup.clone(),
        to: args.to.clone(),
        name: args.name.clone(),
        source: args.source.clone(),
        volume_type: args.volume_type.clone(),
        force: args.force,
    }
}

fn at_line(number: usize, refusal: &Refusal) -> Refusal {
    Refusal::new(refusal.kind, format!("command {number}: {}; nothing was done", refusal.sentence))
}

fn after_accepting(accepted: &[Accepted], refusal: &Refusal) -> Refusal {
    let jobs: Vec<&str> = accepted.iter().filter_map(|one| one.value("job")).collect();
    if jobs.is_empty() {
        return refusal.clone();
    }
    let sentence = format!(
        "command {}: {}; those before it were accepted as jobs {}",
        accepted.len() + 1,
        refusal.sentence,
        jobs.join(", ")
    );
    Refusal::new(refusal.kind, sentence)
}

impl CommandRunner for Commands {
    fn run(&self, file: &str, _caller: Caller, text: &[u8]) -> CommandOutcome {
        let file = ControlFile::ALL.into_iter().find(|known| known.name() == file).ok_or_else(|| {
            Refusal::new(RefusalKind::InvalidInput, format!("there is no control file {file:?}"))
        });
        match file.and_then(|file| self.run_lines(file, text)) {
            Ok(answer) => CommandOutcome { answer: answer.to_string(), refusal: None },
            Err(refusal) => {
                CommandOutcome { answer: Answer::from(&refusal).to_string(), refusal: Some(refusal.kind) }
            }
        }
    }
}
