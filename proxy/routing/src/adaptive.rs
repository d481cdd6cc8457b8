//! A limit on requests in flight that follows how long an endpoint takes to answer.
//!
//! After the gradient controller of Envoy's adaptive concurrency filter (Envoy documentation, HTTP filters, "Adaptive
//! Concurrency"; its idea is that of Netflix' concurrency-limits): every window of 100 ms with at least 10 answers gives
//!
//! ```text
//! gradient = clamp(1.25 x base / sample, 0.5, 2)      limit = clamp(gradient x limit + sqrt(limit), floor, ceiling)
//! ```
//!
//! `base` is how long answers take without a crowd, measured again once a minute while only a quarter of the limit is
//! let in (Envoy goes down to its floor of 3, which holds up slow services for longer than a request may wait for room).
//! Where no more than that is in flight anyway, nothing is held back. `sample` is the geometric mean of the window's
//! times, which like Envoy's median is hardly moved by a few slow ones. The limit grows only while half of it is used.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use crate::time::Micros;

/// What an endpoint begins with.
const START: u32 = 20;
const WINDOW: Duration = Duration::from_millis(100);
/// Fewer answers make no sample.
const LEAST_ANSWERS: u32 = 10;
/// Answers that make a base.
const BASE_ANSWERS: u32 = 25;
/// How much longer than the base answers may take.
const TOLERANCE: f64 = 1.25;
/// Between two measurements of the base.
const BASE_LASTS: Duration = Duration::from_secs(60);
/// The first base is of whatever was in flight then; it is measured again so soon.
const FIRST_BASE_LASTS: Duration = Duration::from_secs(5);
/// Part of the limit that is let in for a measurement.
const QUARTER: u32 = 4;

/// One endpoint's limit.
#[derive(Debug)]
pub struct AdaptiveLimit {
    limit: AtomicU32,
    state: Mutex<State>,
}

impl Default for AdaptiveLimit {
    fn default() -> Self {
        Self { limit: AtomicU32::new(START), state: Mutex::default() }
    }
}

#[derive(Debug, Default)]
struct State {
    /// Microseconds; 0: not known yet.
    base: f64,
    measure_at: Micros,
    /// A measurement is under way: since when, and the limit before it.
    measuring: Option<(Micros, u32)>,
    window: Window,
}

/// Answers so far.
#[derive(Debug, Default)]
struct Window {
    ends: Micros,
    count: u32,
    /// Of the logarithms.
    sum: f64,
    /// Most that were in flight.
    busiest: u32,
}

impl Window {
    /// Geometric mean, microseconds.
    fn sample(&self) -> f64 {
        (self.sum / f64::from(self.count)).exp2()
    }

    fn restart(&mut self, now: Micros) {
        *self = Self { ends: now.plus(WINDOW), ..Self::default() };
    }
}

impl AdaptiveLimit {
    /// Requests that the endpoint may have in flight now, from 1.
    pub fn get(&self) -> u32 {
        self.limit.load(Relaxed)
    }

    /// Learns from an answer that took so long, while `in_flight` were. Never waits: if another worker is at it, this
    /// answer does not count.
    pub fn observe(&self, took: Duration, in_flight: u32, range: (u32, u32), now: Micros) {
        let Ok(mut state) = self.state.try_lock() else { return };
        let began = now.0.saturating_sub(took.as_micros() as u64);
        if state.measuring.is_some_and(|(since, _)| began < since.0) {
            // It was sent into the crowd.
            return;
        }
        let window = &mut state.window;
        window.count += 1;
        window.sum += (took.as_micros().max(1) as f64).log2();
        window.busiest = window.busiest.max(in_flight);
        let limit = state.close(self.get(), range, now);
        if let Some(limit) = limit {
            self.limit.store(limit.clamp(range.0.max(1), range.1.max(1)), Relaxed);
        }
    }
}

impl State {
    /// The new limit, if there is one.
    fn close(&mut self, limit: u32, (floor, _): (u32, u32), now: Micros) -> Option<u32> {
        let count = self.window.count;
        if let Some((_, before)) = self.measuring {
            if count < BASE_ANSWERS {
                return None;
            }
            self.measuring = None;
            self.learn_base(now);
            return Some(before);
        }
        if now < self.window.ends || count < LEAST_ANSWERS {
            return None;
        }
        if self.base == 0.0 {
            self.learn_base(now);
            self.measure_at = now.plus(FIRST_BASE_LASTS);
            return Some(limit);
        }
        let sample = self.window.sample();
        let busiest = self.window.busiest;
        let few = (limit / QUARTER).max(floor);
        if now >= self.measure_at {
            if busiest <= few {
                self.learn_base(now);
                return Some(limit);
            }
            self.window.restart(now);
            self.measuring = Some((now, limit));
            return Some(few);
        }
        self.window.restart(now);
        let gradient = (TOLERANCE * self.base / sample).clamp(0.5, 2.0);
        let old = f64::from(limit);
        let next = (gradient * old + old.sqrt()).round() as u32;
        (next < limit || busiest >= limit / 2).then_some(next)
    }

