//! Choose region: filter (hard), rank (soft), spill.

use meridian_config::{Policy, RegionIndex, ReplicationSource, ResidencySubject, RouteIndex};
use meridian_geoip::{Place, is_eu_member};

use crate::classify::{AccessClass, RequestClass};
use crate::decide::{Filter, Refusal};
use crate::dice::Dice;
use crate::region_set::RegionSet;
use crate::request::{Client, RequestFacts};
use crate::table::{RoutingTable, ServiceView};

/// Regions whose round trip is within this of the best form a band with it, microseconds.
const BAND_US: u32 = 5_000;
/// With a capacity configured, a region is filled up to this part of it before the next one is used.
const FILL: f64 = 0.8;
/// Below this healthy fraction, with no room elsewhere, traffic is spread over everything.
const PANIC_BELOW: f64 = 0.5;

/// The region that was chosen, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionChoice {
    /// Which.
    pub region: RegionIndex,
    /// Why.
    pub reason: RegionReason,
    /// Spread over all endpoints that are not drained, whatever their health.
    pub panic: bool,
}

macro_rules! labelled {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// All of them, in order.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// As metrics, logs and the API write it.
            pub fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(self.label())
            }
        }
    };
}
pub(crate) use labelled;

labelled!(
    /// Why a region was chosen.
    RegionReason {
        /// A write goes to the primary.
        PrimaryForWrite = "primary-for-write",
        /// The route reads from the primary.
        PrimaryForRead = "primary-for-read",
        /// No replica was fresh enough.
        PrimaryNoneFresh = "primary-none-fresh",
        /// Lowest round trip, or in its band.
        Nearest = "nearest",
        /// Lowest round trip among the fresh; a fresh replica.
        NearestFresh = "nearest-fresh",
        /// In the client's country.
        SameCountry = "same-country",
        /// On the client's continent.
        SameContinent = "same-continent",
        /// Least great-circle distance.
        LeastDistance = "least-distance",
        /// Nothing was known to order by: the configured order.
        ConfiguredOrder = "configured-order",
        /// Drawn by weight.
        Weighted = "weighted",
        /// First by priority.
        Priority = "priority",
        /// Its turn.
        InTurn = "in-turn",
        /// Highest healthy fraction and success rate.
        Healthiest = "healthiest",
        /// Regions ranked before it lack healthy endpoints for their whole share.
        Spill = "spill",
        /// Regions ranked before it are at capacity.
        CapacitySpill = "capacity-spill",
        /// Less than half of it is healthy and there is no room elsewhere.
        Panic = "panic",
        /// The attempts before it failed.
        Retry = "retry",
    }
);

/// Watches a decision being made; `explain` listens, live traffic does not.
pub trait Trace {
    /// A filter was applied.
    fn filtered(&mut self, _filter: Filter, _before: RegionSet, _after: RegionSet) {}
    /// A band of equally good regions comes next in the ranking; it takes this share of what is left.
    fn ranked(&mut self, _band: RegionSet, _reason: RegionReason, _share: f64) {}
}

/// Nobody watches.
impl Trace for () {}

/// What the filters left, and whether freshness took something away.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidates {
    pub(crate) left: RegionSet,
    pub(crate) stale: RegionSet,
}

