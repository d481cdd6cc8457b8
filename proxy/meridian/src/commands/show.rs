//! Commands that show how an edge is: `status`, `regions`, `lag`.

use std::fmt::Display;
use std::io::Write;

use http::Method;
use meridian_control::unix_ms;

use super::{Verdict, pass_on};
use crate::admin_client::{AdminAnswer, AdminClient};
use crate::cli::{Asked, EdgeArgs, Output};
use crate::table::{Table, millis, or_dash};
use crate::views::{
    AlertsStatusView, CertificatesStatusView, HistoryStatusView, OperationView, RegionView,
    ServiceView, Setting, StatusView, ValueSource, WritesView,
};

/// An edge that is not ready is a failure, so that a container's health check can be this command.
pub(super) async fn status(
    edge: &EdgeArgs,
    quiet: bool,
    output: Output,
    out: &mut dyn Write,
) -> anyhow::Result<Verdict> {
    let client = AdminClient::from_args(edge)?;
    if quiet {
        let ready = client.ask(Method::GET, "/readyz", None).await;
        let ready = ready.is_ok_and(|answer| answer.status.is_success());
        return Ok(if ready { Verdict::Fine } else { Verdict::NotFine });
    }
    let answer = client.request_ok(Method::GET, "/api/v1/status", None).await?;
    let status: StatusView = answer.read()?;
    match output {
        Output::Json => drop(pass_on(&answer, out)?),
        Output::Table => out.write_all(tell_status(&status).as_bytes())?,
    }
    Ok(if status.ready { Verdict::Fine } else { Verdict::NotFine })
}

fn tell_status(status: &StatusView) -> String {
    let StatusView { config, geo, certificates, counts, .. } = status;
    let readiness = if status.ready { "ready" } else { "NOT ready" };
    let troubled: Vec<_> = status.writes.iter().filter(|one| !one.troubles.is_empty()).collect();
    let closed = match troubled.iter().map(|one| &*one.service).collect::<Vec<_>>().as_slice() {
        [] => String::new(),
        services => format!(", writes of {} in TROUBLE", services.join(", ")),
    };
    let writes: String = status.writes.iter().map(|one| tell_writes(one, unix_ms())).collect();
    let uptime = duration(status.uptime_s);
    let configuration = match (&config.last_error, config.last_reload_ok) {
        (None, true) => format!("{} is in force", config.path),
        (why, _) => {
            let why = why.as_deref().unwrap_or("for an unknown reason");
            format!("{} was REFUSED; the one before it is in force\n           {why}", config.path)
        }
    };
    let kind = &geo.database_type;
    let database = match &geo.path {
        Some(path) => format!("{path} ({kind})"),
        None => "the embedded country database".to_owned(),
    };
    let trouble =
        geo.last_error.as_deref().map_or_else(String::new, |why| format!("\n           {why}"));
    let certificates = tell_certificates(certificates, unix_ms() / 1000);
    let history = tell_history(&status.history);
    let alerts = status.alerts.as_ref().map_or_else(String::new, tell_alerts);
    let operations: String = status.operations.iter().map(tell_operation).collect();
    format!(
        "edge       {} (meridian {}, revision {})\n\
         state      {readiness}, {} for {uptime}{closed}\n\
         table      generation {}\n\
         file       {configuration}\n\
         geo        {database}{trouble}\n\
         {certificates}\
         {history}\
         {alerts}\
         {writes}\
         {operations}\
         size       {} regions, {} services, {} routes, {} overrides\n\
         endpoints  {} of {} healthy{}\n\
         load       {} requests in flight, {} connections\n\
         {}",
        status.edge,
        status.version,
        status.revision,
        status.phase.label().replace('_', " "),
        status.generation,
        counts.regions,
        counts.services,
        counts.routes,
        counts.overrides,
        counts.endpoints_healthy,
        counts.endpoints,
        tell_ejected(counts.endpoints_ejected),
        counts.in_flight,
        counts.connections,
        status.connections_room.map_or_else(String::new, tell_room),
    )
}

fn tell_room(room: u64) -> String {
    format!(
        "files      SHORT: the limit of open files leaves room for {room} connections of clients, \
         less than edge.max_connections\n"
    )
}

/// Nothing if there are none.
fn tell_ejected(ejected: usize) -> String {
    if ejected == 0 { String::new() } else { format!(", {ejected} ejected") }
}

