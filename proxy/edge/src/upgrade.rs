//! The pingora lane: upgrades (WebSocket and the like) through pingora-proxy, on the same connection.
//!
//! The head is parsed, decided and made canonical like any other; pingora is handed the canonical bytes on a duplicate
//! of the socket. An endpoint that does not take the offer answers like any other, and the connection goes on here.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue};
use meridian_config::{EndpointKey, HostHeader, Outlier, RegionIndex};
use meridian_control::{ClaimSink, Clock, Finding, OutlierSink};
use meridian_routing::{
    AccessClass, Decision, EndpointLoad, EndpointReason, EndpointView, Fault, Filter, Histogram,
    Micros, Outcome, Refusal, RoutingTable, ServiceRegionLoad, ServiceView, WriteGate, WriteGuard,
    next_attempt,
};
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::l4::{self, stream::Stream as L4Stream};
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, HttpProxy, ProxyHttp, Session, http_proxy};
use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{oneshot, watch};

use crate::admit::Admitted;
use crate::alarm::Alarm;
use crate::connection::Counted;
use crate::forward::Upload;
use crate::forward::canonical::{HSTS, HeadContext, is_response_hop, named_by, request_head};
use crate::forward::hear::{Ears, claim_of, is_misdirected};
use crate::forward::{automatic, routing_facts};
use crate::http1::head::{HeadFacts, content_length, with_head};
use crate::identify::Peer;
use crate::listener::ListenerState;
use crate::observe::{Observation, observe};
use crate::request::HostSpace;
use crate::respond::OwnAnswer;
use crate::tls::{TunnelDial, bridge};
use crate::transport::Transport;
use crate::worker::Worker;

/// Endpoints that may be tried before the offer is given up.
const CANDIDATES: usize = 3;
/// A silent tunnel is asked whether its ends are still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// One worker's pingora-proxy.
pub(crate) struct UpgradeLane {
    proxy: Arc<HttpProxy<Lane>>,
    shutdown: watch::Receiver<bool>,
}

/// What became of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Returned {
    /// It can take another request.
    Open,
    /// It is over.
    Gone,
}

/// What is handed over.
pub(crate) struct Offer<'a> {
    pub(crate) worker: &'a Worker,
    pub(crate) listener: &'a ListenerState,
    pub(crate) peer: &'a Peer,
    pub(crate) stream: &'a mut Transport,
    /// The request's head and what was read behind it.
    pub(crate) read: &'a [u8],
    pub(crate) facts: HeadFacts,
    pub(crate) started: Micros,
    pub(crate) alarm: &'a Alarm,
}

/// The decision, as it travels into pingora's context.
struct Passage {
    candidates: Vec<Candidate>,
    tried: usize,
    connect: Duration,
    first_byte: Duration,
    idle: Duration,
    /// Own answers are JSON.
    json: bool,
    id: String,
    /// Tells the lane that a final head, or 101, has come.
    answered: Mutex<Option<oneshot::Sender<u16>>>,
    set: Vec<(String, String)>,
    removed: Vec<String>,
    served_by: Option<String>,
    /// The connection ends after any answer but 101.
    bridged: bool,
    /// Of an offer that needs the primary.
    fence: Option<Fence>,
    outliers: OutlierSink,
    claims: ClaimSink,
    limits: Outlier,
    clock: Clock,
}

/// The gate that an offer must pass before its first byte leaves.
struct Fence {
    gate: Arc<WriteGate>,
    epoch: u64,
    region: RegionIndex,
    /// Until it is answered.
    inside: Option<WriteGuard>,
    /// It was not let in.
    outdated: bool,
}

impl Fence {
    fn of(service: &ServiceView, decision: &Decision) -> Option<Self> {
        let needed = decision.class.access != AccessClass::Read;
        let (gate, epoch) = (service.writes.clone(), service.primacy.epoch);
        let region = service.primacy.region.filter(|_| needed)?;
        Some(Self { gate, epoch, region, inside: None, outdated: false })
    }

    /// Lets the offer in; for every connection that it is made on.
    fn enter(&mut self) -> bool {
        self.inside = self.gate.enter(self.epoch, self.region);
        self.outdated = self.inside.is_none();
        !self.outdated
    }
}

struct Candidate {
    address: SocketAddr,
    /// The Host for this endpoint, where it is not the same for all.
    host: Option<String>,
    load: Arc<EndpointLoad>,
    key: EndpointKey,
    /// Where its word counts.
    ears: Option<Ears>,
    /// For the client, if this one answers with such a status.
    set_cookie: Option<String>,
    /// Where the service has TLS.
    dial: Option<Arc<TunnelDial>>,
}

