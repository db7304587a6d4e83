//! `amberfs backup list`: filters, order and pages over all backups that the caller may see.

use std::cmp::Ordering;

use clap::Args;
use serde_json::Value;

use super::error::CliError;
use super::fields::{BACKUP_FIELDS, Fields};
use super::format::{List, OutputArgs, normal};
use super::mounted::{Listing, Mounted};
use super::resolve;
use crate::control;

const STATUSES: [&str; 6] = ["creating", "available", "restoring", "deleting", "error", "error_deleting"];

const HEADINGS: [&str; 16] = [
    "ID",
    "Name",
    "Description",
    "Status",
    "Size",
    "Incremental",
    "Created At",
    "Availability Zone",
    "Volume",
    "Container",
    "Project",
    "Parent ID",
    "Stored Bytes",
    "Data Timestamp",
    "Last Verified At",
    "Damaged Bytes",
];

/// How many headings are shown without `--long`.
const SHORT: usize = 7;

/// List backups, the newest first
///
/// All that the caller may see. Sizes are in GiB, rounded up.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs backup list --volume myvol10 --status available
  amberfs backup list --sort size:desc,name --limit 10
  amberfs backup list --property ticket=4711 --long -f json
  amberfs backup list -f value -c ID -c Name")]
pub struct BackupListArgs {
    /// Only backups with this name
    #[arg(long)]
    name: Option<String>,

    /// Only backups in this status
    #[arg(long, value_parser = STATUSES)]
    status: Option<String>,

    /// Only backups of this volume: SOURCE/NAME, NAME or its id
    #[arg(long)]
    volume: Option<String>,

    /// Only backups of this project
    #[arg(long)]
    project: Option<String>,

    /// Backups of all projects that the caller may see (the default)
    #[arg(long, conflicts_with = "project")]
    all_projects: bool,

    /// Only backups with this property (repeat for several: all of them)
    #[arg(long = "property", value_name = "KEY=VALUE", value_parser = control::property)]
    properties: Vec<(String, String)>,

    /// Order by this field, ascending unless :desc follows (repeat, or separate by commas, for several)
    #[arg(long, value_name = "KEY[:desc]", value_delimiter = ',', value_parser = sort_key,
          default_value = "created_at:desc")]
    sort: Vec<SortKey>,

    /// Show at most so many backups
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,

    /// Show the backups after this one, in the order of the list
    #[arg(long, value_name = "BACKUP")]
    marker: Option<String>,

    /// Show more columns
    #[arg(long)]
    long: bool,

    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Clone, PartialEq)]
struct SortKey {
    field: &'static str,
    descending: bool,
}

/// Reads `KEY`, `KEY:asc` or `KEY:desc`; a key is a field of a backup, or a heading of the list.
fn sort_key(text: &str) -> Result<SortKey, String> {
    let (key, descending) = match text.split_once(':') {
        None => (text, false),
        Some((key, "asc")) => (key, false),
        Some((key, "desc")) => (key, true),
        Some((_, other)) => return Err(format!("{other:?} is no direction: write asc or desc")),
    };
    let key = match normal(key).as_str() {
        "incremental" => "is_incremental".to_owned(),
        "volume" => "volume_name".to_owned(),
        key => key.to_owned(),
    };
    match BACKUP_FIELDS.iter().find(|field| **field == key) {
        Some(field) => Ok(SortKey { field, descending }),
        None => Err(format!("there is no field {key:?}: there are {}", BACKUP_FIELDS.join(", "))),
    }
}

pub fn run(mounted: &Mounted, args: &BackupListArgs) -> Result<(), CliError> {
    let listing = mounted.backups()?;
    let rows = select(listing.entries, args)?.iter().map(row).collect();
    let shown = if args.long { HEADINGS.len() } else { SHORT };
    args.output.print_list(List { headings: &HEADINGS, shown, rows })?;
    Listing::complete(listing.unreadable)
}

fn select(mut backups: Vec<Fields>, args: &BackupListArgs) -> Result<Vec<Fields>, CliError> {
    let is = |wanted: &Option<String>, actual: &str| wanted.as_deref().is_none_or(|wanted| wanted == actual);
    // Looked up before the filters, so that a marker that they leave out is told from one that does not exist.
    let marker = args.marker.as_deref().map(|marker| resolve::find_backup(&backups, marker).cloned());
    let marker = marker.transpose()?;
    backups.retain(|backup| {
        is(&args.name, backup.text("name"))
            && is(&args.status, backup.text("status"))
            && is(&args.project, backup.text("project"))
            && args.volume.as_deref().is_none_or(|volume| backup.is_of_volume(volume))
            && args.properties.iter().all(|(key, value)| property(backup, key) == Some(value))
    });
    let order = |a: &Fields, b: &Fields| order(&args.sort, a, b);
    backups.sort_by(order);
    if let Some(marker) = marker {
        backups.retain(|backup| order(backup, &marker) == Ordering::Greater);
    }
    backups.truncate(args.limit.unwrap_or(usize::MAX));
    Ok(backups)
}

fn property<'a>(backup: &'a Fields, key: &str) -> Option<&'a str> {
    backup.value("properties").get(key)?.as_str()
}

/// Orders by the keys, and by id where they are equal, so that pages neither repeat nor skip a backup.
fn order(keys: &[SortKey], a: &Fields, b: &Fields) -> Ordering {
    let by_keys = keys.iter().map(|key| {
        let order = compare(a.value(key.field), b.value(key.field));
        if key.descending { order.reverse() } else { order }
    });
    by_keys.fold(Ordering::Equal, Ordering::then).then_with(|| a.text("id").cmp(b.text("id")))
}

/// Nothing goes before anything, numbers by their size, all else as text.
fn compare(a: &Value, b: &Value) -> Ordering {
    let rank = |value: &Value| match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::String(_) => 3,
        Value::Array(_) | Value::Object(_) => 4,
    };
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Number(x), Value::Number(y)) => match (x.as_u64(), y.as_u64()) {
            (Some(x), Some(y)) => x.cmp(&y),
            _ => x.as_f64().unwrap_or_default().total_cmp(&y.as_f64().unwrap_or_default()),
        },
        (Value::Array(_) | Value::Object(_), Value::Array(_) | Value::Object(_)) => {
            a.to_string().cmp(&b.to_string())
        }
        _ => rank(a).cmp(&rank(b)),
    }
}

fn row(backup: &Fields) -> Vec<Value> {
    let value = |name| backup.value(name).clone();
    vec![
        value("id"),
        value("name"),
        value("description"),
        value("status"),
        value("size"),
        value("is_incremental"),
        value("created_at"),
        value("availability_zone"),
        Value::from(backup.volume()),
        value("container"),
        value("project"),
        value("parent_id"),
        value("stored_bytes"),
        value("data_timestamp"),
        value("last_verified_at"),
        backup.value("damage").get("bytes").cloned().unwrap_or(Value::Null),
    ]
}
