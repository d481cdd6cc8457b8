//! The gate that every write passes: it knows whether the decision it comes with is still true.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Primacy, believable_epoch};
use crate::time::Micros;

/// Terms that are counted apart.
const TERMS: usize = 8;
const OPEN: u64 = 1;

/// The time in which one region is the primary of one epoch, as one service's tables number them. The region counts by
/// its id: in another configuration another one may stand in its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Term(u64);

impl Term {
    /// Another one than all before.
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }

    fn slot(self) -> usize {
        self.0 as usize % TERMS
    }

    fn word(self) -> u64 {
        self.0 << 1
    }

    fn of(word: u64) -> Self {
        Self(word >> 1)
    }
}

/// Counts the writes of one service that are under way, and lets no more in once their primary is not the one in force.
///
/// A write is counted in before it looks whether
/// its term is the one in force, and whoever ends a term does that before looking at the count (both sequentially
/// consistent): so either the write sees that the term is over, or it is seen.
#[derive(Debug)]
#[repr(align(64))]
pub struct WriteGate {
    /// The term in force, and whether it is open.
    term: AtomicU64,
    highest: AtomicU64,
    in_flight: [AtomicU32; TERMS],
    turned_away: Mutex<Option<TurnedAway>>,
}

/// Writes that the primary itself did not take, because it is not the primary of their epoch and knows of no higher one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnedAway {
    /// The term that they were of.
    pub term: Term,
    /// The epoch that they were of.
    pub epoch: u64,
    /// The one that the primary says; `None`: none.
    pub own: Option<u64>,
    /// How many times it said so.
    pub times: u64,
    /// The last time.
    pub at: Micros,
}

impl Default for WriteGate {
    /// Closed.
    fn default() -> Self {
        Self {
            term: AtomicU64::new(0),
            highest: AtomicU64::new(0),
            in_flight: Default::default(),
            turned_away: Mutex::default(),
        }
    }
}

/// A write that is under way; counted out when dropped.
#[derive(Debug)]
pub struct WriteGuard {
    gate: Arc<WriteGate>,
    term: usize,
}

impl Drop for WriteGuard {
    fn drop(&mut self) {
        self.gate.in_flight[self.term].fetch_sub(1, SeqCst);
    }
}

impl WriteGate {
    /// Counts a write in that was decided in a term of an epoch. `None`: that is not in force (any more), or a higher epoch
    /// was seen: decide again with the present table.
    pub fn enter(self: &Arc<Self>, epoch: u64, term: Term) -> Option<WriteGuard> {
        self.in_flight[term.slot()].fetch_add(1, SeqCst);
        let guard = WriteGuard { gate: self.clone(), term: term.slot() };
        let in_force = self.term.load(SeqCst) == term.word() | OPEN;
        (in_force && self.highest.load(SeqCst) <= epoch).then_some(guard)
    }

    /// Somebody has said this epoch: writes of lower ones do not enter any more, before the keeper knows. Returns whether
    /// it was higher than any before. What cannot be an epoch is not heard.
    pub fn saw(&self, epoch: u64) -> bool {
        let known = self.highest.load(SeqCst);
        epoch > known
            && believable_epoch(known, epoch)
            && self.highest.fetch_max(epoch, SeqCst) < epoch
    }

    /// The primary of a term has turned a write of its epoch away, saying `own`. Returns whether that is new of this term
    /// and epoch. Where it knows of a higher epoch there is nothing strange in it, and nothing is noted.
    pub fn turned_away(&self, epoch: u64, term: Term, own: Option<u64>, now: Micros) -> bool {
        if own.is_some_and(|own| own > epoch) {
            return false;
        }
        let mut last = self.turned_away.lock().unwrap_or_else(PoisonError::into_inner);
        let same = last.filter(|last| (last.term, last.epoch, last.own) == (term, epoch, own));
        let times = same.map_or(0, |same| same.times) + 1;
        *last = Some(TurnedAway { term, epoch, own, times, at: now });
        same.is_none()
    }

