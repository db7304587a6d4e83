//! `amberfs quota show`: what a project may use, and what it uses.

use clap::Args;
use serde_json::Value;

use super::error::CliError;
use super::fields::Fields;
use super::format::{List, OutputArgs};
use super::mounted::{Listing, Mounted};
use crate::types::RefusalKind;

/// `Project` is the last one, so that it can be left out where there is one project.
const HEADINGS: [&str; 4] = ["Resource", "In Use", "Limit", "Project"];

/// The resources that have a limit, in the order in which they are shown.
const LIMITED: [&str; 4] = ["backups", "backup_gigabytes", "volumes", "gigabytes"];

/// What nothing limits is shown as OpenStack shows it.
const NO_LIMIT: i64 = -1;

/// Show the limits of projects, and what they use of them
///
/// A limit of -1 is none. `stored_bytes` is what the project's backups take in the repository, compressed and each
/// chunk once; gigabytes are counted as OpenStack does: the sizes of the volumes, rounded up.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs quota show
  amberfs quota show default -f json
  amberfs quota show default -f value -c Resource -c Limit")]
pub struct QuotaShowArgs {
    /// Project (default: all that the caller may see)
    project: Option<String>,

    #[command(flatten)]
    output: OutputArgs,
}

pub fn show(mounted: &Mounted, args: &QuotaShowArgs) -> Result<(), CliError> {
    let Listing { entries: mut quotas, unreadable } = mounted.quotas()?;
    quotas.sort_by_key(|quota| quota.text("project").to_owned());
    if let Some(project) = &args.project {
        quotas.retain(|quota| quota.text("project") == project);
        if quotas.is_empty() {
            Listing::complete(unreadable)?;
            let sentence = format!("there is no project {project:?} that is yours: see amberfs quota show");
            return Err(CliError::refused(RefusalKind::NotAuthorized, sentence));
        }
    }
    let shown = if quotas.len() == 1 { HEADINGS.len() - 1 } else { HEADINGS.len() };
    let rows = quotas.iter().flat_map(rows).collect();
    args.output.print_list(List { headings: &HEADINGS, shown, rows })?;
    Listing::complete(unreadable)
}

fn rows(quota: &Fields) -> Vec<Vec<Value>> {
    let project = || quota.value("project").clone();
    let of = |resource: &str, field: &str| quota.value(resource).get(field).cloned().unwrap_or(Value::Null);
    let limited = LIMITED
        .iter()
        .map(|resource| vec![Value::from(*resource), of(resource, "used"), of(resource, "limit"), project()]);
    let stored = vec![
        Value::from("stored_bytes"),
        quota.value("stored_bytes").clone(),
        Value::from(NO_LIMIT),
        project(),
    ];
    limited.chain([stored]).collect()
}
