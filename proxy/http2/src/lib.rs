//! The server's side of HTTP/2 (RFC 9113) and HPACK (RFC 7541) as a state machine: bytes in, bytes out.
//!
//! Promises: what a client may make it hold is bounded (streams, header blocks, bodies by their windows, answers by the
//! room to send); frames that bring nothing are counted and end the connection when there are too many. Heads are
//! decoded once into two strings, bodies are copied once, and what all streams have to say stands in one buffer for one
//! send. Refuses to know: sockets, clocks, and what requests mean. Of the runtime it knows wakers only.

mod error;
mod frame;
mod head;
mod hpack;
mod session;

pub use error::{ConnectionError, Reason};
pub use head::{Head, Verdict};
pub use hpack::HeadWriter;
pub use session::{Body, Gone, Limits, Opened, Session, Space, StreamKey};

/// What a client sends first (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
