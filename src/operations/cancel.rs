//! Cancelling a job: it stops at its next checkpoint and leaves nothing that its rules do not say.

use super::access::not_authorized;
use super::{Operations, Requester};
use crate::jobs::{JobId, JobReport};
use crate::types::{Refusal, RefusalKind};

impl Operations {
    pub fn check_cancel(&self, requester: &Requester, job: &str) -> Result<(), Refusal> {
        let report = self.job_of(requester, job)?;
        if report.state.has_ended() {
            let sentence = format!("job {job} has ended: it is {}", report.state);
            return Err(Refusal::new(RefusalKind::InvalidState, sentence));
        }
        Ok(())
    }

    pub fn cancel(&self, requester: &Requester, job: &str) -> Result<(), Refusal> {
        let report = self.job_of(requester, job)?;
        Ok(self.jobs.cancel(report.id)?)
    }

    fn job_of(&self, requester: &Requester, text: &str) -> Result<JobReport, Refusal> {
        let id: Option<JobId> = text.parse().ok();
        // The jobs that a reader's user may have in mind are the writer's.
        let unknown = || self.check_writable().err().unwrap_or_else(|| no_such_job(text));
        let report = id.and_then(|id| self.jobs.report(id)).ok_or_else(unknown)?;
        let is_own = report.project.parse().is_ok_and(|project| requester.owns(&project));
        if !is_own && !requester.is_operator() {
            return Err(not_authorized(format!("job {text} does not belong to a project of yours")));
        }
        Ok(report)
    }
}

fn no_such_job(text: &str) -> Refusal {
    Refusal::new(RefusalKind::JobNotFound, format!("there is no job {text:?}; `amberfs job list` shows all"))
}
