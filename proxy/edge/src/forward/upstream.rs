//! Connections to endpoints: one pool per worker, idle ones without a task of their own.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use foldhash::fast::RandomState;
use meridian_routing::Micros;
use socket2::SockRef;
use tokio::net::TcpStream;

use super::dial::{Blame, Dial, Place};
use super::h2::{Exchange, SharedPool, Watch};
use super::personal::Personal;
use crate::buffers::{Buffers, Lease};
use crate::proxy_protocol::Introduction;
use crate::tls::Client;
use crate::transport::Transport;

/// Idle connections kept per endpoint address and worker.
const MOST_IDLE: usize = 512;
/// An idle connection is closed after this.
const LONGEST_IDLE: Duration = Duration::from_secs(55);
/// A connection that was idle longer than this is looked at before a request goes out that must not be repeated.
const PEEK_AFTER: Duration = Duration::from_millis(1);

/// A worker's idle connections, and those that requests share.
pub(crate) struct Pool {
    idle: RefCell<HashMap<Place, Vec<Idle>, RandomState>>,
    /// Those of which the endpoint was told whose they are.
    personal: RefCell<Personal>,
    shared: SharedPool,
    buffers: Rc<Buffers>,
}

#[derive(Debug)]
pub(super) struct Idle {
    line: Line,
    pub(super) since: Micros,
}

/// A connection of HTTP/1.1 to an endpoint.
struct Line {
    stream: Transport<Client>,
    /// Under TLS.
    blame: Option<Box<Blame>>,
}

/// What carries a request.
enum Way {
    Own(Line),
    /// A stream of HTTP/2.
    Shared(Box<Exchange>),
}

/// A connection in use, or a stream of one, with what was read from it.
#[derive(Debug)]
pub(crate) struct Upstream {
    way: Way,
    place: Place,
    /// Whose it is, if the endpoint was told.
    whose: Option<Box<Introduction>>,
    /// Its user timeout is that of a long upload.
    patient: bool,
    /// Whether requests have gone over it before.
    pub(crate) reused: bool,
    /// Read bytes, while there are some; those before `at` are spoken for.
    pub(crate) read: Lease,
    pub(crate) at: usize,
    /// The last read filled the buffer: more is coming than it holds.
    hungry: bool,
    touched: bool,
}

impl Pool {
    pub(crate) fn new(buffers: Rc<Buffers>) -> Self {
        Self {
            idle: RefCell::default(),
            personal: RefCell::default(),
            shared: SharedPool::default(),
            buffers,
        }
    }

    /// An idle connection that is still open, the most recently used first. `careful`: ask the kernel, not only what
    /// the reactor has heard, because a request that cannot be repeated is about to be sent.
    pub(crate) fn take(
        &self,
        dial: &Dial<'_>,
        address: SocketAddr,
        careful: bool,
        now: Micros,
    ) -> Option<Upstream> {
        let place = dial.place(address);
        if dial.is_shared() {
            let (exchange, used) = self.shared.take(place)?;
            return Some(self.upstream(Way::Shared(Box::new(exchange)), place, used));
        }
        let is_good = |idle: &mut Idle| {
            let ask_kernel = careful && now.since(idle.since) > PEEK_AFTER;
            idle.line.is_quiet(ask_kernel)
        };
        if let Some(whose) = dial.introduction {
            let found = self.personal.borrow_mut().take(place, whose, is_good)?;
            return Some(self.upstream(Way::Own(found.line), place, true).of(&dial.introduction));
        }
        let mut idle = self.idle.borrow_mut();
        let list = idle.get_mut(&place)?;
        while let Some(mut found) = list.pop() {
            if is_good(&mut found) {
                return Some(self.upstream(Way::Own(found.line), place, true));
            }
        }
        None
    }

