//! Puts the rooms of the control plane together.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use meridian_routing::{Overrides, RoutingTable};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::acme::{AcmeParts, AcmeReport, AcmeTask, check_acme};
use crate::admin::{
    self, Admin, AdminListener, Gate, InheritedAdmin, UpgradeRequest, Upgrades, upgrades,
};
use crate::alerts::{AlertQueue, Webhook, deliver};
use crate::background::Background;
use crate::clock::{Clock, unix_ms};
use crate::data_plane::DataPlane;
use crate::events::Feed;
use crate::failover::{Failovers, watch};
use crate::health::{HealthChecker, ProbeCounts};
use crate::history::{History, Observer};
use crate::keeper::{
    ClaimSink, Command, Event, Keeper, KeeperHandle, KeeperState, OutlierSink, OverridesReader,
    Persister, Primacies, Save, StateDirectory, inbox, persister, record_at_start,
};
use crate::lifecycle::{Phase, PhaseReader};
use crate::load::{Options, StartConfig, StartError};
use crate::metrics::Exporter;
use crate::published::{
    AcmeReader, CertificateReader, GeoReader, Publisher, Readers, SessionKeyReader, TableReader,
    publish,
};
use crate::reload::{
    CertificateStatus, GeoFile, GeoStatus, OpenedCertificates, OpenedGeo, ReloadStatus, Reloader,
    Rotation, requests,
};
use crate::replication::{Hearing, Replication, Tracks};
use crate::resolve::NameResolver;
use crate::sessions::{KeyFile, OpenedKeys};

