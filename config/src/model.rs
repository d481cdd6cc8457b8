//! The resolved configuration. Types only; `resolve` builds them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use meridian_geoip::{Continent, Coordinates, CountryCode};

use crate::ids::{EndpointAddress, ListenerName, RegionId, RouteName, ServiceName};
use crate::record::{Alerts, History};

/// The most regions a configuration may have; sets of regions are 64-bit masks.
pub const MAX_REGIONS: usize = 64;

/// A whole configuration, resolved and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// This edge.
    pub edge: Edge,
    /// At least one. Static.
    pub listeners: Vec<Listener>,
    /// Limits on requests and connections.
    pub limits: Limits,
    /// How the process leaves.
    pub shutdown: Shutdown,
    /// The admin endpoint. Static.
    pub admin: Admin,
    /// Path of the geo database; `None`: the embedded one.
    pub geo_database: Option<PathBuf>,
    /// Where access lines go.
    pub access_log: AccessLog,
    /// What is kept of changes of state. Static.
    pub history: History,
    /// Who is told of them; `None`: nobody.
    pub alerts: Option<Alerts>,
    /// 1 to [`MAX_REGIONS`]; [`RegionIndex`] points into it.
    pub regions: Vec<Region>,
    /// [`ServiceIndex`] points into it.
    pub services: Vec<Arc<Service>>,
    /// In file order; [`RouteIndex`] points into it.
    pub routes: Vec<Arc<Route>>,
}

/// Position of a region in [`Config::regions`], below [`MAX_REGIONS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegionIndex(pub u8);

/// Position of a service in [`Config::services`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceIndex(pub u32);

/// Position of a route in [`Config::routes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteIndex(pub u32);

/// `[edge]`
#[derive(Clone, Debug, PartialEq)]
pub struct Edge {
    /// Names this edge in logs and headers.
    pub id: String,
    /// The region this edge stands in.
    pub region: Option<RegionIndex>,
    /// The edge's own, else those of its region.
    pub coordinates: Option<Coordinates>,
    /// Overrides, history, last accepted configuration. Static.
    pub state_dir: PathBuf,
    /// 0: one per core, see [`Edge::workers`]. Static.
    pub worker_threads: usize,
    /// Client connections at a time, over all listeners.
    pub max_connections: usize,
    /// Requests in flight at a time; `None`: any number.
    pub max_requests: Option<u32>,
    /// Bytes that the process may have; `None`: as many as its control group allows.
    pub memory: Option<u64>,
    /// Large response bodies go through the kernel without being copied, where client and endpoint speak cleartext
    /// HTTP/1.1.
    pub splice: bool,
    /// Where the keys of affinity cookies are; `None`: made once, kept in `state_dir`. The keys themselves are never
    /// part of a configuration.
    pub session_secret_file: Option<PathBuf>,
}

impl Edge {
    /// How many worker threads that makes on this machine now; at least 1.
    pub fn workers(&self) -> usize {
        match self.worker_threads {
            0 => std::thread::available_parallelism().map_or(1, |cores| cores.get()),
            threads => threads,
        }
    }
}

/// `[[listeners]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Unique.
    pub name: ListenerName,
    /// Unique.
    pub address: SocketAddr,
    /// HTTP/1.1 is served.
    pub http1: bool,
    /// HTTP/2 is served where the client asks for it by ALPN; only with `tls`.
    pub h2: bool,
    /// HTTP/2 with prior knowledge is served; never with `tls`.
    pub h2c: bool,
    /// Peers in these networks are believed in their forwarding headers.
    pub trusted_proxies: Vec<IpNet>,
    /// `None`: connections are not encrypted.
    pub tls: Option<ListenerTls>,
}

/// `[listeners.tls]`
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerTls {
    /// At least one; the first is for clients that name no host, or one that none of them is for. Not static.
    pub certificates: Vec<CertificateFiles>,
    /// Clients that speak only older versions are turned away.
    pub min_version: TlsVersion,
    /// Clients may resume a session by a ticket.
    pub session_tickets: bool,
}

