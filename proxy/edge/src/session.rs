//! The session of one request: what its tokens say, the wait for a replica, and the token for its answer.

use std::time::Duration;

use meridian_config::RouteIndex;
use meridian_control::{FoundToken, TOKEN_TTL_MS, TokenLook};
use meridian_routing::{
    AccessClass, Answered, CatchUp, Decision, Micros, Refusal, RoutingTable, SessionNeed,
    SessionRead, SessionToken, Shown, TokenFault, catch_up, decide_as,
};

use crate::admit::{Admitted, max_staleness};
use crate::affinity::Sticky;
use crate::forward::routing_facts;
use crate::identify::Peer;
use crate::request::{HostSpace, Request};
use crate::worker::Worker;

/// How often a request that waits looks whether its replica has caught up.
const LOOK: Duration = Duration::from_millis(2);

/// A cookie lives as long as the token in it.
const COOKIE_ATTRIBUTES: &str = "; Path=/; Max-Age=300; HttpOnly; SameSite=Lax";
const _: () = assert!(TOKEN_TTL_MS == 300_000);

/// A request on a route that keeps sessions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Session {
    found: Option<FoundToken>,
    /// What a read needs.
    need: Option<SessionNeed>,
    /// The client came by https.
    https: bool,
}

/// What a client is given.
pub(crate) struct Given {
    /// The value of `Set-Cookie`.
    pub(crate) cookie: String,
    /// The value of `Meridian-Session`.
    pub(crate) token: String,
}

impl Session {
    /// Reads the request's tokens and counts what is wrong with them; `None` where the route keeps no sessions.
    pub(crate) fn of(
        worker: &Worker,
        table: &RoutingTable,
        route: RouteIndex,
        peer: &Peer,
        request: &Request<'_>,
        now: Micros,
    ) -> Option<Self> {
        let fault = |fault| table.counters(route).token_fault(fault);
        Self::read(worker, table, route, peer, request, now, fault)
    }

    /// The same request's by another table, in which it may be of another service. What is wrong with its tokens was
    /// counted.
    pub(crate) fn by(
        worker: &Worker,
        table: &RoutingTable,
        route: RouteIndex,
        peer: &Peer,
        request: &Request<'_>,
        now: Micros,
    ) -> Option<Self> {
        Self::read(worker, table, route, peer, request, now, |_| ())
    }

    /// What is wrong with the tokens goes to `fault`.
    fn read(
        worker: &Worker,
        table: &RoutingTable,
        route: RouteIndex,
        peer: &Peer,
        request: &Request<'_>,
        now: Micros,
        fault: impl Fn(TokenFault),
    ) -> Option<Self> {
        table.session_cookie(route)?;
        let https = peer.is_https(&request.notes);
        if !request.notes.may_hold_tokens {
            return Some(Self { found: None, need: None, https });
        }
        let service = table.service(table.route(route).service);
        worker.with_session_keys(|keys| {
            let mut look = TokenLook::new(keys, service, worker.clock.unix_ms_at(now));
            request.fields.each(|name, value| look.field(name, value));
            look.faults().for_each(fault);
            Some(Self { found: look.found(), need: look.need(), https })
        })
    }

    /// What a read needs.
    pub(crate) fn need(&self) -> Option<SessionNeed> {
        self.need
    }

    /// Counts a read by where it is sent; `waited`: after a wait.
    fn count(&self, table: &RoutingTable, decided: &Result<Decision, Refusal>, waited: bool) {
        let Some(need) = self.need() else { return };
        let route = match decided {
            Ok(decision) if decision.class.access == AccessClass::Read => decision.route,
            // Only reads are refused for what their session has seen.
            Err(Refusal { route: Some(route), filter, .. })
                if *filter == meridian_routing::Filter::Session =>
            {
                *route
            }
            _ => return,
        };
        let service = table.service(table.route(route).service);
        let read = SessionRead::of(service, &need, decided.as_ref().ok(), waited);
        table.counters(route).read_in_session(read);
    }

    /// Whether an answer shows less than the session has seen.
    pub(crate) fn is_refuted_by(&self, shown: Shown) -> bool {
        self.need().is_some_and(|need| need.is_refuted_by(shown))
    }

    /// What the client is given with an answer of `status`; `None`: it has what it needs.
    pub(crate) fn given(
        &self,
        worker: &Worker,
        table: &RoutingTable,
        decision: &Decision,
        status: u16,
        shown: Shown,
    ) -> Option<Given> {
        let next = self.next(worker, table, decision, status, shown)?;
        let unchanged = self.found.is_some_and(|found| !found.stale && found.token.says_as(&next));
        if unchanged {
            return None;
        }
        let token = worker.with_session_keys(|keys| keys.seal_token(&next))?;
        let cookie = table.session_cookie(decision.route)?;
        let secure = if self.https { "; Secure" } else { "" };
        let cookie = [cookie, "=", token.as_str(), COOKIE_ATTRIBUTES, secure].concat();
        Some(Given { cookie, token })
    }