/// How often a process that takes over looks whether it has.
const OWNER_POLL: Duration = Duration::from_millis(50);
/// At the end the disk has so long.
const LAST_SAVE: Duration = Duration::from_secs(5);
/// The history's file so long.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Why control stopped before it was told to.
#[derive(Debug, Error)]
pub enum ControlError {
    /// A task that must not end has ended.
    #[error("the task \"{0}\" has ended")]
    TaskEnded(&'static str),
    /// A task has failed.
    #[error("a task of the control plane has failed: {0}")]
    TaskFailed(String),
}

/// The control plane, its first table built; [`Control::run`] drives it.
pub struct Control {
    options: Options,
    start: StartConfig,
    phases: PhaseReader,
    data_plane: DataPlane,
    clock: Clock,
    feed: Feed,
    directory: StateDirectory,
    history: History,
    alerts: AlertQueue,
    /// Overrides were dropped while they were restored.
    dropped: bool,
    state: KeeperState,
    publisher: Publisher<RoutingTable>,
    keeper: KeeperHandle,
    inbox: mpsc::Receiver<Command>,
    table: TableReader,
    geo_file: GeoFile,
    geo: GeoReader,
    rotation: Rotation,
    certificates: CertificateReader,
    acme_task: AcmeTask,
    acme: AcmeReader,
    acme_report: watch::Receiver<AcmeReport>,
    key_file: KeyFile,
    session_keys: SessionKeyReader,
    reload_status: watch::Sender<ReloadStatus>,
    listener: AdminListener,
    gate: Gate,
    upgrades: Upgrades,
    upgrade_requests: mpsc::Receiver<UpgradeRequest>,
    first_round: Arc<AtomicBool>,
}

/// Opens the geo database, the certificates and the admin listener, restores the operator's overrides and builds the first table.
/// Blocks; call it before the data plane opens its listeners. `inherited`: the admin endpoint's socket, from the process
/// that this one takes over from; its gate is closed then.
///
/// # Errors
/// Any [`StartError`].
pub fn start(
    options: Options,
    start: StartConfig,
    phases: PhaseReader,
    data_plane: DataPlane,
    clock: Clock,
    inherited: Option<InheritedAdmin>,
) -> Result<Control, StartError> {
    let config = &start.config;
    // It names the file.
    let state_error = |error: io::Error| StartError::State(error.to_string());
    let directory = StateDirectory::open(&config.edge.state_dir).map_err(state_error)?;
    let opened = OpenedGeo::open(config.geo_database.clone()).map_err(StartError::Geo)?;
    let certificates = OpenedCertificates::open(config)?;
    check_acme(config).map_err(StartError::Acme)?;
    let opened_keys = OpenedKeys::open(config).map_err(StartError::SessionKeys)?;
    let alerts = AlertQueue::new(Webhook::read(config).map_err(StartError::Alerts)?);
    let restored = directory.overrides().map_err(state_error)?.unwrap_or_else(|error| {
        tracing::error!(target: "state", error, "the overrides are lost");
        Overrides::new()
    });
    let primacies = directory.primacies().map_err(state_error)?.unwrap_or_else(|error| {
        tracing::error!(target: "state", error, "what was known of primaries is lost");
        Primacies::default()
    });
    let (state, notices) = KeeperState::restored(config.clone(), restored, &primacies, unix_ms())?;
    let gate = Gate::new(inherited.is_none());
    let address = &config.admin.address;
    let listener = match inherited {
        Some(inherited) => AdminListener::inherit(inherited, address, &gate),
        None => AdminListener::bind(address, &gate),
    };
    let listener =
        listener.map_err(|why| StartError::Admin { address: address.to_string(), why })?;
    let (upgrades, upgrade_requests) = upgrades();
    let feed = Feed::new();
    record_at_start(&notices, &feed);
    let (state_dir, accepted) = (&config.edge.state_dir, start.fallen_back.is_none());
    let history =
        History::open(config, state_dir, accepted, feed.clone(), alerts.clone(), gate.clone());
    let (publisher, table) = publish(state.table().clone());
    let reload_status = watch::Sender::new(ReloadStatus {
        hash: start.hash,
        last_unix_ms: unix_ms(),
        last_error: start.fallen_back.clone(),
        succeeded: 0,
        failed: 0,
        unchanged: 0,
        geo: GeoStatus {
            path: opened.path.clone(),
            description: opened.database.describe(),
            last_error: None,
            failed: 0,
        },
        certificates: CertificateStatus::default(),
    });
    for warning in &certificates.warnings {
        tracing::warn!(target: "config", "{warning}");
    }
    let (certificate_publisher, certificate_reader) = publish(certificates.set.clone());
    let rotation = Rotation::new(certificate_publisher, &certificates);
    let (acme_task, acme, acme_report) = AcmeTask::open(config);
    let (key_publisher, session_keys) = publish(opened_keys.keys());
    let key_file = KeyFile::new(key_publisher, opened_keys);
    let OpenedGeo { path, stamp, database } = opened;
    let (geo_publisher, geo) = publish(Arc::new(database));
    let geo_file = GeoFile { path, stamp, publisher: geo_publisher };
    let dropped = !notices.is_empty();
    let (keeper, inbox) = inbox();
    Ok(Control {
        options,
        start,
        phases,
        data_plane,
        clock,
        feed,
        directory,
        history,
        alerts,
        dropped,
        state,
        publisher,
        keeper,
        inbox,
        table,
        geo_file,
        geo,
        rotation,
        certificates: certificate_reader,
        acme_task,
        acme,
        acme_report,
        key_file,
        session_keys,
        reload_status,
        listener,
        gate,
        upgrades,
        upgrade_requests,
        first_round: Arc::default(),
    })
}

impl Control {
    /// The routing table.
    pub fn table(&self) -> TableReader {
        self.table.clone()
    }

    /// Where the data path tells what it finds of endpoints.
    pub fn outliers(&self) -> OutlierSink {
        self.keeper.clone().into()
    }

    /// Where the data path tells what endpoints say of their role and epoch.
    pub fn claims(&self) -> ClaimSink {
        self.keeper.clone().into()
    }

    /// All that the data plane reads.
    pub fn readers(&self) -> Readers {
        Readers {
            table: self.table.clone(),
            geo: self.geo.clone(),
            certificates: self.certificates.clone(),
            acme: self.acme.clone(),
            session_keys: self.session_keys.clone(),
        }
    }

    /// The certificates of TLS listeners.
    pub fn certificates(&self) -> CertificateReader {
        self.certificates.clone()
    }

    /// Where the admin endpoint listens: `address:port`, or `unix:` and a path.
    pub fn admin_address(&self) -> String {
        self.listener.describe()
    }

