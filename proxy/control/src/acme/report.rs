//! How the certificates of `[acme]` stand, for operators and metrics.

use std::sync::Arc;

use super::book::ChallengeCounts;

/// How all of them stand.
#[derive(Clone, Debug, Default)]
pub(crate) struct AcmeReport {
    /// In the order of the configuration.
    pub(crate) certificates: Vec<CertificateReport>,
    pub(crate) answered: Arc<ChallengeCounts>,
}

/// How one stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateReport {
    pub(crate) name: String,
    pub(crate) domains: Vec<String>,
    pub(crate) state: CertificateState,
    /// When the one in force expires, Unix seconds; `None`: there is none.
    pub(crate) not_after_unix_s: Option<i64>,
    /// When the next order begins, Unix milliseconds; `None`: one is under way.
    pub(crate) next_order_unix_ms: Option<u64>,
    /// Failures in a row.
    pub(crate) failures: u32,
    /// Of the last failure, until one was issued.
    pub(crate) last_error: Option<String>,
    /// Since the process's start.
    pub(crate) issued: u64,
    pub(crate) failed: u64,
}

/// What one word says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CertificateState {
    /// It is in force.
    Valid,
    /// It is not there yet.
    Awaited,
    /// An order is under way.
    Ordering,
    /// The last order has failed.
    Failing,
}

impl CertificateState {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Awaited => "awaited",
            Self::Ordering => "ordering",
            Self::Failing => "failing",
        }
    }
}
