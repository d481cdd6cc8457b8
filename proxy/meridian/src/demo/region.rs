//! One simulated region: a listener, a store, a distance and a lag, all of which can be changed.
//!
//! Promises: a killed region refuses connections (or, where it is controlled over HTTP, drops them
//! unanswered) and keeps its port; a revived one is as it was. Refuses to know: edges, traffic,
//! what the answers look like.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::ValueEnum;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::answer::answer;
use super::replicate::follow;
use super::store::Store;

/// Connections at a time.
const MAX_CONNECTIONS: usize = 4_096;
const BACKLOG: u32 = 1_024;

/// Whether a region takes writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// Takes writes.
    Primary,
    /// Answers writes with 421.
    Replica,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
        })
    }
}

/// What a region is started with.
#[derive(Clone, Debug)]
pub(crate) struct RegionSpec {
    pub(crate) id: String,
    pub(crate) listen: SocketAddr,
    pub(crate) role: Role,
    pub(crate) epoch: u64,
    /// `host:port` of the region whose log is pulled; `None`: none is.
    pub(crate) follows: Option<String>,
    /// Added to every answer.
    pub(crate) distance: Duration,
    /// How far a replica stays behind.
    pub(crate) lag: Duration,
    /// Whether `POST /_demo/...` works.
    pub(crate) controlled: bool,
}

/// What a region says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Facts {
    pub(crate) role: Role,
    pub(crate) epoch: u64,
    pub(crate) position: u64,
    /// Unknown for a follower that has not reached its primary yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lag_ms: Option<u64>,
}

/// A region's state; connections, replication and controls share it.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) spec: RegionSpec,
    store: Mutex<Store>,
    distance_ms: AtomicU64,
    lag_ms: AtomicU64,
    /// Whether a follower has heard from its primary.
    heard: AtomicBool,
    alive: watch::Sender<bool>,
}

impl State {
    fn new(spec: RegionSpec) -> Self {
        Self {
            store: Mutex::default(),
            distance_ms: millis(spec.distance).into(),
            lag_ms: millis(spec.lag).into(),
            heard: (spec.follows.is_none()).into(),
            alive: watch::Sender::new(true),
            spec,
        }
    }

    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn facts(&self) -> Facts {
        let lag = match self.spec.role {
            Role::Primary => Some(0),
            Role::Replica => self.heard.load(Ordering::Relaxed).then(|| millis(self.lag())),
        };
        let position = self.store().position();
        Facts { role: self.spec.role, epoch: self.spec.epoch, position, lag_ms: lag }
    }

    pub(crate) fn distance(&self) -> Duration {
        Duration::from_millis(self.distance_ms.load(Ordering::Relaxed))
    }

    pub(crate) fn set_distance(&self, distance: Duration) {
        self.distance_ms.store(millis(distance), Ordering::Relaxed);
    }

    pub(crate) fn lag(&self) -> Duration {
        Duration::from_millis(self.lag_ms.load(Ordering::Relaxed))
    }

    /// Reported at once; nothing that was applied is taken back.
    pub(crate) fn set_lag(&self, lag: Duration) {
        self.lag_ms.store(millis(lag), Ordering::Relaxed);
    }

    pub(crate) fn is_alive(&self) -> bool {
        *self.alive.borrow()
    }

    /// Kills or revives. Open connections of a killed region are cut.
    pub(crate) fn set_alive(&self, alive: bool) {
        self.alive.send_if_modified(|now| std::mem::replace(now, alive) != alive);
    }

    pub(crate) fn heard_from_primary(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    /// Resolves when the region is killed.
    pub(crate) async fn killed(&self) {
        let mut alive = self.alive.subscribe();
        if alive.wait_for(|alive| !alive).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn revived(&self) {
        let mut alive = self.alive.subscribe();
        if alive.wait_for(|alive| *alive).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A running region; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Region {
    pub(crate) address: SocketAddr,
    pub(crate) state: Arc<State>,
    tasks: Vec<JoinHandle<()>>,
}

impl Region {
    /// Opens the listener and starts to answer, on the current runtime.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub(crate) fn start(spec: RegionSpec) -> io::Result<Self> {
        let listener = hold(spec.listen)?.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::new(spec));
        let mut tasks = vec![tokio::spawn(live(state.clone(), listener, address))];
        if let Some(primary) = state.spec.follows.clone() {
            tasks.push(tokio::spawn(follow(state.clone(), primary)));
        }
        Ok(Self { address, state, tasks })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.state.set_alive(false);
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Has the port without listening on it: connections are refused, and nobody else can take it.
fn hold(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// A life after the other.
async fn live(state: Arc<State>, mut listener: TcpListener, address: SocketAddr) {
    loop {
        if state.spec.controlled {
            // Someone has to be there to hear "revive": the answers are what dies.
            serve(&state, &listener, std::future::pending()).await;
        }
        serve(&state, &listener, state.killed()).await;
        drop(listener);
        let held = hold(address);
        state.revived().await;
        listener = match held.and_then(|socket| socket.listen(BACKLOG)) {
            Ok(again) => again,
            Err(error) => {
                let id = &state.spec.id;
                tracing::error!(%error, region = %id, %address, "the region cannot be revived");
                return;
            }
        };
    }
}

/// Accepts until `end`; all connections end with it.
async fn serve(state: &Arc<State>, listener: &TcpListener, end: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    let accept = async {
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            while connections.try_join_next().is_some() {}
            match listener.accept().await {
                Ok((stream, _)) => {
                    let state = state.clone();
                    connections.spawn(async move {
                        converse(state, stream).await;
                        drop(place);
                    });
                }
                // Out of file descriptors, most likely: not a reason to spin.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = end => {}
    }
}

async fn converse(state: Arc<State>, stream: TcpStream) {
    // A small answer must not wait for the acknowledgement of the one before.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let service = service_fn(|request| answer(state.clone(), request));
    // Idle connections stay: an edge's pool decides how long it keeps them.
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(%error, region = %state.spec.id, "connection ended");
    }
}

#[cfg(test)]
#[path = "region_tests.rs"]
mod tests;
