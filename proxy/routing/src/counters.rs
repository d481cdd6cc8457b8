//! What is counted per route and region, as plain atomics that the exporter reads.
//!
//! Kept outside the table and carried from table to table; a removed route's counters go with it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use foldhash::{HashMap, HashSet};
use meridian_config::{
    Config, EndpointKey, MAX_REGIONS, RegionId, RegionIndex, RouteName, ServiceName,
};

use crate::adaptive::AdaptiveLimit;
use crate::affinity::AffinityOutcome;
use crate::classify::AccessClass;
use crate::compression::CompressionCounters;
use crate::decide::Filter;
use crate::hedge::{Hedges, UsualTime};
use crate::labelled::labelled;
use crate::load::{EndpointLoad, ServiceRegionLoad};
use crate::parking::Park;
use crate::primacy::{Inquiry, KnownPosition, LastClaim, Term, WriteGate};
use crate::region::RegionReason;
use crate::retry::{GiveUp, RetryBudget, RetryReason};
use crate::session::{SessionFloors, SessionRead, TokenFault};
use crate::time::Micros;
use crate::tls_counters::TlsCounters;

/// Upper bounds of the duration histograms, in seconds; one more bucket catches the rest.
pub const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// The same in microseconds.
const BUCKETS_US: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 10_000_000, 60_000_000,
];

/// A duration histogram with [`BUCKETS`].
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [AtomicU64; 15],
    sum_us: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, took: Duration) {
        let us = Micros::after_start(took).0;
        let bucket = BUCKETS_US.iter().position(|bound| us <= *bound).unwrap_or(BUCKETS_US.len());
        self.counts[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }

    /// Count per bucket, not cumulative, the last one unbounded; and the sum in seconds.
    pub fn snapshot(&self) -> ([u64; 15], f64) {
        (self.counts.each_ref().map(|c| c.load(Relaxed)), self.sum_us.load(Relaxed) as f64 / 1e6)
    }
}

/// The class of a status code: `1xx` to `5xx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeClass(u8);

impl CodeClass {
    /// All five.
    pub const ALL: [Self; 5] = [Self(0), Self(1), Self(2), Self(3), Self(4)];

    /// Of a status code; anything outside 100 to 599 counts as `5xx`.
    pub fn of(status: u16) -> Self {
        match status {
            100..=599 => Self((status / 100 - 1) as u8),
            _ => Self(4),
        }
    }

    /// `1xx` to `5xx`.
    pub fn label(self) -> &'static str {
        ["1xx", "2xx", "3xx", "4xx", "5xx"][usize::from(self.0.min(4))]
    }
}

/// Counts of one route in one region.
#[derive(Debug, Default)]
pub struct RegionCells {
    requests: [[AtomicU64; 5]; 3],
    decisions: [AtomicU64; RegionReason::COUNT],
    /// Whole requests, first byte in to last byte out.
    pub duration: Histogram,
    /// The usual time to the first byte, on routes that hedge.
    pub usual: UsualTime,
}

impl RegionCells {
    /// Counts a finished request.
    pub fn finished(&self, access: AccessClass, status: u16, took: Duration) {
        let class = usize::from(CodeClass::of(status).0);
        self.requests[access as usize][class].fetch_add(1, Relaxed);
        self.duration.observe(took);
    }

    /// Counts a decision for this region.
    pub fn decided(&self, reason: RegionReason) {
        self.decisions[reason as usize].fetch_add(1, Relaxed);
    }

    /// Finished requests so far.
    pub fn requests(&self, access: AccessClass, class: CodeClass) -> u64 {
        self.requests[access as usize][usize::from(class.0)].load(Relaxed)
    }

    /// Decisions so far.
    pub fn decisions(&self, reason: RegionReason) -> u64 {
        self.decisions[reason as usize].load(Relaxed)
    }
}

