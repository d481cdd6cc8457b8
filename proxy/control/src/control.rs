//! Puts the rooms of the control plane together.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use meridian_config::{Config, ConfigErrors, Fingerprint, Loaded, Warning};
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
use crate::certificates::CertificateErrors;
use crate::clock::{Clock, unix_ms};
use crate::data_plane::DataPlane;
use crate::events::Feed;
use crate::failover::{Failovers, watch};
use crate::health::{HealthChecker, ProbeCounts};
use crate::history::{History, Observer};
use crate::keeper::{
    ClaimSink, Command, Event, Keeper, KeeperHandle, KeeperState, OutlierSink, OverridesReader,
    Persister, Primacies, Rejection, Save, StateDirectory, inbox, persister, record_at_start,
};
use crate::lifecycle::{Phase, PhaseReader};
use crate::metrics::Exporter;
use crate::published::{
    AcmeReader, CertificateReader, GeoReader, Publisher, Readers, SessionKeyReader, TableReader,
    publish,
};
use crate::reload::{
    CertificateStatus, GeoFile, GeoStatus, OpenedCertificates, OpenedGeo, ReloadStatus, Reloader,
    Rotation, read_text, requests,
};
use crate::replication::{Hearing, Replication, Tracks};
use crate::resolve::NameResolver;
use crate::sessions::{KeyFile, OpenedKeys};

/// Where state is kept when a broken file does not say.
const DEFAULT_STATE: &str = "meridian-state";
/// How often a process that takes over looks whether it has.
const OWNER_POLL: Duration = Duration::from_millis(50);
/// At the end the disk has so long.
const LAST_SAVE: Duration = Duration::from_secs(5);
/// The history's file so long.
const LAST_LINES: Duration = Duration::from_secs(2);

/// What the process was started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config_path: PathBuf,
    /// Fall back to the last accepted configuration when the file is broken at start.
    pub last_good: bool,
    /// The program's version.
    pub version: &'static str,
    /// The revision it was built from.
    pub revision: &'static str,
}

/// A configuration to start with.
#[derive(Clone, Debug)]
pub struct StartConfig {
    /// Resolved and checked.
    pub config: Arc<Config>,
    /// What the parser found odd.
    pub warnings: Vec<Warning>,
    /// The file was broken, this is the last accepted configuration, and these are the file's errors.
    pub fallen_back: Option<String>,
    text: String,
    hash: Fingerprint,
    /// What identifies the broken file, so that it is not reported again.
    failed: Option<String>,
}

/// Why control cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(ConfigErrors),
    /// The configuration file cannot be read.
    #[error("{}: {why}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// Neither the file nor the last accepted configuration can be used.
    #[error("{file}\nand the last accepted configuration cannot stand in: {last}")]
    NoLastGood {
        /// What is wrong with the file.
        file: String,
        /// What is wrong with the last accepted configuration.
        last: String,
    },
    /// The routes cannot be compiled.
    #[error(transparent)]
    Routes(#[from] Rejection),
    /// The geo database cannot be used.
    #[error("geoip.database: {0}")]
    Geo(String),
    /// Certificates cannot be used.
    #[error(transparent)]
    Certificates(#[from] CertificateErrors),
    /// The keys of affinity cookies cannot be used.
    #[error("{0}")]
    SessionKeys(String),
    /// The webhook's files cannot be used.
    #[error("alerts: {0}")]
    Alerts(String),
    /// The files that certificates by ACME need cannot be used.
    #[error("acme: {0}")]
    Acme(String),
    /// The state directory cannot be used.
    #[error("edge.state_dir: {0}")]
    State(String),
    /// The admin endpoint's address cannot be used.
    #[error("admin.address: {address}: {why}")]
    Admin {
        /// As it is configured.
        address: String,
        /// What the system says.
        why: io::Error,
    },
}

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

/// Reads the configuration to start with. Blocks.
///
/// # Errors
/// [`StartError::Config`] with all errors of the file, or [`StartError::Read`]; with `last_good`,
/// [`StartError::NoLastGood`] if that cannot be used either.
pub fn load(options: &Options) -> Result<StartConfig, StartError> {
    let path = &options.config_path;
    let text = read_text(path);
    let broken = match &text {
        Ok(text) => match parse(text, path) {
            Ok(loaded) => return Ok(StartConfig::new(loaded, text.clone(), None)),
            Err(errors) => StartError::Config(errors),
        },
        Err(why) => StartError::Read { path: path.clone(), why: why.clone() },
    };
    if !options.last_good {
        return Err(broken);
    }
    let file_text = text.unwrap_or_default();
    let no_last_good = |last: String| StartError::NoLastGood { file: broken.to_string(), last };
    let directory = state_directory_of(&file_text, path);
    let last = StateDirectory::at(&directory).last_accepted();
    let last = last.map_err(|error| no_last_good(format!("{}: {error}", directory.display())))?;
    let loaded = parse(&last, path).map_err(|errors| no_last_good(errors.to_string()))?;
    let failed = Fingerprint::of(file_text.as_bytes()).to_string();
    Ok(StartConfig::new(loaded, last, Some((broken.to_string(), failed))))
}

fn parse(text: &str, path: &Path) -> Result<Loaded, ConfigErrors> {
    Config::parse(text, path, &|name| std::env::var(name).ok())
}

impl StartConfig {
    fn new(loaded: Loaded, text: String, broken: Option<(String, String)>) -> Self {
        let Loaded { config, warnings, fingerprint, .. } = loaded;
        let (fallen_back, failed) = broken.unzip();
        let config = Arc::new(config);
        Self { config, warnings, fallen_back, text, hash: fingerprint, failed }
    }
}

/// The state directory that a broken file names, as far as it can be read off: `state_dir` is a key of `[edge]` only.
fn state_directory_of(text: &str, config_path: &Path) -> PathBuf {
    let named = text.lines().find_map(|line| {
        let value = line.trim().strip_prefix("state_dir")?.trim_start().strip_prefix('=')?;
        let value = value.trim_start();
        let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        value[1..].split(quote).next().map(ToOwned::to_owned)
    });
    let directory = config_path.parent().unwrap_or(Path::new(""));
    directory.join(named.as_deref().unwrap_or(DEFAULT_STATE))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_file_still_says_where_its_state_is() {
        let directory = |text: &str| state_directory_of(text, Path::new("/etc/m/meridian.toml"));
        assert_eq!(directory("[edge\nstate_dir = \"/var/x\" # here"), Path::new("/var/x"));
        assert_eq!(directory("  state_dir='y'"), Path::new("/etc/m/y"));
        for text in ["", "# state_dir = \"x\"", "state_dir = 5"] {
            assert_eq!(directory(text), Path::new("/etc/m/meridian-state"), "{text}");
        }
    }
}
