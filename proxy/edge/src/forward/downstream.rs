//! What the forwarder needs of a client's side, whatever the protocol.

use tokio::net::TcpStream;

use crate::forward::canonical::ResponseEdits;
use crate::http1::response::ResponseHead;
use crate::request::Request;

/// The client went away, broke its body's framing, or let a deadline pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientGone {
    /// The connection ended or failed.
    Closed,
    /// The body is malformed: 400.
    Malformed(&'static str),
    /// The body is over the limit: 413.
    TooLarge,
    /// No progress in time: 408.
    TimedOut,
}

/// How much of the request's body there is to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upload {
    /// None.
    Nothing,
    /// So many bytes.
    Length(u64),
    /// Unknown: chunked.
    Chunked,
}

/// A piece of the request's body, encoded for the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyPiece {
    /// Something was appended; more may follow.
    More,
    /// The end was appended.
    End,
}

/// A 1xx head, copied out of the endpoint's bytes.
#[derive(Clone, Debug)]
pub(crate) struct InterimHead {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, Vec<u8>)>,
}

/// A client's side of one request.
pub(crate) trait Downstream {
    /// Calls `then` with the request; cheap enough for every attempt.
    fn request<R>(&self, then: impl FnOnce(&Request<'_>) -> R) -> R;

    /// What body is announced.
    fn upload(&self) -> Upload;

    /// Bytes of the request that this edge holds, or may come to hold while the body is not asked for.
    fn held(&self) -> usize;

    /// Appends the body as far as it was already read, encoded for the endpoint.
    fn ready_body(&mut self, out: &mut Vec<u8>) -> Result<BodyPiece, ClientGone>;

    /// Waits for more of the body and appends it encoded. May be dropped while waiting without losing anything.
    async fn read_body(&mut self, out: &mut Vec<u8>) -> Result<BodyPiece, ClientGone>;

    /// Ready when the client has gone, while nothing is expected of it. May be dropped while waiting.
    async fn gone(&self);

    /// Passes on a 1xx head.
    async fn interim(&mut self, head: &InterimHead) -> Result<(), ClientGone>;

    /// Begins the response; `edits` are applied. Buffered until [`flush`](Self::flush).
    fn begin(&mut self, head: &ResponseHead<'_, '_>, edits: &ResponseEdits<'_>);

    /// Passes on body bytes; may buffer.
    async fn body(&mut self, data: &[u8]) -> Result<(), ClientGone>;

    /// Sends what is buffered.
    async fn flush(&mut self) -> Result<(), ClientGone>;

    /// Ends the response in good order, with the fields of this trailer section.
    async fn finish(&mut self, trailers: &[u8]) -> Result<(), ClientGone>;

    /// The client's socket, if what is written to it now arrives as body bytes of the response and nothing else.
    fn raw(&self) -> Option<&TcpStream>;

    /// The response ends early: the client must see that.
    fn abort(&mut self);
}
