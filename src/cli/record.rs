//! `amberfs backup export` and `import`: records, which bring backups back when every local state is lost.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

use super::error::CliError;
use super::format::{List, OutputArgs};
use super::mounted::Mounted;
use super::{output, resolve};
use crate::control::{Command, ImportArgs};
use crate::sysio::atomic;
use crate::types::{MIB, RefusalKind};

/// Ten thousand records; what is longer is none.
const INPUT_BYTES_MAX: u64 = 16 * MIB;

const HEADINGS: [&str; 4] = ["ID", "Name", "Volume", "Status"];

/// Write a backup's record to a file, or to standard output
///
/// A record is one line of text. With it, and the repository's data, `backup import` brings the backup back.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs backup export monday monday.record
  for id in $(amberfs backup list -f value -c ID --status available); do
    amberfs backup export $id; done > all.records")]
pub struct BackupExportArgs {
    /// Backup: its id, 8 or more characters of the id's start, its name, or VOLUME@latest
    backup: String,

    /// File to write (default, or as -: standard output); one that exists is left as it is, and that is an error
    file: Option<PathBuf>,
}

/// Bring backups back by their records
///
/// All of the records, or none when one of them cannot be: its backup exists, its text was altered, or data of it is
/// not in the repository. A backup that leans on others needs them there, or their records here too, in any order.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs backup import monday.record tuesday.record
  amberfs backup import < all.records")]
pub struct BackupImportArgs {
    /// Files with records, one a line; without any, or as -, standard input
    files: Vec<PathBuf>,

    #[command(flatten)]
    output: OutputArgs,
}

pub fn export(mounted: &Mounted, args: &BackupExportArgs) -> Result<(), CliError> {
    let backup = resolve::backup(mounted, &args.backup)?;
    let (id, status) = (backup.text("id"), backup.text("status"));
    if !matches!(status, "available" | "restoring") {
        let sentence = format!("backup {id} is {status}; only an available one can be exported");
        return Err(CliError::refused(RefusalKind::InvalidState, sentence));
    }
    let record = mounted.record(id)?;
    let named = args.file.as_deref().filter(|file| *file != Path::new("-"));
    let Some(file) = named else { return output::print(&record) };
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    atomic::publish(folder, file, &record).map_err(CliError::Export)
}

pub fn import(mounted: &Mounted, args: &BackupImportArgs) -> Result<(), CliError> {
    let standard_input = [PathBuf::from("-")];
    let files = if args.files.is_empty() { &standard_input[..] } else { &args.files };
    let mut commands = Vec::new();
    for file in files {
        let text = read(file)?;
        let records = text.lines().filter(|line| !line.trim().is_empty());
        commands.extend(records.map(|line| Command::Import(ImportArgs { record: line.to_owned() })));
    }
    if commands.is_empty() {
        let sentence = "there is no record to import: the input is empty";
        return Err(CliError::refused(RefusalKind::InvalidRecord, sentence));
    }
    let mut rows = Vec::new();
    for accepted in mounted.send(&commands)? {
        let backup = resolve::backup(mounted, accepted.value("backup").unwrap_or_default())?;
        let value = |name| backup.value(name).clone();
        rows.push(vec![value("id"), value("name"), Value::from(backup.volume()), value("status")]);
    }
    args.output.print_list(List { headings: &HEADINGS, shown: HEADINGS.len(), rows })
}

/// Reads the records of one file, or of standard input.
fn read(path: &Path) -> Result<String, CliError> {
    let mut bytes = Vec::new();
    let bounded = |input: &mut dyn Read, bytes: &mut Vec<u8>| -> io::Result<usize> {
        input.take(INPUT_BYTES_MAX + 1).read_to_end(bytes)
    };
    let result = if path == Path::new("-") {
        bounded(&mut io::stdin().lock(), &mut bytes)
    } else {
        File::open(path).and_then(|mut file| bounded(&mut file, &mut bytes))
    };
    result.map_err(|source| CliError::Io { what: "read", path: path.to_owned(), source })?;
    let unreadable = |what: &str| CliError::Unreadable { path: path.to_owned(), what: what.to_owned() };
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        return Err(unreadable("it is too long to hold records: more than 16 MiB"));
    }
    String::from_utf8(bytes).map_err(|_| unreadable("it holds no records: it is not UTF-8"))
}
