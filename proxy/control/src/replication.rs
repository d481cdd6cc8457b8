//! How far replicas lag, as their endpoints report it.
//!
//! Promises: what an endpoint says is checked before it counts; a lag beyond the warning mark is told once each time
//! it is crossed. Refuses to know: which requests a lag keeps away.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use meridian_config::{
    Config, EndpointKey, RegionId, RegionIndex, RegionRole, ReplicationSource, ServiceName,
    ServiceTls,
};
use meridian_routing::{EndpointHealth, EndpointView, RoutingTable, ServiceView};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::dial::{Dialer, Speaks};
use crate::events::Feed;
use crate::health::Addresses;
use crate::http_client::{AbortOnDrop, Answer, KeptClient};
use crate::keeper::keys;
use crate::published::{CertificateReader, TableReader};

/// The header that reports lag in milliseconds.
pub const LAG_HEADER: &str = "meridian-lag-ms";
/// No believable lag is longer: 31 years.
const MAX_LAG_MS: u64 = 1_000_000_000_000;
/// A status page that takes longer says nothing.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How often lags are held against the warning mark.
const WATCH: Duration = Duration::from_secs(1);

/// Reads a lag in milliseconds as text: plain digits, at most 10^12. `None` for anything else.
pub fn parse_lag_ms(text: &str) -> Option<Duration> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let lag_ms: u64 = digits.then(|| text.parse().ok())??;
    (lag_ms <= MAX_LAG_MS).then(|| Duration::from_millis(lag_ms))
}

/// The lag that an answer's headers report; of several values, none.
pub(crate) fn lag_of_headers(headers: &HeaderMap) -> Option<Duration> {
    let mut values = headers.get_all(LAG_HEADER).iter();
    let only = values.next().filter(|_| values.next().is_none())?;
    parse_lag_ms(only.to_str().ok()?.trim())
}

/// A status page. Fields of later versions are passed over.
#[derive(Debug, Deserialize)]
struct StatusPage {
    role: Option<String>,
    #[serde(rename = "epoch")]
    _epoch: Option<u64>,
    #[serde(rename = "position")]
    _position: Option<u64>,
    lag_ms: Option<u64>,
}

/// The lag that a status page reports.
fn lag_of_answer(answer: &Answer) -> Option<Duration> {
    if !answer.status.is_success() {
        return None;
    }
    let page: Result<StatusPage, _> = serde_json::from_slice(&answer.body);
    let Ok(StatusPage { role, lag_ms, .. }) = page else {
        return lag_of_headers(&answer.headers);
    };
    let known = role.is_none_or(|role| role == "primary" || role == "replica");
    let believable = lag_ms.filter(|ms| known && *ms <= MAX_LAG_MS);
    believable.map(Duration::from_millis)
}

/// Where a replica's lag is reported to.
pub(crate) struct LagSink {
    key: EndpointKey,
    /// A new report of the same endpoint comes so often.
    interval: Duration,
    table: TableReader,
    clock: Clock,
}

impl LagSink {
    pub(crate) fn new(
        key: &EndpointKey,
        interval: Duration,
        table: TableReader,
        clock: Clock,
    ) -> Self {
        Self { key: key.clone(), interval, table, clock }
    }

    /// Takes a lag, unless the region is the primary or gone, or the endpoint takes no requests.
    pub(crate) fn report(&self, lag: Duration) {
        let table = self.table.load();
        let mut regions = table.regions.iter();
        let Some(index) = regions.position(|r| r.settings.id == self.key.region) else { return };
        if table.regions[index].settings.role == RegionRole::Primary {
            return;
        }
        let service = table.services.iter().find(|s| s.settings.name == self.key.service);
        let region = u8::try_from(index).map(RegionIndex);
        if let (Some(service), Ok(region)) = (service, region)
            && let Some(pool) = service.pool(region)
            && service.endpoints.iter().any(|e| e.key == self.key && serves(e))
        {
            pool.load.0.report_lag_every(self.interval, lag, self.clock.now());
        }
    }
}

/// Whether an endpoint may be given requests, so that its lag is anybody's concern.
fn serves(endpoint: &EndpointView) -> bool {
    !endpoint.drain.value && endpoint.health != EndpointHealth::Unhealthy
}

/// Reads status pages and watches all lags.
pub(crate) struct Replication {
    pub(crate) table: TableReader,
    pub(crate) clock: Clock,
    pub(crate) desired: watch::Receiver<Arc<Config>>,
    pub(crate) feed: Feed,
    pub(crate) certificates: CertificateReader,
}

/// A service in a replica region.
type Replica = (ServiceName, RegionId);

#[derive(Clone, PartialEq)]
struct PageSettings {
    path: String,
    interval: Duration,
    tls: Option<ServiceTls>,
    speaks: Speaks,
}

