//! The operator's layer outlives the process, and gives way when the file beneath it changes.

use std::time::Duration;

use meridian_tests::{Ask, Backend, Meridian, Signal, eventually, poll, regions};
use serde_json::json;

const SOON: Duration = Duration::from_secs(15);
const US: &str = "us-east-1";
const WEST: &str = "us-west-2";

fn config(backends: &[Backend; 2]) -> String {
    let endpoints = backends.each_ref().map(|b| (b.name(), b.address()));
    let middle = regions(&endpoints, "policy = \"priority\"");
    format!("{middle}[[routes]]\nname = \"all\"\nservice = \"api\"\n")
}

fn served(edge: &Meridian) -> Option<String> {
    let answer = Ask::get("/").send(&mut edge.client());
    answer.header("X-Served-Region").map(str::to_owned)
}

fn drain(edge: &Meridian, body: &serde_json::Value) {
    let answer = edge.admin().put(&format!("/api/v1/regions/{US}/drain"), body);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn overrides_survive_a_kill_and_hold_from_the_first_request() {
    let backends = [US, WEST].map(Backend::start);
    let mut edge = Meridian::start(&config(&backends));
    assert_eq!(served(&edge).as_deref(), Some(US));
    drain(&edge, &json!({ "reason": "a long story", "ttl": "1h" }));
    let address = backends[1].address();
    let path = format!("/api/v1/endpoints/api/{address}/weight");
    assert_eq!(edge.admin().put(&path, &json!({ "weight": 7 })).status, 200);
    let before = edge.admin().json("/api/v1/overrides");
    assert_eq!(before.as_array().map(Vec::len), Some(2));
    for _ in 0..3 {
        edge.signal(Signal::KILL);
        edge.wait_exit();
        let asked = backends[0].requests().len();
        edge.start_again();
        assert_eq!(served(&edge).as_deref(), Some(WEST));
        assert_eq!(backends[0].requests().len(), asked, "not one request went to the drained one");
        assert_eq!(edge.admin().json("/api/v1/overrides"), before);
    }
    let answer = edge.admin().delete(&format!("/api/v1/regions/{US}/drain"));
    assert_eq!(answer.json()["changed"], true);
    edge.crash_and_restart();
    assert_eq!(served(&edge).as_deref(), Some(US), "what was taken back stays so");
}

#[test]
fn an_override_whose_time_is_over_is_not_restored() {
    let backends = [US, WEST].map(Backend::start);
    let mut edge = Meridian::start(&config(&backends));
    drain(&edge, &json!({ "ttl": "1s" }));
    edge.signal(Signal::KILL);
    edge.wait_exit();
    std::thread::sleep(Duration::from_millis(1_100));
    edge.start_again();
    assert_eq!(edge.admin().json("/api/v1/overrides"), json!([]));
    assert_eq!(served(&edge).as_deref(), Some(US));
}

#[test]
fn a_reload_that_changes_the_value_beneath_drops_the_override() {
    let backends = [US, WEST].map(Backend::start);
    let text = config(&backends);
    let edge = Meridian::start(&text);
    drain(&edge, &json!({ "reason": "mine" }));
    let weight = format!("/api/v1/regions/{WEST}/weight");
    assert_eq!(edge.admin().put(&weight, &json!({ "weight": 3 })).status, 200);
    // Something else in the file changes: both stay.
    let other = text.replace("policy = \"priority\"", "policy = \"weighted\"");
    assert_eq!(edge.reload(&other).status, 200);
    assert_eq!(edge.admin().json("/api/v1/overrides").as_array().map(Vec::len), Some(2));
    assert!(!edge.stderr().contains("dropped"));
    // The file drains the region itself now: the operator's word is about a file that is gone.
    let drained = text.replace("country = \"US\"\npriority = 1", "priority = 1\ndrain = true");
    assert_ne!(drained, text);
    assert_eq!(edge.reload(&drained).status, 200);
    let left = edge.admin().json("/api/v1/overrides");
    assert_eq!(left.as_array().map(Vec::len), Some(1), "{left:#}");
    assert_eq!(left[0]["kind"], "weight");
    eventually("a warning says so", SOON, || {
        let said = edge.stderr();
        said.lines()
            .any(|line| line.contains("WARN") && line.contains("dropped") && line.contains(US))
    });
    // Back to the file of before: what was dropped does not come back.
    assert_eq!(edge.reload(&text).status, 200);
    assert_eq!(served(&edge).as_deref(), Some(US));
}

#[test]
fn a_file_that_changed_while_the_edge_was_down_drops_the_override() {
    let backends = [US, WEST].map(Backend::start);
    let text = config(&backends);
    let mut edge = Meridian::start(&text);
    let weight = format!("/api/v1/regions/{US}/weight");
    assert_eq!(edge.admin().put(&weight, &json!({ "weight": 3 })).status, 200);
    edge.signal(Signal::KILL);
    edge.wait_exit();
    edge.write_config(&text.replace("priority = 1", "priority = 1\nweight = 50"));
    edge.start_again();
    assert_eq!(edge.admin().json("/api/v1/overrides"), json!([]));
    let regions = edge.admin().json("/api/v1/regions");
    assert_eq!(regions[0]["weight"], json!({ "value": 50, "source": "file" }));
    assert!(edge.stderr().contains("dropped"), "{}", edge.stderr());
}

#[test]
fn an_operator_may_put_in_service_what_the_file_drains() {
    let backends = [US, WEST].map(Backend::start);
    let text = config(&backends).replace("priority = 1", "priority = 1\ndrain = true");
    let edge = Meridian::start(&text);
    assert_eq!(served(&edge).as_deref(), Some(WEST));
    let answer = edge.admin().delete(&format!("/api/v1/regions/{US}/drain")).json();
    assert_eq!(answer["changed"], false);
    assert!(answer["warnings"][0].as_str().is_some_and(|w| w.contains("the file drains")));
    drain(&edge, &json!({ "drain": false }));
    assert_eq!(served(&edge).as_deref(), Some(US));
    let regions = edge.admin().json("/api/v1/regions");
    assert_eq!(regions[0]["drain"], json!({ "value": false, "source": "override" }));
}

#[test]
fn a_damaged_state_file_costs_the_overrides_and_nothing_else() {
    let backends = [US, WEST].map(Backend::start);
    let mut edge = Meridian::start(&config(&backends));
    drain(&edge, &json!({}));
    edge.signal(Signal::KILL);
    edge.wait_exit();
    std::fs::write(edge.dir().join("state/overrides.json"), "{\"version\": 1, \"over")
        .expect("writes");
    edge.start_again();
    assert_eq!(served(&edge).as_deref(), Some(US));
    assert!(edge.stderr().contains("the overrides are lost"), "{}", edge.stderr());
    drain(&edge, &json!({}));
    edge.crash_and_restart();
    assert_eq!(served(&edge).as_deref(), Some(WEST), "and new ones are kept again");
}

/// An edge whose wall clock a file sets off by so many seconds.
struct ClockedEdge {
    edge: Meridian,
    clock: tempfile::TempDir,
}

impl ClockedEdge {
    fn start(config: &str, offset: &str) -> Self {
        let library = ["x86_64", "aarch64"]
            .map(|machine| format!("/usr/lib/{machine}-linux-gnu/faketime/libfaketime.so.1"));
        let library = library.iter().find(|path| std::path::Path::new(path).exists());
        let library = library.expect("libfaketime, as scripts/setup.sh installs it");
        let clock = tempfile::tempdir().expect("a directory");
        let file = clock.path().join("clock");
        std::fs::write(&file, offset).expect("writes");
        let file = file.display().to_string();
        let variables = [
            ("LD_PRELOAD", library.as_str()),
            ("FAKETIME_TIMESTAMP_FILE", file.as_str()),
            ("FAKETIME_CACHE_DURATION", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        Self { edge: Meridian::start_with(config, &variables), clock }
    }

    /// Sets the clock, and waits until the edge has seen it.
    fn set(&self, offset: &str) {
        let next = self.clock.path().join("next");
        std::fs::write(&next, offset).expect("writes");
        std::fs::rename(&next, self.clock.path().join("clock")).expect("renames");
        let hours = |ms: u64| ms / 3_600_000;
        let at = |edge: &Meridian| {
            assert_eq!(edge.reload("[edge]\nnonsense = 1\n").status, 422);
            let status = edge.admin().json("/api/v1/status");
            hours(status["config"]["last_reload_unix_ms"].as_u64().expect("a time"))
        };
        let before = at(&self.edge);
        eventually("the clock has jumped", SOON, || at(&self.edge).abs_diff(before) >= 1);
    }
}

#[test]
fn setting_the_clock_neither_ends_nor_keeps_an_override() {
    let backends = [US, WEST].map(Backend::start);
    for (from, to, ttl, stays) in [("+0", "+10800", "1h", true), ("+10800", "+0", "8s", false)] {
        let clocked = ClockedEdge::start(&config(&backends), from);
        let edge = &clocked.edge;
        drain(edge, &json!({ "ttl": ttl }));
        clocked.set(to);
        let held = || edge.admin().json("/api/v1/overrides").as_array().map(Vec::len) == Some(1);
        if stays {
            let ended = poll(Duration::from_secs(2), || (!held()).then_some(()));
            assert!(ended.is_none(), "an hour is not over");
        } else {
            eventually("eight seconds are over", SOON, || !held());
        }
    }
}
