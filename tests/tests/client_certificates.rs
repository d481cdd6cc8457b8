//! Certificates of clients: who is let in, what endpoints are told, and what clients cannot make them believe.

use std::io;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use meridian_tests::{Answer, Backend, Client, Meridian, Pair, Received, Site, eventually, poll};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(15);
const HOST: &str = "a.example";
const EACH: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];
/// What a client would write to be taken for somebody else.
const FORGED: [(&str, &str); 8] = [
    ("Client-Cert", ":AAAA:"),
    ("Client-Cert-Chain", ":AAAA:"),
    ("CLIENT_CERT", ":AAAA:"),
    ("X-Client-Cert-Verified", "true"),
    ("X-Client-Cert-Subject", "CN=admin"),
    ("x_client_cert_subject", "CN=admin"),
    ("X-Client-Cert-Fingerprint", "00"),
    ("Connection", "keep-alive, x-client-cert-verified, client-cert, x-client-cert-subject"),
];

struct Stage {
    site: Site,
    clients: Site,
    backend: Backend,
    edge: Meridian,
}

/// A TLS listener that asks for certificates of `clients`, and a plain one.
fn stage(auth: &str, routes: &str) -> Stage {
    let site = Site::new(&[("a", &[HOST])]);
    let clients =
        Site::new(&[("shop", &["shop.internal", "10.9.8.7"]), ("other", &["other.example"])]);
    let backend = Backend::answering("here", |request| Answer::ok(request.target.clone()));
    let ca = clients.root();
    let lines = format!("tls.client_auth = \"{auth}\"\ntls.client_ca = \"{}\"", ca.display());
    let routes =
        if routes.is_empty() { "[[routes]]\nname = \"all\"\nservice = \"api\"\n" } else { routes };
    let text =
        meridian_tests::regions(&[("here", backend.address())], "health = { kind = \"none\" }")
            + routes
            + &site.listener(&["a"], &lines)
            + "[[listeners]]\nname = \"plain\"\nprotocols = [\"http1\", \"h2c\"]\n";
    let edge = Meridian::start(&text);
    Stage { site, clients, backend, edge }
}

/// A client's side with this certificate.
fn with(config: ClientConfig, certificate: &str, key: &str) -> ClientConfig {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate.as_bytes())
        .collect::<Result<_, _>>()
        .expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
    let key = CertifiedKey::from_der(chain, key, &default_provider()).expect("a pair");
    let mut config = config;
    config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(key));
    config
}

impl Stage {
    fn config(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        pair: Option<&Pair>,
    ) -> ClientConfig {
        let config = self.site.client_config(versions);
        match pair {
            Some(pair) => with(config, &pair.certificate, &pair.key),
            None => config,
        }
    }

    fn try_get(&self, config: impl Into<Arc<ClientConfig>>, path: &str) -> io::Result<Answered> {
        let mut wire = self.site.wire(config, self.edge.listener("tls"), HOST);
        wire.handshake()?;
        let mut client = Client::on(wire).host(HOST);
        let answer = client.try_request("GET", path, &FORGED, b"");
        let answer = answer.map_err(|broken| io::Error::other(format!("{broken:?}")))?;
        let kind = client.wire().session().handshake_kind();
        Ok(Answered { status: answer.status, kind })
    }

    fn last(&self) -> Received {
        self.backend.requests().pop().expect("a request")
    }

    fn handshakes(&self, result: &str) -> f64 {
        let name = format!("meridian_tls_handshakes_total{{listener=\"tls\",result=\"{result}\"}}");
        self.edge.admin().metric(&name).unwrap_or_default()
    }