/// Nothing if there are none.
fn tell_certificates(certificates: &CertificatesStatusView, unix_s: u64) -> String {
    let CertificatesStatusView { count, first_expiry_unix_s, last_error, failing } = certificates;
    let failing: String = failing
        .iter()
        .map(|(name, why)| format!("           {name} is NOT issued: {why}\n"))
        .collect();
    let Some(end) = first_expiry_unix_s else {
        return match failing.as_str() {
            "" => failing,
            failing => format!("tls        certificates: none\n{failing}"),
        };
    };
    let left = u64::try_from(*end).unwrap_or(0).checked_sub(unix_s);
    let left = left.map_or("has EXPIRED".into(), |left| format!("expires in {}", duration(left)));
    let what = if *count == 1 { "1, it".into() } else { format!("{count}, the first") };
    let trouble = last_error.as_deref().map_or_else(String::new, |why| {
        let why = why.replace('\n', "\n           ");
        format!(
            "\n           the files were REFUSED; those before them are in force\n           {why}"
        )
    });
    format!("tls        certificates: {what} {left}{trouble}\n{failing}")
}

fn tell_history(history: &HistoryStatusView) -> String {
    let HistoryStatusView { kept, not_written, last_error, .. } = history;
    let changes = if *kept == 1 { "change" } else { "changes" };
    let lost = match not_written {
        0 => String::new(),
        lost => format!(", {lost} NOT written"),
    };
    let trouble =
        last_error.as_deref().map_or_else(String::new, |why| format!("\n           {why}"));
    format!("history    {kept} {changes} of state kept{lost}{trouble}\n")
}

fn tell_alerts(alerts: &AlertsStatusView) -> String {
    let AlertsStatusView { webhook, delivered, failed, dropped, waiting, last_error } = alerts;
    let trouble =
        last_error.as_deref().map_or_else(String::new, |why| format!("\n           {why}"));
    format!(
        "alerts     {webhook}: {delivered} delivered, {failed} failed, {dropped} dropped, \
         {waiting} waiting{trouble}\n"
    )
}

/// `writes     api: us-east-1 is the primary, epoch 4 (settled) for 3 min`, and what is wrong below.
fn tell_writes(view: &WritesView, unix_ms: u64) -> String {
    let WritesView { service, state, epoch, parked, refused_1m, .. } = view;
    let who = match (&view.region, &**state) {
        (Some(region), "settled") => format!("{region} is the primary"),
        (Some(region), _) => format!("NO primary, the last was {region}"),
        (None, _) => "NO primary".to_owned(),
    };
    let since = duration(unix_ms.saturating_sub(view.since_unix_ms) / 1000);
    let waiting = match parked {
        0 => String::new(),
        parked => format!(", {parked} wait"),
    };
    let refused = match refused_1m {
        0 => String::new(),
        refused => format!(", {refused} REFUSED in the last minute"),
    };
    let troubles: String = view
        .troubles
        .iter()
        .chain(&view.reports)
        .map(|why| format!("           {why}\n"))
        .collect();
    format!(
        "writes     {service}: {who}, epoch {epoch} ({state}) for {since}{waiting}{refused}\n{troubles}"
    )
}

/// `moving     api: switchover us -> eu by ann for 1.2 s, at catch-up`
fn tell_operation(view: &OperationView) -> String {
    let OperationView { service, operation, to, actor, took_ms, .. } = view;
    let from = view.from.as_deref().unwrap_or("none");
    let step = view.steps.last().map_or("start", |step| &step.step);
    let took = millis(*took_ms as f64);
    format!("moving     {service}: {operation} {from} -> {to} by {actor} for {took}, at {step}\n")
}

pub(super) fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

pub(super) async fn regions(asked: &Asked, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let answer = ask_regions(asked).await?;
    match asked.output.output {
        Output::Json => pass_on(&answer, out),
        Output::Table => {
            out.write_all(tell_regions(&answer.read::<Vec<RegionView>>()?).as_bytes())?;
            Ok(Verdict::Fine)
        }
    }
}

pub(super) async fn lag(asked: &Asked, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let answer = ask_regions(asked).await?;
    match asked.output.output {
        Output::Json => pass_on(&answer, out),
        Output::Table => {
            let services = ask(asked, "/api/v1/services").await?.read::<Vec<ServiceView>>()?;
            out.write_all(tell_primaries(&services).as_bytes())?;
            writeln!(out)?;
            out.write_all(tell_lag(&answer.read::<Vec<RegionView>>()?).as_bytes())?;
            out.write_all(tell_reports(&services).as_bytes())?;
            Ok(Verdict::Fine)
        }
    }
}

