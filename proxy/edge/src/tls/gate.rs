//! How many handshakes a listener begins: a handshake costs a thousand times what a request does, and whoever asks for one
//! need not finish it.
//!
//! Promises: whoever is turned away costs a few atomic operations. Refuses to know: what a handshake is.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use meridian_config::Handshakes;
use meridian_routing::{Micros, TlsCounters};

use crate::tally::{Over, Tally, network};

/// A second, in [`Micros`]: so much of its rate may come in one go.
const SECOND: u64 = 1_000_000;

/// What lets handshakes begin, for all workers.
#[derive(Debug)]
pub(super) struct Gate {
    limits: Handshakes,
    /// When the next one would be due if all came evenly, microseconds (the generic cell rate algorithm, ITU-T I.371).
    due: AtomicU64,
    under_way: AtomicU32,
    client_rates: OnceLock<Rates>,
    clients: OnceLock<Tally>,
}

/// A handshake under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct Pass<'g> {
    gate: &'g Gate,
    /// Counted on the listener.
    counted: bool,
    slot: Option<usize>,
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.counted {
            self.gate.under_way.fetch_sub(1, Relaxed);
        }
        if let (Some(slot), Some(clients)) = (self.slot, self.gate.clients.get()) {
            clients.leave(slot);
        }
    }
}

impl Gate {
    /// `None`: there is no limit.
    pub(super) fn new(limits: Handshakes) -> Option<Self> {
        (limits != Handshakes::default()).then(|| Self {
            limits,
            due: AtomicU64::new(0),
            under_way: AtomicU32::new(0),
            client_rates: OnceLock::new(),
            clients: OnceLock::new(),
        })
    }

    /// Lets a handshake begin, or counts why not. `client` is `None` for a proxy that others come through. A client's own
    /// limits come first, so that it spends nothing of the others'.
    pub(super) fn enter<'g>(
        &'g self,
        client: Option<IpAddr>,
        now: Micros,
        counters: &TlsCounters,
    ) -> Option<Pass<'g>> {
        let Handshakes { rate, concurrent, client_rate, client_concurrent } = self.limits;
        let refused = |counter: &AtomicU64| {
            counter.fetch_add(1, Relaxed);
            None
        };
        if let (Some(rate), Some(client)) = (client_rate, client)
            && !self.client_rates.get_or_init(Rates::new).admit(client, rate, now)
        {
            return refused(&counters.refused_client_rate);
        }
        let mut pass = Pass { gate: self, counted: false, slot: None };
        if let (Some(most), Some(client)) = (client_concurrent, client) {
            match self.clients.get_or_init(Tally::new).enter(client, most) {
                Ok(slot) => pass.slot = slot,
                Err(Over) => return refused(&counters.refused_client_concurrent),
            }
        }
        if let Some(most) = concurrent {
            pass.counted = true;
            if self.under_way.fetch_add(1, Relaxed) >= most {
                return refused(&counters.refused_concurrent);
            }
        }
        if let Some(rate) = rate
            && !admit(&self.due, interval(rate), now.0)
        {
            return refused(&counters.refused_rate);
        }
        Some(pass)
    }
}

/// Between two of so many a second, microseconds.
fn interval(rate: u32) -> u64 {
    (SECOND / u64::from(rate.max(1))).max(1)
}

/// Takes one of a rate, unless a second's worth is spent.
fn admit(due: &AtomicU64, interval: u64, now: u64) -> bool {
    let next = |due: u64| {
        let next = due.max(now) + interval;
        (next <= now + SECOND.max(interval)).then_some(next)
    };
    due.fetch_update(Relaxed, Relaxed, next).is_ok()
}

/// A table of 512 KiB, of which the system hands out the pages that are touched. A power of two.
const SLOTS: usize = 1 << 16;
/// Slots that a client may have one of.
const WINDOW: usize = 16;
/// A slot's low bits say when the next one is due, those above whose it is.
const TIME: u64 = (1 << 44) - 1;

