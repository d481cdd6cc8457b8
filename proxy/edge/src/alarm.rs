//! Deadlines without a timer each: one coarse tick per worker looks at all of them.
//!
//! Setting a deadline is a store; that is what allows several per request. Precision: never early, up to two ticks late.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use meridian_routing::Micros;
use pin_project_lite::pin_project;

/// How often deadlines are looked at.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// Ticks so far apart were held up: the process was stopped, or starved.
const HELD_UP: Duration = Duration::from_millis(500);

/// Bells kept for reuse, per worker.
const SPARE: usize = 1024;

/// The deadline passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expired;

#[derive(Debug, Default)]
struct Bell {
    /// Where it hangs among all bells of the worker.
    place: Cell<usize>,
    /// 0: not set.
    at: Cell<u64>,
    idle: Cell<bool>,
    /// Goes off when the alarms are shaken.
    alert: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// All deadlines of a worker.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    bells: RefCell<Vec<Rc<Bell>>>,
    /// Bells that nobody has, for the next to come.
    spare: RefCell<Vec<Rc<Bell>>>,
    now: Cell<u64>,
    held_up: Cell<bool>,
}

impl Alarms {
    /// Wakes whoever is late.
    pub(crate) fn tick(&self, now: Micros) {
        let last = Micros(self.now.replace(now.0));
        self.held_up.set(last.0 != 0 && now.since(last) > HELD_UP);
        for bell in self.bells.borrow().iter() {
            let at = bell.at.get();
            if at != 0 && at <= now.0 {
                bell.ring();
            }
        }
    }

    /// Makes every idle alarm go off now.
    pub(crate) fn end_idle(&self) {
        for bell in self.bells.borrow().iter().filter(|bell| bell.idle.get()) {
            bell.at.set(1);
            bell.ring();
        }
    }

    /// Time as of the last tick.
    pub(crate) fn now(&self) -> Micros {
        Micros(self.now.get())
    }

    /// Makes every alert alarm go off now: there is news for whoever waits.
    pub(crate) fn shake(&self) {
        for bell in self.bells.borrow().iter().filter(|bell| bell.alert.get()) {
            bell.at.set(1);
            bell.ring();
        }
    }

    /// A new alarm, not set.
    pub(crate) fn alarm(self: &Rc<Self>) -> Alarm {
        let bell = self.spare.borrow_mut().pop().unwrap_or_default();
        let mut bells = self.bells.borrow_mut();
        bell.place.set(bells.len());
        bells.push(bell.clone());
        Alarm { bell, alarms: self.clone() }
    }
}

impl Bell {
    fn ring(&self) {
        let waker = self.waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// An alarm that can be shaken.
pub(crate) struct Alert<'a>(&'a Bell);

impl Drop for Alert<'_> {
    fn drop(&mut self) {
        self.0.alert.set(false);
    }
}

/// One deadline, moved along as a connection goes through its phases.
#[derive(Debug)]
pub(crate) struct Alarm {
    bell: Rc<Bell>,
    alarms: Rc<Alarms>,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let mut bells = self.alarms.bells.borrow_mut();
        let bell = bells.swap_remove(self.bell.place.get());
        if let Some(moved) = bells.get(bell.place.get()) {
            moved.place.set(bell.place.get());
        }
        bell.at.set(0);
        bell.idle.set(false);
        bell.alert.set(false);
        drop(bells);
        drop(bell.waker.take());
        let mut spare = self.alarms.spare.borrow_mut();
        if spare.len() < SPARE {
            spare.push(bell);
        }
    }
}

impl Alarm {
    /// Goes off `after` now, up to two ticks late, never early; unless set again.
    pub(crate) fn set(&self, after: Duration) {
        self.set_at(self.now().plus(after + TICK));
    }

    /// Marks that nothing is under way, so that [`Alarms::end_idle`] may end it.
    pub(crate) fn set_idle(&self, idle: bool) {
        self.bell.idle.set(idle);
    }

