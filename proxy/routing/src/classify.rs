//! Classify: read, write or read-from-primary, and how stale it may be.

use std::time::Duration;

use meridian_config::{Access, Route, RouteIndex};

use crate::graphql::is_query;
use crate::request::RequestFacts;
use crate::table::RoutingTable;

/// What a request may do to the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessClass {
    /// May be answered by any replica that is fresh enough.
    Read,
    /// Only the primary may answer.
    Write,
    /// A read that only the primary may answer.
    ReadPrimary,
}

impl AccessClass {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::ReadPrimary];

    /// As metrics and logs write it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::ReadPrimary => "read_primary",
        }
    }
}

/// Access and bound of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestClass {
    /// Read, write or read-from-primary.
    pub access: AccessClass,
    /// The tighter of the route's and the client's bound; `None`: only the service's `max_lag`.
    pub max_staleness: Option<Duration>,
}

/// First match wins: the route's rule, the gRPC method list, the GraphQL operation, the method.
pub(crate) fn classify(
    table: &RoutingTable,
    route: RouteIndex,
    facts: &RequestFacts<'_>,
) -> RequestClass {
    let rules = table.rules(route);
    let access = match rules.access {
        Access::Read => AccessClass::Read,
        Access::Write => AccessClass::Write,
        Access::ReadPrimary => AccessClass::ReadPrimary,
        Access::Auto => by_request(table, route, facts),
    };
    let max_staleness = match (rules.max_staleness, facts.max_staleness) {
        (Some(route), Some(client)) => Some(route.min(client)),
        (one, other) => one.or(other),
    };
    RequestClass { access, max_staleness }
}

fn by_request(table: &RoutingTable, route: RouteIndex, facts: &RequestFacts<'_>) -> AccessClass {
    match facts.method {
        "GET" | "HEAD" | "OPTIONS" => AccessClass::Read,
        "POST" if reads_by_content(table.route(route), facts) => AccessClass::Read,
        _ => AccessClass::Write,
    }
}

fn reads_by_content(route: &Route, facts: &RequestFacts<'_>) -> bool {
    route.grpc_reads.iter().any(|pattern| grpc_match(pattern, facts.path))
        || (route.graphql && facts.body.is_some_and(is_query))
}

/// `/package.Service/Method`, or a prefix that ends in `*`.
fn grpc_match(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => path == pattern,
    }
}
