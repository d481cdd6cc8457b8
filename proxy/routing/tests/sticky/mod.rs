//! Affinity against the rules in words: it is kept exactly where the endpoint is in service and no filter is in the way,
//! and further attempts open no drained region.

use meridian_config::RegionIndex;
use meridian_routing::{
    AccessClass, Client, Decision, Dice, EndpointHealth, EndpointIndex, EndpointReason,
    RegionReason, RequestFacts, Source, decide, explain,
};
use proptest::prelude::*;

use crate::worlds::{Plan, World, plan};
use crate::{attempts, passes};

/// Whether sessions of this endpoint may go on there, filters aside.
fn in_service(plan: &Plan, world: &World, index: EndpointIndex) -> bool {
    let service = &world.table.services[0];
    let view = service.endpoint(index);
    let region = world.table.region(view.region);
    // Only drains by the operator have a grace in these worlds.
    let lets_sessions = match (view.drain.value, region.drain.value, region.drain.source) {
        (false, false, _) => true,
        (false, true, Source::Override) => plan.in_grace(),
        _ => false,
    };
    view.health != EndpointHealth::Unhealthy
        && view.ejection.is_none()
        && lets_sessions
        && !plan.is_held(index)
}

/// Whether every filter but drain and health lets this request to the region.
fn filters_pass(
    world: &World,
    client: &Client,
    facts: &RequestFacts<'_>,
    region: RegionIndex,
) -> Option<bool> {
    let table = &world.table;
    let route = table.find_route(facts)?;
    let told = explain(table, client, facts, &mut Dice::seeded(0));
    let access = match told.access {
        Some("read") => AccessClass::Read,
        Some("write") => AccessClass::Write,
        _ => AccessClass::ReadPrimary,
    };
    let capacity = table.region(region).settings.capacity;
    let room = capacity.is_none_or(|capacity| table.in_flight(region) < capacity);
    Some(passes(world, &world.any_decision(route, access), client, facts, region) && room)
}

fn check_attempts(world: &World, all: &[Decision]) {
    let drained = |decision: &Decision| {
        let view = world.table.service(decision.service).endpoint(decision.endpoint.endpoint);
        view.drain.value || world.table.region(view.region).drain.value
    };
    for decision in &all[1..] {
        assert!(!drained(decision), "a new session on what is drained: {decision:?}");
        assert_ne!(decision.endpoint.reason, EndpointReason::Affinity);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn affinity_is_kept_exactly_where_it_may_be(plan in plan()) {
        let world = World::new(&plan);
        let service = &world.table.services[0];
        for request in &plan.requests {
            let client = request.client();
            for (n, view) in service.endpoints.iter().enumerate() {
                let index = EndpointIndex(n as u32);
                request.with_facts(|facts| {
                    let facts = RequestFacts { affinity: Some(view.identity), ..*facts };
                    let mut dice = Dice::seeded(plan.seed);
                    let decided = decide(&world.table, &client, &facts, &mut dice);
                    let filters = filters_pass(&world, &client, &facts, view.region);
                    let primary = service.is_primary(view.region);
                    let seen = facts.session.and_then(|need| need.position).filter(|_| !primary);
                    let has = seen.is_none_or(|wanted| view.position.get() >= Some(wanted));
                    let may = in_service(&plan, &world, index) && filters == Some(true) && has;
                    let kept = decided.is_ok_and(|d| d.endpoint.reason == EndpointReason::Affinity);
                    assert_eq!(kept, may, "{decided:?} for {:?}, filters {filters:?}", view.key);
                    let Ok(decision) = decided else { return };
                    assert_eq!(kept, decision.region.reason == RegionReason::Affinity);
                    if kept {
                        assert_eq!(decision.endpoint.endpoint, index);
                        assert_eq!(decision.region.region, view.region);
                        check_attempts(&world, &attempts(&world.table, &client, &facts, decision));
                    } else {
                        // As if there were no affinity; told without taking turns of a round robin.
                        let told = |facts: &RequestFacts<'_>| {
                            let mut dice = Dice::seeded(plan.seed);
                            let told = explain(&world.table, &client, facts, &mut dice);
                            told.decision.map(|d| (d.region, d.reason, d.endpoint))
                        };
                        let without = RequestFacts { affinity: None, ..facts };
                        assert_eq!(told(&facts), told(&without));
                    }
                });
            }
        }
    }
}
