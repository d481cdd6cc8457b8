//! TLS to endpoints: what is verified, what is shown, bodies, resumption, rotation.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use meridian_tests::{
    Answer, Backend, Body, Broken, Meridian, Pair, Shaken, Site, Wire, block, by_priority,
    eventually, loopback, one_region, pattern_stream,
};
use rustls::version::{TLS12, TLS13};
use rustls::{ALL_VERSIONS, ProtocolVersion, SupportedProtocolVersion};

const NAME: &str = "api.internal";
const LARGE: u64 = 3 << 20;
const WITHIN: Duration = Duration::from_secs(10);

fn answers(request: &meridian_tests::Received) -> Answer {
    match request.target.as_str() {
        "/large" => Answer::new(200, Body::Pattern(LARGE)),
        "/chunks" => Answer::new(200, Body::PatternChunks(LARGE)),
        "/until-close" => Answer::new(200, Body::UntilClose(block()[..5000].to_vec())),
        "/truncated" => {
            Answer::new(200, Body::UntilClose(block()[..5000].to_vec())).without_goodbye()
        }
        "/whole" => Answer::ok("all of it").then_close().without_goodbye(),
        "/cut" => Answer::ok(block()[..5000].to_vec()).cut_after(2000),
        target => Answer::ok(format!("{target} {}", request.checked.length)),
    }
}

/// An endpoint that shows this pair.
fn endpoint(site: &Site, pair: &Pair, versions: &[&'static SupportedProtocolVersion]) -> Backend {
    let backend = Backend::answering("here", answers);
    backend.secure(site.server_config(pair, versions, None));
    backend
}

/// One region whose service has these lines of `[services.tls]`, with the site's root.
fn config(site: &Site, backend: &Backend, lines: &str) -> String {
    with_tls(&one_region(backend), site, lines)
}

fn with_tls(text: &str, site: &Site, lines: &str) -> String {
    let service = "name = \"api\"\n";
    let tls = format!("{service}tls.ca = \"{}\"\n{lines}\n", site.root().display());
    text.replacen(service, &tls, 1)
}

fn named(lines: &str) -> String {
    format!("tls.server_name = \"{NAME}\"\n{lines}")
}

/// What `/api/v1/services` says of the only endpoint's TLS.
fn tls_error(edge: &Meridian) -> Option<String> {
    let services = edge.admin().get("/api/v1/services").json();
    let error = &services[0]["endpoints"][0]["tls_error"];
    error.as_str().map(str::to_owned)
}

fn handshakes(edge: &Meridian, result: &str) -> f64 {
    let result = format!("result=\"{result}\"");
    edge.admin().metric_sum("meridian_upstream_handshakes_total", &[&result])
}

#[test]
fn requests_and_bodies_go_both_ways_by_either_version() {
    let site = Site::new(&[]);
    let pair = site.issue(&[NAME]);
    for (version, number) in
        [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)]
    {
        let backend = endpoint(&site, &pair, &[version]);
        let edge = Meridian::start(&config(&site, &backend, &named("")));
        let mut client = edge.client();
        for _ in 0..20 {
            assert_eq!(client.get("/x").text(), "/x 0");
        }
        let body: Vec<u8> = pattern_stream(LARGE).collect::<Vec<_>>().concat();
        for path in ["/large", "/chunks"] {
            assert!(client.get(path).body == body, "{path}");
        }
        let answer = client.request("POST", "/up", &[], &body);
        assert_eq!(answer.text(), format!("/up {LARGE}"));
        assert!(backend.requests().last().expect("a request").checked.is(LARGE));
        assert_eq!(client.get("/until-close").body, &block()[..5000]);
        // One connection for all of these: the last answer has ended it.
        let shaken = backend.handshakes();
        let expected = Shaken::Hands {
            name: Some(NAME.into()),
            resumed: false,
            certificate: None,
            version: Some(number),
        };
        assert_eq!(shaken, [expected]);
        assert_eq!(tls_error(&edge), None);
        assert_eq!(handshakes(&edge, "full"), 1.0);
    }
}

#[test]
fn an_answer_that_the_connection_ends_needs_a_goodbye() {
    let site = Site::new(&[]);
    let backend = endpoint(&site, &site.issue(&[NAME]), ALL_VERSIONS);
    let edge = Meridian::start(&config(&site, &backend, &named("")));
    for path in ["/truncated", "/cut"] {
        let mut client = edge.client();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let broken = client.try_response("GET").expect_err("aborted");
        assert!(matches!(&broken, Broken::Early(..)), "{path}: {broken:?}");
    }
    // One whose length was announced is whole without.
    assert_eq!(edge.get("/whole").text(), "all of it");
}

