//! What must hold between sections: enough of everything, one primary for writes, coordinates where distance
//! counts, addresses used once. And what is odd: things that nothing uses, routes that never match.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::time::Duration;

use super::edge::AdminRead;
use super::listener::ListenerRead;
use super::region::RegionRead;
use super::route::RouteRead;
use super::service::ServiceRead;
use crate::door::{CertificateMatch, ClientAuth};
use crate::model::{
    Access, AdminAddress, HostPattern, Limits, MAX_REGIONS, PathPattern, Policy, RegionIndex,
    RegionRole, ReplicationSource, Route, Service,
};
use crate::reader::{Context, Table};
use crate::values::{show_duration, show_size};

/// All that the checks look at.
pub(super) struct Parts<'p> {
    pub(super) root: &'p Table<'p>,
    pub(super) limits: &'p Limits,
    pub(super) listeners: &'p [ListenerRead],
    pub(super) admin: &'p AdminRead,
    pub(super) regions: &'p [RegionRead],
    pub(super) services: &'p [ServiceRead],
    pub(super) routes: &'p [RouteRead],
}

pub(super) fn check(parts: &Parts<'_>) {
    enough(parts);
    addresses(parts);
    primaries(parts);
    coordinates(parts);
    unused(parts);
    identical_routes(parts);
    certificates_are_asked_for(parts);
    for service in parts.services {
        samples_are_fresh(parts, service);
        lag_has_one_primary(parts, service);
    }
    for route in parts.routes {
        body_fits(parts, route);
        if let Some(service) = service_of(parts, route) {
            reachable(parts, route, service);
        }
    }
}

impl Parts<'_> {
    pub(super) fn cx(&self) -> &Context<'_> {
        self.root.cx
    }
}

/// The service of a route, unless it could not be resolved.
pub(super) fn service_of<'p>(parts: &Parts<'p>, route: &RouteRead) -> Option<&'p Service> {
    if !route.notes.service_is_known {
        return None;
    }
    Some(&parts.services.get(route.value.service.0 as usize)?.value)
}

fn enough(parts: &Parts<'_>) {
    for (key, count) in [
        ("listeners", parts.listeners.len()),
        ("regions", parts.regions.len()),
        ("services", parts.services.len()),
        ("routes", parts.routes.len()),
    ] {
        if count == 0 {
            let message = format!("at least one [[{key}]] is required");
            parts.root.site_of(key).error(parts.cx(), message);
        }
    }
    if let Some(region) = parts.regions.get(MAX_REGIONS) {
        let message = format!("there may be at most {MAX_REGIONS} regions");
        region.notes.site.error(parts.cx(), message);
    }
}

/// Addresses with port 0 never collide: the system chooses a port for each.
fn addresses(parts: &Parts<'_>) {
    let mut seen: HashMap<SocketAddr, &str> = HashMap::new();
    let listeners = parts.listeners.iter().map(|l| (l.value.address, &l.notes));
    let admin = match parts.admin.value.address {
        AdminAddress::Tcp(address) => Some((address, &parts.admin.notes)),
        AdminAddress::Unix(_) => None,
    };
    for (address, site) in listeners.chain(admin).filter(|(address, _)| address.port() != 0) {
        match seen.entry(address) {
            Entry::Vacant(entry) => {
                entry.insert(site.path());
            }
            Entry::Occupied(first) => {
                let message =
                    format!("duplicate address \"{address}\", already at {}", first.get());
                site.error(parts.cx(), message);
            }
        }
    }
}

/// Whether a request of the route can need the primary.
pub(super) fn can_write(route: &Route) -> bool {
    let reads = |method: &String| matches!(method.as_str(), "GET" | "HEAD" | "OPTIONS");
    match route.access {
        Access::Read => false,
        Access::Write | Access::ReadPrimary => true,
        Access::Auto => route.methods.is_empty() || !route.methods.iter().all(reads),
    }
}

fn primaries(parts: &Parts<'_>) {
    let mut writers = parts.routes.iter().filter(|route| can_write(&route.value));
    let Some(writer) = writers.next() else { return };
    if parts.regions.is_empty() || !parts.regions.iter().all(|region| region.notes.role_is_known) {
        return;
    }
    let is_primary = |region: &&RegionRead| region.value.role == RegionRole::Primary;
    let mut primaries = parts.regions.iter().filter(is_primary);
    let name = &writer.value.name;
    let Some(first) = primaries.next() else {
        let message = "can write, but no region has role = \"primary\"; a route that only reads \
                       says access = \"read\"";
        return writer.notes.site.error(parts.cx(), message);
    };
    for second in primaries {
        let message = format!(
            "a second primary after {:?}: route \"{name}\" can write and needs exactly one \
             (the default role is \"primary\")",
            first.value.id
        );
        second.notes.role_site.error(parts.cx(), message);
    }
}

