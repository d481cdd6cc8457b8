//! The least rate at which a client sends a body or takes an answer.

use std::time::Duration;

use meridian_routing::Micros;

/// A client may be slow for so long before its rate counts.
const GRACE: Duration = Duration::from_secs(10);

/// How much longer a client may be waited for. It begins with a grace of 10 s; waiting uses it up, and every byte that
/// moves earns the time that it takes at the least rate, up to the longest pause that may be anyway. So the average
/// counts, and only the time in which the client is the one who is waited for.
#[derive(Debug)]
pub(super) struct Pace {
    /// Bytes a second; 0: any rate will do.
    rate: u64,
    left_us: u64,
    most_us: u64,
    since: Micros,
}

impl Pace {
    /// `pause`: the longest pause that may be between two reads or writes.
    pub(super) fn new(rate: u64, pause: Duration) -> Self {
        let left_us = Micros::after_start(GRACE).0;
        let most_us = left_us.max(Micros::after_start(pause).0);
        Self { rate, left_us, most_us, since: Micros(0) }
    }

    /// A wait for the client begins.
    pub(super) fn begin(&mut self, now: Micros) {
        self.since = now;
    }

    /// How long it may last: at most the pause.
    pub(super) fn patience(&self, pause: Duration) -> Duration {
        if self.rate == 0 { pause } else { pause.min(Duration::from_micros(self.left_us)) }
    }

    /// Whether the wait that has begun has used all of it up.
    pub(super) fn is_spent(&self, now: Micros) -> bool {
        self.rate != 0 && now.0.saturating_sub(self.since.0) >= self.left_us
    }

    /// The wait is over.
    pub(super) fn end(&mut self, now: Micros) {
        self.left_us = self.left_us.saturating_sub(now.0.saturating_sub(self.since.0));
        self.since = now;
    }

    /// So many bytes have moved.
    pub(super) fn moved(&mut self, bytes: u64) {
        if let Some(us) = bytes.saturating_mul(1_000_000).checked_div(self.rate) {
            self.left_us = self.left_us.saturating_add(us).min(self.most_us);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(60);

    /// Seconds until a client that moves `bytes` every `every` seconds is given up; `None`: not within an hour.
    fn given_up(rate: u64, bytes: u64, every: u64) -> Option<u64> {
        let mut pace = Pace::new(rate, PAUSE);
        for second in (0..3600).step_by(every as usize) {
            pace.begin(Micros(second * 1_000_000));
            let patience = pace.patience(PAUSE);
            if patience < Duration::from_secs(every) {
                let late = Micros((second + patience.as_secs() + 1) * 1_000_000);
                assert_eq!(pace.is_spent(late), patience < PAUSE);
                return Some(second + patience.as_secs());
            }
            pace.end(Micros((second + every) * 1_000_000));
            pace.moved(bytes);
        }
        None
    }

    #[test]
    fn a_trickle_ends_after_the_grace_and_the_least_rate_never_does() {
        assert_eq!(given_up(512, 1, 1), Some(10));
        assert_eq!(given_up(512, 256, 1), Some(19));
        assert_eq!(given_up(512, 512, 1), None);
        assert_eq!(given_up(512, 5_120, 10), None);
        assert_eq!(given_up(0, 1, 59), None);
    }

    #[test]
    fn who_has_moved_much_may_pause() {
        let mut pace = Pace::new(512, PAUSE);
        pace.moved(10_000_000);
        assert_eq!(pace.patience(PAUSE), PAUSE);
        pace.begin(Micros(0));
        pace.end(Micros(59_000_000));
        assert_eq!(pace.patience(PAUSE), Duration::from_secs(1));
    }
}
