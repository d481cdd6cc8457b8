//! The store of a simulated region: keys with text values, and a log that replicas pull.
//!
//! Promises: every write gets the next position; a replica that keeps pulling reaches the primary's
//! position, entry by entry or by a snapshot when it has fallen behind the log; memory is bounded.
//! Refuses to know: sockets, clocks (time is an argument), who may write.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Bytes of a key.
pub(crate) const MAX_KEY_BYTES: usize = 256;
/// Bytes of a value.
pub(crate) const MAX_VALUE_BYTES: usize = 64 << 10;
/// Bytes of all keys and values.
const MAX_STORE_BYTES: usize = 32 << 20;
/// Entries and bytes of the log; a replica behind it gets a snapshot.
const MAX_LOG_ENTRIES: usize = 10_000;
const MAX_LOG_BYTES: usize = 8 << 20;
/// Entries of one page of the log.
const PAGE_ENTRIES: usize = 1_000;

/// One write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) position: u64,
    pub(crate) key: Arc<str>,
    pub(crate) value: Arc<str>,
    /// When the primary applied it, Unix time in milliseconds.
    pub(crate) written_unix_ms: u64,
}

/// What a replica pulls.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Page {
    pub(crate) epoch: u64,
    /// The position that is reached once the page is applied.
    pub(crate) position: u64,
    /// The entries are all there is: forget everything else.
    pub(crate) snapshot: bool,
    pub(crate) entries: Vec<Entry>,
}

/// Why a write was not applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum NotStored {
    #[error("a key has 1 to {MAX_KEY_BYTES} bytes")]
    BadKey,
    #[error("a value has at most {MAX_VALUE_BYTES} bytes")]
    ValueTooLong,
    #[error("the store is full")]
    Full,
}

/// Values, the log, and what was pulled but is held back to simulate lag.
#[derive(Debug, Default)]
pub(crate) struct Store {
    position: u64,
    values: BTreeMap<Arc<str>, Entry>,
    bytes: usize,
    log: VecDeque<Entry>,
    log_bytes: usize,
    held_back: VecDeque<Entry>,
}

impl Store {
    /// The position of the last write that was applied here.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(|entry| &*entry.value)
    }

    /// Applies a write of the primary; returns its position.
    pub(crate) fn put(&mut self, key: &str, value: &str, unix_ms: u64) -> Result<u64, NotStored> {
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return Err(NotStored::BadKey);
        }
        if value.len() > MAX_VALUE_BYTES {
            return Err(NotStored::ValueTooLong);
        }
        if self.bytes + key.len() + value.len() > MAX_STORE_BYTES {
            return Err(NotStored::Full);
        }
        let position = self.position + 1;
        let (key, value) = (key.into(), value.into());
        self.apply(Entry { position, key, value, written_unix_ms: unix_ms });
        Ok(position)
    }

    /// What comes after `position`.
    pub(crate) fn page_after(&self, epoch: u64, position: u64) -> Page {
        let first_kept = self.log.front().map_or(self.position + 1, |entry| entry.position);
        if position + 1 < first_kept || position > self.position {
            let entries = self.values.values().cloned().collect();
            return Page { epoch, position: self.position, snapshot: true, entries };
        }
        let skip = usize::try_from(position + 1 - first_kept).unwrap_or(usize::MAX);
        let page = self.log.iter().skip(skip).take(PAGE_ENTRIES);
        let entries: Vec<Entry> = page.cloned().collect();
        let reached = entries.last().map_or(position, |entry| entry.position);
        Page { epoch, position: reached, snapshot: false, entries }
    }

    /// The position from which a replica pulls on: what it has, held back or not.
    pub(crate) fn received(&self) -> u64 {
        self.held_back.back().map_or(self.position, |entry| entry.position)
    }

    /// Takes a page. A snapshot counts at once, entries when [`Self::apply_due`] says so.
    pub(crate) fn receive(&mut self, page: Page) {
        if page.snapshot {
            let log = std::mem::take(&mut self.log);
            *self = Self { log, log_bytes: self.log_bytes, ..Self::default() };
            self.log.clear();
            self.log_bytes = 0;
            for entry in page.entries {
                self.bytes += entry.size();
                self.values.insert(entry.key.clone(), entry);
            }
            self.position = page.position;
            return;
        }
        let next = self.received() + 1;
        self.held_back.extend(page.entries.into_iter().skip_while(|entry| entry.position < next));
    }

    /// Applies what was written at least `lag` ago.
    pub(crate) fn apply_due(&mut self, lag: Duration, unix_ms: u64) {
        let until = u128::from(unix_ms).saturating_sub(lag.as_millis());
        while let Some(entry) = self.held_back.pop_front() {
            if u128::from(entry.written_unix_ms) > until {
                self.held_back.push_front(entry);
                return;
            }
            self.apply(entry);
        }
    }

    fn apply(&mut self, entry: Entry) {
        self.position = entry.position;
        self.bytes += entry.size();
        self.log_bytes += entry.size();
        self.log.push_back(entry.clone());
        if let Some(before) = self.values.insert(entry.key.clone(), entry) {
            self.bytes -= before.size();
        }
        while self.log.len() > MAX_LOG_ENTRIES || self.log_bytes > MAX_LOG_BYTES {
            let Some(oldest) = self.log.pop_front() else { break };
            self.log_bytes -= oldest.size();
        }
    }
}

