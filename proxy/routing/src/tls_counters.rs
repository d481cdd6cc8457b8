//! What became of a listener's TLS handshakes.

use std::sync::atomic::AtomicU64;

/// Counts since the process started.
#[derive(Debug, Default)]
pub struct TlsCounters {
    /// Whole ones.
    pub full: AtomicU64,
    /// Those that went on with a session of before.
    pub resumed: AtomicU64,
    /// The client broke off, offered nothing that suits, or showed a certificate that is not accepted.
    pub failed: AtomicU64,
    /// Not done within the deadline of a head.
    pub late: AtomicU64,
    /// A session was resumed whose client, by now, would not be let in: it has no certificate, or one that is not
    /// accepted any more.
    pub unproven: AtomicU64,
    /// Not begun: there were as many within a second as there may be.
    pub refused_rate: AtomicU64,
    /// The same: as many were under way.
    pub refused_concurrent: AtomicU64,
    /// The same: their client had begun as many within a second.
    pub refused_client_rate: AtomicU64,
    /// The same: their client had as many under way.
    pub refused_client_concurrent: AtomicU64,
}
