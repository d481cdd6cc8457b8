//! What a listener asks of its clients beyond a connection: `redirect_https`, `hsts`, `tls.client_*`; and
//! `routes.client_certificate`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::edge::file_path;
use super::route::host;
use super::{MOST_AT_ONCE, warn_without_effect};
use crate::door::{CertificateMatch, ClientAuth, Handshakes, Hsts, Redirect, SanPattern};
use crate::names;
use crate::reader::{Item, Table};

/// `{ rate = 500, concurrent = 200, client_rate = 20, client_concurrent = 10 }`
pub(super) fn handshakes(table: &Table<'_>) -> Handshakes {
    let rate = |key| table.item(key).and_then(|item| item.whole(1..=1_000_000));
    let at_once = |key| table.item(key).and_then(|item| item.whole(MOST_AT_ONCE));
    Handshakes {
        rate: rate("rate"),
        concurrent: at_once("concurrent"),
        client_rate: rate("client_rate"),
        client_concurrent: at_once("client_concurrent"),
    }
}

/// `client_auth`, `client_ca` and `client_crl`.
pub(super) struct Clients {
    pub(super) auth: ClientAuth,
    pub(super) ca: Option<PathBuf>,
    pub(super) crl: Vec<PathBuf>,
}

pub(super) fn clients(table: &Table<'_>) -> Clients {
    let words = [ClientAuth::Off, ClientAuth::Optional, ClientAuth::Required];
    let words = words.map(|word| (word.label(), word));
    let auth = table.or("client_auth", ClientAuth::Off, |item| item.choice(&words));
    let given = table.item("client_ca").filter(|item| item.word().as_deref() != Some(""));
    let missing = given.is_none();
    let ca = given.and_then(|item| file_path(&item));
    let crl = table.or("client_crl", Vec::new(), |item| Some(item.list(file_path)));
    if auth != ClientAuth::Off && missing {
        let message = "needs client_ca: who signs the certificates of clients";
        table.site_of("client_auth").error(table.cx, message);
    }
    if auth == ClientAuth::Off {
        let because = "while client_auth = \"off\"";
        warn_without_effect(table, "client_ca", &ca, &None, because);
        warn_without_effect(table, "client_crl", &*crl, &[], because);
    }
    Clients { auth, ca, crl }
}

/// `{ port = 443, status = 308, except = ["/health"] }`; `None` where it is not there.
pub(super) fn redirect(table: &Table<'_>, encrypted: bool) -> Option<Redirect> {
    if !table.is_present() {
        return None;
    }
    if encrypted {
        table.site().error(table.cx, "is for listeners without TLS: this one has [listeners.tls]");
    }
    let status = |item: &Item<'_>| match item.whole(0..=u16::MAX)? {
        status @ (301 | 308) => Some(status),
        status => item.fail(format!("a redirect is 301 or 308, not {status}")),
    };
    let except = |item: &Item<'_>| {
        item.parsed(|text| match text.trim_end_matches('/') {
            "" => Err("\"/\" would spare everything".to_owned()),
            path => names::path(path).map(|()| path.to_owned()),
        })
    };
    Some(Redirect {
        port: table.or("port", 443, |item| item.whole(1..=u16::MAX)),
        status: table.or("status", 308, status),
        except: table.or("except", Vec::new(), |item| Some(item.list(except))),
    })
}

/// The least that browsers' lists take (hstspreload.org).
const PRELOAD: Duration = Duration::from_secs(365 * 24 * 3600);

/// `{ max_age = "8760h", include_subdomains = false, preload = false }`; `None` where it is not there.
pub(super) fn hsts(table: &Table<'_>, encrypted: bool) -> Option<Hsts> {
    if !table.is_present() {
        return None;
    }
    if !encrypted {
        let message = "is for listeners with TLS: browsers take no heed of it in the clear";
        table.site().error(table.cx, message);
    }
    let most = Duration::ZERO..=PRELOAD * 10;
    let max_age = table.or("max_age", PRELOAD, |item| item.duration(most));
    if max_age.subsec_nanos() != 0 {
        table.site_of("max_age").error(table.cx, "is told in whole seconds");
    }
    let hsts = Hsts::new(max_age, table.flag("include_subdomains"), table.flag("preload"));
    if hsts.preload && !(hsts.include_subdomains && max_age >= PRELOAD) {
        let message = "needs include_subdomains = true and a max_age of 8760h at least";
        table.site_of("preload").error(table.cx, message);
    }
    Some(hsts)
}

