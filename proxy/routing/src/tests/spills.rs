//! Shares of regions that are not wholly healthy, capacity, and panic.

use super::world::{ASIA, EAST, EU, Setup, WEST, World, assert_shares, client, get, post};
use crate::{Change, Filter, RegionReason, Target};

fn by_priority() -> World {
    let regions = ["priority = 1", "priority = 2", "priority = 3", "priority = 4"];
    World::new(Setup { regions, service: "policy = \"priority\"", ..Setup::default() })
}

/// Healthy endpoints of three in each region, and the shares: `min(1, 1.4 h)` of what is left.
#[test]
fn each_rank_takes_its_healthy_share_of_what_is_left() {
    let third = 1.4 / 3.0;
    for (healthy, expected) in [
        ([3, 3, 3, 3], [1.0, 0.0, 0.0, 0.0]),
        // 1.4 x 2/3 is 0.933.
        ([2, 3, 3, 3], [2.0 * third, 1.0 - 2.0 * third, 0.0, 0.0]),
        ([1, 3, 3, 3], [third, 1.0 - third, 0.0, 0.0]),
        ([1, 1, 3, 3], [third, third, 1.0 - 2.0 * third, 0.0]),
        ([1, 1, 1, 3], [third, third, 1.0 - 2.0 * third, 0.0]),
        ([0, 1, 0, 3], [0.0, third, 0.0, 1.0 - third]),
        // Together below the whole: in the same proportions.
        ([1, 1, 0, 0], [0.5, 0.5, 0.0, 0.0]),
        ([1, 0, 0, 0], [1.0, 0.0, 0.0, 0.0]),
    ] {
        let mut world = by_priority();
        for (region, count) in [EAST, WEST, EU, ASIA].into_iter().zip(healthy) {
            world.healthy(region, count);
        }
        let shares = world.shares(&get());
        println!("{healthy:?}");
        assert_shares(shares, expected);
    }
}

#[test]
fn what_spills_says_so() {
    let mut world = by_priority();
    world.healthy(EAST, 1);
    for _ in 0..200 {
        let (region, reason) = world.chosen(&get());
        let expected = if region == EAST { RegionReason::Priority } else { RegionReason::Spill };
        assert_eq!((region == EAST || region == WEST, reason), (true, expected));
    }
    assert_eq!(world.chosen(&post()).0, EAST, "a write does not spill");
}

#[test]
fn inside_a_band_the_healthy_ones_take_over_what_finds_no_next_rank() {
    let mut world = World::of_service("policy = \"weighted\"");
    world.healthy(ASIA, 0).healthy(EU, 0).healthy(WEST, 1);
    let third = 1.4 / 3.0;
    assert_shares(world.shares(&get()), [1.0 / (1.0 + third), third / (1.0 + third), 0.0, 0.0]);
    // WEST is below half, but EAST has room: no panic, its unhealthy endpoints take nothing.
    assert!(world.endpoint_shares(&get()).keys().all(|n| *n < 4));
    for _ in 0..200 {
        assert!(!world.decide(&client("US"), &get()).expect("a decision").region.panic);
    }
}

/// Healthy endpoints of the four regions; the regions that panic.
#[test]
fn panic_only_below_half_and_only_when_nothing_else_has_room() {
    for (healthy, panics) in [
        ([1, 3, 0, 0], &[][..]),
        ([1, 1, 1, 0], &[][..]),
        ([1, 1, 0, 0], &[0, 1][..]),
        ([1, 0, 0, 0], &[0][..]),
        // 1.4 x 2/3 is not the whole, but two of three are no reason to panic.
        ([2, 0, 0, 0], &[][..]),
        ([3, 0, 0, 0], &[][..]),
    ] {
        let mut world = by_priority();
        for (region, count) in [EAST, WEST, EU, ASIA].into_iter().zip(healthy) {
            world.healthy(region, count);
        }
        let mut unhealthy_hit = std::collections::BTreeSet::new();
        for _ in 0..500 {
            let decision = world.decide(&client("US"), &get()).expect("a decision");
            let region = decision.region.region.0;
            assert_eq!(decision.region.panic, panics.contains(&region), "{healthy:?}");
            let panic_reason = decision.region.reason == RegionReason::Panic;
            assert_eq!(panic_reason, decision.region.panic);
            let endpoint = decision.endpoint.endpoint.0 as usize;
            if endpoint % 3 >= healthy[endpoint / 3] {
                unhealthy_hit.insert(region);
            }
        }
        assert_eq!(unhealthy_hit.into_iter().collect::<Vec<_>>(), panics, "{healthy:?}");
    }
}

