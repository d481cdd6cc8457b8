//! HTTP/2 from clients: one task per stream, all forwarded by the same forwarder.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use meridian_config::Limits;
use meridian_http2::{ConnectionError, Opened, Reason, Session};
use meridian_routing::{Filter, Micros, Refusal, RoutingTable};

use crate::admit::{Admitted, admit, admit_with_body, most_body};
use crate::alarm::Alarm;
use crate::buffers::Spare;
use crate::connection::{LINGER, linger};
use crate::forward::canonical::RequestIds;
use crate::forward::{Downstream, Journey, forward};
use crate::http1::head::HeadError;
use crate::http2_line::{Line, Over};
use crate::http2_stream::Http2Stream;
use crate::identify::Peer;
use crate::listener::ListenerState;
use crate::log_line::{Beginning, Described};
use crate::observe::{Observation, observe, write_line};
use crate::request::Notes;
use crate::respond::{OwnAnswer, summary};
use crate::session;
use crate::transport::Transport;
use crate::worker::Worker;

/// How long a client has to hear that it should leave, before nothing new of it is served.
const GOODBYE: Duration = Duration::from_secs(1);
/// After so long without anything a connection lets go of what it does not need.
const REST: Duration = Duration::from_secs(2);

/// What the streams of a connection share.
struct Shared {
    worker: Rc<Worker>,
    listener: Arc<ListenerState>,
    peer: Peer,
    session: Rc<RefCell<Session<Spare>>>,
}

/// A connection, for the task that moves its bytes.
struct Connection {
    shared: Rc<Shared>,
    line: Line,
    alarm: Alarm,
    limits: Limits,
    served: u32,
    /// What the client owes the rest of (its preface, a header block), and since when.
    owes: Option<(u32, Micros)>,
    /// Since when there has been no stream, as seen every two seconds; `None` while there are some.
    quiet_since: Option<Micros>,
    /// What the connection does not need has been let go of since then.
    rested: bool,
    forgiven: Micros,
    leaving_since: Option<Micros>,
    /// Since when there has been nothing more to do than to say what is still to be said.
    ending_since: Option<Micros>,
}

/// Serves a connection to its end; `read` is what was read of it already.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    stream: Transport,
    listener: Arc<ListenerState>,
    peer: Peer,
    read: Vec<u8>,
) {
    let limits = worker.table().config.limits.clone();
    let line = Line::new(stream, read, &limits, &worker.buffers);
    let (alarm, now) = (worker.alarms.alarm(), worker.alarms.now());
    // The edge's end rings the alarm of a connection.
    alarm.set_idle(true);
    let session = line.session.clone();
    let shared = Rc::new(Shared { worker, listener, peer, session });
    let connection = Connection {
        shared,
        line,
        alarm,
        limits,
        served: 0,
        owes: None,
        quiet_since: None,
        rested: false,
        forgiven: now,
        leaving_since: None,
        ending_since: None,
    };
    connection.run().await;
}

impl Connection {
    async fn run(mut self) {
        let mut opened = Vec::new();
        let over = loop {
            self.set_alarm();
            let Self { line, alarm, .. } = &mut self;
            match alarm.race(poll_fn(|cx| line.poll(&mut opened, cx))).await {
                Ok(Ok(())) => self.serve_all(&mut opened),
                Ok(Err(over)) => break over,
                Err(_) => {
                    if let Some(over) = self.late() {
                        break over;
                    }
                }
            }
        };
        self.shared.session.borrow_mut().lose();
        self.alarm.set_idle(false);
        match over {
            Over::Failed => {
                let stream = &mut self.line.stream;
                Box::pin(linger(&self.shared.worker, stream, &self.alarm)).await;
            }
            Over::Done => Box::pin(self.see_off()).await,
            Over::Lost => {}
        }
    }

    /// Ends this side and reads away what the client says while it takes its last answers: a connection that was closed
    /// altogether would answer that with a reset, and what is on its way would be lost.
    async fn see_off(&mut self) {
        let Self { shared, line, alarm, limits, .. } = self;
        if line.stream.shut_down().is_err() {
            return;
        }
        let until = alarm.now().plus(limits.keepalive_timeout);
        let mut sink = shared.worker.buffers.take();
        while alarm.now() < until {
            alarm.set(LINGER);
            sink.clear();
            if !matches!(alarm.race(line.stream.read_into(&mut sink)).await, Ok(Ok(1..))) {
                break;
            }
        }
        shared.worker.buffers.give(sink);
    }