#[test]
fn the_endpoints_own_name_or_address_is_what_counts_without_another() {
    let site = Site::new(&[]);
    let pair = site.issue(&[&loopback().to_string(), "localhost"]);
    let backend = endpoint(&site, &pair, ALL_VERSIONS);
    let edge = Meridian::start(&config(&site, &backend, ""));
    assert_eq!(edge.get("/x").text(), "/x 0");
    let mut asked = backend.handshakes();
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let backend = Backend::answering_at("here", anywhere, answers).expect("a port");
    backend.secure(site.server_config(&pair, ALL_VERSIONS, None));
    let by_name = config(&site, &backend, "").replace("127.0.0.1:", "localhost:");
    let edge = Meridian::start(&by_name);
    eventually("the name is resolved", WITHIN, || edge.get("/x").status == 200);
    asked.extend(backend.handshakes());
    let names: Vec<_> = asked
        .iter()
        .map(|shaken| match shaken {
            Shaken::Hands { name, .. } => name.as_deref(),
            Shaken::Failed => panic!("{asked:?}"),
        })
        .collect();
    assert_eq!(names[0], None, "an address is no name (RFC 6066)");
    assert_eq!(names[1], Some("localhost"));
}

#[test]
fn without_a_file_of_roots_the_systems_count() {
    let site = Site::new(&[]);
    let backend = endpoint(&site, &site.issue(&[NAME]), ALL_VERSIONS);
    let service = "name = \"api\"\n";
    let text = one_region(&backend).replacen(service, &(service.to_owned() + &named("")), 1);
    let root = site.root().display().to_string();
    let edge = Meridian::start_with(&text, &[("SSL_CERT_FILE", &root)]);
    assert_eq!(edge.get("/x").text(), "/x 0");
    let edge = Meridian::start(&text);
    assert_eq!(edge.get("/x").status, 503, "nobody's system trusts this root");
}

#[test]
fn what_does_not_verify_gets_no_request_and_is_said() {
    let (site, other) = (Site::new(&[]), Site::new(&[]));
    for (pair, says) in [
        (site.issue(&["other.internal"]), "not valid for name"),
        (site.issue_expired(&[NAME]), "expired"),
        (other.issue(&[NAME]), "BadSignature"),
    ] {
        let backend = endpoint(&site, &pair, ALL_VERSIONS);
        let edge = Meridian::start(&config(&site, &backend, &named("")));
        // A request that must not be repeated: nothing of it has left.
        let answer = edge.client().request("POST", "/x", &[], b"data");
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(!answer.text().contains("certificate"), "{}", answer.text());
        assert!(backend.requests().is_empty());
        let error = tls_error(&edge).unwrap_or_default();
        assert!(error.contains(says), "{error}");
        eventually("it is logged", WITHIN, || edge.stderr().contains(says));
        assert!(handshakes(&edge, "unverified") >= 1.0);
        assert_eq!(handshakes(&edge, "full"), 0.0);
        // Mended, it is taken again, and nothing is said any more.
        backend.secure(site.server_config(&site.issue(&[NAME]), ALL_VERSIONS, None));
        eventually("it is used", WITHIN, || edge.get("/x").status == 200);
        assert_eq!(tls_error(&edge), None);
    }
}

#[test]
fn an_endpoint_that_fails_its_handshake_is_passed_over() {
    let site = Site::new(&[]);
    let bad = endpoint(&site, &site.issue(&["other.internal"]), ALL_VERSIONS);
    let good = endpoint(&site, &site.issue(&[NAME]), ALL_VERSIONS);
    let plain = Backend::speaking("plain", |wire: &mut Wire| {
        wire.send(b"HTTP/1.1 400 This is not TLS\r\n\r\n")
    });
    let further = |backend: &Backend| {
        format!("[[services.endpoints]]\nregion = \"here\"\naddress = \"{}\"\n", backend.address())
    };
    let text = config(&site, &bad, &named("balance = \"round_robin\""));
    let text = text.replacen("[[routes]]", &(further(&good) + &further(&plain) + "[[routes]]"), 1);
    let edge = Meridian::start(&text);
    for n in 0..30 {
        let answer = edge.client().request("POST", "/x", &[], b"data");
        assert_eq!(answer.status, 200, "{n}: {}", answer.text());
    }
    assert_eq!(good.requests().len(), 30);
    let ejected = edge.admin().metric_sum("meridian_ejections_total", &["connection-failures"]);
    assert!(ejected >= 1.0, "{ejected}");
}

