//! Merges the three layers into a table. Operator beats health, health beats file.

use std::collections::HashMap;
use std::sync::Arc;

use meridian_config::{
    Balance, Config, EndpointKey, HealthKind, RegionId, RegionIndex, Route, Service,
};
use meridian_geoip::country_facts;

use crate::affinity::{EndpointIdentity, service_identity};
use crate::counters::HotRegistry;
use crate::desired::Desired;
use crate::endpoint::SLOW_START;
use crate::hashing::stable_hash;
use crate::latency::estimated_round_trip;
use crate::layers::{Change, ChangeKind, EndpointHealth, Observed, OverrideKey, Overrides, Target};
use crate::outlier::Standing;
use crate::pick_set::{Extra, Item, PickSet};
use crate::primacy::{Primacy, PrimacySource, named_by_file};
use crate::region::Subjects;
use crate::region_set::RegionSet;
use crate::session::SESSION_COOKIE;
use crate::table::{
    Drained, Effective, EndpointIndex, EndpointView, Pool, RankedRegion, RegionView, ResidencyRule,
    RouteRules, RoutingTable, ServiceView, Source, StaticPart,
};
use crate::time::Micros;

/// A region takes `min(1, OVERPROVISION x healthy fraction)` of its share.
const OVERPROVISION: f64 = 1.4;

/// Builds generation `generation`. What follows from the configuration alone is taken over from `previous` where
/// the configuration is the same.
pub fn build(
    desired: &Desired,
    overrides: &Overrides,
    observed: &Observed,
    previous: Option<&RoutingTable>,
    hot: &mut HotRegistry,
    generation: u64,
) -> RoutingTable {
    let config = &desired.config;
    let unchanged = previous.filter(|table| Arc::ptr_eq(&table.config, config));
    let static_part = match unchanged {
        Some(table) => table.static_part.clone(),
        None => {
            hot.retain(config);
            Arc::new(static_part(desired, hot))
        }
    };
    let regions: Vec<_> = (0..config.regions.len())
        .map(|i| region_view(config, overrides, observed, RegionIndex(i as u8)))
        .collect();
    let drained = indices(&regions, |region| region.drain.value);
    let limited = indices(&regions, |region| region.settings.capacity.is_some());
    let services = config.services.iter();
    let mut services: Vec<_> =
        services.map(|s| service_view(config, s, overrides, observed, &regions, hot)).collect();
    for (service, cookie) in services.iter_mut().zip(&static_part.session_cookies) {
        let floors = || hot.floors(&service.settings.name, service.primacy.epoch);
        service.floors = cookie.is_some().then(floors);
    }
    let next_grace_end = next_grace_end(&services);
    let mut by_latency: Vec<_> = regions
        .iter()
        .enumerate()
        .map(|(i, r)| (RegionIndex(i as u8), r.round_trip_us.unwrap_or(u32::MAX)))
        .collect();
    by_latency.sort_by_key(|(index, rtt)| (*rtt, *index));
    let ranked = regions.iter().map(ranked_region).collect();
    RoutingTable {
        generation,
        config: config.clone(),
        regions,
        services,
        unmatched: hot.unmatched(),
        static_part,
        by_latency,
        ranked,
        drained,
        limited,
        next_grace_end,
    }
}

fn static_part(desired: &Desired, hot: &mut HotRegistry) -> StaticPart {
    let config = &*desired.config;
    let session_cookies = session_cookies(config);
    let keeps = |route: &Route| {
        route.read_your_writes && session_cookies[route.service.0 as usize].is_some()
    };
    let rules = |route: &Arc<Route>| route_rules(config, route, keeps(route), hot);
    StaticPart {
        matcher: desired.matcher.clone(),
        rules: config.routes.iter().map(rules).collect(),
        keeps_sessions: session_cookies.iter().any(Option::is_some),
        session_cookies,
        wants_bodies: config.routes.iter().any(|route| route.graphql),
    }
}