/// Where a certificate and its key are. The key itself is never part of a configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct CertificateFiles {
    /// PEM: the certificate, then those that lead to its root; absolute.
    pub certificate: PathBuf,
    /// PEM: its private key, without a passphrase; absolute.
    pub private_key: PathBuf,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// RFC 5246
    Tls12,
    /// RFC 8446
    Tls13,
}

impl TlsVersion {
    /// As the file writes it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Bytes of a request head, request line included.
    pub header_bytes: usize,
    /// Header fields of a request.
    pub headers: usize,
    /// Bytes of the request line.
    pub request_line_bytes: usize,
    /// Bytes of a request body.
    pub body_bytes: u64,
    /// From the first byte of a head (or the accept) to its end.
    pub header_timeout: Duration,
    /// Idle time between two requests.
    pub keepalive_timeout: Duration,
    /// Then the connection is closed.
    pub requests_per_connection: u32,
    /// Concurrent streams of an HTTP/2 connection.
    pub h2_streams: u32,
    /// Connections at a time by client address, of IPv6 by its /64; those of trusted proxies do not count. `None`: any
    /// number.
    pub connections_per_client: Option<u32>,
    /// Requests in flight at a time by client address, of IPv6 by its /64; behind a trusted proxy by the address that
    /// it forwards. `None`: any number.
    pub requests_per_client: Option<u32>,
    /// Bytes a second that a client must send of a body of known length, and take of an answer, on average and while it
    /// is waited for; 0: any rate.
    pub min_rate: u64,
}

/// `[shutdown]`
#[derive(Clone, Debug, PartialEq)]
pub struct Shutdown {
    /// Not ready, still accepting.
    pub lame_duck: Duration,
    /// Then what is in flight may finish.
    pub grace: Duration,
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// Where it listens.
    pub address: AdminAddress,
    /// Empty: everyone who reaches the address is admin.
    pub tokens: Vec<AdminToken>,
}

/// Where the admin endpoint listens.
#[derive(Clone, Debug, PartialEq)]
pub enum AdminAddress {
    /// TCP.
    Tcp(SocketAddr),
    /// A unix socket's path.
    Unix(PathBuf),
}

impl std::fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A bearer token, read from its file at start.
#[derive(Clone, PartialEq)]
pub struct AdminToken {
    /// What its holder may do.
    pub role: AdminRole,
    /// Where the secret was read from; absolute.
    pub token_file: PathBuf,
    /// Visible ASCII, never empty. Never printed.
    pub secret: String,
}

impl std::fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AdminToken {{ role: {:?}, token_file: {:?} }}", self.role, self.token_file)
    }
}

/// What an admin client may do; each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AdminRole {
    /// GET and explain.
    Read,
    /// Drain, weight, reload.
    Operator,
    /// Everything.
    Admin,
}

/// `[access_log]`
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLog {
    /// Where lines go.
    pub output: LogOutput,
    /// How lines look.
    pub format: LogFormat,
}

/// Where access lines go.
#[derive(Clone, Debug, PartialEq)]
pub enum LogOutput {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// Appended to a file.
    File(PathBuf),
}

/// How access lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// The "combined" format of Apache httpd.
    Combined,
}

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
    /// The Host that endpoints see.
    pub host_header: HostHeader,
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

/// `[services.replication]`
#[derive(Clone, Debug, PartialEq)]
pub struct Replication {
    /// Where lag comes from.
    pub source: ReplicationSource,
    /// The port where endpoints are asked; `None`: their own. [`Endpoint::status`] goes before it.
    pub port: Option<u16>,
    /// Between two questions.
    pub interval: Duration,
    /// Warn from here.
    pub warn_lag: Duration,
    /// Not a candidate for reads from here.
    pub max_lag: Duration,
    /// Not a candidate for reads above this either, bytes behind the primary's position; `None`: any number.
    pub max_lag_bytes: Option<u64>,
    /// An older sample is no sample.
    pub sample_max_age: Duration,
    /// A read whose nearest replica is about to have what its session has seen waits so long for it; 0: not at all.
    pub session_wait: Duration,
}

