//! The live table as text.
//!
//! Promises: fits the width and height it is given; plain ANSI, nothing else. Refuses to know: where the
//! figures come from, how keys are read.

use std::time::Duration;

use super::scene::{FlowRow, RegionRow, Scene};
use crate::reasons::because_label;
use crate::table::{Table, millis, or_dash, percent};

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";
/// Cursor home; what follows overwrites the last picture without flicker.
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";
/// Events that are shown.
const EVENTS: usize = 5;

/// What stays the same while the demo runs.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) edge: String,
    pub(crate) admin: String,
    pub(crate) config: String,
    pub(crate) log: String,
}

/// Something that happened, and how long after the start.
#[derive(Clone, Debug)]
pub(crate) struct Happening {
    pub(crate) after: Duration,
    pub(crate) what: String,
}

impl Frame {
    /// A whole picture for a terminal of `columns` x `rows`.
    pub(crate) fn picture(
        &self,
        scene: &Scene,
        happenings: &[Happening],
        selected: usize,
        (columns, rows): (u16, u16),
    ) -> String {
        let (columns, rows) = (usize::from(columns).max(40), usize::from(rows).max(10));
        let mut above = self.head(scene);
        above.push(String::new());
        above.extend(region_lines(&scene.regions, selected));
        above.push(String::new());
        let mut below = vec![String::new()];
        below.extend(happenings.iter().rev().take(EVENTS).rev().map(happening_line));
        below.push(String::new());
        below.extend(self.hints());
        let room = rows.saturating_sub(above.len() + below.len() + 1);
        let mut lines = above;
        lines.extend(flow_lines(scene, room));
        lines.extend(below);
        lines.truncate(rows);
        let mut picture = HOME.to_owned();
        for (number, line) in lines.iter().enumerate() {
            picture.push_str(&cut(line, columns));
            picture.push_str(CLEAR_LINE);
            // A line end after the last row would scroll.
            if number + 1 < lines.len() {
                picture.push_str("\r\n");
            }
        }
        picture + CLEAR_BELOW
    }

    fn head(&self, scene: &Scene) -> Vec<String> {
        let counts = |name: &str, count: super::ledger::Count| {
            let colour = if count.failures > 0 { RED } else { "" };
            format!("{name} {} ({colour}{} failed{PLAIN})", count.requests, count.failures)
        };
        let mut lines = vec![
            format!(
                "{BOLD}meridian demo{PLAIN}   edge http://{}   admin {}   table {}",
                self.edge, self.admin, scene.generation
            ),
            format!(
                "{:.0} requests/s from {} countries   {}   {}",
                scene.per_second,
                scene.countries.len(),
                counts("reads", scene.reads),
                counts("writes", scene.writes)
            ),
        ];
        if let Some(failure) = &scene.last_failure {
            let failed = scene.failed_in_window;
            lines.push(format!("{RED}{failed} failed just now, the last: {failure}{PLAIN}"));
        }
        lines
    }

    fn hints(&self) -> Vec<String> {
        vec![
            format!(
                "{BOLD}1-4{PLAIN} choose a region   {BOLD}k{PLAIN} kill or revive   {BOLD}d{PLAIN} drain \
                 or undrain   {BOLD}l{PLAIN} lag or catch up   {BOLD}q{PLAIN} quit"
            ),
            format!("{DIM}In another terminal:{PLAIN}"),
            format!("  curl -i -H 'X-Forwarded-For: 133.11.0.1' http://{}/", self.edge),
            format!("  meridian explain / --client 133.11.0.1 --admin {}", self.admin),
            format!("  meridian drain eu-west-1 --ttl 1m --admin {}", self.admin),
            format!("  edit {}   (log: {})", self.config, self.log),
        ]
    }

