//! The client's side: frames built and taken apart.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};

use super::super::*;
use crate::PREFACE;
use crate::frame::{FrameHead, HEAD, flag};
use crate::hpack::HeadWriter;

/// Buffers that do not go round.
#[derive(Clone, Debug)]
pub(super) struct Fresh;

impl Space for Fresh {
    fn take(&self) -> Vec<u8> {
        Vec::with_capacity(64)
    }

    fn give(&self, _: Vec<u8>) {}
}

/// A frame of the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// The four bytes at `at`.
    pub(super) fn number(&self, at: usize) -> u32 {
        frame::number(&self.payload[at..])
    }
}

/// A client and the session it speaks to.
pub(super) struct Peer {
    pub(super) session: Session<Fresh>,
    pub(super) opened: Vec<Opened>,
    unread: Vec<u8>,
}

pub(super) const LIMITS: Limits = Limits { streams: 8, header_bytes: 4096 };

impl Peer {
    /// Nothing has been said yet.
    pub(super) fn silent(limits: Limits) -> Self {
        Self { session: Session::new(limits, Fresh), opened: Vec::new(), unread: Vec::new() }
    }

    /// Both sides have introduced themselves.
    pub(super) fn greeted(limits: Limits) -> Self {
        let mut peer = Self::silent(limits);
        peer.say(&greeting(&[]));
        peer.frames();
        peer
    }

    pub(super) fn new() -> Self {
        Self::greeted(LIMITS)
    }

    /// Feeds bytes to the session, the way an edge does.
    pub(super) fn tell(&mut self, bytes: &[u8]) -> Result<(), ConnectionError> {
        self.unread.extend_from_slice(bytes);
        match self.session.receive(&self.unread, &mut self.opened) {
            Ok(used) => {
                self.unread.drain(..used);
                Ok(())
            }
            Err(error) => {
                self.session.fail(error);
                Err(error)
            }
        }
    }

    #[track_caller]
    pub(super) fn say(&mut self, bytes: &[u8]) {
        assert_eq!(self.tell(bytes), Ok(()));
    }

    /// Says something that ends the connection, and why it did; the client is told.
    #[track_caller]
    pub(super) fn fails(&mut self, bytes: &[u8]) -> Reason {
        let error = self.tell(bytes).expect_err("the end of the connection");
        let goodbye = self.frames().pop().expect("a frame");
        assert_eq!((goodbye.kind, goodbye.stream), (kind::GOAWAY, 0));
        assert_eq!(goodbye.number(4), error.reason.0);
        assert!(self.session.has_failed() && !self.session.wants_input());
        error.reason
    }

    /// A request of which nothing follows if `end`.
    #[track_caller]
    pub(super) fn request(&mut self, id: u32, end: bool) -> StreamKey {
        let before = self.opened.len();
        self.say(&request(id, end));
        assert_eq!(self.opened.len(), before + 1, "the request is not served");
        self.opened[before].stream
    }

    /// What the session has to say, all of it sent.
    pub(super) fn frames(&mut self) -> Vec<Frame> {
        let bytes = self.session.output().to_vec();
        self.session.sent(bytes.len());
        frames(&bytes)
    }

    /// The only frame.
    #[track_caller]
    pub(super) fn frame(&mut self) -> Frame {
        let mut frames = self.frames();
        assert_eq!(frames.len(), 1, "{frames:?}");
        frames.remove(0)
    }

    #[track_caller]
    pub(super) fn assert_reset(&mut self, id: u32, reason: Reason) {
        assert_eq!(self.frame(), reset_frame(id, reason));
    }

    pub(super) fn close(&mut self, key: StreamKey) {
        self.session.close(key, Head::default());
    }

    pub(super) fn begin(&mut self, key: StreamKey) {
        self.session.send_head(key, false, |head: &mut HeadWriter<'_>| head.status(200));
    }

    pub(super) fn send(&mut self, key: StreamKey, data: &[u8]) -> Poll<Result<usize, Gone>> {
        self.session.poll_send(key, data, &nobody())
    }

    /// Sends as much as goes; how much that was.
    pub(super) fn send_all(&mut self, key: StreamKey, mut data: &[u8]) -> usize {
        let before = data.len();
        while !data.is_empty()
            && let Poll::Ready(Ok(count)) = self.send(key, data)
        {
            data = &data[count..];
        }
        before - data.len()
    }

    /// What has come of the body.
    pub(super) fn read(&mut self, key: StreamKey) -> (Vec<u8>, Result<Option<Body>, Gone>) {
        let mut bytes = Vec::new();
        let read = self.session.body(key, |data| bytes.extend_from_slice(data));
        (bytes, read)
    }
}

pub(super) fn nobody() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// Whether a task was woken.
#[derive(Debug, Default)]
pub(super) struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

impl Flag {
    pub(super) fn take(&self) -> bool {
        self.0.swap(false, SeqCst)
    }
}

// ---------------------------------------------------------------------------- frames

pub(super) fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some(head) = FrameHead::parse(bytes) {
        let FrameHead { kind, flags, stream, .. } = head;
        let payload = bytes[HEAD..HEAD + head.len].to_vec();
        bytes = &bytes[HEAD + head.len..];
        frames.push(Frame { kind, flags, stream, payload });
    }
    assert!(bytes.is_empty(), "half a frame: {bytes:?}");
    frames
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::push(&mut bytes, kind, flags, stream, payload);
    bytes
}

pub(super) fn greeting(settings: &[(u16, u32)]) -> Vec<u8> {
    [PREFACE, &settings_frame(settings)].concat()
}

pub(super) fn settings_frame(settings: &[(u16, u32)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::push_settings(&mut bytes, settings);
    bytes
}

pub(super) fn data(stream: u32, end: bool, payload: &[u8]) -> Vec<u8> {
    frame(kind::DATA, u8::from(end), stream, payload)
}

/// DATA with padding; the length of that counts one more.
pub(super) fn padded(stream: u32, end: bool, payload: &[u8], padding: u8) -> Vec<u8> {
    let payload = [&[padding], payload, &vec![0; usize::from(padding)]].concat();
    frame(kind::DATA, flag::PADDED | u8::from(end), stream, &payload)
}

pub(super) fn window(stream: u32, more: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &more.to_be_bytes())
}

pub(super) fn reset(stream: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &Reason::CANCEL.0.to_be_bytes())
}

pub(super) fn reset_frame(stream: u32, reason: Reason) -> Frame {
    let payload = reason.0.to_be_bytes().to_vec();
    Frame { kind: kind::RST_STREAM, flags: 0, stream, payload }
}

pub(super) fn ping(payload: &[u8; 8]) -> Vec<u8> {
    frame(kind::PING, 0, 0, payload)
}

/// A whole head.
pub(super) fn head(stream: u32, end: bool, block: &[u8]) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS | u8::from(end), stream, block)
}

/// `POST http://a/` with further fields.
pub(super) fn post(fields: &[(&str, &str)]) -> Vec<u8> {
    [b"\x83\x86\x84\x01\x01a", &*literals(fields)].concat()
}

/// Fields that do not enter the table.
pub(super) fn literals(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

pub(super) fn request(stream: u32, end: bool) -> Vec<u8> {
    head(stream, end, &post(&[]))
}

/// The fields of a block that the session has written.
pub(super) fn fields(block: &[u8]) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    let read = Decoder::default().decode(block, |field| {
        let value = String::from_utf8_lossy(field.value).into_owned();
        fields.push((field.name.to_owned(), value));
    });
    read.expect("a block");
    fields
}
