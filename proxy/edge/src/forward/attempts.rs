//! The attempts of one request: make one, and on failure ask the retry policy for the next.

use std::time::Duration;

use meridian_routing::{Decision, EndpointReason, Failure, Filter, Refusal};

use super::Downstream;
use super::attempt::{Attempt, AttemptError};
use super::flight::Flight;
use super::hedge::{Overtaking, Plan};
use super::journey::{Ending, Failed, Journey, Prepared};
use super::park::{Halt, go_on, halted};
use super::queue::enter;
use super::relay::{Relayed, relay};
use super::sent_body::SentBody;
use super::tries::{Tries, instead};

/// Forwards a request and relays its response; one that needs the primary waits for it where it may. `first`: the first
/// attempt's head, where the caller had the request parsed anyway.
pub(crate) async fn forward<D: Downstream>(
    journey: &Journey<'_>,
    decided: Result<Decision, Refusal>,
    down: &mut D,
    first: Option<Prepared>,
) -> Ending {
    let service = journey.table.service(journey.table.route(journey.route).service);
    service.counters.budget.request(journey.started);
    let min_rate = journey.table.config.limits.min_rate;
    let buffers = &journey.worker.buffers;
    let mut body = match SentBody::begin(down, &service.settings, min_rate, buffers) {
        Ok(body) => body,
        Err(gone) => {
            let result = Err(Failed::Client(gone));
            return Ending { decided, table: None, attempts: 0, upstream_time: None, result };
        }
    };
    let halt = match decided {
        Ok(decision) => {
            let tried = attempts(journey, decision, down, first, &mut body).await;
            halted(journey, tried, &body)
        }
        Err(refusal) => Err((Halt::Refused(refusal), 0)),
    };
    let ending = match halt {
        Ok(ending) => ending,
        Err((halt, made)) => Box::pin(go_on(journey, service, halt, made, down, &mut body)).await,
    };
    body.give_back(&journey.worker.buffers);
    ending
}

/// What came of the attempts with one table.
pub(super) struct Tried {
    /// The last decision that was acted on.
    pub(super) decision: Decision,
    pub(super) attempts: u32,
    pub(super) upstream_time: Option<Duration>,
    pub(super) result: Result<Result<Relayed, Failed>, Halt>,
}

/// Makes attempts for as long as the retry policy wants it.
pub(super) async fn attempts<D: Downstream>(
    journey: &Journey<'_>,
    mut decision: Decision,
    down: &mut D,
    mut first: Option<Prepared>,
    body: &mut SentBody,
) -> Tried {
    let service = journey.table.service(decision.service);
    let mut tries = Tries::default();
    let on_trial = claim_trial(journey, &mut decision, down, &mut first);
    let plan = Plan::of(journey, &decision, down);
    let mut overtaking: Option<Box<Overtaking<'_>>> = None;
    let (upstream_time, result) = loop {
        let trial = on_trial && tries.made() == 0;
        if overtaking.is_none()
            && let Err(failed) = enter(journey, &mut decision, trial, down, &mut first).await
        {
            break (None, Ok(Err(failed)));
        }
        let begins = tries.begin(journey);
        let (mut flight, begun, began) = match overtaking.take().map(|other| *other) {
            Some(other) => (other.flight, Some(other.upstream), other.began),
            None => (Flight::begin(journey, &decision, trial), None, begins),
        };
        let outs = flight.outs();
        let mut attempt =
            Attempt { journey, decision: &decision, outs, down, body, tries: &mut tries };
        let outcome = attempt.make(begun, plan, &mut first).await;
        let (failure, why) = match outcome {
            Ok((upstream, answer)) => {
                let took = flight.answered(upstream.unread(), &answer.facts, began);
                plan.iter().filter(|_| tries.made() == 1).for_each(|plan| plan.learn(took));
                let result = relay(journey, &decision, upstream, answer, down, body).await;
                flight.relayed(&result, service);
                break (Some(took), Ok(result));
            }
            Err(AttemptError::Client(gone)) => break (None, Ok(Err(Failed::Client(gone)))),
            Err(AttemptError::Halted(halt)) => break (None, Err(halt)),
            Err(AttemptError::Deposed) => break (None, Ok(Err(Failed::deposed(service)))),
            Err(AttemptError::Left(next)) => {
                body.leave();
                flight.failed(Failure::WentOut);
                drop(flight);
                tries.failed(&decision);
                decision = next;
                continue;
            }
            Err(AttemptError::Overtaken(other)) => {
                let late = flight.overtaken(began, other.first);
                plan.iter().for_each(|plan| plan.learn(late));
                drop(flight);
                tries.failed(&decision);
                decision = other.decision;
                overtaking = Some(other);
                continue;
            }
            Err(AttemptError::Refuted) => {
                drop(flight);
                tries.failed(&decision);
                // Counts it in any case. A body whose beginning is gone cannot be sent again.
                let next = tries.refuted(journey, &decision, down);
                match next.filter(|_| body.can_be_repeated()) {
                    Some(next) => decision = next,
                    None => break (None, Ok(Err(Failed::Shed(Filter::Session)))),
                }
                continue;
            }
            Err(AttemptError::Endpoint(failure, why)) => (failure, why),
            Err(AttemptError::Stale) => (Failure::Broken, "the connection broke"),
        };
        body.leave();
        flight.failed(failure);
        drop(flight);
        tries.failed(&decision);
        match tries.next(journey, &decision, down, failure, body.can_be_repeated()) {
            Ok(next) => decision = next,
            Err(reason) => break (None, Ok(Err(Failed::after(failure, why, reason, service)))),
        }
    };
    body.leave();
    Tried { decision, attempts: tries.made(), upstream_time, result }
}

/// Takes the trial that was decided on; `true`: this request is it. If another one was faster, this one goes elsewhere.
fn claim_trial<D: Downstream>(
    journey: &Journey<'_>,
    decision: &mut Decision,
    down: &D,
    first: &mut Option<Prepared>,
) -> bool {
    if decision.endpoint.reason != EndpointReason::Trial {
        return false;
    }
    let service = journey.table.service(decision.service);
    if service.endpoint(decision.endpoint.endpoint).load.begin_trial() {
        return true;
    }
    if let Some(other) = instead(journey, decision, down) {
        *decision = other;
        // It was written for the other endpoint.
        if let Some(prepared) = first.take() {
            journey.worker.buffers.give(prepared.head);
        }
    }
    false
}