    /// What the primary of the term in force has turned away; `None`: nothing.
    pub fn last_turned_away(&self) -> Option<TurnedAway> {
        let last = *self.turned_away.lock().unwrap_or_else(PoisonError::into_inner);
        last.filter(|last| last.term == Term::of(self.term.load(SeqCst)))
    }

    /// The highest epoch that anybody has said; 0: none.
    pub fn highest(&self) -> u64 {
        self.highest.load(SeqCst)
    }

    /// Whether another term has begun since, or a higher epoch was seen. A primary that is unknown or contested in its own
    /// term is still the last one there was.
    pub fn is_past(&self, epoch: u64, term: Term) -> bool {
        self.highest.load(SeqCst) > epoch || Term::of(self.term.load(SeqCst)) != term
    }

    /// Writes of the present term that are under way.
    pub fn in_flight(&self) -> u32 {
        self.in_flight[Term::of(self.term.load(SeqCst)).slot()].load(SeqCst)
    }

    /// Writes of terms that are over and still under way.
    pub fn left_over(&self) -> u32 {
        let present = Term::of(self.term.load(SeqCst)).slot();
        let others = self.in_flight.iter().enumerate().filter(|(term, _)| *term != present);
        others.map(|(_, count)| count.load(SeqCst)).sum()
    }

    /// No more writes of the present term, before the table that says so is published; for the keeper alone.
    pub fn close(&self) {
        self.term.fetch_and(!OPEN, SeqCst);
    }

    /// What was seen so far is forgotten, but for `epoch`; for the keeper alone, while the gate is closed. Writes that were
    /// decided before still do not enter: their term is over.
    pub fn forget(&self, epoch: u64) {
        self.highest.store(epoch, SeqCst);
    }

