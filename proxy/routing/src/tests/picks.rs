//! Which endpoint of a region: balances, slow start, consistent hashing.

use std::time::Duration;

use super::world::{EAST, Setup, World, client, get, post};
use crate::{Dice, EndpointReason, Micros, Outcome, RequestFacts, decide};

/// A primary with endpoints of these weights; requests are writes, so that they stay there.
fn weights(balance: &str, of: [u32; 3]) -> World {
    let lines = of.map(|weight| format!("weight = {weight}"));
    let mut endpoints = [""; 12];
    for (endpoint, line) in endpoints.iter_mut().zip(&lines) {
        *endpoint = line;
    }
    let service = format!("balance = \"{balance}\"");
    World::new(Setup { service: &service, endpoints, ..Setup::default() })
}

fn shares_of_three(world: &mut World, request: &RequestFacts<'_>) -> [f64; 3] {
    let shares = world.endpoint_shares(request);
    [0, 1, 2].map(|n| shares.get(&n).copied().unwrap_or(0.0))
}

#[track_caller]
fn close(found: [f64; 3], expected: [f64; 3]) {
    let near = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 0.015);
    assert!(near, "{found:?}, not {expected:?}");
}

/// While nothing is in flight and costs are level, every balance shares by weight.
#[test]
fn every_balance_follows_weights() {
    for balance in ["p2c_ewma", "least_request", "round_robin", "random"] {
        for (of, expected) in [
            ([100, 100, 100], [1.0 / 3.0; 3]),
            ([10, 30, 60], [0.1, 0.3, 0.6]),
            ([0, 10, 90], [0.0, 0.1, 0.9]),
            ([0, 0, 0], [1.0 / 3.0; 3]),
            ([0, 0, 7], [0.0, 0.0, 1.0]),
        ] {
            println!("{balance} {of:?}");
            close(shares_of_three(&mut weights(balance, of), &post()), expected);
        }
    }
}

#[test]
fn p2c_avoids_an_endpoint_that_fails_fast() {
    for of in [[100, 100, 100], [900, 50, 50], [0, 900, 100]] {
        let mut world = weights("p2c_ewma", of);
        for n in 0..3 {
            let (load, failing) = (&world.endpoint(n).load, n == first(of));
            let took = Duration::from_micros(if failing { 300 } else { 2_000 });
            let outcome = if failing { Outcome::Failed(None) } else { Outcome::Answered(took) };
            load.begin();
            load.end(outcome, post().now);
        }
        let shares = shares_of_three(&mut world, &post());
        assert_eq!(shares[first(of) as usize], 0.0, "{of:?} {shares:?}");
    }
}

/// The first endpoint with a weight.
fn first(of: [u32; 3]) -> u32 {
    of.iter().position(|weight| *weight > 0).unwrap_or(0) as u32
}

#[test]
fn a_failure_is_forgotten_in_time() {
    let mut world = weights("p2c_ewma", [0, 100, 100]);
    let start = post().now;
    for (n, outcome) in
        [(1, Outcome::Failed(None)), (2, Outcome::Answered(Duration::from_millis(2)))]
    {
        world.endpoint(n).load.begin();
        world.endpoint(n).load.end(outcome, start);
    }
    let later = |s: u64| start.plus(Duration::from_secs(s));
    for s in 0..30 {
        let load = &world.endpoint(2).load;
        load.begin();
        load.end(Outcome::Answered(Duration::from_millis(2)), later(s));
    }
    let tried = |world: &mut World, s: u64| {
        shares_of_three(world, &RequestFacts { now: later(s), ..post() })[1]
    };
    assert_eq!(tried(&mut world, 30), 0.0);
    // Five seconds have decayed below what is left of two milliseconds and a decaying idle cost.
    for s in 31..120 {
        let load = &world.endpoint(2).load;
        load.begin();
        load.end(Outcome::Answered(Duration::from_millis(2)), later(s));
    }
    assert_eq!(tried(&mut world, 119), 1.0, "it is tried again");
}

