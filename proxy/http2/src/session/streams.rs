//! The streams that are being served, and those of which the client may not know yet that they are over.

use std::collections::VecDeque;
use std::task::{Context, Waker};

use super::{STREAM_WINDOW, Space, StreamKey};
use crate::head::Head;

/// Streams that this side was done with before the client was, lately, at least: frames for them may be on their way.
const REMEMBERED: usize = 128;

/// One stream.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// What may be sent; below zero if the client has taken back what was sent already.
    pub(super) send_window: i64,
    /// What the client may still send.
    pub(super) receive_window: u32,
    /// Bytes that were read and not yet added to that.
    pub(super) read: u32,
    /// What has come and was not read.
    pub(super) inbox: Vec<u8>,
    pub(super) trailers: Option<Box<Head>>,
    /// What must still come, where the head said how much.
    pub(super) expected: Option<u64>,
    pub(super) remote_ended: bool,
    pub(super) local_ended: bool,
    gone: bool,
    /// The client has reset it: it may send no more.
    pub(super) reset_by_client: bool,
    /// It waits for room among others.
    pub(super) queued: bool,
    /// It is its turn.
    granted: bool,
    waker: Option<Waker>,
}

impl Stream {
    /// Whether it is over: reset by either side, or lost with the connection.
    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    /// Wakes the task that polls at the next change.
    pub(super) fn watch(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

/// All streams of a connection.
#[derive(Debug)]
pub(super) struct Streams<S> {
    space: S,
    /// The ids by slot; 0: free.
    ids: Vec<u32>,
    slots: Vec<Stream>,
    free: Vec<u32>,
    /// Those that wait for room, in the order of their turns.
    queue: VecDeque<u32>,
    /// How many are over and not closed.
    gone: usize,
    /// How many have their turn and have not taken it.
    turns: usize,
    forgotten: VecDeque<u32>,
    /// How many of those there are at most.
    remembered: usize,
}

impl<S: Space> Streams<S> {
    /// `most`: as many as the client may have at once.
    pub(super) fn new(space: S, most: usize) -> Self {
        let (ids, slots, free) = (Vec::new(), Vec::new(), Vec::new());
        let (queue, forgotten) = (VecDeque::new(), VecDeque::new());
        let remembered = REMEMBERED.max(2 * most);
        Self { space, ids, slots, free, queue, gone: 0, turns: 0, forgotten, remembered }
    }

    pub(super) fn active(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn open(&mut self, id: u32, send_window: i64) -> StreamKey {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.ids.push(0);
            self.slots.push(Stream::default());
            self.slots.len() as u32 - 1
        });
        self.ids[slot as usize] = id;
        let stream = &mut self.slots[slot as usize];
        let waker = stream.waker.take();
        *stream = Stream { send_window, receive_window: STREAM_WINDOW, waker, ..Stream::default() };
        StreamKey { slot, id }
    }

    /// One that was opened and not closed.
    pub(super) fn get(&mut self, key: StreamKey) -> &mut Stream {
        debug_assert_eq!(self.ids[key.slot as usize], key.id);
        &mut self.slots[key.slot as usize]
    }

    pub(super) fn see(&self, key: StreamKey) -> &Stream {
        &self.slots[key.slot as usize]
    }

    /// Whether one more is more than the client may have at once: `most`, and as many that are over and not closed yet.
    pub(super) fn is_full(&self, most: usize) -> bool {
        self.active() - self.gone >= most || self.active() >= 2 * most
    }

    /// It is over.
    pub(super) fn lose(&mut self, key: StreamKey) {
        let stream = self.get(key);
        let before = std::mem::replace(&mut stream.gone, true);
        stream.wake();
        self.gone += usize::from(!before);
    }

    pub(super) fn is_gone(&self, key: StreamKey) -> bool {
        self.slots[key.slot as usize].gone
    }

    pub(super) fn find(&self, id: u32) -> Option<StreamKey> {
        let slot = self.ids.iter().position(|known| *known == id)?;
        Some(StreamKey { slot: slot as u32, id })
    }

    /// All that are being served.
    pub(super) fn all(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.ids.iter().zip(&mut self.slots).filter(|(id, _)| **id != 0).map(|(_, stream)| stream)
    }

    /// Empties an inbox; how much was in it.
    pub(super) fn empty_inbox(&mut self, key: StreamKey) -> u32 {
        let inbox = std::mem::take(&mut self.get(key).inbox);
        let count = inbox.len() as u32;
        if count > 0 {
            self.space.give(inbox);
        }
        count
    }

    /// Puts what has come into an inbox.
    pub(super) fn deliver(&mut self, key: StreamKey, data: &[u8]) {
        let stream = &mut self.slots[key.slot as usize];
        if stream.inbox.capacity() == 0 {
            stream.inbox = self.space.take();
        }
        stream.inbox.extend_from_slice(data);
        stream.wake();
    }

    /// Frees the slot; how much was not read.
    pub(super) fn close(&mut self, key: StreamKey) -> u32 {
        let unread = self.empty_inbox(key);
        self.take_turn(key);
        let stream = self.get(key);
        let queued = std::mem::take(&mut stream.queued);
        let gone = stream.gone;
        stream.waker = None;
        stream.trailers = None;
        self.gone -= usize::from(gone);
        if queued {
            self.queue.retain(|slot| *slot != key.slot);
        }
        self.ids[key.slot as usize] = 0;
        self.free.push(key.slot);
        unread
    }

    /// Frees the room of streams, of which there are none now.
    pub(super) fn let_go(&mut self) {
        (self.ids, self.slots, self.free) = (Vec::new(), Vec::new(), Vec::new());
        (self.queue, self.turns) = (VecDeque::new(), 0);
    }

    pub(super) fn lose_all(&mut self) {
        for stream in self.all() {
            stream.gone = true;
            stream.wake();
        }
        self.gone = self.active();
    }

    /// It waits for its turn behind those that wait already.
    pub(super) fn enqueue(&mut self, key: StreamKey) {
        let stream = self.get(key);
        if !stream.queued && !stream.granted {
            stream.queued = true;
            self.queue.push_back(key.slot);
        }
    }

    /// Whether others have to be let go first: those whose turn it is, and those in line.
    pub(super) fn is_contended(&self) -> bool {
        self.turns > 0 || !self.queue.is_empty()
    }

    /// How many have their turn and have not taken it.
    pub(super) fn turns(&self) -> usize {
        self.turns
    }

    /// Whether it was its turn; that is over now.
    pub(super) fn take_turn(&mut self, key: StreamKey) -> bool {
        let granted = std::mem::take(&mut self.get(key).granted);
        self.turns -= usize::from(granted);
        granted
    }

    /// Lets the next one send; whether there was one.
    pub(super) fn grant_next(&mut self) -> bool {
        let Some(slot) = self.queue.pop_front() else { return false };
        let stream = &mut self.slots[slot as usize];
        stream.queued = false;
        stream.granted = true;
        stream.wake();
        self.turns += 1;
        true
    }

    /// Remembers that this side is done with the stream before the client was.
    pub(super) fn forget(&mut self, id: u32) {
        if self.forgotten.len() == self.remembered {
            self.forgotten.pop_front();
        }
        self.forgotten.push_back(id);
    }

    pub(super) fn was_reset(&self, id: u32) -> bool {
        self.forgotten.contains(&id)
    }
}
