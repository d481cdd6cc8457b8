//! What a decision may know of a request.

use std::net::IpAddr;
use std::time::Duration;

use meridian_geoip::Place;

use crate::affinity::EndpointIdentity;
use crate::certificate::CertificateNames;
use crate::session::SessionNeed;
use crate::time::Micros;

/// Who is asking, from where.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// The address after the trusted-proxy rule.
    pub address: IpAddr,
    /// Where it is, as far as known.
    pub place: Place,
}

/// Reads a request's headers by lower-case name.
pub trait HeaderLookup {
    /// The first value under `name` (given in lower case), if it is visible text.
    fn header(&self, name: &str) -> Option<&str>;

    /// The first value of a cookie, in any of the `Cookie` fields: HTTP/2 may split them (RFC 9113 section 8.2.3).
    fn cookie(&self, name: &str) -> Option<&str> {
        cookie_of(self.header("cookie")?, name)
    }
}

/// The first value of a cookie in a `Cookie` field.
pub fn cookie_of<'f>(field: &'f str, name: &str) -> Option<&'f str> {
    let pairs = field.split(';').filter_map(|pair| pair.trim().split_once('='));
    pairs.into_iter().find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// No headers at all.
impl HeaderLookup for () {
    fn header(&self, _: &str) -> Option<&str> {
        None
    }
}

/// Pairs of lower-case name and value.
impl<const N: usize> HeaderLookup for [(String, String); N] {
    fn header(&self, name: &str) -> Option<&str> {
        self.as_slice().iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn cookie(&self, name: &str) -> Option<&str> {
        let fields = self.iter().filter(|(key, _)| key == "cookie");
        fields.filter_map(|(_, value)| cookie_of(value, name)).next()
    }
}

/// Pairs of lower-case name and value.
impl HeaderLookup for Vec<(String, String)> {
    fn header(&self, name: &str) -> Option<&str> {
        self.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn cookie(&self, name: &str) -> Option<&str> {
        let fields = self.iter().filter(|(key, _)| key == "cookie");
        fields.filter_map(|(_, value)| cookie_of(value, name)).next()
    }
}

/// The request as far as routing looks at it.
#[derive(Clone, Copy)]
pub struct RequestFacts<'a> {
    /// As sent, case-sensitive.
    pub method: &'a str,
    /// Lower case, without port; empty if unknown.
    pub host: &'a str,
    /// Without the query.
    pub path: &'a str,
    /// The headers.
    pub headers: &'a dyn HeaderLookup,
    /// The whole body where the route asked for it and it fitted; see `RoutingTable::wants_body`.
    pub body: Option<&'a [u8]>,
    /// The client's own bound on staleness; tightens the route's, never loosens it.
    pub max_staleness: Option<Duration>,
    /// The endpoint that the client's session is bound to, where the route has affinity and the client shows that.
    pub affinity: Option<EndpointIdentity>,
    /// What the client's session has seen, where the route keeps sessions and the client has shown a token.
    pub session: Option<SessionNeed>,
    /// What the client has shown, where the listener asked for a certificate and verified it.
    pub certificate: Option<&'a CertificateNames>,
    /// When the request came.
    pub now: Micros,
}
