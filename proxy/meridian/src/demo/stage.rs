//! Everything the embedded demo consists of: regions, an edge with its file, traffic.
//!
//! Promises: the edge is the one that `meridian run` runs; all of it ends with [`Stage::close`]. Refuses
//! to know: what is played on it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use http::Method;
use serde_json::json;
use tempfile::TempDir;

use super::clients::all_clients;
use super::display::Frame;
use super::edge_config::edge_config;
use super::scene::{EdgeFacts, Scene, Simulated};
use super::traffic::Traffic;
use super::world::World;
use crate::admin_client::AdminClient;
use crate::cli::LogLines;
use crate::http_client::Address;
use crate::logging;
use crate::run::{RunningEdge, Termination};
use crate::views::{RegionView, StatusView};

const READY_WITHIN: Duration = Duration::from_secs(20);
/// Every demo sends the same.
const SEED: u64 = 2;

/// Where the edge listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    listen: SocketAddr,
    admin: SocketAddr,
}

impl Ports {
    /// What is asked for, else the usual ports if they are free, else free ones.
    ///
    /// # Errors
    /// When no port can be had.
    pub(crate) fn allocate(
        listen: Option<SocketAddr>,
        admin: Option<SocketAddr>,
    ) -> io::Result<Self> {
        Ok(Self { listen: free(listen, 8080)?, admin: free(admin, 9901)? })
    }
}

fn free(wanted: Option<SocketAddr>, usual: u16) -> io::Result<SocketAddr> {
    if let Some(wanted) = wanted.filter(|wanted| wanted.port() != 0) {
        return Ok(wanted);
    }
    let host = wanted.map_or(Ipv4Addr::LOCALHOST.into(), |wanted| wanted.ip());
    let usual = if wanted.is_some() { 0 } else { usual };
    let listener = TcpListener::bind((host, usual)).or_else(|_| TcpListener::bind((host, 0)))?;
    listener.local_addr()
}

/// The running demo.
pub(crate) struct Stage {
    pub(crate) world: World,
    pub(crate) admin: AdminClient,
    pub(crate) frame: Frame,
    pub(crate) started: Instant,
    pub(crate) facts: EdgeFacts,
    pub(crate) rate: u32,
    traffic: Option<Traffic>,
    edge: RunningEdge,
    public: Address,
    directory: TempDir,
}

impl Stage {
    /// Starts regions and edge. The program's log goes to a file beside the configuration.
    ///
    /// # Errors
    /// When a part cannot be started.
    pub(crate) fn open(ports: Ports, rate: u32, logs: LogLines) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("meridian-demo-").tempdir()?;
        let path = |name: &str| -> PathBuf { directory.path().join(name) };
        let (config, log) = (path("meridian.toml"), path("meridian.log"));
        logging::start(logs, "info", Some(&log))?;
        let world = World::start().context("a simulated region cannot be started")?;
        let Ports { listen, admin } = ports;
        let text = edge_config(listen, admin, &path("state"), &world.addresses());
        std::fs::write(&config, text).with_context(|| config.display().to_string())?;
        let edge = RunningEdge::start(&config, false, None)?;
        Ok(Self {
            world,
            admin: AdminClient::new(Address::Tcp(admin.to_string())),
            frame: Frame {
                edge: listen.to_string(),
                admin: admin.to_string(),
                config: config.display().to_string(),
                log: log.display().to_string(),
            },
            started: Instant::now(),
            facts: EdgeFacts::default(),
            rate,
            traffic: None,
            edge,
            public: Address::Tcp(listen.to_string()),
            directory,
        })
    }

    /// Waits until the edge is ready, then starts the traffic.
    ///
    /// # Errors
    /// When the edge is not ready in time, or fails.
    pub(crate) async fn ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let answer = self.admin.ask(Method::GET, "/readyz", None).await;
            if answer.is_ok_and(|answer| answer.status.is_success()) {
                break;
            }
            if Instant::now() > deadline {
                bail!("the edge is not ready within {} s", READY_WITHIN.as_secs());
            }
            tokio::select! {
                error = self.edge.failed() => return Err(error),
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
        }
        self.started = Instant::now();
        self.traffic = Some(Traffic::start(self.public.clone(), all_clients()?, self.rate, SEED));
        self.look().await
    }

    /// Asks the edge how its regions are.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn look(&mut self) -> anyhow::Result<()> {
        let status = self.admin.request_ok(Method::GET, "/api/v1/status", None).await?;
        let regions = self.admin.request_ok(Method::GET, "/api/v1/regions", None).await?;
        let generation = status.read::<StatusView>()?.generation;
        self.facts = EdgeFacts::of(generation, &regions.read::<Vec<RegionView>>()?);
        Ok(())
    }

    /// The traffic.
    ///
    /// # Errors
    /// Before the edge is ready.
    pub(crate) fn traffic(&self) -> anyhow::Result<&Traffic> {
        self.traffic.as_ref().context("there is no traffic yet")
    }

    /// The traffic, to end it.
    ///
    /// # Errors
    /// Before the edge is ready.
    pub(crate) fn take_traffic(&mut self) -> anyhow::Result<Traffic> {
        self.traffic.take().context("there is no traffic yet")
    }

    /// What there is to see now.
    ///
    /// # Errors
    /// Before the edge is ready.
    pub(crate) fn scene(&self) -> anyhow::Result<Scene> {
        let regions = self.world.all().map(|(known, region)| Simulated {
            id: known.id,
            place: known.place,
            role: known.role.to_string(),
            alive: region.state.is_alive(),
            distance: region.state.distance(),
        });
        let ledger = self.traffic()?.ledger();
        Ok(Scene::new(&ledger, &self.facts, regions.collect(), self.started, Instant::now()))
    }

    /// Drains a region as an operator would, or takes the drain back.
    ///
    /// # Errors
    /// When the edge does not answer, or refuses.
    pub(crate) async fn drain(&self, region: &str, drain: bool) -> anyhow::Result<()> {
        let path = format!("/api/v1/regions/{region}/drain");
        let body = json!({ "reason": "meridian demo" });
        let asked = if drain { (Method::PUT, Some(&body)) } else { (Method::DELETE, None) };
        self.admin.request_ok(asked.0, &path, asked.1).await.map(drop)
    }

    /// Resolves with an error if the edge fails.
    pub(crate) async fn edge_failed(&mut self) -> anyhow::Error {
        self.edge.failed().await
    }

    /// Ends everything; a further signal hurries it. The files stay if something went wrong.
    ///
    /// # Errors
    /// When the edge did not end well.
    pub(crate) async fn close(
        self,
        fine: bool,
        termination: &mut Termination,
    ) -> anyhow::Result<()> {
        drop(self.traffic);
        let ended = self.edge.stop(termination.next()).await;
        drop(self.world);
        if !fine || ended.is_err() {
            let kept = self.directory.keep();
            anyhow::ensure!(ended.is_ok(), "the edge did not end well; see {}", kept.display());
            tracing::warn!(directory = %kept.display(), "the files are kept");
        }
        ended
    }
}
