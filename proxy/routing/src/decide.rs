//! One request through the rooms: route, classify, choose region, choose endpoint.
//!
//! The only implementation: live traffic, `explain` and tests call it.

use meridian_config::{RegionIndex, RouteIndex, ServiceIndex};

use crate::affinity::{bound, choices};
use crate::classify::{RequestClass, classify};
use crate::dice::Dice;
use crate::endpoint::{EndpointChoice, EndpointReason, Untried, pick, pick_trial, pick_untried};
use crate::labelled::labelled;
use crate::region::{
    Candidates, RegionChoice, RegionReason, Trace, choose, filter, may_try, passes, with_room,
};
use crate::region_set::RegionSet;
use crate::request::{Client, RequestFacts};
use crate::routed::Routed;
use crate::table::{EndpointIndex, RoutingTable};

/// Where a request goes, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The route that matched.
    pub route: RouteIndex,
    /// Its service.
    pub service: ServiceIndex,
    /// Read or write, how stale.
    pub class: RequestClass,
    /// The region.
    pub region: RegionChoice,
    /// The endpoint in it.
    pub endpoint: EndpointChoice,
    /// The regions that passed every filter: further attempts stay among them.
    pub candidates: RegionSet,
}

labelled!(
    /// What emptied the set of candidates.
    Filter {
        /// The request could not be read.
        Malformed = "malformed",
        /// It came in the clear where the listener sends everybody to https.
        Https = "https",
        /// No route matched.
        Route = "route",
        /// No region where this client may be served.
        Residency = "residency",
        /// No region has the capability.
        Capability = "capability",
        /// No primary, and nothing that could become one by itself.
        Role = "role",
        /// The primary is not known at the moment, or a switchover is under way.
        PrimaryUnknown = "primary-unknown",
        /// Several regions claim to be the primary.
        PrimaryContested = "primary-contested",
        /// The endpoint is not the primary any more, and the request cannot be sent again.
        PrimaryMoved = "primary-moved",
        /// All are drained.
        Drain = "drain",
        /// None is healthy.
        Health = "health",
        /// None is fresh enough, and the primary is not available.
        Freshness = "freshness",
        /// None has what the session has seen, and the primary is not available.
        Session = "session",
        /// All are at capacity.
        Capacity = "capacity",
        /// Its client has as many requests in flight as it may.
        ClientRequests = "client-requests",
        /// Its route has.
        RouteRequests = "route-requests",
        /// The edge has.
        EdgeRequests = "edge-requests",
        /// There is no memory for more.
        Memory = "memory",
        /// The region's endpoints have, and as many wait for room as may.
        QueueFull = "queue-full",
        /// There was no room in the time that a request may wait for it.
        QueueTime = "queue-time",
        /// As many requests wait for the primary, or as many bytes, as may.
        ParkFull = "park-full",
        /// There was no primary in the time that a request may wait for one.
        ParkTime = "park-time",
    }
);

impl Filter {
    /// Turned down for what is in flight already, after the decision.
    pub fn is_load(self) -> bool {
        matches!(
            self,
            Self::ClientRequests
                | Self::RouteRequests
                | Self::EdgeRequests
                | Self::Memory
                | Self::QueueFull
                | Self::QueueTime
        )
    }
}

/// A request that policy turns down: not a malfunction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The route, if one matched.
    pub route: Option<RouteIndex>,
    /// The filter that left nothing.
    pub filter: Filter,
    /// The answer's status code.
    pub status: u16,
}

impl Refusal {
    /// Seconds for `Retry-After`, with 503 and 429 only.
    pub fn retry_after(&self) -> Option<u32> {
        matches!(self.status, 429 | 503).then_some(match self.filter {
            Filter::Health | Filter::Freshness | Filter::Session | Filter::PrimaryUnknown => 2,
            Filter::Capacity | Filter::PrimaryMoved | Filter::ParkFull | Filter::ParkTime => 1,
            filter if filter.is_load() => 1,
            _ => 5,
        })
    }
}

