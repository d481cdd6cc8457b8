//! What a client sends: frames taken apart, checked, and acted on.

use super::{Opened, Session, Space, StreamKey};
use crate::PREFACE;
use crate::error::{ConnectionError, Reason};
use crate::frame::{FrameHead, HEAD, LARGEST, flag, kind};

/// Where in what comes the connection is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reading {
    Preface,
    /// The first frame, which is SETTINGS.
    Settings,
    Frame,
    Data(Data),
}

/// The rest of a DATA frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Data {
    stream: Option<StreamKey>,
    left: usize,
    padding: usize,
    end: bool,
}

#[cfg(test)]
impl Reading {
    /// Bytes of the frame that is coming, for this stream.
    pub(super) fn ahead(&self, key: StreamKey) -> u32 {
        match self {
            Self::Data(data) if data.stream == Some(key) => data.left as u32,
            _ => 0,
        }
    }

    /// The same for whichever stream it is.
    pub(super) fn all_ahead(&self) -> u32 {
        match self {
            Self::Data(Data { stream: Some(_), left, .. }) => *left as u32,
            _ => 0,
        }
    }
}

/// Bytes that a step used; 0: more are needed.
type Used = Result<usize, ConnectionError>;

impl<S: Space> Session<S> {
    /// Takes in what came and tells how much of it was used; the rest is given again, with more behind it. A buffer of
    /// 16,393 bytes is always enough.
    ///
    /// # Errors
    /// The client broke the protocol; [`fail`](Self::fail) is to follow.
    pub fn receive(
        &mut self,
        input: &[u8],
        opened: &mut Vec<Opened>,
    ) -> Result<usize, ConnectionError> {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            let step = match self.reading {
                Reading::Preface => self.preface(rest)?,
                Reading::Data(data) => self.data(data, rest)?,
                Reading::Settings | Reading::Frame => self.frame(rest, opened)?,
            };
            used += step;
            if step == 0 {
                return Ok(used);
            }
        }
    }

    fn preface(&mut self, input: &[u8]) -> Used {
        let there = input.len().min(PREFACE.len());
        if input[..there] != PREFACE[..there] {
            return Err(ConnectionError::protocol("the preface is not HTTP/2's"));
        }
        if there < PREFACE.len() {
            return Ok(0);
        }
        self.reading = Reading::Settings;
        Ok(there)
    }

    fn frame(&mut self, input: &[u8], opened: &mut Vec<Opened>) -> Used {
        let Some(head) = FrameHead::parse(input) else { return Ok(0) };
        if head.len > LARGEST {
            return Err(ConnectionError::size("a frame is too large"));
        }
        if matches!(self.reading, Reading::Settings)
            && (head.kind != kind::SETTINGS || head.has(flag::ACK))
        {
            return Err(ConnectionError::protocol("the first frame is not SETTINGS"));
        }
        if let Some(block) = &self.block
            && (head.kind != kind::CONTINUATION || head.stream != block.stream)
        {
            return Err(ConnectionError::protocol("a header block was interrupted"));
        }
        if head.kind == kind::DATA {
            return self.begin_data(head, &input[HEAD..]);
        }
        let Some(payload) = input[HEAD..].get(..head.len) else { return Ok(0) };
        self.reading = Reading::Frame;
        match head.kind {
            kind::HEADERS => self.headers(head, payload, opened)?,
            kind::CONTINUATION => self.continuation(head, payload, opened)?,
            kind::WINDOW_UPDATE => self.window_update(head, payload)?,
            kind::RST_STREAM => self.reset_by_client(head, payload)?,
            kind::SETTINGS => self.settings(head, payload)?,
            kind::PING => self.ping(head, payload)?,
            kind::PRIORITY => self.priority(head, payload)?,
            kind::GOAWAY => self.goaway(head, payload)?,
            kind::PUSH_PROMISE => return Err(ConnectionError::protocol("a client pushed")),
            _ => self.calm.noise()?,
        }
        if self.block.is_none() {
            self.taken = self.taken.wrapping_add(1);
        }
        Ok(HEAD + head.len)
    }
}

// ---------------------------------------------------------------------------- bodies

