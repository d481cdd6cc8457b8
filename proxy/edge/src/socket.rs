//! Reads and writes without a system call more than needed.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Reads into the spare capacity of `buffer`, which must have some; 0 at the end of the connection. May be dropped
/// while waiting.
///
/// Goes through `AsyncRead`, which takes a read that did not fill the buffer as a sign that the socket is empty:
/// `try_read` would ask the kernel once more.
pub(crate) async fn read_into(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<usize> {
    stream.read_buf(buffer).await
}

/// Writes some bytes of `first`, then `second`, in one call.
pub(crate) fn poll_write_some(
    stream: &TcpStream,
    first: &[u8],
    second: &[u8],
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    loop {
        let result = if second.is_empty() {
            stream.try_write(first)
        } else if first.is_empty() {
            stream.try_write(second)
        } else {
            stream.try_write_vectored(&[IoSlice::new(first), IoSlice::new(second)])
        };
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                ready!(stream.poll_write_ready(cx))?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            result => return Poll::Ready(result),
        }
    }
}

/// Writes `first`, then `second`, whole.
pub(crate) async fn write_all(
    stream: &TcpStream,
    mut first: &[u8],
    mut second: &[u8],
) -> io::Result<()> {
    while !first.is_empty() || !second.is_empty() {
        let n = poll_fn(|cx| poll_write_some(stream, first, second, cx)).await?;
        let of_first = n.min(first.len());
        first = &first[of_first..];
        second = &second[n - of_first..];
    }
    Ok(())
}
