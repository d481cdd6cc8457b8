//! Watches the keeper's tables: holds what every region was, since when, and what it has cost until now.

use std::collections::BTreeMap;
use std::sync::Arc;

use meridian_routing::{EndpointHealth, Micros, RoutingTable};

use super::changes::{
    Change, Picture, Subject, Value, changes, cost, picture, service_of, stand_in,
};
use super::event::{Affected, ChangeKindWord, HistoryEvent, RegionState};
use super::evidence::{Batch, Failures};
use crate::keeper::Notice;

/// Owned by the keeper's task; told of every table that is published.
#[derive(Debug)]
pub(crate) struct Observer {
    table: Arc<RoutingTable>,
    picture: Picture,
    held: BTreeMap<Subject, Held>,
    failures: Failures,
}

/// The beginning of a state.
#[derive(Clone, Copy, Debug)]
struct Held {
    since: Micros,
    cost: Affected,
}

impl Observer {
    /// Starts with the first table at `now`: nothing has changed yet.
    pub(crate) fn new(table: Arc<RoutingTable>, now: Micros) -> Self {
        let picture = picture(&table);
        let begin = |(subject, value): (&Subject, &Value)| {
            (subject.clone(), Held { since: now, cost: cost(&table, subject, value) })
        };
        let held = picture.iter().map(begin).collect();
        Self { table, picture, held, failures: Failures::new() }
    }

    /// What has changed with this table, which `notices` led to; events are numbered by whoever records them.
    pub(crate) fn observe(
        &mut self,
        after: &Arc<RoutingTable>,
        notices: &[Notice],
        now: Micros,
        unix_ms: u64,
    ) -> Vec<HistoryEvent> {
        self.note_failures(notices);
        if Arc::ptr_eq(after, &self.table) {
            return Vec::new();
        }
        let picture = picture(after);
        let found = changes(&self.picture, &picture);
        let batch = Batch { after, notices, failures: &self.failures };
        let events = found.iter().map(|change| self.event(change, &batch, now, unix_ms)).collect();
        for change in &found {
            let cost = cost(after, &change.subject, &change.to);
            self.held.insert(change.subject.clone(), Held { since: now, cost });
        }
        if !Arc::ptr_eq(&after.config, &self.table.config) {
            self.forget(after, &picture, now);
        }
        self.picture = picture;
        self.table = after.clone();
        events
    }

    fn note_failures(&mut self, notices: &[Notice]) {
        for notice in notices {
            let (key, cause) = match notice {
                Notice::Health { key, to, cause, .. } => {
                    (key, cause.clone().filter(|_| *to == EndpointHealth::Unhealthy))
                }
                Notice::Ejected { key, ejection } => {
                    (key, Some(format!("ejected: {}", ejection.evidence).into()))
                }
                Notice::Returned { key, .. } => (key, None),
                _ => continue,
            };
            match cause {
                Some(cause) => drop(self.failures.insert(key.clone(), cause)),
                None => drop(self.failures.remove(key)),
            }
        }
    }

    /// Forgets what a configuration no longer names, and begins with what is new without being a change.
    fn forget(&mut self, table: &RoutingTable, picture: &Picture, now: Micros) {
        self.held.retain(|subject, _| picture.contains_key(subject));
        for (subject, value) in picture {
            self.held
                .entry(subject.clone())
                .or_insert_with(|| Held { since: now, cost: cost(table, subject, value) });
        }
        self.failures.retain(|key, _| {
            let view = service_of(table, &key.service);
            view.is_some_and(|view| view.endpoints.iter().any(|endpoint| endpoint.key == *key))
        });
    }

    fn event(&self, change: &Change, batch: &Batch<'_>, now: Micros, unix_ms: u64) -> HistoryEvent {
        let (service, region, kind) = match &change.subject {
            Subject::State(service, region) => {
                (Some(service), Some(region.clone()), ChangeKindWord::State)
            }
            Subject::Weight(region) => (None, Some(region.clone()), ChangeKindWord::Weight),
            Subject::Primary(service) => {
                let now = match &change.to {
                    Value::Primary(region) => region.clone(),
                    Value::State(_) | Value::Weight(_) => None,
                };
                (Some(service), now, ChangeKindWord::Primary)
            }
        };
        let held = self.held.get(&change.subject).copied();
        let held = held.unwrap_or(Held { since: now, cost: Affected::default() });
        let trigger = batch.trigger(change);
        HistoryEvent {
            seq: 0,
            unix_ms,
            edge: batch.after.config.edge.id.clone(),
            kind,
            service: service.map(ToString::to_string),
            region: region.map(|region| region.to_string()),
            from: change.from.text(),
            to: change.to.text(),
            cause: trigger.cause,
            evidence: trigger.evidence,
            actor: trigger.actor,
            lasted_ms: now.since(held.since).as_millis() as u64,
            affected: cost(&self.table, &change.subject, &change.from).since(held.cost),
            moved_to: moved_to(change, batch.after),
            operation: None,
            generation: batch.after.generation,
        }
    }
}

/// Where the requests of a region that takes none any more go.
fn moved_to(change: &Change, after: &RoutingTable) -> Option<String> {
    let Subject::State(service, region) = &change.subject else { return None };
    let out = [RegionState::Down, RegionState::Drained, RegionState::Absent];
    let Value::State(state) = &change.to else { return None };
    let view = service_of(after, service).filter(|_| out.contains(state))?;
    stand_in(after, view, region).map(|region| region.to_string())
}

#[cfg(test)]
#[path = "observer_tests.rs"]
mod tests;
