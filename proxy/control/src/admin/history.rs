//! `GET /api/v1/history`: past changes of state, with filters and pages.

use super::Admin;
use super::answer::{Answer, Problem, json};
use super::change::duration_s;
use super::route::percent_decoded;
use super::views::{AlertsStatusView, HistoryStatusView, HistoryView};
use crate::clock::unix_ms;
use crate::history::Query;

/// Events on a page, unless the request says otherwise.
const PAGE: usize = 100;
/// The most events on a page.
const LARGEST_PAGE: usize = 1000;

impl Admin {
    pub(super) fn history(&self, query: &str) -> Result<Answer, Problem> {
        let page = self.history.page(&parse(query, unix_ms())?);
        let status = self.history.status();
        Ok(json(&HistoryView {
            events: page.events.iter().map(|event| (**event).clone()).collect(),
            more: page.more,
            oldest: status.oldest,
            newest: status.newest,
            not_written: status.not_written,
        }))
    }

    pub(super) fn history_status(&self) -> HistoryStatusView {
        let status = self.history.status();
        HistoryStatusView {
            kept: status.kept,
            newest: status.newest,
            not_written: status.not_written,
            last_error: status.last_error,
        }
    }

    pub(super) fn alerts_status(&self) -> Option<AlertsStatusView> {
        let status = self.alerts.status();
        Some(AlertsStatusView {
            webhook: status.webhook?,
            delivered: status.delivered,
            failed: status.failed,
            dropped: status.dropped,
            waiting: status.waiting,
            last_error: status.last_error,
        })
    }
}

/// `service=api&region=eu-west-1&since=1h&after=5&before=9&limit=100`, each at most once.
fn parse(text: &str, now_unix_ms: u64) -> Result<Query, Problem> {
    let mut query = Query { limit: PAGE, ..Query::default() };
    let mut seen = Vec::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_decoded(value).ok_or_else(|| {
            Problem::bad_request(format!("{name}: the percent-encoding is broken"))
        })?;
        if seen.contains(&name) {
            return Err(Problem::bad_request(format!("{name} stands there twice")));
        }
        seen.push(name);
        match name {
            "service" => query.service = Some(value),
            "region" => query.region = Some(value),
            "since" => query.since_unix_ms = Some(now_unix_ms.saturating_sub(since_ms(&value)?)),
            "after" => query.after = Some(number(name, &value)?),
            "before" => query.before = Some(number(name, &value)?),
            "limit" => query.limit = limit(&value)?,
            _ => {
                let known = "service, region, since, after, before and limit";
                let message = format!("there is no parameter {name:?}, only {known}");
                return Err(Problem::bad_request(message));
            }
        }
    }
    Ok(query)
}

/// How long ago, milliseconds.
fn since_ms(text: &str) -> Result<u64, Problem> {
    duration_s(text).map(|seconds| seconds.saturating_mul(1000)).ok_or_else(|| {
        let message = "since: seconds, or a text such as \"90s\", \"30m\", \"12h\", \"7d\"";
        Problem::bad_request(message)
    })
}

fn number(name: &str, text: &str) -> Result<u64, Problem> {
    text.parse().map_err(|_| Problem::bad_request(format!("{name}: the number of an event")))
}

fn limit(text: &str) -> Result<usize, Problem> {
    let limit = text.parse().ok().filter(|limit| (1..=LARGEST_PAGE).contains(limit));
    limit.ok_or_else(|| Problem::bad_request(format!("limit: from 1 to {LARGEST_PAGE}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read() {
        assert_eq!(parse("", 0), Ok(Query { limit: 100, ..Query::default() }));
        let all = "service=a%2Fb&region=eu&since=2m&after=5&before=9&limit=1000";
        let expected = Query {
            service: Some("a/b".into()),
            region: Some("eu".into()),
            since_unix_ms: Some(880_000),
            after: Some(5),
            before: Some(9),
            limit: 1000,
        };
        assert_eq!(parse(all, 1_000_000), Ok(expected));
        let long_ago = parse("since=9999d&", 5).map(|query| query.since_unix_ms);
        assert_eq!(long_ago, Ok(Some(0)));
        assert_eq!(parse("since=90", 100_000).map(|q| q.since_unix_ms), Ok(Some(10_000)));
    }

    #[test]
    fn what_is_no_filter_is_said() {
        for (text, part) in [
            ("sice=1h", "no parameter \"sice\""),
            ("since=soon", "since"),
            ("since=", "since"),
            ("after=-1", "after"),
            ("before=x", "before"),
            ("limit=0", "limit"),
            ("limit=1001", "limit"),
            ("limit=5&limit=6", "twice"),
            ("region=%f", "percent"),
        ] {
            let problem = parse(text, 0).expect_err(text);
            assert!(problem.message.contains(part), "{text}: {}", problem.message);
        }
    }
}
