//! `[services.replication]`

use std::ops::RangeInclusive;
use std::time::Duration;

use super::service::INTERVAL;
use super::{at_least, warn_without_effect};
use crate::model::{Replication, ReplicationMetrics, ReplicationSource};
use crate::names;
use crate::reader::{Item, Table};
use crate::values;

const WARN_LAG: Duration = Duration::from_secs(30);
const MAX_LAG: Duration = Duration::from_secs(60);
const SAMPLE_MAX_AGE: Duration = Duration::from_secs(5);
const SESSION_WAIT: Duration = Duration::from_millis(50);
/// A read that waits longer than this is better read from the primary, wherever that is.
const SESSION_WAITS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    None,
    Headers,
    Status,
    Patroni,
    Prometheus,
}

pub(super) fn read(table: &Table<'_>) -> Replication {
    let kinds = [
        ("none", Kind::None),
        ("headers", Kind::Headers),
        ("status", Kind::Status),
        ("patroni", Kind::Patroni),
        ("prometheus", Kind::Prometheus),
    ];
    let kind = table.or("source", Kind::None, |item| item.choice(&kinds));
    let default_path = match kind {
        Kind::Patroni => "/patroni",
        Kind::Prometheus => "/metrics",
        _ => "/meridian/status",
    };
    let path = table.or("path", default_path.to_owned(), |item| {
        item.parsed(|text| names::path_and_query(text).map(|()| text.to_owned()))
    });
    let default_port = (kind == Kind::Patroni).then_some(8008);
    let port = table.or("port", default_port, |item| item.whole(1..=65_535).map(Some));
    let time = |key, default, low| table.or(key, default, |item| item.duration(at_least(low)));
    let interval = time("interval", INTERVAL, 10);
    if matches!(kind, Kind::None | Kind::Headers) {
        let because = "unless source = \"status\", \"patroni\" or \"prometheus\"";
        warn_without_effect(table, "path", &*path, default_path, because);
        warn_without_effect(table, "port", &port, &None, because);
        warn_without_effect(table, "interval", &interval, &INTERVAL, because);
    }
    let max_lag = time("max_lag", MAX_LAG, 1);
    let warn_default = WARN_LAG.min(max_lag);
    let warn_lag = time("warn_lag", warn_default, 1);
    let sample_max_age = time("sample_max_age", SAMPLE_MAX_AGE, 1);
    let session_wait = table.or("session_wait", SESSION_WAIT, |item| item.duration(SESSION_WAITS));
    let bytes = 0..=1 << 62;
    let max_lag_bytes = table.item("max_lag_bytes").and_then(|item| item.size(bytes));
    if kind == Kind::None {
        let because = "with source = \"none\"";
        warn_without_effect(table, "max_lag", &max_lag, &MAX_LAG, because);
        warn_without_effect(table, "max_lag_bytes", &max_lag_bytes, &None, because);
        warn_without_effect(table, "warn_lag", &warn_lag, &warn_default, because);
        warn_without_effect(table, "sample_max_age", &sample_max_age, &SAMPLE_MAX_AGE, because);
        warn_without_effect(table, "session_wait", &session_wait, &SESSION_WAIT, because);
    }
    if warn_lag > max_lag {
        let message = format!("is above max_lag, {}", values::show_duration(max_lag));
        table.site_of("warn_lag").error(table.cx, message);
    }
    let metrics = metrics(table, kind);
    let source = match kind {
        Kind::None => ReplicationSource::None,
        Kind::Headers => ReplicationSource::Headers,
        Kind::Status => ReplicationSource::Status { path },
        Kind::Patroni => ReplicationSource::Patroni { path },
        Kind::Prometheus => ReplicationSource::Prometheus { path, metrics },
    };
    Replication {
        source,
        port,
        interval,
        warn_lag,
        max_lag,
        max_lag_bytes,
        sample_max_age,
        session_wait,
    }
}

/// The names that postgres_exporter has for what it tells.
fn metrics(table: &Table<'_>, kind: Kind) -> ReplicationMetrics {
    if table.has("metrics") && kind != Kind::Prometheus {
        let message = "is only for source = \"prometheus\"";
        table.site_of("metrics").error(table.cx, message);
    }
    table.section("metrics", |table| {
        let name = |key, default: &str| table.or(key, default.to_owned(), metric_name);
        let metrics = ReplicationMetrics {
            is_replica: name("is_replica", "pg_replication_is_replica"),
            lag_seconds: name("lag_seconds", "pg_replication_lag_seconds"),
            epoch: name("epoch", ""),
            position: name("position", ""),
        };
        if metrics.lag_seconds.is_empty() && metrics.position.is_empty() {
            let message = "lag_seconds and position are both empty: nothing would say the lag";
            table.site().error(table.cx, message);
        }
        metrics
    })
}

fn metric_name(item: &Item<'_>) -> Option<String> {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    item.parsed(|text| {
        let fits = text.is_empty()
            || (text.starts_with(first) && text.chars().all(|c| first(c) || c.is_ascii_digit()));
        if fits { Ok(text.to_owned()) } else { Err(format!("{text:?} is not a metric's name")) }
    })
}
