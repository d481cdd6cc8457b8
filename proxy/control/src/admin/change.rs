//! What an operator changes: drain, weight, reload.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use meridian_config::{Config, Policy, Route};
use meridian_routing::{Change, ChangeKind, OverrideKey, Target};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Admin;
use super::access::Caller;
use super::answer::{Answer, Problem, json};
use super::preview::Preview;
use super::views::{DrainRequest, MutationView, ReloadView, WeightRequest};
use crate::keeper::{
    AskError, Event, MAX_WEIGHT, OverrideRequest, Rejection, describe, file_value,
};
use crate::reload::ReloadError;

/// The longest reason, characters.
pub(super) const REASON: usize = 500;
/// The longest claimed name, characters.
pub(super) const ACTOR: usize = 100;
/// Bounds of a time to live.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

impl Admin {
    pub(super) async fn set(
        &self,
        target: Target,
        kind: ChangeKind,
        caller: &Caller,
        body: &[u8],
    ) -> Result<Answer, Problem> {
        let (change, reason, ttl, claimed, dry_run, grace) = match kind {
            ChangeKind::Drain => {
                let asked: DrainRequest = if body.trim_ascii().is_empty() {
                    DrainRequest::default()
                } else {
                    parse(body)?
                };
                let change = Change::Drain(asked.drain.unwrap_or(true));
                let grace = asked.session_grace;
                (change, asked.reason, asked.ttl, asked.actor, asked.dry_run, grace)
            }
            ChangeKind::Weight => {
                let asked: WeightRequest = parse(body)?;
                if asked.weight > MAX_WEIGHT {
                    return Err(rejected(&Rejection::Weight(asked.weight)));
                }
                (Change::Weight(asked.weight), asked.reason, asked.ttl, asked.actor, false, None)
            }
        };
        let reason = line(reason, "reason", REASON)?.unwrap_or_default();
        let claimed = line(claimed, "actor", ACTOR)?;
        let ttl = ttl.as_ref().map(time_to_live).transpose()?;
        let session_grace = grace.as_ref().map(session_grace).transpose()?;
        let table = self.table.load();
        let warnings = match change {
            Change::Drain(drain) => {
                let preview = Preview { table: &table, target: &target, drain };
                if dry_run {
                    if file_value(&table.config, &target, kind).is_none() {
                        return Err(not_found(format!("there is no {}", describe(&target))));
                    }
                    return Ok(json(&preview.view()));
                }
                preview.warnings()
            }
            Change::Weight(_) => weight_warnings(&table.config, &target),
        };
        let actor = caller.actor(claimed.as_deref());
        let event =
            Event::Set(OverrideRequest { target, change, actor, reason, ttl, session_grace });
        self.ask(event, warnings).await
    }

    pub(super) async fn clear(
        &self,
        target: Target,
        kind: ChangeKind,
        caller: &Caller,
    ) -> Result<Answer, Problem> {
        let table = self.table.load();
        let file = file_value(&table.config, &target, kind);
        let warnings = if file == Some(Change::Drain(true)) {
            let what = describe(&target);
            vec![format!("the file drains {what}; set {{\"drain\": false}} to put it in service")]
        } else {
            Vec::new()
        };
        let key = OverrideKey { target, kind };
        self.ask(Event::Clear { key, actor: caller.actor(None) }, warnings).await
    }

    async fn ask(&self, event: Event, warnings: Vec<String>) -> Result<Answer, Problem> {
        let applied = self.keeper.ask(event).await.map_err(|error| unanswered(&error))?;
        let (generation, changed) = (applied.generation, applied.changed);
        Ok(json(&MutationView { generation, changed, warnings }))
    }

    pub(super) async fn reload_now(&self, caller: &Caller) -> Result<Answer, Problem> {
        let reloaded = self.reload.reload(caller.actor(None)).await.map_err(|error| {
            let (status, code) = match &error {
                ReloadError::Stopping => return Problem::stopping(),
                ReloadError::Refused(Rejection::Static(_)) => (StatusCode::CONFLICT, "static_keys"),
                ReloadError::Read { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "config_unreadable"),
                ReloadError::Config(_)
                | ReloadError::Geo(_)
                | ReloadError::Alerts(_)
                | ReloadError::SessionKeys(_)
                | ReloadError::Acme(_)
                | ReloadError::Certificates(_)
                | ReloadError::Refused(_) => (StatusCode::UNPROCESSABLE_ENTITY, "config_invalid"),
            };
            Problem::new(status, code, error.to_string())
        })?;
        let message = if reloaded.changed {
            "the configuration is in effect"
        } else {
            "the file has not changed: nothing to do"
        };
        Ok(json(&ReloadView {
            generation: reloaded.generation,
            changed: reloaded.changed,
            message: message.to_owned(),
            warnings: reloaded.warnings,
        }))
    }
}

