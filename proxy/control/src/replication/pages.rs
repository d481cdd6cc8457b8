//! What the pages say that endpoints are asked for: our own status page, Patroni's, one in Prometheus' format.
//!
//! Promises: a page that is not what it should be says nothing. Refuses to know: how it was fetched.

use std::time::Duration;

use meridian_config::{ReplicationMetrics, ReplicationSource};
use meridian_routing::{Claim, MAX_EPOCH, MAX_POSITION, Role};
use serde::Deserialize;

use super::claims::{MAX_LAG_MS, claim_of_headers, fault_of_headers, shown};
use crate::http_client::Answer;

/// What an answer to a question of this source says, and what is wrong with it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Report {
    /// `None`: nothing that counts.
    pub(super) claim: Option<Claim>,
    /// `None`: it is as it should be.
    pub(super) fault: Option<String>,
}

impl Report {
    pub(super) fn void(fault: impl Into<String>) -> Self {
        Self { claim: None, fault: Some(fault.into()) }
    }
}

/// What an answer to a question of this source says.
pub(super) fn report_of_answer(source: &ReplicationSource, answer: &Answer) -> Report {
    match source {
        ReplicationSource::None | ReplicationSource::Headers => Report::default(),
        ReplicationSource::Status { .. } => status_page(answer),
        ReplicationSource::Patroni { .. } => patroni(answer)
            .map_or_else(Report::void, |claim| Report { claim: Some(claim), fault: None }),
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
fn status_page(answer: &Answer) -> Report {
    if !answer.status.is_success() {
        return Report::void(format!("it answers {}", answer.status.as_u16()));
    }
    let page = match serde_json::from_slice::<StatusPage>(&answer.body) {
        Ok(page) => page,
        Err(error) => {
            let claim = claim_of_headers(&answer.headers);
            let no_page = || {
                let silent = claim == Claim::default();
                silent.then(|| format!("no JSON as it should be: {}", shown(&error.to_string())))
            };
            let fault = fault_of_headers(&answer.headers).or_else(no_page);
            return Report { claim: Some(claim), fault };
        }
    };
    let role = page.role.as_deref().map(Role::parse);
    let within = |value: Option<u64>, most| value.is_none_or(|value| value <= most);
    let fault = match &page.role {
        Some(said) if role == Some(None) => {
            Some(format!("role is \"{}\", not primary or replica", shown(said)))
        }
        _ if !within(page.epoch, MAX_EPOCH) => Some("epoch is not below 2^53".to_owned()),
        _ if !within(page.position, MAX_POSITION) => Some("position is not below 2^63".to_owned()),
        _ if !within(page.lag_ms, MAX_LAG_MS) => Some("lag_ms is above 10^12".to_owned()),
        _ => None,
    };
    let lag = page.lag_ms.map(Duration::from_millis);
    let (role, epoch, position) = (role.flatten(), page.epoch, page.position);
    let claim = fault.is_none().then_some(Claim { role, epoch, position, lag });
    Report { claim, fault }
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
///
/// # Errors
/// Why it says nothing.
fn patroni(answer: &Answer) -> Result<Claim, String> {
    let page: PatroniPage = serde_json::from_slice(&answer.body).map_err(|error| {
        let status = answer.status.as_u16();
        format!("no page of Patroni (status {status}): {}", shown(&error.to_string()))
    })?;
    if page.state != "running" {
        return Err(format!("its state is \"{}\", not running", shown(&page.state)));
    }
    let role = match &*page.role {
        "primary" | "master" => Role::Primary,
        // The leader of a standby cluster takes no writes.
        "replica" | "standby_leader" => Role::Replica,
        other => return Err(format!("its role is \"{}\"", shown(other))),
    };
    let position = page.xlog.and_then(|xlog| match role {
        Role::Primary => xlog.location,
        Role::Replica => xlog.replayed_location,
    });
    let epoch = page.timeline.filter(|epoch| *epoch <= MAX_EPOCH);
    let position = position.filter(|position| *position <= MAX_POSITION);
    // A primary that does not say its timeline cannot be told from one of an older one.
    let epoch = Some(epoch.ok_or("it says no timeline")?);
    Ok(Claim { role: Some(role), epoch, position, lag: None })
}

fn prometheus(answer: &Answer, metrics: &ReplicationMetrics) -> Report {
    if !answer.status.is_success() {
        return Report::void(format!("it answers {}", answer.status.as_u16()));
    }
    let Ok(text) = std::str::from_utf8(&answer.body) else {
        return Report::void("the page is not UTF-8");
    };
    let role = sample(text, &metrics.is_replica).and_then(|value| match value {
        0.0 => Some(Role::Primary),
        1.0 => Some(Role::Replica),
        _ => None,
    });
    let lag_s = sample(text, &metrics.lag_seconds).filter(|lag| *lag >= 0.0);
    let lag = lag_s.filter(|lag| *lag <= MAX_LAG_MS as f64 / 1000.0);
    let epoch = whole(sample(text, &metrics.epoch));
    let position = whole(sample(text, &metrics.position));
    // Which of them there are is for the exporter; one that is there and says nothing is a fault.
    let mute = [
        (&metrics.is_replica, role.is_none(), "0 or 1"),
        (&metrics.lag_seconds, lag.is_none(), "a number of seconds"),
        (&metrics.epoch, epoch.is_none(), "a whole number"),
        (&metrics.position, position.is_none(), "a whole number"),
    ];
    let there = |name: &str| !name.is_empty() && text.lines().any(|line| is_of(line, name));
    let mute = mute.iter().find(|(name, mute, _)| *mute && there(name));
    let nothing = role.is_none() && lag.is_none() && epoch.is_none() && position.is_none();
    let fault = match mute {
        Some((name, _, wanted)) => Some(format!("{name} is not there once as {wanted}")),
        None => nothing.then(|| format!("there is no {} on the page", metrics.is_replica)),
    };
    let claim = Claim {
        role,
        epoch,
        position,
        // Rounded up: data is never called fresher than it is.
        lag: lag.map(|lag| Duration::from_millis((lag * 1000.0).ceil() as u64)),
    };
    Report { claim: Some(claim), fault }
}

/// Whether a line is a sample of a metric.
fn is_of(line: &str, name: &str) -> bool {
    line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ', '\t']))
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
        let fine = |claim| Report { claim, fault: None };
        assert_eq!(status_page(&answer(200, None, page)), fine(whole));
        assert_eq!(status_page(&answer(200, Some("7"), page)), fine(whole));
        let seven = Claim { lag: Some(Duration::from_millis(7)), ..Claim::default() };
        assert_eq!(status_page(&answer(204, Some("7"), "")), fine(Some(seven)));
        assert_eq!(status_page(&answer(500, Some("7"), page)), Report::void("it answers 500"));
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
            let Report { claim, fault } = status_page(&answer(200, None, page));
            assert_eq!(claim.unwrap_or_default(), Claim::default(), "{page}");
            assert!(fault.is_some_and(|fault| fault.len() < 250), "{page}");
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
        let read = |status, page| patroni(&answer(status, None, page)).ok();
        assert_eq!(read(200, leader), claim(Role::Primary, 4, 67_108_960, None));
        assert_eq!(read(503, replica), claim(Role::Replica, 4, 67_108_864, None));
        for bad in [
            leader.replace("running", "starting"),
            leader.replace("master", "demoted"),
            leader.replace("\"timeline\": 4", "\"timeline\": -4"),
            leader.replace("\"timeline\": 4", "\"timelines\": 4"),
            "not found".to_owned(),
        ] {
            assert!(patroni(&answer(200, None, &bad)).is_err(), "{bad}");
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
        let report = |page: &str| prometheus(&answer(200, None, page), &metrics);
        let read = |page: &str| report(page).claim;
        assert_eq!(report(page).fault, None);
        let bad = report(&page.replace("pg_timeline 7", "pg_timeline x")).fault;
        assert_eq!(bad.as_deref(), Some("pg_timeline is not there once as a whole number"));
        let bad = report("up 1\n").fault;
        assert_eq!(bad.as_deref(), Some("there is no pg_replication_is_replica on the page"));
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
        assert_eq!(prometheus(&answer(500, None, page), &metrics).claim, None);
    }
}