    /// Begins what has come.
    fn serve_all(&mut self, opened: &mut Vec<Opened>) {
        for Opened { stream, head, ended } in opened.drain(..) {
            self.served = self.served.saturating_add(1);
            let down = Http2Stream::new(self.shared.session.clone(), stream, head, ended);
            // Boxed, so that the runtime does not move all of it about.
            tokio::task::spawn_local(Box::pin(stream_of(self.shared.clone(), down)));
        }
        let enough = self.served >= self.limits.requests_per_connection;
        if enough || (self.served > 0 && self.shared.worker.is_leaving()) {
            self.leave();
        }
    }

    fn leave(&mut self) {
        self.leaving_since.get_or_insert(self.alarm.now());
        self.shared.session.borrow_mut().leave();
    }

    /// Takes note of what has changed, and sets the alarm to when something is to be done about it.
    fn set_alarm(&mut self) {
        let now = self.alarm.now();
        self.take_note(now);
        let busy = self.quiet_since.is_none();
        let quiet = if self.rested { self.patience() } else { self.patience().min(REST) };
        let leaving = self.leaving_since.filter(|_| !self.shared.session.borrow().is_last());
        let deadlines = [
            (self.ending_since, self.last_patience()),
            (leaving, GOODBYE),
            (self.owes.map(|(_, since)| since), self.limits.header_timeout),
            (self.quiet_since.filter(|_| self.ending_since.is_none()), quiet),
            (busy.then_some(self.forgiven), REST),
        ];
        let deadlines = deadlines.into_iter().filter_map(|(since, by)| Some(since?.plus(by)));
        if let Some(first) = deadlines.reduce(Micros::min) {
            self.alarm.set(first.since(now));
        }
    }

    fn take_note(&mut self, now: Micros) {
        let owed = self.line.owed();
        let mut session = self.shared.session.borrow_mut();
        if now.since(self.forgiven) >= REST {
            session.forgive();
            self.forgiven = now;
        }
        let (busy, failed) = (session.active() > 0, session.has_failed());
        self.quiet_since = (!busy).then(|| self.quiet_since.unwrap_or(now));
        self.rested &= !busy;
        let ending = failed || (session.is_last() && !busy);
        self.ending_since = ending.then(|| self.ending_since.unwrap_or(now));
        self.owes = owed.filter(|_| !failed).map(|what| match self.owes {
            Some((known, since)) if known == what => (what, since),
            _ => (what, now),
        });
    }

    /// How long the connection may be without streams.
    fn patience(&self) -> Duration {
        let most = self.limits.keepalive_timeout;
        if self.shared.session.borrow().client_leaves() { most.min(GOODBYE) } else { most }
    }

    /// How long the client may take over the last that it is sent.
    fn last_patience(&self) -> Duration {
        let failed = self.shared.session.borrow().has_failed();
        if failed { LINGER } else { self.limits.keepalive_timeout.max(LINGER) }
    }

    /// A deadline has passed, or the edge is about to end.
    fn late(&mut self) -> Option<Over> {
        let now = self.alarm.now();
        self.take_note(now);
        let late = |since: Option<Micros>, by: Duration| since.is_some_and(|s| now.since(s) >= by);
        if late(self.ending_since, self.last_patience()) {
            return Some(Over::Lost);
        }
        if self.shared.worker.is_closing() && self.leaving_since.is_none() {
            self.leave();
            return None;
        }
        let patience = self.patience();
        let mut session = self.shared.session.borrow_mut();
        if late(self.leaving_since, GOODBYE) {
            session.leave_now();
        }
        if late(self.owes.map(|(_, since)| since), self.limits.header_timeout) {
            let reason = Reason::ENHANCE_YOUR_CALM;
            session.fail(ConnectionError { reason, why: "the rest did not come in time" });
        } else if late(self.quiet_since, patience) {
            session.leave_now();
        } else if late(self.quiet_since, REST) && !self.rested {
            session.rest();
            self.rested = true;
        }
        None
    }
}

