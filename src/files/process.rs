//! The daemon's side of a worker: a process that is started, asked, and ended.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::protocol::frame::{receive, send};
use super::protocol::{
    Answer, DEVICE_BYTES, DEVICE_FAILED, GREETING, NEED, Need, READY, Request, TRANSFER_BYTES_MAX,
};
use crate::sysio::device::ReadAt;

/// The subcommand that makes a worker of this program.
pub const READER_COMMAND: &str = "file-reader";

/// What one request may read of the device: a whole log or journal of the largest usual size, and more.
const DEVICE_BYTES_MAX: u64 = 8 << 30;
const NEEDS_MAX: u64 = 1 << 20;
/// A request may take this many times its deadline when it is the device that takes so long.
const DEVICE_PATIENCE: u32 = 10;
/// How long a worker that hung up has to end.
const END_POLLS: u32 = 200;

/// A running worker. Ended on drop. Public for tests, which give one worker many images; the daemon never does.
pub struct WorkerProcess {
    child: Child,
    socket: UnixStream,
    buffer: Vec<u8>,
}

/// An answer, and how the device failed on the way to it; that may have been ahead of what was needed.
pub struct Outcome {
    pub answer: Answer,
    pub device_error: Option<io::Error>,
}

/// Why a worker is to be ended.
#[derive(Debug)]
pub enum WorkerFailure {
    /// How, for people.
    Ended(String),
    Broke(&'static str),
    TimedOut,
}

impl WorkerProcess {
    /// Starts a worker. It dies with the *thread* that calls this.
    pub fn spawn(program: &Path, memory_bytes: u64) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        let child = Command::new(program)
            .args([OsStr::new(READER_COMMAND), OsStr::new(&memory_bytes.to_string())])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { child, socket, buffer: Vec::new() })
    }

    /// Waits until the worker has given up all that it does not need.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<(), String> {
        let clock = Clock::new(limit);
        match receive(&mut Timed { socket: &self.socket, clock: &clock }, &mut self.buffer) {
            Ok(Some(READY)) if self.buffer == GREETING => Ok(()),
            Ok(Some(READY)) => Err(format!("it says: {}", self.buffer.escape_ascii())),
            Ok(Some(_)) => Err("it is another program".to_owned()),
            Ok(None) => Err(format!("it {}", self.how_it_ended())),
            Err(error) => Err(error.to_string()),
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks one request. `limit` is the worker's own time, without what the device takes.
    pub fn ask(
        &mut self,
        request: &Request,
        device: &dyn ReadAt,
        limit: Duration,
    ) -> Result<Outcome, WorkerFailure> {
        self.ask_within(request, device, &mut Clock::new(limit))
    }

    /// Sends a request, gives the worker what it needs of the device, and takes its answer. After a failure the worker
    /// is to be dropped.
    pub(super) fn ask_within(
        &mut self,
        request: &Request,
        device: &dyn ReadAt,
        clock: &mut Clock,
    ) -> Result<Outcome, WorkerFailure> {
        let mut conversation = Conversation { needs: 0, bytes: 0, device_error: None };
        let (kind, bytes) = request.encode();
        let sent = send(&mut Timed { socket: &self.socket, clock }, kind, &bytes);
        sent.map_err(|error| self.failure(&error))?;
        loop {
            let received = receive(&mut Timed { socket: &self.socket, clock }, &mut self.buffer);
            let kind = match received {
                Ok(Some(kind)) => kind,
                Ok(None) => return Err(WorkerFailure::Ended(self.how_it_ended())),
                Err(error) => return Err(self.failure(&error)),
            };
            if kind == NEED {
                self.serve_need(&mut conversation, device, clock)?;
                continue;
            }
            let answer = Answer::decode(kind, &self.buffer)
                .ok_or(WorkerFailure::Broke("answered what is no answer"))?;
            return Ok(Outcome { answer, device_error: conversation.device_error });
        }
    }

    fn serve_need(
        &mut self,
        conversation: &mut Conversation,
        device: &dyn ReadAt,
        clock: &mut Clock,
    ) -> Result<(), WorkerFailure> {
        let need = Need::decode(&self.buffer).ok_or(WorkerFailure::Broke("asked for what is no place"))?;
        conversation.count(&need)?;
        self.buffer.resize(need.length, 0);
        let read = clock.pause(|| device.read_exact_at(need.offset, &mut self.buffer));
        let (kind, bytes) = match read {
            Ok(()) => (DEVICE_BYTES, self.buffer.as_slice()),
            Err(error) => {
                conversation.device_error = Some(error);
                (DEVICE_FAILED, [].as_slice())
            }
        };
        let sent = send(&mut Timed { socket: &self.socket, clock }, kind, bytes);
        sent.map_err(|error| self.failure(&error))
    }

    fn failure(&mut self, error: &io::Error) -> WorkerFailure {
        match error.kind() {
            io::ErrorKind::TimedOut => WorkerFailure::TimedOut,
            io::ErrorKind::InvalidData => WorkerFailure::Broke("sent more than it may"),
            _ => WorkerFailure::Ended(self.how_it_ended()),
        }
    }

    /// Says how a worker ended that has hung up. One that did not end is ended.
    fn how_it_ended(&mut self) -> String {
        for _ in 0..END_POLLS {
            match self.child.try_wait() {
                Ok(Some(status)) => return describe(status),
                // The socket is closed a moment before the process is gone.
                Ok(None) => std::thread::sleep(Duration::from_millis(1)),
                Err(_) => break,
            }
        }
        "hung up".to_owned()
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        // It may be gone already; a zombie must not stay.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("ended by signal {signal}"),
        (None, Some(code)) => format!("ended with status {code}"),
        (None, None) => "ended".to_owned(),
    }
}

/// What one request has read of the device so far.
struct Conversation {
    needs: u64,
    bytes: u64,
    /// The last one: behind a read ahead that failed comes the one that was needed.
    device_error: Option<io::Error>,
}

impl Conversation {
    fn count(&mut self, need: &Need) -> Result<(), WorkerFailure> {
        debug_assert!(need.length <= TRANSFER_BYTES_MAX, "decoding bounds it");
        self.needs += 1;
        self.bytes += need.length as u64;
        if self.needs > NEEDS_MAX || self.bytes > DEVICE_BYTES_MAX {
            return Err(WorkerFailure::Broke("read the image without end"));
        }
        Ok(())
    }
}

/// The time of one request, or of several that belong together. It stands still while the device is read, but not for
/// ever.
pub(super) struct Clock {
    started: Instant,
    limit: Duration,
    paused: Duration,
}

impl Clock {
    pub(super) fn new(limit: Duration) -> Self {
        Self { started: Instant::now(), limit, paused: Duration::ZERO }
    }

    pub(super) fn pause<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let from = Instant::now();
        let done = work();
        self.paused += from.elapsed();
        done
    }

    pub(super) fn remaining(&self) -> io::Result<Duration> {
        let patience = self.limit.saturating_mul(DEVICE_PATIENCE - 1).min(self.paused);
        let rest = (self.limit + patience).checked_sub(self.started.elapsed());
        rest.filter(|rest| !rest.is_zero()).ok_or_else(|| io::ErrorKind::TimedOut.into())
    }
}

/// The socket, with what is left of a request's time for each byte.
struct Timed<'a> {
    socket: &'a UnixStream,
    clock: &'a Clock,
}

impl Read for Timed<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(self.clock.remaining()?))?;
        self.socket.read(into).map_err(as_timeout)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(Some(self.clock.remaining()?))?;
        self.socket.write(bytes).map_err(as_timeout)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn as_timeout(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}