/// Where lag comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum ReplicationSource {
    /// Nothing is known of lag; replicas count as fresh unless a route has a bound.
    None,
    /// `Meridian-Lag-Ms` on any response.
    Headers,
    /// A JSON status path, or its headers.
    Status {
        /// Path of the status page.
        path: String,
    },
    /// Patroni's REST interface.
    Patroni {
        /// Path of its status.
        path: String,
    },
    /// A page in Prometheus' text format.
    Prometheus {
        /// Path of the page.
        path: String,
        /// What is read there.
        metrics: ReplicationMetrics,
    },
}

impl ReplicationSource {
    /// As the file writes it.
    pub fn label(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Headers => "headers",
            Self::Status { .. } => "status",
            Self::Patroni { .. } => "patroni",
            Self::Prometheus { .. } => "prometheus",
        }
    }

    /// The path that endpoints are asked for.
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::None | Self::Headers => None,
            Self::Status { path } | Self::Patroni { path } | Self::Prometheus { path, .. } => {
                Some(path)
            }
        }
    }
}

/// Names of metrics; empty: not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicationMetrics {
    /// 1: a replica, 0: the primary.
    pub is_replica: String,
    /// Lag in seconds.
    pub lag_seconds: String,
    /// The epoch.
    pub epoch: String,
    /// The position, a whole number up to 2^53.
    pub position: String,
}

/// `[services.failover]`
#[derive(Clone, Debug, PartialEq)]
pub struct Failover {
    /// Who makes another region the primary.
    pub mode: FailoverMode,
    /// With [`FailoverMode::Hook`]: a program and its arguments, to which the candidate region is added; else empty.
    pub hook: Vec<String>,
    /// The primary is down for so long before the hook runs.
    pub hold: Duration,
    /// Who moves writes back once the region that had them before is well again.
    pub failback: Failback,
    /// What waits while there is no primary.
    pub write_park: WritePark,
}

/// Who makes another region the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailoverMode {
    /// The database; the edge follows the role and epoch that endpoints report.
    Follow,
    /// The operator.
    Manual,
    /// A program that the edge runs; what endpoints report is followed as well.
    Hook,
}

impl FailoverMode {
    /// As the file writes it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Follow => "follow",
            Self::Manual => "manual",
            Self::Hook => "hook",
        }
    }
}

/// Who moves writes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failback {
    /// The operator.
    Manual,
    /// The edge.
    Automatic,
}

impl Failback {
    /// As the file writes it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Automatic => "automatic",
        }
    }
}

/// Writes of one service that wait at this edge while it has no primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WritePark {
    /// How many; 0: none waits.
    pub requests: u32,
    /// Bytes of their bodies together.
    pub bytes: u64,
    /// How long each.
    pub time: Duration,
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

/// `[[routes]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Unique.
    pub name: RouteName,
    /// Empty: any host.
    pub hosts: Vec<HostPattern>,
    /// What the path must be.
    pub path: PathPattern,
    /// Upper case; empty: any.
    pub methods: Vec<String>,
    /// Exact values; names in lower case.
    pub headers: Vec<(String, String)>,
    /// As [`HeaderEdits::as_written`], for `headers`.
    pub headers_as_written: BTreeMap<String, String>,
    /// Who answers.
    pub service: ServiceIndex,
    /// Read or write.
    pub access: Access,
    /// The route's own, else the service's.
    pub policy: Policy,
    /// Only regions that have it.
    pub capability: Option<String>,
    /// gRPC methods that only read: `/package.Service/Method`, or a prefix that ends in `*`.
    pub grpc_reads: Vec<String>,
    /// POST bodies are GraphQL: those whose selected operation is a query are reads.
    pub graphql: bool,
    /// A read may be at most this stale.
    pub max_staleness: Option<Duration>,
    /// Session tokens are made and honoured: reads see what their session wrote and has seen.
    pub read_your_writes: bool,
    /// Bytes of a request body; at most `limits.body_bytes`.
    pub body_bytes: Option<u64>,
    /// Requests in flight at a time; `None`: any number.
    pub max_requests: Option<u32>,
    /// Where bound clients may be served.
    pub residency: Option<Residency>,
    /// Requests of a session go to the endpoint that answered the one before.
    pub affinity: Option<Affinity>,
    /// Taken off the front of the path.
    pub strip_prefix: String,
    /// Then put before it.
    pub rewrite_prefix: String,
    /// Edits of the request's headers.
    pub request_headers: HeaderEdits,
    /// Edits of the response's headers.
    pub response_headers: HeaderEdits,
    /// `Meridian-Served-By` on responses.
    pub expose_decision: bool,
    /// Reads that are late are sent to a second endpoint as well.
    pub hedge: Option<Hedge>,
}