/// FILTER: residency, capability, role, drain, health, freshness, capacity. Filters never relax.
pub(crate) fn filter(
    table: &RoutingTable,
    route: RouteIndex,
    service: &ServiceView,
    class: RequestClass,
    client: &Client,
    facts: &RequestFacts<'_>,
    trace: &mut impl Trace,
) -> Result<Candidates, Refusal> {
    let rules = table.rules(route);
    let mut left = service.present;
    let mut narrow = |left: &mut RegionSet, to: RegionSet, filter: Filter, status: u16| {
        let after = left.and(to);
        trace.filtered(filter, *left, after);
        *left = after;
        if after.is_empty() { Err(Refusal { route: Some(route), filter, status }) } else { Ok(()) }
    };
    if let Some(rule) = &rules.residency
        && binds(table, route, &client.place)
    {
        narrow(&mut left, rule.allowed, Filter::Residency, rule.refuse)?;
    }
    narrow(&mut left, rules.capable, Filter::Capability, 503)?;
    if class.access != AccessClass::Read {
        narrow(&mut left, service.primary, Filter::Role, 503)?;
    }
    let undrained = left.without(table.drained.or(service.drained));
    narrow(&mut left, undrained, Filter::Drain, 503)?;
    let healthy = left.and(service.healthy);
    let usable = if healthy.is_empty() { left.and(service.unknown) } else { healthy };
    narrow(&mut left, usable, Filter::Health, 503)?;
    let mut stale = RegionSet::EMPTY;
    if class.access == AccessClass::Read {
        stale = left.without(fresh(service, class, facts, left));
        if !stale.is_empty() {
            let fresh = left.without(stale);
            narrow(&mut left, fresh, Filter::Freshness, 503)?;
        }
    }
    if !left.and(table.limited).is_empty() {
        let room = with_room(table, left, 1.0);
        narrow(&mut left, room, Filter::Capacity, 503)?;
    }
    Ok(Candidates { left, stale })
}

/// Whether the route's residency rule binds a client. A client whose country is unknown is bound: fail closed.
fn binds(table: &RoutingTable, route: RouteIndex, place: &Place) -> bool {
    let Some(rule) = &table.route(route).residency else { return false };
    let Some(country) = place.country else { return true };
    rule.subject.is_empty()
        || rule.subject.iter().any(|subject| match *subject {
            ResidencySubject::Country(bound) => bound == country,
            ResidencySubject::Continent(bound) => place.continent == Some(bound),
            ResidencySubject::EuropeanUnion => is_eu_member(country),
        })
}

/// Regions whose data is fresh enough; the primary always is.
fn fresh(
    service: &ServiceView,
    class: RequestClass,
    facts: &RequestFacts<'_>,
    of: RegionSet,
) -> RegionSet {
    let replication = &service.settings.replication;
    let nothing_known = replication.source == ReplicationSource::None;
    if nothing_known && class.max_staleness.is_none() {
        return of;
    }
    let fresh_enough = |region: &RegionIndex| {
        if service.primary.contains(*region) {
            return true;
        }
        // An unknown or old sample means stale, never zero; since the sample, lag may have grown by its age.
        let sample = service.pool(*region).and_then(|pool| pool.load.0.lag(facts.now));
        sample.is_some_and(|(lag, age)| {
            age <= replication.sample_max_age
                && lag < replication.max_lag
                && class.max_staleness.is_none_or(|bound| lag + age <= bound)
        })
    };
    of.iter().filter(fresh_enough).collect()
}

/// Regions without a capacity, or with less than `part` of it in use.
fn with_room(table: &RoutingTable, of: RegionSet, part: f64) -> RegionSet {
    let room = |region: &RegionIndex| match table.region(*region).settings.capacity {
        Some(capacity) => f64::from(table.in_flight(*region)) < f64::from(capacity) * part,
        None => true,
    };
    of.iter().filter(room).collect()
}

/// RANK and SPILL: walks the bands best first; each takes its healthy share of what is left, and what remains
/// after the last is spread in the same proportions.
pub(crate) fn choose(
    table: &RoutingTable,
    route: RouteIndex,
    service: &ServiceView,
    class: RequestClass,
    client: &Client,
    candidates: Candidates,
    dice: &mut Dice,
    trace: &mut impl Trace,
) -> RegionChoice {
    let ranking = Ranking { table, service, policy: table.policy(route), client };
    let mut pool = candidates.left;
    let full = if pool.and(table.limited).is_empty() {
        RegionSet::EMPTY
    } else {
        let roomy = with_room(table, pool, FILL);
        let full = if roomy.is_empty() { roomy } else { pool.without(roomy) };
        pool = pool.without(full);
        full
    };
    let ticket = dice.unit();
    let walk = ranking.walk(pool, ticket, trace);
    let region = ranking.inside(walk.band, dice);
    let panic = walk.exhausted && service.pool(region).is_some_and(|p| p.healthy_fraction < PANIC_BELOW);
    let reason = match class.access {
        _ if panic => RegionReason::Panic,
        AccessClass::Write => RegionReason::PrimaryForWrite,
        AccessClass::ReadPrimary => RegionReason::PrimaryForRead,
        AccessClass::Read if !candidates.stale.is_empty() && service.primary == candidates.left => {
            RegionReason::PrimaryNoneFresh
        }
        _ if walk.spilled => RegionReason::Spill,
        _ if !ranking.first_band(candidates.left).0.and(full).is_empty() => {
            RegionReason::CapacitySpill
        }
        _ if walk.reason == RegionReason::Nearest && knows_freshness(service, region) => {
            RegionReason::NearestFresh
        }
        _ => walk.reason,
    };
    RegionChoice { region, reason, panic }
}

