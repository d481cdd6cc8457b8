//! The metrics page, made at scrape time out of the table's counters, so that what is removed disappears.

mod acme;
mod compression;
mod family;
mod history;
mod names;
mod parking;
mod primacy;
mod process;
mod tls;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use meridian_config::{RegionIndex, RouteIndex};
use meridian_routing::{
    AccessClass, AffinityOutcome, CodeClass, EjectionCause, EndpointHealth, Filter, GiveUp,
    Handshake, HedgeOutcome, RegionReason, RetryReason, RouteCounters, RoutingTable, SessionRead,
    TokenFault,
};
use prometheus::TextEncoder;
use prometheus::proto::MetricFamily;
use tokio::sync::watch;

use crate::acme::AcmeReport;
use crate::alerts::AlertQueue;
use crate::clock::Clock;
use crate::data_plane::DataPlane;
use crate::health::ProbeCounts;
use crate::history::History;
use crate::keeper::OverridesReader;
use crate::load::Options;
use crate::published::{AcmeReader, CertificateReader, TableReader};
use crate::reload::ReloadStatus;
use crate::replication;
use family::Family;
use process::ProcessFigures;

/// The content type of the page.
pub(crate) const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Reads all counters.
#[derive(Clone)]
pub(crate) struct Exporter {
    pub(crate) table: TableReader,
    pub(crate) overrides: OverridesReader,
    pub(crate) certificates: CertificateReader,
    pub(crate) acme: AcmeReader,
    pub(crate) acme_report: watch::Receiver<AcmeReport>,
    pub(crate) reload: watch::Receiver<ReloadStatus>,
    pub(crate) data_plane: DataPlane,
    pub(crate) probes: ProbeCounts,
    pub(crate) history: History,
    pub(crate) alerts: AlertQueue,
    pub(crate) clock: Clock,
    pub(crate) options: Options,
}

impl Exporter {
    /// The page as text. Takes some milliseconds with thousands of routes: not for a runtime's thread.
    ///
    /// # Errors
    /// What the encoder says, in words.
    pub(crate) fn render(&self) -> Result<String, String> {
        let table = self.table.load();
        let mut families = Vec::new();
        requests(&table, &mut families);
        services(&table, &mut families);
        compression::compression(&table, &mut families);
        parking::parking(&table, &mut families);
        regions(&table, self.clock, &mut families);
        primacy::primacy(&table, &mut families);
        self.probes(&mut families);
        self.edge(&table, &mut families);
        self.configuration(&mut families);
        self.certificates(&mut families);
        acme::acme(&self.acme_report.borrow(), &mut families);
        tls::handshakes(&self.data_plane, &mut families);
        history::history(&self.history, &table, &mut families);
        history::alerts(&self.alerts, &mut families);
        process(&mut families);
        let filled: Vec<MetricFamily> = families.into_iter().filter_map(Family::filled).collect();
        TextEncoder::new().encode_to_string(&filled).map_err(|error| error.to_string())
    }

    fn probes(&self, families: &mut Vec<Family>) {
        let mut probes = Family::counter(names::PROBES);
        for (key, counters) in self.probes.all() {
            let address = key.address.to_string();
            for (result, counter) in [
                ("passed", &counters.passed),
                ("failed", &counters.failed),
                ("void", &counters.void),
            ] {
                let labels = [
                    ("service", key.service.as_str()),
                    ("region", key.region.as_str()),
                    ("endpoint", &*address),
                    ("result", result),
                ];
                probes.count(&labels, counter.load(Relaxed));
            }
        }
        families.push(probes);
    }

