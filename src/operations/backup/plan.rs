//! Cuts a snapshot into spans: what has to be read, compared or noted, in image order.

use super::recheck::Rechecks;
use crate::jobs::JobEnd;
use crate::source::{Changes, Extent, ExtentKind, Snapshot, SnapshotInfo, SourceError};
use crate::types::ByteRange;

/// Data in one span: large reads, and small enough that many are under way in little memory.
pub(super) const SPAN_BYTES: u64 = 4 << 20;
/// Ranges in one span: bounds the memory of spans of many small extents, and of none.
const SPAN_PIECES_MAX: usize = 2048;
/// The source's extents are widened to whole sectors: what leans on them later is read in sectors.
const SECTOR: u64 = 512;
/// A hole is compared in pieces, so that no single one keeps the others waiting.
const HOLE_BYTES: u64 = 16 << 30;

/// What is to be done with a range of the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PieceKind {
    /// Read it and store it.
    Store,
    /// Read it and store what differs from the parent.
    Compare,
    /// Read it: nothing should differ from the parent.
    Check,
    /// It is zeros: note it.
    Zero,
    /// It is zeros: note it where the parent's is something else.
    CompareZero,
}

impl PieceKind {
    pub(super) fn is_read(self) -> bool {
        matches!(self, Self::Store | Self::Compare | Self::Check)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) range: ByteRange,
    pub(super) kind: PieceKind,
}

/// Work for one thread at a time. Pieces are ascending and do not overlap, within and across spans.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) pieces: Vec<Piece>,
    pub(super) data_bytes: u64,
}

/// How the copy is made.
pub(super) enum Strategy<'a> {
    /// Everything is stored.
    Full,
    /// The source says what changed since this snapshot, which is checked here and there; if it cannot, everything is
    /// compared.
    Changes { base: &'a SnapshotInfo, rechecks: Rechecks },
    /// Everything is compared with the parent.
    Compare,
}

/// Receives spans in order; blocks while too many are under way.
pub(super) type EmitSpan<'a> = dyn FnMut(Span) -> Result<(), JobEnd> + 'a;

/// Emits the spans of a snapshot.
pub(super) fn plan(
    snapshot: &dyn Snapshot,
    chunk_size: u64,
    strategy: Strategy<'_>,
    emit: &mut EmitSpan<'_>,
) -> Result<(), JobEnd> {
    let size_bytes = snapshot.info().size_bytes;
    match strategy {
        Strategy::Full => {
            let mut planner =
                Planner::new(size_bytes, chunk_size, PieceKind::Store, Gap::Is(PieceKind::Zero), emit);
            planner.run(|emit| snapshot.allocated(emit))?;
            planner.finish()
        }
        Strategy::Changes { base, rechecks } => {
            let mut planner =
                Planner::new(size_bytes, SECTOR, PieceKind::Store, Gap::Unchanged(rechecks), emit);
            match planner.run(|emit| snapshot.changed_since(base, emit))? {
                Changes::Known => planner.finish(),
                Changes::Unknown => plan(snapshot, chunk_size, Strategy::Compare, emit),
            }
        }
        Strategy::Compare => {
            let mut planner = Planner::new(
                size_bytes,
                chunk_size,
                PieceKind::Compare,
                Gap::Is(PieceKind::CompareZero),
                emit,
            );
            planner.run(|emit| snapshot.allocated(emit))?;
            planner.finish()
        }
    }
}

/// What lies between the extents.
enum Gap {
    /// All of it is this.
    Is(PieceKind),
    /// Nothing that needs to be mentioned; here and there it is looked at.
    Unchanged(Rechecks),
}

struct Planner<'a, 'b> {
    size_bytes: u64,
    block: u64,
    data: PieceKind,
    gap: Gap,
    emit: &'a mut EmitSpan<'b>,
    span: Span,
    /// Everything below is planned.
    done: u64,
}

impl<'a, 'b> Planner<'a, 'b> {
    fn new(size_bytes: u64, block: u64, data: PieceKind, gap: Gap, emit: &'a mut EmitSpan<'b>) -> Self {
        Self { size_bytes, block, data, gap, emit, span: Span::default(), done: 0 }
    }

    fn run<T>(
        &mut self,
        enumerate: impl FnOnce(&mut dyn FnMut(Extent) -> Result<(), SourceError>) -> Result<T, SourceError>,
    ) -> Result<T, JobEnd> {
        let mut stopped = None;
        let result = enumerate(&mut |extent| {
            self.add(extent).map_err(|end| {
                stopped = Some(end);
                SourceError::Stopped
            })
        });
        match (result, stopped) {
            (_, Some(end)) => Err(end),
            (Err(error), None) => Err(JobEnd::Failed(error.into())),
            (Ok(value), None) => Ok(value),
        }
    }

    /// Plans what is behind the last extent.
    fn finish(mut self) -> Result<(), JobEnd> {
        self.fill_gap(self.size_bytes)?;
        self.send()
    }

    fn add(&mut self, extent: Extent) -> Result<(), JobEnd> {
        let (range, kind) = match (extent.kind, &self.gap) {
            (ExtentKind::Data, _) => (extent.range.rounded_out(self.block), self.data),
            // Zeros between allocated extents are a gap like any other.
            (ExtentKind::Zero, Gap::Is(_)) => return Ok(()),
            (ExtentKind::Zero, Gap::Unchanged(_)) => (extent.range, PieceKind::Zero),
        };
        let range = ByteRange::between(range.start().max(self.done), range.end().min(self.size_bytes));
        if range.is_empty() {
            return Ok(());
        }
        self.fill_gap(range.start())?;
        self.push(range, kind)
    }

    fn fill_gap(&mut self, end: u64) -> Result<(), JobEnd> {
        let gap = ByteRange::between(self.done, end);
        match &mut self.gap {
            Gap::Is(kind) => {
                let kind = *kind;
                self.push(gap, kind)
            }
            Gap::Unchanged(rechecks) => {
                let ranges = rechecks.within(gap, gap.start() > 0, end < self.size_bytes);
                ranges.into_iter().try_for_each(|range| self.push(range, PieceKind::Check))
            }
        }
    }

    fn push(&mut self, range: ByteRange, kind: PieceKind) -> Result<(), JobEnd> {
        let is_data = kind.is_read();
        let step = if is_data { SPAN_BYTES } else { HOLE_BYTES };
        for range in range.split_on_grid(step) {
            let too_much = is_data && self.span.data_bytes + range.len() > SPAN_BYTES;
            if too_much || self.span.pieces.len() >= SPAN_PIECES_MAX {
                self.send()?;
            }
            if is_data {
                self.span.data_bytes += range.len();
            }
            self.done = range.end();
            self.span.pieces.push(Piece { range, kind });
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), JobEnd> {
        if self.span.pieces.is_empty() {
            return Ok(());
        }
        (self.emit)(std::mem::take(&mut self.span))
    }
}
