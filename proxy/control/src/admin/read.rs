//! What the edge says of itself.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use meridian_config::{
    Access, EndpointKey, HostPattern, PathPattern, RegionIndex, RegionRole, ReplicationSource,
    Route, Service,
};
use meridian_routing::{
    Change, ChangeKind, Effective, Ejection, Micros, Override, OverrideKey, Primacy, RoutingTable,
    Source, Target,
};
use serde_json::Value;

use super::Admin;
use super::views::{
    AcmeView, CertificatesStatusView, ConfigStatusView, ConfigView, CountsView, EjectionView,
    EndpointView, GeoStatusView, OperationView, OverrideView, PrimaryView, RegionServiceView,
    RegionView, RouteView, ServiceView, Setting, StatusView, ValueSource, VersionView,
};
use crate::acme::CertificateReport;
use crate::clock::unix_ms;
use crate::keeper::health_label;

impl Admin {
    pub(super) fn version(&self) -> VersionView {
        VersionView {
            version: self.options.version.to_owned(),
            revision: self.options.revision.to_owned(),
        }
    }

    pub(super) fn status(&self) -> StatusView {
        let table = self.table.load();
        let reload = self.reload_status.borrow().clone();
        let endpoints = || table.services.iter().flat_map(|s| &s.endpoints);
        let healthy = endpoints().filter(|e| e.serves()).count();
        let ejected = endpoints().filter(|e| e.ejection.is_some()).count();
        let pools = table.services.iter().flat_map(|s| &s.pools).flatten();
        let listeners = self.data_plane.listeners.iter().map(|(_, counters)| counters);
        let certificates = self.certificates.load();
        let book = self.acme.load();
        let issued = || book.iter().map(|certificate| certificate.not_after_unix_s);
        let ends = || {
            let files = certificates.iter();
            files.map(|(_, certificate)| certificate.not_after_unix_s).chain(issued())
        };
        StatusView {
            edge: table.config.edge.id.clone(),
            version: self.options.version.to_owned(),
            revision: self.options.revision.to_owned(),
            generation: table.generation,
            phase: self.phases.current(),
            ready: self.ready(),
            uptime_s: self.clock.now().0 / 1_000_000,
            config: ConfigStatusView {
                path: self.options.config_path.display().to_string(),
                hash: reload.hash.to_string(),
                last_reload_unix_ms: reload.last_unix_ms,
                last_reload_ok: reload.last_error.is_none(),
                last_error: reload.last_error,
            },
            geo: GeoStatusView {
                path: reload.geo.path.map(|path| path.display().to_string()),
                database_type: reload.geo.description.database_type,
                built_unix_s: reload.geo.description.build_epoch,
                last_error: reload.geo.last_error,
            },
            certificates: CertificatesStatusView {
                count: ends().count(),
                first_expiry_unix_s: ends().min(),
                last_error: reload.certificates.last_error,
                failing: self.failing(),
            },
            history: self.history_status(),
            alerts: self.alerts_status(),
            writes: self.writes(&table),
            operations: self.running_operations(),
            connections_room: Some(self.data_plane.room.load(Relaxed))
                .filter(|room| (1..table.config.edge.max_connections as u64).contains(room)),
            counts: CountsView {
                regions: table.regions.len(),
                services: table.services.len(),
                routes: table.config.routes.len(),
                endpoints: endpoints().count(),
                endpoints_healthy: healthy,
                endpoints_ejected: ejected,
                overrides: self.overrides.borrow().len(),
                in_flight: pools.map(|pool| u64::from(pool.load.0.in_flight())).sum(),
                connections: listeners
                    .map(|c| {
                        let counts = [&c.http1, &c.http2, &c.upgraded];
                        counts.map(|count| count.load(Relaxed)).iter().sum::<u64>()
                    })
                    .sum(),
            },
        }
    }

    fn failing(&self) -> BTreeMap<String, String> {
        let report = self.acme_report.borrow();
        let failing = report.certificates.iter();
        failing.filter_map(|one| Some((one.name.clone(), one.last_error.clone()?))).collect()
    }

    pub(super) fn acme(&self) -> Vec<AcmeView> {
        let report = self.acme_report.borrow();
        let view = |one: &CertificateReport| AcmeView {
            name: one.name.clone(),
            domains: one.domains.clone(),
            state: one.state.label().to_owned(),
            not_after_unix_s: one.not_after_unix_s,
            next_order_unix_ms: one.next_order_unix_ms,
            failures: one.failures,
            last_error: one.last_error.clone(),
            issued: one.issued,
            failed: one.failed,
        };
        report.certificates.iter().map(view).collect()
    }

