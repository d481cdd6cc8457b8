//! The history of regions and who is told of it.

use serde::{Deserialize, Serialize};

use super::HistoryEvent;

views! {
    /// How the history of regions stands.
    HistoryStatusView {
        /// Events that can be asked for.
        kept: usize,
        /// The number of the newest; 0: there was none.
        newest: u64,
        /// Events that are not in the file.
        not_written: u64,
        /// Why the last one is not.
        last_error: Option<String>,
    }

    /// How the webhook stands.
    AlertsStatusView {
        /// Scheme, host and port.
        webhook: String,
        /// Events that it took.
        delivered: u64,
        /// Events that it did not take in all their attempts.
        failed: u64,
        /// Events that found no room in the queue.
        dropped: u64,
        /// Events that are not sent yet.
        waiting: usize,
        /// Why the last attempt failed.
        last_error: Option<String>,
    }

    /// `GET /api/v1/history`
    HistoryView {
        /// By ascending number.
        events: Vec<HistoryEvent>,
        /// Whether the limit left some out: newer ones after `after`, else older ones.
        more: bool,
        /// The number of the oldest event that is kept; absent: there is none.
        oldest: Option<u64>,
        /// The number of the newest; 0: there was none.
        newest: u64,
        /// Events that are not in the file.
        not_written: u64,
    }
}
