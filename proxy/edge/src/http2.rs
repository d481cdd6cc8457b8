//! HTTP/2 from clients: one task per stream, all forwarded by the same forwarder.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use meridian_config::Limits;
use meridian_http2::{ConnectionError, Opened, Reason, Session};
use meridian_routing::{Filter, Micros, Refusal};

use crate::admit::{admit, admit_with_body, most_body};
use crate::alarm::Alarm;
use crate::buffers::Spare;
use crate::connection::{LINGER, linger};
use crate::forward::{Downstream, Journey, forward};
use crate::http1::head::HeadError;
use crate::http2_line::{Line, Over};
use crate::http2_stream::Http2Stream;
use crate::identify::Peer;
use crate::listener::ListenerState;
use crate::observe::{Observation, observe};
use crate::respond::{OwnAnswer, summary};
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
    /// Since when the client owes the rest of something that it has begun: its preface, or a header block.
    owes_since: Option<Micros>,
    quiet_since: Micros,
    leaving_since: Option<Micros>,
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
    let (owes_since, quiet_since, leaving_since) = (Some(now), now, None);
    let served = 0;
    let connection =
        Connection { shared, line, alarm, limits, served, owes_since, quiet_since, leaving_since };
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
        let stream = &mut self.line.stream;
        match over {
            Over::Failed => Box::pin(linger(&self.shared.worker, stream, &self.alarm)).await,
            Over::Done => {
                // The client may be gone.
                let _ = stream.shut_down();
            }
            Over::Lost => {}
        }
    }

    /// Begins what has come.
    fn serve_all(&mut self, opened: &mut Vec<Opened>) {
        for Opened { stream, head, ended } in opened.drain(..) {
            self.served = self.served.saturating_add(1);
            let down = Http2Stream::new(self.shared.session.clone(), stream, head, ended);
            // Boxed, so that the runtime does not move all of it about.
            tokio::task::spawn_local(Box::pin(stream_of(self.shared.clone(), down)));
        }
        if self.served >= self.limits.requests_per_connection {
            self.leave();
        }
    }

    fn leave(&mut self) {
        self.leaving_since.get_or_insert(self.alarm.now());
        self.shared.session.borrow_mut().leave();
    }

    /// Until when nothing may happen.
    fn set_alarm(&mut self) {
        let now = self.alarm.now();
        let session = self.shared.session.borrow();
        if !session.awaits_rest(self.line.has_unread()) {
            self.owes_since = None;
        } else if self.owes_since.is_none() {
            self.owes_since = Some(now);
        }
        if session.active() > 0 {
            self.quiet_since = now;
        }
        let owed = self.owes_since.map(|since| since.plus(self.limits.header_timeout));
        let goodbye = self.leaving_since.map(|since| since.plus(GOODBYE));
        let quiet = now.since(self.quiet_since);
        let patience = if session.has_failed() {
            LINGER
        } else if quiet < REST {
            REST.saturating_sub(quiet)
        } else {
            self.limits.keepalive_timeout.saturating_sub(quiet)
        };
        let at = [owed, goodbye.filter(|_| !session.is_last())];
        let at = at.into_iter().flatten().fold(now.plus(patience), Micros::min);
        self.alarm.set(at.since(now));
    }

    /// Nothing has happened for long, or the edge is about to end.
    fn late(&mut self) -> Option<Over> {
        let now = self.alarm.now();
        let late = |since: Option<Micros>, by: Duration| since.is_some_and(|s| now.since(s) >= by);
        let mut session = self.shared.session.borrow_mut();
        if session.has_failed() {
            return Some(Over::Lost);
        }
        if self.shared.worker.is_closing() && self.leaving_since.is_none() {
            drop(session);
            self.leave();
            return None;
        }
        if late(self.leaving_since, GOODBYE) {
            session.leave_now();
        }
        if late(self.owes_since, self.limits.header_timeout) {
            let reason = Reason::ENHANCE_YOUR_CALM;
            session.fail(ConnectionError { reason, why: "the rest did not come in time" });
            return None;
        }
        session.rest();
        if session.active() == 0 && now.since(self.quiet_since) >= self.limits.keepalive_timeout {
            session.leave_now();
        }
        (session.is_last() && session.active() == 0 && !session.output().is_empty())
            .then_some(Over::Lost)
    }
}

