use std::path::Path;
use std::time::Duration;

use meridian_config::{Config, EndpointKey};
use meridian_routing::{Change as Setting, ChangeKind, Desired, OverrideKey, Target};

use super::*;
use crate::history::event::Cause;
use crate::keeper::{Event, KeeperState, OverrideRequest, ProbeReport, keys};

/// A primary and two replicas; service "api" has two endpoints in "us" and one in each other region.
const REGIONS: &str = "[[listeners]]\nname = \"l\"\naddress = \"127.0.0.1:1\"\n\
    [edge]\nid = \"here\"\n\
    [[regions]]\nid = \"us\"\nrole = \"primary\"\ncoordinates = [1, 1]\npriority = 1\n\
    [[regions]]\nid = \"eu\"\nrole = \"replica\"\ncoordinates = [1, 2]\npriority = 3\n\
    [[regions]]\nid = \"ap\"\nrole = \"replica\"\ncoordinates = [1, 3]\npriority = 2\n";
const SERVICE: &str = "[[services]]\nname = \"api\"\npolicy = \"priority\"\nendpoints = [\
    { region = \"us\", address = \"10.0.0.1:80\" }, { region = \"us\", address = \"10.0.0.2:80\" }, \
    { region = \"eu\", address = \"10.0.1.1:80\" }, { region = \"ap\", address = \"10.0.2.1:80\" }]\n";
const ROUTE: &str = "[[routes]]\nname = \"all\"\nservice = \"api\"\n";

fn config(text: &str) -> Arc<Config> {
    match Config::parse(text, Path::new("/m.toml"), &|_| None) {
        Ok(loaded) => Arc::new(loaded.config),
        Err(errors) => panic!("{errors}"),
    }
}

struct World {
    state: KeeperState,
    observer: Observer,
    now: Micros,
}

impl World {
    /// Every endpoint is healthy; that has been observed.
    fn healthy() -> Self {
        let mut world = Self::new();
        let all = (0..4).map(|n| world.report(n, EndpointHealth::Healthy, None)).collect();
        world.tell(all);
        world
    }

    fn new() -> Self {
        let config = config(&format!("{REGIONS}{SERVICE}{ROUTE}"));
        let (state, _) = KeeperState::new(config, Default::default(), 0).expect("builds");
        let observer = Observer::new(state.table().clone(), Micros(0));
        Self { state, observer, now: Micros(0) }
    }

    fn key(&self, n: usize) -> EndpointKey {
        let config = self.state.desired();
        keys(config, &config.services[0]).nth(n).expect("an endpoint")
    }

    fn report(&self, n: usize, health: EndpointHealth, cause: Option<&str>) -> Event {
        let fingerprint = crate::ProbeFingerprint::of(&self.state.desired().services[0]);
        let cause = cause.map(Into::into);
        Event::Probe(ProbeReport { key: self.key(n), fingerprint, health, cause, round_trip: None })
    }

    /// A second later, one batch; what is recorded.
    fn tell(&mut self, events: Vec<Event>) -> Vec<HistoryEvent> {
        self.now = self.now.plus(Duration::from_secs(1));
        let mut notices = Vec::new();
        for event in events {
            notices.extend(self.state.apply(event, self.now, 1000).expect("accepted"));
        }
        self.state.commit();
        self.observer.observe(self.state.table(), &notices, self.now, 77)
    }

    fn out(&mut self, numbers: &[usize], cause: &str) -> Vec<HistoryEvent> {
        let report = |n: &usize| self.report(*n, EndpointHealth::Unhealthy, Some(cause));
        let events = numbers.iter().map(report).collect();
        self.tell(events)
    }

    fn back(&mut self, numbers: &[usize]) -> Vec<HistoryEvent> {
        let report = |n: &usize| self.report(*n, EndpointHealth::Healthy, None);
        let events = numbers.iter().map(report).collect();
        self.tell(events)
    }

    fn set(&mut self, target: Target, change: Setting) -> Vec<HistoryEvent> {
        let (actor, reason) = ("ann (operator@10.0.0.7)".into(), "kernel update".into());
        let ttl = Some(Duration::from_secs(60));
        self.tell(vec![Event::Set(OverrideRequest {
            target,
            change,
            actor,
            reason,
            ttl,
            session_grace: None,
        })])
    }

