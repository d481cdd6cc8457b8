//! Counts of changes, for the metrics page.

use std::collections::BTreeMap;

use meridian_routing::RoutingTable;

use super::event::{ChangeKindWord, HistoryEvent};

/// `{service,region,from,to,cause}`
pub(crate) type ChangeLabels = (String, String, String, String, &'static str);
/// `{service,from,to,cause}`
pub(crate) type FailoverLabels = (String, String, String, &'static str);

/// Counts since the process started.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tally {
    /// Changes of state.
    pub(crate) changes: BTreeMap<ChangeLabels, u64>,
    /// Moves of a service's requests, or its writes, from one region to another; an empty one: none was left.
    pub(crate) failovers: BTreeMap<FailoverLabels, u64>,
    /// Failovers, failbacks and switchovers that have ended: `{service,operation,state}`.
    pub(crate) operations: BTreeMap<(String, String, String), u64>,
}

impl Tally {
    pub(super) fn count(&mut self, event: &HistoryEvent) {
        let (Some(service), Some(region)) = (&event.service, &event.region) else { return };
        let cause = event.cause.label();
        if event.kind == ChangeKindWord::State {
            let labels =
                (service.clone(), region.clone(), event.from.clone(), event.to.clone(), cause);
            *self.changes.entry(labels).or_default() += 1;
        }
        if let Some(ended) = &event.operation {
            let labels = (service.clone(), ended.operation.clone(), ended.state.clone());
            *self.operations.entry(labels).or_default() += 1;
        }
        if event.is_failover() {
            let (from, to) = match event.kind {
                ChangeKindWord::Primary => (event.from.clone(), event.to.clone()),
                _ => (region.clone(), event.moved_to.clone().unwrap_or_default()),
            };
            *self.failovers.entry((service.clone(), from, to, cause)).or_default() += 1;
        }
    }

    /// Forgets what the table no longer names.
    pub(super) fn retain(&mut self, table: &RoutingTable) {
        let service = |name: &str| table.services.iter().any(|s| s.settings.name.as_str() == name);
        let region =
            |id: &str| id.is_empty() || table.regions.iter().any(|r| r.settings.id.as_str() == id);
        self.changes.retain(|(s, r, ..), _| service(s) && region(r));
        self.operations.retain(|(s, ..), _| service(s));
        self.failovers.retain(|(s, from, to, _), _| service(s) && region(from) && region(to));
    }
}
