//! A request after route and classify: what the rooms for region and endpoint look at.

use meridian_config::{Balance, HashKey, RouteIndex};

use crate::classify::RequestClass;
use crate::hashing::stable_hash;
use crate::request::{Client, RequestFacts};
use crate::table::{EndpointIndex, RoutingTable, ServiceView};

/// One request on its route, against one table.
pub(crate) struct Routed<'a> {
    pub(crate) table: &'a RoutingTable,
    pub(crate) route: RouteIndex,
    pub(crate) service: &'a ServiceView,
    pub(crate) class: RequestClass,
    pub(crate) client: &'a Client,
    pub(crate) facts: &'a RequestFacts<'a>,
    /// Hash of the session's key where the service balances by one and the request carries it.
    pub(crate) session: Option<u64>,
    /// The endpoint that affinity leads to.
    pub(crate) bound: Option<EndpointIndex>,
    /// Whether round robins move on; `explain` only looks at whose turn it is.
    pub(crate) live: bool,
}

impl<'a> Routed<'a> {
    pub(crate) fn new(
        table: &'a RoutingTable,
        route: RouteIndex,
        class: RequestClass,
        client: &'a Client,
        facts: &'a RequestFacts<'a>,
        live: bool,
    ) -> Self {
        let service = table.service(table.rules(route).service);
        let session = match &service.settings.balance {
            Balance::ConsistentHash(key) => session_hash(key, client, facts),
            _ => None,
        };
        Self { table, route, service, class, client, facts, session, bound: None, live }
    }
}

/// `None` if the request lacks the header or cookie: it belongs to no session.
fn session_hash(key: &HashKey, client: &Client, facts: &RequestFacts<'_>) -> Option<u64> {
    match key {
        HashKey::Client => Some(match client.address.to_canonical() {
            std::net::IpAddr::V4(address) => stable_hash(&address.octets()),
            std::net::IpAddr::V6(address) => stable_hash(&address.octets()),
        }),
        HashKey::Path => Some(stable_hash(facts.path.as_bytes())),
        HashKey::Header(name) => facts.headers.header(name).map(|v| stable_hash(v.as_bytes())),
        HashKey::Cookie(name) => facts.headers.cookie(name).map(|v| stable_hash(v.as_bytes())),
    }
}
