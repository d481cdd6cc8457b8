//! What is counted of compressed answers, by route.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use meridian_config::Coding;

/// Counts of one route.
#[derive(Debug, Default)]
pub struct CompressionCounters {
    cells: [Cells; Coding::ALL.len()],
    skipped: AtomicU64,
}

#[derive(Debug, Default)]
struct Cells {
    answers: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

/// What was compressed with one coding so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compressed {
    /// Answers, whole or not.
    pub answers: u64,
    /// Bytes of bodies as endpoints sent them.
    pub bytes_in: u64,
    /// Bytes of bodies as clients were given them.
    pub bytes_out: u64,
}

impl CompressionCounters {
    /// Counts an answer that was compressed, to its end or not.
    pub fn compressed(&self, coding: Coding, bytes_in: u64, bytes_out: u64) {
        let cells = &self.cells[coding as usize];
        cells.answers.fetch_add(1, Relaxed);
        cells.bytes_in.fetch_add(bytes_in, Relaxed);
        cells.bytes_out.fetch_add(bytes_out, Relaxed);
    }

    /// Counts an answer that was passed on as it was, because compressors held as much memory as they may.
    pub fn skip(&self) {
        self.skipped.fetch_add(1, Relaxed);
    }

    /// What was compressed with a coding so far.
    pub fn of(&self, coding: Coding) -> Compressed {
        let cells = &self.cells[coding as usize];
        Compressed {
            answers: cells.answers.load(Relaxed),
            bytes_in: cells.bytes_in.load(Relaxed),
            bytes_out: cells.bytes_out.load(Relaxed),
        }
    }

    /// Answers so far for which there was no memory.
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_coding_is_counted_by_itself() {
        let counters = CompressionCounters::default();
        counters.compressed(Coding::Brotli, 100, 20);
        counters.compressed(Coding::Brotli, 1, 2);
        counters.skip();
        let brotli = Compressed { answers: 2, bytes_in: 101, bytes_out: 22 };
        assert_eq!(counters.of(Coding::Brotli), brotli);
        assert_eq!(counters.of(Coding::Gzip), Compressed::default());
        assert_eq!(counters.of(Coding::Zstd), Compressed::default());
        assert_eq!(counters.skipped(), 1);
    }
}
