//! Commands as the words of a line: what a client writes so that the daemon reads the same command.

use clap::ValueEnum;

use super::grammar::{
    BackupArgs, DeleteArgs, GcArgs, ResetStateArgs, RestoreArgs, ScratchArgs, SetArgs, VerifyArgs,
    XfsUuidArgs,
};

pub(super) fn of_backup(args: &BackupArgs) -> Vec<String> {
    let mut words = Words::default();
    words.option("--name", args.name.as_deref());
    words.option("--description", args.description.as_deref());
    words.flag("--incremental", args.incremental);
    words.flag("--force", args.force);
    words.option("--snapshot", args.snapshot.as_deref());
    words.properties(&args.properties);
    words.flag("--protect", args.protect);
    words.finish([&args.volume])
}

pub(super) fn of_restore(args: &RestoreArgs) -> Vec<String> {
    let mut words = Words::default();
    words.option("--to", args.to.as_deref());
    words.option("--name", args.name.as_deref());
    words.option("--source", args.source.as_deref());
    words.option("--type", args.volume_type.as_deref());
    words.option("--size", args.size.map(|size| size.to_string()).as_deref());
    words.option("--from-scratch", args.from_scratch.as_deref());
    words.flag("--force", args.force);
    words.flag("--new-xfs-uuid", args.new_xfs_uuid);
    words.flag("--skip-damaged", args.skip_damaged);
    words.finish(args.backup.iter().chain(&args.volume))
}

pub(super) fn of_xfs_uuid(args: &XfsUuidArgs) -> Vec<String> {
    let mut words = Words::default();
    words.option("--uuid", args.uuid.map(|uuid| uuid.to_string()).as_deref());
    words.option("--partition", args.partition.map(|number| number.to_string()).as_deref());
    words.option("--lv", args.lv.as_deref());
    words.flag("--dry-run", args.dry_run);
    words.finish([&args.target])
}

pub(super) fn of_delete(args: &DeleteArgs) -> Vec<String> {
    let mut words = Words::default();
    words.flag("--force", args.force);
    words.finish(&args.backups)
}

pub(super) fn of_gc(args: GcArgs) -> Vec<String> {
    let mut words = Words::default();
    words.flag("--dry-run", args.dry_run);
    words.option("--rewrite-below", Some(&args.rewrite_below.to_string()));
    words.finish([])
}

pub(super) fn of_verify(args: &VerifyArgs) -> Vec<String> {
    let mut words = Words::default();
    words.option("--volume", args.volume.as_deref());
    words.flag("--all", args.all);
    words.option("--older-than", args.older_than.map(|age| age.to_string()).as_deref());
    words.flag("--against-source", args.against_source);
    words.option("--rate", args.rate.map(|rate| rate.to_string()).as_deref());
    words.finish(&args.backups)
}

pub(super) fn of_scratch(args: &ScratchArgs) -> Vec<String> {
    let mut words = Words::default();
    words.option("--name", args.name.as_deref());
    words.flag("--keep", args.keep);
    words.finish([&args.backup])
}

pub(super) fn of_set(args: &SetArgs) -> Vec<String> {
    let mut words = Words::default();
    words.option("--name", args.name.as_deref());
    words.option("--description", args.description.as_deref());
    words.flag("--no-property", args.no_property);
    words.properties(&args.properties);
    for key in &args.removed_properties {
        words.option("--remove-property", Some(key));
    }
    words.flag("--protect", args.protect);
    words.flag("--no-protect", args.no_protect);
    words.finish([&args.backup])
}

pub(super) fn of_reset_state(args: &ResetStateArgs) -> Vec<String> {
    let mut words = Words::default();
    let state = args.state.or(args.new_state).and_then(|state| state.to_possible_value());
    words.option("--state", state.as_ref().map(|state| state.get_name()));
    words.finish([&args.backup])
}

pub(super) fn of_operand(operand: &String) -> Vec<String> {
    Words::default().finish([operand])
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

    fn properties(&mut self, properties: &[(String, String)]) {
        for (key, value) in properties {
            self.option("--property", Some(&format!("{key}={value}")));
        }
    }

    /// Adds the operands: in front, or behind `--` when one would be read as an option.
    fn finish<'a>(mut self, operands: impl IntoIterator<Item = &'a String>) -> Vec<String> {
        let mut operands: Vec<String> = operands.into_iter().cloned().collect();
        if operands.iter().any(|operand| operand.starts_with('-')) {
            self.0.push("--".to_owned());
            self.0.append(&mut operands);
            return self.0;
        }
        operands.append(&mut self.0);
        operands
    }
}
