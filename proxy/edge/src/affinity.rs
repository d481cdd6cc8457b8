//! Affinity of one request: what its cookie says, what became of that, and the cookie for its answer.

use std::time::Duration;

use meridian_config::{Affinity, CookieSecure, RouteIndex, SameSite};
use meridian_control::{Presented, SessionKeys, unix_ms};
use meridian_routing::{
    AffinityOutcome, Decision, EndpointIdentity, EndpointIndex, EndpointReason, Refusal,
    RoutingTable,
};

use crate::identify::Peer;
use crate::request::Request;
use crate::worker::Worker;

/// A request on a route with affinity.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sticky {
    presented: Result<Presented, AffinityOutcome>,
    /// The client came by https.
    https: bool,
}

impl Sticky {
    /// Reads the request's cookie; `None` where the route has no affinity.
    pub(crate) fn of(
        worker: &Worker,
        table: &RoutingTable,
        route: RouteIndex,
        peer: &Peer,
        request: &Request<'_>,
    ) -> Option<Self> {
        if !table.has_affinity(route) {
            return None;
        }
        let affinity = table.route(route).affinity.as_ref()?;
        let mut cookies = Vec::new();
        request.fields.each(|name, value| {
            if name.eq_ignore_ascii_case("cookie") {
                cookies.push(value);
            }
        });
        let presented = worker
            .with_session_keys(|keys| keys.look(cookies.into_iter(), affinity, unix_ms() / 1000));
        Some(Self { presented, https: peer.is_https(&request.notes) })
    }

    /// The endpoint that a valid cookie names.
    pub(crate) fn identity(&self) -> Option<EndpointIdentity> {
        self.presented.ok().map(|presented| presented.identity)
    }

    /// Counts what the decision made of it.
    pub(crate) fn count(&self, table: &RoutingTable, decided: &Result<Decision, Refusal>) {
        let route = match decided {
            Ok(decision) => decision.route,
            Err(Refusal { route: Some(route), .. }) => *route,
            Err(_) => return,
        };
        let kept = |d: &Decision| d.endpoint.reason == EndpointReason::Affinity;
        let outcome = match self.presented {
            Err(outcome) => outcome,
            Ok(_) if decided.as_ref().is_ok_and(kept) => AffinityOutcome::Kept,
            Ok(presented) => {
                let service = table.service(table.route(route).service);
                service.find(presented.identity).err().unwrap_or(AffinityOutcome::Yielded)
            }
        };
        table.counters(route).bound(outcome);
    }

    /// The `Set-Cookie` for an answer with `status` of an endpoint; `None`: the client has what it needs. A server error
    /// binds nobody.
    pub(crate) fn set_cookie(
        &self,
        worker: &Worker,
        table: &RoutingTable,
        decision: &Decision,
        endpoint: EndpointIndex,
        status: u16,
    ) -> Option<String> {
        let affinity = table.route(decision.route).affinity.as_ref()?;
        let identity = table.service(decision.service).endpoint(endpoint).identity;
        let fresh = |presented: Presented| presented.identity == identity && !presented.stale;
        if status >= 500 || self.presented.is_ok_and(fresh) {
            return None;
        }
        worker.with_session_keys(|keys| written(keys, affinity, identity, self.https))
    }
}

fn written(
    keys: &SessionKeys,
    affinity: &Affinity,
    identity: EndpointIdentity,
    https: bool,
) -> Option<String> {
    let value = keys.seal(identity, unix_ms() / 1000)?;
    let Affinity { cookie, ttl, secure, same_site } = affinity;
    let age = Duration::as_secs(ttl);
    let site = match same_site {
        SameSite::Lax => "Lax",
        SameSite::Strict => "Strict",
        SameSite::None => "None",
    };
    let secure = match secure {
        CookieSecure::Auto if https => "; Secure",
        CookieSecure::Always => "; Secure",
        CookieSecure::Auto | CookieSecure::Never => "",
    };
    Some(format!("{cookie}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite={site}{secure}"))
}
