//! TLS on a listener, as real clients see it: certificates, versions, protocols, bodies, sessions.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use meridian_tests::{
    Answer, Backend, Body, Client, End, Meridian, Site, Wire, block, one_region, pattern_stream,
    request_bytes,
};
use rustls::CipherSuite as Suite;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ProtocolVersion, SupportedProtocolVersion};

const LARGE: u64 = 5 << 20;
const EACH: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

struct Stage {
    site: Site,
    backend: Backend,
    edge: Meridian,
}

/// An edge with certificates for a.example, b.example with one label before it, and x.b.example.
fn stage(lines: &str) -> Stage {
    let site = Site::new(&[
        ("a", &["a.example"]),
        ("b", &["b.example", "*.b.example"]),
        ("x", &["x.b.example"]),
    ]);
    let backend = Backend::answering("here", |request| match request.target.as_str() {
        "/large" => Answer::new(200, Body::Pattern(LARGE)),
        "/chunks" => Answer::new(200, Body::PatternChunks(LARGE)),
        "/until-close" => Answer::new(200, Body::UntilClose(block()[..5000].to_vec())),
        target => Answer::ok(format!("{} {target} {}", request.method, request.checked.length)),
    });
    let edge = Meridian::start(&(one_region(&backend) + &site.listener(&["a", "b", "x"], lines)));
    Stage { site, backend, edge }
}

impl Stage {
    /// A connection to a.example that offers this version only.
    fn wire(&self, version: &'static SupportedProtocolVersion) -> Wire {
        let config = self.site.client_config(&[version]);
        self.site.wire(config, self.edge.address(), "a.example")
    }

    /// curl, which trusts the root and finds every host at the edge.
    fn curl(&self, host: &str, path: &str, args: &[&str]) -> Output {
        let address = self.edge.address();
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--max-time", "60", "--cacert"]);
        command.arg(self.site.root());
        command.arg("--resolve").arg(format!("{host}:{}:{}", address.port(), address.ip()));
        command.args(args).arg(format!("https://{host}:{}{path}", address.port()));
        command.output().expect("curl")
    }
}

