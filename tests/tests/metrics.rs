//! `/metrics`: what dashboards and alerts rely on is there, in the text format, without anybody's data.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use meridian_tests::{Answer, Ask, Backend, Meridian, eventually, regions};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const SOON: Duration = Duration::from_secs(15);
const US: &str = "us-east-1";
const EU: &str = "eu-west-1";
const SECRET_HOST: &str = "tenant-17.secret.example";
const SECRET_PATH: &str = "/secret/path/4711";
const SECRET_CLIENT: &str = "193.1.1.77";

struct World {
    backends: [Backend; 2],
    edge: Meridian,
}

/// An edge that has served reads and writes, refused and retried some, and knows a lag.
fn used() -> World {
    let backends = [US, EU].map(Backend::start);
    for (backend, role) in backends.iter().zip(["primary", "replica"]) {
        backend.set(move |request| match &*request.target {
            "/meridian/status" => Answer::ok(format!(
                "{{\"role\": \"{role}\", \"epoch\": 3, \"position\": 70, \"lag_ms\": 250}}"
            )),
            "/broken" => Answer::status(500),
            _ => Answer::ok("x").delay(Duration::from_millis(2)),
        });
    }
    let endpoints = backends.each_ref().map(|b| (b.name(), b.address()));
    let service = "policy = \"round_robin\"\n\
                   [services.replication]\nsource = \"status\"\ninterval = \"100ms\"";
    let edge = Meridian::start(&format!(
        "[[listeners]]\nname = \"public\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n{}\
         [[routes]]\nname = \"all\"\nservice = \"api\"\n\
         [[routes]]\nname = \"nobody\"\nservice = \"api\"\npath_prefix = \"/ai\"\ncapability = \"ai\"\n",
        regions(&endpoints, service).replacen("priority = 1", "priority = 1\ncapabilities = []", 1)
    ));
    eventually("the lag is known", SOON, || {
        edge.admin().metric_sum("meridian_replication_lag_seconds", &[EU]) == 0.25
    });
    eventually("the positions are known", SOON, || {
        let page = edge.admin().get("/metrics").text();
        page.matches("\nmeridian_replication_position{").count() == 2
    });
    eventually("the round trips are measured", SOON, || {
        let page = edge.admin().get("/metrics").text();
        page.matches("\nmeridian_region_round_trip_seconds{").count() == 2
    });
    let mut client = edge.client();
    for turn in 0..20 {
        let ask = Ask::get(format!("{SECRET_PATH}?n={turn}")).from(SECRET_CLIENT);
        assert_eq!(ask.with("Host", SECRET_HOST).send(&mut client).status, 200);
        assert_eq!(Ask::post("/w", "x").send(&mut client).status, 200);
    }
    Ask::get("/broken").send(&mut client);
    World { backends, edge }
}

