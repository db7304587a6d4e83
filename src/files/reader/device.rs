//! The device as a worker sees it: bytes that the daemon sends on request, and a bounded cache of them.
//!
//! The crates read 6 to 32 KiB at a time, and metadata again and again; each request costs a round trip. So the device
//! is read in pieces, and ahead where it is read in order.

use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::process::exit;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::socket::Socket;
use crate::files::protocol::frame::{receive_header, send};
use crate::files::protocol::{DEVICE_BYTES, DEVICE_FAILED, NEED, Need, TRANSFER_BYTES_MAX};
use crate::sysio::device::ReadAt;

/// A chunk of most repositories.
const PIECE_BYTES: u64 = 64 * 1024;
/// The longest stretch that is read at once, ahead of a reader.
const WINDOW_PIECES_MAX: u64 = TRANSFER_BYTES_MAX as u64 / PIECE_BYTES;
/// Readers in order that are told apart: some files, and the metadata between them.
const STREAMS: usize = 8;

/// The exit status of a worker whose daemon is gone or talks nonsense; nobody reads it.
pub const EXIT_HUNG_UP: i32 = 3;

/// The device of the file system that is open.
pub struct Device {
    size_bytes: u64,
    cache: Mutex<Cache>,
}

struct Cache {
    pieces: LruCache<u64, Box<[u8]>>,
    streams: LruCache<u64, u64>,
    failed: bool,
}

impl Device {
    pub fn new(size_bytes: u64, cache_bytes: u64) -> Self {
        let pieces = usize::try_from(cache_bytes / PIECE_BYTES).unwrap_or(usize::MAX);
        // As many as one stretch at least.
        let pieces = NonZeroUsize::new(pieces).map_or(NonZeroUsize::MIN, |pieces| pieces.min(PIECES_MAX));
        let streams = NonZeroUsize::new(STREAMS).unwrap_or(NonZeroUsize::MIN);
        let cache = Cache { pieces: LruCache::new(pieces), streams: LruCache::new(streams), failed: false };
        Self { size_bytes, cache: Mutex::new(cache) }
    }

    /// Forgets that a read of the device failed.
    pub fn forget_failure(&self) {
        self.cache().failed = false;
    }

    /// Says whether a read of the device failed since then, other than one ahead of a reader: what came of it is not the
    /// file system's fault.
    pub fn has_failed(&self) -> bool {
        self.cache().failed
    }

    /// A panic in a crate may leave the lock poisoned, but never the cache in pieces.
    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 4 GiB of pieces: what a cache may be asked to hold.
const PIECES_MAX: NonZeroUsize = match NonZeroUsize::new(1 << 16) {
    Some(pieces) => pieces,
    None => NonZeroUsize::MIN,
};

impl ReadAt for Device {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(into.len() as u64).filter(|end| *end <= self.size_bytes);
        end.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "beyond the end of the device"))?;
        let mut cache = self.cache();
        let (mut position, mut rest) = (offset, into);
        while !rest.is_empty() {
            let (index, within) = (position / PIECE_BYTES, position % PIECE_BYTES);
            let length = rest.len().min(usize::try_from(PIECE_BYTES - within).unwrap_or(usize::MAX));
            let (part, behind) = rest.split_at_mut(length);
            cache.read_within(index, within, part, self.size_bytes)?;
            position += length as u64;
            rest = behind;
        }
        Ok(())
    }
}

impl Cache {
    /// Reads bytes that are all in one piece.
    fn read_within(&mut self, index: u64, within: u64, into: &mut [u8], size: u64) -> io::Result<()> {
        if !self.pieces.contains(&index) && self.fetch(index, size).is_err() {
            // The piece has a bad place, but these bytes may be good.
            return fetch_into(index * PIECE_BYTES + within, &mut [into]).inspect_err(|_| self.failed = true);
        }
        let start = usize::try_from(within).unwrap_or(usize::MAX);
        let part = self.pieces.get(&index).and_then(|piece| piece.get(start..)?.get(..into.len()));
        into.copy_from_slice(part.ok_or_else(|| io::Error::other("the piece is too short"))?);
        Ok(())
    }

    /// Fetches a piece, and the ones behind it for a reader that reads in order.
    fn fetch(&mut self, index: u64, size: u64) -> io::Result<()> {
        let window = match self.streams.pop(&index) {
            Some(window) => (2 * window).min(WINDOW_PIECES_MAX),
            None => 1,
        };
        let end = size.div_ceil(PIECE_BYTES).min(index + window);
        let missing = (index..end).take_while(|piece| !self.pieces.contains(piece)).count() as u64;
        let fetched = match self.fetch_pieces(index, missing.max(1), size) {
            Err(_) if missing > 1 => self.fetch_pieces(index, 1, size).map(|()| 1),
            other => other.map(|()| missing),
        }?;
        self.streams.put(index + fetched, window);
        Ok(())
    }

    fn fetch_pieces(&mut self, index: u64, count: u64, size: u64) -> io::Result<()> {
        let mut pieces = Vec::new();
        for piece in index..index + count {
            let length = PIECE_BYTES.min(size.saturating_sub(piece * PIECE_BYTES));
            pieces.push(vec![0; usize::try_from(length).unwrap_or(0)].into_boxed_slice());
        }
        let mut parts: Vec<&mut [u8]> = pieces.iter_mut().map(|piece| &mut **piece).collect();
        fetch_into(index * PIECE_BYTES, &mut parts)?;
        for (number, piece) in (index..).zip(pieces) {
            self.pieces.put(number, piece);
        }
        Ok(())
    }
}

/// Asks the daemon for bytes of the device and waits for them. Without a daemon there is nothing left to do.
fn fetch_into(offset: u64, parts: &mut [&mut [u8]]) -> io::Result<()> {
    let length = parts.iter().map(|part| part.len()).sum();
    let Ok(received) = converse(Need { offset, length }, parts) else { exit(EXIT_HUNG_UP) };
    if received { Ok(()) } else { Err(io::Error::other("the device cannot be read there")) }
}

fn converse(need: Need, parts: &mut [&mut [u8]]) -> io::Result<bool> {
    send(&mut Socket, NEED, &need.encode())?;
    let header = receive_header(&mut Socket)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    match header.kind {
        DEVICE_FAILED if header.length == 0 => Ok(false),
        DEVICE_BYTES if header.length == need.length => {
            for part in parts {
                Socket.read_exact(part)?;
            }
            Ok(true)
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