struct Lane;

impl UpgradeLane {
    pub(crate) fn new() -> Self {
        let conf = ServerConf { max_retries: CANDIDATES, ..ServerConf::default() };
        // Never told to stop: a draining edge lets tunnels run into its grace period.
        let (_, shutdown) = watch::channel(false);
        Self { proxy: Arc::new(http_proxy(&Arc::new(conf), Lane)), shutdown }
    }

    /// Carries one request, and the tunnel that may follow. Lets go of the table as soon as there is an answer.
    pub(crate) async fn carry(
        &self,
        offer: Offer<'_>,
        table: Arc<RoutingTable>,
        admitted: Admitted,
        decision: Decision,
    ) -> Returned {
        let Ok((stream, mut near)) = ends(offer.stream) else { return Returned::Gone };
        let decision = off_trial(&offer, &table, &admitted, decision);
        let (answered, mut answer) = oneshot::channel();
        let Some((head, passage)) = passage(&offer, &table, &admitted, &decision, answered) else {
            return Returned::Gone;
        };
        let load = passage.candidates.first().map(|candidate| candidate.load.clone());
        let mut prefix = BytesMut::from(&head[..]);
        prefix.extend_from_slice(&offer.read[offer.facts.len..]);
        let mut session = ServerSession::new_http1(Box::new(stream));
        // The proxy reads the request itself, from here.
        session.set_pipelined_prefix(prefix);
        session.set_read_timeout(None);
        let idle = passage.idle;
        session.set_write_timeout(Some(idle));
        // A bridged connection has no way back.
        session.set_keepalive(near.is_none().then_some(60));
        session.set_connection_user_context(Some(Box::new(passage)));
        let timeouts = &table.service(decision.service).settings.timeouts;
        offer.alarm.set(timeouts.first_byte.min(timeouts.request));
        let running = Running::begin(load, &table, &decision, offer.worker.clock);
        let _tunnel = Counted::new(offer.listener, |counters| &counters.upgraded);
        let proxied = self.proxy.process_new_http(session, &self.shutdown);
        // Whether the connection can go on, with the original of the duplicate that comes back; and whether the client
        // took all there was for it.
        let mut carried = Box::pin(async {
            match &mut near {
                None => (proxied.await.is_some(), true),
                Some(near) => {
                    // Dropping what comes back closes the far end.
                    let work = async { drop(proxied.await) };
                    (false, bridge(offer.stream, near, work, idle).await)
                }
            }
        });
        let mut ended = None;
        let first = async {
            tokio::select! {
                biased;
                status = &mut answer => status.unwrap_or(502),
                end = &mut carried => {
                    ended = Some(end);
                    // Head and body of a refusal may come in one go.
                    answer.try_recv().unwrap_or(502)
                }
            }
        };
        let first = offer.alarm.race(first).await;
        let (late, status) = (first.is_err(), first.unwrap_or(504));
        let seen = Observation::handed_over(&table, &admitted, &decision, status, offer.started);
        observe(offer.worker, &seen);
        if late {
            running.failed();
            drop(carried);
            let late = OwnAnswer::new(504, "gateway_timeout", "the service did not answer in time");
            let bytes = late.http1(admitted.json, admitted.ids.id(), true, false);
            // The client may be gone: then nobody reads the answer.
            let _ = offer.alarm.race(offer.stream.write_all(&bytes, &[])).await;
            return Returned::Gone;
        }
        // The tunnel counts as a request for as long as it lasts.
        let _member = admitted.member;
        drop(table);
        let (kept, clean) = match ended {
            Some(ended) => {
                drop(carried);
                ended
            }
            None => carried.await,
        };
        if status == 101 && clean {
            // The client may have gone first.
            let _ = offer.stream.shut_down();
        }
        if kept && status != 101 && offer.facts.keep_alive {
            Returned::Open
        } else {
            Returned::Gone
        }
    }
}

/// Counts the tunnel at its endpoint for as long as it runs. What it says of the endpoint, [`Candidate`] tells.
struct Running {
    load: Option<Arc<EndpointLoad>>,
    /// Its region, where somebody may wait for room.
    region: Option<Arc<(ServiceRegionLoad, Histogram)>>,
    clock: Clock,
}