fn body_fits(parts: &Parts<'_>, route: &RouteRead) {
    let most = parts.limits.body_bytes;
    if route.value.body_bytes.is_some_and(|bytes| bytes > most) {
        let message = format!("is above limits.body_bytes, {}", show_size(most));
        route.notes.body_bytes_site.error(parts.cx(), message);
    }
}

/// How often a replica's lag is learnt without traffic; `None`: never.
fn sample_interval(service: &Service) -> Option<Duration> {
    match service.replication.source {
        ReplicationSource::None => None,
        ReplicationSource::Headers => Some(service.health.interval),
        _ => Some(service.replication.interval),
    }
}

/// Samples that are too old before the next one comes would let a replica flap.
fn samples_are_fresh(parts: &Parts<'_>, read: &ServiceRead) {
    let Some(interval) = sample_interval(&read.value) else { return };
    let oldest = read.value.replication.sample_max_age;
    if interval >= oldest {
        let message = format!(
            "sample_max_age, {}, is not above the interval between two samples, {}",
            show_duration(oldest),
            show_duration(interval)
        );
        read.notes.replication_site.error(parts.cx(), message);
    }
}

/// Lag is that of a replica: a region that is primary by default only would count as fresh for ever.
fn lag_has_one_primary(parts: &Parts<'_>, read: &ServiceRead) {
    let bounded = |route: &RouteRead| {
        let service = service_of(parts, route);
        route.value.max_staleness.is_some() && service.is_some_and(|s| std::ptr::eq(s, &read.value))
    };
    let measured = read.value.replication.source != ReplicationSource::None;
    let writes = parts.routes.iter().any(|route| can_write(&route.value));
    if writes || !(measured || parts.routes.iter().any(bounded)) {
        // Where something can write, a second primary is an error already.
        return;
    }
    let used = |index: usize| read.value.endpoints.iter().any(|e| usize::from(e.region.0) == index);
    let mut primaries = parts.regions.iter().enumerate().filter(|(index, region)| {
        used(*index) && region.notes.role_is_known && region.value.role == RegionRole::Primary
    });
    if let (Some((_, first)), Some((_, second))) = (primaries.next(), primaries.next()) {
        let message = format!(
            "has two primaries, {:?} and {:?}, but lag or staleness counts for replicas only (the \
             default role is \"primary\")",
            first.value.id, second.value.id
        );
        read.notes.site.error(parts.cx(), message);
    }
}

/// Distance counts only where there is a choice of regions.
fn coordinates(parts: &Parts<'_>) {
    let mut demanded: HashMap<RegionIndex, String> = HashMap::new();
    let mut checked: HashMap<(u32, Policy), ()> = HashMap::new();
    for route in parts.routes {
        let (policy, index) = (route.value.policy, route.value.service);
        let word = match policy {
            Policy::Latency => "latency",
            Policy::Geo => "geo",
            _ => continue,
        };
        let Some(service) = service_of(parts, route) else { continue };
        if checked.insert((index.0, policy), ()).is_some() {
            continue;
        }
        let mut regions: Vec<_> = service.endpoints.iter().map(|e| e.region).collect();
        regions.sort_unstable();
        regions.dedup();
        if regions.len() < 2 {
            continue;
        }
        for region in regions {
            demanded.entry(region).or_insert_with(|| {
                format!("is required by policy \"{word}\" of service \"{}\"", service.name)
            });
        }
    }
    for (region, message) in demanded {
        match parts.regions.get(usize::from(region.0)) {
            Some(region) if region.value.coordinates.is_none() => {
                let site = &region.notes.coordinates_site;
                if !region.notes.has_coordinates {
                    site.error(parts.cx(), message);
                }
            }
            _ => {}
        }
    }
}

fn unused(parts: &Parts<'_>) {
    let mut used_services = vec![false; parts.services.len()];
    for route in parts.routes.iter().filter(|route| route.notes.service_is_known) {
        if let Some(used) = used_services.get_mut(route.value.service.0 as usize) {
            *used = true;
        }
    }
    for (index, service) in parts.services.iter().enumerate() {
        let bound = |route: &RouteRead| {
            route.value.affinity.is_some() && route.value.service.0 as usize == index
        };
        if !service.value.session_grace.is_zero() && !parts.routes.iter().any(bound) {
            let message = "session_grace has no effect while no route to this service has affinity";
            service.notes.site.warning(parts.cx(), message);
        }
    }
    for (service, _) in parts.services.iter().zip(&used_services).filter(|(_, used)| !**used) {
        let message = format!("no route uses service \"{}\"", service.value.name);
        service.notes.site.warning(parts.cx(), message);
    }
    let mut used_regions = vec![false; parts.regions.len()];
    for endpoint in parts.services.iter().flat_map(|service| &service.value.endpoints) {
        if let Some(used) = used_regions.get_mut(usize::from(endpoint.region.0)) {
            *used = true;
        }
    }
    for (region, _) in parts.regions.iter().zip(&used_regions).filter(|(_, used)| !**used) {
        let message = format!("region \"{}\" has no endpoint of any service", region.value.id);
        region.notes.site.warning(parts.cx(), message);
    }
}

