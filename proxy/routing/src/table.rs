//! The routing table: one immutable snapshot that a request holds for all its attempts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meridian_config::{
    Access, Config, EndpointKey, Policy, Region, RegionIndex, Route, RouteIndex, Service,
    ServiceIndex, ServiceName,
};
use meridian_geoip::{Continent, Coordinates, CountryCode, Place};
use serde::Serialize;

use crate::adaptive::AdaptiveLimit;
use crate::affinity::EndpointIdentity;
use crate::counters::{Histogram, RouteCounters, ServiceCounters};
use crate::layers::{EndpointHealth, Said};
use crate::load::{EndpointLoad, ServiceRegionLoad};
use crate::outlier::{Ejection, Standing};
use crate::pick_set::PickSet;
use crate::primacy::{
    Claim, Inquiry, KnownPosition, LastClaim, Primacy, Role, Term, WriteGate, WriteGuard,
};
use crate::region::{PANIC_BELOW, Subjects};
use crate::region_set::RegionSet;
use crate::request::RequestFacts;
use crate::route::RouteMatcher;
use crate::session::SessionFloors;
use crate::time::Micros;

/// Position of an endpoint in its service's list, in file order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointIndex(pub u32);

/// Desired, override and observed, merged; swapped whole.
#[derive(Debug)]
pub struct RoutingTable {
    /// Grows by one with every publication.
    pub generation: u64,
    /// The desired layer this table was built from.
    pub config: Arc<Config>,
    /// By [`RegionIndex`].
    pub regions: Vec<RegionView>,
    /// By [`ServiceIndex`].
    pub services: Vec<ServiceView>,
    /// Counts requests that no route matched.
    pub unmatched: Arc<RouteCounters>,
    pub(crate) static_part: Arc<StaticPart>,
    /// Regions by round trip in force, nearest first; unknown ones last, in file order.
    pub(crate) by_latency: Vec<(RegionIndex, u32)>,
    /// What ranking reads of a region, by [`RegionIndex`], close together.
    pub(crate) ranked: Vec<RankedRegion>,
    pub(crate) drained: RegionSet,
    pub(crate) limited: RegionSet,
    /// When the next session grace of a drain is over, unix milliseconds: then the table is to be built again.
    pub next_grace_end: Option<u64>,
}

/// What ranking reads of a region.
#[derive(Debug)]
pub(crate) struct RankedRegion {
    pub(crate) weight: u32,
    pub(crate) country: Option<CountryCode>,
    pub(crate) continent: Option<Continent>,
    pub(crate) coordinates: Option<Coordinates>,
    /// Stable hash of the id, for sessions.
    pub(crate) hash: u64,
}

/// What follows from the configuration alone; shared between tables of one configuration.
#[derive(Debug)]
pub(crate) struct StaticPart {
    pub(crate) matcher: Arc<RouteMatcher>,
    /// The cookie of a service's sessions, by [`ServiceIndex`]; `None`: it keeps none.
    pub(crate) session_cookies: Vec<Option<Box<str>>>,
    pub(crate) keeps_sessions: bool,
    pub(crate) rules: Vec<RouteRules>,
    pub(crate) wants_bodies: bool,
}

/// What a decision needs of a route, on a line or two of the cache.
#[derive(Debug)]
pub(crate) struct RouteRules {
    pub(crate) service: ServiceIndex,
    pub(crate) policy: Policy,
    pub(crate) access: Access,
    pub(crate) max_staleness: Option<Duration>,
    pub(crate) capable: RegionSet,
    pub(crate) residency: Option<ResidencyRule>,
    pub(crate) affinity: bool,
    /// Session tokens are made and honoured.
    pub(crate) sessions: bool,
    pub(crate) counters: Arc<RouteCounters>,
}

/// A drain in force.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drained {
    pub(crate) since_unix_ms: u64,
    /// The drain's own session grace; `None`: the service's.
    pub(crate) grace_ms: Option<u64>,
}

/// A residency rule as masks.
#[derive(Debug)]
pub(crate) struct ResidencyRule {
    pub(crate) allowed: RegionSet,
    pub(crate) subjects: Subjects,
    pub(crate) refuse: u16,
}

/// A value and who set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Effective<T> {
    /// The value in effect.
    pub value: T,
    /// Who set it.
    pub source: Source,
}

/// Who set a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The configuration file.
    File,
    /// The operator.
    Override,
}

