//! Labels of the routing vocabulary in words that need no manual.

use meridian_routing::{Filter, RegionReason};

/// Why a region was chosen, as the end of "it goes there because ...".
pub(crate) fn because(reason: RegionReason) -> &'static str {
    match reason {
        RegionReason::PrimaryForWrite => "writes go to the primary",
        RegionReason::PrimaryForRead => "the route reads from the primary",
        RegionReason::PrimaryNoneFresh => "no replica that may serve it is fresh enough",
        RegionReason::PrimaryForSession => "no replica is known to have what the session has seen",
        RegionReason::Nearest => "it has the lowest round trip",
        RegionReason::NearestFresh => "it has the lowest round trip of the regions with fresh data",
        RegionReason::SameCountry => "it is in the client's country",
        RegionReason::SameContinent => "it is on the client's continent",
        RegionReason::LeastDistance => "it is the nearest on the map",
        RegionReason::ConfiguredOrder => "nothing is known to order by, so the file's order counts",
        RegionReason::Weighted => "it was drawn by weight",
        RegionReason::Priority => "it comes first by priority",
        RegionReason::InTurn => "it is its turn",
        RegionReason::Healthiest => "it is the healthiest",
        RegionReason::Trial => "it failed requests and is being tried again with a few",
        RegionReason::Spill => "the regions before it lack healthy endpoints",
        RegionReason::CapacitySpill => "the regions before it are at capacity",
        RegionReason::Panic => "too little is healthy anywhere, so everything is tried",
        RegionReason::Retry => "the attempts before it failed",
        RegionReason::Affinity => "the session is bound to an endpoint there",
    }
}

/// The same by its label; a label of another version is shown as it is.
pub(crate) fn because_label(label: &str) -> &str {
    let known = RegionReason::ALL.iter().find(|reason| reason.label() == label);
    known.map_or(label, |reason| because(*reason))
}

/// Why a region is not among the candidates, by the filter's label.
pub(crate) fn excluded_because(label: &str) -> &str {
    if label == "no-endpoints" {
        return "the service has no endpoints there";
    }
    let Some(filter) = Filter::ALL.iter().find(|filter| filter.label() == label) else {
        return label;
    };
    match filter {
        Filter::Malformed => "the request cannot be read",
        Filter::Https => "the request is sent to https",
        Filter::Route => "no route matches",
        Filter::Residency => "this client may not be served there (residency)",
        Filter::Capability => "it lacks the capability that the route needs",
        Filter::Role => "it is not the primary",
        Filter::PrimaryUnknown => "the primary is not known at the moment",
        Filter::PrimaryContested => "several regions claim to be the primary",
        Filter::PrimaryMoved => "it is not the primary any more",
        Filter::Drain => "it is drained",
        Filter::Health => "it is not healthy",
        Filter::Freshness => "its data is too old, or its lag is not known",
        Filter::Session => "it is not known to have what the session has seen",
        Filter::Capacity => "it is at capacity",
        Filter::ClientRequests => "its client has too many requests in flight",
        Filter::RouteRequests => "its route has too many requests in flight",
        Filter::EdgeRequests => "the edge has too many requests in flight",
        Filter::Memory => "the edge is short of memory",
        Filter::QueueFull => "too many requests wait for room at its endpoints",
        Filter::QueueTime => "its endpoints have had no room for too long",
        Filter::ParkFull => "too many requests wait for the primary",
        Filter::ParkTime => "there was no primary for too long",
    }
}

/// Why a request is refused, by the filter's label, as a sentence.
pub(crate) fn refused_because(label: &str) -> &str {
    let Some(filter) = Filter::ALL.iter().find(|filter| filter.label() == label) else {
        return label;
    };
    match filter {
        Filter::Malformed => "It cannot be read",
        Filter::Https => "It is sent to https",
        Filter::Route => "No route matches it",
        Filter::Residency => "This client may not be served in any region that is left (residency)",
        Filter::Capability => "No region that is left has the capability that the route needs",
        Filter::Role => "It needs the primary, and there is none",
        Filter::PrimaryUnknown => "It needs the primary, which is not known at the moment",
        Filter::PrimaryContested => "It needs the primary, which several regions claim to be",
        Filter::PrimaryMoved => "The primary has changed while it was being sent",
        Filter::Drain => "Every region that could serve it is drained",
        Filter::Health => "No region that could serve it is healthy",
        Filter::Freshness => "No replica is fresh enough, and the primary is not available",
        Filter::Session => {
            "No replica has what the session has seen, and the primary is not available"
        }
        Filter::Capacity => "Every region that could serve it is at capacity",
        Filter::ClientRequests => "Its client has too many requests in flight",
        Filter::RouteRequests => "Its route has too many requests in flight",
        Filter::EdgeRequests => "The edge has too many requests in flight",
        Filter::Memory => "The edge is short of memory",
        Filter::QueueFull => "Too many requests wait for room at the endpoints of its region",
        Filter::QueueTime => "The endpoints of its region had no room for too long",
        Filter::ParkFull => "Too many requests wait for the primary",
        Filter::ParkTime => "There was no primary for as long as it may wait",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_has_words() {
        for reason in RegionReason::ALL {
            assert!(because_label(reason.label()).contains(' '), "{}", reason.label());
        }
        for filter in Filter::ALL {
            assert!(excluded_because(filter.label()).contains(' '), "{}", filter.label());
            assert!(refused_because(filter.label()).contains(' '), "{}", filter.label());
        }
        assert_eq!(because_label("of-tomorrow"), "of-tomorrow");
    }
}
