//! Round trips: smoothing, the estimate before there is data, and the hysteresis that keeps latency from flapping.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use meridian_config::RegionId;

use crate::time::Micros;

/// A challenger must be better by this part ...
const BETTER_PART: f64 = 0.15;
/// ... and by this much, microseconds ...
const BETTER_US: f64 = 5_000.0;
/// ... for so long ...
const SUSTAINED: Duration = Duration::from_secs(10);
/// ... over so many samples.
const SAMPLES: u32 = 10;
/// Latency alone moves traffic at most so often.
const AT_MOST_EVERY: Duration = Duration::from_secs(60);

/// A smoothed round trip after RFC 6298: `srtt += (s - srtt) / 8`, `var += (|s - srtt| - var) / 4`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoundTrip {
    srtt_us: f64,
    var_us: f64,
}

impl RoundTrip {
    /// From the first sample: its whole as srtt, its half as variation.
    pub fn first(sample: Duration) -> Self {
        let us = sample.as_secs_f64() * 1e6;
        Self { srtt_us: us, var_us: us / 2.0 }
    }

    /// Takes one more sample.
    pub fn add(&mut self, sample: Duration) {
        let us = sample.as_secs_f64() * 1e6;
        self.var_us += ((us - self.srtt_us).abs() - self.var_us) / 4.0;
        self.srtt_us += (us - self.srtt_us) / 8.0;
    }

    /// The smoothed value.
    pub fn smoothed(&self) -> Duration {
        Duration::from_secs_f64(self.srtt_us / 1e6)
    }

    /// The smoothed variation.
    pub fn variation(&self) -> Duration {
        Duration::from_secs_f64(self.var_us / 1e6)
    }
}

/// Before there is data: `5 ms + 0.02 ms/km` of great circle, in microseconds.
pub fn estimated_round_trip(distance_km: f64) -> u32 {
    (5_000.0 + 20.0 * distance_km).round() as u32
}

/// Holds the round trips that ranking uses, and replaces them by what is measured only when a region has been
/// clearly better for long enough.
#[derive(Clone, Debug, Default)]
pub struct LatencyOrder {
    in_force: HashMap<RegionId, u32>,
    /// By challenger and the region it is clearly better than.
    challenges: HashMap<(RegionId, RegionId), Challenge>,
    /// Regions that have drifted from their own value in force.
    drifts: HashMap<RegionId, Challenge>,
    moved_at: Option<Micros>,
}

#[derive(Clone, Copy, Debug)]
struct Challenge {
    since: Micros,
    samples: u32,
}

impl Challenge {
    /// Counts one more round and says whether that was long enough.
    fn sustained(&mut self, now: Micros) -> bool {
        self.samples = self.samples.saturating_add(1);
        now.since(self.since) >= SUSTAINED && self.samples >= SAMPLES
    }
}

/// Whether two round trips belong to one band of ranking.
fn level(a: u32, b: u32) -> bool {
    a.abs_diff(b) <= 5_000.max(a.min(b) / 10)
}

/// Whether a value is at least 5 ms and 15% away from the one in force; microseconds.
pub fn clearly_apart(in_force: u32, value: u32) -> bool {
    let gap = f64::from(in_force.abs_diff(value));
    gap >= BETTER_US && gap >= BETTER_PART * f64::from(in_force)
}

impl LatencyOrder {
    /// What ranking uses, microseconds.
    pub fn in_force(&self) -> &HashMap<RegionId, u32> {
        &self.in_force
    }

    /// Forgets regions that are gone.
    pub fn retain(&mut self, keep: impl Fn(&RegionId) -> bool) {
        self.in_force.retain(|region, _| keep(region));
        self.challenges.retain(|(a, b), _| keep(a) && keep(b));
        self.drifts.retain(|region, _| keep(region));
    }