/// Counts of one route. Cells of a region exist from its first request on.
#[derive(Debug)]
pub struct RouteCounters {
    cells: [OnceLock<Box<RegionCells>>; MAX_REGIONS + 1],
    refusals: [AtomicU64; Filter::COUNT],
    /// Requests that were sent twice because they were late.
    pub hedges: Hedges,
    in_flight: AtomicU32,
    affinity: [AtomicU64; AffinityOutcome::COUNT],
    session_reads: [AtomicU64; SessionRead::COUNT],
    token_faults: [AtomicU64; TokenFault::COUNT],
    /// Answers that were compressed.
    pub compression: CompressionCounters,
}

impl Default for RouteCounters {
    fn default() -> Self {
        Self {
            cells: [const { OnceLock::new() }; MAX_REGIONS + 1],
            refusals: Default::default(),
            hedges: Hedges::default(),
            in_flight: AtomicU32::new(0),
            affinity: Default::default(),
            session_reads: Default::default(),
            token_faults: Default::default(),
            compression: CompressionCounters::default(),
        }
    }
}

impl RouteCounters {
    /// The cells of a region; `None`: of requests that reached no region.
    pub fn cells(&self, region: Option<RegionIndex>) -> &RegionCells {
        let slot = region.map_or(MAX_REGIONS, |r| usize::from(r.0).min(MAX_REGIONS));
        self.cells[slot].get_or_init(Box::default)
    }

    /// Counts a request in unless `most` are in flight; only routes with a cap are counted.
    pub fn enter(&self, most: u32) -> bool {
        let entered = self.in_flight.fetch_add(1, Relaxed) < most;
        if !entered {
            self.leave();
        }
        entered
    }

    /// Takes it out again.
    pub fn leave(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    /// Counts a refusal.
    pub fn refused(&self, filter: Filter) {
        self.refusals[filter as usize].fetch_add(1, Relaxed);
    }

    /// Refusals so far.
    pub fn refusals(&self, filter: Filter) -> u64 {
        self.refusals[filter as usize].load(Relaxed)
    }

    /// Counts what became of a request's affinity.
    pub fn bound(&self, outcome: AffinityOutcome) {
        self.affinity[outcome as usize].fetch_add(1, Relaxed);
    }

    /// Requests so far whose affinity ended so.
    pub fn affinities(&self, outcome: AffinityOutcome) -> u64 {
        self.affinity[outcome as usize].load(Relaxed)
    }

    /// Counts a read with a session token by where it was sent.
    pub fn read_in_session(&self, read: SessionRead) {
        self.session_reads[read as usize].fetch_add(1, Relaxed);
    }

    /// Such reads so far.
    pub fn session_reads(&self, read: SessionRead) -> u64 {
        self.session_reads[read as usize].load(Relaxed)
    }

    /// Counts a session token with which something is not as it should be.
    pub fn token_fault(&self, fault: TokenFault) {
        self.token_faults[fault as usize].fetch_add(1, Relaxed);
    }

    /// Such tokens so far.
    pub fn token_faults(&self, fault: TokenFault) -> u64 {
        self.token_faults[fault as usize].load(Relaxed)
    }

    /// The cells that exist, with their region.
    pub fn filled(&self) -> impl Iterator<Item = (Option<RegionIndex>, &RegionCells)> {
        self.cells.iter().enumerate().filter_map(|(slot, cell)| {
            let region = (slot < MAX_REGIONS).then_some(RegionIndex(slot as u8));
            cell.get().map(|cells| (region, &**cells))
        })
    }
}

/// Counts of one service that do not belong to a region.
#[derive(Debug, Default)]
pub struct ServiceCounters {
    /// The service's budget of retries.
    pub budget: RetryBudget,
    /// Where requests wait for a primary.
    pub park: Park,
    retries: [AtomicU64; RetryReason::COUNT],
    suppressed: [AtomicU64; GiveUp::COUNT],
    handshakes: [AtomicU64; Handshake::COUNT],
}

labelled!(
    /// How TLS' handshake with an endpoint ended.
    Handshake {
        /// Hands were shaken, certificates shown.
        Full = "full",
        /// An earlier session was resumed.
        Resumed = "resumed",
        /// The endpoint's certificate is not good.
        Unverified = "unverified",
        /// It failed for another reason.
        Failed = "failed",
    }
);

impl ServiceCounters {
    /// Counts a further attempt.
    pub fn retried(&self, reason: RetryReason) {
        self.retries[reason as usize].fetch_add(1, Relaxed);
    }

