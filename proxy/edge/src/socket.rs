//! Reads and writes without a system call more than needed.
//!
//! A read or write that was short is a sign that the socket is empty or full: its readiness is cleared then, so that the
//! next one waits for the reactor instead of asking the kernel once more. The system calls are made directly, because
//! those of the C library are thread cancellation points, which cost more than the rest of the wrapper.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, SendFlags};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::coop::poll_proceed;

/// Bytes that a socket nearly always has room for.
const LITTLE: usize = 8 * 1024;

/// Reads into the spare capacity of `buffer`, which must have some; 0 at the end of the connection.
pub(crate) fn poll_read_into(
    stream: &TcpStream,
    buffer: &mut Vec<u8>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    // A connection that always has something to read lets others have their turn.
    let turn = ready!(poll_proceed(cx));
    loop {
        let room = buffer.capacity() - buffer.len();
        if let Some(result) = attempt(stream, Interest::READABLE, room, || receive(stream, buffer))
        {
            turn.made_progress();
            return Poll::Ready(result);
        }
        ready!(stream.poll_read_ready(cx))?;
    }
}

/// Asks the kernel for bytes, whatever the reactor has heard.
///
/// # Errors
/// `WouldBlock`: there are none.
pub(crate) fn receive(stream: &TcpStream, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let spare = rustix::buffer::spare_capacity(buffer);
    Ok(rustix::net::recv(stream, spare, RecvFlags::empty())?.1)
}

/// Writes some bytes of `first`, then `second`, in one call.
pub(crate) fn poll_write_some(
    stream: &TcpStream,
    first: &[u8],
    second: &[u8],
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let write = || -> io::Result<usize> {
        Ok(if second.is_empty() {
            rustix::net::send(stream, first, SendFlags::NOSIGNAL)?
        } else if first.is_empty() {
            rustix::net::send(stream, second, SendFlags::NOSIGNAL)?
        } else {
            rustix::io::writev(stream, &[IoSlice::new(first), IoSlice::new(second)])?
        })
    };
    let most = first.len() + second.len();
    // For little there is room, mostly, and the reactor need not be asked. If there is none it is tried once more below,
    // where the reactor learns of it.
    if most <= LITTLE
        && let Ok(count @ 1..) = write()
    {
        return Poll::Ready(Ok(count));
    }
    loop {
        match attempt(stream, Interest::WRITABLE, most, write) {
            Some(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Some(result) => return Poll::Ready(result),
            None => ready!(stream.poll_write_ready(cx))?,
        }
    }
}

/// Makes a system call that moves up to `most` bytes; `None`: wait for readiness and try again.
fn attempt(
    stream: &TcpStream,
    interest: Interest,
    most: usize,
    mut call: impl FnMut() -> io::Result<usize>,
) -> Option<io::Result<usize>> {
    let mut short = None;
    let result = stream.try_io(interest, || match call()? {
        count if 0 < count && count < most => {
            short = Some(count);
            Err(io::ErrorKind::WouldBlock.into())
        }
        count => Ok(count),
    });
    match (short, result) {
        (Some(count), _) => Some(Ok(count)),
        (None, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => None,
        (None, Err(error)) if error.kind() == io::ErrorKind::Interrupted => {
            attempt(stream, interest, most, call)
        }
        (None, result) => Some(result),
    }
}