    fn learn_base(&mut self, now: Micros) {
        self.base = self.window.sample();
        self.measure_at = now.plus(BASE_LASTS);
        self.window.restart(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1000;

    /// An endpoint that works on so many requests at a time, each for 10 ms, and a crowd that wants to send `offered`.
    struct Simulation {
        limit: AdaptiveLimit,
        servers: u32,
        work_us: u64,
        now: Micros,
        range: (u32, u32),
    }

    impl Simulation {
        fn new(servers: u32) -> Self {
            let limit = AdaptiveLimit::default();
            Self { limit, servers, work_us: 10 * MS, now: Micros(MS), range: (3, 1000) }
        }

        /// The limits of each second of `seconds`, with `offered` requests that want to be in flight.
        fn run(&mut self, seconds: u64, offered: u32) -> Vec<u32> {
            let mut limits = Vec::new();
            let end = self.now.0 + seconds * 1000 * MS;
            let mut next_second = self.now.0 + 1000 * MS;
            while self.now.0 < end {
                // A round: everybody in flight is answered; what is beyond the servers makes all wait for longer.
                let in_flight = self.limit.get().min(offered);
                let crowd = f64::from(in_flight) / f64::from(self.servers);
                let took = (self.work_us as f64 * crowd.max(1.0)) as u64;
                self.now.0 += took;
                for i in 0..in_flight {
                    // One in twenty is ten times as slow: a tail must not count for much.
                    let tail = if i % 20 == 19 { 10 } else { 1 };
                    let took = Duration::from_micros(took * tail);
                    self.limit.observe(took, in_flight, self.range, self.now);
                }
                if self.now.0 >= next_second {
                    limits.push(self.limit.get());
                    next_second += 1000 * MS;
                }
            }
            limits
        }
    }

    /// All but the seconds in which the base was measured, which are few.
    fn within(limits: &[u32], range: std::ops::RangeInclusive<u32>) -> bool {
        let outside = limits.iter().filter(|limit| !range.contains(limit)).count();
        outside * 20 <= limits.len()
    }

    #[test]
    fn it_converges_above_what_the_endpoint_can_do_at_once_and_stays() {
        for servers in [5, 20, 100] {
            let mut simulation = Simulation::new(servers);
            simulation.run(20, 2000);
            // However long the crowd lasts: a base that followed it would let the limit creep.
            let limits = simulation.run(600, 2000);
            // It rests where limit - sqrt(limit) = 1.25 x servers: 9, 30 and 137.
            assert!(within(&limits, servers..=servers * 2 + 2), "{servers}: {limits:?}");
        }
    }

    #[test]
    fn it_follows_an_endpoint_that_gets_slower_and_recovers() {
        let mut simulation = Simulation::new(50);
        let before = simulation.run(30, 2000);
        assert!(within(&before[20..], 50..=100), "{before:?}");
        simulation.servers = 5;
        let during = simulation.run(30, 2000);
        assert!(within(&during[3..], 3..=12), "{during:?}");
        simulation.servers = 50;
        let after = simulation.run(30, 2000);
        assert!(within(&after[5..], 50..=100), "{after:?}");
    }

    #[test]
    fn work_that_takes_longer_by_itself_becomes_the_new_base() {
        let mut simulation = Simulation::new(50);
        simulation.run(30, 2000);
        simulation.work_us = 40 * MS;
        simulation.run(150, 2000);
        let limits = simulation.run(60, 2000);
        assert!(within(&limits, 50..=100), "{limits:?}");
    }

    #[test]
    fn it_stays_between_floor_and_ceiling_and_does_not_grow_unused() {
        let mut simulation = Simulation::new(500);
        simulation.range = (3, 60);
        assert_eq!(simulation.run(30, 2000).iter().max(), Some(&60));
        simulation.servers = 1;
        simulation.range = (8, 60);
        let limits = simulation.run(30, 2000);
        assert_eq!(limits.iter().min(), Some(&8), "{limits:?}");
        let mut quiet = Simulation::new(500);
        assert_eq!(quiet.run(120, 8).iter().max(), Some(&START), "8 are less than half of it");
    }
}