    fn reload(&mut self, text: &str) -> Vec<HistoryEvent> {
        let (actor, digest) = ("SIGHUP".into(), "0123456789abcdef".into());
        let desired = Desired::new(config(text)).expect("small expressions");
        self.tell(vec![Event::Reload { desired, actor, digest }])
    }
}

fn region(id: &str) -> Target {
    Target::Region(id.into())
}

fn only(mut events: Vec<HistoryEvent>) -> HistoryEvent {
    assert_eq!(events.len(), 1, "{events:#?}");
    events.remove(0)
}

fn step(event: &HistoryEvent) -> (&str, &str, &str) {
    (event.region.as_deref().unwrap_or("-"), &event.from, &event.to)
}

#[test]
fn a_region_that_dies_and_comes_back() {
    let mut world = World::healthy();
    let degraded = only(world.out(&[0], "connection refused"));
    assert_eq!(step(&degraded), ("us", "healthy", "degraded"));
    assert_eq!(degraded.evidence, "1 of 2 endpoints down: 10.0.0.1:80 connection refused");
    assert_eq!((degraded.lasted_ms, degraded.moved_to.as_deref()), (1000, None));
    let service = degraded.service.as_deref();
    assert_eq!((&*degraded.edge, service, degraded.unix_ms), ("here", Some("api"), 77));
    assert_eq!((degraded.cause, &*degraded.actor), (Cause::Health, "meridian"));
    let down = only(world.out(&[1], "no answer within 250 ms"));
    assert_eq!(step(&down), ("us", "degraded", "down"));
    assert_eq!(
        down.evidence,
        "2 of 2 endpoints down: 10.0.0.1:80 connection refused; 10.0.0.2:80 no answer within 250 ms"
    );
    assert_eq!(down.moved_to.as_deref(), Some("ap"), "the next by priority");
    assert_eq!(down.generation, world.state.table().generation);
    assert!(world.tell(vec![Event::Tick]).is_empty(), "nothing has changed");
    let up = only(world.back(&[0, 1]));
    assert_eq!(step(&up), ("us", "down", "healthy"));
    assert_eq!((&*up.evidence, up.lasted_ms), ("2 of 2 endpoints healthy", 2000));
    assert_eq!(up.class(), Some(meridian_config::AlertClass::Recovered));
}

#[test]
fn what_a_state_has_cost_is_counted_from_its_beginning() {
    let mut world = World::healthy();
    let fail = |world: &World, times: u32| {
        let pool = world.state.table().services[0].pool(meridian_config::RegionIndex(0));
        let load = &pool.expect("a pool").load;
        for _ in 0..times {
            load.0.begin();
            load.0.end(Some(true));
            load.0.setbacks.count_retried();
            load.1.observe(Duration::from_millis(1));
        }
    };
    fail(&world, 3);
    let down = only(world.out(&[0, 1], "x"));
    let expected = Affected { answered: 3, failed: 3, retried: 3, spilled: 0, refused: 0 };
    assert_eq!(down.affected, expected);
    fail(&world, 2);
    let up = only(world.back(&[0, 1]));
    assert_eq!(up.affected, Affected { answered: 2, failed: 2, retried: 2, ..expected });
    let next = only(world.out(&[0], "x"));
    assert_eq!(next.affected, Affected::default());
}

#[test]
fn the_operator_is_named() {
    let mut world = World::healthy();
    let drained = only(world.set(region("eu"), Setting::Drain(true)));
    assert_eq!(step(&drained), ("eu", "healthy", "drained"));
    assert_eq!((drained.cause, &*drained.actor), (Cause::Operator, "ann (operator@10.0.0.7)"));
    let said = "ann (operator@10.0.0.7) drained region eu: kernel update";
    assert_eq!((&*drained.evidence, drained.moved_to.as_deref()), (said, Some("us")));
    let again = world.set(region("eu"), Setting::Drain(true));
    assert!(again.is_empty(), "an override made anew changes no state");
    let dead = world.out(&[2], "refused");
    assert!(dead.is_empty(), "it is drained all the same");
    let key = OverrideKey { target: region("eu"), kind: ChangeKind::Drain };
    let back = only(world.tell(vec![Event::Clear { key, actor: "admin@unix:0".into() }]));
    assert_eq!(step(&back), ("eu", "drained", "down"));
    assert_eq!(back.actor, "admin@unix:0");
    let said = "admin@unix:0 took back the drain of region eu; 1 of 1 endpoints down: \
                10.0.1.1:80 refused";
    assert_eq!((&*back.evidence, back.lasted_ms), (said, 3000));
}

