//! The wall clock, in one place.

use crate::types::Timestamp;

/// Returns the time now, UTC.
pub fn now() -> Timestamp {
    Timestamp::from_system_time(std::time::SystemTime::now())
}
