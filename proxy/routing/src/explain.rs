//! Explain: the decision for one request, with what every filter and the ranking said of each region.

use std::time::Duration;

use meridian_config::{RegionIndex, ReplicationSource};
use serde::Serialize;

use crate::decide::{Decision, Filter, Refusal, decide_traced};
use crate::dice::Dice;
use crate::outlier::EjectionCause;
use crate::primacy::PrimacyState;
use crate::region::{RegionReason, Trace};
use crate::region_set::RegionSet;
use crate::request::{Client, RequestFacts};
use crate::table::{RoutingTable, ServiceView};
use crate::time::Micros;

/// What `decide` did and why, for people and programs.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The table it was decided with.
    pub generation: u64,
    /// The client as routing saw it.
    pub client: ExplainedClient,
    /// The route that matched.
    pub route: Option<String>,
    /// Its service.
    pub service: Option<String>,
    /// What is known of the service's primary.
    pub primary: Option<ExplainedPrimary>,
    /// read, write or read_primary.
    pub access: Option<&'static str>,
    /// The policy that ranked.
    pub policy: Option<String>,
    /// The bound on staleness that applied, milliseconds.
    pub max_staleness_ms: Option<u64>,
    /// What the session has seen, as the request's tokens say it.
    pub session: Option<ExplainedSession>,
    /// Where the request would go; absent if it would be refused.
    pub decision: Option<ExplainedDecision>,
    /// Why it would be refused.
    pub refusal: Option<ExplainedRefusal>,
    /// Every region once, in rank order, the ones a filter took away last; empty if no route matched.
    pub candidates: Vec<Candidate>,
    /// The service's endpoints that traffic has put out, in file order.
    pub ejected: Vec<EjectedEndpoint>,
}

/// What is known of a service's primary.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedPrimary {
    /// The last known one.
    pub region: Option<String>,
    /// The highest epoch that is known; 0: nobody has said one.
    pub epoch: u64,
    /// Whether there is one now.
    pub state: PrimacyState,
}

/// An endpoint that takes no requests because of what traffic said of it.
#[derive(Clone, Debug, Serialize)]
pub struct EjectedEndpoint {
    /// Its region.
    pub region: String,
    /// Its address.
    pub endpoint: String,
    /// What it was ejected for.
    pub cause: EjectionCause,
    /// What was seen, in words.
    pub evidence: String,
    /// How many ejections there were in a row.
    pub times: u32,
    /// Until then, milliseconds from now; 0: its next request is its trial, or it waits for a probe that passes.
    pub left_ms: u64,
}

/// What a read must find.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ExplainedSession {
    /// The epoch of the position.
    pub epoch: u64,
    /// The least position.
    pub position: Option<u64>,
    /// Only the primary is sure to have it: no position was told, or it is of another epoch.
    pub primary: bool,
}

/// The client as routing saw it.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedClient {
    /// Its address.
    pub address: String,
    /// Its country.
    pub country: Option<String>,
    /// Its continent.
    pub continent: Option<&'static str>,
}

/// Where the request would go.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedDecision {
    /// The region.
    pub region: String,
    /// Why this region.
    pub reason: RegionReason,
    /// The endpoint's address.
    pub endpoint: String,
    /// Why this endpoint.
    pub endpoint_reason: &'static str,
}

/// Why it would be refused.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedRefusal {
    /// The filter that left nothing.
    pub filter: Filter,
    /// The answer's status code.
    pub status: u16,
    /// `Retry-After` in seconds.
    pub retry_after: Option<u32>,
}

/// One region, as this request sees it.
#[derive(Clone, Debug, Serialize)]
pub struct Candidate {
    /// The region.
    pub region: String,
    /// Its place in the ranking, from 1; equal numbers share a band; absent if and only if a filter took it away.
    pub rank: Option<usize>,
    /// Part of the requests like this one that its band takes, 0 to 1.
    pub share: Option<f64>,
    /// The filter that took it away.
    pub excluded_by: Option<String>,
    /// primary or replica.
    pub role: &'static str,
    /// Takes no new requests.
    pub drain: bool,
    /// Healthy weight of the judged weight, 0 to 1; absent without endpoints.
    pub healthy_fraction: Option<f64>,
    /// Its weight.
    pub weight: u32,
    /// Round trip in force for ranking, milliseconds.
    pub round_trip_ms: Option<f64>,
    /// Whether that was measured (else estimated).
    pub round_trip_measured: bool,
    /// Distance to the client, kilometres.
    pub distance_km: Option<f64>,
    /// Replication lag, milliseconds.
    pub lag_ms: Option<u64>,
    /// Age of the lag sample, milliseconds.
    pub lag_age_ms: Option<u64>,
    /// It is too old: the lag is not known any more.
    pub lag_stale: bool,
}

#[derive(Default)]
struct Notes {
    excluded: Vec<(RegionSet, Filter)>,
    bands: Vec<(RegionSet, f64)>,
}

impl Trace for Notes {
    fn filtered(&mut self, filter: Filter, before: RegionSet, after: RegionSet) {
        self.excluded.push((before.without(after), filter));
    }

    fn ranked(&mut self, band: RegionSet, _: RegionReason, share: f64) {
        self.bands.push((band, share));
    }
}

