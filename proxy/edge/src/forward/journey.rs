//! One request on its way: what it carries through all attempts, and how it ends.

use std::sync::Arc;
use std::time::Duration;

use meridian_config::RouteIndex;
use meridian_routing::{
    AccessClass, Client, Decision, Failure, Filter, GiveUp, Micros, Refusal, RequestFacts,
    RoutingTable, ServiceView, repeatable,
};

use super::canonical::{HeadContext, RequestIds, request_head};
use super::relay::{Cut, Relayed};
use super::tries::has_key;
use super::{ClientGone, Upload};
use crate::affinity::Sticky;
use crate::alarm::{Alarm, TICK};
use crate::identify::Peer;
use crate::request::{HostSpace, Request};
use crate::session::Session;
use crate::worker::Worker;

/// One request on its way: what does not change between attempts.
#[derive(Clone, Copy)]
pub(crate) struct Journey<'a> {
    pub(crate) worker: &'a Worker,
    pub(crate) table: &'a RoutingTable,
    /// As matched by that table.
    pub(crate) route: RouteIndex,
    pub(crate) client: Client,
    pub(crate) peer: &'a Peer,
    pub(crate) ids: &'a RequestIds,
    /// Where the route has affinity.
    pub(crate) sticky: Option<&'a Sticky>,
    /// Where the route keeps sessions.
    pub(crate) session: Option<&'a Session>,
    pub(crate) expect_continue: bool,
    pub(crate) is_head: bool,
    pub(crate) started: Micros,
    pub(crate) alarm: &'a Alarm,
    /// When the whole request must be over.
    pub(crate) deadline: Micros,
}

impl Journey<'_> {
    /// The epoch of the primary that a request is for; 0: it may go anywhere, or nobody has said one.
    pub(super) fn epoch(&self, decision: &Decision) -> u64 {
        match decision.class.access {
            AccessClass::Read => 0,
            _ => self.table.service(decision.service).primacy.epoch,
        }
    }

    /// Whether the whole request's time is over.
    pub(super) fn is_over(&self) -> bool {
        self.alarm.now() >= self.deadline
    }

    /// Sets the alarm `after` now, but never beyond the whole request's deadline.
    pub(super) fn alarm_after(&self, after: Duration) {
        self.alarm.set_at(self.deadline_after(after));
    }

    pub(super) fn deadline_after(&self, after: Duration) -> Micros {
        self.alarm.now().plus(after + TICK).min(self.deadline)
    }
}

/// How a request ended.
#[derive(Debug)]
pub(crate) struct Ending {
    /// The last decision that was acted on; or why there is none, or none any more.
    pub(crate) decided: Result<Decision, Refusal>,
    /// The table of that, if it is another one than the journey's.
    pub(crate) table: Option<Arc<RoutingTable>>,
    pub(crate) attempts: u32,
    /// From the last attempt's start to its response head.
    pub(crate) upstream_time: Option<Duration>,
    pub(crate) result: Result<Relayed, Failed>,
}

/// Why there is no whole response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    /// No endpoint could be reached: nothing was begun, 503.
    Unreachable,
    /// Its endpoints had no room: 503.
    Shed(Filter),
    /// It waited for a primary and was turned down: its decision says why.
    Refused,
    /// The endpoint broke the protocol or the connection before it answered: 502.
    Broken(&'static str),
    /// The endpoint did not answer in time: 504.
    TimedOut,
    /// The client's side failed before a response was begun.
    Client(ClientGone),
    /// The response had begun and ended early; the client was made to see it.
    Cut { status: u16, cause: Cut },
}

impl Failed {
    /// Something of a write has gone to a primary that is one no more: nobody else gets it.
    pub(super) fn deposed(service: &ServiceView) -> Self {
        service.counters.suppressed(GiveUp::NotIdempotent);
        Self::Broken("the primary changed during the upload")
    }

    /// After a failure that is not followed by another attempt, which is counted.
    pub(super) fn after(
        failure: Failure,
        why: &'static str,
        reason: GiveUp,
        service: &ServiceView,
    ) -> Self {
        service.counters.suppressed(reason);
        match failure {
            Failure::Connect | Failure::Refused => Self::Unreachable,
            Failure::Broken => Self::Broken(why),
            Failure::TimedOut | Failure::WentOut => Self::TimedOut,
        }
    }
}

/// The head of an attempt, ready to be sent.
pub(crate) struct Prepared {
    pub(super) head: Vec<u8>,
    /// Whether the request may be repeated.
    pub(super) repeatable: bool,
}

impl Prepared {
    /// The head, which is of no use any more.
    pub(crate) fn into_head(self) -> Vec<u8> {
        self.head
    }

    /// Writes the canonical head for the endpoint of a decision.
    pub(crate) fn new(
        journey: &Journey<'_>,
        decision: &Decision,
        request: &Request<'_>,
        upload: Upload,
    ) -> Self {
        let service = journey.table.service(decision.service);
        let context = HeadContext {
            route: journey.table.route(decision.route),
            service: &service.settings,
            endpoint: service.endpoint(decision.endpoint.endpoint),
            peer: journey.peer,
            ids: journey.ids,
            upload,
            expect_continue: journey.expect_continue,
            upgrade: false,
            sessions: journey.table.keeps_sessions(),
            epoch: journey.epoch(decision),
        };
        let mut head = journey.worker.buffers.take();
        request_head(request, &context, &mut head);
        let policy = &service.settings.retry;
        let repeatable = repeatable(policy, request.method, has_key(request)).is_some();
        Self { head, repeatable }
    }
}

/// What routing looks at.
pub(crate) fn facts<'a>(
    request: &'a Request<'_>,
    space: &'a mut HostSpace,
    body: Option<&'a [u8]>,
    max_staleness: Option<Duration>,
    now: Micros,
) -> RequestFacts<'a> {
    RequestFacts {
        method: request.method,
        host: request.host(space),
        path: request.path,
        headers: &request.fields,
        body,
        max_staleness,
        affinity: None,
        session: None,
        certificate: None,
        now,
    }
}
