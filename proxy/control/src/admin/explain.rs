//! The decision for a request that nobody sends.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use meridian_routing::{Client, Dice, RequestFacts, explain};

use super::Admin;
use super::answer::{Answer, Problem, json};
use super::change::parse;
use super::views::ExplainRequest;

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
        let facts = RequestFacts {
            method: &method,
            host: without_port(&host),
            path,
            headers: &headers,
            body: asked.body.as_ref().map(String::as_bytes),
            max_staleness: asked.max_staleness_ms.map(Duration::from_millis),
            now: self.clock.now(),
        };
        let mut dice = Dice::seeded(fastrand::u64(..));
        Ok(json(&explain(&self.table.load(), &client, &facts, &mut dice)))
    }
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
