//! What the keeper is told and what it tells.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use meridian_config::{EndpointKey, ServiceName};
use meridian_routing::{
    Change, Claim, Desired, Ejection, EndpointHealth, Fault, Override, OverrideKey, PrimacyRecord,
    Role, Suspicion, Target,
};
use thiserror::Error;

use super::primacies::Primacies;
use crate::health::ProbeFingerprint;

/// Something that happened, or that somebody wants.
#[derive(Clone, Debug)]
pub enum Event {
    /// A configuration that the parser accepted.
    Reload {
        /// It, its routes compiled.
        desired: Desired,
        /// Who wants it.
        actor: String,
        /// Identifies its text.
        digest: String,
    },
    /// A probe's verdict.
    Probe(ProbeReport),
    /// What traffic has shown of an endpoint.
    Outlier {
        /// The endpoint.
        key: EndpointKey,
        /// What was found.
        finding: Finding,
    },
    /// What a host name resolves to now; never empty.
    Resolved {
        /// The name, without port.
        name: Arc<str>,
        /// Its addresses, best first.
        addresses: Arc<[IpAddr]>,
    },
    /// What an endpoint says of itself.
    Claim {
        /// The endpoint.
        key: EndpointKey,
        /// What it says.
        claim: Claim,
        /// In an answer to a question of our own (status page, probe), one at a time; not to a client's request.
        asked: bool,
    },
    /// What the process that this one took over from knew of primaries in the end.
    Inherit(Primacies),
    /// The operator names the primary of a service.
    Promote(PrimacyOrder),
    /// The operator has a service's epochs forgotten: they are learned anew.
    Forget(ForgetOrder),
    /// A move of a service's primary begins, or is taken back.
    Move(MoveOrder),
    /// The operator sets an override.
    Set(OverrideRequest),
    /// The operator takes one back.
    Clear {
        /// Which.
        key: OverrideKey,
        /// Who.
        actor: String,
    },
    /// Time has passed: send it about once a second, and when an override expires.
    Tick,
}

/// What the data path has found of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It reached a limit of failures in a row; the data path holds it back for a moment.
    Suspicion(Suspicion),
    /// The request on trial was answered well.
    TrialPassed,
    /// It was not.
    TrialFailed(Fault),
}

/// What a probe found.
#[derive(Clone, Debug)]
pub struct ProbeReport {
    /// The endpoint.
    pub key: EndpointKey,
    /// The settings it was probed with; a report with other settings than the present ones is dropped.
    pub fingerprint: ProbeFingerprint,
    /// Its health after this probe.
    pub health: EndpointHealth,
    /// Why the probe failed, if it did.
    pub cause: Option<Arc<str>>,
    /// The smoothed round trip, if there is one.
    pub round_trip: Option<Duration>,
}

/// An override that the operator asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct OverrideRequest {
    /// What it applies to.
    pub target: Target,
    /// What it sets.
    pub change: Change,
    /// Who asks.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// After this it is void; `None`: never.
    pub ttl: Option<Duration>,
    /// Of a drain: so long, sessions still go to the endpoints they are bound to; `None`: as long as the service says.
    pub session_grace: Option<Duration>,
}

/// A primary that the operator names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrimacyOrder {
    /// The service.
    pub service: String,
    /// The region.
    pub region: String,
    /// Its epoch, higher than any before; `None`: the one that the region itself claims, the contested one too, else
    /// the next.
    pub epoch: Option<u64>,
    /// Who asks.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// What is known of a service's epochs is to be forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForgetOrder {
    /// The service.
    pub service: String,
    /// Who asks.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// A move of a primary: while it is under way, nobody is the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveOrder {
    /// The service.
    pub service: String,
    /// It begins, if this still is the epoch in force; `None`: it is taken back.
    pub epoch: Option<u64>,
    /// failover, failback or switchover.
    pub what: &'static str,
    /// Who asks.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// What made a service's primary another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrimacyCause {
    /// An endpoint said so.
    Reported {
        /// The endpoint.
        key: EndpointKey,
        /// What it said that it is.
        role: Option<Role>,
        /// In which epoch.
        epoch: u64,
    },
    /// The file names another one.
    File,
    /// A move has begun, or was taken back.
    Move {
        /// failover, failback or switchover.
        what: &'static str,
        /// Who.
        actor: String,
        /// Why.
        reason: String,
    },
    /// The process before this one knew it.
    Inherited,
    /// The operator has had the epochs forgotten.
    Forgotten {
        /// Who.
        actor: String,
        /// Why.
        reason: String,
    },
    /// What endpoints said once the epochs were forgotten.
    Relearned {
        /// Who had them forgotten.
        actor: String,
        /// Why.
        reason: String,
    },
    /// The operator.
    Operator {
        /// Who.
        actor: String,
        /// Why.
        reason: String,
    },
}