/// Decides where a request goes. Pure: the table, the client, the request and the dice are all it knows.
pub fn decide(
    table: &RoutingTable,
    client: &Client,
    facts: &RequestFacts<'_>,
    dice: &mut Dice,
) -> Result<Decision, Refusal> {
    decide_traced(table, client, facts, dice, &mut ())
}

/// The same, watched.
pub fn decide_traced<T: Trace>(
    table: &RoutingTable,
    client: &Client,
    facts: &RequestFacts<'_>,
    dice: &mut Dice,
    trace: &mut T,
) -> Result<Decision, Refusal> {
    let no_route = Refusal { route: None, filter: Filter::Route, status: 404 };
    let route = table.find_route(facts).ok_or(no_route)?;
    decide_on(table, route, client, facts, dice, trace)
}

/// The same for a request whose route is found.
pub fn decide_on<T: Trace>(
    table: &RoutingTable,
    route: RouteIndex,
    client: &Client,
    facts: &RequestFacts<'_>,
    dice: &mut Dice,
    trace: &mut T,
) -> Result<Decision, Refusal> {
    let class = classify(table, route, facts);
    decide_as(table, route, class, client, facts, dice, trace)
}

/// The same for a request whose class is known as well.
pub fn decide_as<T: Trace>(
    table: &RoutingTable,
    route: RouteIndex,
    class: RequestClass,
    client: &Client,
    facts: &RequestFacts<'_>,
    dice: &mut Dice,
    trace: &mut T,
) -> Result<Decision, Refusal> {
    let mut routed = Routed::new(table, route, class, client, facts, T::LIVE);
    if facts.affinity.is_some() {
        routed.bound = bound(&routed);
    }
    let candidates = filter(&routed, trace);
    if let Some(endpoint) = routed.bound {
        if let (false, Ok(candidates)) = (T::LIVE, &candidates) {
            // Whoever watches is told the ranking as well.
            choose(&routed, candidates, dice, trace);
        }
        return Ok(stay(&routed, endpoint, candidates.ok()));
    }
    let candidates = candidates?;
    let region = choose(&routed, &candidates, dice, trace);
    let pool = routed.service.pool(region.region);
    let none_left = Refusal { route: Some(route), filter: Filter::Health, status: 503 };
    let endpoint =
        pool.and_then(|pool| pick(&routed, pool, region.panic, dice)).ok_or(none_left)?;
    let service = table.rules(route).service;
    let candidates = candidates.left;
    let decision = Decision { route, service, class, region, endpoint, candidates };
    if !routed.service.trying.is_empty()
        && let Some(trial) = trial(&routed, &decision)
    {
        return Ok(trial);
    }
    let load = &routed.service.endpoint(endpoint.endpoint).load;
    if !region.panic && !load.passive().takes_requests(facts.now) {
        // All of the region's went out after this table was made, or are about to.
        let around = elsewhere(&routed, &decision, RegionReason::Spill, OPEN);
        return Ok(around.unwrap_or(decision));
    }
    Ok(decision)
}

/// The decision for the endpoint that the session is bound to. A region that is drained takes this request only, none of
/// its further attempts.
fn stay(routed: &Routed<'_>, endpoint: EndpointIndex, candidates: Option<Candidates>) -> Decision {
    let (region, endpoint) = choices(routed.service, endpoint);
    let mut candidates = candidates.map_or(RegionSet::EMPTY, |candidates| candidates.left);
    if !routed.table.drained.contains(region.region) {
        candidates.insert(region.region);
    }
    let service = routed.table.rules(routed.route).service;
    Decision { route: routed.route, service, class: routed.class, region, endpoint, candidates }
}

/// Any endpoint whose gate is open.
const OPEN: Untried<'static> = Untried { tried: &[], open: true };

/// The trial that this request is to be, if one waits for it where it may be served at all.
fn trial(routed: &Routed<'_>, decision: &Decision) -> Option<Decision> {
    may_try(routed).iter().find_map(|region| {
        let endpoint = pick_trial(routed, routed.service.pool(region)?)?;
        if region == decision.region.region {
            return Some(Decision { endpoint, ..*decision });
        }
        let mut candidates = decision.candidates;
        candidates.insert(region);
        let region = RegionChoice { region, reason: RegionReason::Trial, panic: false };
        Some(Decision { region, endpoint, candidates, ..*decision })
    })
}

