//! RANK: orders regions by the route's policy, as bands of equally good ones. Only reorders.

use meridian_config::{Policy, RegionIndex};

use crate::region::RegionReason;
use crate::region_set::RegionSet;
use crate::routed::Routed;

/// Regions whose round trip is within this of the best, or within a tenth of it, form a band; microseconds.
const BAND_US: u32 = 5_000;
/// Steps in which policy health compares, so that noise does not move traffic: 5%.
const HEALTH_STEPS: f64 = 20.0;

impl Routed<'_> {
    /// Every region of the set exactly once, best band first.
    pub(crate) fn bands(
        &self,
        of: RegionSet,
    ) -> impl Iterator<Item = (RegionSet, RegionReason)> + use<'_> {
        let mut rest = of;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let (band, reason) = self.first_band(rest);
            rest = rest.without(band);
            Some((band, reason))
        })
    }

    /// The best regions of a set that is not empty, and by what they are the best.
    pub(crate) fn first_band(&self, of: RegionSet) -> (RegionSet, RegionReason) {
        match self.table.policy(self.route) {
            Policy::Weighted => (of, RegionReason::Weighted),
            Policy::RoundRobin => (of, RegionReason::InTurn),
            Policy::Priority => self.first_by_priority(of),
            Policy::Latency => self.latency_band(of),
            Policy::Geo => self.nearest_on_earth(of),
            Policy::Health => self.healthiest(of),
        }
    }

    fn first_by_priority(&self, of: RegionSet) -> (RegionSet, RegionReason) {
        let first = self.service.by_priority.iter().find(|region| of.contains(**region));
        (first.map_or(of, |region| RegionSet::only(*region)), RegionReason::Priority)
    }

    /// Everything within `max(5 ms, 10%)` of the best; unknown round trips one by one, in file order.
    fn latency_band(&self, of: RegionSet) -> (RegionSet, RegionReason) {
        let mut order = self.table.by_latency.iter().filter(|(region, _)| of.contains(*region));
        let Some(&(nearest, best)) = order.next() else {
            return (of, RegionReason::ConfiguredOrder);
        };
        let mut band = RegionSet::only(nearest);
        if best == u32::MAX {
            return (band, RegionReason::ConfiguredOrder);
        }
        let limit = best.saturating_add(BAND_US.max(best / 10)).min(u32::MAX - 1);
        order.take_while(|(_, rtt)| *rtt <= limit).for_each(|(region, _)| band.insert(*region));
        (band, RegionReason::Nearest)
    }

    /// The client's country, then its continent, then the rest, each by distance; what is not known of the client
    /// is left out, and of an unknown client only the file order remains.
    fn nearest_on_earth(&self, of: RegionSet) -> (RegionSet, RegionReason) {
        let place = &self.client.place;
        let mut best: Option<(u8, f64, RegionIndex)> = None;
        for region in of.iter() {
            let view = self.table.ranked(region);
            let same_country = place.country.is_some() && view.country == place.country;
            let same_continent = place.continent.is_some() && view.continent == place.continent;
            let closeness = match (&place.coordinates, &view.coordinates) {
                (Some(here), Some(there)) => here.closeness(there),
                _ => -2.0,
            };
            let tier = if same_country { 2 } else { u8::from(same_continent) };
            if best.is_none_or(|(t, c, _)| (tier, closeness) > (t, c)) {
                best = Some((tier, closeness, region));
            }
        }
        let Some((tier, closeness, region)) = best else {
            return (of, RegionReason::ConfiguredOrder);
        };
        let reason = match tier {
            2 => RegionReason::SameCountry,
            1 => RegionReason::SameContinent,
            _ if closeness >= -1.5 => RegionReason::LeastDistance,
            _ => RegionReason::ConfiguredOrder,
        };
        (RegionSet::only(region), reason)
    }

    /// Highest healthy fraction x success rate, then latency.
    fn healthiest(&self, of: RegionSet) -> (RegionSet, RegionReason) {
        let score = |region: RegionIndex| {
            self.service.pool(region).map_or(0, |pool| {
                let success = f64::from(pool.load.0.success_rate());
                (pool.healthy_fraction * success * HEALTH_STEPS).round() as u32
            })
        };
        (self.best_by(of, score), RegionReason::Healthiest)
    }

    /// What policy health would say if no request had failed: a trial for regions that did fail some.
    pub(crate) fn healthiest_by_probes(&self, of: RegionSet) -> (RegionSet, RegionReason) {
        let score = |region: RegionIndex| {
            let fraction = self.service.pool(region).map_or(0.0, |pool| pool.healthy_fraction);
            (fraction * HEALTH_STEPS).round() as u32
        };
        (self.best_by(of, score), RegionReason::Trial)
    }

    /// The highest score; among equals the lowest round trip.
    fn best_by(&self, of: RegionSet, score: impl Fn(RegionIndex) -> u32) -> RegionSet {
        let mut best: Option<(u32, RegionIndex)> = None;
        let order = self.table.by_latency.iter().map(|(region, _)| *region);
        for region in order.filter(|region| of.contains(*region)) {
            let score = score(region);
            if best.is_none_or(|(top, _)| score > top) {
                best = Some((score, region));
            }
        }
        best.map_or(of, |(_, region)| RegionSet::only(region))
    }
}
