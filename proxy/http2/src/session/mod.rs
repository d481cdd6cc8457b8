//! One connection: what came of it, what its streams hold, and what is to be sent.

mod calm;
mod control;
mod heads;
mod output;
mod receive;
mod send;
mod streams;

use std::task::{Context, Poll, Waker};

use crate::error::{ConnectionError, Reason};
use crate::frame::{self, LARGEST, kind, setting};
use crate::head::Head;
use crate::hpack::Decoder;
use calm::Calm;
use heads::Block;
use output::Output;
use receive::Reading;
use streams::Streams;

/// What a client may send on a stream, and on the whole connection, before it is read: bytes.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Both windows before anything was said (RFC 9113 section 6.9.2).
const FIRST_WINDOW: u32 = 65_535;
/// What the client is asked to repeat, so that it is known to have read what went before.
const GOODBYE: [u8; 8] = *b"goodbye.";
/// Heads kept for the next requests.
const SPARE_HEADS: usize = 16;
/// What such a head has room for at most, bytes: large ones are rare.
const SPARE_ROOM: usize = 4096;

/// What a client may ask for at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Streams at once.
    pub streams: u32,
    /// The size of a header list (RFC 9113 section 6.5.2), bytes.
    pub header_bytes: usize,
}

/// Where buffers come from and go to.
pub trait Space {
    /// An empty buffer.
    fn take(&self) -> Vec<u8>;
    /// Takes one back, whatever is in it.
    fn give(&self, buffer: Vec<u8>);
}

/// A stream, for those who serve it. Ends with [`Session::close`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamKey {
    slot: u32,
    id: u32,
}

/// A request has come.
#[derive(Debug)]
pub struct Opened {
    /// Its stream.
    pub stream: StreamKey,
    /// Its head: sound or too large.
    pub head: Head,
    /// Whether it has no body.
    pub ended: bool,
}

/// The stream is over: reset by the client or by this side, or lost with the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// What there is of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Some of it was handed over.
    More,
    /// Its end has been reached; trailers may have come with it.
    End,
}

/// How far this side is with ending the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    /// The client knows that it should go elsewhere; what it sent meanwhile is still served.
    Announced,
    /// Nothing new is served.
    Last,
}

/// One connection of a client.
#[derive(Debug)]
pub struct Session<S: Space> {
    limits: Limits,
    decoder: Decoder,
    reading: Reading,
    /// A header block of which more must come.
    block: Option<Box<Block>>,
    streams: Streams<S>,
    /// What may be sent on all streams together. Never above 2^31 - 1.
    send_window: i64,
    /// What may be sent on a new stream.
    first_send_window: i64,
    /// What the client may still send on all streams together.
    receive_window: u32,
    /// Bytes that were read and not yet added to that.
    read: u32,
    out: Output<S>,
    /// Whoever moves the bytes, while it waits.
    driver: Option<Waker>,
    calm: Calm,
    leaving: Leaving,
    failed: bool,
    /// The client reads no dynamic table of the usual size: said once, before the next block.
    tell_no_table: bool,
    /// The highest stream that the client has opened.
    last: u32,
    /// How many it has opened: as many as there are ids, if it has left none out.
    opened: u32,
    /// The client has said that it is about to leave.
    client_leaves: bool,
    /// How many frames and header blocks have come whole; wraps around.
    taken: u32,
    spare: Vec<Head>,
}

impl<S: Space + Clone> Session<S> {
    /// A connection of which nothing has been read. This side's settings go out first.
    pub fn new(limits: Limits, space: S) -> Self {
        let mut session = Self {
            limits,
            decoder: Decoder::default(),
            reading: Reading::Preface,
            block: None,
            streams: Streams::new(space.clone(), limits.streams as usize),
            send_window: i64::from(FIRST_WINDOW),
            first_send_window: i64::from(FIRST_WINDOW),
            receive_window: CONNECTION_WINDOW,
            read: 0,
            out: Output::new(space),
            driver: None,
            calm: Calm::default(),
            leaving: Leaving::No,
            failed: false,
            tell_no_table: false,
            last: 0,
            opened: 0,
            client_leaves: false,
            taken: 0,
            spare: Vec::new(),
        };
        let header_bytes = u32::try_from(limits.header_bytes).unwrap_or(u32::MAX);
        let settings = [
            (setting::MAX_CONCURRENT_STREAMS, limits.streams),
            (setting::INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            (setting::MAX_HEADER_LIST_SIZE, header_bytes),
        ];
        let out = session.out.bytes();
        frame::push_settings(out, &settings);
        frame::push_window(out, 0, CONNECTION_WINDOW - FIRST_WINDOW);
        session
    }
}

impl<S: Space> Session<S> {
    /// What is to be sent.
    pub fn output(&self) -> &[u8] {
        self.out.waiting()
    }

