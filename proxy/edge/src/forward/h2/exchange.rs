//! One request on a stream of HTTP/2, in the forwarder's words: it writes canonical bytes and reads an answer's, as on a
//! connection of HTTP/1.1.
//!
//! Promises: what the endpoint has no window for waits here, a piece at a time; what the forwarder does not read is not
//! granted to the endpoint; a request that is dropped is reset; of a request that came in by a gate nothing more is sent
//! once that has seen a higher epoch, not even what waited for a window. Refuses to know: retries.

use std::future::poll_fn;
use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use meridian_routing::WriteGate;

use super::connection::Busy;
use super::heads;
use crate::http1::body::{BrokenFraming, Decoder, Framing, LONGEST_TRAILERS, Part, with_trailers};

/// The gate that a request came in by, and the epoch of its primary.
pub(crate) type Watch = Option<(Arc<WriteGate>, u64)>;

/// What is taken of a request's body at a time, bytes: no less than a trailer section, which is taken as a whole.
const PIECE: usize = LONGEST_TRAILERS;

/// One request and its answer.
pub(crate) struct Exchange {
    sender: SendRequest<Bytes>,
    secure: bool,
    upload: Option<Upload>,
    answer: Answer,
    is_head: bool,
    refused: bool,
    unsayable: bool,
    _busy: Busy,
}

/// The request's body on its way.
struct Upload {
    stream: SendStream<Bytes>,
    decoder: Decoder,
    /// What the endpoint has no window for yet.
    pending: Bytes,
    /// The end was sent.
    over: bool,
    watch: Watch,
}

/// The answer on its way.
enum Answer {
    None,
    Head(ResponseFuture),
    Body(RecvStream, Framing),
    Trailers(RecvStream, Framing),
    Over,
}

impl Exchange {
    pub(super) fn new(sender: SendRequest<Bytes>, secure: bool, busy: Busy) -> Self {
        let (upload, answer) = (None, Answer::None);
        Self {
            sender,
            secure,
            upload,
            answer,
            is_head: false,
            refused: false,
            unsayable: false,
            _busy: busy,
        }
    }

    /// Whether the endpoint has said that it has done nothing of the request (RFC 9113 section 8.7).
    pub(crate) fn was_refused(&self) -> bool {
        self.refused
    }

    /// Whether HTTP/2, or the crate that speaks it, cannot say what the client asks for: its doing, not the endpoint's.
    pub(crate) fn cannot_say(&self) -> bool {
        self.unsayable
    }

    /// Sends the head, once there may be another stream, and as much of the body that stands behind it as the endpoint has
    /// a window for at once, or that can be held: the bytes of it that were taken.
    pub(crate) async fn begin(
        &mut self,
        head: &[u8],
        body: &[u8],
        watch: Watch,
    ) -> io::Result<usize> {
        let said = heads::request(head, self.secure);
        let (request, framing) = said.inspect_err(|_| self.unsayable = true)?;
        self.is_head = request.method() == http::Method::HEAD;
        if let Err(error) = poll_fn(|cx| self.sender.poll_ready(cx)).await {
            // Nothing has left.
            self.refused = true;
            return Err(self.fault(error));
        }
        if is_over(&watch) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let decoder = Decoder::new(framing);
        let over = decoder.done();
        let (answer, stream) = match self.sender.send_request(request, over) {
            Ok(sent) => sent,
            Err(error) => {
                self.refused = true;
                return Err(self.fault(error));
            }
        };
        self.answer = Answer::Head(answer);
        self.upload = Some(Upload { stream, decoder, pending: Bytes::new(), over, watch });
        poll_fn(|cx| {
            let mut taken = 0;
            while taken < body.len() {
                match self.poll_write(&body[taken..], cx) {
                    Poll::Ready(count) => taken += count?,
                    // An endpoint that has no window for it may answer meanwhile: who sends the rest listens as well.
                    Poll::Pending => break,
                }
            }
            Poll::Ready(Ok(taken))
        })
        .await
    }

    /// Whether the request's head has left.
    pub(crate) fn has_begun(&self) -> bool {
        !matches!(self.answer, Answer::None)
    }

