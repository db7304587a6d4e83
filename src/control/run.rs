//! Runs parsed commands: all of a write are checked before the first one is run.

use std::sync::Arc;

use super::grammar::OlderThan;
use super::{
    Accepted, Answer, BackupArgs, Command, ControlFile, DeleteArgs, NewState, ResetStateArgs, RestoreArgs,
    ScratchArgs, SetArgs, VerifyArgs, XfsUuidArgs, parse_lines,
};
use crate::catalog::BackupStatus;
use crate::contents::PartName;
use crate::operations::{
    BackupRequest, DeleteAccepted, DeleteRequest, GcRequest, Operations, Requester, RestoreRequest,
    ScratchRequest, SetRequest, VerifyAccepted, VerifyRequest, XfsUuidChange, XfsUuidRequest,
};
use crate::sysio::clock;
use crate::types::{BackupId, Refusal, RefusalKind};
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
    /// ends the write there; the sentence says how many were accepted before. Deletes and imports are taken
    /// together, since their order does not matter.
    fn run_lines(&self, file: ControlFile, requester: &Requester, text: &[u8]) -> Result<Answer, Refusal> {
        let commands = parse_lines(file, text)?;
        if let [only] = commands.as_slice() {
            // What is checked first would be checked twice, and may cost a round trip to the source.
            return Ok(Answer::Accepted(vec![self.run_one(requester, only)?]));
        }
        match file {
            ControlFile::Delete => return self.delete(requester, &commands),
            ControlFile::Import => return self.import(requester, &commands),
            _ => {}
        }
        for (number, command) in (1..).zip(&commands) {
            self.check(requester, command).map_err(|refusal| at_line(number, &refusal))?;
        }
        let mut accepted = Vec::with_capacity(commands.len());
        for command in &commands {
            match self.run_one(requester, command) {
                Ok(one) => accepted.push(one),
                Err(refusal) => return Err(after_accepting(&accepted, &refusal)),
            }
        }
        Ok(Answer::Accepted(accepted))
    }

    fn check(&self, requester: &Requester, command: &Command) -> Result<(), Refusal> {
        let operations = &self.operations;
        match command {
            Command::Backup(args) => operations.check_backup(requester, &backup_request(args)),
            Command::Restore(args) => operations.check_restore(requester, &restore_request(args)),
            Command::Cancel(args) => operations.check_cancel(requester, &args.job),
            Command::Set(args) => operations.check_set(requester, &set_request(args)),
            Command::ResetState(args) => {
                operations.check_reset_state(requester, &args.backup, new_status(args))
            }
            Command::Flatten(args) => operations.check_flatten(requester, &args.backup),
            Command::Gc(_) => operations.check_gc(requester),
            Command::Verify(args) => operations.check_verify(requester, &verify_request(args)),
            Command::Scratch(args) => operations.check_scratch(requester, &scratch_request(args)),
            Command::XfsUuid(args) => {
                let request = XfsUuidRequest { dry_run: true, ..xfs_uuid_request(args) };
                operations.change_xfs_uuid(requester, &request).map(drop)
            }
            // Several of them are one request, which is checked as a whole.
            Command::Delete(_) | Command::Import(_) => Ok(()),
        }
    }

    fn run_one(&self, requester: &Requester, command: &Command) -> Result<Accepted, Refusal> {
        let operations = &self.operations;
        match command {
            Command::Backup(args) => {
                let accepted = operations.backup(requester, &backup_request(args))?;
                Ok(Accepted::new()
                    .with("backup", accepted.backup)
                    .with("job", accepted.job)
                    .with("is_incremental", accepted.is_incremental))
            }
            Command::Restore(args) => {
                let accepted = operations.restore(requester, &restore_request(args))?;
                let volume = format!("{}/{}", accepted.source, accepted.volume);
                let answer = Accepted::new().with("backup", accepted.backup).with("job", accepted.job);
                let answer = answer.with("volume", volume);
                Ok(accepted.xfs_uuids.iter().fold(answer, |answer, (part, uuid)| {
                    answer.with(&format!("xfs_uuid{}", suffix(part)), uuid)
                }))
            }
            Command::Delete(args) => Ok(deleted(&operations.delete(requester, &delete_requests(args))?)),
            Command::Cancel(args) => {
                operations.cancel(requester, &args.job)?;
                Ok(Accepted::new().with("job", &args.job))
            }
            Command::Set(args) => {
                Ok(Accepted::new().with("backup", operations.set(requester, &set_request(args))?))
            }
            Command::ResetState(args) => {
                let status = new_status(args);
                let backup = operations.reset_state(requester, &args.backup, status)?;
                Ok(Accepted::new().with("backup", backup).with("status", status))
            }
            Command::Import(args) => {
                let backups = operations.import(requester, std::slice::from_ref(&args.record))?;
                Ok(backups.iter().fold(Accepted::new(), |answer, backup| answer.with("backup", backup)))
            }
            Command::Flatten(args) => {
                let accepted = operations.flatten(requester, &args.backup)?;
                Ok(Accepted::new().with("backup", accepted.backup).with("job", accepted.job))
            }
            Command::Gc(args) => {
                let request = GcRequest { dry_run: args.dry_run, rewrite_below_percent: args.rewrite_below };
                Ok(Accepted::new().with("job", operations.gc(requester, request)?))
            }
            Command::Verify(args) => {
                let accepted = operations.verify(requester, &verify_request(args))?;
                let answer = |answer: Accepted, one: &VerifyAccepted| {
                    answer.with("backup", one.backup).with("job", one.job)
                };
                Ok(accepted.iter().fold(Accepted::new(), answer))
            }
            Command::XfsUuid(args) => {
                Ok(changed(&operations.change_xfs_uuid(requester, &xfs_uuid_request(args))?))
            }
            Command::Scratch(args) => {
                let accepted = operations.scratch_image(requester, &scratch_request(args))?;
                Ok(Accepted::new().with("backup", accepted.backup).with("scratch", accepted.name))
            }
        }
    }

    /// Takes the backups of all lines together: what leans on others goes first, in whatever order they are named.
    fn delete(&self, requester: &Requester, commands: &[Command]) -> Result<Answer, Refusal> {
        let of_line = |command: &Command| match command {
            Command::Delete(args) => delete_requests(args),
            _ => Vec::new(),
        };
        let lines: Vec<Vec<DeleteRequest>> = commands.iter().map(of_line).collect();
        let mut accepted = self.operations.delete(requester, &lines.concat())?.into_iter();
        let answer =
            |line: &Vec<DeleteRequest>| deleted(&accepted.by_ref().take(line.len()).collect::<Vec<_>>());
        Ok(Answer::Accepted(lines.iter().map(answer).collect()))
    }

    fn import(&self, requester: &Requester, commands: &[Command]) -> Result<Answer, Refusal> {
        let record = |command: &Command| match command {
            Command::Import(args) => Some(args.record.clone()),
            _ => None,
        };
        let records: Vec<String> = commands.iter().filter_map(record).collect();
        let backups = self.operations.import(requester, &records)?;
        let answer = |backup: &BackupId| Accepted::new().with("backup", backup);
        Ok(Answer::Accepted(backups.iter().map(answer).collect()))
    }
}

