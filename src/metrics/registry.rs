//! Which layers count, and how to write what they counted: whoever shows the metrics is below some of them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::MetricsText;

type Write = fn(&mut MetricsText);

static REGISTERED: Mutex<BTreeMap<&str, Write>> = Mutex::new(BTreeMap::new());

/// Has a layer's metrics written from now on. May be said again.
pub fn register(layer: &'static str, write: Write) {
    REGISTERED.lock().unwrap_or_else(PoisonError::into_inner).insert(layer, write);
}

/// Writes the metrics of all layers that registered, in the order of their names.
pub fn write_registered(text: &mut MetricsText) {
    let writes: Vec<Write> =
        REGISTERED.lock().unwrap_or_else(PoisonError::into_inner).values().copied().collect();
    writes.iter().for_each(|write| write(text));
}
