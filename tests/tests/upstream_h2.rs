//! HTTP/2 to endpoints: bodies and trailers both ways, shared connections, refusals, goodbyes, resets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use meridian_tests::{
    Backend, Broken, End, H2Backend, H2Settings, Meridian, Site, Wire, eventually, one_region,
    pattern_stream, regions, request_bytes,
};
use rustls::ALL_VERSIONS;

const LARGE: u64 = 3 << 20;
const WITHIN: Duration = Duration::from_secs(10);

fn config(backends: &[&H2Backend], lines: &str) -> String {
    let endpoints: Vec<_> = backends.iter().map(|backend| ("here", backend.address())).collect();
    let lines = format!("protocol = \"h2c\"\nhealth.kind = \"none\"\n{lines}\n");
    regions(&endpoints, &lines) + "[[routes]]\nname = \"all\"\nservice = \"api\"\n"
}

fn body() -> Vec<u8> {
    pattern_stream(LARGE).collect::<Vec<_>>().concat()
}

#[test]
fn requests_bodies_and_trailers_go_both_ways() {
    let backend = H2Backend::start(H2Settings::default());
    let edge = Meridian::start(&config(&[&backend], ""));
    let mut client = edge.client();
    let answer = client.request("GET", "/x?y=1", &[("X-A", "1"), ("Keep-Alive", "3")], b"");
    assert_eq!(answer.text(), "/x 0");
    assert_eq!(answer.header("content-length"), Some("4"));
    let seen = &backend.requests()[0];
    assert_eq!(seen.line, "GET http://test.example/x?y=1");
    assert_eq!(seen.fields["x-a"], "1");
    assert!(!seen.fields.contains_key("keep-alive") && !seen.fields.contains_key("host"));
    assert_eq!(seen.fields["via"], "1.1 meridian");
    assert!(client.get("/large").body == body());
    assert!(client.request("POST", "/echo", &[], &body()).body == body());
    // An answer that begins before the body is there ends a connection of HTTP/1.1.
    let mut client = edge.client();
    assert_eq!(client.request("POST", "/up", &[], &body()).text(), format!("/up {LARGE}"));
    assert_eq!(client.request("HEAD", "/x", &[], b"").header("content-length"), Some("4"));
    client.send(
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
         3\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 5\r\n\r\n",
    );
    let answer = client.try_response("POST").expect("an answer");
    assert_eq!((answer.text().as_str(), answer.trailers.get("x-sum")), ("abcde", Some("5")));
    // One that answers before it has read the body.
    let answer = edge.client().request("POST", "/half", &[], &[b'x'; 1000]);
    assert_eq!((answer.status, answer.text().as_str()), (403, "no"));
    let answer = edge.client().request("POST", "/only-trailers", &[], b"");
    assert_eq!(answer.header("grpc-status"), Some("5"));
}

#[test]
fn early_hints_pass() {
    let backend = H2Backend::start(H2Settings::default());
    let edge = Meridian::start(&config(&[&backend], ""));
    let mut client = edge.client();
    client.send("GET /early HTTP/1.1\r\nHost: a\r\n\r\n");
    let hint = client.wire().head().expect("a head").expect("a head");
    let hint = String::from_utf8(hint).expect("text");
    assert!(hint.starts_with("HTTP/1.1 103 ") && hint.contains("link: </a.css>\r\n"), "{hint}");
    assert_eq!(client.try_response("GET").expect("an answer").text(), "late");
}

#[test]
fn many_requests_share_few_connections_and_the_cap_on_streams_is_heeded() {
    for streams in [100, 3] {
        let settings = H2Settings { streams, ..H2Settings::default() };
        let backend = H2Backend::start(settings);
        let edge = Meridian::start(&(config(&[&backend], "") + "[edge]\nworker_threads = 1\n"));
        std::thread::scope(|scope| {
            for _ in 0..40 {
                scope.spawn(|| {
                    let mut client = edge.client();
                    for _ in 0..10 {
                        assert_eq!(client.request("POST", "/x", &[], b"abc").text(), "/x 3");
                    }
                });
            }
        });
        let connections = backend.connections();
        assert!(connections <= if streams == 100 { 1 } else { 14 }, "{connections}");
        let most = backend.most_active();
        assert!(most <= streams as usize * connections, "{most} on {connections}");
        assert_eq!(backend.requests().len(), 400);
    }
}

