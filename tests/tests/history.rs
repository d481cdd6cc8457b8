//! The history of regions: what has happened, why, by whom, how long and at what cost.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use meridian_tests::{Ask, Backend, Meridian, Process, Signal, by_priority, eventually, regions};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
const US: &str = "us-east-1";
const WEST: &str = "us-west-2";

fn get(edge: &Meridian) -> u16 {
    Ask::get("/r").send(&mut edge.client()).status
}

fn drain(edge: &Meridian, region: &str, body: &Value) {
    let answer = edge.admin().put(&format!("/api/v1/regions/{region}/drain"), body);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn file(edge: &Meridian) -> PathBuf {
    edge.dir().join("state/history.jsonl")
}

#[test]
fn a_region_that_dies_is_told_with_evidence_cost_and_duration() {
    let (one, other, west) = (Backend::start(US), Backend::start(US), Backend::start(WEST));
    let edge = Meridian::start(&by_priority(&[&one, &other, &west]));
    edge.became(US, "healthy");
    edge.became(WEST, "healthy");
    assert_eq!(get(&edge), 200);
    one.kill();
    other.kill();
    let begun = Instant::now();
    // Until the edge knows, requests fail there and are tried elsewhere.
    let asked_before = (0..5).filter(|_| get(&edge) == 200).count();
    assert_eq!(asked_before, 5);
    let down = edge.became(US, "down");
    assert_eq!((&down["service"], &down["cause"]), (&json!("api"), &json!("health")), "{down:#}");
    let evidence = down["evidence"].as_str().expect("a text");
    assert!(evidence.starts_with("2 of 2 endpoints down: "), "{evidence}");
    for backend in [&one, &other] {
        let address = backend.address().to_string();
        assert!(evidence.contains(&address), "{evidence}");
    }
    assert!(evidence.to_lowercase().contains("connection refused"), "{evidence}");
    assert_eq!((&down["actor"], &down["moved_to"]), (&json!("meridian"), &json!(WEST)));
    for _ in 0..7 {
        assert_eq!(get(&edge), 200);
    }
    assert_eq!(Ask::post("/w", "x").send(&mut edge.client()).status, 503, "no primary");
    one.revive();
    other.revive();
    let up = edge.became(US, "healthy");
    let so_long = begun.elapsed().as_millis() as u64;
    let lasted = up["lasted_ms"].as_u64().expect("a duration");
    assert!(lasted > 0 && lasted <= so_long, "{lasted} of {so_long}");
    eventually("all of it is told", SOON, || {
        let events = edge.history(&format!("region={US}"));
        let out = events.iter().filter(|e| e["from"] == "down" || e["from"] == "degraded");
        let sum = |name: &str| -> u64 {
            out.clone().filter_map(|event| event["affected"][name].as_u64()).sum()
        };
        // What came while it was down went elsewhere, or was refused.
        sum("spilled") >= 7 && sum("refused") == 1
    });
    let failed: u64 = edge
        .history(&format!("region={US}"))
        .iter()
        .filter_map(|event| event["affected"]["failed"].as_u64())
        .sum();
    let retried = edge.admin().metric_sum("meridian_retries_total", &[]) as u64;
    assert_eq!(failed, retried, "every attempt that failed was repeated");
    let failovers = edge.admin().metric_sum("meridian_failovers_total", &[US, WEST, "health"]);
    assert_eq!(failovers, 1.0);
    let changes = [US, "to=\"down\"", "cause=\"health\""];
    assert_eq!(edge.admin().metric_sum("meridian_region_state_changes_total", &changes), 1.0);
}

#[test]
fn an_ejection_is_told_with_its_evidence() {
    let (one, other) = (Backend::start(US), Backend::start(US));
    let endpoints = [(US, one.address()), (US, other.address())];
    let service = "balance = \"round_robin\"\nhealth.kind = \"none\"\n";
    let middle = regions(&endpoints, service);
    let route = "[[routes]]\nname = \"all\"\nservice = \"api\"\n";
    let edge = Meridian::start(&format!("{middle}{route}"));
    one.kill();
    assert!((0..12).all(|_| get(&edge) == 200));
    let degraded = edge.became(US, "degraded");
    let evidence = degraded["evidence"].as_str().expect("a text");
    let expected = format!("{} ejected: 3 connection failures in a row", one.address());
    assert!(evidence.contains(&expected), "{evidence}");
}

#[test]
fn the_operator_is_named_and_filters_and_pages_hold() {
    let (us, west) = (Backend::start(US), Backend::start(WEST));
    let edge = Meridian::start(&by_priority(&[&us, &west]));
    edge.became(US, "healthy");
    edge.became(WEST, "healthy");
    drain(&edge, WEST, &json!({ "reason": "kernel update", "actor": "alice" }));
    let drained = edge.became(WEST, "drained");
    assert_eq!((&drained["cause"], &drained["from"]), (&json!("operator"), &json!("healthy")));
    let actor = drained["actor"].as_str().expect("an actor");
    assert!(actor.starts_with("alice ("), "{actor}");
    let evidence = drained["evidence"].as_str().expect("a text");
    assert!(evidence.contains("drained region us-west-2: kernel update"), "{evidence}");
    let path = format!("/api/v1/regions/{WEST}/weight");
    assert_eq!(edge.admin().put(&path, &json!({ "weight": 7 })).status, 200);
    let weighed = edge.became(WEST, "7");
    assert_eq!((&weighed["kind"], &weighed["from"]), (&json!("weight"), &json!("100")));

    let all = edge.history("");
    let numbers: Vec<_> = all.iter().filter_map(|event| event["seq"].as_u64()).collect();
    assert_eq!(numbers, (1..=4).collect::<Vec<_>>(), "{all:#?}");
    assert_eq!(edge.history(&format!("region={US}")).len(), 1);
    assert_eq!(edge.history("service=api").len(), 4, "a weight concerns every service");
    assert_eq!(edge.history("service=nobody").len(), 1);
    assert_eq!(edge.history("since=1h").len(), 4);
    let page = |query: &str| {
        let view = edge.admin().json(&format!("/api/v1/history?{query}"));
        let events = view["events"].as_array().expect("a list").iter();
        let numbers: Vec<_> = events.filter_map(|event| event["seq"].as_u64()).collect();
        (numbers, view["more"] == true)
    };
    assert_eq!(page("limit=2"), (vec![3, 4], true));
    assert_eq!(page("limit=2&before=3"), (vec![1, 2], false));
    assert_eq!(page("limit=3&after=0"), (vec![1, 2, 3], true));
    assert_eq!(page("limit=3&after=3"), (vec![4], false));
    for bad in ["since=soon", "limit=0", "sort=up", "limit=5&limit=5", "after=x"] {
        let answer = edge.admin().get(&format!("/api/v1/history?{bad}"));
        assert_eq!(answer.status, 400, "{bad}: {}", answer.text());
    }
    // The same on the command line.
    let said = |args: &[&str]| {
        let output = edge.cli(&[&["history"], args].concat());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text + &String::from_utf8_lossy(&output.stderr))
    };
    let (code, table) = said(&[]);
    assert_eq!((code, table.lines().count()), (Some(0), 5), "{table}");
    for part in ["healthy -> drained", "weight 100 -> 7", "kernel update", "alice ("] {
        assert!(table.contains(part), "{part}: {table}");
    }
    assert_eq!(said(&["--region", US]).1.lines().count(), 2);
    assert!(said(&["--limit", "1"]).1.contains("older ones were left out"));
    for args in [&["--json"][..], &["-o", "json"]] {
        let view: Value = serde_json::from_str(&said(args).1).expect("JSON");
        assert_eq!(view["events"], Value::from(all.clone()), "exactly what the edge answers");
    }
    assert_eq!(said(&["--since", "soon"]).0, Some(1));
    assert_eq!(said(&["--limit", "0"]).0, Some(2));
    let status = edge.cli(&["status"]);
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains("4 changes of state kept\n"), "{status}");
}

