//! Reads and writes: who may answer which, and how old the data may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::time::Duration;

use meridian_tests::{Answer, Ask, Backend, Client, Meridian, Received, eventually, regions};

const SOON: Duration = Duration::from_secs(15);
const PUBLIC: &str = "[[listeners]]\nname = \"public\"\nprotocols = [\"http1\", \"h2c\"]\n\
                      trusted_proxies = [\"127.0.0.0/8\"]\n";
const IRISH: &str = "193.1.1.1";
const US: &str = "us-east-1";
const EU: &str = "eu-west-1";

/// A primary in the US, and a replica in Ireland where the client is.
struct Pair {
    primary: Backend,
    replica: Backend,
    /// What the replica reports, milliseconds; negative: nothing.
    lag_ms: Arc<AtomicI64>,
}

impl Pair {
    fn new() -> Self {
        let lag_ms = Arc::new(AtomicI64::new(-1));
        let said = lag_ms.clone();
        let (primary, replica) = (Backend::start(US), Backend::start(EU));
        replica.set(move |request| replica_answer(request, said.load(SeqCst)));
        Self { primary, replica, lag_ms }
    }

    fn edge(&self, service: &str, route: &str) -> Meridian {
        let endpoints = [(US, self.primary.address()), (EU, self.replica.address())];
        // The second place of the harness is in the US; the replica stands in Ireland.
        let middle = regions(&endpoints, &format!("policy = \"geo\"\n{service}"))
            .replace("[45.84, -119.70]\ncountry = \"US\"", "[53.35, -6.26]\ncountry = \"IE\"");
        let text =
            format!("{PUBLIC}{middle}[[routes]]\nname = \"all\"\nservice = \"api\"\n{route}\n");
        Meridian::start(&text)
    }

    fn lag(&self, ms: i64) {
        self.lag_ms.store(ms, SeqCst);
    }
}

/// The status page says the lag in JSON, everything else in a header, if there is anything to say.
fn replica_answer(request: &Received, lag_ms: i64) -> Answer {
    if request.target == "/meridian/status" {
        return match lag_ms {
            ..0 => Answer::status(500),
            ms => Answer::ok(format!("{{\"role\": \"replica\", \"epoch\": 1, \"lag_ms\": {ms}}}")),
        };
    }
    match lag_ms {
        ..0 => Answer::ok("replica"),
        ms => Answer::ok("replica").header("Meridian-Lag-Ms", ms),
    }
}

fn region_of(client: &mut Client, ask: &Ask) -> String {
    let answer = ask.clone().from(IRISH).send(client);
    assert_eq!(answer.status, 200, "{ask:?}: {}", answer.text());
    answer.header("X-Served-Region").expect("the endpoints say who they are").to_owned()
}

fn reads_go_to(client: &mut Client, region: &str) -> bool {
    region_of(client, &Ask::get("/r")) == region
}

#[test]
fn writes_go_to_the_primary_and_reads_to_the_nearest() {
    let pair = Pair::new();
    let edge = pair.edge("", "");
    let mut client = edge.client();
    for method in ["POST", "PUT", "DELETE", "PATCH", "PROPFIND"] {
        let ask = Ask { method, ..Ask::post("/w", "x") };
        assert_eq!(region_of(&mut client, &ask), US, "{method}");
    }
    for method in ["GET", "HEAD", "OPTIONS"] {
        let ask = Ask { method, ..Ask::get("/r") };
        assert_eq!(region_of(&mut client, &ask), EU, "{method}");
    }
    assert!(pair.replica.requests().iter().all(|request| request.target == "/r"));
}

#[test]
fn a_route_may_say_what_its_requests_are() {
    let pair = Pair::new();
    for (access, reads_at, posts_at) in
        [("read", EU, EU), ("write", US, US), ("read_primary", US, US), ("auto", EU, US)]
    {
        let edge = pair.edge("", &format!("access = \"{access}\""));
        let mut client = edge.client();
        assert_eq!(region_of(&mut client, &Ask::get("/")), reads_at, "{access}");
        assert_eq!(region_of(&mut client, &Ask::post("/", "x")), posts_at, "{access}");
    }
}

