//! What the live table shows: figures of the last seconds, from the ledger and from the edge.
//!
//! Promises: pure arithmetic over what it is given. Refuses to know: terminals, sockets.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use meridian_geoip::{CountryCode, country_facts};

use super::ledger::{Count, Ending, Kind, Lane, Ledger, ServedBy};
use crate::commands::{health, worst_lag};
use crate::views::RegionView;

/// The figures are those of so long.
pub(crate) const WINDOW: Duration = Duration::from_secs(5);

/// What the edge's admin endpoint says of a region.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RegionFacts {
    pub(crate) round_trip_ms: Option<f64>,
    pub(crate) lag_ms: Option<u64>,
    /// In a word.
    pub(crate) health: String,
    pub(crate) drained: bool,
}

/// What the edge's admin endpoint says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct EdgeFacts {
    pub(crate) generation: u64,
    pub(crate) regions: BTreeMap<String, RegionFacts>,
}

impl EdgeFacts {
    /// Reads what `GET /api/v1/regions` answers.
    pub(crate) fn of(generation: u64, regions: &[RegionView]) -> Self {
        let facts = |region: &RegionView| {
            let health = match health(region) {
                (0, _) => "unhealthy".to_owned(),
                (healthy, total) if healthy == total => "healthy".to_owned(),
                (healthy, total) => format!("{healthy} of {total}"),
            };
            RegionFacts {
                round_trip_ms: region.round_trip_ms,
                lag_ms: worst_lag(region),
                health,
                drained: region.drain.value,
            }
        };
        let regions = regions.iter().map(|region| (region.id.clone(), facts(region)));
        Self { generation, regions: regions.collect() }
    }
}

/// A region, as it is simulated.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Simulated {
    pub(crate) id: &'static str,
    pub(crate) place: &'static str,
    pub(crate) role: String,
    pub(crate) alive: bool,
    pub(crate) distance: Duration,
}

/// A region's line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RegionRow {
    pub(crate) simulated: Simulated,
    pub(crate) facts: RegionFacts,
    pub(crate) per_second: f64,
    /// Of all requests that were answered.
    pub(crate) share: f64,
}

/// Where requests of one origin go.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FlowRow {
    pub(crate) from: String,
    pub(crate) what: &'static str,
    pub(crate) to: ServedBy,
    pub(crate) per_second: f64,
}

/// Everything the table shows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scene {
    pub(crate) generation: u64,
    pub(crate) per_second: f64,
    pub(crate) reads: Count,
    pub(crate) writes: Count,
    pub(crate) failed_in_window: usize,
    pub(crate) last_failure: Option<String>,
    pub(crate) regions: Vec<RegionRow>,
    /// Reads by country, the busiest country first; each to the region that most of them go to.
    pub(crate) countries: Vec<FlowRow>,
    /// Everything that is not steered by country.
    pub(crate) others: Vec<FlowRow>,
}

