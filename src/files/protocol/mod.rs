//! What the daemon and a worker say to each other, each in frames of a kind, a length and bytes.
//!
//! The daemon sends a request. While the worker works on it, it asks for bytes of the device (`Need`), any number of
//! times, and the daemon answers each; at the end it sends the answer. So never do both sides send at once. Every
//! length is bounded on both sides, and the daemon believes nothing that a worker says: what does not decode ends it.

mod answer;
mod codec;
pub mod frame;
mod request;

pub use answer::{Answer, Page, Refusal, RefusalKind};
pub use request::{Need, Request};

/// The most bytes of one read of a file, and of the device.
pub const TRANSFER_BYTES_MAX: usize = frame::FRAME_BYTES_MAX;

/// Kinds of frames from the daemon.
pub const DEVICE_BYTES: u8 = 1;
pub const DEVICE_FAILED: u8 = 2;
/// Kinds of frames from the worker that are no answer to a request.
pub const READY: u8 = 32;
pub const NEED: u8 = 33;

/// What a worker's first frame holds, so that two versions of the program never talk past each other.
pub const GREETING: &[u8] = concat!("amberfs file-reader ", env!("CARGO_PKG_VERSION"), " 2").as_bytes();
