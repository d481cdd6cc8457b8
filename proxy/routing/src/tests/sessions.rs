//! What a session token does to a read, to a token, and to waiting.

use std::time::Duration;

use super::world::{ASIA, EAST, EU, Setup, WEST, World, client, get, post};
use crate::{
    AccessClass, Answered, CatchUp, Filter, Micros, Primacy, PrimacySource, PrimacyState,
    RegionReason, RequestClass, RequestFacts, SessionNeed, SessionRead, SessionToken, Shown,
    after_refuted, catch_up,
};

const REPLICATED: &str = "policy = \"latency\"\n[services.replication]\nsource = \"status\"\n";
const NOW_MS: u64 = 1_900_000_000_000;
const READ: RequestClass = RequestClass { access: AccessClass::Read, max_staleness: None };

/// West is nearest, then Europe, then East, which is the primary; all lags are small.
fn world() -> World {
    let mut world = World::of_service(REPLICATED);
    world.round_trips([100, 10, 50, 200]);
    for region in [WEST, EU, ASIA] {
        world.lag(region, Duration::from_millis(20), get().now);
    }
    world
}

/// The three endpoints of a region have come so far, in the epoch in force.
fn at(world: &World, region: meridian_config::RegionIndex, position: u64) {
    let epoch = world.service().primacy.epoch;
    for n in 0..3 {
        let endpoint = world.endpoint(u32::from(region.0) * 3 + n);
        endpoint.position.learn((epoch > 0).then_some(epoch), position);
    }
}

fn need(position: u64) -> SessionNeed {
    SessionNeed { epoch: 0, position: Some(position), primary: false, age: Duration::ZERO }
}

fn reading(need: SessionNeed) -> RequestFacts<'static> {
    RequestFacts { session: Some(need), ..get() }
}

fn primacy(world: &mut World, epoch: u64, state: PrimacyState) {
    let name = world.service().settings.name.clone();
    let region = Some(world.desired.config.regions[0].id.clone());
    let source = PrimacySource::Reported;
    let primacy = Primacy {
        epoch,
        region,
        region_epoch: epoch,
        confirmed: true,
        decided: false,
        state,
        source,
        forgotten_unix_ms: 0,
        since_unix_ms: 0,
    };
    world.observed.primacy.insert(name, primacy);
    world.rebuild();
}

#[test]
fn the_nearest_replica_that_has_it_is_read() {
    let mut world = world();
    at(&world, WEST, 100);
    at(&world, EU, 200);
    for (position, region, reason) in [
        (100, WEST, RegionReason::NearestFresh),
        (101, EU, RegionReason::NearestFresh),
        (200, EU, RegionReason::NearestFresh),
        (201, EAST, RegionReason::PrimaryForSession),
    ] {
        assert_eq!(world.chosen(&reading(need(position))), (region, reason), "{position}");
    }
    assert_eq!(world.chosen(&get()), (WEST, RegionReason::NearestFresh), "without a token");
    // One endpoint of the three is behind.
    at(&world, WEST, 300);
    world.endpoint(4).position.went_back(None, 150);
    assert_eq!(world.chosen(&reading(need(180))).0, EU);
    // Writes go to the primary anyway, whatever the token.
    let writing = RequestFacts { session: Some(need(999)), ..post() };
    assert_eq!(world.chosen(&writing), (EAST, RegionReason::PrimaryForWrite));
}

#[test]
fn without_a_position_or_of_another_epoch_only_the_primary_is() {
    let mut world = world();
    at(&world, WEST, 100);
    let held = SessionNeed { primary: true, position: None, ..need(0) };
    let both = SessionNeed { primary: true, ..need(5) };
    let later = SessionNeed { epoch: 1, ..need(5) };
    for need in [held, both, later] {
        let chosen = world.chosen(&reading(need));
        assert_eq!(chosen, (EAST, RegionReason::PrimaryForSession), "{need:?}");
    }
    primacy(&mut world, 3, PrimacyState::Settled);
    at(&world, WEST, 100);
    assert_eq!(world.chosen(&reading(SessionNeed { epoch: 3, ..need(100) })).0, WEST);
    for epoch in [0, 2, 4] {
        assert_eq!(world.chosen(&reading(SessionNeed { epoch, ..need(5) })).0, EAST, "{epoch}");
    }
}

