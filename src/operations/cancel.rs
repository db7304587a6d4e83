//! Cancelling a job: it stops at its next checkpoint and leaves nothing that its rules do not say.

use super::Operations;
use crate::jobs::JobId;
use crate::types::{Refusal, RefusalKind};

impl Operations {
    pub fn check_cancel(&self, job: &str) -> Result<(), Refusal> {
        let report = self.jobs.report(job_id(job)?).ok_or_else(|| no_such_job(job))?;
        if report.state.has_ended() {
            let sentence = format!("job {job} has ended: it is {}", report.state);
            return Err(Refusal::new(RefusalKind::InvalidState, sentence));
        }
        Ok(())
    }

    pub fn cancel(&self, job: &str) -> Result<(), Refusal> {
        Ok(self.jobs.cancel(job_id(job)?)?)
    }
}

fn job_id(text: &str) -> Result<JobId, Refusal> {
    text.parse().map_err(|_| no_such_job(text))
}

fn no_such_job(text: &str) -> Refusal {
    Refusal::new(RefusalKind::JobNotFound, format!("there is no job {text:?}; `amberfs job list` shows all"))
}