/// One request: decide, then forward or refuse.
async fn stream_of(shared: Rc<Shared>, mut down: Http2Stream) {
    let Shared { worker, listener, peer, .. } = &*shared;
    let table = worker.table();
    let started = worker.clock.now();
    let alarm = worker.alarms.alarm();
    if let Err(answer) = down.check(&table.config.limits) {
        let refusal = Refusal { route: None, filter: Filter::Malformed, status: answer.status };
        let (client, why) = (peer.address, answer.message);
        observe(worker, &Observation::malformed(&table, client, "-", &refusal, started, why));
        return reply(&mut down, &alarm, &answer, false, "-").await;
    }
    let trusted = &listener.settings.trusted_proxies;
    let mut admitted =
        down.request(|request| admit(worker, &table, peer, trusted, request, started));
    if admitted.own.is_some() {
        // OPTIONS or TRACE that may not go any further.
        let answer = OwnAnswer::new(200, "last_hop", "this is the last hop");
        return reply(&mut down, &alarm, &answer, false, "-").await;
    }
    if down.expects_continue() {
        down.tell_continue();
    }
    if admitted.wants_body {
        alarm.set(table.config.limits.header_timeout);
        let held = match alarm.race(down.hold_body()).await {
            Ok(Ok(held)) => held,
            Ok(Err(_)) | Err(_) => return down.reset(Reason::CANCEL),
        };
        admitted.decided = down.request(|request| {
            let body = held.then(|| down.held());
            admit_with_body(worker, &table, request, &admitted, body, started)
        });
    }
    let decision = match admitted.decided {
        Ok(decision) => decision,
        Err(refusal) => {
            observe(worker, &Observation::refused(&table, &admitted, &refusal, started));
            let answer = OwnAnswer::refusal(&refusal);
            return reply(&mut down, &alarm, &answer, admitted.json, admitted.ids.id()).await;
        }
    };
    if !down.limit_body(most_body(&table, &decision)) {
        let answer = OwnAnswer::head_error(HeadError::BodyTooLarge);
        return reply(&mut down, &alarm, &answer, admitted.json, admitted.ids.id()).await;
    }
    let request_time = table.service(decision.service).settings.timeouts.request;
    let journey = Journey {
        worker,
        table: &table,
        client: admitted.client,
        peer,
        ids: &admitted.ids,
        sticky: admitted.sticky.as_ref(),
        expect_continue: false,
        is_head: down.is_head(),
        started,
        alarm: &alarm,
        deadline: started.plus(request_time),
    };
    let watch = down.reset_watch();
    // A client that resets its stream takes its work at the endpoint with it.
    let ending = tokio::select! {
        biased;
        ending = forward(&journey, decision, &mut down, None) => ending,
        () = watch => {
            let seen = Observation::handed_over(&table, &admitted, &decision, 499, started);
            return observe(worker, &Observation { error: Some("the client reset it"), ..seen });
        }
    };
    let (status, bytes, answer) = summary(&ending);
    observe(worker, &Observation::ended(&table, &admitted, &ending, (status, bytes), started));
    if let Some(answer) = answer {
        reply(&mut down, &alarm, &answer, admitted.json, admitted.ids.id()).await;
    }
}

/// Answers in the name of this edge, as far as the client takes it in time.
async fn reply(down: &mut Http2Stream, alarm: &Alarm, answer: &OwnAnswer, json: bool, id: &str) {
    alarm.set(LINGER);
    let _ = alarm.race(down.answer(answer, json, id)).await;
}