    fn edge(&self, table: &RoutingTable, families: &mut Vec<Family>) {
        let mut connections = Family::gauge(names::CONNECTIONS);
        for (listener, counters) in &self.data_plane.listeners {
            for (protocol, counter) in [
                ("http1", &counters.http1),
                ("http2", &counters.http2),
                ("upgraded", &counters.upgraded),
            ] {
                let labels = [("listener", listener.as_str()), ("protocol", protocol)];
                connections.count(&labels, counter.load(Relaxed));
            }
        }
        let mut refused = Family::counter(names::CONNECTIONS_REFUSED);
        for (listener, counters) in &self.data_plane.listeners {
            for (reason, counter) in [
                ("edge", &counters.refused_full),
                ("client", &counters.refused_client),
                ("memory", &counters.refused_memory),
                ("proxy-peer", &counters.refused_proxy_peer),
                ("proxy-header", &counters.refused_proxy_header),
                ("handshake-rate", &counters.tls.refused_rate),
                ("handshakes", &counters.tls.refused_concurrent),
                ("client-handshake-rate", &counters.tls.refused_client_rate),
                ("client-handshakes", &counters.tls.refused_client_concurrent),
            ] {
                let labels = [("listener", listener.as_str()), ("reason", reason)];
                refused.count(&labels, counter.load(Relaxed));
            }
        }
        let mut dropped = Family::counter(names::LOG_DROPPED);
        dropped.count(&[], self.data_plane.log_drops.load(Relaxed));
        let mut generation = Family::gauge(names::GENERATION);
        generation.count(&[], table.generation);
        let mut overrides = Family::gauge(names::OVERRIDES);
        overrides.count(&[], self.overrides.borrow().len() as u64);
        let mut build = Family::gauge(names::BUILD_INFO);
        let labels = [("version", self.options.version), ("revision", self.options.revision)];
        build.count(&labels, 1);
        families.extend([connections, refused, dropped, generation, overrides, build]);
    }

    fn configuration(&self, families: &mut Vec<Family>) {
        let status = self.reload.borrow().clone();
        let mut success = Family::gauge(names::RELOAD_SUCCESS);
        success.count(&[], u64::from(status.last_error.is_none()));
        let mut time = Family::gauge(names::RELOAD_TIME);
        time.add(&[], status.last_unix_ms as f64 / 1000.0);
        let mut reloads = Family::counter(names::RELOADS);
        for (result, count) in [
            ("success", status.succeeded),
            ("failure", status.failed),
            ("unchanged", status.unchanged),
        ] {
            reloads.count(&[("result", result)], count);
        }
        let mut built = Family::gauge(names::GEO_BUILD);
        built.count(&[], status.geo.description.build_epoch);
        let mut failures = Family::counter(names::GEO_FAILURES);
        failures.count(&[], status.geo.failed);
        families.extend([success, time, reloads, built, failures]);
    }

    fn certificates(&self, families: &mut Vec<Family>) {
        let set = self.certificates.load();
        // Two certificates for the same host are one series: what expires first counts.
        let mut ends = BTreeMap::new();
        let book = self.acme.load();
        for (listener, certificate) in set.iter().chain(book.shown()) {
            let end = ends.entry((listener, &certificate.label)).or_insert(i64::MAX);
            *end = certificate.not_after_unix_s.min(*end);
        }
        let mut expiry = Family::gauge(names::CERTIFICATE_EXPIRY);
        for ((listener, label), unix_s) in ends {
            expiry.add(&[("listener", listener.as_str()), ("name", label)], unix_s as f64);
        }
        let mut staples = Family::gauge(names::STAPLE_EXPIRY);
        let mut shown = BTreeMap::new();
        for (listener, certificate) in set.iter() {
            let Some(staple) = &certificate.staple else { continue };
            let end = shown.entry((listener, &certificate.label)).or_insert(i64::MAX);
            *end = staple.until_unix_s.min(*end);
        }
        for ((listener, label), unix_s) in shown {
            staples.add(&[("listener", listener.as_str()), ("name", label)], unix_s as f64);
        }
        let mut lists = Family::gauge(names::CLIENT_CRL_EXPIRY);
        for (listener, of) in set.listeners() {
            let Some(unix_s) = of.revocation_lists_until() else { continue };
            lists.add(&[("listener", listener.as_str())], unix_s as f64);
        }
        let mut failures = Family::counter(names::CERTIFICATE_FAILURES);
        failures.count(&[], self.reload.borrow().certificates.failed);
        families.extend([expiry, staples, lists, failures]);
    }
}

