//! How many of something each client has at the moment: a table of atomics, without locks.
//!
//! A client's address hashes, by a key that only this process has, to a window of slots; it has the first of them that
//! was free when it came. Where others have the whole window a client is not counted, rather than turned away for them.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// 1 MiB, of which the system hands out the pages that are touched. A power of two.
const SLOTS: usize = 1 << 17;
/// Slots that a client may have one of.
const WINDOW: usize = 16;
/// A slot's low bits count; those above tell the client.
const COUNT: u64 = (1 << 24) - 1;

/// The client has as many as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Over;

/// Counts by client address, of IPv6 by its /64, which is what one client usually has.
#[derive(Debug)]
pub(crate) struct Tally {
    /// 0: free.
    slots: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Tally {
    pub(crate) fn new() -> Self {
        let slots = std::iter::repeat_with(AtomicU64::default).take(SLOTS).collect();
        Self { slots, hasher: RandomState::new() }
    }

    /// Counts one in and tells the slot that [`leave`](Self::leave) needs; `None`: there was none to be had. Of two
    /// that come at the same moment as their client's first, each may get a slot.
    ///
    /// # Errors
    /// [`Over`]: the client has `most` already.
    pub(crate) fn enter(&self, client: IpAddr, most: u32) -> Result<Option<usize>, Over> {
        let hash = self.hasher.hash_one(network(client));
        // Never 0, which is a free slot's.
        let tag = (hash & !COUNT) | (COUNT + 1);
        let window = (0..WINDOW).map(|i| (hash as usize).wrapping_add(i) & (SLOTS - 1));
        loop {
            let (mut free, mut own) = (None, None);
            for slot in window.clone() {
                match self.slots[slot].load(Relaxed) {
                    0 => free = free.or(Some(slot)),
                    held if held & !COUNT == tag => own = own.or(Some((slot, held))),
                    _ => {}
                }
            }
            let (slot, held) = match (own, free) {
                (Some((_, held)), _) if held & COUNT >= u64::from(most) => return Err(Over),
                (Some(own), _) => own,
                (None, Some(slot)) => (slot, 0),
                (None, None) => return Ok(None),
            };
            let next = if held == 0 { tag | 1 } else { held + 1 };
            if self.slots[slot].compare_exchange(held, next, Relaxed, Relaxed).is_ok() {
                return Ok(Some(slot));
            }
        }
    }

    /// Takes one out again.
    pub(crate) fn leave(&self, slot: usize) {
        let less = |held: u64| Some(if held & COUNT <= 1 { 0 } else { held - 1 });
        let _ = self.slots[slot].fetch_update(Relaxed, Relaxed, less);
    }
}

/// What counts as one client.
pub(crate) fn network(client: IpAddr) -> (bool, u64) {
    match client.to_canonical() {
        IpAddr::V4(address) => (true, u64::from(address.to_bits())),
        IpAddr::V6(address) => (false, (address.to_bits() >> 64) as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_client_is_its_address_or_its_network() {
        let tally = Tally::new();
        let first = tally.enter(ip("2001:db8::1"), 2);
        assert!(first.is_ok_and(|slot| slot.is_some()));
        assert_eq!(tally.enter(ip("2001:db8::ffff:0:2"), 2), first, "the same /64");
        assert_eq!(tally.enter(ip("2001:db8::3"), 2), Err(Over));
        assert!(tally.enter(ip("2001:db8:0:1::1"), 1).is_ok());
        let four = tally.enter(ip("192.0.2.1"), 1).expect("room").expect("a slot");
        assert_eq!(tally.enter(ip("::ffff:192.0.2.1"), 1), Err(Over));
        assert!(tally.enter(ip("192.0.2.2"), 1).is_ok());
        tally.leave(four);
        assert_eq!(tally.enter(ip("192.0.2.1"), 1), Ok(Some(four)));
    }

    #[test]
    fn what_comes_and_goes_leaves_nothing() {
        let tally = Tally::new();
        std::thread::scope(|scope| {
            for thread in 0..4_u32 {
                let tally = &tally;
                scope.spawn(move || {
                    for i in 0..20_000_u32 {
                        let client = IpAddr::from((0x0a00_0000 + i * (thread % 2)).to_be_bytes());
                        if let Ok(Some(slot)) = tally.enter(client, 3) {
                            tally.leave(slot);
                        }
                    }
                });
            }
        });
        assert!(tally.slots.iter().all(|slot| slot.load(Relaxed) == 0));
    }

    #[test]
    fn a_client_without_a_slot_is_not_counted() {
        let tally = Tally::new();
        tally.slots.iter().for_each(|slot| slot.store((9 << 24) | 1, Relaxed));
        assert_eq!(tally.enter(ip("192.0.2.1"), 1), Ok(None));
    }
}
