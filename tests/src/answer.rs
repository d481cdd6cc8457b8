//! What an endpoint of a test answers.

use std::io;
use std::time::Duration;

use crate::message::Received;
use crate::pattern;
use crate::wire::Wire;

/// An answer, and how it is given.
#[derive(Clone, Debug)]
pub struct Answer {
    status: u16,
    fields: Vec<(String, String)>,
    body: Body,
    trailers: Vec<(String, String)>,
    delay: Duration,
    cut: Option<Cut>,
    close: bool,
    vanish: bool,
}

/// A body and its framing.
#[derive(Clone, Debug)]
pub enum Body {
    /// With its Content-Length.
    Whole(Vec<u8>),
    /// One chunk each.
    Chunks(Vec<Vec<u8>>),
    /// Ended by the connection.
    UntilClose(Vec<u8>),
    /// So many bytes of the pattern, with their Content-Length.
    Pattern(u64),
    /// The same, chunked.
    PatternChunks(u64),
    /// The whole answer, byte for byte, head and all.
    Raw(Vec<u8>),
}

/// How an answer ends early.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Close(usize),
    Reset(usize),
}

/// What the connection does next.
pub(crate) enum After {
    Keep,
    Close,
    /// Under TLS without a goodbye.
    Vanish,
    Reset,
}

impl Answer {
    /// 200 with a body.
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::new(200, Body::Whole(body.into()))
    }

    /// A status and nothing else.
    pub fn status(status: u16) -> Self {
        Self::new(status, Body::Whole(Vec::new()))
    }

    /// Bytes that stand for the whole answer.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(0, Body::Raw(bytes.into()))
    }

    /// A status and a body.
    pub fn new(status: u16, body: Body) -> Self {
        let (fields, trailers) = (Vec::new(), Vec::new());
        Self {
            status,
            fields,
            body,
            trailers,
            delay: Duration::ZERO,
            cut: None,
            close: false,
            vanish: false,
        }
    }

    /// Adds a field.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.fields.push((name.to_owned(), value.to_string()));
        self
    }

    /// Adds a trailer; the body must be chunked.
    #[must_use]
    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Waits before the first byte.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Closes after the answer without having said so.
    #[must_use]
    pub fn then_close(mut self) -> Self {
        self.close = true;
        self
    }

    /// Where the connection is closed after the answer, TLS says no goodbye.
    #[must_use]
    pub fn without_goodbye(mut self) -> Self {
        self.vanish = true;
        self
    }

    /// Closes in good order once `bytes` of the body are sent.
    #[must_use]
    pub fn cut_after(mut self, bytes: usize) -> Self {
        self.cut = Some(Cut::Close(bytes));
        self
    }

    /// Resets the connection once `bytes` of the body are sent.
    #[must_use]
    pub fn reset_after(mut self, bytes: usize) -> Self {
        self.cut = Some(Cut::Reset(bytes));
        self
    }

    /// Adds a field unless it is there.
    pub(crate) fn default_header(&mut self, name: &str, value: &str) {
        if !self.fields.iter().any(|(n, _)| n.eq_ignore_ascii_case(name)) {
            self.fields.push((name.to_owned(), value.to_owned()));
        }
    }

    pub(crate) fn give(&self, wire: &mut Wire, request: &Received) -> io::Result<After> {
        if !self.delay.is_zero() {
            std::thread::sleep(self.delay);
        }
        let bodiless = request.method == "HEAD" || matches!(self.status, 204 | 304);
        let after = if self.close { After::Close } else { After::Keep };
        let head = self.head();
        match &self.body {
            Body::Raw(bytes) => wire.send(bytes)?,
            _ if bodiless => wire.send(head.as_bytes())?,
            Body::Pattern(length) => {
                wire.send(head.as_bytes())?;
                for piece in pattern::stream(*length) {
                    wire.send(piece)?;
                }
            }
            Body::PatternChunks(length) => {
                wire.send(head.as_bytes())?;
                for piece in pattern::stream(*length) {
                    wire.send(&chunk(piece))?;
                }
                wire.send(&self.last_chunk())?;
            }
            Body::Whole(body) => return self.give_bytes(wire, &head, body.clone(), after),
            Body::UntilClose(body) => {
                return self.give_bytes(wire, &head, body.clone(), After::Close);
            }
            Body::Chunks(chunks) => {
                let mut body: Vec<u8> = chunks.iter().flat_map(|data| chunk(data)).collect();
                body.extend_from_slice(&self.last_chunk());
                return self.give_bytes(wire, &head, body, after);
            }
        }
        Ok(after)
    }

    fn give_bytes(
        &self,
        wire: &mut Wire,
        head: &str,
        mut body: Vec<u8>,
        after: After,
    ) -> io::Result<After> {
        let (cut, after) = match self.cut {
            Some(Cut::Close(at)) => (at, After::Close),
            Some(Cut::Reset(at)) => (at, After::Reset),
            None => (body.len(), after),
        };
        body.truncate(cut);
        wire.send(&[head.as_bytes(), &body].concat())?;
        Ok(if self.vanish && matches!(after, After::Close) { After::Vanish } else { after })
    }

    fn head(&self) -> String {
        let mut head = format!("HTTP/1.1 {} Status\r\n", self.status);
        for (name, value) in &self.fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let length = |length: u64| format!("Content-Length: {length}\r\n");
        match &self.body {
            Body::Whole(_) if self.status == 204 => {}
            Body::Whole(body) => head.push_str(&length(body.len() as u64)),
            Body::Pattern(n) => head.push_str(&length(*n)),
            Body::Chunks(_) | Body::PatternChunks(_) => {
                head.push_str("Transfer-Encoding: chunked\r\n");
            }
            Body::UntilClose(_) | Body::Raw(_) => {}
        }
        head + "\r\n"
    }

    fn last_chunk(&self) -> Vec<u8> {
        let lines: String = self.trailers.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
        format!("0\r\n{lines}\r\n").into_bytes()
    }
}

fn chunk(data: &[u8]) -> Vec<u8> {
    if data.is_empty() {
        return Vec::new();
    }
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}
