//! What was tried for one request, and whether it may be tried again.

use meridian_routing::{
    Attempt, Decision, EndpointIndex, Failure, GiveUp, Micros, SessionRead, Verdict, after_refuted,
    next_attempt, retry_verdict,
};

use super::Downstream;
use super::journey::{Journey, facts};
use crate::request::{HostSpace, Request};
use crate::session::Session;

/// The attempts of one request.
#[derive(Debug, Default)]
pub(super) struct Tries {
    made: u32,
    /// Endpoints that failed; empty, and without an allocation, until one does.
    tried: Vec<EndpointIndex>,
}

impl Tries {
    /// Attempts so far, one under way included.
    pub(super) fn made(&self) -> u32 {
        self.made
    }

    /// Counts an attempt; when it begins.
    pub(super) fn begin(&mut self, journey: &Journey<'_>) -> Micros {
        self.made += 1;
        if self.made == 1 { journey.started } else { journey.worker.clock.now() }
    }

    /// The endpoint of this decision failed.
    pub(super) fn failed(&mut self, decision: &Decision) {
        self.tried.push(decision.endpoint.endpoint);
    }

    /// The retry policy's verdict after a failure: where the request goes on, which is counted, or why it does not.
    pub(super) fn next<D: Downstream>(
        &self,
        journey: &Journey<'_>,
        last: &Decision,
        down: &D,
        failure: Failure,
        replayable: bool,
    ) -> Result<Decision, GiveUp> {
        let now = journey.worker.clock.now();
        let service = journey.table.service(last.service);
        if now >= journey.deadline {
            return Err(GiveUp::Deadline);
        }
        down.request(|request| {
            let mut space = HostSpace::default();
            let facts = facts(request, &mut space, None, None, now);
            let further = next_attempt(journey.table, &journey.client, &facts, last, &self.tried);
            let attempt = Attempt {
                failure,
                method: request.method,
                key: has_key(request),
                attempts: self.made,
                answered: false,
                replayable,
                untried: further.is_some(),
            };
            match retry_verdict(&attempt, &service.settings.retry, &service.counters.budget, now) {
                Verdict::Retry(reason) => {
                    service.counters.retried(reason);
                    if let Some(pool) = service.pool(last.region.region) {
                        pool.load.0.setbacks.count_retried();
                    }
                    further.ok_or(GiveUp::NoEndpoint)
                }
                Verdict::GiveUp(reason) => Err(reason),
            }
        })
    }

    /// Where a read goes on whose answer showed less than it must find, which is counted; `None`: nowhere.
    pub(super) fn refuted<D: Downstream>(
        &self,
        journey: &Journey<'_>,
        last: &Decision,
        down: &D,
    ) -> Option<Decision> {
        let now = journey.worker.clock.now();
        journey.table.counters(last.route).read_in_session(SessionRead::Refuted);
        if now >= journey.deadline {
            return None;
        }
        down.request(|request| {
            let mut space = HostSpace::default();
            let mut facts = facts(request, &mut space, None, None, now);
            facts.session = journey.session.and_then(Session::need);
            after_refuted(journey.table, &journey.client, &facts, last, &self.tried)
        })
    }

    /// Where a request goes on whose endpoint went out while it waited; `None`: it goes on waiting, which is better than
    /// failing.
    pub(super) fn leave<D: Downstream>(
        &mut self,
        journey: &Journey<'_>,
        last: &Decision,
        down: &D,
        replayable: bool,
    ) -> Option<Decision> {
        self.failed(last);
        let next = self.next(journey, last, down, Failure::WentOut, replayable);
        self.tried.pop();
        next.ok()
    }
}

/// Where a request goes instead of the endpoint that was decided on.
pub(super) fn instead<D: Downstream>(
    journey: &Journey<'_>,
    decision: &Decision,
    down: &D,
) -> Option<Decision> {
    let now = journey.worker.clock.now();
    let not = [decision.endpoint.endpoint];
    down.request(|request| {
        let mut space = HostSpace::default();
        let facts = facts(request, &mut space, None, None, now);
        next_attempt(journey.table, &journey.client, &facts, decision, &not)
    })
}

/// Whether the client says that a request with this key is to be executed once, however often it is sent
/// (draft-ietf-httpapi-idempotency-key-header).
pub(super) fn has_key(request: &Request<'_>) -> bool {
    request.notes.idempotency_key.is_some_and(|key| !key.trim_ascii().is_empty())
}