    fn running_operations(&self) -> Vec<OperationView> {
        let mut all = self.failovers.list();
        all.retain(|operation| operation.state == "running");
        all
    }

    pub(super) fn regions(&self) -> Vec<RegionView> {
        let table = self.table.load();
        let indices = (0..table.regions.len()).filter_map(|i| u8::try_from(i).ok());
        indices.map(|index| self.region(&table, RegionIndex(index))).collect()
    }

    fn region(&self, table: &RoutingTable, index: RegionIndex) -> RegionView {
        let view = table.region(index);
        let now = self.clock.now();
        let services = table.services.iter().filter_map(|service| {
            let pool = service.pool(index)?;
            let here = || service.endpoints.iter().filter(|e| e.region == index);
            let followed = service.settings.replication.source != ReplicationSource::None;
            let primary = service.is_primary(index);
            let lag = pool.load.0.lag(now).filter(|_| followed && !primary);
            Some(RegionServiceView {
                service: service.settings.name.to_string(),
                healthy: here().filter(|e| e.serves()).count(),
                ejected: here().filter(|e| e.ejection.is_some()).count(),
                total: here().count(),
                role: Some(if primary { "primary" } else { "replica" }.to_owned()),
                primary_state: Some(service.primacy.state.label().to_owned())
                    .filter(|_| service.primacy.region.is_some() || followed),
                position: service.position_of(index),
                behind: service.behind(index).filter(|_| !primary),
                lag_ms: lag.map(|(lag, _)| lag.as_millis() as u64),
                lag_age_ms: lag.map(|(_, age)| age.as_millis() as u64),
                lag_stale: lag
                    .is_some_and(|(_, age)| age > service.settings.replication.sample_max_age),
            })
        });
        let mut here = table.services.iter().filter(|s| s.pool(index).is_some()).peekable();
        let primary = match here.peek() {
            Some(_) => here.any(|service| service.is_primary(index)),
            None => view.settings.role == RegionRole::Primary,
        };
        RegionView {
            id: view.settings.id.to_string(),
            role: if primary { "primary" } else { "replica" }.to_owned(),
            drain: setting(view.drain),
            weight: setting(view.weight),
            round_trip_ms: view.present_round_trip_us().map(|us| f64::from(us) / 1000.0),
            measured: view.measured,
            in_flight: table.in_flight(index),
            capacity: view.settings.capacity,
            services: services.collect(),
        }
    }

    pub(super) fn services(&self) -> Vec<ServiceView> {
        let table = self.table.load();
        let now = self.clock.now();
        let certificates = self.certificates.load();
        let tls_error = |settings: &Service, key: &EndpointKey| {
            certificates.endpoints(&settings.tls.as_ref()?.files)?.fault(key)
        };
        let endpoint = |settings: &Service, view: &meridian_routing::EndpointView| EndpointView {
            region: view.key.region.to_string(),
            address: view.key.address.to_string(),
            health: health_label(view.health).to_owned(),
            role: view.said.and_then(|said| said.role).map(|role| role.label().to_owned()),
            epoch: view.said.map(|said| said.epoch).filter(|epoch| *epoch > 0),
            disbelieved_epoch: view.disbelieved,
            position: view.position.get(),
            ejected: view.ejection.as_ref().map(|ejection| ejection_view(ejection, now)),
            drain: setting(view.drain),
            weight: setting(view.weight),
            in_flight: view.load.in_flight(),
            cost_ms: (f64::from(view.load.cost_us(now)) / 10.0).round() / 100.0,
            requests: view.load.requests(),
            failures: view.load.failures(),
            addresses: view.addresses.iter().map(ToString::to_string).collect(),
            report_error: view
                .last_claim
                .fault()
                .filter(|_| settings.replication.source != ReplicationSource::None)
                .map(|why| why.to_string()),
            tls_error: tls_error(settings, &view.key),
        };
        let service = |service: &meridian_routing::ServiceView| ServiceView {
            name: service.settings.name.to_string(),
            policy: service.settings.policy.label().to_owned(),
            primary: Some(primary_view(&table, service)),
            endpoints: service
                .endpoints
                .iter()
                .map(|view| endpoint(&service.settings, view))
                .collect(),
        };
        table.services.iter().map(service).collect()
    }

    pub(super) fn routes(&self) -> Vec<RouteView> {
        let table = self.table.load();
        table.config.routes.iter().map(|r| route(&table, r)).collect()
    }

