//! Who may ask what: tokens, and the checks that keep web pages away from an endpoint on their visitor's machine.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, StatusCode, header};
use meridian_config::{Admin, AdminRole};
use subtle::ConstantTimeEq;

use super::answer::Problem;
use super::route::Resource;

/// The other side of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Peer {
    Tcp(SocketAddr),
    /// A process of this machine, with its user's id if the kernel told.
    Unix(Option<u32>),
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    role: AdminRole,
    name: String,
}

impl Caller {
    /// As the audit trail has it. A claimed name is marked by what it was claimed with.
    pub(crate) fn actor(&self, claimed: Option<&str>) -> String {
        match claimed {
            Some(claimed) => format!("{claimed} ({})", self.name),
            None => self.name.clone(),
        }
    }
}

/// Lets a request for `resource` in, and says who asks.
pub(crate) fn admit(
    admin: &Admin,
    resource: &Resource,
    headers: &HeaderMap,
    peer: Peer,
) -> Result<Caller, Problem> {
    // With tokens, a page that got here by a name of its own can do no more than without; and a load balancer's
    // probe may lack a Host.
    let probe = matches!(resource, Resource::Live | Resource::Ready);
    if admin.tokens.is_empty() && matches!(peer, Peer::Tcp(_)) && !probe {
        check_host(headers)?;
    }
    if resource.mutates() {
        check_origin(headers)?;
    }
    let role = match role(admin, headers) {
        Some(role) => role,
        None if resource.open() => AdminRole::Read,
        None => {
            let message = "this needs a bearer token";
            return Err(Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", message));
        }
    };
    let needed = match resource {
        // It runs a program.
        Resource::Upgrade => AdminRole::Admin,
        other if other.mutates() => AdminRole::Operator,
        _ => AdminRole::Read,
    };
    if role < needed {
        return Err(Problem::forbidden("the token's role does not allow this"));
    }
    Ok(Caller { role, name: name(role, peer) })
}

/// The role of the request's token; without configured tokens everybody is admin.
fn role(admin: &Admin, headers: &HeaderMap) -> Option<AdminRole> {
    if admin.tokens.is_empty() {
        return Some(AdminRole::Admin);
    }
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return None;
    }
    // Every token is compared, each in constant time, so that time tells nothing of which was close.
    let token = token.trim_ascii();
    admin.tokens.iter().fold(None, |found, known| {
        let equal = bool::from(known.secret.as_bytes().ct_eq(token));
        found.max(equal.then_some(known.role))
    })
}

fn name(role: AdminRole, peer: Peer) -> String {
    let role = match role {
        AdminRole::Read => "read",
        AdminRole::Operator => "operator",
        AdminRole::Admin => "admin",
    };
    match peer {
        Peer::Tcp(address) => format!("{role}@{}", address.ip()),
        Peer::Unix(Some(user)) => format!("{role}@unix:{user}"),
        Peer::Unix(None) => format!("{role}@unix"),
    }
}

/// A page can make its own name point here (DNS rebinding), but not an address or `localhost`.
fn check_host(headers: &HeaderMap) -> Result<(), Problem> {
    let mut values = headers.get_all(header::HOST).iter();
    let only = values.next().filter(|_| values.next().is_none());
    let host = only.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let name = without_port(host);
    let literal = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    if literal.is_ok() || name.eq_ignore_ascii_case("localhost") {
        Ok(())
    } else {
        Err(Problem::forbidden("the Host must be an address or localhost, unless tokens are set"))
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            // The last group of a bare IPv6 address is no port.
            if name.contains(':') && !name.ends_with(']') { host } else { name }
        }
        _ => host,
    }
}

