//! An HTTP/2 client's side of one request.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use meridian_config::Limits;
use meridian_http2::{Body, Gone, Head, HeadWriter, Reason, Session, StreamKey, Verdict};
use tokio::net::TcpStream;

use crate::buffers::Spare;
use crate::forward::canonical::{ResponseEdits, response_fields};
use crate::forward::{BodyPiece, ClientGone, Downstream, InterimHead, Upload};
use crate::http1::body::{
    Framing, encode_chunk, encode_request_end, trailer_allowed, with_trailers,
};
use crate::http1::bytes::{is_token, legal_in_target};
use crate::http1::head::{content_length, valid_host};
use crate::http1::response::ResponseHead;
use crate::request::{Fields, Protocol, Request};
use crate::respond::OwnAnswer;

/// The longest body that is held for classification.
const HELD: usize = 64 * 1024;

/// The client's side of a stream.
pub(crate) struct Http2Stream {
    session: Rc<RefCell<Session<Spare>>>,
    key: StreamKey,
    head: Head,
    /// As announced; what has been read since does not change it.
    upload: Upload,
    /// Read ahead of the forwarder, for classification.
    held: Vec<u8>,
    body_ended: bool,
    body_bytes: u64,
    most_body: u64,
    /// Of this edge's own answer.
    location: Option<String>,
}

impl Drop for Http2Stream {
    fn drop(&mut self) {
        self.session.borrow_mut().close(self.key, std::mem::take(&mut self.head));
    }
}

impl From<Gone> for ClientGone {
    fn from(_: Gone) -> Self {
        Self::Closed
    }
}

impl Http2Stream {
    pub(crate) fn new(
        session: Rc<RefCell<Session<Spare>>>,
        key: StreamKey,
        head: Head,
        ended: bool,
    ) -> Self {
        let upload = match head.first("content-length").and_then(content_length) {
            Some(0) => Upload::Nothing,
            Some(length) => Upload::Length(length),
            None if ended => Upload::Nothing,
            None => Upload::Chunked,
        };
        let held = Vec::new();
        let (body_ended, body_bytes, most_body) = (ended, 0, u64::MAX);
        let location = None;
        Self { session, key, head, upload, held, body_ended, body_bytes, most_body, location }
    }

    /// Sets the longest body; whether the announced length is within it.
    pub(crate) fn limit_body(&mut self, most: u64) -> bool {
        self.most_body = most;
        !matches!(self.upload(), Upload::Length(length) if length > most)
    }

    /// What the session lets pass and the contract does not.
    pub(crate) fn check(&self, limits: &Limits) -> Result<(), OwnAnswer> {
        let bad = |why| Err(OwnAnswer::new(400, "bad_request", why));
        if self.head.verdict() == Verdict::TooLarge || self.head.len() > limits.headers {
            let why = "the request head is too large";
            return Err(OwnAnswer::new(431, "header_too_large", why));
        }
        if self.head.method() == "CONNECT" {
            let why = "CONNECT is not served here";
            return Err(OwnAnswer::new(405, "method_not_allowed", why));
        }
        if !self.head.method().bytes().all(is_token) {
            return bad("the method is malformed");
        }
        let target = self.head.path();
        let star = target == "*" && self.head.method() == "OPTIONS";
        if !(target.starts_with('/') || star) || !target.bytes().all(legal_in_target) {
            return bad("the request target is malformed");
        }
        if target.len() > limits.request_line_bytes {
            let why = "the request target is too long";
            return Err(OwnAnswer::new(414, "uri_too_long", why));
        }
        let authority = self.head.authority().as_bytes();
        if valid_host(authority).is_none() {
            return bad("the authority is malformed");
        }
        // That it agrees with the authority the session has seen to.
        if self.all("host").count() > 1 {
            return bad("there are two Hosts");
        }
        let mut lengths = self.all("content-length");
        let announced = lengths.next().map(content_length);
        if lengths.next().is_some() {
            return bad("there are two Content-Lengths");
        }
        match announced {
            Some(None) => bad("the Content-Length is malformed"),
            Some(Some(length)) if length > limits.body_bytes => {
                Err(OwnAnswer::new(413, "content_too_large", "the request body is too large"))
            }
            _ => Ok(()),
        }
    }

