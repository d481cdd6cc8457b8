//! The operator's layer: what an override may name, when it is void, and how it is kept in a file.

use meridian_config::{Config, Endpoint};
use meridian_routing::{Change, ChangeKind, Override, OverrideKey, Overrides, Target};
use serde::{Deserialize, Serialize};

use super::event::{Dropped, Notice, OverrideRequest, Rejection};

/// The largest weight.
pub(crate) const MAX_WEIGHT: u32 = 65_535;

/// What the file says of a target; `None` if the target is not in it.
pub fn file_value(config: &Config, target: &Target, kind: ChangeKind) -> Option<Change> {
    let (drain, weight) = match target {
        Target::Region(id) => {
            let region = config.regions.iter().find(|r| r.id.as_str() == id)?;
            (region.drain, region.weight)
        }
        Target::Endpoint { service, address } => {
            let endpoint = find_endpoint(config, service, address)?;
            (endpoint.drain, endpoint.weight)
        }
    };
    Some(match kind {
        ChangeKind::Drain => Change::Drain(drain),
        ChangeKind::Weight => Change::Weight(weight),
    })
}

fn find_endpoint<'a>(config: &'a Config, service: &str, address: &str) -> Option<&'a Endpoint> {
    let service = config.services.iter().find(|s| s.name.as_str() == service)?;
    service.endpoints.iter().find(|e| e.address.to_string() == address)
}

/// The same, or why there is none.
pub(super) fn known_value(
    config: &Config,
    target: &Target,
    kind: ChangeKind,
) -> Result<Change, Rejection> {
    file_value(config, target, kind).ok_or_else(|| match target {
        Target::Region(id) => Rejection::UnknownRegion(id.clone()),
        Target::Endpoint { service, address } => {
            if config.services.iter().any(|s| s.name.as_str() == service) {
                Rejection::UnknownEndpoint { service: service.clone(), address: address.clone() }
            } else {
                Rejection::UnknownService(service.clone())
            }
        }
    })
}

/// Makes the override that was asked for.
pub(super) fn make(
    config: &Config,
    request: OverrideRequest,
    unix_ms: u64,
) -> Result<(OverrideKey, Override), Rejection> {
    if let Change::Weight(weight) = request.change
        && weight > MAX_WEIGHT
    {
        return Err(Rejection::Weight(weight));
    }
    let kind = request.change.kind();
    let file_value = known_value(config, &request.target, kind)?;
    let ttl_ms = |ttl: std::time::Duration| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    let value = Override {
        change: request.change,
        file_value,
        actor: request.actor,
        reason: request.reason,
        created_unix_ms: unix_ms,
        expires_unix_ms: request.ttl.map(|ttl| unix_ms.saturating_add(ttl_ms(ttl))),
        session_grace_ms: request.session_grace.map(ttl_ms),
    };
    Ok((OverrideKey { target: request.target, kind }, value))
}

/// Splits into those that still hold over `config`, and notices of the ones that do not.
pub(super) fn still_valid(overrides: &Overrides, config: &Config) -> (Overrides, Vec<Notice>) {
    let mut kept = Overrides::new();
    let mut notices = Vec::new();
    for (key, value) in overrides {
        let why = match file_value(config, &key.target, key.kind) {
            None => Some(Dropped::TargetGone),
            Some(now) if now != value.file_value => Some(Dropped::FileChanged),
            Some(_) => None,
        };
        match why {
            None => {
                kept.insert(key.clone(), value.clone());
            }
            Some(why) => notices.push(Notice::OverrideDropped {
                key: key.clone(),
                value: value.clone(),
                why,
            }),
        }
    }
    (kept, notices)
}

/// Takes out what has expired by `unix_ms`.
pub(super) fn expire(overrides: &mut Overrides, unix_ms: u64) -> Vec<Notice> {
    let due = |value: &Override| value.expires_unix_ms.is_some_and(|expiry| expiry <= unix_ms);
    let gone = overrides.extract_if(.., |_, value| due(value));
    gone.map(|(key, value)| Notice::OverrideExpired { key, value }).collect()
}

/// A `Target` in few words.
pub(crate) fn describe(target: &Target) -> String {
    match target {
        Target::Region(id) => format!("region {id}"),
        Target::Endpoint { service, address } => format!("endpoint {service}/{address}"),
    }
}

/// The state file's content.
#[derive(Serialize, Deserialize)]
struct StateFile {
    version: u32,
    overrides: Vec<Stored>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    target: Target,
    #[serde(flatten)]
    value: Override,
}

const VERSION: u32 = 1;

/// As the state file has it.
///
/// # Errors
/// What the serializer says; it has no reason to.
pub fn to_json(overrides: &Overrides) -> Result<String, serde_json::Error> {
    let overrides = overrides
        .iter()
        .map(|(key, value)| Stored { target: key.target.clone(), value: value.clone() })
        .collect();
    serde_json::to_string_pretty(&StateFile { version: VERSION, overrides })
}

/// Out of the state file's text.
///
/// # Errors
/// In words, if the text is not such a file.
pub fn from_json(text: &str) -> Result<Overrides, String> {
    let file: StateFile = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if file.version != VERSION {
        return Err(format!("version {} instead of {VERSION}", file.version));
    }
    let mut overrides = Overrides::new();
    for Stored { target, value } in file.overrides {
        let kind = value.change.kind();
        if kind != value.file_value.kind() {
            return Err(format!("{}: a drain over a weight or the reverse", describe(&target)));
        }
        if matches!(value.change, Change::Weight(weight) if weight > MAX_WEIGHT) {
            return Err(format!("{}: not a weight", describe(&target)));
        }
        overrides.insert(OverrideKey { target, kind }, value);
    }
    Ok(overrides)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_file_gives_back_what_it_took() {
        let value = |change, file_value, expires_unix_ms| Override {
            change,
            file_value,
            actor: "operator".into(),
            reason: "a \"test\"".into(),
            created_unix_ms: 5,
            expires_unix_ms,
            session_grace_ms: expires_unix_ms.map(|ms| ms + 1),
        };
        let region = Target::Region("eu".into());
        let endpoint = Target::Endpoint { service: "api".into(), address: "[::1]:80".into() };
        let mut overrides = Overrides::new();
        overrides.insert(
            OverrideKey { target: region.clone(), kind: ChangeKind::Drain },
            value(Change::Drain(true), Change::Drain(false), Some(99)),
        );
        overrides.insert(
            OverrideKey { target: endpoint, kind: ChangeKind::Weight },
            value(Change::Weight(7), Change::Weight(100), None),
        );
        let text = to_json(&overrides).expect("serializes");
        assert_eq!(from_json(&text), Ok(overrides));
    }

    #[test]
    fn a_damaged_state_file_is_an_error() {
        let drain_over_weight = r#"{"version":1,"overrides":[{"target":{"region":"eu"},
            "change":{"drain":true},"file_value":{"weight":1},"actor":"","reason":"",
            "created_unix_ms":1,"expires_unix_ms":null}]}"#;
        for text in ["", "{", r#"{"version":2,"overrides":[]}"#, drain_over_weight] {
            assert!(from_json(text).is_err(), "{text}");
        }
    }
}
