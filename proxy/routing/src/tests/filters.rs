//! What each filter turns down, in which order, and what it never lets through.

use std::time::Duration;

use super::world::{ASIA, EAST, EU, Setup, WEST, World, assert_shares, client, facts, get, post};
use crate::{Change, EndpointHealth, Filter, RegionReason, RequestFacts, Target};

const REPLICATED: &str = "policy = \"latency\"\n[services.replication]\nsource = \"headers\"\n";

fn bound_to(regions: &str, more: &str) -> String {
    format!(
        "[[routes]]\nname = \"r\"\nservice = \"api\"\nresidency = {{ regions = [{regions}]{more} }}\n"
    )
}

#[test]
fn residency_refuses_with_451_or_what_the_route_says() {
    // The route allows only a fifth region, in which the service has no endpoints.
    let fifth = "[[regions]]\nid = \"eu-north-1\"\nrole = \"replica\"\ncoordinates = [59.3, 18.1]";
    for (more, status) in [("", 451), (", refuse = 403", 403), (", refuse = 503", 503)] {
        let routes = bound_to("\"eu-north-1\"", more);
        let setup = Setup { regions: ["", "", "", fifth], routes: &routes, ..Setup::default() };
        let refusal = World::new(setup).refusal(&get());
        assert_eq!((refusal.filter, refusal.status), (Filter::Residency, status));
        assert_eq!(refusal.retry_after().is_some(), status == 503);
    }
}

#[test]
fn residency_holds_when_what_it_allows_is_of_no_use() {
    let mut world = World::of_routes(&bound_to("\"eu-west-1\"", ""));
    assert_eq!(world.region(&client("US"), &get()), EU);
    let refusal = world.refusal(&post());
    let told = (refusal.filter, refusal.status, refusal.retry_after());
    assert_eq!(told, (Filter::Residency, 451, None), "the primary is not allowed");
    world.healthy(EU, 0);
    assert_eq!(world.refusal(&get()).filter, Filter::Health);
    world.drain(EU);
    assert_eq!(world.refusal(&get()).filter, Filter::Drain);
}

#[test]
fn residency_binds_its_subjects_and_everyone_who_is_unknown() {
    let cases: [(&str, &[&str], &[&str]); 5] = [
        ("\"DE\", \"CH\"", &["DE", "CH"], &["FR", "US"]),
        ("\"EU\"", &["DE", "IE", "HR", "RE"], &["CH", "GB", "US", "NO"]),
        ("\"continent:EU\"", &["DE", "CH", "GB"], &["US", "SG", "RE"]),
        ("\"continent:AS\", \"US\"", &["JP", "US"], &["CA", "DE"]),
        ("", &["DE", "US", "SG"], &[]),
    ];
    for (subject, bound, free) in cases {
        let more = match subject {
            "" => String::new(),
            list => format!(", subject = [{list}]"),
        };
        let mut world = World::of_routes(&bound_to("\"ap-southeast-1\"", &more));
        for country in bound.iter().chain(&["nowhere"]) {
            assert_eq!(world.region(&client(country), &get()), ASIA, "{subject}: {country}");
        }
        for country in free {
            assert_eq!(world.region(&client(country), &get()), EAST, "{subject}: {country}");
        }
    }
}

#[test]
fn only_regions_with_the_capability() {
    let routes = "[[routes]]\nname = \"r\"\nservice = \"api\"\ncapability = \"ai\"\n\
                  residency = { regions = [\"eu-west-1\", \"us-west-2\"], subject = [\"DE\"] }\n";
    let regions = ["", "", "", "capabilities = [\"ai\"]"];
    let mut world = World::new(Setup { regions, routes, ..Setup::default() });
    assert_eq!(world.region(&client("US"), &get()), ASIA);
    let refusal = world.decide(&client("DE"), &get()).expect_err("none in Europe");
    assert_eq!((refusal.filter, refusal.status), (Filter::Capability, 503));
}

#[test]
fn without_a_primary_writes_wait_and_reads_go_on() {
    let mut world = World::of_service("");
    assert_eq!(world.chosen(&post()), (EAST, RegionReason::PrimaryForWrite));
    world.healthy(EAST, 0);
    let refusal = world.refusal(&post());
    assert_eq!((refusal.filter, refusal.status), (Filter::Health, 503));
    assert_eq!(refusal.retry_after(), Some(2));
    assert_eq!(world.region(&client("US"), &get()), WEST);

    world.healthy(EAST, 3).drain(EAST);
    let refusal = world.refusal(&post());
    assert_eq!((refusal.filter, refusal.status), (Filter::Drain, 503));
    assert!(refusal.retry_after().is_some());
    assert_eq!(world.region(&client("US"), &get()), WEST);
}

