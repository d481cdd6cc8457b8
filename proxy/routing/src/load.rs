//! Hot, lock-free feedback from the data path: what balancing compares.
//!
//! Not part of the table: keyed by endpoint, carried from table to table, so that a reload forgets nothing.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use meridian_config::Outlier;

use crate::line::Line;
use crate::outlier::{EjectionCause, Fault, PassiveHealth, Suspicion};
use crate::setbacks::Setbacks;
use crate::time::Micros;

/// Peak-EWMA time constant, microseconds.
const TAU_US: f64 = 10_000_000.0;
/// The cost an endpoint starts with, microseconds.
const START_US: f32 = 30_000.0;
/// What a failure counts as, unless the answer names a longer pause.
const FAILURE: Duration = Duration::from_secs(5);
/// The longest pause that an answer may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Costs below this are noise of the machine.
const LEAST_COST_US: f32 = 20.0;

/// How an attempt ended, as far as the endpoint is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer in this time.
    Answered(Duration),
    /// 429 or a 5xx that is no [`Fault`], with `Retry-After` if it came: failing fast must not look fast.
    Failed(Option<Duration>),
    /// The same, and the endpoint is to blame.
    Faulty(Fault, Option<Duration>),
    /// The client went away or the request was never sent; says nothing of the endpoint.
    Abandoned,
}

/// One endpoint's load, a cache line of its own.
///
/// Peak EWMA after Finagle's `PeakEwma`: a slower sample is taken whole, a faster one decays in with
/// `w = exp(-dt / tau)`; between samples the cost decays towards zero.
#[derive(Debug)]
#[repr(align(64))]
pub struct EndpointLoad {
    in_flight: AtomicU32,
    cost_us: AtomicU32,
    stamp_us: AtomicU64,
    requests: AtomicU64,
    failures: AtomicU64,
    passive: PassiveHealth,
}

// One endpoint's counters must not share their cache line with another's.
const _: () = assert!(size_of::<EndpointLoad>() == 64);

impl Default for EndpointLoad {
    fn default() -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            cost_us: AtomicU32::new(START_US.to_bits()),
            stamp_us: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            passive: PassiveHealth::default(),
        }
    }
}

impl EndpointLoad {
    /// Counts a request that is about to be sent.
    pub fn begin(&self) {
        self.in_flight.fetch_add(1, Relaxed);
        self.requests.fetch_add(1, Relaxed);
    }

    /// The same, unless `most` are in flight.
    pub fn begin_within(&self, most: u32) -> bool {
        let more = |count| (count < most).then_some(count + 1);
        let begun = self.in_flight.fetch_update(Relaxed, Relaxed, more).is_ok();
        if begun {
            self.requests.fetch_add(1, Relaxed);
        }
        begun
    }

    /// Takes the request back out and learns from how it ended.
    pub fn end(&self, outcome: Outcome, now: Micros) {
        self.in_flight.fetch_sub(1, Relaxed);
        match outcome {
            Outcome::Answered(took) => {
                self.sample(took, now);
                self.passive.well();
            }
            Outcome::Failed(pause) => {
                self.failed(pause, now);
                self.passive.well();
            }
            Outcome::Faulty(fault, pause) => {
                self.failed(pause, now);
                self.passive.failed(fault);
            }
            Outcome::Abandoned => self.passive.abandoned(),
        }
    }

    /// The endpoint failed an offer to switch protocols, which is counted as abandoned in any case: what follows may last
    /// for hours.
    pub fn failed_offer(&self, fault: Fault, now: Micros) {
        self.failed(None, now);
        self.passive.failed(fault);
    }

    /// It answered one.
    pub fn answered_offer(&self) {
        self.passive.well();
    }

    fn failed(&self, pause: Option<Duration>, now: Micros) {
        self.failures.fetch_add(1, Relaxed);
        self.sample(pause.unwrap_or(FAILURE).clamp(FAILURE, LONGEST_PAUSE), now);
    }

    /// After a fault: holds the endpoint back, on every worker and at once, if it reached a limit. `Some` for the one
    /// caller who must tell the keeper.
    pub fn suspect(&self, limits: &Outlier, now: Micros) -> Option<Suspicion> {
        self.passive.suspect(limits, now)
    }

    /// The keeper does not eject it: lets go of the hold.
    pub fn pardon(&self, now: Micros) {
        self.passive.pardon(now);
    }

    /// Takes the endpoint's trial; `false` if none waits or somebody else has it.
    pub fn begin_trial(&self) -> bool {
        self.passive.begin_trial()
    }