#[test]
fn history_is_followed() {
    let (us, west) = (Backend::start(US), Backend::start(WEST));
    let edge = Meridian::start(&by_priority(&[&us, &west]));
    edge.became(US, "healthy");
    edge.became(WEST, "healthy");
    let admin = edge.admin().address().to_string();
    let args = ["history", "--follow", "--admin", &admin];
    let lines = Process::start(&args, edge.dir());
    let filtered = [&args[..], &["--region", US, "--json"]].concat();
    let objects = Process::start(&filtered, edge.dir());
    eventually("what was is told", SOON, || {
        lines.stdout().contains("#2") && objects.stdout().contains(US)
    });
    drain(&edge, WEST, &json!({ "reason": "to be seen" }));
    drain(&edge, US, &json!({}));
    eventually("what comes is told", SOON, || {
        lines.stdout().contains("#4") && objects.stdout().lines().count() == 2
    });
    let told = lines.stdout();
    let numbers: Vec<_> = told.lines().filter_map(|line| line.split("  ").nth(1)).collect();
    assert_eq!(numbers, ["#1", "#2", "#3", "#4"], "each once, in order: {told}");
    assert!(told.contains("us-west-2: api healthy -> drained") && told.contains("to be seen"));
    for line in objects.stdout().lines() {
        let event: Value = serde_json::from_str(line).expect("an object a line");
        assert_eq!(event["region"], US);
    }
}

