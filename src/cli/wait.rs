//! Waits for a job, and asks on Ctrl-C whether to cancel it. Leaving never ends the job: only the answer yes does.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use signal_hook::consts::SIGINT;
use signal_hook::flag;

use super::error::CliError;
use super::fields::Fields;
use super::mounted::Mounted;
use super::output::note;
use super::progress::{Progress, id};
use crate::control::{Accepted, CancelArgs, Command};

/// Seconds between two lines of progress where there is no terminal.
pub const LINE_SECONDS: u64 = 5;

/// How often the job is looked at: soon enough for an eye, seldom enough to cost nothing.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Waits for the job of an accepted command, if that is wanted.
pub fn finish(mounted: &Mounted, accepted: &Accepted, no_wait: bool) -> Result<(), CliError> {
    if no_wait {
        later(accepted);
        return Ok(());
    }
    until_done(mounted, accepted.value("job").unwrap_or_default(), LINE_SECONDS)
}

/// Says how to wait for an accepted command.
pub fn later(accepted: &Accepted) {
    let id = accepted.value("job").unwrap_or_default();
    note(&format!("job {id} is accepted: amberfs job watch {id}"));
}

/// Waits until a job is done; an error when it failed or was cancelled.
pub fn until_done(mounted: &Mounted, job_id: &str, line_seconds: u64) -> Result<(), CliError> {
    until_one_done(mounted, job_id, line_seconds, &Interrupt::new())
}

/// Waits until all jobs have ended, and returns how each did; an error only when the user goes away.
pub fn until_all_done(
    mounted: &Mounted,
    jobs: &[&str],
    line_seconds: u64,
) -> Result<Vec<Result<(), CliError>>, CliError> {
    let interrupt = Interrupt::new();
    let mut ends = Vec::with_capacity(jobs.len());
    for job_id in jobs {
        match until_one_done(mounted, job_id, line_seconds, &interrupt) {
            Err(error @ CliError::Interrupted { .. }) => return Err(error),
            end => ends.push(end),
        }
    }
    Ok(ends)
}

fn until_one_done(
    mounted: &Mounted,
    job_id: &str,
    line_seconds: u64,
    interrupt: &Interrupt,
) -> Result<(), CliError> {
    let mut progress = Progress::new(line_seconds);
    loop {
        let job = mounted.job(job_id)?;
        match job.text("state") {
            "done" => {
                progress.finish(&job);
                return Ok(());
            }
            "failed" | "cancelled" => {
                progress.finish(&job);
                return Err(ended(&job));
            }
            _ => progress.update(&job),
        }
        if interrupt.take() {
            progress.aside(|| ask_to_cancel(mounted, job_id, interrupt))?;
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn ended(job: &Fields) -> CliError {
    let state = match job.text("state") {
        "cancelled" => "was cancelled",
        _ => "failed",
    };
    let error = job.value("error").as_str().map(str::to_owned);
    CliError::JobEnded { job: id(job), state, error }
}

/// Asks, and cancels on yes. Without a terminal to ask on, leaves the job alone and stops waiting.
fn ask_to_cancel(mounted: &Mounted, job_id: &str, interrupt: &Interrupt) -> Result<(), CliError> {
    let interrupted = || CliError::Interrupted { job: job_id.to_owned() };
    let question =
        format!("\nCancel job {job_id}? [y/N] (N goes on waiting; Ctrl-C again leaves the job running) ");
    interrupt.asking.store(true, Ordering::SeqCst);
    let answer = ask(&question);
    interrupt.asking.store(false, Ordering::SeqCst);
    let answer = answer.map_err(|_| interrupted())?;
    if !matches!(answer.trim(), "y" | "Y" | "yes" | "Yes") {
        return Ok(());
    }
    match mounted.send(&[Command::Cancel(CancelArgs { job: job_id.to_owned() })]) {
        Ok(_) => note(&format!("job {job_id} is being cancelled")),
        // It may have ended meanwhile, which the next look at it tells.
        Err(error) => note(&error.with_causes()),
    }
    Ok(())
}

fn ask(question: &str) -> std::io::Result<String> {
    let mut terminal = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
    terminal.write_all(question.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(terminal.take(1024)).read_line(&mut answer)?;
    Ok(answer)
}

/// Ctrl-C: a flag, and while the question is asked, the end of this process.
struct Interrupt {
    pressed: Arc<AtomicBool>,
    asking: Arc<AtomicBool>,
}

impl Interrupt {
    fn new() -> Self {
        let interrupt =
            Self { pressed: Arc::new(AtomicBool::new(false)), asking: Arc::new(AtomicBool::new(false)) };
        // When they cannot be registered, Ctrl-C ends this process as it does any other, and the job goes on.
        let _ = flag::register_conditional_shutdown(SIGINT, 1, Arc::clone(&interrupt.asking))
            .and_then(|_| flag::register(SIGINT, Arc::clone(&interrupt.pressed)));
        interrupt
    }

    fn take(&self) -> bool {
        self.pressed.swap(false, Ordering::SeqCst)
    }
}
