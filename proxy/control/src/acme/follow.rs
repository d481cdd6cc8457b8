//! What the task does when the configuration is another one, or the process has come to be the one that asks.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use meridian_config::{Acme, Config};

use super::cover::{Cover, cover};
use super::entry::{Entry, Held};
use super::failure::Failure;
use super::office::Office;
use super::schedule::Until;
use super::store::{Attempts, Store, StoredCertificate, key_of};
use super::task::{AcmeParts, AcmeTask, OFFICE};
use crate::certificates::ListenerCertificates;
use crate::clock::unix_ms;

impl AcmeTask {
    pub(super) async fn follow_changed(&mut self, config: &Arc<Config>) {
        let known: Vec<_> = self.entries.iter().map(|entry| entry.key.clone()).collect();
        let (store, read) = (self.store.clone(), config.clone());
        let job = tokio::task::spawn_blocking(move || Found::on_disk(&store, &read, &known));
        match job.await {
            Ok(found) => self.follow(config, found),
            Err(error) => tracing::error!(target: "acme", %error, "the state cannot be read"),
        }
    }

    /// Takes over what is wanted now.
    pub(super) fn follow(&mut self, config: &Config, found: Found) {
        let Found { attempts, mut certificates, spares } = found;
        let acme = config.acme.as_ref();
        let same = match (&self.office, acme) {
            (Some(office), Some(acme)) => office.is_for(acme),
            (None, None) => true,
            _ => false,
        };
        let now = unix_ms();
        let mut unread = None;
        if !same {
            let first = self.office.is_none() && self.entries.is_empty();
            let before = self.office.take();
            let office =
                |acme: &Acme| Office::new(acme.clone(), self.store.clone(), before.as_deref());
            self.office = acme.map(|acme| Arc::new(office(acme)));
            (self.hold, self.office_failures) = (Until::default(), 0);
            // Whoever has changed something wants to see whether it helps.
            self.attempts = Attempts::new();
            self.are_attempts_read = true;
            for entry in &mut self.entries {
                entry.start_anew();
            }
            match attempts {
                Ok(attempts) if first => self.take_attempts(attempts, now),
                Err(why) if first => {
                    self.are_attempts_read = false;
                    unread = Some(why);
                }
                _ => {}
            }
        }
        let mut before = std::mem::take(&mut self.entries);
        for wanted in acme.into_iter().flat_map(|acme| &acme.certificates) {
            let key = key_of(wanted);
            let known = before.iter().position(|entry| *entry.key == *key);
            let mut entry = match known {
                Some(position) => before.swap_remove(position),
                None => {
                    let mut entry = Entry::new(key.clone().into());
                    if let Some(attempt) = self.attempts.get(&key) {
                        entry.resume(attempt, now);
                    }
                    let stored = certificates.remove(&key);
                    match stored.unwrap_or(Ok(None)).and_then(|s| unread.clone().map_or(Ok(s), Err))
                    {
                        Ok(stored) => entry.read(stored),
                        Err(why) => entry.leave_unread(why),
                    }
                    entry
                }
            };
            entry.wanted = wanted.clone();
            entry.schedule(acme.and_then(|acme| acme.renew_before));
            self.entries.push(entry);
        }
        self.spares.extend(spares);
        for mut gone in before {
            gone.start_anew();
            // Its hosts may be in another list now.
            self.spares.extend(gone.held);
        }
        self.prune();
        let shows = config.listeners.iter().filter(|l| l.tls.as_ref().is_some_and(|tls| tls.acme));
        self.book.listeners = shows.map(|listener| listener.name.clone()).collect();
        self.index();
    }

    /// Makes what was issued available. What nobody is shown any more is forgotten; the disk has it.
    pub(super) fn index(&mut self) {
        let wanted = self.entries.iter().map(|entry| (&*entry.wanted.domains, entry.held.as_ref()));
        let Cover { certificates, used, awaited } = cover(wanted, &self.spares);
        self.book.issued = Arc::new(ListenerCertificates::of(certificates));
        let awaited = awaited.into_iter();
        let awaited =
            awaited.map(|(position, host)| (host, self.entries[position].awaited.clone()));
        self.book.awaited = Arc::new(awaited.collect());
        let mut used = used.into_iter();
        self.spares.retain(|_| used.next().unwrap_or(false));
        self.publish();
    }