    /// Whether some of the body waits for the endpoint's window.
    pub(crate) fn holds_some(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| !upload.pending.is_empty())
    }

    /// Takes some of the body, as it is framed in HTTP/1.1.
    pub(crate) fn poll_write(
        &mut self,
        bytes: &[u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let Some(upload) = &mut self.upload else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        match ready!(upload.poll_take(bytes, cx)) {
            Ok(count) => Poll::Ready(Ok(count)),
            Err(error) => Poll::Ready(Err(self.fault_of(error))),
        }
    }

    /// Appends some of the answer, as it would be framed in HTTP/1.1; 0 after its end.
    pub(crate) fn poll_read_into(
        &mut self,
        out: &mut Vec<u8>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if let Some(upload) = &mut self.upload {
            // An endpoint that takes no more may have answered: that is seen below. So is one that gets no more.
            let _ = upload.poll_send(cx);
        }
        let before = out.len();
        match self.poll_answer(out, cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.fault(error))),
            // What has come already need not wait for the rest.
            Poll::Pending if out.len() == before => Poll::Pending,
            Poll::Pending | Poll::Ready(Ok(())) => Poll::Ready(Ok(out.len() - before)),
        }
    }

    fn poll_answer(
        &mut self,
        out: &mut Vec<u8>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), h2::Error>> {
        loop {
            match &mut self.answer {
                Answer::None | Answer::Over => return Poll::Ready(Ok(())),
                Answer::Head(answer) => {
                    if let Poll::Ready(Some(head)) = answer.poll_informational(cx) {
                        heads::interim(&head?, out);
                        return Poll::Ready(Ok(()));
                    }
                    let response: Response<RecvStream> = ready!(Pin::new(answer).poll(cx))?;
                    let ended = response.body().is_end_stream();
                    let framing = heads::response(&response, self.is_head, ended, out);
                    self.answer = match ended {
                        true => Answer::Over,
                        false => Answer::Body(response.into_body(), framing),
                    };
                    return Poll::Ready(Ok(()));
                }
                Answer::Body(body, framing) => match ready!(body.poll_data(cx)) {
                    Some(data) => {
                        let data = data?;
                        // The forwarder has asked for it, and so it may be followed by as much.
                        body.flow_control().release_capacity(data.len())?;
                        push_data(&data, *framing, out);
                        if !data.is_empty() {
                            return Poll::Ready(Ok(()));
                        }
                    }
                    None => {
                        let Answer::Body(body, framing) =
                            std::mem::replace(&mut self.answer, Answer::Over)
                        else {
                            return Poll::Ready(Ok(()));
                        };
                        self.answer = Answer::Trailers(body, framing);
                    }
                },
                Answer::Trailers(body, framing) => {
                    let trailers = ready!(body.poll_trailers(cx))?;
                    if *framing == Framing::Chunked {
                        out.extend_from_slice(b"0\r\n");
                        trailers.iter().for_each(|map| heads::fields(map, out));
                        out.extend_from_slice(b"\r\n");
                    }
                    self.answer = Answer::Over;
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    fn fault_of(&mut self, fault: Fault) -> io::Error {
        match fault {
            Fault::Framing => {
                self.unsayable = true;
                io::ErrorKind::InvalidData.into()
            }
            Fault::Stream(error) => self.fault(error),
            Fault::Deposed => io::ErrorKind::PermissionDenied.into(),
        }
    }

    /// Notes what an error says of the request.
    fn fault(&mut self, error: h2::Error) -> io::Error {
        let refused = error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM);
        self.refused |= error.is_remote() && refused;
        match error.is_io() {
            true => error.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into()),
            false => io::Error::other(error),
        }
    }
}

/// Why a body does not go on.
enum Fault {
    /// Of what the client has sent.
    Framing,
    Stream(h2::Error),
    /// Its epoch is over.
    Deposed,
}

impl From<h2::Error> for Fault {
    fn from(error: h2::Error) -> Self {
        Self::Stream(error)
    }
}

impl From<BrokenFraming> for Fault {
    fn from(_: BrokenFraming) -> Self {
        Self::Framing
    }
}

/// Whether a higher epoch than that of the request's primary was seen.
fn is_over(watch: &Watch) -> bool {
    watch.as_ref().is_some_and(|(gate, epoch)| gate.highest() > *epoch)
}

impl Upload {
    /// Takes a piece of the body, once the one before it is sent.
    fn poll_take(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<Result<usize, Fault>> {
        ready!(self.poll_send(cx))?;
        let mut used = 0;
        while used < bytes.len() && self.pending.is_empty() && !self.over {
            let rest = &bytes[used..];
            let step = self.decoder.step(&rest[..rest.len().min(PIECE)])?;
            used += step.used;
            match step.part {
                Part::Data(data) => self.pending = Bytes::copy_from_slice(data),
                Part::End(section) => self.end(section)?,
                // Lines may come in halves, and are short: the forwarder writes whole ones.
                Part::Nothing if step.used == 0 => {
                    return Poll::Ready(Err(Fault::Framing));
                }
                Part::Nothing => {}
            }
            if let Poll::Ready(sent) = self.poll_send(cx) {
                sent?;
            }
        }
        // What stands behind the end is nothing.
        Poll::Ready(Ok(if self.over { bytes.len() } else { used }))
    }

    /// Sends what waits, as far as the endpoint has a window for it, and the end of a body whose length is known.
    /// Not a byte of it once the epoch is over: the window may have come after that, and before anybody else looks.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        while !self.pending.is_empty() {
            if self.stream.capacity() == 0 {
                self.stream.reserve_capacity(self.pending.len());
                match ready!(self.stream.poll_capacity(cx)) {
                    Some(capacity) => capacity?,
                    None => {
                        return Poll::Ready(Err(h2::Error::from(Reason::STREAM_CLOSED).into()));
                    }
                };
            }
            let count = self.stream.capacity().min(self.pending.len());
            if count == 0 {
                continue;
            }
            if is_over(&self.watch) {
                return Poll::Ready(Err(Fault::Deposed));
            }
            let last = count == self.pending.len() && self.decoder.done();
            self.stream.send_data(self.pending.copy_to_bytes(count), last)?;
            self.over |= last;
        }
        Poll::Ready(Ok(()))
    }

    fn end(&mut self, section: &[u8]) -> Result<(), Fault> {
        if is_over(&self.watch) {
            return Err(Fault::Deposed);
        }
        let map = with_trailers(section, |fields| {
            let mut map = HeaderMap::new();
            for field in fields {
                let name = HeaderName::from_bytes(field.name.as_bytes());
                if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(field.value)) {
                    map.append(name, value);
                }
            }
            map
        })?;
        self.over = true;
        match map.is_empty() {
            false => self.stream.send_trailers(map)?,
            true => self.stream.send_data(Bytes::new(), true)?,
        }
        Ok(())
    }
}

fn push_data(data: &[u8], framing: Framing, out: &mut Vec<u8>) {
    if framing == Framing::Chunked && !data.is_empty() {
        // Writing to a Vec cannot fail.
        let _ = write!(out, "{:x}\r\n", data.len());
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
    } else {
        out.extend_from_slice(data);
    }
}