/// One line's answer: `backup` and `job` of each backup that it names.
fn deleted(accepted: &[DeleteAccepted]) -> Accepted {
    let answer =
        |answer: Accepted, one: &DeleteAccepted| answer.with("backup", one.backup).with("job", one.job);
    accepted.iter().fold(Accepted::new(), answer)
}

/// In `xfs_uuid.3.root`, the partition and the logical volume.
fn suffix(part: &PartName) -> String {
    let number = part.partition.map(|number| format!(".{number}")).unwrap_or_default();
    let name = part.logical_volume.as_ref().map(|name| format!(".{name}")).unwrap_or_default();
    number + &name
}

/// `partition`, `lv`, `old_uuid` and `new_uuid` of each file system.
fn changed(changes: &[XfsUuidChange]) -> Accepted {
    changes.iter().fold(Accepted::new(), |mut answer, change| {
        if let Some(number) = change.part.partition {
            answer = answer.with("partition", number);
        }
        if let Some(name) = &change.part.logical_volume {
            answer = answer.with("lv", name);
        }
        answer.with("old_uuid", change.old_uuid).with("new_uuid", change.new_uuid)
    })
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
        protect: args.protect,
    }
}

fn restore_request(args: &RestoreArgs) -> RestoreRequest {
    RestoreRequest {
        backup: args.backup.clone().unwrap_or_default(),
        from_scratch: args.from_scratch.clone(),
        to: args.to.clone().or_else(|| args.volume.clone()),
        name: args.name.clone(),
        source: args.source.clone(),
        volume_type: args.volume_type.clone(),
        size_bytes: args.size.map(|size| size.0),
        force: args.force,
        new_xfs_uuid: args.new_xfs_uuid,
        skip_damaged: args.skip_damaged,
    }
}

