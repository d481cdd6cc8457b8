//! The guards, as a table: what is changed about a situation in which all is well, and what that stops.

use OperationKind::{Failback, Failover, Switchover};

use super::*;

fn id(name: &str) -> RegionId {
    RegionId::new(name)
}

fn region(name: &str, order: u32) -> RegionFacts {
    RegionFacts {
        id: id(name),
        order,
        endpoints: 2,
        serving: 2,
        drained: false,
        lag: Some(Duration::from_millis(200)),
        caught_up: false,
        well_for: Some(Duration::from_secs(600)),
    }
}

/// `us` is the primary and the file's; `eu` and `ap` may follow.
fn facts() -> Facts {
    Facts {
        state: PrimacyState::Settled,
        primary: Some(id("us")),
        home: Some(id("us")),
        regions: vec![region("us", 0), region("eu", 1), region("ap", 2)],
        under_way: None,
        changed: Some(Duration::from_secs(3600)),
        awaits_report: true,
        hears_reports: true,
        broken_hook: None,
        bounds: Bounds {
            max_lag: Duration::from_secs(10),
            cooldown: Duration::from_secs(60),
            failback_lag: Duration::from_secs(1),
            failback_after: Duration::from_secs(300),
        },
    }
}

/// A situation in which the operation may be made without force.
fn ready(kind: OperationKind) -> Facts {
    let mut facts = facts();
    match kind {
        Failover => facts.regions[0].serving = 0,
        Failback => facts.primary = Some(id("eu")),
        Switchover => {}
    }
    facts
}

fn stopped(facts: &Facts, kind: OperationKind, force: bool) -> Vec<&'static str> {
    let named = (kind != Failback).then_some("eu");
    let to = candidate(facts, kind, named).expect("a candidate");
    let checks = checks(facts, kind, to);
    let stops: Vec<_> = checks
        .iter()
        .filter(|check| !check.passed && (!force || !check.overridable))
        .map(|check| check.guard.label())
        .collect();
    assert_eq!(stops.len(), refusals(&checks, force).len());
    stops
}

/// The candidate of an operation in [`ready`].
fn target(facts: &mut Facts, kind: OperationKind) -> &mut RegionFacts {
    &mut facts.regions[if kind == Failback { 0 } else { 1 }]
}

#[test]
fn nothing_stops_what_is_ready() {
    for kind in OperationKind::ALL {
        assert_eq!(stopped(&ready(kind), kind, false), [""; 0], "{kind:?}");
    }
}

/// What is changed.
type Change = fn(&mut Facts, OperationKind);

#[test]
fn each_guard_stops_what_it_should_and_force_only_what_is_safe() {
    const ALL: &[OperationKind] = &[Failover, Failback, Switchover];
    const PLANNED: &[OperationKind] = &[Failback, Switchover];
    let table: &[(&str, &[OperationKind], bool, Change)] = &[
        ("nothing-under-way", ALL, false, |f, _| f.under_way = Some(Failover)),
        ("not-contested", &[Failover], false, |f, _| f.state = PrimacyState::Contested),
        ("primary-lost", &[Failover], true, |f, _| f.regions[0].serving = 1),
        ("primary-serves", PLANNED, false, |f, _| f.state = PrimacyState::Unknown),
        ("primary-serves", &[Switchover], false, |f, _| f.regions[0].serving = 0),
        ("primary-serves", PLANNED, false, |f, _| f.primary = None),
        ("candidate-not-drained", ALL, false, |f, k| target(f, k).drained = true),
        ("candidate-healthy", &[Failover], true, |f, k| target(f, k).serving = 0),
        ("candidate-healthy", PLANNED, false, |f, k| target(f, k).serving = 0),
        ("candidate-lag-known", &[Failover], true, |f, k| target(f, k).lag = None),
        ("candidate-lag-known", PLANNED, false, |f, k| target(f, k).lag = None),
        ("candidate-lag", ALL, true, |f, k| target(f, k).lag = Some(Duration::from_secs(11))),
        ("candidate-lag", &[Failback], true, |f, k| {
            target(f, k).lag = Some(Duration::from_millis(1001));
        }),
        ("cooldown", ALL, true, |f, _| f.changed = Some(Duration::from_secs(59))),
        ("candidate-well-for", &[Failback], true, |f, _| {
            f.regions[0].well_for = Some(Duration::from_secs(299));
        }),
        ("candidate-well-for", &[Failback], true, |f, _| f.regions[0].well_for = None),
        ("reports", ALL, false, |f, _| f.hears_reports = false),
        ("hook", ALL, false, |f, _| f.broken_hook = Some("it is not there".into())),
    ];
    for (guard, kinds, forced, change) in table {
        for kind in *kinds {
            let mut facts = ready(*kind);
            change(&mut facts, *kind);
            assert_eq!(stopped(&facts, *kind, false), [*guard], "{kind:?}");
            let left: &[&str] = if *forced { &[] } else { &[guard] };
            assert_eq!(stopped(&facts, *kind, true), left, "{kind:?}, forced");
        }
    }
}

