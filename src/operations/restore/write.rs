//! Writes an image into a volume: data by several threads, zeros by discarding what is allocated.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::thread;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

use super::super::differing::differing;
use super::super::metrics::BYTES_RESTORED;
use super::super::refusal::unreadable;
use super::compare::Comparison;
use crate::jobs::{Budget, JobControl, JobEnd, Lease};
use crate::source::{SourceError, VolumeWriter};
use crate::sysio::device::ReadAt;
use crate::types::{ByteRange, KIB, Refusal};

/// One write: large, so that the source has little to do per byte.
const WRITE_BYTES: u64 = 4 << 20;

/// What a write of its own costs, in bytes that could be written instead.
const WRITE_COST_BYTES: u64 = 64 * KIB;

/// The image's bytes, and a second time as much for what the source copies.
const BUFFERS_TO_WRITE: u64 = 2;
/// The volume's bytes too.
const BUFFERS_TO_COMPARE: u64 = 3;

/// The data of an image in pieces of one write, ascending.
pub(super) struct DataRanges<'a> {
    image: &'a dyn ReadAt,
    /// What is left of a run of data. Kept from step to step: to find its end again would cost a walk over its extents.
    run: ByteRange,
}

impl<'a> DataRanges<'a> {
    pub(super) fn starting_at(image: &'a dyn ReadAt, offset: u64) -> Self {
        Self { image, run: ByteRange::new(offset, 0) }
    }

    /// All data below this offset was returned.
    pub(super) fn position(&self) -> u64 {
        self.run.start()
    }

    fn next(&mut self) -> Result<Option<ByteRange>, Refusal> {
        if self.run.is_empty() {
            let Some(data) = self.image.next_data(self.run.end()).map_err(unreadable)? else {
                return Ok(None);
            };
            self.run = ByteRange::between(data, self.image.next_hole(data).map_err(unreadable)?);
        }
        let piece = self.run.split_on_grid(WRITE_BYTES).next();
        self.run = ByteRange::between(piece.map_or(self.run.end(), ByteRange::end), self.run.end());
        Ok(piece)
    }
}

/// A range that is to be read and written.
struct Task {
    range: ByteRange,
    compares: bool,
    _lease: Lease,
}

/// One image on its way into one volume.
pub(super) struct Filling<'a> {
    pub(super) image: &'a dyn ReadAt,
    pub(super) writer: &'a dyn VolumeWriter,
    pub(super) budget: &'a Budget,
    pub(super) control: &'a JobControl,
    pub(super) comparison: &'a Comparison,
}

