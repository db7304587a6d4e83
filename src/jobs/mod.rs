//! Jobs: a queue, their states, progress and cancelling, and the memory that all of them share. Does not know
//! what a job does: it is given a closure and a few words that say whom the job concerns. With a state folder it
//! remembers jobs and their numbers from one daemon to the next, and tells an observer what happens.

mod budget;
mod changes;
mod control;
mod events;
mod journal;
mod metrics;
mod pace;
mod queue;
mod rate;
mod report;
mod state_folder;
mod table;

pub use budget::{Budget, Lease};
pub use changes::JournalFailure;
pub use control::{JobControl, JobEnd, Stop};
pub use events::{BackupEvent, Event, EventLog, EventObserver, EventReader, ProgressEvent};
pub use pace::Pace;
pub use queue::{JobQueue, JobQueueOptions};
pub use report::{JobId, JobReport, JobState, JobSubject};
pub use table::Slot;

/// Why the queue did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    #[error("no job {id}")]
    NotFound { id: JobId },

    #[error("job {id} has ended: it is {state}")]
    Ended { id: JobId, state: JobState },

    #[error("{unfinished} jobs are queued or running already")]
    QueueFull { unfinished: usize },

    #[error("no job is taken while its number cannot be kept: {sentence}")]
    NotKept { sentence: String },

    #[error("no job is taken any more: the daemon is shutting down")]
    ShuttingDown,
}
