//! The certificates in force, found by name.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use foldhash::fast::RandomState;
use meridian_config::{Fingerprint, ListenerName, TlsFiles};
use rustls::server::ProducesTickets;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;

use super::client::ClientVerifier;
use super::endpoints::EndpointTls;
use super::tickets::TicketKeys;

/// By [`TlsFiles::id`].
pub(super) type ByFiles = HashMap<Fingerprint, Arc<EndpointTls>, RandomState>;

/// The certificates of all listeners that have TLS, and what TLS to endpoints goes by; published as a whole.
#[derive(Clone, Debug, Default)]
pub struct CertificateSet {
    listeners: Arc<Vec<(ListenerName, ListenerCertificates)>>,
    endpoints: ByFiles,
    /// For tables that do not fit this set: requests may still have the one before, and a new one may come first.
    others: ByFiles,
}

impl CertificateSet {
    pub(super) fn new(
        listeners: Vec<(ListenerName, ListenerCertificates)>,
        endpoints: ByFiles,
    ) -> Self {
        Self { listeners: Arc::new(listeners), endpoints, others: ByFiles::default() }
    }

    /// The certificates of a listener; `None` if it has no TLS.
    pub fn listener(&self, name: &ListenerName) -> Option<&ListenerCertificates> {
        let found = self.listeners.iter().find(|(listener, _)| listener == name);
        found.map(|(_, certificates)| certificates)
    }

    /// All listeners that have TLS, in the order of the configuration.
    pub fn listeners(&self) -> impl Iterator<Item = (&ListenerName, &ListenerCertificates)> {
        self.listeners.iter().map(|(name, of)| (name, of))
    }

    /// What TLS to endpoints goes by with these files.
    pub fn endpoints(&self, files: &TlsFiles) -> Option<&Arc<EndpointTls>> {
        self.endpoints.get(&files.id).or_else(|| self.others.get(&files.id))
    }

    /// All certificates of listeners, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = (&ListenerName, &Certificate)> {
        self.listeners
            .iter()
            .flat_map(|(name, of)| of.certificates.iter().map(move |one| (name, &**one)))
    }

    /// Takes over, from the set that this one replaces, what has not changed: its sessions can be resumed and its
    /// connections used. What is not needed any more stays until the next set.
    pub(crate) fn follow(&mut self, before: &Self) {
        for (id, new) in &mut self.endpoints {
            let known = [&before.endpoints, &before.others].map(|map| map.get(id));
            let same = known.into_iter().flatten().find(|old| old.content == new.content);
            if let Some(old) = same {
                *new = old.clone();
            }
        }
        let gone = |id: &&Fingerprint| !self.endpoints.contains_key(*id);
        let ids = before.endpoints.keys().filter(gone);
        self.others = ids.map(|id| (*id, before.endpoints[id].clone())).collect();
    }

    /// This set, with what the next one has for other files: a table may need that before the next one is in force.
    pub(crate) fn with_others(&self, next: &Self) -> Self {
        let mut others = self.others.clone();
        let new = next.endpoints.iter().filter(|(id, _)| !self.endpoints.contains_key(*id));
        others.extend(new.map(|(id, tls)| (*id, tls.clone())));
        Self { listeners: self.listeners.clone(), endpoints: self.endpoints.clone(), others }
    }
}

/// A certificate with its chain and its key.
pub struct Certificate {
    /// The first host that it names, else its file's name.
    pub label: String,
    /// The hosts that it names: in lower case, `*.` for any first label.
    pub hosts: Vec<String>,
    /// When it expires; Unix time in seconds.
    pub not_after_unix_s: i64,
    /// What a handshake needs.
    pub key: Arc<CertifiedKey>,
    /// The same, with what the authority says of it.
    pub staple: Option<Stapled>,
}

/// A certificate together with the response of its authority (OCSP).
pub struct Stapled {
    key: Arc<CertifiedKey>,
    /// When the response is out of date; Unix time in seconds.
    pub until_unix_s: i64,
    told: AtomicBool,
}

impl Stapled {
    pub(super) fn new(key: &CertifiedKey, response: Vec<u8>, until_unix_s: i64) -> Self {
        let key = Arc::new(CertifiedKey { ocsp: Some(response), ..key.clone() });
        Self { key, until_unix_s, told: AtomicBool::new(false) }
    }
}

impl Certificate {
    /// What a handshake at `unix_s` gets: without a response that is out of date by then, which is logged once.
    pub fn at(&self, unix_s: impl FnOnce() -> i64) -> Arc<CertifiedKey> {
        let Some(staple) = &self.staple else { return self.key.clone() };
        if unix_s() < staple.until_unix_s {
            return staple.key.clone();
        }
        if !staple.told.swap(true, Relaxed) {
            let certificate = &self.label;
            tracing::warn!(target: "reload", certificate, "its OCSP response is out of date: it is not shown");
        }
        self.key.clone()
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({:?})", self.label)
    }
}

