//! One request through the rooms: route, classify, choose region, choose endpoint.
//!
//! The only implementation: live traffic, `explain` and tests call it.

use meridian_config::{RegionIndex, RouteIndex, ServiceIndex};

use crate::classify::{RequestClass, classify};
use crate::dice::Dice;
use crate::endpoint::{EndpointChoice, pick, pick_untried};
use crate::labelled::labelled;
use crate::region::{RegionChoice, RegionReason, Trace, choose, filter, with_room};
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
        /// No route matched.
        Route = "route",
        /// No region where this client may be served.
        Residency = "residency",
        /// No region has the capability.
        Capability = "capability",
        /// No primary.
        Role = "role",
        /// All are drained.
        Drain = "drain",
        /// None is healthy.
        Health = "health",
        /// None is fresh enough, and the primary is not available.
        Freshness = "freshness",
        /// All are at capacity.
        Capacity = "capacity",
    }
);

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
    /// Seconds for `Retry-After`, with 503 only.
    pub fn retry_after(&self) -> Option<u32> {
        (self.status == 503).then_some(match self.filter {
            Filter::Capacity => 1,
            Filter::Health | Filter::Freshness => 2,
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
    let class = classify(table, route, facts);
    let routed = Routed::new(table, route, class, client, facts, T::LIVE);
    let candidates = filter(&routed, trace)?;
    let region = choose(&routed, &candidates, dice, trace);
    let pool = routed.service.pool(region.region);
    let none_left = Refusal { route: Some(route), filter: Filter::Health, status: 503 };
    let endpoint =
        pool.and_then(|pool| pick(&routed, pool, region.panic, dice)).ok_or(none_left)?;
    let service = table.rules(route).service;
    Ok(Decision { route, service, class, region, endpoint, candidates: candidates.left })
}

/// Attempts that a region gets before the next one has its turn: what failed twice may fail as a whole, and attempts
/// are few.
const IN_A_ROW: usize = 2;

/// Where a further attempt goes: an untried endpoint of the same region, or, after two failures in a row there, one of
/// the next region in rank; always among the candidates of the first decision, so that residency, role and freshness
/// bind every attempt.
pub fn next_attempt(
    table: &RoutingTable,
    client: &Client,
    facts: &RequestFacts<'_>,
    last: &Decision,
    tried: &[EndpointIndex],
) -> Option<Decision> {
    let routed = Routed::new(table, last.route, last.class, client, facts, true);
    let here = last.region.region;
    let untried = |region: RegionIndex, panic: bool| {
        pick_untried(&routed, routed.service.pool(region)?, panic, tried)
    };
    let stay = || {
        let endpoint = untried(here, last.region.panic)?;
        Some(Decision { endpoint, ..*last })
    };
    let tried_here = tried.iter().filter(|i| routed.service.endpoint(**i).region == here).count();
    if tried_here < IN_A_ROW
        && let Some(next) = stay()
    {
        return Some(next);
    }
    let mut others = last.candidates;
    others.remove(here);
    for (band, _) in routed.bands(with_room(table, others, 1.0)) {
        let mut band: Vec<_> =
            band.iter().map(|region| (strain(&routed, region), region)).collect();
        band.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        for (_, region) in band {
            if let Some(endpoint) = untried(region, false) {
                let reason = RegionReason::Retry;
                let region = RegionChoice { region, reason, panic: false };
                return Some(Decision { region, endpoint, ..*last });
            }
        }
    }
    stay()
}

/// What orders equally ranked regions for a further attempt, without dice: requests in flight per weight.
fn strain(routed: &Routed<'_>, region: RegionIndex) -> f64 {
    let in_flight = routed.service.pool(region).map_or(0, |pool| pool.load.0.in_flight());
    f64::from(in_flight + 1) / f64::from(routed.table.region(region).weight.value)
}