    /// The trial told nothing of the endpoint, or nobody could be told of it: the next request is one.
    pub fn repeat_trial(&self, now: Micros) {
        self.passive.repeat_trial(now);
    }

    /// Tells the requests that wait for the endpoint that it went out.
    pub fn went_out(&self) {
        self.passive.went_out();
    }

    /// How often it went out: a change of this is news to a request that waits for the endpoint.
    pub fn outs(&self) -> u32 {
        self.passive.outs()
    }

    /// Requests that ended with an answer or a fault, and the faults among them, since the process started. Both wrap;
    /// while requests begin and end they may be off by a few.
    pub fn judged(&self) -> (u32, u32) {
        let (faults, abandoned) = self.passive.counts();
        let begun = self.requests() as u32;
        (begun.wrapping_sub(self.in_flight()).wrapping_sub(abandoned), faults)
    }

    pub(crate) fn passive(&self) -> &PassiveHealth {
        &self.passive
    }

    fn sample(&self, took: Duration, now: Micros) {
        let sample = Micros::after_start(took.min(LONGEST_PAUSE)).0 as f32;
        let cost = f32::from_bits(self.cost_us.load(Relaxed));
        let elapsed = now.0.saturating_sub(self.stamp_us.swap(now.0, Relaxed));
        let kept = decay(elapsed);
        let decayed = cost * kept;
        let next = if sample > decayed { sample } else { decayed + sample * (1.0 - kept) };
        self.cost_us.store(next.to_bits(), Relaxed);
    }

    /// Forgets the cost of an endpoint that has recovered: the failures that it was out for would keep requests away
    /// for a minute more, and its slow start is caution enough. The next sample is taken whole.
    pub fn recovered(&self, now: Micros) {
        self.passive.forgive();
        self.stamp_us.store(now.0, Relaxed);
        self.cost_us.store(0.0_f32.to_bits(), Relaxed);
    }

    /// Requests between [`begin`](Self::begin) and [`end`](Self::end).
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Requests begun since the process started.
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Failures since the process started.
    pub fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    /// The decayed cost of one request, microseconds.
    pub fn cost_us(&self, now: Micros) -> f32 {
        let elapsed = now.0.saturating_sub(self.stamp_us.load(Relaxed));
        let cost = f32::from_bits(self.cost_us.load(Relaxed));
        // Under 100 ms the decay is below 1%: not worth an exponential on every draw.
        if elapsed < 100_000 { cost } else { cost * decay(elapsed) }
    }

    /// `(cost - floor) x (in flight + 1)`: what two draws compare. `floor_us` is the region's round trip.
    pub fn peak_ewma(&self, floor_us: f32, now: Micros) -> f32 {
        self.weighted_peak_ewma(floor_us, now, 1.0)
    }

    /// The same with the requests in flight per `weight`, which is in parts of the average weight and above 0.
    pub(crate) fn weighted_peak_ewma(&self, floor_us: f32, now: Micros, weight: f32) -> f32 {
        let cost = (self.cost_us(now) - floor_us).max(LEAST_COST_US);
        cost * (self.in_flight() as f32 / weight + 1.0)
    }
}

fn decay(elapsed_us: u64) -> f32 {
    let part = elapsed_us as f64 / TAU_US;
    // Requests follow one another closely: two terms of the series are exact to a float's precision then.
    if part < 0.001 { (1.0 - part + part * part / 2.0) as f32 } else { (-part).exp() as f32 }
}

/// Packed sample: lag in milliseconds in the high half, time in 16 ms ticks in the low half; 0: none.
const TICK_US: u64 = 16_384;
/// So long, at least, a smaller lag does not replace a larger one.
const WORST_HOLDS_US: u64 = 1_000_000;

/// One service in one region: requests in flight, success rate, replication lag, ejections, and the turn of round robin.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct ServiceRegionLoad {
    in_flight: AtomicU32,
    turn: AtomicU32,
    failing: AtomicU32,
    lag: AtomicU64,
    /// One above how far it is behind; 0: unknown.
    behind: AtomicU64,
    ejections: [AtomicU64; EjectionCause::COUNT],
    /// What went wrong here.
    pub setbacks: Setbacks,
    /// Requests that wait for room at its endpoints.
    pub line: Line,
}

