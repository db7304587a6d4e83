//! `amberfs scratch`: writable views of backups, to be thrown away.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::error::CliError;
use super::format::{List, OutputArgs};
use super::mounted::{Listing, Mounted};
use super::output;
use crate::control::{Command, ScratchArgs};

const HEADINGS: [&str; 7] = ["Name", "Backup", "Size", "Written", "Keep", "Created", "Project"];

/// The fields behind the headings.
const FIELDS: [&str; 7] = ["name", "backup", "size_bytes", "written_bytes", "keep", "created_at", "project"];

/// Make a writable view of a backup
///
/// It can be written to, repaired, mounted and booted from; what is written goes to a file of its own, and the
/// backup stays as it is. Prints the path of the image. A backup with a scratch image cannot be deleted.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs scratch create monday
  amberfs scratch create monday --name try --keep
  losetup --direct-io=on --find --show \"$(amberfs scratch create monday)\"")]
pub struct ScratchCreateArgs {
    #[command(flatten)]
    command: ScratchArgs,
}

/// List the scratch images
#[derive(Debug, Args)]
pub struct ScratchListArgs {
    #[command(flatten)]
    output: OutputArgs,
}

/// Throw scratch images away
///
/// The same as rm on their files.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs scratch delete try")]
pub struct ScratchDeleteArgs {
    /// Scratch image to throw away (repeat for several)
    #[arg(required = true, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    names: Vec<String>,
}

pub fn create(mounted: &Mounted, args: ScratchCreateArgs) -> Result<(), CliError> {
    let accepted = mounted.send_one(Command::Scratch(args.command))?;
    let name = accepted.value("scratch").unwrap_or_default();
    output::print(format!("{}\n", mounted.scratch_path(name).display()).as_bytes())
}

pub fn list(mounted: &Mounted, args: &ScratchListArgs) -> Result<(), CliError> {
    let Listing { entries, unreadable } = mounted.scratch_images()?;
    let row = |image: &super::fields::Fields| FIELDS.map(|field| image.value(field).clone()).to_vec();
    let rows = entries.iter().map(row).collect();
    args.output.print_list(List { headings: &HEADINGS, shown: HEADINGS.len() - 1, rows })?;
    Listing::complete(unreadable)
}

pub fn delete(mounted: &Mounted, args: &ScratchDeleteArgs) -> Result<(), CliError> {
    let mut failed = 0;
    for name in &args.names {
        if let Err(error) = mounted.remove_scratch(name) {
            output::note(&error.with_causes());
            failed += 1;
        }
    }
    match failed {
        0 => Ok(()),
        count => {
            let total = args.names.len();
            Err(CliError::SomeFailed { count, total, what: "scratch images were not thrown away" })
        }
    }
}
