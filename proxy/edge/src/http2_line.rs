//! Between the HTTP/2 codec and the socket: what one pass of the codec writes goes out in one send.
//!
//! The codec flushes after every frame of data; sixteen answers that are ready together would cost sixteen system
//! calls. Here a flush only notes the bytes, and whoever polls the codec sends them when its pass is over.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::buffers::Buffers;
use crate::transport::Transport;

/// Bytes gathered before they have to go out; a single write may exceed it.
const MOST: usize = 64 * 1024;

/// The codec's end.
pub(crate) struct Line(Rc<RefCell<Wire>>);

/// The end of whoever polls the codec.
pub(crate) struct LineHandle(Rc<RefCell<Wire>>);

struct Wire {
    stream: Transport,
    /// What was read before the codec took over, and how much of it the codec has.
    prefix: Vec<u8>,
    prefix_at: usize,
    /// What waits to be sent, and how much of it has been.
    out: Vec<u8>,
    out_at: usize,
    buffers: Rc<Buffers>,
}

impl Line {
    /// Both ends of a connection; `read` is what was read of it already.
    pub(crate) fn new(
        stream: Transport,
        read: Vec<u8>,
        buffers: &Rc<Buffers>,
    ) -> (Self, LineHandle) {
        let (out, buffers) = (Vec::new(), buffers.clone());
        let wire = Wire { stream, prefix: read, prefix_at: 0, out, out_at: 0, buffers };
        let wire = Rc::new(RefCell::new(wire));
        (Self(wire.clone()), LineHandle(wire))
    }
}

impl LineHandle {
    /// Polls the codec and sends what it wrote.
    pub(crate) async fn drive<F: Future>(&self, codec: F) -> F::Output {
        let mut codec = pin!(codec);
        poll_fn(|cx| {
            let polled = codec.as_mut().poll(cx);
            // A broken connection shows at the codec's next read or write.
            let _ = self.0.borrow_mut().poll_send(cx);
            polled
        })
        .await
    }
}

impl Wire {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.out_at < self.out.len() {
            let sent = ready!(self.stream.poll_write_some(&self.out[self.out_at..], &[], cx))?;
            self.out_at += sent;
        }
        self.out_at = 0;
        self.buffers.give(std::mem::take(&mut self.out));
        self.stream.poll_flush(cx)
    }

    /// Ready when there is room for another write.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.out.len() >= MOST {
            ready!(self.poll_send(cx))?;
        }
        if self.out.capacity() == 0 {
            self.out = self.buffers.take();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = &mut *self.0.borrow_mut();
        if wire.prefix_at < wire.prefix.len() {
            let n = buf.remaining().min(wire.prefix.len() - wire.prefix_at);
            buf.put_slice(&wire.prefix[wire.prefix_at..wire.prefix_at + n]);
            wire.prefix_at += n;
            if wire.prefix_at == wire.prefix.len() {
                wire.buffers.give(std::mem::take(&mut wire.prefix));
                wire.prefix_at = 0;
            }
            return Poll::Ready(Ok(()));
        }
        wire.stream.poll_read(buf, cx)
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wire = &mut *self.0.borrow_mut();
        ready!(wire.poll_room(cx))?;
        wire.out.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wire = &mut *self.0.borrow_mut();
        ready!(wire.poll_room(cx))?;
        slices.iter().for_each(|slice| wire.out.extend_from_slice(slice));
        Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing yet: see [`LineHandle::drive`].
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = &mut *self.0.borrow_mut();
        ready!(wire.poll_send(cx))?;
        Poll::Ready(wire.stream.shut_down())
    }
}
