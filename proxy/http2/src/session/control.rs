//! Frames about streams and the connection: resets, windows, settings, pings, goodbyes.

use super::{GOODBYE, Leaving, Session, Space, StreamKey};
use crate::error::{ConnectionError, Reason};
use crate::frame::{self, FrameHead, LARGEST, MOST, flag, kind, number, setting};

impl<S: Space> Session<S> {
    /// Whether the client cannot have opened the stream. What it opens after the last goodbye is not looked at.
    pub(super) fn is_untouched(&self, id: u32) -> bool {
        id.is_multiple_of(2) || (id > self.last && self.leaving != Leaving::Last)
    }

    /// Resets a stream that nobody serves.
    pub(super) fn refuse(&mut self, id: u32, reason: Reason) -> Result<(), ConnectionError> {
        self.streams.forget(id);
        frame::push_reset(self.out.bytes(), id, reason);
        self.calm.reset()
    }

    /// Resets a stream because of what the client did.
    pub(super) fn break_stream(
        &mut self,
        key: StreamKey,
        reason: Reason,
    ) -> Result<(), ConnectionError> {
        self.reset(key, reason);
        self.calm.reset()
    }

    pub(super) fn window_update(
        &mut self,
        head: FrameHead,
        payload: &[u8],
    ) -> Result<(), ConnectionError> {
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
        let Some(key) = self.streams.find(head.stream) else { return self.calm.noise() };
        let stream = self.streams.get(key);
        if stream.is_gone() {
            return self.calm.noise();
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

    pub(super) fn reset_by_client(
        &mut self,
        head: FrameHead,
        payload: &[u8],
    ) -> Result<(), ConnectionError> {
        if payload.len() != 4 {
            return Err(ConnectionError::size("an RST_STREAM of a wrong size"));
        }
        if head.stream == 0 || self.is_untouched(head.stream) {
            return Err(ConnectionError::protocol("RST_STREAM for no stream"));
        }
        let Some(key) = self.streams.find(head.stream) else { return self.calm.noise() };
        if self.streams.is_gone(key) {
            return self.calm.noise();
        }
        self.streams.get(key).reset_by_client = true;
        self.streams.lose(key);
        self.calm.reset()
    }

    pub(super) fn settings(
        &mut self,
        head: FrameHead,
        payload: &[u8],
    ) -> Result<(), ConnectionError> {
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
            self.calm.noise()?;
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

    pub(super) fn ping(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), ConnectionError> {
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

    pub(super) fn priority(
        &mut self,
        head: FrameHead,
        payload: &[u8],
    ) -> Result<(), ConnectionError> {
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

    pub(super) fn goaway(
        &mut self,
        head: FrameHead,
        payload: &[u8],
    ) -> Result<(), ConnectionError> {
        if head.stream != 0 {
            return Err(ConnectionError::protocol("GOAWAY for a stream"));
        }
        if payload.len() < 8 {
            return Err(ConnectionError::size("a GOAWAY of a wrong size"));
        }
        // What is under way is served. The client closes; it is not hurried.
        self.client_leaves = true;
        self.calm.noise()
    }
}
