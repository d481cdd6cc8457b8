//! The PROXY protocol: who a connection is really from, as the proxy in front of this edge says before anything else; and
//! the same for endpoints, of this edge.
//!
//! Promises: a header is taken as a whole or not at all, exactly its bytes are taken from the connection, and nothing
//! that the specification calls invalid passes. Refuses to know: whether the peer may send one.
//!
//! Source: <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>, versions 1 and 2.

mod introduction;
mod receive;
mod version1;
mod version2;

use std::fmt;
use std::net::SocketAddr;

pub(crate) use introduction::Introduction;
pub(crate) use receive::receive;

/// The longest header of version 2 that is taken, bytes. Addresses need 52; the rest is room for additions, such as a
/// client's certificate.
const LONGEST: usize = 4096;

/// What a header says of the connection behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The proxy relays it for this client.
    Client {
        client: SocketAddr,
        /// Where the client has connected to.
        reached: SocketAddr,
    },
    /// The proxy speaks for itself (its health checks), or does not know for whom it speaks.
    Unknown,
}

/// How far the bytes of a header go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// All of them belong to the header, and there are more to come.
    More,
    /// So many of them are the header.
    Whole(usize, Origin),
}

/// It is not a header, or not a good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(&'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

/// Reads what has come so far; it may go on behind the header.
fn read(bytes: &[u8]) -> Result<Progress, Malformed> {
    if version1::begins(bytes) {
        return version1::read(bytes);
    }
    if version2::begins(bytes) {
        return version2::read(bytes);
    }
    Err(Malformed("no PROXY header"))
}

/// Whether the shorter of two is the beginning of the longer one.
fn agree(one: &[u8], other: &[u8]) -> bool {
    one.iter().zip(other).all(|(a, b)| a == b)
}
