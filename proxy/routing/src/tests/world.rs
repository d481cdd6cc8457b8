//! A small world to decide in: four regions, one service with three endpoints in each, all healthy.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use meridian_config::{Config, EndpointKey, RegionIndex, ServiceIndex};
use meridian_geoip::{Place, country_facts};

use crate::{
    Change, Client, Decision, Desired, Dice, Ejection, EjectionCause, EndpointHealth,
    EndpointIndex, EndpointObserved, Fault, HotRegistry, Micros, Observed, Outcome, Override,
    OverrideKey, Overrides, Pool, Refusal, RegionReason, RequestFacts, RoutingTable, ServiceView,
    Target, build, decide,
};

pub(crate) const EAST: RegionIndex = RegionIndex(0);
pub(crate) const WEST: RegionIndex = RegionIndex(1);
pub(crate) const EU: RegionIndex = RegionIndex(2);
pub(crate) const ASIA: RegionIndex = RegionIndex(3);

/// Id, role, coordinates, country.
const REGIONS: [(&str, &str, &str, &str); 4] = [
    ("us-east-1", "primary", "[38.95, -77.45]", "US"),
    ("us-west-2", "replica", "[45.84, -119.70]", "US"),
    ("eu-west-1", "replica", "[53.35, -6.26]", "IE"),
    ("ap-southeast-1", "replica", "[1.35, 103.82]", "SG"),
];

/// What a test says beside the defaults, as lines of the file.
#[derive(Clone, Copy, Default)]
pub(crate) struct Setup<'a> {
    /// Of the region at this position.
    pub(crate) regions: [&'a str; 4],
    pub(crate) service: &'a str,
    /// Of the endpoint at this position, three per region.
    pub(crate) endpoints: [&'a str; 12],
    /// Empty: one route for everything.
    pub(crate) routes: &'a str,
}

impl Setup<'_> {
    pub(crate) fn config(&self) -> Arc<Config> {
        let mut text = String::from(
            "[edge]\nid = \"e\"\nregion = \"us-east-1\"\n\
             [[listeners]]\nname = \"l\"\naddress = \"127.0.0.1:1\"\n",
        );
        for ((id, role, coordinates, country), more) in REGIONS.iter().zip(self.regions) {
            text += &format!(
                "[[regions]]\nid = \"{id}\"\nrole = \"{role}\"\ncoordinates = {coordinates}\n\
                 country = \"{country}\"\n{more}\n"
            );
        }
        text += &format!("[[services]]\nname = \"api\"\n{}\n", self.service);
        for (n, more) in self.endpoints.iter().enumerate() {
            let (region, ..) = REGIONS[n / 3];
            text += &format!(
                "[[services.endpoints]]\nregion = \"{region}\"\naddress = \"10.0.0.{n}:80\"\n{more}\n"
            );
        }
        let all = "[[routes]]\nname = \"all\"\nservice = \"api\"\n";
        text += if self.routes.is_empty() { all } else { self.routes };
        parse(&text)
    }
}

/// Parses or panics with the errors.
pub(crate) fn parse(text: &str) -> Arc<Config> {
    match Config::parse(text, Path::new("test.toml"), &|_| None) {
        Ok(loaded) => Arc::new(loaded.config),
        Err(errors) => panic!("{errors}\n{text}"),
    }
}

pub(crate) fn facts<'a>(method: &'a str, host: &'a str, path: &'a str) -> RequestFacts<'a> {
    let now = Micros::after_start(Duration::from_secs(1000));
    RequestFacts {
        method,
        host,
        path,
        headers: &(),
        body: None,
        max_staleness: None,
        affinity: None,
        session: None,
        certificate: None,
        now,
    }
}

pub(crate) fn get() -> RequestFacts<'static> {
    facts("GET", "x", "/")
}

pub(crate) fn post() -> RequestFacts<'static> {
    facts("POST", "x", "/")
}

