//! The scripted story: drain, kill, lag, and the primary's death, each with what it did to the traffic.
//!
//! Promises: every claim it prints was measured on the requests that clients sent; it waits for what it
//! looks for, with a deadline, and says so when that did not come. Refuses to know: how it is printed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::{Duration, Instant};

use meridian_geoip::CountryCode;

use super::ledger::{Count, Ending, Kind, Lane, Ledger, Sample, ServedBy};
use super::stage::Stage;
use super::summary::{Step, Summary};
use crate::cli::Output;
use crate::commands::Verdict;
use crate::reasons::because_label;

const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What does not happen within this does not happen.
const PATIENCE: Duration = Duration::from_secs(15);
/// Stale answers may go on for so long: one reading of the lag and its way here.
const LAG_SEEN_WITHIN: Duration = Duration::from_secs(3);
/// A region has been left when it got nothing for so long.
const QUIET: Duration = Duration::from_secs(1);

const PRIMARY: &str = "us-east-1";

/// Plays it and prints the summary.
///
/// # Errors
/// When the edge fails or does not answer.
pub(super) async fn play(
    stage: &mut Stage,
    calm: Duration,
    output: Output,
    out: &mut dyn Write,
) -> anyhow::Result<Verdict> {
    let began = Instant::now();
    let mut story = Story {
        enough: (stage.rate as usize).clamp(30, 300),
        homes: BTreeMap::new(),
        stage,
        steps: Vec::new(),
    };
    if output == Output::Table {
        out.write_all(story.stage.frame.plain_head().as_bytes())?;
        out.flush()?;
    }
    story.calm(calm).await?;
    story.drain("ap-southeast-1").await?;
    story.kill("eu-west-1").await?;
    story.lag("ap-southeast-1").await?;
    story.kill_primary().await?;
    let steps = story.steps;
    let rate = stage.rate;
    let ledger = stage.take_traffic()?.finish().await;
    let primary = stage.world.region(PRIMARY);
    let position = primary.map_or(0, |region| region.state.facts().position);
    let summary = Summary::new(steps, &ledger, position, rate, began.elapsed());
    match output {
        Output::Table => out.write_all(summary.render().as_bytes())?,
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&summary)?)?,
    }
    Ok(if summary.ok { Verdict::Fine } else { Verdict::NotFine })
}

struct Story<'a> {
    stage: &'a mut Stage,
    steps: Vec<Step>,
    /// Requests that are enough to believe in "none".
    enough: usize,
    /// Where reads of a country go when all is well.
    homes: BTreeMap<CountryCode, String>,
}

