//! Routes that do not do what they seem to be for: writes that residency never lets through, certificates that a broader
//! route does not ask for. All of it is odd, none of it wrong.

use super::consistency::{Parts, can_write, service_of};
use super::route::RouteRead;
use crate::model::{
    FailoverMode, HostPattern, PathPattern, RegionIndex, RegionRole, ReplicationSource, Route,
    Service,
};

pub(super) fn check(parts: &Parts<'_>) {
    for route in parts.routes {
        if let Some(service) = service_of(parts, route) {
            primary_may_serve(parts, route, service);
        }
        asks_for_certificates(parts, route);
    }
}

/// A client that residency binds is refused for ever where no region that may be the primary is allowed.
fn primary_may_serve(parts: &Parts<'_>, read: &RouteRead, service: &Service) {
    let Some(residency) = read.value.residency.as_ref().filter(|_| can_write(&read.value)) else {
        return;
    };
    // Elsewhere, others may follow.
    let fixed = service.failover.mode == FailoverMode::Follow
        && service.replication.source == ReplicationSource::None;
    let region = |index: RegionIndex| parts.regions.get(usize::from(index.0)).map(|r| &r.value);
    let is_primary = |index| region(index).is_some_and(|r| r.role == RegionRole::Primary);
    let mut places = service.endpoints.iter().map(|endpoint| endpoint.region);
    let Some(primary) = places.find(|index| is_primary(*index)).and_then(region) else { return };
    let allowed = |index: RegionIndex| residency.regions.contains(&index) && is_primary(index);
    if fixed && !service.endpoints.iter().any(|endpoint| allowed(endpoint.region)) {
        let message = format!(
            "clients that residency binds cannot write: the primary, {:?}, is not in its regions, and \
             nothing makes another region the primary of service \"{}\"; a route that only reads says \
             access = \"read\"",
            primary.id, service.name
        );
        read.notes.site.warning(parts.cx(), message);
    }
}

/// Who shows no certificate may come to the same service by another route.
fn asks_for_certificates(parts: &Parts<'_>, read: &RouteRead) {
    let route = &read.value;
    if route.client_certificate.is_none() || !read.notes.service_is_known {
        return;
    }
    let around = |other: &&RouteRead| {
        other.notes.service_is_known
            && other.value.client_certificate.is_none()
            && other.value.service == route.service
            && takes_in(&other.value, route)
    };
    if let Some(other) = parts.routes.iter().find(around) {
        let message = format!(
            "client_certificate keeps nobody out: who has none comes to the same paths of the same \
             service by route \"{}\"; ask for it there as well, or narrow that route",
            other.value.name
        );
        read.notes.site.warning(parts.cx(), message);
    }
}

/// Whether some request that `narrow` is for is one for `wide` as well, as far as host, method and path tell.
fn takes_in(wide: &Route, narrow: &Route) -> bool {
    let host = wide.hosts.is_empty()
        || narrow.hosts.iter().any(|host| wide.hosts.iter().any(|other| covers(other, host)));
    let methods = wide.methods.is_empty()
        || narrow.methods.is_empty()
        || narrow.methods.iter().any(|method| wide.methods.contains(method));
    let headers = wide.headers.iter().all(|header| narrow.headers.contains(header));
    let path = match (&wide.path, &narrow.path) {
        (PathPattern::Prefix(prefix), _) if prefix == "/" => true,
        (PathPattern::Prefix(prefix), PathPattern::Exact(path) | PathPattern::Prefix(path)) => {
            let cut = prefix.strip_suffix('/').unwrap_or(prefix);
            path.strip_prefix(cut).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        (PathPattern::Exact(one), PathPattern::Exact(other)) => one == other,
        (PathPattern::Regex(regex), PathPattern::Exact(path)) => regex.is_match(path),
        (PathPattern::Regex(one), PathPattern::Regex(other)) => one.as_str() == other.as_str(),
        _ => false,
    };
    host && methods && headers && path
}

fn covers(wide: &HostPattern, narrow: &HostPattern) -> bool {
    let below = |name: &str, suffix: &str| {
        name.strip_suffix(suffix).is_some_and(|start| start.ends_with('.'))
    };
    match (wide, narrow) {
        (HostPattern::Exact(one), HostPattern::Exact(other))
        | (HostPattern::Suffix(one), HostPattern::Suffix(other))
            if one == other =>
        {
            true
        }
        (HostPattern::Suffix(suffix), HostPattern::Exact(name) | HostPattern::Suffix(name)) => {
            below(name, suffix)
        }
        (HostPattern::Exact(_), _) => false,
    }
}
