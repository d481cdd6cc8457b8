//! Between a client's bytes and the HTTP/2 session: what came goes in, what all streams have to say goes out in one send.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use meridian_config::Limits;
use meridian_http2::{Opened, Session};
use tracing::debug;

use crate::buffers::{Buffers, Spare};
use crate::transport::Transport;

/// Frames that bring nothing, of which it is time to ask since when.
const MUCH: u32 = 256;

/// Reads before the other tasks of the worker have their turn: a block's fields take longer to decode than to send.
const AT_ONCE: u32 = 8;

/// A connection's bytes, both ways.
pub(crate) struct Line {
    pub(crate) stream: Transport,
    pub(crate) session: Rc<RefCell<Session<Spare>>>,
    /// What came and was not used yet: the beginning of a frame.
    read: Vec<u8>,
    /// Something of it was not looked at.
    fresh: bool,
    /// Reads since the other tasks of the worker had their turn.
    reads: u32,
    /// As it was when [`poll`](Self::poll) was ready for the last time.
    mood: Mood,
    buffers: Rc<Buffers>,
}

/// What the deadlines of a connection depend on, beside its streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mood {
    /// What the client has begun and owes the rest of; numbered.
    owed: Option<u32>,
    /// The client has said that it is about to leave.
    client_leaves: bool,
    failed: bool,
    /// It sends much that brings nothing.
    unrest: u32,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// Everything was served and said.
    Done,
    /// The client broke the protocol, and was told so.
    Failed,
    /// The client has gone.
    Lost,
}

impl Line {
    /// `read` is what was read already.
    pub(crate) fn new(
        stream: Transport,
        read: Vec<u8>,
        limits: &Limits,
        buffers: &Rc<Buffers>,
    ) -> Self {
        let of_session = meridian_http2::Limits {
            streams: limits.h2_streams,
            header_bytes: limits.header_bytes,
        };
        let session = Session::new(of_session, Spare(buffers.clone()));
        let session = Rc::new(RefCell::new(session));
        let (fresh, mood) = (!read.is_empty(), Mood::default());
        Self { stream, session, read, fresh, reads: 0, mood, buffers: buffers.clone() }
    }

    /// What the client has begun and owes the rest of; numbered.
    pub(crate) fn owed(&self) -> Option<u32> {
        self.session.borrow().owed(!self.read.is_empty())
    }

    fn mood(&self) -> Mood {
        let session = self.session.borrow();
        Mood {
            owed: self.owed(),
            client_leaves: session.client_leaves(),
            failed: session.has_failed(),
            unrest: session.unrest() / MUCH,
        }
    }

    /// Moves bytes until there are new streams, the client's mood has changed, or the connection is over.
    pub(crate) fn poll(
        &mut self,
        opened: &mut Vec<Opened>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Over>> {
        loop {
            let sent = match self.poll_send(cx) {
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Over::Lost)),
                sent => sent.is_ready(),
            };
            if std::mem::take(&mut self.fresh) {
                self.take_in(opened);
                let mood = self.mood();
                if std::mem::replace(&mut self.mood, mood) != mood || !opened.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let mut session = self.session.borrow_mut();
            // Under TLS some of it may be sealed and not sent.
            if session.is_over() && sent {
                let over = if session.has_failed() { Over::Failed } else { Over::Done };
                return Poll::Ready(Err(over));
            }
            session.park(cx);
            if !session.wants_input() {
                return Poll::Pending;
            }
            drop(session);
            if self.reads == AT_ONCE {
                self.reads = 0;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.poll_read(cx) {
                Poll::Ready(Ok(1..)) => (self.fresh, self.reads) = (true, self.reads + 1),
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Over::Lost)),
                Poll::Pending => {
                    self.reads = 0;
                    return Poll::Pending;
                }
            }
        }
    }

    fn take_in(&mut self, opened: &mut Vec<Opened>) {
        let mut session = self.session.borrow_mut();
        match session.receive(&self.read, opened) {
            Ok(used) if used == self.read.len() => {
                self.buffers.give(std::mem::take(&mut self.read));
            }
            Ok(used) => drop(self.read.drain(..used)),
            Err(error) => {
                debug!(target: "edge", why = error.why, "HTTP/2 connection ended");
                self.buffers.give(std::mem::take(&mut self.read));
                session.fail(error);
            }
        }
    }

    /// A buffer is there only while something is in it.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        if self.read.capacity() == 0 {
            ready!(self.stream.poll_read_ready(cx))?;
            self.read = self.buffers.take();
        }
        Buffers::make_room(&mut self.read);
        let polled = self.stream.poll_read_into(&mut self.read, cx);
        if self.read.is_empty() {
            self.buffers.give(std::mem::take(&mut self.read));
        }
        polled
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let mut session = self.session.borrow_mut();
        while !session.output().is_empty() {
            let count = ready!(self.stream.poll_write_some(session.output(), &[], cx))?;
            session.sent(count);
        }
        self.stream.poll_flush(cx)
    }
}
