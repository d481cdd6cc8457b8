//! `[[services]]`

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::{MOST_AT_ONCE, Names, Read, at_least, auto_or_duration, upstream, warn_without_effect};
use super::{failover, replication};
use crate::ids::{EndpointAddress, ServiceName};
use crate::model::{
    Balance, Endpoint, HashKey, Health, HealthKind, HostHeader, Outlier, Overload, Policy,
    ProxyVersion, RegionIndex, ReplicationSource, Retry, Service, Timeouts, UpstreamProtocol,
};
use crate::names;
use crate::reader::{Item, Site, Table};
use crate::suggest::nearest;
use crate::values;

/// A service and what the checks need.
pub(super) type ServiceRead = Read<Service, ServiceNotes>;

pub(super) struct ServiceNotes {
    pub(super) site: Site,
    pub(super) replication_site: Site,
    /// The file says how often to probe.
    has_interval: bool,
}

/// Above so many endpoints the default interval between probes is [`INTERVAL_OF_MANY`].
const MANY_ENDPOINTS: usize = 200;
pub(super) const INTERVAL: Duration = Duration::from_millis(500);
const INTERVAL_OF_MANY: Duration = Duration::from_secs(2);
const FAST_INTERVAL: Duration = Duration::from_millis(100);

/// Failures in a row that can be asked for: the data path counts them in 16 bits.
const MOST_IN_A_ROW: u32 = 1000;
const EJECTION: Duration = Duration::from_secs(5);
const EJECTION_RANGE: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(300);

/// The least that an adaptive limit comes down to.
const ADAPTIVE_MIN: u32 = 3;

/// The longest body kept for a second attempt.
const RETRY_BUFFER_BYTES: u64 = 16 << 20;

pub(super) const POLICIES: &[(&str, Policy)] = &[
    ("latency", Policy::Latency),
    ("geo", Policy::Geo),
    ("weighted", Policy::Weighted),
    ("priority", Policy::Priority),
    ("round_robin", Policy::RoundRobin),
    ("health", Policy::Health),
];

pub(super) fn read(table: &Table<'_>, names: &mut Names, regions: &Names) -> ServiceRead {
    let name = names.declare(table.required("name"));
    let mut has_interval = false;
    let http1 = UpstreamProtocol::Http1;
    let protocols =
        [("http1", http1), ("h2", UpstreamProtocol::H2), ("h2c", UpstreamProtocol::H2c)];
    let service = Service {
        name: ServiceName::new(&name),
        policy: table.or("policy", Policy::Latency, |item| item.choice(POLICIES)),
        balance: balance(table),
        protocol: table.or("protocol", http1, |item| {
            let protocol = item.choice(&protocols)?;
            match (protocol, table.has("tls")) {
                (UpstreamProtocol::H2, false) => {
                    item.fail("\"h2\" needs [services.tls]; HTTP/2 without TLS is \"h2c\"")
                }
                (UpstreamProtocol::H2c, true) => {
                    item.fail("\"h2c\" is HTTP/2 without TLS; with [services.tls] write \"h2\"")
                }
                _ => Some(protocol),
            }
        }),
        send_proxy_protocol: table.or("send_proxy_protocol", None, |item| {
            item.choice(&[
                ("off", None),
                ("v1", Some(ProxyVersion::V1)),
                ("v2", Some(ProxyVersion::V2)),
            ])
        }),
        host_header: table.or("host_header", HostHeader::Preserve, host_header),
        tls: table.section("tls", |table| table.is_present().then(|| upstream::tls(table))),
        health: table.section("health", |table| {
            has_interval = table.has("interval");
            health(table)
        }),
        outlier: table.section("outlier", outlier),
        overload: table.section("overload", overload),
        timeouts: table.section("timeouts", timeouts),
        retry: table.section("retry", retry),
        replication: table.section("replication", replication::read),
        failover: table.section("failover", failover::read),
        session_grace: table.or("session_grace", Duration::ZERO, |item| item.duration(at_least(0))),
        endpoints: endpoints(table, regions),
    };
    lag_can_be_seen(table, &service);
    headers_name_one_client(table, &service);
    let (site, replication_site) = (table.site(), table.site_of("replication"));
    Read { value: service, notes: ServiceNotes { site, replication_site, has_interval } }
}

