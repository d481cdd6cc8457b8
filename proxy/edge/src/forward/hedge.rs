//! Hedged reads: a request that is late is sent to a second endpoint as well, and whoever answers first is heard.
//!
//! Promises: only requests without a body that may be repeated, only on routes that ask; the loser's connection is closed
//! at once; the second endpoint is one that a further attempt could have had, and never the first. A quick failure of
//! the second is not an answer while the first may still give one.

use std::pin::{Pin, pin};
use std::time::Duration;

use meridian_config::Hedge;
use meridian_routing::{
    AccessClass, Decision, EndpointReason, Failure, HedgeOutcome, Hedges, Micros, UsualTime,
    late_after,
};

use super::attempt::{Attempt, AttemptError, Connection, UNSAYABLE, connect};
use super::flight::Flight;
use super::heads::Answer;
use super::journey::{Journey, Prepared};
use super::park::Halt;
use super::queue::enter_now;
use super::sent_body::Inside;
use super::tries::instead;
use super::upstream::Upstream;
use super::{Downstream, Upload};
use crate::http1::response::with_response;

/// What hedging of one request goes by.
#[derive(Clone, Copy)]
pub(super) struct Plan<'a> {
    hedge: &'a Hedge,
    hedges: &'a Hedges,
    usual: &'a UsualTime,
}

/// The second endpoint's answer has begun.
pub(super) struct Overtaking<'a> {
    pub(super) decision: Decision,
    pub(super) upstream: Upstream,
    pub(super) flight: Flight<'a>,
    pub(super) began: Micros,
    /// What became of the first attempt, if it failed by itself.
    pub(super) first: Option<Failure>,
}

impl<'a> Plan<'a> {
    /// Whether a request is one to hedge.
    pub(super) fn of<D: Downstream>(
        journey: &Journey<'a>,
        decision: &Decision,
        down: &D,
    ) -> Option<Self> {
        let hedge = journey.table.route(decision.route).hedge.as_ref()?;
        let eligible = decision.class.access != AccessClass::Write
            && decision.endpoint.reason != EndpointReason::Trial
            && down.upload() == Upload::Nothing;
        let counters = journey.table.counters(decision.route);
        let usual = &counters.cells(Some(decision.region.region)).usual;
        eligible.then_some(Self { hedge, hedges: &counters.hedges, usual })
    }

    /// Learns how long the first byte took, at least.
    pub(super) fn learn(&self, took: Duration) {
        if let Some(quantile) = self.hedge.after.quantile() {
            self.usual.learn(quantile, took);
        }
    }
}

/// What came of two attempts side by side.
enum Race<'a> {
    First(Upstream),
    Second(Upstream, Option<Failure>),
    /// The second one failed (`None`: it was not let in, which blames nobody); so did the first, if its error is here.
    SecondFailed(Result<Upstream, Option<Failure>>, Option<AttemptError<'a>>),
}

impl<'a, D: Downstream> Attempt<'a, '_, D> {
    /// The first attempt, and if it is late a second one beside it.
    pub(super) async fn run_hedged(
        &mut self,
        plan: Plan<'a>,
        prepared: Option<Prepared>,
    ) -> Result<(Upstream, Answer), AttemptError<'a>> {
        let (journey, decision) = (self.journey, self.decision);
        plan.hedges.request(journey.started);
        let prepared = prepared.unwrap_or_else(|| self.prepare(decision));
        let late = late_after(plan.hedge, plan.usual).filter(|_| prepared.repeatable);
        let Some(late) = late else {
            return self.run_alone(Some(prepared)).await;
        };
        let mut one = pin!(ask(journey, decision, prepared));
        let early = tokio::select! {
            biased;
            answered = &mut one => Some(answered),
            () = tokio::time::sleep(late) => None,
        };
        let mut upstream = match early {
            Some(answered) => answered?,
            None => self.race(plan, one).await?,
        };
        let answer = self.response_head(&mut upstream).await?;
        Ok((upstream, answer))
    }

    /// Goes on with the first attempt, which is late, and a second one where the budget has room.
    async fn race<F>(
        &mut self,
        plan: Plan<'a>,
        mut one: Pin<&mut F>,
    ) -> Result<Upstream, AttemptError<'a>>
    where
        F: Future<Output = Result<Upstream, AttemptError<'a>>>,
    {
        let journey = self.journey;
        let began = journey.worker.clock.now();
        let other = instead(journey, self.decision, self.down);
        let (other, without) = match other {
            None => (None, HedgeOutcome::NoEndpoint),
            Some(_) if !plan.hedges.take(plan.hedge.budget, began) => (None, HedgeOutcome::Budget),
            // One that is at its cap has no room for what may be in vain.
            other => (other.filter(|other| enter_now(journey, other)), HedgeOutcome::NoEndpoint),
        };
        let Some(other) = other else {
            plan.hedges.count(without);
            return self.patiently(one, true).await;
        };
        let mut flight = Flight::begin(journey, &other, false);
        let two = ask(journey, &other, self.prepare(&other));
        // Whoever is not done at the end of this is let go.
        let raced = {
            let both = pin!(first_of(one.as_mut(), two));
            self.patiently(both, false).await?
        };
        match raced {
            Race::First(upstream) => {
                plan.hedges.count(HedgeOutcome::Lost);
                Ok(upstream)
            }
            Race::Second(upstream, first) => {
                plan.hedges.count(HedgeOutcome::Won);
                let overtaking = Overtaking { decision: other, upstream, flight, began, first };
                Err(AttemptError::Overtaken(Box::new(overtaking)))
            }
            Race::SecondFailed(how, first) => {
                plan.hedges.count(HedgeOutcome::Failed);
                match how {
                    Ok(upstream) => flight.refused(upstream.unread(), began),
                    Err(Some(failure)) => flight.failed(failure),
                    Err(None) => {}
                }
                drop(flight);
                match first {
                    Some(error) => Err(error),
                    None => self.patiently(one, true).await,
                }
            }
        }
    }
}

