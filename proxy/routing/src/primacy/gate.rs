//! The gate that every write passes: it knows whether the decision it comes with is still true.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use meridian_config::RegionIndex;

use super::{MAX_EPOCH, Primacy, believable_epoch};

/// Terms that are counted apart.
const TERMS: usize = 8;
const OPEN: u64 = 1;
const TERM_SHIFT: u32 = 1;
const REGION_SHIFT: u32 = 4;
const EPOCH_SHIFT: u32 = 10;

/// Counts the writes of one service that are under way, and lets no more in once their primary is not the one in force.
///
/// A *term* is the time in which one region is the primary of one epoch. A write is counted in before it looks whether
/// its term is the one in force, and whoever ends a term does that before looking at the count (both sequentially
/// consistent): so either the write sees that the term is over, or it is seen.
#[derive(Debug)]
#[repr(align(64))]
pub struct WriteGate {
    /// Epoch, region, number of the term, and whether it is open.
    term: AtomicU64,
    highest: AtomicU64,
    in_flight: [AtomicU32; TERMS],
}

const _: () = assert!(MAX_EPOCH < 1 << (64 - EPOCH_SHIFT));

impl Default for WriteGate {
    /// Closed.
    fn default() -> Self {
        Self { term: AtomicU64::new(0), highest: AtomicU64::new(0), in_flight: Default::default() }
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
    /// Counts a write in that was decided for `region` as the primary of `epoch`. `None`: that is not in force (any
    /// more), or a higher epoch was seen: decide again with the present table.
    pub fn enter(self: &Arc<Self>, epoch: u64, region: RegionIndex) -> Option<WriteGuard> {
        let seen = self.term.load(SeqCst);
        let term = number(seen);
        self.in_flight[term].fetch_add(1, SeqCst);
        let guard = WriteGuard { gate: self.clone(), term };
        let in_force = self.term.load(SeqCst);
        let wanted = word(epoch, region) | (seen & (7 << TERM_SHIFT)) | OPEN;
        (in_force == wanted && self.highest.load(SeqCst) <= epoch).then_some(guard)
    }

    /// Somebody has said this epoch: writes of lower ones do not enter any more, before the keeper knows. Returns whether
    /// it was higher than any before. What cannot be an epoch is not heard.
    pub fn saw(&self, epoch: u64) -> bool {
        let known = self.highest.load(SeqCst);
        epoch > known
            && believable_epoch(known, epoch)
            && self.highest.fetch_max(epoch, SeqCst) < epoch
    }

    /// The highest epoch that anybody has said; 0: none.
    pub fn highest(&self) -> u64 {
        self.highest.load(SeqCst)
    }

    /// Writes of the present term that are under way.
    pub fn in_flight(&self) -> u32 {
        self.in_flight[number(self.term.load(SeqCst))].load(SeqCst)
    }

    /// Writes of terms that are over and still under way.
    pub fn left_over(&self) -> u32 {
        let present = number(self.term.load(SeqCst));
        let others = self.in_flight.iter().enumerate().filter(|(term, _)| *term != present);
        others.map(|(_, count)| count.load(SeqCst)).sum()
    }

    /// No more writes of the present term, before the table that says so is published; for the keeper alone.
    pub fn close(&self) {
        self.term.fetch_and(!OPEN, SeqCst);
    }

    /// The primacy in force; for the keeper alone. A gate that is not settled is closed.
    pub(crate) fn publish(&self, primacy: &Primacy) {
        let before = self.term.load(SeqCst);
        let region = primacy.region.unwrap_or(RegionIndex(0));
        let named = word(primacy.epoch, region);
        let unchanged = before >> REGION_SHIFT == named >> REGION_SHIFT;
        let term = if unchanged { number(before) } else { (number(before) + 1) % TERMS };
        let open = if primacy.is_settled() { OPEN } else { 0 };
        self.highest.fetch_max(primacy.epoch, SeqCst);
        self.term.store(named | ((term as u64) << TERM_SHIFT) | open, SeqCst);
    }
}

fn word(epoch: u64, region: RegionIndex) -> u64 {
    (epoch << EPOCH_SHIFT) | (u64::from(region.0 & 63) << REGION_SHIFT)
}

fn number(word: u64) -> usize {
    (word >> TERM_SHIFT) as usize % TERMS
}

#[cfg(test)]
mod tests {
    use super::super::{PrimacySource, PrimacyState};
    use super::*;

