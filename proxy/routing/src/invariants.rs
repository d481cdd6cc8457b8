//! What must hold for every table, whatever led to it. Simulations and property tests ask after each step.

use std::collections::{BTreeSet, HashSet};

use meridian_config::{EndpointKey, HealthKind, RegionIndex};

use crate::layers::{Change, ChangeKind, EndpointHealth, Observed, OverrideKey, Overrides, Target};
use crate::pick_set::PickSet;
use crate::table::{Effective, EndpointIndex, EndpointView, RoutingTable, ServiceView, Source};

impl RoutingTable {
    /// Checks the table against the layers it was built from.
    ///
    /// # Errors
    /// The first thing that does not hold, in words.
    pub fn check_invariants(
        &self,
        overrides: &Overrides,
        observed: &Observed,
    ) -> Result<(), String> {
        self.check_regions(overrides, observed)?;
        if self.services.len() != self.config.services.len() {
            return Err("a service is missing or there is one too many".into());
        }
        for (service, settings) in self.services.iter().zip(&self.config.services) {
            hold(service.settings == *settings, || format!("{}: other settings", settings.name))?;
            self.check_endpoints(service, overrides, observed)?;
            for index in 0..self.regions.len() {
                self.check_pool(service, RegionIndex(index as u8))?;
            }
        }
        Ok(())
    }

    fn check_regions(&self, overrides: &Overrides, observed: &Observed) -> Result<(), String> {
        hold(self.regions.len() == self.config.regions.len(), || "regions differ".into())?;
        for (i, (view, settings)) in self.regions.iter().zip(&self.config.regions).enumerate() {
            let target = Target::Region(settings.id.to_string());
            check_drain(overrides, &target, settings.drain, view.drain)?;
            check_weight(overrides, &target, settings.weight, view.weight)?;
            let measured = observed.round_trips.get(&settings.id).copied();
            let matches = match measured {
                Some(value) => view.measured && view.round_trip_us == Some(value),
                None => !view.measured,
            };
            hold(matches, || format!("{}: round trip is not the observed one", settings.id))?;
            let drained = self.drained.contains(RegionIndex(i as u8));
            hold(drained == view.drain.value, || format!("{}: drain mask", settings.id))?;
        }
        let known: HashSet<_> = self.config.regions.iter().map(|r| &r.id).collect();
        let stray = observed.round_trips.keys().find(|id| !known.contains(id));
        hold(stray.is_none(), || format!("a round trip of {stray:?}, which does not exist"))?;
        let ordered = self.by_latency.is_sorted_by_key(|(index, rtt)| (*rtt, *index));
        hold(ordered && self.by_latency.len() == self.regions.len(), || "latency order".into())
    }

    fn check_endpoints(
        &self,
        service: &ServiceView,
        overrides: &Overrides,
        observed: &Observed,
    ) -> Result<(), String> {
        let settings = &service.settings;
        let configured: Vec<_> = settings
            .endpoints
            .iter()
            .map(|endpoint| EndpointKey {
                service: settings.name.clone(),
                region: self.region(endpoint.region).settings.id.clone(),
                address: endpoint.address.clone(),
            })
            .collect();
        let present: Vec<_> = service.endpoints.iter().map(|e| e.key.clone()).collect();
        hold(configured == present, || format!("{}: endpoints differ", settings.name))?;
        for (view, file) in service.endpoints.iter().zip(&settings.endpoints) {
            let target = Target::Endpoint {
                service: settings.name.to_string(),
                address: file.address.to_string(),
            };
            check_drain(overrides, &target, file.drain, view.drain)?;
            check_weight(overrides, &target, file.weight, view.weight)?;
            let seen = observed.endpoints.get(&view.key).map(|seen| seen.health);
            let expected = match settings.health.kind {
                HealthKind::None => EndpointHealth::Healthy,
                _ => seen.unwrap_or(EndpointHealth::Unknown),
            };
            hold(view.health == expected, || format!("{:?}: health", view.key))?;
            let ejected = observed.endpoints.get(&view.key).and_then(|s| s.ejection.as_ref());
            hold(view.ejection.as_ref() == ejected, || format!("{:?}: ejection", view.key))?;
        }
        Ok(())
    }