    /// So many bytes of [`output`](Self::output) went out.
    pub fn sent(&mut self, count: usize) {
        self.out.sent(count);
        self.grant();
    }

    /// Whether more should be read: not while the client leaves too much unread of what it is sent.
    pub fn wants_input(&self) -> bool {
        self.out.room() > 0 && !self.failed
    }

    /// Whether the client broke the protocol.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Streams that are being served.
    pub fn active(&self) -> usize {
        self.streams.active()
    }

    /// What the client owes the rest of before it may wait: its preface, a header block, or a frame other than DATA.
    /// Numbered, so that one can be told from the next. `unread`: bytes that [`receive`](Self::receive) left are there.
    pub fn owed(&self, unread: bool) -> Option<u32> {
        let begun =
            self.block.is_some() || matches!(self.reading, Reading::Preface | Reading::Settings);
        (unread || begun).then_some(self.taken)
    }

    /// Whether the client has said that it is about to leave. It may still say what it likes.
    pub fn client_leaves(&self) -> bool {
        self.client_leaves
    }

    /// Whether everything has been served and said.
    pub fn is_over(&self) -> bool {
        self.leaving == Leaving::Last && self.active() == 0 && self.out.waiting().is_empty()
    }

    /// Whether nothing new is served.
    pub fn is_last(&self) -> bool {
        self.leaving == Leaving::Last
    }

    /// Wakes whoever moves the bytes at the next change.
    pub fn park(&mut self, cx: &Context<'_>) {
        self.driver = Some(cx.waker().clone());
    }

    fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// How many frames that brought nothing have come since [`forgive`](Self::forgive), requests counted against them.
    pub fn unrest(&self) -> u32 {
        self.calm.unrest()
    }

    /// Forgives frames that brought nothing: for calls at the pace of seconds.
    pub fn forgive(&mut self) {
        self.calm.forgive();
    }

    /// Lets go of what a quiet connection does not need.
    pub fn rest(&mut self) {
        if self.active() == 0 {
            self.streams.let_go();
            self.decoder.let_go();
            self.spare = Vec::new();
        }
    }

    /// Begins to end the connection: the client is told to open no more streams; those it opens before it has heard of
    /// that are served.
    pub fn leave(&mut self) {
        if self.leaving == Leaving::No {
            self.leaving = Leaving::Announced;
            let out = self.out.bytes();
            frame::push_goaway(out, frame::MOST, Reason::NO_ERROR, "");
            frame::push(out, kind::PING, 0, 0, &GOODBYE);
            self.wake_driver();
        }
    }

    /// Takes no more streams. Comes by itself once the client has heard of [`leave`](Self::leave).
    pub fn leave_now(&mut self) {
        if self.leaving != Leaving::Last {
            self.leaving = Leaving::Last;
            frame::push_goaway(self.out.bytes(), self.last, Reason::NO_ERROR, "");
            self.wake_driver();
        }
    }

    /// Ends everything, because the client broke the protocol.
    pub fn fail(&mut self, error: ConnectionError) {
        self.leaving = Leaving::Last;
        self.failed = true;
        frame::push_goaway(self.out.bytes(), self.last, error.reason, error.why);
        self.lose();
    }