#[test]
fn a_replica_that_has_it_serves_without_a_primary_and_the_others_never() {
    let mut world = world();
    at(&world, WEST, 100);
    world.healthy(EAST, 0);
    assert_eq!(world.chosen(&reading(need(100))).0, WEST);
    let refusal = world.refusal(&reading(need(101)));
    assert_eq!(
        (refusal.filter, refusal.status, refusal.retry_after()),
        (Filter::Session, 503, Some(2))
    );
    // Drained, or too full: no reason to read what is stale.
    world.healthy(EAST, 3).drain(EAST);
    assert_eq!(world.refusal(&reading(need(101))).filter, Filter::Session);
}

#[test]
fn with_an_unknown_primary_positions_count_and_in_a_contest_nothing_does() {
    let mut world = world();
    for (state, fine) in [(PrimacyState::Unknown, true), (PrimacyState::Contested, false)] {
        primacy(&mut world, 2, state);
        at(&world, WEST, 100);
        let decided = world.decide(&client("US"), &reading(SessionNeed { epoch: 2, ..need(100) }));
        assert_eq!(decided.is_ok(), fine, "{state:?} {decided:?}");
        let beyond = world.refusal(&reading(SessionNeed { epoch: 2, ..need(101) }));
        assert_eq!(beyond.filter, Filter::Session);
    }
}

#[test]
fn staleness_and_session_are_both_kept_to() {
    let mut world = world();
    at(&world, WEST, 100);
    at(&world, EU, 100);
    world.lag(WEST, Duration::from_secs(70), get().now);
    assert_eq!(world.chosen(&reading(need(100))).0, EU);
    let tight = RequestFacts { max_staleness: Some(Duration::ZERO), ..reading(need(100)) };
    assert_eq!(world.chosen(&tight), (EAST, RegionReason::PrimaryNoneFresh));
}

fn due(world: &World, facts: &RequestFacts<'_>) -> Option<CatchUp> {
    let route = meridian_config::RouteIndex(0);
    catch_up(&world.table, route, READ, &client("US"), facts)
}

#[test]
fn a_read_waits_for_the_nearest_if_that_is_about_to_have_it() {
    let world = world();
    at(&world, WEST, 100);
    let waits = due(&world, &reading(need(101))).expect("its lag is 20 ms");
    assert_eq!((waits.position, waits.within), (101, Duration::from_millis(50)));
    assert!(waits.regions.contains(WEST) && !waits.is_over(world.service()));
    assert_eq!(due(&world, &reading(need(100))), None, "it has it");
    assert_eq!(due(&world, &get()), None, "no token");
    let held = SessionNeed { primary: true, ..need(101) };
    assert_eq!(due(&world, &reading(held)), None, "positions do not help");
    assert_eq!(due(&world, &reading(SessionNeed { epoch: 1, ..need(101) })), None);
    at(&world, WEST, 101);
    assert!(waits.is_over(world.service()));
}

#[test]
fn nobody_waits_in_vain() {
    let mut world = world();
    assert_eq!(due(&world, &reading(need(5))), None, "nothing is known of how far it is");
    at(&world, WEST, 100);
    world.lag(WEST, Duration::from_secs(5), get().now);
    assert_eq!(due(&world, &reading(need(101))), None, "it is far behind");
    let old = SessionNeed { age: Duration::from_millis(4_960), ..need(101) };
    assert!(due(&world, &reading(old)).is_some(), "what was written long ago is there soon");
    world.round_trips([1, 10, 50, 200]);
    assert_eq!(due(&world, &reading(old)), None, "the primary is nearest");
    let never = format!("{REPLICATED}session_wait = \"0s\"\n");
    let mut world = World::of_service(&never);
    world.round_trips([100, 10, 50, 200]);
    world.lag(WEST, Duration::from_millis(20), get().now);
    at(&world, WEST, 100);
    assert_eq!(due(&world, &reading(need(101))), None, "it is switched off");
}

