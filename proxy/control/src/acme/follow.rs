//! What the task does when the configuration is another one, or the process has come to be the one that asks.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use meridian_config::Config;

use super::cover::{Cover, cover};
use super::entry::{Entry, Held};
use super::office::Office;
use super::store::{Attempts, Store, StoredCertificate, key_of};
use super::task::AcmeTask;
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
    /// Issued for other lists of domains, and good for some host that is wanted in a new one.
    spares: Vec<Held>,
}

impl Found {
    /// Blocks. What is `known` is not read again.
    pub(super) fn on_disk(store: &Store, config: &Config, known: &[Arc<str>]) -> Self {
        let wanted = config.acme.as_ref().map_or(&[][..], |acme| &acme.certificates);
        let mut found =
            Self { attempts: Attempts::new(), certificates: HashMap::new(), spares: Vec::new() };
        if config.acme.is_none() {
            return found;
        }
        found.attempts = store.attempts();
        let (mut keys, mut hosts) = (HashSet::new(), HashSet::new());
        for one in wanted {
            let key = key_of(one);
            if !known.iter().any(|known| **known == *key) {
                hosts.extend(one.domains.iter().map(String::as_str));
                let stored = store.certificate(&key);
                found.certificates.extend(stored.map(|stored| (key.clone(), stored)));
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
