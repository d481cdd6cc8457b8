//! Sessions: reads see what their session wrote, and never less than it has seen.
//!
//! Promises: with a token, a replica is a candidate only if its known position has reached the token's; of another epoch,
//! or where no position is known, the primary alone is. What a token says only grows within an epoch. Refuses to know:
//! signatures, cookies and clocks; the edge has looked at those.

mod floors;

use std::time::Duration;

use meridian_config::{RegionIndex, RouteIndex};

pub use floors::SessionFloors;

use crate::classify::{AccessClass, RequestClass};
use crate::decide::Decision;
use crate::labelled::labelled;
use crate::primacy::{Claim, PrimacyState};
use crate::region::{RegionReason, filter};
use crate::region_set::RegionSet;
use crate::request::{Client, RequestFacts};
use crate::routed::Routed;
use crate::table::{EndpointView, RoutingTable, ServiceView};
use crate::time::Micros;

/// The cookie of sessions where one service keeps them; where several do, each has one with its name behind it.
pub const SESSION_COOKIE: &str = "__meridian";
/// The least time for which a session reads from the primary after a write whose position nobody told.
const LEAST_HOLD: Duration = Duration::from_secs(2);
/// And the longest: a token lives no longer.
const LONGEST_HOLD: Duration = Duration::from_secs(300);

/// What a session has seen of a service's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionToken {
    /// The service, as [`EndpointIdentity`](crate::EndpointIdentity) names it.
    pub service: u32,
    /// A random number, the session's own.
    pub session: u64,
    /// The epoch in which it was seen; 0: nobody has said one.
    pub epoch: u64,
    /// How far the data was; `None`: no answer has told.
    pub position: Option<u64>,
    /// Until then, unix milliseconds, only the primary is sure to have it; 0: positions tell.
    pub primary_until_unix_ms: u64,
    /// When it was made, unix milliseconds.
    pub issued_unix_ms: u64,
}

/// What a read must find, as a valid token says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionNeed {
    /// The epoch of the position.
    pub epoch: u64,
    /// The least position.
    pub position: Option<u64>,
    /// No position tells: the primary.
    pub primary: bool,
    /// Since the token was made.
    pub age: Duration,
}

/// What an answer showed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// The epoch that the endpoint knows.
    pub epoch: Option<u64>,
    /// How far its data is.
    pub position: Option<u64>,
    /// How far it is behind.
    pub lag: Option<Duration>,
}

impl From<Claim> for Shown {
    fn from(claim: Claim) -> Self {
        Self { epoch: claim.epoch, position: claim.position, lag: claim.lag }
    }
}

labelled!(
    /// What was found of a token that a request carried.
    TokenFault {
        /// It does not look like one.
        Malformed = "malformed",
        /// No key of this edge has signed it.
        Forged = "forged",
        /// It is too old, or from the future: its position counts in its own epoch, else nothing of it.
        Expired = "expired",
        /// It is another service's.
        Foreign = "foreign",
        /// Its session has been given a later one by this edge, whose position counts.
        Replayed = "replayed",
        /// There are more of them than a client has any use for; the rest is not looked at.
        TooMany = "too-many",
    }
);

labelled!(
    /// Where a read with a token was sent, and whether the token had to do with it.
    SessionRead {
        /// A replica that has what the session has seen.
        Replica = "replica",
        /// The same, after having been waited for.
        Waited = "waited",
        /// The primary, as without a token.
        PrimaryAnyway = "primary-anyway",
        /// The primary, because no replica had it.
        Primary = "primary",
        /// The primary, because the token is of another epoch.
        OtherEpoch = "other-epoch",
        /// The primary, because no position was told.
        NoPosition = "no-position",
        /// Nowhere.
        Refused = "refused",
        /// Somewhere else once more: the answer showed less than the session has seen, or was staler than it may be.
        Refuted = "refuted",
    }
);

impl SessionToken {
    /// What this token makes a read need at `unix_ms`. Once it has expired its position still counts, which costs nothing,
    /// but only in its own epoch, which is compared with that of `service`.
    pub fn need(&self, service: &ServiceView, expired: bool, unix_ms: u64) -> Option<SessionNeed> {
        if expired && (self.epoch != service.primacy.epoch || self.position.is_none()) {
            return None;
        }
        let primary = !expired && self.primary_until_unix_ms > unix_ms;
        let of_epoch = self.epoch == service.primacy.epoch;
        if of_epoch && self.position.is_none() && !primary {
            return None;
        }
        let age = Duration::from_millis(unix_ms.saturating_sub(self.issued_unix_ms));
        Some(SessionNeed { epoch: self.epoch, position: self.position, primary, age })
    }

