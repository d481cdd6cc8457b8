//! What set a change off, who did it, and what is known of it, in words.

use std::collections::HashMap;
use std::sync::Arc;

use meridian_config::{EndpointKey, RegionId, ServiceName};
use meridian_routing::{
    Change as Setting, ChangeKind, Override, OverrideKey, PrimacyRecord, Role, RoutingTable, Target,
};

use super::changes::{Change, Standing, Subject, Value, members, region_of, service_of, standing};
use super::event::{Cause, RegionState};
use crate::keeper::{Notice, PrimacyCause};

/// What Meridian does by itself.
pub(super) const MERIDIAN: &str = "meridian";
/// Endpoints that are named.
const NAMED: usize = 5;
/// The longest cause of an endpoint's failure, characters.
const LONGEST: usize = 200;

/// Why endpoints failed last.
pub(super) type Failures = HashMap<EndpointKey, Arc<str>>;

/// Why a change came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trigger {
    pub(super) cause: Cause,
    pub(super) actor: String,
    pub(super) evidence: String,
}

/// The batch of notices that led from one table to the next, and what was known before.
pub(super) struct Batch<'a> {
    pub(super) after: &'a RoutingTable,
    pub(super) notices: &'a [Notice],
    pub(super) failures: &'a Failures,
}

impl Batch<'_> {
    /// The last notice that explains a change, a reload only if nothing else does; of a region that fails, its
    /// endpoints besides.
    pub(super) fn trigger(&self, change: &Change) -> Trigger {
        let told = |reloads: bool| {
            let mut notices = self.notices.iter().rev();
            notices.find_map(|notice| {
                let is_reload = matches!(notice, Notice::Reloaded { .. });
                self.told(notice, &change.subject).filter(|_| is_reload == reloads)
            })
        };
        let told = told(false).or_else(|| told(true));
        let mut trigger = told.unwrap_or_else(|| Trigger {
            cause: Cause::Health,
            actor: MERIDIAN.into(),
            evidence: String::new(),
        });
        if let (Subject::State(service, region), Value::State(state)) =
            (&change.subject, &change.to)
            && let Some(endpoints) = self.endpoints(service, region, *state)
        {
            let gap = if trigger.evidence.is_empty() { "" } else { "; " };
            trigger.evidence = format!("{}{gap}{endpoints}", trigger.evidence);
        }
        trigger
    }

    fn told(&self, notice: &Notice, subject: &Subject) -> Option<Trigger> {
        let trigger = |cause, actor: &str, evidence: String| {
            Some(Trigger { cause, actor: actor.to_owned(), evidence })
        };
        match notice {
            Notice::Health { key, .. }
            | Notice::Ejected { key, .. }
            | Notice::Returned { key, .. } => match subject {
                Subject::State(service, region)
                    if key.service == *service && key.region == *region =>
                {
                    trigger(Cause::Health, MERIDIAN, String::new())
                }
                _ => None,
            },
            Notice::Reloaded { actor, digest } => {
                let digest: String = digest.chars().take(12).collect();
                let evidence = format!("configuration reloaded, digest {digest}");
                trigger(Cause::Configuration, actor, evidence)
            }
            Notice::OverrideSet { key, value } if self.concerns(key, subject) => {
                trigger(Cause::Operator, &value.actor, set(key, value))
            }
            Notice::OverrideCleared { key, actor } if self.concerns(key, subject) => {
                let evidence = format!("{actor} took back the {} of {}", kind(key), target(key));
                trigger(Cause::Operator, actor, evidence)
            }
            Notice::OverrideExpired { key, value } if self.concerns(key, subject) => {
                let (what, of, by) = (kind(key), target(key), &value.actor);
                trigger(
                    Cause::Expiry,
                    MERIDIAN,
                    format!("the {what} of {of}, set by {by}, expired"),
                )
            }
            Notice::Primacy { service, to, cause, .. }
                if *subject == Subject::Primary(service.clone()) =>
            {
                primacy(to, cause)
            }
            // Dropped by a reload, which has a notice of its own.
            Notice::OverrideDropped { .. }
            | Notice::Primacy { .. }
            | Notice::EpochDisbelieved { .. }
            | Notice::OverrideSet { .. }
            | Notice::OverrideCleared { .. }
            | Notice::OverrideExpired { .. }
            | Notice::TrialDue { .. }
            | Notice::Resolved { .. }
            | Notice::RoundTrips => None,
        }
    }

    /// Whether an override may have changed a subject.
    fn concerns(&self, key: &OverrideKey, subject: &Subject) -> bool {
        match (subject, &key.target, key.kind) {
            (Subject::State(_, region), Target::Region(id), ChangeKind::Drain) => {
                region.as_str() == id
            }
            (Subject::Weight(region), Target::Region(id), ChangeKind::Weight) => {
                region.as_str() == id
            }
            (
                Subject::State(name, region),
                Target::Endpoint { service, address },
                ChangeKind::Drain,
            ) => {
                name.as_str() == service
                    && service_of(self.after, name).is_some_and(|view| {
                        let mut endpoints = view.endpoints.iter();
                        endpoints.any(|endpoint| {
                            endpoint.key.region == *region
                                && endpoint.key.address.to_string() == *address
                        })
                    })
            }
            _ => false,
        }
    }

    /// `2 of 3 endpoints down: 10.0.1.10:3000 connection refused; 10.0.1.11:3000 no answer within 250 ms`
    fn endpoints(
        &self,
        service: &ServiceName,
        region: &RegionId,
        state: RegionState,
    ) -> Option<String> {
        let view = service_of(self.after, service)?;
        let index = region_of(self.after, region)?;
        let of = |wanted| members(view, index).filter(move |e| standing(e) == wanted);
        let all = members(view, index).filter(|e| standing(e) != Standing::Drained).count();
        match state {
            RegionState::Absent | RegionState::Drained | RegionState::Unknown => None,
            RegionState::Healthy => {
                let healthy = of(Standing::In).count();
                Some(format!("{healthy} of {all} endpoints healthy"))
            }
            RegionState::Degraded | RegionState::Down => {
                let out = of(Standing::Out).count();
                let mut named: Vec<_> = of(Standing::Out)
                    .take(NAMED)
                    .map(|endpoint| {
                        let why = self.failures.get(&endpoint.key);
                        let why: String = why.map_or("", |why| why).chars().take(LONGEST).collect();
                        format!("{} {why}", endpoint.key.address).trim_end().to_owned()
                    })
                    .collect();
                if out > NAMED {
                    named.push(format!("and {} more", out - NAMED));
                }
                Some(format!("{out} of {all} endpoints down: {}", named.join("; ")))
            }
        }
    }
}

