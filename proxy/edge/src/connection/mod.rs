//! One client connection: wait for a request, read its head, exchange it for an answer, again.

mod entry;
mod exchange;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Poll, ready};
use std::time::Duration;

use meridian_http2::PREFACE;
use meridian_routing::{Filter, Refusal, RoutingTable};
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::alarm::Alarm;
use crate::buffers::Buffers;
use crate::forward::canonical::RequestIds;
use crate::http1::head::HeadScan;
use crate::http2;
use crate::identify::Peer;
use crate::listener::ListenerState;
use crate::log_line::{Beginning, Described};
use crate::observe::{Observation, observe, write_line};
use crate::request::Notes;
use crate::respond::OwnAnswer;
use crate::tls::ALPN_H2;
use crate::transport::Transport;
use crate::worker::{NoRoom, OpenConnection, Worker};

/// Empty lines that may stand before a request line.
const MOST_BLANK_LINES: usize = 4;
/// After an answer that ends a connection, what the client still sends is read away for so long.
pub(crate) const LINGER: Duration = Duration::from_secs(2);

/// And so many bytes at the most.
const MOST_LINGERED: usize = 32 << 20;
/// A connection whose next request comes within so long is busy.
const SOON: Duration = Duration::from_millis(200);

/// One HTTP/1.1 connection.
struct Connection {
    worker: Rc<Worker>,
    listener: Arc<ListenerState>,
    stream: Transport,
    peer: Peer,
    alarm: Alarm,
    /// What was read and belongs to no finished request.
    read: Vec<u8>,
    requests: u32,
}

/// What follows a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Another request.
    Again,
    /// The connection ends in good order: nothing is under way.
    Leave,
    /// The connection ends.
    Close,
    /// It ends after an answer that the client may not have read yet.
    Linger,
    /// It ends so that the client sees an abort.
    Reset,
}

/// What became of waiting for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// Something came.
    Bytes,
    /// Nothing came, but there is more patience.
    Quiet,
    /// The client has gone, or its time is over.
    Over,
}

/// Tells a client that there is no room, without waiting for it; in the log nothing is known of its request.
pub(crate) fn turn_away(worker: &Worker, stream: &TcpStream, client: SocketAddr, full: &NoRoom) {
    let ids = RequestIds::new(&Notes::default(), worker.random());
    let (table, now) = (worker.table(), worker.clock.now());
    let status = full.answer.status;
    let refusal = Refusal { route: None, filter: Filter::Malformed, status };
    let client = client.ip().to_canonical();
    let described = Described::unread(worker, Beginning::default());
    let seen = Observation::unserved(&table, client, ids.id(), &refusal, now);
    // It is counted among the connections, not among the requests.
    let (described, reason) = (described.as_ref(), Some(full.reason));
    write_line(worker, &Observation { described, reason, ..seen });
    let answer = full.answer.http1(false, ids.id(), true, false);
    // Best effort, without waiting: bytes left unread would turn the close into a reset.
    let _ = stream.try_read(&mut [0; 4096]);
    let _ = SockRef::from(stream).send(&answer);
    let _ = SockRef::from(stream).shutdown(std::net::Shutdown::Write);
}

