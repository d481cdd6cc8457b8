//! An HTTP/1.1 client's side of one request.

use std::io::Write;
use std::rc::Rc;

use meridian_config::Limits;
use tokio::net::TcpStream;

use super::body::{
    Decoder, Framing, Lines, Part, chunk_head, encode_chunk, encode_end, encode_request_end,
    push_field, trailer_allowed, with_trailers,
};
use super::head::{HeadFacts, with_head};
use super::response::ResponseHead;
use crate::buffers::{Buffers, Lease, SIZE};
use crate::forward::canonical::{ResponseEdits, response_fields};
use crate::forward::{BodyPiece, ClientGone, Downstream, InterimHead, Upload};
use crate::request::Request;
use crate::transport::Transport;

/// A piece of the body that is copied behind the head rather than sent by a call of its own.
const COPIED: usize = SIZE;

/// The client's side: its request stands at the start of `read`, its response is built in `out`.
pub(crate) struct Http1<'c> {
    stream: &'c mut Transport,
    limits: &'c Limits,
    /// The request's head, then what was read behind it.
    read: &'c mut Vec<u8>,
    /// Bytes of `read` before this are spoken for.
    at: usize,
    facts: HeadFacts,
    decoder: Decoder,
    body_bytes: u64,
    most_body: u64,
    /// Bytes of the response that were not sent yet.
    out: Lease,
    answer: Answer,
    keep_alive: bool,
    aborted: bool,
}

/// How the response's body is framed towards the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// As announced, or none.
    AsIs,
    Chunked,
    UntilClose,
}

impl<'c> Http1<'c> {
    pub(crate) fn new(
        stream: &'c mut Transport,
        limits: &'c Limits,
        buffers: &Rc<Buffers>,
        read: &'c mut Vec<u8>,
        facts: HeadFacts,
        keep_alive: bool,
        most_body: u64,
    ) -> Self {
        Self {
            stream,
            limits,
            read,
            at: facts.len,
            decoder: Decoder::new(facts.framing),
            facts,
            body_bytes: 0,
            most_body,
            out: Lease::new(buffers),
            answer: Answer::AsIs,
            keep_alive: keep_alive && facts.keep_alive,
            aborted: false,
        }
    }

    /// Whether the connection can take another request: nothing broke, the request was read whole, both want it.
    pub(crate) fn reusable(&self) -> bool {
        self.keep_alive && !self.aborted && self.decoder.done()
    }

    /// Whether the request's body has been read to its end.
    pub(crate) fn body_done(&self) -> bool {
        self.decoder.done()
    }

    /// Bytes of the request that were spoken for; what is behind them belongs to the next one.
    pub(crate) fn consumed(&self) -> usize {
        self.at
    }

    async fn fill(&mut self) -> Result<(), ClientGone> {
        Buffers::make_room(self.read);
        match self.stream.read_into(self.read).await {
            Ok(0) | Err(_) => Err(ClientGone::Closed),
            Ok(_) => Ok(()),
        }
    }

    /// Decodes what was read and appends it encoded; `None` if nothing was there.
    fn take_ready(&mut self, out: &mut Vec<u8>) -> Result<Option<BodyPiece>, ClientGone> {
        let chunked = self.facts.framing == Framing::Chunked;
        let before = out.len();
        loop {
            let step = self.decoder.step(&self.read[self.at..]);
            let step = step.map_err(|broken| ClientGone::Malformed(broken.0))?;
            match step.part {
                Part::Data(data) => {
                    self.body_bytes += data.len() as u64;
                    if self.body_bytes > self.most_body {
                        return Err(ClientGone::TooLarge);
                    }
                    if chunked {
                        encode_chunk(data, out)
                    } else {
                        out.extend_from_slice(data)
                    }
                    self.at += step.used;
                    if self.decoder.done() {
                        return Ok(Some(BodyPiece::End));
                    }
                }
                Part::End(trailers) => {
                    if chunked {
                        let encoded = with_trailers(trailers, |fields| {
                            let allowed = fields.iter().filter(|f| trailer_allowed(f.name));
                            encode_request_end(allowed.map(|f| (f.name, f.value)), out)
                        });
                        if let Err(broken) = encoded.flatten() {
                            // The decoder saw an end; what follows must not become a request.
                            self.aborted = true;
                            return Err(ClientGone::Malformed(broken.0));
                        }
                    }
                    self.at += step.used;
                    return Ok(Some(BodyPiece::End));
                }
                Part::Nothing => {
                    self.at += step.used;
                    if step.used == 0 {
                        break;
                    }
                }
            }
        }
        Ok((out.len() > before).then_some(BodyPiece::More))
    }

    /// Makes room behind the head, which must stay for another attempt.
    fn compact(&mut self) {
        let head = self.facts.len;
        if self.at > head && (self.at == self.read.len() || self.read.len() == self.read.capacity())
        {
            self.read.drain(head..self.at);
            self.at = head;
        }
    }
}

impl From<Framing> for Upload {
    fn from(framing: Framing) -> Self {
        match framing {
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked,
            Framing::Empty | Framing::UntilClose => Self::Nothing,
        }
    }
}