/// Attempts that a region gets before the next one has its turn: what failed twice may fail as a whole, and attempts
/// are few.
const IN_A_ROW: usize = 2;

/// Where a further attempt goes: an untried endpoint of the same region, or, after two failures in a row there, one of
/// the next region in rank; always among the candidates of the first decision, so that residency, role and freshness
/// bind every attempt. Endpoints that went out since the first decision come last.
pub fn next_attempt(
    table: &RoutingTable,
    client: &Client,
    facts: &RequestFacts<'_>,
    last: &Decision,
    tried: &[EndpointIndex],
) -> Option<Decision> {
    let routed = Routed::new(table, last.route, last.class, client, facts, true);
    [true, false].iter().find_map(|open| further(&routed, last, Untried { tried, open: *open }))
}

fn further(routed: &Routed<'_>, last: &Decision, untried: Untried<'_>) -> Option<Decision> {
    let here = last.region.region;
    let stay = || {
        let endpoint =
            pick_untried(routed, routed.service.pool(here)?, last.region.panic, untried)?;
        Some(Decision { endpoint, ..*last })
    };
    if routed.table.drained.contains(here) {
        // Only its sessions may go there, while the drain's grace lasts.
        return elsewhere(routed, last, RegionReason::Retry, untried);
    }
    let is_here = |i: &&EndpointIndex| routed.service.endpoint(**i).region == here;
    // A region in which only a trial was made is not the request's own.
    let visiting =
        last.endpoint.reason == EndpointReason::Trial && last.region.reason == RegionReason::Trial;
    if !visiting
        && untried.tried.iter().filter(is_here).count() < IN_A_ROW
        && let Some(next) = stay()
    {
        return Some(next);
    }
    elsewhere(routed, last, RegionReason::Retry, untried).or_else(stay)
}

/// An endpoint in the next of the other candidates, in rank order.
fn elsewhere(
    routed: &Routed<'_>,
    last: &Decision,
    reason: RegionReason,
    untried: Untried<'_>,
) -> Option<Decision> {
    let mut others = last.candidates;
    others.remove(last.region.region);
    for (band, _) in routed.bands(with_room(routed.table, others, 1.0)) {
        let mut band: Vec<_> = band.iter().map(|region| (strain(routed, region), region)).collect();
        band.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        for (_, region) in band {
            let pool = routed.service.pool(region);
            if let Some(endpoint) = pool.and_then(|p| pick_untried(routed, p, false, untried)) {
                let region = RegionChoice { region, reason, panic: false };
                return Some(Decision { region, endpoint, ..*last });
            }
        }
    }
    None
}

/// Where a read goes whose answer showed less than its session has seen, or was staler than it may be: the primary, else
/// any other candidate.
pub fn after_refuted(
    table: &RoutingTable,
    client: &Client,
    facts: &RequestFacts<'_>,
    last: &Decision,
    tried: &[EndpointIndex],
) -> Option<Decision> {
    let routed = Routed::new(table, last.route, last.class, client, facts, true);
    let untried = Untried { tried, open: false };
    let primary = passes(&routed, routed.service.primary);
    let primary = primary.without(table.drained.or(routed.service.drained)).lowest();
    let mut candidates = last.candidates;
    if let Some(region) = primary {
        candidates.insert(region);
        let pool = routed.service.pool(region);
        if let Some(endpoint) = pool.and_then(|pool| pick_untried(&routed, pool, false, untried)) {
            let reason = RegionReason::PrimaryForSession;
            let region = RegionChoice { region, reason, panic: false };
            return Some(Decision { region, endpoint, candidates, ..*last });
        }
    }
    elsewhere(&routed, &Decision { candidates, ..*last }, RegionReason::Retry, untried)
}

/// What orders equally ranked regions for a further attempt, without dice: requests in flight per weight.
fn strain(routed: &Routed<'_>, region: RegionIndex) -> f64 {
    let in_flight = routed.service.pool(region).map_or(0, |pool| pool.load.0.in_flight());
    f64::from(in_flight + 1) / f64::from(routed.table.region(region).weight.value)
}
