//! The attempts of one request: connect, send, wait for the head; on failure ask the retry policy.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use meridian_config::RouteIndex;
use meridian_routing::{
    AccessClass, Client, Decision, EndpointReason, Failure, Filter, GiveUp, Micros, Refusal,
    RequestFacts, RoutingTable, ServiceView, repeatable,
};

use super::canonical::{HeadContext, RequestIds, request_head};
use super::dial::{Dial, automatic};
use super::flight::Flight;
use super::heads::{Heard, head, interim};
use super::hedge::{Overtaking, Plan};
use super::park::{Halt, go_on, halted};
use super::queue::enter;
use super::relay::{Cut, Relayed, relay};
use super::sent_body::{Event, Inside, SentBody};
use super::tries::{Tries, has_key, instead};
use super::upstream::Upstream;
use super::{ClientGone, Downstream, Upload};
use crate::affinity::Sticky;
use crate::alarm::{Alarm, TICK};
use crate::http1::response::ResponseFacts;
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

/// Why an attempt failed before a response was begun.
pub(super) enum AttemptError<'a> {
    Endpoint(Failure, &'static str),
    Client(ClientGone),
    /// A kept connection turned out to be closed: says nothing of the endpoint.
    Stale,
    /// The endpoint went out while it was waited for, and the retry policy lets the request go on there.
    Left(Decision),
    /// A second endpoint was faster.
    Overtaken(Box<Overtaking<'a>>),
    /// The answer shows less than the read must find: nobody is given it.
    Refuted,
    /// Nothing was executed, and the request is to be decided anew.
    Halted(Halt),
    /// There is a new primary, and of this write something has gone to the old one: the rest does not, and nobody gets it.
    Deposed,
}

impl AttemptError<'_> {
    /// What the endpoint did wrong.
    pub(super) fn failure(&self) -> Failure {
        match self {
            Self::Endpoint(failure, _) => *failure,
            Self::Left(_) | Self::Overtaken(_) => Failure::WentOut,
            Self::Stale | Self::Client(_) | Self::Halted(_) | Self::Deposed | Self::Refuted => {
                Failure::Broken
            }
        }
    }
}

/// The protocol of the endpoints has no words for what the client asks for.
pub(super) const UNSAYABLE: AttemptError<'static> = AttemptError::Client(ClientGone::Malformed(
    "the request's target or host cannot be said in HTTP/2",
));

/// Which connections an attempt may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connection {
    Any,
    New,
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

/// Forwards a request and relays its response; one that needs the primary waits for it where it may. `first`: the first
/// attempt's head, where the caller had the request parsed anyway.
pub(crate) async fn forward<D: Downstream>(
    journey: &Journey<'_>,
    decided: Result<Decision, Refusal>,
    down: &mut D,
    first: Option<Prepared>,
) -> Ending {
    let service = journey.table.service(journey.table.route(journey.route).service);
    service.counters.budget.request(journey.started);
    let min_rate = journey.table.config.limits.min_rate;
    let buffers = &journey.worker.buffers;
    let mut body = match SentBody::begin(down, &service.settings, min_rate, buffers) {
        Ok(body) => body,
        Err(gone) => {
            let result = Err(Failed::Client(gone));
            return Ending { decided, table: None, attempts: 0, upstream_time: None, result };
        }
    };
    let halt = match decided {
        Ok(decision) => {
            let tried = attempts(journey, decision, down, first, &mut body).await;
            halted(journey, tried, &body)
        }
        Err(refusal) => Err((Halt::Refused(refusal), 0)),
    };
    let ending = match halt {
        Ok(ending) => ending,
        Err((halt, made)) => Box::pin(go_on(journey, service, halt, made, down, &mut body)).await,
    };
    body.give_back(&journey.worker.buffers);
    ending
}

/// What came of the attempts with one table.
pub(super) struct Tried {
    /// The last decision that was acted on.
    pub(super) decision: Decision,
    pub(super) attempts: u32,
    pub(super) upstream_time: Option<Duration>,
    pub(super) result: Result<Result<Relayed, Failed>, Halt>,
}