impl Entry {
    fn size(&self) -> usize {
        self.key.len() + self.value.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pull(replica: &mut Store, primary: &Store) {
        while replica.received() < primary.position() {
            replica.receive(primary.page_after(1, replica.received()));
        }
    }

    #[test]
    fn a_replica_reaches_the_primary_after_its_lag() {
        let (mut primary, mut replica) = (Store::default(), Store::default());
        assert_eq!(primary.put("a", "1", 1_000), Ok(1));
        assert_eq!(primary.put("a", "2", 1_500), Ok(2));
        pull(&mut replica, &primary);
        let lag = Duration::from_millis(300);
        replica.apply_due(lag, 1_299);
        assert_eq!((replica.position(), replica.get("a")), (0, None));
        replica.apply_due(lag, 1_300);
        assert_eq!((replica.position(), replica.get("a")), (1, Some("1")));
        replica.apply_due(lag, 1_800);
        assert_eq!((replica.position(), replica.get("a")), (2, Some("2")));
    }

    #[test]
    fn the_same_page_twice_is_applied_once() {
        let (mut primary, mut replica) = (Store::default(), Store::default());
        for number in 0..5 {
            primary.put("k", &number.to_string(), number).unwrap();
        }
        let page = primary.page_after(1, 0);
        replica.receive(page.clone());
        replica.receive(page);
        assert_eq!(replica.held_back.len(), 5);
        replica.apply_due(Duration::ZERO, 10);
        assert_eq!(replica.position(), 5);
    }

    #[test]
    fn a_long_log_comes_in_pages_and_what_is_gone_as_a_snapshot() {
        let (mut primary, mut replica) = (Store::default(), Store::default());
        for number in 0..2_500_u64 {
            primary.put(&format!("k{}", number % 7), &number.to_string(), 0).unwrap();
        }
        assert_eq!(primary.page_after(1, 0).entries.len(), PAGE_ENTRIES);
        pull(&mut replica, &primary);
        replica.apply_due(Duration::ZERO, 1);
        assert_eq!(replica.position(), 2_500);
        for number in 0..MAX_LOG_ENTRIES as u64 + 1 {
            primary.put(&format!("k{}", number % 7), "new", 0).unwrap();
        }
        assert!(primary.page_after(1, replica.received()).snapshot);
        pull(&mut replica, &primary);
        assert_eq!(replica.position(), primary.position());
        assert!((0..7).all(|k| replica.get(&format!("k{k}")) == Some("new")));
    }

    #[test]
    fn a_replica_of_another_history_gets_a_snapshot() {
        let (mut primary, mut replica) = (Store::default(), Store::default());
        replica.put("old", "x", 0).unwrap();
        replica.put("old", "y", 0).unwrap();
        primary.put("new", "z", 0).unwrap();
        replica.receive(primary.page_after(1, replica.received()));
        assert_eq!((replica.position(), replica.get("old")), (1, None));
        assert_eq!(replica.get("new"), Some("z"));
    }

    #[test]
    fn memory_is_bounded() {
        let mut store = Store::default();
        assert_eq!(store.put("", "x", 0), Err(NotStored::BadKey));
        assert_eq!(store.put(&"k".repeat(257), "x", 0), Err(NotStored::BadKey));
        let long = "v".repeat(MAX_VALUE_BYTES);
        assert_eq!(store.put("k", &format!("{long}v"), 0), Err(NotStored::ValueTooLong));
        let full = (0..10_000).find(|n| store.put(&n.to_string(), &long, 0).is_err());
        assert_eq!(store.put("one-more", &long, 0), Err(NotStored::Full));
        assert!(full.is_some_and(|n| n >= 400));
        assert!(store.bytes <= MAX_STORE_BYTES && store.log_bytes <= MAX_LOG_BYTES);
        let recounted: usize = store.values.values().map(Entry::size).sum();
        assert_eq!(recounted, store.bytes);
    }
}
