//! LVM2 without a device mapper: the logical volumes on one physical volume, as devices.
//!
//! Two guests often have groups of the same name, and the host's kernel can activate only one of them, if it can at all. So
//! the metadata is read here, and the offsets are mapped here. Only a volume whose segments all lie on this physical volume, in
//! one piece or in stripes, can be shown; each other one is listed with the reason.

mod crc;
mod group;
pub(super) mod label;
mod mapped;
mod metadata;
mod text;

pub use group::{LogicalVolume, VolumeGroup};
pub use mapped::{Mapped, Mapping};

use super::ContentsError;
use super::bytes::read_up_to;
use crate::sysio::device::ReadAt;

/// Reads the volume group that a physical volume belongs to. `None` for what is no physical volume, or one in no group.
///
/// # Errors
///
/// `Malformed` when no copy of the metadata is whole, or when the physical volume carries none.
pub fn volume_group(device: &dyn ReadAt) -> Result<Option<VolumeGroup>, ContentsError> {
    let head = read_up_to(device, 0, label::HEAD_BYTES)?;
    let Some(label) = label::find(&head) else { return Ok(None) };
    let Some(text) = metadata::read(device, &label)? else { return Ok(None) };
    let sections = text::parse(&text).map_err(|why| ContentsError::lvm(format!("its text: {why}")))?;
    group::interpret(&sections, &label.uuid, device.size_bytes()).map(Some).map_err(ContentsError::lvm)
}