    /// The admin endpoint's socket, for a process that takes over.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn admin_socket(&self) -> io::Result<InheritedAdmin> {
        let address = self.start.config.admin.address.to_string();
        Ok(InheritedAdmin { address, socket: self.listener.socket()? })
    }

    /// Opens and closes the admin endpoint.
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// What operators ask of the process as a whole; once.
    pub fn upgrade_requests(&mut self) -> mpsc::Receiver<UpgradeRequest> {
        std::mem::replace(&mut self.upgrade_requests, mpsc::channel(1).1)
    }

    /// Becomes `true` once every endpoint was probed.
    pub fn first_round(&self) -> Arc<AtomicBool> {
        self.first_round.clone()
    }

    /// Runs everything of the control plane until [`Phase::Stopped`]. Needs a current-thread tokio runtime
    /// with I/O and time enabled; SIGHUP is handled here, other signals are not.
    ///
    /// # Errors
    /// [`ControlError`] if a part of it ended by itself.
    pub async fn run(self) -> Result<(), ControlError> {
        let mut phases = self.phases.clone();
        let (persister, saving) = persister(self.directory.clone(), self.gate.clone());
        let saving = tokio::spawn(saving);
        self.save_first_state(&persister);
        let history = self.history.clone();
        let successor = (self.directory.clone(), self.gate.clone(), self.keeper.clone());
        let mut tasks = self.spawn(persister);
        if !successor.1.is_owner() {
            tasks.spawn(named("inherit", inherit(successor)));
        }
        let result = tokio::select! {
            _ = phases.reached(Phase::Stopped) => Ok(()),
            ended = tasks.join_next() => Err(match ended {
                Some(Ok(name)) => ControlError::TaskEnded(name),
                Some(Err(error)) => ControlError::TaskFailed(error.to_string()),
                None => ControlError::TaskEnded("all"),
            }),
        };
        tasks.shutdown().await;
        // With all tasks gone nothing more can be saved, so this ends once the disk has what there was.
        let written = tokio::time::timeout(LAST_LINES, history.flush());
        let saved = tokio::time::timeout(LAST_SAVE, saving);
        let (written, saved) = tokio::join!(written, saved);
        if written.is_err() {
            tracing::error!(target: "history", "the disk is slow: the last changes may be lost");
        }
        if saved.is_err() {
            tracing::error!(target: "state", "the disk is slow: the last state may be lost");
        }
        result
    }

    fn save_first_state(&self, persister: &Persister) {
        let StartConfig { fallen_back, warnings, text, hash, .. } = &self.start;
        for warning in warnings {
            tracing::warn!(target: "config", "{warning}");
        }
        tracing::info!(target: "config", %hash, "configuration in force");
        // A failure is logged and tried again.
        match fallen_back {
            None => drop(persister.save(Save::LastAccepted(text.clone()))),
            Some(error) => {
                tracing::error!(
                    target: "config", error, "started with the last accepted configuration"
                );
            }
        }
        if self.dropped {
            drop(persister.save(Save::Overrides(self.state.overrides().clone())));
        }
        // An epoch that the file has raised is not forgotten by the next start.
        if self.gate.is_owner() {
            drop(persister.save(Save::Primacies(self.state.primacies())));
        }
    }

    fn exporter(&self, overrides: OverridesReader, probes: ProbeCounts) -> Exporter {
        Exporter {
            table: self.table.clone(),
            overrides,
            certificates: self.certificates.clone(),
            acme: self.acme.clone(),
            acme_report: self.acme_report.clone(),
            reload: self.reload_status.subscribe(),
            data_plane: self.data_plane.clone(),
            probes,
            history: self.history.clone(),
            alerts: self.alerts.clone(),
            clock: self.clock,
            options: self.options.clone(),
        }
    }

