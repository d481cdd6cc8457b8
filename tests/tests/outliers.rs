//! Passive health: endpoints that traffic puts out, and how they come back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use meridian_tests::{
    Answer, Ask, Backend, Load, Meridian, RegionProcess, Signal, eventually, free_address, poll,
    regions, tally,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
const US: &str = "us-east-1";
/// Nothing but traffic says anything of an endpoint.
const UNPROBED: &str = "health = { kind = \"none\" }";

fn text(endpoints: &[SocketAddr], service: &str) -> String {
    let endpoints: Vec<_> = endpoints.iter().map(|address| (US, *address)).collect();
    let middle = regions(&endpoints, service);
    format!("{middle}[[routes]]\nname = \"all\"\nservice = \"api\"\n")
}

fn edge(backends: &[Backend], service: &str) -> Meridian {
    Meridian::start(&text(&backends.iter().map(Backend::address).collect::<Vec<_>>(), service))
}

/// Why an endpoint is ejected; `Null` if it is not.
fn ejected(edge: &Meridian, address: SocketAddr) -> Value {
    let services = edge.admin().json("/api/v1/services");
    let endpoints = services[0]["endpoints"].as_array().cloned().unwrap_or_default();
    let ours = endpoints.into_iter().find(|view| view["address"] == address.to_string());
    ours.expect("an endpoint of the edge")["ejected"].clone()
}

fn ejections(edge: &Meridian, cause: &str) -> f64 {
    let label = format!("cause=\"{cause}\"");
    edge.admin().metric_sum("meridian_ejections_total", &[label.as_str()])
}

/// Waits for an ejection, with load going on; what is told of it.
#[track_caller]
fn until_ejected(edge: &Meridian, address: SocketAddr) -> Value {
    let told = poll(SOON, || Some(ejected(edge, address)).filter(|told| !told.is_null()));
    told.expect("an ejection")
}

/// A backend whose answers have a status that can be set.
fn moody(status: u16) -> (Backend, Arc<AtomicU16>) {
    let mood = Arc::new(AtomicU16::new(status));
    let said = mood.clone();
    (Backend::answering(US, move |_| Answer::status(said.load(SeqCst))), mood)
}

#[test]
fn kill_9_is_noticed_by_traffic_alone() {
    let mut all = [(); 3].map(|()| RegionProcess::start(US));
    let addresses = all.each_ref().map(RegionProcess::address);
    // By turns: peak EWMA would keep away after one failure already.
    let service = format!("{UNPROBED}\noutlier.ejection = \"1s\"\nbalance = \"round_robin\"");
    let edge = Meridian::start(&text(&addresses, &service));
    let load = Load::start(edge.address(), 6, |serial| match serial % 3 {
        0 => Ask::post(format!("/w/{serial}"), format!("body of {serial}")),
        _ => Ask::get(format!("/r/{serial}")),
    });
    load.run_for(200);
    let killing = Instant::now();
    all[0].kill();
    let killed = Instant::now();
    let told = until_ejected(&edge, addresses[0]);
    let out = killed.elapsed();
    load.run_for(500);
    all[0].revive();
    eventually("its trial goes well", SOON, || ejected(&edge, addresses[0]).is_null());
    let back = Instant::now();
    load.run_for(500);
    let account = load.stop();
    println!("killed: out after {out:?}; {told}; {:?}", account.statuses());
    assert_eq!(told["cause"], "connection-failures");
    assert!(out < Duration::from_millis(1_500), "out only after {out:?}");
    account.assert_fine(600, |outcome| outcome.method == "GET");
    account.assert_fine(200, |outcome| {
        let under_way = outcome.begun <= killed && outcome.begun + outcome.took >= killing;
        outcome.method == "POST" && !under_way
    });
    let lines = || all.iter().flat_map(RegionProcess::executed);
    let path_of = |line: String| line.split(' ').nth(1).unwrap_or_default().to_owned();
    let applied = tally(lines().filter(|line| line.starts_with("POST ")).map(path_of));
    let doubled: Vec<_> = applied.iter().filter(|(_, times)| **times > 1).collect();
    assert!(doubled.is_empty(), "applied twice: {doubled:?}");
    let revived = all[0].executed();
    let used = account.since(back).any(|outcome| {
        let path = format!(" /r/{} ", outcome.serial);
        revived.iter().any(|line| line.contains(&path))
    });
    assert!(used, "it is used again");
    assert!(edge.stderr().contains("back from ejection"));
}