    fn settled(epoch: u64, region: u8) -> Primacy {
        let file = Primacy::of_file(Some(RegionIndex(region)), 0);
        file.appointed(RegionIndex(region), epoch, PrimacySource::Reported)
    }

    fn gate(primacy: &Primacy) -> Arc<WriteGate> {
        let gate = Arc::new(WriteGate::default());
        gate.publish(primacy);
        gate
    }

    #[test]
    fn only_writes_of_the_term_in_force_enter() {
        let gate = gate(&settled(5, 1));
        let inside = gate.enter(5, RegionIndex(1)).expect("it is in force");
        for (epoch, region) in [(4, 1), (6, 1), (5, 0), (5, 2)] {
            assert!(gate.enter(epoch, RegionIndex(region)).is_none(), "{epoch} {region}");
        }
        assert_eq!((gate.in_flight(), gate.left_over()), (1, 0));
        gate.publish(&settled(6, 2));
        assert!(gate.enter(5, RegionIndex(1)).is_none());
        let next = gate.enter(6, RegionIndex(2));
        assert!(next.is_some());
        assert_eq!((gate.in_flight(), gate.left_over()), (1, 1));
        drop(inside);
        assert_eq!((gate.in_flight(), gate.left_over()), (1, 0));
    }

    #[test]
    fn a_gate_that_is_not_settled_is_closed_and_keeps_its_term() {
        let primacy = settled(5, 1);
        let gate = gate(&primacy);
        let inside = gate.enter(5, RegionIndex(1));
        gate.publish(&Primacy { state: PrimacyState::Moving, ..primacy });
        assert!(gate.enter(5, RegionIndex(1)).is_none());
        assert_eq!((gate.in_flight(), gate.left_over()), (1, 0));
        drop(inside);
        assert_eq!(gate.in_flight(), 0);
        gate.publish(&primacy);
        gate.close();
        assert!(gate.enter(5, RegionIndex(1)).is_none());
        gate.publish(&primacy);
        assert!(gate.enter(5, RegionIndex(1)).is_some());
    }

    #[test]
    fn a_higher_epoch_closes_it_before_anybody_publishes() {
        let gate = gate(&settled(5, 1));
        assert!(!gate.saw(5));
        assert!(gate.enter(5, RegionIndex(1)).is_some());
        assert!(gate.saw(6));
        assert!(!gate.saw(6));
        assert!(gate.enter(5, RegionIndex(1)).is_none());
        gate.publish(&settled(6, 0));
        assert!(gate.enter(6, RegionIndex(0)).is_some());
        assert!(!gate.saw(u64::MAX) && !gate.saw(MAX_EPOCH));
        assert!(gate.enter(6, RegionIndex(0)).is_some());
    }

    #[test]
    fn no_write_enters_unseen_while_terms_change() {
        let gate = gate(&settled(0, 0));
        let stop = std::sync::atomic::AtomicBool::new(false);
        let entered = AtomicU64::new(0);
        // What those inside believe; a writer must find its own epoch there for as long as it is inside.
        let present = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !stop.load(SeqCst) {
                        let epoch = present.load(SeqCst);
                        if let Some(guard) = gate.enter(epoch, RegionIndex(0)) {
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
                let moving = Primacy { state: PrimacyState::Moving, ..settled(epoch - 1, 0) };
                gate.publish(&moving);
                while gate.in_flight() + gate.left_over() > 0 {
                    std::hint::spin_loop();
                }
                present.store(epoch, SeqCst);
                gate.publish(&settled(epoch, 0));
                let before = entered.load(SeqCst);
                while entered.load(SeqCst) == before {
                    std::thread::yield_now();
                }
            }
            stop.store(true, SeqCst);
        });
    }
}
