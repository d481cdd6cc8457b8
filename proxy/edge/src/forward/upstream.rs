//! Connections to endpoints: one pool per worker, idle ones without a task of their own.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use foldhash::fast::RandomState;
use meridian_routing::Micros;
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::buffers::{Buffers, Lease};
use crate::socket::{poll_read_into, poll_write_some, read_into, write_all};

/// Idle connections kept per endpoint address and worker.
const MOST_IDLE: usize = 512;
/// An idle connection is closed after this.
const LONGEST_IDLE: Duration = Duration::from_secs(55);
/// A connection that was idle longer than this is looked at before a request goes out that must not be repeated.
const PEEK_AFTER: Duration = Duration::from_millis(1);

/// A worker's idle connections.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: RefCell<HashMap<SocketAddr, Vec<Idle>, RandomState>>,
    buffers: Rc<Buffers>,
}

#[derive(Debug)]
struct Idle {
    stream: TcpStream,
    since: Micros,
}

/// A connection in use, with what was read from it.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) stream: TcpStream,
    pub(crate) address: SocketAddr,
    /// Its user timeout is that of a long upload.
    patient: bool,
    /// Whether requests have gone over it before.
    pub(crate) reused: bool,
    /// Read bytes; those before `at` are spoken for.
    pub(crate) read: Lease,
    pub(crate) at: usize,
    /// The last read filled the buffer: more is coming than it holds.
    hungry: bool,
    touched: bool,
}

impl Pool {
    pub(crate) fn new(buffers: Rc<Buffers>) -> Self {
        Self { idle: RefCell::default(), buffers }
    }

    /// An idle connection that is still open, the most recently used first. `careful`: ask the kernel, not only what
    /// the reactor has heard, because a request that cannot be repeated is about to be sent.
    pub(crate) fn take(&self, address: SocketAddr, careful: bool, now: Micros) -> Option<Upstream> {
        let mut idle = self.idle.borrow_mut();
        let list = idle.get_mut(&address)?;
        while let Some(found) = list.pop() {
            let peek = careful && now.since(found.since) > PEEK_AFTER;
            if is_quiet(&found.stream) && !(peek && has_ended(&found.stream)) {
                return Some(self.upstream(found.stream, address, true));
            }
        }
        None
    }

    /// Opens a connection. `user_timeout`: data that stays unacknowledged for so long makes the kernel give it up
    /// (RFC 5482), so that one into a black hole dies.
    pub(crate) async fn connect(
        &self,
        address: SocketAddr,
        within: Duration,
        user_timeout: Duration,
    ) -> io::Result<Upstream> {
        let connecting = TcpStream::connect(address);
        let stream = tokio::time::timeout(within, connecting)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        set_user_timeout(&stream, user_timeout)?;
        Ok(self.upstream(stream, address, false))
    }

    fn upstream(&self, stream: TcpStream, address: SocketAddr, reused: bool) -> Upstream {
        let read = Lease::new(&self.buffers);
        Upstream {
            stream,
            address,
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
        if upstream.patient && set_user_timeout(&upstream.stream, user_timeout).is_err() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let list = idle.entry(upstream.address).or_default();
        if list.len() < MOST_IDLE {
            list.push(Idle { stream: upstream.stream, since: now });
        }
    }

    /// Takes a connection back over which nothing was sent in this use.
    pub(crate) fn give_back_unused(&self, upstream: Upstream, now: Micros) {
        let mut idle = self.idle.borrow_mut();
        let list = idle.entry(upstream.address).or_default();
        if !upstream.patient && list.len() < MOST_IDLE {
            list.push(Idle { stream: upstream.stream, since: now });
        }
    }

    /// Closes connections that were idle too long or that the endpoint has closed.
    pub(crate) fn sweep(&self, now: Micros) {
        let keep = |idle: &Idle| now.since(idle.since) < LONGEST_IDLE && is_quiet(&idle.stream);
        self.idle.borrow_mut().retain(|_, list| {
            list.retain(keep);
            !list.is_empty()
        });
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
        if !self.patient {
            // If the connection is broken, the next write says so.
            self.patient = set_user_timeout(&self.stream, idle).is_ok();
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
        Buffers::make_room(&mut self.read);
        let Self { stream, read, hungry, touched, .. } = self;
        let count = read_into(stream, read).await?;
        *hungry = read.len() == read.capacity();
        *touched |= count > 0;
        Ok(count)
    }

    /// Writes two pieces as one.
    pub(crate) async fn write_both(&self, head: &[u8], body: &[u8]) -> io::Result<()> {
        write_all(&self.stream, head, body).await
    }

    /// Writes some of a piece, or reads if that is possible sooner. May be dropped while waiting. Not a byte is written once
    /// `may_write` says no: that is an error.
    pub(crate) async fn write_or_read(
        &mut self,
        piece: &[u8],
        may_write: impl Fn() -> bool,
    ) -> io::Result<Progress> {
        Buffers::make_room(&mut self.read);
        let Self { stream, read, touched, .. } = self;
        poll_fn(|cx| {
            if !may_write() {
                return Poll::Ready(Err(io::ErrorKind::PermissionDenied.into()));
            }
            if let Poll::Ready(result) = poll_write_some(stream, piece, &[], cx) {
                return Poll::Ready(result.map(Progress::Wrote));
            }
            let read = poll_read_into(stream, read, cx);
            *touched |= matches!(read, Poll::Ready(Ok(1..)));
            read.map_ok(Progress::Read)
        })
        .await
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