    /// Counts a failure that was not tried again.
    pub fn suppressed(&self, reason: GiveUp) {
        self.suppressed[reason as usize].fetch_add(1, Relaxed);
    }

    /// Counts a handshake with an endpoint.
    pub fn shaken(&self, how: Handshake) {
        self.handshakes[how as usize].fetch_add(1, Relaxed);
    }

    /// Handshakes so far that ended so.
    pub fn handshakes(&self, how: Handshake) -> u64 {
        self.handshakes[how as usize].load(Relaxed)
    }

    /// Further attempts so far.
    pub fn retries(&self, reason: RetryReason) -> u64 {
        self.retries[reason as usize].load(Relaxed)
    }

    /// Suppressed ones so far.
    pub fn suppressions(&self, reason: GiveUp) -> u64 {
        self.suppressed[reason as usize].load(Relaxed)
    }
}

/// A service's gate, and who was the primary in the table that was built last.
#[derive(Debug, Default)]
struct Writes {
    gate: Arc<WriteGate>,
    term: Term,
    epoch: u64,
    primary: Option<RegionId>,
}

/// Everything hot, by name; owned by the one writer, read through the handles in the table.
#[derive(Debug, Default)]
pub struct HotRegistry {
    endpoints: HashMap<EndpointKey, Arc<EndpointLoad>>,
    limits: HashMap<EndpointKey, Arc<AdaptiveLimit>>,
    positions: HashMap<EndpointKey, Arc<KnownPosition>>,
    claims: HashMap<EndpointKey, Arc<LastClaim>>,
    inquiries: HashMap<EndpointKey, Arc<Inquiry>>,
    service_regions: HashMap<(ServiceName, RegionId), Arc<(ServiceRegionLoad, Histogram)>>,
    services: HashMap<ServiceName, Arc<ServiceCounters>>,
    turns: HashMap<ServiceName, Arc<ServiceRegionLoad>>,
    writes: HashMap<ServiceName, Writes>,
    routes: HashMap<RouteName, Arc<RouteCounters>>,
    floors: HashMap<ServiceName, Arc<SessionFloors>>,
    regions: Vec<RegionId>,
    unmatched: Arc<RouteCounters>,
}

impl HotRegistry {
    /// Forgets what `config` no longer names. Route counters count by region position, so they start anew when
    /// the list of regions changes.
    pub(crate) fn retain(&mut self, config: &Config) {
        let regions: Vec<_> = config.regions.iter().map(|r| r.id.clone()).collect();
        if self.regions != regions {
            self.routes.clear();
            self.regions = regions;
        }
        // Most changes leave the names of ten thousand routes as they are.
        let known = config.routes.iter().all(|route| self.routes.contains_key(&route.name));
        if !known || self.routes.len() != config.routes.len() {
            let routes: HashSet<_> = config.routes.iter().map(|r| &r.name).collect();
            self.routes.retain(|name, _| routes.contains(name));
        }
        let services: HashSet<_> = config.services.iter().map(|s| &s.name).collect();
        self.services.retain(|name, _| services.contains(name));
        self.turns.retain(|name, _| services.contains(name));
        self.floors.retain(|name, _| services.contains(name));
        self.writes.retain(|name, _| services.contains(name));
        let mut endpoints = HashSet::default();
        let mut pairs = HashSet::default();
        for service in &config.services {
            for endpoint in &service.endpoints {
                let region = config.regions[usize::from(endpoint.region.0)].id.clone();
                pairs.insert((service.name.clone(), region.clone()));
                let address = endpoint.address.clone();
                endpoints.insert(EndpointKey { service: service.name.clone(), region, address });
            }
        }
        self.endpoints.retain(|key, _| endpoints.contains(key));
        self.limits.retain(|key, _| endpoints.contains(key));
        self.positions.retain(|key, _| endpoints.contains(key));
        self.claims.retain(|key, _| endpoints.contains(key));
        self.inquiries.retain(|key, _| endpoints.contains(key));
        self.service_regions.retain(|key, _| pairs.contains(key));
    }

