//! Reload: the configuration file, the geo database and the certificates, each all or nothing.
//!
//! Promises: a bad file changes nothing, is logged once with all its errors and shows in [`ReloadStatus`]; the same
//! content is never applied twice. Refuses to know: what the settings mean.

mod certificates;
mod geo;
mod session_keys;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use meridian_config::{Config, ConfigErrors, Fingerprint, Loaded, Warning};
use meridian_routing::Desired;
use tokio::sync::{mpsc, oneshot, watch};

use crate::acme::check_acme;
use crate::alerts::{AlertQueue, Webhook};
use crate::background::Background;
use crate::certificates::CertificateErrors;
use crate::clock::unix_ms;
use crate::events::Feed;
use crate::history::History;
use crate::keeper::{AskError, Event, KeeperHandle, Persister, Rejection, Save};
use crate::published::TableReader;
use crate::sessions::{KeyFile, OpenedKeys};
use crate::watch::{FileWatch, QUIET};

pub(crate) use certificates::{CertificateStatus, OpenedCertificates, Rotation};
pub(crate) use geo::{GeoFile, GeoStatus, OpenedGeo};
use geo::{Stamp, open_geo};

/// Operators that may wait for a reload.
const QUEUE: usize = 16;
/// The largest configuration file, bytes.
const MAX_FILE: u64 = 64 << 20;
/// A file that is missing while somebody replaces it gets so much time.
const REPLACEMENT: Duration = Duration::from_millis(200);

/// A file that has changed is taken once it has been the same for so long.
const STANDSTILL: Duration = QUIET.saturating_mul(3);
/// A file that never stands still is given up after so many looks, until the next change.
const STANDSTILL_TRIES: u32 = 30;

/// Files that are read may name others, and those link to others; the rest is left to the next change.
const REWATCHES: u32 = 3;

/// How reloading stands.
#[derive(Clone, Debug)]
pub(crate) struct ReloadStatus {
    /// SHA-256 of the text in force.
    pub(crate) hash: Fingerprint,
    /// When a reload was last tried, or when the process started.
    pub(crate) last_unix_ms: u64,
    /// Why it failed, if it did.
    pub(crate) last_error: Option<String>,
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    pub(crate) unchanged: u64,
    pub(crate) geo: GeoStatus,
    pub(crate) certificates: CertificateStatus,
}

/// A reload that worked.
#[derive(Clone, Debug)]
pub(crate) struct Reloaded {
    pub(crate) generation: u64,
    pub(crate) changed: bool,
    pub(crate) warnings: Vec<String>,
}

/// Why a reload was refused; nothing has changed then.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ReloadError {
    #[error("{}: {why}", path.display())]
    Read { path: PathBuf, why: String },
    #[error("{0}")]
    Config(ConfigErrors),
    #[error("geoip.database: {0}")]
    Geo(String),
    #[error("{0}")]
    SessionKeys(String),
    #[error("alerts: {0}")]
    Alerts(String),
    #[error("acme: {0}")]
    Acme(String),
    #[error(transparent)]
    Certificates(CertificateErrors),
    #[error(transparent)]
    Refused(Rejection),
    #[error("the edge is stopping")]
    Stopping,
}

type Reply = oneshot::Sender<Result<Reloaded, ReloadError>>;

/// Who wants a reload.
enum Trigger {
    /// The file may have changed.
    File,
    /// SIGHUP.
    Signal,
    /// An operator.
    Operator(String),
}

impl Trigger {
    fn actor(&self) -> &str {
        match self {
            Self::File => "file",
            Self::Signal => "SIGHUP",
            Self::Operator(actor) => actor,
        }
    }
}

/// Asks for reloads.
#[derive(Clone, Debug)]
pub(crate) struct ReloadHandle(mpsc::Sender<(String, Reply)>);

impl ReloadHandle {
    /// Waits until the file has been read again and is in effect.
    pub(crate) async fn reload(&self, actor: String) -> Result<Reloaded, ReloadError> {
        let (reply, answer) = oneshot::channel();
        self.0.send((actor, reply)).await.map_err(|_| ReloadError::Stopping)?;
        answer.await.map_err(|_| ReloadError::Stopping)?
    }
}