#[test]
fn a_handshake_that_never_ends_counts_as_a_connect_that_does_not() {
    let site = Site::new(&[]);
    let silent = Backend::speaking("here", |wire: &mut Wire| {
        wire.drain();
        Ok(())
    });
    let lines = named("timeouts.connect = \"300ms\"");
    let edge = Meridian::start(&config(&site, &silent, &lines));
    let begun = std::time::Instant::now();
    assert_eq!(edge.get("/x").status, 503);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert!(handshakes(&edge, "failed") >= 1.0);
}

#[test]
fn endpoints_that_ask_are_shown_the_certificate() {
    let site = Site::new(&[]);
    let (pair, client) = (site.issue(&[NAME]), site.issue(&["edge.internal"]));
    site.put("client", &client);
    let dir = site.dir().display().to_string();
    let shown = named(&format!(
        "tls.certificate = \"{dir}/client.pem\"\ntls.private_key = \"{dir}/client.key\""
    ));
    for version in ALL_VERSIONS {
        let backend = endpoint(&site, &pair, &[version]);
        backend.secure(site.server_config(&pair, &[version], Some(true)));
        let edge = Meridian::start(&config(&site, &backend, &shown));
        assert_eq!(edge.get("/x").text(), "/x 0");
        let Shaken::Hands { certificate, .. } = &backend.handshakes()[0] else { panic!("none") };
        assert_eq!(certificate.as_ref(), Some(&client.der));

        let bare = Meridian::start(&config(&site, &backend, &named("")));
        // A reset that follows may be faster than the alert.
        eventually("it is said", WITHIN, || {
            let answer = bare.get("/x");
            assert!(matches!(answer.status, 502 | 503), "{}", answer.text());
            tls_error(&bare).is_some_and(|error| error.contains("ertificate"))
        });
        assert_eq!(backend.requests().len(), 1);
    }
}

#[test]
fn sessions_are_resumed_and_counted() {
    let site = Site::new(&[]);
    for version in ALL_VERSIONS {
        let backend = endpoint(&site, &site.issue(&[NAME]), &[version]);
        let config = config(&site, &backend, &named(""));
        let edge = Meridian::start(&format!("{config}[edge]\nworker_threads = 1\n"));
        for _ in 0..5 {
            assert_eq!(edge.get("/x").status, 200);
            backend.close_connections();
            eventually("the edge has heard", WITHIN, || backend.open_connections() == 0);
        }
        let resumed = handshakes(&edge, "resumed");
        assert!(resumed >= 3.0, "{resumed} of {}", backend.handshakes().len());
        let seen = backend.handshakes();
        let seen = seen.iter().filter(|s| matches!(s, Shaken::Hands { resumed: true, .. }));
        assert_eq!(seen.count() as f64, resumed);
    }
}

#[test]
fn probes_and_status_pages_go_over_the_same_tls() {
    let site = Site::new(&[]);
    let pair = site.issue(&[NAME]);
    for kind in ["http", "tcp"] {
        let backend = endpoint(&site, &pair, ALL_VERSIONS);
        let text = config(&site, &backend, &named(""));
        let text =
            text.replace("kind = \"none\"", &format!("kind = \"{kind}\", interval = \"50ms\""));
        let edge = Meridian::start(&text);
        let up = |value| edge.admin().metric_sum("meridian_endpoint_up", &[]) == value;
        eventually("it is healthy", WITHIN, || up(1.0));
        let fine = backend.handshakes();
        assert!(fine.iter().all(|s| matches!(s, Shaken::Hands { name: Some(_), .. })), "{fine:?}");
        backend.secure(site.server_config(&site.issue(&["other.internal"]), ALL_VERSIONS, None));
        backend.close_connections();
        eventually("it is not", WITHIN, || up(0.0));
        let error = tls_error(&edge).unwrap_or_default();
        assert!(error.contains("not valid for name"), "{error}");
    }
    let primary = endpoint(&site, &pair, ALL_VERSIONS);
    let replica = Backend::answering("there", |request| match request.target.as_str() {
        "/meridian/status" => Answer::ok("{\"role\":\"replica\",\"lag_ms\":1200}"),
        _ => Answer::ok("x"),
    });
    replica.secure(site.server_config(&pair, ALL_VERSIONS, None));
    let text = by_priority(&[&primary, &replica]);
    let lines = named("replication = { source = \"status\", interval = \"50ms\" }");
    let edge = Meridian::start(&with_tls(&text, &site, &lines));
    eventually("the lag is known", WITHIN, || {
        edge.admin().metric_sum("meridian_replication_lag_seconds", &[]) == 1.2
    });
}