/// A client at the centre of a country, or nowhere.
pub(crate) fn client(country: &str) -> Client {
    let known = country.parse().ok().and_then(country_facts);
    let place = known.map_or_else(Place::default, |known| Place {
        country: Some(known.code),
        continent: Some(known.continent),
        coordinates: Some(known.centroid),
    });
    Client { address: IpAddr::from([192, 0, 2, 1]), place }
}

pub(crate) struct World {
    pub(crate) desired: Desired,
    pub(crate) overrides: Overrides,
    pub(crate) observed: Observed,
    pub(crate) table: RoutingTable,
    pub(crate) dice: Dice,
    hot: HotRegistry,
}

impl World {
    pub(crate) fn new(setup: Setup<'_>) -> Self {
        let desired = Desired::new(setup.config()).expect("small expressions");
        let observed = Observed::default();
        let (overrides, mut hot) = (Overrides::new(), HotRegistry::default());
        let table = build(&desired, &overrides, &observed, None, &mut hot, 1);
        let dice = Dice::seeded(1);
        let mut world = Self { desired, overrides, observed, table, dice, hot };
        for n in 0..12 {
            world.judge(n, EndpointHealth::Healthy);
        }
        world.rebuild();
        world
    }

    pub(crate) fn of_service(service: &str) -> Self {
        Self::new(Setup { service, ..Setup::default() })
    }

    pub(crate) fn of_routes(routes: &str) -> Self {
        Self::new(Setup { routes, ..Setup::default() })
    }

    pub(crate) fn rebuild(&mut self) {
        let (next, hot) = (self.table.generation + 1, &mut self.hot);
        self.table =
            build(&self.desired, &self.overrides, &self.observed, Some(&self.table), hot, next);
        self.table.set_gates(get().now);
        self.table.check_invariants(&self.overrides, &self.observed).expect("invariants");
    }

    fn judge(&mut self, n: usize, health: EndpointHealth) {
        let key = self.service().endpoints[n].key.clone();
        self.observe(key, health, None);
    }

    fn observe(&mut self, key: EndpointKey, health: EndpointHealth, recovered: Option<Micros>) {
        let seen = EndpointObserved { health, recovered_at: recovered, ..Default::default() };
        self.observed.endpoints.insert(key, seen);
    }

    /// The health of a region's three endpoints.
    pub(crate) fn health(&mut self, region: RegionIndex, of: [EndpointHealth; 3]) -> &mut Self {
        for (n, health) in of.into_iter().enumerate() {
            self.judge(usize::from(region.0) * 3 + n, health);
        }
        self.rebuild();
        self
    }

    /// So many of a region's three endpoints are healthy, the others are not.
    pub(crate) fn healthy(&mut self, region: RegionIndex, count: usize) -> &mut Self {
        let verdict = |n| match n < count {
            true => EndpointHealth::Healthy,
            false => EndpointHealth::Unhealthy,
        };
        self.health(region, [0, 1, 2].map(verdict))
    }

    /// Traffic has put an endpoint out, or makes its next request a trial.
    pub(crate) fn eject(&mut self, n: usize, trial: bool) -> &mut Self {
        let key = self.service().endpoints[n].key.clone();
        let now = get().now;
        let ejection = Ejection {
            cause: EjectionCause::ConnectionFailures,
            evidence: "3 connection failures in a row".into(),
            since: now,
            until: now.plus(Duration::from_secs(5)),
            times: 1,
            trial,
        };
        self.observed.endpoints.entry(key).or_default().ejection = Some(ejection);
        self.rebuild();
        self
    }

    /// The data path holds an endpoint back, and no table knows of it yet.
    pub(crate) fn hold(&self, n: usize) {
        let (view, now) = (&self.service().endpoints[n], get().now);
        for _ in 0..3 {
            view.load.begin();
            view.load.end(Outcome::Faulty(Fault::Connection, None), now);
        }
        assert!(view.load.suspect(&self.service().settings.outlier, now).is_some());
    }

    pub(crate) fn recovered(&mut self, n: usize, at: Micros) {
        let key = self.service().endpoints[n].key.clone();
        self.observe(key, EndpointHealth::Healthy, Some(at));
        self.rebuild();
    }

