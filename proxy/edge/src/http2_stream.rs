//! An HTTP/2 client's side of one request.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use meridian_config::Limits;
use tokio::net::TcpStream;

use crate::forward::canonical::{ResponseEdits, response_fields};
use crate::forward::{BodyPiece, ClientGone, Downstream, InterimHead, Upload};
use crate::http1::body::{Framing, encode_chunk, encode_end, trailer_allowed, with_trailers};
use crate::http1::bytes::legal_in_target;
use crate::http1::head::{content_length, valid_host};
use crate::http1::response::ResponseHead;
use crate::http2_names::header_name;
use crate::request::{Fields, Protocol, Request, find};
use crate::respond::OwnAnswer;

/// Body bytes gathered before they become a frame.
const BATCH: usize = 16 * 1024;
/// The longest body that is held for classification.
const HELD: usize = 64 * 1024;

/// The client's side of a stream.
pub(crate) struct Http2Stream {
    parts: Parts,
    authority: String,
    /// As announced; what has been read since does not change it.
    upload: Upload,
    body: RecvStream,
    /// Read ahead of the forwarder, for classification.
    held: Vec<u8>,
    body_ended: bool,
    body_bytes: u64,
    most_body: u64,
    out: Rc<RefCell<Out>>,
    pending: Vec<u8>,
    ended: bool,
}

/// The sending side, shared with the watch for resets.
struct Out {
    respond: SendResponse<Bytes>,
    body: Option<SendStream<Bytes>>,
}

impl Http2Stream {
    pub(crate) fn new(request: http::Request<RecvStream>, respond: SendResponse<Bytes>) -> Self {
        let (parts, body) = request.into_parts();
        let host = || find(&parts.headers, "host").and_then(|value| value.to_str().ok());
        let authority = parts.uri.authority().map(|a| a.as_str()).or_else(host);
        let announced = find(&parts.headers, "content-length");
        let upload = match announced.and_then(|value| content_length(value.as_bytes())) {
            Some(0) => Upload::Nothing,
            Some(length) => Upload::Length(length),
            None if body.is_end_stream() => Upload::Nothing,
            None => Upload::Chunked,
        };
        Self {
            authority: authority.unwrap_or_default().to_owned(),
            upload,
            parts,
            body_ended: body.is_end_stream(),
            body,
            held: Vec::new(),
            body_bytes: 0,
            most_body: u64::MAX,
            out: Rc::new(RefCell::new(Out { respond, body: None })),
            pending: Vec::new(),
            ended: false,
        }
    }

    /// Sets the longest body; whether the announced length is within it.
    pub(crate) fn limit_body(&mut self, most: u64) -> bool {
        self.most_body = most;
        !matches!(self.upload(), Upload::Length(length) if length > most)
    }

    /// What the codec lets pass and the contract does not.
    pub(crate) fn check(&self, limits: &Limits) -> Result<(), OwnAnswer> {
        let bad = |why| Err(OwnAnswer::new(400, "bad_request", why));
        if self.parts.method == Method::CONNECT {
            let why = "CONNECT is not served here";
            return Err(OwnAnswer::new(405, "method_not_allowed", why));
        }
        let target = self.target();
        let star = target == "*" && self.parts.method == Method::OPTIONS;
        if !(target.starts_with('/') || star) || !target.bytes().all(legal_in_target) {
            return bad("the request target is malformed");
        }
        if target.len() > limits.request_line_bytes {
            let why = "the request target is too long";
            return Err(OwnAnswer::new(414, "uri_too_long", why));
        }
        if self.parts.headers.len() > limits.headers {
            let why = "the request head is too large";
            return Err(OwnAnswer::new(431, "header_too_large", why));
        }
        if valid_host(self.authority.as_bytes()).is_none() {
            return bad("the authority is malformed");
        }
        let named = |(name, _): &(&HeaderName, &HeaderValue)| name.as_str() == "host";
        let mut hosts = self.parts.headers.iter().filter(named).map(|(_, value)| value);
        let differs =
            |value: &HeaderValue| !value.as_bytes().eq_ignore_ascii_case(self.authority.as_bytes());
        if hosts.next().is_some_and(differs) || hosts.next().is_some() {
            return bad("the Host disagrees with the authority");
        }
        let announced = find(&self.parts.headers, "content-length");
        match announced.map(|value| content_length(value.as_bytes())) {
            Some(None) => bad("the Content-Length is malformed"),
            Some(Some(length)) if length > limits.body_bytes => {
                Err(OwnAnswer::new(413, "content_too_large", "the request body is too large"))
            }
            _ => Ok(()),
        }
    }

