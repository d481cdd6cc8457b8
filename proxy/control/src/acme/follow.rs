//! What the task does when the configuration is another one, or the process has come to be the one that asks.

use std::collections::HashMap;
use std::sync::Arc;

use meridian_config::Config;

use super::entry::Entry;
use super::office::Office;
use super::store::{Attempts, Store, StoredCertificate, key_of};
use super::task::AcmeTask;
use crate::certificates::ListenerCertificates;

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
        let Found { attempts, mut certificates } = found;
        let acme = config.acme.as_ref();
        let same = match (&self.office, acme) {
            (Some(office), Some(acme)) => office.is_for(acme),
            (None, None) => true,
            _ => false,
        };
        if !same {
            let first = self.office.is_none() && self.entries.is_empty();
            self.office = acme.map(|acme| Arc::new(Office::new(acme.clone(), self.store.clone())));
            self.hold_until_ms = 0;
            // Whoever has changed something wants to see whether it helps.
            self.attempts = if first { attempts } else { Attempts::new() };
            let settings = self.office.as_ref().map(|office| office.settings_id());
            self.attempts.retain(|_, attempt| settings.as_ref() == Some(&attempt.settings));
            for entry in &mut self.entries {
                entry.start_anew();
            }
        }
        let mut before = std::mem::take(&mut self.entries);
        for wanted in acme.into_iter().flat_map(|acme| &acme.certificates) {
            let key = key_of(wanted);
            let known = before.iter().position(|entry| *entry.key == *key);
            let mut entry = match known {
                Some(position) => before.swap_remove(position),
                None => {
                    let mut entry = Entry::new(key.clone().into(), self.attempts.get(&key));
                    if let Some(stored) = certificates.remove(&key) {
                        entry.restore(stored);
                    }
                    entry
                }
            };
            entry.wanted = wanted.clone();
            entry.schedule(acme.and_then(|acme| acme.renew_before));
            self.entries.push(entry);
        }
        for mut gone in before {
            gone.start_anew();
        }
        self.prune();
        let shows = config.listeners.iter().filter(|l| l.tls.as_ref().is_some_and(|tls| tls.acme));
        self.book.listeners = shows.map(|listener| listener.name.clone()).collect();
        self.index();
    }

    /// Makes what was issued available.
    pub(super) fn index(&mut self) {
        let held = self.entries.iter().filter_map(|entry| entry.held.as_ref());
        let certificates = held.map(|held| held.certificate.clone()).collect();
        self.book.issued = Arc::new(ListenerCertificates::of(certificates));
        let awaited = self.entries.iter().filter(|entry| entry.held.is_none());
        let awaited = awaited.flat_map(|entry| {
            entry.wanted.domains.iter().map(|host| (host.clone(), entry.awaited.clone()))
        });
        self.book.awaited = Arc::new(awaited.collect());
        self.publish();
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
        let job = tokio::task::spawn_blocking(move || Found::on_disk(&store, &read, &[]));
        let Ok(found) = job.await else { return };
        let renew_before = config.acme.as_ref().and_then(|acme| acme.renew_before);
        for entry in &mut self.entries {
            let stored = found.certificates.get(&*entry.key);
            if stored.is_some_and(|stored| entry.catch_up(stored)) {
                entry.schedule(renew_before);
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
    attempts: Attempts,
    /// By key.
    certificates: HashMap<String, StoredCertificate>,
}

impl Found {
    /// Blocks. What is `known` is not read again.
    pub(super) fn on_disk(store: &Store, config: &Config, known: &[Arc<str>]) -> Self {
        let Some(acme) = &config.acme else {
            return Self { attempts: Attempts::new(), certificates: HashMap::new() };
        };
        let keys = acme.certificates.iter().map(key_of);
        let new = keys.filter(|key| !known.iter().any(|known| **known == **key));
        let found = new.filter_map(|key| store.certificate(&key).map(|stored| (key, stored)));
        Self { certificates: found.collect(), attempts: store.attempts() }
    }
}
