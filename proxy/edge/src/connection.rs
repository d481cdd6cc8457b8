//! One client connection: read a head, decide, forward or answer, again.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Poll, ready};
use std::time::Duration;

use meridian_routing::{Decision, Filter, Micros, Refusal, RoutingTable};
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::admit::{Admitted, admit, admit_with_body};
use crate::alarm::Alarm;
use crate::buffers::Buffers;
use crate::forward::canonical::RequestIds;
use crate::forward::{ClientGone, Ending, Failed, Journey, Prepared, forward};
use crate::http1::body::Framing;
use crate::http1::downstream::Http1;
use crate::http1::head::{HeadError, HeadFacts, HeadScan, with_head};
use crate::http2;
use crate::identify::Peer;
use crate::listener::ListenerState;
use crate::observe::{Observation, observe};
use crate::respond::OwnAnswer;
use crate::socket::{read_into, write_all};
use crate::upgrade::{Offer, Returned};
use crate::worker::{OpenConnection, Worker};

/// The client connection preface of HTTP/2 (RFC 9113 section 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// After an answer that ends a connection, what the client still sends is read away for so long.
const LINGER: Duration = Duration::from_secs(2);

/// One HTTP/1.1 connection.
struct Connection {
    worker: Rc<Worker>,
    listener: Arc<ListenerState>,
    stream: TcpStream,
    peer: Peer,
    alarm: Alarm,
    /// What was read and belongs to no finished request.
    read: Vec<u8>,
    requests: u32,
}

/// One decided request.
#[derive(Clone, Copy)]
struct Work<'a> {
    table: &'a RoutingTable,
    admitted: &'a Admitted,
    decision: Decision,
    facts: HeadFacts,
    started: Micros,
}

impl<'a> Work<'a> {
    fn journey(&self, worker: &'a Worker, peer: &'a Peer, alarm: &'a Alarm) -> Journey<'a> {
        let service = self.table.service(self.decision.service);
        Journey {
            worker,
            table: self.table,
            client: self.admitted.client,
            peer,
            ids: &self.admitted.ids,
            scheme: "http",
            expect_continue: self.facts.expect_continue,
            is_head: self.facts.is_head,
            started: self.started,
            alarm,
            deadline: self.started.plus(service.settings.timeouts.request),
        }
    }
}

/// What follows a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Another request.
    Again,
    /// The connection ends.
    Close,
    /// It ends after an answer that the client may not have read yet.
    Linger,
    /// It ends so that the client sees an abort.
    Reset,
}

/// Tells a client that there is no room, without waiting for it.
pub(crate) fn turn_away(stream: &TcpStream) {
    let answer = OwnAnswer::unavailable(1).http1(false, "-", true, false);
    // Best effort: if the socket's buffer does not take it, the close says it.
    let _ = SockRef::from(stream).send(&answer);
}

/// Serves a connection to its end.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    stream: TcpStream,
    listener: Arc<ListenerState>,
    peer: SocketAddr,
    _open: OpenConnection,
) {
    let peer = Peer::new(peer, &listener.settings.trusted_proxies);
    let alarm = worker.alarms.alarm();
    let mut connection =
        Connection { worker, listener, stream, peer, alarm, read: Vec::new(), requests: 0 };
    if connection.listener.settings.h2c && connection.speaks_h2().await {
        let Connection { worker, listener, stream, peer, read, .. } = connection;
        let _counted = Counted::new(&listener, |counters| &counters.http2);
        return Box::pin(http2::serve(worker, stream, listener.clone(), peer, read)).await;
    }
    if connection.listener.settings.http1 {
        let listener = connection.listener.clone();
        let _counted = Counted::new(&listener, |counters| &counters.http1);
        connection.run().await;
    }
}