#[test]
fn a_restart_keeps_the_history_and_a_torn_line_costs_itself_only() {
    let (us, west) = (Backend::start(US), Backend::start(WEST));
    let mut edge = Meridian::start(&by_priority(&[&us, &west]));
    edge.became(US, "healthy");
    edge.became(WEST, "healthy");
    drain(&edge, WEST, &json!({ "actor": "alice" }));
    let before = edge.history("");
    edge.restart();
    let after = edge.history(&format!("before={}", before.len() + 1));
    assert_eq!(after, before, "as it was");
    let out = edge.cli(&["history"]);
    assert!(String::from_utf8_lossy(&out.stdout).contains("alice ("), "{out:?}");
    edge.became(US, "healthy");
    eventually("numbers go on", SOON, || edge.history("").len() > before.len());
    let numbers: Vec<_> = edge.history("").iter().filter_map(|e| e["seq"].as_u64()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());

    // Killed in the middle of a line.
    eventually("it is written", SOON, || {
        let written = fs::read_to_string(file(&edge)).unwrap_or_default();
        written.lines().count() == numbers.len()
    });
    edge.signal(Signal::KILL);
    edge.wait_exit();
    let whole = fs::read_to_string(file(&edge)).expect("reads");
    let torn = format!("{whole}{}", &whole[..whole.len() / 3]);
    fs::write(file(&edge), torn.trim_end_matches('\n')).expect("writes");
    edge.start_again();
    assert!(edge.history("").len() >= numbers.len());
    edge.became(US, "healthy");
    eventually("whole lines again", SOON, || {
        let text = fs::read_to_string(file(&edge)).expect("reads");
        let parsed: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
        text.ends_with('\n') && parsed.is_ok_and(|lines| lines.len() > numbers.len())
    });
}

#[test]
fn a_full_disk_costs_lines_and_nothing_else() {
    let (us, west) = (Backend::start(US), Backend::start(WEST));
    let mut edge = Meridian::start(&by_priority(&[&us, &west]));
    edge.became(US, "healthy");
    edge.signal(Signal::TERM);
    edge.wait_exit();
    fs::remove_file(file(&edge)).expect("it was written");
    std::os::unix::fs::symlink("/dev/full", file(&edge)).expect("links");
    edge.start_again();
    edge.became(US, "healthy");
    us.kill();
    edge.became(US, "down");
    assert_eq!(get(&edge), 200, "it serves");
    drain(&edge, WEST, &json!({}));
    edge.became(WEST, "drained");
    assert_eq!(edge.admin().delete(&format!("/api/v1/regions/{WEST}/drain")).status, 200);
    assert_eq!(get(&edge), 200);
    let events = edge.history("").len() as u64;
    eventually("every line is counted", SOON, || {
        edge.admin().metric("meridian_history_dropped_total") == Some(events as f64)
    });
    let status = edge.admin().json("/api/v1/status");
    assert_eq!(status["history"]["not_written"], events);
    let why = status["history"]["last_error"].as_str().expect("why");
    assert!(why.contains("No space left"), "{why}");
    let said = edge.cli(&["status"]);
    assert!(String::from_utf8_lossy(&said.stdout).contains("NOT written"), "{said:?}");
    // There is room again.
    fs::remove_file(file(&edge)).expect("removes");
    drain(&edge, WEST, &json!({}));
    eventually("it is written again", SOON, || {
        fs::read_to_string(file(&edge)).is_ok_and(|text| text.lines().count() == 1)
    });
    assert_eq!(edge.admin().json("/api/v1/status")["history"]["last_error"], Value::Null);
}

