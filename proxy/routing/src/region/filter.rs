//! FILTER: residency, capability, role, drain, health, freshness, session, capacity, in this order. Filters never relax;
//! panic lets unhealthy endpoints of a region back in, never a region.

use meridian_config::{RegionIndex, ReplicationSource, RouteIndex};

use crate::classify::AccessClass;
use crate::decide::{Filter, Refusal};
use crate::region::Trace;
use crate::region_set::RegionSet;
use crate::routed::Routed;
use crate::session::caught_up;
use crate::table::{ResidencyRule, RoutingTable};
use crate::time::Micros;

/// What the filters left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidates {
    pub(crate) left: RegionSet,
    /// Taken away by the last filter, for want of capacity.
    pub(crate) at_capacity: RegionSet,
    /// Taken away because they are drained or not healthy.
    pub(crate) lost: RegionSet,
    /// Freshness took all replicas away and left the primary.
    pub(crate) none_fresh: bool,
    /// What the session has seen did.
    pub(crate) none_caught_up: bool,
}

/// The set that gets smaller, and who watches it.
struct Sieve<'a, T> {
    route: RouteIndex,
    left: RegionSet,
    trace: &'a mut T,
}

impl<T: Trace> Sieve<'_, T> {
    fn keep(&mut self, only: RegionSet, filter: Filter, status: u16) -> Result<(), Refusal> {
        let after = self.left.and(only);
        self.trace.filtered(filter, self.left, after);
        self.left = after;
        let refusal = Refusal { route: Some(self.route), filter, status };
        if after.is_empty() { Err(refusal) } else { Ok(()) }
    }
}

/// The regions that may answer.
pub(crate) fn filter<T: Trace>(routed: &Routed<'_>, trace: &mut T) -> Result<Candidates, Refusal> {
    let Routed { table, service, class, .. } = *routed;
    let mut sieve = Sieve { route: routed.route, left: service.present, trace };
    if let Some(rule) = binding_rule(routed) {
        sieve.keep(rule.allowed, Filter::Residency, rule.refuse)?;
    }
    sieve.keep(table.rules(routed.route).capable, Filter::Capability, 503)?;
    if class.access != AccessClass::Read {
        sieve.keep(service.primary, service.no_primary(), 503).map_err(|r| barred(routed, r))?;
    }
    let wanted = sieve.left;
    let in_service = wanted.without(table.drained.or(service.drained));
    let (fresh, caught_up) = (fresh(routed, in_service), caught_up(routed, in_service));
    let serving = usable(routed, in_service, fresh.and(caught_up));
    sieve
        .keep(in_service, Filter::Drain, 503)
        .and_then(|()| sieve.keep(serving, Filter::Health, 503))
        .inspect_err(|_| note_refused::<T>(routed, wanted))?;
    let lost = wanted.without(sieve.left);
    let mut none_fresh = false;
    if !sieve.left.without(fresh).is_empty() {
        sieve.keep(fresh, Filter::Freshness, 503)?;
        none_fresh = sieve.left == service.primary;
    }
    let mut none_caught_up = false;
    if !sieve.left.without(caught_up).is_empty() {
        sieve.keep(caught_up, Filter::Session, 503)?;
        none_caught_up = sieve.left == service.primary;
    }
    let mut at_capacity = RegionSet::EMPTY;
    if !sieve.left.and(table.limited).is_empty() {
        let room = with_room(table, sieve.left, 1.0);
        at_capacity = sieve.left.without(room);
        sieve.keep(room, Filter::Capacity, 503)?;
    }
    Ok(Candidates { left: sieve.left, at_capacity, lost, none_fresh, none_caught_up })
}