/// What `amberfs xfs-uuid` asks for.
pub fn xfs_uuid_request(args: &XfsUuidArgs) -> XfsUuidRequest {
    XfsUuidRequest {
        target: args.target.clone(),
        uuid: args.uuid,
        partition: args.partition,
        logical_volume: args.lv.clone(),
        dry_run: args.dry_run,
    }
}

fn scratch_request(args: &ScratchArgs) -> ScratchRequest {
    ScratchRequest { backup: args.backup.clone(), name: args.name.clone(), keep: args.keep }
}

fn verify_request(args: &VerifyArgs) -> VerifyRequest {
    let not_since = args.older_than.map(|older_than| match older_than {
        OlderThan::Time(time) => time,
        OlderThan::Age(age) => clock::now().earlier_by(age),
    });
    VerifyRequest {
        backups: args.backups.clone(),
        volume: args.volume.clone(),
        // An age alone is asked of all.
        all: args.all || (args.backups.is_empty() && args.volume.is_none()),
        not_since,
        against_source: args.against_source,
        rate: args.rate,
    }
}

fn delete_requests(args: &DeleteArgs) -> Vec<DeleteRequest> {
    let request = |backup: &String| DeleteRequest { backup: backup.clone(), force: args.force };
    args.backups.iter().map(request).collect()
}

fn set_request(args: &SetArgs) -> SetRequest {
    SetRequest {
        backup: args.backup.clone(),
        name: args.name.clone(),
        description: args.description.clone(),
        clear_properties: args.no_property,
        properties: args.properties.iter().cloned().collect(),
        removed_properties: args.removed_properties.clone(),
        protected: match (args.protect, args.no_protect) {
            (true, _) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
        },
    }
}

/// The state to set: that of the option, else the operand's, else `available`, as OpenStack has it.
fn new_status(args: &ResetStateArgs) -> BackupStatus {
    match args.state.or(args.new_state) {
        Some(NewState::Error) => BackupStatus::Error,
        Some(NewState::Available) | None => BackupStatus::Available,
    }
}

fn at_line(number: usize, refusal: &Refusal) -> Refusal {
    Refusal::new(refusal.kind, format!("command {number}: {}; nothing was done", refusal.sentence))
}

fn after_accepting(accepted: &[Accepted], refusal: &Refusal) -> Refusal {
    if accepted.is_empty() {
        return refusal.clone();
    }
    let jobs: Vec<&str> = accepted.iter().filter_map(|one| one.value("job")).collect();
    let how = match jobs.is_empty() {
        true => "were done".to_owned(),
        false => format!("were accepted as jobs {}", jobs.join(", ")),
    };
    let sentence = format!("command {}: {}; those before it {how}", accepted.len() + 1, refusal.sentence);
    Refusal::new(refusal.kind, sentence)
}

impl CommandRunner for Commands {
    fn run(&self, file: &str, caller: Caller, text: &[u8]) -> CommandOutcome {
        let file = ControlFile::ALL.into_iter().find(|known| known.name() == file).ok_or_else(|| {
            Refusal::new(RefusalKind::InvalidInput, format!("there is no control file {file:?}"))
        });
        let requester = self.operations.requester(caller.uid);
        match file.and_then(|file| self.run_lines(file, &requester, text)) {
            Ok(answer) => CommandOutcome { answer: answer.to_string(), refusal: None },
            Err(refusal) => {
                CommandOutcome { answer: Answer::from(&refusal).to_string(), refusal: Some(refusal.kind) }
            }
        }
    }
}
