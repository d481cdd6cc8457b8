//! Observe: metrics and one access-log line for every request, and for every connection that is answered without one.

use std::net::IpAddr;
use std::time::Duration;

use meridian_config::Coding;
use meridian_routing::{Decision, Filter, Micros, Refusal, RoutingTable};

use crate::admit::Admitted;
use crate::forward::{Ending, Failed};
use crate::log_line::Described;
use crate::respond::error_text;
use crate::worker::Worker;

/// A finished request.
pub(crate) struct Observation<'a> {
    pub(crate) table: &'a RoutingTable,
    pub(crate) client: IpAddr,
    /// Of the request; empty where there is nothing to write it to.
    pub(crate) id: &'a str,
    pub(crate) described: Option<&'a Described>,
    pub(crate) outcome: Result<&'a Decision, &'a Refusal>,
    pub(crate) status: u16,
    pub(crate) bytes: u64,
    /// What the body was compressed with, and its bytes before that.
    pub(crate) compressed: Option<(Coding, u64)>,
    pub(crate) attempts: u32,
    pub(crate) started: Micros,
    pub(crate) upstream_time: Option<Duration>,
    /// What was decided could not be done for what is in flight.
    pub(crate) shed: Option<Filter>,
    /// Why there was no whole response.
    pub(crate) error: Option<&'static str>,
    /// The log's reason where it is neither a decision's nor a filter's.
    pub(crate) reason: Option<&'static str>,
}

impl<'a> Observation<'a> {
    /// Of a request that policy turned down.
    pub(crate) fn refused(
        table: &'a RoutingTable,
        admitted: &'a Admitted,
        refusal: &'a Refusal,
        started: Micros,
    ) -> Self {
        let described = admitted.described.as_ref();
        let client = admitted.client.address;
        Self { described, ..Self::unserved(table, client, admitted.logged_id(), refusal, started) }
    }

    /// Of a request that is this edge's to answer with 200, and why.
    pub(crate) fn own(
        table: &'a RoutingTable,
        admitted: &'a Admitted,
        reason: &'static str,
        started: Micros,
    ) -> Self {
        const SERVED: &Refusal = &Refusal { route: None, filter: Filter::Route, status: 200 };
        Self { reason: Some(reason), ..Self::refused(table, admitted, SERVED, started) }
    }

    /// Of a request that reached no endpoint.
    pub(crate) fn unserved(
        table: &'a RoutingTable,
        client: IpAddr,
        id: &'a str,
        refusal: &'a Refusal,
        started: Micros,
    ) -> Self {
        Self {
            table,
            client,
            id,
            described: None,
            outcome: Err(refusal),
            status: refusal.status,
            bytes: 0,
            compressed: None,
            attempts: 0,
            started,
            upstream_time: None,
            shed: None,
            error: None,
            reason: None,
        }
    }

    /// Of a request that went to an endpoint; `status` and `bytes` are what the client was given.
    pub(crate) fn ended(
        table: &'a RoutingTable,
        admitted: &'a Admitted,
        ending: &'a Ending,
        (status, bytes): (u16, u64),
        started: Micros,
    ) -> Self {
        Self {
            status,
            bytes,
            compressed: ending.result.ok().and_then(|relayed| relayed.compressed),
            attempts: ending.attempts,
            upstream_time: ending.upstream_time,
            shed: shed(ending),
            error: error_text(ending),
            ..Self::decided(table, admitted, ending.decided.as_ref(), started)
        }
    }

    /// Of a request whose client went away before there was an answer, and before anybody could say where it had got to.
    pub(crate) fn gone(table: &'a RoutingTable, admitted: &'a Admitted, started: Micros) -> Self {
        Self { status: 499, ..Self::decided(table, admitted, admitted.decided.as_ref(), started) }
    }

    /// Of a request that was handed to the pingora lane.
    pub(crate) fn handed_over(
        table: &'a RoutingTable,
        admitted: &'a Admitted,
        decision: &'a Decision,
        status: u16,
        started: Micros,
    ) -> Self {
        Self { status, ..Self::decided(table, admitted, Ok(decision), started) }
    }

    fn decided(
        table: &'a RoutingTable,
        admitted: &'a Admitted,
        outcome: Result<&'a Decision, &'a Refusal>,
        started: Micros,
    ) -> Self {
        Self {
            table,
            client: admitted.client.address,
            id: admitted.logged_id(),
            described: admitted.described.as_ref(),
            outcome,
            status: 0,
            bytes: 0,
            compressed: None,
            attempts: 1,
            started,
            upstream_time: None,
            shed: None,
            error: None,
            reason: None,
        }
    }
}

fn shed(ending: &Ending) -> Option<Filter> {
    match ending.result {
        Err(Failed::Shed(filter)) => Some(filter),
        _ => None,
    }
}

/// Counts the request and writes its line.
pub(crate) fn observe(worker: &Worker, seen: &Observation<'_>) {
    let took = worker.clock.now().since(seen.started);
    match seen.outcome {
        Ok(decision) => {
            let counters = seen.table.counters(decision.route);
            if let Some(filter) = seen.shed {
                counters.refused(filter);
            }
            let cells = counters.cells(Some(decision.region.region));
            cells.decided(decision.region.reason);
            cells.finished(decision.class.access, seen.status, took);
        }
        Err(refusal) => {
            let counters = match refusal.route {
                Some(route) => seen.table.counters(route),
                None => &seen.table.unmatched,
            };
            // A client that went away while it waited was not refused.
            if seen.status != 499 {
                counters.refused(refusal.filter);
            }
            let access = meridian_routing::AccessClass::Read;
            counters.cells(None).finished(access, seen.status, took);
        }
    }
    write_line(worker, seen);
}

/// Writes its line, without counting it.
pub(crate) fn write_line(worker: &Worker, seen: &Observation<'_>) {
    if let Some(described) = seen.described {
        let now = worker.clock.now();
        let took = now.since(seen.started);
        worker.log.write(|clock, out| described.write(seen, took, now, clock, out));
    }
}
