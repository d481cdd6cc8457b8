//! Read and write buffers that go round: a connection holds one only while it has something in it.

use std::cell::{RefCell, RefMut};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use meridian_http2::Space;

use crate::tls::SCRATCH;

/// What a buffer starts with, bytes.
pub(crate) const SIZE: usize = 16 * 1024;
/// What a buffer of a large transfer grows to.
const LARGE: usize = 64 * 1024;
/// Buffers kept for reuse, per worker.
const KEPT: usize = 256;

/// A worker's spare buffers.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    spare: RefCell<Vec<Vec<u8>>>,
    scratch: RefCell<Vec<u8>>,
}

impl Buffers {
    /// An empty buffer of at least [`SIZE`].
    pub(crate) fn take(&self) -> Vec<u8> {
        self.spare.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(SIZE))
    }

    /// Takes a buffer back; a grown one is freed.
    pub(crate) fn give(&self, mut buffer: Vec<u8>) {
        let mut spare = self.spare.borrow_mut();
        if buffer.capacity() == SIZE && spare.len() < KEPT {
            buffer.clear();
            spare.push(buffer);
        }
    }

    /// Space for records that are being sealed, always of [`SCRATCH`] bytes; what is in it is of no use to the next.
    pub(crate) fn scratch(&self) -> RefMut<'_, Vec<u8>> {
        let mut scratch = self.scratch.borrow_mut();
        if scratch.is_empty() {
            scratch.resize(SCRATCH, 0);
        }
        scratch
    }

    /// Makes sure that a read finds room: a full buffer grows.
    pub(crate) fn make_room(buffer: &mut Vec<u8>) {
        if buffer.len() == buffer.capacity() {
            buffer.reserve_exact(buffer.capacity().max(SIZE));
        }
    }

    /// Makes an empty buffer large, for a transfer whose reads fill it.
    pub(crate) fn enlarge(buffer: &mut Vec<u8>) {
        if buffer.is_empty() && buffer.capacity() < LARGE {
            buffer.reserve_exact(LARGE);
        }
    }
}

/// The same, for the HTTP/2 session.
#[derive(Clone, Debug)]
pub(crate) struct Spare(pub(crate) Rc<Buffers>);

impl Space for Spare {
    fn take(&self) -> Vec<u8> {
        self.0.take()
    }

    fn give(&self, buffer: Vec<u8>) {
        self.0.give(buffer);
    }
}

/// A buffer that is there while there is something in it, and goes back by itself.
#[derive(Debug)]
pub(crate) struct Lease {
    bytes: Vec<u8>,
    buffers: Rc<Buffers>,
}

impl Lease {
    /// Of no bytes yet.
    pub(crate) fn new(buffers: &Rc<Buffers>) -> Self {
        Self { bytes: Vec::new(), buffers: buffers.clone() }
    }

    /// Makes sure that there is one.
    pub(crate) fn hold(&mut self) {
        if self.bytes.capacity() == 0 {
            self.bytes = self.buffers.take();
        }
    }

    /// Gives it back if nothing is in it, unless a large transfer has made it large.
    pub(crate) fn let_go(&mut self) {
        if self.bytes.is_empty() && self.bytes.capacity() == SIZE {
            self.buffers.give(std::mem::take(&mut self.bytes));
        }
    }
}

impl Deref for Lease {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.buffers.give(std::mem::take(&mut self.bytes));
    }
}