#[test]
fn what_is_no_target_at_all() {
    let facts = facts();
    let to = candidate(&facts, Switchover, Some("us")).expect("a region");
    let told = refusals(&checks(&facts, Switchover, to), true);
    assert_eq!(told, ["other-region: \"us\" is the primary already"]);
    assert!(candidate(&facts, Failover, Some("mars")).is_err_and(|why| why.contains("mars")));
    let mut without = facts.clone();
    without.home = None;
    assert!(candidate(&without, Failback, None).is_err());
    let mut empty = ready(Failover);
    (empty.regions[1].endpoints, empty.regions[1].serving) = (0, 0);
    let stops = stopped(&empty, Failover, true);
    assert_eq!(stops, ["candidate-has-endpoints"]);
}

#[test]
fn the_last_region_that_serves_is_not_given_up() {
    let mut facts = facts();
    for region in &mut facts.regions[1..] {
        region.serving = 0;
    }
    assert_eq!(stopped(&facts, Failover, true), ["region-stays-on"]);
}

#[test]
fn without_a_primary_a_failover_appoints_one() {
    let mut facts = facts();
    facts.primary = None;
    facts.state = PrimacyState::Unknown;
    assert_eq!(stopped(&facts, Failover, false), [""; 0]);
    // Whoever was the primary and is not any more may be it again.
    facts.primary = Some(id("eu"));
    assert_eq!(stopped(&facts, Failover, false), [""; 0]);
}

#[test]
fn who_has_all_needs_no_lag() {
    for kind in OperationKind::ALL {
        let mut facts = ready(kind);
        (target(&mut facts, kind).lag, target(&mut facts, kind).caught_up) = (None, true);
        assert_eq!(stopped(&facts, kind, false), [""; 0], "{kind:?}");
    }
}

#[test]
fn the_best_is_by_order_then_lag_then_health() {
    let chosen = |change: Change| {
        let mut facts = facts();
        change(&mut facts, Failover);
        best(&facts).map(|region| region.id.to_string())
    };
    assert_eq!(chosen(|_, _| {}).as_deref(), Some("eu"));
    assert_eq!(chosen(|f, _| f.regions[1].drained = true).as_deref(), Some("ap"));
    assert_eq!(chosen(|f, _| f.regions[1].serving = 0).as_deref(), Some("ap"));
    assert_eq!(chosen(|f, _| f.regions[1].lag = None).as_deref(), Some("ap"));
    assert_eq!(chosen(|f, _| f.regions[1].order = 0).as_deref(), Some("ap"));
    assert_eq!(
        chosen(|f, _| f.regions[1].lag = Some(Duration::from_secs(11))).as_deref(),
        Some("ap")
    );
    let closer: Change = |f, _| {
        f.regions[1].order = 2;
        f.regions[2].lag = Some(Duration::ZERO);
    };
    assert_eq!(chosen(closer).as_deref(), Some("ap"));
    let healthier: Change = |f, _| {
        f.regions[1].order = 2;
        f.regions[1].serving = 1;
    };
    assert_eq!(chosen(healthier).as_deref(), Some("ap"));
    assert_eq!(chosen(|f, _| f.regions.truncate(1)), None);
    assert_eq!(chosen(|f, _| f.primary = Some(id("eu"))).as_deref(), Some("ap"));
}

#[test]
fn who_promotes_nobody_names_the_regions_and_what_stops_them() {
    let mut facts = ready(Failover);
    facts.regions[1].lag = None;
    (facts.regions[2].order, facts.regions[2].serving) = (0, 0);
    assert!(best(&facts).is_none());
    assert_eq!(
        nobody(&facts),
        "no region may be promoted: eu (candidate-lag-known); ap (failover_order is 0, \
         candidate-healthy)"
    );
    // What changes with each moment is not in it: it would be told again and again.
    facts.regions[1].lag = Some(Duration::from_secs(11));
    let before = nobody(&facts);
    facts.regions[1].lag = Some(Duration::from_secs(12));
    assert!(before.contains("eu (candidate-lag)") && before == nobody(&facts), "{before}");
    facts.regions.truncate(1);
    assert_eq!(nobody(&facts), "no region may be promoted: the service has no other");
}
