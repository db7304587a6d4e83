//! The log: what has to change in it with the UUID, and whether a mount could replay it at all.
//!
//! `survey` goes once around the ring, from the oldest record to the newest. A record that is sound is parsed, and its transactions
//! are followed over any number of records; what of it changes is known by making it anew and comparing. One that is not
//! sound (torn, or half overwritten since) only has the UUID of its header changed, so that it stays unsound; no mount
//! replays it, and `order.rs` refuses the log where one would have to.

mod changes;
mod items;
mod order;
mod record;
mod ring;
mod survey;
#[cfg(test)]
mod tests;
mod transactions;

pub(super) use changes::{HeaderChange, LogChanges, PayloadChange};
pub(super) use record::{HEADER_CRC_AT, HEADER_UUID_AT, is_header};
pub(super) use ring::BLOCK_BYTES;
pub(super) use survey::{Survey, Transition, survey};
