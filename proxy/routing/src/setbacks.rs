//! What a region's state costs: requests of one service that a region failed, or that others had to take.
//!
//! Counted only where something goes wrong; a request that is served as it should be touches none of this.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts of one service in one region since the process started.
#[derive(Debug, Default)]
pub struct Setbacks {
    failed: AtomicU64,
    retried: AtomicU64,
    spilled: AtomicU64,
    refused: AtomicU64,
}

impl Setbacks {
    /// Counts an attempt that failed here.
    pub(crate) fn count_failed(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    /// Counts an attempt that failed here and was followed by another, here or elsewhere.
    pub fn count_retried(&self) {
        self.retried.fetch_add(1, Relaxed);
    }

    /// Counts a request whose first choice this region would have been but for its state.
    pub(crate) fn count_spilled(&self) {
        self.spilled.fetch_add(1, Relaxed);
    }

    /// Counts a request that this region might have served, and that was refused.
    pub(crate) fn count_refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// Attempts that failed: 429, 5xx, no connection, a broken or late answer.
    pub fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// Failed attempts that were followed by another one.
    pub fn retried(&self) -> u64 {
        self.retried.load(Relaxed)
    }

    /// Requests that other regions took because this one was drained, down, not judged yet, or not healthy enough
    /// for its whole share.
    pub fn spilled(&self) -> u64 {
        self.spilled.load(Relaxed)
    }

    /// Requests that were refused while every region that might have served them, this one among them, was drained
    /// or down.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}
