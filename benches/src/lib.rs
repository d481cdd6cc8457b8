//! The edge that is measured: a configuration of a given size, everything healthy and measured, and requests that
//! hit all of it in turn, so that no benchmark lives in the first-level cache alone.
//!
//! Sizes and shapes are those of the targets in the design: 1,000 routes, 16 regions, 1,000 endpoints.

mod cpu_time;

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use meridian_config::{Config, EndpointKey, RegionIndex};
use meridian_geoip::{Place, all_countries};
use meridian_routing::{
    Client, Desired, EndpointHealth, EndpointObserved, HotRegistry, Micros, Observed, Outcome,
    Overrides, RequestFacts, RoutingTable, build,
};

pub use cpu_time::CpuTime;

/// Every benchmark's present.
pub const NOW: Micros = Micros(3_600_000_000);
/// Routes of one host: an exact path, a wildcard host's, and prefixes of one to four segments.
const ROUTES_PER_HOST: usize = 10;

/// How large the edge is, and how it decides.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Routes; ten to a host.
    pub routes: usize,
    /// 1 to 64.
    pub regions: usize,
    /// Over all services, dealt out to the regions in turn.
    pub endpoints: usize,
    /// Services, which share routes and endpoints evenly.
    pub services: usize,
    /// Every service's policy.
    pub policy: &'static str,
    /// Lines of every service, balance among them.
    pub service_lines: &'static str,
    /// Lines of every route.
    pub route_lines: &'static str,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            routes: 1_000,
            regions: 16,
            endpoints: 1_000,
            services: 10,
            policy: "latency",
            service_lines: "balance = \"p2c_ewma\"",
            route_lines: "",
        }
    }
}

/// One request of many, with what borrows from it.
#[derive(Clone, Debug)]
pub struct Request {
    /// Lower case.
    pub host: String,
    /// Without query.
    pub path: String,
    /// Who asks, from where.
    pub client: Client,
}

impl Request {
    /// As routing sees it.
    pub fn facts(&self, method: &'static str) -> RequestFacts<'_> {
        RequestFacts {
            method,
            host: &self.host,
            path: &self.path,
            headers: &(),
            body: None,
            max_staleness: None,
            affinity: None,
            session: None,
            certificate: None,
            now: NOW,
        }
    }
}

impl Shape {
    /// The configuration.
    ///
    /// # Panics
    /// If the parser turns it down: the shape is out of range.
    pub fn config(&self) -> Arc<Config> {
        let mut text = String::new();
        self.write(&mut text).expect("a string takes everything");
        match Config::parse(&text, Path::new("bench.toml"), &|_| None) {
            Ok(loaded) => Arc::new(loaded.config),
            Err(errors) => panic!("{errors}"),
        }
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "[edge]\nid = \"e\"\nregion = \"region-0\"")?;
        writeln!(text, "[[listeners]]\nname = \"l\"\naddress = \"127.0.0.1:1\"")?;
        let places: Vec<_> = all_countries().collect();
        for i in 0..self.regions {
            let place = &places[i * 7 % places.len()];
            let role = if i == 0 { "primary" } else { "replica" };
            let (latitude, longitude) = (place.centroid.latitude(), place.centroid.longitude());
            writeln!(text, "[[regions]]\nid = \"region-{i}\"\nrole = \"{role}\"")?;
            writeln!(text, "coordinates = [{latitude:?}, {longitude:?}]")?;
            writeln!(text, "country = \"{}\"\npriority = {}", place.code, i + 1)?;
        }
        for service in 0..self.services {
            writeln!(text, "[[services]]\nname = \"s{service}\"\npolicy = \"{}\"", self.policy)?;
            writeln!(text, "{}", self.service_lines)?;
            for n in (service..self.endpoints).step_by(self.services) {
                let region = n / self.services % self.regions;
                let (high, low) = (n / 250, n % 250);
                writeln!(text, "[[services.endpoints]]\nregion = \"region-{region}\"")?;
                writeln!(text, "address = \"10.0.{high}.{low}:80\"")?;
            }
        }
        for n in 0..self.routes {
            let (host, path) = (n / ROUTES_PER_HOST, route_path(n));
            let wildcard = if n % ROUTES_PER_HOST == 9 { "*." } else { "" };
            writeln!(text, "[[routes]]\nname = \"r{n}\"\nservice = \"s{}\"", n % self.services)?;
            writeln!(text, "hosts = [\"{wildcard}h{host}.example.com\"]\n{path}")?;
            writeln!(text, "{}", self.route_lines)?;
        }
        Ok(())
    }

