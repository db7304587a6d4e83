//! Bytes to and from an image, several requests at a time.
//!
//! The invariant: an error is reported only when no request of this call is under way any more, unless librados
//! broke its own time limit; and then what is under way touches memory of its own only (`librbd::aio`).

use super::connection::Connection;
use super::librbd::{Finished, Image, Queue, Request};
use crate::source::SourceError;
use crate::types::{ByteRange, MIB};

/// Requests of one call that are under way at a time, and the bytes of one: 32 MiB in all.
const IN_FLIGHT_MAX: usize = 32;
const REQUEST_BYTES_MAX: u64 = MIB;

/// A zeroed range is cut into pieces of so many bytes: one piece is one operation per object.
const ZERO_BYTES_MAX: u64 = 256 * MIB;
const ZEROES_IN_FLIGHT_MAX: usize = 4;

pub struct Transfer<'a> {
    pub connection: &'a Connection,
    pub image: &'a Image,
    /// Which volume, and which snapshot of it, for errors.
    pub of: &'a str,
}

impl Transfer<'_> {
    /// Fills `into` with the bytes of the ranges, one behind the other.
    pub fn read(&self, ranges: &[ByteRange], into: &mut [u8]) -> Result<(), SourceError> {
        let doing = format!("reading {}", self.of);
        let mut queue = Queue::new(self.image);
        // Where in `into` the bytes of each request that is under way belong; the index is its tag.
        let mut places: Vec<Option<&mut [u8]>> = Vec::new();
        let mut free: Vec<(usize, Vec<u8>)> = Vec::new();
        let mut rest = into;
        for piece in ranges.iter().flat_map(|range| range.split_on_grid(REQUEST_BYTES_MAX)) {
            if queue.waiting() == IN_FLIGHT_MAX {
                free.push(self.take_read(&mut queue, &mut places, &doing)?);
            }
            let length = usize::try_from(piece.len()).unwrap_or(usize::MAX);
            let Some((place, behind)) = std::mem::take(&mut rest).split_at_mut_checked(length) else {
                self.drain(&mut queue, &doing)?;
                return Err(self
                    .connection
                    .refused(format!("{doing}: the buffer is shorter than the ranges")));
            };
            rest = behind;
            let (tag, mut buffer) = free.pop().unwrap_or_else(|| {
                places.push(None);
                (places.len() - 1, Vec::new())
            });
            buffer.resize(length, 0);
            if let Some(slot) = places.get_mut(tag) {
                *slot = Some(place);
            }
            self.submit(&mut queue, tag, Request::Read { offset: piece.start(), buffer }, &doing)?;
        }
        while queue.waiting() > 0 {
            self.take_read(&mut queue, &mut places, &doing)?;
        }
        if !rest.is_empty() {
            return Err(self.connection.refused(format!("{doing}: the buffer is longer than the ranges")));
        }
        Ok(())
    }

    fn take_read(
        &self,
        queue: &mut Queue<'_>,
        places: &mut [Option<&mut [u8]>],
        doing: &str,
    ) -> Result<(usize, Vec<u8>), SourceError> {
        let answer = self.take(queue, doing)?;
        if let Some(place) = places.get_mut(answer.tag).and_then(Option::take) {
            place.copy_from_slice(&answer.buffer);
        }
        Ok((answer.tag, answer.buffer))
    }

    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), SourceError> {
        let doing = format!("writing {}", self.of);
        let mut queue = Queue::new(self.image);
        let mut rest = bytes;
        for piece in ByteRange::new(offset, bytes.len() as u64).split_on_grid(REQUEST_BYTES_MAX) {
            let length = usize::try_from(piece.len()).unwrap_or(usize::MAX);
            let (these, behind) = rest.split_at_checked(length).unwrap_or((rest, &[]));
            rest = behind;
            let request = Request::Write { offset: piece.start(), bytes: these.to_vec() };
            self.submit_within(&mut queue, IN_FLIGHT_MAX, request, &doing)?;
        }
        self.drain(&mut queue, &doing)
    }

    /// Makes the range read as zeros. librbd discards whole objects and writes zeros at the edges, where a discard
    /// alone would leave up to 64 KiB as they were.
    pub fn zero(&self, range: ByteRange) -> Result<(), SourceError> {
        let doing = format!("zeroing {range} of {}", self.of);
        let mut queue = Queue::new(self.image);
        for piece in range.split_on_grid(ZERO_BYTES_MAX) {
            let length = usize::try_from(piece.len()).unwrap_or(usize::MAX);
            let request = Request::Zero { offset: piece.start(), length };
            self.submit_within(&mut queue, ZEROES_IN_FLIGHT_MAX, request, &doing)?;
        }
        self.drain(&mut queue, &doing)
    }

    pub fn flush(&self) -> Result<(), SourceError> {
        let doing = format!("flushing {}", self.of);
        let mut queue = Queue::new(self.image);
        self.submit(&mut queue, 0, Request::Flush, &doing)?;
        self.drain(&mut queue, &doing)
    }

    fn submit_within(
        &self,
        queue: &mut Queue<'_>,
        in_flight_max: usize,
        request: Request,
        doing: &str,
    ) -> Result<(), SourceError> {
        if queue.waiting() >= in_flight_max {
            self.take(queue, doing)?;
        }
        self.submit(queue, 0, request, doing)
    }

    fn submit(
        &self,
        queue: &mut Queue<'_>,
        tag: usize,
        request: Request,
        doing: &str,
    ) -> Result<(), SourceError> {
        queue.submit(tag, request).map_err(|failure| {
            self.wait_out(queue);
            self.connection
                .unavailability(doing, failure)
                .unwrap_or_else(|| self.connection.io(doing, failure))
        })
    }

    /// Returns the next good answer. A bad one ends the call, when all others are in.
    fn take(&self, queue: &mut Queue<'_>, doing: &str) -> Result<Finished, SourceError> {
        let answer = queue.next(self.connection.patience()).ok_or_else(|| self.connection.stuck(doing))?;
        match answer.result {
            Ok(()) => Ok(answer),
            Err(failure) => {
                self.wait_out(queue);
                Err(self
                    .connection
                    .unavailability(doing, failure)
                    .unwrap_or_else(|| self.connection.io(doing, failure)))
            }
        }
    }

    fn drain(&self, queue: &mut Queue<'_>, doing: &str) -> Result<(), SourceError> {
        while queue.waiting() > 0 {
            self.take(queue, doing)?;
        }
        Ok(())
    }

    fn wait_out(&self, queue: &mut Queue<'_>) {
        while queue.waiting() > 0 && queue.next(self.connection.patience()).is_some() {}
    }
}
