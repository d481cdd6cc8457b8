//! Header blocks: collected, decoded, and what they begin or end.

use super::{Leaving, Opened, Session, Space, StreamKey};
use crate::error::{ConnectionError, Reason};
use crate::frame::{FrameHead, LARGEST, flag, number};
use crate::head::{Head, Verdict};

/// CONTINUATION frames of one header block, beyond those that a long one needs.
const MOST_PIECES: u32 = 32;

/// A header block that goes on in CONTINUATION frames.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) stream: u32,
    end: bool,
    bytes: Vec<u8>,
    pieces: u32,
}

#[cfg(test)]
impl Block {
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }
}

impl<S: Space> Session<S> {
    pub(super) fn headers(
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

    pub(super) fn continuation(
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
        let pieces = MOST_PIECES as usize + most / LARGEST;
        if block.pieces as usize > pieces || block.bytes.len() > most {
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
            None if self.streams.was_reset(id) => self.calm.noise(),
            None => Err(self.not_open()),
        }
    }

    /// HEADERS of a stream below the last one that is not open: it has ended, unless the client has left ids out.
    fn not_open(&self) -> ConnectionError {
        if 2 * self.opened - 1 < self.last {
            return ConnectionError::protocol("HEADERS for a stream below the last one");
        }
        let reason = Reason::STREAM_CLOSED;
        ConnectionError { reason, why: "HEADERS for a stream that has ended" }
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
            return self.calm.noise();
        }
        self.last = id;
        self.opened += 1;
        self.calm.stream();
        head.seal_request();
        if self.streams.is_full(self.limits.streams as usize) {
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
        if stream.is_gone() {
            return if stream.reset_by_client { Err(self.not_open()) } else { self.calm.noise() };
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

/// A Content-Length of digits alone; what else it may be, its reader judges.
fn length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}
