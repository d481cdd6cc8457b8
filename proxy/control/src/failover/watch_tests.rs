//! When the edge acts by itself, over real tables.

use std::path::Path;
use std::sync::Arc;

use meridian_config::{Config, EndpointKey, HealthKind};
use meridian_routing::{Claim, EndpointHealth, Role};

use super::*;
use crate::health::ProbeFingerprint;
use crate::keeper::{Event, KeeperState, ProbeReport};

const REGIONS: [&str; 3] = ["us", "eu", "ap"];

struct World {
    state: KeeperState,
    memory: Memory,
    now: Micros,
}

impl World {
    /// All is well, `us` is the primary of epoch 1, and the hold time is 10 s.
    fn new() -> Self {
        let mut text = "[[listeners]]\nname = \"p\"\naddress = \"127.0.0.1:1\"\n".to_owned();
        for (number, id) in REGIONS.iter().enumerate() {
            let role = if number == 0 { "primary" } else { "replica" };
            text += &format!(
                "[[regions]]\nid = \"{id}\"\nrole = \"{role}\"\nfailover_order = {number}\n"
            );
        }
        text += "[[services]]\nname = \"api\"\npolicy = \"priority\"\n\
                 replication = { source = \"status\" }\n\
                 failover = { mode = \"hook\", hook = [\"/bin/true\"], hold = \"10s\" }\n";
        for (number, id) in REGIONS.iter().enumerate() {
            text += &format!(
                "[[services.endpoints]]\nregion = \"{id}\"\naddress = \"10.0.0.{}:80\"\n",
                number + 1
            );
        }
        text += "[[routes]]\nname = \"all\"\nservice = \"api\"\n";
        let loaded = Config::parse(&text, Path::new("/x/m.toml"), &|_| None);
        let config = Arc::new(loaded.unwrap_or_else(|errors| panic!("{errors}")).config);
        let state = KeeperState::new(config, Default::default(), 1).expect("starts").0;
        let mut world = Self { state, memory: Memory::default(), now: Micros(1) };
        for (number, role) in [Role::Primary, Role::Replica, Role::Replica].iter().enumerate() {
            world.claims(number, *role, 1);
            world.probe(number, EndpointHealth::Healthy);
        }
        world.look(0);
        world
    }

    fn key(&self, region: usize) -> EndpointKey {
        self.state.table().services[0].endpoints[region].key.clone()
    }

    fn apply(&mut self, event: Event) {
        self.state.apply(event, self.now, 1).expect("accepted");
        self.state.commit();
    }

    fn claims(&mut self, region: usize, role: Role, epoch: u64) {
        let claim = Claim { role: Some(role), epoch: Some(epoch), position: None, lag: None };
        self.apply(Event::Claim { key: self.key(region), claim, asked: true });
    }

    fn probe(&mut self, region: usize, health: EndpointHealth) {
        let service = &self.state.desired().services[0];
        assert_ne!(service.health.kind, HealthKind::None);
        let fingerprint = ProbeFingerprint::of(service);
        let key = self.key(region);
        self.apply(Event::Probe(ProbeReport {
            key,
            fingerprint,
            health,
            cause: None,
            round_trip: None,
        }));
    }

    fn position(&self, region: usize, position: u64) {
        let table = self.state.table();
        table.services[0].endpoints[region].position.learn(Some(1), position);
    }

    fn lag(&self, region: usize, lag: Duration) {
        let table = self.state.table();
        let index = meridian_config::RegionIndex(region as u8);
        let pool = table.services[0].pool(index).expect("a pool");
        pool.load.0.report_lag_every(Duration::from_millis(1), lag, self.now);
    }

    /// So many seconds later.
    fn look(&mut self, seconds: u64) {
        self.now = self.now.plus(Duration::from_secs(seconds));
        let table = self.state.table().clone();
        self.memory.look(&table, &table.services[0], self.now);
    }

    fn is_due(&self) -> bool {
        self.memory.is_due(&self.state.table().services[0], self.now).is_some()
    }

    fn doubt(&self) -> Option<String> {
        let table = self.state.table();
        let middle = self.memory.down.as_ref().and_then(|down| down.middle.as_ref());
        doubt(table, &table.services[0], &RegionId::new("eu"), middle)
    }
}

