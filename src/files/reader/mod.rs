//! The worker: a process that reads one file system for the daemon, and has nothing but a socket to it.
//!
//! The crates that read file systems run here only. Whatever an image makes them do (loop, overflow the stack, allocate
//! without end, abort) happens to this process, which the daemon ends and replaces.

mod bytes;
mod confine;
mod content;
mod device;
mod ext;
mod ext_inode;
mod ext_journal;
mod ext_map;
mod ext_volume;
mod fat;
mod open_files;
mod socket;
mod xfs;
mod xfs_link;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;

use device::{Device, EXIT_HUNG_UP};
use socket::Socket;

use super::metadata::{FileMetadata, FileSystemKind};
use super::path::FilePath;
use super::protocol::frame::{receive, send};
use super::protocol::{Answer, GREETING, Page, READY, Refusal, RefusalKind, Request};

/// What a crate has to offer for a file system. No path is followed over a link.
trait FileReader {
    fn metadata(&mut self, path: &FilePath) -> Result<FileMetadata, Refusal>;
    fn list(&mut self, path: &FilePath, from: u64) -> Result<Page, Refusal>;
    fn read_link(&mut self, path: &FilePath) -> Result<Vec<u8>, Refusal>;
    /// Fills `into` as far as the file reaches.
    fn read(&mut self, path: &FilePath, offset: u64, into: &mut [u8]) -> Result<usize, Refusal>;
}

/// Runs the worker on its standard input until the daemon hangs up. `memory_bytes` is all that it may ever map.
pub fn run(memory_bytes: u64) -> ExitCode {
    // What a crate says when it panics is for nobody: it would go to a descriptor that is not there.
    std::panic::set_hook(Box::new(|_| {}));
    let confined = confine::confine(memory_bytes);
    let greeting = match &confined {
        Ok(()) => GREETING.to_vec(),
        Err(error) => format!("cannot be confined: {error}").into_bytes(),
    };
    if send(&mut Socket, READY, &greeting).is_err() || confined.is_err() {
        return ExitCode::FAILURE;
    }
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(EXIT_HUNG_UP.unsigned_abs().try_into().unwrap_or(1)),
    }
}

fn serve() -> std::io::Result<()> {
    let mut opened: Option<Opened> = None;
    let mut buffer = Vec::new();
    while let Some(kind) = receive(&mut Socket, &mut buffer)? {
        let request = Request::decode(kind, &buffer).ok_or(std::io::ErrorKind::InvalidData)?;
        let answer = match (request, &mut opened) {
            (Request::Open { kind, size_bytes, cache_bytes }, _) => {
                opened = Some(Opened::new(kind, size_bytes, cache_bytes));
                Answer::Opened
            }
            (request, Some(opened)) => opened.answer(&request),
            (_, None) => Answer::Refused(Refusal::damaged("no file system is open")),
        };
        let (kind, bytes) = answer.encode();
        send(&mut Socket, kind, &bytes)?;
    }
    Ok(())
}

/// A file system that is read; mounted by the first request.
struct Opened {
    kind: FileSystemKind,
    device: Arc<Device>,
    reader: Option<Box<dyn FileReader>>,
    /// Why it cannot be mounted, which is so for ever: an image does not change.
    refusal: Option<Refusal>,
}

impl Opened {
    fn new(kind: FileSystemKind, size_bytes: u64, cache_bytes: u64) -> Self {
        Self { kind, device: Arc::new(Device::new(size_bytes, cache_bytes)), reader: None, refusal: None }
    }

    /// A crate that panics has met something that it did not expect, in a state that nobody knows: it starts anew.
    fn answer(&mut self, request: &Request) -> Answer {
        self.device.forget_failure();
        let answer = catch_unwind(AssertUnwindSafe(|| self.try_answer(request)));
        let answer = answer.unwrap_or_else(|panic| {
            let reader = self.reader.take();
            let _ = catch_unwind(AssertUnwindSafe(|| drop(reader)));
            let why = panic.downcast_ref::<String>().map(String::as_str);
            let why = why.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("for no reason given");
            Err(Refusal::damaged(format_args!("its reader gave up: {why}")))
        });
        answer.unwrap_or_else(|refusal| {
            // Whatever a crate makes of a device that fails, it is no fact about the file system.
            let device_failed = RefusalKind::DeviceFailed.into();
            Answer::Refused(if self.device.has_failed() { device_failed } else { refusal })
        })
    }

    fn try_answer(&mut self, request: &Request) -> Result<Answer, Refusal> {
        let reader = self.reader()?;
        Ok(match request {
            Request::Open { .. } => Answer::Opened,
            Request::Metadata { path } => Answer::Metadata(reader.metadata(path)?),
            Request::List { path, from } => Answer::Page(reader.list(path, *from)?),
            Request::ReadLink { path } => Answer::Target(reader.read_link(path)?),
            Request::Read { path, offset, length } => {
                let mut bytes = vec![0; *length];
                let read = reader.read(path, *offset, &mut bytes)?;
                bytes.truncate(read);
                Answer::Data(bytes)
            }
        })
    }

    fn reader(&mut self) -> Result<&mut Box<dyn FileReader>, Refusal> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        if self.reader.is_none() {
            match mount(self.kind, &self.device) {
                Ok(reader) => self.reader = Some(reader),
                Err(refusal) => {
                    if !self.device.has_failed() {
                        self.refusal = Some(refusal.clone());
                    }
                    return Err(refusal);
                }
            }
        }
        self.reader.as_mut().ok_or_else(|| Refusal::damaged("no file system is open"))
    }
}

fn mount(kind: FileSystemKind, device: &Arc<Device>) -> Result<Box<dyn FileReader>, Refusal> {
    Ok(match kind {
        FileSystemKind::Ext => Box::new(ext::ExtReader::mount(Arc::clone(device))?),
        FileSystemKind::Xfs => Box::new(xfs::XfsReader::mount(Arc::clone(device))?),
        FileSystemKind::Fat => Box::new(fat::FatReader::mount(Arc::clone(device))?),
    })
}
