//! `repo check`, `repo check --repair` and `repo rebuild`: from the configuration to a whole repository, without a daemon.

use std::path::Path;

use super::config::{Config, absolute};
use super::{DaemonError, RepoCheckOptions, RepoRebuildOptions, assemble, keep_private};
use crate::check::{self, CheckReport, Depth, RebuildReport, RepairReport, Watch};
use crate::repository::Location;

/// Checks a repository. Returns also whether the next daemon knows of what is damaged: one that is running does not.
pub fn repo_check(options: &RepoCheckOptions, watch: &Watch) -> Result<(CheckReport, bool), DaemonError> {
    let config = Config::load(options.config.as_deref(), options.repo.as_deref())?;
    keep_private();
    let depth = if options.quick { Depth::Structure } else { Depth::Everything };
    let location: Location = config.repository.url.parse()?;
    let repository_options = assemble::repository_options(&config)?;
    Ok(check::check_and_remember(&location, &repository_options, depth, watch)?)
}

/// Repairs a repository from its sources and from another one, `from`: a directory, or a URL as in the configuration.
pub fn repo_repair(
    options: &RepoCheckOptions,
    from: Option<&str>,
    watch: &Watch,
) -> Result<RepairReport, DaemonError> {
    let mut config = Config::load(options.config.as_deref(), options.repo.as_deref())?;
    config.add_volumes(options.volumes.as_deref())?;
    keep_private();
    let location: Location = config.repository.url.parse()?;
    let repository_options = assemble::repository_options(&config)?;
    let from = from.map(other_location).transpose()?;
    let (sources, notes) = assemble::sources_that_are_there(&config);
    let mut report = check::repair(&location, &repository_options, &sources, from.as_ref(), watch)?;
    report.notes.extend(notes);
    Ok(report)
}

/// Writes lost records again.
pub fn repo_rebuild(options: &RepoRebuildOptions, watch: &Watch) -> Result<RebuildReport, DaemonError> {
    let config = Config::load(options.config.as_deref(), options.repo.as_deref())?;
    keep_private();
    let location: Location = config.repository.url.parse()?;
    let repository_options = assemble::repository_options(&config)?;
    Ok(check::rebuild(&location, &repository_options, options.dry_run, watch)?)
}

fn other_location(text: &str) -> Result<Location, DaemonError> {
    if text.contains(':') {
        return Ok(text.parse()?);
    }
    Ok(Location::Directory(absolute(Path::new(text))?))
}
