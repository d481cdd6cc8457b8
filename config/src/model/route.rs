//! `[[routes]]`: which requests, and what becomes of them.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_geoip::{Continent, CountryCode};

use super::{Policy, RegionIndex, ServiceIndex};
use crate::compress::Compress;
use crate::door::{CertificateMatch, Hsts};
use crate::ids::RouteName;

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
    /// Only of clients with such a certificate.
    pub client_certificate: Option<CertificateMatch>,
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
    /// What answers over TLS say of https, in place of what their listener says.
    pub hsts: Option<Hsts>,
    /// Reads that are late are sent to a second endpoint as well.
    pub hedge: Option<Hedge>,
    /// Answers are compressed where their client takes it.
    pub compress: Option<Compress>,
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
