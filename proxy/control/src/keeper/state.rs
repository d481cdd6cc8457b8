//! The keeper's pure core: three layers, one table.
//!
//! Promises: [`KeeperState::apply`] changes the layers and says what it did, or rejects the event and changes
//! nothing; [`KeeperState::commit`] makes at most one table, its generation one above the last. Refuses to know:
//! clocks, tasks, files. A simulation drives it.

mod passive;
mod primacy;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use meridian_config::{Config, EndpointAddress, EndpointKey, HealthKind, RegionId, Service};
use meridian_routing::{
    Desired, EndpointHealth, EndpointObserved, HotRegistry, LatencyOrder, Micros, Observed,
    Overrides, RoutingTable, Target, build, clearly_apart,
};

use super::ejections::{Ejections, Place};
use super::event::{Event, Notice, ProbeReport, Rejection};
use super::overrides;
use super::primacies::Primacies;
use crate::health::ProbeFingerprint;

/// A round trip that was not confirmed for so long counts only while there is no fresher one.
const FRESH_ROUND_TRIP: Duration = Duration::from_secs(60);
/// Rounds of [`LatencyOrder`] are at least so far apart.
const LATENCY_ROUND: Duration = Duration::from_millis(900);

/// Desired, override and observed, and the table made of them.
#[derive(Debug)]
pub struct KeeperState {
    desired: Desired,
    overrides: Overrides,
    observed: Observed,
    hot: HotRegistry,
    latency: LatencyOrder,
    latency_round: Option<Micros>,
    probes: HashMap<EndpointKey, ProbeFingerprint>,
    round_trips: HashMap<EndpointKey, (Duration, Micros)>,
    resolved: HashMap<Arc<str>, Arc<[IpAddr]>>,
    unprobed: HashSet<EndpointKey>,
    claims: primacy::Claims,
    relearning: primacy::Relearning,
    ejections: Ejections,
    /// When the last event came.
    now: Micros,
    /// Built last; not yet published if its generation is above that of `published`.
    built: Arc<RoutingTable>,
    published: Arc<RoutingTable>,
    dirty: bool,
}

impl KeeperState {
    /// Builds generation 1 from a configuration and the overrides of an earlier process, as far as they still hold.
    ///
    /// # Errors
    /// [`Rejection::Routes`].
    pub fn new(
        config: Arc<Config>,
        restored: Overrides,
        unix_ms: u64,
    ) -> Result<(Self, Vec<Notice>), Rejection> {
        Self::restored(config, restored, &Primacies::default(), unix_ms)
    }

    /// The same with what an earlier process knew of primaries.
    ///
    /// # Errors
    /// [`Rejection::Routes`].
    pub fn restored(
        config: Arc<Config>,
        mut restored: Overrides,
        primacies: &Primacies,
        unix_ms: u64,
    ) -> Result<(Self, Vec<Notice>), Rejection> {
        let mut notices = overrides::expire(&mut restored, unix_ms);
        let (overrides, dropped) = overrides::still_valid(&restored, &config);
        notices.extend(dropped);
        let mut hot = HotRegistry::default();
        let file_drains = file_drains(&config, &BTreeMap::new(), unix_ms);
        let mut observed = Observed { file_drains, unix_ms, ..Observed::default() };
        primacy::restore(&config, primacies, &mut observed, unix_ms);
        let relearning = primacy::still_forgotten(&config, &observed);
        let desired =
            Desired::new(config.clone()).map_err(|error| Rejection::Routes(error.to_string()))?;
        let table = Arc::new(build(&desired, &overrides, &observed, None, &mut hot, 1));
        table.set_gates(Micros(0));
        let probes = wanted_probes(&config);
        let state = Self {
            unprobed: probes.keys().cloned().collect(),
            probes,
            desired,
            overrides,
            observed,
            hot,
            latency: LatencyOrder::default(),
            latency_round: None,
            round_trips: HashMap::new(),
            resolved: HashMap::new(),
            claims: primacy::Claims::new(),
            relearning,
            ejections: Ejections::default(),
            now: Micros(0),
            built: table.clone(),
            published: table,
            dirty: false,
        };
        Ok((state, notices))
    }

