//! HTTP/2 in raw frames: for clients that do what no library would.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::raw::{End, end_of};
use crate::wire::Wire;

/// What a client sends first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames (RFC 9113 section 6).
#[expect(missing_docs, reason = "named as in the RFC")]
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags; one bit means different things on different kinds.
#[expect(missing_docs, reason = "named as in the RFC")]
pub mod flag {
    pub const ACK: u8 = 1;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 0x20;
}

/// Error codes (RFC 9113 section 7).
#[expect(missing_docs, reason = "named as in the RFC")]
pub mod code {
    pub const NO_ERROR: u32 = 0;
    pub const PROTOCOL_ERROR: u32 = 1;
    pub const FLOW_CONTROL_ERROR: u32 = 3;
    pub const STREAM_CLOSED: u32 = 5;
    pub const FRAME_SIZE_ERROR: u32 = 6;
    pub const REFUSED_STREAM: u32 = 7;
    pub const CANCEL: u32 = 8;
    pub const COMPRESSION_ERROR: u32 = 9;
    pub const ENHANCE_YOUR_CALM: u32 = 11;
}

/// One frame.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// See [`kind`].
    pub kind: u8,
    /// See [`flag`].
    pub flags: u8,
    /// 0: the connection.
    pub stream: u32,
    /// What follows its head.
    pub payload: Vec<u8>,
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, flags, stream, payload } = self;
        let start = &payload[..payload.len().min(12)];
        write!(f, "{kind}({flags:#x}) on {stream}: {} bytes {start:x?}", payload.len())
    }
}

impl Frame {
    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        frame(self.kind, self.flags, self.stream, &self.payload)
    }

    /// Whether the flag is set.
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The number of four bytes at `at`.
    ///
    /// # Panics
    /// If it is too short.
    pub fn number(&self, at: usize) -> u32 {
        let bytes = self.payload[at..].first_chunk().expect("four bytes");
        u32::from_be_bytes(*bytes)
    }

    /// The error code of a RST_STREAM or GOAWAY.
    pub fn code(&self) -> Option<u32> {
        match self.kind {
            kind::RST_STREAM => Some(self.number(0)),
            kind::GOAWAY => Some(self.number(4)),
            _ => None,
        }
    }

    /// The status of a head that this edge has written: it comes first and is not under Huffman's code.
    pub fn status(&self) -> Option<u16> {
        let block = self.payload.strip_prefix(&[0x20]).unwrap_or(&self.payload);
        match (self.kind, block) {
            (kind::HEADERS, [8, 3, digits @ ..]) => {
                std::str::from_utf8(digits.get(..3)?).ok()?.parse().ok()
            }
            (kind::HEADERS, [first @ 0x88..=0x8e, ..]) => {
                Some([200, 204, 206, 304, 400, 404, 500][usize::from(first - 0x88)])
            }
            _ => None,
        }
    }
}

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// SETTINGS.
pub fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let entry =
        |(name, value): &(u16, u32)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
    let payload: Vec<u8> = settings.iter().flat_map(entry).collect();
    frame(kind::SETTINGS, 0, 0, &payload)
}

/// WINDOW_UPDATE.
pub fn window(stream: u32, more: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &more.to_be_bytes())
}

/// RST_STREAM with CANCEL.
pub fn reset(stream: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &code::CANCEL.to_be_bytes())
}

/// DATA, the last of its stream if `end`.
pub fn data(stream: u32, end: bool, payload: &[u8]) -> Vec<u8> {
    frame(kind::DATA, u8::from(end), stream, payload)
}

/// Fields, spelled out; none enters the table.
///
/// # Panics
/// If one is longer than 126 bytes.
pub fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "{text} is too long");
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// The block of a request's head, of any method.
pub fn request_block(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let pseudo =
        [(":method", method), (":scheme", "http"), (":path", path), (":authority", "test.example")];
    [fields(&pseudo), fields(more)].concat()
}

/// A whole head.
pub fn headers(stream: u32, end: bool, block: &[u8]) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS | u8::from(end), stream, block)
}

/// A GET without body.
pub fn get(stream: u32, path: &str) -> Vec<u8> {
    headers(stream, true, &request_block("GET", path, &[]))
}

/// A connection spoken to in frames.
#[derive(Debug)]
pub struct H2 {
    /// What is beneath.
    pub wire: Wire,
    read: Vec<u8>,
}

impl H2 {
    /// Connects and says nothing.
    ///
    /// # Panics
    /// If nobody accepts.
    #[track_caller]
    pub fn silent(address: SocketAddr) -> Self {
        Self::on(Wire::connect(address, Duration::from_secs(10)).expect("a connection"))
    }

