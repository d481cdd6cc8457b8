//! The pingora lane: upgrades (WebSocket and the like) through pingora-proxy, on the same connection.
//!
//! The head is parsed, decided and made canonical like any other; pingora is handed the canonical bytes on a duplicate
//! of the socket. An endpoint that does not take the offer answers like any other, and the connection goes on here.

mod dial;
mod guarded;
mod lane;
mod passage;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use meridian_control::Clock;
use meridian_routing::{
    AccessClass, Decision, EndpointLoad, EndpointReason, Fault, Histogram, Micros, Outcome,
    RoutingTable, ServiceRegionLoad, Term, WriteGate, next_attempt,
};
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::{HttpProxy, http_proxy};
use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{oneshot, watch};

use self::lane::Lane;
use self::passage::passage;
use crate::admit::Admitted;
use crate::alarm::{Alarm, TICK};
use crate::connection::Counted;
use crate::forward::routing_facts;
use crate::http1::head::{HeadFacts, with_head};
use crate::identify::Peer;
use crate::listener::ListenerState;
use crate::observe::{Observation, observe};
use crate::request::HostSpace;
use crate::respond::OwnAnswer;
use crate::tls::bridge;
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
    /// It is over, after an answer that the client may not have read yet.
    Answered,
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
            return Returned::Answered;
        }
        // The tunnel counts as a request for as long as it lasts.
        let _member = admitted.member;
        let reign = Reign::of(&table, &decision).filter(|_| status == 101);
        drop(table);
        let (kept, clean) = match (ended, reign) {
            (Some(ended), _) => ended,
            (None, None) => (&mut carried).await,
            (None, Some(reign)) => tokio::select! {
                biased;
                ended = &mut carried => ended,
                () = reign.end() => {
                    tracing::info!(target: "primacy", "a tunnel to a primary that was one is closed");
                    (false, true)
                }
            },
        };
        drop(carried);
        if status == 101 && clean {
            // The client may have gone first.
            let _ = offer.stream.shut_down();
        }
        match status {
            101 => Returned::Gone,
            _ if kept && offer.facts.keep_alive => Returned::Open,
            // Under TLS a goodbye would vouch for an answer that may have been cut short.
            _ if near.is_some() => Returned::Gone,
            _ => Returned::Answered,
        }
    }
}

/// The primary that a tunnel of a route for writes leads to. What goes through it nobody can look at: it ends with that.
struct Reign {
    gate: Arc<WriteGate>,
    epoch: u64,
    term: Term,
}

impl Reign {
    /// `None`: it may go on wherever it leads.
    fn of(table: &RoutingTable, decision: &Decision) -> Option<Self> {
        let service = table.service(decision.service);
        let (gate, epoch, term) = (service.writes.clone(), service.primacy.epoch, service.term);
        (decision.class.access != AccessClass::Read).then_some(Self { gate, epoch, term })
    }

    /// Ready once there is another primary.
    async fn end(&self) {
        while !self.gate.is_past(self.epoch, self.term) {
            tokio::time::sleep(TICK).await;
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
