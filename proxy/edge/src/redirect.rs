//! Requests in the clear are sent to https, where the listener says so.

use meridian_config::Redirect;

use crate::identify::Peer;
use crate::request::Request;

/// Where a request is sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) status: u16,
    /// `None`: it does not say which host it is for, so that nobody knows.
    pub(crate) location: Option<String>,
}

/// What becomes of a request; `None`: it is served. One that a trusted proxy got by https is, or it would go round in
/// circles.
pub(crate) fn to_https(to: &Redirect, peer: &Peer, request: &Request<'_>) -> Option<Moved> {
    if to.spares(request.path) || peer.is_https(&request.notes) {
        return None;
    }
    let host = without_port(request.authority);
    if host.is_empty() {
        return Some(Moved { status: 400, location: None });
    }
    // `*` is of the whole server.
    let target = if request.target == "*" { "/" } else { request.target };
    let location = match to.port {
        443 => format!("https://{host}{target}"),
        port => format!("https://{host}:{port}{target}"),
    };
    Some(Moved { status: to.status, location: Some(location) })
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !host.ends_with(':') => {
            host
        }
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::without_port;

    #[test]
    fn a_port_is_not_part_of_a_host() {
        for (authority, host) in [
            ("a.example", "a.example"),
            ("a.example:80", "a.example"),
            ("a.example:", "a.example"),
            ("[2001:db8::1]", "[2001:db8::1]"),
            ("[2001:db8::1]:8080", "[2001:db8::1]"),
            ("[::]", "[::]"),
            ("", ""),
        ] {
            assert_eq!(without_port(authority), host);
        }
    }
}