    /// What is printed before the first line where there is no terminal.
    pub(crate) fn plain_head(&self) -> String {
        format!(
            "edge   http://{}\nadmin  {}\nfile   {}   (edit it: the edge reloads by itself)\nlog    {}\n\
             try    curl -i -H 'X-Forwarded-For: 133.11.0.1' http://{}/\n\
             try    meridian explain / --client 133.11.0.1 --admin {}\n",
            self.edge, self.admin, self.config, self.log, self.edge, self.admin
        )
    }
}

/// One line for those who have no terminal.
pub(crate) fn summary_line(scene: &Scene, after: Duration) -> String {
    let regions = scene.regions.iter().map(|row| {
        let lag = row.facts.lag_ms.filter(|_| row.simulated.role != "primary");
        let lag = lag.map_or_else(String::new, |ms| format!(" lag {}", millis(ms as f64)));
        let drained = if row.facts.drained { " drained" } else { "" };
        let health = row.facts.health.as_str();
        let ill =
            if matches!(health, "healthy" | "") { String::new() } else { format!(" {health}") };
        format!("{} {}{ill}{drained}{lag}", row.simulated.id, percent(row.share))
    });
    let regions: Vec<_> = regions.collect();
    format!(
        "+{:>4.0} s  {:>4.0} requests/s  {}  failed: {} reads, {} writes",
        after.as_secs_f64(),
        scene.per_second,
        regions.join(" | "),
        scene.reads.failures,
        scene.writes.failures
    )
}

/// `+ 12.3 s  what`
pub(crate) fn happening_line(happening: &Happening) -> String {
    format!("+{:>6.1} s  {}", happening.after.as_secs_f64(), happening.what)
}

fn region_lines(rows: &[RegionRow], selected: usize) -> Vec<String> {
    let mut table = Table::new([
        "",
        "REGION",
        "PLACE",
        "ROLE",
        ">REQ/S",
        ">SHARE",
        "",
        ">ROUND TRIP",
        ">LAG",
        "HEALTH",
        "DRAIN",
        "SIMULATED",
    ]);
    for (number, row) in rows.iter().enumerate() {
        let simulated = &row.simulated;
        let lag = row.facts.lag_ms.filter(|_| simulated.role != "primary");
        let mark = if number == selected { ">" } else { " " };
        let state = if simulated.alive { "alive" } else { "KILLED" };
        table.row([
            format!("{mark}{}", number + 1),
            simulated.id.to_owned(),
            simulated.place.to_owned(),
            simulated.role.clone(),
            format!("{:.1}", row.per_second),
            percent(row.share),
            bar(row.share, 12),
            or_dash(row.facts.round_trip_ms.map(millis)),
            or_dash(lag.map(|ms| millis(ms as f64))),
            row.facts.health.clone(),
            if row.facts.drained { "drained".into() } else { "-".into() },
            format!("{state}, {} away", millis(simulated.distance.as_millis() as f64)),
        ]);
    }
    styled(&table, |number| if number == selected + 1 { BOLD } else { "" })
}

/// Writes and the like first, then as many countries as there is room for.
fn flow_lines(scene: &Scene, room: usize) -> Vec<String> {
    let mut table = Table::new(["FROM", "WHAT", ">REQ/S", "GOES TO", "BECAUSE"]);
    let header = 1;
    let rows = scene.others.iter().chain(&scene.countries).take(room.saturating_sub(header));
    for FlowRow { from, what, to, per_second } in rows {
        table.row([
            from.clone(),
            (*what).to_owned(),
            format!("{per_second:.1}"),
            to.region.clone(),
            because_label(&to.reason).to_owned(),
        ]);
    }
    if room <= header || table.is_empty() { Vec::new() } else { styled(&table, |_| "") }
}

fn styled(table: &Table, style: impl Fn(usize) -> &'static str) -> Vec<String> {
    let text = table.render();
    let lines = text.lines().enumerate().map(|(number, line)| match (number, style(number)) {
        (0, _) => format!("{DIM}{line}{PLAIN}"),
        (_, "") => line.to_owned(),
        (_, style) => format!("{style}{line}{PLAIN}"),
    });
    lines.collect()
}

