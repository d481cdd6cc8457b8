//! A seeded simulation of the keeper: random events, and after each the invariants of the table.
//!
//! A failure names its seed and step; the same seed does the same again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use meridian_config::{Config, EndpointAddress, EndpointKey};
use meridian_control::{
    Dropped, Event, Finding, KeeperState, Notice, OverrideRequest, ProbeFingerprint, ProbeReport,
    Rejection, overrides_from_json, overrides_to_json,
};
use meridian_routing::{
    Change, ChangeKind, Desired, EjectionCause, EndpointHealth, EndpointLoad, EndpointView, Fault,
    Micros, OverrideKey, RoutingTable, Suspicion, Target,
};

const SEEDS: u64 = 8;
const STEPS: usize = 2000;
const REGIONS: usize = 5;
const SERVICES: usize = 3;
const ENDPOINTS: usize = 4;

/// What a configuration is made of; a reload changes a few of these.
#[derive(Clone)]
struct Plan {
    regions: Vec<RegionPlan>,
    services: Vec<ServicePlan>,
    port: u16,
}

#[derive(Clone)]
struct RegionPlan {
    present: bool,
    weight: u32,
    drain: bool,
}

#[derive(Clone)]
struct ServicePlan {
    present: bool,
    health: &'static str,
    interval_ms: u32,
    /// By region, then number.
    endpoints: Vec<Vec<EndpointPlan>>,
}

#[derive(Clone)]
struct EndpointPlan {
    present: bool,
    named: bool,
    weight: u32,
    drain: bool,
}

impl Plan {
    fn random(rng: &mut Rng) -> Self {
        let endpoint = |rng: &mut Rng| EndpointPlan {
            present: rng.u8(..4) > 0,
            named: rng.u8(..4) == 0,
            weight: [0, 1, 100, 65_535][rng.usize(..4)],
            drain: rng.u8(..8) == 0,
        };
        let region = |rng: &mut Rng| RegionPlan {
            present: rng.u8(..5) > 0,
            weight: rng.u32(..200),
            drain: rng.u8(..8) == 0,
        };
        let service = |rng: &mut Rng| ServicePlan {
            present: rng.u8(..5) > 0,
            health: ["http", "tcp", "grpc", "none"][rng.usize(..4)],
            interval_ms: rng.u32(500..502),
            endpoints: (0..REGIONS)
                .map(|_| (0..ENDPOINTS).map(|_| endpoint(rng)).collect())
                .collect(),
        };
        Self {
            regions: (0..REGIONS).map(|_| region(rng)).collect(),
            services: (0..SERVICES).map(|_| service(rng)).collect(),
            port: 8080,
        }
    }

    /// A plan that differs in one respect, now and then in all, rarely in a static key.
    fn changed(&self, rng: &mut Rng) -> Self {
        let other = Self::random(rng);
        let mut next = self.clone();
        let (r, s, e) = (rng.usize(..REGIONS), rng.usize(..SERVICES), rng.usize(..ENDPOINTS));
        match rng.u8(..20) {
            0 => return other,
            1 => next.port = 8081,
            2..=6 => next.regions[r] = other.regions[r].clone(),
            7..=9 => next.services[s] = other.services[s].clone(),
            10 => next.services[s].health = other.services[s].health,
            11 => next.services[s].interval_ms = other.services[s].interval_ms,
            _ => next.services[s].endpoints[r][e] = other.services[s].endpoints[r][e].clone(),
        }
        next
    }

