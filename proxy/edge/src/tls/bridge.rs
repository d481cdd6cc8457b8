//! Under TLS the pingora lane gets one end of a pair of sockets; here its bytes move between the other end and the client.

use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncWrite;
use tokio::net::UnixStream;

use crate::buffers::SIZE;
use crate::transport::Transport;

/// Drives `work`, which holds the far end of `near`, and the bytes between both ends until the far end is closed and
/// all it said has gone to the client; whether it has. What is left when `work` is over has so much time: `rest`.
pub(crate) async fn bridge(
    client: &mut Transport,
    near: &mut UnixStream,
    work: impl Future<Output = ()>,
    rest: Duration,
) -> bool {
    let mut work = pin!(work);
    let (mut patience, mut over, mut clean) = (None, false, true);
    let (mut up, mut down) = (Flow::default(), Flow::default());
    poll_fn(|cx| {
        if patience.is_none() && work.as_mut().poll(cx).is_ready() {
            patience = Some(Box::pin(tokio::time::sleep(rest)));
        }
        // A broken direction ends both: the far end sees that of its stream.
        if let Poll::Ready(Err(_)) = up.poll_up(client, near, cx) {
            up.ended = true;
            cut(near);
        }
        if !over && let Poll::Ready(result) = down.poll_down(near, client, cx) {
            over = true;
            if result.is_err() {
                clean = false;
                cut(near);
            }
        }
        let Some(patience) = &mut patience else { return Poll::Pending };
        if !over && patience.as_mut().poll(cx).is_ready() {
            (over, clean) = (true, false);
        }
        if over { Poll::Ready(clean) } else { Poll::Pending }
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
                ready!(near.poll_read_ready(cx))?;
                match near.try_read_buf(&mut self.bytes) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    result => self.ended = result? == 0,
                }
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
