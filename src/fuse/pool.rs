//! A few threads for what may take long, so that the threads that answer the kernel never wait for a source.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crossbeam_channel::{Sender, TrySendError, bounded};
use fuser::Errno;

use super::requests;

const THREADS: usize = 8;

type Task = Box<dyn FnOnce() + Send>;

pub(super) struct TaskPool {
    /// Closed with the pool: its threads end after what they have been given.
    tasks: Sender<Task>,
    name: &'static str,
}

impl TaskPool {
    /// Starts the threads, for which no more than so many tasks may wait.
    pub(super) fn start(name: &'static str, waiting_max: usize) -> io::Result<Self> {
        let (tasks, waiting) = bounded::<Task>(waiting_max);
        for number in 0..THREADS {
            let waiting = waiting.clone();
            std::thread::Builder::new().name(format!("{name}-{number}")).spawn(move || {
                for task in waiting {
                    if catch_unwind(AssertUnwindSafe(task)).is_err() {
                        requests::count_fault();
                        tracing::error!(pool = name, "a request met a fault; the caller gets an I/O error");
                    }
                }
            })?;
        }
        Ok(Self { tasks, name })
    }

    /// Has a thread do this, or does it here when too much waits already.
    pub(super) fn run_or_wait(&self, task: impl FnOnce() + Send + 'static) {
        if let Err(TrySendError::Full(task) | TrySendError::Disconnected(task)) =
            self.tasks.try_send(Box::new(task))
        {
            task();
        }
    }

    /// Has a thread do this. When too much waits already, it is dropped undone, with the reply that it holds.
    pub(super) fn run(&self, task: impl FnOnce() + Send + 'static) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.tasks.try_send(Box::new(task))
        {
            requests::count_error(Errno::EIO);
            tracing::error!(pool = self.name, "too many requests wait: one is not taken");
        }
    }
}
