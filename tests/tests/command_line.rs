//! The command line, as an operator uses it on a running edge and on files.

use std::fs;
use std::process::Output;
use std::time::Duration;

use meridian_tests::{Backend, Meridian, Process, eventually, regions, run};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(15);
const US: &str = "us-east-1";
const EU: &str = "eu-west-1";

fn text(backends: &[Backend; 2], service: &str) -> String {
    let endpoints = backends.each_ref().map(|b| (b.name(), b.address()));
    format!("{}[[routes]]\nname = \"all\"\nservice = \"api\"\n", regions(&endpoints, service))
}

/// Exit code, standard output, standard error.
fn outcome(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
}

/// Standard output of a command that must succeed.
#[track_caller]
fn said(edge: &Meridian, args: &[&str]) -> String {
    let (code, out, err) = outcome(edge.cli(args));
    assert_eq!(code, 0, "{args:?}: {out}{err}");
    assert_eq!(err, "", "{args:?}");
    out
}

/// The same as JSON.
#[track_caller]
fn told(edge: &Meridian, args: &[&str]) -> Value {
    let out = said(edge, &[args, &["--output", "json"]].concat());
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{args:?}: {error}: {out}"))
}

#[test]
fn an_edge_is_shown_in_tables_and_in_json() {
    let backends = [US, EU].map(Backend::start);
    backends[1].set(|_| meridian_tests::Answer::ok("{\"role\": \"replica\", \"lag_ms\": 1500}"));
    let service = "[services.replication]\nsource = \"status\"\ninterval = \"100ms\"";
    let edge = Meridian::start(&text(&backends, service));
    let admin = edge.admin();
    eventually("the lag is known", SOON, || said(&edge, &["lag"]).contains("1.5 s"));
    let status = said(&edge, &["status"]);
    for part in ["ready", "2 regions", "1 services", "2 of 2 healthy", "meridian.toml is in force"]
    {
        assert!(status.contains(part), "{part}: {status}");
    }
    assert_eq!(said(&edge, &["status", "--quiet"]), "");
    let regions = said(&edge, &["regions"]);
    let lines: Vec<_> = regions.lines().collect();
    assert!(lines[0].starts_with("REGION"), "{regions}");
    assert!(lines[1].starts_with(US) && lines[1].contains("primary"), "{regions}");
    assert!(lines[2].starts_with(EU) && lines[2].contains("replica"), "{regions}");
    assert!(lines[2].contains("1 of 1"), "{regions}");
    // What programs get is what the endpoint says.
    let regions = told(&edge, &["regions"]);
    assert_eq!(regions[1]["id"], EU);
    assert_eq!(regions[1]["services"][0]["lag_ms"], 1500);
    assert_eq!(told(&edge, &["status"])["config"], admin.json("/api/v1/status")["config"]);
    let lag = told(&edge, &["lag"]).to_string();
    assert!(lag.contains(EU) && lag.contains("1500"), "{lag}");
}

#[test]
fn an_edge_is_steered() {
    let backends = [US, EU].map(Backend::start);
    let edge = Meridian::start(&text(&backends, "policy = \"geo\""));
    let region = |index: usize| edge.admin().json("/api/v1/regions")[index].clone();
    assert!(said(&edge, &["drain", EU, "--dry-run"]).contains("Nothing was changed"));
    assert_eq!(region(1)["drain"]["value"], false);
    let drained = said(&edge, &["drain", EU, "--reason", "disks", "--ttl", "3600"]);
    assert!(drained.contains("is drained for 3600s") && drained.contains("in effect"), "{drained}");
    assert_eq!(region(1)["drain"], json!({ "value": true, "source": "override" }));
    let overrides = edge.admin().json("/api/v1/overrides");
    assert_eq!(overrides[0]["reason"], "disks");
    let hour = overrides[0]["expires_unix_ms"].as_u64().expect("a time")
        - overrides[0]["created_unix_ms"].as_u64().expect("a time");
    assert_eq!(hour, 3_600_000);
    assert!(said(&edge, &["regions"]).contains("drained*"));
    let explained = said(&edge, &["explain", "/x", "--client", "193.1.1.1"]);
    assert!(explained.contains("Ireland") && explained.contains("it is drained"), "{explained}");
    assert!(explained.contains(&format!("It goes to {US}")), "{explained}");
    let explained = told(&edge, &["explain", "/x", "-m", "POST"]);
    assert_eq!(explained["access"], "write");
    assert_eq!(explained["decision"]["region"], US);
    said(&edge, &["undrain", EU]);
    assert_eq!(region(1)["drain"], json!({ "value": false, "source": "file" }));

    let endpoint = format!("api/{}", backends[0].address());
    let changed = told(&edge, &["weight", &endpoint, "250"]);
    assert_eq!(changed["changed"], true);
    let services = edge.admin().json("/api/v1/services");
    assert_eq!(services[0]["endpoints"][0]["weight"]["value"], 250);
    said(&edge, &["weight", &endpoint, "--reset"]);
    said(&edge, &["weight", US, "0"]);
    assert_eq!(region(0)["weight"]["value"], 0);
    said(&edge, &["weight", US, "--reset"]);
    assert_eq!(region(0)["weight"], json!({ "value": 100, "source": "file" }));
    // Taking the only primary away is said aloud, but done.
    let warned = said(&edge, &["drain", US]);
    assert!(warned.contains("warning") && warned.contains("writes are refused"), "{warned}");
    assert!(said(&edge, &["explain", "-m", "POST"]).contains("It is refused with 503"));
}

