//! When a certificate is renewed, and how long it is waited after a failure. Pure.

use std::time::Duration;

use super::failure::LONGEST_HOLD;

/// What a renewal may be early by, as a part of the time that is left.
const EARLY: f64 = 0.05;
/// The longest pause after a failure: authorities allow a few failures an hour.
const LONGEST: Duration = Duration::from_secs(3600);
/// Each pause is so many times as long as the one before.
const GROWTH: u32 = 3;

/// When a certificate is renewed, Unix milliseconds: when a third of its lifetime is left, or `before` its end, but not
/// before a third of it is over; and up to 5 % of that earlier, by `roll` from 0 to 1, so that those that were issued
/// together are not renewed together.
pub(super) fn renewal_ms(
    not_before_unix_s: i64,
    not_after_unix_s: i64,
    before: Option<Duration>,
    roll: f64,
) -> u64 {
    let end = u64::try_from(not_after_unix_s).unwrap_or(0).saturating_mul(1000);
    let begin = u64::try_from(not_before_unix_s).unwrap_or(0).saturating_mul(1000);
    let life = end.saturating_sub(begin);
    let before = match before {
        None => life / 3,
        Some(before) => u64::try_from(before.as_millis()).unwrap_or(u64::MAX).min(life / 3 * 2),
    };
    let early = (before as f64 * EARLY * roll.clamp(0.0, 1.0)) as u64;
    end.saturating_sub(before).saturating_sub(early)
}

/// The pause after so many failures in a row, at least 1; a fifth shorter or longer by `roll` from 0 to 1.
pub(super) fn pause(first: Duration, failures: u32, roll: f64) -> Duration {
    let grown = GROWTH.saturating_pow(failures.saturating_sub(1).min(12));
    let pause = first.saturating_mul(grown).min(LONGEST);
    pause.mul_f64(0.8 + 0.4 * roll.clamp(0.0, 1.0))
}

/// A time that is waited for, of the clock that people read; one that is set back does not put it off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Until {
    unix_ms: u64,
    wait_ms: u64,
}

impl Until {
    pub(super) fn after(now_ms: u64, wait_ms: u64) -> Self {
        Self { unix_ms: now_ms.saturating_add(wait_ms), wait_ms }
    }

    /// What an earlier process has left, whose clock may have been wrong.
    pub(super) fn kept(unix_ms: u64, now_ms: u64) -> Self {
        let longest = LONGEST_HOLD.as_millis() as u64;
        Self::after(now_ms, unix_ms.saturating_sub(now_ms).min(longest))
    }

    pub(super) fn unix_ms(self) -> u64 {
        self.unix_ms
    }

    /// Looks at the clock: the wait is not longer than it was at its beginning.
    pub(super) fn heed(&mut self, now_ms: u64) {
        self.unix_ms = self.unix_ms.min(now_ms.saturating_add(self.wait_ms));
    }
}

/// How long nothing is ordered after a certificate was issued, milliseconds: a third of its lifetime, at most an hour, and
/// not shorter than `first`, whatever its own times and the clock say.
pub(super) fn rest_ms(first: Duration, not_before_unix_s: i64, not_after_unix_s: i64) -> u64 {
    let life = u64::try_from(not_after_unix_s.saturating_sub(not_before_unix_s)).unwrap_or(0);
    let third = life.saturating_mul(1000) / 3;
    third.min(LONGEST.as_millis() as u64).max(first.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_back_puts_nothing_off() {
        let (now, year) = (1_800_000_000_000, 365 * 24 * 3600 * 1000);
        let mut until = Until::after(now, 60_000);
        until.heed(now + 50_000);
        assert_eq!(until.unix_ms(), now + 60_000);
        until.heed(now - year);
        assert_eq!(until.unix_ms(), now - year + 60_000);
        until.heed(now - year + 60_000);
        assert_eq!(until.unix_ms(), now - year + 60_000, "it is over");
        let day = LONGEST_HOLD.as_millis() as u64;
        assert_eq!(Until::kept(now + year, now).unix_ms(), now + day);
        assert_eq!(Until::kept(now + 5, now).unix_ms(), now + 5);
        assert_eq!(Until::kept(5, now).unix_ms(), now);
    }

    #[test]
    fn after_a_certificate_there_is_a_rest() {
        let first = Duration::from_secs(60);
        assert_eq!(rest_ms(first, 0, 90 * DAY), 3_600_000);
        assert_eq!(rest_ms(first, 0, 1800), 600_000);
        assert_eq!(rest_ms(first, 0, 12), 60_000);
        assert_eq!(rest_ms(first, 10, 5), 60_000, "ends before it begins");
    }

    const DAY: i64 = 24 * 3600;

    fn days(ms: u64) -> f64 {
        ms as f64 / 1000.0 / DAY as f64
    }

    #[test]
    fn renewal_is_in_time_and_never_at_once() {
        let at = |before: Option<i64>, roll| {
            let before = before.map(|days| Duration::from_secs((days * DAY) as u64));
            days(renewal_ms(0, 90 * DAY, before, roll))
        };
        assert_eq!(at(None, 0.0), 60.0);
        assert_eq!(at(None, 1.0), 58.5);
        assert_eq!(at(Some(10), 0.0), 80.0);
        // Longer than the certificate lives.
        assert_eq!(at(Some(300), 0.0), 30.0);
        assert_eq!(at(Some(300), 1.0), 27.0);
        assert_eq!(renewal_ms(-5, -1, None, 0.5), 0, "before 1970 is over");
        assert_eq!(renewal_ms(10, 5, None, 0.5), 5000, "ends before it begins");
    }

    #[test]
    fn pauses_grow_to_an_hour() {
        let first = Duration::from_secs(60);
        let minutes = |failures| pause(first, failures, 0.5).as_secs() / 60;
        assert_eq!([1, 2, 3, 4, 5, 1000].map(minutes), [1, 3, 9, 27, 60, 60]);
        assert_eq!(pause(first, 1, 0.0), Duration::from_secs(48));
        assert_eq!(pause(first, 1, 1.0), Duration::from_secs(72));
        // An hour has room for the first four of them, so that five are failed at most.
        let hour: f64 = (1..=4).map(|n| pause(first, n, 0.0).as_secs_f64()).sum();
        assert!(hour + pause(first, 5, 0.0).as_secs_f64() > 3600.0);
    }
}
