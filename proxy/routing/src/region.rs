//! Choose region: filter (hard), rank (soft), spill. The vocabulary of the three rooms.

mod filter;
mod rank;
mod spill;
mod subjects;

use meridian_config::RegionIndex;

pub(crate) use filter::{Candidates, filter, may_try, passes, with_room};
pub(crate) use spill::{PANIC_BELOW, choose};
pub(crate) use subjects::Subjects;

use crate::decide::Filter;
use crate::labelled::labelled;
use crate::region_set::RegionSet;

/// The region that was chosen, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionChoice {
    /// Which.
    pub region: RegionIndex,
    /// Why.
    pub reason: RegionReason,
    /// Spread over all endpoints that are not drained, whatever their health.
    pub panic: bool,
}

labelled!(
    /// Why a region was chosen.
    RegionReason {
        /// A write goes to the primary.
        PrimaryForWrite = "primary-for-write",
        /// The route reads from the primary.
        PrimaryForRead = "primary-for-read",
        /// No replica was fresh enough.
        PrimaryNoneFresh = "primary-none-fresh",
        /// No replica is known to have what the session has seen.
        PrimaryForSession = "primary-for-session",
        /// Lowest round trip, or in its band.
        Nearest = "nearest",
        /// Lowest round trip among the fresh; a fresh replica.
        NearestFresh = "nearest-fresh",
        /// In the client's country.
        SameCountry = "same-country",
        /// On the client's continent.
        SameContinent = "same-continent",
        /// Least great-circle distance.
        LeastDistance = "least-distance",
        /// Nothing was known to order by: the configured order.
        ConfiguredOrder = "configured-order",
        /// Drawn by weight, or by the session's key.
        Weighted = "weighted",
        /// First by priority.
        Priority = "priority",
        /// Its turn.
        InTurn = "in-turn",
        /// Highest healthy fraction and success rate.
        Healthiest = "healthiest",
        /// A region that failed requests is tried again with one in a few; one of its ejected endpoints with this one.
        Trial = "trial",
        /// Regions ranked before it lack healthy endpoints for their whole share.
        Spill = "spill",
        /// Regions ranked before it are at capacity.
        CapacitySpill = "capacity-spill",
        /// Less than half of it is healthy and there is no room elsewhere.
        Panic = "panic",
        /// The attempts before it failed.
        Retry = "retry",
        /// The client's session is bound to an endpoint in it.
        Affinity = "affinity",
    }
);

/// Watches a decision being made; `explain` listens, live traffic does not.
pub trait Trace {
    /// Live traffic takes its turn in round robins and is told nothing. Whoever watches only looks: no turn is
    /// taken, and the whole ranking is told.
    const LIVE: bool = false;

    /// A filter was applied.
    fn filtered(&mut self, _filter: Filter, _before: RegionSet, _after: RegionSet) {}

    /// A band of equally good regions comes next in the ranking; it takes this share, 0 to 1, of the requests like
    /// this one. Bands come best first.
    fn ranked(&mut self, _band: RegionSet, _reason: RegionReason, _share: f64) {}
}

/// Nobody watches.
impl Trace for () {
    const LIVE: bool = true;
}
