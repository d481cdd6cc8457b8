//! One worker: a thread with its own runtime, listeners, upstream pool and everything else that requests touch.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use meridian_config::{Limits, TlsFiles};
use meridian_control::{
    AcmeBook, CachedReader, CertificateSet, ClaimSink, Clock, EndpointTls, OutlierSink, Phase,
    PhaseReader, Readers, SessionKeys,
};
use meridian_geoip::GeoDatabase;
use meridian_routing::{Dice, RoutingTable};
use tokio::net::TcpListener;
use tokio::runtime::LocalOptions;
use tokio::sync::Notify;
use tracing::warn;

use crate::access_log::{LogHub, WorkerLog};
use crate::alarm::{Alarms, TICK};
use crate::buffers::Buffers;
use crate::compress::Memory;
use crate::connection;
use crate::crowd::{Crowd, Full};
use crate::forward::{Pipes, upstream::Pool};
use crate::listener::ListenerState;
use crate::memory::Gauge;
use crate::respond::OwnAnswer;
use crate::upgrade::UpgradeLane;

/// After a failed accept (no descriptors left, most likely) the listener rests so long.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// Before a listener is closed, what waits in its queue is accepted for so long.
const LAST_ACCEPTS: Duration = Duration::from_millis(50);

/// What every request of a worker can reach.
pub(crate) struct Worker {
    pub(crate) clock: Clock,
    pub(crate) pool: Pool,
    pub(crate) buffers: Rc<Buffers>,
    pub(crate) alarms: Rc<Alarms>,
    pub(crate) log: WorkerLog,
    pub(crate) upgrades: UpgradeLane,
    pub(crate) pipes: Pipes,
    pub(crate) outliers: OutlierSink,
    pub(crate) claims: ClaimSink,
    pub(crate) crowd: Arc<Crowd>,
    /// What compressors hold, of all workers.
    pub(crate) compressors: Arc<Memory>,
    /// Of the table at the last tick.
    generation: Cell<u64>,
    table: RefCell<CachedReader<RoutingTable>>,
    geo: RefCell<CachedReader<GeoDatabase>>,
    session_keys: RefCell<CachedReader<SessionKeys>>,
    certificates: RefCell<CachedReader<CertificateSet>>,
    acme: RefCell<CachedReader<AcmeBook>>,
    dice: RefCell<Dice>,
    random: RefCell<fastrand::Rng>,
    /// Connections of this worker.
    open: Cell<usize>,
    leaving: Cell<bool>,
    closing: Cell<bool>,
    closed_one: Notify,
}

/// What a worker is made of.
pub(crate) struct Parts {
    pub(crate) clock: Clock,
    pub(crate) readers: Readers,
    pub(crate) outliers: OutlierSink,
    pub(crate) claims: ClaimSink,
    pub(crate) phases: PhaseReader,
    pub(crate) log: Arc<LogHub>,
    pub(crate) crowd: Arc<Crowd>,
    pub(crate) compressors: Arc<Memory>,
    /// Connections that the limit of open files has room for.
    pub(crate) room: usize,
    /// Looks after the memory of the whole process; one worker has it.
    pub(crate) gauge: Option<Gauge>,
    /// Pipes that this worker may have in use.
    pub(crate) pipes: usize,
    pub(crate) listeners: Vec<(std::net::TcpListener, Arc<ListenerState>)>,
}

impl Worker {
    fn new(parts: &Parts) -> Rc<Self> {
        let buffers = Rc::new(Buffers::default());
        Rc::new(Self {
            clock: parts.clock,
            pool: Pool::new(buffers.clone()),
            buffers,
            alarms: Rc::default(),
            log: WorkerLog::new(parts.log.clone()),
            upgrades: UpgradeLane::new(),
            pipes: Pipes::new(parts.pipes),
            outliers: parts.outliers.clone(),
            claims: parts.claims.clone(),
            crowd: parts.crowd.clone(),
            compressors: parts.compressors.clone(),
            generation: Cell::new(0),
            table: RefCell::new(parts.readers.table.cached()),
            geo: RefCell::new(parts.readers.geo.cached()),
            session_keys: RefCell::new(parts.readers.session_keys.cached()),
            certificates: RefCell::new(parts.readers.certificates.cached()),
            acme: RefCell::new(parts.readers.acme.cached()),
            dice: RefCell::new(Dice::seeded(fastrand::u64(..))),
            random: RefCell::new(fastrand::Rng::new()),
            open: Cell::new(0),
            leaving: Cell::new(false),
            closing: Cell::new(false),
            closed_one: Notify::new(),
        })
    }

