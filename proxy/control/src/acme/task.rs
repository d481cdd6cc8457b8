//! The task that keeps the certificates of `[acme]`: follows the configuration, begins orders when they are due, takes
//! over what they bring, publishes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use meridian_config::{Acme, Config};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};

use super::book::AcmeBook;
use super::entry::{Entry, Held};
use super::failure::Failure;
use super::follow::Found;
use super::office::{Office, SharedOffice};
use super::order::{Errand, Notice};
use super::report::AcmeReport;
use super::schedule::{Until, pause};
use super::store::{Attempt, Attempts, Store, StoredCertificate};
use crate::admin::Gate;
use crate::clock::unix_ms;
use crate::events::Feed;
use crate::history::History;
use crate::published::{AcmeReader, Publisher, TableReader, publish};

/// Orders under way at a time.
const AT_ONCE: usize = 2;
/// What attempts to get an account are kept by; no [`super::store::key_of`] is the same.
pub(super) const OFFICE: &str = "account";
/// The task looks at its clock at least so often: somebody may have set it.
const LOOK: Duration = Duration::from_secs(15);
/// How often it looks whether it has come to be, or to be no more, the one that asks.
const OWNER_LOOK: Duration = Duration::from_millis(500);
/// A certificate waits so long for the disk.
const DISK: Duration = Duration::from_secs(5);
/// Challenges that wait to be published.
const NOTICES: usize = 16;

/// What the task tells, and asks.
pub(crate) struct AcmeParts {
    pub(crate) desired: watch::Receiver<Arc<Config>>,
    pub(crate) table: TableReader,
    pub(crate) gate: Gate,
    pub(crate) history: History,
    pub(crate) feed: Feed,
}

/// The certificates of `[acme]`, and the only handle that publishes them.
pub(crate) struct AcmeTask {
    pub(super) publisher: Publisher<AcmeBook>,
    pub(super) book: AcmeBook,
    pub(super) store: Store,
    pub(super) entries: Vec<Entry>,
    /// Issued for other lists of domains, and shown until there is a newer one for each of their hosts.
    pub(super) spares: Vec<Held>,
    pub(super) attempts: Attempts,
    pub(super) office: Option<SharedOffice>,
    /// False: those of an earlier process cannot be read, and nothing is written over them.
    pub(super) are_attempts_read: bool,
    /// The authority is left alone until then.
    pub(super) hold: Until,
    /// In a row, of whatever comes before orders: the directory, the account.
    pub(super) office_failures: u32,
    report: watch::Sender<AcmeReport>,
    running: JoinSet<Result<StoredCertificate, Failure>>,
    /// Of orders under way, ended ones that nobody has looked at included.
    numbers: HashMap<Id, u64>,
    /// The last order's.
    number: u64,
    was_owner: bool,
    notices: (mpsc::Sender<Notice>, mpsc::Receiver<Notice>),
}

impl AcmeTask {
    /// Takes what an earlier process has left on the disk. Blocks.
    pub(crate) fn open(config: &Config) -> (Self, AcmeReader, watch::Receiver<AcmeReport>) {
        let book = AcmeBook::default();
        let (publisher, reader) = publish(Arc::new(book.clone()));
        let (report, reports) = watch::channel(AcmeReport::default());
        let mut task = Self {
            publisher,
            book,
            store: Store::below(&config.edge.state_dir),
            entries: Vec::new(),
            spares: Vec::new(),
            attempts: Attempts::new(),
            office: None,
            are_attempts_read: true,
            hold: Until::default(),
            office_failures: 0,
            report,
            running: JoinSet::new(),
            numbers: HashMap::new(),
            number: 0,
            was_owner: true,
            notices: mpsc::channel(NOTICES),
        };
        task.store.sweep();
        let found = Found::on_disk(&task.store, config, &[]);
        task.follow(config, found);
        (task, reader, reports)
    }

