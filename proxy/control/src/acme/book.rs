//! What handshakes and requests look up: certificates that were issued, and answers to challenges that are pending.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use meridian_config::ListenerName;
use rustls::ServerConfig;
use rustls::sign::CertifiedKey;

use super::challenge::{Answer, Challenge};
use crate::certificates::{Certificate, ListenerCertificates, plain};

/// All that `[acme]` has for the data plane; published as a whole.
#[derive(Clone)]
pub struct AcmeBook {
    /// Those with `tls.acme`.
    pub(super) listeners: Arc<[ListenerName]>,
    pub(super) issued: Arc<ListenerCertificates>,
    /// Hosts that a certificate is asked for and not there yet.
    pub(super) awaited: Arc<HashMap<String, Arc<Awaited>>>,
    pub(super) challenges: Vec<Challenge>,
    pub(super) counts: Arc<ChallengeCounts>,
}

/// A certificate that is not there yet.
#[derive(Debug, Default)]
pub(super) struct Awaited {
    /// That a handshake was refused for want of it.
    told: AtomicBool,
}

/// Challenges that this edge has answered since its start.
#[derive(Debug, Default)]
pub(crate) struct ChallengeCounts {
    pub(crate) http: AtomicU64,
    pub(crate) tls: AtomicU64,
}

impl Default for AcmeBook {
    fn default() -> Self {
        Self {
            listeners: Arc::new([]),
            issued: Arc::new(ListenerCertificates::of(Vec::new())),
            awaited: Arc::default(),
            challenges: Vec::new(),
            counts: Arc::default(),
        }
    }
}

impl fmt::Debug for AcmeBook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AcmeBook({:?})", self.issued)
    }
}

impl AcmeBook {
    /// Whether a listener shows these certificates.
    pub fn is_shown_by(&self, listener: &ListenerName) -> bool {
        self.listeners.contains(listener)
    }

    /// All certificates that were issued.
    pub fn iter(&self) -> impl Iterator<Item = &Certificate> {
        self.issued.iter()
    }

    /// All certificates with the listeners that show them.
    pub(crate) fn shown(&self) -> impl Iterator<Item = (&ListenerName, &Certificate)> {
        self.listeners.iter().flat_map(|name| self.issued.iter().map(move |one| (name, one)))
    }

