//! The attempts of one request: connect, send, wait for the head; on failure ask the retry policy.

use std::time::Duration;

use meridian_config::ReplicationSource;
use meridian_routing::{
    Attempt, Client, Decision, EndpointIndex, EndpointLoad, Failure, Micros, Outcome, Pool,
    RequestFacts, RoutingTable, Verdict, next_attempt, retry_verdict,
};

use super::canonical::{HeadContext, RequestIds, is_response_hop, request_head};
use super::relay::{Cut, Relayed, begin, relay};
use super::sent_body::{Event, SentBody};
use super::upstream::Upstream;
use super::{ClientGone, Downstream, InterimHead, Upload};
use crate::alarm::{Alarm, TICK};
use crate::http1::response::{ResponseFacts, with_response};
use crate::identify::Peer;
use crate::request::{HostSpace, Request};
use crate::worker::Worker;

/// One request on its way: what does not change between attempts.
pub(crate) struct Journey<'a> {
    pub(crate) worker: &'a Worker,
    pub(crate) table: &'a RoutingTable,
    pub(crate) client: Client,
    pub(crate) peer: &'a Peer,
    pub(crate) ids: &'a RequestIds,
    pub(crate) scheme: &'static str,
    pub(crate) expect_continue: bool,
    pub(crate) is_head: bool,
    pub(crate) started: Micros,
    pub(crate) alarm: &'a Alarm,
    /// When the whole request must be over.
    pub(crate) deadline: Micros,
}

/// How a request ended.
#[derive(Debug)]
pub(crate) struct Ending {
    /// The last decision that was acted on.
    pub(crate) decision: Decision,
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
    /// The endpoint broke the protocol or the connection before it answered: 502.
    Broken(&'static str),
    /// The endpoint did not answer in time: 504.
    TimedOut,
    /// The client's side failed before a response was begun.
    Client(ClientGone),
    /// The response had begun and ended early; the client was made to see it.
    Cut { status: u16, cause: Cut },
}

/// Why an attempt failed before a response was begun.
pub(super) enum AttemptError {
    Endpoint(Failure, &'static str),
    Client(ClientGone),
    /// A kept connection turned out to be closed: says nothing of the endpoint.
    Stale,
}

/// Which connections an attempt may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Connection {
    Any,
    New,
}

/// The head of an attempt, ready to be sent.
pub(crate) struct Prepared {
    head: Vec<u8>,
    /// Whether the method may be repeated.
    repeatable: bool,
}

impl Prepared {
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
            scheme: journey.scheme,
            expect_continue: journey.expect_continue,
            upgrade: false,
        };
        let mut head = journey.worker.buffers.take();
        request_head(request, &context, &mut head);
        let idempotent = &service.settings.retry.idempotent_methods;
        Self { head, repeatable: idempotent.iter().any(|method| method == request.method) }
    }
}

/// Forwards a request and relays its response. `first`: the first attempt's head, where the caller had the request
/// parsed anyway.
pub(crate) async fn forward<D: Downstream>(
    journey: &Journey<'_>,
    mut decision: Decision,
    down: &mut D,
    mut first: Option<Prepared>,
) -> Ending {
    let service = journey.table.service(decision.service);
    let mut tried: Vec<EndpointIndex> = Vec::new();
    let mut attempts = 0;
    service.counters.budget.request(journey.started);
    let mut body =
        match SentBody::begin(down, service.settings.retry.buffer, &journey.worker.buffers) {
            Ok(body) => body,
            Err(gone) => {
                let result = Err(Failed::Client(gone));
                return Ending { decision, attempts, upstream_time: None, result };
            }
        };
    let ending = loop {
        attempts += 1;
        let began = if attempts == 1 { journey.started } else { journey.worker.clock.now() };
        let mut flight = Flight::begin(journey, &decision);
        let mut outcome =
            attempt(journey, &decision, down, &mut body, Connection::Any, first.take()).await;
        if matches!(outcome, Err(AttemptError::Stale)) {
            outcome = attempt(journey, &decision, down, &mut body, Connection::New, None).await;
        }
        let error = match outcome {
            Ok((upstream, facts)) => {
                flight.learned_at = journey.worker.clock.now();
                let took = flight.learned_at.since(began);
                let wants_lag = service.settings.replication.source == ReplicationSource::Headers;
                flight.answered(upstream.unread(), &facts, took, wants_lag);
                let result = relay(journey, &decision, upstream, facts, down, &mut body).await;
                if matches!(result, Err(Failed::Cut { cause: Cut::Endpoint, .. })) {
                    flight.outcome = Outcome::Failed(None);
                }
                break Ending { decision, attempts, upstream_time: Some(took), result };
            }
            Err(error) => error,
        };
        let (failure, why) = match error {
            AttemptError::Client(gone) => {
                let result = Err(Failed::Client(gone));
                break Ending { decision, attempts, upstream_time: None, result };
            }
            AttemptError::Endpoint(failure, why) => (failure, why),
            AttemptError::Stale => (Failure::Broken, "the connection broke"),
        };
        flight.outcome = Outcome::Failed(None);
        flight.learned_at = journey.worker.clock.now();
        drop(flight);
        tried.push(decision.endpoint.endpoint);
        match next(journey, &decision, down, failure, attempts, &tried, body.can_be_repeated()) {
            Some(further) => decision = further,
            None => {
                let result = Err(match failure {
                    Failure::Connect => Failed::Unreachable,
                    Failure::Broken => Failed::Broken(why),
                    Failure::TimedOut => Failed::TimedOut,
                });
                break Ending { decision, attempts, upstream_time: None, result };
            }
        }
    };
    body.give_back(&journey.worker.buffers);
    ending
}

