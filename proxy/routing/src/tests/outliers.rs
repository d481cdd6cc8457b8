//! Endpoints that traffic has put out: who is chosen instead, and who tries them again.

use std::time::Duration;

use super::world::{ASIA, EAST, EU, Setup, WEST, World, assert_shares, client, facts, get, post};
use crate::{
    Decision, EndpointHealth, EndpointIndex, EndpointReason, RegionReason, RequestFacts, explain,
    next_attempt,
};

const BALANCES: [&str; 5] = [
    "balance = \"p2c_ewma\"",
    "balance = \"least_request\"",
    "balance = \"round_robin\"",
    "balance = \"random\"",
    "balance = \"consistent_hash\"\nhash_key = \"path\"",
];

/// Where many requests for different paths go, all decided on anew.
fn decisions(world: &mut World, method: &'static str, count: u32) -> Vec<Decision> {
    let decide = |n: u32| {
        let path = format!("/{n}");
        world.decide(&client("US"), &facts(method, "x", &path)).expect("a decision")
    };
    (0..count).map(decide).collect()
}

fn later(by: Duration) -> RequestFacts<'static> {
    RequestFacts { now: get().now.plus(by), ..get() }
}

#[test]
fn what_the_data_path_holds_back_is_not_chosen_by_any_balance() {
    for balance in BALANCES {
        let mut world = World::of_service(&format!("policy = \"priority\"\n{balance}"));
        world.hold(1);
        let all = decisions(&mut world, "GET", 3_000);
        let hits = |n| all.iter().filter(|d| d.endpoint.endpoint == EndpointIndex(n)).count();
        assert_eq!(hits(1), 0, "{balance}");
        assert!(hits(0) > 500 && hits(2) > 500, "{balance}");
        // No table came: the hold is over.
        let request = later(Duration::from_millis(1001));
        let again = (0..3_000).map(|_| world.decide(&client("US"), &request).expect("a decision"));
        // Peak EWMA remembers the failures, a hash is the same each time.
        let indifferent = ["least_request", "round_robin", "random"].map(|b| balance.contains(b));
        let indifferent = indifferent.contains(&true);
        assert!(!indifferent || again.into_iter().any(|d| d.endpoint.endpoint.0 == 1), "{balance}");
    }
}

#[test]
fn a_region_that_is_held_back_as_a_whole_is_gone_around() {
    for balance in BALANCES {
        let mut world = World::of_service(&format!("policy = \"priority\"\n{balance}"));
        (0..3).for_each(|n| world.hold(n));
        for decision in decisions(&mut world, "GET", 300) {
            let choice = decision.region;
            assert_eq!((choice.region, choice.reason), (WEST, RegionReason::Spill), "{balance}");
        }
        // A write has nowhere else to go, and nobody is refused because of a suspicion.
        for decision in decisions(&mut world, "POST", 300) {
            assert_eq!(decision.region.region, EAST);
        }
        (3..12).for_each(|n| world.hold(n));
        assert_eq!(decisions(&mut world, "GET", 300).len(), 300);
    }
}

#[test]
fn the_ejected_count_as_unhealthy_and_serve_last() {
    let mut world = World::of_service("policy = \"priority\"");
    world.eject(0, false);
    assert!((world.pool(EAST).healthy_fraction - 2.0 / 3.0).abs() < 1e-9);
    world.eject(1, false);
    // A third of the region is left: 1.4 x 1/3 of the traffic stays.
    assert_shares(world.shares(&get()), [1.4 / 3.0, 1.0 - 1.4 / 3.0, 0.0, 0.0]);
    world.eject(2, false);
    assert_shares(world.shares(&get()), [0.0, 1.0, 0.0, 0.0]);
    // Writes have nothing better.
    assert_eq!(world.region(&client("US"), &post()), EAST);
    for n in 3..12 {
        world.eject(n, false);
    }
    let all = decisions(&mut world, "GET", 500);
    assert!(all.iter().all(|d| d.region.region == EAST && !d.region.panic));
    // Unlike what probes have put out.
    for region in [EAST, WEST, EU, ASIA] {
        world.health(region, [EndpointHealth::Unhealthy; 3]);
    }
    world.refusal(&get());
}

