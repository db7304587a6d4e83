//! Bytes at an offset: what a volume, an image, a part of one and a file have in common.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{SeekFrom, seek};

/// Bytes of a known length that can be read at any offset, by several threads.
pub trait ReadAt: Send + Sync {
    fn size_bytes(&self) -> u64;

    /// Fills `into`; `UnexpectedEof`, and nothing read, when it would reach beyond the end.
    fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Returns the first offset from here on that is not in a hole; what knows of no holes has none.
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        Ok((offset < self.size_bytes()).then_some(offset))
    }

    /// Returns the first offset from here on that is in a hole; the end counts as one.
    fn next_hole(&self, _offset: u64) -> io::Result<u64> {
        Ok(self.size_bytes())
    }
}

/// Bytes that can be written at any offset too. The length stays.
pub trait WriteAt: ReadAt {
    /// Writes all; `WriteZero`, and nothing written, when it would reach beyond the end.
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes durable what was written.
    fn sync(&self) -> io::Result<()>;
}

/// What refers to a device is one: a reference, an `Arc`.
impl<P> ReadAt for P
where
    P: Deref + Send + Sync,
    P::Target: ReadAt,
{
    fn size_bytes(&self) -> u64 {
        (**self).size_bytes()
    }

    fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        (**self).read_exact_at(offset, into)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        (**self).next_data(offset)
    }

    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        (**self).next_hole(offset)
    }
}

impl<P> WriteAt for P
where
    P: Deref + Send + Sync,
    P::Target: WriteAt,
{
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        (**self).write_all_at(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        (**self).sync()
    }
}

/// A regular file or a block device.
pub struct FileDevice {
    file: File,
    size_bytes: u64,
}

impl FileDevice {
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::new(File::open(path)?)
    }

    /// Takes a file that is open, with the length that it has now.
    pub fn new(file: File) -> io::Result<Self> {
        // `stat` says nothing about the length of a block device; its end does.
        let size_bytes = seek(&file, SeekFrom::End(0))?;
        Ok(Self { file, size_bytes })
    }

    pub fn file(&self) -> &File {
        &self.file
    }
}

impl ReadAt for FileDevice {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        check_within(self.size_bytes, offset, into.len(), io::ErrorKind::UnexpectedEof)?;
        self.file.read_exact_at(into, offset)
    }
}

impl WriteAt for FileDevice {
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        check_within(self.size_bytes, offset, bytes.len(), io::ErrorKind::WriteZero)?;
        self.file.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// A part of a device as a device of its own: a partition.
pub struct Window<D> {
    device: D,
    start: u64,
    size_bytes: u64,
}

impl<D: ReadAt> Window<D> {
    /// Takes the part of `device` from `start` on; what would lie beyond the end is left out.
    pub fn new(device: D, start: u64, length: u64) -> Self {
        let size_bytes = length.min(device.size_bytes().saturating_sub(start));
        Self { device, start, size_bytes }
    }
}

impl<D: ReadAt> ReadAt for Window<D> {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        check_within(self.size_bytes, offset, into.len(), io::ErrorKind::UnexpectedEof)?;
        self.device.read_exact_at(self.start + offset, into)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        if offset >= self.size_bytes {
            return Ok(None);
        }
        let data = self.device.next_data(self.start + offset)?.map(|data| data - self.start);
        Ok(data.filter(|data| *data < self.size_bytes))
    }

    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        if offset >= self.size_bytes {
            return Ok(self.size_bytes);
        }
        Ok((self.device.next_hole(self.start + offset)? - self.start).min(self.size_bytes))
    }
}

impl<D: WriteAt> WriteAt for Window<D> {
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        check_within(self.size_bytes, offset, bytes.len(), io::ErrorKind::WriteZero)?;
        self.device.write_all_at(self.start + offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.device.sync()
    }
}

/// Says `kind` when a range does not lie within a device.
pub fn check_within(size_bytes: u64, offset: u64, length: usize, kind: io::ErrorKind) -> io::Result<()> {
    match offset.checked_add(length as u64) {
        Some(end) if end <= size_bytes => Ok(()),
        _ => {
            let why = format!("{length} bytes at {offset} reach beyond the end at {size_bytes}");
            Err(io::Error::new(kind, why))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_window_shows_its_part_and_nothing_beside_it() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"abcdefgh", 0).unwrap();
        let device = Arc::new(FileDevice::new(file).unwrap());
        let window = Window::new(Arc::clone(&device), 2, 4);
        let mut into = [0; 4];
        window.read_exact_at(0, &mut into).unwrap();
        assert_eq!((&into, window.size_bytes()), (b"cdef", 4));
        assert_eq!(window.read_exact_at(1, &mut into).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(window.write_all_at(3, b"xy").unwrap_err().kind(), io::ErrorKind::WriteZero);
        assert_eq!(
            window.read_exact_at(u64::MAX, &mut into).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        window.write_all_at(3, b"X").unwrap();
        window.sync().unwrap();
        let mut all = [0; 8];
        device.read_exact_at(0, &mut all).unwrap();
        assert_eq!(&all, b"abcdeXgh");
        assert_eq!(Window::new(device, 6, u64::MAX).size_bytes(), 2, "cut at the end");
    }
}
