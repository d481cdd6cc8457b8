//! What the pages say that endpoints are asked for: our own status page, Patroni's, one in Prometheus' format.
//!
//! Promises: a page that is not what it should be says nothing. Refuses to know: how it was fetched.

use std::time::Duration;

use meridian_config::{ReplicationMetrics, ReplicationSource};
use meridian_routing::{Claim, MAX_EPOCH, MAX_POSITION, Role};
use serde::Deserialize;

use super::claims::{MAX_LAG_MS, claim_of_headers};
use crate::http_client::Answer;

/// What an answer to a question of this source says; `None`: nothing.
pub(super) fn claim_of_answer(source: &ReplicationSource, answer: &Answer) -> Option<Claim> {
    match source {
        ReplicationSource::None | ReplicationSource::Headers => None,
        ReplicationSource::Status { .. } => status_page(answer),
        ReplicationSource::Patroni { .. } => patroni(answer),
        ReplicationSource::Prometheus { metrics, .. } => prometheus(answer, metrics),
    }
}

/// A status page. Fields of later versions are passed over.
#[derive(Debug, Deserialize)]
struct StatusPage {
    role: Option<String>,
    epoch: Option<u64>,
    position: Option<u64>,
    lag_ms: Option<u64>,
}

/// The page as JSON, or its headers. A part that cannot be believed makes the whole page void.
fn status_page(answer: &Answer) -> Option<Claim> {
    if !answer.status.is_success() {
        return None;
    }
    let Ok(page) = serde_json::from_slice::<StatusPage>(&answer.body) else {
        return Some(claim_of_headers(&answer.headers));
    };
    let role = page.role.as_deref().map(Role::parse);
    let within = |value: Option<u64>, most| value.is_none_or(|value| value <= most);
    let believable = role != Some(None)
        && within(page.epoch, MAX_EPOCH)
        && within(page.position, MAX_POSITION)
        && within(page.lag_ms, MAX_LAG_MS);
    let lag = page.lag_ms.map(Duration::from_millis);
    let (role, epoch, position) = (role.flatten(), page.epoch, page.position);
    believable.then_some(Claim { role, epoch, position, lag })
}

/// `GET /patroni`, as of Patroni 1.0 to 4. Its lag is in bytes and left to the positions.
#[derive(Debug, Deserialize)]
struct PatroniPage {
    state: String,
    role: String,
    timeline: Option<u64>,
    xlog: Option<Xlog>,
}

#[derive(Debug, Deserialize)]
struct Xlog {
    /// Of a primary: what it has written.
    location: Option<u64>,
    /// Of a replica: what it has applied.
    replayed_location: Option<u64>,
}

/// The status code says whether the node is the leader and so on; the page is the same with all of them.
fn patroni(answer: &Answer) -> Option<Claim> {
    let page: PatroniPage = serde_json::from_slice(&answer.body).ok()?;
    if page.state != "running" {
        return None;
    }
    let role = match &*page.role {
        "primary" | "master" => Role::Primary,
        // The leader of a standby cluster takes no writes.
        "replica" | "standby_leader" => Role::Replica,
        _ => return None,
    };
    let position = page.xlog.and_then(|xlog| match role {
        Role::Primary => xlog.location,
        Role::Replica => xlog.replayed_location,
    });
    let epoch = page.timeline.filter(|epoch| *epoch <= MAX_EPOCH);
    let position = position.filter(|position| *position <= MAX_POSITION);
    // A primary that does not say its timeline cannot be told from one of an older one.
    epoch?;
    Some(Claim { role: Some(role), epoch, position, lag: None })
}

fn prometheus(answer: &Answer, metrics: &ReplicationMetrics) -> Option<Claim> {
    if !answer.status.is_success() {
        return None;
    }
    let text = std::str::from_utf8(&answer.body).ok()?;
    let role = sample(text, &metrics.is_replica).and_then(|value| match value {
        0.0 => Some(Role::Primary),
        1.0 => Some(Role::Replica),
        _ => None,
    });
    let lag_s = sample(text, &metrics.lag_seconds).filter(|lag| *lag >= 0.0);
    let lag = lag_s.filter(|lag| *lag <= MAX_LAG_MS as f64 / 1000.0);
    Some(Claim {
        role,
        epoch: whole(sample(text, &metrics.epoch)),
        position: whole(sample(text, &metrics.position)),
        // Rounded up: data is never called fresher than it is.
        lag: lag.map(|lag| Duration::from_millis((lag * 1000.0).ceil() as u64)),
    })
}

/// A whole number that a float holds exactly.
fn whole(value: Option<f64>) -> Option<u64> {
    let value = value.filter(|v| *v >= 0.0 && *v <= MAX_EPOCH as f64 && v.fract() == 0.0);
    value.map(|value| value as u64)
}

/// The one finite sample of a metric, whatever its labels; of several, which differ by label only, none.
fn sample(page: &str, name: &str) -> Option<f64> {
    let lines = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.strip_prefix('{') {
            Some(labels) => labels.get(end_of_labels(labels)? + 1..)?,
            None => rest.strip_prefix([' ', '\t'])?,
        };
        value.split_ascii_whitespace().next()
    });
    let mut values = lines.filter(|_| !name.is_empty());
    let only = values.next().filter(|_| values.next().is_none())?;
    only.parse().ok().filter(|value: &f64| value.is_finite())
}