/// When a read is sent twice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hedge {
    /// When it is late.
    pub after: HedgeAfter,
    /// The part of the route's requests that may be sent twice, 0 to 1.
    pub budget: f64,
}

/// When a read is late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HedgeAfter {
    /// After the time within which so many in a hundred are answered.
    Percentile(u8),
    /// After so long.
    Fixed(Duration),
}

impl HedgeAfter {
    /// The percentile as a part of 1.
    pub fn quantile(self) -> Option<f32> {
        match self {
            Self::Percentile(percent) => Some(f32::from(percent) / 100.0),
            Self::Fixed(_) => None,
        }
    }
}

/// `[routes.affinity]`: a signed cookie binds a session to an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Affinity {
    /// The cookie's name.
    pub cookie: String,
    /// From the last request on; a cookie that is older is no affinity.
    pub ttl: Duration,
    /// When the cookie is for https only.
    pub secure: CookieSecure,
    /// To which requests from other sites a browser adds it.
    pub same_site: SameSite,
}

/// When a cookie has the attribute `Secure`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CookieSecure {
    /// Where the client came by https.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl CookieSecure {
    /// As the file writes it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

/// A cookie's attribute `SameSite`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    /// Navigations only.
    Lax,
    /// None of them.
    Strict,
    /// All of them; browsers demand `Secure` then.
    None,
}

impl SameSite {
    /// As the file writes it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Lax => "lax",
            Self::Strict => "strict",
            Self::None => "none",
        }
    }
}

/// A host a route answers for; lower case, without port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// `api.example.com`
    Exact(String),
    /// `*.example.com`, kept as `example.com`: one or more labels stand before it.
    Suffix(String),
}

/// What a path must be.
#[derive(Clone, Debug)]
pub enum PathPattern {
    /// The whole path without the query.
    Exact(String),
    /// Whole segments at its start: `/api` matches `/api` and `/api/x`, not `/apix`.
    Prefix(String),
    /// Found anywhere unless anchored.
    Regex(regex::Regex),
}

impl PartialEq for PathPattern {
    /// Regular expressions are equal when their texts are.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) | (Self::Prefix(a), Self::Prefix(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

/// How requests of a route are classed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// By method, gRPC method list and GraphQL operation.
    Auto,
    /// Always reads.
    Read,
    /// Always writes.
    Write,
    /// Reads that go to the primary.
    ReadPrimary,
}

/// `routes.residency`
#[derive(Clone, Debug, PartialEq)]
pub struct Residency {
    /// Where bound clients may be served; a mask by [`RegionIndex`].
    pub regions: Vec<RegionIndex>,
    /// Whose clients are bound; empty: everybody's.
    pub subject: Vec<ResidencySubject>,
    /// 451, 403 or 503.
    pub refuse: u16,
}

/// Whose clients a residency rule binds. A client whose country is unknown is bound by every rule (fail closed).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResidencySubject {
    /// One country.
    Country(CountryCode),
    /// One continent, written `continent:EU` and the like.
    Continent(Continent),
    /// The member states of the European Union, written `EU`.
    EuropeanUnion,
}

/// Edits of a message's headers: first remove, then set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderEdits {
    /// Names in lower case.
    pub set: BTreeMap<String, String>,
    /// Names in lower case.
    pub remove: Vec<String>,
    /// The values of `set` that name environment variables, as the file writes them: printed in place of the
    /// value, so that a secret stays in the environment.
    pub as_written: BTreeMap<String, String>,
}