/// One region as it is now.
#[derive(Debug)]
pub struct RegionView {
    /// The region's configuration.
    pub settings: Region,
    /// The continent of its country.
    pub continent: Option<Continent>,
    /// Whether it takes new requests.
    pub drain: Effective<bool>,
    pub(crate) drained: Option<Drained>,
    /// Its weight.
    pub weight: Effective<u32>,
    /// Round trip in force for ranking, microseconds; `None` where neither measured nor estimated.
    pub round_trip_us: Option<u32>,
    /// Whether the round trip was measured (else estimated from distance).
    pub measured: bool,
    /// Round trip as measured of late, microseconds; `None` before there is a measurement.
    pub smoothed_us: Option<u32>,
}

impl RegionView {
    /// The round trip as measured of late, else the one in force, microseconds.
    pub fn present_round_trip_us(&self) -> Option<u32> {
        self.smoothed_us.or(self.round_trip_us)
    }

    /// How long a connect may take: three round trips, from 250 ms to 1 s.
    pub fn connect_timeout(&self) -> Duration {
        let round_trip = Duration::from_micros(self.present_round_trip_us().unwrap_or(0).into());
        (3 * round_trip).clamp(Duration::from_millis(250), Duration::from_secs(1))
    }

    /// How long data to the region may stay unacknowledged before its connection is given up (RFC 5482): eight
    /// retransmission timeouts, which Linux does not set below 200 ms above the round trip, from 2 s to 10 s. Doubling
    /// each time (RFC 6298), data is sent again after one, three and seven of them, so that three losses in a row are
    /// survived.
    pub fn user_timeout(&self) -> Duration {
        const LEAST_ABOVE: Duration = Duration::from_millis(200);
        let round_trip = Duration::from_micros(self.present_round_trip_us().unwrap_or(0).into());
        (8 * (round_trip + LEAST_ABOVE)).clamp(Duration::from_secs(2), Duration::from_secs(10))
    }
}

/// One service as it is now.
#[derive(Debug)]
pub struct ServiceView {
    /// The service's configuration.
    pub settings: Arc<Service>,
    /// By [`EndpointIndex`].
    pub endpoints: Vec<EndpointView>,
    /// By [`RegionIndex`]; `None` where it has no endpoints.
    pub pools: Vec<Option<Pool>>,
    /// Counts that belong to no region.
    pub counters: Arc<ServiceCounters>,
    /// What is known of its primary.
    pub primacy: Primacy,
    /// What its writes pass.
    pub writes: Arc<WriteGate>,
    /// What they pass it with.
    pub term: Term,
    pub(crate) present: RegionSet,
    /// The primary, while it is settled.
    pub(crate) primary: RegionSet,
    pub(crate) drained: RegionSet,
    pub(crate) healthy: RegionSet,
    pub(crate) spare: RegionSet,
    /// Where a trial is due.
    pub(crate) trying: RegionSet,
    pub(crate) by_priority: Vec<RegionIndex>,
    /// Each pool's share, by [`RegionIndex`]; 0 without endpoints.
    pub(crate) shares: Vec<f64>,
    pub(crate) load: Arc<ServiceRegionLoad>,
    /// See [`EndpointIdentity`](crate::EndpointIdentity).
    pub(crate) identity: u32,
    /// Endpoints by identity, sorted.
    pub(crate) by_identity: Vec<(u64, EndpointIndex)>,
    /// What its sessions were given last, if it keeps any.
    pub floors: Option<Arc<SessionFloors>>,
}

/// One endpoint as it is now.
#[derive(Debug)]
pub struct EndpointView {
    /// Its identity across tables.
    pub key: EndpointKey,
    /// The same in short, for sessions.
    pub identity: EndpointIdentity,
    /// Where it stands.
    pub region: RegionIndex,
    /// Where to connect to, best first; empty while its name has not been resolved.
    pub addresses: Arc<[SocketAddr]>,
    /// Its weight inside the region.
    pub weight: Effective<u32>,
    /// Whether it takes new requests.
    pub drain: Effective<bool>,
    /// While it, or its region, is drained and its sessions may still come: until when, unix milliseconds.
    pub sessions_until_unix_ms: Option<u64>,
    /// By active checks.
    pub health: EndpointHealth,
    /// By what traffic said; it takes requests only when nothing else can.
    pub ejection: Option<Ejection>,
    /// When it last recovered; slow start counts from here.
    pub recovered_at: Option<Micros>,
    /// Its hot counters.
    pub load: Arc<EndpointLoad>,
    /// Its limit, where that is adaptive.
    pub limit: Arc<AdaptiveLimit>,
    /// What it says of its role and epoch; `None`: nothing, or nobody listens.
    pub said: Option<Said>,
    /// The epoch that it says and that cannot be one.
    pub disbelieved: Option<u64>,
    /// How far it has come in the epoch in force.
    pub position: Arc<KnownPosition>,
    /// What the keeper was told last of its role and epoch.
    pub last_claim: Arc<LastClaim>,
    /// Where requests say that they wait for news of it.
    pub inquiry: Arc<Inquiry>,
}

