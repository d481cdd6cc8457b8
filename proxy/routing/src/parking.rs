//! Requests that wait for their service to have a primary: who may, in what order they go on, and how it ended.
//!
//! Promises: no more requests and bytes than allowed wait at a time; whoever ends what they wait for wakes them in the
//! order in which they came. Refuses to know: what they wait for, and for how long.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use meridian_config::{FailoverMode, ReplicationSource, WritePark};

use crate::classify::{AccessClass, classify};
use crate::counters::Histogram;
use crate::decide::{Filter, Refusal};
use crate::labelled::labelled;
use crate::line::{Line, Ticket};
use crate::primacy::PrimacyState;
use crate::request::RequestFacts;
use crate::table::{RoutingTable, ServiceView};

labelled!(
    /// How a wait for the primary ended.
    ParkOutcome {
        /// The request went on.
        Released = "released",
        /// Its time was over.
        Time = "time",
        /// As many waited, or as many bytes, as may.
        Full = "full",
        /// Several regions claimed to be the primary.
        Contested = "contested",
        /// Another filter turned it down.
        Refused = "refused",
        /// Its client went away.
        Gone = "gone",
    }
);

/// Where the requests of a service wait, over all workers.
#[derive(Debug, Default)]
pub struct Park {
    line: Line,
    bytes: AtomicU64,
    outcomes: [AtomicU64; ParkOutcome::COUNT],
    waited: Histogram,
}

impl Park {
    /// Lets a request wait of which `bytes` are held; `None`, and counted, if there is no room.
    pub fn join(&self, limits: &WritePark, bytes: u64) -> Option<Parked<'_>> {
        let within = self.bytes.fetch_add(bytes, Relaxed).saturating_add(bytes) <= limits.bytes;
        let ticket = if within { self.line.join(limits.requests) } else { None };
        if ticket.is_none() {
            self.bytes.fetch_sub(bytes, Relaxed);
            self.count(ParkOutcome::Full);
        }
        ticket.map(|ticket| Parked { park: self, ticket: Some(ticket), bytes })
    }

    /// Wakes all who wait, in order: there is a new table, or one of them has got through.
    pub fn wake(&self) {
        self.line.call_all();
    }

    /// How many wait.
    pub fn waiting(&self) -> u32 {
        self.line.waiting()
    }

    /// Bytes held of those that wait.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Waits that ended so.
    pub fn outcomes(&self, outcome: ParkOutcome) -> u64 {
        self.outcomes[outcome as usize].load(Relaxed)
    }

    /// How long those waited that did, but for those whose client went away.
    pub fn waited(&self) -> &Histogram {
        &self.waited
    }

    fn count(&self, outcome: ParkOutcome) {
        self.outcomes[outcome as usize].fetch_add(1, Relaxed);
    }
}

/// A request that waits; dropped without [`end`](Self::end), its client has gone.
#[derive(Debug)]
pub struct Parked<'a> {
    park: &'a Park,
    ticket: Option<Ticket<'a>>,
    bytes: u64,
}

impl Parked<'_> {
    /// Whether nobody has waited for longer.
    pub fn is_first(&self) -> bool {
        self.ticket.as_ref().is_some_and(Ticket::is_first)
    }

    /// Ready when it was woken.
    pub fn poll_woken(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.ticket.as_ref().map_or(Poll::Ready(()), |ticket| ticket.poll_called(cx))
    }

    /// It waits no more.
    pub fn end(mut self, outcome: ParkOutcome, waited: Duration) {
        self.park.count(outcome);
        self.park.waited.observe(waited);
        if let Some(ticket) = self.ticket.take() {
            ticket.served(false);
        }
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.park.bytes.fetch_sub(self.bytes, Relaxed);
        if self.ticket.is_some() {
            self.park.count(ParkOutcome::Gone);
        }
    }
}

impl ServiceView {
    /// Whether its endpoints are heard, which then say by themselves which region is the primary.
    pub fn is_heard(&self) -> bool {
        self.settings.replication.source != ReplicationSource::None
    }

    /// Whether another region may become the primary without an operator: then requests wait for one when theirs is down.
    pub fn may_fail_over(&self) -> bool {
        match self.settings.failover.mode {
            FailoverMode::Follow => self.is_heard(),
            FailoverMode::Hook => true,
            FailoverMode::Manual => false,
        }
    }

    /// Whether a primary that is not known may become known.
    pub fn may_settle(&self) -> bool {
        self.primacy.state == PrimacyState::Moving || self.may_fail_over() || self.is_heard()
    }

    /// What is said where there is no primary.
    pub(crate) fn no_primary(&self) -> Filter {
        match self.primacy.state {
            PrimacyState::Contested => Filter::PrimaryContested,
            PrimacyState::Unknown | PrimacyState::Moving if self.may_settle() => {
                Filter::PrimaryUnknown
            }
            _ => Filter::Role,
        }
    }
}

