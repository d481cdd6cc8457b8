//! Affinity: a request of a session goes to the endpoint that answered the one before, as long as that one is in service
//! and no filter is in the way.
//!
//! Who presents which endpoint, and whether that may be believed, is the edge's business: the facts name it.

use meridian_config::{EndpointKey, RegionIndex, ServiceName};

use crate::endpoint::{EndpointChoice, EndpointReason};
use crate::hashing::stable_hash;
use crate::labelled::labelled;
use crate::layers::EndpointHealth;
use crate::region::{RegionChoice, RegionReason, passes};
use crate::region_set::RegionSet;
use crate::routed::Routed;
use crate::session::has_caught_up;
use crate::table::{EndpointIndex, EndpointView, RoutingTable, ServiceView};

/// Names an endpoint wherever and whenever it is configured: the same in every table, process and edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndpointIdentity {
    /// Of the service's name.
    pub service: u32,
    /// Of service, region and address.
    pub endpoint: u64,
}

impl EndpointIdentity {
    /// Of an endpoint.
    pub fn of(key: &EndpointKey) -> Self {
        let address = key.address.to_string();
        let parts = [key.service.as_str(), key.region.as_str(), &address];
        Self {
            service: service_identity(&key.service),
            endpoint: stable_hash(parts.join("\0").as_bytes()),
        }
    }
}

pub(crate) fn service_identity(name: &ServiceName) -> u32 {
    stable_hash(name.as_str().as_bytes()) as u32
}

labelled!(
    /// What became of a request's affinity.
    AffinityOutcome {
        /// It went to the endpoint of its cookie.
        Kept = "kept",
        /// It had no cookie.
        Absent = "absent",
        /// What it had does not look like a cookie of ours.
        Malformed = "malformed",
        /// No key of this edge has signed it.
        Forged = "forged",
        /// It is older than the route allows, or from the future.
        Expired = "expired",
        /// It is another service's.
        Foreign = "foreign",
        /// Its endpoint is not configured any more.
        Gone = "gone",
        /// Its endpoint is not in service, or a filter was in the way.
        Yielded = "yielded",
    }
);

impl ServiceView {
    /// The endpoint of this identity.
    ///
    /// # Errors
    /// [`AffinityOutcome::Foreign`], [`AffinityOutcome::Gone`]
    pub fn find(&self, identity: EndpointIdentity) -> Result<EndpointIndex, AffinityOutcome> {
        if identity.service != self.identity {
            return Err(AffinityOutcome::Foreign);
        }
        let found = self.by_identity.binary_search_by_key(&identity.endpoint, |(known, _)| *known);
        found.map(|at| self.by_identity[at].1).map_err(|_| AffinityOutcome::Gone)
    }
}

impl EndpointView {
    /// Whether its sessions may go on here as far as the table tells. An endpoint that was not judged yet keeps them: it
    /// has them from before the restart or the reload that made it so.
    fn keeps_sessions(&self, table: &RoutingTable) -> bool {
        let drained = self.drain.value || table.drained.contains(self.region);
        self.health != EndpointHealth::Unhealthy
            && self.ejection.is_none()
            && (!drained || self.sessions_until_unix_ms.is_some())
            && !self.addresses.is_empty()
    }
}

/// The endpoint that this request is bound to, if it may go there.
pub(crate) fn bound(routed: &Routed<'_>) -> Option<EndpointIndex> {
    let identity = routed.facts.affinity?;
    let index = routed.service.find(identity).ok()?;
    let view = routed.service.endpoint(index);
    let in_service =
        view.keeps_sessions(routed.table) && view.load.passive().takes_requests(routed.facts.now);
    let passes = || !passes(routed, RegionSet::only(view.region)).is_empty();
    (in_service && passes() && has_caught_up(routed, view)).then_some(index)
}

/// The choice that follows.
pub(crate) fn choices(
    service: &ServiceView,
    endpoint: EndpointIndex,
) -> (RegionChoice, EndpointChoice) {
    let region: RegionIndex = service.endpoint(endpoint).region;
    (
        RegionChoice { region, reason: RegionReason::Affinity, panic: false },
        EndpointChoice { endpoint, reason: EndpointReason::Affinity },
    )
}