/// A route for clients with certificates needs a listener that asks for them.
fn certificates_are_asked_for(parts: &Parts<'_>) {
    let asks = |listener: &ListenerRead| {
        listener.value.tls.as_ref().is_some_and(|tls| tls.client_auth != ClientAuth::Off)
    };
    if parts.listeners.iter().any(asks) {
        return;
    }
    for route in parts.routes.iter().filter(|route| route.value.client_certificate.is_some()) {
        let message = "no request can have a client_certificate: no listener has client_auth";
        route.notes.site.warning(parts.cx(), message);
    }
}

/// Two routes that match the same requests of the same host: the first one always wins.
fn identical_routes(parts: &Parts<'_>) {
    type Conditions<'r> = (
        Option<&'r HostPattern>,
        (u8, &'r str),
        Vec<&'r str>,
        &'r [(String, String)],
        Option<&'r CertificateMatch>,
    );
    let mut seen: HashMap<Conditions<'_>, &RouteRead> = HashMap::new();
    for read in parts.routes {
        let route = &read.value;
        let path = match &route.path {
            PathPattern::Exact(path) => (0, path.as_str()),
            PathPattern::Prefix(path) => (1, path.as_str()),
            PathPattern::Regex(regex) => (2, regex.as_str()),
        };
        let mut methods: Vec<_> = route.methods.iter().map(String::as_str).collect();
        methods.sort_unstable();
        methods.dedup();
        let hosts: Vec<_> = match route.hosts.as_slice() {
            [] => vec![None],
            hosts => hosts.iter().map(Some).collect(),
        };
        for host in hosts {
            let certificate = route.client_certificate.as_ref();
            match seen.entry((host, path, methods.clone(), &route.headers, certificate)) {
                Entry::Vacant(entry) => {
                    entry.insert(read);
                }
                Entry::Occupied(first) if !std::ptr::eq(*first.get(), read) => {
                    let message = format!(
                        "matches the same requests as route \"{}\", which comes first and wins",
                        first.get().value.name
                    );
                    read.notes.site.warning(parts.cx(), message);
                    break;
                }
                Entry::Occupied(_) => {}
            }
        }
    }
}

/// Warns of a route whose requests would be refused, or all go to the primary, whatever happens.
fn reachable(parts: &Parts<'_>, read: &RouteRead, service: &Service) {
    let (cx, site, route) = (parts.cx(), &read.notes.site, &read.value);
    let name = &service.name;
    let region = |index: RegionIndex| parts.regions.get(usize::from(index.0)).map(|r| &r.value);
    let anywhere = |test: &dyn Fn(RegionIndex) -> bool| {
        service.endpoints.iter().any(|endpoint| test(endpoint.region))
    };
    let is_primary = |index| region(index).is_some_and(|r| r.role == RegionRole::Primary);
    if can_write(route) && !anywhere(&is_primary) {
        let message = format!("can write, but service \"{name}\" has no endpoint in the primary");
        site.warning(cx, message);
    }
    if let Some(residency) = &route.residency
        && !anywhere(&|index| residency.regions.contains(&index))
    {
        let message = format!("service \"{name}\" has no endpoint in the regions of residency");
        site.warning(cx, message);
    }
    if let Some(wanted) = &route.capability {
        let has = |index| region(index).is_some_and(|r| r.capabilities.contains(wanted));
        if !anywhere(&has) {
            let known = parts.regions.iter().flat_map(|r| &r.value.capabilities);
            let suggestion = cx.suggest(wanted, known.map(String::as_str));
            site.warning(
                cx,
                format!("no region of service \"{name}\" has capability {wanted:?}{suggestion}"),
            );
        }
    }
    let Some(bound) = route.max_staleness.filter(|_| route.access != Access::Write) else { return };
    if service.replication.source == ReplicationSource::None {
        let message = format!(
            "max_staleness sends every read to the primary: service \"{name}\" says nothing of \
             its lag (replication.source = \"none\")"
        );
        site.warning(cx, message);
    } else if bound > service.replication.max_lag {
        let max_lag = show_duration(service.replication.max_lag);
        let message = format!("max_staleness is above max_lag of service \"{name}\", {max_lag}");
        site.warning(cx, message);
    }
    if let Some(interval) = sample_interval(service).filter(|interval| bound <= *interval) {
        let message = format!(
            "max_staleness is not above the interval between two samples of lag of service \
             \"{name}\", {}: replicas answer now and then only",
            show_duration(interval)
        );
        site.warning(cx, message);
    }
}