    fn check_pool(&self, service: &ServiceView, region: RegionIndex) -> Result<(), String> {
        let name = &service.settings.name;
        let members: Vec<EndpointIndex> = (0..service.endpoints.len())
            .map(|i| EndpointIndex(i as u32))
            .filter(|i| service.endpoint(*i).region == region)
            .collect();
        let Some(pool) = service.pool(region) else {
            return hold(members.is_empty(), || format!("{name}: no pool in {region:?}"));
        };
        hold(!members.is_empty(), || format!("{name}: an empty pool in {region:?}"))?;
        let check = |set: &PickSet, wanted: &dyn Fn(&EndpointView) -> bool, what: &str| {
            let in_service = |i: &EndpointIndex| {
                let view = service.endpoint(*i);
                !view.drain.value && wanted(view)
            };
            let chosen: Vec<_> = members.iter().copied().filter(in_service).collect();
            let weightless = chosen.iter().all(|i| service.endpoint(*i).weight.value == 0);
            let with_weight =
                |i: &EndpointIndex| weightless || service.endpoint(*i).weight.value > 0;
            let expected: BTreeSet<_> = chosen.into_iter().filter(with_weight).collect();
            let found: BTreeSet<_> = set.endpoints().collect();
            hold(expected == found, || format!("{name} in {region:?}: {what} is {found:?}"))
        };
        let (ejected, health) =
            (|e: &EndpointView| e.ejection.is_some(), |e: &EndpointView| e.health);
        check(&pool.ready, &|e| health(e) == EndpointHealth::Healthy && !ejected(e), "ready")?;
        let spare = |e: &EndpointView| match health(e) {
            EndpointHealth::Unknown => true,
            EndpointHealth::Healthy => ejected(e),
            EndpointHealth::Unhealthy => false,
        };
        check(&pool.spare, &spare, "spare")?;
        check(&pool.all, &|_| true, "all")?;
        let due = |i: &EndpointIndex| {
            let view = service.endpoint(*i);
            view.ejection.as_ref().is_some_and(|e| e.trial) && spare(view)
        };
        let expected: Vec<_> = pool.all.endpoints().filter(due).collect();
        hold(pool.trials == expected, || format!("{name} in {region:?}: trials"))?;
        let masks = service.present.contains(region)
            && service.healthy.contains(region) != pool.ready.is_empty()
            && service.spare.contains(region) != pool.spare.is_empty()
            && service.trying.contains(region) != pool.trials.is_empty()
            && service.drained.contains(region) == pool.all.is_empty();
        hold(masks, || format!("{name} in {region:?}: masks do not match the pool"))?;
        let fractions =
            (0.0..=1.0).contains(&pool.healthy_fraction) && (0.0..=1.0).contains(&pool.share);
        hold(fractions, || format!("{name} in {region:?}: a share outside 0 to 1"))
    }
}

fn hold(condition: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(what()) }
}

fn check_drain(
    overrides: &Overrides,
    target: &Target,
    file: bool,
    found: Effective<bool>,
) -> Result<(), String> {
    let key = OverrideKey { target: target.clone(), kind: ChangeKind::Drain };
    let expected = match overrides.get(&key).map(|o| o.change) {
        Some(Change::Drain(value)) => Effective { value, source: Source::Override },
        _ => Effective { value: file, source: Source::File },
    };
    hold(found == expected, || format!("{target:?}: drain is {found:?}, not {expected:?}"))
}

fn check_weight(
    overrides: &Overrides,
    target: &Target,
    file: u32,
    found: Effective<u32>,
) -> Result<(), String> {
    let key = OverrideKey { target: target.clone(), kind: ChangeKind::Weight };
    let expected = match overrides.get(&key).map(|o| o.change) {
        Some(Change::Weight(value)) => Effective { value, source: Source::Override },
        _ => Effective { value: file, source: Source::File },
    };
    hold(found == expected, || format!("{target:?}: weight is {found:?}, not {expected:?}"))
}
