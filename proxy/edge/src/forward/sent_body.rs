//! The request body on its way: read, sent, and kept while it may have to be sent again.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use meridian_config::Service;
use meridian_routing::{Micros, ServiceView, WriteGate, WriteGuard};

use super::h2::Watch;
use super::pace::Pace;
use super::upstream::{Progress, Upstream};
use super::{BodyPiece, ClientGone, Downstream, Upload};
use crate::buffers::Buffers;

/// So many bytes an endpoint surely has room for when it waits for a request.
const ROOM: usize = 16 * 1024;

/// The request body as far as it has been read, encoded for the endpoint.
#[derive(Debug)]
pub(super) struct SentBody {
    bytes: Vec<u8>,
    /// Of `bytes`, in the current attempt.
    sent: usize,
    piece: BodyPiece,
    /// Whether `bytes` is everything that was read so far.
    whole: bool,
    given_up: bool,
    /// Bytes that are kept for another attempt.
    limit: usize,
    /// The longest pause between two writes.
    idle: Duration,
    /// Of the client, where it has said how much it will send: of any other it is not known whether it has more.
    pace: Pace,
    /// While the request is on its way to a primary: from before its first byte until its answer's head has come and
    /// nothing more of it is to be sent.
    pub(super) inside: Option<Inside>,
}

/// A request that was let in by the gate of its service.
#[derive(Debug)]
pub(super) struct Inside {
    /// Counts it out when dropped.
    _guard: WriteGuard,
    gate: Arc<WriteGate>,
    epoch: u64,
}

impl Inside {
    pub(super) fn new(service: &ServiceView, guard: WriteGuard) -> Self {
        Self { _guard: guard, gate: service.writes.clone(), epoch: service.primacy.epoch }
    }

    pub(super) fn watch(&self) -> (Arc<WriteGate>, u64) {
        (self.gate.clone(), self.epoch)
    }

    /// Whether a higher epoch than its own was seen since.
    fn is_deposed(&self) -> bool {
        self.gate.highest() > self.epoch
    }
}

/// What happened first while a request was being sent.
pub(super) enum Event {
    /// So many bytes came from the endpoint; 0: it has closed its side.
    Read(io::Result<usize>),
    /// So many bytes went to it.
    Sent(io::Result<usize>),
    /// More of the body came from the client.
    Body(Result<(), ClientGone>),
    /// The client has gone.
    Gone,
}

impl SentBody {
    /// Takes what came with the head, for a service.
    pub(super) fn begin<D: Downstream>(
        down: &mut D,
        service: &Service,
        min_rate: u64,
        buffers: &Buffers,
    ) -> Result<Self, ClientGone> {
        let mut body = Self {
            bytes: Vec::new(),
            sent: 0,
            piece: BodyPiece::End,
            whole: true,
            given_up: false,
            inside: None,
            limit: service.retry.buffer,
            idle: service.timeouts.idle,
            pace: Pace::new(
                if matches!(down.upload(), Upload::Length(_)) { min_rate } else { 0 },
                service.timeouts.idle,
            ),
        };
        if down.upload() != Upload::Nothing {
            body.bytes = buffers.take();
            body.piece = down.ready_body(&mut body.bytes)?;
        }
        Ok(body)
    }

    /// All that was read so far, for the start of an attempt on this connection.
    pub(super) fn again(&mut self, upstream: &mut Upstream) -> &[u8] {
        self.prepare(upstream);
        self.sent = 0;
        self.given_up = false;
        &self.bytes
    }

    /// So much of what [`again`](Self::again) gave has been sent.
    pub(super) fn was_sent(&mut self, count: usize) {
        self.sent = count;
        if self.sent == self.bytes.len() {
            self.forget();
        }
    }

    /// All of it was sent: what is too much for another attempt is not kept.
    fn forget(&mut self) {
        if self.bytes.len() > self.limit {
            self.bytes.clear();
            self.sent = 0;
            self.whole = false;
        }
    }

    /// Whether another attempt could send everything that was read so far.
    pub(super) fn can_be_repeated(&self) -> bool {
        self.whole
    }

