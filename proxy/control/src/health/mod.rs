//! Active health checks: one task per endpoint, restarted only when its probe's settings change.

mod fingerprint;
mod probe_state;
mod probers;
mod task;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use meridian_config::{Config, EndpointKey, HealthKind, ReplicationSource, Service};
use meridian_routing::EndpointHealth;
use tokio::sync::watch;

pub use fingerprint::ProbeFingerprint;

use crate::dial::{Dialer, Speaks};
use crate::http_client::{AbortOnDrop, KeptClient};
use crate::keeper::keys;
use crate::published::CertificateReader;
use crate::replication::{ClaimTaker, Hearing};
use probe_state::ProbeState;
use probers::{GrpcProber, HttpProber, Prober, TcpProber};
use task::ProbeTask;
pub(crate) use task::{Addresses, ProbeCounters};

/// First probes of many endpoints are so far apart.
const STAGGER: Duration = Duration::from_millis(1);

/// Counters of the probes that run now.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProbeCounts(Arc<Mutex<BTreeMap<EndpointKey, Arc<ProbeCounters>>>>);

impl ProbeCounts {
    fn of(&self, key: &EndpointKey) -> Arc<ProbeCounters> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.entry(key.clone()).or_default().clone()
    }

    fn retain(&self, keep: impl Fn(&EndpointKey) -> bool) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.retain(|key, _| keep(key));
    }

    /// All of them, in order of their endpoints.
    pub(crate) fn all(&self) -> Vec<(EndpointKey, Arc<ProbeCounters>)> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.iter().map(|(key, counters)| (key.clone(), counters.clone())).collect()
    }
}

/// Starts and ends the probes that the configuration asks for.
pub(crate) struct HealthChecker {
    pub(crate) hearing: Hearing,
    pub(crate) desired: watch::Receiver<Arc<Config>>,
    pub(crate) counts: ProbeCounts,
    pub(crate) certificates: CertificateReader,
}

struct Running {
    fingerprint: ProbeFingerprint,
    _task: AbortOnDrop,
}

impl HealthChecker {
    /// Follows the desired layer until the keeper is gone.
    pub(crate) async fn run(mut self) {
        let mut running = HashMap::new();
        loop {
            let config = self.desired.borrow_and_update().clone();
            self.follow(&config, &mut running);
            if self.desired.changed().await.is_err() {
                return;
            }
        }
    }

    fn follow(&self, config: &Config, running: &mut HashMap<EndpointKey, Running>) {
        let mut wanted = HashMap::new();
        for service in config.services.iter().filter(|s| s.health.kind != HealthKind::None) {
            let fingerprint = ProbeFingerprint::of(service);
            wanted.extend(keys(config, service).map(|key| (key, (fingerprint, service))));
        }
        running.retain(|key, task| {
            wanted.get(key).is_some_and(|(fingerprint, _)| *fingerprint == task.fingerprint)
        });
        self.counts.retain(|key| wanted.contains_key(key));
        let mut started = 0;
        for (key, (fingerprint, service)) in wanted {
            if running.contains_key(&key) {
                continue;
            }
            let delay = (STAGGER * started).min(service.health.interval);
            started += 1;
            let task = AbortOnDrop(self.start(service, key.clone(), fingerprint, delay));
            running.insert(key, Running { fingerprint, _task: task });
        }
    }

    fn start(
        &self,
        service: &Service,
        key: EndpointKey,
        fingerprint: ProbeFingerprint,
        delay: Duration,
    ) -> tokio::task::JoinHandle<()> {
        let address = key.address.to_string();
        let dialer = Dialer::new(
            service.tls.as_ref(),
            service.send_proxy_protocol,
            &key,
            &self.certificates,
        );
        match &service.health.kind {
            HealthKind::Http { path, host, expect_status, expect_body } => {
                let prober = HttpProber {
                    client: KeptClient::new(dialer, Speaks::of(service)),
                    host: if host.is_empty() { address } else { host.clone() },
                    path: path.clone(),
                    expect_status: expect_status.clone(),
                    expect_body: expect_body.clone(),
                };
                self.spawn(service, key, fingerprint, prober, delay)
            }
            HealthKind::Tcp => {
                let prober = TcpProber(dialer, Speaks::of(service));
                self.spawn(service, key, fingerprint, prober, delay)
            }
            HealthKind::Grpc => {
                let prober = GrpcProber::new(address, dialer);
                self.spawn(service, key, fingerprint, prober, delay)
            }
            // Filtered out before; nothing to do is the right thing.
            HealthKind::None => tokio::spawn(async {}),
        }
    }

    fn spawn(
        &self,
        service: &Service,
        key: EndpointKey,
        fingerprint: ProbeFingerprint,
        prober: impl Prober,
        delay: Duration,
    ) -> tokio::task::JoinHandle<()> {
        let interval = service.health.interval;
        let claims = match service.replication.source {
            ReplicationSource::None => None,
            ReplicationSource::Headers => {
                Some(ClaimTaker::new(&key, interval, self.hearing.clone()))
            }
            _ => Some(ClaimTaker::without_lag(&key, interval, self.hearing.clone())),
        };
        let (rise, fall) = (service.health.rise, service.health.fall);
        let task = ProbeTask {
            fingerprint,
            settings: service.health.clone(),
            prober,
            addresses: Addresses::of(&key, &self.hearing.table),
            state: ProbeState::new(self.present_health(&key), rise, fall),
            round_trip: None,
            keeper: self.hearing.keeper.clone(),
            counters: self.counts.of(&key),
            claims,
            key,
        };
        tokio::spawn(task.run(delay))
    }

    /// What the table has: a probe that is only paced anew goes on from there.
    fn present_health(&self, key: &EndpointKey) -> EndpointHealth {
        let table = self.hearing.table.load();
        let service = table.services.iter().find(|s| s.settings.name == key.service);
        let view = service.and_then(|s| s.endpoints.iter().find(|e| e.key == *key));
        view.map_or(EndpointHealth::Unknown, |view| view.health)
    }
}
