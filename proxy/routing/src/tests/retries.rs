//! Where further attempts go, and that explaining agrees with deciding.

use super::world::{ASIA, EAST, EU, Setup, WEST, World, client, facts, get, post};
use crate::{
    Decision, Dice, EndpointIndex, EndpointReason, Filter, RegionReason, decide, explain,
    next_attempt,
};
use meridian_config::RegionIndex;

/// The regions of some attempts, in the order in which they had their first.
fn regions_in_order(attempts: &[Decision]) -> Vec<RegionIndex> {
    let mut order = Vec::new();
    for region in attempts.iter().map(|attempt| attempt.region.region) {
        if !order.contains(&region) {
            order.push(region);
        }
    }
    order
}

/// All attempts of one request, each endpoint and region in order.
fn attempts(world: &mut World, request: &crate::RequestFacts<'_>) -> Vec<Decision> {
    let first = world.decide(&client("US"), request).expect("a decision");
    let mut all = vec![first];
    let mut tried = vec![first.endpoint.endpoint];
    while let Some(next) =
        next_attempt(&world.table, &client("US"), request, &all[all.len() - 1], &tried)
    {
        tried.push(next.endpoint.endpoint);
        all.push(next);
    }
    all
}

#[test]
fn same_region_first_then_the_next_in_rank_never_twice_the_same() {
    let mut world = World::of_service("policy = \"latency\"");
    world.round_trips([100, 10, 200, 12]).drain(EU).drain_endpoint(9).drain_endpoint(11);
    for _ in 0..20 {
        let all = attempts(&mut world, &get());
        assert_eq!(all.len(), 3 + 3 + 1);
        let regions = regions_in_order(&all);
        // WEST and ASIA are one band; EAST comes after both.
        let expected = [[WEST, ASIA, EAST], [ASIA, WEST, EAST]];
        assert!(expected.iter().any(|order| regions == order), "{regions:?}");
        let mut endpoints: Vec<_> = all.iter().map(|a| a.endpoint.endpoint).collect();
        endpoints.sort();
        endpoints.dedup();
        assert_eq!(endpoints.len(), all.len());
        let first = all[0].region.region;
        for attempt in &all[1..] {
            assert_eq!(attempt.endpoint.reason, EndpointReason::Untried);
            let moved = attempt.region.region != first;
            assert!(attempt.region.reason == RegionReason::Retry || !moved);
            assert!(attempt.candidates.contains(attempt.region.region));
        }
    }
}

#[test]
fn what_failed_twice_in_a_region_goes_to_the_next_and_comes_back_when_there_is_none() {
    let mut world = World::of_service("policy = \"priority\"");
    let all = attempts(&mut world, &get());
    let regions: Vec<_> = all.iter().map(|attempt| attempt.region.region).collect();
    assert_eq!(regions[..5], [EAST, EAST, WEST, WEST, EAST]);
    assert_eq!(all.len(), 12, "every endpoint has its turn");
}

#[test]
fn a_write_is_tried_in_the_primary_only() {
    let mut world = World::of_service("policy = \"latency\"");
    let all = attempts(&mut world, &post());
    assert_eq!(all.len(), 3);
    assert!(all.iter().all(|attempt| attempt.region.region == EAST));
}

#[test]
fn residency_and_freshness_bind_every_attempt() {
    let routes = "[[routes]]\nname = \"r\"\nservice = \"api\"\npolicy = \"priority\"\n\
                  residency = { regions = [\"eu-west-1\", \"us-east-1\", \"us-west-2\"] }\n";
    let service = "[services.replication]\nsource = \"headers\"";
    let mut world = World::new(Setup { service, routes, ..Setup::default() });
    world.lag(EU, std::time::Duration::ZERO, get().now);
    let regions = regions_in_order(&attempts(&mut world, &get()));
    assert_eq!(regions, [EAST, EU], "WEST's lag is not known, ASIA is not allowed");
}

#[test]
fn the_least_loaded_region_of_a_band_is_next_and_weight_0_last() {
    let regions = ["weight = 0", "weight = 100", "weight = 100", "weight = 100"];
    let service = "policy = \"weighted\"";
    let mut world = World::new(Setup { regions, service, ..Setup::default() });
    world.load(WEST, 5);
    world.load(EU, 2);
    let all = attempts(&mut world, &get());
    let order = regions_in_order(&all);
    assert_eq!(order[3], EAST);
    let (first, mut rest) = (order[0], order[1..3].to_vec());
    rest.sort_by_key(|region| [EAST, ASIA, EU, WEST].iter().position(|r| r == region));
    assert_eq!(order[1..3], rest, "after {first:?}");
}

