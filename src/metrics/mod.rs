//! Counters and histograms, and the text in which Prometheus reads them (format 0.0.4). Knows nothing of what is counted.
//!
//! What is counted while work goes on is a `static` of the layer that does the work, and costs a relaxed addition: who
//! reads an image pays nothing for being counted. Such a layer [`register`]s a function that writes its statics; what
//! can be told from the state of things is written by whoever shows the state.
//!
//! Not one of the crates for this: they share a registry by reference counts or look metrics up by name in a map, both for
//! the sake of labels that are not known beforehand, and what is left without that is small.

mod by_label;
mod counter;
mod histogram;
mod registry;
mod text;

pub use by_label::ByLabels;
pub use counter::{Counter, Gauge};
pub use histogram::{Buckets, Histogram, LATENCY, Timer};
pub use registry::{register, write_registered};
pub use text::{Family, Kind, MetricsText, Value};