    /// The desired layer.
    pub fn desired(&self) -> &Arc<Config> {
        &self.desired.config
    }

    /// The operator's layer.
    pub fn overrides(&self) -> &Overrides {
        &self.overrides
    }

    /// The observed layer.
    pub fn observed(&self) -> &Observed {
        &self.observed
    }

    /// The table of the last commit.
    pub fn table(&self) -> &Arc<RoutingTable> {
        &self.published
    }

    /// Whether every endpoint that is probed has had a verdict.
    pub fn first_round_done(&self) -> bool {
        self.unprobed.is_empty()
    }

    /// When the next override expires, unix milliseconds.
    pub fn next_expiry(&self) -> Option<u64> {
        self.overrides.values().filter_map(|value| value.expires_unix_ms).min()
    }

    /// Applies one event at `now`, `unix_ms` on the wall clock.
    ///
    /// # Errors
    /// A [`Rejection`]; nothing has changed then.
    pub fn apply(
        &mut self,
        event: Event,
        now: Micros,
        unix_ms: u64,
    ) -> Result<Vec<Notice>, Rejection> {
        self.now = now;
        self.observed.unix_ms = unix_ms;
        match event {
            Event::Reload { desired, actor, digest } => {
                let mut notices = self.reload(desired)?;
                notices.push(Notice::Reloaded { actor, digest });
                Ok(notices)
            }
            Event::Probe(report) => Ok(self.probe(report, now)),
            Event::Outlier { key, finding } => Ok(self.outlier(&key, finding, now)),
            Event::Resolved { name, addresses } => Ok(self.resolve(name, addresses)),
            Event::Claim { key, claim, asked } => Ok(self.claim(&key, claim, asked, unix_ms)),
            Event::Inherit(known) => Ok(self.inherit(&known, unix_ms)),
            Event::Forget(order) => self.forget(order, now, unix_ms),
            Event::Promote(order) => self.promote(order, unix_ms),
            Event::Move(order) => self.move_primary(order, unix_ms),
            Event::Set(request) => {
                let (key, value) = overrides::make(&self.desired.config, request, unix_ms)?;
                self.overrides.insert(key.clone(), value.clone());
                self.dirty = true;
                Ok(vec![Notice::OverrideSet { key, value }])
            }
            Event::Clear { key, actor } => {
                overrides::known_value(&self.desired.config, &key.target, key.kind)?;
                if self.overrides.remove(&key).is_none() {
                    return Ok(Vec::new());
                }
                self.dirty = true;
                Ok(vec![Notice::OverrideCleared { key, actor }])
            }
            Event::Tick => Ok(self.tick(now, unix_ms)),
        }
    }

    /// Makes the next table if anything has changed since the last one.
    pub fn commit(&mut self) -> Option<Arc<RoutingTable>> {
        if self.dirty {
            self.build();
        }
        if self.built.generation == self.published.generation {
            return None;
        }
        self.built.set_gates(self.now);
        self.published = self.built.clone();
        Some(self.published.clone())
    }

    fn build(&mut self) {
        let generation = self.published.generation + 1;
        let (overrides, observed) = (&self.overrides, &self.observed);
        let previous = Some(&*self.built);
        let table = build(&self.desired, overrides, observed, previous, &mut self.hot, generation);
        self.built = Arc::new(table);
        self.dirty = false;
    }

    fn reload(&mut self, desired: Desired) -> Result<Vec<Notice>, Rejection> {
        let config = desired.config.clone();
        let fixed = self.desired.config.static_changes(&config);
        if !fixed.is_empty() {
            return Err(Rejection::Static(fixed));
        }
        let (kept, mut notices) = overrides::still_valid(&self.overrides, &config);
        self.overrides = kept;
        let probes = wanted_probes(&config);
        self.observe_config(&config, &probes);
        let (known, unix_ms) = (&self.observed.file_drains, self.observed.unix_ms);
        self.observed.file_drains = file_drains(&config, known, unix_ms);
        let before = std::mem::replace(&mut self.desired, desired);
        self.build();
        self.latency.retain(|region| config.regions.iter().any(|r| r.id == *region));
        self.round_trips.retain(|key, _| probes.contains_key(key));
        self.unprobed.retain(|key| probes.contains_key(key));
        self.ejections.retain(|key| Place::find(&self.built, key).is_some());
        let wanted: HashSet<_> = names(&config).map(|(_, name, _)| name).collect();
        self.resolved.retain(|name, _| wanted.contains(name));
        self.probes = probes;
        notices.extend(self.refile_primacies(&before.config, unix_ms));
        Ok(notices)
    }