async fn ask_regions(asked: &Asked) -> anyhow::Result<AdminAnswer> {
    ask(asked, "/api/v1/regions").await
}

async fn ask(asked: &Asked, path: &str) -> anyhow::Result<AdminAnswer> {
    let client = AdminClient::from_args(&asked.edge)?;
    client.request_ok(Method::GET, path, None).await
}

fn tell_regions(regions: &[RegionView]) -> String {
    let mut table = Table::new([
        "REGION",
        "ROLE",
        "HEALTHY",
        ">ROUND TRIP",
        ">LAG",
        ">WEIGHT",
        "DRAIN",
        ">IN FLIGHT",
    ]);
    for region in regions {
        let (healthy, total) = health(region);
        let ejected = region.services.iter().map(|service| service.ejected).sum();
        let round_trip = region
            .round_trip_ms
            .map(|ms| format!("{}{}", if region.measured { "" } else { "~" }, millis(ms)));
        let in_flight = match region.capacity {
            Some(capacity) => format!("{} of {capacity}", region.in_flight),
            None => region.in_flight.to_string(),
        };
        let drain = if region.drain.value { "drained" } else { "-" };
        table.row([
            region.id.clone(),
            told_role(region),
            format!("{healthy} of {total}{}", tell_ejected(ejected)),
            or_dash(round_trip),
            told_worst_lag(region),
            marked(&region.weight, region.weight.value),
            marked(&region.drain, drain),
            in_flight,
        ]);
    }
    let rendered = table.render();
    let notes = [
        (rendered.contains('~'), "~ estimated from the distance, not measured yet\n"),
        (rendered.contains('*'), "* set by the operator, not by the file\n"),
    ];
    let notes: String = notes.iter().filter(|(shown, _)| *shown).map(|(_, note)| *note).collect();
    if notes.is_empty() { rendered } else { format!("{rendered}\n{notes}") }
}

/// Its role, and what its services lack: `replica (contested)`.
fn told_role(region: &RegionView) -> String {
    let mut lacking: Vec<_> = region
        .services
        .iter()
        .filter_map(|service| service.primary_state.as_deref())
        .filter(|state| *state != "settled")
        .collect();
    lacking.sort_unstable();
    lacking.dedup();
    match lacking.as_slice() {
        [] => region.role.clone(),
        lacking => format!("{} ({})", region.role, lacking.join(", ")),
    }
}

/// What the operator set is marked.
fn marked<T, S: Display>(setting: &Setting<T>, shown: S) -> String {
    match setting.source {
        ValueSource::File => shown.to_string(),
        ValueSource::Override => format!("{shown}*"),
    }
}

/// The longest lag that is known, or the age of a sample that is too old.
fn told_worst_lag(region: &RegionView) -> String {
    let old = region.services.iter().filter(|s| s.lag_stale).filter_map(|s| s.lag_age_ms).max();
    match old {
        Some(age) => format!("unknown for {}", millis(age as f64)),
        None => or_dash(worst_lag(region).map(|ms| millis(ms as f64))),
    }
}

/// Healthy endpoints and all, over all services.
pub(crate) fn health(region: &RegionView) -> (usize, usize) {
    let services = region.services.iter();
    services.fold((0, 0), |(healthy, total), s| (healthy + s.healthy, total + s.total))
}

/// The longest lag of a replica's services.
pub(crate) fn worst_lag(region: &RegionView) -> Option<u64> {
    // Of services of which it is the primary there is none.
    region.services.iter().filter_map(|service| service.lag_ms).max()
}

fn tell_lag(regions: &[RegionView]) -> String {
    let mut table =
        Table::new(["REGION", "SERVICE", "ROLE", ">LAG", ">AGE OF SAMPLE", ">POSITION", ">BEHIND"]);
    for region in regions {
        for service in &region.services {
            let role = service.role.as_ref().unwrap_or(&region.role);
            let (lag, age) = match (&**role, service.lag_ms, service.lag_age_ms) {
                ("primary", _, _) => ("-".into(), "-".into()),
                (_, Some(lag), Some(age)) if service.lag_stale => {
                    (format!("unknown, was {}", millis(lag as f64)), millis(age as f64))
                }
                (_, Some(lag), age) => {
                    (millis(lag as f64), or_dash(age.map(|age| millis(age as f64))))
                }
                (_, None, _) => ("unknown".into(), "-".into()),
            };
            table.row([
                region.id.clone(),
                service.service.clone(),
                role.clone(),
                lag,
                age,
                or_dash(service.position.map(|position| position.to_string())),
                or_dash(service.behind.map(|behind| behind.to_string())),
            ]);
        }
    }
    table.render()
}

