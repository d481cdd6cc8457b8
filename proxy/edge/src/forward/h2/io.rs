//! A connection to an endpoint as the `h2` crate moves its bytes.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use crate::forward::dial::Blame;
use crate::tls::Client;
use crate::transport::Transport;

/// The bytes, and when the last ones came.
pub(super) struct Io {
    transport: Transport<Client>,
    /// Read under TLS and not taken yet, from `at` on.
    ahead: Vec<u8>,
    at: usize,
    heard: Rc<Heard>,
    /// Under TLS.
    blame: Option<Box<Blame>>,
}

/// What has come, as far as others want to know.
pub(super) struct Heard {
    /// When the last bytes came.
    pub(super) at: Cell<Instant>,
    /// Something has come, or the connection is over.
    pub(super) news: Notify,
}

impl Io {
    pub(super) fn new(
        transport: Transport<Client>,
        blame: Option<Box<Blame>>,
        heard: Rc<Heard>,
    ) -> Self {
        Self { transport, ahead: Vec::new(), at: 0, heard, blame }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { transport, ahead, at, heard, blame } = self.get_mut();
        if let Transport::Plain(stream) = transport {
            ready!(Pin::new(stream).poll_read(cx, buffer))?;
        } else {
            if *at == ahead.len() {
                ahead.clear();
                *at = 0;
                // TLS makes the room that it needs.
                ready!(transport.poll_read_into(ahead, cx)).inspect_err(|error| {
                    blame.iter().for_each(|blame| blame.note(error));
                })?;
            }
            let count = buffer.remaining().min(ahead.len() - *at);
            buffer.put_slice(&ahead[*at..*at + count]);
            *at += count;
            if *at == ahead.len() {
                *ahead = Vec::new();
                *at = 0;
            }
        }
        heard.at.set(Instant::now());
        heard.news.notify_one();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().transport.poll_write_some(bytes, &[], cx)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().transport.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let transport = &mut self.get_mut().transport;
        ready!(transport.poll_flush(cx))?;
        Poll::Ready(transport.shut_down())
    }
}