/// Serves a connection to its end.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    stream: TcpStream,
    listener: Arc<ListenerState>,
    peer: SocketAddr,
    mut open: OpenConnection,
) {
    let alarm = worker.alarms.alarm();
    let Some(mut peer) =
        entry::identify(&worker, &stream, &listener, peer, &alarm, &mut open).await
    else {
        return;
    };
    let stream = match &listener.tls {
        None => Transport::Plain(stream),
        // The future of a handshake is large; it should not stay with the connection.
        Some(offer) => {
            match Box::pin(entry::shake_hands(&worker, stream, offer, &listener, &peer, &alarm))
                .await
            {
                Some((stream, shown)) => {
                    peer.shown = shown;
                    Transport::Tls(stream)
                }
                None => return,
            }
        }
    };
    let mut connection =
        Connection { worker, listener, stream, peer, alarm, read: Vec::new(), requests: 0 };
    if connection.speaks_h2().await {
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
    /// Whether HTTP/2 was agreed on, or the connection begins with its preface.
    async fn speaks_h2(&mut self) -> bool {
        let settings = &self.listener.settings;
        if let Transport::Tls(stream) = &self.stream {
            return stream.alpn() == Some(ALPN_H2);
        }
        if !(settings.h2c && settings.http1) {
            return settings.h2c;
        }
        self.alarm.set(self.worker.with_limits(|limits| limits.header_timeout));
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

    async fn run(&mut self) {
        let mut waited = Duration::ZERO;
        let next = loop {
            let since = self.alarm.now();
            if self.read.is_empty() && self.wait(Duration::MAX, waited).await != Wait::Bytes {
                break Next::Leave;
            }
            // What a request needs is large: it stays only where requests follow one another.
            let busy = self.requests > 0 && self.alarm.now().since(since) < SOON;
            match Box::pin(self.requests(busy)).await {
                Next::Again => waited = if busy { SOON } else { Duration::ZERO },
                next => break next,
            }
        };
        match next {
            Next::Linger => {
                Box::pin(linger(&self.worker, &mut self.stream, &self.alarm)).await;
            }
            Next::Reset => {
                // An error here changes nothing: the connection closes either way.
                let _ = SockRef::from(self.stream.socket()).set_linger(Some(Duration::ZERO));
            }
            Next::Leave => {
                // The client may be gone.
                let _ = self.stream.shut_down();
            }
            Next::Again | Next::Close => {}
        }
        self.worker.buffers.give(std::mem::take(&mut self.read));
    }

    /// Serves one request, or if the connection is `busy` all that follow soon; `Again` if it is quiet then.
    async fn requests(&mut self, busy: bool) -> Next {
        loop {
            let next = self.request().await;
            if next != Next::Again || !busy {
                return next;
            }
            if self.read.is_empty() {
                match self.wait(SOON, Duration::ZERO).await {
                    Wait::Bytes => {}
                    Wait::Quiet => return Next::Again,
                    Wait::Over => return Next::Leave,
                }
            }
        }
    }

    /// Serves a request of which something is there.
    async fn request(&mut self) -> Next {
        let table = self.worker.table();
        match self.read_head(&table).await {
            Ok(Some(head)) => self.exchange(table, head).await,
            Ok(None) => Next::Close,
            Err(answer) => Box::pin(self.answer_early(&table, &answer)).await,
        }
    }

    /// Waits for the first bytes of a request without holding a buffer, for `most` at the most; `idle`: it has been
    /// waited for so long already.
    async fn wait(&mut self, most: Duration, idle: Duration) -> Wait {
        self.worker.buffers.give(std::mem::take(&mut self.read));
        let first = self.requests == 0;
        let patience = self.worker.with_limits(|limits| {
            if first { limits.header_timeout } else { limits.keepalive_timeout }
        });
        let patience = patience.saturating_sub(idle);
        // A connection's first request may be on its way: it is waited for, under the head's deadline.
        let served = self.requests > 0;
        if served && self.worker.is_closing() {
            return Wait::Over;
        }
        self.alarm.set(patience.min(most));
        self.alarm.set_idle(served);
        // Readiness may be left over from the request before: only a read that finds bytes ends the wait.
        let Self { worker, stream, read, alarm, .. } = self;
        let first_bytes = poll_fn(|cx| {
            ready!(stream.poll_read_ready(cx))?;
            let mut buffer = worker.buffers.take();
            let polled = stream.poll_read_into(&mut buffer, cx);
            match polled {
                Poll::Pending => worker.buffers.give(buffer),
                Poll::Ready(_) => *read = buffer,
            }
            polled
        });
        let came = alarm.race(first_bytes).await;
        self.alarm.set_idle(false);
        match came {
            Ok(Ok(1..)) => Wait::Bytes,
            Err(_) if most < patience && !self.worker.is_closing() => Wait::Quiet,
            Ok(_) | Err(_) => Wait::Over,
        }
    }

    /// Reads until a whole head is there and tells its length; `None` if the client goes away before.
    async fn read_head(&mut self, table: &RoutingTable) -> Result<Option<usize>, OwnAnswer> {
        let limits = &table.config.limits;
        let mut scan = HeadScan::default();
        self.alarm.set(limits.header_timeout);
        loop {
            // An empty line or two before a request line is ignored (RFC 9112 section 2.2).
            let blank = self.read.chunks_exact(2).take_while(|pair| *pair == b"\r\n").count();
            if blank > MOST_BLANK_LINES {
                return Err(OwnAnswer::new(400, "bad_request", "the request line is missing"));
            }
            self.read.drain(..2 * blank);
            if !self.read.is_empty()
                && let Some(len) =
                    scan.complete(&self.read, limits).map_err(OwnAnswer::head_error)?
            {
                return Ok(Some(len));
            }
            match self.fill().await {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut && !self.read.is_empty() => {
                    let message = "the request head did not come in time";
                    return Err(OwnAnswer::new(408, "request_timeout", message));
                }
                Ok(0) | Err(_) => return Ok(None),
            }
        }
    }

    async fn fill(&mut self) -> io::Result<usize> {
        if self.read.capacity() == 0 {
            self.read = self.worker.buffers.take();
        }
        Buffers::make_room(&mut self.read);
        let Self { stream, read, alarm, .. } = self;
        alarm.race(stream.read_into(read)).await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    /// Answers a request that could not be read; the connection ends.
    async fn answer_early(&mut self, table: &RoutingTable, answer: &OwnAnswer) -> Next {
        let ids = RequestIds::new(&Notes::default(), self.worker.random());
        let refusal = Refusal { route: None, filter: Filter::Malformed, status: answer.status };
        let now = self.worker.clock.now();
        let described = Described::unread(&self.worker, Beginning::of(&self.read));
        let seen = Observation::unserved(table, self.peer.address, ids.id(), &refusal, now);
        let (described, error) = (described.as_ref(), Some(answer.message));
        observe(&self.worker, &Observation { described, error, ..seen });
        self.send(&answer.http1(false, ids.id(), true, false)).await;
        Next::Linger
    }

    /// Sends an answer of this edge's own, with a deadline; failure shows at the next use of the connection.
    async fn send(&mut self, bytes: &[u8]) -> bool {
        self.alarm.set(LINGER);
        matches!(self.alarm.race(self.stream.write_all(bytes, &[])).await, Ok(Ok(())))
    }
}

/// Ends our side and reads away what the client still sends, so that a reset does not swallow the answer.
pub(crate) async fn linger(worker: &Worker, stream: &mut Transport, alarm: &Alarm) {
    if stream.shut_down().is_err() {
        return;
    }
    alarm.set(LINGER);
    let mut sink = worker.buffers.take();
    let drain = async {
        let mut left = MOST_LINGERED;
        while left > 0 {
            sink.clear();
            match stream.read_into(&mut sink).await {
                Ok(n @ 1..) => left = left.saturating_sub(n),
                _ => break,
            }
        }
    };
    let _ = alarm.race(drain).await;
    worker.buffers.give(sink);
}