/// The first good answer of two, or the second one's failure.
async fn first_of<'a, F>(
    mut one: Pin<&mut F>,
    two: impl Future<Output = Result<Upstream, AttemptError<'a>>>,
) -> Result<Race<'a>, AttemptError<'a>>
where
    F: Future<Output = Result<Upstream, AttemptError<'a>>>,
{
    let mut two = pin!(two);
    let mut failed = None;
    loop {
        tokio::select! {
            biased;
            answered = &mut one, if failed.is_none() => match answered {
                Ok(upstream) => return Ok(Race::First(upstream)),
                Err(error) => failed = Some(error),
            },
            answered = &mut two => {
                return Ok(match answered {
                    Ok(upstream) if failed.is_some() || !is_failure(&upstream) => {
                        Race::Second(upstream, failed.map(|error| error.failure()))
                    }
                    other => {
                        let blamed = |error| match error {
                            AttemptError::Halted(_) => None,
                            error => Some(error.failure()),
                        };
                        Race::SecondFailed(other.map_err(blamed), failed)
                    }
                });
            }
        }
    }
}

/// Whether what came is a 5xx.
fn is_failure(upstream: &Upstream) -> bool {
    let status = with_response(upstream.unread(), false, |head| head.status);
    matches!(status, Ok(Some(500..)))
}

/// Sends a request without a body and waits for the first bytes of its answer.
async fn ask<'a>(
    journey: &Journey<'_>,
    decision: &Decision,
    Prepared { head, .. }: Prepared,
) -> Result<Upstream, AttemptError<'a>> {
    let answered = answer_to(journey, decision, &head).await;
    journey.worker.buffers.give(head);
    answered
}

async fn answer_to<'a>(
    journey: &Journey<'_>,
    decision: &Decision,
    head: &[u8],
) -> Result<Upstream, AttemptError<'a>> {
    let broken = AttemptError::Endpoint(Failure::Broken, "the connection to the endpoint broke");
    let service = journey.table.service(decision.service);
    // What needs the primary must not be late for it: each use of a connection is let in anew.
    let enter = || match decision.class.access {
        AccessClass::Read => Ok(None),
        _ => {
            let guard = service.enter_write().ok_or(AttemptError::Halted(Halt::Outdated))?;
            Ok(Some(Inside::new(service, guard)))
        }
    };
    let mut upstream = connect(journey, decision, Connection::Any, false).await?;
    let inside = enter()?;
    if exchange(&mut upstream, head, &inside).await {
        return Ok(upstream);
    }
    if upstream.cannot_say() {
        return Err(UNSAYABLE);
    }
    let refused = |upstream: &Upstream| {
        let why = "the endpoint refused the request";
        upstream.was_refused().then_some(AttemptError::Endpoint(Failure::Refused, why))
    };
    // One that was kept and turns out to be closed says nothing of the endpoint.
    if !(upstream.reused && upstream.is_untouched()) {
        return Err(refused(&upstream).unwrap_or(broken));
    }
    drop(inside);
    upstream = connect(journey, decision, Connection::New, false).await?;
    let inside = enter()?;
    if exchange(&mut upstream, head, &inside).await {
        return Ok(upstream);
    }
    Err(refused(&upstream).unwrap_or(broken))
}

/// Whether something came back.
async fn exchange(upstream: &mut Upstream, head: &[u8], inside: &Option<Inside>) -> bool {
    let watch = inside.as_ref().map(Inside::watch);
    upstream.write_both(head, &[], watch).await.is_ok() && matches!(upstream.fill().await, Ok(1..))
}