#[test]
fn a_refused_stream_goes_elsewhere_whatever_the_method() {
    let full = H2Backend::start(H2Settings { refuses: true, ..H2Settings::default() });
    let free = H2Backend::start(H2Settings::default());
    let edge = Meridian::start(&config(&[&full, &free], "balance = \"round_robin\""));
    for _ in 0..10 {
        let answer = edge.client().request("POST", "/x", &[], b"abc");
        assert_eq!(answer.text(), "/x 3");
    }
    assert_eq!(free.requests().len(), 10);
    assert!(full.connections() >= 1, "it was asked");
    let never_sent = edge.admin().metric_sum("meridian_retries_total", &["never-sent"]);
    assert!(never_sent >= 1.0, "{never_sent}");
    let ejected = edge.admin().metric_sum("meridian_ejections_total", &[]);
    assert_eq!(ejected, 0.0, "who has no room is no failure");
    let edge = Meridian::start(&config(&[&full], ""));
    assert_eq!(edge.client().request("POST", "/x", &[], b"abc").status, 503);
}

#[test]
fn goodbyes_of_the_endpoint_cost_nothing() {
    let settings = H2Settings { goaway_after: 20, ..H2Settings::default() };
    let backend = H2Backend::start(settings);
    let edge = Meridian::start(&config(&[&backend], ""));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = edge.client();
                for _ in 0..50 {
                    let answer = client.request("POST", "/x", &[], b"abc");
                    assert_eq!(answer.text(), "/x 3");
                }
            });
        }
    });
    assert!(backend.connections() >= 10, "{}", backend.connections());
    assert_eq!(backend.requests().len(), 400, "each was applied once");
}

#[test]
fn a_client_that_goes_resets_its_stream() {
    let backend = H2Backend::start(H2Settings::default());
    let edge = Meridian::start(&(config(&[&backend], "") + "[edge]\nworker_threads = 1\n"));
    let mut client = edge.client();
    client.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it has come", WITHIN, || !backend.requests().is_empty());
    let gone = Instant::now();
    client.wire().reset_when_dropped();
    drop(client);
    eventually("the stream is reset", WITHIN, || !backend.resets().is_empty());
    let (reason, at) = backend.resets()[0];
    assert_eq!(reason, h2::Reason::CANCEL);
    assert!(at - gone < Duration::from_secs(1), "{:?}", at - gone);
    assert_eq!(edge.get("/x").text(), "/x 0");
    assert_eq!(backend.connections(), 1, "the connection goes on");
}