/// A replica whose lag is unknown gets no reads, so that only probes can bring its first headers.
fn lag_can_be_seen(table: &Table<'_>, service: &Service) {
    let by_http = matches!(service.health.kind, HealthKind::Http { .. });
    if service.replication.source == ReplicationSource::Headers && !by_http {
        let message = "source = \"headers\" needs health.kind = \"http\": no other probe sees the \
                       headers that say the lag";
        table.site_of("replication").error(table.cx, message);
    }
}

/// A PROXY header says whom a whole connection is from.
fn headers_name_one_client(table: &Table<'_>, service: &Service) {
    if service.send_proxy_protocol.is_some() && service.protocol != UpstreamProtocol::Http1 {
        let message = "needs protocol = \"http1\": over HTTP/2 the requests of many clients share a \
                       connection, and a PROXY header names one";
        table.site_of("send_proxy_protocol").error(table.cx, message);
    }
}

/// Probes of very many endpoints are further apart unless the file says otherwise.
pub(super) fn slow_down_many_probes(services: &mut [ServiceRead]) {
    let probed = |service: &&ServiceRead| service.value.health.kind != HealthKind::None;
    let endpoints: usize =
        services.iter().filter(probed).map(|service| service.value.endpoints.len()).sum();
    if endpoints > MANY_ENDPOINTS {
        for service in services.iter_mut().filter(|service| !service.notes.has_interval) {
            service.value.health.interval = INTERVAL_OF_MANY;
        }
    }
}

fn balance(table: &Table<'_>) -> Balance {
    let balances = [
        ("p2c_ewma", Some(Balance::P2cEwma)),
        ("least_request", Some(Balance::LeastRequest)),
        ("round_robin", Some(Balance::RoundRobin)),
        ("random", Some(Balance::Random)),
        ("consistent_hash", None),
    ];
    let names: Vec<_> = balances.iter().enumerate().map(|(i, (name, _))| (*name, i)).collect();
    let item = table.item("balance");
    let key = table.item("hash_key");
    let chosen = match &item {
        Some(item) => item.choice(&names),
        None => Some(0),
    };
    let hash_key = key.as_ref().map(hash_key);
    let balance = chosen.and_then(|index| balances.get(index)).map(|(_, balance)| balance.clone());
    match (balance, hash_key) {
        (Some(None), Some(key)) => Balance::ConsistentHash(key.unwrap_or(HashKey::Client)),
        (Some(None), None) => {
            let message = "balance = \"consistent_hash\" needs hash_key: \"client\", \"path\", \
                           \"header:NAME\" or \"cookie:NAME\"";
            table.site_of("hash_key").error(table.cx, message);
            Balance::P2cEwma
        }
        (Some(Some(_)), Some(_)) => {
            let message = "is only for balance = \"consistent_hash\"";
            table.site_of("hash_key").error(table.cx, message);
            Balance::P2cEwma
        }
        (Some(Some(balance)), None) => balance,
        (None, _) => Balance::P2cEwma,
    }
}

fn hash_key(item: &Item<'_>) -> Option<HashKey> {
    item.parsed(|text| match text.split_once(':') {
        None if text == "client" => Ok(HashKey::Client),
        None if text == "path" => Ok(HashKey::Path),
        Some(("header", name)) => names::header_name(name).map(HashKey::Header),
        Some(("cookie", name)) => {
            // A cookie's name is a token, as a header's is, but keeps its letter case.
            names::header_name(name)
                .map(|_| HashKey::Cookie(name.to_owned()))
                .map_err(|_| format!("{name:?} is not a cookie name"))
        }
        _ => Err(format!(
            "unknown value {text:?}; expected \"client\", \"path\", \"header:NAME\" or \
             \"cookie:NAME\""
        )),
    })
}

