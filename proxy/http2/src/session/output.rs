//! What waits to be sent, of all streams together, and the turns of those that have more than fits.

use super::Space;

/// Bytes that may wait before streams have to.
const MOST: usize = 64 * 1024;

/// The bytes.
#[derive(Debug)]
pub(super) struct Output<S> {
    space: S,
    bytes: Vec<u8>,
    /// So many went out.
    at: usize,
    /// The last frame, as long as its head can still be changed.
    tail: Option<Tail>,
}

/// A frame of a stream at the end of what waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail {
    pub(super) stream: u32,
    /// Where its head stands.
    pub(super) from: usize,
    /// Where it ends; more may not have been added since.
    pub(super) to: usize,
}

impl<S: Space> Output<S> {
    pub(super) fn new(space: S) -> Self {
        Self { space, bytes: Vec::new(), at: 0, tail: None }
    }

    /// To append to.
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes = self.space.take();
        }
        &mut self.bytes
    }

    pub(super) fn waiting(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    /// Bytes for which there is room; frames of other kinds than DATA may exceed it.
    pub(super) fn room(&self) -> usize {
        MOST.saturating_sub(self.bytes.len() - self.at)
    }

    pub(super) fn sent(&mut self, count: usize) {
        self.at += count;
        self.tail = None;
        if self.at == self.bytes.len() {
            self.at = 0;
            self.space.give(std::mem::take(&mut self.bytes));
        } else if self.at >= MOST {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
    }

    /// The last frame, if it is of this stream and nothing stands behind it.
    pub(super) fn tail(&self, stream: u32) -> Option<Tail> {
        self.tail.filter(|tail| tail.stream == stream && tail.to == self.bytes.len())
    }

    pub(super) fn set_tail(&mut self, stream: u32, from: usize) {
        self.tail = Some(Tail { stream, from, to: self.bytes.len() });
    }
}