#[test]
fn a_refuted_answer_is_read_again_at_the_primary_and_then_elsewhere() {
    let mut world = world();
    at(&world, WEST, 100);
    at(&world, EU, 100);
    let facts = reading(need(100));
    let first = world.decide(&client("US"), &facts).expect("a decision");
    assert_eq!(first.region.region, WEST);
    let mut tried = vec![first.endpoint.endpoint];
    let mut last = first;
    for regions in [&[EAST][..], &[EAST], &[EAST], &[WEST, EU], &[WEST, EU], &[WEST, EU]] {
        let next = after_refuted(&world.table, &client("US"), &facts, &last, &tried);
        last = next.expect("an endpoint that was not tried");
        assert!(regions.contains(&last.region.region), "{last:?}");
        assert!(!tried.contains(&last.endpoint.endpoint));
        tried.push(last.endpoint.endpoint);
    }
    world.drain(EAST);
    let tried = [first.endpoint.endpoint];
    let next = after_refuted(&world.table, &client("US"), &facts, &first, &tried);
    assert_eq!(next.map(|next| next.region.region), Some(EU));
}

fn token(epoch: u64, position: Option<u64>, until: u64) -> SessionToken {
    SessionToken {
        service: 1,
        session: 2,
        epoch,
        position,
        primary_until_unix_ms: until,
        issued_unix_ms: NOW_MS - 1000,
    }
}

#[test]
fn a_token_after_an_answer() {
    let hold = Duration::from_secs(2);
    let until = NOW_MS + 2000;
    let (read, write, primary) = (AccessClass::Read, AccessClass::Write, AccessClass::ReadPrimary);
    let shown = |epoch, position| Shown { epoch, position, lag: None };
    for (before, access, by_primary, known, shown, after) in [
        // Writes.
        (token(0, None, 0), write, true, 0, shown(None, Some(9)), token(0, Some(9), 0)),
        (token(0, Some(12), 0), write, true, 0, shown(None, Some(9)), token(0, Some(12), 0)),
        (token(0, None, 0), write, true, 0, shown(None, None), token(0, None, until)),
        (token(0, Some(12), 7), write, true, 0, shown(None, None), token(0, Some(12), until)),
        (token(0, None, 0), write, true, 3, shown(Some(3), Some(9)), token(3, Some(9), 0)),
        (token(2, Some(90), 9), write, true, 3, shown(Some(3), Some(9)), token(3, Some(9), 0)),
        (token(2, Some(90), 9), write, true, 3, shown(Some(3), None), token(3, None, until)),
        // A position without an epoch, where there are epochs, says nothing.
        (token(3, Some(5), 0), write, true, 3, shown(None, Some(9)), token(3, Some(5), until)),
        // The endpoint knows a later epoch than the edge.
        (token(3, Some(5), 0), write, true, 3, shown(Some(4), Some(2)), token(4, Some(2), 0)),
        // Reads.
        (token(3, Some(5), 8), read, false, 3, shown(Some(3), Some(9)), token(3, Some(9), 8)),
        (token(3, Some(5), 8), read, false, 3, shown(Some(3), Some(4)), token(3, Some(5), 8)),
        (token(3, Some(5), 8), read, false, 3, shown(None, None), token(3, Some(5), 8)),
        (token(3, Some(5), 8), primary, true, 3, shown(Some(3), Some(9)), token(3, Some(9), 8)),
        (token(3, Some(5), 8), primary, true, 3, shown(None, None), token(3, Some(5), 8)),
        // Only the primary takes a session into another epoch, and nobody back.
        (token(2, Some(50), 8), read, true, 3, shown(Some(3), Some(9)), token(3, Some(9), 0)),
        (token(2, Some(50), 8), read, true, 3, shown(None, None), token(3, None, until)),
        (token(2, Some(50), 8), read, false, 3, shown(Some(3), Some(9)), token(2, Some(50), 8)),
        (token(4, Some(50), 8), read, true, 3, shown(Some(3), Some(99)), token(4, Some(50), 8)),
        (token(4, Some(50), 8), write, true, 3, shown(Some(3), Some(99)), token(4, Some(50), 8)),
    ] {
        let answered = Answered { access, by_primary, epoch: known };
        let found = before.after(&answered, shown, hold, NOW_MS);
        assert_eq!(found, after, "{before:?} after {answered:?} {shown:?}");
        // A token is never lowered: what it needs now is not less than before.
        assert!(found.epoch >= before.epoch);
        assert!(found.epoch > before.epoch || found.position >= before.position);
    }
}