impl ServiceRegionLoad {
    /// Counts a request in.
    pub fn begin(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// Takes it out; `failed` feeds the success rate, `None` says nothing of it.
    pub fn end(&self, failed: Option<bool>) {
        self.in_flight.fetch_sub(1, Relaxed);
        if failed == Some(true) {
            self.setbacks.count_failed();
        }
        if let Some(failed) = failed {
            let rate = f32::from_bits(self.failing.load(Relaxed));
            let sample = if failed { 1.0 } else { 0.0 };
            if rate != sample {
                self.failing.store((rate + (sample - rate) / 64.0).to_bits(), Relaxed);
            }
        }
    }

    /// Requests in flight from this edge.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Share of recent requests that succeeded, 0 to 1 (EWMA over about 64 requests).
    pub fn success_rate(&self) -> f32 {
        1.0 - f32::from_bits(self.failing.load(Relaxed))
    }

    /// Counts an ejection of one of its endpoints.
    pub fn ejected(&self, cause: EjectionCause) {
        self.ejections[cause as usize].fetch_add(1, Relaxed);
    }

    /// Ejections since the process started.
    pub fn ejections(&self, cause: EjectionCause) -> u64 {
        self.ejections[cause as usize].load(Relaxed)
    }

    /// The next turn of a round robin: taken, or only looked at, `ahead` turns from now.
    pub(crate) fn turn(&self, take: bool, ahead: u32) -> u32 {
        if take {
            self.turn.fetch_add(1, Relaxed)
        } else {
            self.turn.load(Relaxed).wrapping_add(ahead)
        }
    }

    /// Takes a replication lag as reported at `now` by an endpoint that reports all the time; see
    /// [`Self::report_lag_every`].
    pub fn report_lag(&self, lag: Duration, now: Micros) {
        self.report_lag_every(Duration::ZERO, lag, now);
    }

    /// Takes a replication lag as reported at `now` by an endpoint that reports every `interval`. A smaller lag
    /// replaces a larger one only after the larger is two intervals, and a second, old, so that the worst of several
    /// endpoints counts.
    pub fn report_lag_every(&self, interval: Duration, lag: Duration, now: Micros) {
        let twice_us = u64::try_from(2 * interval.as_micros()).unwrap_or(u64::MAX);
        let holds_us = WORST_HOLDS_US.max(twice_us);
        let lag_ms = u32::try_from(lag.as_millis()).unwrap_or(u32::MAX);
        let sample = (u64::from(lag_ms) << 32) | u64::from((now.0 / TICK_US + 1) as u32);
        let _ = self.lag.fetch_update(Relaxed, Relaxed, |held| {
            let recent = unpack_lag(held, now).is_some_and(|(_, age_us)| age_us < holds_us);
            (!recent || held >> 32 <= u64::from(lag_ms)).then_some(sample)
        });
    }

    /// How far its position is behind the primary's; `None`: unknown.
    pub fn report_behind(&self, behind: Option<u64>) {
        self.behind.store(behind.map_or(0, |behind| behind.saturating_add(1)), Relaxed);
    }

    /// Whether it is known to be at most so far behind.
    pub(crate) fn is_within(&self, most: u64) -> bool {
        self.behind.load(Relaxed).checked_sub(1).is_some_and(|behind| behind <= most)
    }

    /// The last reported lag and the age of the report; `None` if there was none. The age is rounded up (by at
    /// most 33 ms), so that a bound on staleness errs on the side of the primary.
    pub fn lag(&self, now: Micros) -> Option<(Duration, Duration)> {
        let (lag, age) = self.lag_us(now)?;
        Some((Duration::from_micros(lag), Duration::from_micros(age)))
    }

    /// The same in microseconds.
    pub(crate) fn lag_us(&self, now: Micros) -> Option<(u64, u64)> {
        unpack_lag(self.lag.load(Relaxed), now)
    }
}

/// Lag and age, microseconds.
fn unpack_lag(packed: u64, now: Micros) -> Option<(u64, u64)> {
    let tick = packed as u32;
    if tick == 0 {
        return None;
    }
    // A request that came before the sample sees it as fresh, not as an age of two years.
    let age_ticks = ((now.0 / TICK_US + 2) as u32).wrapping_sub(tick).cast_signed().max(1);
    Some(((packed >> 32) * 1000, u64::from(age_ticks.unsigned_abs()) * TICK_US))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1000;

    #[test]
    fn a_slower_sample_is_taken_whole_and_a_faster_one_decays_in() {
        let load = EndpointLoad::default();
        let mut now = Micros(1);
        load.begin();
        load.end(Outcome::Answered(Duration::from_millis(200)), now);
        assert!((load.cost_us(now) - 200_000.0).abs() < 1.0);
        now = Micros(now.0 + 10_000 * MS);
        load.begin();
        load.end(Outcome::Answered(Duration::from_millis(10)), now);
        let expected =
            200_000.0 / std::f32::consts::E + 10_000.0 * (1.0 - 1.0 / std::f32::consts::E);
        assert!((load.cost_us(now) - expected).abs() < 10.0);
    }

    #[test]
    fn a_short_decay_is_the_same_as_the_exponential() {
        for elapsed in (0..20_000_u32).step_by(7) {
            let exact = (-f64::from(elapsed) / TAU_US).exp();
            assert!((f64::from(decay(elapsed.into())) - exact).abs() < 1e-7, "{elapsed}");
        }
    }

    #[test]
    fn failing_fast_does_not_look_fast() {
        let (good, bad) = (EndpointLoad::default(), EndpointLoad::default());
        let now = Micros(5);
        for load in [&good, &bad] {
            load.begin();
        }
        good.end(Outcome::Answered(Duration::from_millis(300)), now);
        bad.end(Outcome::Faulty(Fault::Connection, None), now);
        assert!(bad.peak_ewma(0.0, now) > good.peak_ewma(0.0, now));
        bad.begin();
        bad.end(Outcome::Failed(Some(Duration::from_secs(10_000))), now);
        assert!(bad.cost_us(now) <= 300_000_001.0);
    }

    #[test]
    fn a_recovered_endpoint_is_judged_by_what_comes_next() {
        let load = EndpointLoad::default();
        let now = Micros(5);
        load.begin();
        load.end(Outcome::Failed(None), now);
        assert!(load.cost_us(now) > 4_000_000.0);
        load.recovered(now);
        assert_eq!(load.cost_us(now), 0.0);
        load.begin();
        load.end(Outcome::Answered(Duration::from_millis(7)), now);
        assert!((load.cost_us(now) - 7_000.0).abs() < 1.0);
    }

    #[test]
    fn in_flight_returns_to_zero() {
        let load = EndpointLoad::default();
        let fault = Outcome::Faulty(Fault::ServerError, None);
        for outcome in [Outcome::Abandoned, Outcome::Failed(None), fault] {
            load.begin();
            assert_eq!(load.in_flight(), 1);
            load.end(outcome, Micros(0));
        }
        assert_eq!(load.in_flight(), 0);
        assert_eq!((load.failures(), load.judged()), (2, (2, 1)));
    }

    #[test]
    fn lag_has_an_age_and_the_worst_holds_for_a_second() {
        let load = ServiceRegionLoad::default();
        assert_eq!(load.lag(Micros(0)), None);
        load.report_lag(Duration::from_millis(900), Micros(0));
        load.report_lag(Duration::from_millis(10), Micros(500 * MS));
        let (lag, age) = load.lag(Micros(500 * MS)).expect("a sample");
        assert_eq!(lag, Duration::from_millis(900));
        assert!(age >= Duration::from_millis(500) && age < Duration::from_millis(540));
        load.report_lag(Duration::from_millis(10), Micros(1_100 * MS));
        assert_eq!(load.lag(Micros(1_100 * MS)).map(|s| s.0), Some(Duration::from_millis(10)));
    }

    #[test]
    fn the_worst_of_slow_reporters_holds_until_it_reports_again() {
        let load = ServiceRegionLoad::default();
        let every = Duration::from_secs(5);
        load.report_lag_every(every, Duration::from_millis(900), Micros(MS));
        load.report_lag_every(every, Duration::from_millis(10), Micros(5_000 * MS));
        let lag = |at| load.lag(Micros(at)).map(|(lag, _)| lag.as_millis());
        assert_eq!(lag(5_000 * MS), Some(900));
        load.report_lag_every(every, Duration::from_millis(10), Micros(10_100 * MS));
        assert_eq!(lag(10_100 * MS), Some(10));
    }

    #[test]
    fn a_request_older_than_the_sample_sees_it_as_fresh() {
        let load = ServiceRegionLoad::default();
        load.report_lag(Duration::from_millis(5), Micros(900 * MS));
        let (_, age) = load.lag(Micros(100 * MS)).expect("a sample");
        assert!(age < Duration::from_millis(40), "{age:?}");
    }

    #[test]
    fn success_rate_follows_failures() {
        let load = ServiceRegionLoad::default();
        assert_eq!(load.success_rate(), 1.0);
        for _ in 0..1000 {
            load.begin();
            load.end(Some(true));
        }
        assert!(load.success_rate() < 0.01);
        assert_eq!(load.in_flight(), 0);
    }
}