#[test]
fn a_write_panics_in_the_primary_and_nowhere_else() {
    let mut world = by_priority();
    world.healthy(EAST, 1);
    let decision = world.decide(&client("US"), &post()).expect("a decision").region;
    assert_eq!((decision.region, decision.reason), (EAST, RegionReason::Panic));
    world.healthy(EAST, 2);
    let decision = world.decide(&client("US"), &post()).expect("a decision").region;
    assert_eq!((decision.panic, decision.reason), (false, RegionReason::PrimaryForWrite));
}

#[test]
fn panic_spares_the_drained() {
    let mut world = by_priority();
    world.healthy(EAST, 1).drain_endpoint(2);
    assert_eq!(world.endpoint_shares(&post()).keys().copied().collect::<Vec<_>>(), [0]);
    // One of two that count is half: no panic. With weights it is less.
    let target = Target::Endpoint { service: "api".into(), address: "10.0.0.0:80".into() };
    world.set(target, Change::Weight(10));
    assert_eq!(world.endpoint_shares(&post()).keys().copied().collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn capacity_fills_to_four_fifths_then_spills_then_refuses() {
    let regions = [
        "priority = 1\ncapacity = 10",
        "priority = 2\ncapacity = 20",
        "drain = true",
        "drain = true",
    ];
    let setup = Setup { regions, service: "policy = \"priority\"", ..Setup::default() };
    let mut world = World::new(setup);
    world.load(EAST, 7);
    assert_eq!(world.chosen(&get()), (EAST, RegionReason::Priority));
    world.load(EAST, 1);
    assert_eq!(world.chosen(&get()), (WEST, RegionReason::CapacitySpill));
    assert_eq!(world.chosen(&post()).0, EAST, "a write has nowhere else to go");
    world.load(WEST, 16);
    assert_eq!(world.chosen(&get()), (EAST, RegionReason::Priority), "all are filled that far");
    world.load(EAST, 2);
    assert_eq!(world.chosen(&get()), (WEST, RegionReason::CapacitySpill));
    let refusal = world.refusal(&post());
    assert_eq!((refusal.filter, refusal.status), (Filter::Capacity, 503));
    world.load(WEST, 4);
    let refusal = world.refusal(&get());
    assert_eq!(
        (refusal.filter, refusal.status, refusal.retry_after()),
        (Filter::Capacity, 503, Some(1))
    );
    world.pool(WEST).load.0.end(None);
    assert_eq!(world.chosen(&get()).0, WEST);
}

#[test]
fn a_filled_region_is_used_before_an_unhealthy_one_panics() {
    let regions = ["priority = 1", "priority = 2\ncapacity = 10", "drain = true", "drain = true"];
    let setup = Setup { regions, service: "policy = \"priority\"", ..Setup::default() };
    let mut world = World::new(setup);
    world.healthy(EAST, 1).load(WEST, 9);
    let third = 1.4 / 3.0;
    assert_shares(world.shares(&get()), [third, 1.0 - third, 0.0, 0.0]);
    assert!(world.endpoint_shares(&get()).keys().all(|n| *n == 0 || (3..6).contains(n)));
}