    /// As far as it still says something: of epochs that this edge has forgotten since, it does not.
    pub fn remembered(self, service: &ServiceView) -> Self {
        let primacy = &service.primacy;
        let of_before = self.issued_unix_ms <= primacy.forgotten_unix_ms;
        if of_before && self.epoch > primacy.epoch {
            // Of another epoch: the primary, which takes the session into its own.
            return Self { epoch: 0, position: None, ..self };
        }
        self
    }

    /// Both together: the later epoch, and in one epoch the higher position and the later time.
    pub fn with(self, other: Self) -> Self {
        use std::cmp::Ordering::{Equal, Greater, Less};
        match self.epoch.cmp(&other.epoch) {
            Greater => self,
            Less => other,
            Equal => Self {
                position: self.position.max(other.position),
                primary_until_unix_ms: self.primary_until_unix_ms.max(other.primary_until_unix_ms),
                issued_unix_ms: self.issued_unix_ms.max(other.issued_unix_ms),
                ..self
            },
        }
    }

    /// Whether the two say the same, whenever they were made.
    pub fn says_as(&self, other: &Self) -> bool {
        Self { issued_unix_ms: 0, ..*self } == Self { issued_unix_ms: 0, ..*other }
    }

    /// This token after an answer to `class`, at `unix_ms`. Writes raise it, or hold the session at the primary for `hold`
    /// where no position was told; reads raise it by what they showed. Only the primary of a later epoch takes a session
    /// into it.
    pub fn after(self, answered: &Answered, shown: Shown, hold: Duration, unix_ms: u64) -> Self {
        let epoch = shown.epoch.unwrap_or(answered.epoch);
        // As with known positions: one without an epoch counts only where nobody has an epoch.
        let position = shown.position.filter(|_| shown.epoch.unwrap_or(0) == epoch);
        let until = unix_ms + u64::try_from(hold.as_millis()).unwrap_or(u64::MAX / 2);
        let held_until = if position.is_none() { until } else { 0 };
        let wrote = answered.access == AccessClass::Write;
        if epoch > self.epoch && (wrote || answered.by_primary) {
            let primary_until_unix_ms = held_until;
            return Self { epoch, position, primary_until_unix_ms, ..self };
        }
        if epoch != self.epoch {
            return self;
        }
        let position = self.position.max(position);
        let until = if wrote { held_until } else { 0 };
        let primary_until_unix_ms = self.primary_until_unix_ms.max(until);
        Self { position, primary_until_unix_ms, ..self }
    }
}

/// What was answered, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Of the request.
    pub access: AccessClass,
    /// The one that answered was decided on as the primary.
    pub by_primary: bool,
    /// The epoch that the edge knows.
    pub epoch: u64,
}

impl Answered {
    /// By the region of a decision.
    pub fn of(service: &ServiceView, decision: &Decision) -> Self {
        Self {
            access: decision.class.access,
            by_primary: service.primary.contains(decision.region.region),
            epoch: service.primacy.epoch,
        }
    }
}

impl SessionNeed {
    /// Whether an answer shows less than the session has seen.
    pub fn is_refuted_by(&self, shown: Shown) -> bool {
        let epoch = shown.epoch.unwrap_or(self.epoch);
        let behind = |position: u64| {
            shown.epoch.unwrap_or(0) == self.epoch
                && self.position.is_some_and(|wanted| position < wanted)
        };
        epoch < self.epoch || shown.position.is_some_and(behind)
    }
}

impl SessionRead {
    /// Where a decision sends a read with this need; `waited`: it was decided again after a wait.
    pub fn of(
        service: &ServiceView,
        need: &SessionNeed,
        decision: Option<&Decision>,
        waited: bool,
    ) -> Self {
        let Some(decision) = decision else { return Self::Refused };
        let by_primary = service.primary.contains(decision.region.region);
        match decision.region.reason {
            _ if need.epoch != service.primacy.epoch => Self::OtherEpoch,
            _ if !by_primary && waited => Self::Waited,
            _ if !by_primary => Self::Replica,
            RegionReason::PrimaryForSession if need.primary => Self::NoPosition,
            RegionReason::PrimaryForSession => Self::Primary,
            _ => Self::PrimaryAnyway,
        }
    }
}