/// Positions of certificates for the same name, in the order of the configuration.
type Positions = Vec<usize>;

/// The certificates of one listener.
#[derive(Debug)]
pub struct ListenerCertificates {
    certificates: Vec<Arc<Certificate>>,
    exact: HashMap<Box<str>, Positions>,
    /// By what follows `*.`.
    wildcard: HashMap<Box<str>, Positions>,
    /// The first, and those that may stand in for it.
    default: Positions,
    clients: Option<ClientVerifier>,
    tickets: Option<Arc<TicketKeys>>,
}

impl ListenerCertificates {
    /// The first is for clients that name no host, or one that none is for.
    pub(super) fn new(
        certificates: Vec<Arc<Certificate>>,
        clients: Option<ClientVerifier>,
        tickets: Option<Arc<TicketKeys>>,
    ) -> Self {
        let mut exact: HashMap<Box<str>, Positions> = HashMap::new();
        let mut wildcard: HashMap<Box<str>, Positions> = HashMap::new();
        for (position, certificate) in certificates.iter().enumerate() {
            for host in &certificate.hosts {
                let (names, host) = match host.strip_prefix("*.") {
                    Some(rest) => (&mut wildcard, rest),
                    None => (&mut exact, host.as_str()),
                };
                names.entry(host.into()).or_default().push(position);
            }
        }
        let first = certificates.first();
        let hosts = |c: &Certificate| first.is_some_and(|first| c.hosts == first.hosts);
        let default = (0..certificates.len()).filter(|at| *at == 0 || hosts(&certificates[*at]));
        let default = default.collect();
        Self { default, certificates, exact, wildcard, clients, tickets }
    }

    /// Certificates alone; of two with the same name the first.
    pub(crate) fn of(certificates: Vec<Arc<Certificate>>) -> Self {
        Self::new(certificates, None, None)
    }

    /// What makes and opens session tickets with keys from files; `None`: there are no files.
    pub fn tickets(&self) -> Option<&dyn ProducesTickets> {
        self.tickets.as_deref().map(|tickets| tickets as _)
    }

    /// What verifies the certificates of clients; `None` where they are not asked.
    pub fn client_verifier(&self) -> Option<&Arc<dyn ClientCertVerifier>> {
        self.clients.as_ref().map(|clients| &clients.verifier)
    }

    /// When the first of the revocation lists for clients is out of date, Unix time in seconds; `None`: there are none.
    pub fn revocation_lists_until(&self) -> Option<i64> {
        self.clients.as_ref()?.lists_until_unix_s
    }

    /// The certificate for the host that a client names (SNI, RFC 6066): that with this very name, else that with `*.`
    /// in place of its first label (RFC 9525, 6.3), else the first of the listener. Where several have the name, such
    /// as one with an RSA and one with an ECDSA key, the first that `usable` accepts. Allocates only for a name with
    /// upper-case letters.
    pub fn choose(
        &self,
        host: Option<&str>,
        usable: impl Fn(&CertifiedKey) -> bool,
    ) -> Option<&Certificate> {
        let named = host.and_then(|host| self.exact(host).or_else(|| self.wildcard(host)));
        self.one_of(named.unwrap_or(&self.default), usable)
    }

    /// The certificate with this very name, as [`Self::choose`] finds it.
    pub(crate) fn with_name(
        &self,
        host: &str,
        usable: impl Fn(&CertifiedKey) -> bool,
    ) -> Option<&Certificate> {
        self.one_of(self.exact(host)?, usable)
    }

    /// The certificate with `*.` in place of the name's first label, as [`Self::choose`] finds it.
    pub(crate) fn with_wildcard(
        &self,
        host: &str,
        usable: impl Fn(&CertifiedKey) -> bool,
    ) -> Option<&Certificate> {
        self.one_of(self.wildcard(host)?, usable)
    }

    /// All of them, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Certificate> {
        self.certificates.iter().map(|certificate| &**certificate)
    }

    fn one_of(
        &self,
        named: &Positions,
        usable: impl Fn(&CertifiedKey) -> bool,
    ) -> Option<&Certificate> {
        let mut rest =
            named.iter().filter_map(|position| self.certificates.get(*position).map(|c| &**c));
        let first = rest.next()?;
        if named.len() == 1 || usable(&first.key) {
            return Some(first);
        }
        Some(rest.find(|certificate| usable(&certificate.key)).unwrap_or(first))
    }

    fn exact(&self, host: &str) -> Option<&Positions> {
        self.exact.get(&*plain(host))
    }

    fn wildcard(&self, host: &str) -> Option<&Positions> {
        let host = plain(host);
        let (first, rest) = host.split_once('.')?;
        if first.is_empty() { None } else { self.wildcard.get(rest) }
    }
}

/// In lower case, without the dot that may stand at its end.
pub(crate) fn plain(host: &str) -> Cow<'_, str> {
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}