/// What an operator should know of a region's weight where routes do not go by weights.
fn weight_warnings(config: &Config, target: &Target) -> Vec<String> {
    let Target::Region(id) = target else { return Vec::new() };
    let serves = |route: &&Arc<Route>| {
        let service = &config.services[route.service.0 as usize];
        let mut endpoints = service.endpoints.iter();
        endpoints.any(|e| config.regions[usize::from(e.region.0)].id.as_str() == id)
    };
    let policies: BTreeSet<Policy> =
        config.routes.iter().filter(serves).map(|route| route.policy).collect();
    let warning = |policy: &Policy| {
        let label = policy.label();
        match policy {
            Policy::Weighted => None,
            Policy::Latency => Some(format!(
                "routes with policy \"{label}\" use weights only among regions of about the same \
                 round trip; to take traffic away, drain"
            )),
            _ => Some(format!(
                "routes with policy \"{label}\" do not use weights; to take traffic away, drain"
            )),
        }
    };
    policies.iter().filter_map(warning).collect()
}

/// A JSON object of this type; unknown fields are errors.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    // The deserializer would take a list's items for the fields in order.
    if body.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err(Problem::bad_request("the body must be a JSON object"));
    }
    serde_json::from_slice(body).map_err(|error| Problem::bad_request(error.to_string()))
}

fn not_found(message: String) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", message)
}

/// What an operator is told where the keeper did not do what was asked.
pub(super) fn unanswered(error: &AskError) -> Problem {
    match error {
        AskError::Rejected(rejection) => rejected(rejection),
        AskError::NotSaved { .. } => {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Problem::new(status, "not_saved", error.to_string())
        }
        AskError::Stopping => Problem::stopping(),
    }
}

fn rejected(rejection: &Rejection) -> Problem {
    let message = rejection.to_string();
    match rejection {
        Rejection::UnknownRegion(_)
        | Rejection::UnknownService(_)
        | Rejection::NoEndpoints { .. }
        | Rejection::UnknownEndpoint { .. } => not_found(message),
        Rejection::Weight(_) | Rejection::Epoch(_) => Problem::bad_request(message),
        Rejection::NotMoved(_) | Rejection::Relearning(_) => {
            Problem::new(StatusCode::CONFLICT, "refused", message)
        }
        Rejection::EpochNotHigher { .. } => {
            Problem::new(StatusCode::CONFLICT, "epoch_not_higher", message)
        }
        Rejection::Static(_) | Rejection::Routes(_) => {
            Problem::new(StatusCode::CONFLICT, "conflict", message)
        }
    }
}

/// A short text without control characters, so that it cannot forge a line of the audit trail.
pub(super) fn line(
    text: Option<String>,
    name: &str,
    limit: usize,
) -> Result<Option<String>, Problem> {
    let fine = text
        .as_ref()
        .is_none_or(|text| text.chars().count() <= limit && !text.chars().any(char::is_control));
    if fine {
        Ok(text)
    } else {
        let message =
            format!("{name}: at most {limit} characters, none of them a control character");
        Err(Problem::bad_request(message))
    }
}

/// As a time to live, and 0 as well: sessions move at once, whatever the service says.
fn session_grace(value: &Value) -> Result<Duration, Problem> {
    let none = value.as_u64() == Some(0) || matches!(value.as_str(), Some("0s" | "0"));
    if none { Ok(Duration::ZERO) } else { time("session_grace", value) }
}

/// `90`, `"90"`, `"90s"`, `"30m"`, `"12h"`, `"7d"`.
fn time_to_live(value: &Value) -> Result<Duration, Problem> {
    time("ttl", value)
}

fn time(name: &str, value: &Value) -> Result<Duration, Problem> {
    let seconds = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => duration_s(text),
        _ => None,
    };
    let ttl = seconds.map(Duration::from_secs);
    ttl.filter(|ttl| (SHORTEST..=LONGEST).contains(ttl)).ok_or_else(|| {
        Problem::bad_request(format!(
            "{name}: seconds, or a text such as \"90s\", \"30m\", \"12h\", \"7d\"; up to 366 days"
        ))
    })
}

/// Seconds, or a number with its unit.
pub(super) fn duration_s(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit_s = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit_s)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_to_live_are_seconds_or_texts() {
        for (value, seconds) in [
            (json!(90), 90),
            (json!("90s"), 90),
            // As a command line passes it on.
            (json!("90"), 90),
            (json!("30m"), 1800),
            (json!("12h"), 43_200),
            (json!("366d"), 31_622_400),
        ] {
            assert_eq!(time_to_live(&value), Ok(Duration::from_secs(seconds)), "{value}");
        }
        for value in [
            json!(0),
            json!(-1),
            json!(1.5),
            json!("0s"),
            json!("367d"),
            json!("m"),
            json!(""),
            json!("1h30m"),
            json!("99999999999999999999d"),
            json!(true),
            json!(null),
        ] {
            assert!(time_to_live(&value).is_err(), "{value}");
        }
    }

    #[test]
    fn a_session_grace_may_be_none() {
        for value in [json!(0), json!("0s")] {
            assert_eq!(session_grace(&value), Ok(Duration::ZERO), "{value}");
        }
        assert_eq!(session_grace(&json!("10m")), Ok(Duration::from_secs(600)));
        let refused = session_grace(&json!("soon")).expect_err("not a time");
        assert!(format!("{refused:?}").contains("session_grace: seconds"), "{refused:?}");
    }

    #[test]
    fn a_reason_cannot_forge_a_line() {
        assert!(line(Some("a\nb".into()), "reason", REASON).is_err());
        assert!(line(Some("x".repeat(501)), "reason", REASON).is_err());
        assert_eq!(line(Some("fine".into()), "reason", REASON), Ok(Some("fine".into())));
    }
}
