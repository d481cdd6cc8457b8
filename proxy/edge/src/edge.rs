//! Starts and ends the workers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::{self, JoinHandle};

use meridian_config::{Config, ListenerName};
use meridian_control::{Clock, DataPlane, GeoReader, PhaseReader, TableReader};
use meridian_routing::EdgeCounters;
use thiserror::Error;
use tracing::info;

use crate::access_log::LogHub;
use crate::descriptors::room_for_clients;
use crate::listener::{ListenerState, bind};
use crate::worker::{self, Parts};

/// Why the data plane cannot start.
#[derive(Debug, Error)]
pub enum EdgeError {
    /// A listener's address cannot be bound.
    #[error("listener \"{name}\": {address}: {source}")]
    Bind {
        /// The listener.
        name: ListenerName,
        /// Its address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The access log cannot be opened.
    #[error("access log: {0}")]
    AccessLog(io::Error),
    /// A thread cannot be started.
    #[error("worker: {0}")]
    Worker(io::Error),
}

/// The data plane: sockets first, workers later, so that the control plane's first table can come in between.
#[derive(Debug)]
pub struct Edge {
    sockets: Vec<(Vec<std::net::TcpListener>, Arc<ListenerState>)>,
    log: Arc<LogHub>,
    data_plane: DataPlane,
}

/// The running workers.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Edge {
    /// Prepares the counters and the log. Nothing is bound yet.
    ///
    /// # Errors
    /// [`EdgeError::AccessLog`]
    pub fn new(config: &Config) -> Result<Self, EdgeError> {
        let mut data_plane = DataPlane::default();
        let log = LogHub::open(&config.access_log, data_plane.log_drops.clone());
        let log = Arc::new(log.map_err(EdgeError::AccessLog)?);
        let sockets = config
            .listeners
            .iter()
            .map(|settings| {
                let counters = Arc::new(EdgeCounters::default());
                data_plane.listeners.push((settings.name.clone(), counters.clone()));
                (Vec::new(), Arc::new(ListenerState { settings: settings.clone(), counters }))
            })
            .collect();
        Ok(Self { sockets, log, data_plane })
    }

    /// What the control plane exports.
    pub fn data_plane(&self) -> DataPlane {
        self.data_plane.clone()
    }

    /// Binds every listener. Connections wait from here on; they are served once the workers run.
    ///
    /// # Errors
    /// [`EdgeError::Bind`]
    pub fn bind(&mut self, workers: usize) -> Result<(), EdgeError> {
        for (sockets, state) in &mut self.sockets {
            let (name, address) = (state.settings.name.clone(), state.settings.address);
            *sockets = bind(address, workers).map_err(|source| EdgeError::Bind {
                name,
                address,
                source,
            })?;
        }
        Ok(())
    }

    /// The addresses that are bound, by listener.
    pub fn addresses(&self) -> Vec<(ListenerName, SocketAddr)> {
        let bound = self.sockets.iter().filter_map(|(sockets, state)| {
            let address = sockets.first()?.local_addr().ok()?;
            Some((state.settings.name.clone(), address))
        });
        bound.collect()
    }

    /// Starts one thread per worker. They end by themselves once `phases` reaches draining and their connections are
    /// done, or stopped.
    ///
    /// # Errors
    /// [`EdgeError::Worker`]
    pub fn start(
        self,
        table: &TableReader,
        geo: &GeoReader,
        phases: &PhaseReader,
        clock: Clock,
    ) -> Result<Workers, EdgeError> {
        for (name, address) in self.addresses() {
            info!(target: "edge", listener = %name, %address, "listening");
        }
        let count = self.sockets.first().map_or(0, |(sockets, _)| sockets.len());
        let open_everywhere = Arc::new(AtomicUsize::new(0));
        let (room, wanted) = (room_for_clients(), table.load().config.edge.max_connections);
        if room < wanted {
            info!(target: "edge", room, wanted, "the limit of open files leaves no room for edge.max_connections");
        }
        let mut sockets: Vec<_> =
            self.sockets.into_iter().map(|(list, state)| (list.into_iter(), state)).collect();
        let mut threads = Vec::with_capacity(count);
        for number in 0..count {
            let listeners = sockets
                .iter_mut()
                .filter_map(|(list, state)| Some((list.next()?, state.clone())))
                .collect();
            let parts = Parts {
                clock,
                table: table.clone(),
                geo: geo.clone(),
                phases: phases.clone(),
                log: self.log.clone(),
                open_everywhere: open_everywhere.clone(),
                room,
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
