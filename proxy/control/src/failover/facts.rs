//! What a table says, as the guards look at it.

use std::time::Duration;

use meridian_config::{FailoverMode, RegionIndex, ReplicationSource};
use meridian_routing::{
    EndpointHealth, EndpointView, Micros, RoutingTable, ServiceView, file_primary,
};

use super::OperationKind;
use super::guards::{Bounds, Facts, RegionFacts};
use super::hook::Hook;
use super::watch::Memory;

pub(super) fn of(
    table: &RoutingTable,
    service: &ServiceView,
    now: Micros,
    under_way: Option<OperationKind>,
    memory: Option<&Memory>,
) -> Facts {
    let settings = &service.settings.failover;
    let id = |region: RegionIndex| table.region(region).settings.id.clone();
    let regions = indices(table).map(|index| region(table, service, index, now, memory));
    let hook = Hook { command: settings.hook.clone(), limit: settings.hook_timeout };
    Facts {
        state: service.primacy.state,
        primary: service.primacy.region.map(id),
        home: file_primary(&table.config.regions).map(id),
        regions: regions.collect(),
        under_way,
        changed: memory.and_then(|memory| memory.changed).map(|at| now.since(at)),
        awaits_report: settings.mode != FailoverMode::Manual,
        hears_reports: service.settings.replication.source != ReplicationSource::None,
        broken_hook: hook.broken(),
        bounds: Bounds {
            max_lag: settings.max_lag,
            cooldown: settings.cooldown,
            failback_lag: settings.failback_max_lag,
            failback_after: settings.failback_after,
        },
    }
}

pub(super) fn indices(table: &RoutingTable) -> impl Iterator<Item = RegionIndex> + use<> {
    (0..table.regions.len()).filter_map(|i| u8::try_from(i).ok()).map(RegionIndex)
}

fn region(
    table: &RoutingTable,
    service: &ServiceView,
    index: RegionIndex,
    now: Micros,
    memory: Option<&Memory>,
) -> RegionFacts {
    let settings = &table.region(index).settings;
    let here = || service.endpoints.iter().filter(|endpoint| endpoint.region == index);
    let drained = table.region(index).drain.value
        || (here().count() > 0 && here().all(|endpoint| endpoint.drain.value));
    let remembered = memory.and_then(|memory| memory.lag_at_loss(&settings.id));
    let lag = staleness(service, index, now).into_iter().chain(remembered).min();
    let known = service.primacy.region.and_then(|primary| position(service, primary));
    RegionFacts {
        id: settings.id.clone(),
        order: settings.failover_order,
        endpoints: here().count(),
        serving: here().filter(|endpoint| endpoint.serves() && !endpoint.drain.value).count(),
        drained,
        lag,
        caught_up: known.is_some_and(|position| service.reached(index, position)),
        well_for: memory.and_then(|memory| memory.well_since(&settings.id)).map(|at| now.since(at)),
    }
}

/// Lag and age of a sample that counts.
pub(super) fn staleness(
    service: &ServiceView,
    index: RegionIndex,
    now: Micros,
) -> Option<Duration> {
    let (lag, age) = service.pool(index)?.load.0.lag(now)?;
    (age <= service.settings.replication.sample_max_age).then(|| lag + age)
}

/// What the primary has for certain, if all of its endpoints that tell positions, and are not out, were asked after `at`.
pub(super) fn position_after(service: &ServiceView, at: Micros) -> Option<u64> {
    let primary = service.primacy.region?;
    let asked = telling(service, primary).all(|endpoint| endpoint.position.is_asked_after(at));
    asked.then(|| position(service, primary)).flatten()
}

/// Whether the primary's endpoints say how far it has come.
pub(super) fn tells_position(service: &ServiceView) -> bool {
    let primary = service.primacy.region;
    primary.is_some_and(|primary| telling(service, primary).next().is_some())
}

fn telling(service: &ServiceView, index: RegionIndex) -> impl Iterator<Item = &EndpointView> {
    let here = service.endpoints.iter().filter(move |endpoint| endpoint.region == index);
    here.filter(|e| e.position.get().is_some() && e.health != EndpointHealth::Unhealthy)
}

/// The furthest that an endpoint of a region has come.
pub(super) fn position(service: &ServiceView, index: RegionIndex) -> Option<u64> {
    let here = service.endpoints.iter().filter(|endpoint| endpoint.region == index);
    here.filter_map(|endpoint| endpoint.position.get()).max()
}