#[test]
fn failures_are_1_and_misuse_is_2() {
    let backends = [US, EU].map(Backend::start);
    let edge = Meridian::start(&text(&backends, ""));
    for args in [
        &["drain", "mars"][..],
        &["undrain", "mars"],
        &["drain", "api/127.0.0.1:1"],
        &["drain", "nope/127.0.0.1:1"],
        &["weight", "mars", "5"],
    ] {
        let (code, out, err) = outcome(edge.cli(args));
        assert_eq!((code, &*out), (1, ""), "{args:?}: {err}");
        assert!(err.starts_with("meridian: there is no") || err.contains("has no"), "{err}");
    }
    for args in [
        &["drain"][..],
        &["weight", US],
        &["weight", US, "65536"],
        &["weight", US, "-1"],
        &["weight", US, "5", "--reset"],
        &["explain", "--client", "nobody"],
        &["regions", "--output", "xml"],
        &["frobnicate"],
    ] {
        let (code, out, err) = outcome(edge.cli(args));
        assert_eq!((code, &*out), (2, ""), "{args:?}: {err}");
        assert!(!err.is_empty(), "{args:?}");
    }
    assert_eq!(edge.admin().json("/api/v1/overrides"), json!([]));
    // Nobody there.
    let nobody = meridian_tests::free_address().to_string();
    let output = run(&["status", "--admin", &nobody], edge.dir());
    let (code, out, err) = outcome(output);
    assert_eq!((code, &*out), (1, ""), "{err}");
    assert!(err.contains(&nobody), "{err}");
    // A primary that cannot be moved is no success.
    for what in ["failover", "failback", "switchover"] {
        let (code, out, err) = outcome(edge.cli(&[what]));
        assert_eq!((code, &*out), (1, ""), "{what}: {err}");
        assert!(err.contains("(refused)"), "{what}: {err}");
    }
}

#[test]
fn a_reload_says_what_came_of_it() {
    let backends = [US, EU].map(Backend::start);
    let good = text(&backends, "");
    let edge = Meridian::start(&good);
    assert!(said(&edge, &["reload"]).contains("nothing to do"));
    // In place, and asked for before the watcher has its say.
    let write = |text: &str| {
        fs::write(edge.config_path(), edge.filled_in(text)).expect("writes");
    };
    write(&good.replace("priority = 2", "priority = 5"));
    let reloaded = told(&edge, &["reload"]);
    assert!(reloaded["generation"].as_u64() > Some(1), "{reloaded}");
    let effective = edge.admin().json("/api/v1/config")["effective_toml"].to_string();
    assert!(effective.contains("priority = 5"), "{effective}");
    write(&good.replace("service = \"api\"", "service = \"apii\""));
    let (code, out, err) = outcome(edge.cli(&["reload"]));
    assert_eq!((code, &*out), (1, ""), "{err}");
    assert!(err.contains("routes[0].service") && err.contains("did you mean \"api\""), "{err}");
    let status = said(&edge, &["status"]);
    assert!(status.contains("REFUSED") && status.contains("did you mean"), "{status}");
}

