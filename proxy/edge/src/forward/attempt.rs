//! One attempt: connect, send, wait for the head.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use meridian_routing::{AccessClass, Decision, Failure};

use super::dial::{Dial, automatic};
use super::heads::{Answer, Heard, head, interim};
use super::hedge::{Overtaking, Plan};
use super::journey::{Journey, Prepared};
use super::park::Halt;
use super::sent_body::{Event, Inside, SentBody};
use super::tries::Tries;
use super::upstream::Upstream;
use super::{ClientGone, Downstream};

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
    "the request's target, host or trailers cannot be said in HTTP/2",
));

/// Which connections an attempt may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connection {
    Any,
    New,
}

/// One attempt at one endpoint.
pub(super) struct Attempt<'a, 'd, D> {
    pub(super) journey: &'a Journey<'a>,
    pub(super) decision: &'d Decision,
    /// How often the endpoint had gone out when the attempt began.
    pub(super) outs: u32,
    pub(super) down: &'d mut D,
    pub(super) body: &'d mut SentBody,
    pub(super) tries: &'d mut Tries,
}

impl<'a, D: Downstream> Attempt<'a, '_, D> {
    /// Makes the attempt; `begun`: its answer has begun to come. The first attempt of a route that hedges may become two.
    pub(super) async fn make(
        &mut self,
        begun: Option<Upstream>,
        plan: Option<Plan<'a>>,
        first: &mut Option<Prepared>,
    ) -> Result<(Upstream, Answer), AttemptError<'a>> {
        if let Some(mut upstream) = begun {
            let answer = self.response_head(&mut upstream).await?;
            return Ok((upstream, answer));
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
    ) -> Result<(Upstream, Answer), AttemptError<'a>> {
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
    ) -> Result<(Upstream, Answer), AttemptError<'a>> {
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
        let watch = self.body.watch();
        let may_write = || watch.as_ref().is_none_or(|(gate, epoch)| gate.highest() <= *epoch);
        let body = self.body.again(&mut upstream);
        let mut polled = false;
        let sent = {
            let mut sending = pin!(upstream.write_both(&head, body, watch.clone()));
            // A stream of HTTP/2 may have waited for its turn until after the end of the epoch.
            let sending = poll_fn(|cx| match may_write() {
                true => {
                    polled = true;
                    sending.as_mut().poll(cx)
                }
                false => Poll::Ready(Err(io::ErrorKind::PermissionDenied.into())),
            });
            journey.alarm.race(sending).await
        };
        let count = match sent {
            Ok(Ok(count)) => count,
            Ok(Err(_)) => {
                let ended = (!may_write()).then_some(polled);
                self.not_sent(&upstream, ended, may_be_stale)?
            }
            Err(_) => {
                return Err(AttemptError::Endpoint(Failure::TimedOut, "sending took too long"));
            }
        };
        journey.worker.buffers.give(head);
        self.body.was_sent(count);
        match self.response_head(&mut upstream).await {
            Ok(answer) => Ok((upstream, answer)),
            Err(error) => Err(self.unanswered(error, &upstream, connection, may_be_stale)),
        }
    }

    /// What it means that a request could not be sent. `ended`: the epoch did first, and whether the connection was given
    /// something before. An endpoint that takes no more may have answered: then so many bytes count as sent.
    #[cold]
    fn not_sent(
        &mut self,
        upstream: &Upstream,
        ended: Option<bool>,
        may_be_stale: bool,
    ) -> Result<usize, AttemptError<'a>> {
        match ended {
            Some(true) if upstream.has_begun() => Err(AttemptError::Deposed),
            Some(_) => Err(AttemptError::Halted(Halt::Outdated)),
            None if upstream.cannot_say() => Err(UNSAYABLE),
            None if may_be_stale => Err(AttemptError::Stale),
            None => {
                self.body.give_up();
                Ok(self.body.held())
            }
        }
    }

    /// What the error means with which the wait for an answer ended.
    #[cold]
    fn unanswered(
        &self,
        error: AttemptError<'a>,
        upstream: &Upstream,
        connection: Connection,
        may_be_stale: bool,
    ) -> AttemptError<'a> {
        let broken = matches!(error, AttemptError::Endpoint(Failure::Broken, _));
        if !(broken && self.body.can_be_repeated()) {
            return error;
        }
        match connection {
            Connection::Any if upstream.was_refused() => AttemptError::Stale,
            Connection::New if upstream.was_refused() => {
                AttemptError::Endpoint(Failure::Refused, "the endpoint refused the request")
            }
            _ if may_be_stale && upstream.is_untouched() => AttemptError::Stale,
            _ => error,
        }
    }

    /// Sends what is left of the body and reads until the final response's head has come.
    pub(super) async fn response_head(
        &mut self,
        upstream: &mut Upstream,
    ) -> Result<Answer, AttemptError<'a>> {
        let journey = self.journey;
        let timeouts = &journey.table.service(self.decision.service).settings.timeouts;
        let broken = |why| AttemptError::Endpoint(Failure::Broken, why);
        loop {
            while let Some(heard) =
                head(journey, self.decision, self.down, upstream.unread()).map_err(broken)?
            {
                let answer = match heard {
                    Heard::Answer(answer) => answer,
                    Heard::NotPrimary => return Err(AttemptError::Halted(Halt::Misdirected)),
                    Heard::Refuted => return Err(AttemptError::Refuted),
                };
                if !answer.facts.interim() {
                    self.body.leave_if_sent(upstream.holds_some());
                    return Ok(answer);
                }
                let head = interim(upstream.unread(), journey.is_head).map_err(broken)?;
                upstream.consume(answer.facts.len);
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
                Some(Event::Sent(Err(_))) if upstream.cannot_say() => return Err(UNSAYABLE),
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
    let dial = Dial::new(journey, service, endpoint);
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