impl ServiceView {
    /// How far the endpoints of a region are known to be, all of them; `None`: of one of them nothing is known.
    pub fn position(&self, region: RegionIndex) -> Option<u64> {
        let mut all = self.endpoints.iter().filter(|endpoint| endpoint.region == region);
        let first = all.next()?.position.get()?;
        all.try_fold(first, |least, endpoint| Some(least.min(endpoint.position.get()?)))
    }

    /// How long a session reads from the primary after a write whose position nobody told: twice the largest lag that
    /// is known, 2 s at least.
    pub fn session_hold(&self, now: Micros) -> Duration {
        let replicas = self.present.without(self.primary);
        let lags = replicas.iter().filter_map(|region| self.pool(region)?.load.0.lag(now));
        let largest = lags.map(|(lag, _)| lag).max().unwrap_or_default();
        (2 * largest.min(LONGEST_HOLD)).clamp(LEAST_HOLD, LONGEST_HOLD)
    }
}

/// Those of the regions that have what the request's session has seen.
pub(crate) fn caught_up(routed: &Routed<'_>, of: RegionSet) -> RegionSet {
    let Some(need) = &routed.facts.session else { return of };
    if routed.class.access != AccessClass::Read {
        return of;
    }
    let service = routed.service;
    if need.primary || need.epoch != service.primacy.epoch {
        return of.and(service.primary);
    }
    let Some(position) = need.position else { return of };
    // In a contested epoch there are two histories, and a position says nothing.
    let comparable = service.primacy.state != PrimacyState::Contested;
    let replicas = of.without(service.primary).iter();
    let reached = replicas.filter(|region| comparable && service.reached(*region, position));
    reached.collect::<RegionSet>().or(of.and(service.primary))
}

/// Whether an endpoint has what the request's session has seen. Who is bound to one that is drained, or has no weight, may
/// go there although its region is not asked about it.
pub(crate) fn has_caught_up(routed: &Routed<'_>, endpoint: &EndpointView) -> bool {
    let Some(position) = routed.facts.session.and_then(|need| need.position) else { return true };
    routed.class.access != AccessClass::Read
        || routed.service.primary.contains(endpoint.region)
        || endpoint.position.get().is_some_and(|known| known >= position)
}

/// Regions that a read should rather wait for than go elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatchUp {
    /// Any of them will do.
    pub regions: RegionSet,
    /// What they lack.
    pub position: u64,
    /// So long at most.
    pub within: Duration,
}

impl CatchUp {
    /// Whether one of them has caught up.
    pub fn is_over(&self, service: &ServiceView) -> bool {
        self.regions.iter().any(|region| service.reached(region, self.position))
    }

    /// Says at the endpoints that lack it, as far as is known, that news is waited for.
    pub fn want_news(&self, service: &ServiceView) {
        let lacks = |known: Option<u64>| known.is_none_or(|known| known < self.position);
        for endpoint in &service.endpoints {
            if self.regions.contains(endpoint.region) && lacks(endpoint.position.get()) {
                endpoint.inquiry.want();
            }
        }
    }
}

/// Whether a read should wait before it is decided again: regions that rank first lack nothing but what the session has
/// seen, and by their lag they will have it in time. Pure, as the decision is.
pub fn catch_up(
    table: &RoutingTable,
    route: RouteIndex,
    class: RequestClass,
    client: &Client,
    facts: &RequestFacts<'_>,
) -> Option<CatchUp> {
    let need = facts.session.filter(|_| class.access == AccessClass::Read)?;
    let position = need.position.filter(|_| !need.primary)?;
    let without = RequestFacts { session: None, ..*facts };
    let routed = Routed::new(table, route, class, client, &without, false);
    let service = routed.service;
    let within = service.settings.replication.session_wait;
    if within.is_zero() || need.epoch != service.primacy.epoch {
        return None;
    }
    let candidates = filter(&routed, &mut Silent).ok()?.left;
    let (first, _) = routed.first_band(candidates);
    let has = |region| service.primary.contains(region) || service.reached(region, position);
    if first.iter().any(has) {
        return None;
    }
    let due = |region: &_| {
        let lag = service.pool(*region).and_then(|pool| pool.load.0.lag(facts.now));
        service.position(*region).is_some() && lag.is_some_and(|(lag, _)| lag <= need.age + within)
    };
    let regions: RegionSet = first.iter().filter(due).collect();
    (!regions.is_empty()).then_some(CatchUp { regions, position, within })
}

/// Watches without a word, so that nothing is counted.
struct Silent;

impl crate::region::Trace for Silent {}
