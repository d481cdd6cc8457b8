//! `[services.replication]`, `[services.failover]`, `[services.write_park]`: where the primary is and how it moves.

use std::time::Duration;

/// `[services.replication]`
#[derive(Clone, Debug, PartialEq)]
pub struct Replication {
    /// Where lag comes from.
    pub source: ReplicationSource,
    /// The port where endpoints are asked; `None`: their own. [`Endpoint::status`](super::Endpoint::status) goes before it.
    pub port: Option<u16>,
    /// Between two questions.
    pub interval: Duration,
    /// Warn from here.
    pub warn_lag: Duration,
    /// Not a candidate for reads from here.
    pub max_lag: Duration,
    /// Not a candidate for reads above this either, bytes behind the primary's position; `None`: any number.
    pub max_lag_bytes: Option<u64>,
    /// An older sample is no sample.
    pub sample_max_age: Duration,
    /// A read whose nearest replica is about to have what its session has seen waits so long for it; 0: not at all.
    pub session_wait: Duration,
}

/// Where lag comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum ReplicationSource {
    /// Nothing is known of lag; replicas count as fresh unless a route has a bound.
    None,
    /// `Meridian-Lag-Ms` on any response.
    Headers,
    /// A JSON status path, or its headers.
    Status {
        /// Path of the status page.
        path: String,
    },
    /// Patroni's REST interface.
    Patroni {
        /// Path of its status.
        path: String,
    },
    /// A page in Prometheus' text format.
    Prometheus {
        /// Path of the page.
        path: String,
        /// What is read there.
        metrics: ReplicationMetrics,
    },
}

impl ReplicationSource {
    /// As the file writes it.
    pub fn label(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Headers => "headers",
            Self::Status { .. } => "status",
            Self::Patroni { .. } => "patroni",
            Self::Prometheus { .. } => "prometheus",
        }
    }

    /// The path that endpoints are asked for.
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::None | Self::Headers => None,
            Self::Status { path } | Self::Patroni { path } | Self::Prometheus { path, .. } => {
                Some(path)
            }
        }
    }
}

/// Names of metrics; empty: not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicationMetrics {
    /// 1: a replica, 0: the primary.
    pub is_replica: String,
    /// Lag in seconds.
    pub lag_seconds: String,
    /// The epoch.
    pub epoch: String,
    /// The position, a whole number up to 2^53.
    pub position: String,
}

/// `[services.failover]`
#[derive(Clone, Debug, PartialEq)]
pub struct Failover {
    /// Who makes another region the primary.
    pub mode: FailoverMode,
    /// A program, absolute, and its arguments, to which the candidate region is added; empty: none.
    pub hook: Vec<String>,
    /// The hook may take so long.
    pub hook_timeout: Duration,
    /// The primary is down for so long before the hook runs.
    pub hold: Duration,
    /// The most that a region may be behind to be promoted.
    pub max_lag: Duration,
    /// Between two changes of the primary.
    pub cooldown: Duration,
    /// A failback asks that the region has been well for so long.
    pub failback_after: Duration,
    /// And that it is at most so far behind.
    pub failback_max_lag: Duration,
    /// Who moves writes back once the region that had them before is well again.
    pub failback: Failback,
    /// What waits while there is no primary.
    pub write_park: WritePark,
}

/// Who makes another region the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailoverMode {
    /// The database; the edge follows the role and epoch that endpoints report.
    Follow,
    /// The operator.
    Manual,
    /// A program that the edge runs; what endpoints report is followed as well.
    Hook,
}

impl FailoverMode {
    /// As the file writes it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Follow => "follow",
            Self::Manual => "manual",
            Self::Hook => "hook",
        }
    }
}

/// Who moves writes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failback {
    /// The operator.
    Manual,
    /// The edge.
    Automatic,
}

impl Failback {
    /// As the file writes it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Automatic => "automatic",
        }
    }
}

/// Writes of one service that wait at this edge while it has no primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WritePark {
    /// How many; 0: none waits.
    pub requests: u32,
    /// Bytes of their bodies together.
    pub bytes: u64,
    /// How long each.
    pub time: Duration,
}
