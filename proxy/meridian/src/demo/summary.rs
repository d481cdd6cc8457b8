//! What the story has shown, for people and programs.
//!
//! Promises: `ok` only if every expectation was met and nothing failed that must not. Refuses to know:
//! how the story was played.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use super::ledger::{Count, Kind, Lane, Ledger};
use crate::reasons::because_label;
use crate::table::Table;

/// One thing that was done, and what came of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Step {
    pub(crate) what: String,
    /// Seconds after the traffic began.
    pub(crate) after_s: f64,
    pub(crate) ok: bool,
    /// How long it took until traffic had moved, milliseconds.
    pub(crate) moved_ms: Option<u64>,
    /// Requests that ended meanwhile.
    pub(crate) reads: Count,
    pub(crate) writes: Count,
    /// The primary was dead.
    pub(crate) writes_may_fail: bool,
    pub(crate) observations: Vec<String>,
}

impl Step {
    /// With the counts as they are when it begins.
    pub(crate) fn new(what: &str, after: Duration, reads: Count, writes: Count) -> Self {
        Self {
            what: what.to_owned(),
            after_s: after.as_secs_f64(),
            ok: true,
            moved_ms: None,
            reads,
            writes,
            writes_may_fail: false,
            observations: Vec::new(),
        }
    }

    pub(crate) fn say(&mut self, observation: String) {
        self.observations.push(observation);
    }

    pub(crate) fn expect(&mut self, met: bool, observation: String) {
        self.ok &= met;
        self.say(if met { observation } else { format!("NOT AS IT SHOULD BE: {observation}") });
    }

    /// With the counts as they are when it ends.
    pub(crate) fn finish(&mut self, reads: Count, writes: Count) {
        let grown = |before: Count, now: Count| Count {
            requests: now.requests.saturating_sub(before.requests),
            failures: now.failures.saturating_sub(before.failures),
        };
        self.reads = grown(self.reads, reads);
        self.writes = grown(self.writes, writes);
        let failed =
            self.reads.failures + if self.writes_may_fail { 0 } else { self.writes.failures };
        self.ok &= failed == 0;
    }
}

/// Requests that went the same way for the same reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Way {
    pub(crate) kind: Kind,
    pub(crate) route: Lane,
    pub(crate) region: String,
    pub(crate) reason: String,
    pub(crate) requests: u64,
    /// By country code.
    pub(crate) countries: BTreeMap<String, u64>,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) ok: bool,
    pub(crate) seconds: f64,
    pub(crate) rate: u32,
    pub(crate) countries: usize,
    pub(crate) reads: Count,
    pub(crate) writes: Count,
    /// The last failure, in words.
    pub(crate) last_failure: Option<String>,
    /// Writes that the primary has applied.
    pub(crate) writes_applied: u64,
    pub(crate) steps: Vec<Step>,
    pub(crate) distribution: Vec<Way>,
    /// What is wrong, beside the steps that are.
    pub(crate) complaints: Vec<String>,
}

impl Summary {
    /// `applied` is the primary's position at the end.
    pub(crate) fn new(
        steps: Vec<Step>,
        ledger: &Ledger,
        applied: u64,
        rate: u32,
        took: Duration,
    ) -> Self {
        let mut complaints = Vec::new();
        if ledger.reads.failures > 0 {
            complaints.push(format!("{} reads failed", ledger.reads.failures));
        }
        let acknowledged = ledger.writes.requests - ledger.writes.failures;
        if applied < acknowledged {
            complaints
                .push(format!("{acknowledged} writes were acknowledged, only {applied} applied"));
        }
        if applied > ledger.writes.requests {
            complaints
                .push(format!("{} writes were sent, {applied} applied", ledger.writes.requests));
        }
        let allowed: u64 =
            steps.iter().filter(|s| s.writes_may_fail).map(|s| s.writes.failures).sum();
        let failed = ledger.writes.failures.saturating_sub(allowed);
        if failed > 0 {
            complaints.push(format!("{failed} writes failed while the primary was alive"));
        }
        let countries: BTreeSet<_> = ledger.flows.keys().map(|(country, ..)| *country).collect();
        Self {
            ok: complaints.is_empty() && steps.iter().all(|step| step.ok),
            seconds: took.as_secs_f64(),
            rate,
            countries: countries.len(),
            reads: ledger.reads,
            writes: ledger.writes,
            last_failure: ledger.last_failure.clone(),
            writes_applied: applied,
            steps,
            distribution: distribution(ledger),
            complaints,
        }
    }

    /// For people.
    pub(crate) fn render(&self) -> String {
        let mut said = format!(
            "\n{:.0} s, {} requests/s from {} countries\n\nWHERE REQUESTS WENT\n{}\nWHAT HAPPENED\n",
            self.seconds,
            self.rate,
            self.countries,
            self.ways().render()
        );
        for step in &self.steps {
            let mark = if step.ok { "ok    " } else { "FAILED" };
            said.push_str(&format!("  {mark}  +{:.1} s  {}\n", step.after_s, step.what));
            for observation in &step.observations {
                said.push_str(&format!("          {observation}\n"));
            }
            let (reads, writes) = (step.reads, step.writes);
            said.push_str(&format!(
                "          {} reads, {} failed; {} writes, {} failed\n",
                reads.requests, reads.failures, writes.requests, writes.failures
            ));
        }
        let (reads, writes) = (self.reads, self.writes);
        said.push_str(&format!(
            "\nAll in all: {} reads, {} failed; {} writes, {} failed (the primary was dead for a while), \
             {} applied.\n",
            reads.requests, reads.failures, writes.requests, writes.failures, self.writes_applied
        ));
        for complaint in &self.complaints {
            said.push_str(&format!("NOT AS IT SHOULD BE: {complaint}\n"));
        }
        if let (false, Some(failure)) = (self.ok, &self.last_failure) {
            said.push_str(&format!("The last failure: {failure}\n"));
        }
        said + if self.ok { "Everything is as it should be.\n" } else { "Something FAILED.\n" }
    }

