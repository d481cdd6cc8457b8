//! Under TLS the pingora lane gets one end of a pair of sockets; here its bytes move between the other end and the client.

use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

use crate::buffers::SIZE;
use crate::transport::Transport;

/// Drives `work`, which holds the far end of `near`, and the bytes between both ends until the far end is closed and
/// all it said has gone to the client.
pub(crate) async fn bridge<F: Future>(
    client: &mut Transport,
    near: &mut UnixStream,
    work: F,
) -> F::Output {
    let mut work = pin!(work);
    let (mut done, mut over) = (None, false);
    let (mut up, mut down) = (Flow::default(), Flow::default());
    poll_fn(|cx| {
        if done.is_none()
            && let Poll::Ready(output) = work.as_mut().poll(cx)
        {
            done = Some(output);
        }
        // A broken direction ends both: the far end sees that of its stream.
        if let Poll::Ready(Err(_)) = up.poll_up(client, near, cx) {
            up.ended = true;
            cut(near);
        }
        if !over && let Poll::Ready(result) = down.poll_down(near, client, cx) {
            over = true;
            if result.is_err() {
                cut(near);
            }
        }
        match done.take() {
            Some(output) if over => Poll::Ready(output),
            output => {
                done = output;
                Poll::Pending
            }
        }
    })
    .await
}

fn cut(near: &UnixStream) {
    // It may have ended already.
    let _ = SockRef::from(near).shutdown(Shutdown::Both);
}

/// One direction: what was read and is not written yet.
#[derive(Default)]
struct Flow {
    bytes: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Flow {
    /// From the client to the near end.
    fn poll_up(
        &mut self,
        client: &mut Transport,
        near: &mut UnixStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.ended {
            if self.at == self.bytes.len() {
                self.reset();
                if ready!(client.poll_read_into(&mut self.bytes, cx))? == 0 {
                    self.ended = true;
                    return Pin::new(near).poll_shutdown(cx);
                }
            }
            let unwritten = &self.bytes[self.at..];
            self.at += ready!(Pin::new(&mut *near).poll_write(cx, unwritten))?;
        }
        Poll::Ready(Ok(()))
    }

    /// From the near end to the client; ready when the far end is closed and everything was sent.
    fn poll_down(
        &mut self,
        near: &mut UnixStream,
        client: &mut Transport,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.at == self.bytes.len() {
                ready!(client.poll_flush(cx))?;
                if self.ended {
                    return Poll::Ready(Ok(()));
                }
                self.reset();
                let mut space = [0; SIZE];
                let mut space = ReadBuf::new(&mut space);
                ready!(Pin::new(&mut *near).poll_read(cx, &mut space))?;
                self.ended = space.filled().is_empty();
                self.bytes.extend_from_slice(space.filled());
                continue;
            }
            self.at += ready!(client.poll_write_some(&self.bytes[self.at..], &[], cx))?;
        }
    }

    fn reset(&mut self) {
        self.bytes.clear();
        self.at = 0;
        if self.bytes.capacity() == 0 {
            self.bytes.reserve_exact(SIZE);
        }
    }
}
