//! Identify: who is asking, from where. The trusted-proxy rule and the geo lookup.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};

use ipnet::IpNet;
use meridian_config::{Listener, ProxyVersion, Route};
use meridian_geoip::{GeoDatabase, Place};
use meridian_routing::{CertificateNames, Client};

use crate::client_certificate::Shown;
use crate::proxy_protocol::Introduction;
use crate::request::{Fields, Notes, text};

/// One connection's peer.
#[derive(Debug)]
pub(crate) struct Peer {
    /// The peer's address; mapped IPv4 as IPv4.
    pub(crate) address: IpAddr,
    /// Its port.
    port: u16,
    /// Where it has connected to: this edge's address, or that of the proxy that speaks for it.
    reached: SocketAddr,
    /// The address as text, for forwarding headers.
    pub(crate) text: String,
    /// `http` or `https`, as it speaks to this edge.
    pub(crate) scheme: &'static str,
    /// The fields that say so to an endpoint, the same for all its requests; the value of the last one follows.
    pub(crate) forwarding: String,
    /// Whether its forwarding headers are believed.
    pub(crate) trusted: bool,
    /// What its certificate says, where the listener asks for one.
    pub(crate) shown: Option<Box<Shown>>,
    /// What answers to it say of https, where their route says nothing else.
    hsts: Option<Arc<str>>,
    /// The place of the peer's own address and the database that told it.
    place: RefCell<Option<(Place, Weak<GeoDatabase>)>>,
}

impl Peer {
    /// `reached`: where it has connected to.
    pub(crate) fn new(peer: SocketAddr, reached: SocketAddr, listener: &Listener) -> Self {
        let trusted = &listener.trusted_proxies;
        let scheme = if listener.tls.is_some() { "https" } else { "http" };
        let address = peer.ip().to_canonical();
        let forwarding = format!(
            "x-forwarded-for: {address}\r\nx-forwarded-proto: {scheme}\r\nx-forwarded-host: "
        );
        Self {
            address,
            port: peer.port(),
            reached,
            text: address.to_string(),
            scheme,
            forwarding,
            trusted: is_trusted(address, trusted),
            shown: None,
            hsts: listener.hsts.as_ref().map(|hsts| hsts.value.clone()),
            place: RefCell::default(),
        }
    }

    /// `Strict-Transport-Security` for an answer of a route; none in the clear.
    pub(crate) fn hsts<'a>(&'a self, route: &'a Route) -> Option<&'a str> {
        let own = route.hsts.as_ref().map(|hsts| &*hsts.value);
        own.or(self.hsts.as_deref()).filter(|_| self.scheme == "https")
    }

    /// Whether a request came by https: as the peer speaks, or as a trusted one says that its client did.
    pub(crate) fn is_https(&self, notes: &Notes<'_>) -> bool {
        let said = if self.trusted { text(notes.forwarded_proto) } else { None };
        said.map_or(self.scheme, str::trim).eq_ignore_ascii_case("https")
    }

    /// Tells an endpoint whom a connection is for. Whom a trusted peer speaks for has no port: 0.
    pub(crate) fn introduces(&self, version: ProxyVersion, client: &Client) -> Introduction {
        let port = if client.address == self.address { self.port } else { 0 };
        Introduction::new(version, SocketAddr::new(client.address, port), self.reached)
    }

    /// What routes may ask of its certificate.
    pub(crate) fn certificate(&self) -> Option<&CertificateNames> {
        self.shown.as_deref().and_then(Shown::names)
    }

    /// Its forwarding headers are not believed, whatever its address is.
    pub(crate) fn distrusted(self) -> Self {
        Self { trusted: false, ..self }
    }

    /// The client of one request: the peer, or whom a trusted peer speaks for.
    pub(crate) fn client(
        &self,
        fields: &Fields<'_>,
        trusted: &[IpNet],
        geo: &Arc<GeoDatabase>,
    ) -> Client {
        if self.trusted {
            let address = forwarded_for(fields, self.address, trusted);
            return Client { address, place: geo.place(address) };
        }
        let mut known = self.place.borrow_mut();
        let place = match &*known {
            Some((place, from)) if from.as_ptr() == Arc::as_ptr(geo) => *place,
            _ => {
                let place = geo.place(self.address);
                *known = Some((place, Arc::downgrade(geo)));
                place
            }
        };
        Client { address: self.address, place }
    }
}

/// Whether an address is in one of these networks.
pub(crate) fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|network| network.contains(&address))
}

/// The right-most address in `X-Forwarded-For` that is not a trusted proxy's: everything left of it may be forged.
/// A text that is no address ends the walk.
fn forwarded_for(fields: &Fields<'_>, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let mut lines = Vec::new();
    fields.each(|name, value| {
        if name.eq_ignore_ascii_case("x-forwarded-for") {
            lines.push(value);
        }
    });
    let mut client = peer;
    for line in lines.into_iter().rev() {
        for item in line.rsplit(|byte| *byte == b',') {
            let Some(address) = parse_hop(item.trim_ascii()) else { return client };
            client = address;
            if !is_trusted(address, trusted) {
                return client;
            }
        }
    }
    client
}

/// An address, perhaps with a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.
fn parse_hop(item: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(item).ok()?;
    let address = text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|socket| socket.ip());
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    address.or_else(with_port).or_else(bracketed).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, lines: &[&str]) -> String {
        let trusted: Vec<IpNet> =
            ["10.0.0.0/8", "fd00::/8"].iter().map(|n| n.parse().expect("a network")).collect();
        let fields: Vec<_> = lines
            .iter()
            .map(|line| httparse::Header { name: "X-Forwarded-For", value: line.as_bytes() })
            .collect();
        let peer: IpAddr = peer.parse().expect("an address");
        if !is_trusted(peer, &trusted) {
            return peer.to_string();
        }
        forwarded_for(&Fields::Http1(&fields), peer, &trusted).to_string()
    }

    #[test]
    fn the_rightmost_untrusted_hop_is_the_client() {
        for (peer, lines, expected) in [
            ("192.0.2.9", &["1.2.3.4"][..], "192.0.2.9"),
            ("10.0.0.1", &["1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", &["6.6.6.6, 1.2.3.4, 10.0.0.7"], "1.2.3.4"),
            ("10.0.0.1", &["6.6.6.6", "1.2.3.4:5555, 10.0.0.7"], "1.2.3.4"),
            ("10.0.0.1", &["[2001:db8::1]:80"], "2001:db8::1"),
            ("10.0.0.1", &["::ffff:1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", &["1.2.3.4, nonsense, 10.0.0.7"], "10.0.0.7"),
            ("10.0.0.1", &["nonsense"], "10.0.0.1"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
        ] {
            assert_eq!(client(peer, lines), expected, "{peer} {lines:?}");
        }
    }
}