    /// The certificate for the host that a client names, of those from files and these: that from a file with this very
    /// name, else the one that was issued for it, else that from a file with `*.`, else the listener's first: of its files
    /// if there are any. `None`, which refuses the handshake: there is none at all, or the one for this host is still
    /// awaited; logged once.
    pub fn choose<'a>(
        &'a self,
        files: &'a ListenerCertificates,
        host: Option<&str>,
        usable: impl Fn(&CertifiedKey) -> bool + Copy,
    ) -> Option<&'a Certificate> {
        let Some(host) = host else {
            return files.choose(None, usable).or_else(|| self.issued.choose(None, usable));
        };
        let named = files.with_name(host, usable);
        let named = named.or_else(|| self.issued.with_name(host, usable));
        let named = named.or_else(|| files.with_wildcard(host, usable));
        if named.is_some() {
            return named;
        }
        if let Some(awaited) = self.awaited.get(&*plain(host)) {
            if !awaited.told.swap(true, Relaxed) {
                tracing::warn!(
                    target: "acme",
                    host = &*plain(host),
                    "a handshake is refused: its certificate has not been issued yet"
                );
            }
            return None;
        }
        files.choose(None, usable).or_else(|| self.issued.choose(None, usable))
    }

    /// What whoever asks for a token over HTTP is told; `None`: nobody awaits such a request. Counted.
    pub fn answer(&self, token: &str) -> Option<Arc<str>> {
        let found = self.challenges.iter().find_map(|challenge| match &challenge.answer {
            Answer::Http { token: pending, text } if pending == token => {
                Some((challenge, text.clone()))
            }
            _ => None,
        });
        let (challenge, text) = found?;
        challenge.asked.fetch_add(1, Relaxed);
        self.counts.http.fetch_add(1, Relaxed);
        Some(text)
    }

    /// Whether a handshake may be about a challenge.
    pub fn awaits_handshakes(&self) -> bool {
        self.challenges.iter().any(|challenge| matches!(challenge.answer, Answer::Tls { .. }))
    }

    /// What a handshake for a challenge on a host is answered with; `None`: nobody awaits it. Counted.
    pub fn handshake(&self, host: &str) -> Option<Arc<ServerConfig>> {
        let host = plain(host);
        let found = self.challenges.iter().find_map(|challenge| match &challenge.answer {
            Answer::Tls { host: pending, config } if *pending == *host => {
                Some((challenge, config.clone()))
            }
            _ => None,
        });
        let (challenge, config) = found?;
        challenge.asked.fetch_add(1, Relaxed);
        self.counts.tls.fetch_add(1, Relaxed);
        Some(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::issued;

    fn certificate(hosts: &[&str]) -> Arc<Certificate> {
        let names: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).expect("made");
        let key = made.signing_key.serialize_pem();
        Arc::new(issued(made.cert.pem().as_bytes(), key.as_bytes()).expect("good").certificate)
    }

    fn index(certificates: &[&[&str]]) -> ListenerCertificates {
        let certificates = certificates.iter().map(|hosts| certificate(hosts)).collect();
        ListenerCertificates::of(certificates)
    }

    fn chosen(book: &AcmeBook, files: &ListenerCertificates, host: Option<&str>) -> String {
        book.choose(files, host, |_| true).map_or("none".into(), |c| c.label.clone())
    }

    #[test]
    fn names_are_found_among_both() {
        let book = AcmeBook {
            issued: Arc::new(index(&[&["shop.example", "www.shop.example"], &["both.example"]])),
            awaited: Arc::new(
                ["soon.example", "a.wild.example"].map(|h| (h.to_owned(), Arc::default())).into(),
            ),
            ..AcmeBook::default()
        };
        let files = index(&[
            &["first.example"],
            &["file.both.example", "both.example"],
            &["*.wild.example", "*.shop.example"],
        ]);
        for (host, label) in [
            (None, "first.example"),
            (Some("FIRST.example."), "first.example"),
            (Some("shop.example"), "shop.example"),
            // The very name is nearer than a wildcard of a file.
            (Some("WWW.shop.example"), "shop.example"),
            (Some("other.shop.example"), "*.wild.example"),
            // Of two with the name the operator's own counts.
            (Some("both.example"), "file.both.example"),
            (Some("a.wild.example"), "*.wild.example"),
            (Some("soon.example"), "none"),
            (Some("unknown.example"), "first.example"),
        ] {
            assert_eq!(chosen(&book, &files, host), label, "{host:?}");
        }
        let none = index(&[]);
        for (host, label) in [
            (None, "shop.example"),
            (Some("unknown.example"), "shop.example"),
            (Some("both.example"), "both.example"),
            (Some("soon.example"), "none"),
        ] {
            assert_eq!(chosen(&book, &none, host), label, "{host:?}");
        }
        assert_eq!(chosen(&AcmeBook::default(), &none, None), "none");
        assert_eq!(chosen(&AcmeBook::default(), &none, Some("a.example")), "none");
    }

    #[test]
    fn challenges_are_answered_while_they_are_pending() {
        let asked: Arc<AtomicU64> = Arc::default();
        let http = Answer::Http { token: "t0ken".into(), text: "t0ken.thumb".into() };
        let tls = Answer::tls("a.example", &[7; 32]).expect("made");
        let of = |answer| Challenge { order: 1, answer, asked: asked.clone() };
        let book = AcmeBook { challenges: vec![of(http)], ..AcmeBook::default() };
        assert_eq!(book.answer("t0ken").as_deref(), Some("t0ken.thumb"));
        assert_eq!(book.answer("t0ke"), None);
        assert_eq!(
            (book.awaits_handshakes(), book.handshake("a.example").is_some()),
            (false, false)
        );
        let book = AcmeBook { challenges: vec![of(tls)], ..book };
        assert!(book.awaits_handshakes() && book.handshake("A.example").is_some());
        assert!(book.handshake("b.example").is_none() && book.answer("t0ken").is_none());
        assert_eq!(asked.load(Relaxed), 2);
        assert_eq!((book.counts.http.load(Relaxed), book.counts.tls.load(Relaxed)), (1, 1));
    }
}