fn region_id(table: &RoutingTable, region: Option<RegionIndex>) -> &str {
    let view = region.and_then(|index| table.regions.get(usize::from(index.0)));
    view.map_or("", |view| view.settings.id.as_str())
}

fn requests(table: &RoutingTable, families: &mut Vec<Family>) {
    let mut requests = Family::counter(names::REQUESTS);
    let mut durations = Family::histogram(names::REQUEST_DURATION);
    let mut decisions = Family::counter(names::DECISIONS);
    let mut refusals = Family::counter(names::REFUSALS);
    let mut hedges = Family::counter(names::HEDGES);
    let mut affinities = Family::counter(names::AFFINITY);
    let mut session_reads = Family::counter(names::SESSION_READS);
    let mut token_faults = Family::counter(names::SESSION_TOKEN_FAULTS);
    let mut one = |route: &str, service: &str, counters: &RouteCounters| {
        for (region, cells) in counters.filled() {
            let region = region_id(table, region);
            for access in AccessClass::ALL {
                for class in CodeClass::ALL {
                    let count = cells.requests(access, class);
                    if count > 0 {
                        let labels = [
                            ("route", route),
                            ("service", service),
                            ("region", region),
                            ("access", access.label()),
                            ("code_class", class.label()),
                        ];
                        requests.count(&labels, count);
                    }
                }
            }
            durations.observe(&[("route", route), ("region", region)], &cells.duration);
            for reason in RegionReason::ALL {
                let count = cells.decisions(*reason);
                if count > 0 {
                    let labels = [("route", route), ("region", region), ("reason", reason.label())];
                    decisions.count(&labels, count);
                }
            }
        }
        for outcome in HedgeOutcome::ALL {
            let count = counters.hedges.outcomes(*outcome);
            if count > 0 {
                hedges.count(&[("route", route), ("outcome", outcome.label())], count);
            }
        }
        for filter in Filter::ALL {
            let count = counters.refusals(*filter);
            if count > 0 {
                refusals.count(&[("route", route), ("filter", filter.label())], count);
            }
        }
        for outcome in AffinityOutcome::ALL {
            let count = counters.affinities(*outcome);
            if count > 0 {
                affinities.count(&[("route", route), ("result", outcome.label())], count);
            }
        }
        for read in SessionRead::ALL {
            let count = counters.session_reads(*read);
            if count > 0 {
                session_reads.count(&[("route", route), ("outcome", read.label())], count);
            }
        }
        for fault in TokenFault::ALL {
            let count = counters.token_faults(*fault);
            if count > 0 {
                token_faults.count(&[("route", route), ("fault", fault.label())], count);
            }
        }
    };
    for (index, route) in table.config.routes.iter().enumerate() {
        let service = table.service(route.service).settings.name.as_str();
        let index = RouteIndex(u32::try_from(index).unwrap_or(u32::MAX));
        one(route.name.as_str(), service, table.counters(index));
    }
    one("", "", &table.unmatched);
    families.extend([requests, durations, decisions, refusals, hedges, affinities]);
    families.extend([session_reads, token_faults]);
}

