//! Requests that wait for room at the endpoints of a region, first come, first served, over all workers.
//!
//! Whoever makes room calls the first in line, and only that one; the first who gets a place, or leaves with a call that
//! it did not use, calls the next. Who would join tries again once it stands in line: room that was made in between is
//! seen either by it or by who made it, because both look at the other's side after a full fence.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed, Ordering::SeqCst, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// A waiting line. While nobody waits it costs a load of an atomic; the lock is taken only beyond that.
#[derive(Debug, Default)]
pub struct Line {
    waiting: AtomicU32,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    /// By number, ascending.
    waiters: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    /// It has been called and has not looked yet.
    called: bool,
    waker: Option<Waker>,
}

impl Queue {
    fn position(&self, number: u64) -> Option<usize> {
        self.waiters.binary_search_by_key(&number, |waiter| waiter.number).ok()
    }

    /// Calls the first; its waker, if it is to be woken.
    fn call(&mut self) -> Option<Waker> {
        let first = self.waiters.front_mut()?;
        first.called = true;
        first.waker.take()
    }
}

impl Line {
    /// How many wait.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room was made: calls the first in line.
    pub fn call(&self) {
        fence(SeqCst);
        if self.waiting() > 0 {
            let waker = self.lock().call();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Calls all who wait, in order.
    pub fn call_all(&self) {
        fence(SeqCst);
        if self.waiting() == 0 {
            return;
        }
        let mut queue = self.lock();
        let wakers = queue.waiters.iter_mut().filter_map(|waiter| {
            waiter.called = true;
            waiter.waker.take()
        });
        let wakers: Vec<_> = wakers.collect();
        drop(queue);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Stands in line, unless `most` do already.
    pub fn join(&self, most: u32) -> Option<Ticket<'_>> {
        let mut queue = self.lock();
        if queue.waiters.len() >= most as usize {
            return None;
        }
        let number = queue.next;
        queue.next += 1;
        queue.waiters.push_back(Waiter { number, called: false, waker: None });
        self.waiting.store(queue.waiters.len() as u32, Relaxed);
        drop(queue);
        fence(SeqCst);
        Some(Ticket { line: self, number, more: true })
    }
}

/// A place in a line, until it is dropped.
#[derive(Debug)]
pub struct Ticket<'a> {
    line: &'a Line,
    number: u64,
    /// Whoever comes next should look, too.
    more: bool,
}

impl Ticket<'_> {
    /// Whether nobody stands before it.
    pub fn is_first(&self) -> bool {
        self.line.lock().position(self.number) == Some(0)
    }

    /// Ready when it was called.
    pub fn poll_called(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut queue = self.line.lock();
        let Some(position) = queue.position(self.number) else { return Poll::Pending };
        let waiter = &mut queue.waiters[position];
        if std::mem::take(&mut waiter.called) {
            return Poll::Ready(());
        }
        waiter.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Leaves with what it waited for; `more`: there may be room for the next one as well.
    pub fn served(mut self, more: bool) {
        self.more = more;
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut queue = self.line.lock();
        let Some(position) = queue.position(self.number) else { return };
        let left = queue.waiters.remove(position);
        self.line.waiting.store(queue.waiters.len() as u32, Relaxed);
        let unused_call = left.is_some_and(|waiter| waiter.called);
        let waker = if position == 0 && self.more || unused_call { queue.call() } else { None };
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;
    use std::time::Duration;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    fn polls(ticket: &Ticket<'_>, woken: &Arc<Woken>) -> bool {
        let waker = woken.clone().into();
        ticket.poll_called(&mut Context::from_waker(&waker)).is_ready()
    }

    #[test]
    fn one_is_called_at_a_time_in_order() {
        let line = Line::default();
        line.call();
        let (first, second) = (line.join(2).expect("room"), line.join(2).expect("room"));
        assert!(line.join(2).is_none(), "it is bounded");
        let woken = [(); 2].map(|()| Arc::new(Woken::default()));
        assert!(!polls(&first, &woken[0]) && !polls(&second, &woken[1]));
        assert!(first.is_first() && !second.is_first());
        line.call();
        line.call();
        assert_eq!(woken.each_ref().map(|w| w.0.load(Relaxed)), [1, 0]);
        assert!(polls(&first, &woken[0]));
        first.served(false);
        assert!(!polls(&second, &woken[1]) && second.is_first());
        line.call();
        assert!(polls(&second, &woken[1]));
        second.served(true);
        assert_eq!(line.waiting(), 0);
    }

    #[test]
    fn a_call_that_was_not_used_goes_on_to_the_next() {
        let line = Line::default();
        let [first, second, third] = [(); 3].map(|()| line.join(9).expect("room"));
        let woken = Arc::new(Woken::default());
        assert!(!polls(&second, &woken) && !polls(&third, &woken));
        line.call();
        drop(first);
        assert_eq!(woken.0.load(Relaxed), 1);
        drop(second);
        assert_eq!(woken.0.load(Relaxed), 2);
        assert!(polls(&third, &woken));
        // Nobody was called: who leaves from the middle wakes nobody.
        let fourth = line.join(9).expect("room");
        assert!(!polls(&third, &woken));
        drop(fourth);
        assert_eq!(woken.0.load(Relaxed), 2);
    }

    /// Threads contend for two places; a lost call would leave one of them parked for ever.
    #[test]
    fn no_call_is_lost() {
        struct Thread(std::thread::Thread);
        impl Wake for Thread {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let (line, places, most) = (Line::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        let take = || places.fetch_update(Relaxed, Relaxed, |n| (n < 2).then_some(n + 1)).is_ok();
        let wait = |ticket: &Ticket<'_>| {
            let waker = Arc::new(Thread(std::thread::current())).into();
            let mut called = Box::pin(poll_fn(|cx| ticket.poll_called(cx)));
            while called.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
                std::thread::park_timeout(Duration::from_secs(20));
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for _ in 0..3_000 {
                        if line.waiting() > 0 || !take() {
                            let ticket = line.join(6).expect("room for all");
                            while !(ticket.is_first() && take()) {
                                wait(&ticket);
                            }
                            ticket.served(places.load(Relaxed) < 2);
                        }
                        most.fetch_max(places.load(Relaxed), Relaxed);
                        places.fetch_sub(1, Relaxed);
                        line.call();
                    }
                });
            }
        });
        assert_eq!((line.waiting(), places.load(Relaxed)), (0, 0));
        assert!(most.load(Relaxed) <= 2);
    }
}
