//! What an operator does to a running edge is in effect when the answer arrives, and costs no request.

use std::time::{Duration, Instant};

use meridian_tests::{Account, Ask, Backend, Load, Meridian, Outcome, eventually, regions};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(15);
const CLIENTS: usize = 6;
const IRISH: &str = "193.1.1.1";
const US: &str = "us-east-1";
const WEST: &str = "us-west-2";
const EU: &str = "eu-west-1";
const ASIA: &str = "ap-southeast-1";

/// Four regions; the primary has two endpoints, which tell their port.
struct World {
    backends: Vec<Backend>,
    edge: Meridian,
}

fn config(backends: &[Backend], service: &str) -> String {
    let endpoints: Vec<_> = backends.iter().map(|b| (b.name(), b.address())).collect();
    format!(
        "[[listeners]]\nname = \"public\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n{}\
         [[routes]]\nname = \"all\"\nservice = \"api\"\n",
        regions(&endpoints, service)
    )
}

fn backends() -> Vec<Backend> {
    let all: Vec<_> = [US, WEST, EU, ASIA, US].map(Backend::start).into();
    for backend in &all {
        let port = backend.address().port();
        backend.set(move |_| meridian_tests::Answer::ok("x").header("X-Served-By", port));
    }
    all
}

impl World {
    fn start(service: &str) -> Self {
        let backends = backends();
        let edge = Meridian::start(&config(&backends, service));
        Self { backends, edge }
    }

    fn load(&self) -> Load {
        let load = Load::start(self.edge.address(), CLIENTS, |serial| {
            let ask = match serial % 4 {
                0 => Ask::post(format!("/w/{serial}"), "x"),
                _ => Ask::get(format!("/r/{serial}")),
            };
            ask.from(IRISH)
        });
        load.run_for(100);
        load
    }

