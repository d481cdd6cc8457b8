//! `meridian history`: past changes of state of regions, as a table or line by line.

use std::io::Write;

use http::Method;
use time::OffsetDateTime;
use time::macros::format_description;

use super::follow::Stream;
use super::show::duration;
use super::{Verdict, pass_on};
use crate::admin_client::AdminClient;
use crate::cli::{HistoryArgs, Output};
use crate::percent;
use crate::table::{Table, millis};
use crate::views::{Affected, ChangeKindWord, EventView, HistoryEvent, HistoryView};

/// Of a gap that a follower fills, the most events.
const GAP: usize = 1000;

/// Shows what was, and with `--follow` what comes.
pub(super) async fn history(args: &HistoryArgs, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let client = AdminClient::from_args(&args.asked.edge)?;
    let output = if args.json { Output::Json } else { args.asked.output.output };
    if args.follow {
        return follow_history(args, &client, output, out).await;
    }
    let path = path(args, args.limit.into(), None);
    let answer = client.request_ok(Method::GET, &path, None).await?;
    match output {
        Output::Json => pass_on(&answer, out),
        Output::Table => {
            let view: HistoryView = answer.read()?;
            out.write_all(tell(&view).as_bytes())?;
            Ok(Verdict::Fine)
        }
    }
}

fn path(args: &HistoryArgs, limit: usize, after: Option<u64>) -> String {
    let mut path = format!("/api/v1/history?limit={limit}");
    let mut add = |name: &str, value: &str| {
        path.push_str(&format!("&{name}={}", percent::escape(value)));
    };
    for (name, value) in
        [("service", &args.service), ("region", &args.region), ("since", &args.since)]
    {
        if let Some(value) = value {
            add(name, value);
        }
    }
    if let Some(after) = after {
        add("after", &after.to_string());
    }
    path
}

fn tell(view: &HistoryView) -> String {
    if view.events.is_empty() {
        return "no change of state is known\n".to_owned();
    }
    let mut table = Table::new([
        ">#", "TIME", "SERVICE", "REGION", "CHANGE", ">AFTER", "AFFECTED", "BY", "WHY",
    ]);
    for event in &view.events {
        table.row([
            event.seq.to_string(),
            date_and_time(event.unix_ms),
            event.service.clone().unwrap_or_else(|| "-".into()),
            event.region.clone().unwrap_or_else(|| "-".into()),
            change(event),
            lasted(event.lasted_ms),
            affected(&event.affected),
            event.actor.clone(),
            why(event),
        ]);
    }
    let mut said = table.render();
    if view.more {
        said.push_str("\nolder ones were left out, see --limit\n");
    }
    said
}

/// In one line, without the time.
pub(super) fn describe(event: &HistoryEvent) -> String {
    let who = match (&event.region, &event.service) {
        (Some(region), Some(service)) => format!("{region}: {service} "),
        (Some(region), None) => format!("{region}: "),
        (None, Some(service)) => format!("{service} "),
        (None, None) => String::new(),
    };
    let cost = match affected(&event.affected) {
        cost if cost == "-" => String::new(),
        cost => format!(", {cost}"),
    };
    let by = if event.actor == "meridian" { String::new() } else { format!("{}: ", event.actor) };
    let after = lasted(event.lasted_ms);
    format!("{who}{} after {after}{cost} ({by}{})", change(event), why(event))
}

fn change(event: &HistoryEvent) -> String {
    let shown = |text: &str| if text.is_empty() { "none".to_owned() } else { text.to_owned() };
    let (from, to) = (shown(&event.from), shown(&event.to));
    match event.kind {
        ChangeKindWord::State => format!("{from} -> {to}"),
        other => format!("{} {from} -> {to}", other.label()),
    }
}

fn why(event: &HistoryEvent) -> String {
    // One line each, whatever a file's errors look like.
    let evidence = event.evidence.replace('\n', "; ");
    match &event.moved_to {
        Some(region) => format!("{evidence}; {region} is next"),
        None => evidence,
    }
}

/// `12 failed, 3 retried, 140 spilled`
fn affected(affected: &Affected) -> String {
    let Affected { failed, retried, spilled, refused, .. } = affected;
    let parts =
        [(failed, "failed"), (retried, "retried"), (spilled, "spilled"), (refused, "refused")];
    let parts = parts.iter().filter(|(count, _)| **count > 0);
    let parts: Vec<_> = parts.map(|(count, word)| format!("{count} {word}")).collect();
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}

fn lasted(ms: u64) -> String {
    if ms < 120_000 { millis(ms as f64) } else { duration(ms / 1000) }
}

/// `2026-02-28 07:05:09Z`
fn date_and_time(unix_ms: u64) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z");
    let seconds = i64::try_from(unix_ms / 1000).unwrap_or(i64::MAX);
    let time = OffsetDateTime::from_unix_timestamp(seconds).ok();
    time.and_then(|time| time.format(format).ok()).unwrap_or_else(|| "-".into())
}