    fn curl(&self, args: &[&str], pair: Option<&str>) -> String {
        let address = self.edge.listener("tls");
        let mut command = Command::new("curl");
        command.args(["--silent", "--max-time", "20", "--cacert"]).arg(self.site.root());
        command.arg("--resolve").arg(format!("{HOST}:{}:{}", address.port(), address.ip()));
        if let Some(name) = pair {
            let file = |end: &str| self.clients.dir().join(format!("{name}.{end}"));
            command.arg("--cert").arg(file("pem")).arg("--key").arg(file("key"));
        }
        for (name, value) in FORGED.iter().filter(|(name, _)| *name != "Connection") {
            command.arg("--header").arg(format!("{name}: {value}"));
        }
        command.args(args).arg(format!("https://{HOST}:{}/curl", address.port()));
        let out = command.output().expect("curl");
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
}

#[derive(Debug)]
struct Answered {
    status: u16,
    kind: Option<HandshakeKind>,
}

/// Everything that tells an endpoint of a certificate, names in lower case.
fn told(request: &Received) -> Vec<(String, String)> {
    let fields =
        request.fields.0.iter().map(|(n, v)| (n.to_ascii_lowercase().replace('_', "-"), v));
    let told =
        fields.filter(|(n, _)| n.starts_with("client-cert") || n.starts_with("x-client-cert"));
    told.map(|(n, v)| (n, v.clone())).collect()
}

#[track_caller]
fn tells_of(request: &Received, der: &[u8], hosts: &str) {
    let told = told(request);
    let names: Vec<_> = told.iter().map(|(name, _)| name.as_str()).collect();
    let expected = [
        "client-cert",
        "x-client-cert-verified",
        "x-client-cert-subject",
        "x-client-cert-serial",
        "x-client-cert-fingerprint",
        "x-client-cert-san",
    ];
    assert_eq!(names, expected, "each once, and only ours");
    let value = |name: &str| told.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v.as_str());
    assert_eq!(value("x-client-cert-verified"), "true");
    assert_eq!(value("x-client-cert-san"), hosts);
    let print = openssl_fingerprint(der);
    assert_eq!(value("x-client-cert-fingerprint"), print);
    let whole = value("client-cert").strip_prefix(':').and_then(|v| v.strip_suffix(':'));
    assert_eq!(decoded(whole.expect("a byte sequence")), der);
}

fn piped(args: &[&str], input: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut command = Command::new("openssl");
    command.args(args).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().expect("openssl");
    child.stdin.take().expect("piped").write_all(input).expect("takes it");
    child.wait_with_output().expect("ends").stdout
}

fn openssl_fingerprint(der: &[u8]) -> String {
    let out = piped(&["x509", "-inform", "der", "-noout", "-fingerprint", "-sha256"], der);
    let text = String::from_utf8_lossy(&out);
    text.trim().split_once('=').expect("a fingerprint").1.replace(':', "").to_ascii_lowercase()
}

fn decoded(base64: &str) -> Vec<u8> {
    piped(&["base64", "-d", "-A"], base64.as_bytes())
}

#[test]
fn endpoints_are_told_who_the_client_is_and_nothing_that_it_claims() {
    let stage = stage("required", "");
    let pair = stage.clients.issue(&["shop.internal", "10.9.8.7"]);
    for version in EACH {
        let config = stage.config(&[version], Some(&pair));
        assert_eq!(stage.try_get(config, "/a").expect("is let in").status, 200);
        tells_of(&stage.last(), &pair.der, "DNS:shop.internal, IP:10.9.8.7");
    }
    let print = openssl_fingerprint(&pair.der);
    stage.edge.logged(|line| line["client_fingerprint"] == print && line["target"] == "/a");
    // The same over HTTP/2, and for offers of tunnels.
    stage.clients.put("shop", &pair);
    for args in [
        &["--http2"][..],
        &["--http1.1"],
        &["--http1.1", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket"],
    ] {
        assert_eq!(stage.curl(args, Some("shop")), "/curl", "{args:?}");
        tells_of(&stage.last(), &pair.der, "DNS:shop.internal, IP:10.9.8.7");
    }
    // A plain listener of the same edge tells nothing and lets no claim pass either.
    for h2 in [false, true] {
        let url = format!("http://{}/plain", stage.edge.listener("plain"));
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "20"]).arg(if h2 {
            "--http2-prior-knowledge"
        } else {
            "--http1.1"
        });
        for (name, value) in FORGED.iter().filter(|(name, _)| *name != "Connection") {
            curl.arg("--header").arg(format!("{name}: {value}"));
        }
        assert!(curl.arg(url).output().expect("curl").status.success());
        assert_eq!(told(&stage.last()), []);
    }
}

