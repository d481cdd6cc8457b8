//! What TLS to endpoints is made of, and what of it survives the next set.

use std::path::Path;
use std::sync::Arc;

use meridian_config::{Config, EndpointAddress, EndpointKey, RegionId, ServiceName};
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use super::*;
use crate::certificates::{CertificateSet, load_certificates};

fn put(dir: &Path, name: &str) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(Vec::new()).expect("no names");
    let certificate = params.self_signed(&key).expect("signs");
    std::fs::write(dir.join(format!("{name}.pem")), certificate.pem()).expect("writes");
    std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).expect("writes");
}

/// A configuration of services with these lines.
fn config(dir: &Path, services: &[&str]) -> Config {
    let services: String = services
        .iter()
        .enumerate()
        .map(|(n, lines)| {
            format!(
                "[[services]]\nname = \"s{n}\"\n{lines}\n\
                 endpoints = [{{ region = \"here\", address = \"127.0.0.1:{}\" }}]\n",
                n + 1
            )
        })
        .collect();
    let text = format!(
        "[[listeners]]\nname = \"plain\"\naddress = \"127.0.0.1:80\"\n[[regions]]\nid = \"here\"\n\
         {services}[[routes]]\nname = \"all\"\nservice = \"s0\"\n"
    );
    let parsed = Config::parse(&text, &dir.join("m.toml"), &|_| None);
    parsed.unwrap_or_else(|errors| panic!("{errors}")).config
}

fn set(config: &Config) -> CertificateSet {
    load_certificates(config, 0).unwrap_or_else(|errors| panic!("{errors}")).0
}

fn of(set: &CertificateSet, config: &Config, service: usize) -> Option<Arc<EndpointTls>> {
    let tls = config.services[service].tls.as_ref().expect("TLS");
    set.endpoints(&tls.files).cloned()
}

const ONE: &str = "tls.ca = \"one.pem\"";
const PAIR: &str =
    "tls = { ca = \"one.pem\", certificate = \"two.pem\", private_key = \"two.key\" }";

fn directory() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    put(directory.path(), "one");
    put(directory.path(), "two");
    directory
}

#[test]
fn the_same_files_are_one_and_others_are_not() {
    let directory = directory();
    let config = config(directory.path(), &[ONE, ONE, PAIR, "tls.ca = \"two.pem\""]);
    let set = set(&config);
    let ids: Vec<_> = (0..4).map(|n| of(&set, &config, n).expect("loaded").id).collect();
    assert_eq!(ids[0], ids[1]);
    assert!(ids[0] != ids[2] && ids[0] != ids[3] && ids[2] != ids[3], "{ids:?}");
    assert_eq!(of(&set, &config, 0).expect("loaded").http1.alpn_protocols, [b"http/1.1"]);
    assert_eq!(of(&set, &config, 0).expect("loaded").h2.alpn_protocols, [b"h2"]);
}

#[test]
fn what_has_not_changed_is_taken_over() {
    let directory = directory();
    let config = config(directory.path(), &[ONE, "tls.ca = \"two.pem\""]);
    let first = set(&config);
    put(directory.path(), "two");
    let mut second = set(&config);
    second.follow(&first);
    let ids = |set: &CertificateSet| [0, 1].map(|n| of(set, &config, n).expect("loaded").id);
    assert_eq!(ids(&first)[0], ids(&second)[0], "its sessions can be resumed");
    assert_ne!(ids(&first)[1], ids(&second)[1]);
}

#[test]
fn a_table_finds_its_own_before_and_after_the_set() {
    let directory = directory();
    let before = config(directory.path(), &[ONE]);
    let after = config(directory.path(), &["tls.ca = \"two.pem\""]);
    let (old, mut new) = (set(&before), set(&after));
    assert!(of(&old, &after, 0).is_none());
    let between = old.with_others(&new);
    let announced = of(&between, &after, 0).expect("announced");
    assert!(of(&between, &before, 0).is_some());
    new.follow(&between);
    assert_eq!(of(&new, &after, 0).expect("in force").id, announced.id);
    assert!(of(&new, &before, 0).is_some(), "requests may still have the table before");
    let mut next = set(&after);
    next.follow(&new);
    assert!(of(&next, &before, 0).is_none(), "not for ever");
}

#[test]
fn what_is_wrong_is_told_with_its_key() {
    let directory = directory();
    let dir = directory.path();
    std::fs::write(dir.join("bad.pem"), "no PEM").expect("writes");
    let errors = |lines: &str| {
        let error = load_certificates(&config(dir, &[lines]), 0).expect_err("wrong").to_string();
        error.replace(&format!("{}/", dir.display()), "")
    };
    assert_eq!(
        errors("tls.ca = \"bad.pem\""),
        "services[0].tls.ca: bad.pem: holds no certificate in PEM"
    );
    assert!(errors("tls.ca = \"none.pem\"").starts_with("services[0].tls.ca: none.pem: cannot be"));
    let mixed = "tls = { ca = \"one.pem\", certificate = \"one.pem\", private_key = \"two.key\" }";
    assert_eq!(
        errors(mixed),
        "services[0].tls.private_key: two.key: does not belong to certificate one.pem"
    );
    let (_, warnings) = load_certificates(&config(dir, &[PAIR]), 0).expect("fine");
    let named = warnings.iter().any(|warning| warning.message.contains("names no host"));
    assert!(!named, "a client's certificate need not: {warnings:?}");
}

#[test]
fn faults_are_kept_until_there_are_none() {
    let directory = directory();
    let config = config(directory.path(), &[ONE]);
    let set = set(&config);
    let tls = of(&set, &config, 0).expect("loaded");
    let key = EndpointKey {
        service: ServiceName::new("s0"),
        region: RegionId::new("here"),
        address: EndpointAddress::Ip(([127, 0, 0, 1], 1).into()),
    };
    assert_eq!(tls.fault(&key), None);
    tls.failed(&key, &rustls::Error::General("ä".repeat(1000)));
    let fault = tls.fault(&key).expect("a fault");
    assert!(fault.contains("ää") && fault.len() <= LONGEST_FAULT + 2, "{fault}");
    tls.answered(&key);
    assert_eq!(tls.fault(&key), None);
}

#[test]
fn names_are_the_services_or_the_endpoints() {
    let directory = directory();
    let name = |lines: &str, address: &EndpointAddress| {
        let config = config(directory.path(), &[lines]);
        let tls = config.services[0].tls.clone().expect("TLS");
        name_of_endpoint(&tls, address).map(|name| name.to_str().into_owned())
    };
    let ip = EndpointAddress::Ip(([10, 0, 0, 1], 443).into());
    let host = EndpointAddress::Name("db.internal".into(), 443);
    let given = format!("{ONE}\ntls.server_name = \"API.internal\"");
    assert_eq!(name(ONE, &ip).as_deref(), Ok("10.0.0.1"));
    assert_eq!(name(ONE, &host).as_deref(), Ok("db.internal"));
    assert_eq!(name(&given, &ip).as_deref(), Ok("api.internal"));
    assert!(name(ONE, &EndpointAddress::Name("-".into(), 443)).is_err());
}