/// The rates of clients, by address, of IPv6 by its /64: without locks, and what is not used any more is free. A client that
/// finds its window full of others is not held to its rate, rather than held to theirs.
#[derive(Debug)]
struct Rates {
    slots: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Rates {
    fn new() -> Self {
        let slots = std::iter::repeat_with(AtomicU64::default).take(SLOTS).collect();
        Self { slots, hasher: RandomState::new() }
    }

    fn admit(&self, client: IpAddr, rate: u32, now: Micros) -> bool {
        let hash = self.hasher.hash_one(network(client));
        let (tag, now, interval) = (hash & !TIME, now.0 & TIME, interval(rate));
        loop {
            let (mut own, mut free) = (None, None);
            for i in 0..WINDOW {
                let slot = &self.slots[(hash as usize).wrapping_add(i) & (SLOTS - 1)];
                let held = slot.load(Relaxed);
                // What is due later than it can be was written before the clock came round, after half a year.
                let due = held & TIME;
                let spent = due <= now || due > now + 3 * SECOND;
                if !spent && held & !TIME == tag {
                    own = own.or(Some((slot, held)));
                } else if spent {
                    free = free.or(Some((slot, held)));
                }
            }
            let Some((slot, held)) = own.or(free) else { return true };
            let due = if own.is_some() { held & TIME } else { now };
            let next = due.max(now) + interval;
            if next > now + SECOND.max(interval) {
                return false;
            }
            let next = tag | (next & TIME);
            if slot.compare_exchange(held, next, Relaxed, Relaxed).is_ok() {
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 50 * SECOND;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn limits() -> Handshakes {
        Handshakes::default()
    }

    fn gate(limits: Handshakes) -> Gate {
        Gate::new(limits).expect("there is a limit")
    }

    /// How many of `count` begin at this moment and are over at once.
    fn begun(gate: &Gate, client: Option<IpAddr>, now: u64, count: usize) -> usize {
        let counters = TlsCounters::default();
        (0..count).filter(|_| gate.enter(client, Micros(now), &counters).is_some()).count()
    }

    #[test]
    fn no_limit_is_no_gate() {
        assert!(Gate::new(limits()).is_none());
    }

    #[test]
    fn a_second_s_worth_comes_in_one_go_and_then_evenly() {
        let gate = gate(Handshakes { rate: Some(10), ..limits() });
        assert_eq!(begun(&gate, None, NOW, 30), 10);
        assert_eq!(begun(&gate, None, NOW + SECOND / 2, 30), 5);
        assert_eq!(begun(&gate, None, NOW + 100 * SECOND, 30), 10);
        let slow = Gate::new(Handshakes { rate: Some(1), ..limits() }).expect("a limit");
        assert_eq!(begun(&slow, None, NOW, 3), 1);
        assert_eq!(begun(&slow, None, NOW + SECOND, 3), 1);
    }

    #[test]
    fn clients_have_rates_of_their_own() {
        let gate = gate(Handshakes { client_rate: Some(3), ..limits() });
        let (one, other) = (ip("192.0.2.1"), ip("192.0.2.2"));
        assert_eq!(begun(&gate, Some(one), NOW, 9), 3);
        assert_eq!(begun(&gate, Some(ip("::ffff:192.0.2.1")), NOW, 9), 0, "the same one");
        assert_eq!(begun(&gate, Some(other), NOW, 9), 3);
        assert_eq!(begun(&gate, None, NOW, 9), 9, "proxies have none");
        assert_eq!(begun(&gate, Some(one), NOW + SECOND, 9), 3);
        let (net, same) = (ip("2001:db8::1"), ip("2001:db8::2"));
        assert_eq!(begun(&gate, Some(net), NOW, 2) + begun(&gate, Some(same), NOW, 9), 3);
    }

    #[test]
    fn what_is_under_way_counts_until_it_is_over() {
        let gate = gate(Handshakes { concurrent: Some(3), client_concurrent: Some(2), ..limits() });
        let counters = TlsCounters::default();
        let enter = |client| gate.enter(Some(ip(client)), Micros(NOW), &counters);
        let (first, _second) = (enter("192.0.2.1"), enter("192.0.2.1"));
        assert!(first.is_some() && enter("192.0.2.1").is_none(), "its client has two");
        let _third = enter("192.0.2.2").expect("one is left");
        assert!(enter("192.0.2.3").is_none(), "the listener has three");
        let counts = [&counters.refused_client_concurrent, &counters.refused_concurrent];
        assert_eq!(counts.map(|count| count.load(Relaxed)), [1, 1]);
        drop(first);
        assert!(enter("192.0.2.3").is_some());
        drop((_second, _third));
        assert_eq!(gate.under_way.load(Relaxed), 0, "those that were turned away are not counted");
    }

    #[test]
    fn a_clock_that_comes_round_bars_nobody() {
        let rates = Rates::new();
        let client = ip("192.0.2.1");
        let admitted = |now| (0..9).filter(|_| rates.admit(client, 2, Micros(now))).count();
        assert_eq!(admitted(TIME - SECOND - 10), 2);
        // In the last second it may be more.
        assert!(admitted(TIME - 5) >= 2);
        for later in [5, 5 + SECOND, 5 + 2 * SECOND] {
            assert!((1..=2).contains(&admitted(TIME + later)), "anew, not in half a year");
        }
    }

    #[test]
    fn whoever_finds_no_slot_is_let_in() {
        let rates = Rates::new();
        rates.slots.iter().for_each(|slot| slot.store(NOW + SECOND, Relaxed));
        assert!((0..100).all(|_| rates.admit(ip("192.0.2.1"), 1, Micros(NOW))));
    }
}