#[test]
fn graphql_is_told_by_its_operation() {
    let pair = Pair::new();
    let edge = pair.edge("", "graphql = true");
    let mut client = edge.client();
    let long = format!("{{\"query\": \"{{ a }} #{}\"}}", "x".repeat(70 << 10));
    for (body, region) in [
        (r#"{"query": "{ me { name } }"}"#, EU),
        (r#"{"query": "query Q { a }"}"#, EU),
        (r#"{"query": "query Q { a } mutation M { b }", "operationName": "Q"}"#, EU),
        (r#"{"query": "query Q { a } mutation M { b }", "operationName": "M"}"#, US),
        (r#"{"query": "mutation { b }"}"#, US),
        (r#"{"query": "subscription { b }"}"#, US),
        (r#"{"query": "quer"#, US),
        ("", US),
        (&*long, US),
    ] {
        let ask = Ask::post("/graphql", body).with("Content-Type", "application/json");
        let start = &body[..body.len().min(60)];
        assert_eq!(region_of(&mut client, &ask), region, "{start}");
        // What was looked at is forwarded whole.
        let backend = if region == EU { &pair.replica } else { &pair.primary };
        let received = backend.requests().pop().expect("a request");
        assert!(received.body == body.as_bytes(), "{start}");
    }
}

#[test]
fn listed_grpc_methods_are_reads() {
    let pair = Pair::new();
    let route = "grpc_reads = [\"/shop.Cart/Get\", \"/shop.Search/*\"]";
    let edge = pair.edge("", route);
    let mut client = edge.client();
    for (path, region) in [
        ("/shop.Cart/Get", EU),
        ("/shop.Search/Find", EU),
        ("/shop.Cart/GetAndTake", US),
        ("/shop.Cart/Put", US),
        ("/shop.Searcher/Find", US),
    ] {
        let ask = Ask::post(path, "\0\0\0\0\0").with("Content-Type", "application/grpc");
        assert_eq!(region_of(&mut client, &ask), region, "{path}");
    }
}

#[test]
fn a_status_page_decides_how_fresh_a_replica_is() {
    let pair = Pair::new();
    let service = "[services.replication]\nsource = \"status\"\ninterval = \"100ms\"\n\
                   sample_max_age = \"1s\"";
    let edge = pair.edge(service, "max_staleness = \"5s\"\nexpose_decision = true");
    let mut client = edge.client();
    // Nothing is known: that is stale.
    for _ in 0..20 {
        assert_eq!(region_of(&mut client, &Ask::get("/r")), US);
    }
    let answer = Ask::get("/r").from(IRISH).send(&mut client);
    let told = answer.header("Meridian-Served-By");
    assert_eq!(told, Some("us-east-1; role=primary; reason=primary-none-fresh"));

    pair.lag(1_200);
    eventually("a replica that reports a small lag is used", SOON, || reads_go_to(&mut client, EU));
    let answer = Ask::get("/r").from(IRISH).send(&mut client);
    let told = answer.header("Meridian-Served-By").expect("the route says so");
    assert!(told.starts_with("eu-west-1; role=replica; lag=1.2s; reason="), "{told}");

    // A client may ask for more, not for less.
    let bound = |bound: &str| Ask::get("/r").with("Meridian-Max-Staleness", bound);
    assert_eq!(region_of(&mut client, &bound("500ms")), US);
    assert_eq!(region_of(&mut client, &bound("0s")), US);
    assert_eq!(region_of(&mut client, &bound("3s")), EU);
    pair.lag(20_000);
    eventually("a replica that lags is left", SOON, || reads_go_to(&mut client, US));
    for _ in 0..20 {
        assert_eq!(region_of(&mut client, &bound("3600s")), US, "the route's bound holds");
    }
    pair.lag(0);
    eventually("it has caught up", SOON, || reads_go_to(&mut client, EU));
    pair.lag(-1);
    eventually("a report that is too old counts for nothing", SOON, || {
        reads_go_to(&mut client, US)
    });
    assert_eq!(region_of(&mut client, &Ask::get("/r")), US);
}

#[test]
fn lag_in_headers_counts_from_probes_and_from_answers() {
    let pair = Pair::new();
    let service = "health = { path = \"/probe\", interval = \"100ms\" }\n\
                   [services.replication]\nsource = \"headers\"\nsample_max_age = \"1s\"";
    let edge = pair.edge(service, "max_staleness = \"5s\"");
    let mut client = edge.client();
    assert!(reads_go_to(&mut client, US), "unknown is stale");
    pair.lag(300);
    eventually("probes tell", SOON, || reads_go_to(&mut client, EU));
    let answer = Ask::get("/r").from(IRISH).send(&mut client);
    assert_eq!(answer.header("Meridian-Lag-Ms"), None, "that is for the edge alone");
    // Not from a client: this would be fresh.
    pair.lag(9_000);
    let forged = Ask::get("/r").with("Meridian-Lag-Ms", "0");
    eventually("it lags", SOON, || region_of(&mut client, &forged) == US);
    for _ in 0..50 {
        assert_eq!(region_of(&mut client, &forged), US);
    }
}

#[test]
fn without_a_bound_a_replica_beyond_the_services_limit_is_no_candidate() {
    let pair = Pair::new();
    pair.lag(2_500);
    let service = "[services.replication]\nsource = \"status\"\ninterval = \"100ms\"\n\
                   warn_lag = \"1s\"\nmax_lag = \"4s\"";
    let edge = pair.edge(service, "");
    let mut client = edge.client();
    eventually("below the limit it is used", SOON, || reads_go_to(&mut client, EU));
    eventually("the lag is told", SOON, || edge.stderr().contains("lag"));
    pair.lag(5_000);
    eventually("above the limit it is not", SOON, || reads_go_to(&mut client, US));
    // None fresh enough and no primary: rather not at all than stale.
    pair.primary.kill();
    eventually("the primary is out", SOON, || {
        let answer = Ask::get("/r").from(IRISH).send(&mut edge.client());
        answer.status == 503 && answer.header("Retry-After").is_some()
    });
    let before = pair.replica.requests().iter().filter(|r| r.target == "/r").count();
    for _ in 0..50 {
        assert_eq!(Ask::get("/r").from(IRISH).send(&mut edge.client()).status, 503);
    }
    let after = pair.replica.requests().iter().filter(|r| r.target == "/r").count();
    assert_eq!(before, after, "a stale read");
}

#[test]
fn without_a_primary_writes_are_refused_and_reads_go_on() {
    let pair = Pair::new();
    let edge = pair.edge("", "");
    let mut client = edge.client();
    assert_eq!(region_of(&mut client, &Ask::post("/w", "x")), US);
    pair.primary.kill();
    for _ in 0..50 {
        let answer = Ask::post("/w", "x").from(IRISH).send(&mut edge.client());
        assert_eq!(answer.status, 503, "{}", answer.text());
        let seconds = answer.header("Retry-After").and_then(|value| value.parse::<u32>().ok());
        assert!(seconds.is_some_and(|seconds| seconds > 0), "{answer:?}");
        assert!(reads_go_to(&mut client, EU));
    }
    assert!(pair.replica.requests().iter().all(|request| request.method == "GET"));
    pair.primary.revive();
    eventually("writes are taken again", SOON, || {
        Ask::post("/w", "x").send(&mut edge.client()).status == 200
    });
}