    fn target(&self) -> &str {
        self.parts.uri.path_and_query().map_or("/", |target| match target.as_str() {
            "" => "/",
            text => text,
        })
    }

    pub(crate) fn is_head(&self) -> bool {
        self.parts.method == Method::HEAD
    }

    /// Whether the client waits for 100 Continue before it sends its body.
    pub(crate) fn expects_continue(&self) -> bool {
        let expect = find(&self.parts.headers, "expect");
        expect.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
    }

    /// Tells it to go on.
    pub(crate) fn tell_continue(&mut self) -> Result<(), ClientGone> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::CONTINUE;
        let mut out = self.out.borrow_mut();
        out.respond.send_informational(response).map_err(|_| ClientGone::Closed)
    }

    /// Ready when the client resets the stream; does not borrow the stream.
    pub(crate) fn reset_watch(&self) -> impl Future<Output = ()> + use<> {
        let out = self.out.clone();
        poll_fn(move |cx| {
            let mut out = out.borrow_mut();
            let out = &mut *out;
            match &mut out.body {
                Some(body) => body.poll_reset(cx).map(|_| ()),
                None => out.respond.poll_reset(cx).map(|_| ()),
            }
        })
    }

    /// Reads the body ahead if it is small; whether it is held whole.
    pub(crate) async fn hold_body(&mut self) -> Result<bool, ClientGone> {
        while !self.body_ended && self.held.len() <= HELD {
            match self.next_data().await? {
                Some(data) => self.held.extend_from_slice(&data),
                None => self.body_ended = true,
            }
        }
        Ok(self.body_ended && self.held.len() <= HELD)
    }

    /// The body as far as it was read ahead.
    pub(crate) fn held(&self) -> &[u8] {
        &self.held
    }

    async fn next_data(&mut self) -> Result<Option<Bytes>, ClientGone> {
        poll_fn(|cx| self.poll_data(cx)).await
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ClientGone>> {
        match std::task::ready!(self.body.poll_data(cx)) {
            Some(Ok(data)) => {
                self.body_bytes += data.len() as u64;
                if self.body_bytes > self.most_body {
                    return Poll::Ready(Err(ClientGone::TooLarge));
                }
                // Fails only for more than was received.
                let _ = self.body.flow_control().release_capacity(data.len());
                Poll::Ready(Ok(Some(data)))
            }
            Some(Err(_)) => Poll::Ready(Err(ClientGone::Closed)),
            None => Poll::Ready(Ok(None)),
        }
    }

    fn append(&self, data: &[u8], out: &mut Vec<u8>) {
        match self.upload() {
            Upload::Chunked => encode_chunk(data, out),
            _ => out.extend_from_slice(data),
        }
    }

    /// Appends what ends the body: for chunked, the trailers.
    async fn append_end(&mut self, out: &mut Vec<u8>) -> Result<(), ClientGone> {
        if self.upload() != Upload::Chunked {
            return Ok(());
        }
        let trailers = poll_fn(|cx| self.body.poll_trailers(cx)).await;
        let trailers = trailers.map_err(|_| ClientGone::Closed)?.unwrap_or_default();
        let allowed = trailers.iter().filter(|(name, _)| trailer_allowed(name.as_str()));
        encode_end(allowed.map(|(name, value)| (name.as_str(), value.as_bytes())), out);
        Ok(())
    }

    async fn send(&mut self, end: bool) -> Result<(), ClientGone> {
        let mut data = Bytes::from(std::mem::take(&mut self.pending));
        loop {
            let wanted = data.len();
            let granted = if wanted == 0 {
                0
            } else {
                let out = self.out.clone();
                poll_fn(move |cx| poll_room(&mut out.borrow_mut(), wanted, cx)).await?
            };
            let piece = data.split_to(granted.min(wanted));
            let last = data.is_empty();
            let mut out = self.out.borrow_mut();
            let body = out.body.as_mut().ok_or(ClientGone::Closed)?;
            body.send_data(piece, last && end).map_err(|_| ClientGone::Closed)?;
            if last {
                return Ok(());
            }
        }
    }

    /// Answers in the name of this edge.
    pub(crate) fn answer(&mut self, answer: &OwnAnswer, json: bool, id: &str) {
        if self.ended {
            return;
        }
        self.ended = true;
        let (content_type, body) = answer.body(json, id);
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or_default();
        let headers = response.headers_mut();
        headers.insert("content-type", HeaderValue::from_static(content_type));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        headers.insert("cache-control", HeaderValue::from_static("no-store"));
        if let Ok(id) = HeaderValue::from_str(id) {
            headers.insert("x-request-id", id);
        }
        if let Some(seconds) = answer.retry_after {
            headers.insert("retry-after", HeaderValue::from(seconds));
        }
        let bodiless = self.is_head();
        let mut out = self.out.borrow_mut();
        // The client may have reset the stream meanwhile: then nobody reads the answer.
        if let Ok(mut stream) = out.respond.send_response(response, bodiless)
            && !bodiless
        {
            let _ = stream.send_data(body.into(), true);
        }
    }

    /// Ends the stream at once.
    pub(crate) fn reset(&mut self, reason: Reason) {
        self.ended = true;
        let mut out = self.out.borrow_mut();
        match &mut out.body {
            Some(body) => body.send_reset(reason),
            None => out.respond.send_reset(reason),
        }
    }
}