impl Filling<'_> {
    /// Writes ranges until there are none any more (`true`) or so many bytes were written. Nothing is under way
    /// when this returns.
    pub(super) fn step(&self, ranges: &mut DataRanges<'_>, bytes_max: u64) -> Result<bool, JobEnd> {
        let (tasks, receiver) = bounded::<Task>(1);
        let failure: Mutex<Option<Refusal>> = Mutex::new(None);
        let planned = thread::scope(|scope| {
            for _ in 0..thread::available_parallelism().map_or(2, NonZeroUsize::get) + 2 {
                let receiver = receiver.clone();
                let failure = &failure;
                let job = tracing::Span::current();
                scope.spawn(move || {
                    let _entered = job.enter();
                    if let Err(refusal) = self.work(&receiver)
                        && let Ok(mut failure) = failure.lock()
                    {
                        failure.get_or_insert(refusal);
                    }
                });
            }
            // The threads hold the only other ends: sending fails when all of them have given up.
            drop(receiver);
            self.plan(ranges, bytes_max, tasks, &failure)
        });
        match failure.into_inner() {
            Ok(Some(refusal)) => Err(refusal.into()),
            _ => {
                let is_last = planned?;
                // Threads that were stopped have left ranges unwritten, though all of them were planned.
                self.control.checkpoint()?;
                Ok(is_last)
            }
        }
    }

    fn plan(
        &self,
        ranges: &mut DataRanges<'_>,
        bytes_max: u64,
        tasks: Sender<Task>,
        failure: &Mutex<Option<Refusal>>,
    ) -> Result<bool, JobEnd> {
        let mut planned = 0;
        while planned < bytes_max {
            let before = ranges.position();
            let Some(range) = ranges.next()? else {
                self.control.add_done(self.image.size_bytes().saturating_sub(before));
                return Ok(true);
            };
            self.control.add_done(range.start() - before);
            let compares = self.comparison.wants(range);
            let buffers = if compares { BUFFERS_TO_COMPARE } else { BUFFERS_TO_WRITE };
            let lease = self.budget.acquire(range.len() * buffers, self.control)?;
            let has_failed = failure.lock().is_ok_and(|failure| failure.is_some());
            if has_failed || tasks.send(Task { range, compares, _lease: lease }).is_err() {
                break;
            }
            planned += range.len();
        }
        Ok(false)
    }

    fn work(&self, tasks: &Receiver<Task>) -> Result<(), Refusal> {
        let mut buffer = Vec::new();
        loop {
            let task = match tasks.try_recv() {
                Ok(task) => task,
                Err(TryRecvError::Disconnected) => return Ok(()),
                Err(TryRecvError::Empty) => {
                    // Whoever waits has no lease, and holds no memory.
                    buffer = Vec::new();
                    let Ok(task) = tasks.recv() else { return Ok(()) };
                    task
                }
            };
            if self.control.checkpoint().is_err() {
                // Whoever waits for the threads asks again, and says why.
                return Ok(());
            }
            buffer.resize(usize::try_from(task.range.len()).unwrap_or(usize::MAX), 0);
            self.image.read_exact_at(task.range.start(), &mut buffer).map_err(unreadable)?;
            if task.compares {
                self.write_differing(task.range, &buffer)?;
            } else {
                self.write(task.range.start(), &buffer)?;
            }
            self.control.add_done(task.range.len());
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Refusal> {
        self.writer.write(offset, bytes)?;
        BYTES_RESTORED.add(bytes.len() as u64);
        Ok(())
    }

    /// Writes what the volume does not hold yet.
    fn write_differing(&self, range: ByteRange, bytes: &[u8]) -> Result<(), Refusal> {
        let mut there = vec![0; bytes.len()];
        let runs = match self.writer.read(range, &mut there) {
            Ok(()) => differing(range, bytes, &there),
            // What cannot be read may be written all the same.
            Err(_) => vec![range],
        };
        drop(there);
        let differing_bytes = runs.iter().map(|run| run.len()).sum();
        self.comparison.note(range.len(), differing_bytes);
        let cost = differing_bytes + runs.len() as u64 * WRITE_COST_BYTES;
        let runs = if cost > range.len() + WRITE_COST_BYTES { vec![range] } else { runs };
        for run in runs {
            let start = usize::try_from(run.start() - range.start()).unwrap_or(usize::MAX);
            let behind = bytes.get(start..).unwrap_or_default();
            let length = usize::try_from(run.len()).unwrap_or(usize::MAX);
            self.write(run.start(), behind.get(..length).unwrap_or(behind))?;
        }
        Ok(())
    }
}

/// Makes everything zero that is a hole in the image, or behind its end, and allocated in the volume.
pub(super) fn zero_holes(
    image: &dyn ReadAt,
    writer: &dyn VolumeWriter,
    control: &JobControl,
) -> Result<(), JobEnd> {
    let mut stopped = None;
    let result = writer.allocated(&mut |extent| {
        zero_within(image, writer, control, extent.range).map_err(|end| {
            stopped = Some(end);
            SourceError::Stopped
        })
    });
    match (stopped, result) {
        (Some(end), _) => Err(end),
        (None, Err(error)) => Err(Refusal::from(error).into()),
        (None, Ok(())) => Ok(()),
    }
}

fn zero_within(
    image: &dyn ReadAt,
    writer: &dyn VolumeWriter,
    control: &JobControl,
    allocated: ByteRange,
) -> Result<(), JobEnd> {
    let mut from = allocated.start();
    while from < allocated.end() {
        control.checkpoint()?;
        let data = image.next_data(from).map_err(unreadable)?.unwrap_or(u64::MAX).min(allocated.end());
        let hole = ByteRange::between(from, data);
        if !hole.is_empty() {
            writer.zero(hole).map_err(Refusal::from)?;
        }
        // Behind data there is a hole further on, the end of the image at the latest: this ends.
        from = if data < allocated.end() { image.next_hole(data).map_err(unreadable)? } else { data };
    }
    Ok(())
}
