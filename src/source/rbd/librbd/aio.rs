//! Requests to an image, many at a time.
//!
//! Whoever waits may give up; librbd may not be interrupted. So each request owns its buffer, in a box that belongs
//! to librbd from the moment it is submitted until librbd calls back, and bytes are copied to and from it: at
//! several GB/s, nothing beside the network. A request that is never answered costs its memory, never a stray write.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Failure, Image, check, ffi};

pub enum Request {
    /// Fills the buffer, all of it, from this offset on.
    Read {
        offset: u64,
        buffer: Vec<u8>,
    },
    Write {
        offset: u64,
        bytes: Vec<u8>,
    },
    /// Makes the range read as zeros, whatever was there, with discards where they do.
    Zero {
        offset: u64,
        length: usize,
    },
    Flush,
}

/// A request that was answered.
pub struct Finished {
    /// What `submit` was given to know the request by.
    pub tag: usize,
    pub result: Result<(), Failure>,
    /// The request's buffer, to be read or used again.
    pub buffer: Vec<u8>,
}

/// Requests of one caller to one image.
pub struct Queue<'a> {
    image: &'a Image,
    answers: Arc<Answers>,
    waiting: usize,
}

#[derive(Default)]
struct Answers {
    finished: Mutex<VecDeque<Finished>>,
    arrived: Condvar,
}

struct Operation {
    call: &'static str,
    tag: usize,
    /// What the return value must be: the length for a read, nothing otherwise.
    expected: isize,
    buffer: Vec<u8>,
    answers: Arc<Answers>,
    in_flight: Arc<AtomicUsize>,
}

impl<'a> Queue<'a> {
    pub fn new(image: &'a Image) -> Self {
        Self { image, answers: Arc::default(), waiting: 0 }
    }

    /// How many requests were submitted and not yet taken by `next`.
    pub const fn waiting(&self) -> usize {
        self.waiting
    }

    pub fn submit(&mut self, tag: usize, request: Request) -> Result<(), Failure> {
        let (call, offset, length, buffer) = match request {
            Request::Read { offset, buffer } => ("rbd_aio_read", offset, buffer.len(), buffer),
            Request::Write { offset, bytes } => ("rbd_aio_write", offset, bytes.len(), bytes),
            Request::Zero { offset, length } => ("rbd_aio_write_zeroes", offset, length, Vec::new()),
            Request::Flush => ("rbd_aio_flush", 0, 0, Vec::new()),
        };
        let expected = if call == "rbd_aio_read" { length.cast_signed() } else { 0 };
        let mut operation = Box::new(Operation {
            call,
            tag,
            expected,
            buffer,
            answers: Arc::clone(&self.answers),
            in_flight: Arc::clone(&self.image.in_flight),
        });
        let bytes = operation.buffer.as_mut_ptr();
        let handle = self.image.handle;
        let operation = Box::into_raw(operation);
        let mut completion = ptr::null_mut();
        // SAFETY: `completion` is one pointer to be filled in; the operation is handed over.
        let made = check("rbd_aio_create_completion", unsafe {
            ffi::rbd_aio_create_completion(operation.cast(), on_completion, &raw mut completion)
        });
        if let Err(failure) = made {
            // SAFETY: no completion was made, so the operation is still ours.
            drop(unsafe { Box::from_raw(operation) });
            return Err(failure);
        }
        self.image.in_flight.fetch_add(1, Ordering::AcqRel);
        // SAFETY: the image is open, and stays so while requests are in flight. `bytes` points to the heap memory,
        // `length` bytes of it, of a buffer that nobody touches and that lives until `on_completion` runs. That may
        // be now, on another thread: the operation is not looked at any more.
        let code = unsafe {
            match call {
                "rbd_aio_read" => ffi::rbd_aio_read(handle, offset, length, bytes.cast(), completion),
                "rbd_aio_write" => {
                    ffi::rbd_aio_write(handle, offset, length, bytes.cast_const().cast(), completion)
                }
                "rbd_aio_write_zeroes" => ffi::rbd_aio_write_zeroes(handle, offset, length, completion, 0, 0),
                _ => ffi::rbd_aio_flush(handle, completion),
            }
        };
        if let Err(failure) = check(call, code) {
            self.image.in_flight.fetch_sub(1, Ordering::AcqRel);
            // SAFETY: librbd refused the request and will not call back, so both are ours again.
            unsafe {
                ffi::rbd_aio_release(completion);
                drop(Box::from_raw(operation));
            }
            return Err(failure);
        }
        self.waiting += 1;
        Ok(())
    }

    /// Returns the next answer, in whatever order they come; none when there is none within the limit.
    pub fn next(&mut self, limit: Duration) -> Option<Finished> {
        let deadline = Instant::now() + limit;
        let mut finished = self.answers.finished.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(answer) = finished.pop_front() {
                self.waiting -= 1;
                return Some(answer);
            }
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            finished =
                self.answers.arrived.wait_timeout(finished, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Operation {
    fn finish(self, value: isize) {
        let result = if value < 0 {
            Err(Failure {
                call: self.call,
                errno: i32::try_from(value.saturating_neg()).unwrap_or(libc::EIO),
            })
        } else if self.expected != 0 && value != self.expected {
            Err(Failure { call: self.call, errno: libc::EIO })
        } else {
            Ok(())
        };
        let finished = Finished { tag: self.tag, result, buffer: self.buffer };
        // Before the answer: who has all answers may close the image.
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.answers.finished.lock().unwrap_or_else(PoisonError::into_inner).push_back(finished);
        self.answers.arrived.notify_one();
    }
}

extern "C" fn on_completion(completion: ffi::RbdCompletion, data: *mut c_void) {
    // SAFETY: `data` is the operation that `submit` handed over, and librbd calls back once. The completion is
    // finished, and nobody else has it.
    let (operation, value) = unsafe {
        let operation = Box::from_raw(data.cast::<Operation>());
        let value = ffi::rbd_aio_get_return_value(completion);
        ffi::rbd_aio_release(completion);
        (operation, value)
    };
    // A panic must not unwind into C++. There is none to be expected; whoever waits would find out by its limit.
    let _ = catch_unwind(AssertUnwindSafe(|| operation.finish(value)));
}
