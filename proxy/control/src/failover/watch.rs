//! What the edge does by itself: runs the hook when the primary is lost (mode `hook`), and goes back to the file's primary
//! (`failback = "automatic"`).
//!
//! Promises: one attempt for each incident, and another only after a pause that doubles; nothing while the primary is
//! contested, or while this edge may be the one that is cut off. Refuses to know: how an operation is made.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use meridian_config::{Failback, FailoverMode, RegionId, ServiceName};
use meridian_routing::{
    Filter, Micros, PrimacySource, PrimacyState, RouteCounters, RoutingTable, ServiceView,
};

use super::{Failovers, NotBegun, OperationKind, Request, facts, guards};

/// How often it looks.
const LOOK: Duration = Duration::from_millis(200);
/// After a failed attempt; then twice as long each time.
const PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// What is remembered of a service between two looks.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Primary and epoch as last seen.
    seen: Option<(RegionId, u64)>,
    /// When they changed.
    pub(super) changed: Option<Micros>,
    /// Since when the primary is down, and how far behind each region was by then.
    down: Option<Down>,
    /// The lags of now, for when it goes down.
    lags: BTreeMap<RegionId, Duration>,
    well: BTreeMap<RegionId, Micros>,
    attempts: Attempts,
    refused: Refused,
}

/// So many samples of refusals, so far apart, are a minute.
const SAMPLES: usize = 6;
const APART: Duration = Duration::from_secs(10);

/// How many writes were refused, now and then.
#[derive(Debug, Default)]
struct Refused {
    /// Of the last minute, oldest first.
    samples: VecDeque<u64>,
    next: Micros,
}

impl Refused {
    fn look(&mut self, total: impl FnOnce() -> u64, now: Micros) {
        if now >= self.next {
            self.next = now.plus(APART);
            self.samples.push_back(total());
            if self.samples.len() > SAMPLES + 1 {
                self.samples.pop_front();
            }
        }
    }

    fn of_late(&self, total: u64) -> u64 {
        total.saturating_sub(self.samples.front().copied().unwrap_or(total))
    }
}

/// Requests of a service that were refused for want of a primary that takes them, since its routes are there.
fn refused(table: &RoutingTable, name: &ServiceName) -> u64 {
    let refusals =
        |route: &RouteCounters| FOR_WANT_OF_A_PRIMARY.map(|filter| route.refusals(filter));
    table.counters_of(name).flat_map(refusals).sum()
}

const FOR_WANT_OF_A_PRIMARY: [Filter; 6] = [
    Filter::Role,
    Filter::PrimaryUnknown,
    Filter::PrimaryContested,
    Filter::PrimaryMoved,
    Filter::ParkFull,
    Filter::ParkTime,
];

#[derive(Debug)]
struct Down {
    since: Micros,
    lags: BTreeMap<RegionId, Duration>,
    /// Where the candidates stood in the middle of the hold time, and when that was.
    middle: Option<BTreeMap<RegionId, u64>>,
}

/// Attempts of this edge in one incident.
#[derive(Debug, Default)]
struct Attempts {
    made: u32,
    not_before: Option<Micros>,
}

impl Memory {
    pub(super) fn lag_at_loss(&self, region: &RegionId) -> Option<Duration> {
        self.down.as_ref()?.lags.get(region).copied()
    }

    pub(super) fn well_since(&self, region: &RegionId) -> Option<Micros> {
        self.well.get(region).copied()
    }