#[test]
fn a_loss_is_due_after_the_hold_time_and_not_if_it_is_over() {
    let mut world = World::new();
    world.probe(0, EndpointHealth::Unhealthy);
    world.look(0);
    world.look(9);
    assert!(!world.is_due());
    world.probe(0, EndpointHealth::Healthy);
    world.look(5);
    world.probe(0, EndpointHealth::Unhealthy);
    world.look(1);
    world.look(9);
    assert!(!world.is_due(), "it was back in between");
    world.look(1);
    assert!(world.is_due());
    assert_eq!(world.doubt(), None);
}

#[test]
fn who_steps_down_is_lost_and_who_is_followed_by_another_is_not() {
    let mut world = World::new();
    world.claims(0, Role::Replica, 1);
    world.look(0);
    world.look(10);
    assert!(world.is_due());
    world.claims(1, Role::Primary, 2);
    world.look(1);
    assert!(!world.is_due() && world.memory.down.is_none());
    assert_eq!(world.memory.changed, Some(world.now));
    // A higher epoch that nobody has claimed yet: somebody promotes elsewhere.
    world.claims(2, Role::Replica, 3);
    world.look(0);
    world.look(20);
    assert!(!world.is_due());
}

#[test]
fn a_contested_primary_is_no_loss() {
    let mut world = World::new();
    world.claims(1, Role::Primary, 1);
    world.probe(0, EndpointHealth::Unhealthy);
    assert_eq!(world.state.table().services[0].primacy.state, PrimacyState::Contested);
    world.look(0);
    world.look(20);
    assert!(!world.is_due());
}

#[test]
fn a_drained_primary_is_no_loss() {
    let mut world = World::new();
    world.apply(Event::Set(crate::keeper::OverrideRequest {
        target: meridian_routing::Target::Region("us".into()),
        change: meridian_routing::Change::Drain(true),
        actor: "a".into(),
        reason: String::new(),
        ttl: None,
        session_grace: None,
    }));
    world.probe(0, EndpointHealth::Unhealthy);
    world.look(0);
    world.look(20);
    assert!(!world.is_due());
}

#[test]
fn an_edge_that_sees_half_of_the_others_doubts() {
    let mut world = World::new();
    world.probe(0, EndpointHealth::Unhealthy);
    world.look(0);
    world.look(10);
    assert_eq!(world.doubt(), None);
    world.probe(2, EndpointHealth::Unhealthy);
    assert!(world.doubt().is_some_and(|why| why.contains("reaches 1 of 2")));
    world.probe(1, EndpointHealth::Unhealthy);
    assert!(world.doubt().is_some_and(|why| why.contains("reaches 0 of 2")));
}

#[test]
fn a_candidate_that_still_receives_writes_is_not_promoted() {
    let mut world = World::new();
    world.position(1, 50);
    world.probe(0, EndpointHealth::Unhealthy);
    world.look(0);
    world.look(4);
    assert!(world.doubt().is_some_and(|why| why.contains("too early")));
    // What it still had to replay in the first half.
    world.position(1, 60);
    world.look(1);
    world.look(5);
    assert_eq!(world.doubt(), None);
    world.position(1, 61);
    assert!(world.doubt().is_some_and(|why| why.contains("still receives")));
}

#[test]
fn attempts_are_further_and_further_apart() {
    let mut world = World::new();
    world.probe(0, EndpointHealth::Unhealthy);
    world.look(0);
    world.look(10);
    for pause in [30, 60, 120, 240, 480, 600, 600] {
        assert!(world.is_due());
        world.memory.failed(world.now);
        world.look(pause - 1);
        assert!(!world.is_due(), "{pause}");
        world.look(1);
    }
    // Another primary is another incident.
    world.claims(1, Role::Primary, 2);
    world.probe(1, EndpointHealth::Unhealthy);
    world.look(0);
    world.look(10);
    assert!(world.is_due());
}

#[test]
fn the_lag_is_that_of_the_loss() {
    let mut world = World::new();
    world.lag(1, Duration::from_millis(300));
    world.look(0);
    world.probe(0, EndpointHealth::Unhealthy);
    world.look(0);
    // Measured in time it grows while nothing is written.
    world.now = world.now.plus(Duration::from_secs(11));
    world.lag(1, Duration::from_secs(11));
    world.look(0);
    let table = world.state.table();
    let facts = facts::of(table, &table.services[0], world.now, None, Some(&world.memory));
    // The sample's age counts, to a tick of 16 ms.
    let lag = facts.regions[1].lag.expect("a lag");
    assert!((300..350).contains(&lag.as_millis()), "{lag:?}");
    let best = guards::best(&facts).expect("one that may be promoted");
    assert_eq!(best.id.as_str(), "eu");
}
