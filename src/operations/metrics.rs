//! What is counted of the traffic with sources.

use crate::metrics::{ByLabels, Counter, Kind, MetricsText};

/// By source.
pub(super) static BYTES_READ: ByLabels<Counter, 1> = ByLabels::new(Counter::new);
pub(super) static BYTES_RESTORED: Counter = Counter::new();

pub(super) fn write(text: &mut MetricsText) {
    let help = "Bytes that backups read from a source.";
    let mut read = text.family("amberfs_source_read_bytes_total", Kind::Counter, help);
    BYTES_READ.for_each(|[source], bytes| read.sample(&[("source", source)], bytes.get()));
    let help = "Bytes that restores wrote to volumes; zeros are not written.";
    text.counter("amberfs_restore_written_bytes_total", help, &BYTES_RESTORED);
}