    /// Takes what the table says now.
    fn look(&mut self, table: &RoutingTable, service: &ServiceView, now: Micros) {
        self.refused.look(|| refused(table, &service.settings.name), now);
        let primacy = &service.primacy;
        let id = |index| table.region(index).settings.id.clone();
        let primary = primacy.region.map(|region| (id(region), primacy.region_epoch));
        if self.seen != primary {
            if self.seen.is_some() && primary.is_some() {
                self.changed = Some(now);
            }
            self.seen = primary;
            (self.down, self.attempts) = (None, Attempts::default());
        }
        let lags = facts::indices(table)
            .filter_map(|index| Some((id(index), facts::staleness(service, index, now)?)));
        let lags: BTreeMap<_, _> = lags.collect();
        if is_down(table, service) {
            let before = &mut self.lags;
            let down = self.down.get_or_insert_with(|| Down {
                since: now,
                lags: std::mem::take(before),
                middle: None,
            });
            if down.middle.is_none() && now.since(down.since) >= service.settings.failover.hold / 2
            {
                down.middle = Some(positions(table, service));
            }
        } else {
            (self.down, self.lags) = (None, lags);
        }
        for index in facts::indices(table) {
            let mut here = service.endpoints.iter().filter(|e| e.region == index).peekable();
            let well = here.peek().is_some() && here.all(|e| e.serves());
            if well {
                self.well.entry(id(index)).or_insert(now);
            } else {
                self.well.remove(&id(index));
            }
        }
    }

    /// How long the primary has been down, once that is long enough for an attempt; and why one would be wrong now.
    fn is_due(&self, service: &ServiceView, now: Micros) -> Option<Duration> {
        let so_far = now.since(self.down.as_ref()?.since);
        let paused = self.attempts.not_before.is_some_and(|then| now < then);
        (so_far >= service.settings.failover.hold && !paused).then_some(so_far)
    }

    fn failed(&mut self, now: Micros) {
        let pause = PAUSE.saturating_mul(1 << self.attempts.made.min(5)).min(LONGEST_PAUSE);
        self.attempts.made += 1;
        self.attempts.not_before = Some(now.plus(pause));
    }
}

/// None of the primary's endpoints is healthy, or it does not say any more that it is the primary. What an operator has
/// drained is not down.
fn is_down(table: &RoutingTable, service: &ServiceView) -> bool {
    let Some(primary) = service.primacy.region else { return false };
    let denied = service.primacy.state == PrimacyState::Unknown
        && service.primacy.is_taken()
        && service.primacy.source != PrimacySource::Forgotten;
    let settled = service.primacy.state == PrimacyState::Settled;
    let mut here = service.endpoints.iter().filter(|e| e.region == primary).peekable();
    let out = |endpoint: &meridian_routing::EndpointView| {
        !endpoint.drain.value && endpoint.health == meridian_routing::EndpointHealth::Unhealthy
    };
    let dead = here.peek().is_some() && here.all(out) && !table.region(primary).drain.value;
    (settled && dead) || denied
}

fn positions(table: &RoutingTable, service: &ServiceView) -> BTreeMap<RegionId, u64> {
    let position =
        |index| Some((table.region(index).settings.id.clone(), facts::position(service, index)?));
    facts::indices(table).filter_map(position).collect()
}

/// Why this edge may be the one that is cut off, or the primary alive for others: it sees half of the other regions, or
/// less; or the candidate still receives what only a living primary can have written.
fn doubt(
    table: &RoutingTable,
    service: &ServiceView,
    to: &RegionId,
    middle: Option<&BTreeMap<RegionId, u64>>,
) -> Option<String> {
    let lost = service.primacy.region;
    let used = |index: &meridian_config::RegionIndex| {
        Some(*index) != lost
            && table.services.iter().flat_map(|s| &s.endpoints).any(|e| e.region == *index)
    };
    let seen = |index: &meridian_config::RegionIndex| {
        let mut all = table.services.iter().flat_map(|s| &s.endpoints);
        all.any(|e| e.region == *index && e.health == meridian_routing::EndpointHealth::Healthy)
    };
    let others: Vec<_> = facts::indices(table).filter(used).collect();
    let reached = others.iter().filter(|index| seen(index)).count();
    if reached * 2 <= others.len() {
        let all = others.len();
        return Some(format!(
            "this edge reaches {reached} of {all} other regions: it may be cut off"
        ));
    }
    let Some(middle) = middle else { return Some("it is too early to tell".to_owned()) };
    let now = positions(table, service);
    let grown = now.get(to).zip(middle.get(to)).is_some_and(|(now, then)| now > then);
    grown.then(|| format!("\"{to}\" still receives writes: the primary may be alive for others"))
}