    pub(super) fn config(&self) -> ConfigView {
        let table = self.table.load();
        ConfigView {
            path: self.options.config_path.display().to_string(),
            hash: self.reload_status.borrow().hash.to_string(),
            generation: table.generation,
            effective_toml: table.config.effective_toml(),
        }
    }

    pub(super) fn overrides(&self) -> Vec<OverrideView> {
        let overrides = self.overrides.borrow().clone();
        overrides.iter().map(|(key, value)| override_view(key, value)).collect()
    }
}

/// What is known of a service's primary.
fn primary_view(table: &RoutingTable, service: &meridian_routing::ServiceView) -> PrimaryView {
    let Primacy {
        epoch,
        region,
        region_epoch,
        confirmed,
        decided,
        state,
        source,
        since_unix_ms,
        forgotten_unix_ms,
    } = service.primacy;
    PrimaryView {
        region: region.map(|index| table.region(index).settings.id.to_string()),
        epoch,
        region_epoch,
        state: state.label().to_owned(),
        source: source.label().to_owned(),
        confirmed,
        decided,
        forgotten_unix_ms: Some(forgotten_unix_ms).filter(|ms| *ms > 0),
        since_unix_ms,
        mode: service.settings.failover.mode.label().to_owned(),
        highest_epoch: service.writes.highest(),
        position: service.primary_position(),
        writes_in_flight: service.writes.in_flight(),
        writes_left_over: service.writes.left_over(),
    }
}

fn route(table: &RoutingTable, route: &Route) -> RouteView {
    let host = |pattern: &HostPattern| match pattern {
        HostPattern::Exact(host) => host.clone(),
        HostPattern::Suffix(host) => format!("*.{host}"),
    };
    let path = match &route.path {
        PathPattern::Exact(path) => format!("={path}"),
        PathPattern::Prefix(prefix) => prefix.clone(),
        PathPattern::Regex(regex) => format!("~{regex}"),
    };
    let access = match route.access {
        Access::Auto => "auto",
        Access::Read => "read",
        Access::Write => "write",
        Access::ReadPrimary => "read_primary",
    };
    let region = |index: &RegionIndex| table.region(*index).settings.id.to_string();
    RouteView {
        name: route.name.to_string(),
        hosts: route.hosts.iter().map(host).collect(),
        path,
        methods: route.methods.clone(),
        service: table.service(route.service).settings.name.to_string(),
        access: access.to_owned(),
        policy: route.policy.label().to_owned(),
        max_staleness_ms: route.max_staleness.map(|bound| bound.as_millis() as u64),
        residency: route.residency.as_ref().map(|rule| rule.regions.iter().map(region).collect()),
    }
}

/// With times on the wall clock, as it is now.
fn ejection_view(ejection: &Ejection, now: Micros) -> EjectionView {
    let unix_now = unix_ms();
    let ms = |duration: Duration| duration.as_millis() as u64;
    EjectionView {
        cause: ejection.cause.label().to_owned(),
        evidence: ejection.evidence.to_string(),
        times: ejection.times,
        since_unix_ms: unix_now.saturating_sub(ms(now.since(ejection.since))),
        until_unix_ms: (unix_now + ms(ejection.until.since(now)))
            .saturating_sub(ms(now.since(ejection.until))),
        trial: ejection.trial,
    }
}

fn setting<T>(effective: Effective<T>) -> Setting<T> {
    let source = match effective.source {
        Source::File => ValueSource::File,
        Source::Override => ValueSource::Override,
    };
    Setting { value: effective.value, source }
}

fn override_view(key: &OverrideKey, value: &Override) -> OverrideView {
    let (region, endpoint) = match &key.target {
        Target::Region(id) => (Some(id.clone()), None),
        Target::Endpoint { service, address } => (None, Some((service.clone(), address.clone()))),
    };
    let (service, address) = endpoint.unzip();
    let kind = match key.kind {
        ChangeKind::Drain => "drain",
        ChangeKind::Weight => "weight",
    };
    let json = |change: Change| match change {
        Change::Drain(value) => Value::from(value),
        Change::Weight(value) => Value::from(value),
    };
    OverrideView {
        region,
        service,
        address,
        kind: kind.to_owned(),
        value: json(value.change),
        file_value: json(value.file_value),
        actor: value.actor.clone(),
        reason: value.reason.clone(),
        created_unix_ms: value.created_unix_ms,
        expires_unix_ms: value.expires_unix_ms,
        session_grace_ms: value.session_grace_ms,
    }
}
