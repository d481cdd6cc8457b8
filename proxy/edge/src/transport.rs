//! The bytes of a client or an endpoint, plain or under TLS: what stands behind both is the same to whoever reads and
//! writes them.

use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::socket;
use crate::tls::{Server, Session, TlsStream};

/// A client that has ended its side is taken to be there for so long.
const HALF_CLOSED: Duration = Duration::from_millis(500);

/// A client's connection, or one to an endpoint.
pub(crate) enum Transport<S = Server> {
    Plain(TcpStream),
    Tls(Box<TlsStream<S>>),
}

impl<S: Session> Transport<S> {
    /// The socket beneath.
    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &stream.socket,
        }
    }

    /// Ready when the connection broke, or half a second after the client has ended its side: one that has only shut down
    /// its side gets what comes until then. Known from the reactor alone, whatever else there may be to read. (tokio
    /// counts the end of the reading side to this interest; urgent data, the rest of it, is not asked for.)
    pub(crate) async fn gone(&self) {
        // Neither happens while there is nothing to read; that is known for less.
        if poll_fn(|cx| self.socket().poll_read_ready(cx)).await.is_err() {
            return;
        }
        // An error says the same.
        if self.socket().ready(Interest::PRIORITY).await.is_err() || self.is_broken() {
            return;
        }
        tokio::time::sleep(HALF_CLOSED).await;
    }

    /// Whether the reactor has heard that nothing can be sent any more.
    fn is_broken(&self) -> bool {
        let mut ready = std::pin::pin!(self.socket().ready(Interest::WRITABLE));
        match ready.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(ready)) => ready.is_write_closed(),
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        }
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
