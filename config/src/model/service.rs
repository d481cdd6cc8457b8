//! `[[regions]]` and `[[services]]`: where requests go and how an endpoint is chosen and watched.

use std::net::SocketAddr;
use std::time::Duration;

use meridian_geoip::{Coordinates, CountryCode};

use super::{Failover, RegionIndex, Replication};
use crate::ids::{EndpointAddress, RegionId, ServiceName};
use crate::upstream::ServiceTls;

/// `[[regions]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Region {
    /// Unique.
    pub id: RegionId,
    /// Where writes go.
    pub role: RegionRole,
    /// Where it is.
    pub coordinates: Option<Coordinates>,
    /// Its country.
    pub country: Option<CountryCode>,
    /// Share under policy weighted and inside a latency band; 0 to 65535, 0 takes no share while others have one.
    pub weight: u32,
    /// Policy priority: lower first.
    pub priority: u32,
    /// What `routes.capability` may ask for.
    pub capabilities: Vec<String>,
    /// Requests in flight from this edge.
    pub capacity: Option<u32>,
    /// Order of promotion, lower first; 0: only if an operator names it.
    pub failover_order: u32,
    /// Takes no new requests.
    pub drain: bool,
}

/// Whether a region takes writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionRole {
    /// Takes writes.
    Primary,
    /// Takes reads that may be as stale as its lag.
    Replica,
}

/// `[[services]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Unique.
    pub name: ServiceName,
    /// Order of regions.
    pub policy: Policy,
    /// Choice inside a region.
    pub balance: Balance,
    /// What is spoken to the endpoints.
    pub protocol: UpstreamProtocol,
    /// A PROXY header in front of every connection to the endpoints; `None`: there is none. Only with
    /// [`UpstreamProtocol::Http1`].
    pub send_proxy_protocol: Option<ProxyVersion>,
    /// The Host that endpoints see.
    pub host_header: HostHeader,
    /// `None`: connections to the endpoints are not encrypted.
    pub tls: Option<ServiceTls>,
    /// Active checks.
    pub health: Health,
    /// Passive checks.
    pub outlier: Outlier,
    /// What endpoints take at a time.
    pub overload: Overload,
    /// Deadlines towards endpoints.
    pub timeouts: Timeouts,
    /// What happens after a failed attempt.
    pub retry: Retry,
    /// Where lag comes from and how much is too much.
    pub replication: Replication,
    /// What happens when the region that takes writes changes.
    pub failover: Failover,
    /// So long after a drain, sessions that are bound to an endpoint still go there; 0: not at all.
    pub session_grace: Duration,
    /// At least one.
    pub endpoints: Vec<Endpoint>,
}

/// How regions are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Policy {
    /// Measured network round trip.
    Latency,
    /// The client's country, continent, distance.
    Geo,
    /// Random by weight.
    Weighted,
    /// Configured order.
    Priority,
    /// In turn.
    RoundRobin,
    /// Healthy fraction x success rate, then latency.
    Health,
}

impl Policy {
    /// As the file writes it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Geo => "geo",
            Self::Weighted => "weighted",
            Self::Priority => "priority",
            Self::RoundRobin => "round_robin",
            Self::Health => "health",
        }
    }
}

/// How an endpoint inside the region is chosen.
#[derive(Clone, Debug, PartialEq)]
pub enum Balance {
    /// Power of two choices on peak EWMA.
    P2cEwma,
    /// Power of two choices on requests in flight.
    LeastRequest,
    /// Smooth weighted.
    RoundRobin,
    /// Weighted.
    Random,
    /// By a key of the request.
    ConsistentHash(HashKey),
}

/// What a consistent hash is taken of.
#[derive(Clone, Debug, PartialEq)]
pub enum HashKey {
    /// The client's address.
    Client,
    /// The path without the query.
    Path,
    /// A header's value; name in lower case.
    Header(String),
    /// A cookie's value.
    Cookie(String),
}

