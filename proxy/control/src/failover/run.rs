//! One operation from its first step to its last.

use std::time::Duration;

use meridian_config::RegionIndex;
use meridian_routing::{Micros, RoutingTable, ServiceView};
use tokio::sync::watch as signal;
use tokio::time::{Instant, sleep};

use super::guards::ms;
use super::{Failovers, OperationKind, Plan, facts};
use crate::history::{Affected, Cause, ChangeKindWord, HistoryEvent, OperationRecord};
use crate::keeper::{AskError, Event, MoveOrder, PrimacyOrder, Rejection};

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// A failover does not wait longer for writes that a lost primary will hardly answer.
const LOST_WRITES: Duration = Duration::from_secs(1);

/// Why an operation ends before its end.
enum Stop {
    Failed(String),
    Late,
    Cancelled(String),
}

/// What would be done, in words.
pub(super) fn steps(plan: &Plan) -> Vec<String> {
    let mut steps =
        vec!["close: let no new write through; those that come wait at this edge".to_owned()];
    let to = &plan.to;
    if plan.kind == OperationKind::Failover {
        steps.push(format!("drain: wait at most {} for writes under way", ms(LOST_WRITES)));
    } else {
        steps.push("drain: wait for all writes under way".to_owned());
        steps.push(format!("catch-up: wait until \"{to}\" has all that the primary has"));
    }
    if let Some(hook) = &plan.hook {
        let command = hook.command.join(" ");
        steps.push(format!("hook: run {command} {to}, at most {}", ms(hook.limit)));
    }
    steps.push(if plan.appoints {
        format!("promote: raise the epoch above {} with \"{to}\" as the primary", plan.epoch)
    } else {
        format!(
            "promote: wait until \"{to}\" reports to be the primary of an epoch above {}",
            plan.epoch
        )
    });
    steps.push("release: let the writes that wait go there".to_owned());
    steps
}

impl Failovers {
    /// Does all of it; whatever happens, the operation has ended then.
    pub(super) async fn carry_out(
        &self,
        plan: &Plan,
        mut cancelled: signal::Receiver<Option<String>>,
    ) {
        let late = Instant::now() + plan.timeout;
        let stop = tokio::select! {
            done = self.steps(plan) => done.err(),
            () = tokio::time::sleep_until(late) => Some(Stop::Late),
            given_up = cancelled.wait_for(Option::is_some) => {
                let actor = given_up.ok().and_then(|actor| actor.clone());
                Some(Stop::Cancelled(actor.unwrap_or_default()))
            }
        };
        let (state, outcome) = match stop {
            None => ("done", format!("\"{}\" is the primary", plan.to)),
            Some(stop) => {
                let (state, why) = match stop {
                    Stop::Failed(why) => ("failed", why),
                    Stop::Late => ("failed", format!("not done within {}", ms(plan.timeout))),
                    Stop::Cancelled(actor) => ("cancelled", format!("given up by {actor}")),
                };
                (state, format!("{why}; {}", self.go_back(plan).await))
            }
        };
        self.end(plan, state, outcome);
    }

    async fn steps(&self, plan: &Plan) -> Result<(), Stop> {
        self.step(&plan.service, "close");
        let order = self.order(plan, true);
        self.0.keeper.ask(Event::Move(order)).await.map_err(|error| failed(&error))?;
        let now = self.0.clock.now();
        self.update(&plan.service, |operation, _| operation.closed = Some(now));
        self.result(&plan.service, "no new write passes".to_owned());
        self.drain(plan).await?;
        if plan.kind != OperationKind::Failover {
            self.catch_up(plan).await?;
        }
        self.run_hook(plan).await?;
        self.promote(plan).await
    }

    fn order(&self, plan: &Plan, begin: bool) -> MoveOrder {
        MoveOrder {
            service: plan.service.to_string(),
            epoch: begin.then_some(plan.epoch),
            what: plan.kind.label(),
            actor: plan.actor.clone(),
            reason: plan.reason.clone(),
        }
    }

    /// Waits for the writes that have passed the gate.
    async fn drain(&self, plan: &Plan) -> Result<(), Stop> {
        self.step(&plan.service, "drain");
        let begun = Instant::now();
        let lost = plan.kind == OperationKind::Failover;
        loop {
            let left =
                self.look(plan, |_, view, _| view.writes.in_flight() + view.writes.left_over())?;
            let took = ms(begun.elapsed());
            if left == 0 {
                self.result(&plan.service, format!("no write is under way, after {took}"));
                return Ok(());
            }
            if lost && begun.elapsed() >= LOST_WRITES {
                let said =
                    format!("{left} writes are still under way after {took}; not waited for");
                self.result(&plan.service, said);
                return Ok(());
            }
            sleep(LOOK).await;
        }
    }