/// Room to send on the stream: at most `wanted`, at least one byte.
fn poll_room(
    out: &mut Out,
    wanted: usize,
    cx: &mut Context<'_>,
) -> Poll<Result<usize, ClientGone>> {
    let Some(body) = &mut out.body else { return Poll::Ready(Err(ClientGone::Closed)) };
    body.reserve_capacity(wanted);
    if body.capacity() > 0 {
        return Poll::Ready(Ok(body.capacity()));
    }
    loop {
        match std::task::ready!(body.poll_capacity(cx)) {
            Some(Ok(0)) => {}
            Some(Ok(granted)) => return Poll::Ready(Ok(granted)),
            Some(Err(_)) | None => return Poll::Ready(Err(ClientGone::Closed)),
        }
    }
}

impl Downstream for Http2Stream {
    fn request<R>(&self, then: impl FnOnce(&Request<'_>) -> R) -> R {
        then(&Request::new(
            Protocol::Http2,
            self.parts.method.as_str(),
            self.target(),
            &self.authority,
            Fields::Http2(&self.parts.headers),
        ))
    }

    fn upload(&self) -> Upload {
        self.upload
    }

    fn ready_body(&mut self, out: &mut Vec<u8>) -> Result<BodyPiece, ClientGone> {
        let held = std::mem::take(&mut self.held);
        self.append(&held, out);
        // What arrived together with the head can go out with it.
        let mut context = Context::from_waker(Waker::noop());
        while !self.body_ended && out.len() < HELD {
            match self.poll_data(&mut context) {
                Poll::Ready(Ok(Some(data))) => self.append(&data, out),
                Poll::Ready(Ok(None)) => self.body_ended = true,
                Poll::Ready(Err(gone)) => return Err(gone),
                Poll::Pending => break,
            }
        }
        // The end of a chunked body waits for trailers.
        let whole = self.body_ended && self.upload() != Upload::Chunked;
        Ok(if whole { BodyPiece::End } else { BodyPiece::More })
    }

    async fn read_body(&mut self, out: &mut Vec<u8>) -> Result<BodyPiece, ClientGone> {
        if !self.body_ended {
            if let Some(data) = self.next_data().await? {
                self.append(&data, out);
                if !self.body.is_end_stream() {
                    return Ok(BodyPiece::More);
                }
            }
            self.body_ended = true;
        }
        self.append_end(out).await?;
        Ok(BodyPiece::End)
    }

    async fn interim(&mut self, head: &InterimHead) -> Result<(), ClientGone> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(head.status).unwrap_or(StatusCode::CONTINUE);
        for (name, value) in &head.fields {
            if let (Ok(name), Ok(value)) = (name.parse(), HeaderValue::from_bytes(value)) {
                insert(response.headers_mut(), name, value);
            }
        }
        let mut out = self.out.borrow_mut();
        out.respond.send_informational(response).map_err(|_| ClientGone::Closed)
    }