#[test]
fn certificates_rotate_under_load_without_a_failure() {
    let site = Site::new(&[]);
    let client = site.issue(&["edge.internal"]);
    site.put("client", &client);
    let dir = site.dir().display().to_string();
    let pair = site.issue(&[NAME]);
    let backend = endpoint(&site, &pair, ALL_VERSIONS);
    backend.secure(site.server_config(&pair, ALL_VERSIONS, Some(true)));
    let lines = named(&format!(
        "tls.certificate = \"{dir}/client.pem\"\ntls.private_key = \"{dir}/client.key\""
    ));
    let edge = Meridian::start(&config(&site, &backend, &lines));
    let (done, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let failures =
        || edge.admin().metric("meridian_certificate_reload_failures_total").expect("a counter");
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut client = edge.client();
                while !done.load(SeqCst) {
                    // Panics where one fails. A POST is never repeated.
                    assert_eq!(client.request("POST", "/x", &[], b"data").text(), "/x 4");
                    answered.fetch_add(1, SeqCst);
                }
            });
        }
        let guard = OnDrop(&done);
        for n in 0..10 {
            let next = site.issue(&["edge.internal"]);
            if n == 5 {
                // A broken pair changes nothing.
                let before = failures();
                site.put_file("client.key", "no key");
                eventually("it is refused", WITHIN, || failures() > before);
            }
            site.put("client", &next);
            eventually("the new one is shown", WITHIN, || {
                let last = backend.handshakes().pop();
                matches!(last, Some(Shaken::Hands { certificate: Some(shown), .. }) if shown == next.der)
            });
        }
        drop(guard);
    });
    assert!(answered.load(SeqCst) > 100, "{}", answered.load(SeqCst));
    assert!(!edge.stderr().contains("PRIVATE"), "{}", edge.stderr());
}

/// Sets its flag also when a test fails.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn a_reload_brings_tls_to_a_service_and_takes_it_away() {
    let site = Site::new(&[]);
    let secure = endpoint(&site, &site.issue(&[NAME]), ALL_VERSIONS);
    let plain = Backend::answering("here", |_| Answer::ok("plain"));
    let edge = Meridian::start(&one_region(&plain));
    for _ in 0..3 {
        assert_eq!(edge.get("/x").text(), "plain");
        let answer = edge.reload(&config(&site, &secure, &named("")));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(edge.get("/x").text(), "/x 0");
        let answer = edge.reload(&one_region(&plain));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let missing =
        config(&site, &secure, "tls.certificate = \"no.pem\"\ntls.private_key = \"no.key\"");
    let refused = edge.reload(&missing);
    assert!(
        refused.status >= 400 && refused.text().contains("services[0].tls"),
        "{}",
        refused.text()
    );
    assert_eq!(edge.get("/x").text(), "plain");
}

#[test]
fn offers_to_switch_protocols_go_over_tls_as_well() {
    const HEAD: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nHost: a\r\n\r\n";
    let site = Site::new(&[]);
    let pair = site.issue(&[NAME]);
    let backend = Backend::speaking("here", |wire: &mut Wire| {
        while let Some(request) = wire.request_head()? {
            if request.target == "/refused" {
                wire.send(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")?;
                continue;
            }
            wire.send(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                  Upgrade: websocket\r\n\r\nfirst",
            )?;
            loop {
                let data = wire.read_some()?;
                if data.is_empty() {
                    return wire.dismiss();
                }
                wire.send(&data)?;
            }
        }
        Ok(())
    });
    backend.secure(site.server_config(&pair, ALL_VERSIONS, None));
    let edge = Meridian::start(&config(&site, &backend, &named("")));
    let mut client = edge.client();
    client.send(format!("GET /refused HTTP/1.1\r\n{HEAD}"));
    let refused = client.try_response("GET").expect("an answer");
    assert_eq!((refused.status, refused.text().as_str()), (403, "no"));
    client.send(format!("GET /tunnel HTTP/1.1\r\n{HEAD}"));
    let head = client.wire().head().expect("a head").expect("a head");
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    assert_eq!(read(client.wire(), 5), b"first");
    let large = block().repeat(8);
    client.send(&large);
    assert!(read(client.wire(), large.len()) == large);
    let fine = backend.handshakes();
    assert!(fine.iter().all(|s| matches!(s, Shaken::Hands { .. })), "{fine:?}");

    backend.secure(site.server_config(&site.issue(&["other.internal"]), ALL_VERSIONS, None));
    let mut client = edge.client();
    client.send(format!("GET /tunnel HTTP/1.1\r\n{HEAD}"));
    assert_eq!(client.try_response("GET").expect("an answer").status, 503);
    assert!(tls_error(&edge).unwrap_or_default().contains("not valid for name"));
}

fn read(wire: &mut Wire, length: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < length {
        let data = wire.read_some().expect("bytes");
        assert!(!data.is_empty(), "it ended after {}", all.len());
        all.extend_from_slice(&data);
    }
    all
}