    /// Looks at the smoothed measurements (microseconds), once per round of samples. Returns whether the values in
    /// force changed. A region's first measurement counts at once. After that the values of two regions change
    /// together, when the one that is not ahead in force has been at least 15% and 5 ms better for 10 s over 10
    /// rounds; at most once a minute. A region that is as far from its own value for as long takes the new one,
    /// unless that would change its place among the others.
    pub fn observe(&mut self, measured: &HashMap<RegionId, u32>, now: Micros) -> bool {
        let mut changed = false;
        for (region, value) in measured {
            if !self.in_force.contains_key(region) {
                self.in_force.insert(region.clone(), *value);
                changed = true;
            }
        }
        changed |= self.follow_drifts(measured, now);
        let pairs = self.challenging(measured);
        self.challenges.retain(|pair, _| pairs.contains(pair));
        let mut won = Vec::new();
        for pair in pairs {
            let first = Challenge { since: now, samples: 0 };
            let challenge = self.challenges.entry(pair.clone()).or_insert(first);
            if challenge.sustained(now) {
                won.push(pair);
            }
        }
        let rested = self.moved_at.is_none_or(|moved| now.since(moved) >= AT_MOST_EVERY);
        if !rested || won.is_empty() {
            return changed;
        }
        for pair in won {
            self.challenges.remove(&pair);
            for region in [pair.0, pair.1] {
                if let Some(value) = measured.get(&region) {
                    self.in_force.insert(region, *value);
                }
            }
        }
        self.moved_at = Some(now);
        true
    }

    /// Adopts what regions have drifted to for long enough where that moves no traffic.
    fn follow_drifts(&mut self, measured: &HashMap<RegionId, u32>, now: Micros) -> bool {
        let in_force = &self.in_force;
        let drifted = |region: &RegionId, value: u32| {
            in_force.get(region).is_some_and(|held| clearly_apart(*held, value))
        };
        self.drifts.retain(|region, _| measured.get(region).is_some_and(|us| drifted(region, *us)));
        let drifting: Vec<_> =
            measured.iter().filter(|(region, us)| drifted(region, **us)).collect();
        let mut changed = false;
        for (region, value) in drifting {
            let first = Challenge { since: now, samples: 0 };
            let sustained = self.drifts.entry(region.clone()).or_insert(first).sustained(now);
            if sustained && self.keeps_its_place(region, *value) {
                self.drifts.remove(region);
                self.in_force.insert(region.clone(), *value);
                changed = true;
            }
        }
        changed
    }

    /// Whether a region compares with every other one as before if `value` is in force for it.
    fn keeps_its_place(&self, region: &RegionId, value: u32) -> bool {
        let Some(held) = self.in_force.get(region) else { return false };
        let place = |own: u32, other: u32| (own.cmp(&other), level(own, other));
        let mut others = self.in_force.iter().filter(|(other, _)| *other != region);
        others.all(|(_, other)| place(*held, *other) == place(value, *other))
    }

