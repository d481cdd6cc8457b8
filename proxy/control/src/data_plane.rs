//! What the data plane counts and the exporter reads.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use meridian_config::ListenerName;
use meridian_routing::EdgeCounters;

/// Counters that the data plane owns; handed over once, at start.
#[derive(Clone, Debug, Default)]
pub struct DataPlane {
    /// Open connections, by listener.
    pub listeners: Vec<(ListenerName, Arc<EdgeCounters>)>,
    /// Access-log lines that were dropped because their writer could not keep up.
    pub log_drops: Arc<AtomicU64>,
    /// How many connections of clients the limit of open files leaves room for; 0: not known yet.
    pub room: Arc<AtomicU64>,
}