    fn text(&self) -> String {
        let mut text =
            format!("[[listeners]]\nname = \"public\"\naddress = \"127.0.0.1:{}\"\n", self.port);
        // Region 0 is the primary and always there, so that the configuration is never empty.
        for (i, region) in self.regions.iter().enumerate().filter(|(i, r)| *i == 0 || r.present) {
            let role = if i == 0 { "primary" } else { "replica" };
            text += &format!(
                "[[regions]]\nid = \"r{i}\"\nrole = \"{role}\"\ncoordinates = [{i}.5, 10.0]\n\
                 country = \"DE\"\nweight = {}\ndrain = {}\n",
                region.weight, region.drain
            );
        }
        for (s, service) in self.services.iter().enumerate().filter(|(i, s)| *i == 0 || s.present) {
            text += &format!(
                "[[services]]\nname = \"s{s}\"\n[services.health]\nkind = \"{}\"\n\
                 interval = \"{}ms\"\n",
                service.health, service.interval_ms
            );
            for (r, endpoints) in service.endpoints.iter().enumerate() {
                let region_there = r == 0 || self.regions[r].present;
                for (e, endpoint) in endpoints.iter().enumerate() {
                    if !region_there || !((r, e) == (0, 0) || endpoint.present) {
                        continue;
                    }
                    text += &format!(
                        "[[services.endpoints]]\nregion = \"r{r}\"\naddress = \"{}\"\n\
                         weight = {}\ndrain = {}\n",
                        address(endpoint.named, s, r, e),
                        endpoint.weight,
                        endpoint.drain
                    );
                }
            }
        }
        text + "[[routes]]\nname = \"all\"\nservice = \"s0\"\n"
    }

    fn config(&self) -> Arc<Config> {
        let text = self.text();
        match Config::parse(&text, Path::new("/simulation/meridian.toml"), &|_| None) {
            Ok(loaded) => Arc::new(loaded.config),
            Err(errors) => panic!("{errors}\n{text}"),
        }
    }
}

fn reload_of(config: &Arc<Config>) -> Event {
    let desired = Desired::new(config.clone()).expect("small expressions");
    Event::Reload { desired, actor: "file".into(), digest: "0".into() }
}

fn address(named: bool, service: usize, region: usize, number: usize) -> String {
    if named {
        format!("h{number}.r{region}.example:80")
    } else {
        format!("10.{service}.{region}.{}:80", number + 1)
    }
}