/// Why the primary is not among the regions that were left: there may be one, in a region that the filters before took away.
#[cold]
fn barred(routed: &Routed<'_>, none: Refusal) -> Refusal {
    let primary = routed.service.primary.and(routed.service.present);
    if primary.is_empty() {
        return none;
    }
    match binding_rule(routed) {
        Some(rule) if primary.and(rule.allowed).is_empty() => {
            Refusal { filter: Filter::Residency, status: rule.refuse, ..none }
        }
        _ => Refusal { filter: Filter::Capability, ..none },
    }
}

/// Counts a live request that none of these regions takes.
fn note_refused<T: Trace>(routed: &Routed<'_>, wanted: RegionSet) {
    if T::LIVE && routed.bound.is_none() {
        let pools = wanted.iter().filter_map(|region| routed.service.pool(region));
        pools.for_each(|pool| pool.load.0.setbacks.count_refused());
    }
}

/// The route's residency rule, if it binds this client.
fn binding_rule<'a>(routed: &Routed<'a>) -> Option<&'a ResidencyRule> {
    let rule = routed.table.rules(routed.route).residency.as_ref()?;
    rule.subjects.bind(&routed.client.place).then_some(rule)
}

/// The healthy ones. Those never judged, or only ejected, serve when nothing healthy can: also when what is healthy is
/// too stale, so that a primary still to be probed is not passed over for a refusal.
fn usable(routed: &Routed<'_>, of: RegionSet, fresh: RegionSet) -> RegionSet {
    let healthy = of.and(routed.service.healthy);
    if healthy.and(fresh).is_empty() { healthy.or(of.and(routed.service.spare)) } else { healthy }
}

/// Regions in which a trial is due and that every filter but health lets pass.
pub(crate) fn may_try(routed: &Routed<'_>) -> RegionSet {
    let Routed { table, service, .. } = *routed;
    passes(routed, service.trying.without(table.drained.or(service.drained)))
}

/// Those of the regions that every filter but drain and health lets pass.
pub(crate) fn passes(routed: &Routed<'_>, of: RegionSet) -> RegionSet {
    let Routed { table, service, class, .. } = *routed;
    let mut left = of.and(table.rules(routed.route).capable);
    if let Some(rule) = binding_rule(routed) {
        left = left.and(rule.allowed);
    }
    if class.access != AccessClass::Read {
        left = left.and(service.primary);
    }
    with_room(table, caught_up(routed, fresh(routed, left)), 1.0)
}

/// Regions whose data is fresh enough for this request; the primary's always is.
fn fresh(routed: &Routed<'_>, of: RegionSet) -> RegionSet {
    let Routed { service, class, facts, .. } = *routed;
    let replication = &service.settings.replication;
    let unbounded = replication.source == ReplicationSource::None && class.max_staleness.is_none();
    if class.access != AccessClass::Read || unbounded {
        return of;
    }
    let micros = |duration| Micros::after_start(duration).0;
    let (max_lag, max_age) = (micros(replication.max_lag), micros(replication.sample_max_age));
    let bound = class.max_staleness.map_or(u64::MAX, micros);
    let fresh_enough = |region: &RegionIndex| {
        if service.primary.contains(*region) {
            return true;
        }
        // Unknown or old means stale, never zero; since the sample, lag may have grown by its age.
        let Some(pool) = service.pool(*region) else { return false };
        let sample = pool.load.0.lag_us(facts.now);
        sample.is_some_and(|(lag, age)| age <= max_age && lag + age < max_lag && lag + age <= bound)
            && replication.max_lag_bytes.is_none_or(|most| pool.load.0.is_within(most))
    };
    of.iter().filter(fresh_enough).collect()
}

/// Regions without a capacity, or with less than `part` of it in use.
pub(crate) fn with_room(table: &RoutingTable, of: RegionSet, part: f64) -> RegionSet {
    let room = |region: &RegionIndex| match table.region(*region).settings.capacity {
        Some(capacity) => f64::from(table.in_flight(*region)) < f64::from(capacity) * part,
        None => true,
    };
    let limited = of.and(table.limited).iter().filter(room).collect();
    of.without(table.limited).or(limited)
}
