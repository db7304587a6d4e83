//! Frames on the socket between the daemon and a worker: a kind, a length, and that many bytes.

use std::io::{self, Read, Write};

/// The most bytes that a frame holds: one read of a file, or one of the device.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

const HEADER_BYTES: usize = 5;
const SMALL_BYTES: usize = 16 * 1024;

/// What stands in front of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    pub kind: u8,
    pub length: usize,
}

/// Sends a frame whose bytes stand in one place.
pub fn send(out: &mut impl Write, kind: u8, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= FRAME_BYTES_MAX);
    let length = length.ok_or_else(|| io::Error::other("a frame would be too long"))?;
    let [a, b, c, d] = length.to_le_bytes();
    let header = [kind, a, b, c, d];
    if bytes.len() <= SMALL_BYTES {
        // One system call is cheaper than the copy.
        return out.write_all(&[&header, bytes].concat());
    }
    out.write_all(&header)?;
    out.write_all(bytes)
}

/// Receives what stands in front; the caller takes the bytes. `None` when the other side has hung up.
pub fn receive_header(from: &mut impl Read) -> io::Result<Option<FrameHeader>> {
    let mut header = [0; HEADER_BYTES];
    // As `read_exact` does, which cannot tell the end of all frames from that of one.
    let got = loop {
        match from.read(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    if got == 0 {
        return Ok(None);
    }
    from.read_exact(header.get_mut(got..).unwrap_or_default())?;
    let [kind, length @ ..] = header;
    let length = u32::from_le_bytes(length);
    match usize::try_from(length) {
        Ok(length) if length <= FRAME_BYTES_MAX => Ok(Some(FrameHeader { kind, length })),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes"))),
    }
}

/// Receives a whole frame into a buffer that is used again and again, and only ever grows to the bound.
pub fn receive(from: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<Option<u8>> {
    let Some(header) = receive_header(from)? else { return Ok(None) };
    buffer.resize(header.length, 0);
    from.read_exact(buffer)?;
    Ok(Some(header.kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Meets a signal before each read.
    struct Interrupted<'a>(&'a [u8], bool);

    impl Read for Interrupted<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 { Err(io::ErrorKind::Interrupted.into()) } else { self.0.read(into) }
        }
    }

    #[test]
    fn a_signal_does_not_end_a_conversation() {
        let mut wire = Vec::new();
        send(&mut wire, 7, b"hello").unwrap();
        let (mut from, mut buffer) = (Interrupted(&wire, false), Vec::new());
        assert_eq!(receive(&mut from, &mut buffer).unwrap(), Some(7));
        assert_eq!(buffer, b"hello");
        assert_eq!(receive(&mut from, &mut buffer).unwrap(), None);
    }

    #[test]
    fn a_frame_comes_as_it_was_sent_and_an_endless_one_is_refused() {
        let mut wire = Vec::new();
        send(&mut wire, 7, b"hello").unwrap();
        send(&mut wire, 8, b"").unwrap();
        let (mut from, mut buffer) = (&wire[..], Vec::new());
        assert_eq!(receive(&mut from, &mut buffer).unwrap(), Some(7));
        assert_eq!(buffer, b"hello");
        assert_eq!(receive(&mut from, &mut buffer).unwrap(), Some(8));
        assert_eq!(receive(&mut from, &mut buffer).unwrap(), None);
        assert!(send(&mut wire, 1, &vec![0; FRAME_BYTES_MAX + 1]).is_err());
        let mut long: &[u8] = &[1, 1, 0, 0x10, 0];
        assert_eq!(receive_header(&mut long).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let mut cut: &[u8] = &[1, 4, 0, 0, 0, b'a'];
        assert_eq!(receive(&mut cut, &mut buffer).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