#[test]
fn a_disk_that_hangs_holds_up_neither_requests_nor_the_operator_nor_the_end() {
    let (us, west) = (Backend::start(US), Backend::start(WEST));
    let mut edge = Meridian::launch(&by_priority(&[&us, &west]), &[]);
    edge.wait_ready();
    edge.signal(Signal::TERM);
    edge.wait_exit();
    fs::remove_file(file(&edge)).expect("it was written");
    let made = Command::new("mkfifo").arg(file(&edge)).status().expect("mkfifo");
    assert!(made.success());
    edge.start_again();
    // Whoever opens a pipe that nobody reads waits for ever.
    for turn in 0..1500 {
        let path = format!("/api/v1/regions/{WEST}/weight");
        let answer = edge.admin().put(&path, &json!({ "weight": turn }));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(get(&edge), 200);
    let dropped = edge.admin().metric("meridian_history_dropped_total").expect("a count");
    assert!(dropped > 400.0, "{dropped}");
    assert_eq!(edge.history("").len(), 1000, "the ring is bounded");
    edge.signal(Signal::TERM);
    assert!(edge.wait_exit().success());
}

#[test]
fn a_reload_that_moves_the_primary_is_told() {
    let (us, west) = (Backend::start(US), Backend::start(WEST));
    let good = by_priority(&[&us, &west]);
    let edge = Meridian::start(&good);
    edge.became(US, "healthy");
    edge.became(WEST, "healthy");
    let moved = good
        .replace("role = \"primary\"", "role = \"other\"")
        .replace("role = \"replica\"", "role = \"primary\"")
        .replace("role = \"other\"", "role = \"replica\"");
    assert_eq!(edge.reload(&moved).status, 200);
    let event = edge.became(WEST, WEST);
    assert_eq!((&event["kind"], &event["from"]), (&json!("primary"), &json!(US)), "{event:#}");
    assert_eq!(event["cause"], "configuration");
    let evidence = event["evidence"].as_str().expect("a text");
    assert!(evidence.starts_with("configuration reloaded, digest "), "{evidence}");
    let labels = ["from=\"us-east-1\"", "to=\"us-west-2\"", "cause=\"configuration\""];
    assert_eq!(edge.admin().metric_sum("meridian_failovers_total", &labels), 1.0);
    let seen = edge.history("").len();
    assert_eq!(edge.reload(&good.replace("[[routes]]", "\n[[routes]]")).status, 200);
    eventually("and back", SOON, || edge.history("").len() == seen + 1);
    assert_eq!(edge.reload(&good.replace("name = \"all\"", "name = \"every\"")).status, 200);
    assert_eq!(edge.history("").len(), seen + 1, "a reload that changes no region is no event");
}

#[test]
fn history_needs_the_role_that_reads() {
    let (us, west) = (Backend::start(US), Backend::start(WEST));
    let keys = tempfile::tempdir().expect("a directory");
    fs::write(keys.path().join("r"), "reader-secret-0123456789\n").expect("writes");
    let tokens = format!(
        "[admin]\ntokens = [{{ role = \"read\", token_file = \"{}/r\" }}]\n",
        keys.path().display()
    );
    let edge = Meridian::start(&format!("{tokens}{}", by_priority(&[&us, &west])));
    assert_eq!(edge.admin().get("/api/v1/history").status, 401);
    let reader = edge.admin().token("reader-secret-0123456789");
    assert_eq!(reader.get("/api/v1/history").status, 200);
    assert_eq!(reader.post("/api/v1/history", &json!({})).status, 405);
}
