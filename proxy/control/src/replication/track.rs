//! From positions to time: when the primary was where a replica is now.
//!
//! Promises: the time is never too late, so that a lag made of it is never too short. Refuses to know: clocks.

use std::collections::VecDeque;
use std::time::Duration;

use meridian_routing::Micros;

/// What a primary wrote longer ago is not known any more: no lag is told then, as of a replica that says nothing.
const KEPT: Duration = Duration::from_secs(600);
/// Samples are so far apart at least, which makes lags longer by as much at the most.
const APART: Duration = Duration::from_millis(50);

/// Where a primary was at which time, in one epoch.
#[derive(Debug, Default)]
pub(super) struct Track {
    epoch: u64,
    /// Time and position, both ascending.
    samples: VecDeque<(Micros, u64)>,
}

impl Track {
    /// The primary was at `position` or beyond when it was asked, `at`.
    pub(super) fn primary(&mut self, epoch: u64, position: u64, at: Micros) {
        if epoch != self.epoch {
            *self = Self { epoch, samples: VecDeque::new() };
        }
        match self.samples.back_mut() {
            // Another endpoint of the primary, or an answer that was overtaken.
            Some((last, held)) if position < *held || at < *last => return,
            Some((last, held)) if position == *held => {
                *last = at;
                return;
            }
            Some((last, _)) if at.since(*last) < APART => return,
            _ => self.samples.push_back((at, position)),
        }
        while self.samples.front().is_some_and(|(first, _)| at.since(*first) > KEPT) {
            self.samples.pop_front();
        }
    }

    /// How far behind a replica is at `now` that has reached `position`; `None`: nobody knows when the primary was there.
    pub(super) fn lag(&self, epoch: u64, position: u64, now: Micros) -> Option<Duration> {
        if epoch != self.epoch {
            return None;
        }
        let reached = self.samples.partition_point(|(_, held)| *held <= position);
        let (at, _) = self.samples.get(reached.checked_sub(1)?)?;
        Some(now.since(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Micros {
        Micros(ms * 1000)
    }

    #[test]
    fn a_replica_is_as_old_as_the_last_time_the_primary_was_not_ahead_of_it() {
        let mut track = Track::default();
        let lag =
            |track: &Track, position, ms| track.lag(1, position, at(ms)).map(|lag| lag.as_millis());
        assert_eq!(lag(&track, 5, 0), None);
        track.primary(1, 100, at(1000));
        track.primary(1, 100, at(2000));
        track.primary(1, 200, at(3000));
        assert_eq!(lag(&track, 99, 4000), None);
        assert_eq!(lag(&track, 100, 4000), Some(2000));
        assert_eq!(lag(&track, 199, 4000), Some(2000));
        assert_eq!(lag(&track, 200, 4000), Some(1000));
        assert_eq!(lag(&track, 999, 4000), Some(1000));
        // An idle primary that is still there makes its replicas fresh again.
        track.primary(1, 200, at(3900));
        assert_eq!(lag(&track, 200, 4000), Some(100));
        track.primary(1, 150, at(3950));
        assert_eq!(lag(&track, 200, 4000), Some(100));
        assert_eq!(track.lag(2, 200, at(4000)), None);
        track.primary(2, 10, at(5000));
        assert_eq!(track.lag(1, 200, at(5000)), None);
        assert_eq!(track.lag(2, 10, at(5000)), Some(Duration::ZERO));
    }

    #[test]
    fn with_many_samples_lags_only_get_longer() {
        let mut track = Track::default();
        let end = 1_000_000;
        for step in 0..=end {
            track.primary(1, step, at(step));
        }
        assert!(track.samples.len() <= 12_001, "{}", track.samples.len());
        for position in [450_000, 999_000, 999_949] {
            let lag = track.lag(1, position, at(end)).expect("it is known");
            let exact = Duration::from_millis(end - position);
            assert!(lag >= exact && lag <= exact + APART, "{position}: {lag:?}");
        }
        assert_eq!(track.lag(1, 399_000, at(end)), None);
    }
}