fn services(table: &RoutingTable, families: &mut Vec<Family>) {
    let mut in_flight = Family::gauge(names::IN_FLIGHT);
    let mut waiting = Family::gauge(names::WAITING);
    let mut durations = Family::histogram(names::UPSTREAM_DURATION);
    let mut limits = Family::gauge(names::ENDPOINT_LIMIT);
    let mut up = Family::gauge(names::ENDPOINT_UP);
    let mut ejected = Family::gauge(names::ENDPOINT_EJECTED);
    let mut ejections = Family::counter(names::EJECTIONS);
    let mut faults = Family::counter(names::REPORT_FAULTS);
    let mut retries = Family::counter(names::RETRIES);
    let mut suppressed = Family::counter(names::RETRIES_SUPPRESSED);
    let mut handshakes = Family::counter(names::UPSTREAM_HANDSHAKES);
    for service in &table.services {
        let name = service.settings.name.as_str();
        for (region, pool) in table.regions.iter().zip(&service.pools) {
            let Some(pool) = pool else { continue };
            let labels = [("service", name), ("region", region.settings.id.as_str())];
            in_flight.count(&labels, u64::from(pool.load.0.in_flight()));
            if service.settings.overload.is_on() {
                waiting.count(&labels, u64::from(pool.load.0.line.waiting()));
            }
            durations.observe(&labels, &pool.load.1);
            for cause in EjectionCause::ALL {
                let labels = [labels[0], labels[1], ("cause", cause.label())];
                ejections.count(&labels, pool.load.0.ejections(*cause));
            }
        }
        for endpoint in &service.endpoints {
            let address = endpoint.key.address.to_string();
            let region = endpoint.key.region.as_str();
            let labels = [("service", name), ("region", region), ("endpoint", &*address)];
            let overload = &service.settings.overload;
            if overload.is_on() {
                limits.count(&labels, u64::from(endpoint.cap(overload)));
            }
            match endpoint.health {
                EndpointHealth::Unknown => {}
                EndpointHealth::Healthy => up.count(&labels, 1),
                EndpointHealth::Unhealthy => up.count(&labels, 0),
            }
            ejected.count(&labels, u64::from(endpoint.ejection.is_some()));
            if service.is_heard() {
                faults.count(&labels, endpoint.last_claim.faults());
            }
        }
        for reason in RetryReason::ALL {
            let labels = [("service", name), ("reason", reason.label())];
            retries.count(&labels, service.counters.retries(*reason));
        }
        for reason in GiveUp::ALL {
            let labels = [("service", name), ("reason", reason.label())];
            suppressed.count(&labels, service.counters.suppressions(*reason));
        }
        let secure = service.settings.tls.is_some();
        for how in Handshake::ALL.iter().filter(|_| secure) {
            let labels = [("service", name), ("result", how.label())];
            handshakes.count(&labels, service.counters.handshakes(*how));
        }
    }
    families.extend([
        in_flight, waiting, durations, limits, up, ejected, ejections, retries, suppressed,
        handshakes, faults,
    ]);
}

fn regions(table: &RoutingTable, clock: Clock, families: &mut Vec<Family>) {
    let mut round_trips = Family::gauge(names::ROUND_TRIP);
    for region in &table.regions {
        if let Some(us) = region.present_round_trip_us() {
            let labels = [("region", region.settings.id.as_str())];
            round_trips.add(&labels, f64::from(us) / 1e6);
        }
    }
    let mut lag = Family::gauge(names::LAG);
    let mut age = Family::gauge(names::LAG_AGE);
    for found in replication::lags(table, clock) {
        let service = found.service.settings.name.as_str();
        let labels = [("service", service), ("region", found.region.as_str())];
        lag.seconds(&labels, found.lag);
        age.seconds(&labels, found.age);
    }
    families.extend([round_trips, lag, age]);
}

fn process(families: &mut Vec<Family>) {
    let figures = ProcessFigures::read();
    let mut add = |mut family: Family, value: Option<f64>| {
        if let Some(value) = value {
            family.add(&[], value);
        }
        families.push(family);
    };
    add(Family::counter(names::PROCESS_CPU), figures.cpu_seconds);
    add(Family::gauge(names::PROCESS_MEMORY), figures.resident_bytes.map(|b| b as f64));
    add(Family::gauge(names::PROCESS_FDS), figures.open_files.map(|n| n as f64));
    add(Family::gauge(names::PROCESS_START), figures.start_unix_s);
}
