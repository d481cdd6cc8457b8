//! `meridian events`: server-sent events, line by line.

use std::io::Write;

use anyhow::Context;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;

use super::Verdict;
use crate::admin_client::AdminClient;
use crate::cli::{Asked, Output};
use crate::http_client::Connection;
use crate::table::{millis, or_dash};
use crate::views::{EventView, HistoryEvent};

/// A longer line is no event of ours.
const MAX_LINE_BYTES: usize = 1 << 20;

/// In one line, without the time.
pub(crate) fn describe(event: &EventView) -> String {
    let text = |name: &str| event.data[name].as_str().unwrap_or("?");
    match &*event.kind {
        "endpoint_health" => {
            let cause = event.data["cause"].as_str();
            let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
            let (service, region) = (text("service"), text("region"));
            format!("{region}: {service}/{} is {}{cause}", text("endpoint"), text("to"))
        }
        "config_reloaded" => "the configuration file was reloaded".into(),
        "config_refused" => format!("the configuration file was refused: {}", text("error")),
        "history" => match serde_json::from_value::<HistoryEvent>(event.data.clone()) {
            Ok(event) => super::history::describe(&event),
            Err(_) => spell_out(event),
        },
        "round_trips" => "the order of regions by round trip was renewed".into(),
        "replication_lagging" => {
            let ms = event.data["lag_ms"].as_f64().unwrap_or(0.0);
            format!("{}: {} lags by {}", text("region"), text("service"), millis(ms))
        }
        "operation" => operation(&event.data),
        "replication_caught_up" => {
            format!("{}: {} has caught up", text("region"), text("service"))
        }
        "replication_unknown" => {
            format!("{}: nothing is heard of how far {} lags", text("region"), text("service"))
        }
        "override_set" | "override_cleared" | "override_expired" | "override_dropped" => {
            overridden(&event.kind, &event.data)
        }
        _ => spell_out(event),
    }
}

/// `switchover of app us -> eu: catch-up`
fn operation(data: &Value) -> String {
    let text = |name: &str| data[name].as_str().unwrap_or("none");
    let last = data["steps"].as_array().and_then(|steps| steps.last());
    let step = last.and_then(|step| step["step"].as_str()).unwrap_or("begins");
    let result = last.and_then(|step| step["result"].as_str());
    let result = result.map_or_else(String::new, |result| format!(": {result}"));
    let (what, service, from, to) = (text("operation"), text("service"), text("from"), text("to"));
    let how = match text("state") {
        "running" => format!("{step}{result}"),
        state => format!("{state}: {}", text("outcome")),
    };
    format!("{what} of {service} {from} -> {to}: {how}")
}

/// `admin@127.0.0.1: drain of region eu-west-1 is set to true (maintenance)`
fn overridden(kind: &str, data: &Value) -> String {
    let target = match &data["target"] {
        Value::Object(target) => match (target.get("region"), target.get("endpoint")) {
            (Some(Value::String(region)), _) => format!("region {region}"),
            (_, Some(endpoint)) => format!(
                "endpoint {}/{}",
                endpoint["service"].as_str().unwrap_or("?"),
                endpoint["address"].as_str().unwrap_or("?")
            ),
            _ => "?".into(),
        },
        other => other.to_string(),
    };
    let text = |name: &str| data[name].as_str().unwrap_or("?");
    let (actor, what, value) = (text("actor"), text("kind"), &data["value"]);
    let done = match kind {
        "override_set" => format!("is set to {value}"),
        "override_expired" => "has expired".into(),
        "override_dropped" => format!("is dropped, because {}", text("why")),
        _ => "is taken back".into(),
    };
    let reason = data["reason"].as_str().filter(|reason| !reason.is_empty());
    let reason = reason.map_or_else(String::new, |reason| format!(" ({reason})"));
    format!("{actor}: {what} of {target} {done}{reason}")
}

