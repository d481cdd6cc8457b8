//! What becomes of a request that needs the primary and finds none: it waits, bounded, and is decided anew.
//!
//! Promises: whatever table it goes on with, its first byte leaves only if the gate of writes lets it in by that table;
//! what an endpoint may have executed is never sent again; the body stays with the client meanwhile, but for what was
//! read already. A contested primary is not waited for.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use meridian_config::RegionIndex;
use meridian_routing::{
    AccessClass, Decision, Filter, Micros, ParkOutcome, Parked, Refusal, RoutingTable, ServiceView,
};

use super::attempts::{Tried, attempts};
use super::journey::{Ending, Failed, Journey};
use super::sent_body::SentBody;
use super::{ClientGone, Downstream};
use crate::admit::{Again, admit_again};
use crate::affinity::Sticky;
use crate::alarm::TICK;
use crate::session::Session;

/// Times that a request goes on and comes back without having been executed.
const ROUNDS: u32 = 32;
/// Where nothing is known to have changed, the first who waits tries again after this, then after twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Why a request goes no further with its table. Nothing of it was executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Halt {
    /// It was refused, and may wait.
    Refused(Refusal),
    /// The gate of writes did not let it in: its table is out of date, or is about to be.
    Outdated,
    /// The endpoint said that it is not the primary.
    Misdirected,
    /// No endpoint of the primary accepted a connection, and another region may become the primary.
    Unreachable,
}

/// Whether what came of the attempts is the end, or a halt.
pub(super) fn halted(
    journey: &Journey<'_>,
    tried: Tried,
    body: &SentBody,
) -> Result<Ending, (Halt, u32)> {
    let Tried { decision, attempts, upstream_time, result } = tried;
    let waits = || {
        decision.class.access != AccessClass::Read
            && body.can_be_repeated()
            && journey.table.service(decision.service).may_fail_over()
    };
    let result = match result {
        Ok(Err(Failed::Unreachable)) if waits() => return Err((Halt::Unreachable, attempts)),
        Ok(result) => result,
        Err(Halt::Misdirected) if !body.can_be_repeated() => {
            // It was not executed, but what has been sent of it is not there any more.
            let filter = Filter::PrimaryMoved;
            let refusal = Refusal { route: Some(decision.route), filter, status: 503 };
            let (decided, result) = (Err(refusal), Err(Failed::Refused));
            return Ok(Ending { decided, table: None, attempts, upstream_time, result });
        }
        Err(halt) => return Err((halt, attempts)),
    };
    Ok(Ending { decided: Ok(decision), table: None, attempts, upstream_time, result })
}

/// Waits and goes on for as long as that leads anywhere. `service`: the one whose primary is waited for.
pub(super) async fn go_on<D: Downstream>(
    first: &Journey<'_>,
    service: &ServiceView,
    halt: Halt,
    made: u32,
    down: &mut D,
    body: &mut SentBody,
) -> Ending {
    let mut made = made;
    let mut wait = Wait {
        journey: first,
        service,
        began: first.worker.clock.now(),
        until: first.deadline,
        pause: FIRST_PAUSE,
        rounds: 0,
    };
    wait.until = first
        .alarm
        .now()
        .plus(service.settings.failover.write_park.time + TICK)
        .min(first.deadline);
    let mut last = Last::new(halt, first.table, service);
    loop {
        let held = (down.held() + body.held()) as u64;
        let next = match wait.next(last, down, held).await {
            Ok(next) => next,
            Err(end) => {
                let (decided, failed, table) = end.told(first);
                let upstream_time = None;
                return Ending {
                    decided,
                    table,
                    attempts: made,
                    upstream_time,
                    result: Err(failed),
                };
            }
        };
        let journey = Journey {
            table: &next.table,
            route: next.decision.route,
            sticky: next.sticky.as_ref(),
            session: next.session.as_ref(),
            started: first.worker.clock.now(),
            ..*first
        };
        let tried = attempts(&journey, next.decision, down, None, body).await;
        match halted(&journey, tried, body) {
            Ok(mut ending) => {
                // Where one gets through, others may.
                service.counters.park.wake();
                ending.attempts += made;
                ending.table = Some(next.table);
                return ending;
            }
            Err((halt, more)) => {
                made += more;
                last = Last::new(halt, &next.table, service);
            }
        }
    }
}

/// What a request goes on with.
struct Next {
    table: Arc<RoutingTable>,
    decision: Decision,
    sticky: Option<Sticky>,
    session: Option<Session>,
}

/// Why it does not.
enum End {
    /// By this table; `None`: by the one that the request came with.
    Refused(Refusal, Option<Arc<RoutingTable>>),
    Gone,
}

impl End {
    /// The outcome, and the table whose indexes are in it, unless that is the one that the request came with.
    fn told(
        self,
        first: &Journey<'_>,
    ) -> (Result<Decision, Refusal>, Failed, Option<Arc<RoutingTable>>) {
        match self {
            Self::Refused(refusal, table) => (Err(refusal), Failed::Refused, table),
            Self::Gone => {
                let route = first.route;
                let unserved =
                    Refusal { route: Some(route), filter: Filter::PrimaryUnknown, status: 499 };
                (Err(unserved), Failed::Client(ClientGone::Closed), None)
            }
        }
    }
}

/// How the last round ended, and with which table.
#[derive(Clone, Copy)]
struct Last {
    halt: Halt,
    generation: u64,
    primary: Primary,
}

