//! Hedged reads: when a route's requests are late, and how many of them may be sent twice.
//!
//! The way of "The Tail at Scale" (Dean and Barroso, CACM 56(2), 2013): a second request after a high percentile of the
//! usual time, at most a few per cent of all.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use meridian_config::{Hedge, HedgeAfter};

use crate::budget::Budget;
use crate::labelled::labelled;
use crate::time::Micros;

labelled!(
    /// What became of a request that was late on a route that hedges.
    HedgeOutcome {
        /// The second endpoint answered first.
        Won = "won",
        /// The first one did after all; the second was let go.
        Lost = "lost",
        /// The second one failed, or answered with a 5xx.
        Failed = "failed",
        /// It was not sent twice: the budget was spent.
        Budget = "budget",
        /// It was not sent twice: there was no other endpoint.
        NoEndpoint = "no-endpoint",
    }
);

/// A late request is always allowed once in a window.
const ALWAYS: u64 = 1;
/// How far one sample moves the estimate, in parts of it.
const STEP: f32 = 0.1;
/// Nobody is late before that: timers have a millisecond's resolution.
const SHORTEST: Duration = Duration::from_millis(1);

/// The usual time of one route in one region: a percentile, estimated as it goes.
///
/// A sample above the estimate `q` raises it by `STEP x p`, one below lowers it by `STEP x (1 - p)`, in parts of `q`: at rest
/// when a part `p` of the samples is below (after Ma, Muthukrishnan and Sandler, "Frugal Streaming for Estimating
/// Quantiles", 2013, with steps in proportion).
#[derive(Debug, Default)]
pub struct UsualTime(AtomicU32);

impl UsualTime {
    /// Learns from a request that took so long, or longer. Samples that come at the same instant may be lost.
    pub fn learn(&self, quantile: f32, took: Duration) {
        let sample = took.as_micros().clamp(1, 1 << 32) as f32;
        let usual = f32::from_bits(self.0.load(Relaxed));
        let next = if usual == 0.0 {
            sample
        } else if sample > usual {
            usual * (1.0 + STEP * quantile)
        } else {
            usual * (1.0 - STEP * (1.0 - quantile))
        };
        self.0.store(next.to_bits(), Relaxed);
    }

    /// The estimate; `None` before the first sample.
    pub fn estimate(&self) -> Option<Duration> {
        let usual = f32::from_bits(self.0.load(Relaxed));
        (usual > 0.0).then(|| Duration::from_micros(usual as u64))
    }
}

/// After how long a request is late; `None`: that is not known yet.
pub fn late_after(hedge: &Hedge, usual: &UsualTime) -> Option<Duration> {
    match hedge.after {
        HedgeAfter::Fixed(after) => Some(after),
        HedgeAfter::Percentile(_) => usual.estimate().map(|after| after.max(SHORTEST)),
    }
}

/// One route's hedges: the budget of the current 10 s window, and counts. Lock-free; a window's edge may miscount by a
/// few.
#[derive(Debug, Default)]
pub struct Hedges {
    budget: Budget,
    outcomes: [AtomicU64; HedgeOutcome::COUNT],
}

impl Hedges {
    /// Counts a request that may be hedged.
    pub fn request(&self, now: Micros) {
        self.budget.request(now);
    }

    /// Takes one hedge if fewer than `part` of the window's requests were hedged; one is always allowed.
    pub fn take(&self, part: f64, now: Micros) -> bool {
        self.budget.take(part, ALWAYS, now)
    }

    /// Counts an outcome.
    pub fn count(&self, outcome: HedgeOutcome) {
        self.outcomes[outcome as usize].fetch_add(1, Relaxed);
    }

    /// Outcomes so far.
    pub fn outcomes(&self, outcome: HedgeOutcome) -> u64 {
        self.outcomes[outcome as usize].load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::WINDOW_US;
    use crate::dice::Dice;

    #[test]
    fn the_estimate_settles_at_the_percentile_and_follows_it() {
        let mut dice = Dice::seeded(7);
        for (quantile, scale) in [(0.5, 1_000.0), (0.95, 1_000.0), (0.99, 20_000.0)] {
            let usual = UsualTime::default();
            assert_eq!(usual.estimate(), None);
            let mut below = 0_u32;
            // An exponential distribution, first ten times as slow.
            for n in 0..60_000 {
                let slower = if n < 10_000 { 10.0 } else { 1.0 };
                let us = -(1.0 - dice.unit()).ln() * scale * slower;
                let sample = Duration::from_micros(us as u64 + 1);
                if n >= 30_000 {
                    below += u32::from(sample <= usual.estimate().expect("samples"));
                }
                usual.learn(quantile, sample);
            }
            let share = f64::from(below) / 30_000.0;
            assert!((share - f64::from(quantile)).abs() < 0.02, "{quantile}: {share}");
        }
    }

    #[test]
    fn the_budget_is_a_part_of_the_window_and_one_at_least() {
        for (requests, expected) in [(0, 1), (10, 1), (100, 5), (1_000, 50)] {
            let hedges = Hedges::default();
            (0..requests).for_each(|_| hedges.request(Micros(5)));
            let taken = (0..2_000).filter(|_| hedges.take(0.05, Micros(5))).count();
            assert_eq!(taken, expected, "{requests}");
            assert!(hedges.take(0.05, Micros(5 + WINDOW_US)), "the next window");
        }
    }

    #[test]
    fn nobody_is_late_before_something_is_known() {
        let usual = UsualTime::default();
        let hedge = Hedge { after: HedgeAfter::Percentile(95), budget: 0.05 };
        assert_eq!(late_after(&hedge, &usual), None);
        usual.learn(0.95, Duration::from_micros(30));
        assert_eq!(late_after(&hedge, &usual), Some(SHORTEST));
        let after = Duration::from_millis(40);
        let fixed = Hedge { after: HedgeAfter::Fixed(after), budget: 0.05 };
        assert_eq!(late_after(&fixed, &UsualTime::default()), Some(after));
    }
}
