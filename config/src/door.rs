//! What a listener asks of its clients beyond a connection. Types only; `resolve` builds them.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::model::HostPattern;

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// They are not asked.
    Off,
    /// They are asked; one that is shown must be good.
    Optional,
    /// Without a good one there is no connection.
    Required,
}

impl ClientAuth {
    /// As the file writes it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Optional => "optional",
            Self::Required => "required",
        }
    }
}

/// `listeners.tls.handshakes`: how many handshakes begin; `None`: any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handshakes {
    /// A second, on the listener.
    pub rate: Option<u32>,
    /// At a time, on the listener.
    pub concurrent: Option<u32>,
    /// A second, by client address, of IPv6 by its /64; not of trusted proxies.
    pub client_rate: Option<u32>,
    /// At a time, by client address.
    pub client_concurrent: Option<u32>,
}

/// `listeners.redirect_https`: requests in the clear are sent to https.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Where https is; 443 is not written in addresses.
    pub port: u16,
    /// 301 or 308.
    pub status: u16,
    /// Prefixes of whole segments of paths that are served all the same, beside [`ACME_PATH`].
    pub except: Vec<String>,
}

/// Where authorities look for answers to their challenges, in the clear (RFC 8555 section 8.3).
pub const ACME_PATH: &str = "/.well-known/acme-challenge";

impl Redirect {
    /// Whether a path is served in the clear.
    pub fn spares(&self, path: &str) -> bool {
        let below = |prefix: &str| {
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        below(ACME_PATH) || self.except.iter().any(|prefix| below(prefix))
    }
}

/// `hsts`: clients are told to come by https only (RFC 6797).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hsts {
    /// For so long; zero: not any more. Whole seconds.
    pub max_age: Duration,
    /// To the hosts below this one as well.
    pub include_subdomains: bool,
    /// Browsers may have it built in.
    pub preload: bool,
    /// The value of `Strict-Transport-Security`.
    pub value: Arc<str>,
}

impl Hsts {
    /// With its value written.
    pub fn new(max_age: Duration, include_subdomains: bool, preload: bool) -> Self {
        let subdomains = if include_subdomains { "; includeSubDomains" } else { "" };
        let preloaded = if preload { "; preload" } else { "" };
        let value = format!("max-age={}{subdomains}{preloaded}", max_age.as_secs()).into();
        Self { max_age, include_subdomains, preload, value }
    }
}

/// `routes.client_certificate`: what a client's certificate must be; where both lists are empty any good one will do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CertificateMatch {
    /// It has one of these names; empty: whatever it has.
    pub san: Vec<SanPattern>,
    /// It is one of these: SHA-256 of the certificate, 64 hexadecimal digits in lower case; empty: any.
    pub fingerprint: Vec<String>,
}

/// What a name in a certificate (subjectAltName) must be. Names of one kind never pass for another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SanPattern {
    /// A host: `api.internal`, or `*.internal` for one or more labels before it.
    Host(HostPattern),
    /// This URI.
    Uri(String),
    /// A URI that begins so; written with a `*` at its end.
    UriPrefix(String),
    /// This mailbox.
    Email(String),
    /// This address.
    Address(IpAddr),
}

impl fmt::Display for SanPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(HostPattern::Exact(host)) => f.write_str(host),
            Self::Host(HostPattern::Suffix(host)) => write!(f, "*.{host}"),
            Self::Uri(text) | Self::Email(text) => f.write_str(text),
            Self::UriPrefix(text) => write!(f, "{text}*"),
            Self::Address(address) => address.fmt(f),
        }
    }
}
