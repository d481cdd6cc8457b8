//! Starts and ends the workers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};

use meridian_config::{AccessLog, Config, Listener, ListenerName, LogOutput};
use meridian_control::{ClaimSink, Clock, DataPlane, OutlierSink, PhaseReader, Readers};
use meridian_routing::EdgeCounters;
use thiserror::Error;
use tracing::{info, warn};

use crate::access_log::LogHub;
use crate::compress::Memory;
use crate::crowd::Crowd;
use crate::descriptors::{pipes_for, room_for_clients};
use crate::listener::{ListenerState, bind};
use crate::memory::Gauge;
use crate::worker::{self, Parts};

/// Why the data plane cannot start.
#[derive(Debug, Error)]
pub enum EdgeError {
    /// A listener's address cannot be bound.
    #[error("listener \"{name}\": {address}")]
    Bind {
        /// The listener.
        name: ListenerName,
        /// Its address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The access log cannot be opened.
    #[error("access_log.output: {output}")]
    AccessLog {
        /// As it is configured.
        output: String,
        /// Why.
        source: io::Error,
    },
    /// A listener's TLS cannot be set up.
    #[error("listener \"{name}\": TLS")]
    Tls {
        /// The listener.
        name: ListenerName,
        /// Why.
        source: rustls::Error,
    },
    /// A thread cannot be started.
    #[error("worker: {0}")]
    Worker(io::Error),
}

/// The data plane: sockets first, workers later, so that the control plane's first table can come in between.
#[derive(Debug)]
pub struct Edge {
    listeners: Vec<Prepared>,
    workers: usize,
    log: Arc<LogHub>,
    data_plane: DataPlane,
}

/// A listener before its workers run.
#[derive(Debug)]
struct Prepared {
    settings: Listener,
    counters: Arc<EdgeCounters>,
    /// One per worker, once it is bound.
    sockets: Vec<std::net::TcpListener>,
}

/// A listening socket of another process, which had this address in its configuration.
#[derive(Debug)]
pub struct Inherited {
    /// The address, as it is configured.
    pub address: SocketAddr,
    /// The socket.
    pub socket: std::net::TcpListener,
}

/// The running workers.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<JoinHandle<io::Result<()>>>,
}

fn output(log: &AccessLog) -> String {
    match &log.output {
        LogOutput::File(path) => path.display().to_string(),
        LogOutput::Stdout => "stdout".to_owned(),
        LogOutput::Off => "off".to_owned(),
    }
}

impl Edge {
    /// Prepares the counters and the log. Nothing is bound yet.
    ///
    /// # Errors
    /// [`EdgeError::AccessLog`]
    pub fn new(config: &Config) -> Result<Self, EdgeError> {
        let mut data_plane = DataPlane::default();
        let log = LogHub::open(&config.access_log, data_plane.log_drops.clone());
        let named = |source| EdgeError::AccessLog { output: output(&config.access_log), source };
        let log = Arc::new(log.map_err(named)?);
        let listeners = config
            .listeners
            .iter()
            .map(|settings| {
                let counters = Arc::new(EdgeCounters::default());
                data_plane.listeners.push((settings.name.clone(), counters.clone()));
                Prepared { settings: settings.clone(), counters, sockets: Vec::new() }
            })
            .collect();
        Ok(Self { listeners, workers: 0, log, data_plane })
    }

    /// What the control plane exports.
    pub fn data_plane(&self) -> DataPlane {
        self.data_plane.clone()
    }

    /// Binds every listener, or takes its sockets out of those that were inherited. Connections wait from here on; they
    /// are served once the workers run.
    ///
    /// # Errors
    /// [`EdgeError::Bind`]
    pub fn bind(&mut self, workers: usize, inherited: Vec<Inherited>) -> Result<(), EdgeError> {
        self.workers = workers;
        let mut inherited = inherited;
        for listener in &mut self.listeners {
            let (name, address) = (listener.settings.name.clone(), listener.settings.address);
            let found = inherited.extract_if(.., |socket| socket.address == address);
            let found = found.map(|inherited| inherited.socket).collect();
            listener.sockets = bind(address, workers, found).map_err(|source| EdgeError::Bind {
                name,
                address,
                source,
            })?;
        }
        Ok(())
    }

