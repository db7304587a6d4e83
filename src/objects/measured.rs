//! An object store that is counted: what is asked of it, how long that takes, what goes wrong.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{ObjectEntry, ObjectError, ObjectKind, ObjectName, ObjectStore, ObjectWriter};
use crate::metrics::{Counter, Histogram, Kind, LATENCY, MetricsText, register};

static READ: Operation = Operation::new("read");
static WRITE: Operation = Operation::new("write");
/// The end of a write: the sync, and the name.
static PUBLISH: Operation = Operation::new("publish");
static REPLACE: Operation = Operation::new("replace");
static LENGTH: Operation = Operation::new("length");
static LIST: Operation = Operation::new("list");
static REMOVE: Operation = Operation::new("remove");

static OPERATIONS: [&Operation; 7] = [&READ, &WRITE, &PUBLISH, &REPLACE, &LENGTH, &LIST, &REMOVE];

static BYTES_READ: ByKind = ByKind::new();
static BYTES_WRITTEN: ByKind = ByKind::new();
static SYNCS_FAILED: Counter = Counter::new();

/// One thing that is asked of a store.
struct Operation {
    name: &'static str,
    seconds: Histogram,
    missing: Counter,
    exists: Counter,
    damaged: Counter,
    failed: Counter,
}

impl Operation {
    const fn new(name: &'static str) -> Self {
        Self {
            name,
            seconds: Histogram::new(LATENCY),
            missing: Counter::new(),
            exists: Counter::new(),
            damaged: Counter::new(),
            failed: Counter::new(),
        }
    }

    fn measure<T>(&'static self, ask: impl FnOnce() -> Result<T, ObjectError>) -> Result<T, ObjectError> {
        let _timer = self.seconds.start();
        ask().inspect_err(|error| self.count(error))
    }

    fn count(&self, error: &ObjectError) {
        let counter = match error {
            ObjectError::Missing { .. } => &self.missing,
            ObjectError::Exists { .. } => &self.exists,
            ObjectError::Truncated { .. } | ObjectError::TooLong { .. } => &self.damaged,
            ObjectError::Io { source, .. } | ObjectError::Folder { source } => {
                if source.action.starts_with("sync") {
                    SYNCS_FAILED.increment();
                }
                &self.failed
            }
        };
        counter.increment();
    }
}

/// Bytes of each kind of objects.
struct ByKind {
    bytes: [AtomicU64; KINDS.len()],
}

const KINDS: [&str; 4] = ["header", "pack", "manifest", "record"];

impl ByKind {
    const fn new() -> Self {
        Self { bytes: [const { AtomicU64::new(0) }; KINDS.len()] }
    }

    fn add(&self, name: ObjectName, bytes: usize) {
        let kind = match name {
            ObjectName::Header => 0,
            ObjectName::Pack(_) => 1,
            ObjectName::Manifest(_) => 2,
            ObjectName::Record(_) => 3,
        };
        if let Some(sum) = self.bytes.get(kind) {
            sum.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    fn write(&self, text: &mut MetricsText, name: &'static str, help: &str) {
        let mut family = text.family(name, Kind::Counter, help);
        for (kind, bytes) in KINDS.iter().zip(&self.bytes) {
            family.sample(&[("kind", kind)], bytes.load(Ordering::Relaxed));
        }
    }
}

fn write(text: &mut MetricsText) {
    let name = "amberfs_object_operation_seconds";
    let mut seconds = text.family(name, Kind::Histogram, "Time that the repository's disk took.");
    for operation in OPERATIONS {
        seconds.histogram(&[("operation", operation.name)], &operation.seconds);
    }
    let help =
        "What the repository's disk did not do; missing and exists may be answers that were reckoned with.";
    let mut errors = text.family("amberfs_object_errors_total", Kind::Counter, help);
    for operation in OPERATIONS {
        let reasons = [
            ("missing", &operation.missing),
            ("exists", &operation.exists),
            ("damaged", &operation.damaged),
            ("failed", &operation.failed),
        ];
        for (reason, counter) in reasons {
            errors.sample(&[("operation", operation.name), ("reason", reason)], counter.get());
        }
    }
    BYTES_READ.write(text, "amberfs_object_read_bytes_total", "Bytes read from the repository.");
    BYTES_WRITTEN.write(text, "amberfs_object_written_bytes_total", "Bytes written to the repository.");
    let help = "Syncs of the repository that failed, and with each of them a job.";
    text.counter("amberfs_object_syncs_failed_total", help, &SYNCS_FAILED);
}

/// Does what the store in it does, and counts.
pub struct MeasuredStore<S> {
    store: S,
}

impl<S: ObjectStore> MeasuredStore<S> {
    pub fn new(store: S) -> Self {
        register("objects", write);
        Self { store }
    }
}

impl<S: ObjectStore> ObjectStore for MeasuredStore<S> {
    fn location(&self) -> String {
        self.store.location()
    }

    fn create(&self, name: ObjectName) -> Result<Box<dyn ObjectWriter>, ObjectError> {
        let writer = WRITE.measure(|| self.store.create(name))?;
        Ok(Box::new(MeasuredWriter { name, writer }))
    }

    fn replace(&self, name: ObjectName, bytes: &[u8]) -> Result<(), ObjectError> {
        BYTES_WRITTEN.add(name, bytes.len());
        REPLACE.measure(|| self.store.replace(name, bytes))
    }

    fn read(&self, name: ObjectName, offset: u64, into: &mut [u8]) -> Result<(), ObjectError> {
        BYTES_READ.add(name, into.len());
        READ.measure(|| self.store.read(name, offset, into))
    }

    fn read_whole(&self, name: ObjectName, length_max: u64) -> Result<Vec<u8>, ObjectError> {
        let bytes = READ.measure(|| self.store.read_whole(name, length_max))?;
        BYTES_READ.add(name, bytes.len());
        Ok(bytes)
    }

    fn length(&self, name: ObjectName) -> Result<u64, ObjectError> {
        LENGTH.measure(|| self.store.length(name))
    }

    fn forget_kept(&self, name: ObjectName) {
        self.store.forget_kept(name);
    }

    fn list(&self, kind: ObjectKind) -> Result<Vec<ObjectEntry>, ObjectError> {
        LIST.measure(|| self.store.list(kind))
    }

    fn remove(&self, name: ObjectName) -> Result<(), ObjectError> {
        REMOVE.measure(|| self.store.remove(name))
    }
}

struct MeasuredWriter {
    name: ObjectName,
    writer: Box<dyn ObjectWriter>,
}

impl ObjectWriter for MeasuredWriter {
    fn append(&mut self, bytes: &[u8]) -> Result<(), ObjectError> {
        BYTES_WRITTEN.add(self.name, bytes.len());
        WRITE.measure(|| self.writer.append(bytes))
    }

    fn finish(self: Box<Self>) -> Result<(), ObjectError> {
        PUBLISH.measure(|| self.writer.finish())
    }
}