#[test]
fn events_are_followed_line_by_line() {
    let backends = [US, EU].map(Backend::start);
    let edge = Meridian::start(&text(&backends, ""));
    let admin = edge.admin().address().to_string();
    let lines = Process::start(&["events", "--admin", &admin], edge.dir());
    let objects = Process::start(&["events", "--admin", &admin, "-o", "json"], edge.dir());
    // A follower sees what happens from its connection on, and nothing tells when that is.
    let done = || {
        said(&edge, &["drain", EU, "--reason", "to be seen"]);
        said(&edge, &["undrain", EU]);
        lines.stdout().contains("to be seen") && objects.stdout().contains("to be seen")
    };
    eventually("both tell of the drain", SOON, done);
    let object = objects.stdout().lines().next().map(str::to_owned).expect("a line");
    let event: Value = serde_json::from_str(&object).expect("a JSON object a line");
    assert!(event["id"].is_u64() && event["kind"].is_string(), "{event}");
    let line = lines.stdout().lines().next().map(str::to_owned).expect("a line");
    assert!(line.contains("table"), "{line}");
}

#[test]
fn check_finds_everything_that_is_wrong_with_a_file() {
    let backends = [US, EU].map(Backend::start);
    let dir = tempfile::tempdir().expect("a directory");
    let listener = "[[listeners]]\nname = \"public\"\naddress = \"127.0.0.1:1\"\n";
    let good = format!("{listener}{}", text(&backends, ""));
    let check = |text: &str, args: &[&str]| {
        fs::write(dir.path().join("m.toml"), text).expect("writes");
        outcome(run(&[&["check", "-c", "m.toml"], args].concat(), dir.path()))
    };
    let (code, out, err) = check(&good, &[]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("is correct"), "{out}");
    // Three faults of different kinds, all told at once, each with its place.
    let bad = good
        .replace("service = \"api\"", "service = \"apii\"")
        .replace("priority = 2", "priorty = 2")
        .replace("coordinates = [38.95, -77.45]", "coordinates = [138.95, -77.45]");
    let (code, out, err) = check(&bad, &[]);
    assert_eq!(code, 1);
    let all = out + &err;
    for part in ["did you mean \"api\"", "did you mean \"priority\"", "coordinates", "m.toml:"] {
        assert!(all.contains(part), "{part}: {all}");
    }
    let (code, out, _) = check(&bad, &["--output", "json"]);
    let told: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &told["ok"]), (1, &Value::Bool(false)));
    let errors = told["errors"].as_array().expect("a list");
    assert!(errors.len() >= 3, "{told:#}");
    assert!(errors.iter().all(|e| e["line"].is_u64() && e["message"].is_string()), "{told:#}");
    for broken in ["", "[[listeners]", "\u{0}", &good[..good.len() / 2], "[edge]\nid = 5\n"] {
        let (code, out, err) = check(broken, &[]);
        assert_eq!(code, 1, "{broken:?}: {out}{err}");
        assert!(!(out + &err).contains("panicked"), "{broken:?}");
    }
    fs::write(dir.path().join("bytes.toml"), b"\xff\xfe[edge]").expect("writes");
    for file in ["bytes.toml", "missing.toml", "."] {
        let (code, out, err) = outcome(run(&["check", "-c", file], dir.path()));
        assert_eq!(code, 1, "{file}: {out}{err}");
    }
    // Before it is run as well.
    fs::write(dir.path().join("m.toml"), &bad).expect("writes");
    let (code, _, err) = outcome(run(&["run", "-c", "m.toml"], dir.path()));
    assert_eq!(code, 1);
    assert!(err.contains("did you mean \"api\"") && err.contains("priority"), "{err}");
    let (code, out, _) = outcome(run(&["config", "print", "-c", "m.toml"], dir.path()));
    assert_eq!((code, &*out), (1, ""));
    let (code, out, err) = check(&good, &[]);
    assert_eq!(code, 0, "{out}{err}");
    let (code, printed, _) =
        outcome(run(&["config", "print", "--effective", "-c", "m.toml"], dir.path()));
    assert_eq!(code, 0);
    assert_eq!(check(&printed, &[]).0, 0, "what is printed is a configuration: {printed}");
}