#[test]
fn a_full_region_takes_no_further_attempt() {
    let regions = ["", "capacity = 4", "drain = true", "drain = true"];
    let service = "policy = \"priority\"";
    let mut world = World::new(Setup { regions, service, ..Setup::default() });
    let first = world.decide(&client("US"), &get()).expect("a decision");
    assert!(first.candidates.contains(WEST));
    world.load(WEST, 4);
    let tried = [0, 1, 2].map(EndpointIndex);
    assert_eq!(next_attempt(&world.table, &client("US"), &get(), &first, &tried), None);
}

#[test]
fn a_session_moves_to_its_second_choice() {
    let mut world = World::of_service("balance = \"consistent_hash\"\nhash_key = \"path\"");
    for n in 0..50 {
        let path = format!("/{n}");
        let request = facts("POST", "x", &path);
        let first = world.decide(&client("US"), &request).expect("a decision");
        let tried = [first.endpoint.endpoint];
        let retry = next_attempt(&world.table, &client("US"), &request, &first, &tried);
        let lost = first.endpoint.endpoint.0 as usize;
        let mut verdicts = [crate::EndpointHealth::Healthy; 3];
        verdicts[lost] = crate::EndpointHealth::Unhealthy;
        world.health(EAST, verdicts);
        let later = world.decide(&client("US"), &request).expect("a decision");
        assert_eq!(retry.map(|r| r.endpoint.endpoint), Some(later.endpoint.endpoint));
        world.healthy(EAST, 3);
    }
}

#[test]
fn explaining_agrees_with_deciding_and_takes_no_turn() {
    let regions = ["weight = 10", "capacity = 10", "weight = 50", "drain = true"];
    for policy in ["latency", "geo", "weighted", "priority", "round_robin", "health"] {
        for balance in ["p2c_ewma", "least_request", "round_robin", "random"] {
            let service = format!("policy = \"{policy}\"\nbalance = \"{balance}\"");
            let mut world = World::new(Setup { regions, service: &service, ..Setup::default() });
            world.healthy(EU, 1).load(WEST, 9);
            for seed in 0..50 {
                let (who, dice) = (client("DE"), || Dice::seeded(seed));
                let told = explain(&world.table, &who, &get(), &mut dice());
                assert_eq!(told.policy.as_deref(), Some(policy));
                let again = explain(&world.table, &who, &get(), &mut dice());
                let decided = decide(&world.table, &who, &get(), &mut dice()).expect("a decision");
                let told = told.decision.expect("a decision");
                assert_eq!(told.region, again.decision.expect("a decision").region);
                let view = world.table.region(decided.region.region);
                assert_eq!(told.region, view.settings.id.to_string());
                assert_eq!(told.reason, decided.region.reason);
                let endpoint = world.service().endpoint(decided.endpoint.endpoint);
                assert_eq!(told.endpoint, endpoint.key.address.to_string());
            }
        }
    }
}

#[test]
fn every_region_is_told_once_with_its_rank_or_its_filter() {
    let regions = ["priority = 4", "priority = 3", "priority = 2", "priority = 1\ndrain = true"];
    let service = "policy = \"priority\"";
    let mut world = World::new(Setup { regions, service, ..Setup::default() });
    world.healthy(EU, 1);
    let told = explain(&world.table, &client("US"), &get(), &mut Dice::seeded(1));
    let rows: Vec<_> = told
        .candidates
        .iter()
        .map(|c| (c.region.as_str(), c.rank, c.excluded_by.as_deref()))
        .collect();
    let expected = [
        ("eu-west-1", Some(1), None),
        ("us-west-2", Some(2), None),
        ("us-east-1", Some(3), None),
        ("ap-southeast-1", None, Some("drain")),
    ];
    assert_eq!(rows, expected);
    let shares: Vec<_> = told.candidates.iter().filter_map(|c| c.share).collect();
    assert!(
        (shares[0] - 1.4 / 3.0).abs() < 1e-9 && (shares.iter().sum::<f64>() - 1.0).abs() < 1e-9
    );
    assert_eq!(shares[2], 0.0);

    world.healthy(EAST, 0);
    let told = explain(&world.table, &client("US"), &post(), &mut Dice::seeded(1));
    let refusal = told.refusal.expect("no primary");
    assert_eq!((refusal.filter, refusal.retry_after), (Filter::Health, Some(2)));
    let mut rows: Vec<_> =
        told.candidates.iter().map(|c| (c.region.as_str(), c.excluded_by.as_deref())).collect();
    rows.sort_unstable();
    let expected = [
        ("ap-southeast-1", Some("role")),
        ("eu-west-1", Some("role")),
        ("us-east-1", Some("health")),
        ("us-west-2", Some("role")),
    ];
    assert_eq!(rows, expected);
    assert!(told.candidates.iter().all(|c| c.rank.is_none()));
}
