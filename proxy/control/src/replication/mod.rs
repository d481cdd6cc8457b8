//! What endpoints say of their role, epoch, position and lag, and how far replicas lag.
//!
//! Promises: what an endpoint says is checked before it counts; a lag beyond the warning mark is told once each time
//! it is crossed. Refuses to know: which requests a lag keeps away; what a role changes.

mod claims;
mod pages;
mod sink;
mod track;

use std::collections::{HashMap, HashSet};
use std::future::{pending, poll_fn};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meridian_config::{
    Config, EndpointKey, ProxyVersion, RegionId, RegionIndex, ReplicationSource, ServiceName,
    ServiceTls,
};
use meridian_routing::{Inquiry, RoutingTable, ServiceView};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

pub use claims::{
    EPOCH_HEADER, LAG_HEADER, POSITION_HEADER, ROLE_HEADER, parse_epoch, parse_lag_ms,
    parse_position,
};
pub(crate) use claims::{claim_of_headers, fault_of_headers};
pub(crate) use sink::{ClaimTaker, Hearing, Tracks};

use crate::clock::Clock;
use crate::dial::{Dialer, Speaks};
use crate::events::Feed;
use crate::health::Addresses;
use crate::http_client::{AbortOnDrop, KeptClient};
use crate::keeper::keys;
use crate::published::CertificateReader;
use pages::{Report, report_of_answer};

/// While requests wait for news of an endpoint it is asked no more often than this. They wait for 50 ms by default.
const SOONEST: Duration = Duration::from_millis(20);
/// A page that takes longer says nothing.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How often lags are held against the warning mark.
const WATCH: Duration = Duration::from_secs(1);

/// Asks endpoints and watches all lags.
pub(crate) struct Replication {
    pub(crate) hearing: Hearing,
    pub(crate) desired: watch::Receiver<Arc<Config>>,
    pub(crate) feed: Feed,
    pub(crate) certificates: CertificateReader,
}

/// A service in a replica region.
type Replica = (ServiceName, RegionId);

#[derive(Clone, PartialEq)]
struct Questions {
    source: ReplicationSource,
    port: Option<u16>,
    status: Option<SocketAddr>,
    interval: Duration,
    /// `None`: in the clear.
    tls: Option<ServiceTls>,
    /// `None`: without a PROXY header.
    proxy: Option<ProxyVersion>,
    speaks: Speaks,
}

impl Replication {
    /// Follows the desired layer until the keeper is gone.
    pub(crate) async fn run(mut self) {
        let mut readers: HashMap<EndpointKey, (Questions, AbortOnDrop)> = HashMap::new();
        let (mut lagging, mut unknown) = (HashSet::new(), HashSet::new());
        loop {
            let config = self.desired.borrow_and_update().clone();
            let wanted = wanted(&config);
            readers.retain(|key, (questions, _)| wanted.get(key) == Some(questions));
            self.hearing.tracks.retain(|name| config.services.iter().any(|s| s.name == *name));
            for (key, questions) in wanted {
                readers.entry(key.clone()).or_insert_with(|| {
                    let (tls, proxy) = (questions.tls.as_ref(), questions.proxy);
                    let dialer = Dialer::new(tls, proxy, &key, &self.certificates);
                    let client = KeptClient::new(dialer, questions.speaks);
                    let task =
                        tokio::spawn(ask(key, questions.clone(), client, self.hearing.clone()));
                    (questions, AbortOnDrop(task))
                });
            }
            loop {
                tokio::select! {
                    changed = self.desired.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                    () = tokio::time::sleep(WATCH) => {
                        self.watch(&mut lagging, &mut unknown);
                    }
                }
            }
        }
    }

    /// Tells of every replica that has stopped to report, once.
    fn tell_unknown(
        &self,
        table: &RoutingTable,
        stale: &HashSet<Replica>,
        unknown: &mut HashSet<Replica>,
    ) {
        for (service, region) in stale.difference(unknown) {
            tracing::warn!(target: "replication", %service, %region, "no lag is reported any more");
            let data = json!({ "service": service, "region": region });
            self.feed.tell("replication_unknown", table.generation, data);
        }
        unknown.clone_from(stale);
    }

    /// Tells of every service and region whose lag has crossed the warning mark since the last time.
    fn watch(&self, lagging: &mut HashSet<Replica>, unknown: &mut HashSet<Replica>) {
        let table = self.hearing.table.load();
        let pair = |lag: &Lag<'_>| (lag.service.settings.name.clone(), lag.region.clone());
        let (fresh, stale): (Vec<_>, Vec<_>) = lags(&table, self.hearing.clock)
            .partition(|lag| lag.age <= lag.service.settings.replication.sample_max_age);
        let above: HashMap<_, _> = fresh
            .iter()
            .filter(|lag| lag.lag >= lag.service.settings.replication.warn_lag)
            .map(|lag| (pair(lag), lag.lag))
            .collect();
        let stale: HashSet<_> = stale.iter().map(pair).collect();
        self.tell_unknown(&table, &stale, unknown);
        for ((service, region), lag) in &above {
            if lagging.insert((service.clone(), region.clone())) {
                let lag_ms = lag.as_millis() as u64;
                tracing::warn!(target: "replication", %service, %region, lag_ms, "lagging");
                let data = json!({ "service": service, "region": region, "lag_ms": lag_ms });
                self.feed.tell("replication_lagging", table.generation, data);
            }
        }
        lagging.retain(|pair| {
            // No news of a replica is not good news: it stays where it was.
            let still = above.contains_key(pair) || stale.contains(pair);
            if !still {
                let (service, region) = pair;
                tracing::info!(target: "replication", %service, %region, "no longer lagging");
                let data = json!({ "service": service, "region": region });
                self.feed.tell("replication_caught_up", table.generation, data);
            }
            still
        });
    }
}