    /// Waits until the candidate has what the primary has. What the primary has is known for certain once it was asked
    /// after its last write; so is a lag.
    async fn catch_up(&self, plan: &Plan) -> Result<(), Stop> {
        self.step(&plan.service, "catch-up");
        let (begun, drained) = (Instant::now(), self.0.clock.now());
        let mut target = None;
        loop {
            let asked = begun.elapsed() >= plan.interval.mul_f64(1.2);
            if target.is_none() && asked {
                target = self.look(plan, |_, view, _| facts::position_after(view, drained))?;
            }
            let reached = self.look(plan, |_, view, to| match target {
                Some(position) => view.reached(to, position),
                // Where positions are told, the primary's last one is waited for.
                None if facts::tells_position(view) => false,
                None => has_no_lag(view, to, drained, self.0.clock.now()),
            })?;
            if asked && reached {
                let what = match target {
                    Some(position) => format!("position {position}"),
                    None => "lag 0".to_owned(),
                };
                let took = ms(begun.elapsed());
                self.result(
                    &plan.service,
                    format!("\"{}\" has reached {what} after {took}", plan.to),
                );
                return Ok(());
            }
            sleep(LOOK).await;
        }
    }

    async fn run_hook(&self, plan: &Plan) -> Result<(), Stop> {
        let Some(hook) = &plan.hook else { return Ok(()) };
        self.step(&plan.service, "hook");
        let from = plan.from.as_ref().map(ToString::to_string).unwrap_or_default();
        let variables = vec![
            ("MERIDIAN_SERVICE", plan.service.to_string()),
            ("MERIDIAN_OPERATION", plan.kind.label().to_owned()),
            ("MERIDIAN_FROM", from),
            ("MERIDIAN_TO", plan.to.to_string()),
            ("MERIDIAN_EPOCH", (plan.epoch + 1).to_string()),
            ("MERIDIAN_REASON", plan.reason.clone()),
            ("MERIDIAN_ACTOR", plan.actor.clone()),
            ("MERIDIAN_EDGE", plan.edge.clone()),
        ];
        let report = hook.start(plan.to.as_str(), variables).finish().await;
        let said = match last_lines(&report.output) {
            said if said.is_empty() => String::new(),
            said => format!(": {said}"),
        };
        let result = format!("{} after {}{said}", report.status, ms(report.took));
        tracing::info!(
            target: "failover", service = %plan.service, status = report.status,
            output = report.output, "the hook has ended"
        );
        self.result(&plan.service, result.clone());
        if report.succeeded {
            Ok(())
        } else {
            Err(Stop::Failed(format!("the hook failed: {result}")))
        }
    }

    async fn promote(&self, plan: &Plan) -> Result<(), Stop> {
        self.step(&plan.service, "promote");
        if plan.appoints {
            self.appoint(plan).await?;
        }
        loop {
            let seen = self.look(plan, |table, view, _| {
                let settled = view.primacy.is_settled() && view.primacy.epoch > plan.epoch;
                let region = view.primacy.region.filter(|_| settled)?;
                Some((table.region(region).settings.id.clone(), view.primacy.epoch))
            })?;
            match seen {
                Some((region, epoch)) if region == plan.to => {
                    self.result(
                        &plan.service,
                        format!("\"{region}\" is the primary of epoch {epoch}"),
                    );
                    return Ok(());
                }
                Some((region, epoch)) => {
                    let why = format!("\"{region}\" became the primary of epoch {epoch} instead");
                    return Err(Stop::Failed(why));
                }
                None => sleep(LOOK).await,
            }
        }
    }

    /// Names the new primary. Its epoch is the one that somebody has said since the move began, for that is what the hook
    /// has made: a still higher one would be known to no database. Else the next.
    async fn appoint(&self, plan: &Plan) -> Result<(), Stop> {
        let said = self.look(plan, |_, view, _| view.writes.highest().max(view.primacy.epoch))?;
        let order = |epoch| PrimacyOrder {
            service: plan.service.to_string(),
            region: plan.to.to_string(),
            epoch,
            actor: plan.actor.clone(),
            reason: format!("{}: {}", plan.kind.label(), plan.reason),
        };
        let promote = |epoch| self.0.keeper.ask(Event::Promote(order(epoch)));
        let made = match promote(Some(said).filter(|epoch| *epoch > plan.epoch)).await {
            // Somebody else claims it.
            Err(AskError::Rejected(Rejection::EpochNotHigher { .. })) => promote(None).await,
            made => made,
        };
        made.map(|_| ()).map_err(|error| failed(&error))
    }