/// Epoch and region; `None`: there is no such service.
type Primary = Option<(u64, Option<RegionIndex>)>;

fn primary_of(table: &RoutingTable, service: &ServiceView) -> Primary {
    let name = &service.settings.name;
    let found = table.services.iter().find(|service| service.settings.name == *name)?;
    Some((found.primacy.epoch, found.primacy.region))
}

/// What a look at the table in force says.
enum Look {
    Go(Box<Next>),
    Wait,
    End(Refusal),
}

/// The wait of one request, over all its rounds.
struct Wait<'a> {
    journey: &'a Journey<'a>,
    service: &'a ServiceView,
    began: Micros,
    until: Micros,
    pause: Duration,
    rounds: u32,
}

impl Wait<'_> {
    /// What the request goes on with, as soon as there is something; or why it does not.
    async fn next<D: Downstream>(&mut self, last: Last, down: &D, held: u64) -> Result<Next, End> {
        let worker = self.journey.worker;
        self.rounds += 1;
        let present = worker.table();
        if self.rounds > ROUNDS {
            return Err(End::Refused(self.refusal(Filter::ParkTime), None));
        }
        // A table that was made meanwhile need not be waited for.
        if self.is_news(&present, last) {
            match self.look(&present, down) {
                Look::Go(next) => return Ok(*next),
                Look::End(refusal) => return Err(End::Refused(refusal, Some(present))),
                Look::Wait => {}
            }
        }
        let park = &self.service.counters.park;
        let limits = &self.service.settings.failover.write_park;
        let Some(parked) = park.join(limits, held) else {
            return Err(End::Refused(self.refusal(Filter::ParkFull), None));
        };
        let ended = self.stay(&parked, last, down).await;
        let outcome = match &ended {
            Ok(_) => ParkOutcome::Released,
            Err(End::Gone) => ParkOutcome::Gone,
            Err(End::Refused(refusal, _)) => match refusal.filter {
                Filter::ParkTime => ParkOutcome::Time,
                Filter::PrimaryContested => ParkOutcome::Contested,
                _ => ParkOutcome::Refused,
            },
        };
        if outcome == ParkOutcome::Gone {
            drop(parked);
        } else {
            parked.end(outcome, worker.clock.now().since(self.began));
        }
        ended
    }

    async fn stay<D: Downstream>(
        &mut self,
        parked: &Parked<'_>,
        last: Last,
        down: &D,
    ) -> Result<Next, End> {
        let (alarm, worker) = (self.journey.alarm, self.journey.worker);
        let mut again_at = alarm.now().plus(self.pause);
        let (mut seen, mut woken) = (last.generation, false);
        // One for the whole wait: it takes its time to be sure.
        let mut gone = pin!(down.gone());
        let _alert = alarm.alert();
        loop {
            let present = worker.table();
            let is_news = present.generation != seen && self.is_news(&present, last);
            let its_turn = last.may_be_tried_again()
                && (woken || alarm.now() >= again_at && parked.is_first());
            if is_news || its_turn {
                seen = present.generation;
                match self.look(&present, down) {
                    Look::Go(next) => {
                        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                        return Ok(*next);
                    }
                    Look::End(refusal) => return Err(End::Refused(refusal, Some(present))),
                    Look::Wait => {}
                }
            }
            if alarm.now() >= again_at {
                again_at = alarm.now().plus(self.pause);
            }
            let wake_at = if last.may_be_tried_again() { again_at } else { self.until };
            alarm.set_at(wake_at.min(self.until));
            let called = poll_fn(|cx| parked.poll_woken(cx));
            let event = async {
                tokio::select! {
                    biased;
                    () = called => false,
                    () = gone.as_mut() => true,
                }
            };
            woken = match alarm.race(event).await {
                Ok(true) => return Err(End::Gone),
                Ok(false) => true,
                Err(_) if alarm.now() >= self.until => {
                    return Err(End::Refused(self.refusal(Filter::ParkTime), None));
                }
                // There may be a new table, or it is time to try again.
                Err(_) => false,
            };
        }
    }

    /// Whether this table may lead the request further: where the one before did but the endpoint was not there, or was
    /// not the primary, only another primary does.
    fn is_news(&self, present: &RoutingTable, last: Last) -> bool {
        present.generation != last.generation
            && (!last.may_be_tried_again() || primary_of(present, self.service) != last.primary)
    }

    fn look<D: Downstream>(&self, present: &Arc<RoutingTable>, down: &D) -> Look {
        let Journey { worker, peer, client, .. } = self.journey;
        let now = worker.clock.now();
        let Again { decided, sticky, session, parks } =
            down.request(|request| admit_again(worker, present, peer, client, request, now));
        match decided {
            Ok(decision) => {
                Look::Go(Box::new(Next { table: present.clone(), decision, sticky, session }))
            }
            Err(_) if parks => Look::Wait,
            Err(refusal) => Look::End(refusal),
        }
    }

    fn refusal(&self, filter: Filter) -> Refusal {
        Refusal { route: Some(self.journey.route), filter, status: 503 }
    }
}

impl Last {
    fn new(halt: Halt, table: &RoutingTable, service: &ServiceView) -> Self {
        Self { halt, generation: table.generation, primary: primary_of(table, service) }
    }

    /// Whether the same decision may lead further the next time: then the first who waits tries now and then.
    fn may_be_tried_again(self) -> bool {
        matches!(self.halt, Halt::Misdirected | Halt::Unreachable)
    }
}
