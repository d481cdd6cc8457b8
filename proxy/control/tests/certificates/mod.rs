//! Certificates are taken over while the control plane runs, whole or not at all.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use meridian_config::ListenerName;
use meridian_control::views::StatusView;
use rcgen::{CertificateParams, KeyPair};

use crate::support::{Edge, Site, replace, two_regions, within};

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

/// A certificate for a host and its key, as PEM.
fn pair(host: &str) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec![host.to_owned()]).expect("a name");
    (params.self_signed(&key).expect("signs").pem(), key.serialize_pem())
}

fn write_pair(directory: &Path, (certificate, key): &(String, String)) {
    replace(&directory.join("a.pem"), certificate);
    replace(&directory.join("a.key"), key);
}

/// A configuration whose listener has these pairs of files.
fn config(names: &[&str]) -> String {
    let files = |name| format!("{{ certificate = \"{name}.pem\", private_key = \"{name}.key\" }}");
    let files: Vec<_> = names.iter().map(files).collect();
    let address = "address = \"127.0.0.1:8080\"";
    let tls = format!("{address}\ntls.certificates = [{}]", files.join(", "));
    two_regions("127.0.0.1:1", "127.0.0.1:2").replace(address, &tls)
}

fn site(names: &[&str]) -> Site {
    let site = Site::new();
    site.write(&config(names));
    site
}

/// The certificate that a client gets.
fn given(edge: &Edge, host: &str) -> String {
    let set = edge.certificates.load();
    let listener = set.listener(&ListenerName::new("public")).expect("has TLS");
    listener.choose(Some(host), |_| true).expect("there is one").label.clone()
}

fn becomes(edge: &Edge, label: &str) {
    within(SECONDS(8), label, || given(edge, "x.example") == label);
}

fn failures(edge: &Edge) -> u64 {
    let page = edge.get("/metrics").body;
    let line = page.lines().find_map(|line| {
        line.strip_prefix("meridian_certificate_reload_failures_total ")?.parse().ok()
    });
    line.expect("is on the page")
}

fn last_error(edge: &Edge) -> Option<String> {
    let status: StatusView =
        serde_json::from_value(edge.get("/api/v1/status").json()).expect("a view");
    status.certificates.last_error
}

#[test]
fn a_rotated_pair_is_taken_and_a_broken_one_is_not() {
    let site = site(&["a"]);
    let directory = site.directory.path();
    write_pair(directory, &pair("one.example"));
    let edge = site.start();
    assert_eq!(given(&edge, "x.example"), "one.example");
    let (two, three) = (pair("two.example"), pair("three.example"));
    write_pair(directory, &two);
    becomes(&edge, "two.example");
    let page = edge.get("/metrics").body;
    let series = "meridian_certificate_expiry_timestamp_seconds{listener=\"public\",name=\"";
    assert!(page.contains(&format!("{series}two.example\"}} ")), "{page}");
    assert!(!page.contains("one.example"), "what is gone is gone from the page, too");
    assert_eq!((failures(&edge), last_error(&edge)), (0, None));

    // The certificate comes first, its key much later.
    replace(&site.path("a.pem"), &three.0);
    within(SECONDS(8), "the pair does not match", || failures(&edge) == 1);
    let error = last_error(&edge).expect("is shown");
    assert!(error.contains("listeners[0].tls.certificates[0].private_key: "), "{error}");
    assert_eq!(given(&edge, "x.example"), "two.example");
    let answer = edge.ask("POST", "/api/v1/reload", "", "");
    assert_eq!((answer.status, &*answer.code()), (422, "config_invalid"), "{answer:?}");
    assert_eq!(failures(&edge), 2, "who asks is told again");
    replace(&site.path("a.key"), &three.1);
    becomes(&edge, "three.example");
    assert_eq!((failures(&edge), last_error(&edge)), (2, None));

    std::fs::write(site.path("a.pem"), "half of it").expect("writes");
    within(SECONDS(8), "broken", || failures(&edge) == 3);
    assert_eq!(given(&edge, "x.example"), "three.example");
    replace(&site.path("a.pem"), &three.0);
    within(SECONDS(8), "the files are those in force again", || last_error(&edge).is_none());
}

#[test]
fn whoever_asks_for_a_reload_gets_the_new_certificates_with_the_answer() {
    let site = site(&["a"]);
    write_pair(site.directory.path(), &pair("one.example"));
    let edge = site.start();
    write_pair(site.directory.path(), &pair("two.example"));
    let answer = edge.ask("POST", "/api/v1/reload", "", "");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(given(&edge, "x.example"), "two.example");
}

#[test]
fn a_mounted_secret_is_swapped_whole() {
    let site = site(&["tls/a"]);
    let at = |name: &str| site.path("tls").join(name);
    for (version, host) in [("..1", "one.example"), ("..2", "two.example")] {
        std::fs::create_dir_all(at(version)).expect("makes");
        write_pair(&at(version), &pair(host));
    }
    symlink("..1", at("..data")).expect("links");
    symlink("..data/a.pem", at("a.pem")).expect("links");
    symlink("..data/a.key", at("a.key")).expect("links");
    let edge = site.start();
    assert_eq!(given(&edge, "x.example"), "one.example");
    symlink("..2", at("..data_tmp")).expect("links");
    std::fs::rename(at("..data_tmp"), at("..data")).expect("renames");
    becomes(&edge, "two.example");
    assert_eq!(failures(&edge), 0);
}

#[test]
fn certificates_come_and_go_without_a_restart() {
    let site = site(&["a"]);
    write_pair(site.directory.path(), &pair("one.example"));
    let edge = site.start();
    let second = pair("second.example");
    replace(&site.path("meridian.toml"), &config(&["a", "b"]));
    let refused = || edge.get("/metrics").body.contains("meridian_config_last_reload_success 0");
    within(SECONDS(8), "the second one is not there", refused);
    assert_eq!(edge.certificates.load().iter().count(), 1);
    // Nobody touches the configuration again.
    replace(&site.path("b.pem"), &second.0);
    replace(&site.path("b.key"), &second.1);
    within(SECONDS(12), "taken", || given(&edge, "second.example") == "second.example");
    assert!(!refused());
    assert_eq!(given(&edge, "x.example"), "one.example");
    replace(&site.path("meridian.toml"), &config(&["b"]));
    becomes(&edge, "second.example");
}

#[test]
fn a_broken_certificate_at_start_is_an_error() {
    let site = site(&["a"]);
    let Err(error) = site.try_start(false) else { panic!("no certificate is there") };
    let error = error.to_string();
    for key in ["certificate", "private_key"] {
        let path = format!("listeners[0].tls.certificates[0].{key}: ");
        assert!(error.lines().any(|line| line.starts_with(&path)), "{error}");
    }
}