    /// Opens a connection, TLS' handshake included. `user_timeout`: data that stays unacknowledged for so long makes the
    /// kernel give it up (RFC 5482), so that one into a black hole dies.
    pub(crate) async fn connect(
        &self,
        dial: &Dial<'_>,
        address: SocketAddr,
        within: Duration,
        user_timeout: Duration,
    ) -> io::Result<Upstream> {
        if dial.is_shared() {
            let sharing = Box::pin(self.share(dial, address, user_timeout));
            let shared = tokio::time::timeout(within, sharing).await;
            return shared.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
        }
        let connecting = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            set_user_timeout(&stream, user_timeout)?;
            dial.secure(stream, &self.buffers).await
        };
        let (stream, blame) = tokio::time::timeout(within, connecting)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let line = Way::Own(Line { stream, blame });
        Ok(self.upstream(line, dial.place(address), false).of(&dial.introduction))
    }

    /// A stream of HTTP/2: on a new connection, or on one that somebody has opened meanwhile.
    async fn share(
        &self,
        dial: &Dial<'_>,
        address: SocketAddr,
        user_timeout: Duration,
    ) -> io::Result<Upstream> {
        let place = dial.place(address);
        let turn = self.shared.turn(place);
        let _turn = turn.lock().await;
        let (exchange, used) = match self.shared.take(place) {
            Some(found) => found,
            None => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                set_user_timeout(&stream, user_timeout)?;
                let (stream, blame) = dial.secure(stream, &self.buffers).await?;
                self.shared.open(place, stream, blame).await?
            }
        };
        Ok(self.upstream(Way::Shared(Box::new(exchange)), place, used))
    }

    fn upstream(&self, way: Way, place: Place, reused: bool) -> Upstream {
        let read = Lease::new(&self.buffers);
        Upstream {
            way,
            place,
            whose: None,
            patient: false,
            reused,
            read,
            at: 0,
            hungry: false,
            touched: false,
        }
    }

    /// Takes a connection back whose response was read to its end, exactly.
    pub(crate) fn give_back(&self, upstream: Upstream, user_timeout: Duration, now: Micros) {
        let Way::Own(line) = upstream.way else { return };
        if upstream.patient && set_user_timeout(line.stream.socket(), user_timeout).is_err() {
            return;
        }
        self.keep(upstream.place, upstream.whose, Idle { line, since: now });
    }

    /// Takes a connection back over which nothing was sent in this use.
    pub(crate) fn give_back_unused(&self, upstream: Upstream, now: Micros) {
        let Way::Own(line) = upstream.way else { return };
        if !upstream.patient {
            self.keep(upstream.place, upstream.whose, Idle { line, since: now });
        }
    }

    fn keep(&self, place: Place, whose: Option<Box<Introduction>>, kept: Idle) {
        if let Some(whose) = whose {
            return self.personal.borrow_mut().keep(place, *whose, kept);
        }
        let mut idle = self.idle.borrow_mut();
        let list = idle.entry(place).or_default();
        if list.len() < MOST_IDLE {
            list.push(kept);
        }
    }

    /// Closes connections that were idle too long or that the endpoint has closed.
    pub(crate) fn sweep(&self, now: Micros) {
        let keep = |idle: &mut Idle| {
            let kept = now.since(idle.since) < LONGEST_IDLE && idle.line.is_quiet(false);
            if !kept {
                // The endpoint may be gone.
                let _ = idle.line.stream.shut_down();
            }
            kept
        };
        self.idle.borrow_mut().retain(|_, list| {
            list.retain_mut(keep);
            !list.is_empty()
        });
        self.personal.borrow_mut().retain(keep);
        self.shared.sweep();
    }
}

impl Line {
    /// Whether no end and no bytes that nobody asked for have come. Without `ask_kernel` only what the reactor has heard
    /// counts, which costs no system call while there is nothing.
    fn is_quiet(&mut self, ask_kernel: bool) -> bool {
        match &mut self.stream {
            Transport::Plain(stream) => is_quiet(stream) && !(ask_kernel && has_ended(stream)),
            Transport::Tls(stream) => stream.is_quiet(ask_kernel),
        }
    }

    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let (Err(error), Some(blame)) = (&result, &self.blame) {
            blame.note(error);
        }
        result
    }
}

impl Way {
    /// Appends to `buffer`; 0 at the end. On a connection of its own no room is held while there is nothing to read.
    fn poll_read_into(
        &mut self,
        buffer: &mut Lease,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if let Self::Own(line) = self
            && buffer.is_empty()
        {
            ready!(line.stream.poll_read_ready(cx))?;
        }
        buffer.hold();
        Buffers::make_room(buffer);
        match self {
            Self::Own(line) => {
                let polled = line.stream.poll_read_into(buffer, cx);
                if polled.is_pending() {
                    buffer.let_go();
                }
                polled
            }
            Self::Shared(exchange) => exchange.poll_read_into(buffer, cx),
        }
    }

    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        match self {
            Self::Own(line) => line.note(result),
            Self::Shared(_) => result,
        }
    }
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(line) => line.fmt(f),
            Self::Shared(_) => f.write_str("Shared"),
        }
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Line({:?})", self.blame)
    }
}

fn set_user_timeout(stream: &TcpStream, time: Duration) -> io::Result<()> {
    SockRef::from(stream).set_tcp_user_timeout(Some(time))
}

