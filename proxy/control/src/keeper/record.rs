//! Where a notice goes: the log, the audit trail, those who follow events.

use meridian_config::{EndpointKey, ServiceName};
use meridian_routing::{
    Change, Ejection, EndpointHealth, Override, OverrideKey, PrimacyRecord, PrimacyState, Role,
};
use serde_json::json;

use super::event::{Notice, PrimacyCause};
use super::overrides::describe;
use crate::events::Feed;

/// Records what the keeper did, in effect in `generation`.
pub(crate) fn record(notice: &Notice, generation: u64, feed: &Feed) {
    match notice {
        Notice::Reloaded { actor, digest } => {
            let data = json!({ "actor": actor, "digest": digest });
            feed.tell("config_reloaded", generation, data);
        }
        Notice::Health { key, from, to, cause } => {
            let (service, region) = (key.service.as_str(), key.region.as_str());
            let endpoint = key.address.to_string();
            let (cause, from) = (cause.as_deref(), health(*from));
            let why = cause.unwrap_or_default();
            if *to == EndpointHealth::Unhealthy {
                tracing::warn!(target: "health", service, region, endpoint, from, why, "unhealthy");
            } else {
                tracing::info!(target: "health", service, region, endpoint, from, "healthy");
            }
            feed.tell(
                "endpoint_health",
                generation,
                json!({
                    "service": service, "region": region, "endpoint": endpoint,
                    "from": from, "to": health(*to), "cause": cause,
                }),
            );
        }
        Notice::Ejected { key, ejection } => ejected(key, ejection, generation, feed),
        Notice::TrialDue { key } => {
            let endpoint = key.address.to_string();
            let (service, region) = (key.service.as_str(), key.region.as_str());
            tracing::debug!(target: "health", service, region, endpoint, "its next request is a trial");
            feed.tell(
                "endpoint_trial",
                generation,
                json!({ "service": service, "region": region, "endpoint": endpoint }),
            );
        }
        Notice::Returned { key, ejection, after } => {
            let endpoint = key.address.to_string();
            let (service, region) = (key.service.as_str(), key.region.as_str());
            let after_ms = after.as_millis() as u64;
            tracing::info!(target: "health", service, region, endpoint, after_ms, "back from ejection");
            feed.tell(
                "endpoint_returned",
                generation,
                json!({
                    "service": service, "region": region, "endpoint": endpoint,
                    "after_ms": after_ms, "times": ejection.times,
                }),
            );
        }
        Notice::Resolved { name, addresses } => {
            tracing::info!(target: "resolve", name = &**name, ?addresses, "resolved");
            feed.tell(
                "name_resolved",
                generation,
                json!({
                    "name": name, "addresses": addresses,
                }),
            );
        }
        Notice::RoundTrips => {
            tracing::info!(target: "keeper", generation, "new round trips are in force");
            feed.tell("round_trips", generation, json!({}));
        }
        Notice::Primacy { service, from, to, cause } => {
            primacy(service, from, to, cause, generation, feed);
        }
        Notice::EpochDisbelieved { key, epoch, known } => {
            let (service, region) = (key.service.as_str(), key.region.as_str());
            let endpoint = key.address.to_string();
            tracing::error!(
                target: "primacy", service, region, endpoint, epoch, known,
                "it says an epoch that cannot be one"
            );
        }
        Notice::OverrideSet { key, value } => {
            audit("set", &value.actor, key, Some(value), generation);
            feed.tell("override_set", generation, override_json(key, Some(value), &value.actor));
        }
        Notice::OverrideCleared { key, actor } => {
            audit("clear", actor, key, None, generation);
            feed.tell("override_cleared", generation, override_json(key, None, actor));
        }
        Notice::OverrideExpired { key, value } => {
            audit("expire", "meridian", key, Some(value), generation);
            feed.tell("override_expired", generation, override_json(key, Some(value), "meridian"));
        }
        Notice::OverrideDropped { key, value, why } => {
            let (target, kind, why) = (describe(&key.target), kind(key), why.label());
            tracing::warn!(target: "keeper", target, kind, why, "an override was dropped");
            audit("drop", "meridian", key, Some(value), generation);
            let mut data = override_json(key, Some(value), "meridian");
            data["why"] = json!(why);
            feed.tell("override_dropped", generation, data);
        }
    }
}

