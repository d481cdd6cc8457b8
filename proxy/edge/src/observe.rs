//! Observe: metrics and one access-log line for every request.

use std::net::IpAddr;
use std::time::Duration;

use meridian_config::{LogFormat, ReplicationSource};
use meridian_routing::{Decision, Micros, Refusal, RoutingTable};
use serde::Serialize;

use crate::access_log::now_rfc3339;
use crate::admit::Admitted;
use crate::forward::Ending;
use crate::request::Request;
use crate::respond::error_text;
use crate::worker::Worker;

/// What a log line needs of the request, copied before its bytes go; only made while the log is on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Described {
    pub(crate) method: String,
    pub(crate) host: String,
    pub(crate) target: String,
    pub(crate) protocol: &'static str,
    pub(crate) user_agent: Option<String>,
    pub(crate) referer: Option<String>,
    pub(crate) trace_parent: Option<String>,
}

impl Described {
    pub(crate) fn of(request: &Request<'_>) -> Self {
        let owned = |name| request.fields.text(name).map(str::to_owned);
        Self {
            method: request.method.to_owned(),
            host: request.authority.to_owned(),
            target: request.target.to_owned(),
            protocol: request.protocol.label(),
            user_agent: owned("user-agent"),
            referer: owned("referer"),
            trace_parent: owned("traceparent"),
        }
    }
}

/// A finished request.
pub(crate) struct Observation<'a> {
    pub(crate) table: &'a RoutingTable,
    pub(crate) client: IpAddr,
    pub(crate) id: &'a str,
    pub(crate) described: Option<&'a Described>,
    pub(crate) outcome: Result<&'a Decision, &'a Refusal>,
    pub(crate) status: u16,
    pub(crate) bytes: u64,
    pub(crate) attempts: u32,
    pub(crate) started: Micros,
    pub(crate) upstream_time: Option<Duration>,
    /// Why there was no whole response.
    pub(crate) error: Option<&'static str>,
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
        let (client, id) = (admitted.client.address, admitted.ids.id());
        Self { described, ..Self::unserved(table, client, id, refusal, started) }
    }

    /// Of a request that could not be read.
    pub(crate) fn malformed(
        table: &'a RoutingTable,
        client: IpAddr,
        id: &'a str,
        refusal: &'a Refusal,
        started: Micros,
        error: &'static str,
    ) -> Self {
        Self { error: Some(error), ..Self::unserved(table, client, id, refusal, started) }
    }

    /// Of a request that reached no endpoint.
    fn unserved(
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
            attempts: 0,
            started,
            upstream_time: None,
            error: None,
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
            outcome: Ok(&ending.decision),
            status,
            bytes,
            attempts: ending.attempts,
            upstream_time: ending.upstream_time,
            error: error_text(ending),
            ..Self::decided(table, admitted, &ending.decision, started)
        }
    }

    /// Of a request that was handed to the pingora lane.
    pub(crate) fn handed_over(
        table: &'a RoutingTable,
        admitted: &'a Admitted,
        decision: &'a Decision,
        status: u16,
        started: Micros,
    ) -> Self {
        Self { status, ..Self::decided(table, admitted, decision, started) }
    }

    fn decided(
        table: &'a RoutingTable,
        admitted: &'a Admitted,
        decision: &'a Decision,
        started: Micros,
    ) -> Self {
        Self {
            table,
            client: admitted.client.address,
            id: admitted.ids.id(),
            described: admitted.described.as_ref(),
            outcome: Ok(decision),
            status: 0,
            bytes: 0,
            attempts: 1,
            started,
            upstream_time: None,
            error: None,
        }
    }
}

/// Counts the request and writes its line.
pub(crate) fn observe(worker: &Worker, seen: &Observation<'_>) {
    let took = worker.clock.now().since(seen.started);
    match seen.outcome {
        Ok(decision) => {
            let cells = seen.table.counters(decision.route).cells(Some(decision.region.region));
            cells.decided(decision.region.reason);
            cells.finished(decision.class.access, seen.status, took);
        }
        Err(refusal) => {
            let counters = match refusal.route {
                Some(route) => seen.table.counters(route),
                None => &seen.table.unmatched,
            };
            counters.refused(refusal.filter);
            let access = meridian_routing::AccessClass::Read;
            counters.cells(None).finished(access, seen.status, took);
        }
    }
    if let Some(described) = seen.described {
        let line = match worker.log.format() {
            LogFormat::Json => json_line(seen, described, took, worker.clock.now()),
            LogFormat::Combined => combined_line(seen, described),
        };
        worker.log.write(&line);
    }
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    client: IpAddr,
    method: &'a str,
    host: &'a str,
    target: &'a str,
    protocol: &'a str,
    status: u16,
    bytes: u64,
    route: Option<&'a str>,
    service: Option<&'a str>,
    access: Option<&'a str>,
    region: Option<&'a str>,
    role: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lag_ms: Option<u64>,
    endpoint: Option<String>,
    reason: &'a str,
    attempts: u32,
    duration_ms: f64,
    upstream_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    user_agent: Option<&'a str>,
}

fn json_line(
    seen: &Observation<'_>,
    described: &Described,
    took: Duration,
    now: Micros,
) -> Vec<u8> {
    let table = seen.table;
    let decision = seen.outcome.ok();
    let route = match seen.outcome {
        Ok(decision) => Some(decision.route),
        Err(refusal) => refusal.route,
    };
    let region = decision.map(|d| d.region.region);
    let service = decision.map(|d| table.service(d.service));
    let primary = decision.and_then(|d| table.primary(d.service));
    let lag = service
        .filter(|s| s.settings.replication.source != ReplicationSource::None)
        .zip(region.filter(|r| primary != Some(*r)))
        .and_then(|(service, region)| service.pool(region)?.load.0.lag(now));
    let endpoint = decision.zip(service);
    let line = Line {
        time: now_rfc3339(),
        request_id: seen.id,
        traceparent: described.trace_parent.as_deref(),
        client: seen.client,
        method: &described.method,
        host: &described.host,
        target: &described.target,
        protocol: described.protocol,
        status: seen.status,
        bytes: seen.bytes,
        route: route.map(|index| table.route(index).name.as_str()),
        service: service.map(|service| service.settings.name.as_str()),
        access: decision.map(|d| d.class.access.label()),
        region: region.map(|region| table.region(region).settings.id.as_str()),
        role: region.map(|r| if primary == Some(r) { "primary" } else { "replica" }),
        lag_ms: lag.map(|(lag, _)| lag.as_millis() as u64),
        endpoint: endpoint.map(|(d, s)| s.endpoint(d.endpoint.endpoint).key.address.to_string()),
        reason: match seen.outcome {
            Ok(decision) => decision.region.reason.label(),
            Err(refusal) => refusal.filter.label(),
        },
        attempts: seen.attempts,
        duration_ms: milliseconds(took),
        upstream_ms: seen.upstream_time.map(milliseconds),
        error: seen.error,
        user_agent: described.user_agent.as_deref(),
    };
    let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn combined_line(seen: &Observation<'_>, described: &Described) -> Vec<u8> {
    let quoted = |text: Option<&str>| text.unwrap_or("-").replace(['"', '\\'], "_");
    format!(
        "{} - - [{}] \"{} {} {}\" {} {} \"{}\" \"{}\"\n",
        seen.client,
        crate::access_log::now_common_log(),
        described.method,
        quoted(Some(&described.target)),
        described.protocol,
        seen.status,
        seen.bytes,
        quoted(described.referer.as_deref()),
        quoted(described.user_agent.as_deref()),
    )
    .into_bytes()
}
