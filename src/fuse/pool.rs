//! A few threads for what may take long, so that the threads that answer the kernel never wait for a source.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crossbeam_channel::{Sender, TrySendError, bounded};

/// The kernel has one writer at a time in each control file, so no more commands come at once than there are
/// control files, and closing files.
const THREADS: usize = 8;
const WAITING_MAX: usize = 64;

type Task = Box<dyn FnOnce() + Send>;

pub(super) struct TaskPool {
    /// Closed with the pool: its threads end after what they have been given.
    tasks: Sender<Task>,
}

impl TaskPool {
    pub(super) fn start() -> io::Result<Self> {
        let (tasks, waiting) = bounded::<Task>(WAITING_MAX);
        for number in 0..THREADS {
            let waiting = waiting.clone();
            std::thread::Builder::new().name(format!("command-{number}")).spawn(move || {
                for task in waiting {
                    if catch_unwind(AssertUnwindSafe(task)).is_err() {
                        tracing::error!("a command met a fault; its writer gets an I/O error");
                    }
                }
            })?;
        }
        Ok(Self { tasks })
    }

    /// Has a thread do this. When too much waits already, it is dropped undone, with the reply that it holds.
    pub(super) fn run(&self, task: impl FnOnce() + Send + 'static) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.tasks.try_send(Box::new(task))
        {
            tracing::error!(waiting = WAITING_MAX, "too many commands wait: one is not taken");
        }
    }
}