/// The retry policy's verdict, counted; `None`: give up.
fn next<D: Downstream>(
    journey: &Journey<'_>,
    last: &Decision,
    down: &D,
    failure: Failure,
    attempts: u32,
    tried: &[EndpointIndex],
    replayable: bool,
) -> Option<Decision> {
    let now = journey.worker.clock.now();
    let service = journey.table.service(last.service);
    if now >= journey.deadline {
        return None;
    }
    down.request(|request| {
        let mut space = HostSpace::default();
        let facts = facts(request, &mut space, None, None, now);
        let further = next_attempt(journey.table, &journey.client, &facts, last, tried);
        let attempt = Attempt {
            failure,
            method: request.method,
            attempts,
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
                further
            }
            Verdict::GiveUp(reason) => {
                service.counters.suppressed(reason);
                None
            }
        }
    })
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
        now,
    }
}

/// One attempt, up to the response's head.
async fn attempt<D: Downstream>(
    journey: &Journey<'_>,
    decision: &Decision,
    down: &mut D,
    body: &mut SentBody,
    connection: Connection,
    prepared: Option<Prepared>,
) -> Result<(Upstream, ResponseFacts), AttemptError> {
    let worker = journey.worker;
    let service = journey.table.service(decision.service);
    let prepare = || {
        let upload = down.upload();
        down.request(|request| Prepared::new(journey, decision, request, upload))
    };
    let Prepared { head, repeatable } = prepared.unwrap_or_else(prepare);
    let mut upstream = connect(journey, decision, connection, !repeatable).await?;
    let may_be_stale = upstream.reused && repeatable;
    let timeouts = &service.settings.timeouts;
    journey.alarm_after(timeouts.idle);
    let sending = upstream.write_both(&head, body.again());
    match journey.alarm.race(sending).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) if may_be_stale => return Err(AttemptError::Stale),
        // An endpoint that takes no more may have answered before.
        Ok(Err(_)) => body.give_up(),
        Err(_) => return Err(AttemptError::Endpoint(Failure::TimedOut, "sending took too long")),
    }
    worker.buffers.give(head);
    body.was_sent();
    match response_head(journey, decision, down, body, &mut upstream).await {
        Ok(facts) => Ok((upstream, facts)),
        Err(AttemptError::Endpoint(Failure::Broken, _))
            if may_be_stale && upstream.is_untouched() && body.can_be_repeated() =>
        {
            Err(AttemptError::Stale)
        }
        Err(error) => Err(error),
    }
}

/// A connection to the endpoint: an idle one, or a new one to the first of its addresses that accepts.
async fn connect(
    journey: &Journey<'_>,
    decision: &Decision,
    connection: Connection,
    careful: bool,
) -> Result<Upstream, AttemptError> {
    let service = journey.table.service(decision.service);
    let endpoint = service.endpoint(decision.endpoint.endpoint);
    let pool = &journey.worker.pool;
    let now = journey.alarm.now();
    let kept = if connection == Connection::Any { &*endpoint.addresses } else { &[] };
    for address in kept {
        if let Some(upstream) = pool.take(*address, careful, now) {
            return Ok(upstream);
        }
    }
    let region = journey.table.region(decision.region.region);
    let automatic = region.connect_timeout();
    let within = service.settings.timeouts.connect.unwrap_or(automatic);
    // A name's addresses take turns, so that none gets all of its connections.
    let count = endpoint.addresses.len();
    let first = if count > 1 { journey.worker.random() as usize % count } else { 0 };
    for turn in 0..count {
        let address = &endpoint.addresses[(first + turn) % count];
        let left = journey.deadline.since(journey.worker.clock.now());
        if let Ok(upstream) = pool.connect(*address, within.min(left)).await {
            return Ok(upstream);
        }
    }
    Err(AttemptError::Endpoint(Failure::Connect, "the endpoint does not accept connections"))
}