/// Makes attempts for as long as the retry policy wants it.
pub(super) async fn attempts<D: Downstream>(
    journey: &Journey<'_>,
    mut decision: Decision,
    down: &mut D,
    mut first: Option<Prepared>,
    body: &mut SentBody,
) -> Tried {
    let service = journey.table.service(decision.service);
    let mut tries = Tries::default();
    let on_trial = claim_trial(journey, &mut decision, down, &mut first);
    let plan = Plan::of(journey, &decision, down);
    let mut overtaking: Option<Box<Overtaking<'_>>> = None;
    let (upstream_time, result) = loop {
        let trial = on_trial && tries.made() == 0;
        if overtaking.is_none()
            && let Err(failed) = enter(journey, &mut decision, trial, down, &mut first).await
        {
            break (None, Ok(Err(failed)));
        }
        let begins = tries.begin(journey);
        let (mut flight, begun, began) = match overtaking.take().map(|other| *other) {
            Some(other) => (other.flight, Some(other.upstream), other.began),
            None => (Flight::begin(journey, &decision, trial), None, begins),
        };
        let outs = flight.outs();
        let mut attempt =
            Attempt { journey, decision: &decision, outs, down, body, tries: &mut tries };
        let outcome = attempt.make(begun, plan, &mut first).await;
        let (failure, why) = match outcome {
            Ok((upstream, facts)) => {
                let took = flight.answered(upstream.unread(), &facts, began);
                plan.iter().filter(|_| tries.made() == 1).for_each(|plan| plan.learn(took));
                let result = relay(journey, &decision, upstream, facts, down, body).await;
                flight.relayed(&result, service);
                break (Some(took), Ok(result));
            }
            Err(AttemptError::Client(gone)) => break (None, Ok(Err(Failed::Client(gone)))),
            Err(AttemptError::Halted(halt)) => break (None, Err(halt)),
            Err(AttemptError::Deposed) => break (None, Ok(Err(Failed::deposed(service)))),
            Err(AttemptError::Left(next)) => {
                body.leave();
                flight.failed(Failure::WentOut);
                drop(flight);
                tries.failed(&decision);
                decision = next;
                continue;
            }
            Err(AttemptError::Overtaken(other)) => {
                let late = flight.overtaken(began, other.first);
                plan.iter().for_each(|plan| plan.learn(late));
                drop(flight);
                tries.failed(&decision);
                decision = other.decision;
                overtaking = Some(other);
                continue;
            }
            Err(AttemptError::Refuted) => {
                drop(flight);
                tries.failed(&decision);
                // Counts it in any case. A body whose beginning is gone cannot be sent again.
                let next = tries.refuted(journey, &decision, down);
                match next.filter(|_| body.can_be_repeated()) {
                    Some(next) => decision = next,
                    None => break (None, Ok(Err(Failed::Shed(Filter::Session)))),
                }
                continue;
            }
            Err(AttemptError::Endpoint(failure, why)) => (failure, why),
            Err(AttemptError::Stale) => (Failure::Broken, "the connection broke"),
        };
        body.leave();
        flight.failed(failure);
        drop(flight);
        tries.failed(&decision);
        match tries.next(journey, &decision, down, failure, body.can_be_repeated()) {
            Ok(next) => decision = next,
            Err(reason) => break (None, Ok(Err(Failed::after(failure, why, reason, service)))),
        }
    };
    body.leave();
    Tried { decision, attempts: tries.made(), upstream_time, result }
}

/// Takes the trial that was decided on; `true`: this request is it. If another one was faster, this one goes elsewhere.
fn claim_trial<D: Downstream>(
    journey: &Journey<'_>,
    decision: &mut Decision,
    down: &D,
    first: &mut Option<Prepared>,
) -> bool {
    if decision.endpoint.reason != EndpointReason::Trial {
        return false;
    }
    let service = journey.table.service(decision.service);
    if service.endpoint(decision.endpoint.endpoint).load.begin_trial() {
        return true;
    }
    if let Some(other) = instead(journey, decision, down) {
        *decision = other;
        // It was written for the other endpoint.
        if let Some(prepared) = first.take() {
            journey.worker.buffers.give(prepared.head);
        }
    }
    false
}

impl Failed {
    /// Something of a write has gone to a primary that is one no more: nobody else gets it.
    fn deposed(service: &ServiceView) -> Self {
        service.counters.suppressed(GiveUp::NotIdempotent);
        Self::Broken("the primary changed during the upload")
    }

