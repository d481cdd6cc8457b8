//! Time as an argument: microseconds on a monotonic line that starts with the process.

use std::time::Duration;

/// A point on the monotonic line, in microseconds since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Micros(pub u64);

impl Micros {
    /// The point `duration` after the start.
    pub fn after_start(duration: Duration) -> Self {
        // 64 bits hold more than half a million years; `as_micros` would count in 128.
        let whole = duration.as_secs().saturating_mul(1_000_000);
        Self(whole.saturating_add(duration.subsec_micros().into()))
    }

    /// Time since `earlier`; zero if that lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// This point and `duration` more.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(Self::after_start(duration).0))
    }
}
