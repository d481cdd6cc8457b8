//! Whoever is answered is in the access log: with the request id that the client was told, whatever became of the request.

use std::time::Duration;

use meridian_tests::h2_frames::{H2, fields, headers, kind, request_block};
use meridian_tests::{Backend, Meridian, exchange, one_region};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(10);

const LIMITS: &str = "[limits]\nheader_bytes = \"8KiB\"\nheaders = 32\nrequest_line_bytes = \"1KiB\"\n\
                      body_bytes = \"64KiB\"\nheader_timeout = \"1s\"\n";

fn of_id(edge: &Meridian, id: &str) -> Value {
    edge.logged(|line| line["request_id"] == id)
}

#[test]
fn a_request_that_was_not_read_whole_has_its_line() {
    let backend = Backend::start("here");
    let edge = Meridian::start(&format!("{LIMITS}{}", one_region(&backend)));
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(4000));
    let many = format!("GET /m HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(40));
    for (sent, status, method, target) in [
        ("POST /big HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n\r\n", 413, "POST", "/big"),
        (many.as_str(), 431, "GET", "/m"),
        ("GET /slow HTTP/1.1\r\nHost: ", 408, "GET", "/slow"),
        ("GET /no-host HTTP/1.1\r\n\r\n", 400, "GET", "/no-host"),
        ("GET /\u{1} HTTP/1.1\r\nHost: a\r\n\r\n", 400, "GET", "-"),
        ("\u{16}\u{3}\u{1}\r\n\r\n", 400, "-", "-"),
        ("GET /coding HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\n\r\n", 501, "GET", "/coding"),
        ("GET /v HTTP/1.9\r\nHost: a\r\n\r\n", 505, "GET", "/v"),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405, "CONNECT", "a:443"),
        ("OPTIONS /here HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n", 200, "OPTIONS", "/here"),
    ] {
        let answers = exchange(edge.address(), sent.as_bytes(), PATIENCE).responses();
        assert_eq!(answers.len(), 1, "{sent:?}");
        assert_eq!(answers[0].status, status, "{sent:?}");
        let line = match answers[0].header("x-request-id") {
            Some(id) => of_id(&edge, id),
            // It is answered as RFC 9110 has it, without an id.
            None => edge.logged(|line| line["reason"] == "last-hop"),
        };
        assert_eq!(line["status"], status, "{line}");
        assert_eq!(line["method"], method, "{line}");
        assert_eq!(line["target"], target, "{line}");
        assert_eq!(line["client"], "127.0.0.1", "{line}");
        assert!(line["region"].is_null(), "{line}");
    }
    let answers = exchange(edge.address(), long.as_bytes(), PATIENCE).responses();
    let line = of_id(&edge, answers[0].header("x-request-id").expect("an id"));
    assert_eq!((&line["status"], &line["method"]), (&414.into(), &"GET".into()));
    let shown = line["target"].as_str().expect("a target");
    assert!(shown.starts_with("/aaa") && shown.len() == 1024, "{shown}");
    assert!(backend.requests().is_empty());
}

#[test]
fn a_body_that_a_route_does_not_take_has_a_line_with_the_route() {
    let backend = Backend::start("here");
    let edge = Meridian::start(&format!("{}body_bytes = \"1KiB\"\n", one_region(&backend)));
    let sent = "POST /b HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine\r\nContent-Length: 2000\r\n\r\n";
    let answers = exchange(edge.address(), sent.as_bytes(), PATIENCE).responses();
    assert_eq!((answers[0].status, answers[0].header("x-request-id")), (413, Some("mine")));
    let line = of_id(&edge, "mine");
    assert_eq!((&line["status"], &line["route"]), (&413.into(), &"all".into()), "{line}");
    assert_eq!(line["reason"], "malformed");
}

#[test]
fn a_connection_that_is_told_so_when_it_is_turned_away_has_a_line() {
    let backend = Backend::start("here");
    for (limit, status, reason) in [
        ("[limits]\nconnections_per_client = 1\n", 429, "client-connections"),
        ("[edge]\nmax_connections = 1\n", 503, "edge-connections"),
    ] {
        let edge = Meridian::start(&format!("{limit}{}", one_region(&backend)));
        let mut first = edge.client();
        assert_eq!(first.get("/").status, 200);
        let answer = edge.get("/");
        assert_eq!(answer.status, status);
        let line = of_id(&edge, answer.header("x-request-id").expect("an id"));
        assert_eq!(line["reason"], reason, "{line}");
        assert_eq!(line["status"], status, "{line}");
        assert_eq!((&line["client"], &line["target"]), (&"127.0.0.1".into(), &"-".into()));
    }
}

#[test]
fn streams_of_http2_have_their_lines_alike() {
    let backend = Backend::start("here");
    let edge = Meridian::start(&format!("{LIMITS}{}", one_region(&backend)));
    let many: Vec<_> = (0..40).map(|_| ("x", "y")).collect();
    let big = [("content-length", "99999")];
    for (block, end, status) in [
        (request_block("GET", "/m", &many), true, 431),
        (request_block("POST", "/big", &big), false, 413),
        (request_block("GET", "/a\"b", &[]), true, 400),
        (request_block("OPTIONS", "/o", &[("max-forwards", "0")]), true, 200),
    ] {
        let mut client = H2::connect(edge.address(), &[]);
        client.send(&headers(1, end, &block)).expect("sent");
        let data = client.expect("the answer's body", |frame| frame.kind == kind::DATA);
        let text = String::from_utf8_lossy(&data.payload).into_owned();
        let id = text.lines().find_map(|line| line.strip_prefix("request id: ")).expect("an id");
        assert_eq!(id.len(), 32, "{text}");
        let line = of_id(&edge, id);
        assert_eq!(line["status"], status, "{line}");
        assert_eq!(line["protocol"], "HTTP/2.0", "{line}");
        assert_eq!(line["client"], "127.0.0.1", "{line}");
    }
}

#[test]
fn nothing_of_a_stream_gets_out_of_its_place_in_the_line() {
    let backend = Backend::start("here");
    let edge = Meridian::start(&one_region(&backend));
    for (method, path, host, shown) in [
        ("GET", "/a HTTP/1.1\" 200 7 \"", "a.example", ["GET", "-", "a.example"]),
        ("GET / HTTP/1.1", "/b", "a.example", ["-", "/b", "a.example"]),
        ("GET", "/\u{202e}c\u{2028}", "a.example", ["GET", "-", "a.example"]),
        ("GET", "/d", "a b\u{202e}", ["GET", "/d", "-"]),
        ("G\u{85}T", "/e", "a/b", ["-", "/e", "-"]),
    ] {
        let mut client = H2::connect(edge.address(), &[]);
        let pseudo =
            [(":method", method), (":scheme", "http"), (":path", path), (":authority", host)];
        client.send(&headers(1, true, &fields(&pseudo))).expect("sent");
        let data = client.expect("the answer's body", |frame| frame.kind == kind::DATA);
        let text = String::from_utf8_lossy(&data.payload).into_owned();
        let id = text.lines().find_map(|line| line.strip_prefix("request id: ")).expect("an id");
        let line = of_id(&edge, id);
        assert_eq!([&line["method"], &line["target"], &line["host"]], shown, "{line}");
    }
}