    /// Keeps what is still true of `config` in the observed layer. Health survives unless the probe asks another
    /// question now, what traffic said survives in any case.
    fn observe_config(&mut self, config: &Config, probes: &HashMap<EndpointKey, ProbeFingerprint>) {
        let mut before = std::mem::take(&mut self.observed.endpoints);
        for key in config.services.iter().flat_map(|service| keys(config, service)) {
            let Some(mut seen) = before.remove(&key) else { continue };
            let same = match (probes.get(&key), self.probes.get(&key)) {
                (Some(now), Some(old)) => old.same_question(*now),
                _ => false,
            };
            if !same {
                seen.health = EndpointHealth::Unknown;
            }
            seen.addresses = Arc::from([]);
            self.observed.endpoints.insert(key, seen);
        }
        let resolved: Vec<_> = names(config)
            .filter_map(|(key, name, port)| {
                Some((key, socket_addresses(self.resolved.get(name)?, port)))
            })
            .collect();
        for (key, addresses) in resolved {
            self.seen(&key).addresses = addresses;
        }
        let known = |region: &RegionId| config.regions.iter().any(|r| r.id == *region);
        self.observed.round_trips.retain(|region, _| known(region));
        self.observed.smoothed.retain(|region, _| known(region));
    }

    fn seen(&mut self, key: &EndpointKey) -> &mut EndpointObserved {
        self.observed.endpoints.entry(key.clone()).or_default()
    }

    fn probe(&mut self, report: ProbeReport, now: Micros) -> Vec<Notice> {
        if self.probes.get(&report.key) != Some(&report.fingerprint) {
            return Vec::new();
        }
        // One passed probe is no verdict: ready before that, the edge would send everything to whichever region
        // gets its second one first.
        if report.health != EndpointHealth::Unknown {
            self.unprobed.remove(&report.key);
        }
        if let Some(round_trip) = report.round_trip {
            self.round_trips.insert(report.key.clone(), (round_trip, now));
        }
        let passed = report.cause.is_none();
        let changed = self.health_is(&report, now);
        let trial = self.try_if_due(&report.key, true, passed, now);
        changed.into_iter().chain(trial).collect()
    }

    fn health_is(&mut self, report: &ProbeReport, now: Micros) -> Option<Notice> {
        let seen = self.seen(&report.key);
        let (from, to) = (seen.health, report.health);
        if from == to {
            return None;
        }
        seen.health = to;
        if from == EndpointHealth::Unhealthy && to == EndpointHealth::Healthy {
            seen.recovered_at = Some(now);
        }
        if let Some(place) = Place::find(&self.built, &report.key) {
            match (from, to) {
                (_, EndpointHealth::Unhealthy) => place.view.load.went_out(),
                (EndpointHealth::Unhealthy, _) => place.view.load.recovered(now),
                _ => {}
            }
        }
        self.dirty = true;
        Some(Notice::Health { key: report.key.clone(), from, to, cause: report.cause.clone() })
    }

    fn resolve(&mut self, name: Arc<str>, addresses: Arc<[IpAddr]>) -> Vec<Notice> {
        let config = self.desired.config.clone();
        let endpoints: Vec<_> = names(&config).filter(|(_, n, _)| **n == name).collect();
        let same = self.resolved.get(&name) == Some(&addresses);
        if endpoints.is_empty() || addresses.is_empty() || same {
            return Vec::new();
        }
        for (key, _, port) in endpoints {
            self.seen(&key).addresses = socket_addresses(&addresses, port);
        }
        self.resolved.insert(name.clone(), addresses.clone());
        self.dirty = true;
        vec![Notice::Resolved { name, addresses }]
    }