    fn spawn(self, persister: Persister) -> JoinSet<&'static str> {
        let background = Background::start();
        let (reload, requests) = requests();
        let (desired, desired_reader) = watch::channel(self.start.config.clone());
        let (overrides, overrides_reader) =
            watch::channel(Arc::new(self.state.overrides().clone()));
        let probes = ProbeCounts::default();
        let exporter = self.exporter(overrides_reader.clone(), probes.clone());
        let first_round = self.first_round;
        let (table, clock, feed) = (self.table, self.clock, self.feed);
        let (keeper, inbox) = (self.keeper, self.inbox);
        let failovers = Failovers::new(
            table.clone(),
            keeper.clone(),
            clock,
            (feed.clone(), self.history.clone()),
            self.gate.clone(),
        );
        let certificates = self.certificates;
        let (acme_table, acme_gate) = (table.clone(), self.gate.clone());
        let admin = Admin {
            settings: self.start.config.admin.clone(),
            options: self.options.clone(),
            table: table.clone(),
            geo: self.geo,
            certificates: certificates.clone(),
            acme: self.acme,
            acme_report: self.acme_report,
            session_keys: self.session_keys,
            keeper: keeper.clone(),
            failovers: failovers.clone(),
            reload,
            reload_status: self.reload_status.subscribe(),
            overrides: overrides_reader,
            phases: self.phases,
            first_round: first_round.clone(),
            clock,
            feed: feed.clone(),
            history: self.history.clone(),
            alerts: self.alerts.clone(),
            data_plane: self.data_plane,
            exporter,
            followers: admin::followers(),
            gate: self.gate,
            upgrades: self.upgrades,
        };
        let reloader = Reloader {
            path: self.options.config_path,
            table: table.clone(),
            requests,
            keeper: keeper.clone(),
            background: background.clone(),
            persister: persister.clone(),
            feed: feed.clone(),
            history: self.history.clone(),
            alerts: self.alerts.clone(),
            status: self.reload_status,
            geo: self.geo_file,
            rotation: self.rotation,
            key_file: self.key_file,
            failed: self.start.failed,
        };
        let hearing = Hearing { table, clock, keeper: keeper.clone(), tracks: Tracks::default() };
        let health = HealthChecker {
            hearing: hearing.clone(),
            desired: desired_reader.clone(),
            counts: probes,
            certificates: certificates.clone(),
        };
        let (desired_for, feed_for) = (desired_reader.clone(), feed.clone());
        let replication =
            Replication { hearing, desired: desired_for, feed: feed_for, certificates };
        let acme = AcmeParts {
            desired: desired_reader.clone(),
            table: acme_table,
            gate: acme_gate,
            history: self.history.clone(),
            feed: feed.clone(),
        };
        let resolver = NameResolver { keeper, desired: desired_reader };
        let observer = Observer::new(self.state.table().clone(), clock.now());
        let keeper = Keeper {
            state: self.state,
            publisher: self.publisher,
            retired: Vec::new(),
            inbox,
            background,
            persister,
            feed,
            clock,
            desired,
            overrides,
            first_round,
            observer,
            history: self.history,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(named("keeper", keeper.run()));
        tasks.spawn(named("reload", reloader.run()));
        tasks.spawn(named("health", health.run()));
        tasks.spawn(named("replication", replication.run()));
        tasks.spawn(named("resolver", resolver.run()));
        tasks.spawn(named("acme", self.acme_task.run(acme)));
        tasks.spawn(named("failover", watch(failovers)));
        tasks.spawn(named("alerts", deliver(self.alerts)));
        tasks.spawn(named("admin", admin::serve(self.listener, Arc::new(admin))));
        tasks
    }
}

/// Once the process before has left: what it learnt of primaries since this one read the state.
async fn inherit((directory, gate, keeper): (StateDirectory, Gate, KeeperHandle)) {
    while !gate.is_owner() {
        tokio::time::sleep(OWNER_POLL).await;
    }
    match directory.primacies() {
        Ok(Ok(known)) => keeper.tell(Event::Inherit(known)).await,
        Ok(Err(error)) => tracing::error!(target: "state", error, "what was known is lost"),
        Err(error) => tracing::error!(target: "state", %error, "what was known cannot be read"),
    }
    // No task may end.
    std::future::pending::<()>().await;
}

async fn named<T>(name: &'static str, task: impl Future<Output = T>) -> &'static str {
    task.await;
    name
}