/// The queue of requests and the way to it.
pub(crate) fn requests() -> (ReloadHandle, mpsc::Receiver<(String, Reply)>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (ReloadHandle(sender), receiver)
}

/// What a configuration file says.
#[derive(PartialEq, Eq)]
struct Content {
    text: String,
    hash: Fingerprint,
}

impl Content {
    fn read(path: &Path) -> Result<Self, String> {
        let text = read_text(path)?;
        Ok(Self { hash: Fingerprint::of(text.as_bytes()), text })
    }
}

/// Reads the files again when they change or somebody asks.
pub(crate) struct Reloader {
    pub(crate) path: PathBuf,
    pub(crate) table: TableReader,
    pub(crate) requests: mpsc::Receiver<(String, Reply)>,
    pub(crate) keeper: KeeperHandle,
    pub(crate) background: Background,
    pub(crate) persister: Persister,
    pub(crate) feed: Feed,
    pub(crate) history: History,
    pub(crate) alerts: AlertQueue,
    pub(crate) status: watch::Sender<ReloadStatus>,
    pub(crate) geo: GeoFile,
    pub(crate) rotation: Rotation,
    pub(crate) key_file: KeyFile,
    /// What failed last, so that it is neither tried nor logged again and again.
    pub(crate) failed: Option<String>,
}

impl Reloader {
    /// Runs until nobody can ask any more.
    pub(crate) async fn run(mut self) {
        let mut hangups = crate::signal::hangups();
        let mut watched = self.files();
        let mut watch = FileWatch::start(&watched);
        let _ = self.reload_all(&Trigger::File).await;
        loop {
            for _ in 0..REWATCHES {
                let files = self.files();
                if files == watched {
                    break;
                }
                watch = FileWatch::start(&files);
                watched = files;
                // What changed between reading the files and watching them.
                let _ = self.reload_all(&Trigger::File).await;
            }
            tokio::select! {
                request = self.requests.recv() => {
                    let Some((actor, reply)) = request else { return };
                    let result = self.reload_all(&Trigger::Operator(actor)).await;
                    // The operator may have given up.
                    let _ = reply.send(result);
                }
                () = hangups.next() => {
                    // Logged and counted; a signal has no answer.
                    let _ = self.reload_all(&Trigger::Signal).await;
                }
                () = watch.changed() => {
                    let _ = self.reload_all(&Trigger::File).await;
                }
            }
            self.reload_geo().await;
            self.reload_session_keys().await;
        }
    }

    /// The files to watch, with what they link to now.
    fn files(&self) -> Vec<PathBuf> {
        let table = self.table.load();
        let awaited =
            self.rotation.awaited.iter().flat_map(|awaited| certificates::paths(&awaited.config));
        let keys = table.config.edge.session_secret_file.as_deref();
        let named = [Some(self.path.as_path()), self.geo.path.as_deref(), keys];
        let named = named.into_iter().flatten();
        let named = named.chain(certificates::paths(&table.config)).chain(awaited);
        let with_target = |path: &Path| [Some(path.to_owned()), std::fs::canonicalize(path).ok()];
        named.flat_map(with_target).flatten().collect()
    }

    /// The configuration, then the certificates that it names.
    async fn reload_all(&mut self, trigger: &Trigger) -> Result<Reloaded, ReloadError> {
        let mut reloaded = self.reload(trigger).await;
        match (&mut reloaded, self.reload_certificates(trigger).await) {
            (Ok(reloaded), Ok(Some(warnings))) => {
                reloaded.changed = true;
                reloaded.warnings.extend(warnings);
            }
            (Ok(reloaded), Err(error)) if reloaded.changed => {
                reloaded.warnings.push(format!("the running certificates stay: {error}"));
            }
            (Ok(_), Err(error)) => return Err(error),
            (_, Ok(None)) | (Err(_), _) => {}
        }
        reloaded
    }

