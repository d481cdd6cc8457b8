//! A client's bytes, plain or under TLS: what stands behind both is the same to whoever reads and writes them.

use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::socket;
use crate::tls::TlsStream;

/// A client's connection.
pub(crate) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

impl Transport {
    /// The socket beneath.
    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &stream.socket,
        }
    }

    /// Ready when the client has ended its side, or the connection broke: known from the reactor alone, whatever else
    /// there may be to read. (tokio counts the end of the reading side to this interest; urgent data, the rest of it, is
    /// not asked for.)
    pub(crate) async fn gone(&self) {
        // An error says the same.
        let _ = self.socket().ready(Interest::PRIORITY).await;
    }

    /// Ready when there may be something to read.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => stream.poll_read_ready(cx),
            Self::Tls(stream) => stream.poll_read_ready(cx),
        }
    }

    /// Appends to `buffer`, which must have room; 0 at the end of the connection.
    pub(crate) fn poll_read_into(
        &mut self,
        buffer: &mut Vec<u8>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => socket::poll_read_into(stream, buffer, cx),
            Self::Tls(stream) => stream.poll_read_into(buffer, cx),
        }
    }

    /// The same. May be dropped while waiting.
    pub(crate) async fn read_into(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read_into(buffer, cx)).await
    }

    /// Writes some bytes of `first`, then `second`. Under TLS the last of them may wait for
    /// [`poll_flush`](Self::poll_flush).
    pub(crate) fn poll_write_some(
        &mut self,
        first: &[u8],
        second: &[u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => socket::poll_write_some(stream, first, second, cx),
            Self::Tls(stream) => stream.poll_write_some(first, second, cx),
        }
    }

    /// Ready when the socket has taken everything that was written.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => stream.poll_flush(cx),
        }
    }

    /// Writes `first`, then `second`, whole.
    pub(crate) async fn write_all(
        &mut self,
        mut first: &[u8],
        mut second: &[u8],
    ) -> io::Result<()> {
        poll_fn(|cx| {
            while !first.is_empty() || !second.is_empty() {
                let count = ready!(self.poll_write_some(first, second, cx))?;
                let of_first = count.min(first.len());
                first = &first[of_first..];
                second = &second[count - of_first..];
            }
            self.poll_flush(cx)
        })
        .await
    }

    /// Ends this side in good order.
    ///
    /// # Errors
    /// The connection is gone already.
    pub(crate) fn shut_down(&mut self) -> io::Result<()> {
        if let Self::Tls(stream) = self {
            stream.say_goodbye();
        }
        SockRef::from(self.socket()).shutdown(Shutdown::Write)
    }
}