    /// Takes the move back; who the primary is then, in words.
    async fn go_back(&self, plan: &Plan) -> String {
        self.step(&plan.service, "go-back");
        let order = self.order(plan, false);
        let said = match self.0.keeper.ask(Event::Move(order)).await {
            Ok(_) => self.primary(plan).map_or_else(
                || "nobody is the primary, and writes are refused until one is known".to_owned(),
                |region| format!("writes go to \"{region}\""),
            ),
            Err(error) => error.to_string(),
        };
        self.result(&plan.service, said.clone());
        said
    }

    fn primary(&self, plan: &Plan) -> Option<String> {
        let table = self.0.table.load();
        let view = table.services.iter().find(|view| view.settings.name == plan.service)?;
        let region = view.primacy.region.filter(|_| view.primacy.is_settled())?;
        Some(table.region(region).settings.id.to_string())
    }

    /// Looks at the service and the candidate as they are now.
    fn look<T>(
        &self,
        plan: &Plan,
        look: impl FnOnce(&RoutingTable, &ServiceView, RegionIndex) -> T,
    ) -> Result<T, Stop> {
        let table = self.0.table.load();
        let gone = || Stop::Failed("a reload took the service or the region away".to_owned());
        let view = table.services.iter().find(|view| view.settings.name == plan.service);
        let mut regions = facts::indices(&table);
        let to = regions.find(|index| table.region(*index).settings.id == plan.to);
        Ok(look(&table, view.ok_or_else(gone)?, to.ok_or_else(gone)?))
    }

    /// Shows that it is over, and records it.
    fn end(&self, plan: &Plan, state: &str, outcome: String) {
        let primary = self.primary(plan);
        let now = self.0.clock.now();
        self.update(&plan.service, |operation, at_ms| {
            operation.view.took_ms = at_ms;
            let paused = |closed: Micros| now.since(closed).as_millis() as u64;
            operation.view.paused_ms = operation.closed.map(paused);
            operation.view.state = state.to_owned();
            operation.view.outcome = Some(outcome.clone());
            operation.view.primary = primary.clone();
        });
        let Some(view) = self.show(plan.service.as_str()) else { return };
        let (service, operation, took_ms) = (&view.service, &view.operation, view.took_ms);
        if state == "done" {
            tracing::info!(target: "failover", service, operation, outcome, took_ms, "done");
        } else {
            tracing::error!(target: "failover", service, operation, outcome, took_ms, "not done");
        }
        let steps = view.steps.iter().map(|step| {
            format!(
                "{} at {} ms: {}",
                step.step,
                step.at_ms,
                step.result.as_deref().unwrap_or("cut off")
            )
        });
        let reason = if plan.reason.is_empty() { "none" } else { &plan.reason };
        let evidence =
            format!("{outcome}; reason: {reason}; {}", steps.collect::<Vec<_>>().join("; "));
        self.0.history.record(vec![HistoryEvent {
            seq: 0,
            unix_ms: crate::clock::unix_ms(),
            edge: plan.edge.clone(),
            kind: ChangeKindWord::Operation,
            service: Some(plan.service.to_string()),
            region: Some(plan.to.to_string()),
            from: view.from.clone().unwrap_or_default(),
            to: primary.unwrap_or_default(),
            cause: if plan.actor == "meridian" { Cause::Health } else { Cause::Operator },
            evidence,
            actor: plan.actor.clone(),
            lasted_ms: view.took_ms,
            affected: Affected::default(),
            moved_to: None,
            operation: Some(OperationRecord {
                operation: view.operation.clone(),
                state: state.to_owned(),
                took_ms: view.took_ms,
                paused_ms: view.paused_ms,
                forced: plan.forced,
            }),
            generation: self.0.table.load().generation,
        }]);
    }
}

fn failed(error: &AskError) -> Stop {
    Stop::Failed(error.to_string())
}

/// A lag of nothing, seen after the last write.
fn has_no_lag(view: &ServiceView, to: RegionIndex, drained: Micros, now: Micros) -> bool {
    let lag = view.pool(to).and_then(|pool| pool.load.0.lag(now));
    lag.is_some_and(|(lag, age)| lag.is_zero() && age < now.since(drained))
}

/// The last of what a hook wrote, in one line.
fn last_lines(output: &str) -> String {
    let lines: Vec<_> = output.lines().rev().take(5).collect();
    let text = lines.into_iter().rev().collect::<Vec<_>>().join(" | ");
    let surplus = text.chars().count().saturating_sub(500);
    text.chars().skip(surplus).filter(|c| !c.is_control()).collect()
}