    /// The primacy in force, and its term; for the keeper alone. A gate that is not settled is closed.
    pub(crate) fn publish(&self, primacy: &Primacy, term: Term) {
        let open = if primacy.is_settled() { OPEN } else { 0 };
        self.highest.fetch_max(primacy.epoch, SeqCst);
        self.term.store(term.word() | open, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use meridian_config::RegionIndex;

    use super::super::{MAX_EPOCH, PrimacySource, PrimacyState};
    use super::*;

    fn settled(epoch: u64) -> Primacy {
        let file = Primacy::of_file(Some(RegionIndex(0)), 0);
        file.appointed(RegionIndex(0), epoch, PrimacySource::Reported)
    }

    fn gate(epoch: u64, term: u64) -> Arc<WriteGate> {
        let gate = Arc::new(WriteGate::default());
        gate.publish(&settled(epoch), Term(term));
        gate
    }

    #[test]
    fn only_writes_of_the_term_in_force_enter() {
        let gate = gate(5, 9);
        let inside = gate.enter(5, Term(9)).expect("it is in force");
        // The last one is counted with the one in force, and is another one all the same.
        for (epoch, term) in [(4, 9), (5, 8), (5, 10), (5, 1)] {
            assert!(gate.enter(epoch, Term(term)).is_none(), "{epoch} {term}");
        }
        assert_eq!((gate.in_flight(), gate.left_over()), (1, 0));
        assert!(!gate.is_past(5, Term(9)));
        gate.publish(&settled(6), Term(10));
        assert!(gate.is_past(5, Term(9)) && !gate.is_past(6, Term(10)));
        assert!(gate.enter(5, Term(9)).is_none());
        let next = gate.enter(6, Term(10));
        assert!(next.is_some());
        assert_eq!((gate.in_flight(), gate.left_over()), (1, 1));
        drop(inside);
        assert_eq!((gate.in_flight(), gate.left_over()), (1, 0));
    }

    #[test]
    fn a_gate_that_is_not_settled_is_closed_and_keeps_its_term() {
        let (primacy, term) = (settled(5), Term(1));
        let gate = gate(5, 1);
        let inside = gate.enter(5, term);
        gate.publish(&Primacy { state: PrimacyState::Moving, ..primacy }, term);
        assert!(gate.enter(5, term).is_none());
        assert!(!gate.is_past(5, term));
        assert_eq!((gate.in_flight(), gate.left_over()), (1, 0));
        drop(inside);
        assert_eq!(gate.in_flight(), 0);
        gate.publish(&primacy, term);
        gate.close();
        assert!(gate.enter(5, term).is_none());
        gate.publish(&primacy, term);
        assert!(gate.enter(5, term).is_some());
    }

    #[test]
    fn a_higher_epoch_closes_it_before_anybody_publishes() {
        let (gate, term) = (gate(5, 1), Term(1));
        assert!(!gate.saw(5));
        assert!(gate.enter(5, term).is_some());
        assert!(gate.saw(6));
        assert!(!gate.saw(6));
        assert!(gate.enter(5, term).is_none());
        gate.publish(&settled(6), Term(2));
        assert!(gate.enter(6, Term(2)).is_some());
        assert!(!gate.saw(u64::MAX) && !gate.saw(MAX_EPOCH));
        assert!(gate.enter(6, Term(2)).is_some());
    }

    #[test]
    fn what_the_primary_turns_away_is_noted_as_long_as_it_is_the_primary() {
        let gate = gate(5, 9);
        assert!(!gate.turned_away(5, Term(9), Some(6), Micros(1)), "there is a later one");
        assert_eq!(gate.last_turned_away(), None);
        assert!(gate.turned_away(5, Term(9), Some(4), Micros(1)));
        assert!(!gate.turned_away(5, Term(9), Some(4), Micros(2)));
        let noted = gate.last_turned_away().expect("noted");
        assert_eq!((noted.times, noted.own, noted.at), (2, Some(4), Micros(2)));
        gate.publish(&settled(6), Term(10));
        assert_eq!(gate.last_turned_away(), None);
        assert!(gate.turned_away(6, Term(10), Some(4), Micros(3)), "once for each epoch");
    }

    #[test]
    fn what_is_forgotten_lets_no_write_of_an_old_term_in() {
        let gate = gate(1 << 40, 1);
        gate.publish(&settled(1 << 40).forgotten(1), Term(2));
        gate.close();
        gate.forget(4);
        assert!(gate.enter(0, Term(2)).is_none());
        gate.publish(&settled(4), Term(3));
        for (epoch, term) in [(1 << 40, 1), (4, 1), (0, 2), (4, 2)] {
            assert!(gate.enter(epoch, Term(term)).is_none(), "{epoch} {term}");
        }
        assert!(gate.enter(4, Term(3)).is_some());
        // What is said late of the time before is not believed any more.
        assert!(!gate.saw(1 << 40));
        assert!(gate.enter(4, Term(3)).is_some());
    }

    #[test]
    fn no_write_enters_unseen_while_terms_change() {
        let gate = gate(0, 0);
        let stop = std::sync::atomic::AtomicBool::new(false);
        let entered = AtomicU64::new(0);
        // What those inside believe; a writer must find its own epoch there for as long as it is inside.
        let present = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !stop.load(SeqCst) {
                        let epoch = present.load(SeqCst);
                        if let Some(guard) = gate.enter(epoch, Term(epoch)) {
                            assert_eq!(
                                present.load(SeqCst),
                                epoch,
                                "a write of a term that is over"
                            );
                            entered.fetch_add(1, SeqCst);
                            drop(guard);
                        }
                    }
                });
            }
            for epoch in 1..200 {
                let moving = Primacy { state: PrimacyState::Moving, ..settled(epoch - 1) };
                gate.publish(&moving, Term(epoch - 1));
                while gate.in_flight() + gate.left_over() > 0 {
                    std::hint::spin_loop();
                }
                present.store(epoch, SeqCst);
                gate.publish(&settled(epoch), Term(epoch));
                let before = entered.load(SeqCst);
                while entered.load(SeqCst) == before {
                    std::thread::yield_now();
                }
            }
            stop.store(true, SeqCst);
        });
    }
}
