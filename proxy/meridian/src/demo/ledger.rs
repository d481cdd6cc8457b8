//! What the demo's clients saw.
//!
//! Promises: totals of everything, and every single answer of the last minute. Refuses to know: how the
//! requests were sent, how the figures are shown.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use meridian_geoip::CountryCode;
use serde::Serialize;

/// How long single answers are kept, and how many at most.
const KEPT_FOR: Duration = Duration::from_secs(60);
const KEPT_AT_MOST: usize = 60_000;

/// What a request wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Read,
    Write,
}

/// Which of the demo's routes it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) enum Lane {
    /// Policy geo.
    #[serde(rename = "/")]
    Geo,
    /// Policy latency.
    #[serde(rename = "/nearest")]
    Latency,
}

/// Who answered and why, as `Meridian-Served-By` says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct ServedBy {
    pub(crate) region: String,
    pub(crate) reason: String,
}

impl ServedBy {
    /// Reads `eu-west-1; role=replica; lag=1.2s; reason=nearest-fresh`.
    pub(crate) fn parse(header: &str) -> Option<Self> {
        let mut parts = header.split(';').map(str::trim);
        let region = parts.next().filter(|region| !region.is_empty())?.to_owned();
        let reason = parts.find_map(|part| part.strip_prefix("reason="))?.to_owned();
        Some(Self { region, reason })
    }
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With an answer of a region.
    Served(ServedBy),
    /// With a status that is no success, or an answer that no region gave.
    Refused(u16),
    /// With nothing: no connection, no answer in time, a broken answer.
    Lost(String),
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) country: CountryCode,
    pub(crate) kind: Kind,
    pub(crate) lane: Lane,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    pub(crate) ending: Ending,
}

impl Sample {
    /// The region that answered.
    pub(crate) fn region(&self) -> Option<&str> {
        match &self.ending {
            Ending::Served(by) => Some(&by.region),
            _ => None,
        }
    }

    pub(crate) fn failed(&self) -> bool {
        !matches!(self.ending, Ending::Served(_))
    }
}

/// Requests and how many of them failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Count {
    pub(crate) requests: u64,
    pub(crate) failures: u64,
}

/// A row of the distribution.
pub(crate) type Flow = (CountryCode, Kind, Lane, ServedBy);

/// Totals and the last minute.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) reads: Count,
    pub(crate) writes: Count,
    pub(crate) flows: BTreeMap<Flow, u64>,
    /// The last failure, in words.
    pub(crate) last_failure: Option<String>,
    recent: VecDeque<Sample>,
}

impl Ledger {
    /// Takes note of a request that has ended.
    pub(crate) fn record(&mut self, sample: Sample) {
        let count = match sample.kind {
            Kind::Read => &mut self.reads,
            Kind::Write => &mut self.writes,
        };
        count.requests += 1;
        count.failures += u64::from(sample.failed());
        match &sample.ending {
            Ending::Served(by) => {
                let flow = (sample.country, sample.kind, sample.lane, by.clone());
                *self.flows.entry(flow).or_default() += 1;
            }
            Ending::Refused(status) => {
                self.last_failure = Some(format!("{:?}: status {status}", sample.kind));
            }
            Ending::Lost(why) => self.last_failure = Some(format!("{:?}: {why}", sample.kind)),
        }
        let oldest = sample.ended.checked_sub(KEPT_FOR);
        let outdated = |first: &Sample| oldest.is_some_and(|oldest| first.ended < oldest);
        while self.recent.front().is_some_and(outdated) || self.recent.len() >= KEPT_AT_MOST {
            self.recent.pop_front();
        }
        self.recent.push_back(sample);
    }

    /// Requests that ended at or after `since`, oldest end first.
    pub(crate) fn since(&self, since: Instant) -> impl DoubleEndedIterator<Item = &Sample> {
        let from = self.recent.partition_point(|sample| sample.ended < since);
        self.recent.range(from..)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn served(region: &str, reason: &str) -> Ending {
        Ending::Served(ServedBy { region: region.into(), reason: reason.into() })
    }

    pub(crate) fn sample(country: &str, at: Instant, ending: Ending) -> Sample {
        let country = country.parse().unwrap();
        Sample { country, kind: Kind::Read, lane: Lane::Geo, began: at, ended: at, ending }
    }

    #[test]
    fn the_header_is_understood() {
        let full = ServedBy::parse("eu-west-1; role=replica; lag=1.2s; reason=nearest-fresh");
        let expected = ServedBy { region: "eu-west-1".into(), reason: "nearest-fresh".into() };
        assert_eq!(full, Some(expected));
        assert_eq!(ServedBy::parse("eu-west-1"), None);
        assert_eq!(ServedBy::parse("; reason=x"), None);
    }

    #[test]
    fn totals_stay_and_samples_age() {
        let start = Instant::now();
        let mut ledger = Ledger::default();
        ledger.record(sample("JP", start, served("a", "same-country")));
        ledger.record(sample("JP", start, Ending::Refused(503)));
        let later = start + KEPT_FOR + Duration::from_secs(1);
        ledger.record(sample("JP", later, served("b", "retry")));
        assert_eq!(ledger.reads, Count { requests: 3, failures: 1 });
        assert_eq!(ledger.flows.len(), 2);
        let recent: Vec<_> = ledger.since(start).map(|sample| sample.region()).collect();
        assert_eq!(recent, [Some("b")]);
        assert_eq!(ledger.since(later + Duration::from_millis(1)).count(), 0);
        assert_eq!(ledger.last_failure.as_deref(), Some("Read: status 503"));
    }

    #[test]
    fn memory_is_bounded() {
        let now = Instant::now();
        let mut ledger = Ledger::default();
        for _ in 0..KEPT_AT_MOST + 10 {
            ledger.record(sample("JP", now, served("a", "x")));
        }
        assert_eq!(ledger.since(now).count(), KEPT_AT_MOST);
    }
}
