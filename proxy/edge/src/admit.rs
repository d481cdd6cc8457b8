//! From a parsed head to a decision: identify, route, classify, choose. Synchronous; the same for both protocols.

use std::sync::Arc;
use std::time::Duration;

use meridian_config::{Listener, RouteIndex};
use meridian_routing::{
    Client, Decision, Filter, Micros, Refusal, RequestFacts, RoutingTable, decide, decide_on,
};

use crate::acme::challenge;
use crate::affinity::Sticky;
use crate::crowd::Member;
use crate::forward::canonical::RequestIds;
use crate::forward::routing_facts;
use crate::http1::body::push_field;
use crate::identify::Peer;
use crate::log_line::Described;
use crate::redirect::to_https;
use crate::request::{HostSpace, Request, text};
use crate::session::Session;
use crate::worker::Worker;

/// A request that was looked at.
pub(crate) struct Admitted {
    pub(crate) client: Client,
    pub(crate) ids: RequestIds,
    pub(crate) decided: Result<Decision, Refusal>,
    /// It was refused for want of a primary, and may wait for one.
    pub(crate) parks: bool,
    /// Where the route has affinity.
    pub(crate) sticky: Option<Sticky>,
    /// Where the route keeps sessions.
    pub(crate) session: Option<Session>,
    /// The route classifies by the body: decide again with it.
    pub(crate) wants_body: bool,
    /// Own answers are JSON.
    pub(crate) json: bool,
    /// For the access log, while it is on.
    pub(crate) described: Option<Described>,
    /// Where the request is this edge's to answer.
    pub(crate) own: Option<Box<Own>>,
    /// Where the request is served by https, where it is sent there.
    pub(crate) location: Option<String>,
    /// Counts the request where there are caps.
    pub(crate) member: Member,
}

/// An answer of this edge's: it is the last hop (`Max-Forwards: 0`), or an authority asks for a challenge.
pub(crate) struct Own {
    /// The whole answer of HTTP/1.1.
    pub(crate) bytes: Vec<u8>,
    /// For the access log.
    pub(crate) reason: &'static str,
}

impl Own {
    fn new(bytes: Vec<u8>, reason: &'static str) -> Box<Self> {
        Box::new(Self { bytes, reason })
    }
}

impl Admitted {
    /// Whether the request carries a token that has a say in where it goes.
    pub(crate) fn is_in_session(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.need().is_some())
    }

    /// The route of a request that goes on, now or once there is a primary.
    pub(crate) fn heads_for(&self) -> Option<RouteIndex> {
        match &self.decided {
            Ok(decision) => Some(decision.route),
            Err(refusal) => refusal.route.filter(|_| self.parks),
        }
    }

    /// What it is refused for if its body is no good.
    pub(crate) fn turned_down(&self, status: u16) -> Refusal {
        Refusal { route: self.heads_for(), filter: Filter::Malformed, status }
    }

    /// The request's id for the access log; empty while that is off.
    pub(crate) fn logged_id(&self) -> &str {
        if self.described.is_some() { self.ids.id() } else { "" }
    }
}

/// What routing looks at, but for what the route of the request asks for.
fn facts<'a>(
    peer: &'a Peer,
    request: &'a Request<'_>,
    space: &'a mut HostSpace,
    body: Option<&'a [u8]>,
    now: Micros,
) -> RequestFacts<'a> {
    let facts = routing_facts(request, space, body, max_staleness(request), now);
    RequestFacts { certificate: peer.certificate(), ..facts }
}

/// Identifies the client and decides.
pub(crate) fn admit(
    worker: &Worker,
    table: &Arc<RoutingTable>,
    peer: &Peer,
    listener: &Listener,
    request: &Request<'_>,
    now: Micros,
) -> Admitted {
    let trusted = &listener.trusted_proxies;
    let client = worker.with_geo(|geo| peer.client(&request.fields, trusted, geo));
    let ids = RequestIds::new(&request.notes, worker.random());
    let mut space = HostSpace::default();
    let mut facts = facts(peer, request, &mut space, None, now);
    let route = table.find_route(&facts);
    let sticky = route.and_then(|route| Sticky::of(worker, table, route, peer, request));
    facts.affinity = sticky.as_ref().and_then(Sticky::identity);
    let session = route.and_then(|route| Session::of(worker, table, route, peer, request, now));
    facts.session = session.as_ref().and_then(Session::need);
    let redirect = listener.redirect_https.as_ref().and_then(|to| to_https(to, peer, request));
    let decided = match &redirect {
        None => worker.with_dice(|dice| match route {
            Some(route) => decide_on(table, route, &client, &facts, dice, &mut ()),
            None => decide(table, &client, &facts, dice),
        }),
        Some(moved) => Err(Refusal { route, filter: Filter::Https, status: moved.status }),
    };
    let own = match &redirect {
        None => challenge(worker, listener, request)
            .map(|bytes| Own::new(bytes, "acme-challenge"))
            .or_else(|| Some(Own::new(last_hop(request)?, "last-hop"))),
        Some(_) => None,
    };
    let wants_body = redirect.is_none() && own.is_none() && table.wants_body(&facts);
    if let Some(sticky) = sticky.filter(|_| !wants_body) {
        sticky.count(table, &decided);
    }
    let parks = decided.is_err_and(|refusal| !wants_body && table.may_wait(&refusal, &facts));
    let accept = text(request.notes.accept);
    Admitted {
        client,
        ids,
        decided,
        parks,
        sticky,
        session,
        wants_body,
        json: accept.is_some_and(|a| a.contains("json") && !a.contains("text/html")),
        described: worker.log.is_on().then(|| Described::of(worker, peer, request)),
        own,
        location: redirect.and_then(|moved| moved.location),
        member: Member::default(),
    }
}