#[test]
fn answers_with_5xx_eject_and_a_trial_decides_on_the_return() {
    let (bad, mood) = moody(200);
    let backends = [bad, Backend::start(US), Backend::start(US)];
    // Its health checks pass all the time.
    let edge = edge(&backends, "outlier.ejection = \"1s\"\nbalance = \"round_robin\"");
    let load = Load::start(edge.address(), 2, |serial| Ask::get(format!("/{serial}")));
    load.run_for(100);
    mood.store(503, SeqCst);
    let told = until_ejected(&edge, backends[0].address());
    assert_eq!((&told["cause"], &told["times"]), (&json!("consecutive-5xx"), &json!(1)));
    let words = "5 answers with a 5xx in a row";
    assert_eq!(told["evidence"], words);
    let explained = edge.cli(&["explain", "/"]);
    let said = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(said.contains(&format!("is ejected: {words}; until ")), "{said}");
    let regions = edge.cli(&["regions"]);
    assert!(String::from_utf8_lossy(&regions.stdout).contains("2 of 3, 1 ejected"));
    let asked = edge.admin().post("/api/v1/explain", &json!({"path": "/"})).json();
    assert_eq!(asked["ejected"][0]["endpoint"], backends[0].address().to_string());
    // The trial fails: it is out for longer.
    eventually("a failed trial", SOON, || ejected(&edge, backends[0].address())["times"] == 2);
    let again = ejected(&edge, backends[0].address());
    let length = |told: &Value| {
        told["until_unix_ms"].as_u64().unwrap_or(0) - told["since_unix_ms"].as_u64().unwrap_or(0)
    };
    assert_eq!(again["cause"], "trial");
    assert!((990..1_010).contains(&length(&told)), "{told}");
    assert!((1_990..2_010).contains(&length(&again)), "{again}");
    mood.store(200, SeqCst);
    eventually("its trial goes well", SOON, || ejected(&edge, backends[0].address()).is_null());
    load.run_for(100);
    let account = load.stop();
    // Five that ejected it, what was under way then, and one trial or two.
    let failed = account.statuses().get(&503).copied().unwrap_or(0);
    assert!((5..=9).contains(&failed), "{failed} requests met it");
    assert_eq!(ejections(&edge, "consecutive-5xx"), 1.0);
    assert!(ejections(&edge, "trial") >= 1.0);
    assert_eq!(edge.admin().metric_sum("meridian_endpoint_ejected", &[]), 0.0);
}

#[test]
fn a_low_success_ratio_ejects() {
    // Three of five fail, never five in a row.
    let count = AtomicUsize::new(0);
    let flaky = Backend::answering(US, move |_| {
        Answer::status(if count.fetch_add(1, SeqCst) % 5 < 3 { 500 } else { 200 })
    });
    let backends = [flaky, Backend::start(US), Backend::start(US)];
    let service = "outlier.ejection = \"60s\"\nbalance = \"round_robin\"";
    let edge = edge(&backends, service);
    let load = Load::start(edge.address(), 2, |serial| Ask::get(format!("/{serial}")));
    let told = until_ejected(&edge, backends[0].address());
    assert_eq!(told["cause"], "success-ratio", "{told}");
    let evidence = told["evidence"].as_str().unwrap_or_default();
    assert!(evidence.ends_with(" requests in 10 s were answered well"), "{evidence}");
    let met = backends[0].requests().len();
    load.run_for(200);
    let account = load.stop();
    assert!(backends[0].requests().len() <= met + 2, "it is out");
    assert!(account.0.iter().rev().take(150).all(|outcome| outcome.is_fine()));
    assert_eq!(ejections(&edge, "success-ratio"), 1.0);
}

#[test]
fn half_of_a_region_stays_whatever_traffic_says() {
    let backends = [(); 4].map(|()| moody(500).0);
    let edge = edge(&backends, "outlier.ejection = \"60s\"\nbalance = \"round_robin\"");
    let load = Load::start(edge.address(), 4, |serial| Ask::get(format!("/{serial}")));
    load.run_for(400);
    let account = load.stop();
    assert_eq!(account.statuses().keys().collect::<Vec<_>>(), [&500], "all of them are answered");
    let out = backends.iter().filter(|b| !ejected(&edge, b.address()).is_null()).count();
    assert_eq!(out, 2);
    assert_eq!(edge.admin().metric_sum("meridian_endpoint_ejected", &[]), 2.0);
}