    /// After a failure that is not followed by another attempt, which is counted.
    fn after(failure: Failure, why: &'static str, reason: GiveUp, service: &ServiceView) -> Self {
        service.counters.suppressed(reason);
        match failure {
            Failure::Connect | Failure::Refused => Self::Unreachable,
            Failure::Broken => Self::Broken(why),
            Failure::TimedOut | Failure::WentOut => Self::TimedOut,
        }
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

/// One attempt at one endpoint.
pub(super) struct Attempt<'a, 'd, D> {
    pub(super) journey: &'a Journey<'a>,
    pub(super) decision: &'d Decision,
    /// How often the endpoint had gone out when the attempt began.
    outs: u32,
    pub(super) down: &'d mut D,
    body: &'d mut SentBody,
    tries: &'d mut Tries,
}

impl<'a, D: Downstream> Attempt<'a, '_, D> {
    /// Makes the attempt; `begun`: its answer has begun to come. The first attempt of a route that hedges may become two.
    async fn make(
        &mut self,
        begun: Option<Upstream>,
        plan: Option<Plan<'a>>,
        first: &mut Option<Prepared>,
    ) -> Result<(Upstream, ResponseFacts), AttemptError<'a>> {
        if let Some(mut upstream) = begun {
            let facts = self.response_head(&mut upstream).await?;
            return Ok((upstream, facts));
        }
        if let Some(plan) = plan.filter(|_| self.tries.made() == 1) {
            // Its future is large; requests that are not hedged should not carry room for it.
            return Box::pin(self.run_hedged(plan, first.take())).await;
        }
        self.run_alone(first.take()).await
    }