#[test]
fn an_answer_refutes_what_it_shows_to_be_older() {
    let need = SessionNeed { epoch: 3, ..need(50) };
    let shown = |epoch, position| Shown { epoch, position, lag: None };
    for (shown, refuted) in [
        (shown(Some(3), Some(49)), true),
        (shown(Some(3), Some(50)), false),
        (shown(Some(2), Some(99)), true),
        (shown(Some(2), None), true),
        (shown(Some(4), Some(1)), false),
        (shown(None, Some(1)), false),
        (shown(None, None), false),
    ] {
        assert_eq!(need.is_refuted_by(shown), refuted, "{shown:?}");
    }
    let without = SessionNeed { epoch: 0, ..need };
    assert!(without.is_refuted_by(shown(None, Some(49))));
}

#[test]
fn old_tokens_count_in_their_epoch_only() {
    let mut world = world();
    primacy(&mut world, 3, PrimacyState::Settled);
    let need = |token: SessionToken, expired| token.need(world.service(), expired, NOW_MS);
    let of = |position, primary| {
        let age = Duration::from_secs(1);
        Some(SessionNeed { epoch: 3, position, primary, age })
    };
    assert_eq!(need(token(3, Some(5), 0), false), of(Some(5), false));
    assert_eq!(need(token(3, Some(5), 0), true), of(Some(5), false));
    assert_eq!(need(token(3, Some(5), NOW_MS + 1), false), of(Some(5), true));
    assert_eq!(need(token(3, Some(5), NOW_MS + 1), true), of(Some(5), false));
    assert_eq!(need(token(3, None, NOW_MS + 1), false), of(None, true));
    assert_eq!(need(token(3, None, NOW_MS), false), None, "its time at the primary is over");
    assert_eq!(need(token(3, None, NOW_MS + 1), true), None);
    assert!(need(token(2, Some(5), 0), false).is_some());
    assert_eq!(need(token(2, Some(5), 0), true), None);
}

#[test]
fn the_time_at_the_primary_follows_the_lag() {
    let world = World::new(Setup { service: REPLICATED, ..Setup::default() });
    let now = get().now;
    assert_eq!(world.service().session_hold(now), Duration::from_secs(2));
    world.lag(EU, Duration::from_secs(7), now);
    assert_eq!(world.service().session_hold(now), Duration::from_secs(14));
    world.lag(ASIA, Duration::from_secs(4_000), now);
    assert_eq!(world.service().session_hold(now), Duration::from_secs(300));
    world.lag(EAST, Duration::from_secs(9_000), Micros(now.0 + 1));
}

#[test]
fn reads_are_told_apart_by_where_they_go() {
    let mut world = world();
    at(&world, WEST, 100);
    let read = |world: &mut World, need: SessionNeed, waited| {
        let decided = world.decide(&client("US"), &reading(need));
        SessionRead::of(world.service(), &need, decided.as_ref().ok(), waited)
    };
    assert_eq!(read(&mut world, need(100), false), SessionRead::Replica);
    assert_eq!(read(&mut world, need(100), true), SessionRead::Waited);
    assert_eq!(read(&mut world, need(101), false), SessionRead::Primary);
    assert_eq!(read(&mut world, need(101), true), SessionRead::Primary);
    let held = SessionNeed { primary: true, ..need(5) };
    assert_eq!(read(&mut world, held, false), SessionRead::NoPosition);
    let other = SessionNeed { epoch: 9, ..need(5) };
    assert_eq!(read(&mut world, other, false), SessionRead::OtherEpoch);
    world.round_trips([1, 10, 50, 200]);
    assert_eq!(read(&mut world, need(100), false), SessionRead::PrimaryAnyway);
    world.drain(EAST);
    assert_eq!(read(&mut world, need(101), false), SessionRead::Refused);
}
