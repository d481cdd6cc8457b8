//! What an offer takes into pingora: the endpoints to try, the gate it must pass, and what its answer is given.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use meridian_config::{EndpointKey, HostHeader, Outlier};
use meridian_control::{ClaimSink, Clock, Finding, OutlierSink};
use meridian_routing::{
    AccessClass, Decision, EndpointLoad, EndpointView, Fault, RoutingTable, ServiceView, Term,
    WriteGate, WriteGuard, next_attempt,
};
use pingora_http::ResponseHeader;
use tokio::sync::oneshot;

use super::dial::{TunnelDial, TunnelTls};
use super::{CANDIDATES, KEEPALIVE, Offer};
use crate::admit::Admitted;
use crate::forward::Upload;
use crate::forward::canonical::{HSTS, HeadContext, request_head};
use crate::forward::hear::{Ears, claim_of, is_misdirected};
use crate::forward::{automatic, routing_facts};
use crate::http1::head::with_head;
use crate::proxy_protocol::Introduction;
use crate::request::HostSpace;
use crate::transport::Transport;
use crate::worker::Worker;

/// The decision, as it travels into pingora's context.
pub(super) struct Passage {
    pub(super) candidates: Vec<Candidate>,
    pub(super) tried: usize,
    pub(super) connect: Duration,
    pub(super) first_byte: Duration,
    pub(super) idle: Duration,
    /// Own answers are JSON.
    pub(super) json: bool,
    pub(super) id: String,
    /// Tells the lane that a final head, or 101, has come.
    pub(super) answered: Mutex<Option<oneshot::Sender<u16>>>,
    pub(super) set: Vec<(String, String)>,
    pub(super) removed: Vec<String>,
    pub(super) served_by: Option<String>,
    /// The connection ends after any answer but 101.
    pub(super) last_answer: bool,
    /// Of an offer that needs the primary.
    pub(super) fence: Option<Fence>,
    pub(super) outliers: OutlierSink,
    pub(super) claims: ClaimSink,
    pub(super) limits: Outlier,
    pub(super) clock: Clock,
}

impl Passage {
    /// The endpoint that is being tried failed.
    pub(super) fn blame(&self, fault: Fault) {
        let Some(candidate) = self.candidates.get(self.tried) else { return };
        let now = self.clock.now();
        candidate.load.failed_offer(fault, now);
        if let Some(suspicion) = candidate.load.suspect(&self.limits, now) {
            // If the keeper cannot be told, the hold lapses and the next failure tells again.
            let _ = self.outliers.tell(&candidate.key, Finding::Suspicion(suspicion));
        }
    }

    /// It answered.
    pub(super) fn learn(&self, status: u16) {
        if matches!(status, 500 | 502 | 503 | 504) {
            self.blame(Fault::ServerError);
        } else if let Some(candidate) = self.candidates.get(self.tried) {
            candidate.load.answered_offer();
        }
    }

    /// Hears what the endpoint says of itself; whether that is that it is not the primary.
    pub(super) fn hear(&self, response: &ResponseHeader) -> bool {
        let Some(candidate) = self.candidates.get(self.tried) else { return false };
        let fields = response.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let claim = claim_of(fields);
        if let Some(ears) = &candidate.ears {
            ears.hear(&candidate.key, &self.claims, &claim);
        }
        is_misdirected(response.status.as_u16(), &claim)
    }

    /// Tells the lane once.
    pub(super) fn tell(&self, status: u16) {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answered) = answered.take() {
            // The lane is gone only if the connection is.
            let _ = answered.send(status);
        }
    }
}

/// The gate that an offer must pass before its first byte leaves.
pub(super) struct Fence {
    pub(super) gate: Arc<WriteGate>,
    pub(super) epoch: u64,
    term: Term,
    /// Until it is answered.
    pub(super) inside: Option<WriteGuard>,
    /// It was not let in.
    pub(super) outdated: bool,
}

impl Fence {
    fn of(service: &ServiceView, decision: &Decision) -> Option<Self> {
        let needed = decision.class.access != AccessClass::Read;
        let (gate, epoch, term) = (service.writes.clone(), service.primacy.epoch, service.term);
        needed.then_some(Self { gate, epoch, term, inside: None, outdated: false })
    }

    /// Lets the offer in; for every connection that it is made on.
    pub(super) fn enter(&mut self) -> bool {
        self.inside = self.gate.enter(self.epoch, self.term);
        self.outdated = self.inside.is_none();
        !self.outdated
    }
}

pub(super) struct Candidate {
    pub(super) address: SocketAddr,
    /// The Host for this endpoint, where it is not the same for all.
    pub(super) host: Option<String>,
    pub(super) load: Arc<EndpointLoad>,
    pub(super) key: EndpointKey,
    /// Where its word counts.
    pub(super) ears: Option<Ears>,
    /// For the client, if this one answers with such a status.
    pub(super) set_cookie: Option<String>,
    pub(super) dial: Arc<TunnelDial>,
}