/// What is wrong with what endpoints report; empty: nothing.
fn tell_reports(services: &[ServiceView]) -> String {
    let faulty = services.iter().flat_map(|service| {
        let endpoints = service.endpoints.iter();
        endpoints.filter_map(|endpoint| {
            let why = endpoint.report_error.as_deref()?;
            let (address, region) = (&endpoint.address, &endpoint.region);
            Some(format!(
                "the report of {address} in {region} ({}) is of no use: {why}\n",
                service.name
            ))
        })
    });
    let all: String = faulty.collect();
    if all.is_empty() { all } else { format!("\n{all}") }
}

/// What is known of each service's primary.
fn tell_primaries(services: &[ServiceView]) -> String {
    let mut table = Table::new(["SERVICE", "PRIMARY", "STATE", ">EPOCH", "SAID BY", "MODE"]);
    for service in services {
        let Some(primary) = &service.primary else { continue };
        let region = primary.region.clone();
        let last = if primary.state == "settled" { "" } else { " (last)" };
        table.row([
            service.name.clone(),
            or_dash(region.map(|region| format!("{region}{last}"))),
            primary.state.clone(),
            primary.epoch.to_string(),
            primary.source.clone(),
            primary.mode.clone(),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;

    fn region(id: &str, role: &str, lag_ms: Option<u64>) -> Value {
        json!({
            "id": id, "role": role,
            "drain": {"value": role == "replica", "source": "override"},
            "weight": {"value": 100, "source": "file"},
            "round_trip_ms": 74.6, "measured": role == "primary", "in_flight": 3,
            "capacity": null,
            "services": [{"service": "app", "healthy": 1, "total": 2,
                          "ejected": usize::from(role == "primary"),
                          "lag_ms": lag_ms.filter(|_| role != "primary"), "lag_age_ms": 120,
                          "role": role, "position": lag_ms.map(|lag| 5_000 - lag),
                          "behind": lag_ms.filter(|lag| *lag > 0)}]
        })
    }

    fn views(regions: &[Value]) -> Vec<RegionView> {
        regions.iter().map(|region| serde_json::from_value(region.clone()).unwrap()).collect()
    }

    #[test]
    fn regions_in_a_table() {
        let regions = [region("us", "primary", Some(0)), region("eu", "replica", Some(1_200))];
        let expected = "\
REGION  ROLE     HEALTHY            ROUND TRIP    LAG  WEIGHT  DRAIN     IN FLIGHT
us      primary  1 of 2, 1 ejected       75 ms      -     100  -*                3
eu      replica  1 of 2                 ~75 ms  1.2 s     100  drained*          3

~ estimated from the distance, not measured yet
* set by the operator, not by the file
";
        assert_eq!(tell_regions(&views(&regions)), expected);
    }

    #[test]
    fn lag_in_a_table() {
        let regions = [
            region("us", "primary", None),
            region("eu", "replica", Some(1_200)),
            region("ap", "replica", None),
        ];
        let expected = "\
REGION  SERVICE  ROLE         LAG  AGE OF SAMPLE  POSITION  BEHIND
us      app      primary        -              -         -       -
eu      app      replica    1.2 s         120 ms      3800    1200
ap      app      replica  unknown              -         -       -
";
        assert_eq!(tell_lag(&views(&regions)), expected);
    }

    #[test]
    fn primaries_in_a_table() {
        let service = |name: &str, state: &str, region: Option<&str>| -> ServiceView {
            let primary = json!({
                "region": region, "epoch": 7, "region_epoch": 6, "state": state,
                "source": "reported", "confirmed": true, "since_unix_ms": 1, "mode": "follow",
                "highest_epoch": 7, "writes_in_flight": 0, "writes_left_over": 0
            });
            let service = json!({
                "name": name, "policy": "latency", "primary": primary, "endpoints": []
            });
            serde_json::from_value(service).unwrap()
        };
        let services = [
            service("app", "settled", Some("us")),
            service("pay", "contested", Some("eu")),
            service("log", "unknown", None),
        ];
        let expected = "\
SERVICE  PRIMARY    STATE      EPOCH  SAID BY   MODE
app      us         settled        7  reported  follow
pay      eu (last)  contested      7  reported  follow
log      -          unknown        7  reported  follow
";
        assert_eq!(tell_primaries(&services), expected);
    }

    #[test]
    fn certificates_are_told_of_where_there_are_some() {
        let view = |count, first_expiry_unix_s| CertificatesStatusView {
            count,
            first_expiry_unix_s,
            last_error: None,
            failing: BTreeMap::new(),
        };
        let failing = BTreeMap::from([("a.example".to_owned(), "it answered 500".to_owned())]);
        let said = tell_certificates(&CertificatesStatusView { failing, ..view(0, None) }, 5);
        let expected =
            "tls        certificates: none\n           a.example is NOT issued: it answered 500\n";
        assert_eq!(said, expected);
        assert_eq!(tell_certificates(&view(0, None), 5), "");
        let said = tell_certificates(&view(1, Some(864_005)), 5);
        assert_eq!(said, "tls        certificates: 1, it expires in 10 days\n");
    }

    #[test]
    fn a_refused_file_cannot_be_overlooked() {
        let status: StatusView = serde_json::from_value(json!({
            "edge": "edge-1", "version": "0.1.0", "revision": "abc", "generation": 7,
            "phase": "serving", "ready": true, "uptime_s": 200,
            "config": {"path": "/etc/m.toml", "hash": "00", "last_reload_unix_ms": 1,
                       "last_reload_ok": false, "last_error": "m.toml:3:1: unknown key"},
            "geo": {"path": null, "database_type": "country", "built_unix_s": 1,
                    "last_error": null},
            "certificates": {"count": 2, "first_expiry_unix_s": 1,
                             "last_error": "listeners[0].tls.certificates[1]: a\nb"},
            "history": {"kept": 1, "newest": 9, "not_written": 3, "last_error": "no space"},
            "alerts": {"webhook": "https://a:443", "delivered": 1, "failed": 2, "dropped": 3,
                       "waiting": 4, "last_error": "answered 500"},
            "writes": [{"service": "app", "state": "contested", "region": "us", "epoch": 4,
                        "since_unix_ms": 1, "parked": 2, "refused_1m": 7,
                        "turned_away_own_epoch": null, "troubles": ["no write goes through"]},
                       {"service": "log", "state": "settled", "region": "eu", "epoch": 0,
                        "since_unix_ms": 1, "parked": 0, "refused_1m": 0,
                        "turned_away_own_epoch": null, "troubles": []}],
            "operations": [{"id": 1, "operation": "switchover", "service": "app", "from": "us",
                            "to": "eu", "epoch": 4, "actor": "ann", "reason": "", "forced": false,
                            "state": "running", "started_unix_ms": 1, "took_ms": 1200,
                            "steps": [{"step": "catch-up", "at_ms": 40, "result": null}],
                            "timeout_ms": 9000, "paused_ms": 1100, "outcome": null,
                            "primary": null}],
            "counts": {"regions": 4, "services": 1, "routes": 2, "endpoints": 4,
                       "endpoints_healthy": 3, "endpoints_ejected": 1, "overrides": 0, "in_flight": 1, "connections": 9}
        }))
        .unwrap();
        let said = tell_status(&status);
        for part in [
            "ready, serving for 3 min",
            ", writes of app in TROUBLE\n",
            "app: NO primary, the last was us, epoch 4 (contested) for ",
            ", 2 wait, 7 REFUSED in the last minute\n           no write goes through\n",
            "log: eu is the primary, epoch 0 (settled) for ",
            "was REFUSED",
            "m.toml:3:1",
            "3 of 4 healthy, 1 ejected",
            "certificates: 2, the first has EXPIRED",
            "the files were REFUSED",
            "1 change of state kept, 3 NOT written\n           no space\n",
            "moving     app: switchover us -> eu by ann for 1.2 s, at catch-up\n",
            "https://a:443: 1 delivered, 2 failed, 3 dropped, 4 waiting\n           answered 500\n",
        ] {
            assert!(said.contains(part), "{part} is not in\n{said}");
        }
    }
}
