//! What a region's state costs is counted at that region.

use super::world::{ASIA, EAST, EU, Setup, WEST, World, client, get, post};
use crate::{Dice, explain};

const REGIONS: [meridian_config::RegionIndex; 4] = [EAST, WEST, EU, ASIA];

fn by_priority() -> World {
    let regions = ["priority = 1", "priority = 2", "priority = 3", "priority = 4"];
    World::new(Setup { regions, service: "policy = \"priority\"", ..Setup::default() })
}

fn spilled(world: &World) -> [u64; 4] {
    REGIONS.map(|region| world.pool(region).load.0.setbacks.spilled())
}

fn refused(world: &World) -> [u64; 4] {
    REGIONS.map(|region| world.pool(region).load.0.setbacks.refused())
}

fn ask(world: &mut World, times: u32) {
    for _ in 0..times {
        let _ = world.decide(&client("US"), &get());
    }
}

#[test]
fn where_all_is_well_nothing_is_counted() {
    let mut world = by_priority();
    ask(&mut world, 100);
    assert_eq!((spilled(&world), refused(&world)), ([0; 4], [0; 4]));
}

#[test]
fn what_a_lost_region_would_have_taken_is_counted_there() {
    let mut world = by_priority();
    world.healthy(EAST, 0);
    ask(&mut world, 10);
    assert_eq!(spilled(&world), [10, 0, 0, 0]);
    world.healthy(EAST, 3).drain(EAST);
    ask(&mut world, 5);
    assert_eq!(spilled(&world), [15, 0, 0, 0]);
    // A region that is nobody's first choice costs nothing.
    let mut world = by_priority();
    world.healthy(EU, 0);
    ask(&mut world, 10);
    assert_eq!(spilled(&world), [0; 4]);
}

#[test]
fn what_a_part_of_a_region_does_not_take_is_counted_there() {
    let mut world = by_priority();
    world.healthy(EAST, 1);
    let mut elsewhere = 0;
    for _ in 0..1000 {
        elsewhere += u64::from(world.chosen(&get()).0 != EAST);
    }
    assert!(elsewhere > 400, "{elsewhere}");
    assert_eq!(spilled(&world), [elsewhere, 0, 0, 0]);
}

#[test]
fn of_several_equal_regions_a_lost_one_counts_its_share() {
    let weights = ["weight = 300", "weight = 100", "weight = 300", "weight = 300"];
    let setup = Setup { regions: weights, service: "policy = \"weighted\"", ..Setup::default() };
    let mut world = World::new(setup);
    world.healthy(WEST, 0);
    ask(&mut world, 10_000);
    let [east, west, eu, asia] = spilled(&world);
    assert!((850..1150).contains(&west), "a tenth by weight: {west}");
    assert_eq!((east, eu, asia), (0, 0, 0));
}

#[test]
fn a_refused_request_counts_at_every_region_that_might_have_served_it() {
    let mut world = by_priority();
    world.healthy(EAST, 0);
    world.refusal(&post());
    assert_eq!(refused(&world), [1, 0, 0, 0], "only the primary writes");
    world.healthy(WEST, 0).healthy(EU, 0).drain(ASIA);
    world.refusal(&get());
    assert_eq!(refused(&world), [2, 1, 1, 1]);
    assert_eq!(spilled(&world), [0; 4]);
}

#[test]
fn explain_counts_nothing() {
    let mut world = by_priority();
    world.healthy(EAST, 0);
    for facts in [get(), post()] {
        explain(&world.table, &client("US"), &facts, &mut Dice::seeded(1));
    }
    assert_eq!((spilled(&world), refused(&world)), ([0; 4], [0; 4]));
}