    /// Until the guard is dropped, [`Alarms::shake`] makes it go off before its time.
    pub(crate) fn alert(&self) -> Alert<'_> {
        self.bell.alert.set(true);
        Alert(&self.bell)
    }

    /// Whether the last tick came late because this machine held it up: deadlines that passed blame nobody.
    pub(crate) fn was_held_up(&self) -> bool {
        self.alarms.held_up.get()
    }

    /// Goes off at `at`.
    pub(crate) fn set_at(&self, at: Micros) {
        self.bell.at.set(at.0.max(1));
    }

    /// Time as of the last tick.
    pub(crate) fn now(&self) -> Micros {
        self.alarms.now()
    }

    /// Waits for `future`, but not beyond the deadline in force, which may move meanwhile.
    pub(crate) fn race<F: Future>(&self, future: F) -> Race<'_, F> {
        Race { future, alarm: self }
    }
}

pin_project! {
    /// A future against a deadline. Not an `async fn`, which would keep room for its future twice: races stand in
    /// races, and connections hold them.
    pub(crate) struct Race<'a, F> {
        #[pin]
        future: F,
        alarm: &'a Alarm,
    }
}

impl<F: Future> Future for Race<'_, F> {
    type Output = Result<F::Output, Expired>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let race = self.project();
        if let Poll::Ready(output) = race.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        let Alarm { bell, alarms } = race.alarm;
        let at = bell.at.get();
        if at != 0 && at <= alarms.now.get() {
            return Poll::Ready(Err(Expired));
        }
        let mut waker = bell.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn goes_off_at_the_tick_after_the_deadline_and_not_before() {
        let alarms = Rc::new(Alarms::default());
        let alarm = alarms.alarm();
        alarm.set(Duration::from_millis(250));
        let ticks = async {
            for ms in (0..=400).step_by(100) {
                tokio::task::yield_now().await;
                alarms.tick(Micros(ms * 1000));
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            result = alarm.race(std::future::pending::<()>()) => assert_eq!(result, Err(Expired)),
            () = ticks => unreachable!(),
        }
        assert_eq!(alarm.now(), Micros(400_000));
        assert_eq!(alarm.race(async { 7 }).await, Ok(7));
        drop(alarm);
        assert!(alarms.bells.borrow().is_empty());
    }

    #[test]
    fn only_alert_alarms_are_shaken() {
        let alarms = Rc::new(Alarms::default());
        let [waiting, other] = [alarms.alarm(), alarms.alarm()];
        waiting.set_at(Micros(700));
        other.set_at(Micros(700));
        let alert = waiting.alert();
        alarms.shake();
        assert_eq!((waiting.bell.at.get(), other.bell.at.get()), (1, 700));
        waiting.set_at(Micros(700));
        drop(alert);
        alarms.shake();
        assert_eq!(waiting.bell.at.get(), 700);
    }

    #[test]
    fn a_tick_that_came_late_was_held_up() {
        let alarms = Rc::new(Alarms::default());
        let alarm = alarms.alarm();
        for (ms, held_up) in [(60_000, false), (60_100, false), (70_000, true), (70_100, false)] {
            alarms.tick(Micros(ms * 1000));
            assert_eq!(alarm.was_held_up(), held_up, "{ms}");
        }
    }

    #[test]
    fn an_alarm_that_goes_leaves_the_others_where_they_can_be_found() {
        let alarms = Rc::new(Alarms::default());
        let [first, second, third] = [alarms.alarm(), alarms.alarm(), alarms.alarm()];
        third.set_at(Micros(7));
        drop(first);
        drop(second);
        assert_eq!(third.bell.place.get(), 0);
        assert_eq!(alarms.bells.borrow().len(), 1);
        let next = alarms.alarm();
        assert_eq!((next.bell.at.get(), next.bell.place.get()), (0, 1));
        drop(third);
        drop(next);
        assert!(alarms.bells.borrow().is_empty());
    }
}