#[test]
fn one_request_is_the_trial() {
    let mut world = World::of_service("policy = \"priority\"");
    world.eject(1, true);
    let is_trial = |d: &Decision| d.endpoint.reason == EndpointReason::Trial;
    assert!(decisions(&mut world, "POST", 100).iter().all(|d| d.endpoint.endpoint.0 != 1));
    let proposed = world.decide(&client("US"), &get()).expect("a decision");
    assert!(is_trial(&proposed) && proposed.endpoint.endpoint.0 == 1);
    assert_eq!((proposed.region.region, proposed.region.reason), (EAST, RegionReason::Priority));
    // Deciding takes nothing; sending does.
    assert!(is_trial(&world.decide(&client("US"), &get()).expect("a decision")));
    assert!(world.endpoint(1).load.begin_trial());
    assert!(decisions(&mut world, "GET", 100).iter().all(|d| d.endpoint.endpoint.0 != 1));
    world.endpoint(1).load.repeat_trial(get().now);
    // When none comes that may be repeated, any other has to do.
    let patient = RequestFacts { method: "POST", ..later(Duration::from_secs(1)) };
    assert!(is_trial(&world.decide(&client("US"), &patient).expect("a decision")));
}

#[test]
fn a_trial_is_made_where_nobody_would_go_and_the_request_comes_back() {
    let mut world = World::of_service("policy = \"priority\"");
    world.eject(9, true);
    let first = world.decide(&client("US"), &get()).expect("a decision");
    assert_eq!((first.region.region, first.region.reason), (ASIA, RegionReason::Trial));
    let tried = [first.endpoint.endpoint];
    let next = next_attempt(&world.table, &client("US"), &get(), &first, &tried);
    let next = next.expect("another attempt").region;
    assert_eq!((next.region, next.reason), (EAST, RegionReason::Retry));
}

#[test]
fn filters_bind_trials() {
    let routes = "[[routes]]\nname = \"r\"\nservice = \"api\"\npolicy = \"priority\"\n\
                  residency = { regions = [\"eu-west-1\", \"us-east-1\", \"us-west-2\"] }\n";
    let regions = ["", "", "drain = true", ""];
    let service = "[services.replication]\nsource = \"headers\"";
    let mut world = World::new(Setup { regions, service, routes, ..Setup::default() });
    // Too stale, drained, not allowed.
    world.eject(3, true).eject(6, true).eject(9, true);
    let not_tried = |all: &[Decision]| all.iter().all(|d| d.region.region == EAST);
    assert!(not_tried(&decisions(&mut world, "GET", 100)));
    world.lag(WEST, Duration::ZERO, get().now);
    assert_eq!(world.region(&client("US"), &get()), WEST);
    // A write is tried in the primary or not at all.
    let patient = RequestFacts { method: "POST", ..later(Duration::from_secs(2)) };
    assert_eq!(world.region(&client("US"), &patient), EAST);
}

#[test]
fn further_attempts_go_last_to_what_went_out_since() {
    let mut world = World::of_service("policy = \"priority\"");
    let first = world.decide(&client("US"), &get()).expect("a decision");
    assert_eq!(first.region.region, EAST);
    let others: Vec<u32> = (0..3).filter(|n| *n != first.endpoint.endpoint.0).collect();
    world.hold(others[0] as usize);
    let mut tried = vec![first.endpoint.endpoint];
    let mut last = first;
    let mut order = Vec::new();
    while let Some(next) = next_attempt(&world.table, &client("US"), &get(), &last, &tried) {
        order.push(next.endpoint.endpoint.0);
        tried.push(next.endpoint.endpoint);
        last = next;
    }
    assert_eq!(order.len(), 11, "every endpoint has its turn: {order:?}");
    assert_eq!((order[0], order[10]), (others[1], others[0]), "{order:?}");
}

#[test]
fn explaining_tells_who_is_ejected_and_why() {
    let mut world = World::of_service("policy = \"priority\"");
    world.eject(4, false).eject(7, true);
    let request = RequestFacts { method: "POST", ..later(Duration::from_millis(800)) };
    let told = explain(&world.table, &client("US"), &request, &mut crate::Dice::seeded(1));
    let rows: Vec<_> = told
        .ejected
        .iter()
        .map(|e| (e.region.as_str(), e.endpoint.as_str(), e.evidence.as_str(), e.left_ms))
        .collect();
    let evidence = "3 connection failures in a row";
    let expected =
        [("us-west-2", "10.0.0.4:80", evidence, 4200), ("eu-west-1", "10.0.0.7:80", evidence, 0)];
    assert_eq!(rows, expected);
}