/// A browser names the page that sends a request; only a page from here may.
fn check_origin(headers: &HeaderMap) -> Result<(), Problem> {
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let same = |origin: &str| {
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
    };
    let mut origins = headers.get_all(header::ORIGIN).iter();
    if origins.all(|origin| origin.to_str().is_ok_and(same)) {
        Ok(())
    } else {
        Err(Problem::forbidden("requests from other web pages are refused"))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use meridian_config::{AdminAddress, AdminToken};
    use meridian_routing::{ChangeKind, Target};

    use super::*;

    fn admin(tokens: &[(AdminRole, &str)]) -> Admin {
        let token = |(role, secret): &(AdminRole, &str)| AdminToken {
            role: *role,
            secret: (*secret).to_owned(),
            token_file: "operator.token".into(),
        };
        Admin {
            address: AdminAddress::Tcp("127.0.0.1:9901".parse().expect("an address")),
            tokens: tokens.iter().map(token).collect(),
        }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn tcp() -> Peer {
        Peer::Tcp("10.1.2.3:5".parse().expect("an address"))
    }

    fn drain() -> Resource {
        Resource::Override(Target::Region("eu".into()), ChangeKind::Drain)
    }

    fn status(result: Result<Caller, Problem>) -> u16 {
        result.map_or_else(|problem| problem.status.as_u16(), |_| 200)
    }

    #[test]
    fn roles_include_the_lower_ones() {
        let admin = admin(&[(AdminRole::Read, "r"), (AdminRole::Operator, "op")]);
        let ask = |resource: &Resource, authorization: &'static str| {
            let headers = headers(&[("host", "x.example"), ("authorization", authorization)]);
            status(admit(&admin, resource, &headers, tcp()))
        };
        assert_eq!(ask(&Resource::Status, "Bearer r"), 200);
        assert_eq!(ask(&Resource::Explain, "bearer r"), 200);
        assert_eq!(ask(&drain(), "Bearer r"), 403);
        assert_eq!(ask(&Resource::Reload, "Bearer r"), 403);
        assert_eq!(ask(&drain(), "Bearer op"), 200);
        for wrong in ["Bearer", "Bearer x", "Bearer rr", "Bearer ", "Basic r", "r", ""] {
            assert_eq!(ask(&Resource::Status, wrong), 401, "{wrong}");
            assert_eq!(ask(&Resource::Live, wrong), 200, "{wrong}");
            assert_eq!(ask(&Resource::Metrics, wrong), 200, "{wrong}");
        }
    }

    #[test]
    fn without_tokens_the_host_must_not_be_a_name_that_others_control() {
        let admin = admin(&[]);
        let ask = |host: &'static str| {
            status(admit(&admin, &Resource::Status, &headers(&[("host", host)]), tcp()))
        };
        for host in [
            "127.0.0.1:9901",
            "127.0.0.1",
            "localhost",
            "LOCALHOST:9901",
            "[::1]:9901",
            "[::1]",
            "10.9.8.7:1",
        ] {
            assert_eq!(ask(host), 200, "{host}");
        }
        for host in
            ["evil.example", "evil.example:9901", "", "127.0.0.1.evil.example", "localhost.evil"]
        {
            assert_eq!(ask(host), 403, "{host}");
        }
        let foreign = headers(&[("host", "evil.example")]);
        assert_eq!(status(admit(&admin, &Resource::Ready, &foreign, tcp())), 200);
        assert_eq!(status(admit(&admin, &Resource::Metrics, &foreign, tcp())), 403);
        let twice = headers(&[("host", "localhost"), ("host", "evil.example")]);
        assert_eq!(status(admit(&admin, &Resource::Status, &twice, tcp())), 403);
        let none = headers(&[]);
        assert_eq!(status(admit(&admin, &Resource::Status, &none, Peer::Unix(None))), 200);
    }

    #[test]
    fn other_pages_change_nothing() {
        let admin = admin(&[]);
        let ask = |resource: &Resource, origin: &'static str| {
            let headers = headers(&[("host", "localhost:9901"), ("origin", origin)]);
            status(admit(&admin, resource, &headers, tcp()))
        };
        assert_eq!(ask(&drain(), "http://localhost:9901"), 200);
        for origin in ["http://evil.example", "null", "http://localhost:80", "localhost:9901", ""] {
            assert_eq!(ask(&drain(), origin), 403, "{origin}");
            assert_eq!(ask(&Resource::Reload, origin), 403, "{origin}");
            assert_eq!(ask(&Resource::Status, origin), 200, "{origin}");
        }
    }

    #[test]
    fn the_actor_is_what_was_proven_with_what_was_claimed() {
        let admin = admin(&[(AdminRole::Operator, "op")]);
        let headers = headers(&[("authorization", "Bearer op")]);
        let caller = admit(&admin, &drain(), &headers, tcp()).expect("may");
        assert_eq!(caller.actor(None), "operator@10.1.2.3");
        assert_eq!(caller.actor(Some("ann")), "ann (operator@10.1.2.3)");
        let caller = admit(&admin, &drain(), &headers, Peer::Unix(Some(7))).expect("may");
        assert_eq!(caller.actor(None), "operator@unix:7");
    }
}
