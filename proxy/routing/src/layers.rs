//! What the routing table is merged from, beside the file: the operator's overrides and what is observed.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use meridian_config::{EndpointKey, RegionId, ServiceName};
use serde::{Deserialize, Serialize};

use crate::outlier::Ejection;
use crate::primacy::{PrimacyRecord, Role};
use crate::time::Micros;

/// The operator's layer, at most one per target and kind of change.
pub type Overrides = BTreeMap<OverrideKey, Override>;

/// What an override applies to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A region's id.
    Region(String),
    /// A service's name and an endpoint's address as the file writes it.
    Endpoint {
        /// The service.
        service: String,
        /// The address.
        address: String,
    },
}

/// Target and kind of change.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OverrideKey {
    /// What it applies to.
    pub target: Target,
    /// `drain` or `weight`.
    pub kind: ChangeKind,
}

/// The kinds of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// See [`Change::Drain`].
    Drain,
    /// See [`Change::Weight`].
    Weight,
}

/// What an override sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Takes no new requests (`true`), or does although the file drains it (`false`).
    Drain(bool),
    /// The weight instead of the file's, 0 to 65535.
    Weight(u32),
}

impl Change {
    /// Its kind.
    pub fn kind(self) -> ChangeKind {
        match self {
            Self::Drain(_) => ChangeKind::Drain,
            Self::Weight(_) => ChangeKind::Weight,
        }
    }
}

/// One decision of the operator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Override {
    /// What it sets.
    pub change: Change,
    /// What the file said when it was made; the override is dropped when that changes.
    pub file_value: Change,
    /// Who made it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// Unix time in milliseconds.
    pub created_unix_ms: u64,
    /// Unix time in milliseconds from which it is void; `None`: never.
    pub expires_unix_ms: Option<u64>,
    /// Of a drain: so long after it was made, sessions still go to the endpoints they are bound to, milliseconds; `None`:
    /// as long as the service says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_grace_ms: Option<u64>,
}

/// What the health checker and the resolver have seen.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// By endpoint; what is missing is unknown.
    pub endpoints: HashMap<EndpointKey, EndpointObserved>,
    /// Round trip in force for ranking, in microseconds, by region; measured values only.
    pub round_trips: HashMap<RegionId, u32>,
    /// Round trip as measured of late, in microseconds, by region; ranking does not look at it.
    pub smoothed: HashMap<RegionId, u32>,
    /// What is known of each service's primary; what is missing is as the file has it.
    pub primacy: HashMap<ServiceName, PrimacyRecord>,
    /// Since when the file drains what it drains, unix milliseconds, as far as this process knows.
    pub file_drains: BTreeMap<Target, u64>,
    /// The wall clock, unix milliseconds; only drains look at it.
    pub unix_ms: u64,
}

/// What was seen of one endpoint.
#[derive(Clone, Debug, Default)]
pub struct EndpointObserved {
    /// By active checks.
    pub health: EndpointHealth,
    /// By what traffic said.
    pub ejection: Option<Ejection>,
    /// When it last came back, from being unhealthy or ejected; slow start counts from here.
    pub recovered_at: Option<Micros>,
    /// What its name resolved to; empty for literal addresses.
    pub addresses: Arc<[SocketAddr]>,
    /// What it says that it is.
    pub said: Option<Said>,
    /// The epoch that it says and that cannot be one; `None`: there is no such thing.
    pub disbelieved: Option<u64>,
}

/// What an endpoint said last of its role and epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// What it is.
    pub role: Option<Role>,
    /// In which epoch; 0: it said none.
    pub epoch: u64,
}

/// An endpoint's health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointHealth {
    /// Never judged: takes traffic only when nothing healthy does.
    #[default]
    Unknown,
    /// Passed.
    Healthy,
    /// Failed.
    Unhealthy,
}
