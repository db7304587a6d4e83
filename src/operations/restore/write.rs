//! Writes an image into a volume: data by several threads, zeros by discarding what is allocated.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::thread;

use crossbeam_channel::{Receiver, bounded};

use crate::image::Image;
use crate::jobs::{Budget, JobControl, JobEnd, Lease};
use crate::source::{SourceError, VolumeWriter};
use crate::types::{ByteRange, Refusal};

/// One write: large, so that the source has little to do per byte.
const WRITE_BYTES: u64 = 4 << 20;

/// A range that is to be read and written.
struct Task {
    range: ByteRange,
    _lease: Lease,
}

/// Writes everything that is not a hole.
pub(super) fn write_data(
    image: &Image,
    writer: &dyn VolumeWriter,
    budget: &Budget,
    control: &JobControl,
) -> Result<(), JobEnd> {
    let (tasks, receiver) = bounded::<Task>(1);
    let failure: Mutex<Option<Refusal>> = Mutex::new(None);
    let planned = thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, NonZeroUsize::get) + 2 {
            let receiver = receiver.clone();
            let failure = &failure;
            scope.spawn(move || {
                if let Err(refusal) = write_tasks(image, writer, control, &receiver)
                    && let Ok(mut failure) = failure.lock()
                {
                    failure.get_or_insert(refusal);
                }
            });
        }
        // The threads hold the only other ends: sending fails when all of them have given up.
        drop(receiver);
        let mut done = 0;
        let planned = for_each_data(image, |range| {
            control.add_done(range.start() - done);
            done = range.end();
            for range in range.split_on_grid(WRITE_BYTES) {
                let lease = budget.acquire(range.len(), control)?;
                let failed = failure.lock().is_ok_and(|failure| failure.is_some());
                if failed || tasks.send(Task { range, _lease: lease }).is_err() {
                    return Ok(false);
                }
            }
            Ok(true)
        });
        control.add_done(image.size_bytes() - done);
        drop(tasks);
        planned
    });
    match failure.into_inner() {
        Ok(Some(refusal)) => Err(refusal.into()),
        // Threads that were stopped have left ranges unwritten, though all of them were planned.
        _ => planned.and(Ok(control.checkpoint()?)),
    }
}

fn write_tasks(
    image: &Image,
    writer: &dyn VolumeWriter,
    control: &JobControl,
    tasks: &Receiver<Task>,
) -> Result<(), Refusal> {
    let mut buffer = Vec::new();
    for task in tasks {
        if control.checkpoint().is_err() {
            // Whoever waits for the threads asks again, and says why.
            return Ok(());
        }
        buffer.resize(usize::try_from(task.range.len()).unwrap_or(usize::MAX), 0);
        image.read(task.range.start(), &mut buffer)?;
        writer.write(task.range.start(), &buffer)?;
        control.add_done(task.range.len());
    }
    Ok(())
}

/// Calls `visit` with each run of data until it returns `false`.
fn for_each_data(
    image: &Image,
    mut visit: impl FnMut(ByteRange) -> Result<bool, JobEnd>,
) -> Result<(), JobEnd> {
    let mut from = 0;
    while let Some(data) = image.next_data(from).map_err(Refusal::from)? {
        let end = image.next_hole(data).map_err(Refusal::from)?;
        if !visit(ByteRange::between(data, end))? {
            break;
        }
        from = end;
    }
    Ok(())
}

/// Makes everything zero that is a hole in the image, or behind its end, and allocated in the volume.
pub(super) fn zero_holes(
    image: &Image,
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
    image: &Image,
    writer: &dyn VolumeWriter,
    control: &JobControl,
    allocated: ByteRange,
) -> Result<(), JobEnd> {
    let mut from = allocated.start();
    while from < allocated.end() {
        control.checkpoint()?;
        let data = image.next_data(from).map_err(Refusal::from)?.unwrap_or(u64::MAX).min(allocated.end());
        let hole = ByteRange::between(from, data);
        if !hole.is_empty() {
            writer.zero(hole).map_err(Refusal::from)?;
        }
        // Behind data there is a hole further on, the end of the image at the latest: this ends.
        from = if data < allocated.end() { image.next_hole(data).map_err(Refusal::from)? } else { data };
    }
    Ok(())
}
