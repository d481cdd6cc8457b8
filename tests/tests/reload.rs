//! The configuration changes while it is used: nothing is lost, and a bad file changes nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use meridian_tests::{Ask, Backend, Load, Meridian, Signal, eventually, regions};

const SOON: Duration = Duration::from_secs(15);
const US: &str = "us-east-1";
const WEST: &str = "us-west-2";
const EU: &str = "eu-west-1";
/// The database that the binary carries, as a file.
const DATABASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../geoip/data/country.mmdb");

fn text(backends: &[Backend]) -> String {
    let endpoints: Vec<_> = backends.iter().map(|b| (b.name(), b.address())).collect();
    let middle = regions(&endpoints, "policy = \"round_robin\"");
    format!("{middle}[[routes]]\nname = \"all\"\nservice = \"api\"\n")
}

/// The same with another weight of the first region.
fn with_weight(text: &str, weight: usize) -> String {
    text.replacen("priority = 1\n", &format!("priority = 1\nweight = {weight}\n"), 1)
}

fn weight_in_force(edge: &Meridian) -> u64 {
    let regions = edge.admin().json("/api/v1/regions");
    regions[0]["weight"]["value"].as_u64().expect("a weight")
}

/// Whether metric and status both say that the last reload ended like this; one may hear of it before the other.
fn last_reload(edge: &Meridian, succeeded: bool) -> bool {
    let metric = edge.admin().metric("meridian_config_last_reload_success");
    let status = edge.admin().json("/api/v1/status");
    metric == Some(if succeeded { 1.0 } else { 0.0 })
        && status["config"]["last_reload_ok"] == succeeded
        && status["config"]["last_error"].is_null() == succeeded
}

fn write_in_place(edge: &Meridian, text: &str) {
    fs::write(edge.config_path(), edge.filled_in(text)).expect("writes");
}

#[test]
fn two_hundred_reloads_under_load_fail_nothing() {
    let backends = [US, WEST, EU].map(Backend::start);
    let text = text(&backends);
    let edge = Meridian::start(&text);
    let load = Load::start(edge.address(), 6, |serial| match serial % 4 {
        0 => Ask::post(format!("/w/{serial}"), "x".repeat(2000)),
        _ => Ask::get(format!("/r/{serial}")),
    });
    let mut held = (0, 0, 0);
    for turn in 0..200 {
        let (weight, admin) = (turn + 1, edge.admin());
        let text = with_weight(&text, weight);
        match turn % 8 {
            0 => edge.write_config(&text),
            1 => write_in_place(&edge, &text),
            2..=4 => {
                edge.write_config(&text);
                edge.signal(Signal::HUP);
            }
            // The watcher may have been quicker, then there is nothing left to do.
            _ => assert_eq!(edge.reload(&text).status, 200),
        }
        eventually("the new file is in force", SOON, || weight_in_force(&edge) == weight as u64);
        if turn == 40 {
            held = (edge.open_files(), edge.threads(), edge.resident_bytes() >> 20);
        }
        assert!(admin.metric("meridian_table_generation") >= Some(weight as f64));
    }
    let account = load.stop();
    account.assert_all_fine(1000);
    assert!(last_reload(&edge, true));
    let (files, threads, mib) = held;
    assert!(edge.open_files() <= files + 8, "{} open files, {files} before", edge.open_files());
    // Those that read files for a moment end when they were idle for ten seconds.
    eventually("there are no more threads than before", SOON, || edge.threads() <= threads + 2);
    let now = edge.resident_bytes() >> 20;
    assert!(now <= mib + 12, "{now} MiB, {mib} before");
    let written: Vec<_> = backends.iter().flat_map(Backend::requests).collect();
    let posts = account.0.iter().filter(|outcome| outcome.method == "POST").count();
    assert_eq!(written.iter().filter(|r| r.method == "POST").count(), posts, "each of them once");
}

