//! When a region cannot take its whole share: capacity, half-dead regions, sessions.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use meridian_tests::{Account, Answer, Ask, Backend, Load, Meridian, eventually, regions};

const SOON: Duration = Duration::from_secs(20);
const US: &str = "us-east-1";
const WEST: &str = "us-west-2";

fn edge(backends: &[Backend], service: &str, region: &str) -> Meridian {
    let endpoints: Vec<_> = backends.iter().map(|b| (b.name(), b.address())).collect();
    let middle = regions(&endpoints, service)
        .replace("country = \"US\"\n", &format!("country = \"US\"\n{region}\n"));
    Meridian::start(&format!("{middle}[[routes]]\nname = \"all\"\nservice = \"api\"\n"))
}

/// Each tells its port.
fn telling(name: &str, delay: Duration) -> Backend {
    let backend = Backend::start(name);
    let port = backend.address().port();
    backend.set(move |_| Answer::ok("x").header("X-Served-By", port).delay(delay));
    backend
}

fn share(account: &Account, since: Instant, region: &str) -> f64 {
    let all: Vec<_> = account.since(since).collect();
    all.iter().filter(|outcome| outcome.region() == Some(region)).count() as f64 / all.len() as f64
}

#[test]
fn regions_are_filled_in_order_and_when_all_are_full_it_says_so() {
    let slow = Duration::from_millis(60);
    let backends = [US, WEST].map(|name| telling(name, slow));
    let edge = edge(&backends, "policy = \"priority\"", "capacity = 5");
    // Three at a time: the first region has room for them.
    let load = Load::start(edge.address(), 3, |_| Ask::get("/"));
    load.run_for(60);
    let account = load.stop();
    account.assert_all_fine(60);
    assert_eq!(account.regions().keys().collect::<Vec<_>>(), [US]);
    // Seven: it is filled to four fifths, the rest goes to the next.
    let load = Load::start(edge.address(), 7, |_| Ask::get("/"));
    load.run_for(140);
    let account = load.stop();
    account.assert_all_fine(140);
    let regions = account.regions();
    assert!(regions[US] > regions[WEST] && regions[WEST] > 20, "{regions:?}");
    // Thirty: both are full.
    let load = Load::start(edge.address(), 30, |_| Ask::get("/"));
    load.run_for(400);
    let account = load.stop();
    let statuses = account.statuses();
    assert!(statuses.keys().all(|status| [200, 503].contains(status)), "{statuses:?}");
    assert!(statuses[&200] > 10 && statuses[&503] > 50, "{statuses:?}");
    for outcome in account.0.iter().filter(|outcome| !outcome.is_fine()) {
        let answer = outcome.answer.as_ref().expect("an answer");
        assert_eq!(answer.header("Retry-After"), Some("1"));
    }
    assert!(edge.admin().metric_sum("meridian_refusals_total", &["capacity"]) > 50.0);
}

#[test]
fn a_half_dead_region_gives_away_what_it_cannot_take() {
    let mut backends: Vec<_> = (0..4).map(|_| telling(US, Duration::ZERO)).collect();
    backends.push(telling(WEST, Duration::ZERO));
    let edge = edge(&backends, "policy = \"priority\"", "");
    let load = Load::start(edge.address(), 4, |_| Ask::get("/"));
    load.run_for(200);
    // Two of four are left: 1.4 x 1/2 of the traffic stays.
    backends[..2].iter().for_each(Backend::kill);
    eventually("two are out", SOON, || edge.stderr().matches(" unhealthy ").count() == 2);
    let half = Instant::now();
    load.run_for(800);
    let account = load.stop();
    account.assert_all_fine(1000);
    let kept = share(&account, half, US);
    assert!((0.62..0.78).contains(&kept), "{kept} of the requests, not 0.7");
}

#[test]
fn below_half_with_nowhere_to_go_everything_is_tried() {
    let backends: Vec<_> = (0..4).map(|_| telling(US, Duration::ZERO)).collect();
    let edge = edge(&backends, "policy = \"priority\"", "");
    // They say that they are unwell, and are not: the case that panic is for.
    backends[..3].iter().for_each(|backend| backend.set_health(500));
    eventually("three are out", SOON, || edge.stderr().matches(" unhealthy ").count() == 3);
    let load = Load::start(edge.address(), 4, |_| Ask::get("/"));
    load.run_for(300);
    let account = load.stop();
    account.assert_all_fine(300);
    let used: BTreeSet<_> = account.0.iter().filter_map(|outcome| outcome.endpoint()).collect();
    assert_eq!(used.len(), 4, "{used:?}");
    assert!(edge.admin().metric_sum("meridian_decisions_total", &["panic"]) > 100.0);
}

#[test]
fn a_session_stays_with_its_endpoint_and_moves_only_when_it_must() {
    let backends: Vec<_> = (0..4).map(|_| telling(US, Duration::ZERO)).collect();
    let service = "balance = \"consistent_hash\"\nhash_key = \"header:x-tenant\"";
    let edge = edge(&backends, service, "");
    let mut client = edge.client();
    let mut places = || -> Vec<String> {
        let place = |tenant| {
            let ask = Ask::get("/").with("X-Tenant", format!("tenant-{tenant}"));
            let answer = ask.send(&mut client);
            assert_eq!(answer.status, 200);
            answer.header("X-Served-By").expect("a port").to_owned()
        };
        (0..80).map(place).collect()
    };
    let before = places();
    assert_eq!(before, places());
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 4, "all are used");
    let dead = backends[0].address().port().to_string();
    backends[0].kill();
    eventually("one is out", SOON, || edge.stderr().contains(" unhealthy "));
    for (tenant, (was, is)) in before.iter().zip(places()).enumerate() {
        assert!(*was == is || *was == dead, "tenant {tenant} moved from {was} to {is}");
        assert_ne!(is, dead);
    }
    backends[0].revive();
    eventually("they come back", SOON, || places() == before);
}