impl Running {
    fn begin(
        load: Option<Arc<EndpointLoad>>,
        table: &RoutingTable,
        decision: &Decision,
        clock: Clock,
    ) -> Self {
        if let Some(load) = &load {
            load.begin();
        }
        let service = table.service(decision.service);
        let pool = service.pool(decision.region.region);
        let pool = pool.filter(|_| service.settings.overload.is_on());
        Self { load, region: pool.map(|pool| pool.load.clone()), clock }
    }

    /// It did not answer in time.
    fn failed(&self) {
        if let Some(load) = &self.load {
            load.failed_offer(Fault::Connection, self.clock.now());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(load) = &self.load {
            load.end(Outcome::Abandoned, self.clock.now());
        }
        if let Some(region) = &self.region {
            region.0.line.call();
        }
    }
}

impl Passage {
    /// The endpoint that is being tried failed.
    fn blame(&self, fault: Fault) {
        let Some(candidate) = self.candidates.get(self.tried) else { return };
        let now = self.clock.now();
        candidate.load.failed_offer(fault, now);
        if let Some(suspicion) = candidate.load.suspect(&self.limits, now) {
            // If the keeper cannot be told, the hold lapses and the next failure tells again.
            let _ = self.outliers.tell(&candidate.key, Finding::Suspicion(suspicion));
        }
    }

    /// It answered.
    fn learn(&self, status: u16) {
        if matches!(status, 500 | 502 | 503 | 504) {
            self.blame(Fault::ServerError);
        } else if let Some(candidate) = self.candidates.get(self.tried) {
            candidate.load.answered_offer();
        }
    }
}

/// A tunnel makes no trial: it may last for hours, and pingora may move on to the next endpoint.
fn off_trial(
    offer: &Offer<'_>,
    table: &RoutingTable,
    admitted: &Admitted,
    decision: Decision,
) -> Decision {
    if decision.endpoint.reason != EndpointReason::Trial {
        return decision;
    }
    let other = with_head(&offer.read[..offer.facts.len], &table.config.limits, |request, _| {
        let mut space = HostSpace::default();
        let facts = routing_facts(request, &mut space, None, None, offer.started);
        next_attempt(table, &admitted.client, &facts, &decision, &[decision.endpoint.endpoint])
    });
    other.ok().flatten().unwrap_or(decision)
}

/// What pingora gets of a connection, and under TLS the near end of it.
fn ends(client: &Transport) -> io::Result<(L4Stream, Option<UnixStream>)> {
    match client {
        Transport::Plain(stream) => Ok((duplicate(stream)?.into(), None)),
        Transport::Tls(stream) => {
            keep_alive(&SockRef::from(&stream.socket))?;
            let (near, far) = UnixStream::pair()?;
            Ok((far.into(), Some(near)))
        }
    }
}

/// A second handle on the same socket, with a registration of its own.
fn duplicate(stream: &TcpStream) -> io::Result<TcpStream> {
    let socket = SockRef::from(stream).try_clone()?;
    keep_alive(&socket)?;
    TcpStream::from_std(socket.into())
}

/// A tunnel may be silent for long; this tells whether its client is still there.
fn keep_alive(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))
}

/// The canonical head and the context that goes with it.
fn passage(
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
        candidates(offer.worker, table, admitted, decision, &facts, connect)
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
        bridged: matches!(offer.stream, Transport::Tls(_)),
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
    worker: &Worker,
    table: &RoutingTable,
    admitted: &Admitted,
    decision: &Decision,
    facts: &meridian_routing::RequestFacts<'_>,
    connect: Duration,
) -> Vec<Candidate> {
    let service = table.service(decision.service);
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
            dial: dial(worker, service, endpoint, connect),
        }));
        tried.push(current.endpoint.endpoint);
        match next_attempt(table, &admitted.client, facts, &current, &tried) {
            Some(next) => current = next,
            None => break,
        }
    }
    list
}

/// How pingora connects to an endpoint, where the service has TLS.
fn dial(
    worker: &Worker,
    service: &ServiceView,
    endpoint: &EndpointView,
    within: Duration,
) -> Option<Arc<TunnelDial>> {
    let settings = service.settings.tls.clone()?;
    Some(Arc::new(TunnelDial {
        tls: worker.endpoint_tls(&settings.files),
        settings,
        key: endpoint.key.clone(),
        counters: service.counters.clone(),
        within,
        keepalive: KEEPALIVE,
    }))
}

#[async_trait]
impl ProxyHttp for Lane {
    type CTX = Option<Passage>;

    fn new_ctx(&self) -> Self::CTX {
        None
    }

