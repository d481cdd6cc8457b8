//! Endpoints die, hang and come back under load: what clients see, held against what endpoints did.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use meridian_tests::{Account, Ask, Load, Meridian, Outcome, RegionProcess, eventually, poll};
use meridian_tests::{regions, tally};

const SOON: Duration = Duration::from_secs(20);
/// The goals are 1 s for a refused connection and 2 s for silence. A busy machine gets half a second more.
const OUT_WHEN_DEAD: Duration = Duration::from_millis(1_500);
const OUT_WHEN_SILENT: Duration = Duration::from_millis(2_500);
const CLIENTS: usize = 6;
const IRISH: &str = "193.1.1.1";
const US: &str = "us-east-1";
const EU: &str = "eu-west-1";

fn edge(endpoints: &[&RegionProcess], names: &[&str], service: &str) -> Meridian {
    let endpoints: Vec<(&str, SocketAddr)> =
        names.iter().zip(endpoints).map(|(name, process)| (*name, process.address())).collect();
    let middle = regions(&endpoints, service)
        .replace("[45.84, -119.70]\ncountry = \"US\"", "[53.35, -6.26]\ncountry = \"IE\"");
    Meridian::start(&format!(
        "[[listeners]]\nname = \"public\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n{middle}\
         [[routes]]\nname = \"all\"\nservice = \"api\"\n"
    ))
}

/// Every third request is a write; its id is in its path.
fn reads_and_writes(edge: &Meridian) -> Load {
    reads_and_writes_of(edge, CLIENTS)
}

fn reads_and_writes_of(edge: &Meridian, clients: usize) -> Load {
    let load = Load::start(edge.address(), clients, |serial| match serial % 3 {
        0 => Ask::post(format!("/w/{serial}"), format!("body of {serial}")).from(IRISH),
        _ => Ask::get(format!("/r/{serial}")).from(IRISH),
    });
    load.run_for(200);
    load
}

fn health(edge: &Meridian, address: SocketAddr) -> String {
    let services = edge.admin().json("/api/v1/services");
    let endpoints = services[0]["endpoints"].as_array().cloned().unwrap_or_default();
    let ours = endpoints.iter().find(|view| view["address"] == address.to_string());
    ours.expect("an endpoint of the edge")["health"].as_str().unwrap_or_default().to_owned()
}

/// How long it takes from `since` until an endpoint has this health.
#[track_caller]
fn until_health(edge: &Meridian, address: SocketAddr, wanted: &str, since: Instant) -> Duration {
    let reached = poll(SOON, || (health(edge, address) == wanted).then(|| since.elapsed()));
    reached.unwrap_or_else(|| panic!("{address} is {}, not {wanted}", health(edge, address)))
}

/// No write was applied twice, and those that were answered well were applied once.
fn assert_no_write_doubled_or_lost(account: &Account, processes: &[&RegionProcess]) {
    let executed = || processes.iter().flat_map(|process| process.executed());
    let applied = |path: &str, all: &BTreeMap<String, usize>| all.get(path).copied().unwrap_or(0);
    let path_of = |line: String| line.split(' ').nth(1).unwrap_or_default().to_owned();
    let writes = |line: &String| line.starts_with("POST ");
    // What was written down just before a kill may still be on its way to us.
    let mut doubled_or_lost = Vec::new();
    let settled = poll(Duration::from_secs(5), || {
        let all = tally(executed().filter(writes).map(path_of));
        let wrong = |outcome: &&Outcome| {
            let times = applied(&format!("/w/{}", outcome.serial), &all);
            times > 1 || (times == 0 && outcome.is_fine())
        };
        let posts = account.0.iter().filter(|outcome| outcome.method == "POST");
        doubled_or_lost = posts.filter(wrong).map(|outcome| outcome.serial).collect();
        doubled_or_lost.is_empty().then_some(())
    });
    assert!(settled.is_some(), "applied twice, or answered but not applied: {doubled_or_lost:?}");
}

