//! Changes of state, and who is told of them.

use meridian_routing::RoutingTable;

use super::family::Family;
use super::names;
use crate::alerts::AlertQueue;
use crate::history::History;

pub(super) fn history(history: &History, table: &RoutingTable, families: &mut Vec<Family>) {
    let tally = history.tally(table);
    let mut failovers = Family::counter(names::FAILOVERS);
    for ((service, from, to, cause), count) in &tally.failovers {
        let labels = [("service", &**service), ("from", from), ("to", to), ("cause", cause)];
        failovers.count(&labels, *count);
    }
    let mut changes = Family::counter(names::REGION_CHANGES);
    for ((service, region, from, to, cause), count) in &tally.changes {
        let labels = [
            ("service", &**service),
            ("region", region),
            ("from", from),
            ("to", to),
            ("cause", cause),
        ];
        changes.count(&labels, *count);
    }
    let mut operations = Family::counter(names::OPERATIONS);
    for ((service, operation, state), count) in &tally.operations {
        let labels = [("service", &**service), ("operation", &**operation), ("state", &**state)];
        operations.count(&labels, *count);
    }
    let mut dropped = Family::counter(names::HISTORY_DROPPED);
    dropped.count(&[], history.status().not_written);
    families.extend([failovers, changes, operations, dropped]);
}

pub(super) fn alerts(alerts: &AlertQueue, families: &mut Vec<Family>) {
    let status = alerts.status();
    let mut results = Family::counter(names::ALERTS);
    for (result, count) in
        [("delivered", status.delivered), ("failed", status.failed), ("dropped", status.dropped)]
    {
        results.count(&[("result", result)], count);
    }
    let mut waiting = Family::gauge(names::ALERTS_WAITING);
    waiting.count(&[], status.waiting as u64);
    families.extend([results, waiting]);
}
