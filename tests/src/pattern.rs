//! Large bodies that can be checked without being kept.

use std::sync::LazyLock;

/// Not a power of two, so that a piece that was lost or repeated does not fit.
const LENGTH: usize = 65_521;

static BLOCK: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    };
    (0..LENGTH).map(|_| next()).collect()
});

/// The block that a pattern repeats.
pub fn block() -> &'static [u8] {
    &BLOCK
}

/// The first `length` bytes of the pattern, in pieces.
pub fn stream(length: u64) -> impl Iterator<Item = &'static [u8]> {
    let mut left = length;
    std::iter::from_fn(move || {
        let n = usize::try_from(left).unwrap_or(LENGTH).min(LENGTH);
        left -= n as u64;
        (n > 0).then(|| &block()[..n])
    })
}

/// Compares bytes with the pattern as they come.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// Bytes so far.
    pub length: u64,
    /// Whether one of them differed.
    pub differs: bool,
}

impl Checked {
    /// Takes the next bytes.
    pub fn take(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let expected = &block()[(self.length % LENGTH as u64) as usize..];
            let n = expected.len().min(data.len());
            self.differs |= expected[..n] != data[..n];
            self.length += n as u64;
            data = &data[n..];
        }
    }

    /// Whether exactly the first `length` bytes of the pattern came.
    pub fn is(&self, length: u64) -> bool {
        self.length == length && !self.differs
    }
}
