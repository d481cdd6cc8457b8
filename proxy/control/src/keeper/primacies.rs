//! What is known of primaries, as the state directory keeps it: so that no epoch decreases over a restart.

use std::collections::BTreeMap;

use meridian_routing::{MAX_EPOCH, Primacy};
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;

/// What an earlier process knew of every service's primary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Primacies {
    /// The region that the file named as the primary.
    pub file: Option<String>,
    /// By service.
    pub services: BTreeMap<String, Primacy<String>>,
}

impl Primacies {
    /// Where `before` has a higher epoch of the same service, which was not forgotten since, or a service that is not
    /// known here, that.
    pub(super) fn not_below(mut self, before: &Self) -> Self {
        for (service, known) in &mut self.services {
            let higher = before.services.get(service).filter(|old| old.is_newer_than(known));
            if let Some(higher) = higher {
                *known = higher.clone();
            }
        }
        for (service, known) in &before.services {
            self.services.entry(service.clone()).or_insert_with(|| known.clone());
        }
        self
    }
}

#[derive(Serialize, Deserialize)]
struct StateFile {
    version: u32,
    #[serde(flatten)]
    known: Primacies,
}

/// As the state file has it.
///
/// # Errors
/// What the serializer says; it has no reason to.
pub(super) fn to_json(known: &Primacies) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(&StateFile { version: VERSION, known: known.clone() })
}

/// Out of the state file's text.
///
/// # Errors
/// In words, if the text is not such a file.
pub(super) fn from_json(text: &str) -> Result<Primacies, String> {
    let file: StateFile = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if file.version != VERSION {
        return Err(format!("version {} instead of {VERSION}", file.version));
    }
    for (service, primacy) in &file.known.services {
        if primacy.epoch > MAX_EPOCH || primacy.region_epoch > primacy.epoch {
            return Err(format!("service {service}: {} is not an epoch", primacy.epoch));
        }
    }
    Ok(file.known)
}

#[cfg(test)]
mod tests {
    use meridian_routing::{PrimacySource, PrimacyState};

    use super::*;

    #[test]
    fn no_epoch_is_written_over_by_a_lower_one() {
        let known = |service: &str, region: &str, epoch| {
            let first = Primacy::of_file(Some(region.to_owned()), 0);
            (service.to_owned(), Primacy { epoch, ..first })
        };
        let all = |services: &[(String, _)]| Primacies {
            file: None,
            services: services.iter().cloned().collect(),
        };
        // What is gone from the file may come back.
        let old = known("old", "eu", 9);
        let before = all(&[known("api", "eu", 5), old.clone()]);
        let merged = all(&[known("api", "us", 4), known("new", "us", 1)]).not_below(&before);
        assert_eq!(merged, all(&[known("api", "eu", 5), known("new", "us", 1), old.clone()]));
        // What was forgotten stays so, at any epoch.
        let (name, api) = known("api", "eu", 1 << 40);
        let forgotten = (name, Primacy { epoch: 4, forgotten_unix_ms: 7, ..api.clone() });
        let (forgotten, kept) = (all(&[forgotten]), all(&[("api".into(), api)]));
        assert_eq!(forgotten.clone().not_below(&kept), forgotten);
        assert_eq!(kept.not_below(&forgotten), forgotten);
        let same = [known("api", "us", 5), known("new", "us", 1)];
        let [api, new] = same.clone();
        assert_eq!(all(&same).not_below(&before), all(&[api, new, old]));
    }

    #[test]
    fn the_state_file_gives_back_what_it_took() {
        let primacy = Primacy {
            epoch: 7,
            region: Some("eu".to_owned()),
            region_epoch: 6,
            confirmed: true,
            decided: true,
            state: PrimacyState::Contested,
            source: PrimacySource::Reported,
            forgotten_unix_ms: 3,
            since_unix_ms: 5,
        };
        let services = BTreeMap::from([("api".to_owned(), primacy)]);
        let known = Primacies { file: Some("us".to_owned()), services };
        let text = to_json(&known).expect("serializes");
        assert_eq!(from_json(&text), Ok(known));
        for (from, to) in [
            ("\"version\": 1", "\"version\": 2"),
            ("\"epoch\": 7", "\"epoch\": 9007199254740992"),
            ("\"epoch\": 7", "\"epoch\": -7"),
            ("\"region_epoch\": 6", "\"region_epoch\": 8"),
            ("contested", "well"),
        ] {
            assert!(text.contains(from), "{text}");
            assert!(from_json(&text.replacen(from, to, 1)).is_err(), "{to}");
        }
    }
}