fn primacy(
    service: &ServiceName,
    from: &PrimacyRecord,
    to: &PrimacyRecord,
    cause: &PrimacyCause,
    generation: u64,
    feed: &Feed,
) {
    let region = |record: &PrimacyRecord| record.region.as_ref().map(ToString::to_string);
    let (before, now) = (region(from), region(to));
    let (state, epoch, source) = (to.state.label(), to.epoch, to.source.label());
    let (actor, why) = match cause {
        PrimacyCause::Reported { key, role, epoch } => {
            let role = role.map_or("no role", Role::label);
            ("meridian", format!("{} says {role} in epoch {epoch}", key.address))
        }
        PrimacyCause::Inherited => ("meridian", "the process before knew it".to_owned()),
        PrimacyCause::Forgotten { actor, reason } => {
            (&**actor, format!("its epochs were forgotten: {reason}"))
        }
        PrimacyCause::Relearned { actor, reason } => {
            (&**actor, format!("learned anew after its epochs were forgotten: {reason}"))
        }
        PrimacyCause::File => ("meridian", "the file names it".to_owned()),
        PrimacyCause::Operator { actor, reason } => (&**actor, reason.clone()),
        PrimacyCause::Move { what, actor, reason } => (&**actor, format!("{what}: {reason}")),
    };
    let (service, name) = (service.as_str(), now.as_deref().unwrap_or_default());
    if to.is_settled() {
        tracing::info!(target: "primacy", service, primary = name, epoch, source, why, "primary");
    } else if to.state == PrimacyState::Moving {
        tracing::info!(target: "primacy", service, last = name, epoch, why, "being moved");
    } else {
        tracing::error!(target: "primacy", service, last = name, epoch, state, why, "no primary");
    }
    if let PrimacyCause::Operator { .. } = cause {
        tracing::info!(
            target: "audit", action = "promote", actor, service, region = name, epoch, reason = why,
            generation, "primary"
        );
    }
    if let PrimacyCause::Forgotten { .. } = cause {
        tracing::warn!(
            target: "audit", action = "forget", actor, service, from_epoch = from.epoch,
            reason = why, generation, "epochs of the primary"
        );
    }
    let data = json!({
        "service": service, "from": before, "to": now, "state": state, "from_epoch": from.epoch,
        "epoch": epoch, "source": source, "actor": actor, "why": why,
    });
    feed.tell("primary_changed", generation, data);
}

fn ejected(key: &EndpointKey, ejection: &Ejection, generation: u64, feed: &Feed) {
    let (service, region) = (key.service.as_str(), key.region.as_str());
    let (endpoint, cause) = (key.address.to_string(), ejection.cause.label());
    let (evidence, times) = (&*ejection.evidence, ejection.times);
    let length_ms = ejection.until.since(ejection.since).as_millis() as u64;
    tracing::warn!(
        target: "health", service, region, endpoint, cause, evidence, times, length_ms, "ejected"
    );
    feed.tell(
        "endpoint_ejected",
        generation,
        json!({
            "service": service, "region": region, "endpoint": endpoint, "cause": cause,
            "evidence": evidence, "times": times, "length_ms": length_ms,
        }),
    );
}

/// Records notices of the first table, before anybody can follow.
pub(crate) fn record_at_start(notices: &[Notice], feed: &Feed) {
    for notice in notices {
        record(notice, 1, feed);
    }
}

fn audit(action: &str, actor: &str, key: &OverrideKey, value: Option<&Override>, generation: u64) {
    let (subject, kind) = (describe(&key.target), kind(key));
    let change = value.map(|v| change(v.change)).unwrap_or_default();
    let reason = value.map(|v| v.reason.as_str()).unwrap_or_default();
    let ttl_ms = value.and_then(|v| Some(v.expires_unix_ms?.saturating_sub(v.created_unix_ms)));
    tracing::info!(
        target: "audit", action, actor, subject, kind, change, reason, ttl_ms, generation, "override"
    );
}

fn override_json(key: &OverrideKey, value: Option<&Override>, actor: &str) -> serde_json::Value {
    json!({
        "target": key.target,
        "kind": key.kind,
        "value": value.map(|v| match v.change {
            Change::Drain(value) => json!(value),
            Change::Weight(value) => json!(value),
        }),
        "actor": actor,
        "reason": value.map(|v| &v.reason),
        "expires_unix_ms": value.and_then(|v| v.expires_unix_ms),
    })
}

fn kind(key: &OverrideKey) -> &'static str {
    match key.kind {
        meridian_routing::ChangeKind::Drain => "drain",
        meridian_routing::ChangeKind::Weight => "weight",
    }
}

fn change(change: Change) -> String {
    match change {
        Change::Drain(value) => value.to_string(),
        Change::Weight(value) => value.to_string(),
    }
}

pub(crate) fn health(health: EndpointHealth) -> &'static str {
    match health {
        EndpointHealth::Unknown => "unknown",
        EndpointHealth::Healthy => "healthy",
        EndpointHealth::Unhealthy => "unhealthy",
    }
}
