//! One request of an HTTP/1.1 connection whose head is there: decide, then forward, hand over, or refuse.

use std::io;
use std::sync::Arc;

use meridian_config::{RouteIndex, UpstreamProtocol};
use meridian_routing::{Decision, Micros, Refusal, RoutingTable};

use super::{Connection, Next};
use crate::admit::{Admitted, admit, admit_with_body, most_body};
use crate::alarm::Alarm;
use crate::forward::{ClientGone, Failed, Journey, Prepared, forward, place_for_tunnel};
use crate::http1::body::Framing;
use crate::http1::downstream::Http1;
use crate::http1::head::{HeadError, HeadFacts, with_head};
use crate::identify::Peer;
use crate::observe::{Observation, observe, write_line};
use crate::respond::{OwnAnswer, summary};
use crate::session;
use crate::upgrade::{Offer, Returned};
use crate::worker::Worker;

/// One decided request.
#[derive(Clone, Copy)]
struct Work<'a> {
    table: &'a RoutingTable,
    admitted: &'a Admitted,
    /// As matched by that table.
    route: RouteIndex,
    facts: HeadFacts,
    started: Micros,
}

impl<'a> Work<'a> {
    fn journey(&self, worker: &'a Worker, peer: &'a Peer, alarm: &'a Alarm) -> Journey<'a> {
        let service = self.table.service(self.table.route(self.route).service);
        Journey {
            worker,
            table: self.table,
            route: self.route,
            client: self.admitted.client,
            peer,
            ids: &self.admitted.ids,
            sticky: self.admitted.sticky.as_ref(),
            session: self.admitted.session.as_ref(),
            expect_continue: self.facts.expect_continue,
            is_head: self.facts.is_head,
            started: self.started,
            alarm,
            deadline: self.started.plus(service.settings.timeouts.request),
        }
    }
}

impl Connection {
    /// One request whose head of `head` bytes is there: decide, then forward, hand over, or refuse.
    pub(super) async fn exchange(&mut self, table: Arc<RoutingTable>, head: usize) -> Next {
        let started = self.worker.clock.now();
        self.requests += 1;
        let limits = &table.config.limits;
        let keep_alive =
            !self.worker.is_leaving() && self.requests < limits.requests_per_connection;
        let (mut admitted, mut facts, mut prepared) = match self.look(&table, head, started) {
            Ok(seen) => seen,
            Err(error) => {
                let answer = OwnAnswer::head_error(error);
                return Box::pin(self.answer_early(&table, &answer)).await;
            }
        };
        if admitted.wants_body {
            match self.look_at_body(&table, &admitted, facts, started).await {
                Ok((decided, parks)) => (admitted.decided, admitted.parks) = (decided, parks),
                Err(Some(answer)) => {
                    return Box::pin(self.turn_down(&table, &admitted, &answer, started)).await;
                }
                Err(None) => {
                    observe(&self.worker, &Observation::gone(&table, &admitted, started));
                    return Next::Close;
                }
            }
        }
        let elsewhere = admitted.own.is_none();
        if elsewhere {
            self.worker.crowd.admit(&table, &mut admitted);
        }
        if elsewhere
            && admitted.is_in_session()
            && Box::pin(self.settle(&table, &mut admitted, facts)).await
        {
            // It was written for another endpoint.
            if let Some(prepared) = prepared.take() {
                self.worker.buffers.give(prepared.into_head());
            }
        }
        // Over HTTP/2 there is no Upgrade, and whoever does not want to switch may just answer (RFC 9110 section 7.8).
        let shared = |decision: Decision| {
            table.service(decision.service).settings.protocol != UpstreamProtocol::Http1
        };
        facts.upgrade = facts.upgrade && !admitted.decided.is_ok_and(shared);
        if let Ok(decision) = admitted.decided
            && facts.upgrade
        {
            admitted.decided = place_for_tunnel(&table, decision, started);
        }
        let route = admitted.heads_for().filter(|_| admitted.decided.is_ok() || !facts.upgrade);
        match (admitted.own.take(), admitted.decided) {
            (Some(own), _) => {
                let seen = Observation::own(&table, &admitted, own.reason, started);
                write_line(&self.worker, &seen);
                self.reply(&own.bytes, facts, keep_alive).await
            }
            (None, Err(refusal)) if route.is_none() => {
                Box::pin(self.refuse(&table, &admitted, refusal, facts, keep_alive, started)).await
            }
            (None, _) if route.is_some_and(|route| over_limit(&table, route, facts)) => {
                let answer = OwnAnswer::head_error(HeadError::BodyTooLarge);
                Box::pin(self.turn_down(&table, &admitted, &answer, started)).await
            }
            (None, Ok(decision)) if facts.upgrade => {
                Box::pin(self.upgrade(table, admitted, decision, facts, started)).await
            }
            (None, _) => {
                let Some(route) = route else { return Next::Close };
                let work = Work { table: &table, admitted: &admitted, route, facts, started };
                self.forward(work, keep_alive, prepared).await
            }
        }
    }