    /// The session's token after an answer; `None`: it has none, and needs none.
    fn next(
        &self,
        worker: &Worker,
        table: &RoutingTable,
        decision: &Decision,
        status: u16,
        mut shown: Shown,
    ) -> Option<SessionToken> {
        let wrote = decision.class.access == AccessClass::Write;
        // A request that was turned down has written nothing, unless the answer says how far the data is.
        let idle = match wrote {
            true => (400..500).contains(&status) && shown.position.is_none(),
            false => status >= 500,
        };
        if self.found.is_none() && (idle || !wrote) {
            return None;
        }
        let service = table.service(decision.service);
        let now = worker.clock.now();
        let unix_ms = worker.clock.unix_ms_at(now);
        let begun = || SessionToken {
            service: service.identity(),
            session: worker.random() as u64,
            epoch: 0,
            position: None,
            primary_until_unix_ms: 0,
            issued_unix_ms: unix_ms,
        };
        let held = self.found.map_or_else(begun, |found| found.held);
        let floors = service.floors.as_ref()?;
        let mut next = floors.raised(&held);
        if !idle {
            if wrote && shown.epoch.unwrap_or(0) == service.primacy.epoch {
                // Answers of one session may overtake one another on their way to a client that has no token yet.
                let known = service.endpoint(decision.endpoint.endpoint).position.get();
                shown.position = shown.position.map(|position| known.unwrap_or(0).max(position));
            }
            let answered = Answered::of(service, decision);
            next = next.after(&answered, shown, service.session_hold(now), unix_ms);
        }
        floors.given(&next);
        Some(SessionToken { issued_unix_ms: unix_ms, ..floors.raised(&next) })
    }
}

/// Whether a read's answer shows that it is not the one that was asked for: it has less than the session has seen, or is
/// staler than it may be. What is said of the primary's lag counts for nothing. The next read knows of it.
pub(crate) fn is_refuted(
    worker: &Worker,
    session: Option<&Session>,
    table: &RoutingTable,
    decision: &Decision,
    shown: Shown,
) -> bool {
    let nothing_to_find = shown.lag.is_none() && session.is_none_or(|s| s.need.is_none());
    if nothing_to_find || decision.class.access != AccessClass::Read {
        return false;
    }
    let service = table.service(decision.service);
    let primary = table.primary(decision.service) == Some(decision.region.region);
    let most = service.settings.replication.max_lag;
    let bound = decision.class.max_staleness.map_or(most, |bound| bound.min(most));
    let stale = !primary && shown.lag.is_some_and(|lag| lag > bound);
    let behind = session.is_some_and(|session| session.is_refuted_by(shown));
    if behind && let Some(position) = shown.position {
        // It has less than it was known to have: it was restored, perhaps.
        let endpoint = service.endpoint(decision.endpoint.endpoint);
        endpoint.position.went_back(shown.epoch, position);
    }
    if stale && let (Some(lag), Some(pool)) = (shown.lag, service.pool(decision.region.region)) {
        pool.load.0.report_lag(lag, worker.clock.now());
    }
    stale || behind
}

/// The wait before a read is decided again, if it should rather wait for a replica.
pub(crate) fn due(
    table: &RoutingTable,
    admitted: &Admitted,
    request: &Request<'_>,
    now: Micros,
) -> Option<CatchUp> {
    let need = admitted.session.as_ref()?.need()?;
    let decision = admitted.decided.as_ref().ok()?;
    let mut space = HostSpace::default();
    let mut facts = routing_facts(request, &mut space, None, max_staleness(request), now);
    facts.session = Some(need);
    catch_up(table, decision.route, decision.class, &admitted.client, &facts)
}

/// Waits until a replica has caught up, or for as long as that may take; whether it has.
pub(crate) async fn wait(table: &RoutingTable, decision: &Decision, due: &CatchUp) -> bool {
    let service = table.service(decision.service);
    let until = tokio::time::Instant::now() + due.within;
    loop {
        let now = tokio::time::Instant::now();
        if due.is_over(service) {
            return true;
        }
        if now >= until {
            return false;
        }
        // Each time: an answer may have come that was not far enough.
        due.want_news(service);
        tokio::time::sleep_until(until.min(now + LOOK)).await;
    }
}

/// Decides a request again, of which the class is known.
pub(crate) fn again(
    worker: &Worker,
    table: &RoutingTable,
    admitted: &Admitted,
    decision: &Decision,
    request: &Request<'_>,
    now: Micros,
) -> Result<Decision, Refusal> {
    let mut space = HostSpace::default();
    let mut facts = routing_facts(request, &mut space, None, max_staleness(request), now);
    facts.affinity = admitted.sticky.as_ref().and_then(Sticky::identity);
    facts.session = admitted.session.as_ref().and_then(Session::need);
    worker.with_dice(|dice| {
        let Decision { route, class, .. } = *decision;
        decide_as(table, route, class, &admitted.client, &facts, dice, &mut ())
    })
}

/// Counts a read with a token by where it goes in the end.
pub(crate) fn count(table: &RoutingTable, admitted: &Admitted, waited: bool) {
    if let Some(session) = &admitted.session {
        session.count(table, &admitted.decided, waited);
    }
}
