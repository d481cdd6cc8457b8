//! One endpoint's probes, for as long as its settings stay as they are.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use meridian_config::{EndpointAddress, EndpointKey, Health};
use meridian_routing::{EndpointHealth, Micros, RoundTrip};
use tokio::time::Instant;

use super::fingerprint::ProbeFingerprint;
use super::probe_state::ProbeState;
use super::probers::{Passed, Prober};
use crate::http_client::Failure;
use crate::keeper::{Event, KeeperHandle, ProbeReport};
use crate::published::TableReader;
use crate::replication::ClaimTaker;

/// A probe that ran for so long beyond its deadline was held up by this machine: the process was stopped, or starved.
const HELD_UP: Duration = Duration::from_millis(250);
/// Bounds of a timeout that follows the round trip.
const SHORTEST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(1);
/// How often an unresolved name is looked at again.
const RESOLUTION_POLL: Duration = Duration::from_millis(20);

/// Results of one endpoint's probes since they began.
#[derive(Debug, Default)]
pub(crate) struct ProbeCounters {
    pub(crate) passed: AtomicU64,
    pub(crate) failed: AtomicU64,
    /// Held up by this machine: neither.
    pub(crate) void: AtomicU64,
}

/// Where an endpoint is to be probed.
pub(crate) enum Addresses {
    /// The file says so.
    Literal([SocketAddr; 1]),
    /// What its name resolves to, as the table has it.
    Named(TableReader, EndpointKey),
}

impl Addresses {
    pub(crate) fn of(key: &EndpointKey, table: &TableReader) -> Self {
        match &key.address {
            EndpointAddress::Ip(address) => Self::Literal([*address]),
            EndpointAddress::Name(..) => Self::Named(table.clone(), key.clone()),
        }
    }

    /// Waits for a name that has not been resolved yet.
    pub(crate) async fn wait(&self) -> Arc<[SocketAddr]> {
        loop {
            match self {
                Self::Literal(address) => return Arc::from(&address[..]),
                Self::Named(table, key) => {
                    let table = table.load();
                    let service = table.services.iter().find(|s| s.settings.name == key.service);
                    let view = service.and_then(|s| s.endpoints.iter().find(|e| e.key == *key));
                    if let Some(view) = view.filter(|view| !view.addresses.is_empty()) {
                        return view.addresses.clone();
                    }
                }
            }
            tokio::time::sleep(RESOLUTION_POLL).await;
        }
    }
}

/// Probes one endpoint and reports to the keeper.
pub(crate) struct ProbeTask<P> {
    pub(crate) key: EndpointKey,
    pub(crate) fingerprint: ProbeFingerprint,
    pub(crate) settings: Health,
    pub(crate) prober: P,
    pub(crate) addresses: Addresses,
    pub(crate) state: ProbeState,
    pub(crate) round_trip: Option<RoundTrip>,
    pub(crate) keeper: KeeperHandle,
    pub(crate) counters: Arc<ProbeCounters>,
    /// Where what an answer's headers say of the endpoint goes, if the service wants to know.
    pub(crate) claims: Option<ClaimTaker>,
}

impl<P: Prober> ProbeTask<P> {
    /// Probes for ever, the first time after `delay`.
    pub(crate) async fn run(mut self, delay: Duration) {
        tokio::time::sleep(delay).await;
        loop {
            let begun = Instant::now();
            self.probe_once().await;
            tokio::time::sleep_until(begun + self.pause()).await;
        }
    }

    async fn probe_once(&mut self) {
        let timeout = self.timeout();
        let begun = Instant::now();
        let asked_at = self.claims.as_ref().map_or(Micros(0), ClaimTaker::now);
        let attempt = async {
            let addresses = self.addresses.wait().await;
            self.prober.probe(&addresses).await
        };
        let result = tokio::time::timeout(timeout, attempt).await;
        let held_up = begun.elapsed() > timeout + HELD_UP;
        let result = match result {
            Ok(result) => result,
            Err(_) => Err(Failure::from(format!("no answer within {} ms", timeout.as_millis()))),
        };
        match result {
            Ok(passed) => self.passed(passed, asked_at, held_up).await,
            Err(_) if held_up => {
                self.counters.void.fetch_add(1, Relaxed);
            }
            Err(cause) => self.failed(cause).await,
        }
    }

    async fn passed(&mut self, passed: Passed, asked_at: Micros, held_up: bool) {
        self.counters.passed.fetch_add(1, Relaxed);
        if let Some(sample) = passed.round_trip.filter(|_| !held_up) {
            match &mut self.round_trip {
                // Of what no ordinary timeout would have waited for, the old round trip says nothing.
                Some(smoothed) if sample <= ordinary_timeout(smoothed) => smoothed.add(sample),
                _ => self.round_trip = Some(RoundTrip::first(sample)),
            }
        }
        if let Some(taker) = &mut self.claims {
            if taker.hears_headers() {
                taker.report_is(passed.fault.as_deref());
            }
            taker.take(passed.claim, asked_at).await;
        }
        self.state.record(true);
        self.report(None).await;
    }

    async fn failed(&mut self, cause: Failure) {
        self.counters.failed.fetch_add(1, Relaxed);
        self.state.record(false);
        self.report(Some(cause)).await;
    }

    async fn report(&self, cause: Option<Failure>) {
        let report = ProbeReport {
            key: self.key.clone(),
            fingerprint: self.fingerprint,
            health: self.state.health(),
            round_trip: self.round_trip.filter(|_| cause.is_none()).map(|rtt| rtt.smoothed()),
            cause,
        };
        self.keeper.tell(Event::Probe(report)).await;
    }

    /// [`ordinary_timeout`], unless the file says otherwise; the longest for what is out, since a round trip that
    /// has grown is learnt only from a probe that passes.
    fn timeout(&self) -> Duration {
        let out = self.state.health() == EndpointHealth::Unhealthy;
        self.settings.timeout.unwrap_or_else(|| match &self.round_trip {
            Some(rtt) if !out => ordinary_timeout(rtt),
            _ => LONGEST,
        })
    }

    fn pause(&self) -> Duration {
        let Health { interval, fast_interval, .. } = self.settings;
        let pause = if self.state.changing() { fast_interval.min(interval) } else { interval };
        let jitter = self.settings.jitter.clamp(0.0, 0.5);
        pause.mul_f64(1.0 + jitter * (2.0 * fastrand::f64() - 1.0))
    }
}

/// `clamp(2 srtt + 100 ms, 250 ms, 1 s)`.
fn ordinary_timeout(round_trip: &RoundTrip) -> Duration {
    (2 * round_trip.smoothed() + Duration::from_millis(100)).clamp(SHORTEST, LONGEST)
}

#[cfg(test)]
#[path = "task_tests.rs"]
mod tests;