/// One service's endpoints in one region.
#[derive(Debug)]
pub struct Pool {
    /// Neither drained nor unhealthy nor ejected.
    pub(crate) ready: PickSet,
    /// Not drained, and never judged, or ejected without being unhealthy: these serve when nothing healthy does.
    pub(crate) spare: PickSet,
    /// Ejected ones whose trial is due.
    pub(crate) trials: Vec<EndpointIndex>,
    /// Not drained, whatever is said of them: what panic spreads over.
    pub(crate) all: PickSet,
    /// Healthy weight of the weight that was judged, 0 to 1; 1 where nothing was judged.
    pub healthy_fraction: f64,
    /// `min(1, 1.4 x healthy fraction)`.
    pub share: f64,
    /// From then on, no endpoint is in its slow start.
    pub(crate) warm_from: Micros,
    /// The region's round trip, subtracted before costs are compared, microseconds.
    pub(crate) floor_us: f32,
    /// Hot counters of this service in this region, and its upstream durations.
    pub load: Arc<(ServiceRegionLoad, Histogram)>,
}

impl RoutingTable {
    /// The route at `index`.
    pub fn route(&self, index: RouteIndex) -> &Route {
        &self.config.routes[index.0 as usize]
    }

    /// The service at `index`.
    pub fn service(&self, index: ServiceIndex) -> &ServiceView {
        &self.services[index.0 as usize]
    }

    /// The region at `index`.
    pub fn region(&self, index: RegionIndex) -> &RegionView {
        &self.regions[usize::from(index.0)]
    }

    /// The route's counters, to be kept for longer than the table.
    pub fn shared_counters(&self, index: RouteIndex) -> &Arc<RouteCounters> {
        &self.static_part.rules[index.0 as usize].counters
    }

    /// The route's counters.
    pub fn counters(&self, index: RouteIndex) -> &RouteCounters {
        &self.static_part.rules[index.0 as usize].counters
    }

    /// The counters of all routes of a service; of none if the table does not have it.
    pub fn counters_of(&self, service: &ServiceName) -> impl Iterator<Item = &RouteCounters> {
        let index = self.services.iter().position(|view| view.settings.name == *service);
        let of_service = move |rules: &&RouteRules| Some(rules.service.0 as usize) == index;
        self.static_part.rules.iter().filter(of_service).map(|rules| &*rules.counters)
    }

    pub(crate) fn rules(&self, index: RouteIndex) -> &RouteRules {
        &self.static_part.rules[index.0 as usize]
    }

    /// The best route for a request.
    pub fn find_route(&self, facts: &RequestFacts<'_>) -> Option<RouteIndex> {
        self.static_part.matcher.find(facts)
    }

    /// Whether the route binds sessions to endpoints.
    pub fn has_affinity(&self, index: RouteIndex) -> bool {
        self.rules(index).affinity
    }

    /// The cookie of the sessions of a route's service; `None`: the route keeps none.
    pub fn session_cookie(&self, index: RouteIndex) -> Option<&str> {
        let rules = self.rules(index);
        if !rules.sessions {
            return None;
        }
        self.static_part.session_cookies[rules.service.0 as usize].as_deref()
    }

    /// Whether any route keeps sessions.
    pub fn keeps_sessions(&self) -> bool {
        self.static_part.keeps_sessions
    }

    /// Whether the request's route classifies by the body (GraphQL); then `facts.body` should hold it, up to 64 KiB.
    pub fn wants_body(&self, facts: &RequestFacts<'_>) -> bool {
        self.static_part.wants_bodies
            && facts.method == "POST"
            && self.find_route(facts).is_some_and(|route| self.route(route).graphql)
    }

    /// The primary of a service, while it is settled.
    pub fn primary(&self, service: ServiceIndex) -> Option<RegionIndex> {
        self.service(service).primary.lowest()
    }

    /// Great-circle distance from a place to a region, kilometres.
    pub fn distance_km(&self, place: &Place, region: RegionIndex) -> Option<f64> {
        let there = self.region(region).settings.coordinates?;
        Some(place.coordinates?.distance_km(&there))
    }

    /// What ranking reads of the region at `index`.
    pub(crate) fn ranked(&self, index: RegionIndex) -> &RankedRegion {
        &self.ranked[usize::from(index.0)]
    }