    /// All sockets again, for a process that takes over.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn sockets(&self) -> io::Result<Vec<Inherited>> {
        let all = self.listeners.iter().flat_map(|listener| {
            let address = listener.settings.address;
            listener.sockets.iter().map(move |socket| (address, socket))
        });
        all.map(|(address, socket)| Ok(Inherited { address, socket: socket.try_clone()? }))
            .collect()
    }

    /// The addresses that are bound, by listener.
    pub fn addresses(&self) -> Vec<(ListenerName, SocketAddr)> {
        let bound = self.listeners.iter().filter_map(|listener| {
            let address = listener.sockets.first()?.local_addr().ok()?;
            Some((listener.settings.name.clone(), address))
        });
        bound.collect()
    }

    /// Starts one thread per worker. They end by themselves once `phases` reaches draining and their connections are
    /// done, or stopped.
    ///
    /// # Errors
    /// [`EdgeError::Tls`], [`EdgeError::Worker`]
    pub fn start(
        self,
        readers: &Readers,
        outliers: &OutlierSink,
        claims: &ClaimSink,
        phases: &PhaseReader,
        clock: Clock,
    ) -> Result<Workers, EdgeError> {
        for (name, address) in self.addresses() {
            info!(target: "edge", listener = %name, %address, "listening");
        }
        let count = self.workers;
        let crowd = Arc::new(Crowd::default());
        let compressors = Arc::new(Memory::default());
        let (room, wanted) = (room_for_clients(), readers.table.load().config.edge.max_connections);
        self.data_plane.room.store(room as u64, Relaxed);
        if room < wanted {
            warn!(target: "edge", room, wanted, "the limit of open files leaves no room for edge.max_connections");
        }
        let mut sockets = Vec::with_capacity(self.listeners.len());
        for Prepared { settings, counters, sockets: list } in self.listeners {
            let name = settings.name.clone();
            let state = ListenerState::new(settings, counters, readers)
                .map_err(|source| EdgeError::Tls { name, source })?;
            sockets.push((list.into_iter(), Arc::new(state)));
        }
        let mut gauge = Gauge::open()
            .inspect_err(|error| warn!(target: "edge", %error, "memory is not looked after"))
            .ok();
        let mut threads = Vec::with_capacity(count);
        for number in 0..count {
            // Of an inherited listener there may be more sockets than workers: each has its connections waiting.
            let listeners = sockets
                .iter_mut()
                .flat_map(|(list, state)| {
                    let share = list.len().div_ceil(count - number);
                    list.by_ref().take(share).map(|socket| (socket, state.clone()))
                })
                .collect();
            let parts = Parts {
                clock,
                readers: readers.clone(),
                outliers: outliers.clone(),
                claims: claims.clone(),
                phases: phases.clone(),
                log: self.log.clone(),
                crowd: crowd.clone(),
                compressors: compressors.clone(),
                room,
                gauge: gauge.take(),
                pipes: pipes_for(room, count),
                listeners,
            };
            let builder = thread::Builder::new().name(format!("worker-{number}"));
            threads.push(builder.spawn(move || worker::run(parts)).map_err(EdgeError::Worker)?);
        }
        Ok(Workers { threads })
    }
}

impl Workers {
    /// Waits for all workers to end.
    ///
    /// # Errors
    /// The first worker's error, or that one panicked.
    pub fn join(self) -> Result<(), EdgeError> {
        for thread in self.threads {
            let ended = thread.join();
            let panicked = || Err(io::Error::other("a worker panicked"));
            ended.unwrap_or_else(|_| panicked()).map_err(EdgeError::Worker)?;
        }
        Ok(())
    }
}