/// The keeper under test, and what must be true of it.
struct Simulation {
    rng: Rng,
    state: KeeperState,
    plan: Plan,
    now: Micros,
    unix_ms: u64,
    /// Health as the accepted reports have it.
    health: BTreeMap<EndpointKey, EndpointHealth>,
    /// Who is ejected, as the keeper told it.
    ejected: BTreeSet<EndpointKey>,
    /// Which load object an endpoint has, for as long as it is there.
    loads: HashMap<EndpointKey, Arc<EndpointLoad>>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let plan = Plan::random(&mut rng);
        let unix_ms = 1_700_000_000_000;
        let (state, _) =
            KeeperState::new(plan.config(), Default::default(), unix_ms).expect("starts");
        let now = Micros(1);
        let (health, ejected, loads) = (BTreeMap::new(), BTreeSet::new(), HashMap::new());
        Self { rng, state, plan, now, unix_ms, health, ejected, loads }
    }

    /// One event, then a commit.
    fn step(&mut self) {
        let passed_ms = self.rng.u64(..2500);
        self.now = self.now.plus(Duration::from_millis(passed_ms));
        self.unix_ms += passed_ms;
        match self.rng.u8(..100) {
            0..=9 => self.reload(),
            10..=44 => self.probe(),
            45..=54 => self.outlier(),
            55..=62 => self.resolve(),
            63..=77 => self.set(),
            78..=84 => self.clear(),
            85..=98 => self.tick(),
            _ => self.restart(),
        }
        self.commit();
        self.check();
    }

    fn apply(&mut self, event: Event) -> Result<Vec<Notice>, Rejection> {
        self.state.apply(event, self.now, self.unix_ms)
    }

    fn reload(&mut self) {
        let plan = self.plan.changed(&mut self.rng);
        let config = plan.config();
        let before = (self.state.desired().clone(), self.state.overrides().clone());
        let result = self.apply(reload_of(&config));
        if plan.port != self.plan.port {
            assert!(matches!(result, Err(Rejection::Static(_))), "{result:?}");
            assert!(Arc::ptr_eq(&before.0, self.state.desired()), "refused, but in force");
            assert_eq!(&before.1, self.state.overrides());
            return;
        }
        let notices = result.expect("accepted");
        self.check_dropped(&before.1, &config, &notices);
        let kept = |key: &EndpointKey| {
            let service =
                |config: &Config| config.services.iter().find(|s| s.name == key.service).cloned();
            let (old, new) = (service(&before.0), service(&config));
            let (Some(old), Some(new)) = (old, new) else { return false };
            old.health.kind == new.health.kind && keys(&config).contains(key)
        };
        self.health.retain(|key, _| kept(key));
        let there = keys(&config);
        self.ejected.retain(|key| there.contains(key));
        self.plan = plan;
    }

    /// An override is dropped if and only if the file's value beneath it is another one, or gone.
    fn check_dropped(
        &self,
        before: &meridian_routing::Overrides,
        config: &Config,
        notices: &[Notice],
    ) {
        for (key, value) in before {
            let file = meridian_control::file_value(config, &key.target, key.kind);
            let expected = match file {
                None => Some(Dropped::TargetGone),
                Some(file) if file != value.file_value => Some(Dropped::FileChanged),
                Some(_) => None,
            };
            assert_eq!(self.state.overrides().contains_key(key), expected.is_none(), "{key:?}");
            let told = notices.iter().find_map(|notice| match notice {
                Notice::OverrideDropped { key: dropped, why, .. } if dropped == key => Some(*why),
                _ => None,
            });
            assert_eq!(told, expected, "{key:?}");
        }
    }

    fn probe(&mut self) {
        let here = keys(self.state.desired());
        let health = [EndpointHealth::Healthy, EndpointHealth::Unhealthy][self.rng.usize(..2)];
        let mut key = here[self.rng.usize(..here.len())].clone();
        let service = self.state.desired().services.iter().find(|s| s.name == key.service);
        let service = service.expect("it is there").clone();
        let mut fingerprint = ProbeFingerprint::of(&service);
        let mut stale = service.health.kind == meridian_config::HealthKind::None;
        match self.rng.u8(..6) {
            // Of an endpoint that is not there.
            0 => {
                key.address = EndpointAddress::Ip("192.0.2.9:9".parse().expect("an address"));
                stale = true;
            }
            // Of settings that are not in force.
            1 => {
                fingerprint = ProbeFingerprint::default();
                stale = true;
            }
            _ => {}
        }
        let round_trip = (health == EndpointHealth::Healthy)
            .then(|| Duration::from_micros(self.rng.u64(100..300_000)));
        let report = ProbeReport { key: key.clone(), fingerprint, health, cause: None, round_trip };
        let notices = self.apply(Event::Probe(report)).expect("never rejected");
        if stale {
            assert_eq!(notices, [], "a stale report had an effect");
        } else {
            self.health.insert(key, health);
        }
    }

    /// The data path suspects an endpoint, or tells of a trial, at its time or not.
    fn outlier(&mut self) {
        let here = keys(self.state.desired());
        let mut key = here[self.rng.usize(..here.len())].clone();
        if self.rng.u8(..8) == 0 {
            key.address = EndpointAddress::Ip("192.0.2.9:9".parse().expect("an address"));
        }
        let cause = EjectionCause::ALL[self.rng.usize(..2)];
        let finding = match self.rng.u8(..4) {
            0 => Finding::TrialPassed,
            1 => Finding::TrialFailed(Fault::ServerError),
            _ => Finding::Suspicion(Suspicion { cause, count: 3 }),
        };
        let before = self.state.observed().endpoints.get(&key).and_then(|s| s.ejection.clone());
        let event = Event::Outlier { key: key.clone(), finding };
        let notices = self.apply(event).expect("never rejected");
        let on_trial = before.as_ref().is_some_and(|e| e.trial);
        match (&notices[..], finding) {
            ([], _) => {}
            ([Notice::Ejected { ejection, .. }], Finding::Suspicion(_)) => {
                assert_eq!(before, None, "{ejection:?}");
                assert!(self.ejected.insert(key.clone()), "{key:?}");
                self.check_room(&key);
            }
            ([Notice::Ejected { ejection, .. }], Finding::TrialFailed(_)) => {
                let before = before.expect("an ejection");
                assert!(on_trial && ejection.times == before.times + 1 && !ejection.trial);
            }
            ([Notice::Returned { .. }], Finding::TrialPassed) => {
                assert!(on_trial && self.ejected.remove(&key));
            }
            other => panic!("{other:?}"),
        }
    }

    /// Of a region's endpoints in service, at most half are ejected without being unhealthy, or it is the only one.
    fn check_room(&mut self, key: &EndpointKey) {
        self.commit();
        let table = self.state.table();
        let service = table.services.iter().find(|s| s.settings.name == key.service);
        let views = &service.expect("it is there").endpoints;
        let here: Vec<_> =
            views.iter().filter(|v| v.key.region == key.region && !v.drain.value).collect();
        let counts =
            |v: &&&EndpointView| v.ejection.is_some() && v.health != EndpointHealth::Unhealthy;
        let others = here.iter().filter(counts).filter(|v| v.key != *key).count();
        let room = (here.len() / 2).max(1);
        assert!(others < room, "{others} others of {}", here.len());
    }

    fn resolve(&mut self) {
        let name =
            format!("h{}.r{}.example", self.rng.usize(..ENDPOINTS), self.rng.usize(..REGIONS));
        let address = IpAddr::from([192, 0, 2, self.rng.u8(..4)]);
        let addresses = Arc::from([address]);
        let name: Arc<str> = name.into();
        self.apply(Event::Resolved { name: name.clone(), addresses }).expect("never rejected");
        self.commit();
        for view in self.state.table().services.iter().flat_map(|s| &s.endpoints) {
            if let EndpointAddress::Name(wanted, port) = &view.key.address
                && *wanted == name
            {
                assert_eq!(&*view.addresses, [SocketAddr::new(address, *port)]);
            }
        }
    }

    fn target(&mut self) -> Target {
        let (service, region) = (self.rng.usize(..SERVICES), self.rng.usize(..REGIONS));
        if self.rng.bool() {
            return Target::Region(format!("r{region}"));
        }
        let (named, number) = (self.rng.u8(..4) == 0, self.rng.usize(..ENDPOINTS));
        Target::Endpoint {
            service: format!("s{service}"),
            address: address(named, service, region, number),
        }
    }

    fn set(&mut self) {
        let change = match self.rng.u8(..3) {
            0 => Change::Weight(self.rng.u32(..70_000)),
            _ => Change::Drain(self.rng.u8(..4) > 0),
        };
        let target = self.target();
        let ttl = self.rng.bool().then(|| Duration::from_secs(self.rng.u64(1..60)));
        let known = meridian_control::file_value(self.state.desired(), &target, change.kind());
        let fits = !matches!(change, Change::Weight(weight) if weight > 65_535);
        let request = OverrideRequest {
            target: target.clone(),
            change,
            actor: "simulation".into(),
            reason: String::new(),
            ttl,
            session_grace: self.rng.bool().then(|| Duration::from_secs(self.rng.u64(0..30))),
        };
        let before = self.state.overrides().clone();
        let result = self.apply(Event::Set(request));
        let key = OverrideKey { target, kind: change.kind() };
        if known.is_some() && fits {
            assert!(result.is_ok(), "{result:?}");
            assert_eq!(self.state.overrides()[&key].change, change);
        } else {
            assert!(result.is_err(), "{key:?}");
            assert_eq!(&before, self.state.overrides());
        }
    }

    fn clear(&mut self) {
        let held: Vec<_> = self.state.overrides().keys().cloned().collect();
        let key = if held.is_empty() || self.rng.u8(..5) == 0 {
            OverrideKey { target: self.target(), kind: ChangeKind::Drain }
        } else {
            held[self.rng.usize(..held.len())].clone()
        };
        // Rejected if the target is not there.
        let _ = self.apply(Event::Clear { key: key.clone(), actor: "simulation".into() });
        assert!(!self.state.overrides().contains_key(&key));
    }

    fn tick(&mut self) {
        self.apply(Event::Tick).expect("never rejected");
        let now = self.unix_ms;
        let expired = self
            .state
            .overrides()
            .values()
            .find(|value| value.expires_unix_ms.is_some_and(|expiry| expiry <= now));
        assert_eq!(expired, None);
    }

    /// A new process with what the old one had saved.
    fn restart(&mut self) {
        let text = overrides_to_json(self.state.overrides()).expect("serializes");
        let mut expected = overrides_from_json(&text).expect("parses");
        assert_eq!(&expected, self.state.overrides());
        let config = self.plan.config();
        let (state, _) = KeeperState::new(config, expected.clone(), self.unix_ms).expect("starts");
        let unix_ms = self.unix_ms;
        expected.retain(|_, value| value.expires_unix_ms.is_none_or(|expiry| expiry > unix_ms));
        assert_eq!(&expected, state.overrides());
        assert_eq!(state.table().generation, 1);
        self.state = state;
        self.health.clear();
        self.ejected.clear();
        self.loads.clear();
    }

    fn commit(&mut self) {
        let before = self.state.table().clone();
        let published = self.state.commit();
        let after = self.state.table();
        match published {
            Some(table) => {
                assert!(Arc::ptr_eq(&table, after));
                assert_eq!(after.generation, before.generation + 1, "one generation a table");
            }
            None => assert!(Arc::ptr_eq(&before, after)),
        }
        let again = self.state.commit();
        assert!(again.is_none(), "a table although nothing has changed");
    }

    fn check(&mut self) {
        let table = self.state.table().clone();
        assert!(Arc::ptr_eq(&table.config, self.state.desired()));
        let checked = table.check_invariants(self.state.overrides(), self.state.observed());
        assert_eq!(checked, Ok(()));
        self.check_health(&table);
        let views = table.services.iter().flat_map(|service| &service.endpoints);
        let ejected: BTreeSet<_> =
            views.filter(|v| v.ejection.is_some()).map(|v| v.key.clone()).collect();
        assert_eq!(ejected, self.ejected);
        self.check_loads(&table);
    }

    /// Health in the table is that of the accepted reports, and nothing else.
    fn check_health(&self, table: &RoutingTable) {
        for service in &table.services {
            let probed = service.settings.health.kind != meridian_config::HealthKind::None;
            for view in service.endpoints.iter().filter(|_| probed) {
                let expected = self.health.get(&view.key).copied();
                assert_eq!(
                    view.health,
                    expected.unwrap_or(EndpointHealth::Unknown),
                    "{:?}",
                    view.key
                );
            }
        }
    }

    /// A surviving endpoint keeps its counters.
    fn check_loads(&mut self, table: &RoutingTable) {
        let mut present = HashMap::new();
        for view in table.services.iter().flat_map(|s| &s.endpoints) {
            if let Some(before) = self.loads.get(&view.key) {
                assert!(Arc::ptr_eq(before, &view.load), "{:?} lost its counters", view.key);
            }
            present.insert(view.key.clone(), view.load.clone());
        }
        self.loads = present;
    }
}

/// All endpoints of a configuration.
fn keys(config: &Config) -> Vec<EndpointKey> {
    let services = config.services.iter();
    services
        .flat_map(|service| {
            service.endpoints.iter().map(|endpoint| EndpointKey {
                service: service.name.clone(),
                region: config.regions[usize::from(endpoint.region.0)].id.clone(),
                address: endpoint.address.clone(),
            })
        })
        .collect()
}

#[test]
fn invariants_hold_after_every_event() {
    let only = std::env::var("SIMULATION_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = only.map_or(0..SEEDS, |seed: u64| seed..seed + 1);
    for seed in seeds {
        let mut simulation = Simulation::new(seed);
        for step in 0..STEPS {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                simulation.step();
            }));
            assert!(outcome.is_ok(), "SIMULATION_SEED={seed}, step {step}");
        }
    }
}
