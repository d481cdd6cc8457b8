//! `[history]` and `[alerts]`: what is kept of changes of state, and who is told. Types only.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// `[history]`. Static.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// Changes of state that are kept in memory; at least 1.
    pub entries: usize,
    /// The history's file is replaced when it would grow beyond this, bytes, and the one before it kept; 0: no file.
    pub file_bytes: u64,
}

/// `[alerts]` with a URL: changes of state are POSTed there.
#[derive(Clone, PartialEq)]
pub struct Alerts {
    /// Where to.
    pub url: WebhookUrl,
    /// The URL as the file writes it, if it names environment variables.
    pub url_as_written: Option<String>,
    /// Further headers; names in lower case. Values are never printed unless they stand in the file.
    pub headers: BTreeMap<String, String>,
    /// The values of `headers` that name environment variables, as the file writes them.
    pub headers_as_written: BTreeMap<String, String>,
    /// The key of the signature and where it was read from.
    pub secret: Option<AlertSecret>,
    /// PEM: the roots that an https server's certificate must lead to; absolute. `None`: the system's.
    pub ca: Option<PathBuf>,
    /// What is told; never empty.
    pub events: Vec<AlertClass>,
    /// One attempt: connect, send, answer.
    pub timeout: Duration,
    /// Attempts beyond the first.
    pub retries: u32,
    /// Between the first two attempts; then twice as long each time, at most a minute.
    pub backoff: Duration,
    /// Events that may wait to be sent; at least 1.
    pub queue: usize,
}

impl fmt::Debug for Alerts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.keys().collect();
        f.debug_struct("Alerts")
            .field("host", &self.url.host)
            .field("headers", &names)
            .field("events", &self.events)
            .finish_non_exhaustive()
    }
}

/// Where a webhook is.
#[derive(Clone, PartialEq)]
pub struct WebhookUrl {
    /// TLS.
    pub https: bool,
    /// In lower case; an IPv6 address stands in brackets.
    pub host: String,
    /// As written, or 80 or 443.
    pub port: u16,
    /// Path and query, from the slash on. May hold a secret.
    pub target: String,
}

impl WebhookUrl {
    /// Scheme, host and port, without the path, which may hold a secret.
    pub fn origin(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.host, self.port)
    }
}

impl fmt::Display for WebhookUrl {
    /// As a whole, with what may be secret; without a port that is the scheme's own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.https, self.port) {
            (false, 80) => write!(f, "http://{}{}", self.host, self.target),
            (true, 443) => write!(f, "https://{}{}", self.host, self.target),
            _ => write!(f, "{}{}", self.origin(), self.target),
        }
    }
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin())
    }
}

/// The key of a signature, read from its file when the configuration is.
#[derive(Clone, PartialEq)]
pub struct AlertSecret {
    /// Where it was read from; absolute.
    pub file: PathBuf,
    /// Visible ASCII, never empty. Never printed.
    pub key: String,
}

impl fmt::Debug for AlertSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlertSecret({:?})", self.file)
    }
}

/// What an alert is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlertClass {
    /// A service has no endpoint left in a region.
    Down,
    /// Some of its endpoints there are out.
    Degraded,
    /// All of them are in again.
    Recovered,
    /// A region is drained, or takes requests again.
    Drain,
    /// A region's weight.
    Weight,
    /// Writes go to another region.
    Primary,
    /// A reload added or removed a region, or was refused.
    Configuration,
    /// An authority does not issue a certificate (`[acme]`), or does so again.
    Certificate,
}

impl AlertClass {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Down,
        Self::Degraded,
        Self::Recovered,
        Self::Drain,
        Self::Weight,
        Self::Primary,
        Self::Configuration,
        Self::Certificate,
    ];

    /// As the file writes it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Degraded => "degraded",
            Self::Recovered => "recovered",
            Self::Drain => "drain",
            Self::Weight => "weight",
            Self::Primary => "primary",
            Self::Configuration => "configuration",
            Self::Certificate => "certificate",
        }
    }
}