    fn tick(&mut self, now: Micros, unix_ms: u64) -> Vec<Notice> {
        let mut notices = overrides::expire(&mut self.overrides, unix_ms);
        // The table let sessions go where a drain's grace is over.
        let ended = self.built.next_grace_end.is_some_and(|end| end <= unix_ms);
        self.dirty |= !notices.is_empty() || ended;
        notices.extend(self.begin_trials(now));
        notices.extend(self.relearn(now, unix_ms));
        if self.latency_round.is_some_and(|last| now.since(last) < LATENCY_ROUND) {
            return notices;
        }
        self.latency_round = Some(now);
        notices.extend(self.judge_ratios(now));
        let measured = self.region_round_trips(now);
        self.follow_round_trips(&measured);
        if self.latency.observe(&measured, now) {
            self.observed.round_trips = self.latency.in_force().clone();
            self.dirty = true;
            notices.push(Notice::RoundTrips);
        }
        notices
    }

    /// Shows what is measured once it has moved far enough from what is shown.
    fn follow_round_trips(&mut self, measured: &HashMap<RegionId, u32>) {
        for (region, value) in measured {
            let shown = self.observed.smoothed.get(region);
            if shown.is_none_or(|shown| clearly_apart(*shown, *value)) {
                self.observed.smoothed.insert(region.clone(), *value);
                self.dirty = true;
            }
        }
    }

    /// Smoothed round trips per region in microseconds: the least of its endpoints', since an application that is
    /// slow at one of them says nothing of the network.
    fn region_round_trips(&self, now: Micros) -> HashMap<RegionId, u32> {
        let mut best: HashMap<RegionId, (bool, u32)> = HashMap::new();
        for (key, (round_trip, at)) in &self.round_trips {
            let us = u32::try_from(round_trip.as_micros()).unwrap_or(u32::MAX);
            let candidate = (now.since(*at) > FRESH_ROUND_TRIP, us);
            let held = best.entry(key.region.clone()).or_insert(candidate);
            *held = (*held).min(candidate);
        }
        best.into_iter().map(|(region, (_, us))| (region, us)).collect()
    }
}

/// Since when the file drains what it drains: as known before, else from now on.
fn file_drains(
    config: &Config,
    known: &BTreeMap<Target, u64>,
    unix_ms: u64,
) -> BTreeMap<Target, u64> {
    let regions = config.regions.iter().filter(|region| region.drain);
    let regions = regions.map(|region| Target::Region(region.id.to_string()));
    let endpoints = config.services.iter().flat_map(|service| {
        let drained = service.endpoints.iter().filter(|endpoint| endpoint.drain);
        drained.map(|endpoint| Target::Endpoint {
            service: service.name.to_string(),
            address: endpoint.address.to_string(),
        })
    });
    let since = |target: Target| {
        let since = known.get(&target).copied().unwrap_or(unix_ms);
        (target, since)
    };
    regions.chain(endpoints).map(since).collect()
}

/// The probes a configuration asks for.
fn wanted_probes(config: &Config) -> HashMap<EndpointKey, ProbeFingerprint> {
    let probed = config.services.iter().filter(|s| s.health.kind != HealthKind::None);
    probed
        .flat_map(|service| {
            let fingerprint = ProbeFingerprint::of(service);
            keys(config, service).map(move |key| (key, fingerprint))
        })
        .collect()
}

/// Identities of a service's endpoints, in file order.
pub(crate) fn keys(config: &Config, service: &Service) -> impl Iterator<Item = EndpointKey> {
    service.endpoints.iter().map(|endpoint| EndpointKey {
        service: service.name.clone(),
        region: config.regions[usize::from(endpoint.region.0)].id.clone(),
        address: endpoint.address.clone(),
    })
}

/// The endpoints that are given by name, with the name and the port.
pub(crate) fn names(config: &Config) -> impl Iterator<Item = (EndpointKey, &Arc<str>, u16)> {
    config.services.iter().flat_map(move |service| {
        let endpoints = service.endpoints.iter().zip(keys(config, service));
        endpoints.filter_map(|(endpoint, key)| match &endpoint.address {
            EndpointAddress::Name(name, port) => Some((key, name, *port)),
            EndpointAddress::Ip(_) => None,
        })
    })
}

fn socket_addresses(addresses: &[IpAddr], port: u16) -> Arc<[SocketAddr]> {
    addresses.iter().map(|address| SocketAddr::new(*address, port)).collect()
}