/// The last lag sample of a service in a replica region.
pub(crate) struct Lag<'a> {
    pub(crate) service: &'a ServiceView,
    pub(crate) region: &'a RegionId,
    pub(crate) lag: Duration,
    pub(crate) age: Duration,
}

/// All of them.
pub(crate) fn lags(table: &RoutingTable, clock: Clock) -> impl Iterator<Item = Lag<'_>> {
    let now = clock.now();
    let followed =
        table.services.iter().filter(|s| s.settings.replication.source != ReplicationSource::None);
    followed.flat_map(move |service| {
        let regions = table.regions.iter().zip(&service.pools).enumerate();
        regions.filter_map(move |(index, (region, pool))| {
            let index = RegionIndex(u8::try_from(index).ok()?);
            let pool = pool.as_ref().filter(|_| !service.is_primary(index))?;
            let (lag, age) = pool.load.0.lag(now)?;
            Some(Lag { service, region: &region.settings.id, lag, age })
        })
    })
}

/// What a configuration asks endpoints.
fn wanted(config: &Config) -> HashMap<EndpointKey, Questions> {
    let mut wanted = HashMap::new();
    for service in &config.services {
        let replication = &service.replication;
        if replication.source.path().is_none() {
            continue;
        }
        for (endpoint, key) in service.endpoints.iter().zip(keys(config, service)) {
            // Where requests go, the page is asked for as they are; another port is another server.
            let elsewhere = replication.port.is_some() || endpoint.status.is_some();
            let questions = Questions {
                source: replication.source.clone(),
                port: replication.port,
                status: endpoint.status,
                interval: replication.interval,
                tls: service.tls.clone().filter(|_| !elsewhere),
                proxy: service.send_proxy_protocol.filter(|_| !elsewhere),
                speaks: if elsewhere { Speaks::Http1 } else { Speaks::of(service) },
            };
            wanted.insert(key, questions);
        }
    }
    wanted
}

/// Asks one endpoint for ever.
async fn ask(key: EndpointKey, questions: Questions, mut client: KeptClient, hearing: Hearing) {
    let addresses = Addresses::of(&key, &hearing.table);
    let host = key.address.to_string();
    let path = questions.source.path().unwrap_or("/").to_owned();
    let mut taker = ClaimTaker::new(&key, questions.interval, hearing.clone());
    loop {
        let begun = Instant::now();
        let asked_at = taker.now();
        let read = async {
            let mut addresses = match questions.status {
                Some(status) => Arc::from([status]),
                None => addresses.wait().await,
            };
            if let (Some(port), None) = (questions.port, questions.status) {
                addresses = addresses.iter().map(|a| SocketAddr::new(a.ip(), port)).collect();
            }
            client.get(&addresses, &host, &path).await
        };
        let answer = tokio::time::timeout(TIMEOUT, read).await;
        // No answer, or none that tells: the last sample ages, and that is what routing looks at.
        let report = match answer {
            Ok(Ok(answer)) => report_of_answer(&questions.source, &answer),
            Ok(Err(error)) => Report::void(format!("no answer: {error}")),
            Err(_) => Report::void(format!("no answer within {} s", TIMEOUT.as_secs())),
        };
        taker.report_is(report.fault.as_deref());
        if let Some(claim) = report.claim {
            taker.take(claim, asked_at).await;
        }
        let inquiry = inquiry_of(&key, &hearing.table.load());
        pause(begun, questions.interval, inquiry).await;
    }
}

/// Until the next question is due: after an interval, or sooner where requests wait for its answer.
async fn pause(begun: Instant, interval: Duration, inquiry: Option<Arc<Inquiry>>) {
    let wanted = async {
        tokio::time::sleep_until(begun + SOONEST).await;
        match inquiry {
            Some(inquiry) => poll_fn(|cx| inquiry.poll_wanted(cx)).await,
            None => pending().await,
        }
    };
    // The interval's end, where both have come: it may be the shorter one.
    let _ = tokio::time::timeout_at(begun + interval, wanted).await;
}

/// Where requests say that they wait for news; `None`: the table does not know the endpoint (yet).
fn inquiry_of(key: &EndpointKey, table: &RoutingTable) -> Option<Arc<Inquiry>> {
    let service = table.services.iter().find(|service| service.settings.name == key.service)?;
    let endpoint = service.endpoints.iter().find(|endpoint| endpoint.key == *key)?;
    Some(endpoint.inquiry.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn questions_come_sooner_where_news_is_wanted_and_never_too_often() {
        let inquiry = Arc::new(Inquiry::default());
        let interval = Duration::from_secs(1);
        let took = async |interval: Duration| {
            let begun = Instant::now();
            pause(begun, interval, Some(inquiry.clone())).await;
            begun.elapsed()
        };
        assert_eq!(took(interval).await, interval);
        inquiry.want();
        assert_eq!(took(interval).await, SOONEST, "however soon it is wanted");
        let later = inquiry.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            later.want();
        });
        assert_eq!(took(interval).await, Duration::from_millis(300));
        assert_eq!(took(interval).await, interval);
        inquiry.want();
        assert_eq!(took(SOONEST / 2).await, SOONEST / 2, "it is asked as often as that anyway");
    }
}
