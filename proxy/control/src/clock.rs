//! Time for the whole process: one monotonic line that starts with it, and the wall clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use meridian_routing::Micros;

/// The process's clock; every copy reads the same line.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    start_unix_ms: u64,
}

impl Clock {
    /// A line that starts now. Make one per process and hand out copies.
    pub fn start() -> Self {
        Self { start: Instant::now(), start_unix_ms: unix_ms() }
    }

    /// The wall clock's time at a point of the line, as if nobody had set that clock since the start: what must not
    /// jump goes by this. Milliseconds since 1970 UTC.
    pub fn unix_ms_at(&self, now: Micros) -> u64 {
        self.start_unix_ms.saturating_add(now.0 / 1000)
    }

    /// Time since the start; monotonic.
    pub fn now(&self) -> Micros {
        Micros::after_start(self.start.elapsed())
    }
}

/// The wall clock: milliseconds since 1970 UTC, 0 if it is set before that.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