#[test]
fn a_bad_file_changes_nothing_and_is_told() {
    let backends = [US, WEST].map(Backend::start);
    let good = text(&backends);
    let edge = Meridian::start(&good);
    let path = edge.config_path();
    let in_force = || edge.admin().json("/api/v1/config")["hash"].clone();
    let served = || Ask::get("/").send(&mut edge.client()).status;
    let load = Load::start(edge.address(), 2, |_| Ask::get("/"));
    eventually("the round trips are known", SOON, || edge.stderr().contains("round trips"));
    let whole = edge.filled_in(&with_weight(&good, 7));
    for (kind, spoil) in [
        (
            "invalid",
            &(|path: &Path| fs::write(path, "[[regions]]\nid = 5\n")) as &dyn Fn(&Path) -> _,
        ),
        ("truncated", &|path| fs::write(path, &whole[..whole.len() / 2])),
        ("empty", &|path| fs::write(path, "")),
        ("no text", &|path| fs::write(path, b"\xff\xfe\x00")),
        ("missing", &|path| fs::remove_file(path)),
        ("a directory", &|path| fs::remove_file(path).and_then(|()| fs::create_dir(path))),
        ("a dead link", &|path| fs::remove_file(path).and_then(|()| symlink("nowhere", path))),
    ] {
        let before = (in_force(), weight_in_force(&edge));
        spoil(&path).expect(kind);
        // The watcher finds out by itself.
        eventually(kind, SOON, || last_reload(&edge, false));
        let failures = edge.admin().metric_sum("meridian_config_reloads_total", &["failure"]);
        assert!(failures >= 1.0, "{kind}");
        let answer = edge.admin().post("/api/v1/reload", &serde_json::json!({}));
        assert!(matches!(answer.status, 409 | 422), "{kind}: {} {}", answer.status, answer.text());
        assert_eq!((in_force(), weight_in_force(&edge)), before, "{kind}");
        assert_eq!(served(), 200, "{kind}");
        if path.is_dir() {
            fs::remove_dir(&path).expect(kind);
        } else {
            // It may be missing.
            let _ = fs::remove_file(&path);
        }
        write_in_place(&edge, &good);
        eventually("it recovers by itself", SOON, || last_reload(&edge, true));
        assert_eq!(in_force(), before.0, "{kind}: the file is the one in force");
    }
    assert!(edge.stderr().contains("ERROR reload"), "{}", edge.stderr());
    load.stop().assert_all_fine(200);
}

#[test]
fn errors_of_a_file_are_told_together_and_once() {
    let backends = [US, WEST].map(Backend::start);
    let good = text(&backends);
    let edge = Meridian::start(&good);
    let bad = good
        .replace("service = \"api\"", "service = \"apii\"")
        .replace("priority = 2", "priorty = 2");
    for _ in 0..3 {
        let answer = edge.reload(&bad);
        assert_eq!(answer.status, 422);
        let message = answer.json()["error"]["message"].to_string();
        assert!(message.contains("apii") && message.contains("priorty"), "{message}");
    }
    let errors = || {
        let said = edge.stderr();
        said.lines().filter(|line| line.contains("ERROR reload")).count()
    };
    eventually("it is logged", SOON, || errors() > 0);
    assert_eq!(errors(), 1, "{}", edge.stderr());
}

#[test]
fn what_only_a_restart_changes_is_refused_by_name() {
    let backends = [US].map(Backend::start);
    let good = text(&backends);
    let edge = Meridian::start(&good);
    let other = meridian_tests::free_address();
    for (change, key) in [
        ("[edge]\nstate_dir = \"elsewhere\"\n".to_owned(), "edge.state_dir"),
        // Nothing that the file names is opened before.
        (
            "[edge]\nstate_dir = \"new\"\n[geoip]\ndatabase = \"none.mmdb\"\n".to_owned(),
            "edge.state_dir",
        ),
        ("[edge]\nworker_threads = 1\n".to_owned(), "edge.worker_threads"),
        (format!("[admin]\naddress = \"{other}\"\n"), "admin.address"),
        (
            format!("[[listeners]]\nname = \"public\"\naddress = \"{other}\"\n"),
            "listeners[0].address",
        ),
        (
            "[[listeners]]\nname = \"public\"\ntrusted_proxies = [\"10.0.0.0/8\"]\n".to_owned(),
            "listeners[0].trusted_proxies",
        ),
        ("[[listeners]]\nname = \"other\"\n".to_owned(), "\"other\" is new"),
    ] {
        let answer = edge.reload(&format!("{change}{}", with_weight(&good, 9)));
        let body = answer.json();
        assert_eq!((answer.status, &body["error"]["code"]), (409, &"static_keys".into()), "{body}");
        let message = body["error"]["message"].as_str().expect("a message");
        assert!(message.contains(key), "{key}: {message}");
        assert_eq!(weight_in_force(&edge), 100, "{key}: all or nothing");
        assert!(last_reload(&edge, false), "{key}");
    }
    assert_eq!(edge.reload(&with_weight(&good, 9)).status, 200);
    assert_eq!(weight_in_force(&edge), 9);
}

#[test]
fn a_config_map_is_followed_when_kubernetes_swaps_it() {
    let backends = [US].map(Backend::start);
    let good = text(&backends);
    let edge = Meridian::start(&good);
    let dir = edge.dir().to_owned();
    for (version, weight) in [("..v1", 100), ("..v2", 21), ("..v3", 22), ("..v4", 23)] {
        fs::create_dir(dir.join(version)).expect("makes");
        let text =
            edge.filled_in(&if weight == 100 { good.clone() } else { with_weight(&good, weight) });
        fs::write(dir.join(version).join("meridian.toml"), text).expect("writes");
    }
    let swap = |version: &str| {
        symlink(version, dir.join("..data_tmp")).expect("links");
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).expect("renames");
    };
    swap("..v1");
    symlink("..data/meridian.toml", dir.join("link")).expect("links");
    fs::rename(dir.join("link"), edge.config_path()).expect("renames");
    for (version, weight) in [("..v2", 21), ("..v3", 22), ("..v4", 23)] {
        swap(version);
        eventually("the swap is seen", SOON, || weight_in_force(&edge) == weight);
        assert!(last_reload(&edge, true));
    }
}

