//! `amberfs repo check`: what is damaged in a repository, whom it hurts, and with `--repair` what could be put right.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::error::CliError;
use super::format::{Format, List, OutputArgs};
use super::long_run::LongRun;
use super::output::note;
use crate::check::{CheckReport, DamagedObject, DamagedPlace, HurtBackup, RepairReport, Stray};
use crate::daemon::{self, RepoCheckOptions};
use crate::types::ByteRange;

/// So many ranges of a backup stand in a table; JSON has more.
const RANGES_SHOWN: usize = 4;

/// Read a whole repository and tell what is damaged
///
/// Reads every pack, manifest and record, and tells which backups are hurt, in which byte ranges of their images, and
/// which files of the repository are damaged, missing or left over. Needs no mount; a daemon that runs is not disturbed.
/// With --repair, which needs the repository for itself, damaged and missing data is taken from where the same
/// data still is: snapshots at the sources, what the volumes have now, and another repository.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs repo check
  amberfs repo check --repo /srv/backups -f json
  amberfs repo check --repair --from /mnt/other/backups

Exit status:
  0  nothing is damaged, or all of it was repaired
  1  something is damaged")]
pub struct RepoCheckArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Directory of the repository
    #[arg(long, value_name = "DIR")]
    repo: Option<PathBuf>,

    /// Look whether everything is there, and read no chunk: a flipped bit in one is not found
    #[arg(long, conflicts_with = "repair")]
    quick: bool,

    /// Repair what can be repaired; no daemon may have the repository open
    #[arg(long)]
    repair: bool,

    /// Another repository, a directory or a URL, in which the same data may be
    #[arg(long, value_name = "DIR_OR_URL", requires = "repair")]
    from: Option<String>,

    /// Directory of raw images, looked into as the source `local`
    #[arg(long, value_name = "DIR", requires = "repair")]
    volumes: Option<PathBuf>,

    #[command(flatten)]
    output: OutputArgs,
}

pub fn run(args: RepoCheckArgs) -> Result<(), CliError> {
    let RepoCheckArgs { config, repo, quick, repair, from, volumes, output } = args;
    let options = RepoCheckOptions { config, repo, volumes, quick };
    let run = LongRun::begin();
    if repair {
        let report = daemon::repo_repair(&options, from.as_deref(), &run.watch);
        drop(run);
        return print_repair(&output, &report?);
    }
    let checked = daemon::repo_check(&options, &run.watch);
    drop(run);
    let (report, is_remembered) = checked?;
    print(&output, &report, if quick { "quick" } else { "full" }, &[])?;
    if !report.damaged.is_empty() && !is_remembered && !quick {
        note("a daemon has the repository: `amberfs backup verify` lets it know of this damage");
    }
    outcome(&report)
}

fn print_repair(output: &OutputArgs, report: &RepairReport) -> Result<(), CliError> {
    report.notes.iter().for_each(|line| note(line));
    let repaired: Vec<Value> = report
        .repaired
        .iter()
        .map(|repaired| json!({"what": repaired.what, "from": repaired.from}))
        .collect();
    let fields = [
        ("hurt_backups_before".to_owned(), json!(report.before.hurt.len())),
        ("damaged_objects_before".to_owned(), json!(report.before.damaged.len())),
        ("repaired".to_owned(), json!(repaired)),
        ("repaired_left_out".to_owned(), json!(report.repaired_left_out)),
        ("repaired_chunks".to_owned(), json!(report.chunks)),
        ("notes".to_owned(), json!(report.notes)),
    ];
    print(output, &report.after, "full", &fields)?;
    if output.format == Format::Table && output.columns.is_empty() {
        let rows = report.repaired.iter();
        output.print_list(List {
            headings: &["Repaired", "From"],
            shown: 2,
            rows: rows.map(|repaired| vec![json!(repaired.what), json!(repaired.from)]).collect(),
        })?;
    }
    outcome(&report.after)
}

fn outcome(report: &CheckReport) -> Result<(), CliError> {
    if report.is_sound() {
        return Ok(());
    }
    Err(CliError::Damaged { backups: report.hurt.len(), objects: report.damaged.len() })
}