/// `07:05:09`, UTC.
fn time_of_day(unix_ms: u64) -> String {
    let seconds = unix_ms / 1_000 % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

fn spell_out(event: &EventView) -> String {
    let mut said = event.kind.replace(['_', '.'], " ");
    if let Value::Object(data) = &event.data {
        for (name, value) in data {
            match value {
                Value::Null => {}
                Value::String(text) if text.is_empty() => {}
                Value::String(text) => said.push_str(&format!("  {name}={text}")),
                other => said.push_str(&format!("  {name}={other}")),
            }
        }
    }
    said
}

/// Follows until the edge ends or the reader is gone.
pub(super) async fn events(asked: &Asked, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let client = AdminClient::from_args(&asked.edge)?;
    follow(&client, |data| {
        match asked.output.output {
            Output::Json => writeln!(out, "{data}")?,
            Output::Table => match serde_json::from_str::<EventView>(data) {
                Ok(event) => {
                    let (time, table) = (time_of_day(event.unix_ms), or_dash(event.generation));
                    writeln!(out, "{time}  table {table:>5}  {}", describe(&event))?;
                }
                // How many were missed, or something that later versions tell.
                Err(_) => writeln!(out, "{data}")?,
            },
        }
        Ok(out.flush()?)
    })
    .await?;
    Ok(Verdict::Fine)
}

/// Hands the data of every event to `take`, until the edge ends the stream or `take` fails.
///
/// # Errors
/// When there is no stream, it breaks, or `take` fails.
pub(crate) async fn follow(
    client: &AdminClient,
    mut take: impl FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut stream = Stream::open(client).await?;
    while let Some(data) = stream.next().await? {
        take(&data)?;
    }
    Ok(())
}

/// The events of an edge from its opening on.
pub(super) struct Stream {
    _connection: Connection,
    body: Incoming,
    lines: Lines,
}

impl Stream {
    /// Returns once no event can be missed any more.
    pub(super) async fn open(client: &AdminClient) -> anyhow::Result<Self> {
        let (connection, body) = client.follow("/api/v1/events").await?;
        Ok(Self { _connection: connection, body, lines: Lines::default() })
    }

    /// The data of the next one; `None`: the edge has ended the stream.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<String>> {
        loop {
            while let Some(line) = self.lines.next() {
                if let Some(data) = line.strip_prefix("data:") {
                    return Ok(Some(data.trim_start().to_owned()));
                }
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame.context("the stream of events broke off")?;
            if let Some(bytes) = frame.data_ref() {
                self.lines.feed(bytes)?;
            }
        }
    }
}

/// Puts lines together that come in pieces.
#[derive(Debug, Default)]
struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.pending.extend_from_slice(bytes);
        let too_long = self.pending.len() > MAX_LINE_BYTES && !self.pending.contains(&b'\n');
        anyhow::ensure!(!too_long, "an event is longer than {MAX_LINE_BYTES} bytes");
        Ok(())
    }

    fn next(&mut self) -> Option<String> {
        let end = self.pending.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.pending.drain(..=end).collect();
        Some(String::from_utf8_lossy(&line).trim_end().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together() {
        let mut lines = Lines::default();
        lines.feed(b"id: 1\nda").unwrap();
        assert_eq!((lines.next().as_deref(), lines.next()), (Some("id: 1"), None));
        lines.feed(b"ta: {}\r\n\n").unwrap();
        let rest: Vec<_> = std::iter::from_fn(|| lines.next()).collect();
        assert_eq!(rest, ["data: {}", ""]);
        assert!(lines.feed(&vec![b'x'; MAX_LINE_BYTES + 1]).is_err());
    }

    #[test]
    fn an_event_is_one_line() {
        let text = r#"{"id":1,"unix_ms":2,"kind":"override_set","generation":7,"data":{
            "target":{"endpoint":{"service":"app","address":"10.0.0.1:80"}},"kind":"weight",
            "value":5,"actor":"ann","reason":"slow disk","expires_unix_ms":null}}"#;
        let event: EventView = serde_json::from_str(text).unwrap();
        let said = "ann: weight of endpoint app/10.0.0.1:80 is set to 5 (slow disk)";
        assert_eq!(describe(&event), said);
        let text = r#"{"id":1,"unix_ms":2,"kind":"something_new","generation":null,
            "data":{"region":"eu-west-1","why":"","count":3,"until":null}}"#;
        let event: EventView = serde_json::from_str(text).unwrap();
        assert_eq!(describe(&event), "something new  count=3  region=eu-west-1");
        assert_eq!(time_of_day(25_509_999), "07:05:09");
        let text = r#"{"id":1,"unix_ms":2,"kind":"endpoint_health","generation":7,"data":{
            "service":"app","region":"eu-west-1","endpoint":"10.0.0.1:80","from":"healthy",
            "to":"unhealthy","cause":"connection refused"}}"#;
        let event: EventView = serde_json::from_str(text).unwrap();
        let said = "eu-west-1: app/10.0.0.1:80 is unhealthy: connection refused";
        assert_eq!(describe(&event), said);
    }
}
