//! What a drain would leave.

use std::collections::BTreeMap;

use meridian_config::{Access, RegionIndex, Route};
use meridian_routing::{EndpointHealth, EndpointView, RoutingTable, ServiceView, Target};

use super::views::DryRunView;

/// A table as it would be with one target drained, or not drained any more.
pub(super) struct Preview<'a> {
    pub(super) table: &'a RoutingTable,
    pub(super) target: &'a Target,
    pub(super) drain: bool,
}

impl Preview<'_> {
    /// All of it.
    pub(super) fn view(&self) -> DryRunView {
        let services: BTreeMap<String, Vec<String>> = self
            .table
            .services
            .iter()
            .map(|service| {
                let regions = self.indices().filter(|index| self.serves(service, *index));
                (service.settings.name.to_string(), regions.map(|i| self.id(i)).collect())
            })
            .collect();
        let without: Vec<String> = services
            .iter()
            .filter(|(_, regions)| regions.is_empty())
            .map(|(name, _)| name.clone())
            .collect();
        let routes = &self.table.config.routes;
        let left = self.serving(|service, index| self.serves(service, index));
        let stranded: Vec<String> = routes
            .iter()
            .filter(|route| !self.finds(route, &left))
            .map(|route| route.name.to_string())
            .collect();
        DryRunView {
            dry_run: true,
            generation: self.table.generation,
            regions_left: self
                .indices()
                .filter(|index| !self.region_drained(*index))
                .map(|index| self.id(index))
                .collect(),
            share_without_region: stranded.len() as f64 / routes.len().max(1) as f64,
            routes_without_region: stranded,
            services_without_region: without,
            services,
            warnings: self.warnings(),
        }
    }

    /// What an operator should know before, and is told after.
    pub(super) fn warnings(&self) -> Vec<String> {
        if !self.drain {
            return Vec::new();
        }
        let mut warnings = Vec::new();
        for service in &self.table.services {
            let before = self.indices().any(|index| serves_now(self.table, service, index));
            if before && !self.indices().any(|index| self.serves(service, index)) {
                let name = &service.settings.name;
                warnings.push(format!("service \"{name}\" has no region left"));
            }
            for index in self.indices().filter(|index| self.takes_writes(service, *index)) {
                let before = serves_now(self.table, service, index);
                if before && !self.serves(service, index) {
                    let name = &service.settings.name;
                    let region = self.id(index);
                    warnings.push(format!(
                        "\"{region}\" is the primary of service \"{name}\": its writes are refused"
                    ));
                }
            }
        }
        let left = self.serving(|service, index| self.serves(service, index));
        let before = self.serving(|service, index| serves_now(self.table, service, index));
        let stranded = self.table.config.routes.iter().filter(|route| {
            let others = !of(route, &left).is_empty();
            others && !self.finds(route, &left) && self.finds(route, &before)
        });
        warnings.extend(stranded.map(|route| strands(route)));
        warnings
    }

    /// By service, the regions that serve it.
    fn serving(&self, serves: impl Fn(&ServiceView, RegionIndex) -> bool) -> Vec<Vec<RegionIndex>> {
        let regions = |service: &ServiceView| {
            self.indices().filter(|index| serves(service, *index)).collect()
        };
        self.table.services.iter().map(regions).collect()
    }

    /// Whether there is a region for every client of the route.
    fn finds(&self, route: &Route, serving: &[Vec<RegionIndex>]) -> bool {
        of(route, serving).iter().any(|index| may_serve(self.table, route, *index))
    }

    fn indices(&self) -> impl Iterator<Item = RegionIndex> + use<> {
        (0..self.table.regions.len()).filter_map(|i| u8::try_from(i).ok()).map(RegionIndex)
    }

    fn id(&self, index: RegionIndex) -> String {
        self.table.region(index).settings.id.to_string()
    }

    fn region_drained(&self, index: RegionIndex) -> bool {
        let region = self.table.region(index);
        match self.target {
            Target::Region(id) if id == region.settings.id.as_str() => self.drain,
            _ => region.drain.value,
        }
    }

    fn endpoint_drained(&self, endpoint: &EndpointView) -> bool {
        match self.target {
            Target::Endpoint { service, address }
                if service == endpoint.key.service.as_str()
                    && *address == endpoint.key.address.to_string() =>
            {
                self.drain
            }
            _ => endpoint.drain.value,
        }
    }

    fn serves(&self, service: &ServiceView, index: RegionIndex) -> bool {
        !self.region_drained(index)
            && service.endpoints.iter().any(|endpoint| {
                endpoint.region == index && usable(endpoint) && !self.endpoint_drained(endpoint)
            })
    }

    /// Whether the region is the primary of a service that some route writes to.
    fn takes_writes(&self, service: &ServiceView, index: RegionIndex) -> bool {
        let may_write = |access| matches!(access, Access::Auto | Access::Write);
        let safe = |method: &String| ["GET", "HEAD", "OPTIONS"].contains(&&**method);
        service.is_primary(index)
            && self.table.config.routes.iter().any(|route| {
                let only_reads = !route.methods.is_empty()
                    && route.methods.iter().all(safe)
                    && route.access == Access::Auto;
                may_write(route.access)
                    && !only_reads
                    && self.table.service(route.service).settings.name == service.settings.name
            })
    }
}

/// Whether the route allows the region for all of its clients.
fn may_serve(table: &RoutingTable, route: &Route, index: RegionIndex) -> bool {
    let resident = route.residency.as_ref().is_none_or(|rule| rule.regions.contains(&index));
    let capabilities = &table.region(index).settings.capabilities;
    resident && route.capability.as_ref().is_none_or(|wanted| capabilities.contains(wanted))
}

/// The regions that serve the route's service.
fn of<'s>(route: &Route, serving: &'s [Vec<RegionIndex>]) -> &'s [RegionIndex] {
    serving.get(route.service.0 as usize).map_or(&[], Vec::as_slice)
}

/// What is to be said of a route that loses the last region that may serve some of its clients, while its service
/// has others.
fn strands(route: &Route) -> String {
    let name = &route.name;
    match (&route.residency, &route.capability) {
        (Some(_), _) => format!(
            "route \"{name}\" has no region left for clients that its residency binds: they are refused"
        ),
        (None, capability) => {
            let capability = capability.as_deref().unwrap_or_default();
            format!("route \"{name}\" has no region left with capability \"{capability}\"")
        }
    }
}

fn usable(endpoint: &EndpointView) -> bool {
    endpoint.health != EndpointHealth::Unhealthy
}

fn serves_now(table: &RoutingTable, service: &ServiceView, index: RegionIndex) -> bool {
    !table.region(index).drain.value
        && service
            .endpoints
            .iter()
            .any(|endpoint| endpoint.region == index && usable(endpoint) && !endpoint.drain.value)
}
