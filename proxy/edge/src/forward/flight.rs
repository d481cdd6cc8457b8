//! One attempt as its endpoint and region see it: counted in and out, and what it says of the endpoint.

use std::time::Duration;

use meridian_config::{Outlier, Overload};
use meridian_control::Finding;
use meridian_routing::{
    Decision, EndpointView, Failure, Fault, GiveUp, Micros, Outcome, Pool, ServiceView,
};

use super::journey::{Failed, Journey};
use super::relay::{Cut, Relayed};
use crate::http1::response::{ResponseFacts, with_response};

/// Counts a request, which was counted in at its endpoint, in at its region, and out at both however it ends.
pub(super) struct Flight<'a> {
    journey: &'a Journey<'a>,
    endpoint: &'a EndpointView,
    limits: &'a Outlier,
    overload: &'a Overload,
    region: Option<&'a Pool>,
    /// It decides whether the endpoint's ejection ends.
    on_trial: bool,
    outcome: Outcome,
    learned_at: Micros,
}

impl<'a> Flight<'a> {
    pub(super) fn begin(journey: &'a Journey<'a>, decision: &Decision, on_trial: bool) -> Self {
        let service = journey.table.service(decision.service);
        let endpoint = service.endpoint(decision.endpoint.endpoint);
        let region = service.pool(decision.region.region);
        if let Some(pool) = region {
            pool.load.0.begin();
        }
        Self {
            journey,
            endpoint,
            limits: &service.settings.outlier,
            overload: &service.settings.overload,
            region,
            on_trial,
            outcome: Outcome::Abandoned,
            learned_at: journey.started,
        }
    }

    /// How often the endpoint went out so far.
    pub(super) fn outs(&self) -> u32 {
        self.endpoint.load.outs()
    }

    /// Learns from a response head: its time, and whether it is a failure. Returns the time since `began`.
    pub(super) fn answered(
        &mut self,
        read: &[u8],
        facts: &ResponseFacts,
        began: Micros,
    ) -> Duration {
        self.learned_at = self.journey.worker.clock.now();
        let took = self.learned_at.since(began);
        self.outcome = Outcome::Answered(took);
        if let Some(pool) = self.region {
            pool.load.1.observe(took);
        }
        let failed = facts.status == 429 || facts.status >= 500;
        if failed {
            self.note(read, facts.status);
        } else {
            self.endpoint.answered(self.overload, took, self.learned_at);
        }
        if self.on_trial {
            self.end_trial();
        }
        took
    }

    /// It failed, and may have said for how long it wants to be left alone.
    fn note(&mut self, read: &[u8], status: u16) {
        let pause = with_response(read, self.journey.is_head, |head| {
            let name = "retry-after";
            let field = head.fields.iter().find(|f| f.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(field.value).ok()?.trim().parse::<u64>().ok()
        });
        let pause = pause.ok().flatten().flatten().map(Duration::from_secs);
        self.outcome = match status {
            500 | 502 | 503 | 504 => Outcome::Faulty(Fault::ServerError, pause),
            _ => Outcome::Failed(pause),
        };
    }

    /// The answer was passed on, or broke off.
    pub(super) fn relayed(&mut self, result: &Result<Relayed, Failed>, service: &ServiceView) {
        if matches!(result, Err(Failed::Cut { cause: Cut::Endpoint, .. })) {
            self.failed(Failure::Broken);
            service.counters.suppressed(GiveUp::Answered);
        }
    }

    /// The endpoint failed. If this machine was held up, a deadline that passed meanwhile blames nobody.
    pub(super) fn failed(&mut self, failure: Failure) {
        self.learned_at = self.journey.worker.clock.now();
        let excused = failure == Failure::TimedOut && self.journey.alarm.was_held_up();
        self.outcome = match failure {
            _ if excused => Outcome::Abandoned,
            // It is there, and has no room.
            Failure::Refused => Outcome::Failed(None),
            _ => Outcome::Faulty(Fault::Connection, None),
        };
    }

    /// Another endpoint was faster: this one took so long at least, or failed. Returns the time since `began`.
    pub(super) fn overtaken(&mut self, began: Micros, failure: Option<Failure>) -> Duration {
        match failure {
            Some(failure) => self.failed(failure),
            None => self.learned_at = self.journey.worker.clock.now(),
        }
        let took = self.learned_at.since(began);
        if failure.is_none() {
            self.outcome = Outcome::Answered(took);
        }
        took
    }

    /// The endpoint answered with a 5xx, which nobody was given.
    pub(super) fn refused(&mut self, read: &[u8], began: Micros) {
        if let Ok(Some(facts)) = with_response(read, self.journey.is_head, |head| head.facts) {
            let _ = self.answered(read, &facts, began);
        }
    }

    /// Tells the keeper how the trial went.
    fn end_trial(&mut self) {
        self.on_trial = false;
        let finding = match self.outcome {
            Outcome::Answered(_) | Outcome::Failed(_) => Some(Finding::TrialPassed),
            Outcome::Faulty(fault, _) => Some(Finding::TrialFailed(fault)),
            Outcome::Abandoned => None,
        };
        let tell = |finding| self.journey.worker.outliers.tell(&self.endpoint.key, finding);
        if !finding.is_some_and(tell) {
            self.endpoint.load.repeat_trial(self.learned_at);
        }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let load = &self.endpoint.load;
        load.end(self.outcome, self.learned_at);
        if let Some(pool) = self.region {
            if self.overload.is_on() {
                // Somebody may wait for room.
                pool.load.0.line.call();
            }
            pool.load.0.end(match self.outcome {
                Outcome::Answered(_) => Some(false),
                Outcome::Failed(_) | Outcome::Faulty(..) => Some(true),
                Outcome::Abandoned => None,
            });
        }
        if self.on_trial {
            self.end_trial();
        } else if let Outcome::Faulty(..) = self.outcome
            && let Some(suspicion) = load.suspect(self.limits, self.learned_at)
        {
            // If the keeper cannot be told, the hold lapses and the next failure tells again.
            let finding = Finding::Suspicion(suspicion);
            let _ = self.journey.worker.outliers.tell(&self.endpoint.key, finding);
        }
    }
}