    pub(crate) fn round_trips(&mut self, milliseconds: [u32; 4]) -> &mut Self {
        for (region, ms) in self.desired.config.regions.iter().zip(milliseconds) {
            self.observed.round_trips.insert(region.id.clone(), ms * 1000);
        }
        self.rebuild();
        self
    }

    pub(crate) fn set(&mut self, target: Target, change: Change) -> &mut Self {
        let made = Override {
            change,
            file_value: change,
            actor: "test".into(),
            reason: String::new(),
            created_unix_ms: 0,
            expires_unix_ms: None,
            session_grace_ms: None,
        };
        self.overrides.insert(OverrideKey { target, kind: change.kind() }, made);
        self.rebuild();
        self
    }

    pub(crate) fn drain(&mut self, region: RegionIndex) -> &mut Self {
        self.set(Target::Region(REGIONS[usize::from(region.0)].0.into()), Change::Drain(true))
    }

    pub(crate) fn drain_endpoint(&mut self, n: usize) -> &mut Self {
        let (service, address) = ("api".into(), format!("10.0.0.{n}:80"));
        self.set(Target::Endpoint { service, address }, Change::Drain(true))
    }

    pub(crate) fn service(&self) -> &ServiceView {
        self.table.service(ServiceIndex(0))
    }

    pub(crate) fn pool(&self, region: RegionIndex) -> &Pool {
        self.service().pool(region).expect("three endpoints")
    }

    pub(crate) fn lag(&self, region: RegionIndex, lag: Duration, at: Micros) {
        self.pool(region).load.0.report_lag(lag, at);
    }

    /// So many requests begin in a region.
    pub(crate) fn load(&self, region: RegionIndex, requests: u32) {
        (0..requests).for_each(|_| self.pool(region).load.0.begin());
    }

    pub(crate) fn decide(
        &mut self,
        client: &Client,
        facts: &RequestFacts<'_>,
    ) -> Result<Decision, Refusal> {
        decide(&self.table, client, facts, &mut self.dice)
    }

    pub(crate) fn region(&mut self, client: &Client, facts: &RequestFacts<'_>) -> RegionIndex {
        self.decide(client, facts).expect("a decision").region.region
    }

    pub(crate) fn chosen(&mut self, facts: &RequestFacts<'_>) -> (RegionIndex, RegionReason) {
        let region = self.decide(&client("US"), facts).expect("a decision").region;
        (region.region, region.reason)
    }

    pub(crate) fn refusal(&mut self, facts: &RequestFacts<'_>) -> Refusal {
        self.decide(&client("US"), facts).expect_err("a refusal")
    }

    /// Parts of many requests that each of the four regions takes.
    pub(crate) fn shares(&mut self, facts: &RequestFacts<'_>) -> [f64; 4] {
        let mut hits = [0_u32; 4];
        for _ in 0..SAMPLE {
            hits[usize::from(self.region(&client("US"), facts).0)] += 1;
        }
        hits.map(|count| f64::from(count) / f64::from(SAMPLE))
    }

    /// Parts of many requests that each endpoint takes.
    pub(crate) fn endpoint_shares(&mut self, facts: &RequestFacts<'_>) -> BTreeMap<u32, f64> {
        let mut hits = BTreeMap::new();
        for _ in 0..SAMPLE {
            let chosen = self.decide(&client("US"), facts).expect("a decision").endpoint.endpoint;
            *hits.entry(chosen.0).or_insert(0) += 1;
        }
        hits.into_iter().map(|(n, count)| (n, f64::from(count) / f64::from(SAMPLE))).collect()
    }

    pub(crate) fn endpoint(&self, n: u32) -> &crate::EndpointView {
        self.service().endpoint(EndpointIndex(n))
    }
}

/// Large enough for an error of about 1% (three sigma).
const SAMPLE: u32 = 20_000;

/// Within 1.5% of what is expected.
#[track_caller]
pub(crate) fn assert_shares(found: [f64; 4], expected: [f64; 4]) {
    let close = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 0.015);
    assert!(close, "{found:?}, not {expected:?}");
}