    /// Parses, identifies and decides; and writes the first attempt's head while the request is at hand.
    fn look(
        &mut self,
        table: &Arc<RoutingTable>,
        head: usize,
        started: Micros,
    ) -> Result<(Admitted, HeadFacts, Option<Prepared>), HeadError> {
        let listener = &self.listener.settings;
        with_head(&self.read[..head], &table.config.limits, |request, facts| {
            let admitted = admit(&self.worker, table, &self.peer, listener, request, started);
            let direct = !admitted.wants_body && admitted.own.is_none() && !facts.upgrade;
            let prepared = admitted.decided.ok().filter(|_| direct).map(|decision| {
                let route = decision.route;
                let work = Work { table, admitted: &admitted, route, facts, started };
                let journey = work.journey(&self.worker, &self.peer, &self.alarm);
                Prepared::new(&journey, &decision, request, facts.framing.into())
            });
            (admitted, facts, prepared)
        })
    }

    /// Waits where a read should rather wait for a replica, and decides it again; whether it did.
    async fn settle(
        &mut self,
        table: &Arc<RoutingTable>,
        admitted: &mut Admitted,
        facts: HeadFacts,
    ) -> bool {
        let limits = &table.config.limits;
        let now = self.worker.clock.now();
        let due = with_head(&self.read[..facts.len], limits, |request, _| {
            session::due(table, admitted, request, now)
        });
        let (Ok(Some(due)), Ok(decision)) = (due, admitted.decided) else {
            session::count(table, admitted, false);
            return false;
        };
        let waited = session::wait(table, &decision, &due).await;
        let now = self.worker.clock.now();
        let decided = with_head(&self.read[..facts.len], limits, |request, _| {
            session::again(&self.worker, table, admitted, &decision, request, now)
        });
        // The head was well before.
        admitted.decided = decided.unwrap_or(Ok(decision));
        session::count(table, admitted, waited);
        true
    }

    /// Decides again with the body in hand, as far as it is small enough to be held.
    async fn look_at_body(
        &mut self,
        table: &Arc<RoutingTable>,
        admitted: &Admitted,
        facts: HeadFacts,
        started: Micros,
    ) -> Result<(Result<Decision, Refusal>, bool), Option<OwnAnswer>> {
        let held = self.read_small_body(facts, table).await.map_err(OwnAnswer::client)?;
        let body = held.map(|len| &self.read[facts.len..facts.len + len]);
        with_head(&self.read[..facts.len], &table.config.limits, |request, _| {
            admit_with_body(&self.worker, table, &self.peer, request, admitted, body, started)
        })
        .map_err(|error| Some(OwnAnswer::head_error(error)))
    }

    /// Reads a body that classification wants to see, if it is announced to be small; its length.
    async fn read_small_body(
        &mut self,
        facts: HeadFacts,
        table: &RoutingTable,
    ) -> Result<Option<usize>, ClientGone> {
        const MOST: u64 = 64 * 1024;
        let Framing::Length(length @ ..=MOST) = facts.framing else {
            return Ok(None);
        };
        let length = length as usize;
        if facts.expect_continue {
            return Ok(None);
        }
        self.alarm.set(table.config.limits.header_timeout);
        while self.read.len() < facts.len + length {
            match self.fill().await {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Err(ClientGone::TimedOut);
                }
                Ok(0) | Err(_) => return Err(ClientGone::Closed),
            }
        }
        Ok(Some(length))
    }