impl<S: Space> Session<S> {
    fn begin_data(&mut self, head: FrameHead, rest: &[u8]) -> Used {
        let padded = head.has(flag::PADDED);
        let padding = match (padded, rest.first()) {
            (false, _) => 0,
            // What follows belongs to the next frame.
            (true, _) if head.len == 0 => usize::MAX,
            (true, Some(padding)) => usize::from(*padding),
            (true, None) => return Ok(0),
        };
        let before = usize::from(padded);
        if padded && head.len.saturating_sub(1) < padding {
            return Err(ConnectionError::protocol("padding is longer than its frame"));
        }
        if head.stream == 0 || self.is_untouched(head.stream) {
            return Err(ConnectionError::protocol("DATA for no stream"));
        }
        let count = head.len as u32;
        let Some(window) = self.receive_window.checked_sub(count) else {
            let reason = Reason::FLOW_CONTROL_ERROR;
            return Err(ConnectionError { reason, why: "more than the connection's window" });
        };
        self.receive_window = window;
        let end = head.has(flag::END_STREAM);
        let left = head.len - before - padding;
        self.taken = self.taken.wrapping_add(1);
        let stream = self.accept_data(head.stream, count, left as u64, end)?;
        if left > 0 || (end && stream.is_some()) {
            self.calm.progress();
        } else {
            self.calm.noise()?;
        }
        let extra = (before + padding) as u32;
        match stream {
            // Nobody reads padding.
            Some(stream) if extra > 0 => self.credit(stream, extra),
            Some(_) => {}
            None => self.credit_connection(count),
        }
        self.reading = Reading::Data(Data { stream, left, padding, end });
        let used = HEAD + before;
        Ok(used + self.data(Data { stream, left, padding, end }, &rest[before..])?)
    }

    /// Whose the bytes are; `None` if they are thrown away.
    fn accept_data(
        &mut self,
        id: u32,
        count: u32,
        data: u64,
        end: bool,
    ) -> Result<Option<StreamKey>, ConnectionError> {
        let Some(key) = self.streams.find(id) else {
            if id <= self.last && !self.streams.was_reset(id) {
                self.refuse(id, Reason::STREAM_CLOSED)?;
            }
            return Ok(None);
        };
        let stream = self.streams.get(key);
        if stream.is_gone() {
            if std::mem::take(&mut stream.reset_by_client) {
                self.refuse(id, Reason::STREAM_CLOSED)?;
            }
            return Ok(None);
        }
        let left = stream.expected.map(|expected| expected.checked_sub(data));
        let window = stream.receive_window.checked_sub(count);
        let wrong = if stream.remote_ended {
            Some(Reason::STREAM_CLOSED)
        } else if window.is_none() {
            Some(Reason::FLOW_CONTROL_ERROR)
        } else if left == Some(None) || (end && left.is_some_and(|left| left != Some(0))) {
            // Not the length that was announced.
            Some(Reason::PROTOCOL_ERROR)
        } else {
            None
        };
        if let Some(reason) = wrong {
            self.break_stream(key, reason)?;
            return Ok(None);
        }
        stream.receive_window = window.unwrap_or_default();
        stream.expected = left.flatten();
        Ok(Some(key))
    }

    /// Takes what is there of a DATA frame's payload, then of its padding.
    fn data(&mut self, mut data: Data, input: &[u8]) -> Used {
        let now = data.left.min(input.len());
        if let Some(key) = data.stream.filter(|_| now > 0) {
            // It may have been closed since the frame began.
            if self.streams.find(key.id) == Some(key) && !self.streams.is_gone(key) {
                self.streams.deliver(key, &input[..now]);
            } else {
                self.credit_connection(now as u32);
            }
        }
        data.left -= now;
        let padding = data.padding.min(input.len() - now);
        data.padding -= padding;
        self.reading = Reading::Data(data);
        if data.left == 0 && data.padding == 0 {
            self.reading = Reading::Frame;
            if let Some(key) = data.stream.filter(|_| data.end)
                && self.streams.find(key.id) == Some(key)
            {
                self.end_of_body(key);
            }
        }
        Ok(now + padding)
    }

    pub(super) fn end_of_body(&mut self, key: StreamKey) {
        let stream = self.streams.get(key);
        stream.remote_ended = true;
        stream.wake();
    }
}