impl Replication {
    /// Follows the desired layer until the keeper is gone.
    pub(crate) async fn run(mut self) {
        let mut readers: HashMap<EndpointKey, (PageSettings, AbortOnDrop)> = HashMap::new();
        let (mut lagging, mut unknown) = (HashSet::new(), HashSet::new());
        loop {
            let config = self.desired.borrow_and_update().clone();
            let wanted = wanted(&config);
            readers.retain(|key, (settings, _)| wanted.get(key) == Some(settings));
            for (key, settings) in wanted {
                readers.entry(key.clone()).or_insert_with(|| {
                    let sink =
                        LagSink::new(&key, settings.interval, self.table.clone(), self.clock);
                    let addresses = Addresses::of(&key, &self.table);
                    let host = key.address.to_string();
                    let dialer = Dialer::new(settings.tls.as_ref(), &key, &self.certificates);
                    let client = KeptClient::new(dialer, settings.speaks);
                    let pages = read_pages(settings.clone(), client, host, addresses, sink);
                    let task = tokio::spawn(pages);
                    (settings, AbortOnDrop(task))
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
        let table = self.table.load();
        let pair = |lag: &Lag<'_>| (lag.service.settings.name.clone(), lag.region.clone());
        let (fresh, stale): (Vec<_>, Vec<_>) = lags(&table, self.clock)
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
        let replicas = table.regions.iter().zip(&service.pools);
        replicas.filter_map(move |(region, pool)| {
            let pool = pool.as_ref().filter(|_| region.settings.role == RegionRole::Replica)?;
            let (lag, age) = pool.load.0.lag(now)?;
            Some(Lag { service, region: &region.settings.id, lag, age })
        })
    })
}

/// The status pages that a configuration asks for.
fn wanted(config: &Config) -> HashMap<EndpointKey, PageSettings> {
    let mut wanted = HashMap::new();
    for service in &config.services {
        let ReplicationSource::Status { path } = &service.replication.source else { continue };
        let interval = service.replication.interval;
        let settings = PageSettings {
            path: path.clone(),
            interval,
            tls: service.tls.clone(),
            speaks: Speaks::of(service),
        };
        for (endpoint, key) in service.endpoints.iter().zip(keys(config, service)) {
            let region = &config.regions[usize::from(endpoint.region.0)];
            if region.role == RegionRole::Replica {
                wanted.insert(key, settings.clone());
            }
        }
    }
    wanted
}

/// Reads one endpoint's status page for ever.
async fn read_pages(
    settings: PageSettings,
    mut client: KeptClient,
    host: String,
    addresses: Addresses,
    sink: LagSink,
) {
    loop {
        let begun = tokio::time::Instant::now();
        let read = async {
            let addresses = addresses.wait().await;
            client.get(&addresses, &host, &settings.path).await
        };
        let answer = tokio::time::timeout(TIMEOUT, read).await;
        // No answer, or none that tells: the last sample ages, and that is what routing looks at.
        if let Ok(Ok(answer)) = answer
            && let Some(lag) = lag_of_answer(&answer)
        {
            sink.report(lag);
        }
        tokio::time::sleep_until(begun + settings.interval).await;
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, StatusCode};

    use super::*;

    fn answer(status: u16, header: Option<&'static str>, body: &str) -> Answer {
        let mut headers = HeaderMap::new();
        if let Some(value) = header {
            headers.insert(LAG_HEADER, HeaderValue::from_static(value));
        }
        Answer {
            status: StatusCode::from_u16(status).expect("a status"),
            headers,
            body: body.as_bytes().to_vec(),
            round_trip: None,
        }
    }

    #[test]
    fn status_pages_are_read_as_json_or_headers() {
        let lag = |answer: &Answer| lag_of_answer(answer).map(|lag| lag.as_millis());
        let page = r#"{"role":"replica","epoch":3,"position":99,"lag_ms":1200,"more":[1]}"#;
        assert_eq!(lag(&answer(200, None, page)), Some(1200));
        assert_eq!(lag(&answer(200, Some("7"), page)), Some(1200));
        assert_eq!(lag(&answer(204, Some("7"), "")), Some(7));
        assert_eq!(lag(&answer(500, Some("7"), page)), None);
    }

    #[test]
    fn what_is_not_believable_does_not_count() {
        for page in [
            r#"{"lag_ms":-1}"#,
            r#"{"lag_ms":1.5}"#,
            r#"{"lag_ms":"5"}"#,
            r#"{"lag_ms":1000000000001}"#,
            r#"{"role":"king","lag_ms":5}"#,
            r#"{"epoch":-1,"lag_ms":5}"#,
            r#"{"role":"replica"}"#,
            "[]",
            "lag: 5",
        ] {
            assert_eq!(lag_of_answer(&answer(200, None, page)), None, "{page}");
        }
        for text in ["", "-1", "+1", "1.0", "0x1", "1000000000001", "99999999999999999999999"] {
            assert_eq!(parse_lag_ms(text), None, "{text}");
        }
        assert_eq!(parse_lag_ms("1000000000000"), Some(Duration::from_millis(MAX_LAG_MS)));
        let mut twice = HeaderMap::new();
        twice.append(LAG_HEADER, HeaderValue::from_static("1"));
        twice.append(LAG_HEADER, HeaderValue::from_static("2"));
        assert_eq!(lag_of_headers(&twice), None);
    }
}