/// By service: its cookie for sessions; each has its own, so that answers of two services do not take one another's away.
fn session_cookies(config: &Config) -> Vec<Option<Box<str>>> {
    let keep = config.keep_sessions();
    let alone = keep.iter().filter(|keeps| **keeps).count() == 1;
    let services = config.services.iter().zip(keep);
    let name = |(service, keeps): (&Arc<Service>, bool)| {
        keeps.then(|| match alone {
            true => SESSION_COOKIE.into(),
            false => format!("{SESSION_COOKIE}-{}", service.name).into(),
        })
    };
    services.map(name).collect()
}

fn route_rules(
    config: &Config,
    route: &Route,
    sessions: bool,
    hot: &mut HotRegistry,
) -> RouteRules {
    let capable = match &route.capability {
        None => RegionSet::first(config.regions.len()),
        Some(wanted) => indices(&config.regions, |region| region.capabilities.contains(wanted)),
    };
    let residency = route.residency.as_ref().map(|rule| ResidencyRule {
        allowed: rule.regions.iter().copied().collect(),
        subjects: Subjects::of(rule),
        refuse: rule.refuse,
    });
    RouteRules {
        service: route.service,
        policy: route.policy,
        access: route.access,
        max_staleness: route.max_staleness,
        capable,
        residency,
        affinity: route.affinity.is_some(),
        sessions,
        counters: hot.route(&route.name),
    }
}

fn indices<T>(items: &[T], wanted: impl Fn(&T) -> bool) -> RegionSet {
    let hits = items.iter().enumerate().filter(|(_, item)| wanted(item));
    hits.map(|(i, _)| RegionIndex(i as u8)).collect()
}

fn region_view(
    config: &Config,
    overrides: &Overrides,
    observed: &Observed,
    index: RegionIndex,
) -> RegionView {
    let settings = config.regions[usize::from(index.0)].clone();
    let target = Target::Region(settings.id.to_string());
    let measured = observed.round_trips.get(&settings.id).copied();
    let estimate = || {
        let here = config.edge.coordinates?;
        Some(estimated_round_trip(here.distance_km(&settings.coordinates?)))
    };
    RegionView {
        continent: settings.country.and_then(country_facts).map(|facts| facts.continent),
        drain: drain(overrides, &target, settings.drain),
        drained: drained(overrides, observed, &target, settings.drain),
        weight: weight(overrides, &target, settings.weight),
        round_trip_us: measured.or_else(estimate),
        measured: measured.is_some(),
        smoothed_us: observed.smoothed.get(&settings.id).copied(),
        settings,
    }
}

fn ranked_region(view: &RegionView) -> RankedRegion {
    RankedRegion {
        weight: view.weight.value,
        country: view.settings.country,
        continent: view.continent,
        coordinates: view.settings.coordinates,
        hash: stable_hash(view.settings.id.as_str().as_bytes()),
    }
}

fn drain(overrides: &Overrides, target: &Target, file: bool) -> Effective<bool> {
    match change(overrides, target, ChangeKind::Drain) {
        Some(Change::Drain(value)) => Effective { value, source: Source::Override },
        _ => Effective { value: file, source: Source::File },
    }
}

/// The drain in force, if there is one.
fn drained(
    overrides: &Overrides,
    observed: &Observed,
    target: &Target,
    file: bool,
) -> Option<Drained> {
    let key = || OverrideKey { target: target.clone(), kind: ChangeKind::Drain };
    let made = if overrides.is_empty() { None } else { overrides.get(&key()) };
    match made {
        Some(made) if made.change == Change::Drain(true) => {
            Some(Drained { since_unix_ms: made.created_unix_ms, grace_ms: made.session_grace_ms })
        }
        Some(_) => None,
        None => file.then(|| Drained {
            since_unix_ms: observed.file_drains.get(target).copied().unwrap_or(0),
            grace_ms: None,
        }),
    }
}

/// Until when sessions may still come, unix milliseconds; `None`: nothing is drained, or the grace is over.
fn sessions_until(drains: [Option<Drained>; 2], service: &Service, unix_ms: u64) -> Option<u64> {
    let own = u64::try_from(service.session_grace.as_millis()).unwrap_or(u64::MAX);
    let end = |drain: Drained| drain.since_unix_ms.saturating_add(drain.grace_ms.unwrap_or(own));
    drains.into_iter().flatten().map(end).min().filter(|end| *end > unix_ms)
}