    fn put(&self, path: &str, body: &Value) -> Value {
        let answer = self.edge.admin().put(path, body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    fn delete(&self, path: &str) -> Value {
        let answer = self.edge.admin().delete(path);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }
}

/// Spans of time in which something was out of rotation.
type Spans = Vec<(Instant, Instant)>;

/// Nothing that was asked and answered in one of the spans went there; something else did.
fn assert_avoided(account: &Account, spans: &Spans, there: impl Fn(&Outcome) -> bool) {
    account.assert_all_fine(1000);
    let inside = |outcome: &Outcome| {
        let end = outcome.begun + outcome.took;
        spans.iter().any(|(from, to)| *from < outcome.begun && end < *to)
    };
    let in_spans: Vec<_> = account.0.iter().filter(|outcome| inside(outcome)).collect();
    assert!(in_spans.len() >= 20 * spans.len(), "only {} requests in the spans", in_spans.len());
    let wrong = in_spans.iter().filter(|outcome| there(outcome)).count();
    assert_eq!(wrong, 0, "of {} requests that began after the answer", in_spans.len());
    assert!(account.0.iter().any(&there), "it was in use before");
}

/// Takes something out and back again, ten times; the spans between answer and taking back.
fn ten_times(load: &Load, out: impl Fn() -> Value, back: impl Fn() -> Value) -> Spans {
    let mut generation = 0;
    let mut next = |answer: Value| {
        let now = answer["generation"].as_u64().expect("a generation");
        assert!(now > generation && answer["changed"] == true, "{answer}");
        generation = now;
    };
    (0..10)
        .map(|_| {
            next(out());
            let from = Instant::now();
            load.run_for(60);
            let to = Instant::now();
            next(back());
            load.run_for(60);
            (from, to)
        })
        .collect()
}

#[test]
fn draining_a_region_under_load_fails_nothing() {
    let world = World::start("policy = \"geo\"");
    let load = world.load();
    let path = format!("/api/v1/regions/{EU}/drain");
    let spans = ten_times(
        &load,
        || world.put(&path, &json!({ "reason": "maintenance" })),
        || world.delete(&path),
    );
    let account = load.stop();
    assert_avoided(&account, &spans, |outcome| outcome.region() == Some(EU));
}

#[test]
fn draining_an_endpoint_under_load_fails_nothing() {
    let world = World::start("policy = \"geo\"");
    let load = world.load();
    let address = world.backends[4].address();
    let path = format!("/api/v1/endpoints/api/{address}/drain");
    let spans = ten_times(&load, || world.put(&path, &json!({})), || world.delete(&path));
    let account = load.stop();
    let port = address.port().to_string();
    assert_avoided(&account, &spans, |outcome| outcome.endpoint() == Some(&port));
    // The other endpoint took the writes.
    assert!(account.0.iter().filter(|o| o.method == "POST").all(|o| o.region() == Some(US)));
}

#[test]
fn weights_of_regions_and_endpoints_are_in_effect_at_once() {
    let world = World::start("policy = \"weighted\"\nbalance = \"random\"");
    let load = world.load();
    let path = format!("/api/v1/regions/{ASIA}/weight");
    let spans =
        ten_times(&load, || world.put(&path, &json!({ "weight": 0 })), || world.delete(&path));
    let address = world.backends[0].address();
    let (path, port) =
        (format!("/api/v1/endpoints/api/{address}/weight"), address.port().to_string());
    let endpoint_spans =
        ten_times(&load, || world.put(&path, &json!({ "weight": 0 })), || world.delete(&path));
    // Nineteen of twenty to one region.
    for region in [US, WEST, EU] {
        let weight = if region == EU { 5700 } else { 100 };
        world.put(&format!("/api/v1/regions/{region}/weight"), &json!({ "weight": weight }));
    }
    let from = Instant::now();
    load.run_for(900);
    let account = load.stop();
    assert_avoided(&account, &spans, |outcome| outcome.region() == Some(ASIA));
    assert_avoided(&account, &endpoint_spans, |outcome| outcome.endpoint() == Some(&port));
    let reads: Vec<_> = account.since(from).filter(|outcome| outcome.method == "GET").collect();
    let share = reads.iter().filter(|o| o.region() == Some(EU)).count() as f64 / reads.len() as f64;
    assert!((0.9..0.99).contains(&share), "{share} of {}", reads.len());
}

#[test]
fn a_drain_may_end_by_itself() {
    let world = World::start("policy = \"geo\"");
    let path = format!("/api/v1/regions/{EU}/drain");
    let begun = Instant::now();
    world.put(&path, &json!({ "ttl": "2s", "reason": "a moment" }));
    let mut client = world.edge.client();
    let mut region = || {
        let answer = Ask::get("/").from(IRISH).send(&mut client);
        answer.header("X-Served-Region").expect("an endpoint").to_owned()
    };
    assert_eq!(region(), US);
    eventually("the drain is over", SOON, || region() == EU);
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(4), "{took:?}");
    assert_eq!(world.edge.admin().json("/api/v1/overrides"), json!([]));
}

#[test]
fn a_dry_run_tells_and_does_nothing() {
    let world = World::start("policy = \"geo\"");
    let admin = world.edge.admin();
    let before = admin.json("/api/v1/status")["generation"].clone();
    let told = world.put(&format!("/api/v1/regions/{US}/drain"), &json!({ "dry_run": true }));
    assert_eq!(told["dry_run"], true);
    assert_eq!(told["regions_left"], json!([WEST, EU, ASIA]));
    assert_eq!(told["services"]["api"], json!([WEST, EU, ASIA]));
    let warnings = told["warnings"].to_string();
    assert!(warnings.contains("primary"), "{warnings}");
    assert_eq!(admin.json("/api/v1/overrides"), json!([]));
    assert_eq!(told["generation"], before);
    let unknown = admin.put("/api/v1/regions/mars/drain", &json!({ "dry_run": true }));
    assert_eq!(unknown.status, 404);
}

#[test]
fn explain_says_what_live_traffic_does() {
    let world = World::start("policy = \"geo\"");
    // So that there is more to say than the map does.
    world.put(&format!("/api/v1/regions/{EU}/drain"), &json!({}));
    let mut client = world.edge.client();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut seen = std::collections::BTreeSet::new();
    for turn in 0..200 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let address = std::net::Ipv4Addr::from((state >> 32) as u32).to_string();
        let method = if turn % 5 == 0 { "POST" } else { "GET" };
        let ask = Ask { method, ..Ask::get("/some/path") }.from(&address);
        let served = ask.send(&mut client);
        let body = json!({ "method": method, "path": "/some/path", "client": address });
        let told = world.edge.admin().post("/api/v1/explain", &body).json();
        let region = served.header("X-Served-Region").expect("an endpoint");
        assert_eq!(told["decision"]["region"], region, "{address}: {told:#}");
        let places = (served.header("X-Served-By").map(str::to_owned), &told["client"]["address"]);
        assert!(places.0.is_some() && places.1 == &json!(address), "{told:#}");
        seen.insert(region.to_owned());
    }
    assert_eq!(seen.len(), 3, "clients from everywhere: {seen:?}");
    // A refusal is told as well.
    world.put(&format!("/api/v1/regions/{US}/drain"), &json!({}));
    let refused = Ask::post("/w", "x").send(&mut client);
    let told = world.edge.admin().post("/api/v1/explain", &json!({ "method": "POST" })).json();
    assert_eq!(told["refusal"]["filter"], "drain", "{told:#}");
    assert_eq!(told["refusal"]["status"], refused.status);
    let seconds = refused.header("Retry-After").and_then(|value| value.parse::<u64>().ok());
    assert_eq!(told["refusal"]["retry_after"].as_u64(), seconds);
    assert_eq!(told["decision"], Value::Null);
}

#[test]
fn events_are_streamed_as_they_happen() {
    let world = World::start("policy = \"geo\"");
    let admin = world.edge.admin();
    let mut follower = meridian_tests::Client::connect(admin.address());
    follower = follower.host(admin.address().to_string());
    let address = admin.address();
    follower.send(format!("GET /api/v1/events HTTP/1.1\r\nHost: {address}\r\n\r\n"));
    let head = follower.try_head().expect("a head at once");
    assert_eq!(head.status, 200);
    assert_eq!(head.header("Content-Type"), Some("text/event-stream"));
    let path = format!("/api/v1/regions/{EU}/drain");
    world.put(&path, &json!({ "reason": "to be seen", "actor": "ann" }));
    world.delete(&path);
    world.backends[3].kill();
    let mut text = String::new();
    eventually("all three are told", SOON, || {
        text.push_str(&String::from_utf8_lossy(&follower.wire().read_some().unwrap_or_default()));
        ["override_set", "override_cleared", "endpoint_health"]
            .iter()
            .all(|kind| text.contains(&format!("event: {kind}\n")))
    });
    let data = text.lines().find_map(|line| line.strip_prefix("data: ")).expect("data");
    let event: Value = serde_json::from_str(data).expect("JSON");
    assert_eq!(event["kind"], "override_set", "{text}");
    assert_eq!(event["data"]["reason"], "to be seen");
    assert_eq!(event["data"]["value"], true);
    let actor = event["data"]["actor"].as_str().expect("an actor");
    assert!(actor.starts_with("ann ("), "a claim is told as one: {actor}");
    assert!(text.contains(ASIA) && text.contains("unhealthy"), "{text}");
}
