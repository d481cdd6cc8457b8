//! `[acme]`, and what it has to do with listeners.

use std::collections::HashMap;
use std::time::Duration;

use super::edge::file_path;
use super::listener::ListenerRead;
use super::record::url;
use crate::acme::{Acme, AcmeCertificate, AcmeChallenge, ExternalAccount, read_key};
use crate::names;
use crate::reader::{Item, Table};
use crate::record::WebhookUrl;

/// Let's Encrypt.
const DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// No certificate that browsers take is valid for longer than this.
const LONGEST_BEFORE: Duration = Duration::from_secs(398 * 24 * 3600);
/// The most that authorities put into one certificate.
const MOST_DOMAINS: usize = 100;

/// `None` where it is not there.
pub(super) fn acme(table: &Table<'_>) -> Option<Acme> {
    if !table.is_present() {
        return None;
    }
    let agreed = table.required("agree_to_terms").and_then(|item| item.flag());
    if agreed == Some(false) {
        let message = "must be true: authorities issue only to those who agree to their terms";
        table.site_of("agree_to_terms").error(table.cx, message);
    }
    let before = Duration::from_secs(1)..=LONGEST_BEFORE;
    let renew_before = |item: &Item<'_>| match item.word().as_deref() {
        Some("auto") => Some(None),
        _ => item.duration(before).map(Some),
    };
    let backoff = Duration::from_millis(10)..=Duration::from_secs(3600);
    let ca = table.item("ca").filter(|item| item.word().as_deref() != Some(""));
    Some(Acme {
        directory: table
            .item("directory")
            .map_or_else(|| directory(DIRECTORY).ok(), |item| item.parsed(directory))
            .unwrap_or_else(nowhere),
        contact: table.or("contact", Vec::new(), |item| Some(item.list(mailbox))),
        challenges: table.or("challenges", vec![AcmeChallenge::Http01], challenges),
        ca: ca.and_then(|item| file_path(&item)),
        external_account: table.section("external_account", external_account),
        renew_before: table.or("renew_before", None, renew_before),
        backoff: table.or("backoff", Duration::from_secs(60), |item| item.duration(backoff)),
        certificates: certificates(table),
    })
}

fn directory(text: &str) -> Result<WebhookUrl, String> {
    match url(text)? {
        directory if directory.https => Ok(directory),
        _ => Err("a directory is asked by https only (RFC 8555 section 6.1)".into()),
    }
}

fn nowhere() -> WebhookUrl {
    WebhookUrl { https: true, host: String::new(), port: 0, target: "/".into() }
}

fn mailbox(item: &Item<'_>) -> Option<String> {
    item.parsed(|text| {
        if text.starts_with("mailto:") {
            return Err("is written without \"mailto:\"".into());
        }
        let graphic = text.bytes().all(|b| b.is_ascii_graphic() && !b"?,<>\"".contains(&b));
        match text.split_once('@') {
            Some((local, host)) if graphic && !local.is_empty() && names::host(host).is_ok() => {
                Ok(text.to_owned())
            }
            _ => Err(format!("{text:?} is not a mail address")),
        }
    })
}

fn challenges(item: &Item<'_>) -> Option<Vec<AcmeChallenge>> {
    let known = [AcmeChallenge::Http01, AcmeChallenge::TlsAlpn01].map(|kind| (kind.label(), kind));
    if item.is_empty_array() {
        return item.fail("at least one: \"http-01\", \"tls-alpn-01\"");
    }
    let one = |item: &Item<'_>| match item.word().as_deref() {
        Some("dns-01") => item.fail("\"dns-01\" is not offered: this edge writes no DNS records"),
        _ => item.choice(&known),
    };
    let mut kinds = Vec::new();
    for item in item.items("an array") {
        let Some(kind) = one(&item) else { continue };
        if kinds.contains(&kind) {
            item.fail::<()>("is there twice");
        }
        kinds.push(kind);
    }
    (!kinds.is_empty()).then_some(kinds)
}

/// `None` where it is not there, or after an error.
fn external_account(table: &Table<'_>) -> Option<ExternalAccount> {
    if !table.is_present() {
        return None;
    }
    let id = table.required("key_id");
    let key_id_as_written = id.as_ref().and_then(|item| item.with_variables()).map(str::to_owned);
    let key_id = id.and_then(|item| {
        item.parsed(|text| match text.is_empty() || text.chars().any(char::is_control) {
            true => Err("is what the authority calls the key".into()),
            false => Ok(text.to_owned()),
        })
    });
    let key = table.required("hmac_key_file").and_then(|item| {
        let file = file_path(&item)?;
        match read_key(&file) {
            Ok(key) => Some((file, key)),
            Err(why) => item.fail(why),
        }
    });
    let (hmac_key_file, hmac_key) = key?;
    Some(ExternalAccount { key_id: key_id?, key_id_as_written, hmac_key_file, hmac_key })
}

