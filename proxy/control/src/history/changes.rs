//! Which regions' states differ between two tables. Pure.

use std::collections::{BTreeMap, BTreeSet};

use meridian_config::{RegionId, RegionIndex, ServiceIndex, ServiceName};
use meridian_routing::{EndpointHealth, EndpointView, RoutingTable, ServiceView};

use super::event::{Affected, RegionState};

/// What can change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    /// Whether a region takes a service's requests.
    State(ServiceName, RegionId),
    /// The region that takes a service's writes.
    Primary(ServiceName),
    /// A region's weight.
    Weight(RegionId),
}

/// What it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    State(RegionState),
    Primary(Option<RegionId>),
    Weight(u32),
}

/// Everything that can change, as a table has it.
pub(super) type Picture = BTreeMap<Subject, Value>;

/// A subject that two pictures have differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) subject: Subject,
    pub(super) from: Value,
    pub(super) to: Value,
}

/// What the table says of every subject.
pub(super) fn picture(table: &RoutingTable) -> Picture {
    let mut picture = Picture::new();
    for region in &table.regions {
        let weight = Value::Weight(region.weight.value);
        picture.insert(Subject::Weight(region.settings.id.clone()), weight);
    }
    for (number, service) in table.services.iter().enumerate() {
        let name = &service.settings.name;
        for ((_, region), state) in regions(table).zip(states(table, service)) {
            if state != RegionState::Absent {
                let subject = Subject::State(name.clone(), region.clone());
                picture.insert(subject, Value::State(state));
            }
        }
        let index = ServiceIndex(u32::try_from(number).unwrap_or(u32::MAX));
        let primary = table.primary(index).map(|r| table.region(r).settings.id.clone());
        picture.insert(Subject::Primary(name.clone()), Value::Primary(primary));
    }
    picture
}

/// What differs. A weight or a primary that comes or goes with its region or service is no change of its own.
pub(super) fn changes(before: &Picture, after: &Picture) -> Vec<Change> {
    let subjects: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let absent = Value::State(RegionState::Absent);
    let change = |subject: &Subject| {
        let (from, to) = match (before.get(subject), after.get(subject)) {
            (Some(from), Some(to)) => (from, to),
            (None, Some(to @ Value::State(_))) => (&absent, to),
            (Some(from @ Value::State(_)), None) => (from, &absent),
            _ => return None,
        };
        let (from, to) = (from.clone(), to.clone());
        (from != to).then(|| Change { subject: subject.clone(), from, to })
    };
    subjects.into_iter().filter_map(change).collect()
}

/// Whether an endpoint takes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    In,
    Unknown,
    Out,
    Drained,
}

/// The one place that says what counts as out.
pub(super) fn standing(endpoint: &EndpointView) -> Standing {
    match endpoint.health {
        _ if endpoint.drain.value => Standing::Drained,
        _ if endpoint.ejection.is_some() => Standing::Out,
        EndpointHealth::Healthy => Standing::In,
        EndpointHealth::Unknown => Standing::Unknown,
        EndpointHealth::Unhealthy => Standing::Out,
    }
}

/// How a service is in every region, by index; absent where it has no endpoints.
pub(super) fn states(table: &RoutingTable, service: &ServiceView) -> Vec<RegionState> {
    let mut tallies = vec![(0_usize, 0_usize, 0_usize); table.regions.len()];
    for endpoint in &service.endpoints {
        let Some(tally) = tallies.get_mut(usize::from(endpoint.region.0)) else { continue };
        match standing(endpoint) {
            Standing::Out => tally.0 += 1,
            Standing::In => tally.1 += 1,
            Standing::Unknown => tally.2 += 1,
            Standing::Drained => {}
        }
    }
    let state = |((index, _), tally): ((RegionIndex, &RegionId), _)| match tally {
        _ if service.pool(index).is_none() => RegionState::Absent,
        _ if table.region(index).drain.value => RegionState::Drained,
        (0, 0, 0) => RegionState::Drained,
        (0, 0, _) => RegionState::Unknown,
        (0, ..) => RegionState::Healthy,
        (_, 0, 0) => RegionState::Down,
        _ => RegionState::Degraded,
    };
    regions(table).zip(tallies).map(state).collect()
}

/// A service's endpoints in a region.
pub(super) fn members(
    service: &ServiceView,
    region: RegionIndex,
) -> impl Iterator<Item = &EndpointView> {
    service.endpoints.iter().filter(move |endpoint| endpoint.region == region)
}

/// All regions.
pub(super) fn regions(table: &RoutingTable) -> impl Iterator<Item = (RegionIndex, &RegionId)> {
    let index = |number: usize| RegionIndex(u8::try_from(number).unwrap_or(u8::MAX));
    table.regions.iter().enumerate().map(move |(n, view)| (index(n), &view.settings.id))
}

pub(super) fn region_of(table: &RoutingTable, id: &RegionId) -> Option<RegionIndex> {
    regions(table).find(|(_, known)| *known == id).map(|(index, _)| index)
}

pub(super) fn service_of<'t>(
    table: &'t RoutingTable,
    name: &ServiceName,
) -> Option<&'t ServiceView> {
    table.services.iter().find(|service| service.settings.name == *name)
}

/// What a subject has cost so far: of a weight, all services in the region; of a primary, the service there.
pub(super) fn cost(table: &RoutingTable, subject: &Subject, value: &Value) -> Affected {
    let one = |service: &ServiceView, region: &RegionId| {
        let pool = region_of(table, region).and_then(|index| service.pool(index));
        pool.map_or_else(Affected::default, |pool| {
            let (load, durations) = &*pool.load;
            Affected {
                answered: durations.snapshot().0.iter().sum(),
                failed: load.setbacks.failed(),
                retried: load.setbacks.retried(),
                spilled: load.setbacks.spilled(),
                refused: load.setbacks.refused(),
            }
        })
    };
    let of = |name: &ServiceName, region: &RegionId| {
        service_of(table, name).map_or_else(Affected::default, |service| one(service, region))
    };
    match (subject, value) {
        (Subject::State(service, region), _) => of(service, region),
        (Subject::Primary(service), Value::Primary(Some(region))) => of(service, region),
        (Subject::Primary(_), _) => Affected::default(),
        (Subject::Weight(region), _) => {
            let all = table.services.iter().map(|service| one(service, region));
            all.fold(Affected::default(), Affected::plus)
        }
    }
}

/// The region that takes over what one does not take, seen from this edge: the next by priority where that is the
/// service's policy, else the one with the least round trip.
pub(super) fn stand_in(
    table: &RoutingTable,
    service: &ServiceView,
    gone: &RegionId,
) -> Option<RegionId> {
    let takes = |state: &RegionState| matches!(state, RegionState::Healthy | RegionState::Degraded);
    let by_priority = service.settings.policy == meridian_config::Policy::Priority;
    let rank = |index: RegionIndex| {
        let view = table.region(index);
        let key = if by_priority {
            view.settings.priority
        } else {
            view.present_round_trip_us().unwrap_or(u32::MAX)
        };
        (key, index)
    };
    let others = regions(table).zip(states(table, service));
    let others = others.filter(|((_, id), state)| *id != gone && takes(state));
    others.min_by_key(|((index, _), _)| rank(*index)).map(|((_, id), _)| id.clone())
}

impl Value {
    /// As events write it.
    pub(super) fn text(&self) -> String {
        match self {
            Self::State(state) => state.label().to_owned(),
            Self::Primary(region) => region.as_ref().map_or_else(String::new, ToString::to_string),
            Self::Weight(weight) => weight.to_string(),
        }
    }
}