/// Where the brace is that closes the labels; inside quotes it is text.
fn end_of_labels(labels: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in labels.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, StatusCode};

    use super::super::claims::LAG_HEADER;
    use super::*;

    fn answer(status: u16, header: Option<&'static str>, body: &str) -> Answer {
        let mut headers = HeaderMap::new();
        if let Some(value) = header {
            headers.insert(LAG_HEADER, HeaderValue::from_static(value));
        }
        Answer {
            status: StatusCode::from_u16(status).expect("a status"),
            headers,
            body: body.as_bytes().to_vec(),
            round_trip: None,
        }
    }

    fn claim(role: Role, epoch: u64, position: u64, lag_ms: Option<u64>) -> Option<Claim> {
        let (role, epoch, position) = (Some(role), Some(epoch), Some(position));
        Some(Claim { role, epoch, position, lag: lag_ms.map(Duration::from_millis) })
    }

    #[test]
    fn status_pages_are_read_as_json_or_headers() {
        let page = r#"{"role":"replica","epoch":3,"position":99,"lag_ms":1200,"more":[1]}"#;
        let whole = claim(Role::Replica, 3, 99, Some(1200));
        assert_eq!(status_page(&answer(200, None, page)), whole);
        assert_eq!(status_page(&answer(200, Some("7"), page)), whole);
        let seven = Claim { lag: Some(Duration::from_millis(7)), ..Claim::default() };
        assert_eq!(status_page(&answer(204, Some("7"), "")), Some(seven));
        assert_eq!(status_page(&answer(500, Some("7"), page)), None);
    }

    #[test]
    fn what_is_not_believable_does_not_count() {
        for page in [
            r#"{"lag_ms":-1}"#,
            r#"{"lag_ms":1.5}"#,
            r#"{"lag_ms":"5"}"#,
            r#"{"lag_ms":1000000000001}"#,
            r#"{"role":"king","lag_ms":5}"#,
            r#"{"epoch":-1,"lag_ms":5}"#,
            r#"{"epoch":9007199254740992,"role":"primary"}"#,
            r#"{"position":18446744073709551615,"role":"replica"}"#,
            "[]",
            "lag: 5",
        ] {
            let claim = status_page(&answer(200, None, page)).unwrap_or_default();
            assert_eq!(claim, Claim::default(), "{page}");
        }
    }

    #[test]
    fn patroni_tells_role_timeline_and_location() {
        // As Patroni 3.0 of Debian 12 answers, shortened.
        let leader = r#"{"state": "running", "postmaster_start_time": "2026-11-24 21:00:00+00:00",
            "role": "master", "server_version": 150008, "xlog": {"location": 67108960},
            "timeline": 4, "replication": [{"usename": "replicator", "state": "streaming"}],
            "dcs_last_seen": 1732482000, "patroni": {"version": "3.0.2", "scope": "demo"}}"#;
        let replica = r#"{"state": "running", "role": "replica", "server_version": 150008,
            "xlog": {"received_location": 67108960, "replayed_location": 67108864,
            "replayed_timestamp": "2026-11-24 21:00:01+00:00", "paused": false}, "timeline": 4}"#;
        assert_eq!(patroni(&answer(200, None, leader)), claim(Role::Primary, 4, 67_108_960, None));
        assert_eq!(patroni(&answer(503, None, replica)), claim(Role::Replica, 4, 67_108_864, None));
        for bad in [
            leader.replace("running", "starting"),
            leader.replace("master", "demoted"),
            leader.replace("\"timeline\": 4", "\"timeline\": -4"),
            leader.replace("\"timeline\": 4", "\"timelines\": 4"),
            "not found".to_owned(),
        ] {
            assert_eq!(patroni(&answer(200, None, &bad)), None, "{bad}");
        }
    }

    #[test]
    fn a_prometheus_page_is_read_by_names() {
        let metrics = ReplicationMetrics {
            is_replica: "pg_replication_is_replica".into(),
            lag_seconds: "pg_replication_lag_seconds".into(),
            epoch: "pg_timeline".into(),
            position: "pg_position".into(),
        };
        let page = "# HELP pg_replication_lag_seconds Lag.\n\
                    pg_replication_lag_seconds_total 9\n\
                    pg_replication_lag_seconds{server=\"a}\\\"b\"} 1.2001 1732482000\n\
                    pg_replication_is_replica 1\npg_timeline 7\npg_position 1e6\n";
        let read = |page: &str| prometheus(&answer(200, None, page), &metrics);
        assert_eq!(read(page), claim(Role::Replica, 7, 1_000_000, Some(1201)));
        let twice = read(&format!("{page}pg_timeline{{x=\"1\"}} 8\n")).expect("a page");
        assert_eq!((twice.epoch, twice.position), (None, Some(1_000_000)));
        for (name, bad) in [("is_replica 1", "is_replica 2"), ("b\"} 1.2001", "b\"} -1")] {
            let said = read(&page.replace(name, bad)).expect("a page");
            assert!(said.role.is_none() || said.lag.is_none(), "{bad}");
        }
        for bad in ["NaN", "+Inf", "1.5", "-1", "1e300", ""] {
            let said = read(&page.replace("pg_timeline 7", &format!("pg_timeline {bad}")));
            assert_eq!(said.expect("a page").epoch, None, "{bad}");
        }
        assert_eq!(prometheus(&answer(500, None, page), &metrics), None);
    }
}
