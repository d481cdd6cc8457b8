//! Whose order of cipher suites counts in a handshake.
//!
//! Promises: the edge's, so that a client which knows weaker ones first, for whatever reason, still gets the best that
//! both know; but that of a client whose first choice is ChaCha20-Poly1305, as those choose it that have no
//! instructions for AES. Refuses to know: which suites there are. All of them are good ones (RFC 9325, 4.2).

use std::sync::Arc;

use rustls::{CipherSuite, ServerConfig};

/// A record's type: handshake (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;
/// A handshake message's type (RFC 8446, 4).
const CLIENT_HELLO: u8 = 1;
/// What stands before the message in a record, then before the session id in the message, bytes.
const RECORD_HEAD: usize = 5;
const BEFORE_SESSION: usize = 4 + 2 + 32;

/// The same settings twice.
#[derive(Clone)]
pub(crate) struct Orders {
    /// Suites are tried in the edge's order.
    edge: Arc<ServerConfig>,
    /// In the client's.
    client: Arc<ServerConfig>,
}

impl Orders {
    pub(super) fn new(mut config: ServerConfig) -> Self {
        config.ignore_client_order = false;
        let client = Arc::new(config.clone());
        config.ignore_client_order = true;
        Self { edge: Arc::new(config), client }
    }

    /// For a client that has sent this so far. What is not there yet is not waited for.
    pub(crate) fn of(&self, sent: &[u8]) -> Arc<ServerConfig> {
        let known = &self.edge.crypto_provider().cipher_suites;
        let known = |suite: &CipherSuite| known.iter().any(|each| each.suite() == *suite);
        let first = suites(sent).find(known);
        if first.is_some_and(is_chacha20) { self.client.clone() } else { self.edge.clone() }
    }

    /// With the edge's order.
    #[cfg(test)]
    pub(super) fn edge(&self) -> Arc<ServerConfig> {
        self.edge.clone()
    }
}

fn is_chacha20(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
    )
}

/// The suites of a ClientHello in its order, as far as they stand in its first record; none of anything else.
fn suites(record: &[u8]) -> impl Iterator<Item = CipherSuite> {
    let pairs = listed(record).unwrap_or_default().chunks_exact(2);
    pairs.map(|pair| CipherSuite::from(u16::from_be_bytes([pair[0], pair[1]])))
}

fn listed(record: &[u8]) -> Option<&[u8]> {
    let hello = record.get(RECORD_HEAD..)?;
    if record[0] != HANDSHAKE || *hello.first()? != CLIENT_HELLO {
        return None;
    }
    let (session, rest) = hello.get(BEFORE_SESSION..)?.split_first()?;
    let (length, rest) = rest.get(usize::from(*session)..)?.split_first_chunk::<2>()?;
    Some(&rest[..rest.len().min(usize::from(u16::from_be_bytes(*length)))])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(session: u8, suites: &[u16]) -> Vec<u8> {
        let mut bytes = vec![HANDSHAKE, 3, 1, 0, 0, CLIENT_HELLO, 0, 0, 0, 3, 3];
        bytes.extend([7; 32]);
        bytes.push(session);
        bytes.resize(bytes.len() + usize::from(session), 9);
        bytes.extend((2 * suites.len() as u16).to_be_bytes());
        bytes.extend(suites.iter().flat_map(|suite| suite.to_be_bytes()));
        bytes.extend([1, 0, 0, 0]);
        bytes
    }

    #[test]
    fn suites_are_read_as_far_as_they_have_come() {
        for session in [0, 32] {
            let whole = hello(session, &[0x2a2a, 0x1303, 0x1301]);
            let read: Vec<_> = suites(&whole).map(u16::from).collect();
            assert_eq!(read, [0x2a2a, 0x1303, 0x1301]);
            for length in 0..whole.len() {
                let some: Vec<_> = suites(&whole[..length]).map(u16::from).collect();
                assert!(read.starts_with(&some), "{length}: {some:?}");
            }
        }
    }

    #[test]
    fn other_bytes_hold_none() {
        let mut other = hello(32, &[0x1303]);
        other[0] = 23;
        assert_eq!(suites(&other).count(), 0);
        other[0] = HANDSHAKE;
        other[5] = 2;
        assert_eq!(suites(&other).count(), 0);
        assert_eq!(suites(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").count(), 0);
        assert_eq!(suites(&[HANDSHAKE; 200]).count(), 0);
    }
}