/// Something the keeper did, for the log, the audit trail and those who follow events.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// A new configuration is in force.
    Reloaded {
        /// Who wanted it.
        actor: String,
        /// Identifies its text.
        digest: String,
    },
    /// An endpoint's health changed.
    Health {
        /// The endpoint.
        key: EndpointKey,
        /// Before.
        from: EndpointHealth,
        /// Now.
        to: EndpointHealth,
        /// What the last failure was.
        cause: Option<Arc<str>>,
    },
    /// An endpoint was ejected.
    Ejected {
        /// The endpoint.
        key: EndpointKey,
        /// Why, and for how long.
        ejection: Ejection,
    },
    /// An ejected endpoint's next request is its trial.
    TrialDue {
        /// The endpoint.
        key: EndpointKey,
    },
    /// An ejected endpoint's trial went well: it is back.
    Returned {
        /// The endpoint.
        key: EndpointKey,
        /// The ejection that is over.
        ejection: Ejection,
        /// How long it was out.
        after: Duration,
    },
    /// A name resolves to something else.
    Resolved {
        /// The name.
        name: Arc<str>,
        /// Its addresses.
        addresses: Arc<[IpAddr]>,
    },
    /// The round trips that ranking uses were replaced.
    RoundTrips,
    /// What is known of a service's primary changed.
    Primacy {
        /// The service.
        service: ServiceName,
        /// Before.
        from: PrimacyRecord,
        /// Now.
        to: PrimacyRecord,
        /// Why.
        cause: PrimacyCause,
    },
    /// An endpoint says an epoch that cannot be one.
    EpochDisbelieved {
        /// The endpoint.
        key: EndpointKey,
        /// What it says.
        epoch: u64,
        /// The highest that is known.
        known: u64,
    },
    /// An override is in force.
    OverrideSet {
        /// Which.
        key: OverrideKey,
        /// What it says.
        value: Override,
    },
    /// The operator took one back.
    OverrideCleared {
        /// Which.
        key: OverrideKey,
        /// Who.
        actor: String,
    },
    /// One has expired.
    OverrideExpired {
        /// Which.
        key: OverrideKey,
        /// What it said.
        value: Override,
    },
    /// One was dropped, because the file has changed beneath it.
    OverrideDropped {
        /// Which.
        key: OverrideKey,
        /// What it said.
        value: Override,
        /// Why.
        why: Dropped,
    },
}

/// Why an override was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// Its region or endpoint is not in the file any more.
    TargetGone,
    /// The file's value is not the one that it was made over.
    FileChanged,
}

impl Dropped {
    /// In words.
    pub fn label(self) -> &'static str {
        match self {
            Self::TargetGone => "its target is not in the configuration any more",
            Self::FileChanged => "the file's value has been changed since",
        }
    }
}

/// Why the keeper turned an event down; nothing has changed then.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Rejection {
    /// No such region.
    #[error("there is no region \"{0}\"")]
    UnknownRegion(String),
    /// No such service.
    #[error("there is no service \"{0}\"")]
    UnknownService(String),
    /// The service has no such endpoint.
    #[error("service \"{service}\" has no endpoint \"{address}\"")]
    UnknownEndpoint {
        /// The service.
        service: String,
        /// The address that was asked for.
        address: String,
    },
    /// The service has no endpoints in the region.
    #[error("service \"{service}\" has no endpoint in region \"{region}\"")]
    NoEndpoints {
        /// The service.
        service: String,
        /// The region.
        region: String,
    },
    /// What was forgotten is being learned anew.
    #[error("the epochs of service \"{0}\" are being learned anew: try again in a moment")]
    Relearning(String),
    /// A move cannot begin.
    #[error("{0}")]
    NotMoved(String),
    /// A promotion needs a higher epoch.
    #[error("epoch {said} is not higher than {known}, the highest known")]
    EpochNotHigher {
        /// What was asked for.
        said: u64,
        /// The highest known.
        known: u64,
    },
    /// No epoch is so high, or so far above the known one.
    #[error("{0} cannot be an epoch: it is too far above the known one")]
    Epoch(u64),
    /// Weights are 0 to 65535.
    #[error("{0} is not a weight: 0 to 65535")]
    Weight(u32),
    /// A reload would change what is fixed at start.
    #[error("only a restart changes {}", .0.join(", "))]
    Static(Vec<String>),
    /// The routes cannot be compiled.
    #[error("routes: {0}")]
    Routes(String),
}