    /// The attempt is over: the request is not on its way any more.
    pub(super) fn leave(&mut self) {
        self.inside = None;
    }

    /// The same, unless something of it is still to be sent; `held`: some of it waits in the connection.
    pub(super) fn leave_if_sent(&mut self, held: bool) {
        if self.inside.is_some() && ((self.is_sent() && !held) || self.given_up) {
            self.inside = None;
        }
    }

    /// The gate that it came in by, and the epoch of its primary.
    pub(super) fn watch(&self) -> Watch {
        self.inside.as_ref().map(Inside::watch)
    }

    /// Whether the primary that it is on its way to is one no more, before all of it was sent; `held`: some of it waits in
    /// the connection.
    pub(super) fn is_deposed(&self, held: bool) -> bool {
        self.inside.as_ref().is_some_and(Inside::is_deposed) && (held || !self.is_sent())
    }

    /// Bytes that are held.
    pub(super) fn held(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the body has been read and sent to its end.
    pub(super) fn is_sent(&self) -> bool {
        self.piece == BodyPiece::End && self.sent == self.bytes.len()
    }

    /// Gives the connection the time that a body needs which is more than an endpoint that waits for a request has room
    /// for.
    fn prepare(&self, upstream: &mut Upstream) {
        if !self.whole || self.bytes.len() > ROOM {
            upstream.be_patient(self.idle);
        }
    }

    /// The endpoint takes no more of it.
    pub(super) fn give_up(&mut self) {
        self.given_up = true;
    }

    /// Whether the client is the one who is waited for.
    pub(super) fn waits_for_client(&self) -> bool {
        self.piece == BodyPiece::More && self.sent == self.bytes.len()
    }

    /// A wait for whatever comes first begins; how long it may last. `idle`: the longest pause.
    pub(super) fn patience(&mut self, idle: Duration, now: Micros) -> Duration {
        self.pace.begin(now);
        if self.waits_for_client() { self.pace.patience(idle) } else { idle }
    }

    /// It is over; `for_client`: it was one for the client.
    pub(super) fn waited(&mut self, for_client: bool, now: Micros) {
        if for_client {
            self.pace.end(now);
        }
    }

    /// Whichever comes first: bytes from the endpoint, or progress of the upload. May be dropped while waiting.
    pub(super) async fn either<D: Downstream>(
        &mut self,
        upstream: &mut Upstream,
        down: &mut D,
    ) -> Event {
        if self.given_up {
            return Event::Read(upstream.fill().await);
        }
        if self.sent < self.bytes.len() {
            self.prepare(upstream);
            let may_write = || !self.inside.as_ref().is_some_and(Inside::is_deposed);
            return match upstream.write_or_read(&self.bytes[self.sent..], may_write).await {
                Ok(Progress::Read(n)) => Event::Read(Ok(n)),
                Ok(Progress::Wrote(n)) => {
                    self.sent += n;
                    if self.sent == self.bytes.len() {
                        self.forget();
                    }
                    Event::Sent(Ok(n))
                }
                Err(error) => Event::Sent(Err(error)),
            };
        }
        if self.piece == BodyPiece::End {
            // As `select!` would, which asks the task's budget once more each time.
            let (mut filling, mut gone) = (pin!(upstream.fill()), pin!(down.gone()));
            let first = poll_fn(|cx| match filling.as_mut().poll(cx) {
                Poll::Ready(result) => Poll::Ready(Event::Read(result)),
                Poll::Pending => gone.as_mut().poll(cx).map(|()| Event::Gone),
            });
            return first.await;
        }
        let before = self.bytes.len();
        tokio::select! {
            biased;
            result = upstream.fill() => Event::Read(result),
            result = down.read_body(&mut self.bytes) => {
                self.pace.moved((self.bytes.len() - before) as u64);
                Event::Body(result.map(|piece| self.piece = piece))
            }
        }
    }

    /// Gives its buffer back.
    pub(super) fn give_back(self, buffers: &Buffers) {
        buffers.give(self.bytes);
    }
}
