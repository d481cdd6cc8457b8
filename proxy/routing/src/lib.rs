//! Pure routing decisions.
//!
//! Promises: [`decide`] takes one request through the rooms `route -> classify -> region -> endpoint` and says why;
//! [`build`] merges file, operator and observation into one [`RoutingTable`]; [`retry_verdict`] rules on further
//! attempts. Refuses to know: clocks, sockets, tasks, randomness of its own; time, dice and places are arguments.

mod adaptive;
mod affinity;
mod budget;
mod build;
mod certificate;
mod classify;
mod compression;
mod counters;
mod decide;
mod desired;
mod dice;
mod endpoint;
mod explain;
mod graphql;
mod hashing;
mod hedge;
mod invariants;
mod labelled;
mod latency;
mod layers;
mod line;
mod load;
mod outlier;
mod parking;
mod pick_set;
mod primacy;
mod region;
mod region_set;
mod request;
mod retry;
mod room;
mod route;
mod routed;
mod session;
mod setbacks;
mod table;
#[cfg(test)]
mod tests;
mod time;
mod tls_counters;

pub use adaptive::AdaptiveLimit;
pub use affinity::{AffinityOutcome, EndpointIdentity};
pub use build::build;
pub use certificate::CertificateNames;
pub use classify::{AccessClass, RequestClass};
pub use compression::{Compressed, CompressionCounters};
pub use counters::{
    BUCKETS, CodeClass, EdgeCounters, Handshake, Histogram, HotRegistry, RegionCells,
    RouteCounters, ServiceCounters,
};
pub use decide::{
    Decision, Filter, Refusal, after_refuted, decide, decide_as, decide_on, decide_traced,
    next_attempt,
};
pub use desired::Desired;
pub use dice::Dice;
pub use endpoint::{EndpointChoice, EndpointReason};
pub use explain::{Candidate, EjectedEndpoint, Explanation, explain};
pub use hedge::{HedgeOutcome, Hedges, UsualTime, late_after};
pub use latency::{LatencyOrder, RoundTrip, clearly_apart, estimated_round_trip};
pub use layers::{
    Change, ChangeKind, EndpointHealth, EndpointObserved, Observed, Override, OverrideKey,
    Overrides, Said, Target,
};
pub use line::{Line, Ticket};
pub use load::{EndpointLoad, Outcome, ServiceRegionLoad};
pub use outlier::{Ejection, EjectionCause, Fault, Suspicion};
pub use parking::{Park, ParkOutcome, Parked};
pub use primacy::{
    Claim, EndpointClaim, Following, Inquiry, KnownPosition, LastClaim, MAX_EPOCH, MAX_POSITION,
    Primacy, PrimacyRecord, PrimacySource, PrimacyState, Role, Term, TurnedAway, WriteGate,
    WriteGuard, believable_epoch, file_primary, follow, refile,
};
pub use region::{RegionChoice, RegionReason, Trace};
pub use region_set::RegionSet;
pub use request::{Client, HeaderLookup, RequestFacts, cookie_of};
pub use retry::{
    Attempt, Failure, GiveUp, RetryBudget, RetryReason, Verdict, repeatable, retry_verdict,
};
pub use room::{Room, room};
pub use route::RouteMatcher;
pub use session::{
    Answered, CatchUp, SESSION_COOKIE, SessionFloors, SessionNeed, SessionRead, SessionToken,
    Shown, TokenFault, catch_up,
};
pub use setbacks::Setbacks;
pub use table::{
    Effective, EndpointIndex, EndpointView, Pool, RegionView, RoutingTable, ServiceView, Source,
};
pub use time::Micros;
pub use tls_counters::TlsCounters;