    async fn reload(&mut self, trigger: &Trigger) -> Result<Reloaded, ReloadError> {
        let Content { text, hash } = match self.read(trigger).await {
            Ok(content) => content,
            Err(error) => {
                let key = error.to_string();
                if !(matches!(trigger, Trigger::File) && self.failed.as_ref() == Some(&key)) {
                    self.note_failure(key, &error, trigger);
                }
                return Err(error);
            }
        };
        if hash == self.status.borrow().hash {
            return Ok(self.unchanged(trigger));
        }
        let key = hash.to_string();
        let seen = self.failed.as_ref() == Some(&key);
        if seen && matches!(trigger, Trigger::File) {
            if !self.awaited_have_changed().await {
                // Nobody reads this answer; what is wrong was logged when it was new.
                return Err(ReloadError::Stopping);
            }
            // Whatever is wrong now is new.
            self.failed = None;
        }
        match self.apply(&text, hash, trigger).await {
            Ok(reloaded) => {
                self.note_success(hash, text, &reloaded, trigger);
                Ok(reloaded)
            }
            Err(error) => {
                self.note_failure(key, &error, trigger);
                Err(error)
            }
        }
    }

    async fn read(&self, trigger: &Trigger) -> Result<Content, ReloadError> {
        let read = || {
            let path = self.path.clone();
            async move {
                let job = self.background.run(move || Content::read(&path));
                job.await.unwrap_or_else(|error| Err(error.to_string()))
            }
        };
        let failed = |why| ReloadError::Read { path: self.path.clone(), why };
        let mut content = read().await;
        if !matches!(trigger, Trigger::File) {
            return content.map_err(failed);
        }
        if content.is_err() {
            tokio::time::sleep(REPLACEMENT).await;
            content = read().await;
        }
        // Half a file may make sense, too: nobody says when the whole of it is written, so it must stand still.
        let known = |content: &Content| content.hash == self.status.borrow().hash;
        for _ in 0..STANDSTILL_TRIES {
            if !content.as_ref().is_ok_and(|content| !known(content)) {
                break;
            }
            tokio::time::sleep(STANDSTILL).await;
            let again = read().await;
            if again == content {
                return content.map_err(failed);
            }
            content = again;
        }
        if content.as_ref().is_ok_and(|content| !known(content)) {
            content = Err("it is still being written".into());
        }
        content.map_err(failed)
    }

    /// The content is in force already.
    fn unchanged(&mut self, trigger: &Trigger) -> Reloaded {
        self.rotation.awaited = None;
        let mended = self.failed.take().is_some();
        if mended {
            let said = "the file is the one in force again";
            tracing::info!(target: "reload", "{said}");
            self.history.configuration(Ok(said), trigger.actor(), &self.table.load());
        }
        let asked = !matches!(trigger, Trigger::File);
        if mended || asked {
            self.status.send_modify(|status| {
                status.last_unix_ms = unix_ms();
                status.last_error = None;
                status.unchanged += 1;
            });
        }
        let generation = self.table.load().generation;
        Reloaded { generation, changed: false, warnings: Vec::new() }
    }

    async fn apply(
        &mut self,
        text: &str,
        hash: Fingerprint,
        trigger: &Trigger,
    ) -> Result<Reloaded, ReloadError> {
        self.rotation.awaited = None;
        let (desired, warnings) = self.parse(text).await?;
        let config = desired.config.clone();
        // Before anything else that a static key names is opened: the answer names the keys, not what follows from them.
        let fixed = self.table.load().config.static_changes(&config);
        if !fixed.is_empty() {
            return Err(ReloadError::Refused(Rejection::Static(fixed)));
        }
        let path = config.geo_database.clone();
        let geo = if path == self.geo.path { None } else { Some(open_geo(path).await?) };
        let certificates = self.certificates_of(&config).await?;
        let keys = OpenedKeys::of(&config).await.map_err(ReloadError::SessionKeys)?;
        let (webhook, refused) = (Webhook::of(&config).await, ReloadError::Alerts);
        let webhook = webhook.map_err(refused)?;
        let checked = config.clone();
        let checked = tokio::task::spawn_blocking(move || check_acme(&checked)).await;
        checked.unwrap_or_else(|error| Err(error.to_string())).map_err(ReloadError::Acme)?;
        if let Some(opened) = &certificates {
            self.rotation.announce(opened);
        }
        let (actor, digest) = (trigger.actor().to_owned(), hash.to_string());
        let applied = self.keeper.ask(Event::Reload { desired, actor, digest }).await;
        let applied = applied.map_err(|error| match error {
            AskError::Rejected(rejection) => ReloadError::Refused(rejection),
            AskError::NotSaved { .. } | AskError::Stopping => ReloadError::Stopping,
        })?;
        self.alerts.set(webhook);
        self.key_file.replace(keys);
        if let Some(opened) = geo {
            self.geo.replace(opened, &self.status);
        }
        let mut warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
        if let Some(opened) = certificates {
            warnings.extend(opened.warnings.iter().map(ToString::to_string));
            self.rotation.replace(opened, &self.status);
        }
        Ok(Reloaded { generation: applied.generation, changed: true, warnings })
    }