impl Downstream for Http1<'_> {
    fn request<R>(&self, then: impl FnOnce(&Request<'_>) -> R) -> R {
        match with_head(&self.read[..self.facts.len], self.limits, |request, _| then(request)) {
            Ok(result) => result,
            // The same bytes under the same limits were accepted when the request began.
            Err(_) => unreachable!("the head was accepted before"),
        }
    }

    fn upload(&self) -> Upload {
        self.facts.framing.into()
    }

    /// More is not read while nobody asks for it.
    fn held(&self) -> usize {
        self.read.len()
    }

    fn ready_body(&mut self, out: &mut Vec<u8>) -> Result<BodyPiece, ClientGone> {
        Ok(self.take_ready(out)?.unwrap_or(BodyPiece::More))
    }

    async fn read_body(&mut self, out: &mut Vec<u8>) -> Result<BodyPiece, ClientGone> {
        loop {
            self.compact();
            self.fill().await?;
            if let Some(piece) = self.take_ready(out)? {
                return Ok(piece);
            }
        }
    }

    async fn gone(&self) {
        self.stream.gone().await;
    }

    async fn interim(&mut self, head: &InterimHead) -> Result<(), ClientGone> {
        if self.facts.http10 {
            return Ok(());
        }
        self.out.hold();
        // Writing to a Vec cannot fail.
        let _ = write!(self.out, "HTTP/1.1 {} \r\n", head.status);
        for (name, value) in &head.fields {
            if !matches!(name.as_str(), "connection" | "content-length" | "transfer-encoding") {
                push_field(name, value, &mut self.out);
            }
        }
        self.out.extend_from_slice(b"\r\n");
        self.flush().await
    }

    fn begin(&mut self, head: &ResponseHead<'_, '_>, edits: &ResponseEdits<'_>) {
        self.out.hold();
        let out = &mut *self.out;
        if head.status == 200 && head.reason == "OK" {
            out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        } else {
            out.extend_from_slice(b"HTTP/1.1 ");
            out.extend_from_slice(itoa::Buffer::new().format(head.status).as_bytes());
            out.push(b' ');
            out.extend_from_slice(head.reason.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        let mut lines = Lines::of(head.lines);
        response_fields(head, edits, |name, value| lines.push(name, value, out));
        lines.end(out);
        let facts = head.facts;
        self.answer = match facts.framing {
            Framing::Chunked | Framing::UntilClose if self.facts.http10 => Answer::UntilClose,
            Framing::Chunked | Framing::UntilClose => Answer::Chunked,
            Framing::Empty | Framing::Length(_) => Answer::AsIs,
        };
        // An answer before the end of the request: what is left of the body will not be read as requests.
        self.keep_alive &= self.decoder.done();
        match (self.answer, facts.announced) {
            (Answer::Chunked, _) => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            (Answer::UntilClose, _) => self.keep_alive = false,
            (Answer::AsIs, Some(length)) if facts.status != 204 => {
                push_field("content-length", itoa::Buffer::new().format(length).as_bytes(), out);
            }
            (Answer::AsIs, _) => {}
        }
        if !self.keep_alive {
            out.extend_from_slice(b"connection: close\r\n");
        } else if self.facts.http10 {
            out.extend_from_slice(b"connection: keep-alive\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }

    async fn body(&mut self, data: &[u8]) -> Result<(), ClientGone> {
        let chunked = self.answer == Answer::Chunked;
        self.out.hold();
        if self.out.len() + data.len() <= COPIED {
            if chunked {
                encode_chunk(data, &mut self.out)
            } else {
                self.out.extend_from_slice(data)
            }
            return Ok(());
        }
        if chunked {
            chunk_head(data.len(), &mut self.out);
        }
        let sent = self.stream.write_all(&self.out, data).await;
        self.out.clear();
        sent.map_err(|_| ClientGone::Closed)?;
        if chunked {
            self.out.extend_from_slice(b"\r\n");
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), ClientGone> {
        if self.out.is_empty() {
            return Ok(());
        }
        let sent = self.stream.write_all(&self.out, &[]).await;
        self.out.clear();
        self.out.let_go();
        sent.map_err(|_| ClientGone::Closed)
    }

    async fn finish(&mut self, trailers: &[u8]) -> Result<(), ClientGone> {
        if self.answer == Answer::Chunked {
            self.out.hold();
            let out = &mut *self.out;
            let encoded = with_trailers(trailers, |fields| {
                let allowed = fields.iter().filter(|f| trailer_allowed(f.name));
                encode_end(allowed.map(|f| (f.name, f.value)), out);
            });
            if encoded.is_err() {
                encode_end(std::iter::empty(), &mut self.out);
            }
        }
        self.flush().await
    }

    fn raw(&self) -> Option<&TcpStream> {
        match &*self.stream {
            Transport::Plain(stream) if self.answer != Answer::Chunked && self.out.is_empty() => {
                Some(stream)
            }
            _ => None,
        }
    }

    fn abort(&mut self) {
        self.aborted = true;
    }
}
