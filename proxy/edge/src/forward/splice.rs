//! Large bodies without a copy: bytes go from the endpoint's socket to the client's through a pipe, inside the kernel.
//!
//! Promises: nothing stays behind in a pipe that is used again. Refuses to know: how a body is framed; the caller
//! knows that so many bytes belong to it, and that the client gets them as they are.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::coop::poll_proceed;

/// Shorter rests of a body are copied.
pub(crate) const WORTH_IT: u64 = 64 * 1024;
/// What a pipe may hold: 64 pages, of 256 pipes that one user may have at this size without asking (`pipe(7)`).
const HOLDS: usize = 256 * 1024;
/// Pipes kept for reuse, per worker.
const KEPT: usize = 4;

/// A worker's pipes.
#[derive(Debug)]
pub(crate) struct Pipes {
    spare: RefCell<Vec<(OwnedFd, OwnedFd)>>,
    in_use: Cell<usize>,
    most: usize,
}

/// A pipe in use.
pub(super) struct Pipe<'a> {
    ends: Option<(OwnedFd, OwnedFd)>,
    /// Bytes in it.
    held: usize,
    pipes: &'a Pipes,
}

impl Pipes {
    /// At most `most` at a time; 0: none.
    pub(crate) fn new(most: usize) -> Self {
        Self { spare: RefCell::default(), in_use: Cell::new(0), most }
    }

    /// An empty pipe, unless too many are in use or there are no descriptors.
    pub(super) fn take(&self) -> Option<Pipe<'_>> {
        if self.in_use.get() >= self.most {
            return None;
        }
        let spare = self.spare.borrow_mut().pop();
        let ends = spare.or_else(|| {
            let ends = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
            // A smaller one works as well.
            let _ = fcntl_setpipe_size(&ends.0, HOLDS);
            Some(ends)
        })?;
        self.in_use.set(self.in_use.get() + 1);
        Some(Pipe { ends: Some(ends), held: 0, pipes: self })
    }
}

impl Drop for Pipe<'_> {
    fn drop(&mut self) {
        self.pipes.in_use.set(self.pipes.in_use.get() - 1);
        let mut spare = self.pipes.spare.borrow_mut();
        if self.held == 0 && spare.len() < KEPT {
            spare.extend(self.ends.take());
        }
    }
}

impl Pipe<'_> {
    /// Takes some of the next `left` bytes from the endpoint, at least one; all taken before must be given.
    pub(super) async fn take(&mut self, endpoint: &TcpStream, left: u64) -> io::Result<u64> {
        poll_fn(|cx| self.poll_take(endpoint, left, cx)).await
    }

    /// Gives the client some of what was taken, at least one byte.
    pub(super) async fn give(&mut self, client: &TcpStream) -> io::Result<()> {
        poll_fn(|cx| self.poll_give(client, cx)).await
    }

    /// Bytes that were taken from the endpoint and that the client has not taken yet.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Whether the client has not taken all that was taken from the endpoint.
    pub(super) fn holds_some(&self) -> bool {
        self.held > 0
    }

    fn poll_take(
        &mut self,
        endpoint: &TcpStream,
        left: u64,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<u64>> {
        let turn = ready!(poll_proceed(cx));
        let most = usize::try_from(left).unwrap_or(HOLDS).min(HOLDS);
        let count = loop {
            // The pipe is empty: where nothing moves, the endpoint has sent nothing.
            match endpoint.try_io(Interest::READABLE, || self.splice_from(endpoint, most)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(endpoint.poll_read_ready(cx))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) => break Err(io::ErrorKind::UnexpectedEof.into()),
                result => break result,
            }
        };
        turn.made_progress();
        Poll::Ready(count.map(|count| {
            self.held = count;
            count as u64
        }))
    }

    fn poll_give(&mut self, client: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match client.try_io(Interest::WRITABLE, || self.splice_to(client)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(client.poll_write_ready(cx))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                result => {
                    self.held -= result?;
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    fn splice_from(&self, endpoint: &TcpStream, most: usize) -> io::Result<usize> {
        let (_, into) = self.ends.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        Ok(splice(endpoint, None, into, None, most, flags)?)
    }

    fn splice_to(&self, client: &TcpStream) -> io::Result<usize> {
        let (out_of, _) = self.ends.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        Ok(splice(out_of, None, client, None, self.held, flags)?)
    }
}
