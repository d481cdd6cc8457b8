//! `meridian demo`: the story holds, and a single region is a backend like any other.

use std::time::Duration;

use meridian_tests::{Ask, Meridian, Process, Signal, eventually, free_address, regions, run};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);
const US: &str = "us-east-1";
const EU: &str = "eu-west-1";

#[test]
fn the_story_ends_well_and_its_summary_adds_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let (listen, admin) = (free_address().to_string(), free_address().to_string());
    let args = ["demo", "--once", "--seconds", "3", "--output", "json"];
    let output = run(&[&args[..], &["--listen", &listen, "--admin", &admin]].concat(), dir.path());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON and nothing else");
    assert_eq!(told["ok"], true, "{told:#}");
    assert!(told["countries"].as_u64() >= Some(30), "{}", told["countries"]);
    assert_eq!(told["reads"]["failures"], 0, "{told:#}");
    let steps = told["steps"].as_array().expect("steps");
    assert!(steps.len() >= 5, "{told:#}");
    for step in steps {
        assert_eq!(step["ok"], true, "{step:#}");
        assert_eq!(step["reads"]["failures"], 0, "{step:#}");
        assert!(step["reads"]["requests"].as_u64() > Some(10), "{step:#}");
        if step["writes_may_fail"] == false {
            assert_eq!(step["writes"]["failures"], 0, "{step:#}");
        }
    }
    let number = |value: &Value| value.as_u64().expect("a number");
    let writes = &told["writes"];
    let answered = number(&writes["requests"]) - number(&writes["failures"]);
    assert_eq!(number(&told["writes_applied"]), answered, "each of them once");
    // Where requests went: all reads and writes, each region some, writes only to the primary.
    let flows = told["distribution"].as_array().expect("flows");
    let written = flows.iter().filter(|flow| flow["kind"] == "write");
    assert!(written.clone().count() >= 1);
    assert!(written.into_iter().all(|flow| flow["region"] == US), "{told:#}");
    for region in [US, "us-west-2", EU, "ap-southeast-1"] {
        assert!(flows.iter().any(|flow| flow["region"] == region), "{region}: {told:#}");
    }
    assert!(!dir.path().join("meridian-state").exists(), "it leaves nothing behind");
}

#[test]
fn single_regions_replicate_and_serve_behind_an_edge() {
    let dir = tempfile::tempdir().expect("a directory");
    let addresses = [free_address(), free_address()];
    let text = addresses.map(|address| address.to_string());
    let primary = ["demo", "--region", US, "--listen", &text[0]];
    let mut primary = Process::start(&primary, dir.path());
    let replica = ["demo", "--region", EU, "--listen", &text[1], "--primary", &text[0]];
    let mut replica = Process::start(&[&replica[..], &["--control"]].concat(), dir.path());
    let service = "policy = \"priority\"\n[services.replication]\nsource = \"status\"\n\
                   path = \"/meridian/status\"\ninterval = \"100ms\"";
    let middle = regions(&[(US, addresses[0]), (EU, addresses[1])], service)
        .replace("priority = 1", "priority = 9");
    let edge = Meridian::start(&format!(
        "{middle}[[routes]]\nname = \"all\"\nservice = \"api\"\nmax_staleness = \"2s\"\n"
    ));
    let mut client = edge.client();
    let mut read_at = || {
        let answer = Ask::get("/").send(&mut client);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.header("X-Served-Region").expect("a region says who it is").to_owned()
    };
    eventually("the replica is fresh enough to be read", SOON, || read_at() == EU);
    let written = Ask::post("/kv/greeting", "hello").send(&mut edge.client());
    assert!((200..300).contains(&written.status), "{} {}", written.status, written.text());
    assert_eq!(written.header("X-Served-Region"), Some(US));
    eventually("what was written is read at the replica", SOON, || {
        let answer = Ask::get("/kv/greeting").send(&mut edge.client());
        answer.text() == "hello" && answer.header("X-Served-Region") == Some(EU)
    });
    let mut direct = meridian_tests::Client::connect(addresses[1]);
    let lag = Ask::post("/_demo/lag?ms=20000", "").send(&mut direct);
    assert!((200..300).contains(&lag.status), "{}", lag.text());
    eventually("a replica that lags is not read", SOON, || read_at() == US);
    // One that was not told to obey does not.
    let mut direct = meridian_tests::Client::connect(addresses[0]);
    Ask::post("/_demo/kill", "").send(&mut direct);
    assert_eq!(meridian_tests::Client::connect(addresses[0]).get("/health").status, 200);
    for region in [&mut primary, &mut replica] {
        region.signal(Signal::TERM);
        assert_eq!(region.wait(SOON).code(), Some(0), "{}", region.stderr());
    }
}