    /// The attempt by itself; a kept connection that turns out to be closed is replaced by a new one.
    pub(super) async fn run_alone(
        &mut self,
        prepared: Option<Prepared>,
    ) -> Result<(Upstream, ResponseFacts), AttemptError<'a>> {
        match self.run(Connection::Any, prepared).await {
            Err(AttemptError::Stale) => self.run(Connection::New, None).await,
            outcome => outcome,
        }
    }

    /// The head for an endpoint.
    pub(super) fn prepare(&self, decision: &Decision) -> Prepared {
        let upload = self.down.upload();
        self.down.request(|request| Prepared::new(self.journey, decision, request, upload))
    }

    /// Connects, sends, and waits for the response's head.
    async fn run(
        &mut self,
        connection: Connection,
        prepared: Option<Prepared>,
    ) -> Result<(Upstream, ResponseFacts), AttemptError<'a>> {
        let (journey, decision) = (self.journey, self.decision);
        let prepared = prepared.unwrap_or_else(|| self.prepare(decision));
        let Prepared { head, repeatable } = prepared;
        let mut upstream = connect(journey, decision, connection, !repeatable).await?;
        let may_be_stale = upstream.reused && repeatable;
        // From here on bytes leave.
        if !self.enter() {
            journey.worker.pool.give_back_unused(upstream, journey.alarm.now());
            journey.worker.buffers.give(head);
            return Err(AttemptError::Halted(Halt::Outdated));
        }
        let timeouts = &journey.table.service(decision.service).settings.timeouts;
        journey.alarm_after(timeouts.idle);
        let watch = self.body.inside.as_ref().map(Inside::watch);
        let may_write = || watch.as_ref().is_none_or(|(gate, epoch)| gate.highest() <= *epoch);
        let body = self.body.again(&mut upstream);
        let sent = {
            let mut sending = pin!(upstream.write_both(&head, body));
            // A stream of HTTP/2 may have waited for its turn, or for a window, until after the end of the epoch.
            let sending = poll_fn(|cx| match may_write() {
                true => sending.as_mut().poll(cx),
                false => Poll::Ready(Err(io::ErrorKind::PermissionDenied.into())),
            });
            journey.alarm.race(sending).await
        };
        match sent {
            Ok(Ok(())) => {}
            Ok(Err(_)) if !may_write() && upstream.has_begun() => {
                return Err(AttemptError::Deposed);
            }
            Ok(Err(_)) if !may_write() => return Err(AttemptError::Halted(Halt::Outdated)),
            Ok(Err(_)) if upstream.cannot_say() => return Err(UNSAYABLE),
            Ok(Err(_)) if may_be_stale => return Err(AttemptError::Stale),
            // An endpoint that takes no more may have answered before.
            Ok(Err(_)) => self.body.give_up(),
            Err(_) => {
                return Err(AttemptError::Endpoint(Failure::TimedOut, "sending took too long"));
            }
        }
        journey.worker.buffers.give(head);
        self.body.was_sent();
        match self.response_head(&mut upstream).await {
            Ok(facts) => Ok((upstream, facts)),
            Err(AttemptError::Endpoint(Failure::Broken, _))
                if upstream.was_refused() && self.body.can_be_repeated() =>
            {
                Err(match connection {
                    Connection::Any => AttemptError::Stale,
                    Connection::New => {
                        AttemptError::Endpoint(Failure::Refused, "the endpoint refused the request")
                    }
                })
            }
            Err(AttemptError::Endpoint(Failure::Broken, _))
                if may_be_stale && upstream.is_untouched() && self.body.can_be_repeated() =>
            {
                Err(AttemptError::Stale)
            }
            Err(error) => Err(error),
        }
    }

    /// Sends what is left of the body and reads until the final response's head has come.
    pub(super) async fn response_head(
        &mut self,
        upstream: &mut Upstream,
    ) -> Result<ResponseFacts, AttemptError<'a>> {
        let journey = self.journey;
        let timeouts = &journey.table.service(self.decision.service).settings.timeouts;
        let broken = |why| AttemptError::Endpoint(Failure::Broken, why);
        loop {
            while let Some(heard) =
                head(journey, self.decision, self.down, upstream.unread()).map_err(broken)?
            {
                let facts = match heard {
                    Heard::Answer(facts) => facts,
                    Heard::NotPrimary => return Err(AttemptError::Halted(Halt::Misdirected)),
                    Heard::Refuted => return Err(AttemptError::Refuted),
                };
                if !facts.interim() {
                    self.body.leave_if_sent();
                    return Ok(facts);
                }
                let head = interim(upstream.unread(), journey.is_head).map_err(broken)?;
                upstream.consume(facts.len);
                journey.alarm_after(timeouts.idle);
                let passed = journey.alarm.race(self.down.interim(&head)).await;
                passed.unwrap_or(Err(ClientGone::TimedOut)).map_err(AttemptError::Client)?;
            }
            let uploading = !self.body.is_sent();
            let patience = if uploading { timeouts.idle } else { timeouts.first_byte };
            let read = match self.wait(upstream, patience).await? {
                Some(Event::Read(Ok(0))) => {
                    return Err(broken("the endpoint closed the connection without an answer"));
                }
                // An endpoint that takes no more may have answered before.
                Some(Event::Sent(Err(_))) => {
                    self.body.give_up();
                    Ok(0)
                }
                Some(Event::Read(result) | Event::Sent(result)) => result,
                Some(Event::Body(result)) => {
                    result.map(|()| 0).map_err(AttemptError::Client).map(Ok)?
                }
                Some(Event::Gone) => return Err(AttemptError::Client(ClientGone::Closed)),
                None if uploading && self.body.waits_for_client() => {
                    return Err(AttemptError::Client(ClientGone::TimedOut));
                }
                None => {
                    return Err(AttemptError::Endpoint(Failure::TimedOut, "no answer in time"));
                }
            };
            read.map_err(|_| broken("the connection to the endpoint broke"))?;
        }
    }

    /// Waits for the next event; `None` if `patience` runs out. When the endpoint goes out meanwhile, a request that the
    /// retry policy lets go on elsewhere does not wait for the end of its patience.
    async fn wait(
        &mut self,
        upstream: &mut Upstream,
        patience: Duration,
    ) -> Result<Option<Event>, AttemptError<'a>> {
        let journey = self.journey;
        let for_client = self.body.waits_for_client();
        let patience = self.body.patience(patience, journey.alarm.now());
        let until = journey.deadline_after(patience);
        let _alert = journey.alarm.alert();
        loop {
            if self.body.is_deposed(upstream.holds_some()) {
                return Err(AttemptError::Deposed);
            }
            journey.alarm.set_at(until);
            if let Ok(event) = journey.alarm.race(self.body.either(upstream, self.down)).await {
                self.body.waited(for_client, journey.alarm.now());
                return Ok(Some(event));
            }
            if journey.alarm.now() >= until {
                return Ok(None);
            }
            if let Some(next) = self.leave() {
                return Err(AttemptError::Left(next));
            }
        }
    }

    /// Counts a request that needs the primary in at the gate of its service; `false`: its table is out of date.
    fn enter(&mut self) -> bool {
        let (table, decision) = (self.journey.table, self.decision);
        if decision.class.access == AccessClass::Read {
            return true;
        }
        let service = table.service(decision.service);
        let guard = service.enter_write();
        let entered = guard.is_some();
        self.body.inside = guard.map(|guard| Inside::new(service, guard));
        entered
    }

    /// Where the request goes on if the endpoint has gone out since the attempt began, and the retry policy lets it.
    fn leave(&mut self) -> Option<Decision> {
        let service = self.journey.table.service(self.decision.service);
        let load = &service.endpoint(self.decision.endpoint.endpoint).load;
        if load.outs() == self.outs {
            return None;
        }
        let replayable = self.body.can_be_repeated();
        self.tries.leave(self.journey, self.decision, self.down, replayable)
    }

    /// Waits for the first bytes of an answer as long as an endpoint has for them; leaves it when it goes out.
    pub(super) async fn patiently<T, F>(
        &mut self,
        mut asking: Pin<&mut F>,
        may_leave: bool,
    ) -> Result<T, AttemptError<'a>>
    where
        F: Future<Output = Result<T, AttemptError<'a>>>,
    {
        let journey = self.journey;
        let patience = journey.table.service(self.decision.service).settings.timeouts.first_byte;
        let until = journey.deadline_after(patience);
        let _alert = journey.alarm.alert();
        loop {
            journey.alarm.set_at(until);
            if let Ok(answered) = journey.alarm.race(asking.as_mut()).await {
                return answered;
            }
            if journey.alarm.now() >= until {
                return Err(AttemptError::Endpoint(Failure::TimedOut, "no answer in time"));
            }
            if may_leave && let Some(next) = self.leave() {
                return Err(AttemptError::Left(next));
            }
        }
    }
}