#[test]
fn p2c_subtracts_the_round_trip_before_it_compares() {
    let mut world = weights("p2c_ewma", [0, 100, 100]);
    world.round_trips([80, 200, 200, 200]);
    // 81 ms and 84 ms look alike; without the 80 ms of the way it is 1 ms against 4 ms.
    for (n, ms) in [(1, 81), (2, 84)] {
        let load = &world.endpoint(n).load;
        load.begin();
        load.end(Outcome::Answered(Duration::from_millis(ms)), post().now);
    }
    assert_eq!(shares_of_three(&mut world, &post()), [0.0, 1.0, 0.0]);
    // Three times as many in flight outweigh 81 ms against 84 ms, not 1 ms against 4 ms.
    (0..2).for_each(|_| world.endpoint(1).load.begin());
    assert_eq!(shares_of_three(&mut world, &post()), [0.0, 1.0, 0.0]);
    (0..2).for_each(|_| world.endpoint(1).load.begin());
    assert_eq!(shares_of_three(&mut world, &post()), [0.0, 0.0, 1.0]);
}

#[test]
fn fewer_in_flight_per_weight_wins() {
    let mut world = weights("least_request", [0, 100, 100]);
    world.endpoint(1).load.begin();
    assert_eq!(shares_of_three(&mut world, &post()), [0.0, 0.0, 1.0]);
    let mut world = weights("least_request", [0, 100, 300]);
    world.endpoint(1).load.begin();
    (0..2).for_each(|_| world.endpoint(2).load.begin());
    assert_eq!(shares_of_three(&mut world, &post()), [0.0, 0.0, 1.0], "2 of 300 before 1 of 100");
    (0..2).for_each(|_| world.endpoint(2).load.begin());
    assert_eq!(shares_of_three(&mut world, &post()), [0.0, 1.0, 0.0], "4 of 300 after 1 of 100");
}

/// Held in flight, requests spread as the weights ask, in every balance that looks at load.
#[test]
fn under_load_the_weights_hold_too() {
    for balance in ["p2c_ewma", "least_request"] {
        let mut world = weights(balance, [100, 300, 600]);
        for _ in 0..1000 {
            let chosen = world.decide(&client("US"), &post()).expect("a decision").endpoint;
            world.endpoint(chosen.endpoint.0).load.begin();
        }
        let held = [0, 1, 2].map(|n| f64::from(world.endpoint(n).load.in_flight()) / 1000.0);
        let near = held.iter().zip([0.1, 0.3, 0.6]).all(|(a, b)| (a - b).abs() < 0.05);
        assert!(near, "{balance}: {held:?}");
    }
}

/// Costs that differ a little are noise: they do not outweigh weights.
#[test]
fn the_lighter_of_two_is_not_preferred_for_being_a_little_faster() {
    let mut world = weights("p2c_ewma", [0, 100, 900]);
    for (n, us) in [(1, 1_500), (2, 2_000)] {
        let load = &world.endpoint(n).load;
        load.begin();
        load.end(Outcome::Answered(Duration::from_micros(us)), post().now);
    }
    close(shares_of_three(&mut world, &post()), [0.0, 0.1, 0.9]);
}

/// While it warms up, an endpoint holds as little in flight as its weight says, though it looks idle.
#[test]
fn slow_start_holds_under_load() {
    for balance in ["p2c_ewma", "least_request"] {
        let mut world = weights(balance, [0, 100, 100]);
        world.recovered(2, post().now);
        for _ in 0..1100 {
            let chosen = world.decide(&client("US"), &post()).expect("a decision").endpoint;
            world.endpoint(chosen.endpoint.0).load.begin();
        }
        let held = world.endpoint(2).load.in_flight();
        assert!((60..160).contains(&held), "{balance}: {held} of 1100");
    }
}

#[test]
fn round_robin_is_smooth_and_exact() {
    let mut world = weights("round_robin", [5, 1, 1]);
    let mut turn = || {
        let choice = world.decide(&client("US"), &post()).expect("a decision").endpoint;
        assert_eq!(choice.reason, EndpointReason::InTurn);
        choice.endpoint.0
    };
    let order: Vec<_> = (0..14).map(|_| turn()).collect();
    assert_eq!(order, [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]);
}

/// Linear from 10% at the recovery to the whole after 30 s, whatever the balance, for two endpoints and for three.
#[test]
fn slow_start_after_a_recovery() {
    for balance in ["p2c_ewma", "least_request", "round_robin", "random"] {
        for of in [[100, 100, 100], [0, 100, 100]] {
            let others = of.iter().filter(|weight| **weight > 0).count() as f64 - 1.0;
            for (elapsed, warmth) in [(0, 0.1), (10, 0.4), (20, 0.7), (30, 1.0), (1000, 1.0)] {
                let mut world = weights(balance, of);
                let since = Duration::from_secs(elapsed).as_micros() as u64;
                world.recovered(2, Micros(post().now.0 - since));
                let found = shares_of_three(&mut world, &post())[2];
                let expected = warmth / (others + warmth);
                println!("{balance} {of:?} after {elapsed} s: {found}");
                assert!((found - expected).abs() < 0.015, "{expected}");
            }
        }
    }
}