    async fn parse(&self, text: &str) -> Result<(Desired, Vec<Warning>), ReloadError> {
        let (text, path) = (text.to_owned(), self.path.clone());
        let parsed = self.background.run(move || {
            let loaded = Config::parse(&text, &path, &|name| std::env::var(name).ok());
            let Loaded { config, warnings, .. } = loaded.map_err(ReloadError::Config)?;
            let desired = Desired::new(Arc::new(config))
                .map_err(|error| ReloadError::Refused(Rejection::Routes(error.to_string())))?;
            Ok((desired, warnings))
        });
        let failed = |why| ReloadError::Read { path: self.path.clone(), why };
        parsed.await.unwrap_or_else(|error| Err(failed(error.to_string())))
    }

    fn note_success(
        &mut self,
        hash: Fingerprint,
        text: String,
        reloaded: &Reloaded,
        trigger: &Trigger,
    ) {
        self.failed = None;
        let (generation, actor) = (reloaded.generation, trigger.actor());
        tracing::info!(target: "reload", %hash, generation, actor, "configuration reloaded");
        tracing::info!(target: "audit", action = "reload", actor, %hash, generation, "reload");
        let said = format!("configuration reloaded, digest {hash:.12}");
        self.history.configuration(Ok(&said), actor, &self.table.load());
        for warning in &reloaded.warnings {
            tracing::warn!(target: "reload", "{warning}");
        }
        self.status.send_modify(|status| {
            status.hash = hash;
            status.last_unix_ms = unix_ms();
            status.last_error = None;
            status.succeeded += 1;
        });
        // The persister logs a failure and tries again.
        drop(self.persister.save(Save::LastAccepted(text)));
    }

    fn note_failure(&mut self, key: String, error: &ReloadError, trigger: &Trigger) {
        let actor = trigger.actor();
        let known = self.failed.as_ref() == Some(&key);
        if !known {
            let error = error.to_string();
            tracing::error!(target: "reload", actor, error, "the running configuration stays");
            self.history.configuration(Err(&error), actor, &self.table.load());
            let data = serde_json::json!({ "error": error });
            self.feed.tell("config_refused", None, data);
        }
        tracing::info!(target: "audit", action = "reload", actor, refused = true, "reload");
        self.failed = Some(key);
        self.status.send_modify(|status| {
            status.last_unix_ms = unix_ms();
            status.last_error = Some(error.to_string());
            status.failed += 1;
        });
    }

    /// Takes over the geo database if its file has changed.
    async fn reload_geo(&mut self) {
        let Some(path) = self.geo.path.clone() else { return };
        let stamp = Stamp::of(&path);
        if stamp == self.geo.stamp {
            return;
        }
        match open_geo(Some(path.clone())).await {
            Ok(opened) => {
                self.geo.replace(opened, &self.status);
                tracing::info!(target: "reload", path = %path.display(), "geo database reloaded");
                self.feed.tell("geo_reloaded", None, serde_json::json!({}));
            }
            Err(error) => {
                self.geo.stamp = stamp;
                let error = error.to_string();
                tracing::error!(target: "reload", error, "the running geo database stays");
                self.feed.tell("geo_refused", None, serde_json::json!({ "error": error }));
                self.status.send_modify(|status| {
                    status.geo.last_error = Some(error);
                    status.geo.failed += 1;
                });
            }
        }
    }
}

/// Reads a whole regular file as text.
pub(crate) fn read_text(path: &Path) -> Result<String, String> {
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("not a regular file".into());
    }
    if metadata.len() > MAX_FILE {
        return Err("larger than 64 MiB".into());
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|error| {
        format!("not UTF-8 text: see byte {}", error.utf8_error().valid_up_to() + 1)
    })
}
