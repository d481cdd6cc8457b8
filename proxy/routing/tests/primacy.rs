//! Laws of following a primary: what holds whatever endpoints say, in whatever order.

use std::collections::{BTreeMap, BTreeSet};

use meridian_config::RegionIndex;
use meridian_routing::{
    EndpointClaim, Following, Primacy, PrimacySource, PrimacyState, Role, follow, refile,
};
use proptest::prelude::*;

const REGIONS: u8 = 4;
/// Of each region two.
const ENDPOINTS: u8 = 2 * REGIONS;

#[derive(Clone, Copy, Debug)]
enum Step {
    Says { endpoint: u8, role: Option<Role>, epoch: u64 },
    Gone { endpoint: u8 },
    File { before: u8, now: u8 },
    Appoint { region: u8, above: u64 },
    Decide { region: u8 },
    Moves,
}

fn step() -> impl Strategy<Value = Step> {
    let role = prop_oneof![Just(None), Just(Some(Role::Primary)), Just(Some(Role::Replica))];
    prop_oneof![
        12 => (0..ENDPOINTS, role, 0_u64..5)
            .prop_map(|(endpoint, role, epoch)| Step::Says { endpoint, role, epoch }),
        1 => (0..ENDPOINTS).prop_map(|endpoint| Step::Gone { endpoint }),
        1 => (0..REGIONS, 0..REGIONS).prop_map(|(before, now)| Step::File { before, now }),
        1 => (0..REGIONS, 1_u64..3).prop_map(|(region, above)| Step::Appoint { region, above }),
        2 => (0..REGIONS).prop_map(|region| Step::Decide { region }),
        1 => Just(Step::Moves),
    ]
}

fn following() -> impl Strategy<Value = Following> {
    prop_oneof![3 => Just(Following::Reports), 1 => Just(Following::Operator)]
}

fn claims(said: &BTreeMap<u8, (Option<Role>, u64)>) -> Vec<EndpointClaim> {
    let claim = |(endpoint, (role, epoch)): (&u8, &(Option<Role>, u64))| EndpointClaim {
        region: RegionIndex(endpoint / 2),
        role: *role,
        epoch: *epoch,
    };
    said.iter().map(claim).collect()
}