fn print(
    output: &OutputArgs,
    report: &CheckReport,
    level: &str,
    more: &[(String, Value)],
) -> Result<(), CliError> {
    let counts = report.counts;
    let is_table = output.format == Format::Table;
    let list = |name: &str, items: Vec<Value>| {
        (name.to_owned(), if is_table { json!(items.len()) } else { Value::Array(items) })
    };
    let mut fields: Vec<(String, Value)> = vec![
        ("sound".to_owned(), json!(report.is_sound())),
        ("level".to_owned(), json!(level)),
        ("packs".to_owned(), json!(counts.packs)),
        ("pack_bytes".to_owned(), json!(counts.pack_bytes)),
        ("chunks".to_owned(), json!(counts.chunks)),
        ("manifests".to_owned(), json!(counts.manifests)),
        ("records".to_owned(), json!(counts.records)),
        ("backups".to_owned(), json!(counts.backups)),
        list("hurt_backups", report.hurt.iter().map(hurt_backup).collect()),
        list("damaged_objects", report.damaged.iter().map(damaged_object).collect()),
        list("strays", report.strays.iter().map(stray).collect()),
        ("unused_packs".to_owned(), json!(report.unused_packs)),
        ("unused_bytes".to_owned(), json!(report.unused_bytes)),
    ];
    fields.extend(more.iter().map(|(name, value)| match value {
        Value::Array(items) if is_table => (name.clone(), json!(items.len())),
        value => (name.clone(), value.clone()),
    }));
    output.print_object(&fields)?;
    if is_table && output.columns.is_empty() {
        print_lists(output, report)?;
    }
    Ok(())
}

fn print_lists(output: &OutputArgs, report: &CheckReport) -> Result<(), CliError> {
    let hurt = report.hurt.iter().map(|hurt| {
        let ranges = hurt.ranges.iter().take(RANGES_SHOWN).map(ToString::to_string);
        let mut ranges = ranges.collect::<Vec<_>>().join(", ");
        if hurt.ranges.len() > RANGES_SHOWN {
            ranges.push_str(&format!(" and {} more", hurt.ranges.len() - RANGES_SHOWN));
        }
        let why = hurt.why.first();
        vec![
            json!(hurt.id.to_string()),
            json!(hurt.name),
            json!(hurt.volume),
            json!(hurt.hurt_bytes),
            json!(ranges),
            json!(why),
        ]
    });
    output.print_list(List {
        headings: &["Hurt Backup", "Name", "Volume", "Hurt Bytes", "Ranges", "Why"],
        shown: 6,
        rows: hurt.collect(),
    })?;
    let damaged = report.damaged.iter().flat_map(|object| {
        object.places.iter().map(|place| {
            vec![json!(object.path), json!(place.range.map(|range| range.to_string())), json!(place.why)]
        })
    });
    output.print_list(List {
        headings: &["Damaged Object", "Where", "Why"],
        shown: 3,
        rows: damaged.collect(),
    })?;
    let strays =
        report.strays.iter().map(|stray| vec![json!(stray.path), json!(stray.bytes), json!(stray.why)]);
    output.print_list(List { headings: &["Stray", "Bytes", "Why"], shown: 3, rows: strays.collect() })
}

fn hurt_backup(hurt: &HurtBackup) -> Value {
    json!({
        "id": hurt.id.to_string(),
        "name": hurt.name,
        "volume": hurt.volume,
        "data_timestamp": hurt.data_timestamp.map(|time| time.to_string()),
        "size_bytes": hurt.size_bytes,
        "hurt_bytes": hurt.hurt_bytes,
        "ranges": hurt.ranges.iter().map(|range| range_of(*range)).collect::<Vec<_>>(),
        "ranges_left_out": hurt.ranges_left_out,
        "why": hurt.why,
    })
}

fn damaged_object(object: &DamagedObject) -> Value {
    let place = |place: &DamagedPlace| json!({"range": place.range.map(range_of), "why": place.why});
    json!({
        "path": object.path,
        "places": object.places.iter().map(place).collect::<Vec<_>>(),
        "places_left_out": object.places_left_out,
    })
}

fn stray(stray: &Stray) -> Value {
    json!({"path": stray.path, "bytes": stray.bytes, "why": stray.why})
}

fn range_of(range: ByteRange) -> Value {
    json!({"start": range.start(), "end": range.end()})
}