/// What is spoken to endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1
    Http1,
    /// HTTP/2 under TLS
    H2,
    /// HTTP/2 without TLS, with prior knowledge
    H2c,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl ProxyVersion {
    /// As the file writes it.
    pub fn label(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// The Host that endpoints see.
#[derive(Clone, Debug, PartialEq)]
pub enum HostHeader {
    /// The client's.
    Preserve,
    /// The endpoint's configured address.
    Endpoint,
    /// This text.
    Literal(String),
}

/// `[services.health]`
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// What a probe is.
    pub kind: HealthKind,
    /// Between two probes of an endpoint.
    pub interval: Duration,
    /// The same while it is changing state.
    pub fast_interval: Duration,
    /// Fraction of the interval, 0 to 0.5.
    pub jitter: f64,
    /// `None`: clamp(2 srtt + 100 ms, 250 ms, 1 s).
    pub timeout: Option<Duration>,
    /// Failures in a row that make it unhealthy.
    pub fall: u32,
    /// Passes in a row that make it healthy.
    pub rise: u32,
}

/// What a probe is.
#[derive(Clone, Debug, PartialEq)]
pub enum HealthKind {
    /// GET, with an expected answer.
    Http {
        /// Path and query.
        path: String,
        /// Host header; empty: the endpoint's address.
        host: String,
        /// Inclusive ranges of passing status codes; never empty.
        expect_status: Vec<(u16, u16)>,
        /// Substring of the body; empty: any.
        expect_body: String,
    },
    /// The connection is accepted.
    Tcp,
    /// `grpc.health.v1.Health/Check` over cleartext HTTP/2 answers SERVING.
    Grpc,
    /// No probes: always healthy.
    None,
}

/// `[services.outlier]`: what traffic itself says about an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Outlier {
    /// Connection failures in a row that eject; 0: none do.
    pub connection_failures: u32,
    /// Answers with 500, 502, 503 or 504 in a row that eject; 0: none do.
    pub consecutive_5xx: u32,
    /// Ejected below this share of successes over 10 s with at least 20 requests, 0 to 1; 0: never.
    pub success_ratio: f64,
    /// The first ejection's length; the n-th in a row takes n times as long, at most 300 s.
    pub ejection: Duration,
    /// The share of a region's endpoints that may be ejected, 0 to 1; one always may.
    pub max_ejected: f64,
}

/// `[services.overload]`: what endpoints take at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Overload {
    /// Requests in flight at one endpoint from this edge; `None`: any number.
    pub max_requests: Option<u32>,
    /// Each endpoint's limit follows how long it takes to answer, up to `max_requests` or 1000.
    pub adaptive: bool,
    /// And not below this.
    pub adaptive_min: u32,
    /// Requests that may wait for room in one region, from this edge; 0: none.
    pub queue: u32,
    /// How long each may.
    pub queue_time: Duration,
}

impl Overload {
    /// Whether endpoints have a cap at all.
    pub fn is_on(&self) -> bool {
        self.max_requests.is_some() || self.adaptive
    }
}

/// `[services.timeouts]`
#[derive(Clone, Debug, PartialEq)]
pub struct Timeouts {
    /// `None`: clamp(3 srtt, 250 ms, 1 s).
    pub connect: Option<Duration>,
    /// From the request's last byte to the answer's first.
    pub first_byte: Duration,
    /// Between two reads or writes.
    pub idle: Duration,
    /// The whole request.
    pub request: Duration,
}

/// `[services.retry]`
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// Beyond the first.
    pub attempts: u32,
    /// Retries as a fraction of requests, 0 to 1.
    pub budget: f64,
    /// Upper-case method names.
    pub idempotent_methods: Vec<String>,
    /// Whether a request of another method may be repeated if it carries an `Idempotency-Key`.
    pub idempotency_key: bool,
    /// Bytes of a request body kept for a second attempt.
    pub buffer: usize,
}

/// `[[services.endpoints]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Where it stands.
    pub region: RegionIndex,
    /// Where it listens.
    pub address: EndpointAddress,
    /// Where it is asked for its replication, if not at its own address.
    pub status: Option<SocketAddr>,
    /// Share inside its region, 0 to 65535.
    pub weight: u32,
    /// Takes no new requests.
    pub drain: bool,
}