/// Looks for as long as the process lives.
pub(crate) async fn watch(failovers: Failovers) {
    let mut said = BTreeMap::new();
    loop {
        tokio::time::sleep(LOOK).await;
        let table = failovers.0.table.load();
        for service in &table.services {
            failovers.look_at(&table, service, &mut said);
        }
        let named = |name: &String| table.services.iter().any(|s| s.settings.name.as_str() == name);
        failovers.known().retain(|name, known| {
            named(name) || known.operation.as_ref().is_some_and(super::Operation::is_running)
        });
    }
}

impl Failovers {
    /// How many requests of a service were refused in the last minute for want of a primary.
    pub(crate) fn refused_of_late(&self, name: &ServiceName, table: &RoutingTable) -> u64 {
        let total = refused(table, name);
        let known = self.known();
        known.get(name.as_str()).map_or(0, |known| known.memory.refused.of_late(total))
    }

    fn look_at(
        &self,
        table: &RoutingTable,
        service: &ServiceView,
        said: &mut BTreeMap<String, String>,
    ) {
        let now = self.0.clock.now();
        let name = service.settings.name.to_string();
        {
            let mut known = self.known();
            let known = known.entry(name.clone()).or_default();
            known.memory.look(table, service, now);
            if known.operation.as_ref().is_some_and(super::Operation::is_running) {
                return;
            }
        }
        let wanted = self.wanted(table, service, now);
        let request = match wanted {
            None => {
                said.remove(&name);
                return;
            }
            Some(Ok(request)) => request,
            Some(Err(why)) => return tell(said, &name, why),
        };
        match self.begin(&request) {
            Ok(_) => {
                // Success makes a new incident of it, and forgets this.
                if let Some(known) = self.known().get_mut(&name) {
                    known.memory.failed(now);
                }
            }
            Err(NotBegun::Refused(why)) => tell(said, &name, why.join("; ")),
            Err(NotBegun::NotFound(why) | NotBegun::Bad(why)) => tell(said, &name, why),
            Err(NotBegun::Upgrading) => {}
        }
    }

    /// What the edge wants to do by itself, or why it does not although it would be time.
    fn wanted(
        &self,
        table: &RoutingTable,
        service: &ServiceView,
        now: Micros,
    ) -> Option<Result<Request, String>> {
        let settings = &service.settings.failover;
        let facts = self.facts(table, service);
        let known = self.known();
        let memory = &known.get(service.settings.name.as_str())?.memory;
        let request = |kind, to: Option<String>, reason| Request {
            service: service.settings.name.to_string(),
            kind,
            to,
            actor: "meridian".to_owned(),
            reason,
            force: false,
            timeout: None,
        };
        if settings.mode == FailoverMode::Hook
            && let Some(so_far) = memory.is_due(service, now)
        {
            let Some(to) = guards::best(&facts) else {
                return Some(Err(guards::nobody(&facts)));
            };
            let middle = memory.down.as_ref().and_then(|down| down.middle.as_ref());
            if let Some(why) = doubt(table, service, &to.id, middle) {
                return Some(Err(why));
            }
            let reason = format!("the primary has been down for {}", guards::ms(so_far));
            return Some(Ok(request(OperationKind::Failover, Some(to.id.to_string()), reason)));
        }
        let paused = memory.attempts.not_before.is_some_and(|then| now < then);
        let away =
            facts.home.is_some() && facts.home != facts.primary && service.primacy.is_settled();
        if settings.failback == Failback::Automatic && away && !paused {
            let to = guards::candidate(&facts, OperationKind::Failback, None).ok()?;
            let list = guards::checks(&facts, OperationKind::Failback, to);
            // It waits until all of it holds; that is no failure.
            let ready = guards::refusals(&list, false).is_empty();
            let reason = "the file's primary is well again".to_owned();
            return ready.then(|| Ok(request(OperationKind::Failback, None, reason)));
        }
        None
    }
}

/// Once for each reason, not five times a second.
fn tell(said: &mut BTreeMap<String, String>, service: &str, why: String) {
    if said.get(service) != Some(&why) {
        tracing::error!(target: "failover", service, why, "it is time to move the primary, but");
        said.insert(service.to_owned(), why);
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