#[test]
fn no_slow_start_at_process_start() {
    let mut world = weights("p2c_ewma", [100, 100, 100]);
    let now = RequestFacts { now: Micros(0), ..post() };
    close(shares_of_three(&mut world, &now), [1.0 / 3.0; 3]);
}

fn tenant(n: u32) -> [(String, String); 1] {
    [("x-tenant".to_owned(), n.to_string())]
}

fn hashed(world: &World, n: u32, dice: u64) -> u32 {
    let headers = tenant(n);
    let request = RequestFacts { headers: &headers, ..post() };
    let decision = decide(&world.table, &client("US"), &request, &mut Dice::seeded(dice));
    let choice = decision.expect("a decision").endpoint;
    assert_eq!(choice.reason, EndpointReason::Hash);
    choice.endpoint.0
}

const BY_TENANT: &str = "balance = \"consistent_hash\"\nhash_key = \"header:x-tenant\"";

#[test]
fn a_hashed_key_stays_and_only_those_of_a_lost_endpoint_move() {
    let mut world = World::of_service(BY_TENANT);
    let before: Vec<_> = (0..3000).map(|n| hashed(&world, n, 1)).collect();
    assert!((0..3000).all(|n| hashed(&world, n, 2) == before[n as usize]), "dice do not matter");
    for endpoint in 0..3 {
        let share = before.iter().filter(|e| **e == endpoint).count();
        assert!((900..1100).contains(&share), "{share} keys on {endpoint}");
    }
    world.healthy(EAST, 2);
    for n in 0..3000 {
        let now = hashed(&world, n, 1);
        assert!(now == before[n as usize] || before[n as usize] == 2 && now < 2);
    }
    world.healthy(EAST, 3);
    assert!((0..3000).all(|n| hashed(&world, n, 3) == before[n as usize]), "and come back");
}

/// No endpoint of three holds more than 1.25 times its third (rounded up), though all requests have one key.
#[test]
fn a_hot_key_overflows_at_its_bound() {
    let world = World::of_service(BY_TENANT);
    let home = hashed(&world, 7, 1);
    for total in 1..=300_u32 {
        let chosen = hashed(&world, 7, 1);
        world.endpoint(chosen).load.begin();
        world.load(EAST, 1);
        let bound = (1.25 * f64::from(total) / 3.0).ceil() as u32;
        let held = [0, 1, 2].map(|n| world.endpoint(n).load.in_flight());
        assert!(held.iter().all(|h| *h <= bound), "{held:?} of {total}");
    }
    assert_eq!(world.endpoint(home).load.in_flight(), 125, "home is filled up to its bound");
}

#[test]
fn each_kind_of_key() {
    let headers = vec![("cookie".to_owned(), "a=1; sid=s7; b=2".to_owned())];
    for (key, same, other) in
        [("cookie:sid", "/x", None), ("path", "/x", Some("/y")), ("client", "/x", None)]
    {
        let service = format!("balance = \"consistent_hash\"\nhash_key = \"{key}\"");
        let world = World::of_service(&service);
        let chosen = |path: &str, headers: &Vec<(String, String)>, seed| {
            let request = RequestFacts { headers, path, ..post() };
            let dice = &mut Dice::seeded(seed);
            decide(&world.table, &client("US"), &request, dice).expect("a decision").endpoint
        };
        let first = chosen(same, &headers, 1);
        assert_eq!(first.reason, EndpointReason::Hash, "{key}");
        assert!((0..50).all(|seed| chosen(same, &headers, seed) == first), "{key}");
        match other {
            Some(_) => assert!((0..50).any(|n| chosen(&format!("/{n}"), &headers, 1) != first)),
            None => assert_eq!(chosen("/other", &headers, 1), first, "{key}"),
        }
        if key.starts_with("cookie") {
            let others = |n| vec![("cookie".to_owned(), format!("sid=t{n}"))];
            assert!((0..50).any(|n| chosen(same, &others(n), 1) != first));
            assert_eq!(chosen(same, &Vec::new(), 1).reason, EndpointReason::Random);
        }
    }
    assert_eq!(World::of_service("").chosen(&get()).0, EAST);
}
