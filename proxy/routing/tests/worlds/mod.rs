//! Random worlds to decide in: a plan in small numbers becomes a file's text, layers and a table.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use meridian_config::{Config, RegionIndex, RegionRole, RouteIndex};
use meridian_geoip::{Place, country_facts};
use meridian_routing::{
    AccessClass, Change, Client, Decision, Desired, Ejection, EjectionCause, EndpointChoice,
    EndpointHealth, EndpointIndex, EndpointObserved, EndpointReason, Fault, HotRegistry, Micros,
    Observed, Outcome, Override, OverrideKey, Overrides, RegionChoice, RegionReason, RegionSet,
    RequestClass, RequestFacts, RoutingTable, SessionNeed, Target, build,
};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

pub(crate) const POLICIES: [&str; 6] =
    ["latency", "geo", "weighted", "priority", "round_robin", "health"];
const BALANCES: [&str; 6] = [
    "balance = \"p2c_ewma\"",
    "balance = \"least_request\"",
    "balance = \"round_robin\"",
    "balance = \"random\"",
    "balance = \"consistent_hash\"\nhash_key = \"path\"",
    "balance = \"consistent_hash\"\nhash_key = \"header:x-absent\"",
];
const COUNTRIES: [&str; 7] = ["US", "CA", "IE", "DE", "SG", "JP", "RE"];
const SUBJECTS: [&str; 4] = ["", "\"DE\", \"US\"", "\"EU\"", "\"continent:EU\", \"SG\""];
const NOW: Micros = Micros(2_000_000_000);

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    policy: &'static str,
    pub(crate) requests: Vec<Request>,
    /// Of the dice.
    pub(crate) seed: u64,
    balance: &'static str,
    replication: bool,
    primary: usize,
    regions: Vec<RegionPlan>,
    routes: Vec<RoutePlan>,
}

#[derive(Clone, Debug)]
struct RegionPlan {
    country: &'static str,
    weight: u32,
    priority: u32,
    capable: bool,
    drain: bool,
    drain_override: Option<bool>,
    capacity: Option<u32>,
    in_flight: u32,
    round_trip_ms: Option<u32>,
    /// Lag and age of its sample.
    lag_ms: Option<(u64, u64)>,
    failures: u32,
    endpoints: Vec<EndpointPlan>,
}

#[derive(Clone, Debug)]
struct EndpointPlan {
    weight: u32,
    drain: bool,
    health: EndpointHealth,
    /// Traffic has put it out; `true`: its trial is due.
    ejected: Option<bool>,
    /// The data path holds it back.
    held: bool,
    recovered_s: Option<u64>,
    failed: bool,
    in_flight: u32,
    /// How far it is known to be.
    position: Option<u64>,
}