fn host_header(item: &Item<'_>) -> Option<HostHeader> {
    let text = item.text()?;
    match &*text {
        "preserve" => Some(HostHeader::Preserve),
        "endpoint" => Some(HostHeader::Endpoint),
        literal => {
            if let Some(word) = nearest(literal, ["preserve", "endpoint"]) {
                let message = format!("is taken as a literal host; did you mean {word:?}?");
                item.site().warning(item.cx, message);
            }
            item.parsed(names::authority).map(HostHeader::Literal)
        }
    }
}

fn health(table: &Table<'_>) -> Health {
    let kinds = [("http", 0), ("tcp", 1), ("grpc", 2), ("none", 3)];
    let kind = table.or("kind", 0, |item| item.choice(&kinds));
    let path = table.or("path", "/health".to_owned(), |item| {
        item.parsed(|text| names::path_and_query(text).map(|()| text.to_owned()))
    });
    let host = table.or("host", String::new(), |item| match item.word().as_deref() {
        Some("") => Some(String::new()),
        _ => item.parsed(names::authority),
    });
    let expect_status = table.or("expect_status", vec![(200, 299)], |item| {
        let ranges = item.list(|item| item.parsed(values::status_range));
        if ranges.is_empty() && item.is_array() {
            return item.fail("no status would ever pass");
        }
        Some(ranges)
    });
    let expect_body = table.or("expect_body", String::new(), |item| Some(item.text()?.into()));
    if kind != 0 {
        let because = "unless kind = \"http\"";
        warn_without_effect(table, "path", &*path, "/health", because);
        warn_without_effect(table, "host", &*host, "", because);
        warn_without_effect(table, "expect_status", &*expect_status, &[(200, 299)], because);
        warn_without_effect(table, "expect_body", &*expect_body, "", because);
    }
    let interval = table.or("interval", INTERVAL, |item| item.duration(at_least(10)));
    let fast_default = FAST_INTERVAL.min(interval);
    let health = Health {
        kind: match kind {
            0 => HealthKind::Http { path, host, expect_status, expect_body },
            1 => HealthKind::Tcp,
            2 => HealthKind::Grpc,
            _ => HealthKind::None,
        },
        interval,
        fast_interval: table.or("fast_interval", fast_default, |item| item.duration(at_least(10))),
        jitter: table.or("jitter", 0.1, |item| item.number(0.0..=0.5)),
        timeout: table.or("timeout", None, auto_or_duration),
        fall: table.or("fall", 3, |item| item.whole(1..=1000)),
        rise: table.or("rise", 2, |item| item.whole(1..=1000)),
    };
    if health.kind == HealthKind::None {
        let because = "with kind = \"none\"";
        warn_without_effect(table, "interval", &health.interval, &INTERVAL, because);
        warn_without_effect(table, "fast_interval", &health.fast_interval, &fast_default, because);
        warn_without_effect(table, "jitter", &health.jitter, &0.1, because);
        warn_without_effect(table, "timeout", &health.timeout, &None, because);
        warn_without_effect(table, "fall", &health.fall, &3, because);
        warn_without_effect(table, "rise", &health.rise, &2, because);
    }
    if health.fast_interval > health.interval {
        let message = format!("is above interval, {}", values::show_duration(health.interval));
        table.site_of("fast_interval").error(table.cx, message);
    }
    health
}

fn outlier(table: &Table<'_>) -> Outlier {
    Outlier {
        connection_failures: table
            .or("connection_failures", 3, |item| item.whole(0..=MOST_IN_A_ROW)),
        consecutive_5xx: table.or("consecutive_5xx", 5, |item| item.whole(0..=MOST_IN_A_ROW)),
        success_ratio: table.or("success_ratio", 0.5, |item| item.number(0.0..=1.0)),
        ejection: table.or("ejection", EJECTION, |item| item.duration(EJECTION_RANGE)),
        max_ejected: table.or("max_ejected", 0.5, |item| item.number(0.0..=1.0)),
    }
}