fn knows_freshness(service: &ServiceView, region: RegionIndex) -> bool {
    service.settings.replication.source != ReplicationSource::None
        && !service.primary.contains(region)
}

/// The order of regions for one client.
pub(crate) struct Ranking<'a> {
    pub(crate) table: &'a RoutingTable,
    pub(crate) service: &'a ServiceView,
    pub(crate) policy: Policy,
    pub(crate) client: &'a Client,
}

struct Walk {
    band: RegionSet,
    reason: RegionReason,
    spilled: bool,
    exhausted: bool,
}

impl Ranking<'_> {
    /// The band in which `ticket` (0 to 1) falls.
    fn walk(&self, pool: RegionSet, ticket: f64, trace: &mut impl Trace) -> Walk {
        let (mut rest, mut taken) = (pool, 0.0);
        let mut found: Option<Walk> = None;
        while !rest.is_empty() {
            let (band, reason) = self.first_band(rest);
            let share = self.share(band).min(1.0 - taken);
            trace.ranked(band, reason, share);
            taken += share;
            if found.is_none() && ticket < taken {
                found = Some(Walk { band, reason, spilled: rest != pool, exhausted: false });
            }
            rest = rest.without(band);
            if taken >= 1.0 - 1e-9 && found.is_some() {
                break;
            }
        }
        match found {
            Some(walk) if taken >= 1.0 - 1e-9 => walk,
            // Not even all of them together take the whole: scale the ticket to what they do take.
            _ if ticket < 1.0 && taken > 0.0 => {
                Walk { exhausted: true, ..self.scaled(pool, ticket * taken) }
            }
            _ => {
                let (band, reason) = self.first_band(pool);
                Walk { band, reason, spilled: false, exhausted: true }
            }
        }
    }

    fn scaled(&self, pool: RegionSet, ticket: f64) -> Walk {
        let (mut rest, mut taken) = (pool, 0.0);
        loop {
            let (band, reason) = self.first_band(rest);
            taken += self.share(band);
            let after = rest.without(band);
            if ticket < taken || after.is_empty() {
                return Walk { band, reason, spilled: rest != pool, exhausted: true };
            }
            rest = after;
        }
    }

    /// The healthy share of a band, its regions counted by weight.
    fn share(&self, band: RegionSet) -> f64 {
        let (mut weights, mut healthy) = (0.0, 0.0);
        let all_zero = band.iter().all(|region| self.table.region(region).weight.value == 0);
        for region in band.iter() {
            let configured = self.table.region(region).weight.value;
            let weight = if all_zero { 1.0 } else { f64::from(configured) };
            weights += weight;
            healthy += weight * self.service.pool(region).map_or(0.0, |pool| pool.share);
        }
        if weights == 0.0 { 0.0 } else { healthy / weights }
    }

    /// The best regions of a set that is not empty, and by what they are the best.
    pub(crate) fn first_band(&self, of: RegionSet) -> (RegionSet, RegionReason) {
        match self.policy {
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

    /// Everything within `max(5 ms, 10%)` of the best.
    fn latency_band(&self, of: RegionSet) -> (RegionSet, RegionReason) {
        let mut order = self.table.by_latency.iter().filter(|(region, _)| of.contains(*region));
        let Some(&(nearest, best)) = order.next() else { return (of, RegionReason::ConfiguredOrder) };
        let mut band = RegionSet::only(nearest);
        if best == u32::MAX {
            return (band, RegionReason::ConfiguredOrder);
        }
        let limit = best.saturating_add(BAND_US.max(best / 10));
        order.take_while(|(_, rtt)| *rtt <= limit).for_each(|(region, _)| band.insert(*region));
        (band, RegionReason::Nearest)
    }

    /// The client's country, then its continent, then the rest, each by distance; unknown places: file order.
    fn nearest_on_earth(&self, of: RegionSet) -> (RegionSet, RegionReason) {
        let place = &self.client.place;
        let mut best: Option<(u8, f64, RegionIndex)> = None;
        for region in of.iter() {
            let view = self.table.region(region);
            let same_country = place.country.is_some() && view.settings.country == place.country;
            let same_continent = place.continent.is_some() && view.continent == place.continent;
            let closeness = match (&place.coordinates, &view.settings.coordinates) {
                (Some(here), Some(there)) => here.closeness(there),
                _ => -2.0,
            };
            let tier = if same_country { 2 } else { u8::from(same_continent) };
            if best.is_none_or(|(t, c, _)| (tier, closeness) > (t, c)) {
                best = Some((tier, closeness, region));
            }
        }
        let Some((tier, closeness, region)) = best else { return (of, RegionReason::ConfiguredOrder) };
        let reason = match tier {
            2 => RegionReason::SameCountry,
            1 => RegionReason::SameContinent,
            _ if closeness >= -1.5 => RegionReason::LeastDistance,
            _ => RegionReason::ConfiguredOrder,
        };
        (RegionSet::only(region), reason)
    }

    /// Highest healthy fraction x success rate in steps of 5%, so that noise does not move traffic; then latency.
    fn healthiest(&self, of: RegionSet) -> (RegionSet, RegionReason) {
        let score = |region: RegionIndex| {
            self.service.pool(region).map_or(0, |pool| {
                let success = f64::from(pool.load.0.success_rate());
                (pool.healthy_fraction * success * 20.0).round() as u32
            })
        };
        let order = self.table.by_latency.iter().map(|(region, _)| *region);
        let mut best: Option<(u32, RegionIndex)> = None;
        for region in order.filter(|region| of.contains(*region)) {
            let score = score(region);
            if best.is_none_or(|(top, _)| score > top) {
                best = Some((score, region));
            }
        }
        (best.map_or(of, |(_, region)| RegionSet::only(region)), RegionReason::Healthiest)
    }

    /// One region of a band: in turn, or by weight x healthy share.
    fn inside(&self, band: RegionSet, dice: &mut Dice) -> RegionIndex {
        let Some(only) = band.lowest() else { return RegionIndex(0) };
        if band.len() == 1 {
            return only;
        }
        if self.policy == Policy::RoundRobin {
            return self.in_turn(band, only, dice);
        }
        let all_zero = band.iter().all(|region| self.table.region(region).weight.value == 0);
        let weight = |region: RegionIndex| {
            let configured = self.table.region(region).weight.value;
            let weight = if all_zero { 1.0 } else { f64::from(configured) };
            weight * self.service.pool(region).map_or(0.0, |pool| pool.share)
        };
        let total: f64 = band.iter().map(weight).sum();
        let mut ticket = dice.unit() * total;
        for region in band.iter() {
            ticket -= weight(region);
            if ticket < 0.0 {
                return region;
            }
        }
        only
    }

    fn in_turn(&self, band: RegionSet, first: RegionIndex, dice: &mut Dice) -> RegionIndex {
        let count = band.len() as u32;
        for _ in 0..count {
            let turn = self.service.load.next_turn() % count;
            let region = band.iter().nth(turn as usize).unwrap_or(first);
            let share = self.service.pool(region).map_or(0.0, |pool| pool.share);
            if share >= 1.0 || dice.unit() < share {
                return region;
            }
        }
        first
    }
}
