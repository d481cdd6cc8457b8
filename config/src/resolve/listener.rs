//! `[[listeners]]`

use super::edge::file_path;
use super::{Names, Read, door, warn_without_effect};
use crate::ids::ListenerName;
use crate::model::{CertificateFiles, Listener, ListenerTls, TlsVersion};
use crate::reader::{Item, Site, Table};
use crate::values;

/// A listener and where its address stands.
pub(super) type ListenerRead = Read<Listener, Site>;

#[derive(Clone, Copy, PartialEq)]
enum Protocol {
    Http1,
    H2,
    H2c,
}

pub(super) fn read(table: &Table<'_>, names: &mut Names) -> ListenerRead {
    let name = names.declare(table.required("name"));
    let address = table.required("address").and_then(|item| item.parsed(values::socket_address));
    let encrypted = table.has("tls");
    let default =
        if encrypted { vec![Protocol::H2, Protocol::Http1] } else { vec![Protocol::Http1] };
    let protocols = table.or("protocols", default, |item| protocols(item, encrypted));
    let listener = Listener {
        name: ListenerName::new(&name),
        address: address.unwrap_or_else(|| ([0, 0, 0, 0], 0).into()),
        http1: protocols.contains(&Protocol::Http1),
        h2: protocols.contains(&Protocol::H2),
        h2c: protocols.contains(&Protocol::H2c),
        proxy_protocol: table.flag("proxy_protocol"),
        trusted_proxies: table.or("trusted_proxies", Vec::new(), |item| {
            Some(item.list(|item| {
                let (network, sloppy) = item.parsed(values::network)?;
                if sloppy {
                    let message = format!("has bits set behind its prefix; taken as \"{network}\"");
                    item.site().warning(item.cx, message);
                }
                Some(network)
            }))
        }),
        redirect_https: table.section("redirect_https", |table| door::redirect(table, encrypted)),
        hsts: table.section("hsts", |table| door::hsts(table, encrypted)),
        tls: table.section("tls", |table| table.is_present().then(|| tls(table))),
    };
    let names_peers = table.item("trusted_proxies").is_some_and(|item| !item.is_empty_array());
    if listener.proxy_protocol && !names_peers {
        let message = "needs trusted_proxies: nobody else may send a PROXY header";
        table.site_of("proxy_protocol").error(table.cx, message);
    }
    Read { value: listener, notes: table.site_of("address") }
}

fn protocols(item: &Item<'_>, encrypted: bool) -> Option<Vec<Protocol>> {
    let known = [("http1", Protocol::Http1), ("h2", Protocol::H2), ("h2c", Protocol::H2c)];
    let items = item.items("an array");
    if items.is_empty() && item.is_array() {
        let h2 = if encrypted { "h2" } else { "h2c" };
        return item.fail(format!("a listener needs a protocol: \"http1\", {h2:?}"));
    }
    let legal = |item: &Item<'_>| match (item.choice(&known)?, encrypted) {
        (Protocol::H2, false) => {
            item.fail("\"h2\" needs [listeners.tls]; HTTP/2 without TLS is \"h2c\"")
        }
        (Protocol::H2c, true) => {
            item.fail("\"h2c\" is HTTP/2 without TLS; with [listeners.tls] write \"h2\"")
        }
        (protocol, _) => Some(protocol),
    };
    Some(items.iter().filter_map(legal).collect())
}

fn tls(table: &Table<'_>) -> ListenerTls {
    let versions = [("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];
    let certificates = table.each("certificates", |table| {
        let certificate = table.required("certificate").and_then(|item| file_path(&item));
        let private_key = table.required("private_key").and_then(|item| file_path(&item));
        let ocsp = table.item("ocsp").filter(|item| item.word().as_deref() != Some(""));
        let ocsp = ocsp.and_then(|item| file_path(&item));
        Some(CertificateFiles { certificate: certificate?, private_key: private_key?, ocsp })
    });
    let acme = table.flag("acme");
    if !acme && table.required("certificates").is_some_and(|item| item.is_empty_array()) {
        let message = "at least one { certificate, private_key } is required, or acme = true";
        table.site_of("certificates").error(table.cx, message);
    }
    let clients = door::clients(table);
    let session_tickets = table.or("session_tickets", true, |item| item.flag());
    let session_ticket_keys =
        table.or("session_ticket_keys", Vec::new(), |item| Some(item.list(file_path)));
    if !session_tickets {
        let because = "while session_tickets = false";
        warn_without_effect(table, "session_ticket_keys", &*session_ticket_keys, &[], because);
    }
    ListenerTls {
        certificates: certificates.into_iter().flatten().collect(),
        acme,
        min_version: table.or("min_version", TlsVersion::Tls12, |item| item.choice(&versions)),
        session_tickets,
        session_ticket_keys,
        handshakes: table.section("handshakes", door::handshakes),
        client_auth: clients.auth,
        client_ca: clients.ca,
        client_crl: clients.crl,
    }
}
