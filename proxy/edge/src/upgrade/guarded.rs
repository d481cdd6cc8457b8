//! Looks at the heads of answers to an offer before pingora reads them: what the direct lane takes for broken is broken
//! here as well. pingora itself forgives some of it, such as a length beside a coding, which it drops.
//!
//! Promises: not a byte of a final head gets by before all of it was found well-formed; behind it everything does. Refuses
//! to know: bodies and tunnels.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pingora_core::protocols::l4::virt::{VirtualSockOpt, VirtualSocket};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http1::response::with_response;

/// A connection to an endpoint over which one offer goes.
#[derive(Debug)]
pub(super) struct Guarded<S> {
    stream: S,
    heads: Heads,
}

/// What was read of the answer while its final head was not there.
#[derive(Default)]
struct Heads {
    read: Vec<u8>,
    /// Of `read`, found well-formed.
    checked: usize,
    /// Of these, handed on.
    given: usize,
    /// The final head is among them.
    over: bool,
}

impl<S> Guarded<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, heads: Heads::default() }
    }
}

impl Heads {
    /// Takes in bytes of the answer.
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        // What was handed on need not stay: an endpoint may say for hours that it is still at work.
        self.read.drain(..self.given);
        self.checked -= self.given;
        self.given = 0;
        self.read.extend_from_slice(bytes);
        while !self.over && self.checked < self.read.len() {
            // Offers are made with GET.
            let looked = with_response(&self.read[self.checked..], false, |head| head.facts);
            match looked {
                Ok(Some(facts)) => {
                    self.checked += facts.len;
                    self.over = !facts.interim();
                }
                Ok(None) => return Ok(()),
                Err(bad) => return Err(io::Error::new(io::ErrorKind::InvalidData, bad.0)),
            }
        }
        if self.over {
            self.checked = self.read.len();
        }
        Ok(())
    }

    /// Hands on what was checked; whether that was anything.
    fn give(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let ready = &self.read[self.given..self.checked];
        let count = ready.len().min(buffer.remaining());
        buffer.put_slice(&ready[..count]);
        self.given += count;
        if self.given == self.read.len() {
            self.read = Vec::new();
            (self.given, self.checked) = (0, 0);
        }
        count > 0
    }
}

impl fmt::Debug for Heads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Heads({} of {} bytes, over: {})", self.checked, self.read.len(), self.over)
    }
}

impl<S> VirtualSocket for Guarded<S>
where
    S: AsyncRead + AsyncWrite + fmt::Debug + Send + Sync + Unpin,
{
    fn set_socket_option(&self, _: VirtualSockOpt) -> io::Result<()> {
        // They are set already.
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, heads } = &mut *self;
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if heads.give(buffer) {
                return Poll::Ready(Ok(()));
            }
            if heads.over {
                return Pin::new(stream).poll_read(cx, buffer);
            }
            let mut space = [0; 4096];
            let mut more = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut more))?;
            if more.filled().is_empty() {
                // Half a head is none: whoever reads sees the end.
                return Poll::Ready(Ok(()));
            }
            heads.take(more.filled())?;
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// What comes through of these pieces.
    async fn through(pieces: &[&[u8]]) -> io::Result<Vec<u8>> {
        let (mut endpoint, edge) = tokio::io::duplex(1 << 20);
        let mut guarded = Guarded::new(edge);
        for piece in pieces {
            endpoint.write_all(piece).await?;
        }
        drop(endpoint);
        let mut read = Vec::new();
        guarded.read_to_end(&mut read).await.map(|_| read)
    }

    #[tokio::test]
    async fn what_is_well_formed_comes_through_as_it_is() {
        for whole in [
            &b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n\x81\x05first HTTP/1.1 200\r\n\0"[..],
            b"HTTP/1.1 103 Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nnobody looks",
        ] {
            assert_eq!(through(&[whole]).await.expect("is whole"), whole);
            let bytes: Vec<_> = whole.chunks(1).collect();
            assert_eq!(through(&bytes).await.expect("is whole"), whole);
        }
    }

    #[test]
    fn what_was_handed_on_does_not_stay() {
        let interim = b"HTTP/1.1 103 Hints\r\nLink: a\r\n\r\n";
        let (mut heads, mut space) = (Heads::default(), [0; 4096]);
        // Always with the beginning of the next one, so that there is never nothing left.
        heads.take(&interim[..5]).expect("a beginning");
        for _ in 0..1000 {
            heads.take(&[&interim[5..], &interim[..5]].concat()).expect("well-formed");
            let mut buffer = ReadBuf::new(&mut space);
            assert!(heads.give(&mut buffer));
            assert_eq!(buffer.filled(), interim);
        }
        assert!(heads.read.capacity() < 4096, "{} bytes", heads.read.capacity());
    }

    #[tokio::test]
    async fn what_is_not_does_not() {
        for bad in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                [..],
            b"HTTP/1.1 101 OK\nUpgrade: x\n\n",
            b"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
            b"evil",
        ] {
            assert!(through(&[bad]).await.is_err(), "{}", bad.escape_ascii());
        }
        // A head without an end is none, however long.
        assert_eq!(through(&[b"HTTP/1.1 200 OK\r\nContent-Le"]).await.expect("an end"), b"");
        let long = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(200_000));
        assert!(through(&[long.as_bytes()]).await.is_err());
    }
}