    /// Sends a whole answer and moves on to the next request if its body does not stand in between.
    async fn reply(&mut self, bytes: &[u8], facts: HeadFacts, keep_alive: bool) -> Next {
        let bodiless = facts.framing == Framing::Empty;
        if !self.send(bytes).await {
            return Next::Close;
        }
        if !(keep_alive && facts.keep_alive && bodiless) {
            return Next::Linger;
        }
        self.read.drain(..facts.len);
        Next::Again
    }

    /// Answers a request whose body is no good; the connection ends.
    async fn turn_down(
        &mut self,
        table: &RoutingTable,
        admitted: &Admitted,
        answer: &OwnAnswer,
        started: Micros,
    ) -> Next {
        let refusal = admitted.turned_down(answer.status);
        let seen = Observation::refused(table, admitted, &refusal, started);
        observe(&self.worker, &Observation { error: Some(answer.message), ..seen });
        self.send(&answer.http1(admitted.json, admitted.ids.id(), true, false)).await;
        Next::Linger
    }

    async fn refuse(
        &mut self,
        table: &RoutingTable,
        admitted: &Admitted,
        refusal: Refusal,
        facts: HeadFacts,
        keep_alive: bool,
        started: Micros,
    ) -> Next {
        let answer = OwnAnswer::refusal(&refusal);
        observe(&self.worker, &Observation::refused(table, admitted, &refusal, started));
        let bodiless = facts.framing == Framing::Empty;
        let close = !(keep_alive && facts.keep_alive && bodiless);
        let (id, location) = (admitted.ids.id(), admitted.location.as_deref());
        let bytes = answer.http1_at(location, admitted.json, id, close, facts.is_head);
        self.reply(&bytes, facts, keep_alive).await
    }

    /// The direct lane.
    async fn forward(
        &mut self,
        work: Work<'_>,
        keep_alive: bool,
        prepared: Option<Prepared>,
    ) -> Next {
        let Work { table, admitted, route, facts, started } = work;
        let worker = &self.worker;
        let journey = work.journey(worker, &self.peer, &self.alarm);
        let limits = &table.config.limits;
        let most = most_body(table, route);
        let mut down = Http1::new(
            &mut self.stream,
            limits,
            &worker.buffers,
            &mut self.read,
            facts,
            keep_alive,
            most,
        );
        let ending = forward(&journey, admitted.decided, &mut down, prepared).await;
        let (reusable, consumed) = (down.reusable(), down.consumed());
        let body_done = down.body_done();
        drop(down);
        let (status, bytes, answer) = summary(&ending);
        let table = ending.table.as_deref().unwrap_or(table);
        observe(worker, &Observation::ended(table, admitted, &ending, (status, bytes), started));
        match (&ending.result, answer) {
            (Ok(_), _) if reusable => {
                self.read.drain(..consumed);
                Next::Again
            }
            (Ok(_), _) => Next::Linger,
            (Err(Failed::Cut { .. }), _) => Next::Reset,
            (Err(_), Some(answer)) => {
                let close = !(reusable && body_done);
                let bytes = answer.http1(admitted.json, admitted.ids.id(), close, facts.is_head);
                if !self.send(&bytes).await {
                    return Next::Close;
                }
                if close {
                    return Next::Linger;
                }
                self.read.drain(..consumed);
                Next::Again
            }
            (Err(_), None) => Next::Close,
        }
    }

    /// The pingora lane: upgrades. The stream comes back if the endpoint did not take the offer.
    async fn upgrade(
        &mut self,
        table: Arc<RoutingTable>,
        admitted: Admitted,
        decision: Decision,
        facts: HeadFacts,
        started: Micros,
    ) -> Next {
        let offer = Offer {
            worker: &self.worker,
            listener: &self.listener,
            peer: &self.peer,
            stream: &mut self.stream,
            read: &self.read,
            facts,
            started,
            alarm: &self.alarm,
        };
        let returned = self.worker.upgrades.carry(offer, table, admitted, decision).await;
        self.read.clear();
        match returned {
            Returned::Open if !self.worker.is_closing() => Next::Again,
            Returned::Answered => Next::Linger,
            Returned::Open | Returned::Gone => Next::Close,
        }
    }
}

/// Whether the announced body is longer than the route allows.
fn over_limit(table: &RoutingTable, route: RouteIndex, facts: HeadFacts) -> bool {
    matches!(facts.framing, Framing::Length(length) if length > most_body(table, route))
}