#[test]
fn claims_in_trailers_stay_here_as_well() {
    let stage = stage("optional", "");
    let mut client = Client::connect(stage.edge.listener("plain"));
    client.send(
        "POST /t HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\
         Trailer: X-Client-Cert-Subject\r\n\r\n1\r\na\r\n0\r\nX-Client-Cert-Subject: CN=admin\r\n\
         x_client_cert_verified: true\r\nX-Fine: 1\r\n\r\n",
    );
    assert_eq!(client.response().status, 200);
    let request = stage.last();
    assert_eq!(request.trailers.get("x-fine"), Some("1"));
    assert!(
        !format!("{:?}", request.trailers).to_lowercase().contains("cert"),
        "{:?}",
        request.trailers
    );
}

#[test]
fn who_has_no_good_certificate_is_not_let_in() {
    let stage = stage("required", "");
    let strangers = Site::new(&[]);
    let stranger = strangers.issue(&["shop.internal"]);
    for version in EACH {
        for pair in [None, Some(&stranger)] {
            let refused = stage.try_get(stage.config(&[version], pair), "/");
            assert!(refused.is_err(), "{version:?} {refused:?}");
        }
    }
    assert!(stage.backend.requests().is_empty());
    // The client hears of it before it is counted.
    let counted = || stage.handshakes("failed") >= 4.0;
    eventually("all are counted", Duration::from_secs(10), counted);
    assert_eq!(stage.handshakes("full"), 0.0);
    assert_eq!(stage.curl(&[], None), "");
}

#[test]
fn where_it_is_optional_one_that_is_shown_must_be_good() {
    let stage = stage("optional", "");
    let stranger = Site::new(&[]).issue(&["shop.internal"]);
    let pair = stage.clients.issue(&["shop.internal"]);
    for version in EACH {
        assert_eq!(
            stage.try_get(stage.config(&[version], None), "/").expect("is let in").status,
            200
        );
        assert_eq!(told(&stage.last()), [("x-client-cert-verified".into(), "false".into())]);
        assert!(stage.try_get(stage.config(&[version], Some(&stranger)), "/").is_err());
        stage.try_get(stage.config(&[version], Some(&pair)), "/").expect("is let in");
        tells_of(&stage.last(), &pair.der, "DNS:shop.internal");
    }
}

#[test]
fn routes_ask_for_certificates() {
    let stage = stage(
        "optional",
        "[[routes]]\nname = \"shop\"\nservice = \"api\"\nclient_certificate = { san = \"*.internal\" }\n\
         path_prefix = \"/only\"\n\
         [[routes]]\nname = \"open\"\nservice = \"api\"\npath_prefix = \"/open\"\n\
         request_headers = { set = {}, remove = [\"Client-Cert\"] }\n",
    );
    let (shop, other) =
        (stage.clients.issue(&["shop.internal"]), stage.clients.issue(&["internal"]));
    for (pair, status) in [(Some(&shop), 200), (Some(&other), 404), (None, 404)] {
        let answer = stage.try_get(stage.config(&EACH, pair), "/only").expect("is let in");
        assert_eq!(answer.status, status, "{pair:?}");
    }
    stage.try_get(stage.config(&EACH, Some(&shop)), "/open").expect("is let in");
    let told = told(&stage.last());
    assert!(told.iter().all(|(name, _)| name != "client-cert") && told.len() == 5, "{told:?}");
    // On the plain listener nobody can have one.
    assert_eq!(Client::connect(stage.edge.listener("plain")).get("/only").status, 404);
    let explained = |san: &[&str]| {
        let asked = json!({"path": "/only", "client_certificate": {"san": san}});
        stage.edge.admin().post("/api/v1/explain", &asked).text()
    };
    assert!(explained(&["shop.internal"]).contains("\"shop\""));
    assert!(!explained(&["shop.example"]).contains("\"shop\""));
    let out = stage.edge.cli(&["explain", "/only", "--client-san", "shop.internal"]);
    assert!(String::from_utf8_lossy(&out.stdout).contains("route     shop"), "{out:?}");
}