    /// Failures of an earlier process under the same settings count on.
    pub(super) fn take_attempts(&mut self, mut attempts: Attempts, now_ms: u64) {
        let settings = self.office.as_ref().map(|office| office.settings_id());
        attempts.retain(|_, attempt| settings.as_ref() == Some(&attempt.settings));
        if let Some(attempt) = attempts.get(OFFICE) {
            self.hold = Until::kept(attempt.next_unix_ms, now_ms);
            self.office_failures = attempt.failures;
        }
        for entry in &mut self.entries {
            if let Some(attempt) = attempts.get(&*entry.key) {
                entry.resume(attempt, now_ms);
            }
        }
        (self.attempts, self.are_attempts_read) = (attempts, true);
    }

    /// Looks once more at what could not be read.
    pub(super) async fn read_again(&mut self, parts: &AcmeParts) {
        for position in 0..self.entries.len() {
            let entry = &self.entries[position];
            if !entry.is_unread || entry.due_ms("") > unix_ms() {
                continue;
            }
            let (store, key) = (self.store.clone(), entry.key.clone());
            let job = tokio::task::spawn_blocking(move || {
                let attempts = store.attempts()?;
                Ok((attempts, store.certificate(&key)?))
            });
            match job.await.unwrap_or_else(|error| Err(error.to_string())) {
                Ok((attempts, stored)) => {
                    if !self.are_attempts_read {
                        self.take_attempts(attempts, unix_ms());
                    }
                    let renew_before =
                        self.office.as_ref().and_then(|office| office.settings.renew_before);
                    let entry = &mut self.entries[position];
                    entry.read(stored);
                    entry.schedule(renew_before);
                    self.index();
                }
                Err(why) => {
                    let why = format!("what was kept cannot be read: {why}");
                    self.fail(position, Failure::own(why), parts).await;
                }
            }
        }
    }

    /// Challenges of orders that have ended are not answered any more.
    pub(super) fn prune(&mut self) {
        let entries = &self.entries;
        let open = |number| entries.iter().any(|entry| entry.is_of(number));
        self.book.challenges.retain(|challenge| open(challenge.order));
    }

    /// Takes what the process before has left since this one has read the disk.
    pub(super) async fn catch_up(&mut self, config: &Arc<Config>) {
        let (store, read) = (self.store.clone(), config.clone());
        let job = tokio::task::spawn_blocking(move || {
            // What that one writes yet is waited for.
            let _turn = store.turn();
            Found::on_disk(&store, &read, &[])
        });
        let Ok(mut found) = job.await else { return };
        let renew_before = config.acme.as_ref().and_then(|acme| acme.renew_before);
        for entry in &mut self.entries {
            match found.certificates.remove(&*entry.key) {
                Some(Ok(Some(stored))) if entry.catch_up(&stored) => entry.schedule(renew_before),
                Some(Err(why)) => entry.leave_unread(why),
                _ => {}
            }
        }
        self.index();
    }

    pub(super) fn publish(&mut self) {
        self.publisher.publish(Arc::new(self.book.clone()));
    }
}

/// What the disk holds.
pub(super) struct Found {
    attempts: Result<Attempts, String>,
    /// By key.
    certificates: HashMap<String, Result<Option<StoredCertificate>, String>>,
    /// Issued for other lists of domains, and good for some host that is wanted in a new one.
    spares: Vec<Held>,
}

impl Found {
    /// Blocks. What is `known` is not read again.
    pub(super) fn on_disk(store: &Store, config: &Config, known: &[Arc<str>]) -> Self {
        let wanted = config.acme.as_ref().map_or(&[][..], |acme| &acme.certificates);
        let attempts = Ok(Attempts::new());
        let mut found = Self { attempts, certificates: HashMap::new(), spares: Vec::new() };
        if config.acme.is_none() {
            return found;
        }
        found.attempts = store.attempts();
        let (mut keys, mut hosts) = (HashSet::new(), HashSet::new());
        for one in wanted {
            let key = key_of(one);
            if !known.iter().any(|known| **known == *key) {
                hosts.extend(one.domains.iter().map(String::as_str));
                found.certificates.insert(key.clone(), store.certificate(&key));
            }
            keys.insert(key);
        }
        if !hosts.is_empty() {
            let now_s = i64::try_from(unix_ms() / 1000).unwrap_or(i64::MAX);
            let others = store.others(&keys).into_iter();
            let for_some =
                |one: &StoredCertificate| one.domains.iter().any(|d| hosts.contains(&**d));
            let held = others.filter(for_some).filter_map(|stored| Held::of(&stored).ok());
            // What has expired must not stand before a wildcard of the operator's.
            found.spares = held.filter(|h| h.certificate.not_after_unix_s > now_s).collect();
        }
        found
    }
}