#[test]
fn an_endpoint_that_is_drained_may_change_its_region() {
    let mut world = World::healthy();
    let endpoint =
        |address: &str| Target::Endpoint { service: "api".into(), address: address.into() };
    assert!(world.set(endpoint("10.0.0.1:80"), Setting::Drain(true)).is_empty());
    let drained = only(world.set(endpoint("10.0.0.2:80"), Setting::Drain(true)));
    assert_eq!(step(&drained), ("us", "healthy", "drained"));
    assert_eq!(drained.cause, Cause::Operator);
    assert!(drained.evidence.contains("endpoint api/10.0.0.2:80"), "{}", drained.evidence);
}

#[test]
fn weights_and_expiries() {
    let mut world = World::healthy();
    let weighed = only(world.set(region("ap"), Setting::Weight(7)));
    assert_eq!((weighed.kind, weighed.service.as_deref()), (ChangeKindWord::Weight, None));
    assert_eq!(step(&weighed), ("ap", "100", "7"));
    assert_eq!(weighed.class(), Some(meridian_config::AlertClass::Weight));
    world.now = world.now.plus(Duration::from_secs(60));
    let notices = world.state.apply(Event::Tick, world.now, 100_000).expect("accepted");
    world.state.commit();
    let over = only(world.observer.observe(world.state.table(), &notices, world.now, 78));
    assert_eq!(step(&over), ("ap", "7", "100"));
    assert_eq!((over.cause, &*over.actor, over.lasted_ms), (Cause::Expiry, "meridian", 60_000));
    let said = "the weight of region ap, set by ann (operator@10.0.0.7), expired";
    assert_eq!(over.evidence, said);
}

#[test]
fn a_reload_that_changes_regions() {
    let mut world = World::healthy();
    let moved = REGIONS
        .replace("id = \"us\"\nrole = \"primary\"", "id = \"us\"\nrole = \"replica\"\ndrain = true")
        .replace("id = \"eu\"\nrole = \"replica\"", "id = \"eu\"\nrole = \"primary\"\nweight = 5")
        .replace(
            "[[regions]]\nid = \"ap\"\nrole = \"replica\"\ncoordinates = [1, 3]\npriority = 2\n",
            "",
        );
    let service = SERVICE.replace(", { region = \"ap\", address = \"10.0.2.1:80\" }", "");
    let events = world.reload(&format!("{moved}{service}{ROUTE}"));
    let steps: Vec<_> = events.iter().map(|e| (e.kind, step(e))).collect();
    assert_eq!(
        steps,
        [
            (ChangeKindWord::State, ("ap", "healthy", "absent")),
            (ChangeKindWord::State, ("us", "healthy", "drained")),
            (ChangeKindWord::Primary, ("eu", "us", "eu")),
            (ChangeKindWord::Weight, ("eu", "100", "5")),
        ]
    );
    for event in &events {
        assert_eq!((event.cause, &*event.actor), (Cause::Configuration, "SIGHUP"));
        assert_eq!(event.evidence, "configuration reloaded, digest 0123456789ab");
    }
    assert_eq!(events[0].moved_to.as_deref(), Some("eu"));
    let back = world.reload(&format!("{moved}{SERVICE}{ROUTE}").replace(
        "[[services]]",
        "[[regions]]\nid = \"ap\"\nrole = \"replica\"\ncoordinates = [1, 3]\n[[services]]",
    ));
    assert_eq!(step(&only(back)), ("ap", "absent", "unknown"));
    assert!(
        world
            .reload(&format!("{moved}{SERVICE}{ROUTE}").replace(
                "[[services]]",
                "[[regions]]\nid = \"ap\"\nrole = \"replica\"\ncoordinates = [1, 3]\n[[services]]"
            ))
            .is_empty()
    );
}

#[test]
fn first_verdicts_alert_nobody() {
    let mut world = World::new();
    let up = only(world.back(&[0]));
    assert_eq!((step(&up), up.class()), (("us", "unknown", "healthy"), None));
    assert!(!up.is_failover());
    let down = only(world.out(&[2], "refused"));
    let class = Some(meridian_config::AlertClass::Down);
    assert_eq!((step(&down), down.class()), (("eu", "unknown", "down"), class));
    assert!(!down.is_failover(), "it took nothing before");
}