/// A connection to the endpoint: an idle one, or a new one to the first of its addresses that accepts.
pub(super) async fn connect<'a>(
    journey: &Journey<'_>,
    decision: &Decision,
    connection: Connection,
    careful: bool,
) -> Result<Upstream, AttemptError<'a>> {
    let service = journey.table.service(decision.service);
    let endpoint = service.endpoint(decision.endpoint.endpoint);
    let pool = &journey.worker.pool;
    let dial = Dial::new(journey.worker, service, endpoint);
    let now = journey.alarm.now();
    let kept = if connection == Connection::Any { &*endpoint.addresses } else { &[] };
    for address in kept {
        if let Some(upstream) = pool.take(&dial, *address, careful, now) {
            return Ok(upstream);
        }
    }
    let region = journey.table.region(decision.region.region);
    let automatic = automatic(region.connect_timeout(), service.settings.tls.is_some());
    let within = service.settings.timeouts.connect.unwrap_or(automatic);
    // A name's addresses take turns, so that none gets all of its connections.
    let count = endpoint.addresses.len();
    let first = if count > 1 { journey.worker.random() as usize % count } else { 0 };
    for turn in 0..count {
        let address = &endpoint.addresses[(first + turn) % count];
        let left = journey.deadline.since(journey.worker.clock.now());
        let connecting = pool.connect(&dial, *address, within.min(left), region.user_timeout());
        if let Ok(upstream) = connecting.await {
            return Ok(upstream);
        }
    }
    Err(AttemptError::Endpoint(Failure::Connect, "the endpoint does not accept connections"))
}

impl Journey<'_> {
    /// The epoch of the primary that a request is for; 0: it may go anywhere, or nobody has said one.
    fn epoch(&self, decision: &Decision) -> u64 {
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

    fn deadline_after(&self, after: Duration) -> Micros {
        self.alarm.now().plus(after + TICK).min(self.deadline)
    }
}