    /// The table in force; a request keeps it for all its attempts.
    pub(crate) fn table(&self) -> Arc<RoutingTable> {
        self.table.borrow_mut().load().clone()
    }

    /// Looks something up in the limits in force.
    pub(crate) fn with_limits<R>(&self, look: impl FnOnce(&Limits) -> R) -> R {
        look(&self.table.borrow_mut().load().config.limits)
    }

    /// Looks something up in the geo database in force.
    pub(crate) fn with_geo<R>(&self, look: impl FnOnce(&Arc<GeoDatabase>) -> R) -> R {
        look(self.geo.borrow_mut().load())
    }

    /// Looks something up in the keys of affinity cookies in force.
    pub(crate) fn with_session_keys<R>(&self, look: impl FnOnce(&SessionKeys) -> R) -> R {
        look(self.session_keys.borrow_mut().load())
    }

    /// What TLS to endpoints goes by with these files.
    pub(crate) fn endpoint_tls(&self, files: &TlsFiles) -> Option<Arc<EndpointTls>> {
        self.certificates.borrow_mut().load().endpoints(files).cloned()
    }

    /// What whoever asks for a challenge's token is told; `None`: nobody awaits that.
    pub(crate) fn challenge_answer(&self, token: &str) -> Option<Arc<str>> {
        self.acme.borrow_mut().load().answer(token)
    }

    /// Throws this worker's dice.
    pub(crate) fn with_dice<R>(&self, throw: impl FnOnce(&mut Dice) -> R) -> R {
        throw(&mut self.dice.borrow_mut())
    }

    /// 128 random bits for ids; not for secrets.
    pub(crate) fn random(&self) -> u128 {
        self.random.borrow_mut().u128(..)
    }

    /// Whether connections should end after their next answer: from the lame-duck phase on.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.get()
    }

    /// Whether connections should end as soon as they can.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    fn tick(&self) {
        let now = self.clock.now();
        self.alarms.tick(now);
        self.log.hand_over();
        let mut table = self.table.borrow_mut();
        let table = table.load();
        self.log.follow(&table.config.access_log);
        if self.generation.replace(table.generation) != table.generation {
            // Whoever waits for an endpoint looks whether it went out.
            self.alarms.shake();
        }
    }
}

/// Counts a connection while it is open.
pub(crate) struct OpenConnection {
    worker: Rc<Worker>,
    /// Where its client is counted.
    slot: Option<usize>,
}

impl OpenConnection {
    /// Counts a connection in, or turns it away.
    fn count(
        worker: &Rc<Worker>,
        room: usize,
        peer: SocketAddr,
        state: &ListenerState,
    ) -> Result<Self, NoRoom> {
        let (most, per_client) = {
            let mut table = worker.table.borrow_mut();
            let config = &table.load().config;
            (config.edge.max_connections.min(room), config.limits.connections_per_client)
        };
        let trusted = &state.settings.trusted_proxies;
        let slot = worker.crowd.connect(most, per_client, peer.ip(), trusted);
        let slot = slot.map_err(|full| refused(full, state))?;
        worker.open.set(worker.open.get() + 1);
        Ok(Self { worker: worker.clone(), slot })
    }

    /// Counts it for the client that a proxy names, or turns it away.
    pub(crate) fn is_from(
        &mut self,
        worker: &Worker,
        client: SocketAddr,
        state: &ListenerState,
    ) -> Result<(), NoRoom> {
        let most = worker.with_limits(|limits| limits.connections_per_client);
        let trusted = &state.settings.trusted_proxies;
        let slot = worker.crowd.count_client(most, client.ip(), trusted);
        self.slot = slot.map_err(|full| refused(full, state))?;
        Ok(())
    }
}

