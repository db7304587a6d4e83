//! LVM's checksum: the usual CRC-32, but with a start value of its own, and not inverted at the end.

const START: u32 = 0xf597_a6cf;
const POLYNOMIAL: u32 = 0xedb8_8320;

pub(super) fn crc(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
    bytes.iter().fold(START, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}