    /// The policy a route uses.
    pub(crate) fn policy(&self, route: RouteIndex) -> Policy {
        self.rules(route).policy
    }

    /// Makes the gates that selection and writes read follow this table. Requests that hold an older one see it as well.
    pub fn set_gates(&self, now: Micros) {
        for endpoint in self.services.iter().flat_map(|service| &service.endpoints) {
            endpoint.load.passive().follow(endpoint.standing(), now);
        }
        for service in &self.services {
            service.writes.publish(&service.primacy, service.term);
        }
    }

    /// Requests in flight from this edge in a region, over all services.
    pub fn in_flight(&self, region: RegionIndex) -> u32 {
        let pools = self.services.iter().filter_map(|s| s.pool(region));
        pools.map(|pool| pool.load.0.in_flight()).sum()
    }
}

impl EndpointView {
    /// Whether it is in good standing: healthy, and not ejected.
    pub fn serves(&self) -> bool {
        self.health == EndpointHealth::Healthy && self.ejection.is_none()
    }

    /// Whether it serves when nothing healthy does.
    pub(crate) fn is_spare(&self) -> bool {
        match self.health {
            EndpointHealth::Unknown => true,
            EndpointHealth::Healthy => self.ejection.is_some(),
            EndpointHealth::Unhealthy => false,
        }
    }

    pub(crate) fn standing(&self) -> Standing {
        Standing::of(self.health, self.ejection.as_ref())
    }
}

impl ServiceView {
    /// Names the service in session tokens, on every edge and after every reload.
    pub fn identity(&self) -> u32 {
        self.identity
    }

    /// The service's endpoints in a region.
    pub fn pool(&self, region: RegionIndex) -> Option<&Pool> {
        self.pools.get(usize::from(region.0)).and_then(Option::as_ref)
    }

    /// The endpoint at `index`.
    pub fn endpoint(&self, index: EndpointIndex) -> &EndpointView {
        &self.endpoints[index.0 as usize]
    }
    /// Counts a write in that was decided by this table. `None`: its primary is not in force any more; decide again with
    /// the present table.
    pub fn enter_write(&self) -> Option<WriteGuard> {
        self.writes.enter(self.primacy.epoch, self.term)
    }

    /// Whether every endpoint of a region that a request may be sent to has reached a position of the epoch in force.
    /// Nothing known counts as not reached.
    pub fn reached(&self, region: RegionIndex, position: u64) -> bool {
        let Some(pool) = self.pool(region) else { return false };
        // In panic the unhealthy ones are asked as well. Each set by itself: one of no weight serves where there is no other.
        let panic = (pool.healthy_fraction < PANIC_BELOW).then_some(&pool.all);
        let sets = [&pool.ready, &pool.spare].into_iter().chain(panic);
        let mut asked =
            sets.flat_map(PickSet::endpoints).map(|index| self.endpoint(index)).peekable();
        asked.peek().is_some()
            && asked.all(|e| e.position.get().is_some_and(|known| known >= position))
    }

    /// Whether a region is the primary, settled.
    pub fn is_primary(&self, region: RegionIndex) -> bool {
        self.primary.contains(region)
    }

    /// Whether the lag that an endpoint there says counts: not that of one that lives in another epoch, and not that of
    /// one which believes that it is the primary.
    pub fn hears_lag(&self, region: RegionIndex, claim: &Claim) -> bool {
        !self.is_primary(region)
            && claim.role != Some(Role::Primary)
            && claim.epoch.is_none_or(|epoch| epoch == self.primacy.epoch)
    }

    /// The highest position that the primary is known to have; `None`: unknown, or nobody is the primary.
    pub fn primary_position(&self) -> Option<u64> {
        let primary = |e: &&EndpointView| self.is_primary(e.region);
        self.endpoints.iter().filter(primary).filter_map(|e| e.position.get()).max()
    }

    /// The lowest known position in a region, of endpoints that are not out; `None`: one of them is not known.
    pub fn position_of(&self, region: RegionIndex) -> Option<u64> {
        let asked = |e: &&EndpointView| {
            e.region == region && !e.drain.value && e.health != EndpointHealth::Unhealthy
        };
        let known = self.endpoints.iter().filter(asked).map(|e| e.position.get());
        known.min().flatten()
    }

    /// How far a region's position is behind the primary's; `None`: unknown.
    pub fn behind(&self, region: RegionIndex) -> Option<u64> {
        Some(self.primary_position()?.saturating_sub(self.position_of(region)?))
    }
}