/// `{ san = "*.internal", fingerprint = "..." }`; `None` where it is not there.
pub(super) fn certificate_match(table: &Table<'_>) -> Option<CertificateMatch> {
    if !table.is_present() {
        return None;
    }
    Some(CertificateMatch {
        san: table.or("san", Vec::new(), |item| Some(one_or_more(item, san))),
        fingerprint: table
            .or("fingerprint", Vec::new(), |item| Some(one_or_more(item, fingerprint))),
    })
}

/// What a text, or each text of an array that is not empty, says.
fn one_or_more<T>(item: &Item<'_>, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
    if item.is_empty_array() {
        item.fail::<()>("names nothing; leave it out for any");
    }
    if item.is_array() {
        return item.list(|item| item.parsed(&parse));
    }
    item.parsed(parse).into_iter().collect()
}

fn san(text: &str) -> Result<SanPattern, String> {
    if let Some((scheme, rest)) = text.split_once("://") {
        let (fixed, open) = match text.strip_suffix('*') {
            Some(fixed) => (fixed, true),
            None => (text, false),
        };
        // An authority that is open at its end would take in those of strangers.
        let whole = !open || rest.contains('/');
        if scheme.is_empty() || !whole || fixed.contains('*') || !fixed.bytes().all(is_plain) {
            return Err(format!(
                "{text:?} is not a URI; \"*\" may only stand at its end, behind the host's \"/\""
            ));
        }
        let kind = if open { SanPattern::UriPrefix } else { SanPattern::Uri };
        return Ok(kind(fixed.to_owned()));
    }
    if text.contains('@') {
        let plain = text.bytes().all(is_plain) && !text.contains('*');
        return match plain {
            true => Ok(SanPattern::Email(text.to_owned())),
            false => Err(format!("{text:?} is not a mailbox")),
        };
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(SanPattern::Address(address));
    }
    host(&text.to_ascii_lowercase()).map(SanPattern::Host).map_err(|why| {
        format!("{why}; a name is a host, \"*.host\", a URI, a mailbox or an IP address")
    })
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic()
}

/// Colons between its bytes, as `openssl x509 -fingerprint` writes them, are taken out.
fn fingerprint(text: &str) -> Result<String, String> {
    let digits: String =
        text.chars().filter(|c| *c != ':').collect::<String>().to_ascii_lowercase();
    let fine = digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if fine {
        Ok(digits)
    } else {
        Err(format!("{text:?} is not a SHA-256 fingerprint: 64 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_of_their_kind() {
        for (text, shown) in [
            ("API.internal", "api.internal"),
            ("*.internal", "*.internal"),
            ("spiffe://example.org/ns/shop", "spiffe://example.org/ns/shop"),
            ("spiffe://example.org/ns/*", "spiffe://example.org/ns/*"),
            ("ops@example.org", "ops@example.org"),
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
        ] {
            assert_eq!(san(text).map(|san| san.to_string()), Ok(shown.to_owned()));
        }
        assert!(matches!(san("spiffe://a/*"), Ok(SanPattern::UriPrefix(_))));
        for text in [
            "",
            "*",
            "a b",
            "*.",
            "a.*.b",
            "spiffe://*",
            "spiffe://exam*",
            "://a",
            "x://a*b",
            "*@a",
            "a @b",
        ] {
            assert!(san(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn fingerprints_are_of_sha_256() {
        let digits = "Ab".repeat(32);
        assert_eq!(fingerprint(&digits), Ok("ab".repeat(32)));
        let colons = vec!["AB"; 32].join(":");
        assert_eq!(fingerprint(&colons), Ok("ab".repeat(32)));
        for text in ["", "ab", &"g".repeat(64), &"a".repeat(40), &"a".repeat(66)] {
            assert!(fingerprint(text).is_err(), "{text:?}");
        }
    }
}