fn overload(table: &Table<'_>) -> Overload {
    let (queue, time) = (100, Duration::from_secs(1));
    let overload = Overload {
        max_requests: table.item("max_requests").and_then(|item| item.whole(MOST_AT_ONCE)),
        adaptive: table.flag("adaptive"),
        adaptive_min: table.or("adaptive_min", ADAPTIVE_MIN, |item| item.whole(1..=1000)),
        queue: table.or("queue", queue, |item| item.whole(0..=1_000_000)),
        queue_time: table.or("queue_time", time, |item| item.duration(at_least(1))),
    };
    if !overload.is_on() {
        let because = "without max_requests or adaptive";
        warn_without_effect(table, "queue", &overload.queue, &queue, because);
        warn_without_effect(table, "queue_time", &overload.queue_time, &time, because);
    }
    if !overload.adaptive {
        let because = "without adaptive = true";
        warn_without_effect(table, "adaptive_min", &overload.adaptive_min, &ADAPTIVE_MIN, because);
    }
    let least = overload.adaptive_min;
    if overload.adaptive && overload.max_requests.is_some_and(|most| most < least) {
        table.site_of("max_requests").error(table.cx, format!("is below adaptive_min, {least}"));
    }
    overload
}

fn timeouts(table: &Table<'_>) -> Timeouts {
    let time = |key, seconds| {
        table.or(key, Duration::from_secs(seconds), |item| item.duration(at_least(1)))
    };
    Timeouts {
        connect: table.or("connect", None, auto_or_duration),
        first_byte: time("first_byte", 30),
        idle: time("idle", 60),
        request: time("request", 300),
    }
}

fn retry(table: &Table<'_>) -> Retry {
    let methods = || ["GET", "HEAD", "OPTIONS", "TRACE"].map(str::to_owned).to_vec();
    let buffer = table.or("buffer", 64 << 10, |item| item.size(0..=RETRY_BUFFER_BYTES));
    Retry {
        attempts: table.or("attempts", 2, |item| item.whole(0..=10)),
        budget: table.or("budget", 0.2, |item| item.number(0.0..=1.0)),
        idempotent_methods: table.or("idempotent_methods", methods(), |item| {
            Some(item.list(|item| item.parsed(idempotent_method)))
        }),
        idempotency_key: table.flag("idempotency_key"),
        buffer: usize::try_from(buffer).unwrap_or(usize::MAX),
    }
}

fn idempotent_method(text: &str) -> Result<String, String> {
    names::method(text)?;
    if matches!(text, "POST" | "PATCH" | "CONNECT") {
        return Err(format!("{text} is not idempotent and is never sent twice"));
    }
    Ok(text.to_owned())
}

/// Names are resolved for endpoints only.
fn status_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("{text:?} is not IP:port; for a port of the endpoint's own host there is replication.port")
    })
}

fn endpoints(table: &Table<'_>, regions: &Names) -> Vec<Endpoint> {
    let mut seen: HashMap<EndpointAddress, String> = HashMap::new();
    let endpoints = table.each("endpoints", |table| {
        let region = table.required("region").and_then(|item| regions.resolve(&item));
        let address = table.required("address").and_then(|item| {
            let address = item.parsed(values::endpoint_address)?;
            match seen.get(&address) {
                Some(first) => item.fail(format!("duplicate endpoint, already at {first}")),
                None => {
                    seen.insert(address.clone(), item.site().path().to_owned());
                    Some(address)
                }
            }
        });
        let status = table.item("status").and_then(|item| item.parsed(status_address));
        let weight = table.or("weight", 100, |item| item.whole(0..=65_535));
        let drain = table.flag("drain");
        let region = RegionIndex(u8::try_from(region?).ok()?);
        Some(Endpoint { region, address: address?, status, weight, drain })
    });
    if endpoints.is_empty() {
        table.site_of("endpoints").error(table.cx, "a service needs at least one endpoint");
    }
    endpoints.into_iter().flatten().collect()
}