    /// The connection is lost, and all streams with it.
    pub fn lose(&mut self) {
        self.streams.lose_all();
    }
}

// ---------------------------------------------------------------------------- streams, for those who serve them

impl<S: Space> Session<S> {
    /// Hands over what has come of the body, through `take`; `None` if that is nothing.
    ///
    /// # Errors
    /// The stream is gone.
    pub fn body(&mut self, key: StreamKey, take: impl FnOnce(&[u8])) -> Result<Option<Body>, Gone> {
        let stream = self.streams.get(key);
        if stream.is_gone() {
            return Err(Gone);
        }
        if stream.inbox.is_empty() {
            return Ok(stream.remote_ended.then_some(Body::End));
        }
        take(&stream.inbox);
        let count = self.streams.empty_inbox(key);
        self.credit(key, count);
        let ended = self.streams.get(key).remote_ended;
        Ok(Some(if ended { Body::End } else { Body::More }))
    }

    /// The same; waits for something to come.
    ///
    /// # Errors
    /// The stream is gone.
    pub fn poll_body(
        &mut self,
        key: StreamKey,
        cx: &Context<'_>,
        take: impl FnOnce(&[u8]),
    ) -> Poll<Result<Body, Gone>> {
        match self.body(key, take) {
            Ok(None) => {
                self.streams.get(key).watch(cx);
                Poll::Pending
            }
            Ok(Some(body)) => Poll::Ready(Ok(body)),
            Err(gone) => Poll::Ready(Err(gone)),
        }
    }

    /// Bytes of the body that are held, or may be before anybody reads them.
    pub fn may_hold(&self, key: StreamKey) -> usize {
        let stream = self.streams.see(key);
        if stream.is_gone() || stream.remote_ended {
            return stream.inbox.len();
        }
        let coming = stream.expected.unwrap_or(u64::MAX).min(u64::from(stream.receive_window));
        stream.inbox.len() + coming as usize
    }

    /// The trailers that came with the body's end.
    pub fn take_trailers(&mut self, key: StreamKey) -> Option<Box<Head>> {
        self.streams.get(key).trailers.take()
    }

    /// Whether the stream is gone.
    pub fn is_gone(&self, key: StreamKey) -> bool {
        self.streams.is_gone(key)
    }

    /// Ready when the stream is gone.
    pub fn poll_gone(&mut self, key: StreamKey, cx: &Context<'_>) -> Poll<()> {
        let stream = self.streams.get(key);
        if stream.is_gone() {
            return Poll::Ready(());
        }
        stream.watch(cx);
        Poll::Pending
    }

    /// The stream is served no longer; what was not ended is reset. `head` is the one that it was opened with.
    pub fn close(&mut self, key: StreamKey, mut head: Head) {
        let stream = self.streams.get(key);
        if !stream.is_gone() {
            match (stream.local_ended, stream.remote_ended, stream.expected) {
                (true, true, _) => {}
                // All that was announced has come, only the mark of its end has not: a reset would meet it on its way,
                // and there are clients that take that for a failure.
                (true, false, Some(0)) => self.streams.forget(key.id),
                // The answer is whole: the client need not send the rest.
                (true, false, _) => self.reset(key, Reason::NO_ERROR),
                (false, ..) => self.reset(key, Reason::INTERNAL_ERROR),
            }
        }
        let unread = self.streams.close(key);
        self.credit_connection(unread);
        // Its turn to send goes to the next one.
        self.grant();
        if self.spare.len() < SPARE_HEADS && head.room() <= SPARE_ROOM {
            head.clear();
            self.spare.push(head);
        }
        if self.streams.active() == 0 && self.leaving != Leaving::No {
            self.wake_driver();
        }
    }

    /// Adds what was read to the windows, in large steps.
    fn credit(&mut self, key: StreamKey, count: u32) {
        let stream = self.streams.get(key);
        stream.read += count;
        if stream.read >= STREAM_WINDOW / 2 && !stream.remote_ended {
            let more = std::mem::take(&mut stream.read);
            stream.receive_window += more;
            frame::push_window(self.out.bytes(), key.id, more);
            self.wake_driver();
        }
        self.credit_connection(count);
    }

    fn credit_connection(&mut self, count: u32) {
        self.read += count;
        // What streams have not read leaves less for the others: then in smaller steps.
        if self.read >= self.receive_window.max(LARGEST as u32) {
            let more = std::mem::take(&mut self.read);
            self.receive_window += more;
            frame::push_window(self.out.bytes(), 0, more);
            self.wake_driver();
        }
    }
}

#[cfg(test)]
mod tests;