/// Decides again, with the body where it is small enough to be held.
pub(crate) fn admit_with_body(
    worker: &Worker,
    table: &Arc<RoutingTable>,
    peer: &Peer,
    request: &Request<'_>,
    admitted: &Admitted,
    body: Option<&[u8]>,
    now: Micros,
) -> (Result<Decision, Refusal>, bool) {
    let mut space = HostSpace::default();
    let mut facts = facts(peer, request, &mut space, body, now);
    facts.affinity = admitted.sticky.as_ref().and_then(Sticky::identity);
    facts.session = admitted.session.as_ref().and_then(Session::need);
    let decided = worker.with_dice(|dice| decide(table, &admitted.client, &facts, dice));
    if let Some(sticky) = &admitted.sticky {
        sticky.count(table, &decided);
    }
    let parks = decided.is_err_and(|refusal| table.may_wait(&refusal, &facts));
    (decided, parks)
}

/// What came of deciding again.
pub(crate) struct Again {
    pub(crate) decided: Result<Decision, Refusal>,
    /// It was refused for want of a primary, and may wait for one.
    pub(crate) parks: bool,
    /// Where the route has affinity.
    pub(crate) sticky: Option<Sticky>,
    /// Where the route keeps sessions.
    pub(crate) session: Option<Session>,
}

/// Decides a request that waits for a primary again, by another table. What was said of its body is not at hand any more:
/// where it counts, the request is a write.
pub(crate) fn admit_again(
    worker: &Worker,
    table: &Arc<RoutingTable>,
    peer: &Peer,
    client: &Client,
    request: &Request<'_>,
    now: Micros,
) -> Again {
    let mut space = HostSpace::default();
    let mut facts = facts(peer, request, &mut space, None, now);
    let route = table.find_route(&facts);
    let sticky = route.and_then(|route| Sticky::of(worker, table, route, peer, request));
    facts.affinity = sticky.as_ref().and_then(Sticky::identity);
    let session = route.and_then(|route| Session::by(worker, table, route, peer, request, now));
    facts.session = session.as_ref().and_then(Session::need);
    let decided = worker.with_dice(|dice| decide(table, client, &facts, dice));
    let parks = decided.is_err_and(|refusal| table.may_wait(&refusal, &facts));
    Again { decided, parks, sticky, session }
}

/// `Meridian-Max-Staleness: 5s` (or `250ms`, or whole seconds): a client may tighten the route's bound; of several the
/// tightest counts. What cannot be read counts as no staleness at all: a client that asked for a bound must not get none.
pub(crate) fn max_staleness(request: &Request<'_>) -> Option<Duration> {
    const NAME: &str = "meridian-max-staleness";
    if !request.notes.has_max_staleness {
        return None;
    }
    let mut tightest: Option<Duration> = None;
    request.fields.each(|name, value| {
        if name.eq_ignore_ascii_case(NAME) {
            let bound = staleness(value);
            tightest = Some(tightest.map_or(bound, |other| other.min(bound)));
        }
    });
    tightest
}

fn staleness(value: &[u8]) -> Duration {
    let text = std::str::from_utf8(value).unwrap_or_default().trim();
    let (digits, scale) = match text.strip_suffix("ms") {
        Some(digits) => (digits, 1),
        None => (text.strip_suffix('s').unwrap_or(text), 1000),
    };
    let bound = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(scale));
    Duration::from_millis(bound.unwrap_or(0))
}

/// OPTIONS and TRACE that may not be forwarded any further are answered here (RFC 9110 section 7.6.2).
fn last_hop(request: &Request<'_>) -> Option<Vec<u8>> {
    if !matches!(request.method, "OPTIONS" | "TRACE") {
        return None;
    }
    if request.fields.text("max-forwards")?.trim() != "0" {
        return None;
    }
    let mut out = b"HTTP/1.1 200 OK\r\n".to_vec();
    if request.method == "OPTIONS" {
        push_field("allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE", &mut out);
        push_field("content-length", b"0", &mut out);
        out.extend_from_slice(b"\r\n");
        return Some(out);
    }
    // What was received, without what may be secret.
    let mut echo = format!("TRACE {} HTTP/1.1\r\n", request.target).into_bytes();
    request.fields.each(|name, value| {
        let kept = ["host", "via", "max-forwards", "user-agent"];
        if kept.iter().any(|kept| name.eq_ignore_ascii_case(kept)) {
            push_field(name, value, &mut echo);
        }
    });
    push_field("content-type", b"message/http", &mut out);
    push_field("content-length", echo.len().to_string().as_bytes(), &mut out);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(&echo);
    Some(out)
}

/// The longest body that a request may have.
pub(crate) fn most_body(table: &RoutingTable, route: RouteIndex) -> u64 {
    let most = table.config.limits.body_bytes;
    table.route(route).body_bytes.map_or(most, |own| own.min(most))
}