    /// On a connection that is there already.
    pub fn on(wire: Wire) -> Self {
        Self { wire, read: Vec::new() }
    }

    /// Connects and introduces itself with these settings; those of the other side have come and are acknowledged.
    ///
    /// # Panics
    /// If there is no HTTP/2 there.
    #[track_caller]
    pub fn connect(address: SocketAddr, with: &[(u16, u32)]) -> Self {
        let mut h2 = Self::silent(address);
        h2.greet(with);
        h2
    }

    /// The same on this connection.
    ///
    /// # Panics
    /// If there is no HTTP/2 there.
    #[track_caller]
    pub fn greet(&mut self, with: &[(u16, u32)]) {
        self.send(&[PREFACE, &settings(with)].concat()).expect("a connection");
        self.expect("SETTINGS", |frame| frame.kind == kind::SETTINGS && !frame.has(flag::ACK));
        self.expect("their answer", |frame| frame.kind == kind::SETTINGS && frame.has(flag::ACK));
        self.send(&frame(kind::SETTINGS, flag::ACK, 0, &[])).expect("a connection");
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// As the operating system gives them.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wire.send(bytes)
    }

    /// The next frame, or how the connection ends; `Open`: nothing comes in time.
    ///
    /// # Errors
    /// There is no frame, for that reason.
    pub fn receive(&mut self) -> Result<Frame, End> {
        loop {
            if let Some([a, b, c, kind, flags, stream @ ..]) = self.read.first_chunk::<9>() {
                let end = 9 + u32::from_be_bytes([0, *a, *b, *c]) as usize;
                if self.read.len() >= end {
                    let (kind, flags, stream) = (*kind, *flags, u32::from_be_bytes(*stream));
                    let rest = self.read.split_off(end);
                    let payload = std::mem::replace(&mut self.read, rest).split_off(9);
                    return Ok(Frame { kind, flags, stream, payload });
                }
            }
            match self.wire.read_some() {
                Ok(more) if more.is_empty() => return Err(End::Closed),
                Ok(more) => self.read.extend_from_slice(&more),
                Err(error) => return Err(end_of(&error)),
            }
        }
    }

    /// The next frame that is wanted, passing over others.
    ///
    /// # Panics
    /// If it does not come.
    #[track_caller]
    pub fn expect(&mut self, what: &str, wanted: impl Fn(&Frame) -> bool) -> Frame {
        let mut passed = Vec::new();
        loop {
            match self.receive() {
                Ok(frame) if wanted(&frame) => return frame,
                Ok(frame) => passed.push(frame),
                Err(end) => panic!("no {what}, but {end:?} after {passed:?}"),
            }
        }
    }

    /// Waits until a PING is answered: then everything that was sent before has been looked at.
    ///
    /// # Panics
    /// If it is not.
    #[track_caller]
    pub fn settle(&mut self) {
        self.send(&frame(kind::PING, 0, 0, b"settled?")).expect("a connection");
        self.expect("answer to PING", |f| f.kind == kind::PING && f.payload == b"settled?");
    }

    /// Reads up to the end of the connection, for `within` at the most.
    pub fn ending(&mut self, within: Duration) -> Ending {
        let begun = Instant::now();
        let mut ending = Ending { frames: Vec::new(), end: End::Open, after: Duration::ZERO };
        while begun.elapsed() < within {
            self.wire.patience =
                (within - begun.elapsed().min(within)).max(Duration::from_millis(1));
            match self.receive() {
                Ok(frame) => ending.frames.push(frame),
                Err(end) => {
                    ending.end = end;
                    break;
                }
            }
        }
        ending.after = begun.elapsed();
        ending
    }
}

/// How a connection ended.
#[derive(Debug)]
pub struct Ending {
    /// What came before.
    pub frames: Vec<Frame>,
    /// How; `Open`: not at all.
    pub end: End,
    /// Since it was waited for.
    pub after: Duration,
}

impl Ending {
    /// The code of the last GOAWAY.
    pub fn goodbye(&self) -> Option<u32> {
        self.frames.iter().rev().find(|f| f.kind == kind::GOAWAY).and_then(Frame::code)
    }

    /// Body bytes of a stream.
    pub fn body(&self, stream: u32) -> usize {
        let data = self.frames.iter().filter(|f| f.kind == kind::DATA && f.stream == stream);
        data.map(|f| f.payload.len()).sum()
    }
}
