//! Numbers and slices off the front of what the fuzzer gives; zeros and nothing when that has ended.

pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub fn number(&mut self, bytes: usize) -> u64 {
        let mut number = [0; 8];
        let taken = self.bytes(bytes);
        number[..taken.len()].copy_from_slice(taken);
        u64::from_le_bytes(number)
    }

    pub fn byte(&mut self) -> u8 {
        self.number(1) as u8
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        let bytes = (64 - end.leading_zeros() as usize).div_ceil(8);
        self.number(bytes) % end
    }
}