/// Sends what is left of the body and reads until the final response's head has come.
async fn response_head<D: Downstream>(
    journey: &Journey<'_>,
    decision: &Decision,
    down: &mut D,
    body: &mut SentBody,
    upstream: &mut Upstream,
) -> Result<ResponseFacts, AttemptError> {
    let timeouts = &journey.table.service(decision.service).settings.timeouts;
    let broken = |why| AttemptError::Endpoint(Failure::Broken, why);
    loop {
        while let Some(facts) = head(journey, decision, down, upstream.unread()).map_err(broken)? {
            if !facts.interim() {
                return Ok(facts);
            }
            let head = interim(upstream.unread(), journey.is_head).map_err(broken)?;
            upstream.consume(facts.len);
            journey.alarm_after(timeouts.idle);
            let passed = journey.alarm.race(down.interim(&head)).await;
            passed.unwrap_or(Err(ClientGone::TimedOut)).map_err(AttemptError::Client)?;
        }
        let uploading = !body.is_sent();
        journey.alarm_after(if uploading { timeouts.idle } else { timeouts.first_byte });
        let read = match journey.alarm.race(body.either(upstream, down)).await {
            Ok(Event::Read(Ok(0))) => {
                return Err(broken("the endpoint closed the connection without an answer"));
            }
            // An endpoint that takes no more may have answered before.
            Ok(Event::Sent(Err(_))) => {
                body.give_up();
                Ok(0)
            }
            Ok(Event::Read(result)) | Ok(Event::Sent(result)) => result,
            Ok(Event::Body(result)) => result.map(|()| 0).map_err(AttemptError::Client).map(Ok)?,
            Err(_) if uploading && body.waits_for_client() => {
                return Err(AttemptError::Client(ClientGone::TimedOut));
            }
            Err(_) => {
                return Err(AttemptError::Endpoint(Failure::TimedOut, "no answer in time"));
            }
        };
        read.map_err(|_| broken("the connection to the endpoint broke"))?;
    }
}

/// Looks for a response head in what was read, and begins the client's response with it if it is the final one.
fn head<D: Downstream>(
    journey: &Journey<'_>,
    decision: &Decision,
    down: &mut D,
    read: &[u8],
) -> Result<Option<ResponseFacts>, &'static str> {
    if read.is_empty() {
        return Ok(None);
    }
    let facts = with_response(read, journey.is_head, |head| {
        if head.status >= 200 {
            begin(journey, decision, down, head);
        }
        head.facts
    });
    match facts.map_err(|bad| bad.0)? {
        Some(facts) if facts.status == 101 => Err("the endpoint switched protocols unasked"),
        facts => Ok(facts),
    }
}

fn interim(read: &[u8], is_head: bool) -> Result<InterimHead, &'static str> {
    let copied = with_response(read, is_head, |head| {
        let fields = head.fields.iter().filter(|field| !is_response_hop(field.name));
        let fields = fields.map(|f| (f.name.to_ascii_lowercase(), f.value.to_vec())).collect();
        InterimHead { status: head.status, fields }
    });
    copied.map_err(|bad| bad.0)?.ok_or("the response head is malformed")
}

impl Journey<'_> {
    /// Whether the whole request's time is over.
    pub(super) fn is_over(&self) -> bool {
        self.alarm.now() >= self.deadline
    }

    /// Sets the alarm `after` now, but never beyond the whole request's deadline.
    pub(super) fn alarm_after(&self, after: Duration) {
        self.alarm.set_at(self.alarm.now().plus(after + TICK).min(self.deadline));
    }
}

/// Counts a request in at its endpoint and region, and out again however it ends.
struct Flight<'a> {
    journey: &'a Journey<'a>,
    endpoint: &'a EndpointLoad,
    region: Option<&'a Pool>,
    outcome: Outcome,
    learned_at: Micros,
}

impl<'a> Flight<'a> {
    fn begin(journey: &'a Journey<'a>, decision: &Decision) -> Self {
        let service = journey.table.service(decision.service);
        let endpoint = &*service.endpoint(decision.endpoint.endpoint).load;
        let region = service.pool(decision.region.region);
        endpoint.begin();
        if let Some(pool) = region {
            pool.load.0.begin();
        }
        Self { journey, endpoint, region, outcome: Outcome::Abandoned, learned_at: journey.started }
    }

    /// Learns from a response head: its time, whether it is a failure, and the lag it may report.
    fn answered(&mut self, read: &[u8], facts: &ResponseFacts, took: Duration, wants_lag: bool) {
        let Some(pool) = self.region else { return };
        pool.load.1.observe(took);
        let failed = facts.status == 429 || facts.status >= 500;
        if !failed && !wants_lag {
            self.outcome = Outcome::Answered(took);
            return;
        }
        let noted = with_response(read, self.journey.is_head, |head| {
            let number = |name: &str| {
                let field = head.fields.iter().find(|f| f.name.eq_ignore_ascii_case(name))?;
                std::str::from_utf8(field.value).ok()?.trim().parse::<u64>().ok()
            };
            (number("retry-after"), number("meridian-lag-ms").filter(|_| wants_lag))
        });
        let (pause, lag) = noted.ok().flatten().unwrap_or_default();
        if let Some(lag) = lag {
            pool.load.0.report_lag(Duration::from_millis(lag), self.learned_at);
        }
        self.outcome = if failed {
            Outcome::Failed(pause.map(Duration::from_secs))
        } else {
            Outcome::Answered(took)
        };
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.endpoint.end(self.outcome, self.learned_at);
        if let Some(pool) = self.region {
            pool.load.0.end(match self.outcome {
                Outcome::Answered(_) => Some(false),
                Outcome::Failed(_) => Some(true),
                Outcome::Abandoned => None,
            });
        }
    }
}
