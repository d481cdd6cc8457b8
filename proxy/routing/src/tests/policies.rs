//! How each policy orders regions.

use super::world::{ASIA, EAST, EU, Setup, WEST, World, assert_shares, client, facts, get};
use crate::{Change, Client, RegionReason, RequestFacts, Target, estimated_round_trip};

fn region_weight(world: &mut World, id: &str, weight: u32) {
    world.set(Target::Region(id.into()), Change::Weight(weight));
}

#[test]
fn latency_takes_the_nearest_band_and_balances_it_by_weight() {
    let mut world = World::of_service("policy = \"latency\"");
    world.round_trips([40, 12, 14, 18]);
    assert_shares(world.shares(&get()), [0.0, 0.5, 0.5, 0.0]);
    region_weight(&mut world, "eu-west-1", 300);
    assert_shares(world.shares(&get()), [0.0, 0.25, 0.75, 0.0]);
    region_weight(&mut world, "eu-west-1", 0);
    assert_shares(world.shares(&get()), [0.0, 1.0, 0.0, 0.0]);
    region_weight(&mut world, "us-west-2", 0);
    assert_shares(world.shares(&get()), [0.0, 0.5, 0.5, 0.0]);
}

/// A band is 5 ms wide, or a tenth of the best where that is more.
#[test]
fn the_width_of_a_band() {
    for (round_trips, expected) in [
        ([10, 15, 16, 90], [0.5, 0.5, 0.0, 0.0]),
        ([100, 109, 110, 111], [1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0, 0.0]),
        ([300, 100, 300, 105], [0.0, 0.5, 0.0, 0.5]),
    ] {
        let mut world = World::of_service("policy = \"latency\"");
        world.round_trips(round_trips);
        assert_shares(world.shares(&get()), expected);
    }
}

#[test]
fn before_there_is_data_distance_estimates_the_round_trip() {
    let mut world = World::of_service("policy = \"latency\"");
    let views = &world.table.regions;
    assert!(views.iter().all(|view| !view.measured));
    assert_eq!(views[0].round_trip_us, Some(5_000));
    let km = world.desired.config.regions[0]
        .coordinates
        .zip(world.desired.config.regions[2].coordinates);
    let km = km.map(|(here, there)| here.distance_km(&there)).expect("coordinates");
    assert_eq!(views[2].round_trip_us, Some(estimated_round_trip(km)));
    assert_eq!(world.chosen(&get()), (EAST, RegionReason::Nearest));
    for (gone, next) in [(EAST, WEST), (WEST, EU), (EU, ASIA)] {
        world.healthy(gone, 0);
        assert_eq!(world.chosen(&get()), (next, RegionReason::Nearest));
    }
}

#[test]
fn geo_goes_by_country_then_continent_then_distance_then_file_order() {
    use RegionReason::{ConfiguredOrder, LeastDistance, SameContinent, SameCountry};
    let mut world = World::of_service("policy = \"geo\"");
    for (country, region, reason) in [
        ("SG", ASIA, SameCountry),
        ("IE", EU, SameCountry),
        ("PL", EU, SameContinent),
        ("JP", ASIA, SameContinent),
        ("CA", WEST, SameContinent),
        ("BR", EAST, LeastDistance),
        ("NZ", ASIA, LeastDistance),
        ("NG", EU, LeastDistance),
        ("nowhere", EAST, ConfiguredOrder),
    ] {
        let choice = world.decide(&client(country), &get()).expect("a decision").region;
        assert_eq!((choice.region, choice.reason), (region, reason), "{country}");
    }
    // The nearer one of two in the country, though a region of another country may be nearer still.
    let mut alaska = client("US");
    alaska.place.coordinates = meridian_geoip::Coordinates::new(61.2, -149.9);
    assert_eq!(world.region(&alaska, &get()), WEST);
    // Country and continent known, the spot not: the file order inside each.
    let mut somewhere = client("US");
    somewhere.place.coordinates = None;
    assert_eq!(world.region(&somewhere, &get()), EAST);
    world.healthy(EAST, 0).healthy(WEST, 0);
    let choice = world.decide(&somewhere, &get()).expect("a decision").region;
    assert_eq!((choice.region, choice.reason), (EU, ConfiguredOrder));
}

#[test]
fn weighted_draws_by_region_weight() {
    let regions = ["weight = 0", "weight = 10", "weight = 30", "weight = 60"];
    let mut world =
        World::new(Setup { regions, service: "policy = \"weighted\"", ..Setup::default() });
    assert_shares(world.shares(&get()), [0.0, 0.1, 0.3, 0.6]);
    assert_eq!(world.chosen(&get()).1, RegionReason::Weighted);
    region_weight(&mut world, "us-east-1", 100);
    assert_shares(world.shares(&get()), [0.5, 0.05, 0.15, 0.3]);
}