#[test]
fn what_breaks_off_is_seen_to_break_off() {
    let backend = H2Backend::start(H2Settings::default());
    let edge = Meridian::start(&config(&[&backend], "retry.attempts = 0"));
    let mut client = edge.client();
    client.send("GET /cut HTTP/1.1\r\nHost: a\r\n\r\n");
    let broken = client.try_response("GET").expect_err("cut");
    assert!(matches!(&broken, Broken::Early(..)), "{broken:?}");
    let mut client = edge.client();
    client.send("POST /hang HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
    eventually("it has come", WITHIN, || {
        backend.requests().iter().any(|request| request.line.contains("/hang"))
    });
    backend.break_connections();
    assert_eq!(client.try_response("POST").expect("an answer").status, 502);
    assert_eq!(edge.get("/x").text(), "/x 0", "a new connection");
}

#[test]
fn an_endpoint_that_does_not_speak_it_gets_no_request() {
    let backend = Backend::start("here");
    let text = one_region(&backend).replacen(
        "[[services.endpoints]]",
        "protocol = \"h2c\"\n[[services.endpoints]]",
        1,
    );
    let edge = Meridian::start(&text);
    assert_eq!(edge.client().request("POST", "/x", &[], b"abc").status, 503);
    assert!(backend.requests().is_empty());
}

#[test]
fn a_target_that_it_cannot_say_is_the_clients_doing() {
    let backend = H2Backend::start(H2Settings::default());
    let edge = Meridian::start(&config(&[&backend], ""));
    for _ in 0..10 {
        let mut client = edge.client();
        client.send("GET /<x> HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.try_response("GET").expect("an answer").status, 400);
    }
    let services = edge.admin().json("/api/v1/services");
    assert_eq!(services[0]["endpoints"][0]["failures"], 0, "{services}");
    assert_eq!(edge.get("/x").text(), "/x 0");
    assert_eq!(backend.requests().len(), 1);
}

#[test]
fn an_offer_to_switch_protocols_is_an_ordinary_request() {
    let backend = H2Backend::start(H2Settings::default());
    let edge = Meridian::start(&config(&[&backend], ""));
    let offer = [("Connection", "Upgrade"), ("Upgrade", "websocket")];
    assert_eq!(edge.client().request("GET", "/x", &offer, b"").text(), "/x 0");
}

#[test]
fn under_tls_the_endpoint_must_choose_it() {
    let site = Site::new(&[]);
    let pair = site.issue(&["api.internal"]);
    for protocol in ["h2", "http/1.1"] {
        let mut tls = site.server_config(&pair, ALL_VERSIONS, None);
        tls.alpn_protocols = if protocol == "h2" { vec![b"h2".to_vec()] } else { Vec::new() };
        let settings = H2Settings { tls: Some(Arc::new(tls)), ..H2Settings::default() };
        let backend = H2Backend::start(settings);
        let tls =
            format!("tls.server_name = \"api.internal\"\ntls.ca = \"{}\"", site.root().display());
        let text = config(&[&backend], &tls).replace("\"h2c\"", "\"h2\"");
        let text = text.replace("health.kind = \"none\"", "health.interval = \"50ms\"");
        let edge = Meridian::start(&text);
        let answer = edge.client().request("POST", "/echo", &[], &body());
        if protocol == "h2" {
            assert!(answer.body == body());
            assert_eq!(backend.requests()[0].line, "POST https://test.example/echo");
            let up = edge.admin().metric_sum("meridian_endpoint_up", &[]);
            assert_eq!(up, 1.0, "probes speak it, too");
        } else {
            assert_eq!(answer.status, 503);
            let services = edge.admin().json("/api/v1/services");
            let error = services[0]["endpoints"][0]["tls_error"].as_str().unwrap_or_default();
            assert!(error.contains("HTTP/2"), "{services}");
        }
    }
}

#[test]
fn an_endpoint_that_misses_our_certificate_says_so() {
    let site = Site::new(&[]);
    let mut tls = site.server_config(&site.issue(&["api.internal"]), ALL_VERSIONS, Some(true));
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let backend =
        H2Backend::start(H2Settings { tls: Some(Arc::new(tls)), ..H2Settings::default() });
    let root = site.root().display().to_string();
    let tls = format!("tls.server_name = \"api.internal\"\ntls.ca = \"{root}\"");
    let edge = Meridian::start(&config(&[&backend], &tls).replace("\"h2c\"", "\"h2\""));
    // A reset that follows may be faster than the alert.
    eventually("it is said", WITHIN, || {
        assert_eq!(edge.get("/x").status, 503);
        let services = edge.admin().json("/api/v1/services");
        let error = services[0]["endpoints"][0]["tls_error"].as_str().unwrap_or_default();
        error.contains("CertificateRequired")
    });
    assert!(backend.requests().is_empty());
}

/// A connection on which nothing comes any more, not even an answer to PING, is given up; one that answers PING is not.
#[test]
fn silence_is_asked_and_only_who_says_nothing_is_given_up() {
    let dead = Backend::speaking("here", |wire: &mut Wire| {
        // Its settings, and nothing more.
        wire.send(&[0, 0, 0, 4, 0, 0, 0, 0, 0])?;
        wire.drain();
        Ok(())
    });
    let slow = H2Backend::start(H2Settings::default());
    let lines = "retry.attempts = 0\ntimeouts.first_byte = \"100s\"";
    let text = one_region(&dead);
    let text = text.replacen("health =", &format!("protocol = \"h2c\"\n{lines}\nhealth ="), 1);
    let edges = [Meridian::start(&text), Meridian::start(&config(&[&slow], lines))];
    let begun = Instant::now();
    let mut clients = edges.each_ref().map(Meridian::client);
    for client in &mut clients {
        client.wire().patience = Duration::from_secs(40);
        client.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    assert_eq!(clients[0].try_response("GET").expect("an answer").status, 502);
    assert!((10..35).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert!(slow.resets().is_empty() && slow.connections() == 1, "{:?}", slow.resets());
    clients[1].wire().patience = Duration::from_secs(1);
    let waits = clients[1].try_response("GET");
    assert!(matches!(waits, Err(Broken::Nothing(End::Open))), "{waits:?}");
}

#[test]
fn a_client_that_takes_nothing_holds_the_endpoint_back() {
    let backend = H2Backend::start(H2Settings::default());
    let edge = Meridian::start(&(config(&[&backend], "") + "[edge]\nworker_threads = 1\n"));
    assert!(edge.get("/large").body == body());
    assert_eq!(backend.connections(), 1);
    let before = edge.resident_bytes();
    let mut clients: Vec<_> = (0..40).map(|_| edge.client()).collect();
    for client in &mut clients {
        client.send("GET /huge HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    eventually("all have begun", WITHIN, || backend.requests().len() == 41);
    // Until all of them are stuck: the kernel takes some megabytes for each.
    std::thread::sleep(Duration::from_secs(1));
    // Others on the same connection are not held up.
    for _ in 0..50 {
        assert_eq!(edge.get("/x").text(), "/x 0");
    }
    assert!(edge.get("/large").body == body());
    assert_eq!(backend.connections(), 1);
    let grown = edge.resident_bytes().saturating_sub(before);
    // Not the 2,560 MiB that there are.
    assert!(grown < 40 << 20, "{} MiB", grown >> 20);
}

/// An answer is heard however little of the body the endpoint takes; also where the whole body is there at once, because
/// another endpoint has refused it.
#[test]
fn an_endpoint_without_a_window_may_answer_before_it_has_the_body() {
    let refuses = H2Backend::start(H2Settings { refuses: true, ..H2Settings::default() });
    let deaf = H2Backend::start(H2Settings { window: 100, ..H2Settings::default() });
    let edge = Meridian::start(&config(&[&refuses, &deaf], "timeouts.idle = \"30s\""));
    for _ in 0..6 {
        let began = Instant::now();
        let mut client = edge.client();
        client.send(request_bytes("POST", "/deaf", &[], &[b'x'; 50_000]));
        assert!(client.try_head().is_ok_and(|head| head.status == 403));
        assert!(began.elapsed() < WITHIN, "{:?}", began.elapsed());
    }
}

/// What was read of a write's body and waits for a window does not go to a primary that is one no more, however soon the
/// window comes.
#[test]
fn what_waits_for_a_window_stays_here_once_its_epoch_is_over() {
    let settings = || H2Settings { window: 1000, ..H2Settings::default() };
    let [us, eu] = [settings(), settings()].map(H2Backend::start);
    let endpoint = |region: &str, backend: &H2Backend| {
        format!(
            "[[services.endpoints]]\nregion = \"{region}\"\naddress = \"{}\"\n",
            backend.address()
        )
    };
    let only = |region: &str, epochs: &str| {
        format!(
            "[[routes]]\nname = \"{region}\"\npath_regex = \"^/epoch/{epochs}$\"\nservice = \"api\"\n\
             access = \"read\"\ncapability = \"{region}\"\n"
        )
    };
    let text = format!(
        "[[regions]]\nid = \"us\"\nrole = \"primary\"\npriority = 1\ncapabilities = [\"us\"]\n\
         [[regions]]\nid = \"eu\"\nrole = \"replica\"\npriority = 2\ncapabilities = [\"eu\"]\n\
         [[services]]\nname = \"api\"\nprotocol = \"h2c\"\npolicy = \"priority\"\n\
         replication.source = \"headers\"\n{}{}{}{}\
         [[routes]]\nname = \"all\"\nservice = \"api\"\n",
        endpoint("us", &us),
        endpoint("eu", &eu),
        only("us", "[0-9]*[13579]"),
        only("eu", "[0-9]*[02468]"),
    );
    let edge = Meridian::start(&text);
    let hear = |epoch: usize| {
        eventually("the edge hears of it", WITHIN, || {
            edge.get(&format!("/epoch/{epoch}")).status == 200
        });
    };
    for round in 0..5 {
        let [reign, next] = [2 * round + 1, 2 * round + 2];
        hear(reign);
        eventually("the reign is known", WITHIN, || {
            edge.admin().metric_sum("meridian_primary_epoch", &[]) == reign as f64
        });
        let mut client = edge.client();
        client.send("POST /held HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n");
        client.send(vec![b'x'; 5000]);
        eventually("a write is on its way", WITHIN, || us.held() == 1);
        hear(next);
        us.read_held();
        let answer = client.try_response("POST");
        assert!(answer.as_ref().is_ok_and(|answer| answer.status == 502), "{answer:?}");
        eventually("its end is seen", WITHIN, || us.held_ends().len() > round);
        assert_eq!(us.held_ends()[round], (1000, false));
    }
}