impl RoutingTable {
    /// Whether a request that was refused may wait for its service to have a primary: where none is known, or where it is
    /// down and another one may follow; a read too, where only the primary could have served it. A contested primary is
    /// nothing to wait for.
    pub fn may_wait(&self, refusal: &Refusal, facts: &RequestFacts<'_>) -> bool {
        let Some(route) = refusal.route else { return false };
        let service = self.service(self.rules(route).service);
        match refusal.filter {
            Filter::PrimaryUnknown => true,
            Filter::Freshness | Filter::Session => service.no_primary() == Filter::PrimaryUnknown,
            Filter::Health => {
                classify(self, route, facts).access != AccessClass::Read && service.may_fail_over()
            }
            _ => false,
        }
    }

    /// Wakes whoever waits for a primary; for the keeper, once this table is in force.
    pub fn wake_parked(&self) {
        self.services.iter().for_each(|service| service.counters.park.wake());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Wake, Waker};

    use super::*;

    fn limits(requests: u32, bytes: u64) -> WritePark {
        WritePark { requests, bytes, time: Duration::from_secs(1) }
    }

    #[test]
    fn requests_and_bytes_are_bounded_and_given_back() {
        let park = Park::default();
        let two = limits(2, 100);
        let first = park.join(&two, 60).expect("room");
        assert!(park.join(&two, 41).is_none(), "too many bytes");
        let second = park.join(&two, 40).expect("exactly enough");
        assert!(park.join(&two, 0).is_none(), "too many requests");
        assert_eq!((park.waiting(), park.bytes()), (2, 100));
        drop(first);
        second.end(ParkOutcome::Released, Duration::from_millis(5));
        assert_eq!((park.waiting(), park.bytes()), (0, 0));
        let outcomes = [ParkOutcome::Full, ParkOutcome::Gone, ParkOutcome::Released];
        assert_eq!(outcomes.map(|outcome| park.outcomes(outcome)), [2, 1, 1]);
        assert_eq!(park.waited().snapshot().0.iter().sum::<u64>(), 1);
        assert!(park.join(&limits(0, 100), 0).is_none(), "none may wait");
        assert!(park.join(&limits(1, u64::MAX), u64::MAX).is_some());
    }

    #[test]
    fn all_are_woken_in_order() {
        struct Order(usize, Arc<std::sync::Mutex<Vec<usize>>>);
        impl Wake for Order {
            fn wake(self: Arc<Self>) {
                self.1.lock().expect("whole").push(self.0);
            }
        }
        let (park, woken) = (Park::default(), Arc::default());
        let parked = [(); 3].map(|()| park.join(&limits(9, 9), 0).expect("room"));
        let wakers = [0, 1, 2].map(|n| Waker::from(Arc::new(Order(n, Arc::clone(&woken)))));
        let polls =
            |n: usize| parked[n].poll_woken(&mut Context::from_waker(&wakers[n])).is_ready();
        assert!((0..3).all(|n| !polls(n)));
        park.wake();
        assert_eq!(*woken.lock().expect("whole"), [0, 1, 2]);
        assert!((0..3).all(polls));
        assert!((0..3).all(|n| !polls(n)), "once for each wake");
        assert_eq!(parked.each_ref().map(Parked::is_first), [true, false, false]);
        // A wake before the first poll is not lost.
        park.wake();
        assert!(polls(2));
    }

    /// Threads park until a flag is set; a lost wake would leave one of them for ever.
    #[test]
    fn no_wake_is_lost() {
        struct Thread(std::thread::Thread);
        impl Wake for Thread {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let (park, round, done) = (Park::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        let (threads, rounds) = (4, 2_000);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let waker = Arc::new(Thread(std::thread::current())).into();
                    let mut cx = Context::from_waker(&waker);
                    for next in 1..=rounds {
                        let parked = park.join(&limits(9, 9), 1).expect("room");
                        while round.load(Relaxed) < next {
                            if parked.poll_woken(&mut cx).is_pending() {
                                std::thread::park_timeout(Duration::from_secs(20));
                            }
                        }
                        parked.end(ParkOutcome::Released, Duration::ZERO);
                        done.fetch_add(1, Relaxed);
                    }
                });
            }
            let began = std::time::Instant::now();
            for next in 1..=rounds {
                round.store(next, Relaxed);
                park.wake();
                while done.load(Relaxed) < next * threads {
                    std::thread::yield_now();
                }
            }
            assert!(began.elapsed() < Duration::from_secs(18), "somebody slept through a wake");
        });
        assert_eq!((park.waiting(), park.bytes()), (0, 0));
    }
}