fn next_grace_end(services: &[ServiceView]) -> Option<u64> {
    let endpoints = services.iter().flat_map(|service| &service.endpoints);
    endpoints.filter_map(|endpoint| endpoint.sessions_until_unix_ms).min()
}

fn weight(overrides: &Overrides, target: &Target, file: u32) -> Effective<u32> {
    match change(overrides, target, ChangeKind::Weight) {
        Some(Change::Weight(value)) => Effective { value, source: Source::Override },
        _ => Effective { value: file, source: Source::File },
    }
}

fn change(overrides: &Overrides, target: &Target, kind: ChangeKind) -> Option<Change> {
    if overrides.is_empty() {
        return None;
    }
    overrides.get(&OverrideKey { target: target.clone(), kind }).map(|found| found.change)
}

fn service_view(
    config: &Config,
    settings: &Arc<Service>,
    overrides: &Overrides,
    observed: &Observed,
    regions: &[RegionView],
    hot: &mut HotRegistry,
) -> ServiceView {
    let (primacy, primary) = primacy(config, settings, observed);
    let endpoints: Vec<_> = settings
        .endpoints
        .iter()
        .map(|endpoint| {
            let region = &regions[usize::from(endpoint.region.0)];
            endpoint_view(region, settings, endpoint, (overrides, observed), primacy.epoch, hot)
        })
        .collect();
    let mut members: HashMap<RegionIndex, Vec<EndpointIndex>> = HashMap::new();
    for (i, endpoint) in endpoints.iter().enumerate() {
        members.entry(endpoint.region).or_default().push(EndpointIndex(i as u32));
    }
    let pools: Vec<Option<Pool>> = (0..regions.len())
        .map(|i| {
            let members = members.get(&RegionIndex(i as u8))?;
            let load = hot.service_region(&settings.name, &regions[i].settings.id);
            Some(pool(settings, &endpoints, members, &regions[i], load))
        })
        .collect();
    let having =
        |test: &dyn Fn(&Pool) -> bool| indices(&pools, |pool| pool.as_ref().is_some_and(test));
    let present = having(&|_| true);
    let mut by_priority: Vec<_> = present.iter().collect();
    by_priority.sort_by_key(|index| (regions[usize::from(index.0)].settings.priority, *index));
    let named = primacy.region.map(|index| &regions[usize::from(index.0)].settings.id);
    let (writes, term) = hot.writes(&settings.name, primacy.epoch, named);
    ServiceView {
        settings: settings.clone(),
        present,
        primary,
        primacy,
        writes,
        term,
        drained: having(&|pool| pool.all.is_empty()),
        healthy: having(&|pool| !pool.ready.is_empty()),
        spare: having(&|pool| !pool.spare.is_empty()),
        trying: having(&|pool| !pool.trials.is_empty()),
        by_priority,
        shares: pools.iter().map(|pool| pool.as_ref().map_or(0.0, |pool| pool.share)).collect(),
        load: hot.turns(&settings.name),
        identity: service_identity(&settings.name),
        by_identity: by_identity(&endpoints),
        floors: None,
        counters: hot.service(&settings.name),
        endpoints,
        pools,
    }
}

/// What is known of a service's primary, and the regions that are one now.
fn primacy(config: &Config, service: &Service, observed: &Observed) -> (Primacy, RegionSet) {
    let by_file = named_by_file(&config.regions);
    let index = |id: RegionId| {
        let position = config.regions.iter().position(|region| region.id == id)?;
        Some(RegionIndex(position as u8))
    };
    let known = observed.primacy.get(&service.name).cloned();
    let primacy =
        known.map_or_else(|| Primacy::of_file(by_file.only_one(), 0), |record| record.map(index));
    let settled = primacy.region.filter(|_| primacy.is_settled());
    let several = primacy.epoch == 0 && primacy.source == PrimacySource::File && by_file.len() > 1;
    let primary = match settled {
        Some(region) => RegionSet::only(region),
        // Nothing writes there; what is read is as fresh in one as in another.
        None if several => by_file,
        None => RegionSet::EMPTY,
    };
    (primacy, primary)
}

fn by_identity(endpoints: &[EndpointView]) -> Vec<(u64, EndpointIndex)> {
    let identities = endpoints.iter().enumerate();
    let mut all: Vec<_> =
        identities.map(|(i, e)| (e.identity.endpoint, EndpointIndex(i as u32))).collect();
    all.sort_unstable();
    all
}