#[test]
fn many_endpoints_are_named_in_part() {
    let endpoint = |n: usize| format!("{{ region = \"us\", address = \"10.1.0.{n}:80\" }}");
    let all: Vec<_> = (1..=8).map(endpoint).collect();
    let service = format!(
        "[[services]]\nname = \"api\"\npolicy = \"priority\"\nendpoints = [{}]\n",
        all.join(", ")
    );
    let mut world = World::healthy();
    world.reload(&format!("{REGIONS}{service}{ROUTE}"));
    let down = only(world.out(&[0, 1, 2, 3, 4, 5, 6, 7], &"é".repeat(300)));
    assert!(down.evidence.starts_with("8 of 8 endpoints down: 10.1.0.1:80 é"), "{}", down.evidence);
    assert!(down.evidence.ends_with("; and 3 more"), "{}", down.evidence);
    assert!(down.evidence.chars().count() < 1200);
}

#[test]
fn counts_are_of_what_the_table_names() {
    let mut world = World::healthy();
    let mut tally = crate::history::Tally::default();
    world.out(&[0, 1], "x").iter().for_each(|event| tally.count(event));
    world.back(&[0, 1]).iter().for_each(|event| tally.count(event));
    world.set(region("ap"), Setting::Weight(7)).iter().for_each(|event| tally.count(event));
    world.set(region("ap"), Setting::Drain(true)).iter().for_each(|event| tally.count(event));
    let text = |t: &str| t.to_owned();
    let failovers: Vec<_> = tally.failovers.clone().into_iter().collect();
    assert_eq!(
        failovers,
        [
            ((text("api"), text("ap"), text("us"), "operator"), 1),
            ((text("api"), text("us"), text("ap"), "health"), 1),
        ]
    );
    assert_eq!(tally.changes.len(), 3, "{tally:?}");
    let service = SERVICE.replace(", { region = \"ap\", address = \"10.0.2.1:80\" }", "");
    let fewer = REGIONS.split("[[regions]]\nid = \"ap\"").next().expect("text");
    world.reload(&format!("{fewer}{service}{ROUTE}"));
    tally.retain(world.state.table());
    assert!(tally.failovers.is_empty(), "{tally:?}");
    assert!(tally.changes.keys().all(|(_, region, ..)| region == "us"), "{tally:?}");
}

#[test]
fn an_event_stays_small() {
    use crate::history::evidence::bounded;
    assert_eq!(bounded("a\nb"), "a\nb");
    let long = vec!["é".repeat(1000); 1000].join("\n");
    let said = bounded(&long);
    assert!(said.ends_with("\nand 995 more") && said.chars().count() < 1100, "{said}");
}

/// Whatever happens, the events of a region in a row lead from its first state to its present one.
#[test]
fn events_leave_no_gap() {
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut world = World::new();
        let (mut known, mut recorded) = (BTreeMap::<String, String>::new(), 0);
        for turn in 0..300 {
            let health = [EndpointHealth::Healthy, EndpointHealth::Unhealthy][rng.usize(..2)];
            let id = ["us", "eu", "ap"][rng.usize(..3)];
            let events = match rng.u8(..8) {
                0 => world.set(region(id), Setting::Drain(rng.bool())),
                1 => {
                    let key = OverrideKey { target: region(id), kind: ChangeKind::Drain };
                    world.tell(vec![Event::Clear { key, actor: "ann".into() }])
                }
                2 => world.reload(&format!(
                    "{}{SERVICE}{ROUTE}",
                    REGIONS
                        .replace("priority = 1", ["priority = 1", "drain = true"][rng.usize(..2)])
                )),
                _ => {
                    let reports = (0..rng.usize(1..4))
                        .map(|_| world.report(rng.usize(..4), health, Some("x")))
                        .collect();
                    world.tell(reports)
                }
            };
            for event in events {
                let id = event.region.clone().expect("a region");
                let before = known.insert(id, event.to).unwrap_or_else(|| "unknown".into());
                assert_eq!(before, event.from, "seed {seed}, turn {turn}");
                recorded += 1;
            }
            let table = world.state.table();
            let states = crate::history::changes::states(table, &table.services[0]);
            for (view, state) in table.regions.iter().zip(states) {
                let known = known.get(view.settings.id.as_str()).map_or("unknown", |to| to);
                assert_eq!(known, state.label(), "seed {seed}, turn {turn}");
            }
        }
        assert!(recorded > 50, "seed {seed}: {recorded}");
    }
}