    /// All values under a lower-case name.
    fn all(&self, name: &'static str) -> impl Iterator<Item = &[u8]> {
        self.head.fields().filter(move |(known, _)| *known == name).map(|(_, value)| value)
    }

    pub(crate) fn is_head(&self) -> bool {
        self.head.method() == "HEAD"
    }

    /// Whether the client waits for 100 Continue before it sends its body.
    pub(crate) fn expects_continue(&self) -> bool {
        let expect = self.head.first("expect");
        expect.is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"))
    }

    /// Tells it to go on.
    pub(crate) fn tell_continue(&mut self) {
        self.send_head(false, |head| head.status(100));
    }

    fn send_head(&self, end: bool, write: impl FnOnce(&mut HeadWriter<'_>)) {
        self.session.borrow_mut().send_head(self.key, end, write);
    }

    /// Whether the client has reset the stream, or has gone.
    pub(crate) fn is_gone(&self) -> bool {
        self.session.borrow().is_gone(self.key)
    }

    /// Ready when the client resets the stream; does not borrow the stream, and may not outlive it.
    pub(crate) fn reset_watch(&self) -> impl Future<Output = ()> + use<> {
        let (session, key) = (self.session.clone(), self.key);
        poll_fn(move |cx| session.borrow_mut().poll_gone(key, cx))
    }

    /// Reads the body ahead if it is small; whether it is held whole.
    pub(crate) async fn hold_body(&mut self) -> Result<bool, ClientGone> {
        while !self.body_ended && self.held.len() <= HELD {
            let Self { session, key, held, .. } = self;
            let read = |cx: &mut Context<'_>| {
                session.borrow_mut().poll_body(*key, cx, |data| held.extend_from_slice(data))
            };
            self.body_ended = poll_fn(read).await? == Body::End;
        }
        self.body_bytes = self.held.len() as u64;
        Ok(self.body_ended && self.held.len() <= HELD)
    }

    /// The body as far as it was read ahead.
    pub(crate) fn held_body(&self) -> &[u8] {
        &self.held
    }

    /// Appends what was read, and the end with its trailers if it has come.
    fn append(&mut self, read: Option<Body>, out: &mut Vec<u8>) -> Result<BodyPiece, ClientGone> {
        if self.body_bytes > self.most_body {
            return Err(ClientGone::TooLarge);
        }
        self.body_ended |= read == Some(Body::End);
        if !self.body_ended {
            return Ok(BodyPiece::More);
        }
        if self.upload == Upload::Chunked {
            let trailers = self.session.borrow_mut().take_trailers(self.key).unwrap_or_default();
            let allowed = trailers.fields().filter(|(name, _)| trailer_allowed(name));
            encode_request_end(allowed, out).map_err(|broken| ClientGone::Malformed(broken.0))?;
        }
        Ok(BodyPiece::End)
    }

    /// Where its own answer sends the client.
    pub(crate) fn set_location(&mut self, location: Option<String>) {
        self.location = location;
    }

    /// Answers in the name of this edge.
    pub(crate) async fn answer(&mut self, answer: &OwnAnswer, json: bool, id: &str) {
        let (content_type, body) = answer.body(json, id);
        let location = self.location.take();
        self.send_head(self.is_head(), |head| {
            head.status(answer.status);
            head.field("content-type", content_type.as_bytes());
            head.content_length(body.len() as u64);
            head.field("cache-control", b"no-store");
            head.field("x-request-id", id.as_bytes());
            if let Some(location) = &location {
                head.field("location", location.as_bytes());
            }
            if let Some(seconds) = answer.retry_after {
                head.field("retry-after", itoa::Buffer::new().format(seconds).as_bytes());
            }
        });
        // Whoever has gone meanwhile does not read it.
        if !self.is_head() && self.body(&body).await.is_ok() {
            self.session.borrow_mut().end(self.key);
        }
    }

    /// Ends the stream at once.
    pub(crate) fn reset(&mut self, reason: Reason) {
        self.session.borrow_mut().reset(self.key, reason);
    }
}