#[test]
fn reads_from_the_primary_go_nowhere_else() {
    let mut world = World::of_routes(
        "[[routes]]\nname = \"r\"\nservice = \"api\"\naccess = \"read_primary\"\npolicy = \"geo\"\n",
    );
    let choice = world.decide(&client("SG"), &get()).expect("the primary").region;
    assert_eq!((choice.region, choice.reason), (EAST, RegionReason::PrimaryForRead));
    world.healthy(EAST, 0);
    assert_eq!(world.refusal(&get()).filter, Filter::Health);
}

#[test]
fn access_is_by_route_then_grpc_list_then_graphql_then_method() {
    let routes = "[[routes]]\nname = \"w\"\nservice = \"api\"\npath_prefix = \"/w\"\naccess = \"write\"\n\
                  [[routes]]\nname = \"r\"\nservice = \"api\"\npath_prefix = \"/r\"\naccess = \"read\"\n\
                  [[routes]]\nname = \"g\"\nservice = \"api\"\ngrpc_reads = [\"/p.S/Get\", \"/p.T/*\"]\n\
                  [[routes]]\nname = \"q\"\nservice = \"api\"\npath = \"/graphql\"\ngraphql = true\n";
    let mut world = World::of_routes(routes);
    world.drain(EAST);
    let query: Option<&[u8]> = Some(br#"{"query": "{ me }"}"#);
    let mutation: Option<&[u8]> = Some(br#"{"query": "mutation { me }"}"#);
    for (method, path, body, reads) in [
        ("GET", "/w", None, false),
        ("POST", "/r", None, true),
        ("GET", "/", None, true),
        ("HEAD", "/", None, true),
        ("OPTIONS", "/", None, true),
        ("PUT", "/", None, false),
        ("DELETE", "/", None, false),
        ("get", "/", None, false),
        ("TRACE", "/", None, false),
        ("POST", "/p.S/Get", None, true),
        ("POST", "/p.S/GetOrSet", None, false),
        ("POST", "/p.T/Anything", None, true),
        ("PUT", "/p.T/Anything", None, false),
        ("POST", "/graphql", query, true),
        ("POST", "/graphql", mutation, false),
        ("POST", "/graphql", None, false),
        ("POST", "/", query, false),
    ] {
        let request = RequestFacts { body, ..facts(method, "x", path) };
        let decided = world.decide(&client("US"), &request);
        assert_eq!(decided.is_ok(), reads, "{method} {path}: {decided:?}");
    }
}

#[test]
fn drained_regions_and_endpoints_take_nothing() {
    let mut world = World::of_service("policy = \"weighted\"");
    world.drain(WEST).drain_endpoint(0).drain_endpoint(7);
    assert_eq!(world.shares(&get())[1], 0.0);
    let shares = world.endpoint_shares(&get());
    assert_eq!(shares.keys().copied().collect::<Vec<_>>(), [1, 2, 6, 8, 9, 10, 11]);
    world.drain_endpoint(1).drain_endpoint(2);
    assert_eq!(world.refusal(&post()).filter, Filter::Drain);
    // The operator beats the file in both directions.
    let mut endpoints = [""; 12];
    endpoints[..3].fill("drain = true");
    let mut world = World::new(Setup { endpoints, ..Setup::default() });
    assert_eq!(world.refusal(&post()).filter, Filter::Drain);
    let target = Target::Endpoint { service: "api".into(), address: "10.0.0.1:80".into() };
    world.set(target, Change::Drain(false));
    assert_eq!(world.decide(&client("US"), &post()).expect("back").endpoint.endpoint.0, 1);
}

#[test]
fn endpoints_never_judged_serve_only_when_nothing_healthy_does() {
    use EndpointHealth::{Healthy, Unhealthy, Unknown};
    let mut world = World::of_service("policy = \"latency\"");
    world.health(EAST, [Unknown; 3]);
    assert_eq!(world.chosen(&get()).0, WEST, "a healthy region is there");
    assert_eq!(world.chosen(&post()).0, EAST, "no other region takes writes");
    world.health(EAST, [Unknown, Healthy, Unhealthy]);
    assert_eq!(world.endpoint_shares(&post()).keys().copied().collect::<Vec<_>>(), [1]);
    world.health(EAST, [Unknown, Unhealthy, Unknown]);
    assert_eq!(world.endpoint_shares(&post()).keys().copied().collect::<Vec<_>>(), [0, 2]);
    for region in [WEST, EU, ASIA] {
        world.health(region, [Unhealthy; 3]);
    }
    assert_eq!(world.chosen(&get()).0, EAST);
    world.health(EAST, [Unhealthy; 3]);
    let refusal = world.refusal(&get());
    assert_eq!((refusal.filter, refusal.status), (Filter::Health, 503));
    assert!(refusal.retry_after().is_some());
}

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// Lag of `WEST`, the age of its sample, the client's bound; whether `WEST` may answer.
#[test]
fn freshness_is_lag_and_age_against_the_tightest_bound() {
    for (lag_ms, age_ms, route, client_ms, fresh) in [
        (0, 0, "", None, true),
        (59_000, 0, "", None, true),
        (60_000, 0, "", None, false),
        (58_000, 2_500, "", None, false),
        (0, 4_900, "", None, true),
        (0, 5_100, "", None, false),
        (900, 0, "max_staleness = \"1s\"", None, true),
        (900, 200, "max_staleness = \"1s\"", None, false),
        (1_100, 0, "max_staleness = \"1s\"", None, false),
        (900, 0, "max_staleness = \"1s\"", Some(500), false),
        (300, 0, "max_staleness = \"1s\"", Some(500), true),
        (1_100, 0, "max_staleness = \"1s\"", Some(5_000), false),
        (300, 0, "", Some(100), false),
    ] {
        let routes = format!("[[routes]]\nname = \"r\"\nservice = \"api\"\n{route}\n");
        let setup = Setup { service: REPLICATED, routes: &routes, ..Setup::default() };
        let mut world = World::new(setup);
        world.round_trips([90, 10, 200, 300]);
        let max_staleness = client_ms.map(Duration::from_millis);
        let request = RequestFacts { max_staleness, ..get() };
        let reported = crate::Micros(request.now.0 - age_ms * 1000);
        world.lag(WEST, Duration::from_millis(lag_ms), reported);
        let expected = match fresh {
            true => (WEST, RegionReason::NearestFresh),
            false => (EAST, RegionReason::PrimaryNoneFresh),
        };
        let case = (lag_ms, age_ms, route, client_ms);
        assert_eq!(world.chosen(&request), expected, "{case:?}");
    }
}

#[test]
fn unknown_lag_is_stale_and_a_stale_nearest_is_passed_over() {
    let mut world = World::of_service(REPLICATED);
    world.round_trips([90, 10, 20, 300]);
    assert_eq!(world.chosen(&get()), (EAST, RegionReason::PrimaryNoneFresh));
    world.lag(EU, seconds(1), get().now);
    world.lag(WEST, seconds(70), get().now);
    assert_eq!(world.chosen(&get()), (EU, RegionReason::NearestFresh));
    world.healthy(EU, 0).healthy(EAST, 0);
    let refusal = world.refusal(&get());
    assert_eq!((refusal.filter, refusal.status), (Filter::Freshness, 503));
    assert_eq!(refusal.retry_after(), Some(2));
}

#[test]
fn a_primary_still_to_be_probed_answers_rather_than_nobody() {
    let mut world = World::of_service(REPLICATED);
    world.health(EAST, [EndpointHealth::Unknown; 3]);
    assert_eq!(world.chosen(&get()), (EAST, RegionReason::PrimaryNoneFresh));
    world.lag(ASIA, seconds(0), get().now);
    assert_eq!(world.chosen(&get()), (ASIA, RegionReason::NearestFresh));
}

#[test]
fn without_a_source_of_lag_replicas_are_fresh_unless_there_is_a_bound() {
    let mut world = World::of_service("policy = \"geo\"");
    let request = RequestFacts { max_staleness: Some(seconds(30)), ..get() };
    assert_eq!(world.region(&client("SG"), &get()), ASIA);
    assert_eq!(world.region(&client("SG"), &request), EAST);
}

/// Each row turns off what the rows before it left over; the first filter that leaves nothing is named.
#[test]
fn filters_apply_in_order() {
    let routes = "[[routes]]\nname = \"r\"\nservice = \"api\"\ncapability = \"ai\"\n\
                  residency = { regions = [\"us-east-1\", \"us-west-2\", \"eu-west-1\"] }\n";
    let setup = Setup {
        regions: [
            "capabilities = [\"ai\"]",
            "capabilities = [\"ai\"]",
            "",
            "capabilities = [\"ai\"]",
        ],
        service: REPLICATED,
        routes,
        ..Setup::default()
    };
    let mut world = World::new(setup);
    world.round_trips([90, 10, 5, 1]);
    for region in [WEST, EU, ASIA] {
        world.lag(region, seconds(0), get().now);
    }
    assert_shares(world.shares(&get()), [0.0, 1.0, 0.0, 0.0]);
    world.lag(WEST, seconds(100), get().now);
    assert_eq!(world.chosen(&get()), (EAST, RegionReason::PrimaryNoneFresh));
    world.healthy(EAST, 0);
    assert_eq!(world.refusal(&get()).filter, Filter::Freshness);
    world.healthy(WEST, 0);
    assert_eq!(world.refusal(&get()).filter, Filter::Health);
    world.drain(EAST);
    assert_eq!(world.refusal(&get()).filter, Filter::Health);
    assert_eq!(world.refusal(&post()).filter, Filter::Drain);
    world.drain(WEST);
    assert_eq!(world.refusal(&get()).filter, Filter::Drain);
}

#[test]
fn no_route_is_404() {
    let mut world =
        World::of_routes("[[routes]]\nname = \"r\"\nservice = \"api\"\nhosts = [\"h\"]\n");
    let refusal = world.refusal(&get());
    assert_eq!((refusal.route, refusal.filter, refusal.status), (None, Filter::Route, 404));
    assert_eq!(refusal.retry_after(), None);
}
