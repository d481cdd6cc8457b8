//! What streams send: heads, bodies as the windows allow, ends.

use std::task::{Context, Poll};

use super::{Gone, Session, Space, StreamKey};
use crate::error::Reason;
use crate::frame::{self, FrameHead, HEAD, LARGEST, flag, kind};
use crate::hpack::HeadWriter;

impl<S: Space> Session<S> {
    /// Sends a head: an interim one, the final one, or trailers. `end`: nothing follows.
    pub fn send_head(
        &mut self,
        key: StreamKey,
        end: bool,
        write: impl FnOnce(&mut HeadWriter<'_>),
    ) {
        let stream = self.streams.get(key);
        if stream.is_gone() || stream.local_ended {
            return;
        }
        stream.local_ended = end;
        let tell_no_table = std::mem::take(&mut self.tell_no_table);
        let out = self.out.bytes();
        let from = out.len();
        out.extend_from_slice(&[0; HEAD]);
        let mut writer = HeadWriter::new(out);
        if tell_no_table {
            writer.no_table();
        }
        write(&mut writer);
        let len = out.len() - from - HEAD;
        let end = if end { flag::END_STREAM } else { 0 };
        if len <= LARGEST {
            let flags = flag::END_HEADERS | end;
            let head = FrameHead { len, kind: kind::HEADERS, flags, stream: key.id };
            out[from..from + HEAD].copy_from_slice(&head.encode());
            self.out.set_tail(key.id, from);
        } else {
            let block = out.split_off(from + HEAD);
            out.truncate(from);
            push_block(out, key.id, end, &block);
        }
        self.wake_driver();
    }

    /// Ready when there is room for another head: of interim ones there may be any number.
    ///
    /// # Errors
    /// The stream is gone.
    pub fn poll_room(&mut self, key: StreamKey, cx: &Context<'_>) -> Poll<Result<(), Gone>> {
        let stream = self.streams.get(key);
        if stream.is_gone() {
            return Poll::Ready(Err(Gone));
        }
        let room = self.out.room() > 0;
        if !room {
            stream.watch(cx);
        }
        // A head needs no turn: it goes to the next one.
        let granted = self.streams.take_turn(key);
        if !room {
            self.streams.enqueue(key);
        }
        if granted {
            self.grant();
        }
        if room { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Sends as much of `data` as the windows and the room allow now; it is called again for the rest. Ready with the
    /// count, at least one.
    ///
    /// # Errors
    /// The stream is gone, or its end has been sent.
    pub fn poll_send(
        &mut self,
        key: StreamKey,
        data: &[u8],
        cx: &Context<'_>,
    ) -> Poll<Result<usize, Gone>> {
        let stream = self.streams.get(key);
        if stream.is_gone() || stream.local_ended {
            return Poll::Ready(Err(Gone));
        }
        let granted = self.streams.is_contended() && self.streams.take_turn(key);
        let contended = self.streams.is_contended();
        let stream = self.streams.get(key);
        let own = usize::try_from(stream.send_window).unwrap_or(0);
        let shared = self.out.room().min(usize::try_from(self.send_window).unwrap_or(0));
        if own == 0 || shared == 0 || (contended && !granted) {
            stream.watch(cx);
            if own > 0 {
                self.streams.enqueue(key);
            }
            if granted {
                self.grant();
            }
            return Poll::Pending;
        }
        // A frame a turn, where others wait.
        let most = own.min(shared).min(LARGEST).min(data.len());
        stream.send_window -= most as i64;
        self.send_window -= most as i64;
        self.calm.progress();
        self.push_data(key.id, &data[..most]);
        if granted {
            self.grant();
        }
        self.wake_driver();
        Poll::Ready(Ok(most))
    }

    /// Appends to the stream's own frame at the end of what waits, or begins one.
    fn push_data(&mut self, stream: u32, data: &[u8]) {
        let tail = self.out.tail(stream);
        let out = self.out.bytes();
        let extended = tail.and_then(|tail| {
            let head = FrameHead::parse(&out[tail.from..])?;
            let len = head.len + data.len();
            let fits = head.kind == kind::DATA && len <= LARGEST;
            fits.then_some((tail.from, FrameHead { len, ..head }))
        });
        let from = match extended {
            Some((from, head)) => {
                out[from..from + HEAD].copy_from_slice(&head.encode());
                from
            }
            None => {
                let from = out.len();
                let head = FrameHead { len: data.len(), kind: kind::DATA, flags: 0, stream };
                out.extend_from_slice(&head.encode());
                from
            }
        };
        out.extend_from_slice(data);
        self.out.set_tail(stream, from);
    }

    /// Ends the answer: by a mark on its last frame where that has not gone yet.
    pub fn end(&mut self, key: StreamKey) {
        let stream = self.streams.get(key);
        if stream.is_gone() || stream.local_ended {
            return;
        }
        stream.local_ended = true;
        let tail = self.out.tail(key.id);
        let out = self.out.bytes();
        match tail {
            Some(tail) => out[tail.from + 4] |= flag::END_STREAM,
            None => frame::push(out, kind::DATA, flag::END_STREAM, key.id, &[]),
        }
        self.wake_driver();
    }

    /// Ends the stream at once.
    pub fn reset(&mut self, key: StreamKey, reason: Reason) {
        if self.streams.is_gone(key) {
            return;
        }
        self.streams.lose(key);
        self.streams.forget(key.id);
        frame::push_reset(self.out.bytes(), key.id, reason);
        self.wake_driver();
    }

    /// Gives the room that there is to those whose turn it is.
    pub(super) fn grant(&mut self) {
        if !self.streams.is_contended() {
            return;
        }
        let window = usize::try_from(self.send_window).unwrap_or(0);
        let turns = self.out.room().min(window).div_ceil(LARGEST);
        for _ in self.streams.turns()..turns {
            if !self.streams.grant_next() {
                break;
            }
        }
    }
}

/// A block that needs more than one frame.
fn push_block(out: &mut Vec<u8>, stream: u32, end: u8, block: &[u8]) {
    let mut pieces = block.chunks(LARGEST).peekable();
    let (mut kind, mut flags) = (kind::HEADERS, end);
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            flags |= flag::END_HEADERS;
        }
        frame::push(out, kind, flags, stream, piece);
        (kind, flags) = (kind::CONTINUATION, 0);
    }
}
