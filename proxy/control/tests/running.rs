//! A control plane that runs: probes, the admin endpoint, reload, certificates, state across restarts.

mod certificates;
mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use meridian_control::Phase;
use meridian_control::views::{
    ConfigView, DryRunView, ErrorView, EventView, ExplainView, MutationView, OverrideView,
    RegionView, ReloadView, RouteView, ServiceView, StatusView, ValueSource, VersionView,
};
use meridian_routing::EndpointHealth;
use serde_json::json;
use support::{Answer, Backend, Edge, Site, replace, two_regions, within};

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

fn site() -> (Site, Backend, Backend) {
    let (site, us, eu) = (Site::new(), Backend::start(), Backend::start());
    site.write(&two_regions(&us.address.to_string(), &eu.address.to_string()));
    (site, us, eu)
}

fn view<T: serde::de::DeserializeOwned>(answer: &Answer) -> T {
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

fn healths(edge: &Edge) -> Vec<EndpointHealth> {
    edge.table.load().services[0].endpoints.iter().map(|e| e.health).collect()
}

#[test]
fn everything_that_can_be_read_reads() {
    let (site, _us, eu) = site();
    eu.answers("200 OK", "", r#"{"role":"replica","epoch":1,"position":7,"lag_ms":1500}"#);
    let edge = site.start();
    assert_eq!(edge.get("/livez").status, 200);
    edge.await_ready();
    use EndpointHealth::Healthy;
    within(SECONDS(5), "healthy", || healths(&edge) == [Healthy, Healthy]);

    let status: StatusView = view(&edge.get("/api/v1/status"));
    assert!(status.ready && status.phase == Phase::Serving && status.config.last_reload_ok);
    assert_eq!((status.counts.regions, status.counts.endpoints_healthy), (2, 2));
    within(SECONDS(5), "lag is read", || {
        let regions: Vec<RegionView> = view(&edge.get("/api/v1/regions"));
        regions[1].services[0].lag_ms == Some(1500)
    });
    within(SECONDS(5), "round trips are measured", || {
        let regions: Vec<RegionView> = view(&edge.get("/api/v1/regions"));
        regions.iter().all(|region| region.measured && region.round_trip_ms.is_some())
    });
    let services: Vec<ServiceView> = view(&edge.get("/api/v1/services"));
    assert_eq!(services[0].endpoints[1].health, "healthy");
    let routes: Vec<RouteView> = view(&edge.get("/api/v1/routes"));
    assert_eq!((&*routes[0].path, &*routes[0].policy), ("/", "geo"));
    let config: ConfigView = view(&edge.get("/api/v1/config"));
    assert!(config.effective_toml.contains("[[services]]"));
    let version: VersionView = view(&edge.get("/version"));
    assert_eq!(version.version, "0.0.0-test");
    let metrics = edge.get("/metrics").body;
    for sample in [
        "meridian_endpoint_up{",
        "meridian_region_round_trip_seconds{region=\"eu\"}",
        "meridian_replication_lag_seconds{region=\"eu\",service=\"api\"} 1.5",
        "meridian_replication_lag_sample_age_seconds{",
        "meridian_in_flight{",
        "meridian_table_generation ",
        "meridian_config_last_reload_success 1",
        "meridian_config_last_reload_timestamp_seconds ",
        "meridian_build_info{revision=\"none\",version=\"0.0.0-test\"} 1",
        "process_resident_memory_bytes ",
    ] {
        let unordered =
            sample.replace("region=\"eu\",service=\"api\"", "service=\"api\",region=\"eu\"");
        let unordered = unordered.replace(
            "revision=\"none\",version=\"0.0.0-test\"",
            "version=\"0.0.0-test\",revision=\"none\"",
        );
        assert!(metrics.contains(sample) || metrics.contains(&unordered), "{sample}\n{metrics}");
    }
    edge.lifecycle.enter(Phase::LameDuck);
    let answer = edge.get("/readyz");
    assert!(answer.status == 503 && answer.body.contains("lame_duck"), "{answer:?}");
    assert_eq!(edge.get("/livez").status, 200);
}

#[test]
fn a_dead_endpoint_goes_and_comes_back() {
    let (site, us, eu) = site();
    let edge = site.start();
    use EndpointHealth::{Healthy, Unhealthy};
    within(SECONDS(5), "healthy", || healths(&edge) == [Healthy, Healthy]);
    eu.goes_down(true);
    within(SECONDS(5), "unhealthy", || healths(&edge) == [Healthy, Unhealthy]);
    us.answers("500 Oh", "", "no");
    within(SECONDS(5), "a bad status, too", || healths(&edge) == [Unhealthy, Unhealthy]);
    us.answers("200 OK", "", "fine");
    eu.goes_down(false);
    within(SECONDS(5), "healthy again", || healths(&edge) == [Healthy, Healthy]);
}

#[test]
fn an_override_is_in_effect_when_answered_and_survives_a_restart() {
    let (site, _us, _eu) = site();
    let edge = site.start();
    let body = json!({ "reason": "work on it", "ttl": "1h", "actor": "ann" }).to_string();
    let answer = edge.ask("PUT", "/api/v1/regions/eu/drain", "", &body);
    let drained: MutationView = view(&answer);
    let table = edge.table.load();
    assert!(table.regions[1].drain.value && table.generation >= drained.generation);
    assert!(drained.changed && drained.warnings.is_empty(), "{drained:?}");

    let answer = edge.ask("PUT", "/api/v1/regions/us/drain", "", "");
    let warned: MutationView = view(&answer);
    assert!(warned.warnings.iter().any(|w| w.contains("primary")), "{warned:?}");
    assert!(warned.warnings.iter().any(|w| w.contains("no region left")), "{warned:?}");
    let undrained: MutationView = view(&edge.ask("DELETE", "/api/v1/regions/us/drain", "", ""));
    assert!(undrained.changed && !edge.table.load().regions[0].drain.value);
    let again: MutationView = view(&edge.ask("DELETE", "/api/v1/regions/us/drain", "", ""));
    assert!(!again.changed);

    let address = edge.table.load().services[0].endpoints[0].key.address.to_string();
    let path = format!("/api/v1/endpoints/api/{}/weight", address.replace(':', "%3A"));
    let weighed: MutationView = view(&edge.ask("PUT", &path, "", r#"{"weight": 7}"#));
    assert!(weighed.changed);
    assert_eq!(edge.table.load().services[0].endpoints[0].weight.value, 7);
    drop(edge);

    let edge = site.start();
    let overrides: Vec<OverrideView> = view(&edge.get("/api/v1/overrides"));
    assert_eq!(overrides.len(), 2);
    let drain = overrides.iter().find(|o| o.kind == "drain").expect("is there");
    assert_eq!((drain.region.as_deref(), &*drain.reason), (Some("eu"), "work on it"));
    assert_eq!((&drain.value, &drain.file_value), (&json!(true), &json!(false)));
    assert!(drain.actor.starts_with("ann (admin@127.0.0.1"), "{drain:?}");
    assert!(drain.expires_unix_ms.is_some());
    let regions: Vec<RegionView> = view(&edge.get("/api/v1/regions"));
    assert!(regions[1].drain.value && regions[1].drain.source == ValueSource::Override);
    drop(edge);

    // A new value in the file beneath it ends the override.
    let text = std::fs::read_to_string(site.path("meridian.toml")).expect("reads");
    site.write(&text.replacen("country = \"IE\"", "country = \"IE\"\ndrain = true", 1));
    let edge = site.start();
    let overrides: Vec<OverrideView> = view(&edge.get("/api/v1/overrides"));
    assert_eq!(overrides.len(), 1);
    assert_eq!(overrides[0].kind, "weight");
}

#[test]
fn an_override_expires() {
    let (site, _us, _eu) = site();
    let edge = site.start();
    let _: MutationView =
        view(&edge.ask("PUT", "/api/v1/regions/eu/weight", "", r#"{"weight":1,"ttl":1}"#));
    assert_eq!(edge.table.load().regions[1].weight.value, 1);
    within(SECONDS(5), "expired", || edge.table.load().regions[1].weight.value == 100);
    within(SECONDS(5), "saved", || {
        let saved = site.path("meridian-state/overrides.json");
        std::fs::read_to_string(saved).is_ok_and(|text| !text.contains("weight"))
    });
}

#[test]
fn what_is_asked_wrongly_is_refused_and_changes_nothing() {
    let (site, _us, _eu) = site();
    let edge = site.start();
    let drain = "/api/v1/regions/eu/drain";
    for (method, path, headers, body, status, code) in [
        ("GET", "/nothing", "", "", 404, "not_found"),
        ("GET", "/api/v1/regions/eu", "", "", 404, "not_found"),
        ("POST", "/api/v1/status", "", "", 405, "method_not_allowed"),
        ("GET", drain, "", "", 405, "method_not_allowed"),
        ("PUT", "/api/v1/regions/mars/drain", "", "", 404, "not_found"),
        ("DELETE", "/api/v1/regions/mars/drain", "", "", 404, "not_found"),
        ("PUT", "/api/v1/endpoints/api/1.1.1.1:1/drain", "", "", 404, "not_found"),
        ("PUT", drain, "", r#"{"reson": "typo"}"#, 400, "bad_request"),
        ("PUT", drain, "", r#"{"ttl": "soon"}"#, 400, "bad_request"),
        ("PUT", drain, "", "[", 400, "bad_request"),
        ("PUT", "/api/v1/regions/eu/weight", "", r#"{"weight": 65536}"#, 400, "bad_request"),
        ("PUT", "/api/v1/regions/eu/weight", "", "", 400, "bad_request"),
        ("PUT", drain, "host: evil.example\r\n", "", 403, "forbidden"),
        ("PUT", drain, "origin: http://evil.example\r\n", "", 403, "forbidden"),
        ("POST", "/api/v1/explain", "", r#"{"client": "here"}"#, 400, "bad_request"),
        ("POST", "/api/v1/primary", "", "{}", 400, "bad_request"),
        ("POST", "/api/v1/primary", "", r#"{"region": "mars", "reason": "x"}"#, 404, "not_found"),
        ("POST", "/api/v1/services/x/failover", "", "", 404, "not_found"),
        ("POST", "/api/v1/services/api/failover", "", r#"{"forse": true}"#, 400, "bad_request"),
        ("POST", "/api/v1/services/api/failback", "", r#"{"timeout": "0s"}"#, 400, "bad_request"),
        ("POST", "/api/v1/services/api/failover", "", r#"{"to": "us"}"#, 409, "refused"),
        ("GET", "/api/v1/services/api/operation", "", "", 404, "not_found"),
        ("DELETE", "/api/v1/services/api/operation", "", "", 404, "not_found"),
        ("GET", "/api/v1/history?sice=1h", "", "", 400, "bad_request"),
        ("GET", "/api/v1/history?limit=0", "", "", 400, "bad_request"),
        ("POST", "/api/v1/history", "", "", 405, "method_not_allowed"),
    ] {
        let answer = edge.ask(method, path, headers, body);
        assert_eq!((answer.status, &*answer.code()), (status, code), "{method} {path} {body}");
        let _: ErrorView = serde_json::from_str(&answer.body).expect("an error in one shape");
    }
    let answer = edge.ask("GET", drain, "", "");
    assert!(answer.head.contains("allow: put, delete"), "{answer:?}");
    let large = format!("{{\"reason\": \"{}\"}}", "x".repeat(70_000));
    assert_eq!(edge.ask("PUT", drain, "", &large).status, 413);
    let overrides: Vec<OverrideView> = view(&edge.get("/api/v1/overrides"));
    assert_eq!(overrides, []);
}

#[test]
fn a_dry_run_tells_and_does_nothing() {
    let (site, _us, _eu) = site();
    let edge = site.start();
    let body = r#"{"dry_run": true}"#;
    let told: DryRunView = view(&edge.ask("PUT", "/api/v1/regions/us/drain", "", body));
    assert_eq!(told.regions_left, ["eu"]);
    assert_eq!(told.services["api"], ["eu"]);
    assert!(told.services_without_region.is_empty() && told.share_without_region == 0.0);
    assert!(told.warnings.iter().any(|w| w.contains("primary")), "{told:?}");
    assert!(!edge.table.load().regions[0].drain.value);
    let unknown = edge.ask("PUT", "/api/v1/regions/mars/drain", "", body);
    assert_eq!(unknown.status, 404);
}

#[test]
fn a_dry_run_tells_whom_residency_leaves_without_a_region() {
    let (site, us, eu) = (Site::new(), Backend::start(), Backend::start());
    let text = two_regions(&us.address.to_string(), &eu.address.to_string());
    site.write(&format!(
        "{text}\n[[routes]]\nname = \"eu\"\npath_prefix = \"/eu\"\nservice = \"api\"\naccess = \"read\"\n\
         residency = {{ regions = [\"eu\"], subject = [\"EU\"] }}\n"
    ));
    let edge = site.start();
    let body = r#"{"dry_run": true}"#;
    let told: DryRunView = view(&edge.ask("PUT", "/api/v1/regions/eu/drain", "", body));
    assert_eq!(told.services["api"], ["us"], "the service has another region");
    assert_eq!(told.routes_without_region, ["eu"]);
    assert_eq!(told.share_without_region, 0.5);
    assert!(told.warnings.iter().any(|w| w.contains("residency binds")), "{told:?}");
    let told: DryRunView = view(&edge.ask("PUT", "/api/v1/regions/us/drain", "", body));
    assert!(told.routes_without_region.is_empty(), "{told:?}");
    let done: MutationView = view(&edge.ask("PUT", "/api/v1/regions/eu/drain", "", "{}"));
    assert!(done.warnings.iter().any(|w| w.contains("residency binds")), "{done:?}");
}

#[test]
fn explain_names_candidates_and_reasons() {
    let (site, _us, _eu) = site();
    let edge = site.start();
    edge.await_ready();
    let ask = |body: serde_json::Value| -> ExplainView {
        view(&edge.ask("POST", "/api/v1/explain", "", &body.to_string()))
    };
    // An address that the embedded database has in Germany.
    let told = ask(json!({ "method": "GET", "path": "/x?y", "client": "88.198.0.1" }));
    assert_eq!(told.client.country.as_deref(), Some("DE"));
    assert_eq!(told.candidates.len(), 2);
    let told = ask(json!({ "method": "POST" }));
    let decision = told.decision.expect("decided");
    assert_eq!((&*decision.region, &*decision.reason), ("us", "primary-for-write"));
    let eu = told.candidates.iter().find(|c| c.region == "eu").expect("is there");
    assert_eq!(eu.excluded_by.as_deref(), Some("role"));
}

#[test]
fn a_good_file_is_taken_and_a_bad_one_changes_nothing() {
    let (site, us, eu) = site();
    let edge = site.start();
    let file = site.path("meridian.toml");
    let text = two_regions(&us.address.to_string(), &eu.address.to_string());
    let weight = |edge: &Edge| edge.table.load().regions[1].weight.value;
    let with_weight = |weight: u32| {
        text.replacen("country = \"IE\"", &format!("country = \"IE\"\nweight = {weight}"), 1)
    };

    replace(&file, &with_weight(11));
    within(SECONDS(4), "a rename is seen", || weight(&edge) == 11);
    std::fs::write(&file, with_weight(12)).expect("writes");
    within(SECONDS(4), "a write in place is seen", || weight(&edge) == 12);

    replace(&file, "[[regions]\nbroken");
    within(SECONDS(4), "told as failed", || {
        edge.get("/metrics").body.contains("meridian_config_last_reload_success 0")
    });
    let answer = edge.ask("POST", "/api/v1/reload", "", "");
    assert_eq!((answer.status, &*answer.code()), (422, "config_invalid"), "{answer:?}");
    let status: StatusView = view(&edge.get("/api/v1/status"));
    assert!(!status.config.last_reload_ok && status.config.last_error.is_some());
    std::fs::remove_file(&file).expect("removes");
    let answer = edge.ask("POST", "/api/v1/reload", "", "");
    assert_eq!((answer.status, &*answer.code()), (422, "config_unreadable"), "{answer:?}");
    assert_eq!(weight(&edge), 12);

    replace(&file, &with_weight(12).replace("127.0.0.1:8080", "127.0.0.1:8081"));
    let answer = edge.ask("POST", "/api/v1/reload", "", "");
    assert_eq!((answer.status, &*answer.code()), (409, "static_keys"), "{answer:?}");
    assert!(answer.body.contains("listeners"), "{answer:?}");
    assert_eq!(weight(&edge), 12);

    replace(&file, &with_weight(13));
    let answer = edge.ask("POST", "/api/v1/reload", "", "");
    let reloaded: ReloadView = view(&answer);
    // The watch may have been quicker.
    assert!(weight(&edge) == 13 && reloaded.generation >= 4, "{reloaded:?}");
    let unchanged: ReloadView = view(&edge.ask("POST", "/api/v1/reload", "", ""));
    assert!(!unchanged.changed, "{unchanged:?}");
    assert!(edge.get("/metrics").body.contains("meridian_config_last_reload_success 1"));
}

#[test]
fn a_broken_file_at_start_is_an_error_unless_the_last_good_one_is_asked_for() {
    let (site, _us, _eu) = site();
    assert!(site.try_start(true).is_ok(), "a good file needs no other");
    let good = std::fs::read_to_string(site.path("meridian.toml")).expect("reads");
    site.write("[[regions]\nbroken");
    assert!(site.try_start(false).is_err());
    let edge = site.try_start(true).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(edge.table.load().regions.len(), 2);
    let status: StatusView = view(&edge.get("/api/v1/status"));
    assert!(!status.config.last_reload_ok, "{status:?}");
    replace(&site.path("meridian.toml"), &good);
    within(SECONDS(8), "mended", || {
        let status: StatusView = view(&edge.get("/api/v1/status"));
        status.config.last_reload_ok
    });
}

#[test]
fn tokens_have_roles_and_probes_need_none() {
    let (site, _us, _eu) = site();
    let text = std::fs::read_to_string(site.path("meridian.toml")).expect("reads");
    std::fs::write(site.path("r.token"), "reader-secret-0123456789abcdef\n").expect("writes");
    std::fs::write(site.path("o.token"), "operator-secret-0123456789abcdef\n").expect("writes");
    let tokens = "[admin]\ntokens = [{ role = \"read\", token_file = \"r.token\" }, \
                  { role = \"operator\", token_file = \"o.token\" }]\n";
    site.write(&text.replacen("[admin]\n", tokens, 1));
    let edge = site.start();
    let ask = |method: &str, path: &str, token: &str| {
        let header = format!("authorization: Bearer {token}\r\n");
        edge.ask(method, path, &header, "").status
    };
    let (reader, operator) = ("reader-secret-0123456789abcdef", "operator-secret-0123456789abcdef");
    assert_eq!(ask("GET", "/livez", "wrong"), 200);
    assert_eq!(ask("GET", "/metrics", "wrong"), 200);
    assert_eq!(ask("GET", "/api/v1/status", "wrong"), 401);
    assert_eq!(ask("GET", "/nothing", "wrong"), 401);
    assert_eq!(ask("GET", "/api/v1/status", reader), 200);
    assert_eq!(ask("PUT", "/api/v1/regions/eu/drain", reader), 403);
    assert_eq!(ask("PUT", "/api/v1/regions/eu/drain", operator), 200);
    let header = format!("authorization: Bearer {reader}\r\n");
    let config = edge.ask("GET", "/api/v1/config", &header, "");
    assert!(config.status == 200 && !config.body.contains("secret-0123"), "{config:?}");
}

#[test]
fn events_are_told_as_they_happen() {
    let (site, _us, _eu) = site();
    let edge = site.start();
    let mut stream = TcpStream::connect(edge.admin).expect("connects");
    stream.set_read_timeout(Some(SECONDS(10))).expect("sets");
    let request = "GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("writes");
    let mut lines = BufReader::new(stream).lines().map(|line| line.expect("a line"));
    assert!(lines.by_ref().any(|line| line.starts_with(": connected")));
    edge.ask("PUT", "/api/v1/regions/eu/drain", "", "");
    let data = lines.find_map(|line| {
        let event: EventView = serde_json::from_str(line.strip_prefix("data: ")?).ok()?;
        (event.kind == "override_set").then_some(event)
    });
    let event = data.expect("told");
    assert_eq!(event.data["value"], json!(true));
    assert_eq!(event.generation, Some(edge.table.load().generation));
}

#[test]
fn names_are_resolved_in_the_background() {
    let (site, us, eu) = site();
    let named = format!("localhost:{}", eu.address.port());
    site.write(&two_regions(&us.address.to_string(), &named));
    let edge = site.start();
    within(SECONDS(10), "resolved", || {
        let table = edge.table.load();
        let addresses = &table.services[0].endpoints[1].addresses;
        addresses.iter().any(|address| address.ip().is_loopback())
    });
    within(SECONDS(5), "probed by name", || healths(&edge)[1] == EndpointHealth::Healthy);
}