impl Story<'_> {
    async fn calm(&mut self, calm: Duration) -> anyhow::Result<()> {
        let mut step = self.begin("nothing is disturbed");
        let from = Instant::now();
        tokio::time::sleep(calm).await;
        self.until(|ledger| ledger.since(from).count() > 0).await?;
        let mut flows: BTreeMap<CountryCode, BTreeMap<String, usize>> = BTreeMap::new();
        for sample in self.stage.traffic()?.ledger().since(from) {
            if let (Kind::Read, Lane::Geo, Some(region)) =
                (sample.kind, sample.lane, sample.region())
            {
                *flows.entry(sample.country).or_default().entry(region.to_owned()).or_default() +=
                    1;
            }
        }
        let most = |regions: BTreeMap<String, usize>| {
            regions.into_iter().max_by_key(|(_, count)| *count).map(|(region, _)| region)
        };
        self.homes = flows.into_iter().filter_map(|(c, r)| Some((c, most(r)?))).collect();
        let regions: BTreeSet<&String> = self.homes.values().collect();
        step.expect(
            regions.len() > 1,
            format!("reads of {} countries went to {} regions", self.homes.len(), regions.len()),
        );
        self.end(step)
    }

    async fn drain(&mut self, id: &str) -> anyhow::Result<()> {
        let mut step = self.begin(&format!("{id} is drained"));
        let asked = Instant::now();
        self.stage.drain(id, true).await?;
        let effective = Instant::now();
        let enough = self.enough;
        self.until(|ledger| begun(ledger, effective).count() >= enough).await?;
        let (strays, after, homeless) = {
            let ledger = self.stage.traffic()?.ledger();
            let strays = begun(&ledger, effective).filter(|s| s.region() == Some(id)).count();
            (strays, begun(&ledger, effective).count(), self.went_to(&ledger, id, effective))
        };
        let took = millis(effective.duration_since(asked));
        step.moved_ms = Some(took);
        step.expect(strays == 0, format!(
            "the answer came after {took} ms; of the {after} requests that began then, {strays} went there"
        ));
        step.say(homeless);
        let back = Instant::now();
        self.stage.drain(id, false).await?;
        self.expect_return(&mut step, id, back, "the drain was taken back").await?;
        self.end(step)
    }

    async fn kill(&mut self, id: &str) -> anyhow::Result<()> {
        let mut step = self.begin(&format!("{id} is killed: it refuses connections"));
        let killed = Instant::now();
        self.set_alive(id, false);
        let homes = self.homes.clone();
        let moved = |ledger: &Ledger| {
            let at_home = |s: &&Sample| homes.get(&s.country).is_some_and(|home| home == id);
            let elsewhere = begun(ledger, killed).filter(at_home);
            elsewhere.filter(|s| s.region().is_some_and(|r| r != id)).map(|s| s.ended).min()
        };
        self.until(|ledger| moved(ledger).is_some()).await?;
        let unhealthy = self.wait_for_health(id, "unhealthy").await?;
        let enough = self.enough;
        let noticed = Instant::now();
        self.until(|ledger| begun(ledger, noticed).count() >= enough).await?;
        {
            let ledger = self.stage.traffic()?.ledger();
            let after = |at: Instant| millis(at.duration_since(killed));
            step.moved_ms = moved(&ledger).map(after);
            let first = step.moved_ms.map_or_else(|| "never".into(), |ms| format!("after {ms} ms"));
            step.expect(step.moved_ms.is_some(), format!("first answer from elsewhere {first}"));
            let retried = begun(&ledger, killed).filter(|s| is_retry(s));
            let (count, last) =
                retried.fold((0, None), |(n, last), s| (n + 1, last.max(Some(s.began))));
            let last = last
                .map_or_else(String::new, |at| format!(", the last one {} ms after", after(at)));
            step.say(format!("{count} requests needed a second attempt{last}"));
            step.say(self.went_to(&ledger, id, noticed));
        }
        let out_after = unhealthy.map_or_else(
            || "never".into(),
            |at| format!("after {} ms", millis(at.duration_since(killed))),
        );
        step.expect(unhealthy.is_some(), format!("out by the health checks {out_after}"));
        let back = Instant::now();
        self.set_alive(id, true);
        self.expect_return(&mut step, id, back, "it was revived").await?;
        self.end(step)
    }

    async fn lag(&mut self, id: &str) -> anyhow::Result<()> {
        let lag = super::world::LAGGED.as_secs();
        let mut step = self.begin(&format!("{id} lags by {lag} s"));
        let lagged = Instant::now();
        self.stage.world.set_lagged(id, true);
        let last_there = |ledger: &Ledger| {
            let there = begun(ledger, lagged).filter(|s| s.region() == Some(id));
            there.map(|s| s.began).max().unwrap_or(lagged)
        };
        let left = self.until(|ledger| last_there(ledger).elapsed() >= QUIET).await?;
        {
            let ledger = self.stage.traffic()?.ledger();
            let last = last_there(&ledger).duration_since(lagged);
            step.moved_ms = Some(millis(last));
            let bound = super::edge_config::MAX_STALENESS_SECONDS;
            step.expect(left && last <= LAG_SEEN_WITHIN, format!(
                "too old for the routes' bound of {bound} s: the last read went there after {} ms",
                millis(last)
            ));
            step.say(self.went_to(&ledger, id, lagged + last));
        }
        let back = Instant::now();
        self.stage.world.set_lagged(id, false);
        self.expect_return(&mut step, id, back, "it caught up").await?;
        self.end(step)
    }

    async fn kill_primary(&mut self) -> anyhow::Result<()> {
        let mut step = self.begin(&format!("the primary, {PRIMARY}, is killed"));
        let killed = Instant::now();
        self.set_alive(PRIMARY, false);
        let enough = self.enough;
        self.until(|ledger| {
            let writes = begun(ledger, killed).filter(|s| s.kind == Kind::Write);
            writes.count() > 0 && begun(ledger, killed).count() >= 2 * enough
        })
        .await?;
        {
            let ledger = self.stage.traffic()?.ledger();
            let (mut refused, mut taken) = (0, 0);
            for write in begun(&ledger, killed).filter(|s| s.kind == Kind::Write) {
                *(if write.failed() { &mut refused } else { &mut taken }) += 1;
            }
            step.expect(
                taken == 0,
                format!("{refused} writes were refused, {taken} were taken by another region"),
            );
            let reads = begun(&ledger, killed).filter(|s| s.kind == Kind::Read).count();
            step.say(format!("{reads} reads went on"));
        }
        let back = Instant::now();
        self.set_alive(PRIMARY, true);
        let wrote = |ledger: &Ledger| {
            begun(ledger, back).find(|s| s.kind == Kind::Write && !s.failed()).map(|s| s.ended)
        };
        self.until(|ledger| wrote(ledger).is_some()).await?;
        let again =
            wrote(&self.stage.traffic()?.ledger()).map(|at| millis(at.duration_since(back)));
        step.moved_ms = again;
        let said =
            again.map_or_else(|| "never".into(), |ms| format!("{ms} ms after it was revived"));
        step.expect(again.is_some(), format!("first write taken again {said}"));
        step.writes_may_fail = true;
        self.end(step)
    }

    /// The traffic that lives there comes back after `back`.
    async fn expect_return(
        &mut self,
        step: &mut Step,
        id: &str,
        back: Instant,
        what: &str,
    ) -> anyhow::Result<()> {
        let first = |ledger: &Ledger| {
            begun(ledger, back).filter(|s| s.region() == Some(id)).map(|s| s.ended).min()
        };
        self.until(|ledger| first(ledger).is_some()).await?;
        let first = first(&self.stage.traffic()?.ledger());
        let after = first.map(|at| millis(at.duration_since(back)));
        let said = after.map_or_else(|| "never".into(), |ms| format!("{ms} ms after {what}"));
        step.expect(after.is_some(), format!("first answer from there again {said}"));
        Ok(())
    }

    /// Where the clients went who are at home in `id`, since `since`.
    fn went_to(&self, ledger: &Ledger, id: &str, since: Instant) -> String {
        let mut flows: BTreeMap<&ServedBy, usize> = BTreeMap::new();
        let at_home = |s: &&Sample| self.homes.get(&s.country).is_some_and(|home| home == id);
        let reads = |s: &&Sample| s.kind == Kind::Read && s.lane == Lane::Geo;
        for sample in begun(ledger, since).filter(reads).filter(at_home) {
            if let Ending::Served(by) = &sample.ending {
                *flows.entry(by).or_default() += 1;
            }
        }
        let mut flows: Vec<_> = flows.into_iter().collect();
        flows.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let told = flows.iter().take(3).map(|(by, count)| {
            format!("{} ({count}, because {})", by.region, because_label(&by.reason))
        });
        let told: Vec<_> = told.collect();
        let told = if told.is_empty() { "nowhere".to_owned() } else { told.join(", ") };
        format!("its clients went to {told}")
    }

    fn begin(&self, what: &str) -> Step {
        let (reads, writes) = self.counts();
        Step::new(what, self.stage.started.elapsed(), reads, writes)
    }

    fn end(&mut self, mut step: Step) -> anyhow::Result<()> {
        let (reads, writes) = self.counts();
        step.finish(reads, writes);
        self.steps.push(step);
        Ok(())
    }

    fn counts(&self) -> (Count, Count) {
        let Ok(traffic) = self.stage.traffic() else { return Default::default() };
        let ledger = traffic.ledger();
        (ledger.reads, ledger.writes)
    }

    fn set_alive(&self, id: &str, alive: bool) {
        if let Some(region) = self.stage.world.region(id) {
            region.state.set_alive(alive);
        }
    }

    /// When the edge first says so.
    async fn wait_for_health(&mut self, id: &str, health: &str) -> anyhow::Result<Option<Instant>> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            self.stage.look().await?;
            if self.stage.facts.regions.get(id).is_some_and(|facts| facts.health == health) {
                return Ok(Some(Instant::now()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(None)
    }

    /// Whether the ledger came to be so in time.
    async fn until(&mut self, mut so: impl FnMut(&Ledger) -> bool) -> anyhow::Result<bool> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if so(&self.stage.traffic()?.ledger()) {
                return Ok(true);
            }
            tokio::select! {
                error = self.stage.edge_failed() => return Err(error),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
        Ok(false)
    }
}

/// Requests that began at `since` or later and have ended.
fn begun(ledger: &Ledger, since: Instant) -> impl Iterator<Item = &Sample> {
    ledger.since(since).filter(move |sample| sample.began >= since)
}

fn is_retry(sample: &Sample) -> bool {
    matches!(&sample.ending, Ending::Served(by) if by.reason == "retry")
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
