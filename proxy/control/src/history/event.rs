//! One change of state, as the file, the admin endpoint, the command line and webhooks have it.

use meridian_config::AlertClass;
use serde::{Deserialize, Serialize};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $label)] $variant,)* }

        impl $name {
            /// As it is written everywhere.
            pub fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }
        }
    };
}

words!(
    /// What has changed.
    ChangeKindWord {
        /// Whether a region takes a service's requests.
        State = "state",
        /// A region's weight.
        Weight = "weight",
        /// The region that takes a service's writes.
        Primary = "primary",
        /// A failover, failback or switchover has ended.
        Operation = "operation",
        /// Whether the configuration file is the one in force.
        Configuration = "configuration",
        /// Whether an authority issues a certificate.
        Certificate = "certificate",
    }
);

words!(
    /// How one service is in one region.
    RegionState {
        /// No endpoint there was judged yet.
        Unknown = "unknown",
        /// None is out.
        Healthy = "healthy",
        /// Some are out.
        Degraded = "degraded",
        /// All are out.
        Down = "down",
        /// The region, or every endpoint there, is drained.
        Drained = "drained",
        /// The service has no endpoints there.
        Absent = "absent",
    }
);

words!(
    /// What set a change off.
    Cause {
        /// Health checks.
        Health = "health",
        /// An operator, through the admin endpoint.
        Operator = "operator",
        /// An override whose time is over.
        Expiry = "expiry",
        /// A reload.
        Configuration = "configuration",
        /// What endpoints say of their role and epoch.
        Reported = "reported",
        /// What an authority answered.
        Authority = "authority",
    }
);

/// A change of state of a region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryEvent {
    /// Ascending; goes on after a restart as long as the file is there.
    pub seq: u64,
    /// When, unix milliseconds.
    pub unix_ms: u64,
    /// The edge that saw it.
    pub edge: String,
    /// What has changed.
    pub kind: ChangeKindWord,
    /// The service; absent: all.
    pub service: Option<String>,
    /// The region; absent: all.
    pub region: Option<String>,
    /// Before: a state, a weight, or the primary's region; empty: none.
    pub from: String,
    /// Now.
    pub to: String,
    /// What set it off.
    pub cause: Cause,
    /// What is known of that, in words.
    pub evidence: String,
    /// Who did it; `meridian` for what it does by itself.
    pub actor: String,
    /// How long it was as before, milliseconds; from the process's start on at most.
    pub lasted_ms: u64,
    /// Requests that it cost while it was as before.
    pub affected: Affected,
    /// The region whose turn it is instead, seen from this edge; absent: none, or the region goes on.
    pub moved_to: Option<String>,
    /// Of a failover, failback or switchover: how it went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationRecord>,
    /// The table generation in which it is in effect.
    pub generation: u64,
}

/// How a failover, failback or switchover went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationRecord {
    /// failover, failback or switchover.
    pub operation: String,
    /// done, failed or cancelled.
    pub state: String,
    /// From its beginning to its end, milliseconds.
    pub took_ms: u64,
    /// How long this edge let no write through, milliseconds; absent: it let them through.
    pub paused_ms: Option<u64>,
    /// Guards were overridden.
    pub forced: bool,
}

/// Requests of one service in one region, or of all in it, while a state lasted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affected {
    /// Answered by its endpoints, whatever the status.
    pub answered: u64,
    /// Attempts that failed there: 429, 5xx, no connection, a broken or late answer.
    pub failed: u64,
    /// Failed attempts that were followed by another one.
    pub retried: u64,
    /// Taken by other regions, because this one did not take them.
    pub spilled: u64,
    /// Refused, because neither this region nor another one could take them.
    pub refused: u64,
}

impl Affected {
    /// What has come since `then`; counters of something removed may be lower.
    pub(super) fn since(self, then: Self) -> Self {
        Self {
            answered: self.answered.saturating_sub(then.answered),
            failed: self.failed.saturating_sub(then.failed),
            retried: self.retried.saturating_sub(then.retried),
            spilled: self.spilled.saturating_sub(then.spilled),
            refused: self.refused.saturating_sub(then.refused),
        }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            answered: self.answered + other.answered,
            failed: self.failed + other.failed,
            retried: self.retried + other.retried,
            spilled: self.spilled + other.spilled,
            refused: self.refused + other.refused,
        }
    }
}

impl HistoryEvent {
    /// What an alert about it would be; `None`: nothing to alert anybody about, such as the first verdict after a start.
    pub fn class(&self) -> Option<AlertClass> {
        match self.kind {
            ChangeKindWord::Weight => Some(AlertClass::Weight),
            ChangeKindWord::Primary | ChangeKindWord::Operation => Some(AlertClass::Primary),
            ChangeKindWord::Configuration => Some(AlertClass::Configuration),
            ChangeKindWord::Certificate => Some(AlertClass::Certificate),
            ChangeKindWord::State => match (&*self.from, &*self.to) {
                ("absent", _) | (_, "absent") => Some(AlertClass::Configuration),
                (_, "down") => Some(AlertClass::Down),
                ("drained", _) | (_, "drained") => Some(AlertClass::Drain),
                (_, "degraded") => Some(AlertClass::Degraded),
                ("down" | "degraded", "healthy") => Some(AlertClass::Recovered),
                _ => None,
            },
        }
    }

    /// Whether requests that the region took before go elsewhere now.
    pub(super) fn is_failover(&self) -> bool {
        match self.kind {
            ChangeKindWord::State => {
                matches!(&*self.from, "healthy" | "degraded")
                    && matches!(&*self.to, "down" | "drained" | "absent")
            }
            ChangeKindWord::Primary => true,
            ChangeKindWord::Weight
            | ChangeKindWord::Configuration
            | ChangeKindWord::Operation
            | ChangeKindWord::Certificate => false,
        }
    }
}