    fn begin(&mut self, head: &ResponseHead<'_, '_>, edits: &ResponseEdits<'_>) {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(head.status).unwrap_or_default();
        let headers = response.headers_mut();
        headers.reserve(head.fields.len() + 1);
        response_fields(head, edits, |name, value| {
            if let (Some(name), Ok(value)) = (header_name(name), HeaderValue::from_bytes(value)) {
                insert(headers, name, value);
            }
        });
        if let Some(length) = head.facts.announced
            && head.status != 204
        {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        let ends = head.facts.framing == Framing::Empty;
        let mut out = self.out.borrow_mut();
        // A failure means that the stream is gone; the next send or the watch notices.
        out.body = out.respond.send_response(response, ends).ok();
        self.ended = ends;
    }

    async fn body(&mut self, data: &[u8]) -> Result<(), ClientGone> {
        self.pending.extend_from_slice(data);
        if self.pending.len() < BATCH { Ok(()) } else { self.send(false).await }
    }

    async fn flush(&mut self) -> Result<(), ClientGone> {
        if self.pending.is_empty() || self.ended { Ok(()) } else { self.send(false).await }
    }

    async fn finish(&mut self, trailers: &[u8]) -> Result<(), ClientGone> {
        if self.ended {
            return Ok(());
        }
        let fields = with_trailers(trailers, |fields| {
            let mut map = HeaderMap::new();
            for field in fields.iter().filter(|f| trailer_allowed(f.name)) {
                let name = HeaderName::from_bytes(field.name.as_bytes());
                if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(field.value)) {
                    map.append(name, value);
                }
            }
            map
        });
        let fields = fields.unwrap_or_default();
        self.send_end(fields).await
    }

    fn raw(&self) -> Option<&TcpStream> {
        None
    }

    fn abort(&mut self) {
        self.reset(Reason::INTERNAL_ERROR);
    }
}

impl Http2Stream {
    async fn send_end(&mut self, trailers: HeaderMap) -> Result<(), ClientGone> {
        if trailers.is_empty() {
            self.send(true).await?;
        } else {
            if !self.pending.is_empty() {
                self.send(false).await?;
            }
            let mut out = self.out.borrow_mut();
            let body = out.body.as_mut().ok_or(ClientGone::Closed)?;
            body.send_trailers(trailers).map_err(|_| ClientGone::Closed)?;
        }
        self.ended = true;
        Ok(())
    }
}

/// Adds a field unless HTTP/2 forbids it (RFC 9113 section 8.2.2).
fn insert(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    let text = name.as_str();
    let forbidden = match text.len() {
        7 => text == "upgrade",
        10 => text == "connection" || text == "keep-alive",
        16 => text == "proxy-connection",
        17 => text == "transfer-encoding",
        _ => false,
    };
    if !forbidden {
        headers.append(name, value);
    }
}