/// One request: decide, then forward or refuse.
async fn stream_of(shared: Rc<Shared>, mut down: Http2Stream) {
    let Shared { worker, listener, peer, .. } = &*shared;
    let table = worker.table();
    let started = worker.clock.now();
    let alarm = worker.alarms.alarm();
    if let Err(answer) = down.check(&table.config.limits) {
        let ids = RequestIds::new(&Notes::default(), worker.random());
        let refusal = Refusal { route: None, filter: Filter::Malformed, status: answer.status };
        let described = down.request(|request| {
            let seen = Beginning::of_stream(request.method, request.authority, request.target);
            Described::unread(worker, seen)
        });
        let seen = Observation::unserved(&table, peer.address, ids.id(), &refusal, started);
        let (described, error) = (described.as_ref(), Some(answer.message));
        observe(worker, &Observation { described, error, ..seen });
        return reply(&mut down, &alarm, &answer, false, ids.id()).await;
    }
    let settings = &listener.settings;
    let mut admitted =
        down.request(|request| admit(worker, &table, peer, settings, request, started));
    if let Some(own) = &admitted.own {
        // OPTIONS or TRACE that may not go any further.
        let answer = OwnAnswer::new(200, "last_hop", "this is the last hop");
        write_line(worker, &Observation::own(&table, &admitted, own.reason, started));
        return reply(&mut down, &alarm, &answer, false, admitted.ids.id()).await;
    }
    if down.expects_continue() {
        down.tell_continue();
    }
    if admitted.wants_body {
        alarm.set(table.config.limits.header_timeout);
        let held = match alarm.race(down.hold_body()).await {
            Ok(Ok(held)) => held,
            Ok(Err(_)) | Err(_) => {
                observe(worker, &Observation::gone(&table, &admitted, started));
                return down.reset(Reason::CANCEL);
            }
        };
        (admitted.decided, admitted.parks) = down.request(|request| {
            let body = held.then(|| down.held_body());
            admit_with_body(worker, &table, peer, request, &admitted, body, started)
        });
    }
    worker.crowd.admit(&table, &mut admitted);
    if admitted.is_in_session() {
        Box::pin(settle(worker, &table, &mut admitted, &down)).await;
    }
    let route = match (admitted.heads_for(), admitted.decided) {
        (Some(route), _) => route,
        (None, Ok(decision)) => decision.route,
        (None, Err(refusal)) => {
            observe(worker, &Observation::refused(&table, &admitted, &refusal, started));
            let answer = OwnAnswer::refusal(&refusal);
            down.set_location(admitted.location.take());
            return reply(&mut down, &alarm, &answer, admitted.json, admitted.ids.id()).await;
        }
    };
    if !down.limit_body(most_body(&table, route)) {
        let answer = OwnAnswer::head_error(HeadError::BodyTooLarge);
        let refusal = admitted.turned_down(answer.status);
        let seen = Observation::refused(&table, &admitted, &refusal, started);
        observe(worker, &Observation { error: Some(answer.message), ..seen });
        return reply(&mut down, &alarm, &answer, admitted.json, admitted.ids.id()).await;
    }
    let request_time = table.service(table.route(route).service).settings.timeouts.request;
    let journey = Journey {
        worker,
        table: &table,
        route,
        client: admitted.client,
        peer,
        ids: &admitted.ids,
        sticky: admitted.sticky.as_ref(),
        session: admitted.session.as_ref(),
        expect_continue: false,
        is_head: down.is_head(),
        started,
        alarm: &alarm,
        deadline: started.plus(request_time),
    };
    // A client that resets its stream takes its work at the endpoint with it; if it has done so already, there is none.
    let watch = down.reset_watch();
    let gone = down.is_gone();
    let ending = tokio::select! {
        biased;
        ending = forward(&journey, admitted.decided, &mut down, None), if !gone => ending,
        () = watch => {
            let seen = Observation::gone(&table, &admitted, started);
            return observe(worker, &Observation { error: Some("the client reset it"), ..seen });
        }
    };
    let (status, bytes, answer) = summary(&ending);
    let table = ending.table.as_ref().unwrap_or(&table);
    observe(worker, &Observation::ended(table, &admitted, &ending, (status, bytes), started));
    if let Some(answer) = answer {
        reply(&mut down, &alarm, &answer, admitted.json, admitted.ids.id()).await;
    }
}

/// Waits where a read should rather wait for a replica, and decides it again.
async fn settle(
    worker: &Worker,
    table: &Arc<RoutingTable>,
    admitted: &mut Admitted,
    down: &Http2Stream,
) {
    let now = worker.clock.now();
    let due = down.request(|request| session::due(table, admitted, request, now));
    let (Some(due), Ok(decision)) = (due, admitted.decided) else {
        return session::count(table, admitted, false);
    };
    let waited = session::wait(table, &decision, &due).await;
    let now = worker.clock.now();
    admitted.decided =
        down.request(|request| session::again(worker, table, admitted, &decision, request, now));
    session::count(table, admitted, waited);
}

/// Answers in the name of this edge, as far as the client takes it in time.
async fn reply(down: &mut Http2Stream, alarm: &Alarm, answer: &OwnAnswer, json: bool, id: &str) {
    alarm.set(LINGER);
    let _ = alarm.race(down.answer(answer, json, id)).await;
}