#[derive(Clone, Debug)]
struct RoutePlan {
    access: &'static str,
    capability: bool,
    max_staleness_ms: Option<u64>,
    /// Mask of regions, subjects, status.
    residency: Option<(u8, &'static str, u16)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    path: String,
    country: Option<&'static str>,
    max_staleness_ms: Option<u64>,
    session: Option<SessionNeed>,
}

/// Any world of up to six regions with up to four endpoints each, and a few requests.
pub(crate) fn plan() -> impl Strategy<Value = Plan> {
    let regions = vec(region(), 1..7);
    let routes = vec(route(), 1..4);
    let requests = vec(request(), 1..5);
    let rest = (any::<prop::sample::Index>(), any::<bool>(), any::<u64>());
    (select(&POLICIES), select(&BALANCES), rest, regions, routes, requests).prop_map(
        |(policy, balance, (primary, replication, seed), regions, routes, requests)| Plan {
            policy,
            requests,
            seed,
            balance,
            replication,
            primary: primary.index(regions.len()),
            regions,
            routes,
        },
    )
}

fn region() -> impl Strategy<Value = RegionPlan> {
    let settings = (
        select(&COUNTRIES),
        select(&[0_u32, 1, 100, 300]),
        1_u32..4,
        prop::bool::weighted(0.9),
        prop::bool::weighted(0.1),
        of(prop::bool::weighted(0.2)),
        of(4_u32..20),
    );
    let sample = (select(&[0_u64, 300, 5_000, 70_000]), select(&[0_u64, 400, 9_000]));
    let seen = (0_u32..8, of(1_u32..300), of(sample), 0_u32..100, vec(endpoint(), 0..5));
    (settings, seen).prop_map(|(settings, seen)| {
        let (country, weight, priority, capable, drain, drain_override, capacity) = settings;
        let (in_flight, round_trip_ms, lag_ms, failures, endpoints) = seen;
        RegionPlan {
            country,
            weight,
            priority,
            capable,
            drain,
            drain_override,
            capacity,
            in_flight,
            round_trip_ms,
            lag_ms,
            failures,
            endpoints,
        }
    })
}

/// Now and then something.
fn of_few<T: Debug>(what: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    prop::option::weighted(0.1, what)
}

fn endpoint() -> impl Strategy<Value = EndpointPlan> {
    use EndpointHealth::{Healthy, Unhealthy, Unknown};
    let health = select(&[Healthy, Healthy, Healthy, Unhealthy, Unhealthy, Unknown]);
    let weight = select(&[0_u32, 1, 100, 100, 900]);
    let passive = (of_few(prop::bool::weighted(0.3)), prop::bool::weighted(0.2));
    let position = prop::option::weighted(0.9, select(&[10_u64, 20, 30]));
    let rest = (of(0_u64..40), any::<bool>(), 0_u32..5, position);
    (weight, prop::bool::weighted(0.15), health, passive, rest).prop_map(
        |(weight, drain, health, (ejected, held), (recovered_s, failed, in_flight, position))| {
            EndpointPlan {
                weight,
                drain,
                health,
                ejected,
                held,
                recovered_s,
                failed,
                in_flight,
                position,
            }
        },
    )
}

fn route() -> impl Strategy<Value = RoutePlan> {
    let residency = (1_u8..64, select(&SUBJECTS), select(&[451_u16, 403, 503]));
    let access = select(&["auto", "auto", "read", "write", "read_primary"]);
    (access, prop::bool::weighted(0.2), of(select(&[100_u64, 1_000, 30_000])), of(residency))
        .prop_map(|(access, capability, max_staleness_ms, residency)| RoutePlan {
            access,
            capability,
            max_staleness_ms,
            residency,
        })
}

fn request() -> impl Strategy<Value = Request> {
    let method = select(&["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"]);
    let path = (0_u32..3, 0_u32..100).prop_map(|(route, leaf)| format!("/r{route}/{leaf}"));
    let bound = of(select(&[50_u64, 500, 60_000]));
    (method, path, of(select(&COUNTRIES)), bound, of(session())).prop_map(
        |(method, path, country, max_staleness_ms, session)| Request {
            method,
            path,
            country,
            max_staleness_ms,
            session,
        },
    )
}

fn session() -> impl Strategy<Value = SessionNeed> {
    let position = of(select(&[5_u64, 10, 15, 20, 25, 30, 35]));
    let rare = || prop::bool::weighted(0.1);
    (position, rare(), rare(), 0_u64..100).prop_map(|(position, primary, other, age_ms)| {
        let age = Duration::from_millis(age_ms);
        SessionNeed { epoch: u64::from(other), position, primary, age }
    })
}

impl Plan {
    /// Whether sessions may still go where the operator drains.
    pub(crate) fn in_grace(&self) -> bool {
        self.seed.is_multiple_of(2)
    }

    /// Whether the data path holds back the endpoint at this position.
    pub(crate) fn is_held(&self, index: EndpointIndex) -> bool {
        endpoints(self)[index.0 as usize].2.held
    }

    /// The same world with another policy.
    pub(crate) fn with_policy(&self, policy: &'static str) -> Self {
        Self { policy, ..self.clone() }
    }
}

impl Request {
    pub(crate) fn client(&self) -> Client {
        let known = self.country.and_then(|code| code.parse().ok()).and_then(country_facts);
        let place = known.map_or_else(Place::default, |known| Place {
            country: Some(known.code),
            continent: Some(known.continent),
            coordinates: Some(known.centroid),
        });
        Client { address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)), place }
    }

    pub(crate) fn with_facts<R>(&self, body: impl FnOnce(&RequestFacts<'_>) -> R) -> R {
        body(&RequestFacts {
            method: self.method,
            host: "x",
            path: &self.path,
            headers: &(),
            body: None,
            max_staleness: self.max_staleness_ms.map(Duration::from_millis),
            affinity: None,
            session: self.session,
            certificate: None,
            now: NOW,
        })
    }
}