/// What made the primary another one; a reload has a notice of its own.
fn primacy(to: &PrimacyRecord, cause: &PrimacyCause) -> Option<Trigger> {
    let (state, epoch) = (to.state.label(), to.epoch);
    match cause {
        PrimacyCause::Reported { key, role, epoch: said } => {
            let role = role.map_or("nothing of its role", Role::label);
            let evidence =
                format!("{} says {role} in epoch {said}; epoch {epoch}, {state}", key.address);
            Some(Trigger { cause: Cause::Reported, actor: MERIDIAN.into(), evidence })
        }
        PrimacyCause::Operator { actor, reason } => {
            let gap = if reason.is_empty() { "" } else { ": " };
            let evidence = format!("{actor} named it; epoch {epoch}, {state}{gap}{reason}");
            Some(Trigger { cause: Cause::Operator, actor: actor.clone(), evidence })
        }
        PrimacyCause::Move { what, actor, reason } => {
            let gap = if reason.is_empty() { "" } else { ": " };
            let evidence = format!("{what} by {actor}; epoch {epoch}, {state}{gap}{reason}");
            let cause = if actor == MERIDIAN { Cause::Health } else { Cause::Operator };
            Some(Trigger { cause, actor: actor.clone(), evidence })
        }
        PrimacyCause::Inherited => {
            let evidence = format!("known to the process before; epoch {epoch}, {state}");
            Some(Trigger { cause: Cause::Reported, actor: MERIDIAN.into(), evidence })
        }
        PrimacyCause::Forgotten { actor, reason } => {
            let evidence = format!("{actor} had its epochs forgotten: {reason}");
            Some(Trigger { cause: Cause::Operator, actor: actor.clone(), evidence })
        }
        PrimacyCause::Relearned { actor, reason } => {
            let evidence = format!(
                "learned anew after {actor} had its epochs forgotten; epoch {epoch}, {state}: {reason}"
            );
            Some(Trigger { cause: Cause::Operator, actor: actor.clone(), evidence })
        }
        PrimacyCause::File => None,
    }
}

/// The first lines of what is wrong with a file, so that an event stays small.
pub(super) fn bounded(text: &str) -> String {
    let mut lines: Vec<String> =
        text.lines().take(NAMED).map(|line| line.chars().take(LONGEST).collect()).collect();
    let more = text.lines().count().saturating_sub(NAMED);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines.join("\n")
}

fn set(key: &OverrideKey, value: &Override) -> String {
    let (actor, target) = (&value.actor, target(key));
    let done = match value.change {
        Setting::Drain(true) => format!("{actor} drained {target}"),
        Setting::Drain(false) => format!("{actor} put {target} in service"),
        Setting::Weight(weight) => format!("{actor} set the weight of {target} to {weight}"),
    };
    if value.reason.is_empty() { done } else { format!("{done}: {}", value.reason) }
}

fn kind(key: &OverrideKey) -> &'static str {
    match key.kind {
        ChangeKind::Drain => "drain",
        ChangeKind::Weight => "weight",
    }
}

fn target(key: &OverrideKey) -> String {
    crate::keeper::describe(&key.target)
}
