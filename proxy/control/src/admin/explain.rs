//! The decision for a request that nobody sends.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use meridian_routing::{
    CertificateNames, Client, Dice, EndpointIdentity, RequestFacts, RoutingTable, SessionNeed,
    explain,
};

use super::Admin;
use super::answer::{Answer, Problem, json};
use super::change::parse;
use super::views::{ExplainCertificate, ExplainRequest};
use crate::clock::unix_ms;
use crate::sessions::TokenLook;

impl Admin {
    pub(super) fn explain(&self, body: &[u8]) -> Result<Answer, Problem> {
        let asked: ExplainRequest = parse(body)?;
        let method = asked.method.unwrap_or_else(|| "GET".to_owned());
        let is_token =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if method.is_empty() || !method.bytes().all(is_token) {
            return Err(Problem::bad_request("method: not a method"));
        }
        let path = asked.path.unwrap_or_else(|| "/".to_owned());
        if !path.starts_with('/') && path != "*" {
            return Err(Problem::bad_request("path: must begin with /"));
        }
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let host = asked.host.unwrap_or_default().to_ascii_lowercase();
        let headers: Vec<(String, String)> = asked
            .headers
            .into_iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .collect();
        // 0.0.0.0 is nobody's address, so it is nowhere.
        let address = asked.client.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).to_canonical();
        let client = Client { address, place: self.geo.load().place(address) };
        let certificate = asked.client_certificate.map(names);
        let mut facts = RequestFacts {
            method: &method,
            host: without_port(&host),
            path,
            headers: &headers,
            body: asked.body.as_ref().map(String::as_bytes),
            max_staleness: asked.max_staleness_ms.map(Duration::from_millis),
            affinity: None,
            session: None,
            certificate: certificate.as_ref(),
            now: self.clock.now(),
        };
        let table = self.table.load();
        facts.affinity = self.affinity(&table, &facts, &headers);
        facts.session = self.session(&table, &facts, &headers);
        let mut dice = Dice::seeded(fastrand::u64(..));
        Ok(json(&explain(&table, &client, &facts, &mut dice)))
    }

    /// What the request's session tokens say, if its route keeps sessions.
    fn session(
        &self,
        table: &RoutingTable,
        facts: &RequestFacts<'_>,
        headers: &[(String, String)],
    ) -> Option<SessionNeed> {
        let route = table.find_route(facts)?;
        table.session_cookie(route)?;
        let (keys, service) = (self.session_keys.load(), table.service(table.route(route).service));
        let mut look = TokenLook::new(&keys, service, self.clock.unix_ms_at(facts.now));
        headers.iter().for_each(|(name, value)| look.field(name, value.as_bytes()));
        look.need()
    }

    /// What the request's cookie says, if its route has affinity.
    fn affinity(
        &self,
        table: &RoutingTable,
        facts: &RequestFacts<'_>,
        headers: &[(String, String)],
    ) -> Option<EndpointIdentity> {
        let affinity = table.route(table.find_route(facts)?).affinity.as_ref()?;
        let cookies = headers.iter().filter(|(name, _)| name == "cookie");
        let cookies = cookies.map(|(_, value)| value.as_bytes());
        let presented = self.session_keys.load().look(cookies, affinity, unix_ms() / 1000);
        presented.ok().map(|presented| presented.identity)
    }
}

/// Names by their kinds, as they look.
fn names(shown: ExplainCertificate) -> CertificateNames {
    let fingerprint = shown.fingerprint.replace(':', "").to_ascii_lowercase();
    let mut names = CertificateNames { fingerprint, ..CertificateNames::default() };
    for name in shown.san {
        if name.contains("://") {
            names.uris.push(name);
        } else if name.contains('@') {
            names.emails.push(name);
        } else if let Ok(address) = name.parse() {
            names.addresses.push(address);
        } else {
            names.hosts.push(name.to_ascii_lowercase());
        }
    }
    names
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.contains(':') =>
        {
            name
        }
        Some((name, _)) if name.ends_with(']') => name,
        _ => host,
    }
}