/// A plan made real.
pub(crate) struct World {
    pub(crate) table: RoutingTable,
}

impl World {
    pub(crate) fn new(plan: &Plan) -> Self {
        let config = config(plan);
        let (overrides, observed) = (overrides(plan), observed(plan, &config));
        let mut hot = HotRegistry::default();
        let desired = Desired::new(config).expect("no expressions");
        let table = build(&desired, &overrides, &observed, None, &mut hot, 1);
        table.check_invariants(&overrides, &observed).expect("invariants");
        // At rest for longer than a trial is choosy.
        table.set_gates(Micros(NOW.0 - 5_000_000));
        heat(plan, &table);
        Self { table }
    }

    /// A decision of this route and class, as far as filters look at one.
    pub(crate) fn any_decision(&self, route: RouteIndex, access: AccessClass) -> Decision {
        let region = RegionIndex(0);
        Decision {
            route,
            service: self.table.route(route).service,
            class: RequestClass { access, max_staleness: None },
            region: RegionChoice { region, reason: RegionReason::Nearest, panic: false },
            endpoint: EndpointChoice { endpoint: EndpointIndex(0), reason: EndpointReason::Only },
            candidates: RegionSet::EMPTY,
        }
    }
}

fn config(plan: &Plan) -> Arc<Config> {
    let text = text(plan).expect("a string takes everything");
    match Config::parse(&text, Path::new("plan.toml"), &|_| None) {
        Ok(loaded) => Arc::new(loaded.config),
        Err(errors) => panic!("{errors}\n{text}"),
    }
}

fn text(plan: &Plan) -> Result<String, std::fmt::Error> {
    let mut text = String::from("[edge]\nid = \"e\"\ncoordinates = [50.0, 8.0]\n");
    text += "[[listeners]]\nname = \"l\"\naddress = \"127.0.0.1:1\"\n";
    for (i, region) in plan.regions.iter().enumerate() {
        let role = if i == plan.primary { RegionRole::Primary } else { RegionRole::Replica };
        let role = format!("{role:?}").to_lowercase();
        let (latitude, longitude) = (i as f64 * 10.0 - 30.0, i as f64 * 50.0 - 150.0);
        writeln!(text, "[[regions]]\nid = \"region-{i}\"\nrole = \"{role}\"")?;
        writeln!(text, "coordinates = [{latitude:?}, {longitude:?}]")?;
        writeln!(text, "country = \"{}\"\nweight = {}", region.country, region.weight)?;
        writeln!(text, "priority = {}\ndrain = {}", region.priority, region.drain)?;
        if region.capable {
            writeln!(text, "capabilities = [\"ai\"]")?;
        }
        if let Some(capacity) = region.capacity {
            writeln!(text, "capacity = {capacity}")?;
        }
    }
    writeln!(text, "[[services]]\nname = \"api\"\npolicy = \"{}\"\n{}", plan.policy, plan.balance)?;
    if plan.replication {
        writeln!(text, "[services.replication]\nsource = \"headers\"")?;
    }
    for (region, number, endpoint) in endpoints(plan) {
        writeln!(text, "[[services.endpoints]]\nregion = \"region-{region}\"")?;
        writeln!(text, "address = \"10.0.{region}.{number}:80\"\nweight = {}", endpoint.weight)?;
        writeln!(text, "drain = {}", endpoint.drain)?;
    }
    for (i, route) in plan.routes.iter().enumerate() {
        writeln!(text, "[[routes]]\nname = \"r{i}\"\nservice = \"api\"\npath_prefix = \"/r{i}\"")?;
        writeln!(text, "access = \"{}\"", route.access)?;
        if route.capability && plan.regions.iter().any(|region| region.capable) {
            writeln!(text, "capability = \"ai\"")?;
        }
        if let Some(bound) = route.max_staleness_ms {
            writeln!(text, "max_staleness = \"{bound}ms\"")?;
        }
        if let Some((mask, subject, refuse)) = route.residency {
            let named = (0..plan.regions.len()).filter(|i| mask & (1 << i) != 0);
            let mut named: Vec<_> = named.map(|i| format!("\"region-{i}\"")).collect();
            if named.is_empty() {
                named.push("\"region-0\"".into());
            }
            let named = named.join(", ");
            writeln!(
                text,
                "residency = {{ regions = [{named}], subject = [{subject}], refuse = {refuse} }}"
            )?;
        }
    }
    Ok(text)
}