#[test]
fn dashboards_and_alerts_find_every_metric_they_use() {
    let world = used();
    // A retry: the replica is dead, and the edge does not know it yet.
    world.backends[1].kill();
    let mut client = world.edge.client();
    for _ in 0..4 {
        assert_eq!(Ask::get("/r").send(&mut client).status, 200);
    }
    world.backends[0].kill();
    eventually("requests are refused", SOON, || {
        Ask::get("/r").send(&mut world.edge.client()).status == 503
            && world.edge.admin().metric_sum("meridian_refusals_total", &[]) > 0.0
    });
    let page = world.edge.admin().get("/metrics").text();
    let file = world.edge.dir().join("metrics.txt");
    std::fs::write(&file, page).expect("writes");
    let script = format!("{ROOT}/scripts/check_metrics_names.py");
    let output = Command::new("python3").arg(script).arg("--metrics").arg(&file).output();
    let output = output.expect("python3");
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[test]
fn the_names_that_are_promised_are_there() {
    let world = used();
    let page = world.edge.admin().get("/metrics").text();
    for (name, labels) in [
        ("meridian_requests_total", "access,code_class,region,route,service"),
        ("meridian_request_duration_seconds_bucket", "le,region,route"),
        ("meridian_upstream_duration_seconds_bucket", "le,region,service"),
        ("meridian_in_flight", "region,service"),
        ("meridian_endpoint_up", "endpoint,region,service"),
        ("meridian_endpoint_ejected", "endpoint,region,service"),
        ("meridian_report_faults_total", "endpoint,region,service"),
        ("meridian_ejections_total", "cause,region,service"),
        ("meridian_retries_total", "reason,service"),
        ("meridian_retries_suppressed_total", "reason,service"),
        ("meridian_region_round_trip_seconds", "region"),
        ("meridian_replication_lag_seconds", "region,service"),
        ("meridian_replication_lag_sample_age_seconds", "region,service"),
        ("meridian_replication_position", "region,service"),
        ("meridian_replication_behind", "region,service"),
        ("meridian_primary_epoch", "service"),
        ("meridian_primary_state", "service,state"),
        ("meridian_primary", "region,service"),
        ("meridian_decisions_total", "reason,region,route"),
        ("meridian_connections", "listener,protocol"),
        ("meridian_table_generation", ""),
        ("meridian_config_last_reload_success", ""),
        ("meridian_config_last_reload_timestamp_seconds", ""),
        ("meridian_build_info", "revision,version"),
    ] {
        let sample = samples(&page).into_iter().find(|sample| sample.name == name);
        let sample = sample.unwrap_or_else(|| panic!("{name} is not there:\n{page}"));
        let carried: Vec<_> = sample.labels.keys().map(String::as_str).collect();
        assert_eq!(carried.join(","), labels, "{name}");
    }
    // What was done is what is counted.
    let admin = world.edge.admin();
    let counted = |labels: &[&str]| admin.metric_sum("meridian_requests_total", labels);
    assert_eq!(counted(&["access=\"read\"", "code_class=\"2xx\""]), 20.0);
    assert_eq!(counted(&["access=\"write\"", "code_class=\"2xx\"", "us-east-1"]), 20.0);
    assert_eq!(counted(&["access=\"write\"", "eu-west-1"]), 0.0);
    assert_eq!(counted(&["code_class=\"5xx\""]), 1.0);
    assert_eq!(admin.metric_sum("meridian_endpoint_up", &[]), 2.0);
    assert_eq!(admin.metric_sum("meridian_in_flight", &[]), 0.0);
}

#[test]
fn nobodys_host_path_or_address_is_in_them() {
    let world = used();
    let page = world.edge.admin().get("/metrics").text();
    for secret in ["tenant-17", "secret", "4711", SECRET_CLIENT, "/w", "broken"] {
        assert!(!page.contains(secret), "{secret}: {page}");
    }
    let before = samples(&page).len();
    for turn in 0..300 {
        let ask = Ask::get(format!("/p/{turn}")).with("Host", format!("h{turn}.example"));
        ask.from(format!("193.1.{}.{}", turn % 7, turn % 250)).send(&mut world.edge.client());
    }
    let after = samples(&world.edge.admin().get("/metrics").text()).len();
    assert!(
        after <= before + 30,
        "{after} series, {before} before: they grow with what clients send"
    );
    let forbidden = ["host", "path", "client", "address", "uri", "url", "ip"];
    for sample in samples(&page) {
        let bad = sample.labels.keys().find(|label| forbidden.contains(&label.as_str()));
        assert_eq!(bad, None, "{}", sample.name);
    }
}

#[test]
fn the_page_is_in_the_text_format() {
    let world = used();
    let answer = world.edge.admin().get("/metrics");
    let kind = answer.header("Content-Type").expect("a type");
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    let page = answer.text();
    assert!(page.ends_with('\n'));
    let (mut types, mut helped, mut seen) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
    let mut family = String::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, text) = rest.split_once(' ').expect("a name and a text");
            assert!(helped.insert(name.to_owned()), "{name} is helped twice");
            assert!(text.len() > 5, "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} comes twice");
            assert!(helped.contains(name), "{name} has no help");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            family = name.to_owned();
        } else {
            let sample = parse(line);
            let suffix = sample.name.strip_prefix(&*family).expect("samples follow their type");
            let histogram = types[&family] == "histogram";
            let suffixes: &[_] = if histogram { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.contains(&suffix), "{line}");
            assert!(sample.value.is_finite(), "{line}");
            assert!(seen.insert((sample.name, sample.labels)), "twice: {line}");
        }
    }
    assert!(types.len() > 15, "{types:?}");
    assert_histograms_add_up(&page);
}

fn assert_histograms_add_up(page: &str) {
    let mut buckets: BTreeMap<_, Vec<(String, f64)>> = BTreeMap::new();
    let mut counts = BTreeMap::new();
    for mut sample in samples(page) {
        if let Some(family) = sample.name.strip_suffix("_bucket") {
            let bound = sample.labels.remove("le").expect("a bound");
            let key = (family.to_owned(), sample.labels);
            buckets.entry(key).or_default().push((bound, sample.value));
        } else if let Some(family) = sample.name.strip_suffix("_count") {
            counts.insert((family.to_owned(), sample.labels), sample.value);
        }
    }
    assert!(!buckets.is_empty());
    for (key, list) in buckets {
        assert!(list.is_sorted_by(|(_, a), (_, b)| a <= b), "{key:?} is cumulative: {list:?}");
        let (bound, all) = list.last().expect("a bucket");
        assert_eq!((bound.as_str(), Some(all)), ("+Inf", counts.get(&key)), "{key:?}");
    }
}

#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

fn samples(page: &str) -> Vec<Sample> {
    page.lines().filter(|line| !line.starts_with('#')).map(parse).collect()
}

/// `name{label="value",...} 5`; no label of ours holds a quote or a comma.
fn parse(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line:?}"));
    let value = value.parse().unwrap_or_else(|_| panic!("no number: {line:?}"));
    let (name, set) = series.split_once('{').unwrap_or((series, "}"));
    assert!(
        name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
        "{line}"
    );
    let set = set.strip_suffix('}').unwrap_or_else(|| panic!("no labels: {line:?}"));
    let pairs = set.split(',').filter(|pair| !pair.is_empty()).map(|pair| {
        let (label, value) = pair.split_once("=\"").unwrap_or_else(|| panic!("no label: {line:?}"));
        let value = value.strip_suffix('"').unwrap_or_else(|| panic!("no value: {line:?}"));
        (label.to_owned(), value.to_owned())
    });
    Sample { name: name.to_owned(), labels: pairs.collect(), value }
}