/// Appends body bytes in the endpoint's framing.
fn encode(upload: Upload, data: &[u8], out: &mut Vec<u8>) {
    match upload {
        Upload::Chunked => encode_chunk(data, out),
        _ => out.extend_from_slice(data),
    }
}

impl Downstream for Http2Stream {
    fn request<R>(&self, then: impl FnOnce(&Request<'_>) -> R) -> R {
        let Self { head, .. } = self;
        let (method, path, authority) = (head.method(), head.path(), head.authority());
        let fields = Fields::Http2(head);
        then(&Request::new(Protocol::Http2, method, path, authority, fields, &[]))
    }

    fn upload(&self) -> Upload {
        self.upload
    }

    /// What comes is taken into the stream's window, whether anybody asks for it or not.
    fn held(&self) -> usize {
        let of_body = if self.body_ended { 0 } else { self.session.borrow().may_hold(self.key) };
        self.held.len() + of_body
    }

    fn ready_body(&mut self, out: &mut Vec<u8>) -> Result<BodyPiece, ClientGone> {
        let held = std::mem::take(&mut self.held);
        encode(self.upload, &held, out);
        if self.upload == Upload::Nothing {
            return Ok(BodyPiece::End);
        }
        // What arrived together with the head can go out with it.
        let Self { session, key, upload, body_bytes, body_ended, .. } = self;
        let read = match body_ended {
            true => Some(Body::End),
            false => session.borrow_mut().body(*key, |data| {
                *body_bytes += data.len() as u64;
                encode(*upload, data, out);
            })?,
        };
        self.append(read, out)
    }

    async fn read_body(&mut self, out: &mut Vec<u8>) -> Result<BodyPiece, ClientGone> {
        let Self { session, key, upload, body_bytes, .. } = self;
        let read = |cx: &mut Context<'_>| {
            session.borrow_mut().poll_body(*key, cx, |data| {
                *body_bytes += data.len() as u64;
                encode(*upload, data, out);
            })
        };
        let read = poll_fn(read).await?;
        self.append(Some(read), out)
    }

    /// Never: whoever drives the stream watches for its reset.
    async fn gone(&self) {
        std::future::pending().await
    }

    async fn interim(&mut self, interim: &InterimHead) -> Result<(), ClientGone> {
        poll_fn(|cx| self.session.borrow_mut().poll_room(self.key, cx)).await?;
        self.send_head(false, |head| {
            head.status(interim.status);
            interim.fields.iter().for_each(|(name, value)| head.field(name, value));
        });
        Ok(())
    }

    fn begin(&mut self, head: &ResponseHead<'_, '_>, edits: &ResponseEdits<'_>) {
        self.send_head(head.facts.framing == Framing::Empty, |out| {
            out.status(head.status);
            response_fields(head, edits, |name, value| out.field(name, value));
            if let Some(length) = head.facts.announced.filter(|_| head.status != 204) {
                out.content_length(length);
            }
        });
    }

    async fn body(&mut self, mut data: &[u8]) -> Result<(), ClientGone> {
        let Self { session, key, .. } = self;
        let send = |cx: &mut Context<'_>| {
            let mut session = session.borrow_mut();
            while !data.is_empty() {
                let count = ready!(session.poll_send(*key, data, cx))?;
                data = &data[count..];
            }
            Poll::Ready(Ok(()))
        };
        poll_fn(send).await
    }

    /// Nothing to do: what was written goes out when the streams that are ready have had their turn.
    async fn flush(&mut self) -> Result<(), ClientGone> {
        Ok(())
    }

    async fn finish(&mut self, trailers: &[u8]) -> Result<(), ClientGone> {
        let mut session = self.session.borrow_mut();
        let sent = with_trailers(trailers, |fields| {
            let mut fields = fields.iter().filter(|field| trailer_allowed(field.name)).peekable();
            if fields.peek().is_none() {
                return false;
            }
            session.send_head(self.key, true, |head| {
                fields.for_each(|field| head.field(field.name, field.value));
            });
            true
        });
        if sent != Ok(true) {
            session.end(self.key);
        }
        Ok(())
    }

    fn raw(&self) -> Option<&TcpStream> {
        None
    }

    fn abort(&mut self) {
        self.reset(Reason::INTERNAL_ERROR);
    }
}
