//! What holds for every configuration, observation, override, client, request and throw of the dice.

mod repeats;
mod sticky;
mod worlds;

use std::collections::HashSet;

use meridian_config::{Access, RegionIndex, RegionRole, ReplicationSource, Residency};
use meridian_geoip::is_eu_territory;
use meridian_routing::{
    AccessClass, Client, Decision, Dice, EndpointHealth, EndpointReason, EndpointView, Filter,
    Refusal, RegionReason, RegionSet, RequestFacts, RoutingTable, after_refuted, decide, explain,
    next_attempt,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use worlds::{Plan, Request, World, plan};

/// The first decision and all further attempts, until none is left.
fn attempts(
    table: &RoutingTable,
    client: &Client,
    facts: &RequestFacts<'_>,
    first: Decision,
) -> Vec<Decision> {
    let mut all = vec![first];
    let mut tried = vec![first.endpoint.endpoint];
    while let Some(next) = next_attempt(table, client, facts, &all[all.len() - 1], &tried) {
        tried.push(next.endpoint.endpoint);
        all.push(next);
        assert!(all.len() <= 64, "attempts end");
    }
    all
}

/// Runs a check over every request of a plan with many throws of the dice.
fn for_each_decision(
    plan: &Plan,
    mut check: impl FnMut(&World, &Request, &Client, &RequestFacts<'_>, Result<Decision, Refusal>),
) {
    let world = World::new(plan);
    for request in &plan.requests {
        let client = request.client();
        request.with_facts(|facts| {
            let mut dice = Dice::seeded(plan.seed);
            for _ in 0..24 {
                let decided = decide(&world.table, &client, facts, &mut dice);
                check(&world, request, &client, facts, decided);
            }
        });
    }
}

/// Where a client may be served, worked out from the rule's words.
fn allowed(rule: &Residency, client: &Client) -> Option<HashSet<RegionIndex>> {
    use meridian_config::ResidencySubject::{Continent, Country, EuropeanUnion};
    let place = &client.place;
    let bound = match place.country {
        None => true,
        Some(_) if rule.subject.is_empty() => true,
        Some(country) => rule.subject.iter().any(|subject| match subject {
            Country(code) => *code == country,
            Continent(continent) => place.continent == Some(*continent),
            EuropeanUnion => is_eu_territory(country),
        }),
    };
    bound.then(|| rule.regions.iter().copied().collect())
}

/// Whether residency, capability, role and freshness let this request to a region, worked out from the rules' words.
fn passes(
    world: &World,
    decision: &Decision,
    client: &Client,
    facts: &RequestFacts<'_>,
    index: RegionIndex,
) -> bool {
    let table = &world.table;
    let (route, service) = (table.route(decision.route), table.service(decision.service));
    let replication = &service.settings.replication;
    let region = table.region(index);
    let allowed = route.residency.as_ref().and_then(|rule| allowed(rule, client));
    let primary = region.settings.role == RegionRole::Primary;
    let capable = |wanted: &String| region.settings.capabilities.contains(wanted);
    let bound = route.max_staleness.into_iter().chain(facts.max_staleness).min();
    let known = replication.source != ReplicationSource::None || bound.is_some();
    let lag = service.pool(index).and_then(|pool| pool.load.0.lag(facts.now));
    let fresh = !known
        || lag.is_some_and(|(lag, age)| {
            age <= replication.sample_max_age
                && lag + age < replication.max_lag
                && bound.is_none_or(|bound| lag + age <= bound)
        });
    let seen = facts.session.is_none_or(|need| {
        let has = |position| service.reached(index, position);
        !need.primary && need.epoch == 0 && need.position.is_none_or(has)
    });
    let fresh = fresh && seen;
    allowed.as_ref().is_none_or(|set| set.contains(&index))
        && route.capability.as_ref().is_none_or(capable)
        && (primary || (decision.class.access == AccessClass::Read && fresh))
}

/// Regions that may answer, worked out one by one from the rules' words, without capacity.
fn may_answer(
    world: &World,
    decision: &Decision,
    client: &Client,
    facts: &RequestFacts<'_>,
) -> HashSet<RegionIndex> {
    let table = &world.table;
    let service = table.service(decision.service);
    let mut found = HashSet::new();
    for (index, region) in table.regions.iter().enumerate() {
        let index = RegionIndex(index as u8);
        if service.pool(index).is_none() {
            continue;
        }
        let serves = service.endpoints.iter().any(|endpoint| {
            endpoint.region == index
                && !endpoint.drain.value
                && endpoint.health != EndpointHealth::Unhealthy
        });
        let fits = passes(world, decision, client, facts, index) && !region.drain.value && serves;
        if fits {
            found.insert(index);
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn residency_is_never_violated(plan in plan()) {
        for_each_decision(&plan, |world, _, client, facts, decided| {
            let Ok(first) = decided else { return };
            let Some(rule) = &world.table.route(first.route).residency else { return };
            let Some(allowed) = allowed(rule, client) else { return };
            for attempt in attempts(&world.table, client, facts, first) {
                assert!(allowed.contains(&attempt.region.region), "{attempt:?}");
                let endpoint = world.table.service(attempt.service).endpoint(attempt.endpoint.endpoint);
                assert!(allowed.contains(&endpoint.region), "{attempt:?}");
            }
        });
    }

    #[test]
    fn a_write_never_reaches_a_replica(plan in plan()) {
        for_each_decision(&plan, |world, request, client, facts, decided| {
            let Ok(first) = decided else { return };
            let by_method = ["GET", "HEAD", "OPTIONS"].contains(&request.method);
            let is_read = match world.table.route(first.route).access {
                Access::Read => true,
                Access::Auto => by_method,
                Access::Write | Access::ReadPrimary => false,
            };
            if is_read {
                return;
            }
            for attempt in attempts(&world.table, client, facts, first) {
                let endpoint = world.table.service(attempt.service).endpoint(attempt.endpoint.endpoint);
                let region = world.table.region(endpoint.region);
                assert_eq!(region.settings.role, RegionRole::Primary, "{attempt:?}");
            }
        });
    }

    /// Whatever is tried, also after an answer that shows less than it should.
    #[test]
    fn a_read_is_never_sent_to_less_than_its_session_has_seen(plan in plan()) {
        for_each_decision(&plan, |world, _, client, facts, decided| {
            let (Ok(first), Some(need)) = (decided, facts.session) else { return };
            if first.class.access != AccessClass::Read {
                return;
            }
            let mut all = attempts(&world.table, client, facts, first);
            for view in &world.table.service(first.service).endpoints {
                // In a session that is bound to an endpoint.
                let facts = RequestFacts { affinity: Some(view.identity), ..*facts };
                let bound = decide(&world.table, client, &facts, &mut Dice::seeded(0));
                all.extend(bound.ok());
            }
            let mut tried = vec![first.endpoint.endpoint];
            let mut last = first;
            while let Some(next) = after_refuted(&world.table, client, facts, &last, &tried) {
                tried.push(next.endpoint.endpoint);
                all.push(next);
                last = next;
                assert!(all.len() <= 128, "attempts end");
            }
            for attempt in all {
                let endpoint = world.table.service(attempt.service).endpoint(attempt.endpoint.endpoint);
                let region = world.table.region(endpoint.region);
                if region.settings.role == RegionRole::Primary {
                    continue;
                }
                assert!(!need.primary && need.epoch == 0, "{attempt:?} for {need:?}");
                let known = endpoint.position.get();
                let has = need.position.is_none_or(|wanted| known.is_some_and(|known| known >= wanted));
                assert!(has, "{attempt:?} at {known:?} for {need:?}");
            }
        });
    }

    #[test]
    fn filters_never_relax_but_health_in_panic(plan in plan()) {
        for_each_decision(&plan, |world, _, client, facts, decided| {
            let Ok(first) = decided else { return };
            let may = may_answer(world, &first, client, facts);
            for region in first.candidates.iter() {
                assert!(may.contains(&region), "{region:?} {first:?}");
            }
            let service = world.table.service(first.service);
            for attempt in attempts(&world.table, client, facts, first) {
                assert!(attempt.candidates.contains(attempt.region.region), "{attempt:?}");
                let chosen = service.endpoint(attempt.endpoint.endpoint);
                if !attempt.region.panic {
                    assert_ne!(chosen.health, EndpointHealth::Unhealthy, "{attempt:?}");
                    continue;
                }
                let below = |r: RegionIndex| service.pool(r).is_some_and(|p| p.healthy_fraction < 0.5);
                assert!(below(attempt.region.region), "{attempt:?}");
            }
        });
    }

    /// A refusal is never a mistake: it names the filter, and no region that it could have gone to is left.
    #[test]
    fn nobody_is_refused_whom_a_region_could_serve(plan in plan()) {
        for_each_decision(&plan, |world, _, client, facts, decided| {
            let Err(refusal) = decided else { return };
            let Some(route) = refusal.route else {
                assert_eq!((refusal.filter, refusal.status), (Filter::Route, 404));
                return;
            };
            let told = explain(&world.table, client, facts, &mut Dice::seeded(0));
            assert_eq!(told.refusal.map(|r| r.filter), Some(refusal.filter));
            if refusal.filter == Filter::Capacity {
                return;
            }
            // A decision for the same route and class that differs only in what filters do not look at.
            let access = match told.access {
                Some("read") => AccessClass::Read,
                Some("write") => AccessClass::Write,
                _ => AccessClass::ReadPrimary,
            };
            let assumed = world.any_decision(route, access);
            let may = may_answer(world, &assumed, client, facts);
            assert!(may.is_empty(), "{refusal:?} although {may:?}");
        });
    }

    /// Whatever the policy, many throws reach only candidates, and every policy is given the same ones.
    #[test]
    fn ranking_only_reorders(plan in plan()) {
        let mut by_policy: Vec<Vec<Option<RegionSet>>> = Vec::new();
        for policy in worlds::POLICIES {
            let world = World::new(&plan.with_policy(policy));
            by_policy.push(plan.requests.iter().map(|request| {
                let client = request.client();
                request.with_facts(|facts| {
                    let mut candidates = None;
                    for seed in 0..16 {
                        let decided = decide(&world.table, &client, facts, &mut Dice::seeded(seed));
                        let Ok(decision) = decided else { continue };
                        assert!(decision.candidates.contains(decision.region.region));
                        assert_eq!(*candidates.get_or_insert(decision.candidates), decision.candidates);
                    }
                    candidates
                })
            }).collect());
        }
        prop_assert!(by_policy.windows(2).all(|pair| pair[0] == pair[1]), "{by_policy:?}");
    }

    /// What traffic has put out takes nothing that is no trial, unless nothing better is among the candidates.
    #[test]
    fn the_ejected_serve_last(plan in plan()) {
        for_each_decision(&plan, |world, _, _, _, decided| {
            let Ok(first) = decided else { return };
            let service = world.table.service(first.service);
            let chosen = service.endpoint(first.endpoint.endpoint);
            if first.endpoint.reason == EndpointReason::Trial {
                assert!(chosen.ejection.as_ref().is_some_and(|e| e.trial), "{first:?}");
                assert_ne!(chosen.health, EndpointHealth::Unhealthy);
            } else if chosen.ejection.is_some() && !first.region.panic {
                let better = |view: &EndpointView| {
                    view.region == chosen.region && !view.drain.value && view.serves()
                        && view.weight.value > 0
                };
                assert!(!service.endpoints.iter().any(better), "{first:?}");
            }
        });
    }

    #[test]
    fn the_drained_take_nothing(plan in plan()) {
        for_each_decision(&plan, |world, _, client, facts, decided| {
            let Ok(first) = decided else { return };
            for attempt in attempts(&world.table, client, facts, first) {
                let endpoint = world.table.service(attempt.service).endpoint(attempt.endpoint.endpoint);
                assert!(!endpoint.drain.value, "{attempt:?}");
                assert!(!world.table.region(attempt.region.region).drain.value, "{attempt:?}");
            }
        });
    }

    /// Two worlds made alike and the same dice: the same decisions, one after the other.
    #[test]
    fn a_decision_is_a_function_of_its_arguments(plan in plan()) {
        let (one, two) = (World::new(&plan), World::new(&plan));
        for request in &plan.requests {
            let client = request.client();
            request.with_facts(|facts| {
                for seed in 0..16 {
                    let mut dice = (Dice::seeded(seed), Dice::seeded(seed));
                    let first = decide(&one.table, &client, facts, &mut dice.0);
                    assert_eq!(first, decide(&two.table, &client, facts, &mut dice.1));
                }
            });
        }
    }

    #[test]
    fn endpoints_belong_to_region_and_service_and_none_is_tried_twice(plan in plan()) {
        for_each_decision(&plan, |world, _, client, facts, decided| {
            let Ok(first) = decided else { return };
            let service = world.table.service(first.service);
            let mut seen = HashSet::new();
            for attempt in attempts(&world.table, client, facts, first) {
                let endpoint = service.endpoint(attempt.endpoint.endpoint);
                assert_eq!(attempt.service, first.service);
                assert_eq!(endpoint.key.service, service.settings.name);
                assert_eq!(endpoint.region, attempt.region.region);
                assert!(seen.insert(attempt.endpoint.endpoint), "{attempt:?} again");
            }
        });
    }

    /// Explaining decides the same with the same dice, and tells each region once, ranked or filtered.
    #[test]
    fn explaining_agrees_with_deciding(plan in plan()) {
        for_each_decision(&plan, |world, _, client, facts, _| {
            let told = explain(&world.table, client, facts, &mut Dice::seeded(7));
            let decided = decide(&world.table, client, facts, &mut Dice::seeded(7));
            assert_eq!(told.decision.is_some(), decided.is_ok());
            if told.route.is_none() {
                return;
            }
            let mut names: Vec<_> = told.candidates.iter().map(|c| c.region.clone()).collect();
            assert!(told.candidates.iter().all(|c| c.rank.is_some() != c.excluded_by.is_some()));
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), told.candidates.len());
            assert_eq!(names.len(), world.table.regions.len());
            if let (Some(told), Ok(decided)) = (told.decision, decided) {
                let region = &world.table.region(decided.region.region).settings.id;
                assert_eq!((told.region.as_str(), told.reason), (region.as_str(), decided.region.reason));
                let service = world.table.service(decided.service);
                let address = &service.endpoint(decided.endpoint.endpoint).key.address;
                assert_eq!(told.endpoint, address.to_string());
            }
        });
    }
}

/// Laws that are never put to the test hold trivially: the worlds must lead to every filter and every reason.
#[test]
fn the_worlds_are_varied() {
    let (mut filters, mut reasons) = (HashSet::new(), HashSet::new());
    let mut runner = TestRunner::deterministic();
    for _ in 0..1500 {
        let plan = plan().new_tree(&mut runner).expect("no rejections").current();
        for_each_decision(&plan, |world, _, client, facts, decided| match decided {
            Err(refusal) => {
                filters.insert(refusal.filter);
            }
            Ok(first) => {
                let all = attempts(&world.table, client, facts, first);
                reasons.extend(all.iter().map(|attempt| attempt.region.reason));
                // The session of the endpoint that took it.
                let view = world.table.service(first.service).endpoint(first.endpoint.endpoint);
                let facts = RequestFacts { affinity: Some(view.identity), ..*facts };
                let again = decide(&world.table, client, &facts, &mut Dice::seeded(0));
                reasons.extend(again.map(|decision| decision.region.reason));
            }
        });
    }
    // A request that cannot be read, or is sent to https, is turned down before there is anything to decide.
    filters.extend([Filter::Malformed, Filter::Https]);
    // Nobody reports roles in these worlds, and what waits is turned down by the edge.
    filters.extend([Filter::PrimaryUnknown, Filter::PrimaryContested, Filter::PrimaryMoved]);
    filters.extend([Filter::ParkFull, Filter::ParkTime]);
    // What is in flight is looked at after the decision.
    filters.extend(Filter::ALL.iter().filter(|filter| filter.is_load()));
    let missing = Filter::ALL.iter().filter(|filter| !filters.contains(filter));
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<&Filter>::new());
    let missing = RegionReason::ALL.iter().filter(|reason| !reasons.contains(reason));
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<&RegionReason>::new());
}