/// First what was, then what comes. The stream is opened first, so that nothing falls between.
async fn follow_history(
    args: &HistoryArgs,
    client: &AdminClient,
    output: Output,
    out: &mut dyn Write,
) -> anyhow::Result<Verdict> {
    let mut stream = Stream::open(client).await?;
    let mut follower = Follower { args, output, out };
    let mut newest = follower.catch_up(client, None).await?;
    while let Some(data) = stream.next().await? {
        let event = serde_json::from_str::<EventView>(&data).ok();
        if event.as_ref().is_some_and(|event| event.kind != "history") {
            continue;
        }
        // What is no event says that some were missed.
        let event = event.and_then(|event| serde_json::from_value(event.data).ok());
        newest = match event {
            Some(HistoryEvent { seq, .. }) if seq <= newest => newest,
            Some(event) if event.seq == newest + 1 => {
                follower.tell(&event)?;
                event.seq
            }
            _ => follower.catch_up(client, Some(newest)).await?,
        };
    }
    Ok(Verdict::Fine)
}

struct Follower<'a> {
    args: &'a HistoryArgs,
    output: Output,
    out: &'a mut dyn Write,
}

impl Follower<'_> {
    /// Tells what has come since `after`, at first the newest, and gives the number of the last.
    async fn catch_up(&mut self, client: &AdminClient, after: Option<u64>) -> anyhow::Result<u64> {
        let limit = if after.is_none() { self.args.limit.into() } else { GAP };
        let mut after = after;
        loop {
            let path = path(self.args, limit, after);
            let answer = client.request_ok(Method::GET, &path, None).await?;
            let view: HistoryView = answer.read()?;
            for event in &view.events {
                self.tell(event)?;
            }
            match view.events.last() {
                Some(last) if view.more && after.is_some() => after = Some(last.seq),
                _ => return Ok(view.newest.max(after.unwrap_or(0))),
            }
        }
    }

    fn tell(&mut self, event: &HistoryEvent) -> anyhow::Result<()> {
        let concerns = |wanted: &Option<String>, named: &Option<String>| {
            wanted.is_none() || named.is_none() || wanted == named
        };
        if !concerns(&self.args.service, &event.service)
            || !concerns(&self.args.region, &event.region)
        {
            return Ok(());
        }
        match self.output {
            Output::Json => writeln!(self.out, "{}", serde_json::to_string(event)?)?,
            Output::Table => {
                let time = date_and_time(event.unix_ms);
                writeln!(self.out, "{time}  #{}  {}", event.seq, describe(event))?;
            }
        }
        Ok(self.out.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn view() -> HistoryView {
        let state = |seq: u64, from: &str, to: &str| {
            json!({
                "seq": seq, "unix_ms": 1_772_262_309_000_u64, "edge": "e", "kind": "state",
                "service": "api", "region": "eu", "from": from, "to": to, "cause": "health",
                "evidence": "1 of 1 endpoints down: 10.0.0.1:80 refused", "actor": "meridian",
                "lasted_ms": 7_300_000, "moved_to": "us", "generation": 5,
                "affected": {"answered": 9, "failed": 2, "retried": 1, "spilled": 0, "refused": 0},
            })
        };
        let mut weight = state(8, "100", "0");
        for (name, value) in [
            ("kind", json!("weight")),
            ("service", json!(null)),
            ("actor", json!("ann")),
            ("evidence", json!("ann set it\nfor a while")),
            ("moved_to", json!(null)),
            ("lasted_ms", json!(900)),
            (
                "affected",
                json!({"answered": 9, "failed": 0, "retried": 0, "spilled": 0, "refused": 0}),
            ),
        ] {
            weight[name] = value;
        }
        let events = json!([state(7, "healthy", "down"), weight]);
        let view =
            json!({"events": events, "more": true, "oldest": 1, "newest": 8, "not_written": 0});
        serde_json::from_value(view).unwrap()
    }

    #[test]
    fn history_in_a_table() {
        let expected = "\
#  TIME                  SERVICE  REGION  CHANGE            AFTER  AFFECTED             BY        WHY
7  2026-02-28 07:05:09Z  api      eu      healthy -> down     2 h  2 failed, 1 retried  meridian  1 of 1 endpoints down: 10.0.0.1:80 refused; us is next
8  2026-02-28 07:05:09Z  -        eu      weight 100 -> 0  900 ms  -                    ann       ann set it; for a while

older ones were left out, see --limit
";
        assert_eq!(tell(&view()), expected);
    }

    #[test]
    fn history_in_lines() {
        let view = view();
        let lines: Vec<_> = view.events.iter().map(describe).collect();
        assert_eq!(
            lines,
            [
                "eu: api healthy -> down after 2 h, 2 failed, 1 retried \
                 (1 of 1 endpoints down: 10.0.0.1:80 refused; us is next)",
                "eu: weight 100 -> 0 after 900 ms (ann: ann set it; for a while)",
            ]
        );
    }

    #[test]
    fn dates() {
        for (unix_s, expected) in [
            (0, "1970-01-01 00:00:00Z"),
            (951_782_400, "2000-02-29 00:00:00Z"),
            (1_709_251_199, "2024-02-29 23:59:59Z"),
            (1_798_761_599, "2026-12-31 23:59:59Z"),
            (4_107_542_400, "2100-03-01 00:00:00Z"),
        ] {
            assert_eq!(date_and_time(unix_s * 1000), expected);
        }
    }
}
