//! What a client sends: frames taken apart, checked, and acted on.

use super::{GOODBYE, Leaving, Opened, Session, Space, StreamKey};
use crate::PREFACE;
use crate::error::{ConnectionError, Reason};
use crate::frame::{self, FrameHead, HEAD, LARGEST, MOST, flag, kind, number, setting};
use crate::head::{Head, Verdict};

/// CONTINUATION frames of one header block.
const MOST_PIECES: u32 = 32;

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

/// A header block that goes on in CONTINUATION frames.
#[derive(Debug)]
pub(super) struct Block {
    stream: u32,
    end: bool,
    bytes: Vec<u8>,
    pieces: u32,
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
        Ok(HEAD + head.len)
    }
}

// ---------------------------------------------------------------------------- bodies

impl<S: Space> Session<S> {
    fn begin_data(&mut self, head: FrameHead, rest: &[u8]) -> Used {
        let padded = head.has(flag::PADDED);
        let padding = match (padded, rest.first()) {
            (false, _) => 0,
            (true, Some(padding)) => usize::from(*padding),
            (true, None) if head.len == 0 => usize::MAX,
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
        if left == 0 && !end {
            self.calm.noise()?;
        } else {
            self.calm.progress();
        }
        let stream = self.accept_data(head.stream, count, left as u64, end)?;
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
        if stream.gone {
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
            if self.streams.find(key.id) == Some(key) && !self.streams.get(key).gone {
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

    fn end_of_body(&mut self, key: StreamKey) {
        let stream = self.streams.get(key);
        stream.remote_ended = true;
        stream.wake();
    }
}

// ---------------------------------------------------------------------------- heads

impl<S: Space> Session<S> {
    fn headers(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        opened: &mut Vec<Opened>,
    ) -> Result<(), ConnectionError> {
        if head.stream.is_multiple_of(2) {
            return Err(ConnectionError::protocol("HEADERS for no stream of a client"));
        }
        let mut block = payload;
        let mut padding = 0;
        if head.has(flag::PADDED) {
            let Some((first, rest)) = block.split_first() else {
                return Err(ConnectionError::size("HEADERS without its padding"));
            };
            (padding, block) = (usize::from(*first), rest);
        }
        let mut depends_on = 0;
        if head.has(flag::PRIORITY) {
            let Some((priority, rest)) = block.split_at_checked(5) else {
                return Err(ConnectionError::size("HEADERS without its priority"));
            };
            (depends_on, block) = (number(priority), rest);
        }
        let Some(block) = block.len().checked_sub(padding).map(|len| &block[..len]) else {
            return Err(ConnectionError::protocol("padding is longer than its frame"));
        };
        if depends_on == head.stream {
            return Err(ConnectionError::protocol("a stream depends on itself"));
        }
        let end = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.whole_block(head.stream, end, block, opened);
        }
        let block = Block { stream: head.stream, end, bytes: block.to_vec(), pieces: 0 };
        self.block = Some(Box::new(block));
        Ok(())
    }

    fn continuation(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        opened: &mut Vec<Opened>,
    ) -> Result<(), ConnectionError> {
        let Some(block) = &mut self.block else {
            return Err(ConnectionError::protocol("CONTINUATION of nothing"));
        };
        block.pieces += 1;
        block.bytes.extend_from_slice(payload);
        let most = 2 * self.limits.header_bytes.max(LARGEST);
        if block.pieces > MOST_PIECES || block.bytes.len() > most {
            return Err(ConnectionError::calm("a header block does not end"));
        }
        if head.has(flag::END_HEADERS)
            && let Some(block) = self.block.take()
        {
            self.whole_block(block.stream, block.end, &block.bytes, opened)?;
        }
        Ok(())
    }

    /// Decodes a block, whatever becomes of it: the table has to stay in step.
    fn whole_block(
        &mut self,
        id: u32,
        end: bool,
        block: &[u8],
        opened: &mut Vec<Opened>,
    ) -> Result<(), ConnectionError> {
        let mut head = self.spare.pop().unwrap_or_default();
        let most = self.limits.header_bytes;
        if self.decoder.decode(block, |field| head.push(field, most)).is_err() {
            let reason = Reason::COMPRESSION_ERROR;
            return Err(ConnectionError { reason, why: "a header block cannot be decoded" });
        }
        if id > self.last {
            return self.open(id, end, head, opened);
        }
        match self.streams.find(id) {
            Some(key) => self.trailers(key, end, head),
            None if self.streams.was_reset(id) => Ok(()),
            None => {
                let reason = Reason::STREAM_CLOSED;
                Err(ConnectionError { reason, why: "HEADERS for a stream that has ended" })
            }
        }
    }

    fn open(
        &mut self,
        id: u32,
        end: bool,
        mut head: Head,
        opened: &mut Vec<Opened>,
    ) -> Result<(), ConnectionError> {
        if self.leaving == Leaving::Last {
            // It stands above the last one that the client was told of.
            return Ok(());
        }
        self.last = id;
        self.calm.stream();
        head.seal_request();
        if self.streams.active() >= self.limits.streams as usize {
            return self.refuse(id, Reason::REFUSED_STREAM);
        }
        let expected = head.first("content-length").and_then(length);
        let wrong_length = end && expected.is_some_and(|expected| expected > 0);
        if head.verdict() == Verdict::Malformed || wrong_length {
            return self.refuse(id, Reason::PROTOCOL_ERROR);
        }
        let key = self.streams.open(id, self.first_send_window);
        let stream = self.streams.get(key);
        stream.remote_ended = end;
        stream.expected = expected;
        opened.push(Opened { stream: key, head, ended: end });
        Ok(())
    }

    fn trailers(
        &mut self,
        key: StreamKey,
        end: bool,
        mut head: Head,
    ) -> Result<(), ConnectionError> {
        head.seal_trailers();
        let stream = self.streams.get(key);
        if stream.gone {
            return Ok(());
        }
        if stream.remote_ended {
            return self.break_stream(key, Reason::STREAM_CLOSED);
        }
        let short = stream.expected.is_some_and(|left| left > 0);
        if !end || short || head.verdict() != Verdict::Sound {
            return self.break_stream(key, Reason::PROTOCOL_ERROR);
        }
        stream.trailers = Some(Box::new(head));
        self.end_of_body(key);
        Ok(())
    }
}

// ---------------------------------------------------------------------------- the rest

impl<S: Space> Session<S> {
    /// Whether the client cannot have opened the stream. What it opens after the last goodbye is not looked at.
    fn is_untouched(&self, id: u32) -> bool {
        id.is_multiple_of(2) || (id > self.last && self.leaving != Leaving::Last)
    }

    /// Resets a stream that nobody serves.
    fn refuse(&mut self, id: u32, reason: Reason) -> Result<(), ConnectionError> {
        self.streams.forget(id);
        frame::push_reset(self.out.bytes(), id, reason);
        self.calm.reset()
    }

    /// Resets a stream because of what the client did.
    fn break_stream(&mut self, key: StreamKey, reason: Reason) -> Result<(), ConnectionError> {
        self.reset(key, reason);
        self.calm.reset()
    }

    fn window_update(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), ConnectionError> {
        if payload.len() != 4 {
            return Err(ConnectionError::size("a WINDOW_UPDATE of a wrong size"));
        }
        let more = i64::from(number(payload));
        let full = Reason::FLOW_CONTROL_ERROR;
        if head.stream == 0 {
            self.send_window += more;
            if more == 0 {
                return Err(ConnectionError::protocol("a WINDOW_UPDATE of nothing"));
            }
            if self.send_window > i64::from(MOST) {
                return Err(ConnectionError { reason: full, why: "the window is too large" });
            }
            self.grant();
            return Ok(());
        }
        if self.is_untouched(head.stream) {
            return Err(ConnectionError::protocol("WINDOW_UPDATE for no stream"));
        }
        let Some(key) = self.streams.find(head.stream) else { return Ok(()) };
        let stream = self.streams.get(key);
        if stream.gone {
            return Ok(());
        }
        if more == 0 {
            return self.break_stream(key, Reason::PROTOCOL_ERROR);
        }
        stream.send_window += more;
        if stream.send_window > i64::from(MOST) {
            return self.break_stream(key, full);
        }
        stream.wake();
        Ok(())
    }

    fn reset_by_client(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), ConnectionError> {
        if payload.len() != 4 {
            return Err(ConnectionError::size("an RST_STREAM of a wrong size"));
        }
        if head.stream == 0 || self.is_untouched(head.stream) {
            return Err(ConnectionError::protocol("RST_STREAM for no stream"));
        }
        let Some(key) = self.streams.find(head.stream) else { return self.calm.noise() };
        let stream = self.streams.get(key);
        if !stream.gone {
            stream.gone = true;
            stream.wake();
            self.calm.reset()?;
        }
        Ok(())
    }

    fn settings(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), ConnectionError> {
        if head.stream != 0 {
            return Err(ConnectionError::protocol("SETTINGS for a stream"));
        }
        self.calm.noise()?;
        if head.has(flag::ACK) {
            return match payload.len() {
                0 => Ok(()),
                _ => Err(ConnectionError::size("an answer to SETTINGS that says something")),
            };
        }
        let (settings, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(ConnectionError::size("SETTINGS of a wrong size"));
        }
        for [a, b, value @ ..] in settings {
            self.setting(u16::from_be_bytes([*a, *b]), u32::from_be_bytes(*value))?;
        }
        frame::push(self.out.bytes(), kind::SETTINGS, flag::ACK, 0, &[]);
        Ok(())
    }

    fn setting(&mut self, name: u16, value: u32) -> Result<(), ConnectionError> {
        match name {
            setting::HEADER_TABLE_SIZE => self.tell_no_table |= value < 4096,
            setting::ENABLE_PUSH if value > 1 => {
                return Err(ConnectionError::protocol("ENABLE_PUSH is 0 or 1"));
            }
            setting::MAX_FRAME_SIZE if !(LARGEST as u32..1 << 24).contains(&value) => {
                return Err(ConnectionError::protocol("MAX_FRAME_SIZE is out of range"));
            }
            setting::INITIAL_WINDOW_SIZE => {
                let reason = Reason::FLOW_CONTROL_ERROR;
                let too_large = ConnectionError { reason, why: "a window is too large" };
                if value > MOST {
                    return Err(too_large);
                }
                let change = i64::from(value) - self.first_send_window;
                self.first_send_window = i64::from(value);
                for stream in self.streams.all() {
                    stream.send_window += change;
                    if stream.send_window > i64::from(MOST) {
                        return Err(too_large);
                    }
                    stream.wake();
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn ping(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), ConnectionError> {
        if head.stream != 0 {
            return Err(ConnectionError::protocol("PING for a stream"));
        }
        if payload.len() != 8 {
            return Err(ConnectionError::size("a PING of a wrong size"));
        }
        self.calm.noise()?;
        if !head.has(flag::ACK) {
            frame::push(self.out.bytes(), kind::PING, flag::ACK, 0, payload);
        } else if payload == GOODBYE && self.leaving == Leaving::Announced {
            self.leave_now();
        }
        Ok(())
    }

    fn priority(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), ConnectionError> {
        if head.stream == 0 {
            return Err(ConnectionError::protocol("PRIORITY for no stream"));
        }
        if payload.len() != 5 {
            return Err(ConnectionError::size("a PRIORITY of a wrong size"));
        }
        if number(payload) == head.stream {
            return Err(ConnectionError::protocol("a stream depends on itself"));
        }
        self.calm.noise()
    }

    fn goaway(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), ConnectionError> {
        if head.stream != 0 {
            return Err(ConnectionError::protocol("GOAWAY for a stream"));
        }
        if payload.len() < 8 {
            return Err(ConnectionError::size("a GOAWAY of a wrong size"));
        }
        // What is under way is served; nothing new will come.
        self.leave_now();
        Ok(())
    }
}

/// A Content-Length of digits alone; what else it may be, its reader judges.
fn length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}
