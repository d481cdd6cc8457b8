//! How much of something may be done beyond the requests themselves: a part of them, over a window of time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::time::Micros;

/// Length of a window, microseconds.
pub(crate) const WINDOW_US: u64 = 10_000_000;

/// Requests of the current 10 s window, and what was taken beyond them. Lock-free; a window's edge may miscount by a few.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    window: AtomicU64,
    requests: AtomicU64,
    taken: AtomicU64,
}

impl Budget {
    /// Counts a request.
    pub(crate) fn request(&self, now: Micros) {
        self.roll(now);
        self.requests.fetch_add(1, Relaxed);
    }

    /// Takes one if fewer than `part` of the window's requests, and at least `always`, were taken.
    pub(crate) fn take(&self, part: f64, always: u64, now: Micros) -> bool {
        self.roll(now);
        let allowed = ((self.requests.load(Relaxed) as f64 * part) as u64).max(always);
        let one_more = |taken: u64| (taken < allowed).then_some(taken + 1);
        self.taken.fetch_update(Relaxed, Relaxed, one_more).is_ok()
    }

    fn roll(&self, now: Micros) {
        let window = now.0 / WINDOW_US + 1;
        if self.window.load(Relaxed) != window && self.window.swap(window, Relaxed) != window {
            self.requests.store(0, Relaxed);
            self.taken.store(0, Relaxed);
        }
    }
}