/// Region, number in it, plan; the first region has at least one, since a service needs one.
fn endpoints(plan: &Plan) -> Vec<(usize, usize, EndpointPlan)> {
    let mut all = Vec::new();
    for (i, region) in plan.regions.iter().enumerate() {
        all.extend(region.endpoints.iter().cloned().enumerate().map(|(n, e)| (i, n, e)));
    }
    if all.is_empty() {
        let health = EndpointHealth::Healthy;
        let (weight, in_flight) = (100, 0);
        let only = EndpointPlan {
            weight,
            drain: false,
            health,
            ejected: None,
            held: false,
            recovered_s: None,
            failed: false,
            in_flight,
            position: None,
        };
        all.push((0, 0, only));
    }
    all
}

fn overrides(plan: &Plan) -> Overrides {
    let mut overrides = BTreeMap::new();
    for (i, region) in plan.regions.iter().enumerate() {
        let Some(drain) = region.drain_override else { continue };
        let (change, file_value) = (Change::Drain(drain), Change::Drain(region.drain));
        let made = Override {
            change,
            file_value,
            actor: "law".into(),
            reason: String::new(),
            created_unix_ms: 0,
            expires_unix_ms: None,
            session_grace_ms: Some(1000),
        };
        let target = Target::Region(format!("region-{i}"));
        overrides.insert(OverrideKey { target, kind: change.kind() }, made);
    }
    overrides
}

fn observed(plan: &Plan, config: &Config) -> Observed {
    let unix_ms = if plan.in_grace() { 999 } else { 1000 };
    let mut observed = Observed { unix_ms, ..Observed::default() };
    for (file, (_, _, endpoint)) in config.services[0].endpoints.iter().zip(endpoints(plan)) {
        let key = meridian_config::EndpointKey {
            service: config.services[0].name.clone(),
            region: config.regions[usize::from(file.region.0)].id.clone(),
            address: file.address.clone(),
        };
        let recovered = endpoint.recovered_s.map(|s| Micros(NOW.0 - s * 1_000_000));
        let seen = EndpointObserved {
            health: endpoint.health,
            recovered_at: recovered,
            ejection: endpoint.ejected.map(ejection),
            ..Default::default()
        };
        observed.endpoints.insert(key, seen);
    }
    for (region, plan) in config.regions.iter().zip(&plan.regions) {
        if let Some(ms) = plan.round_trip_ms {
            observed.round_trips.insert(region.id.clone(), ms * 1000);
        }
    }
    observed
}

fn ejection(trial: bool) -> Ejection {
    Ejection {
        cause: EjectionCause::Consecutive5xx,
        evidence: "5 answers with a 5xx in a row".into(),
        since: NOW,
        until: NOW.plus(Duration::from_secs(5)),
        times: 1,
        trial,
    }
}

/// What traffic has left behind in the counters.
fn heat(plan: &Plan, table: &RoutingTable) {
    let service = &table.services[0];
    for (i, region) in plan.regions.iter().enumerate() {
        let Some(pool) = service.pool(RegionIndex(i as u8)) else { continue };
        for _ in 0..region.failures {
            pool.load.0.begin();
            pool.load.0.end(Some(true));
        }
        (0..region.in_flight).for_each(|_| pool.load.0.begin());
        if let Some((lag, age)) = region.lag_ms {
            pool.load.0.report_lag(Duration::from_millis(lag), Micros(NOW.0 - age * 1000));
        }
    }
    for (view, (_, _, endpoint)) in service.endpoints.iter().zip(endpoints(plan)) {
        if endpoint.failed {
            view.load.begin();
            view.load.end(Outcome::Failed(None), NOW);
        }
        if endpoint.held {
            (0..3).for_each(|_| view.load.begin());
            (0..3).for_each(|_| view.load.end(Outcome::Faulty(Fault::Connection, None), NOW));
            view.load.suspect(&service.settings.outlier, NOW);
        }
        (0..endpoint.in_flight).for_each(|_| view.load.begin());
        if let Some(position) = endpoint.position {
            view.position.learn(None, position);
        }
    }
}