#[test]
fn the_only_endpoint_is_used_although_it_is_ejected() {
    let (backend, mood) = moody(500);
    let backends = [backend];
    let edge = edge(&backends, &format!("{UNPROBED}\noutlier.ejection = \"300ms\""));
    let mut client = edge.client();
    for _ in 0..10 {
        assert_eq!(client.get("/").status, 500, "its own answer, not a refusal");
    }
    assert!(!ejected(&edge, backends[0].address()).is_null());
    mood.store(200, SeqCst);
    eventually("it is back", SOON, || {
        client.get("/").status == 200 && ejected(&edge, backends[0].address()).is_null()
    });
}

#[test]
fn a_reload_keeps_ejections() {
    let (bad, _) = moody(500);
    let backends = [bad, Backend::start(US), Backend::start(US)];
    let service = "outlier.ejection = \"60s\"\nbalance = \"round_robin\"";
    let edge = edge(&backends, service);
    let load = Load::start(edge.address(), 2, |serial| Ask::get(format!("/{serial}")));
    let before = until_ejected(&edge, backends[0].address());
    let addresses: Vec<_> = backends.iter().map(Backend::address).collect();
    let changed = text(&addresses, &format!("{service}\ntimeouts = {{ request = \"100s\" }}"));
    let reloaded = edge.reload(&edge.filled_in(&changed)).json();
    assert_eq!(reloaded["changed"], true, "{reloaded}");
    let met = backends[0].requests().len();
    let after = ejected(&edge, backends[0].address());
    assert_eq!((&after["times"], &after["evidence"]), (&json!(1), &before["evidence"]));
    load.run_for(200);
    drop(load.stop());
    assert!(backends[0].requests().len() <= met + 2, "it is still out");
}

#[test]
fn silence_is_a_failure_too_where_nobody_probes() {
    let backends = [(); 3].map(|()| Backend::start(US));
    let service =
        format!("{UNPROBED}\ntimeouts = {{ first_byte = \"300ms\" }}\nbalance = \"round_robin\"");
    let edge = edge(&backends, &service);
    let load = Load::start(edge.address(), 6, |serial| Ask::get(format!("/{serial}")));
    load.run_for(100);
    backends[0].stop();
    let stopped = Instant::now();
    let told = until_ejected(&edge, backends[0].address());
    println!("silent: out after {:?}; {told}", stopped.elapsed());
    assert_eq!(told["cause"], "connection-failures", "{told}");
    assert!(stopped.elapsed() < Duration::from_secs(2), "{:?}", stopped.elapsed());
    load.run_for(100);
    let account = load.stop();
    account.assert_all_fine(200);
}

#[test]
fn an_edge_that_was_stopped_ejects_nobody() {
    let slow = |_: &_| Answer::ok("x").delay(Duration::from_millis(150));
    let backends = [(); 3].map(|()| Backend::answering(US, slow));
    let service = format!("{UNPROBED}\ntimeouts = {{ first_byte = \"1s\" }}");
    let edge = edge(&backends, &service);
    let load = Load::start(edge.address(), 16, |serial| Ask::get(format!("/{serial}")));
    load.run_for(100);
    for _ in 0..2 {
        edge.signal(Signal::STOP);
        // The answers come meanwhile, and wait in the kernel.
        std::thread::sleep(Duration::from_millis(2_500));
        edge.signal(Signal::CONT);
        load.run_for(100);
    }
    let account = load.stop();
    assert_eq!(edge.admin().metric_sum("meridian_ejections_total", &[]), 0.0, "{}", edge.stderr());
    account.assert_all_fine(300);
}

#[test]
fn offers_to_switch_protocols_count_as_well() {
    let (live, dead) = (Backend::start(US), free_address());
    let service = format!("{UNPROBED}\nbalance = \"round_robin\"");
    let edge = Meridian::start(&text(&[live.address(), dead], &service));
    let fields = [("Connection", "Upgrade"), ("Upgrade", "websocket")];
    for _ in 0..6 {
        // Never sent to the dead one, so it goes to the other, which does not take it.
        assert_eq!(edge.client().request("GET", "/", &fields, b"").status, 200);
    }
    assert_eq!(until_ejected(&edge, dead)["cause"], "connection-failures");
    live.set(|_| Answer::status(502));
    for _ in 0..5 {
        assert_eq!(edge.client().request("GET", "/", &fields, b"").status, 502);
    }
    assert!(ejected(&edge, live.address()).is_null(), "half of the region stays");
}