/// Holds a gauge up by one.
pub(crate) struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    pub(crate) fn new(
        listener: &'a ListenerState,
        gauge: impl FnOnce(&'a meridian_routing::EdgeCounters) -> &'a AtomicU64,
    ) -> Self {
        let gauge = gauge(&listener.counters);
        gauge.fetch_add(1, Relaxed);
        Self(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Connection {
    /// Whether the connection begins with the preface of HTTP/2.
    async fn speaks_h2(&mut self) -> bool {
        if !self.listener.settings.http1 {
            return true;
        }
        self.alarm.set(self.worker.table().config.limits.header_timeout);
        loop {
            let n = self.read.len().min(PREFACE.len());
            if self.read[..n] != PREFACE[..n] {
                return false;
            }
            if n == PREFACE.len() {
                return true;
            }
            if !matches!(self.fill().await, Ok(1..)) {
                return false;
            }
        }
    }

    async fn run(mut self) {
        let next = loop {
            let next = self.request().await;
            if next != Next::Again {
                break next;
            }
        };
        match next {
            Next::Linger => linger(&self.worker, &mut self.stream, &self.alarm).await,
            Next::Reset => {
                // An error here changes nothing: the connection closes either way.
                let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
            }
            Next::Again | Next::Close => {}
        }
        self.worker.buffers.give(std::mem::take(&mut self.read));
    }

    /// Waits for a request and serves it.
    async fn request(&mut self) -> Next {
        if self.read.is_empty() && !self.wait().await {
            return Next::Close;
        }
        let table = self.worker.table();
        match self.read_head(&table).await {
            Ok(true) => {}
            Ok(false) => return Next::Close,
            Err(answer) => return self.answer_early(&table, &answer).await,
        }
        // The future of a request is large; idle connections should not carry it.
        Box::pin(self.exchange(table)).await
    }

    /// Waits for the first bytes of a request without holding a buffer.
    async fn wait(&mut self) -> bool {
        self.worker.buffers.give(std::mem::take(&mut self.read));
        let limits = &self.worker.table().config.limits;
        let patience =
            if self.requests == 0 { limits.header_timeout } else { limits.keepalive_timeout };
        if self.worker.is_closing() {
            return false;
        }
        self.alarm.set(patience);
        self.alarm.set_idle(true);
        // Readiness may be left over from the request before: only a read that finds bytes ends the wait.
        let Self { worker, stream, read, alarm, .. } = self;
        let first_bytes = poll_fn(|cx| {
            loop {
                ready!(stream.poll_read_ready(cx))?;
                *read = worker.buffers.take();
                match stream.try_read_buf(read) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        worker.buffers.give(std::mem::take(read));
                    }
                    result => return Poll::Ready(result),
                }
            }
        });
        let came = matches!(alarm.race(first_bytes).await, Ok(Ok(1..)));
        self.alarm.set_idle(false);
        came
    }

    /// Reads until a whole head is there; `false` if the client goes away before.
    async fn read_head(&mut self, table: &RoutingTable) -> Result<bool, OwnAnswer> {
        let limits = &table.config.limits;
        let mut scan = HeadScan::default();
        self.alarm.set(limits.header_timeout);
        loop {
            // Empty lines before a request line are ignored (RFC 9112 section 2.2).
            while self.read.starts_with(b"\r\n") {
                self.read.drain(..2);
            }
            if !self.read.is_empty()
                && scan.complete(&self.read, limits).map_err(OwnAnswer::head_error)?
            {
                return Ok(true);
            }
            match self.fill().await {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut && !self.read.is_empty() => {
                    let message = "the request head did not come in time";
                    return Err(OwnAnswer::new(408, "request_timeout", message));
                }
                Ok(0) | Err(_) => return Ok(false),
            }
        }
    }

    async fn fill(&mut self) -> io::Result<usize> {
        if self.read.capacity() == 0 {
            self.read = self.worker.buffers.take();
        }
        Buffers::make_room(&mut self.read);
        let Self { stream, read, alarm, .. } = self;
        alarm.race(read_into(stream, read)).await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    /// Answers a request that could not be read; the connection ends.
    async fn answer_early(&mut self, table: &RoutingTable, answer: &OwnAnswer) -> Next {
        let ids = RequestIds::new(&crate::request::Fields::Http1(&[]), self.worker.random());
        let refusal = Refusal {
            route: None,
            filter: Filter::Malformed,
            status: answer.status,
        };
        observe(
            &self.worker,
            &Observation {
                table,
                client: self.peer.address,
                id: ids.id(),
                described: None,
                outcome: Err(&refusal),
                status: answer.status,
                bytes: 0,
                attempts: 0,
                started: self.worker.clock.now(),
                upstream_time: None,
                error: Some(answer.message),
            },
        );
        self.send(&answer.http1(false, ids.id(), true, false)).await;
        Next::Linger
    }

    /// Sends an answer of this edge's own, with a deadline; failure shows at the next use of the connection.
    async fn send(&mut self, bytes: &[u8]) -> bool {
        self.alarm.set(LINGER);
        matches!(self.alarm.race(write_all(&self.stream, bytes, &[])).await, Ok(Ok(())))
    }

    /// One request whose head is there: decide, then forward, hand over, or refuse.
    async fn exchange(&mut self, table: Arc<RoutingTable>) -> Next {
        let started = self.worker.clock.now();
        self.requests += 1;
        let limits = &table.config.limits;
        let keep_alive =
            !self.worker.is_closing() && self.requests < limits.requests_per_connection;
        let (mut admitted, facts, prepared) = match self.look(&table, started) {
            Ok(seen) => seen,
            Err(error) => return self.answer_early(&table, &OwnAnswer::head_error(error)).await,
        };
        if admitted.wants_body {
            match self.look_at_body(&table, &admitted, facts, started).await {
                Ok(decided) => admitted.decided = decided,
                Err(Some(answer)) => return self.answer_early(&table, &answer).await,
                Err(None) => return Next::Close,
            }
        }
        match (admitted.own.take(), admitted.decided) {
            (Some(bytes), _) => self.reply(&bytes, facts, keep_alive).await,
            (None, Err(refusal)) => {
                self.refuse(&table, &admitted, refusal, facts, keep_alive, started).await
            }
            (None, Ok(decision)) if over_limit(&table, &decision, facts) => {
                let answer = OwnAnswer::head_error(HeadError::BodyTooLarge);
                self.answer_early(&table, &answer).await
            }
            (None, Ok(decision)) if facts.upgrade => {
                self.upgrade(table, admitted, decision, facts, started).await
            }
            (None, Ok(decision)) => {
                let work = Work { table: &table, admitted: &admitted, decision, facts, started };
                self.forward(work, keep_alive, prepared).await
            }
        }
    }

    /// Parses, identifies and decides; and writes the first attempt's head while the request is at hand.
    fn look(
        &mut self,
        table: &Arc<RoutingTable>,
        started: Micros,
    ) -> Result<(Admitted, HeadFacts, Option<Prepared>), HeadError> {
        let trusted = &self.listener.settings.trusted_proxies;
        with_head(&self.read, &table.config.limits, |request, facts| {
            let admitted = admit(&self.worker, table, &mut self.peer, trusted, request, started);
            let direct = !admitted.wants_body && admitted.own.is_none() && !facts.upgrade;
            let prepared = admitted.decided.ok().filter(|_| direct).map(|decision| {
                let work = Work { table, admitted: &admitted, decision, facts, started };
                let journey = work.journey(&self.worker, &self.peer, &self.alarm);
                Prepared::new(&journey, &decision, request, facts.framing.into())
            });
            (admitted, facts, prepared)
        })
    }

    /// Decides again with the body in hand, as far as it is small enough to be held.
    async fn look_at_body(
        &mut self,
        table: &Arc<RoutingTable>,
        admitted: &Admitted,
        facts: HeadFacts,
        started: Micros,
    ) -> Result<Result<Decision, Refusal>, Option<OwnAnswer>> {
        let held = self.read_small_body(facts, table).await.map_err(OwnAnswer::client)?;
        let body = held.map(|len| &self.read[facts.len..facts.len + len]);
        with_head(&self.read, &table.config.limits, |request, _| {
            admit_with_body(&self.worker, table, request, admitted, body, started)
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
        observe(
            &self.worker,
            &Observation {
                table,
                client: admitted.client.address,
                id: admitted.ids.id(),
                described: admitted.described.as_ref(),
                outcome: Err(&refusal),
                status: answer.status,
                bytes: 0,
                attempts: 0,
                started,
                upstream_time: None,
                error: None,
            },
        );
        let bodiless = facts.framing == Framing::Empty;
        let close = !(keep_alive && facts.keep_alive && bodiless);
        let bytes = answer.http1(admitted.json, admitted.ids.id(), close, facts.is_head);
        self.reply(&bytes, facts, keep_alive).await
    }

    /// The direct lane.
    async fn forward(
        &mut self,
        work: Work<'_>,
        keep_alive: bool,
        prepared: Option<Prepared>,
    ) -> Next {
        let Work { table, admitted, decision, facts, started } = work;
        let worker = &self.worker;
        let journey = work.journey(worker, &self.peer, &self.alarm);
        let limits = &table.config.limits;
        let most = most_body(table, &decision);
        let mut down =
            Http1::new(&mut self.stream, limits, &worker.buffers, &mut self.read, facts, keep_alive, most);
        let ending = forward(&journey, decision, &mut down, prepared).await;
        let (reusable, consumed) = (down.reusable(), down.consumed());
        let body_done = down.body_done();
        drop(down);
        let (status, bytes, answer) = summary(&ending);
        observe(
            worker,
            &Observation {
                table,
                client: admitted.client.address,
                id: admitted.ids.id(),
                described: admitted.described.as_ref(),
                outcome: Ok(&ending.decision),
                status,
                bytes,
                attempts: ending.attempts,
                started,
                upstream_time: ending.upstream_time,
                error: error_text(&ending),
            },
        );
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
            stream: &self.stream,
            read: &self.read,
            facts,
            started,
        };
        let returned = self.worker.upgrades.carry(offer, table, admitted, decision).await;
        self.read.clear();
        match returned {
            Returned::Open if !self.worker.is_closing() => Next::Again,
            _ => Next::Close,
        }
    }
}

/// The longest body that a request may have.
pub(crate) fn most_body(table: &RoutingTable, decision: &Decision) -> u64 {
    let most = table.config.limits.body_bytes;
    table.route(decision.route).body_bytes.map_or(most, |own| own.min(most))
}

/// Whether the announced body is longer than the route allows.
fn over_limit(table: &RoutingTable, decision: &Decision, facts: HeadFacts) -> bool {
    matches!(facts.framing, Framing::Length(length) if length > most_body(table, decision))
}

/// Status, body bytes and own answer of an ending.
pub(crate) fn summary(ending: &Ending) -> (u16, u64, Option<OwnAnswer>) {
    let own = |answer: OwnAnswer| (answer.status, 0, Some(answer));
    match ending.result {
        Ok(relayed) => (relayed.status, relayed.bytes, None),
        Err(Failed::Unreachable) => own(OwnAnswer::unavailable(1)),
        Err(Failed::Broken(_)) => {
            own(OwnAnswer::new(502, "bad_gateway", "the service answered incorrectly"))
        }
        Err(Failed::TimedOut) => {
            own(OwnAnswer::new(504, "gateway_timeout", "the service did not answer in time"))
        }
        // 499, as nginx logs a client that went away.
        Err(Failed::Client(gone)) => OwnAnswer::client(gone).map_or((499, 0, None), own),
        Err(Failed::Cut { status, .. }) => (status, 0, None),
    }
}

/// For the access log.
pub(crate) fn error_text(ending: &Ending) -> Option<&'static str> {
    match ending.result {
        Ok(_) => None,
        Err(Failed::Unreachable) => Some("no endpoint accepted a connection"),
        Err(Failed::Broken(why)) => Some(why),
        Err(Failed::TimedOut) => Some("the endpoint did not answer in time"),
        Err(Failed::Client(_)) => Some("the client's side failed"),
        Err(Failed::Cut { by_client: true, .. }) => Some("the client went away"),
        Err(Failed::Cut { by_client: false, .. }) => Some("the response ended early"),
    }
}

/// Ends our side and reads away what the client still sends, so that a reset does not swallow the answer.
async fn linger(worker: &Worker, stream: &mut TcpStream, alarm: &Alarm) {
    if SockRef::from(&*stream).shutdown(std::net::Shutdown::Write).is_err() {
        return;
    }
    alarm.set(LINGER);
    let mut sink = worker.buffers.take();
    let drain = async {
        let mut left: usize = 4 << 20;
        while left > 0 {
            sink.clear();
            match read_into(stream, &mut sink).await {
                Ok(n @ 1..) => left = left.saturating_sub(n),
                _ => break,
            }
        }
    };
    let _ = alarm.race(drain).await;
    worker.buffers.give(sink);
}