    /// What has been observed of it: all endpoints healthy, regions 10 to 160 ms away in no particular order.
    pub fn observed(&self, config: &Config) -> Observed {
        let mut observed = Observed::default();
        for service in &config.services {
            for endpoint in &service.endpoints {
                let key = EndpointKey {
                    service: service.name.clone(),
                    region: config.regions[usize::from(endpoint.region.0)].id.clone(),
                    address: endpoint.address.clone(),
                };
                let seen =
                    EndpointObserved { health: EndpointHealth::Healthy, ..Default::default() };
                observed.endpoints.insert(key, seen);
            }
        }
        for (i, region) in config.regions.iter().enumerate() {
            let place_in_order = (i * 7 + 3) % self.regions;
            observed.round_trips.insert(region.id.clone(), 10_000 + place_in_order as u32 * 10_000);
        }
        observed
    }

    /// The table, with some traffic behind it: every endpoint has a cost of its own, every replica a lag of 100 ms.
    ///
    /// # Panics
    /// See [`Shape::config`].
    pub fn table(&self) -> RoutingTable {
        let config = self.config();
        let observed = self.observed(&config);
        let mut hot = HotRegistry::default();
        let desired = Desired::new(config).expect("no regular expressions");
        let table = build(&desired, &Overrides::new(), &observed, None, &mut hot, 1);
        for service in &table.services {
            for (n, endpoint) in service.endpoints.iter().enumerate() {
                endpoint.load.begin();
                let took = Duration::from_micros(2_000 + n as u64 * 37 % 1_000);
                endpoint.load.end(Outcome::Answered(took), NOW);
            }
            for region in 0..self.regions {
                if let Some(pool) = service.pool(RegionIndex(region as u8)) {
                    pool.load.0.report_lag(Duration::from_millis(100), NOW);
                }
            }
        }
        table
    }

    /// A power of two of requests, each for another route, from clients all over the world.
    pub fn requests(&self) -> Vec<Request> {
        let countries: Vec<_> = all_countries().collect();
        let stride = self.routes * 7 / 11 + 1;
        (0..1024_usize)
            .map(|i| {
                let n = i * stride % self.routes;
                let prefix = if n % ROUTES_PER_HOST == 9 { "a." } else { "" };
                let known = countries[i * 31 % countries.len()];
                let place = Place {
                    country: Some(known.code),
                    continent: Some(known.continent),
                    coordinates: Some(known.centroid),
                };
                let address = IpAddr::V4(Ipv4Addr::from(i as u32 * 2_654_435));
                Request {
                    host: format!("{prefix}h{}.example.com", n / ROUTES_PER_HOST),
                    path: request_path(n),
                    client: Client { address, place },
                }
            })
            .collect()
    }
}

/// What route `n` asks of a path: the first of a host one exactly, the others a prefix of one to four segments.
fn route_path(n: usize) -> String {
    match n % ROUTES_PER_HOST {
        0 => "path = \"/api/v1/status\"".to_owned(),
        9 => "path_prefix = \"/\"".to_owned(),
        i => format!("path_prefix = \"{}\"", prefix(i)),
    }
}

fn prefix(i: usize) -> String {
    (0..i % 4 + 1).map(|depth| format!("/part{i}-{depth}")).collect()
}

fn request_path(n: usize) -> String {
    match n % ROUTES_PER_HOST {
        0 => "/api/v1/status".to_owned(),
        9 => "/anything/at/all".to_owned(),
        i => format!("{}/items/4711", prefix(i)),
    }
}

#[cfg(test)]
mod tests {
    use meridian_routing::{Dice, decide};

    use super::*;

    /// Each request reaches the route it was made for, at every size that is measured.
    #[test]
    fn requests_hit_all_routes() {
        for routes in [10, 1_000, 10_000] {
            let shape = Shape { routes, ..Shape::default() };
            let table = shape.table();
            let mut hit = std::collections::HashSet::new();
            for request in shape.requests() {
                let found = table.find_route(&request.facts("GET")).expect("a route");
                let host = table.route(found).hosts.len();
                assert_eq!(host, 1);
                hit.insert(found);
                let mut dice = Dice::seeded(1);
                decide(&table, &request.client, &request.facts("GET"), &mut dice).expect("healthy");
            }
            assert!(hit.len() >= routes.min(900), "{} of {routes}", hit.len());
        }
    }
}