impl Scene {
    /// The scene at `now`, of a demo that has run since `started`.
    pub(crate) fn new(
        ledger: &Ledger,
        edge: &EdgeFacts,
        simulated: Vec<Simulated>,
        started: Instant,
        now: Instant,
    ) -> Self {
        let window = WINDOW.min(now.saturating_duration_since(started));
        let seconds = window.as_secs_f64().max(0.1);
        let mut by_region: BTreeMap<&str, usize> = BTreeMap::new();
        let mut by_country: BTreeMap<CountryCode, BTreeMap<&ServedBy, usize>> = BTreeMap::new();
        let mut others: BTreeMap<(&'static str, &ServedBy), usize> = BTreeMap::new();
        let (mut all, mut failed) = (0, 0);
        for sample in ledger.since(now.checked_sub(window).unwrap_or(started)) {
            all += 1;
            let Ending::Served(by) = &sample.ending else {
                failed += 1;
                continue;
            };
            *by_region.entry(&by.region).or_default() += 1;
            let count = match (sample.kind, sample.lane) {
                (Kind::Read, Lane::Geo) => {
                    by_country.entry(sample.country).or_default().entry(by).or_default()
                }
                (Kind::Read, Lane::Latency) => others.entry(("reads of /nearest", by)).or_default(),
                (Kind::Write, _) => others.entry(("writes", by)).or_default(),
            };
            *count += 1;
        }
        let answered = (all - failed).max(1);
        let regions = simulated.into_iter().map(|simulated| {
            let requests = by_region.get(simulated.id).copied().unwrap_or(0);
            RegionRow {
                facts: edge.regions.get(simulated.id).cloned().unwrap_or_default(),
                per_second: requests as f64 / seconds,
                share: requests as f64 / answered as f64,
                simulated,
            }
        });
        Self {
            generation: edge.generation,
            per_second: all as f64 / seconds,
            reads: ledger.reads,
            writes: ledger.writes,
            failed_in_window: failed,
            last_failure: ledger.last_failure.clone().filter(|_| failed > 0),
            regions: regions.collect(),
            countries: busiest(&by_country, seconds),
            others: others
                .into_iter()
                .map(|((what, by), count)| FlowRow {
                    from: "everywhere".into(),
                    what,
                    to: by.clone(),
                    per_second: count as f64 / seconds,
                })
                .collect(),
        }
    }
}

fn busiest(
    by_country: &BTreeMap<CountryCode, BTreeMap<&ServedBy, usize>>,
    seconds: f64,
) -> Vec<FlowRow> {
    let mut rows: Vec<(usize, FlowRow)> = Vec::with_capacity(by_country.len());
    for (country, flows) in by_country {
        let all: usize = flows.values().sum();
        let Some((by, _)) = flows.iter().max_by_key(|(_, count)| **count) else { continue };
        let from = country_name(*country);
        let per_second = all as f64 / seconds;
        rows.push((all, FlowRow { from, what: "reads", to: (*by).clone(), per_second }));
    }
    // Ties by name, so that lines do not jump about.
    rows.sort_by(|(a, x), (b, y)| b.cmp(a).then_with(|| x.from.cmp(&y.from)));
    rows.into_iter().map(|(_, row)| row).collect()
}

/// The English name, else the code.
pub(crate) fn country_name(code: CountryCode) -> String {
    country_facts(code).map_or_else(|| code.to_string(), |facts| facts.name.to_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::ledger::tests::{sample, served};
    use super::*;

    pub(crate) fn simulated(id: &'static str) -> Simulated {
        Simulated {
            id,
            place: "Somewhere",
            role: "replica".into(),
            alive: true,
            distance: Duration::from_millis(75),
        }
    }

    #[test]
    fn the_last_seconds_count_by_region_and_country() {
        let started = Instant::now();
        let now = started + Duration::from_secs(60);
        let recently = now - Duration::from_secs(1);
        let mut ledger = Ledger::default();
        ledger.record(sample("JP", started, served("west", "least-distance")));
        for _ in 0..6 {
            ledger.record(sample("JP", recently, served("east", "same-continent")));
        }
        for _ in 0..3 {
            ledger.record(sample("FR", recently, served("west", "same-continent")));
        }
        ledger.record(sample("FR", recently, Ending::Refused(503)));
        let mut write = sample("FR", recently, served("east", "primary-for-write"));
        write.kind = Kind::Write;
        ledger.record(write);
        let regions = vec![simulated("east"), simulated("west"), simulated("idle")];
        let scene = Scene::new(&ledger, &EdgeFacts::default(), regions, started, now);
        let shares: Vec<_> = scene.regions.iter().map(|row| (row.per_second, row.share)).collect();
        assert_eq!(shares, [(1.4, 0.7), (0.6, 0.3), (0.0, 0.0)]);
        let from: Vec<_> = scene.countries.iter().map(|row| (&*row.from, row.per_second)).collect();
        assert_eq!(from, [("Japan", 1.2), ("France", 0.6)]);
        assert_eq!(scene.countries[0].to.region, "east");
        assert_eq!((scene.others.len(), scene.others[0].what), (1, "writes"));
        assert_eq!((scene.failed_in_window, scene.per_second), (1, 2.2));
    }

    #[test]
    fn an_empty_ledger_is_an_empty_scene() {
        let now = Instant::now();
        let edge = EdgeFacts::default();
        let scene = Scene::new(&Ledger::default(), &edge, vec![simulated("east")], now, now);
        assert_eq!((scene.per_second, scene.regions[0].share), (0.0, 0.0));
        assert!(scene.countries.is_empty());
    }
}