fn bar(part: f64, width: usize) -> String {
    let full = (part.clamp(0.0, 1.0) * width as f64).round() as usize;
    "█".repeat(full)
}

/// At most so many visible characters; escape sequences are kept whole.
fn cut(line: &str, columns: usize) -> String {
    let (mut out, mut seen, mut chars) = (String::with_capacity(line.len()), 0, line.chars());
    while let Some(char) = chars.next() {
        if char == '\x1b' {
            out.push(char);
            for char in chars.by_ref() {
                out.push(char);
                if char.is_ascii_alphabetic() {
                    break;
                }
            }
        } else if seen < columns {
            seen += 1;
            out.push(char);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::ledger::Ledger;
    use super::super::ledger::tests::{sample, served};
    use super::super::scene::tests::simulated;
    use super::super::scene::{EdgeFacts, RegionFacts};
    use super::*;

    fn scene() -> Scene {
        let started = Instant::now();
        let now = started + Duration::from_secs(2);
        let mut ledger = Ledger::default();
        for country in ["JP", "FR", "DE", "BR", "IN", "US", "AU", "KE", "SE", "CL"] {
            ledger.record(sample(country, started, served("eu-west-1", "same-continent")));
        }
        let facts = RegionFacts {
            round_trip_ms: Some(113.7),
            lag_ms: Some(400),
            health: "healthy".into(),
            drained: true,
        };
        let regions = [("eu-west-1".to_owned(), facts)].into();
        let edge = EdgeFacts { generation: 4, regions };
        Scene::new(&ledger, &edge, vec![simulated("us"), simulated("eu-west-1")], started, now)
    }

    fn frame() -> Frame {
        let text = |text: &str| text.to_owned();
        let (edge, admin) = (text("127.0.0.1:8080"), text("127.0.0.1:9901"));
        Frame { edge, admin, config: text("/tmp/m.toml"), log: text("/tmp/m.log") }
    }

    fn visible(picture: &str) -> Vec<String> {
        let plain = |line: &str| {
            let mut out = String::new();
            let mut chars = line.chars();
            while let Some(char) = chars.next() {
                if char == '\x1b' {
                    chars.by_ref().find(char::is_ascii_alphabetic);
                } else {
                    out.push(char);
                }
            }
            out
        };
        picture.split("\r\n").map(plain).collect()
    }

    #[test]
    fn a_picture_says_it_all_and_fits() {
        let happened = |what: &str| Happening { after: Duration::from_secs(3), what: what.into() };
        let happenings = [happened("you killed us-west-2"), happened("it came back")];
        let lines = visible(&frame().picture(&scene(), &happenings, 1, (140, 40)));
        let shown = lines.join("\n");
        for part in [
            ">2  eu-west-1",
            "114 ms",
            "400 ms",
            "drained",
            "Japan",
            "it is on the client's continent",
            "+   3.0 s  you killed us-west-2",
            "meridian drain eu-west-1",
            "/tmp/m.toml",
        ] {
            assert!(shown.contains(part), "{part} is not in\n{shown}");
        }
        for (columns, rows) in [(60, 24), (40, 10), (200, 30)] {
            let lines = visible(&frame().picture(&scene(), &happenings, 0, (columns, rows)));
            assert!(lines.len() <= usize::from(rows), "{} lines in {rows}", lines.len());
            assert!(lines.iter().all(|line| line.chars().count() <= usize::from(columns)));
        }
    }

    #[test]
    fn the_summary_is_one_line() {
        let line = summary_line(&scene(), Duration::from_secs(2));
        let expected = "+   2 s     5 requests/s  us 0% | eu-west-1 100% drained lag 400 ms  \
                        failed: 0 reads, 0 writes";
        assert_eq!(line, expected);
    }
}
