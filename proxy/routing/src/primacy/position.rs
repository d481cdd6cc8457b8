//! What the data path remembers of an endpoint's claims, as relaxed atomics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Claim, MAX_POSITION, Role};
use crate::time::Micros;

/// How far an endpoint has come, in one epoch.
#[derive(Debug)]
pub struct KnownPosition {
    epoch: u64,
    /// One above the position; 0: unknown.
    position: AtomicU64,
    /// When the last question was asked whose answer told a position.
    asked_at: AtomicU64,
}

impl KnownPosition {
    /// Unknown in `epoch`.
    pub fn new(epoch: u64) -> Self {
        Self { epoch, position: AtomicU64::new(0), asked_at: AtomicU64::new(0) }
    }

    /// A question that was asked at `at` was answered with a position.
    pub fn was_asked(&self, at: Micros) {
        self.asked_at.fetch_max(at.0, Relaxed);
    }

    /// Whether a position was told in answer to a question that was asked after `at`.
    pub fn is_asked_after(&self, at: Micros) -> bool {
        self.asked_at.load(Relaxed) > at.0
    }

    /// The epoch whose positions these are.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Takes a position that the endpoint says of `epoch` (`None`: it says no epoch; only where nobody does that counts).
    /// It only grows; positions of another epoch, and those that cannot be one, are not heard.
    pub fn learn(&self, epoch: Option<u64>, position: u64) {
        if epoch.unwrap_or(0) == self.epoch && position <= MAX_POSITION {
            self.position.fetch_max(position + 1, Relaxed);
        }
    }

    /// The endpoint has less than it had, such as after it was restored: it has what it says.
    pub fn went_back(&self, epoch: Option<u64>, position: u64) {
        if epoch.unwrap_or(0) == self.epoch && position <= MAX_POSITION {
            self.position.store(position + 1, Relaxed);
        }
    }

    /// The highest that is known; `None`: nothing is.
    pub fn get(&self) -> Option<u64> {
        self.position.load(Relaxed).checked_sub(1)
    }
}

/// The last role and epoch of an endpoint that the keeper was told, so that it is told only what is new; and what was
/// wrong with its last report.
#[derive(Debug, Default)]
pub struct LastClaim {
    word: AtomicU64,
    faults: AtomicU64,
    fault: Mutex<Option<Arc<str>>>,
}

impl LastClaim {
    /// Whether the claim's role or epoch differ from the last one's, which it is from now on. A claim with neither is no
    /// news.
    pub fn is_news(&self, claim: &Claim) -> bool {
        let role = match claim.role {
            None => 0,
            Some(Role::Primary) => 1,
            Some(Role::Replica) => 2,
        };
        let word = match claim.epoch {
            None => role,
            // Epochs are below 2^53.
            Some(epoch) => (epoch << 3) | 4 | role,
        };
        word != 0 && self.word.load(Relaxed) != word && self.word.swap(word, Relaxed) != word
    }

    /// The keeper could not be told: the next claim is news again.
    pub fn forget(&self) {
        self.word.store(0, Relaxed);
    }

    /// What is wrong with what it answered to the last question of our own; `None`: nothing. Returns whether that is
    /// another fault than before, or there is none any more.
    pub fn report_is(&self, fault: Option<&str>) -> bool {
        if fault.is_some() {
            self.faults.fetch_add(1, Relaxed);
        }
        let mut last = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_deref() == fault {
            return false;
        }
        *last = fault.map(Arc::from);
        true
    }

    /// What is wrong with its last report.
    pub fn fault(&self) -> Option<Arc<str>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reports that had a fault, since the process started.
    pub fn faults(&self) -> u64 {
        self.faults.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_grows_within_its_epoch_alone() {
        let known = KnownPosition::new(3);
        assert_eq!(known.get(), None);
        known.learn(Some(2), 50);
        known.learn(None, 50);
        known.learn(Some(3), u64::MAX);
        known.learn(Some(3), MAX_POSITION + 1);
        assert_eq!(known.get(), None);
        known.learn(Some(3), 0);
        assert_eq!(known.get(), Some(0));
        known.learn(Some(3), 50);
        known.learn(Some(3), 49);
        assert_eq!(known.get(), Some(50));
        known.went_back(Some(4), 7);
        assert_eq!(known.get(), Some(50));
        known.went_back(Some(3), 7);
        assert_eq!(known.get(), Some(7));
        let without = KnownPosition::new(0);
        without.learn(None, MAX_POSITION);
        assert_eq!(without.get(), Some(MAX_POSITION));
    }

    #[test]
    fn only_a_change_is_news() {
        let last = LastClaim::default();
        let claim = |role, epoch| Claim { role, epoch, position: Some(1), lag: None };
        assert!(!last.is_news(&claim(None, None)));
        for (role, epoch) in [
            (Some(Role::Primary), None),
            (Some(Role::Primary), Some(0)),
            (Some(Role::Primary), Some(5)),
            (Some(Role::Replica), Some(5)),
            (None, Some(5)),
        ] {
            assert!(last.is_news(&claim(role, epoch)), "{role:?} {epoch:?}");
            assert!(!last.is_news(&claim(role, epoch)), "{role:?} {epoch:?}");
        }
        last.forget();
        assert!(last.is_news(&claim(None, Some(5))));
    }
}
