//! Rotation: certificates are taken over when their files change, all of them or none.
//!
//! Promises: what is published was read and verified as a whole; while the files do not make such a whole, such as
//! between the replacement of a certificate and that of its key, the last good set stays, and the same content is
//! logged once. Refuses to know: which certificate a client gets.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use meridian_config::{CertificateFiles, Config, Fingerprint, ListenerName, TlsFiles};
use tokio::sync::watch;

use super::{ReloadError, ReloadStatus, Reloader, STANDSTILL, STANDSTILL_TRIES, Trigger};
use crate::certificates::{
    CertificateErrors, CertificateFinding, CertificateSet, Snapshot, Verified,
};
use crate::clock::unix_ms;
use crate::published::Publisher;

/// How certificates stand.
#[derive(Clone, Debug, Default)]
pub(crate) struct CertificateStatus {
    /// Why the files could not replace those in force.
    pub(crate) last_error: Option<String>,
    pub(crate) failed: u64,
}

/// The only handle that replaces certificates, and what their files held.
pub(crate) struct Rotation {
    publisher: Publisher<CertificateSet>,
    set: Arc<CertificateSet>,
    in_force: Fingerprint,
    /// What failed last, so that it is neither tried nor logged again and again.
    failed: Option<Fingerprint>,
    /// Tried again when its files change.
    pub(super) awaited: Option<Awaited>,
}

/// Certificates that were read and verified.
pub(crate) struct OpenedCertificates {
    fingerprint: Fingerprint,
    pub(crate) set: Arc<CertificateSet>,
    pub(crate) warnings: Vec<CertificateFinding>,
}

/// A configuration that was refused for its certificates, and what their files held then.
pub(super) struct Awaited {
    pub(super) config: Arc<Config>,
    fingerprint: Fingerprint,
}

impl OpenedCertificates {
    /// Reads all that the configuration names. Blocks.
    pub(crate) fn open(config: &Config) -> Result<Self, CertificateErrors> {
        Self::verify(&Snapshot::take(config))
    }

    fn verify(snapshot: &Snapshot) -> Result<Self, CertificateErrors> {
        let unix_s = i64::try_from(unix_ms() / 1000).unwrap_or(i64::MAX);
        let Verified { set, warnings } = snapshot.verify(unix_s)?;
        Ok(Self { fingerprint: snapshot.fingerprint(), set: Arc::new(set), warnings })
    }
}

impl Rotation {
    /// `opened` is what `publisher` was made with.
    pub(crate) fn new(publisher: Publisher<CertificateSet>, opened: &OpenedCertificates) -> Self {
        let (set, in_force) = (opened.set.clone(), opened.fingerprint);
        Self { publisher, set, in_force, failed: None, awaited: None }
    }

    /// Makes what new services need available before the table that has them.
    pub(super) fn announce(&mut self, opened: &OpenedCertificates) {
        self.set = Arc::new(self.set.with_others(&opened.set));
        self.publisher.publish(self.set.clone());
    }

    pub(super) fn replace(
        &mut self,
        mut opened: OpenedCertificates,
        status: &watch::Sender<ReloadStatus>,
    ) {
        self.in_force = opened.fingerprint;
        self.failed = None;
        Arc::make_mut(&mut opened.set).follow(&self.set);
        self.set = opened.set;
        self.publisher.publish(self.set.clone());
        status.send_modify(|status| status.certificates.last_error = None);
    }
}

impl Reloader {
    /// Reads the certificates of a configuration that is not in force yet, if it names others.
    pub(super) async fn certificates_of(
        &mut self,
        config: &Arc<Config>,
    ) -> Result<Option<OpenedCertificates>, ReloadError> {
        let table = self.table.load();
        let same = files(config).eq(files(&table.config))
            && endpoint_files(config).eq(endpoint_files(&table.config));
        if same {
            return Ok(None);
        }
        let snapshot = take(config).await.ok_or(ReloadError::Stopping)?;
        let fingerprint = snapshot.fingerprint();
        verify(snapshot).await.map(Some).inspect_err(|_| {
            self.rotation.awaited = Some(Awaited { config: config.clone(), fingerprint });
        })
    }

    /// Whether the files that the refused configuration waits for are not what they were.
    pub(super) async fn awaited_have_changed(&self) -> bool {
        let Some(Awaited { config, fingerprint }) = &self.rotation.awaited else { return false };
        take(config).await.is_some_and(|snapshot| snapshot.fingerprint() != *fingerprint)
    }