    /// The decision arrives as the context of the connection.
    fn on_connection_reuse(
        &self,
        _: &mut Session,
        ctx: &mut Self::CTX,
        previous: Box<dyn std::any::Any + Send + Sync>,
    ) {
        *ctx = previous.downcast::<Passage>().ok().map(|passage| *passage);
    }

    async fn upstream_peer(&self, _: &mut Session, ctx: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        let none_left = || Error::new(ErrorType::ConnectNoRoute);
        let passage = ctx.as_mut().ok_or_else(none_left)?;
        let candidate = passage.candidates.get(passage.tried).ok_or_else(none_left)?;
        let mut peer = HttpPeer::new(candidate.address, false, String::new());
        if let Some(dial) = &candidate.dial {
            peer.options.custom_l4 = Some(dial.clone());
            // An endpoint that does not take the offer loses the connection: pingora tells kept ones apart by their
            // descriptors, and such a stream has none.
            peer.group_key = fastrand::u64(..);
        }
        peer.options.connection_timeout = Some(passage.connect);
        peer.options.total_connection_timeout = Some(passage.connect);
        // A tunnel may be silent; TCP keep-alive tells whether its ends are there.
        peer.options.read_timeout = None;
        peer.options.write_timeout = Some(passage.first_byte);
        peer.options.tcp_keepalive = Some(l4::ext::TcpKeepalive {
            idle: KEEPALIVE,
            interval: KEEPALIVE,
            count: 3,
            user_timeout: KEEPALIVE,
        });
        let kept = if candidate.dial.is_some() { Duration::ZERO } else { Duration::from_secs(55) };
        peer.options.idle_timeout = Some(kept);
        Ok(Box::new(peer))
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        upstream: &mut RequestHeader,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        if let Some(fence) = ctx.as_mut().and_then(|passage| passage.fence.as_mut())
            && !fence.enter()
        {
            return Error::e_explain(ErrorType::ConnectNoRoute, "the primary has changed");
        }
        let host = ctx.as_ref().and_then(|p| p.candidates.get(p.tried)?.host.clone());
        match host {
            Some(host) => upstream.insert_header("host", host),
            None => Ok(()),
        }
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        ctx: &mut Self::CTX,
        mut error: Box<Error>,
    ) -> Box<Error> {
        if let Some(passage) = ctx {
            passage.blame(Fault::Connection);
            passage.tried += 1;
            error.set_retry(passage.tried < passage.candidates.len());
        }
        error
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Self::CTX,
        _: bool,
    ) -> Box<Error> {
        let answered = session.response_written().is_some();
        if let Some(passage) = ctx.as_ref().filter(|_| !answered)
            && *error.esource() == ErrorSource::Upstream
        {
            passage.blame(Fault::Connection);
        }
        // Bytes have left: an offer is not made twice.
        let mut error = error.more_context(format!("Peer: {peer}"));
        error.retry = false.into();
        error
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        let Some(passage) = ctx else { return Ok(()) };
        if !is_plainly_framed(response) {
            return Error::e_explain(ErrorType::InvalidHTTPHeader, "ambiguous framing");
        }
        let misdirected = passage.hear(response) && passage.fence.is_some();
        if misdirected {
            // Nothing was executed; offers do not wait for the primary.
            response.set_status(503)?;
            response.insert_header("retry-after", "1")?;
        }
        let status = response.status.as_u16();
        remove_hops(response);
        if passage.bridged && status >= 200 {
            // Reading the request has set it anew.
            session.set_keepalive(None);
        }
        for name in &passage.removed {
            response.remove_header(name.as_str());
        }
        for (name, value) in &passage.set {
            response.insert_header(name.clone(), value.as_str())?;
        }
        if let Some(value) = &passage.served_by {
            response.insert_header("meridian-served-by", value.as_str())?;
        }
        let set_cookie = passage.candidates.get(passage.tried).and_then(|c| c.set_cookie.as_ref());
        if let Some(value) = set_cookie.filter(|_| matches!(status, 101 | 200..=499)) {
            response.append_header("set-cookie", value.as_str())?;
        }
        if status == 101 || status >= 200 {
            // What was misdirected says nothing of the endpoint's health.
            passage.learn(if misdirected { 421 } else { status });
            passage.tell(status);
            if let Some(fence) = &mut passage.fence {
                fence.inside = None;
            }
        }
        Ok(())
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Self::CTX,
    ) -> FailToProxy {
        if matches!(error.esource(), ErrorSource::Downstream) {
            // The client went away, or broke the protocol: says nothing of the endpoint.
            if let Some(passage) = ctx {
                passage.tell(499);
            }
            return FailToProxy { error_code: 499, can_reuse_downstream: false };
        }
        let outdated = |passage: &Passage| passage.fence.as_ref().is_some_and(|f| f.outdated);
        let answer = match error.etype() {
            _ if ctx.as_ref().is_some_and(outdated) => OwnAnswer::refusal(&Refusal {
                route: None,
                filter: Filter::PrimaryUnknown,
                status: 503,
            }),
            ErrorType::ReadTimedout | ErrorType::WriteTimedout => {
                OwnAnswer::new(504, "gateway_timeout", "the service did not answer in time")
            }
            kind if is_connect(kind) => OwnAnswer::unavailable(1),
            _ => OwnAnswer::new(502, "bad_gateway", "the service answered incorrectly"),
        };
        let status = answer.status;
        if session.response_written().is_none() {
            let (json, id) = ctx.as_ref().map_or((false, "-"), |p| (p.json, p.id.as_str()));
            // The client may be gone: then nobody reads the answer.
            let _ = write_answer(session, &answer, json, id).await;
        }
        if let Some(passage) = ctx {
            passage.tell(status);
        }
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }

    fn suppress_error_log(&self, _: &Session, _: &Self::CTX, _: &Error) -> bool {
        true
    }
}

/// Takes off what is not for the client; framing and what belongs to a switch of protocols is pingora's.
fn remove_hops(response: &mut ResponseHeader) {
    let mut named = Vec::new();
    for value in response.headers.get_all(CONNECTION) {
        named_by(value.as_bytes(), &mut named);
    }
    let switches = matches!(response.status.as_u16(), 101 | 426);
    let goes = |name: &&HeaderName| match name.as_str() {
        "connection" | "content-length" | "transfer-encoding" => false,
        "upgrade" => !switches,
        name => is_response_hop(name) || named.iter().any(|other| other == name),
    };
    let gone: Vec<_> = response.headers.keys().filter(goes).cloned().collect();
    for name in gone {
        response.remove_header(&name);
    }
}

/// What the direct lane demands of a response's framing. (A length beside a coding cannot be seen any
/// more: pingora has dropped it.)
fn is_plainly_framed(response: &ResponseHeader) -> bool {
    let mut lengths = response.headers.get_all(CONTENT_LENGTH).iter();
    let mut codings = response.headers.get_all(TRANSFER_ENCODING).iter();
    let first = lengths.next().map(|value| content_length(value.as_bytes()));
    let same = |value: &HeaderValue| first == Some(content_length(value.as_bytes()));
    let chunked = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
    let one_coding = codings.next().is_none_or(chunked) && codings.next().is_none();
    first != Some(None) && lengths.all(same) && one_coding
}

fn is_connect(kind: &ErrorType) -> bool {
    matches!(
        kind,
        ErrorType::ConnectTimedout
            | ErrorType::ConnectRefused
            | ErrorType::ConnectNoRoute
            | ErrorType::ConnectError
            | ErrorType::ConnectProxyFailure
            | ErrorType::BindError
            | ErrorType::SocketError
    )
}

async fn write_answer(
    session: &mut Session,
    answer: &OwnAnswer,
    json: bool,
    id: &str,
) -> Result<()> {
    let (content_type, body) = answer.body(json, id);
    let mut head = ResponseHeader::build(answer.status, Some(6))?;
    head.insert_header("content-type", content_type)?;
    head.insert_header("content-length", body.len().to_string())?;
    head.insert_header("x-request-id", id)?;
    head.insert_header("cache-control", "no-store")?;
    if let Some(seconds) = answer.retry_after {
        head.insert_header("retry-after", seconds.to_string())?;
    }
    session.set_keepalive(None);
    session.write_response_header(Box::new(head), false).await?;
    session.write_response_body(Some(Bytes::from(body)), true).await
}

impl Passage {
    /// Hears what the endpoint says of itself; whether that is that it is not the primary.
    fn hear(&self, response: &ResponseHeader) -> bool {
        let Some(candidate) = self.candidates.get(self.tried) else { return false };
        let fields = response.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let claim = claim_of(fields);
        if let Some(ears) = &candidate.ears {
            ears.hear(&candidate.key, &self.claims, &claim);
        }
        is_misdirected(response.status.as_u16(), &claim)
    }

    /// Tells the lane once.
    fn tell(&self, status: u16) {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answered) = answered.take() {
            // The lane is gone only if the connection is.
            let _ = answered.send(status);
        }
    }
}