    fn ways(&self) -> Table {
        let mut table = Table::new(["WHAT", ">REQUESTS", "WENT TO", "BECAUSE", "FROM"]);
        for way in &self.distribution {
            let what = match (way.kind, way.route) {
                (Kind::Write, _) => "writes",
                (Kind::Read, Lane::Geo) => "reads of /",
                (Kind::Read, Lane::Latency) => "reads of /nearest",
            };
            table.row([
                what.to_owned(),
                way.requests.to_string(),
                way.region.clone(),
                because_label(&way.reason).to_owned(),
                from(&way.countries),
            ]);
        }
        table
    }
}

/// The busiest countries, and how many more there are.
fn from(countries: &BTreeMap<String, u64>) -> String {
    const SHOWN: usize = 8;
    let mut busiest: Vec<_> = countries.iter().collect();
    busiest.sort_by_key(|(code, count)| (std::cmp::Reverse(**count), (*code).clone()));
    let shown: Vec<_> = busiest.iter().take(SHOWN).map(|(code, _)| code.as_str()).collect();
    match busiest.len().saturating_sub(SHOWN) {
        0 => shown.join(" "),
        more => format!("{} and {more} more", shown.join(" ")),
    }
}

fn distribution(ledger: &Ledger) -> Vec<Way> {
    let mut ways: BTreeMap<_, BTreeMap<String, u64>> = BTreeMap::new();
    for ((country, kind, lane, by), count) in &ledger.flows {
        *ways.entry((*kind, *lane, by)).or_default().entry(country.to_string()).or_default() +=
            count;
    }
    let way = |((kind, route, by), countries): (
        (Kind, Lane, &super::ledger::ServedBy),
        BTreeMap<_, _>,
    )| Way {
        kind,
        route,
        region: by.region.clone(),
        reason: by.reason.clone(),
        requests: countries.values().sum(),
        countries,
    };
    let mut ways: Vec<Way> = ways.into_iter().map(way).collect();
    ways.sort_by_key(|way| (way.kind, way.route, std::cmp::Reverse(way.requests)));
    ways
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::ledger::tests::{sample, served};
    use super::super::ledger::{Ending, Sample};
    use super::*;

    fn ledger(more: Vec<Sample>) -> Ledger {
        let mut ledger = Ledger::default();
        let now = Instant::now();
        ledger.record(sample("JP", now, served("ap-southeast-1", "same-continent")));
        ledger.record(sample("IN", now, served("ap-southeast-1", "same-continent")));
        ledger.record(write(served("us-east-1", "primary-for-write")));
        more.into_iter().for_each(|sample| ledger.record(sample));
        ledger
    }

    fn write(ending: Ending) -> Sample {
        Sample { kind: Kind::Write, ..sample("FR", Instant::now(), ending) }
    }

    fn step(writes_may_fail: bool, failed_writes: u64) -> Step {
        let mut step = Step::new("something", Duration::ZERO, Count::default(), Count::default());
        step.writes_may_fail = writes_may_fail;
        step.finish(Count::default(), Count { requests: failed_writes, failures: failed_writes });
        step
    }

    fn summary(steps: Vec<Step>, ledger: &Ledger, applied: u64) -> Summary {
        Summary::new(steps, ledger, applied, 100, Duration::from_secs(20))
    }

    #[test]
    fn all_well_is_ok_and_says_where_requests_went() {
        let summary = summary(vec![step(false, 0)], &ledger(vec![]), 1);
        assert!(summary.ok, "{:?}", summary.complaints);
        let said = summary.render();
        assert!(
            said.contains(
                "reads of /         2  ap-southeast-1  it is on the client's continent  IN JP"
            ),
            "{said}"
        );
        assert!(said.ends_with("Everything is as it should be.\n"));
    }

    #[test]
    fn failures_count_unless_the_primary_was_dead() {
        let dead = ledger(vec![write(Ending::Refused(503))]);
        assert!(summary(vec![step(true, 1)], &dead, 1).ok);
        assert!(!summary(vec![step(false, 1)], &dead, 1).ok);
        assert!(!summary(vec![], &dead, 1).ok);
        let read = ledger(vec![sample("FR", Instant::now(), Ending::Refused(502))]);
        let failed = summary(vec![], &read, 1);
        assert!(!failed.ok && failed.render().contains("NOT AS IT SHOULD BE: 1 reads failed"));
    }

    #[test]
    fn lost_and_doubled_writes_are_seen() {
        assert_eq!(summary(vec![], &ledger(vec![]), 0).complaints.len(), 1);
        assert_eq!(summary(vec![], &ledger(vec![]), 2).complaints.len(), 1);
    }

    #[test]
    fn an_expectation_that_is_not_met_fails_its_step() {
        let mut bad = step(false, 0);
        bad.expect(false, "it went away".into());
        let summary = summary(vec![bad], &ledger(vec![]), 1);
        assert!(!summary.ok);
        assert!(summary.render().contains("FAILED  +0.0 s  something"));
    }
}