    /// Runs until it is aborted.
    pub(crate) async fn run(mut self, mut parts: AcmeParts) {
        loop {
            let is_owner = parts.gate.is_owner() && !parts.gate.is_given_away();
            if is_owner {
                if !self.was_owner {
                    let config = parts.desired.borrow().clone();
                    self.catch_up(&config).await;
                }
                self.begin_due(&parts).await;
            } else {
                self.give_up().await;
            }
            self.was_owner = is_owner;
            self.tell();
            let pause = if is_owner { self.pause() } else { OWNER_LOOK };
            tokio::select! {
                changed = parts.desired.changed() => {
                    if changed.is_err() {
                        // The edge is stopping; no task may end by itself.
                        return std::future::pending().await;
                    }
                    let config = parts.desired.borrow_and_update().clone();
                    self.follow_changed(&config).await;
                }
                Some((challenge, done)) = self.notices.1.recv() => {
                    self.book.challenges.push(challenge);
                    self.prune();
                    self.publish();
                    // The order may have been given up.
                    let _ = done.send(());
                }
                Some(ended) = self.running.join_next_with_id(), if !self.running.is_empty() => {
                    self.end(ended, &parts).await;
                }
                () = parts.gate.given_away(), if is_owner => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Until the next order is due, as far as that is not to be looked at earlier.
    fn pause(&self) -> Duration {
        let idle = self.running.len() < self.at_once();
        let next = self.entries.iter().filter(|entry| !entry.is_ordering());
        let next = next.map(|entry| entry.due_ms(self.directory()).max(self.hold.unix_ms()));
        let next = next.min().filter(|_| idle).unwrap_or(u64::MAX);
        Duration::from_millis(next.saturating_sub(unix_ms()))
            .min(LOOK)
            .max(Duration::from_millis(1))
    }

    fn directory(&self) -> &str {
        self.office.as_ref().map_or("", |office| &office.directory)
    }

    /// How many orders may be under way: what fails for all of them is tried with one.
    fn at_once(&self) -> usize {
        if self.office_failures > 0 { 1 } else { AT_ONCE }
    }

    /// Begins orders that are due, as many as there may be, and saves what could not be saved.
    async fn begin_due(&mut self, parts: &AcmeParts) {
        let Some(office) = self.office.clone() else { return };
        let now = unix_ms();
        self.hold.heed(now);
        for entry in &mut self.entries {
            entry.heed(now);
        }
        self.read_again(parts).await;
        let (now, at_once) = (unix_ms(), self.at_once());
        let mut begun = false;
        for entry in &mut self.entries {
            let due = entry.due_ms(&office.directory).max(self.hold.unix_ms());
            let is_busy = entry.is_ordering() || entry.is_unread;
            if is_busy || due > now || self.running.len() >= at_once {
                continue;
            }
            let errand = Errand {
                number: self.number + 1,
                wanted: entry.wanted.clone(),
                office: office.clone(),
                failures: entry.failures,
                notices: self.notices.0.clone(),
            };
            self.number += 1;
            let handle = self.running.spawn(errand.run());
            self.numbers.insert(handle.id(), self.number);
            entry.begin(self.number, handle);
            let (certificate, renewal) = (entry.wanted.name(), entry.held.is_some());
            tracing::info!(target: "acme", certificate, renewal, "an order begins");
            // As if it had failed, in case that this process does not live to see it.
            let failures = entry.failures + 1;
            let next_unix_ms = now + wait_ms(&office.settings, failures);
            let attempt = Attempt { settings: office.settings_id(), failures, next_unix_ms };
            self.attempts.insert(entry.key.to_string(), attempt);
            begun = true;
        }
        if begun {
            self.save_attempts(&parts.gate).await;
        }
        self.save_certificates(&parts.gate).await;
    }

    async fn save_attempts(&self, gate: &Gate) {
        if !self.are_attempts_read {
            return;
        }
        let (store, attempts, gate) = (self.store.clone(), self.attempts.clone(), gate.clone());
        let job = tokio::task::spawn_blocking(move || store.save_attempts(&attempts, &gate));
        if let Ok(Err(error)) = job.await {
            tracing::error!(target: "acme", %error, "attempts cannot be kept in state_dir");
        }
    }

    async fn save_certificates(&mut self, gate: &Gate) {
        let now = unix_ms();
        for entry in &mut self.entries {
            if entry.save_after.unix_ms() > now {
                continue;
            }
            let Some(stored) = entry.unsaved.take() else { continue };
            let (store, key, gate) = (self.store.clone(), entry.key.clone(), gate.clone());
            let job = tokio::task::spawn_blocking(move || {
                let saved = store.save_certificate(&key, &stored, &gate);
                (saved.map_err(|error| error.to_string()), stored)
            });
            if let Ok((Err(error), stored)) = job.await {
                let certificate = entry.wanted.name();
                tracing::error!(
                    target: "acme", certificate, error, "it cannot be kept in state_dir; tried again"
                );
                entry.unsaved = Some(stored);
                entry.save_after = Until::after(now, LOOK.as_millis() as u64);
            }
        }
    }

    /// Another process asks from now on, or does so still.
    async fn give_up(&mut self) {
        if self.running.is_empty() {
            return;
        }
        self.running.shutdown().await;
        self.numbers.clear();
        for entry in &mut self.entries {
            entry.start_anew();
        }
        self.prune();
        self.publish();
    }

    async fn end(
        &mut self,
        ended: Result<(Id, Result<StoredCertificate, Failure>), JoinError>,
        parts: &AcmeParts,
    ) {
        let (id, result) = match ended {
            Ok(ended) => ended,
            Err(error) => (error.id(), Err(Failure::own(format!("the order broke off: {error}")))),
        };
        let Some(number) = self.numbers.remove(&id) else { return };
        let Some(position) = self.entries.iter().position(|entry| entry.is_of(number)) else {
            // It is not wanted any more.
            return;
        };
        self.entries[position].end();
        self.prune();
        self.publish();
        if parts.gate.is_given_away() {
            // The next process has begun it anew, or will.
            return;
        }
        if !result.as_ref().is_err_and(|failure| failure.account) {
            self.office_failures = 0;
            self.attempts.remove(OFFICE);
        }
        let taken = result
            .and_then(|stored| Held::of(&stored).map(|held| (stored, held)).map_err(Failure::own));
        match taken {
            Ok((stored, held)) => self.take_over(position, stored, held, parts).await,
            Err(failure) => self.fail(position, failure, parts).await,
        }
    }

    async fn take_over(
        &mut self,
        position: usize,
        stored: StoredCertificate,
        held: Held,
        parts: &AcmeParts,
    ) {
        let Some(office) = self.office.clone() else { return };
        let Some(entry) = self.entries.get_mut(position) else { return };
        let rest_ms = held.rest_ms(office.settings.backoff);
        entry.take(stored, held);
        entry.schedule(office.settings.renew_before);
        let name = entry.wanted.name().to_owned();
        let ends = entry.held.as_ref().map_or(0, |held| held.certificate.not_after_unix_s);
        let days = ends.saturating_sub(i64::try_from(unix_ms() / 1000).unwrap_or(0)) / 86_400;
        tracing::info!(target: "acme", certificate = &*name, ends_unix_s = ends, days, "issued");
        // It is on the disk before anybody is shown it, or a crash would cost another order; a disk that hangs is not waited
        // for: the thread that writes goes on without us.
        if tokio::time::timeout(DISK, self.save_certificates(&parts.gate)).await.is_err() {
            tracing::error!(target: "acme", certificate = name, "the disk is slow: it is shown all the same");
        }
        self.index();
        self.rest(position, ends, rest_ms, parts).await;
    }

    /// What was issued is taken over; the next order has time, even where the certificate would be renewed at once.
    async fn rest(&mut self, position: usize, ends: i64, rest_ms: u64, parts: &AcmeParts) {
        let now = unix_ms();
        let Some(entry) = self.entries.get_mut(position) else { return };
        if entry.is_due_on_arrival(now) {
            let words = format!(
                "what was issued ends at {ends} (Unix seconds) and would be renewed at once: is this \
                 machine's clock right?"
            );
            let hold = Some(Duration::from_millis(rest_ms));
            return self.fail(position, Failure { hold, ..Failure::own(words) }, parts).await;
        }
        let was_failing = entry.failing_for_ms();
        entry.succeed(now, rest_ms);
        let name = entry.wanted.name().to_owned();
        self.attempts.remove(&*entry.key);
        parts.feed.tell("certificate_issued", None, json!({ "certificate": name }));
        if let Some(lasted_ms) = was_failing {
            let evidence = format!("{name}: issued");
            let table = parts.table.load();
            parts.history.certificate(("failing", "issued"), &evidence, lasted_ms, &table);
        }
        self.save_attempts(&parts.gate).await;
    }

    /// An account that cannot be had holds all orders; how long, milliseconds. One failure may be met by several orders.
    fn hold_office(&mut self, office: &Office, now: u64, hold: u64) -> u64 {
        if self.hold.unix_ms() <= now {
            self.office_failures += 1;
            let failures = self.office_failures;
            self.hold = Until::after(now, wait_ms(&office.settings, failures).max(hold));
            let next_unix_ms = self.hold.unix_ms();
            let attempt = Attempt { settings: office.settings_id(), failures, next_unix_ms };
            self.attempts.insert(OFFICE.to_owned(), attempt);
        }
        self.hold.unix_ms().saturating_sub(now)
    }

    pub(super) async fn fail(&mut self, position: usize, failure: Failure, parts: &AcmeParts) {
        let Some(office) = self.office.clone() else { return };
        let now = unix_ms();
        let hold = failure.hold.map_or(0, |hold| hold.as_millis() as u64);
        let held = failure.account.then(|| self.hold_office(&office, now, hold));
        if failure.everywhere && self.hold.unix_ms() < now + hold {
            self.hold = Until::after(now, hold);
        }
        let Some(entry) = self.entries.get_mut(position) else { return };
        let (name, error) = (entry.wanted.name().to_owned(), failure.words.clone());
        let own = || wait_ms(&office.settings, entry.failures + 1).max(hold);
        let wait = held.unwrap_or_else(own);
        let was_well = entry.failing_for_ms().is_none();
        entry.fail(error.clone(), now, wait);
        let (failures, next_unix_ms) = (entry.failures, now + wait);
        let attempt = Attempt { settings: office.settings_id(), failures, next_unix_ms };
        self.attempts.insert(entry.key.to_string(), attempt);
        let again_s = wait / 1000;
        let awaited = &self.book.awaited;
        let kept = !entry.wanted.domains.iter().any(|host| awaited.contains_key(host));
        let stays = if kept { "the one before stays" } else { "there is none yet" };
        tracing::error!(
            target: "acme", certificate = name, error, failures, again_s, "not issued; {stays}"
        );
        if was_well {
            let from = if kept { "issued" } else { "awaited" };
            let data = json!({ "certificate": name, "error": error });
            parts.feed.tell("certificate_not_issued", None, data);
            let (evidence, table) = (format!("{name}: {error}"), parts.table.load());
            parts.history.certificate((from, "failing"), &evidence, 0, &table);
        }
        self.save_attempts(&parts.gate).await;
    }

    fn tell(&self) {
        let directory = self.directory();
        let (hold, now) = (self.hold.unix_ms(), unix_ms());
        let report = |entry: &Entry| entry.report(directory, hold, now);
        let certificates = self.entries.iter().map(report).collect();
        let report = AcmeReport { certificates, answered: self.book.counts.clone() };
        self.report.send_replace(report);
    }
}

/// The pause after so many failures in a row, milliseconds.
fn wait_ms(acme: &Acme, failures: u32) -> u64 {
    pause(acme.backoff, failures, fastrand::f64()).as_millis() as u64
}
