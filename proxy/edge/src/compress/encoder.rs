//! A body that is being compressed, and the memory for it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use meridian_config::{Coding, Compress};

use super::codec::Codec;
pub(crate) use super::codec::Op;

const KIB: u64 = 1 << 10;

/// What compressors hold, over all workers.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    held: AtomicU64,
}

impl Memory {
    /// What is reserved, bytes.
    pub(crate) fn held(&self) -> u64 {
        self.held.load(Relaxed)
    }

    /// Takes so many bytes of `most`, if there are as many.
    fn reserve(self: &Arc<Self>, bytes: u64, most: u64) -> Option<Reservation> {
        let reserved = Reservation { of: self.clone(), bytes };
        let before = self.held.fetch_add(bytes, Relaxed);
        // One that does not fit gives back what it took.
        (before.saturating_add(bytes) <= most).then_some(reserved)
    }
}

/// Memory of one compressor; given back when dropped.
#[derive(Debug)]
struct Reservation {
    of: Arc<Memory>,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.of.held.fetch_sub(self.bytes, Relaxed);
    }
}

/// Compresses one body.
pub(crate) struct Encoder {
    coding: Coding,
    codec: Codec,
    _memory: Reservation,
}

impl Encoder {
    /// For a body of `length` bytes, where that is known. `most`: what all compressors together may hold, bytes.
    ///
    /// `None` if there is no memory for it.
    pub(crate) fn new(
        memory: &Arc<Memory>,
        most: u64,
        coding: Coding,
        settings: &Compress,
        length: Option<u64>,
    ) -> Option<Self> {
        let need = need(coding, settings.levels.of(coding), length);
        let memory = memory.reserve(need, most)?;
        let codec = Codec::new(coding, settings, length).ok()?;
        Some(Self { coding, codec, _memory: memory })
    }

    pub(crate) fn coding(&self) -> Coding {
        self.coding
    }

    /// Takes input off its front and appends to the room that `out` has. `true`: all is done that `op` asks for, else `out`
    /// has to be emptied and the same asked again.
    ///
    /// # Errors
    /// If the library fails; the body cannot go on.
    pub(crate) fn step(
        &mut self,
        input: &mut &[u8],
        op: Op,
        out: &mut Vec<u8>,
    ) -> io::Result<bool> {
        self.codec.step(input, op, out)
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").field("coding", &self.coding).finish_non_exhaustive()
    }
}

/// The most that a compressor comes to hold, bytes, as measured with 1 MiB of JSON and, for brotli, with 4 MiB that compress
/// badly, and a little more; its output's buffer
/// included. With zstd a short body takes less; the tables of the other two are as large for any.
fn need(coding: Coding, level: u8, length: Option<u64>) -> u64 {
    const OUT: u64 = 16 * KIB;
    let most = match (coding, level) {
        (Coding::Gzip, _) => 352 * KIB,
        (Coding::Brotli, ..=1) => 736 * KIB,
        (Coding::Brotli, 2..=3) => 1376 * KIB,
        (Coding::Brotli, 4) => 2144 * KIB,
        (Coding::Brotli, 5) => 2704 * KIB,
        (Coding::Brotli, 6..) => 3744 * KIB,
        (Coding::Zstd, ..=2) => 704 * KIB,
        (Coding::Zstd, 3) => 1200 * KIB,
        (Coding::Zstd, 4) => 1500 * KIB,
        (Coding::Zstd, 5..) => 1024 * KIB,
    };
    let by_length = match (coding, length) {
        (Coding::Gzip | Coding::Brotli, _) | (_, None) => u64::MAX,
        (Coding::Zstd, Some(length)) => length.saturating_mul(20).saturating_add(64 * KIB),
    };
    OUT + most.min(by_length)
}

#[cfg(test)]
#[path = "encoder_tests.rs"]
mod tests;