    pub(crate) fn endpoint(&mut self, key: &EndpointKey) -> Arc<EndpointLoad> {
        self.endpoints.entry(key.clone()).or_default().clone()
    }

    pub(crate) fn limit(&mut self, key: &EndpointKey) -> Arc<AdaptiveLimit> {
        self.limits.entry(key.clone()).or_default().clone()
    }

    /// Positions of an earlier epoch say nothing.
    pub(crate) fn position(&mut self, key: &EndpointKey, epoch: u64) -> Arc<KnownPosition> {
        let known = self.positions.get(key).filter(|known| known.epoch() == epoch).cloned();
        known.unwrap_or_else(|| {
            let unknown = Arc::new(KnownPosition::new(epoch));
            self.positions.insert(key.clone(), unknown.clone());
            unknown
        })
    }

    pub(crate) fn last_claim(&mut self, key: &EndpointKey) -> Arc<LastClaim> {
        self.claims.entry(key.clone()).or_default().clone()
    }

    pub(crate) fn inquiry(&mut self, key: &EndpointKey) -> Arc<Inquiry> {
        self.inquiries.entry(key.clone()).or_default().clone()
    }

    /// The gate of a service's writes, and the term of a primary: a new one if the last table had another.
    pub(crate) fn writes(
        &mut self,
        name: &ServiceName,
        epoch: u64,
        primary: Option<&RegionId>,
    ) -> (Arc<WriteGate>, Term) {
        let writes = self.writes.entry(name.clone()).or_default();
        if (writes.epoch, writes.primary.as_ref()) != (epoch, primary) {
            writes.term = writes.term.next();
            (writes.epoch, writes.primary) = (epoch, primary.cloned());
        }
        (writes.gate.clone(), writes.term)
    }

    pub(crate) fn service_region(
        &mut self,
        service: &ServiceName,
        region: &RegionId,
    ) -> Arc<(ServiceRegionLoad, Histogram)> {
        self.service_regions.entry((service.clone(), region.clone())).or_default().clone()
    }

    /// Turns of a service's round robin over regions.
    pub(crate) fn turns(&mut self, name: &ServiceName) -> Arc<ServiceRegionLoad> {
        self.turns.entry(name.clone()).or_default().clone()
    }

    pub(crate) fn service(&mut self, name: &ServiceName) -> Arc<ServiceCounters> {
        self.services.entry(name.clone()).or_default().clone()
    }

    /// What sessions were given in an earlier epoch says nothing.
    pub(crate) fn floors(&mut self, name: &ServiceName, epoch: u64) -> Arc<SessionFloors> {
        let known = self.floors.get(name).filter(|known| known.epoch() == epoch).cloned();
        known.unwrap_or_else(|| {
            let fresh = Arc::new(SessionFloors::new(epoch));
            self.floors.insert(name.clone(), fresh.clone());
            fresh
        })
    }

    pub(crate) fn route(&mut self, name: &RouteName) -> Arc<RouteCounters> {
        self.routes.entry(name.clone()).or_default().clone()
    }

    pub(crate) fn unmatched(&self) -> Arc<RouteCounters> {
        self.unmatched.clone()
    }
}

/// Open client connections of one listener, by protocol.
#[derive(Debug, Default)]
pub struct EdgeCounters {
    /// HTTP/1.1
    pub http1: AtomicU64,
    /// HTTP/2
    pub http2: AtomicU64,
    /// Tunnels after an upgrade.
    pub upgraded: AtomicU64,
    /// Turned away since the process started: the edge had as many as it may.
    pub refused_full: AtomicU64,
    /// Connections turned away because memory was short.
    pub refused_memory: AtomicU64,
    /// The same: their client had.
    pub refused_client: AtomicU64,
    /// The same: they came to a listener of the PROXY protocol from a peer that is not trusted.
    pub refused_proxy_peer: AtomicU64,
    /// The same: they did not begin with a good PROXY header in time.
    pub refused_proxy_header: AtomicU64,
    /// Of a listener with TLS.
    pub tls: TlsCounters,
}