fn start(region: u8) -> Primacy {
    Primacy::of_file(Some(RegionIndex(region)), 0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_epoch_has_two_primaries_and_none_decreases(
        following in following(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let (mut known, mut said) = (start(0), BTreeMap::new());
        let mut confirmed: BTreeMap<u64, BTreeSet<u8>> = BTreeMap::new();
        for step in steps {
            let before = known;
            match step {
                Step::Says { endpoint, role, epoch } => {
                    // As the keeper does: an endpoint's epoch does not decrease.
                    let held = said.entry(endpoint).or_insert((role, epoch));
                    if epoch >= held.1 {
                        *held = (role, epoch);
                    }
                }
                Step::Gone { endpoint } => drop(said.remove(&endpoint)),
                Step::File { before, now } => {
                    known = refile(
                        &known, following, Some(RegionIndex(before)), Some(RegionIndex(now)),
                    );
                }
                Step::Appoint { region, above } => {
                    let epoch = known.epoch + above;
                    known = known.appointed(RegionIndex(region), epoch, PrimacySource::Operator);
                }
                Step::Decide { region } => {
                    let claims = said.iter().any(|(endpoint, (role, epoch))| {
                        endpoint / 2 == region && *role == Some(Role::Primary) && *epoch == known.epoch
                    });
                    if known.state == PrimacyState::Contested && claims {
                        known = known.decided(RegionIndex(region));
                        // Whoever was the primary of it is not any more; nobody else will be.
                        confirmed.remove(&known.epoch);
                    }
                }
                Step::Moves if known.is_settled() => known.state = PrimacyState::Moving,
                Step::Moves => {}
            }
            let claims = claims(&said);
            let appointed = known;
            known = follow(&known, following, claims.iter().copied());
            let highest = claims.iter().map(|claim| claim.epoch).max().unwrap_or(0);
            prop_assert_eq!(known.epoch, appointed.epoch.max(highest));
            prop_assert!(known.epoch >= before.epoch, "{before:?} -> {known:?}");
            prop_assert!(known.region_epoch <= known.epoch);
            if known.is_settled() {
                let region = known.region.expect("settled");
                let by_file = known.source == PrimacySource::File
                    && known.region_epoch == 0
                    && claims.iter().all(|claim| claim.region != region);
                prop_assert!(known.is_taken() || by_file, "{known:?} {claims:?}");
                let other = |claim: &EndpointClaim| {
                    claim.role == Some(Role::Primary)
                        && claim.epoch >= known.epoch
                        && Some(claim.region) != known.region
                };
                prop_assert!(known.decided || !claims.iter().any(other), "{known:?} {claims:?}");
                if let (true, Some(region)) = (known.confirmed, known.region) {
                    let all = confirmed.entry(known.epoch).or_default();
                    all.insert(region.0);
                    prop_assert!(all.len() == 1, "epoch {}: {all:?}", known.epoch);
                }
            }
            if following == Following::Operator {
                prop_assert_eq!(known.region, appointed.region);
            }
            // Once more with nothing new changes nothing, and nor does the order.
            prop_assert_eq!(follow(&known, following, claims.iter().copied()), known);
            let turned = follow(&appointed, following, claims.iter().rev().copied());
            prop_assert_eq!(turned, known);
        }
    }

    #[test]
    fn lower_epochs_never_count(
        following in following(),
        epoch in 1_u64..9,
        lower in prop::collection::vec((0..REGIONS, prop::bool::ANY, 0_u64..9), 0..12),
    ) {
        let known = start(0).appointed(RegionIndex(1), epoch, PrimacySource::Reported);
        let claims = lower.iter().map(|(region, primary, said)| EndpointClaim {
            region: RegionIndex(*region),
            role: Some(if *primary { Role::Primary } else { Role::Replica }),
            epoch: said % epoch,
        });
        prop_assert_eq!(follow(&known, following, claims), known);
    }
}

fn primary(region: u8, epoch: u64) -> EndpointClaim {
    EndpointClaim { region: RegionIndex(region), role: Some(Role::Primary), epoch }
}

fn replica(region: u8, epoch: u64) -> EndpointClaim {
    EndpointClaim { region: RegionIndex(region), role: Some(Role::Replica), epoch }
}

/// State, region and epoch.
type Known = (PrimacyState, u8, u64);

fn after(known: &Primacy, following: Following, claims: &[EndpointClaim]) -> Known {
    let next = follow(known, following, claims.iter().copied());
    (next.state, next.region.expect("a region").0, next.epoch)
}

#[test]
fn the_table_of_the_rule() {
    use PrimacyState::{Contested, Settled, Unknown};
    let confirmed = follow(&start(0), Following::Reports, [primary(0, 5)]);
    assert!(confirmed.confirmed && confirmed.is_settled());
    let named = start(0).appointed(RegionIndex(1), 5, PrimacySource::Operator);
    let cases: &[(&Primacy, &[EndpointClaim], Known, Known)] = &[
        // Nothing is said, or what is known.
        (&confirmed, &[], (Settled, 0, 5), (Settled, 0, 5)),
        (&confirmed, &[primary(0, 5), replica(1, 5)], (Settled, 0, 5), (Settled, 0, 5)),
        // Lower epochs.
        (&confirmed, &[primary(1, 4), replica(0, 4)], (Settled, 0, 5), (Settled, 0, 5)),
        // Higher ones.
        (&confirmed, &[primary(1, 6)], (Settled, 1, 6), (Unknown, 0, 6)),
        (&confirmed, &[primary(0, 6)], (Settled, 0, 6), (Settled, 0, 6)),
        (&confirmed, &[primary(0, 5), primary(1, 6)], (Settled, 1, 6), (Unknown, 0, 6)),
        (&confirmed, &[primary(1, 6), primary(2, 6)], (Contested, 0, 6), (Contested, 0, 6)),
        (&confirmed, &[primary(1, 6), primary(2, 7)], (Settled, 2, 7), (Unknown, 0, 7)),
        (&confirmed, &[replica(1, 6)], (Unknown, 0, 6), (Unknown, 0, 6)),
        (&confirmed, &[primary(0, 5), replica(1, 6)], (Unknown, 0, 6), (Unknown, 0, 6)),
        // The same one.
        (&confirmed, &[primary(1, 5)], (Contested, 0, 5), (Contested, 0, 5)),
        (&confirmed, &[primary(0, 5), primary(1, 5)], (Contested, 0, 5), (Contested, 0, 5)),
        (&confirmed, &[replica(0, 5)], (Unknown, 0, 5), (Unknown, 0, 5)),
        // Two endpoints of the primary's region, only one of which takes writes.
        (&confirmed, &[replica(0, 5), primary(0, 5)], (Settled, 0, 5), (Settled, 0, 5)),
        // Named, and never said so itself.
        (&named, &[primary(2, 5)], (Settled, 2, 5), (Contested, 1, 5)),
        (&named, &[primary(1, 5), primary(2, 5)], (Contested, 1, 5), (Contested, 1, 5)),
        (&named, &[primary(2, 5), primary(3, 5)], (Contested, 1, 5), (Contested, 1, 5)),
    ];
    for (known, claims, by_reports, by_operator) in cases {
        assert_eq!(after(known, Following::Reports, claims), *by_reports, "{claims:?}");
        assert_eq!(after(known, Following::Operator, claims), *by_operator, "{claims:?}");
    }
}

#[test]
fn the_file_s_word_stands_while_its_primary_says_nothing() {
    let known = follow(&start(0), Following::Reports, [replica(1, 3)]);
    assert_eq!((known.is_settled(), known.epoch, known.region_epoch), (true, 3, 0));
    for claims in [
        [replica(1, 3), primary(0, 2)],
        [replica(1, 3), replica(0, 0)],
        [replica(1, 3), primary(2, 3)],
    ] {
        let next = follow(&known, Following::Operator, claims);
        assert_eq!(next.state, PrimacyState::Unknown, "{claims:?}");
    }
    let itself = follow(&known, Following::Operator, [replica(1, 3), primary(0, 3)]);
    assert!(itself.is_settled() && itself.confirmed && itself.region_epoch == 3);
    let other = follow(&known, Following::Reports, [replica(1, 3), primary(2, 3)]);
    assert_eq!((other.region, other.is_settled()), (Some(RegionIndex(2)), true));
    // Once it was in doubt, it is for somebody to say.
    let doubt = follow(&known, Following::Reports, [primary(1, 3), primary(2, 3)]);
    let still = follow(&doubt, Following::Reports, [replica(1, 3), replica(2, 3)]);
    assert_eq!(still.state, PrimacyState::Unknown);
}

#[test]
fn a_contest_ends_when_one_gives_in_or_a_higher_epoch_comes() {
    let known = follow(&start(0), Following::Reports, [primary(0, 5)]);
    let contested = follow(&known, Following::Reports, [primary(0, 5), primary(1, 5)]);
    assert_eq!(contested.state, PrimacyState::Contested);
    let back = follow(&contested, Following::Reports, [primary(0, 5), replica(1, 5)]);
    assert!(back.is_settled() && back.region == Some(RegionIndex(0)));
    // Whoever was the first to have the epoch has gone quiet: nobody else gets it.
    let other = follow(&contested, Following::Reports, [primary(1, 5)]);
    assert_eq!(other.state, PrimacyState::Contested);
    let higher = follow(&contested, Following::Reports, [primary(0, 5), primary(1, 6)]);
    assert!(higher.is_settled() && higher.region == Some(RegionIndex(1)));
}

#[test]
fn a_service_that_moves_waits_for_a_higher_epoch() {
    let settled = follow(&start(0), Following::Reports, [primary(0, 5)]);
    let moving = Primacy { state: PrimacyState::Moving, ..settled };
    for claims in [&[primary(0, 5)][..], &[replica(0, 5)], &[replica(1, 6)]] {
        let next = follow(&moving, Following::Reports, claims.iter().copied());
        assert_eq!(next.state, PrimacyState::Moving, "{claims:?}");
    }
    let there = follow(&moving, Following::Reports, [replica(0, 5), primary(1, 6)]);
    assert!(there.is_settled() && there.region == Some(RegionIndex(1)));
}

#[test]
fn the_file_names_where_nobody_else_does() {
    let [a, b, c] = [0, 1, 2].map(|region| Some(RegionIndex(region)));
    let by_file = refile(&start(0), Following::Reports, a, b);
    assert_eq!((by_file.region, by_file.epoch, by_file.source), (b, 1, PrimacySource::File));
    assert_eq!(refile(&by_file, Following::Reports, b, b), by_file);
    let confirmed = follow(&start(0), Following::Reports, [primary(1, 5)]);
    assert_eq!(refile(&confirmed, Following::Reports, a, c), confirmed);
    let moved = refile(&confirmed, Following::Operator, a, c);
    assert_eq!((moved.region, moved.epoch), (c, 6));
    // It says what is so already.
    assert_eq!(refile(&confirmed, Following::Operator, a, b), confirmed);
    let none = Primacy::of_file(None, 0);
    let first = refile(&none, Following::Operator, None, a);
    assert_eq!((first.region, first.epoch, first.is_settled()), (a, 0, true));
}