#[track_caller]
fn said(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn is_pattern(path: &Path, length: u64) -> bool {
    fs::read(path).expect("a file") == pattern_stream(length).collect::<Vec<_>>().concat()
}

#[test]
fn curl_accepts_the_certificate_of_each_host() {
    let stage = stage("");
    for host in ["a.example", "b.example", "y.b.example", "x.b.example", "X.B.Example"] {
        for (protocol, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
            let out = stage.curl(host, "/", &[protocol, "--write-out", " %{http_version}"]);
            assert_eq!(said(&out), format!("GET / 0 {version}"), "{host}");
        }
    }
    for host in ["c.example", "y.x.b.example"] {
        let refused = stage.curl(host, "/", &[]);
        // CURLE_PEER_FAILED_VERIFICATION: it got the first certificate.
        assert_eq!(refused.status.code(), Some(60), "{host}");
    }
    assert!(stage.backend.requests().len() == 10);
}

#[test]
fn the_exact_name_goes_before_the_wildcard_and_the_first_is_for_the_rest() {
    let site = Site::new(&[]);
    let wildcard = site.issue(&["b.example", "*.b.example"]);
    let (first, exact) = (site.issue(&["a.example"]), site.issue(&["x.b.example"]));
    site.put("a", &first);
    site.put("b", &wildcard);
    site.put("x", &exact);
    let backend = Backend::start("here");
    let edge = Meridian::start(&(one_region(&backend) + &site.listener(&["a", "b", "x"], "")));
    for (host, expected) in [
        ("a.example", &first),
        ("b.example", &wildcard),
        ("y.b.example", &wildcard),
        ("x.b.example", &exact),
    ] {
        let mut client = site.client(edge.address(), host);
        let shown = client.wire().session().peer_certificates().expect("a certificate")[0].to_vec();
        assert!(shown == expected.der, "{host}");
    }
    let mut config = site.client_config(rustls::ALL_VERSIONS);
    config.enable_sni = false;
    let mut wire = site.wire(config, edge.address(), "a.example");
    wire.handshake().expect("without a server name the first certificate is given");
}

#[test]
fn bodies_pass_both_ways_whole() {
    let stage = stage("");
    let dir = stage.edge.dir();
    let (up, down) = (dir.join("up"), dir.join("down"));
    fs::write(&up, pattern_stream(LARGE).collect::<Vec<_>>().concat()).expect("a file");
    let (upload, into) = (format!("@{}", up.display()), down.display().to_string());
    for protocol in ["--http1.1", "--http2"] {
        for path in ["/large", "/chunks"] {
            said(&stage.curl("a.example", path, &[protocol, "--output", &into]));
            assert!(is_pattern(&down, LARGE), "{protocol} {path}");
            let args = [protocol, "--data-binary", &upload, "--output", &into];
            said(&stage.curl("a.example", path, &args));
            assert!(is_pattern(&down, LARGE), "{protocol} {path} while uploading");
        }
        let posted = stage.curl("a.example", "/p", &[protocol, "--data-binary", &upload]);
        assert_eq!(said(&posted), format!("POST /p {LARGE}"));
        let small = stage.curl("a.example", "/s", &[protocol, "--data-binary", "hello"]);
        assert_eq!(said(&small), "POST /s 5");
    }
    let posts = stage.backend.requests().into_iter().filter(|r| r.checked.length == LARGE);
    assert_eq!(posts.filter(|request| !request.checked.differs).count(), 6);
}

#[test]
fn many_streams_of_one_connection_are_whole() {
    const SIZE: u64 = 1_000_003;
    let stage = stage("");
    stage.backend.set(|_| Answer::new(200, Body::Pattern(SIZE)));
    let dir = stage.edge.dir();
    let into = dir.join("stream-#1").display().to_string();
    // curl sends them all on one connection: their frames take turns in what is gathered and sent.
    let args = ["--http2", "--parallel", "--parallel-max", "40", "--output", &into];
    said(&stage.curl("a.example", "/[1-40]", &args));
    for n in 1..=40 {
        assert!(is_pattern(&dir.join(format!("stream-{n}")), SIZE), "stream {n}");
    }
    assert_eq!(stage.backend.requests().len(), 40);
}

#[test]
fn endpoints_are_told_that_it_was_https() {
    let stage = stage("");
    for protocol in ["--http1.1", "--http2"] {
        // What the client claims is not believed.
        let args = [protocol, "-H", "X-Forwarded-Proto: http", "-H", "Forwarded: proto=http"];
        said(&stage.curl("a.example", "/", &args));
    }
    for request in stage.backend.requests() {
        assert_eq!(request.fields.all("x-forwarded-proto"), ["https"], "{request:?}");
        assert_eq!(request.fields.all("x-forwarded-for"), ["127.0.0.1"], "{request:?}");
        let forwarded = request.header("forwarded").unwrap_or("proto=https");
        assert!(forwarded.contains("proto=https"), "{forwarded}");
    }
    assert_eq!(stage.backend.requests().len(), 2);
}

#[test]
fn versions_are_those_of_the_configuration() {
    for (lines, old) in [("", true), ("tls.min_version = \"1.3\"", false)] {
        let stage = stage(lines);
        let mut wire = stage.wire(&TLS13);
        wire.handshake().expect("a handshake");
        assert_eq!(wire.session().protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(stage.wire(&TLS12).handshake().is_ok(), old, "{lines}");
        let curl = stage.curl("a.example", "/", &["--tls-max", "1.2"]);
        assert_eq!(curl.status.success(), old, "{lines}");
        assert!(!stage.curl("a.example", "/", &["--tls-max", "1.1"]).status.success());
        said(&stage.curl("a.example", "/", &["--tlsv1.3"]));
    }
}

#[test]
fn sessions_are_resumed_only_where_tickets_are_on() {
    for (lines, expected) in
        [("", HandshakeKind::Resumed), ("tls.session_tickets = false", HandshakeKind::Full)]
    {
        let stage = stage(lines);
        for version in EACH {
            let mut config = stage.site.client_config(&[version]);
            config.resumption = Resumption::in_memory_sessions(8);
            let config = Arc::new(config);
            let connect = || {
                let wire = stage.site.wire(config.clone(), stage.edge.address(), "a.example");
                let mut client = Client::on(wire);
                assert_eq!(client.get("/").text(), "GET / 0");
                client.wire().session().handshake_kind()
            };
            assert_eq!(connect(), Some(HandshakeKind::Full), "{version:?}");
            for _ in 0..10 {
                // Whichever worker accepts.
                assert_eq!(connect(), Some(expected), "{version:?} {lines}");
            }
        }
    }
}

#[test]
fn openssl_resumes_and_renews() {
    let stage = stage("");
    let address = stage.edge.address();
    for version in ["-tls1_2", "-tls1_3"] {
        let ticket = stage.edge.dir().join("ticket");
        let run = |way: &str| {
            let mut command = Command::new("timeout");
            command.args(["20", "openssl", "s_client", "-connect", &address.to_string()]);
            command.args(["-servername", "a.example", "-ign_eof", version, "-CAfile"]);
            command.arg(stage.site.root()).arg(way).arg(&ticket);
            command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
            let mut child = command.spawn().expect("openssl");
            let request = b"GET /s HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
            child.stdin.take().expect("a pipe").write_all(request).expect("a reader");
            said(&child.wait_with_output().expect("an end"))
        };
        let first = run("-sess_out");
        assert!(first.contains("New, ") && first.contains("Verification: OK"), "{first}");
        let again = run("-sess_in");
        assert!(again.contains("Reused, ") && again.contains("GET /s 0"), "{again}");
    }
}

#[test]
fn a_listener_of_http_2_alone_answers_nothing_else() {
    let stage = stage("protocols = [\"h2\"]");
    let out = stage.curl("a.example", "/", &["--http2", "--write-out", " %{http_version}"]);
    assert_eq!(said(&out), "GET / 0 2");
    assert!(stage.wire(&TLS13).handshake().is_err(), "http/1.1 alone was offered");
    let mut config = stage.site.client_config(rustls::ALL_VERSIONS);
    config.alpn_protocols.clear();
    let mut client = Client::on(stage.site.wire(config, stage.edge.address(), "a.example"));
    let _ = client.wire().send(&request_bytes("GET", "/", &[], b""));
    let (answer, end) = client.end();
    assert_eq!(String::from_utf8_lossy(&answer), "");
    assert_ne!(end, End::Open);
    assert_eq!(stage.backend.requests().len(), 1);
}

#[test]
fn a_client_that_offers_no_protocol_gets_http_1_1() {
    for lines in ["", "protocols = [\"http1\"]"] {
        let stage = stage(lines);
        let out = stage.curl("a.example", "/", &["--no-alpn", "--write-out", " %{http_version}"]);
        assert_eq!(said(&out), "GET / 0 1.1");
        // An older habit than ALPN: it is not HTTP/2 because it says so.
        let mut config = stage.site.client_config(rustls::ALL_VERSIONS);
        config.alpn_protocols.clear();
        let mut client = Client::on(stage.site.wire(config, stage.edge.address(), "a.example"));
        client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        assert!(matches!(client.response().status, 400 | 505));
    }
    // Both sides speak HTTP/1.1, the client would rather not.
    let stage = stage("protocols = [\"http1\"]");
    let out = stage.curl("a.example", "/", &["--http2", "--write-out", " %{http_version}"]);
    assert_eq!(said(&out), "GET / 0 1.1");
}

#[test]
fn the_edge_s_order_of_suites_counts_except_for_clients_that_put_chacha20_first() {
    let stage = stage("");
    let chosen = |version: &'static SupportedProtocolVersion, names: [Suite; 3]| {
        let mut provider = aws_lc_rs::default_provider();
        let all = std::mem::take(&mut provider.cipher_suites);
        let find = |name: &Suite| all.iter().find(|suite| suite.suite() == *name).copied();
        provider.cipher_suites = names.iter().filter_map(find).collect();
        assert_eq!(provider.cipher_suites.len(), 3);
        let config = stage.site.client_config_with(provider, &[version]);
        let mut wire = stage.site.wire(config, stage.edge.address(), "a.example");
        wire.handshake().expect("a handshake");
        wire.session().negotiated_cipher_suite().expect("a suite").suite()
    };
    let of_13 = [
        Suite::TLS13_AES_256_GCM_SHA384,
        Suite::TLS13_AES_128_GCM_SHA256,
        Suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    let of_12 = [
        Suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        Suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        Suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ];
    for (version, [strong, short, chacha]) in [(&TLS13, of_13), (&TLS12, of_12)] {
        assert_eq!(chosen(version, [strong, short, chacha]), strong);
        assert_eq!(chosen(version, [short, chacha, strong]), strong);
        assert_eq!(chosen(version, [chacha, short, strong]), chacha);
    }
}

/// Whatever came first decides by itself; the rest is waited for.
#[test]
fn a_hello_that_comes_byte_by_byte_is_a_hello() {
    let stage = stage("");
    for version in EACH {
        let mut wire = stage.wire(version);
        let hello = wire.sealed();
        for byte in &hello {
            wire.send_beneath(&[*byte]).expect("a connection");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        wire.handshake().expect("a handshake");
        let mut client = Client::on(wire).host("a.example");
        assert_eq!(client.request("GET", "/slowly", &[], b"").status, 200);
    }
}