/// All reads are fine, and so are all writes but those that were under way in this time.
fn assert_only_writes_under_way_failed(account: &Account, from: Instant, to: Instant) {
    account.assert_fine(400, |outcome| outcome.method == "GET");
    account.assert_fine(100, |outcome| {
        let under_way = outcome.begun <= to && outcome.begun + outcome.took >= from;
        outcome.method == "POST" && !under_way
    });
}

#[test]
fn kill_9_of_one_endpoint_of_three() {
    let mut all = [(); 3].map(|()| RegionProcess::start(US));
    let edge = edge(&all.each_ref(), &[US; 3], "");
    let load = reads_and_writes(&edge);
    let killed_from = Instant::now();
    all[0].kill();
    let killed_to = Instant::now();
    let out = until_health(&edge, all[0].address(), "unhealthy", killed_to);
    load.run_for(500);
    all[0].revive();
    let revived = Instant::now();
    let back = until_health(&edge, all[0].address(), "healthy", revived);
    load.run_for(500);
    let account = load.stop();
    println!("killed: out after {out:?}; revived: back after {back:?}; {:?}", account.statuses());
    assert_only_writes_under_way_failed(&account, killed_from, killed_to);
    assert_no_write_doubled_or_lost(&account, &all.each_ref());
    assert!(out < OUT_WHEN_DEAD, "out only after {out:?}");
    let lines = all[0].executed();
    let late = account.since(revived).any(|outcome| {
        let path = format!(" /r/{} ", outcome.serial);
        lines.iter().any(|line| line.contains(&path))
    });
    assert!(late, "it is used again");
}

#[test]
fn kill_9_of_a_whole_region() {
    let primary = RegionProcess::start(US);
    let mut region = [(); 3].map(|()| RegionProcess::start(EU));
    let [a, b, c] = region.each_ref();
    let edge = edge(&[&primary, a, b, c], &[US, EU, EU, EU], "policy = \"geo\"");
    let load = reads_and_writes(&edge);
    region.iter_mut().for_each(RegionProcess::kill);
    let killed = Instant::now();
    let outs = region.each_ref().map(|p| until_health(&edge, p.address(), "unhealthy", killed));
    let out = outs.into_iter().max().unwrap_or_default();
    let all_out = Instant::now();
    load.run_for(500);
    region.iter_mut().for_each(RegionProcess::revive);
    let revived = Instant::now();
    eventually("the region is used again", SOON, || {
        load.look(|so_far| so_far.iter().rev().take(30).any(|o| o.region() == Some(EU)))
    });
    load.run_for(300);
    let account = load.stop();
    println!("killed: region out after {out:?}; {:?} {:?}", account.statuses(), account.regions());
    // Writes go to the primary, which nothing happened to.
    account.assert_all_fine(1000);
    assert_no_write_doubled_or_lost(&account, &[&primary]);
    assert!(out < OUT_WHEN_DEAD, "out only after {out:?}");
    let between = account.since(all_out).filter(|outcome| outcome.begun < revived);
    assert!(between.into_iter().all(|outcome| outcome.region() == Some(US)));
    let slowest = account.0.iter().map(|outcome| outcome.took).max().unwrap_or_default();
    assert!(slowest < Duration::from_secs(2), "a request took {slowest:?}");
}