fn endpoint_view(
    region: &RegionView,
    service: &Service,
    endpoint: &meridian_config::Endpoint,
    (overrides, observed): (&Overrides, &Observed),
    epoch: u64,
    hot: &mut HotRegistry,
) -> EndpointView {
    let key = EndpointKey {
        service: service.name.clone(),
        region: region.settings.id.clone(),
        address: endpoint.address.clone(),
    };
    let target = Target::Endpoint {
        service: service.name.to_string(),
        address: endpoint.address.to_string(),
    };
    let seen = observed.endpoints.get(&key);
    let health = match &service.health.kind {
        HealthKind::None => EndpointHealth::Healthy,
        _ => seen.map_or(EndpointHealth::Unknown, |seen| seen.health),
    };
    let addresses = match &endpoint.address {
        meridian_config::EndpointAddress::Ip(address) => Arc::from([*address]),
        _ => seen.map_or_else(|| Arc::from([]), |seen| seen.addresses.clone()),
    };
    let drains = [drained(overrides, observed, &target, endpoint.drain), region.drained];
    EndpointView {
        identity: EndpointIdentity::of(&key),
        region: endpoint.region,
        addresses,
        weight: weight(overrides, &target, endpoint.weight),
        drain: drain(overrides, &target, endpoint.drain),
        sessions_until_unix_ms: sessions_until(drains, service, observed.unix_ms),
        health,
        ejection: seen.and_then(|seen| seen.ejection.clone()),
        recovered_at: seen.and_then(|seen| seen.recovered_at),
        load: hot.endpoint(&key),
        limit: hot.limit(&key),
        said: seen.and_then(|seen| seen.said),
        disbelieved: seen.and_then(|seen| seen.disbelieved),
        position: hot.position(&key, epoch),
        last_claim: hot.last_claim(&key),
        inquiry: hot.inquiry(&key),
        key,
    }
}

fn pool(
    service: &Service,
    endpoints: &[EndpointView],
    members: &[EndpointIndex],
    region: &RegionView,
    load: Arc<(crate::load::ServiceRegionLoad, crate::counters::Histogram)>,
) -> Pool {
    let extra = match service.balance {
        Balance::RoundRobin => Extra::Schedule,
        Balance::ConsistentHash(_) => Extra::Ring,
        _ => Extra::Nothing,
    };
    let view = |index: &EndpointIndex| &endpoints[index.0 as usize];
    let set = |wanted: &dyn Fn(&EndpointView) -> bool| {
        let chosen = members.iter().filter(|i| !view(i).drain.value && wanted(view(i)));
        let items: Vec<_> = chosen.map(|i| Item::new(*i, view(i))).collect();
        PickSet::new(&items, extra)
    };
    let weigh = |wanted: &dyn Fn(&EndpointView) -> bool| -> f64 {
        let judged = members.iter().map(view).filter(|e| !e.drain.value && wanted(e));
        // Not `sum`, which is -0.0 of nothing.
        judged.map(|e| f64::from(e.weight.value.max(1))).fold(0.0, |all, one| all + one)
    };
    let healthy = weigh(&EndpointView::serves);
    let judged = weigh(&|e| e.health != EndpointHealth::Unknown || e.ejection.is_some());
    let healthy_fraction = if judged == 0.0 { 1.0 } else { healthy / judged };
    let recoveries = members.iter().filter_map(|i| view(i).recovered_at);
    let all = set(&|_| true);
    let on_trial = |i: &EndpointIndex| view(i).standing() == Standing::Trial;
    let trials = all.endpoints().filter(on_trial).collect();
    Pool {
        warm_from: recoveries.max().map_or(Micros(0), |last| last.plus(SLOW_START)),
        ready: set(&EndpointView::serves),
        spare: set(&EndpointView::is_spare),
        trials,
        all,
        healthy_fraction,
        share: if healthy == 0.0 { 1.0 } else { (OVERPROVISION * healthy_fraction).min(1.0) },
        floor_us: region
            .smoothed_us
            .or(region.round_trip_us.filter(|_| region.measured))
            .unwrap_or(0) as f32,
        load,
    }
}
