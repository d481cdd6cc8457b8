//! What the process is and where it listens: `[edge]`, `[[listeners]]`, `[limits]`, `[shutdown]`, `[admin]`, `[access_log]`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use meridian_geoip::Coordinates;

use super::RegionIndex;
use crate::door::{ClientAuth, Handshakes, Hsts, Redirect};
use crate::ids::ListenerName;

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
    /// Bytes that compressors may hold at a time; answers beyond that are passed on as they are.
    pub compress_memory: u64,
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
    /// Connections begin with a PROXY header; only from `trusted_proxies`.
    pub proxy_protocol: bool,
    /// Peers in these networks are believed in their forwarding headers.
    pub trusted_proxies: Vec<IpNet>,
    /// Requests are sent to https; never with `tls`.
    pub redirect_https: Option<Redirect>,
    /// What answers say of https, where their route says nothing else; only with `tls`.
    pub hsts: Option<Hsts>,
    /// `None`: connections are not encrypted.
    pub tls: Option<ListenerTls>,
}

/// `[listeners.tls]`
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerTls {
    /// At least one unless `acme`; the first is for clients that name no host, or one that none of them is for. Not static.
    pub certificates: Vec<CertificateFiles>,
    /// Those of `[acme]` are shown as well. Not static.
    pub acme: bool,
    /// Clients that speak only older versions are turned away.
    pub min_version: TlsVersion,
    /// Clients may resume a session by a ticket.
    pub session_tickets: bool,
    /// Files of keys that tickets are made with, absolute; empty: keys that only this process has. The keys themselves are
    /// never part of a configuration. Not static.
    pub session_ticket_keys: Vec<PathBuf>,
    /// How many handshakes begin.
    pub handshakes: Handshakes,
    /// Whether clients show certificates.
    pub client_auth: ClientAuth,
    /// PEM: the roots of clients' certificates; absolute. There unless `client_auth` is off. Not static.
    pub client_ca: Option<PathBuf>,
    /// PEM or DER: revocation lists; absolute. Empty: nobody's certificate is looked up. Not static.
    pub client_crl: Vec<PathBuf>,
}

/// Where a certificate and its key are. The key itself is never part of a configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct CertificateFiles {
    /// PEM: the certificate, then those that lead to its root; absolute.
    pub certificate: PathBuf,
    /// PEM: its private key, without a passphrase; absolute.
    pub private_key: PathBuf,
    /// DER: what its authority says of it (OCSP), for handshakes to show; absolute.
    pub ocsp: Option<PathBuf>,
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