#[test]
fn endpoints_that_stay_keep_their_health() {
    let backends = [US, WEST, EU].map(Backend::start);
    let good = text(&backends);
    backends[1].set_health(503);
    let edge = Meridian::start(&good);
    let health = || {
        let services = edge.admin().json("/api/v1/services");
        let endpoints = services[0]["endpoints"].as_array().cloned().unwrap_or_default();
        endpoints.iter().map(|view| view["health"].to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(health(), "\"healthy\" \"unhealthy\" \"healthy\"");
    let load = Load::start(edge.address(), 4, |_| Ask::get("/"));
    for turn in 1..=20 {
        assert_eq!(edge.reload(&with_weight(&good, turn)).status, 200);
        assert_eq!(health(), "\"healthy\" \"unhealthy\" \"healthy\"", "after reload {turn}");
    }
    let account = load.stop();
    account.assert_all_fine(50);
    assert_eq!(account.regions().get(WEST), None, "never to the one that is unwell");
}

#[test]
fn what_a_reload_removes_is_gone_from_the_metrics() {
    let backends = [US, WEST, EU].map(Backend::start);
    let all = text(&backends);
    let edge = Meridian::start(&all);
    let mut client = edge.client();
    (0..30).for_each(|_| assert_eq!(Ask::get("/").send(&mut client).status, 200));
    let series = |label: &str| {
        let page = edge.admin().get("/metrics").text();
        page.lines().filter(|line| line.contains(label)).count()
    };
    let region = format!("region=\"{EU}\"");
    assert!(series(&region) > 5);
    assert_eq!(edge.reload(&text(&backends[..2])).status, 200);
    assert_eq!(series(&region), 0, "{}", edge.admin().get("/metrics").text());
    let asked = backends[2].requests().len();
    (0..30).for_each(|_| assert_eq!(Ask::get("/").send(&mut client).status, 200));
    assert_eq!(backends[2].requests().len(), asked);
    // No probe any more either.
    let probes = backends[2].probes();
    eventually("others are probed", SOON, || {
        let before = backends[0].probes();
        std::thread::sleep(Duration::from_millis(700));
        backends[0].probes() > before
    });
    assert!(backends[2].probes() <= probes + 1);
    assert_eq!(edge.reload(&all).status, 200);
    eventually("it is used again", SOON, || {
        Ask::get("/").send(&mut client).header("X-Served-Region") == Some(EU)
    });
}

#[test]
fn a_geo_database_may_be_cut_short_while_it_is_used() {
    let backends = [US, EU].map(Backend::start);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("geo.mmdb");
    fs::copy(DATABASE, &file).expect("the database of this repository");
    let middle = text(&backends)
        .replace("[45.84, -119.70]\ncountry = \"US\"", "[53.35, -6.26]\ncountry = \"IE\"")
        .replace("round_robin", "geo");
    let edge = Meridian::start(&format!(
        "[geoip]\ndatabase = \"{}\"\n[[listeners]]\nname = \"public\"\n\
         trusted_proxies = [\"127.0.0.0/8\"]\n{middle}",
        file.display()
    ));
    let load = Load::start(edge.address(), 4, |_| Ask::get("/").from("193.1.1.1"));
    let last_error = || edge.admin().json("/api/v1/status")["geo"]["last_error"].clone();
    let refused = || edge.admin().metric("meridian_geo_database_reload_failures_total");
    let whole = fs::read(DATABASE).expect("reads");
    let mut failures = 0.0;
    for (kind, spoil) in [
        ("cut short", &(|| fs::write(&file, &whole[..1000])) as &dyn Fn() -> _),
        ("its end is lost", &|| fs::write(&file, &whole[..whole.len() - 200])),
        ("not one", &|| fs::write(&file, "no database at all")),
        ("empty", &|| fs::write(&file, "")),
        ("gone", &|| fs::remove_file(&file)),
    ] {
        spoil().expect(kind);
        eventually(kind, SOON, || last_error().is_string());
        assert!(refused() > Some(failures), "{kind}");
        failures = refused().unwrap_or_default();
        load.run_for(50);
        fs::write(&file, &whole).expect("writes");
        eventually("a good one is taken again", SOON, || last_error().is_null());
    }
    let account = load.stop();
    account.assert_all_fine(250);
    assert_eq!(account.regions().keys().collect::<Vec<_>>(), [EU], "the last good one is used");
    assert!(edge.is_running());
}