/// Whether the reactor has heard nothing: no end and no bytes that nobody asked for. No system call while quiet.
fn is_quiet(stream: &TcpStream) -> bool {
    let mut byte = [0];
    matches!(stream.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Whether the kernel has an end or an error waiting.
fn has_ended(stream: &TcpStream) -> bool {
    let mut byte = [std::mem::MaybeUninit::uninit()];
    !matches!(SockRef::from(stream).peek(&mut byte),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

impl Upstream {
    fn of(self, whose: &Option<Introduction>) -> Self {
        Self { whose: whose.map(Box::new), ..self }
    }

    /// What was read and is not spoken for.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.read[self.at..]
    }

    /// Whether nothing was read in this use.
    pub(crate) fn is_untouched(&self) -> bool {
        !self.touched
    }

    /// For a long upload: the kernel counts the time in which an endpoint acknowledges but has no room for more as the
    /// time without an acknowledgement, so that it must be as long as a pause between two writes may be.
    pub(crate) fn be_patient(&mut self, idle: Duration) {
        if let Way::Own(line) = &self.way
            && !self.patient
        {
            // If the connection is broken, the next write says so.
            self.patient = set_user_timeout(line.stream.socket(), idle).is_ok();
        }
    }

    /// Speaks for `n` bytes.
    pub(crate) fn consume(&mut self, n: usize) {
        self.at += n;
        if self.at == self.read.len() {
            self.read.clear();
            self.at = 0;
        }
    }

    /// Reads more; 0 at the end of the connection. May be dropped while waiting.
    pub(crate) async fn fill(&mut self) -> io::Result<usize> {
        if self.at > 0 && self.read.len() == self.read.capacity() {
            self.read.drain(..self.at);
            self.at = 0;
        }
        if self.hungry {
            Buffers::enlarge(&mut self.read);
        }
        let Self { way, read, hungry, touched, .. } = self;
        let result = poll_fn(|cx| way.poll_read_into(read, cx)).await;
        let count = way.note(result)?;
        *hungry = read.len() == read.capacity();
        *touched |= count > 0;
        Ok(count)
    }

    /// Writes a request's head and what there is of its body, as one; how much of the body was taken. A stream of HTTP/2
    /// takes what the endpoint has a window for, and nothing more, ever, once `watch` says that the epoch is over.
    pub(crate) async fn write_both(
        &mut self,
        head: &[u8],
        body: &[u8],
        watch: Watch,
    ) -> io::Result<usize> {
        match &mut self.way {
            Way::Own(line) => {
                let result = line.stream.write_all(head, body).await;
                line.note(result).map(|()| body.len())
            }
            Way::Shared(exchange) => Box::pin(exchange.begin(head, body, watch)).await,
        }
    }

    /// Writes some of a piece, or reads if that is possible sooner. May be dropped while waiting. Not a byte is written once
    /// `may_write` says no: that is an error.
    pub(crate) async fn write_or_read(
        &mut self,
        piece: &[u8],
        may_write: impl Fn() -> bool,
    ) -> io::Result<Progress> {
        let Self { way, read, touched, .. } = self;
        let result = poll_fn(|cx| {
            if !may_write() {
                return Poll::Ready(Err(io::ErrorKind::PermissionDenied.into()));
            }
            let wrote = match way {
                Way::Own(line) => line.stream.poll_write_some(piece, &[], cx),
                Way::Shared(exchange) => exchange.poll_write(piece, cx),
            };
            if let Poll::Ready(result) = wrote {
                return Poll::Ready(result.map(Progress::Wrote));
            }
            let read = way.poll_read_into(read, cx);
            *touched |= matches!(read, Poll::Ready(Ok(1..)));
            read.map_ok(Progress::Read)
        })
        .await;
        way.note(result)
    }

    /// Whether the endpoint has said that it has done nothing of the request.
    pub(crate) fn was_refused(&self) -> bool {
        matches!(&self.way, Way::Shared(exchange) if exchange.was_refused())
    }

    /// Whether something of the request may have left.
    pub(crate) fn has_begun(&self) -> bool {
        match &self.way {
            Way::Own(_) => true,
            Way::Shared(exchange) => exchange.has_begun(),
        }
    }

    /// Whether some of the request's body waits for the endpoint's window.
    pub(crate) fn holds_some(&self) -> bool {
        matches!(&self.way, Way::Shared(exchange) if exchange.holds_some())
    }

    /// Whether the protocol has no words for what the client asks for.
    pub(crate) fn cannot_say(&self) -> bool {
        matches!(&self.way, Way::Shared(exchange) if exchange.cannot_say())
    }

    /// The socket, if what is read from it are the bytes of the answer and nothing else.
    pub(crate) fn raw(&self) -> Option<&TcpStream> {
        match &self.way {
            Way::Own(Line { stream: Transport::Plain(stream), .. }) => Some(stream),
            _ => None,
        }
    }
}

/// What was possible first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// So many bytes were written.
    Wrote(usize),
    /// So many bytes were read; 0: the endpoint has closed its side.
    Read(usize),
}