    /// Takes over certificates whose files have changed. What is odd about them, if there are any.
    pub(super) async fn reload_certificates(
        &mut self,
        trigger: &Trigger,
    ) -> Result<Option<Vec<String>>, ReloadError> {
        let asked = !matches!(trigger, Trigger::File);
        let config = self.table.load().config.clone();
        let Some(snapshot) = self.changed_files(&config, asked).await else { return Ok(None) };
        let (fingerprint, actor) = (snapshot.fingerprint(), trigger.actor());
        match verify(snapshot).await {
            Ok(opened) => {
                let warnings: Vec<_> = opened.warnings.iter().map(ToString::to_string).collect();
                self.rotation.replace(opened, &self.status);
                tracing::info!(target: "reload", actor, "certificates reloaded");
                for warning in &warnings {
                    tracing::warn!(target: "reload", "{warning}");
                }
                self.feed.tell("certificates_reloaded", None, serde_json::json!({}));
                Ok(Some(warnings))
            }
            Err(error) => {
                if self.rotation.failed.replace(fingerprint) != Some(fingerprint) {
                    let error = error.to_string();
                    tracing::error!(
                        target: "reload", actor, error, "the running certificates stay"
                    );
                    let data = serde_json::json!({ "error": error });
                    self.feed.tell("certificates_refused", None, data);
                }
                self.status.send_modify(|status| {
                    status.certificates.last_error = Some(error.to_string());
                    status.certificates.failed += 1;
                });
                Err(error)
            }
        }
    }

    /// What the files hold, if it is new; unless somebody asked, also only once they stand still and if it was not
    /// refused already.
    async fn changed_files(&mut self, config: &Arc<Config>, asked: bool) -> Option<Snapshot> {
        let mut snapshot = take(config).await?;
        for _ in 0..STANDSTILL_TRIES {
            let fingerprint = snapshot.fingerprint();
            if fingerprint == self.rotation.in_force {
                if self.rotation.failed.take().is_some() {
                    tracing::info!(target: "reload", "the certificates are those in force again");
                    self.status.send_modify(|status| status.certificates.last_error = None);
                }
                return None;
            }
            if asked {
                return Some(snapshot);
            }
            if self.rotation.failed == Some(fingerprint) {
                return None;
            }
            tokio::time::sleep(STANDSTILL).await;
            snapshot = take(config).await?;
            if snapshot.fingerprint() == fingerprint {
                return Some(snapshot);
            }
        }
        None
    }
}

/// The files of a listener that has TLS.
#[derive(PartialEq)]
struct Files<'c> {
    listener: &'c ListenerName,
    pairs: &'c [CertificateFiles],
    client_ca: Option<&'c Path>,
    client_crl: &'c [PathBuf],
    ticket_keys: &'c [PathBuf],
}

/// The listeners that have TLS, with their files.
fn files(config: &Config) -> impl Iterator<Item = Files<'_>> {
    config.listeners.iter().filter_map(|listener| {
        let tls = listener.tls.as_ref()?;
        Some(Files {
            listener: &listener.name,
            pairs: &tls.certificates,
            client_ca: tls.client_ca.as_deref(),
            client_crl: &tls.client_crl,
            ticket_keys: &tls.session_ticket_keys,
        })
    })
}

/// The files of services that have TLS.
fn endpoint_files(config: &Config) -> impl Iterator<Item = &TlsFiles> {
    config.services.iter().filter_map(|service| Some(&service.tls.as_ref()?.files))
}

/// All files of certificates and keys that a configuration names.
pub(super) fn paths(config: &Config) -> impl Iterator<Item = &Path> {
    let listeners = files(config).flat_map(|of| {
        let pairs = of.pairs.iter().flat_map(|files| {
            [&*files.certificate, &*files.private_key].into_iter().chain(files.ocsp.as_deref())
        });
        let others = of.client_crl.iter().chain(of.ticket_keys).map(PathBuf::as_path);
        pairs.chain(of.client_ca).chain(others)
    });
    let endpoints = endpoint_files(config).flat_map(|files| {
        let shown = files.client.iter().flat_map(|f| [&*f.certificate, &*f.private_key]);
        shown.chain(files.ca.as_deref())
    });
    listeners.chain(endpoints)
}

async fn take(config: &Arc<Config>) -> Option<Snapshot> {
    let config = config.clone();
    tokio::task::spawn_blocking(move || Snapshot::take(&config)).await.ok()
}

async fn verify(snapshot: Snapshot) -> Result<OpenedCertificates, ReloadError> {
    let job = tokio::task::spawn_blocking(move || OpenedCertificates::verify(&snapshot));
    let verified = job.await.map_err(|_| ReloadError::Stopping)?;
    verified.map_err(ReloadError::Certificates)
}