/// What a connection is told that is turned away.
pub(crate) struct NoRoom {
    pub(crate) answer: OwnAnswer,
    /// For the access log.
    pub(crate) reason: &'static str,
}

/// Counts a connection that is turned away; what it is told.
fn refused(full: Full, state: &ListenerState) -> NoRoom {
    let (counter, answer, reason) = match full {
        Full::Edge => (&state.counters.refused_full, OwnAnswer::unavailable(1), "edge-connections"),
        Full::Memory => (&state.counters.refused_memory, OwnAnswer::unavailable(1), "memory"),
        Full::Client => {
            let answer = OwnAnswer::too_many_connections();
            (&state.counters.refused_client, answer, "client-connections")
        }
    };
    counter.fetch_add(1, Relaxed);
    NoRoom { answer, reason }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.worker.crowd.disconnect(self.slot);
        self.worker.open.set(self.worker.open.get() - 1);
        self.worker.closed_one.notify_waiters();
    }
}

/// Runs a worker on this thread until the process drains.
pub(crate) fn run(parts: Parts) -> std::io::Result<()> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build_local(LocalOptions::default())?.block_on(live(parts))
}

async fn live(parts: Parts) -> std::io::Result<()> {
    let worker = Worker::new(&parts);
    worker.alarms.tick(worker.clock.now());
    tokio::task::spawn_local(ticks(worker.clone(), parts.gauge));
    let mut accepting = Vec::new();
    let room = parts.room;
    for (listener, state) in parts.listeners {
        let listener = TcpListener::from_std(listener)?;
        accepting.push(tokio::task::spawn_local(accept(worker.clone(), listener, state, room)));
    }
    let mut phases = parts.phases;
    phases.reached(Phase::LameDuck).await;
    worker.leaving.set(true);
    phases.reached(Phase::Draining).await;
    // What the kernel has completed for us is taken before the listeners go.
    tokio::time::sleep(LAST_ACCEPTS).await;
    accepting.iter().for_each(tokio::task::JoinHandle::abort);
    worker.closing.set(true);
    worker.alarms.end_idle();
    let empty = async {
        while worker.open.get() > 0 {
            worker.closed_one.notified().await;
        }
    };
    tokio::select! {
        () = empty => {}
        _ = phases.reached(Phase::Stopped) => {
            if worker.open.get() > 0 {
                warn!(target: "edge", connections = worker.open.get(), "closed before they were done");
            }
        }
    }
    worker.log.hand_over();
    Ok(())
}

async fn ticks(worker: Rc<Worker>, mut gauge: Option<Gauge>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut count = 0_u32;
    loop {
        interval.tick().await;
        worker.tick();
        if let Some(gauge) = &mut gauge {
            let configured = worker.table.borrow_mut().load().config.edge.memory;
            let most = gauge.most_requests(configured, worker.compressors.held());
            worker.crowd.set_memory(gauge.look(configured), most);
        }
        count = count.wrapping_add(1);
        if count.is_multiple_of(10) {
            worker.pool.sweep(worker.clock.now());
        }
    }
}

async fn accept(worker: Rc<Worker>, listener: TcpListener, state: Arc<ListenerState>, room: usize) {
    let mut failures = 0_u32;
    loop {
        match poll_fn(|cx| listener.poll_accept(cx)).await {
            Ok((stream, peer)) => {
                failures = 0;
                if state.is_barred(peer) {
                    continue;
                }
                let open = match OpenConnection::count(&worker, room, peer, &state) {
                    Ok(open) => open,
                    Err(full) => {
                        // Under TLS nothing can be said before a handshake.
                        if state.tls.is_none() {
                            connection::turn_away(&worker, &stream, peer, &full);
                        }
                        continue;
                    }
                };
                if stream.set_nodelay(true).is_ok() {
                    let (worker, state) = (worker.clone(), state.clone());
                    tokio::task::spawn_local(connection::serve(worker, stream, state, peer, open));
                }
            }
            Err(error) => {
                // Once a second is enough.
                if failures.is_multiple_of(20) {
                    warn!(target: "edge", listener = %state.settings.name, %error, "accept failed");
                }
                failures = failures.wrapping_add(1);
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
        tokio::task::yield_now().await;
    }
}