fn certificates(table: &Table<'_>) -> Vec<AcmeCertificate> {
    let mut seen: HashMap<String, String> = HashMap::new();
    let certificates = table.each("certificates", |table| {
        let list = table.required("domains")?;
        if list.is_empty_array() {
            return list.fail("at least one domain");
        }
        let domains = list.list(|item| {
            let domain = item.parsed(domain)?;
            let place = item.site().path().to_owned();
            match seen.get(&domain) {
                Some(first) => {
                    item.fail(format!("duplicate domain {domain:?}, already at {first}"))
                }
                None => {
                    seen.insert(domain.clone(), place);
                    Some(domain)
                }
            }
        });
        if domains.len() > MOST_DOMAINS {
            return list.fail(format!("one certificate is for {MOST_DOMAINS} domains at most"));
        }
        (!domains.is_empty()).then_some(AcmeCertificate { domains })
    });
    certificates.into_iter().flatten().collect()
}

fn domain(text: &str) -> Result<String, String> {
    if text.starts_with("*.") {
        return Err(
            "\"*.\" needs the challenge dns-01, which is not offered: name each host".into()
        );
    }
    if text.contains('_') {
        return Err(format!("{text:?}: authorities issue for no host with \"_\""));
    }
    match names::server_name(text)? {
        name if name.parse::<std::net::IpAddr>().is_ok() => {
            Err("authorities are asked for hosts here, not for addresses".into())
        }
        name => Ok(name),
    }
}

/// Listeners that show what is not asked for, and what is asked for and shown, or answered, nowhere. Challenges that nothing
/// answers are left out.
pub(super) fn check(root: &Table<'_>, acme: Option<&mut Acme>, listeners: &[ListenerRead]) {
    let shows = |read: &&ListenerRead| read.value.tls.as_ref().is_some_and(|tls| tls.acme);
    let asked = acme.as_ref().is_some_and(|acme| !acme.certificates.is_empty());
    if let Some(first) = listeners.iter().find(shows)
        && !asked
    {
        let message = format!(
            "listener \"{}\" has tls.acme = true: name what is to be issued in [[acme.certificates]]",
            first.value.name
        );
        root.site_of("acme").error(root.cx, message);
    }
    let Some(acme) = acme.filter(|acme| !acme.certificates.is_empty()) else { return };
    let site = root.site_of("acme");
    let shown = listeners.iter().any(|read| shows(&read));
    if !shown {
        site.warning(root.cx, "no listener has tls.acme = true: the certificates are not shown");
    }
    let plain = listeners.iter().any(|read| read.value.tls.is_none());
    let can = |kind: &AcmeChallenge| match kind {
        AcmeChallenge::Http01 => plain,
        AcmeChallenge::TlsAlpn01 => shown,
    };
    if !acme.challenges.iter().any(can) {
        let message = "nothing answers the challenges: http-01 needs a listener without TLS, \
                       tls-alpn-01 one with tls.acme = true";
        site.error(root.cx, message);
        return;
    }
    for kind in acme.challenges.iter().filter(|kind| !can(kind)) {
        let (kind, needs) = match kind {
            AcmeChallenge::Http01 => (kind.label(), "a listener without TLS"),
            AcmeChallenge::TlsAlpn01 => (kind.label(), "one with tls.acme = true"),
        };
        let message =
            format!("nothing answers the challenge {kind}, which needs {needs}: it is left out");
        site.warning(root.cx, message);
    }
    acme.challenges.retain(can);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_hosts_that_authorities_issue_for() {
        for (text, name) in
            [("Shop.Example", "shop.example"), ("xn--bcher-kva.example", "xn--bcher-kva.example")]
        {
            assert_eq!(domain(text).as_deref(), Ok(name), "{text}");
        }
        for bad in [
            "",
            "*.a.example",
            "10.0.0.1",
            "[::1]",
            "a.example:80",
            "a_b.example",
            "bücher.example",
            "a..b",
        ] {
            assert!(domain(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_directory_is_asked_by_https() {
        assert!(directory(DIRECTORY).is_ok_and(|url| url.https && url.target == "/directory"));
        for bad in ["http://ca.example/", "ca.example", "https://u:p@ca.example/", ""] {
            assert!(directory(bad).is_err(), "{bad}");
        }
    }
}