fn of_session(tenant: u32) -> [(String, String); 1] {
    [("x-tenant".to_owned(), format!("tenant-{tenant}"))]
}

#[test]
fn a_session_stays_where_its_key_puts_it() {
    let regions = ["weight = 0", "weight = 10", "weight = 30", "weight = 60"];
    let service =
        "policy = \"weighted\"\nbalance = \"consistent_hash\"\nhash_key = \"header:x-tenant\"";
    let mut world = World::new(Setup { regions, service, ..Setup::default() });
    let mut places = Vec::new();
    let mut hits = [0.0_f64; 4];
    for tenant in 0..4000 {
        let headers = of_session(tenant);
        let request = RequestFacts { headers: &headers, ..get() };
        let place = world.region(&client("US"), &request);
        assert_eq!(world.region(&client("SG"), &request), place);
        hits[usize::from(place.0)] += 1.0 / 4000.0;
        places.push(place);
    }
    assert!(hits[0] == 0.0 && (hits[1] - 0.1).abs() < 0.02 && (hits[3] - 0.6).abs() < 0.03);
    // A region that goes takes only its own sessions along.
    world.drain(EU);
    for (tenant, before) in places.into_iter().enumerate() {
        let headers = of_session(tenant as u32);
        let now = world.region(&client("US"), &RequestFacts { headers: &headers, ..get() });
        assert!(now == before || before == EU, "tenant {tenant} moved from {before:?}");
    }
    // Without its header a request belongs to no session.
    assert_shares(world.shares(&get()), [0.0, 1.0 / 7.0, 0.0, 6.0 / 7.0]);
}

#[test]
fn priority_is_active_passive() {
    let regions = ["priority = 3", "priority = 1", "priority = 2", "priority = 1"];
    let mut world =
        World::new(Setup { regions, service: "policy = \"priority\"", ..Setup::default() });
    for next in [WEST, ASIA, EU, EAST] {
        assert_eq!(world.chosen(&get()), (next, RegionReason::Priority));
        world.healthy(next, 0);
    }
}

#[test]
fn round_robin_is_exact() {
    let mut world = World::of_service("policy = \"round_robin\"");
    let order: Vec<_> = (0..8).map(|_| world.chosen(&get()).0.0).collect();
    assert_eq!(order, [0, 1, 2, 3, 0, 1, 2, 3]);
    world.drain(WEST);
    let mut hits = [0; 4];
    for _ in 0..300 {
        hits[usize::from(world.chosen(&get()).0.0)] += 1;
    }
    assert_eq!(hits, [100, 0, 100, 100]);
}

#[test]
fn health_prefers_what_works_then_what_is_near() {
    let mut world = World::of_service("policy = \"health\"");
    world.round_trips([50, 40, 30, 20]);
    assert_eq!(world.chosen(&get()), (ASIA, RegionReason::Healthiest));
    world.healthy(ASIA, 2);
    assert_eq!(world.chosen(&get()), (EU, RegionReason::Healthiest));
    // Requests that fail count as probes do; one failure in a thousand does not.
    world.pool(EU).load.0.begin();
    world.pool(EU).load.0.end(Some(true));
    assert_eq!(world.chosen(&get()).0, EU);
    for _ in 0..64 {
        world.pool(EU).load.0.begin();
        world.pool(EU).load.0.end(Some(true));
    }
    let shares = world.shares(&get());
    assert_shares(shares, [0.0, 1.0 - 1.0 / 64.0, 1.0 / 64.0, 0.0]);
    assert!(shares[2] > 0.0, "a trial now and then, or it could never prove itself");
    let reasons: Vec<_> = (0..1000).map(|_| world.chosen(&get())).collect();
    assert!(reasons.contains(&(EU, RegionReason::Trial)));
}

#[test]
fn a_route_may_have_a_policy_of_its_own() {
    let routes = "[[routes]]\nname = \"geo\"\nservice = \"api\"\npolicy = \"geo\"\n\
                  [[routes]]\nname = \"p\"\nservice = \"api\"\npolicy = \"priority\"\npath_prefix = \"/p\"\n";
    let mut world = World::of_routes(routes);
    let singapore: Client = client("SG");
    assert_eq!(world.region(&singapore, &get()), ASIA);
    assert_eq!(world.region(&singapore, &facts("GET", "x", "/p/1")), EAST);
}