/// The canonical head and the context that goes with it.
pub(super) fn passage(
    offer: &Offer<'_>,
    table: &RoutingTable,
    admitted: &Admitted,
    decision: &Decision,
    answered: oneshot::Sender<u16>,
) -> Option<(Vec<u8>, Passage)> {
    let service = table.service(decision.service);
    let route = table.route(decision.route);
    let endpoint = service.endpoint(decision.endpoint.endpoint);
    let fence = Fence::of(service, decision);
    let limits = &table.config.limits;
    let region = table.region(decision.region.region);
    let timeouts = &service.settings.timeouts;
    let secure = service.settings.tls.is_some();
    let connect = timeouts.connect.unwrap_or_else(|| automatic(region.connect_timeout(), secure));
    let mut head = Vec::with_capacity(1024);
    let candidates = with_head(&offer.read[..offer.facts.len], limits, |request, _| {
        let context = HeadContext {
            route,
            service: &service.settings,
            endpoint,
            peer: offer.peer,
            ids: &admitted.ids,
            upload: Upload::Nothing,
            expect_continue: false,
            upgrade: true,
            sessions: table.keeps_sessions(),
            epoch: fence.as_ref().map_or(0, |fence| fence.epoch),
        };
        request_head(request, &context, &mut head);
        let mut space = HostSpace::default();
        let facts = routing_facts(request, &mut space, None, None, offer.started);
        candidates(offer, table, admitted, decision, &facts, connect)
    });
    let candidates = candidates.ok()?;
    let edits = &route.response_headers;
    let reason = decision.region.reason.label();
    // Before the route's own, which replaces it.
    let removes = edits.remove.iter().any(|name| name == HSTS);
    let own = offer.peer.hsts(route).filter(|_| !removes);
    let own = own.map(|value| (HSTS.to_owned(), value.to_owned())).into_iter();
    let passage = Passage {
        candidates,
        tried: 0,
        connect,
        first_byte: timeouts.first_byte,
        idle: timeouts.idle,
        json: admitted.json,
        id: admitted.ids.id().to_owned(),
        answered: Mutex::new(Some(answered)),
        set: own.chain(edits.set.iter().map(|(n, v)| (n.clone(), v.clone()))).collect(),
        removed: edits.remove.clone(),
        served_by: route
            .expose_decision
            .then(|| format!("{}; reason={reason}", region.settings.id)),
        // What the client has sent behind its offer goes to pingora with it, and does not come back.
        last_answer: matches!(offer.stream, Transport::Tls(_))
            || offer.read.len() > offer.facts.len,
        fence,
        outliers: offer.worker.outliers.clone(),
        claims: offer.worker.claims.clone(),
        limits: service.settings.outlier.clone(),
        clock: offer.worker.clock,
    };
    Some((head, passage))
}

/// The endpoints to try, in order: an upgrade that was never sent may go to the next.
fn candidates(
    offer: &Offer<'_>,
    table: &RoutingTable,
    admitted: &Admitted,
    decision: &Decision,
    facts: &meridian_routing::RequestFacts<'_>,
    connect: Duration,
) -> Vec<Candidate> {
    let service = table.service(decision.service);
    let worker = offer.worker;
    let introduction = service.settings.send_proxy_protocol;
    let introduction = introduction.map(|version| offer.peer.introduces(version, &admitted.client));
    let (mut list, mut tried, mut current) = (Vec::new(), Vec::new(), *decision);
    for _ in 0..CANDIDATES {
        let endpoint = service.endpoint(current.endpoint.endpoint);
        let host = (service.settings.host_header == HostHeader::Endpoint)
            .then(|| endpoint.key.address.to_string());
        list.extend(endpoint.addresses.first().map(|address| Candidate {
            address: *address,
            host,
            load: endpoint.load.clone(),
            key: endpoint.key.clone(),
            ears: Ears::of(service, endpoint),
            set_cookie: admitted.sticky.as_ref().and_then(|sticky| {
                sticky.set_cookie(worker, table, decision, current.endpoint.endpoint, 200)
            }),
            dial: dial(worker, service, endpoint, introduction, connect),
        }));
        tried.push(current.endpoint.endpoint);
        match next_attempt(table, &admitted.client, facts, &current, &tried) {
            Some(next) => current = next,
            None => break,
        }
    }
    list
}

/// How pingora connects to an endpoint.
fn dial(
    worker: &Worker,
    service: &ServiceView,
    endpoint: &EndpointView,
    introduction: Option<Introduction>,
    within: Duration,
) -> Arc<TunnelDial> {
    let secure = service.settings.tls.as_ref().map(|settings| TunnelTls {
        tls: worker.endpoint_tls(&settings.files),
        settings: settings.clone(),
        key: endpoint.key.clone(),
        counters: service.counters.clone(),
    });
    Arc::new(TunnelDial { introduction, secure, within, keepalive: KEEPALIVE })
}