/// Decides and tells why. The same dice give the same decision as [`decide`](crate::decide()), with no turn of a
/// round robin taken.
pub fn explain(
    table: &RoutingTable,
    client: &Client,
    facts: &RequestFacts<'_>,
    dice: &mut Dice,
) -> Explanation {
    let mut notes = Notes::default();
    let result = decide_traced(table, client, facts, dice, &mut notes);
    let route = match &result {
        Ok(decision) => Some(decision.route),
        Err(refusal) => refusal.route,
    };
    let settings = route.map(|index| table.route(index));
    let class = route.map(|route| crate::classify::classify(table, route, facts));
    let service = settings.map(|route| table.service(route.service));
    let mut candidates: Vec<Candidate> = settings.map_or_else(Vec::new, |route| {
        let all = RegionSet::first(table.regions.len());
        let service = table.service(route.service);
        all.iter().map(|r| candidate(table, service, r, client, facts.now, &notes)).collect()
    });
    candidates.sort_by_key(|c| c.rank.unwrap_or(usize::MAX));
    Explanation {
        generation: table.generation,
        client: ExplainedClient {
            address: client.address.to_string(),
            country: client.place.country.map(|c| c.to_string()),
            continent: client.place.continent.map(|c| c.code()),
        },
        route: settings.map(|route| route.name.to_string()),
        service: service.map(|service| service.settings.name.to_string()),
        primary: service.map(|service| ExplainedPrimary {
            region: service.primacy.region.map(|r| table.region(r).settings.id.to_string()),
            epoch: service.primacy.epoch,
            state: service.primacy.state,
        }),
        access: class.map(|class| class.access.label()),
        policy: settings.map(|route| route.policy.label().to_owned()),
        max_staleness_ms: class.and_then(|c| c.max_staleness).map(|bound| bound.as_millis() as u64),
        session: service.and_then(|service| explained_session(service, facts)),
        decision: result.as_ref().ok().map(|decision| explained(table, decision)),
        refusal: result.err().map(|refusal: Refusal| ExplainedRefusal {
            filter: refusal.filter,
            status: refusal.status,
            retry_after: refusal.retry_after(),
        }),
        candidates,
        ejected: service.map_or_else(Vec::new, |service| ejected(service, facts.now)),
    }
}

fn explained_session(service: &ServiceView, facts: &RequestFacts<'_>) -> Option<ExplainedSession> {
    let need = facts.session?;
    let primary = need.primary || need.epoch != service.primacy.epoch;
    Some(ExplainedSession { epoch: need.epoch, position: need.position, primary })
}

fn ejected(service: &ServiceView, now: Micros) -> Vec<EjectedEndpoint> {
    let told = service.endpoints.iter().filter_map(|view| {
        let ejection = view.ejection.as_ref()?;
        let left = if ejection.trial { Duration::ZERO } else { ejection.until.since(now) };
        Some(EjectedEndpoint {
            region: view.key.region.to_string(),
            endpoint: view.key.address.to_string(),
            cause: ejection.cause,
            evidence: ejection.evidence.to_string(),
            times: ejection.times,
            left_ms: left.as_millis() as u64,
        })
    });
    told.collect()
}

fn explained(table: &RoutingTable, decision: &Decision) -> ExplainedDecision {
    let endpoint = table.service(decision.service).endpoint(decision.endpoint.endpoint);
    ExplainedDecision {
        region: table.region(decision.region.region).settings.id.to_string(),
        reason: decision.region.reason,
        endpoint: endpoint.key.address.to_string(),
        endpoint_reason: decision.endpoint.reason.label(),
    }
}

fn candidate(
    table: &RoutingTable,
    service: &ServiceView,
    region: RegionIndex,
    client: &Client,
    now: Micros,
    notes: &Notes,
) -> Candidate {
    let view = table.region(region);
    let pool = service.pool(region);
    let rank = notes.bands.iter().position(|(band, _)| band.contains(region));
    let excluded = notes.excluded.iter().find(|(gone, _)| gone.contains(region));
    let lag = pool
        .filter(|_| service.settings.replication.source != ReplicationSource::None)
        .and_then(|pool| pool.load.0.lag(now));
    Candidate {
        region: view.settings.id.to_string(),
        rank: rank.map(|r| r + 1),
        share: rank.map(|r| notes.bands[r].1),
        excluded_by: match (pool, excluded) {
            (None, _) => Some("no-endpoints".into()),
            (_, Some((_, filter))) => Some(filter.label().into()),
            _ => None,
        },
        role: if service.primary.contains(region) { "primary" } else { "replica" },
        drain: view.drain.value || service.drained.contains(region),
        healthy_fraction: pool.map(|pool| pool.healthy_fraction),
        weight: view.weight.value,
        round_trip_ms: view.round_trip_us.map(|us| f64::from(us) / 1000.0),
        round_trip_measured: view.measured,
        distance_km: table.distance_km(&client.place, region).map(f64::round),
        lag_ms: lag.map(|(lag, _)| lag.as_millis() as u64),
        lag_age_ms: lag.map(|(_, age)| age.as_millis() as u64),
        lag_stale: lag.is_some_and(|(_, age)| age > service.settings.replication.sample_max_age),
    }
}