#[test]
fn roots_that_change_count_for_new_handshakes_and_for_sessions_that_go_on() {
    for version in EACH {
        let stage = stage("required", "");
        let pair = stage.clients.issue(&["shop.internal"]);
        let mut config = stage.config(&[version], Some(&pair));
        config.resumption = Resumption::in_memory_sessions(8);
        let config = Arc::new(config);
        stage.try_get(config.clone(), "/").expect("is let in");
        let again = stage.try_get(config.clone(), "/").expect("is let in");
        assert_eq!(again.kind, Some(HandshakeKind::Resumed));
        tells_of(&stage.last(), &pair.der, "DNS:shop.internal");
        // A broken file changes nothing.
        let failures = || {
            let name = "meridian_certificate_reload_failures_total";
            stage.edge.admin().metric(name).unwrap_or_default()
        };
        stage.clients.put_file("root.pem", "nothing");
        eventually("it is refused", PATIENCE, || failures() > 0.0);
        stage.try_get(config.clone(), "/").expect("the last good roots stay");
        let next = Site::new(&[]);
        let successor = next.issue(&["shop.internal"]);
        let root = std::fs::read_to_string(next.root()).expect("a root");
        stage.clients.put_file("root.pem", &root);
        let let_in = poll(PATIENCE, || {
            stage.try_get(stage.config(&[version], Some(&successor)), "/new").ok()
        });
        assert!(let_in.is_some(), "the new roots are not in force");
        let seen = stage.backend.requests().len();
        let refused = stage.try_get(config.clone(), "/late");
        assert!(refused.is_err(), "{refused:?}");
        eventually("it is counted", PATIENCE, || stage.handshakes("unproven") >= 1.0);
        assert_eq!(stage.backend.requests().len(), seen);
    }
}

/// Listeners that share keys of session tickets open one another's: also those of one that asks for nothing.
#[test]
fn a_session_of_a_laxer_listener_opens_no_stricter_one() {
    let site = Site::new(&[("a", &[HOST])]);
    let clients = Site::new(&[]);
    site.put_file("tickets", &"5a".repeat(80));
    let keys = format!("tls.session_ticket_keys = [\"{}\"]", site.dir().join("tickets").display());
    let strict = format!(
        "{keys}\ntls.client_auth = \"required\"\ntls.client_ca = \"{}\"",
        clients.root().display()
    );
    let backend = Backend::answering("here", |request| Answer::ok(request.target.clone()));
    let text = meridian_tests::one_region(&backend)
        + &site.listener(&["a"], &keys).replace("\"tls\"", "\"lax\"")
        + &site.listener(&["a"], &strict);
    let edge = Meridian::start(&text);
    for version in EACH {
        let mut config = site.client_config(&[version]);
        config.resumption = Resumption::in_memory_sessions(8);
        let config = Arc::new(config);
        let get = |listener: &str| {
            let mut wire = site.wire(config.clone(), edge.listener(listener), HOST);
            wire.handshake()?;
            let mut client = Client::on(wire).host(HOST);
            let answer = client.try_request("GET", "/", &[], b"");
            let answer = answer.map_err(|broken| io::Error::other(format!("{broken:?}")))?;
            Ok::<_, io::Error>((answer.status, client.wire().session().handshake_kind()))
        };
        assert_eq!(get("lax").expect("is let in"), (200, Some(HandshakeKind::Full)));
        assert_eq!(get("lax").expect("is let in"), (200, Some(HandshakeKind::Resumed)));
        let seen = backend.requests().len();
        assert!(get("tls").is_err(), "{version:?}");
        assert_eq!(backend.requests().len(), seen);
    }
    let name = "meridian_tls_handshakes_total{listener=\"tls\",result=\"unproven\"}";
    eventually("it was the session that was refused", PATIENCE, || {
        edge.admin().metric(name) == Some(2.0)
    });
}

#[test]
fn what_cannot_be_roots_is_refused_at_the_start() {
    let site = Site::new(&[("a", &[HOST])]);
    site.put_file("empty.pem", "");
    let key = std::fs::read_to_string(site.dir().join("a.key")).expect("a key");
    site.put_file("key.pem", &key);
    for (file, message) in [
        ("missing.pem", "cannot be read"),
        ("empty.pem", "holds no certificate"),
        ("key.pem", "holds no certificate"),
    ] {
        let lines = format!(
            "tls.client_auth = \"required\"\ntls.client_ca = \"{}\"",
            site.dir().join(file).display()
        );
        let backend = Backend::start("here");
        let text = meridian_tests::one_region(&backend) + &site.listener(&["a"], &lines);
        let mut edge = Meridian::launch(&text, &[]);
        assert_eq!(edge.wait_exit().code(), Some(1));
        let said = edge.stderr();
        assert!(said.contains("listeners[0].tls.client_ca") && said.contains(message), "{said}");
        assert!(!said.contains(key.lines().nth(1).expect("base64")), "nothing of a key is told");
    }
}