    /// Regions that are clearly better than one that is ahead of them, or level with them, in force.
    fn challenging(&self, measured: &HashMap<RegionId, u32>) -> HashSet<(RegionId, RegionId)> {
        let mut pairs = HashSet::new();
        for (challenger, fast) in measured {
            for (other, slow) in measured {
                let held = (self.in_force.get(challenger), self.in_force.get(other));
                let (Some(&was), Some(&holds)) = held else { continue };
                let not_behind = holds <= was || level(holds, was);
                let gain = f64::from(*slow) - f64::from(*fast);
                if not_behind && gain >= BETTER_US && gain >= BETTER_PART * f64::from(*slow) {
                    pairs.insert((challenger.clone(), other.clone()));
                }
            }
        }
        pairs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, u32)]) -> HashMap<RegionId, u32> {
        pairs.iter().map(|(id, us)| (RegionId::new(id), *us)).collect()
    }

    fn seconds(s: u64) -> Micros {
        Micros::after_start(Duration::from_secs(s))
    }

    #[test]
    fn smoothing_follows_rfc_6298() {
        let mut rtt = RoundTrip::first(Duration::from_millis(100));
        rtt.add(Duration::from_millis(180));
        assert_eq!(rtt.smoothed(), Duration::from_millis(110));
        assert_eq!(rtt.variation(), Duration::from_micros(57_500));
    }

    #[test]
    fn the_estimate_grows_with_distance() {
        assert_eq!(estimated_round_trip(0.0), 5_000);
        assert_eq!(estimated_round_trip(6_000.0), 125_000);
    }

    #[test]
    fn a_challenger_needs_margin_and_patience() {
        let mut order = LatencyOrder::default();
        assert!(order.observe(&values(&[("a", 20_000), ("b", 80_000)]), seconds(0)));
        // 14% better is not enough, for however long.
        for s in 1..100 {
            assert!(!order.observe(&values(&[("a", 93_000), ("b", 80_000)]), seconds(s)));
        }
        // Clearly better, but only after ten seconds and ten samples.
        for s in 100..110 {
            assert!(!order.observe(&values(&[("a", 120_000), ("b", 80_000)]), seconds(s)), "{s}");
        }
        assert!(order.observe(&values(&[("a", 120_000), ("b", 80_000)]), seconds(110)));
        assert_eq!(order.in_force()[&RegionId::new("a")], 120_000);
    }

    #[test]
    fn a_pause_in_the_lead_starts_over_and_moves_are_a_minute_apart() {
        let mut order = LatencyOrder::default();
        order.observe(&values(&[("a", 20_000), ("b", 80_000)]), seconds(0));
        let fast_b = values(&[("a", 200_000), ("b", 80_000)]);
        for s in 1..9 {
            order.observe(&fast_b, seconds(s));
        }
        order.observe(&values(&[("a", 20_000), ("b", 80_000)]), seconds(9));
        for s in 10..20 {
            assert!(!order.observe(&fast_b, seconds(s)), "{s}");
        }
        assert!(order.observe(&fast_b, seconds(20)));
        let back = values(&[("a", 20_000), ("b", 80_000)]);
        let moved = (21..200).find(|s| order.observe(&back, seconds(*s)));
        assert_eq!(moved, Some(80));
    }

    #[test]
    fn a_drift_that_moves_nothing_is_followed_and_another_is_not() {
        let mut order = LatencyOrder::default();
        order.observe(&values(&[("a", 200_000), ("b", 300_000)]), seconds(0));
        let settled = values(&[("a", 20_000), ("b", 300_000)]);
        assert_eq!((1..30).find(|s| order.observe(&settled, seconds(*s))), Some(11));
        assert_eq!(order.in_force()[&RegionId::new("a")], 20_000);
        let beyond = values(&[("a", 310_000), ("b", 300_000)]);
        assert!((30..200).all(|s| !order.observe(&beyond, seconds(s))));
    }

    #[test]
    fn regions_level_in_force_come_apart_too() {
        let mut order = LatencyOrder::default();
        order.observe(&values(&[("a", 10_000), ("b", 12_000)]), seconds(0));
        let apart = values(&[("a", 10_000), ("b", 60_000)]);
        assert_eq!((1..30).find(|s| order.observe(&apart, seconds(*s))), Some(11));
    }

    #[test]
    fn far_regions_changing_places_do_not_move_near_ones() {
        let mut order = LatencyOrder::default();
        let at_first = [("a", 20_000), ("b", 26_000), ("c", 100_000), ("d", 150_000)];
        order.observe(&values(&at_first), seconds(0));
        let later = values(&[("a", 29_000), ("b", 26_000), ("c", 300_000), ("d", 150_000)]);
        assert_eq!((1..30).find(|s| order.observe(&later, seconds(*s))), Some(11));
        let in_force = |id: &str| order.in_force()[&RegionId::new(id)];
        assert_eq!(["a", "b", "c", "d"].map(in_force), [20_000, 26_000, 300_000, 150_000]);
    }

    #[test]
    fn taking_turns_at_being_better_is_not_being_better() {
        let mut order = LatencyOrder::default();
        order.observe(&values(&[("a", 20_000), ("b", 80_000), ("c", 80_000)]), seconds(0));
        let b_ahead = values(&[("a", 90_000), ("b", 40_000), ("c", 89_000)]);
        let c_ahead = values(&[("a", 90_000), ("b", 89_000), ("c", 40_000)]);
        for s in 1..60 {
            let measured = if s % 6 < 3 { &b_ahead } else { &c_ahead };
            assert!(!order.observe(measured, seconds(s)), "{s}");
        }
    }
}