#[test]
fn an_endpoint_that_swallows_requests_is_out_within_two_seconds() {
    let all = [(); 3].map(|()| RegionProcess::start(US));
    // With the ordinary 30 s for the first byte: nobody waits for so long.
    let edge = edge(&all.each_ref(), &[US; 3], "");
    // Enough that some reads surely wait for it, and not everybody waits with a write.
    let load = reads_and_writes_of(&edge, 16);
    let stopped = Instant::now();
    all[0].stop();
    let out = until_health(&edge, all[0].address(), "unhealthy", stopped);
    let is_out = Instant::now();
    load.run_for(500);
    let resumed = Instant::now();
    all[0].resume();
    let back = until_health(&edge, all[0].address(), "healthy", resumed);
    load.run_for(300);
    let account = load.stop();
    // Reads that waited for it were moved on; a write may not be, and waits for what becomes of it.
    account.assert_fine(400, |outcome| outcome.method == "GET");
    assert_only_writes_under_way_failed(&account, stopped, is_out);
    assert_no_write_doubled_or_lost(&account, &all.each_ref());
    let waited = |o: &&Outcome| o.method == "GET" && o.took > Duration::from_millis(400);
    let stopped_reads: Vec<_> = account.since(stopped).filter(waited).collect();
    let last = stopped_reads.iter().map(|o| o.begun.duration_since(stopped)).max();
    let slowest = stopped_reads.iter().map(|o| o.took).max().unwrap_or_default();
    let moved = edge.admin().metric_sum("meridian_retries_total", &["reason=\"idempotent\""]);
    println!(
        "stopped: out after {out:?}, got its last read after {last:?}; the slowest of {} reads that waited: \
         {slowest:?}, bystanders' p99 {:?}; {moved} moved on; resumed: back after {back:?}; {:?}",
        stopped_reads.len(),
        account.p99(|o| o.method == "GET" && o.begun > stopped && o.begun < resumed && !waited(&o)),
        account.statuses()
    );
    assert!(out < OUT_WHEN_SILENT, "out only after {out:?}");
    assert!(last.is_none_or(|last| last < OUT_WHEN_SILENT), "it got a read {last:?} later");
    assert!(moved >= stopped_reads.len() as f64 && moved > 0.0, "{moved} moved on");
    assert!(slowest < OUT_WHEN_SILENT, "a read took {slowest:?}");
    // Once it is out, nobody waits for it.
    let slow = account.since(is_out).filter(|outcome| outcome.took > Duration::from_millis(800));
    assert_eq!(slow.count(), 0);
}

#[test]
fn all_regions_down_is_a_fast_503_with_retry_after() {
    let mut all = [RegionProcess::start(US), RegionProcess::start(EU)];
    let edge = edge(&all.each_ref(), &[US, EU], "policy = \"geo\"");
    let load = reads_and_writes(&edge);
    all.iter_mut().for_each(RegionProcess::kill);
    let killed = Instant::now();
    load.run_for(600);
    let revived = Instant::now();
    all.iter_mut().for_each(RegionProcess::revive);
    for process in &all {
        until_health(&edge, process.address(), "healthy", revived);
    }
    let well = Instant::now();
    load.run_for(200);
    let account = load.stop();
    println!("{:?}", account.statuses());
    assert_no_write_doubled_or_lost(&account, &all.each_ref());
    let down: Vec<_> = account.since(killed).filter(|o| o.begun + o.took < revived).collect();
    assert!(down.len() >= 500, "{}", down.len());
    for outcome in down {
        let answer = outcome.answer.as_ref().expect("an honest answer");
        assert_eq!(answer.status, 503, "{answer:?}");
        let seconds = answer.header("Retry-After").and_then(|value| value.parse::<u32>().ok());
        assert!(seconds.is_some_and(|s| (1..=60).contains(&s)), "{answer:?}");
        assert!(outcome.took < Duration::from_secs(1), "{:?}", outcome.took);
    }
    assert!(account.since(well).all(Outcome::is_fine), "all is well again");
}

#[test]
fn a_recovered_endpoint_starts_slowly_and_a_new_one_does_not() {
    let mut all = [RegionProcess::start(US), RegionProcess::start(US)];
    // Drawn by weight alone, so that nothing but the slow start can move shares.
    let edge = edge(&all.each_ref(), &[US; 2], "balance = \"random\"");
    let load = Load::start(edge.address(), 4, |serial| Ask::get(format!("/r/{serial}")));
    load.run_for(600);
    let at_start = all[1].executed().len() as f64 / load.count() as f64;
    assert!((0.4..0.6).contains(&at_start), "{at_start} of the requests, not half");
    all[1].kill();
    until_health(&edge, all[1].address(), "unhealthy", Instant::now());
    all[1].revive();
    until_health(&edge, all[1].address(), "healthy", Instant::now());
    let (before, from) = (all[1].executed().len(), load.count());
    load.run_for(600);
    let share = (all[1].executed().len() - before) as f64 / (load.count() - from) as f64;
    // Its weight begins at a tenth and grows over 30 s.
    assert!((0.01..0.3).contains(&share), "{share} of the requests after its recovery");
    load.stop().assert_all_fine(1200);
}
