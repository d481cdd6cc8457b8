//! The request tables of the HTTP contract, sent as bytes to the real binary: the status, the end of
//! the connection, nothing of the following bytes taken for a request, nothing at the endpoint.

use std::time::Duration;

use meridian_tests::{Backend, Broken, Client, End, Meridian, eventually, exchange, one_region};

const PATIENCE: Duration = Duration::from_secs(10);
const NEXT: &str = "GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n";

const LIMITS: &str = "[limits]\nheader_bytes = \"8KiB\"\nheaders = 32\nrequest_line_bytes = \"1KiB\"\n\
                      body_bytes = \"64KiB\"\nheader_timeout = \"1s\"\n";

struct Stage {
    backend: Backend,
    edge: Meridian,
}

impl Stage {
    fn new() -> Self {
        let backend = Backend::start("here");
        let edge = Meridian::start(&format!("{LIMITS}{}", one_region(&backend)));
        Self { backend, edge }
    }

    /// A row: these bytes, with a request behind them, get one answer with one of these statuses.
    #[track_caller]
    fn refuses(&self, bytes: &[u8], statuses: &[u16]) {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
        let seen = exchange(self.edge.address(), &[bytes, NEXT.as_bytes()].concat(), PATIENCE);
        assert_ne!(seen.end, End::Open, "not closed: {shown:?}");
        let answers = seen.responses();
        assert_eq!(answers.len(), 1, "{answers:#?}: {shown:?}");
        let answer = &answers[0];
        assert!(statuses.contains(&answer.status), "{}: {shown:?}", answer.status);
        assert_eq!(answer.header("connection"), Some("close"), "{shown:?}");
        assert!(answer.header("x-request-id").is_some(), "{shown:?}");
        assert!(!answer.body.is_empty(), "{shown:?}");
        let reached = self.backend.requests();
        assert!(reached.is_empty(), "{shown:?} reached the endpoint as {reached:#?}");
    }

    #[track_caller]
    fn refuses_fields(&self, lines: &str, statuses: &[u16]) {
        let head = format!("POST / HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n\r\n");
        self.refuses(head.as_bytes(), statuses);
    }

    #[track_caller]
    fn refuses_chunks(&self, body: &str) {
        let head = "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n";
        self.refuses(format!("{head}{body}").as_bytes(), &[400]);
    }

    /// The stage can tell: an ordinary request does reach the endpoint.
    fn still_serves(&self) {
        assert_eq!(self.edge.get("/fine").status, 200);
        assert_eq!(self.backend.only_request().target, "/fine");
    }
}

#[test]
fn hosts() {
    let stage = Stage::new();
    for lines in ["X: y\r\n", "Host:\r\n", "Host: a\r\nHost: a\r\n", "Host: a\r\nhost: b\r\n"] {
        stage.refuses(format!("GET / HTTP/1.1\r\n{lines}\r\n").as_bytes(), &[400]);
    }
    for host in
        ["a b", "a/b", "u@a", "a:x", "a:99999", "[::1", "::1", "a?b", "a#b", "http://a", "\u{e9}"]
    {
        stage.refuses(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes(), &[400]);
    }
    for (target, host) in [
        ("http://a.example/", "b.example"),
        ("http://a.example:81/", "a.example"),
        ("http://u@a.example/", "a.example"),
        ("ftp://a.example/", "a.example"),
        ("http:///", "a.example"),
    ] {
        stage.refuses(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes(), &[400]);
    }
    stage.still_serves();
}

#[test]
fn lengths_and_codings() {
    let stage = Stage::new();
    for value in ["+1", "-1", "0x1", "1, 1", "1 1", "", "1a", "99999999999999999999", "\t1", "1\t"]
    {
        stage.refuses_fields(&format!("Content-Length: {value}"), &[400]);
    }
    for lines in [
        "Content-Length: 1\r\nContent-Length: 2",
        "Content-Length: 44\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 44",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Content-Length: 44\r\ntransfer-encoding : chunked",
    ] {
        stage.refuses_fields(lines, &[400]);
    }
    for value in [
        "chunked, chunked",
        "gzip, chunked",
        "chunked, gzip",
        "\tchunked",
        "chunked\t",
        "chunked ",
        "chunked;q=1",
        "\u{b}chunked",
        "",
    ] {
        stage.refuses_fields(&format!("Transfer-Encoding: {value}"), &[400]);
    }
    for value in ["xchunked", "gzip", "identity"] {
        stage.refuses_fields(&format!("Transfer-Encoding: {value}"), &[400, 501]);
    }
    stage.refuses(
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        &[400],
    );
    stage.still_serves();
}

#[test]
fn lines_and_fields() {
    let stage = Stage::new();
    for head in [
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        "GET / HTTP/1.1\rHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        stage.refuses(head.as_bytes(), &[400]);
    }
    for lines in [
        "X : y",
        "X\t: y",
        " X: y",
        "X: y\r\n z",
        "X: y\r\n\tz",
        ": y",
        "X",
        "X y",
        "(x): y",
        "X@: y",
        "X\u{0}: y",
        "X: y\u{0}",
        "X: \u{1}",
        "X: \u{7f}",
        "\u{e9}: y",
    ] {
        stage.refuses_fields(lines, &[400]);
    }
    stage.still_serves();
}

#[test]
fn request_lines() {
    let stage = Stage::new();
    for line in [
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET /",
        "GET",
        "G@T / HTTP/1.1",
        "GET /\u{0} HTTP/1.1",
        "GET /\u{7f} HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "GET /a\\b HTTP/1.1",
        "GET /a\"b HTTP/1.1",
        "GET /a#b HTTP/1.1",
        "GET x HTTP/1.1",
        "GET * HTTP/1.1",
        "\u{0}\u{1}\u{2}",
        "{\"json\": 1}",
        "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}",
    ] {
        let head = format!("{line}\r\nHost: a.example\r\n\r\n");
        // What stands where the version should may be taken for one.
        stage.refuses(head.as_bytes(), &[400, 505]);
    }
    for version in ["HTTP/2.0", "HTTP/1.2", "HTTP/0.9", "http/1.1", "HTTP/1.10", "HTTQ/1.1"] {
        let head = format!("GET / {version}\r\nHost: a.example\r\n\r\n");
        stage.refuses(head.as_bytes(), &[400, 505]);
    }
    stage.refuses(b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n", &[405]);
    stage.still_serves();
}

#[test]
fn chunks() {
    let stage = Stage::new();
    for body in [
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5 ;a\r\nhello\r\n0\r\n\r\n",
        "\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
        "ffffffffffffffff\r\nhello",
        "10000000000000000\r\n",
        "0\r\nA: b\nC: d\r\n\r\n",
        "0\r\nA : b\r\n\r\n",
        "0\r\n: b\r\n\r\n",
        "0\r\nA: b\r\n c\r\n\r\n",
    ] {
        stage.refuses_chunks(body);
    }
    stage.still_serves();
}

#[test]
fn a_chunk_that_breaks_late_ends_both_sides() {
    let stage = Stage::new();
    let mut client = stage.edge.client();
    client
        .send("POST /late HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    eventually("the head reaches the endpoint", PATIENCE, || stage.backend.open_connections() == 1);
    client.send(format!("0x5\r\n{NEXT}"));
    let answer = client.response();
    assert_eq!((answer.status, answer.header("connection")), (400, Some("close")));
    assert!(client.is_closed());
    eventually("the endpoint sees the end", PATIENCE, || stage.backend.open_connections() == 0);
    let complete = stage.backend.requests().into_iter().filter(|request| request.complete);
    assert_eq!(complete.count(), 0);
}

#[test]
fn sizes() {
    let stage = Stage::new();
    let long = "x".repeat(1024);
    stage.refuses(format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), &[414]);
    stage.refuses(format!("GET /{}", long.repeat(16)).as_bytes(), &[414]);
    let many: String = (0..32).map(|i| format!("X-{i}: y\r\n")).collect();
    stage.refuses(format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n").as_bytes(), &[431]);
    for size in [8192, 1_000_000] {
        let large = "y".repeat(size);
        stage
            .refuses(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {large}\r\n\r\n").as_bytes(), &[431]);
    }
    stage.refuses_fields("Content-Length: 65537", &[413]);
    stage.still_serves();
}

#[test]
fn a_body_over_the_limit_is_not_read_to_its_end() {
    let stage = Stage::new();
    // Announced: nothing of it has to be sent.
    let mut client = stage.edge.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n");
    assert_eq!(client.response().status, 413);
    // With an expectation: the answer instead of 100 Continue.
    let mut client = stage.edge.client();
    client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 99999\r\n\r\n",
    );
    let answer = client.response();
    assert_eq!((answer.status, answer.interim.len()), (413, 0));
    assert!(client.is_closed());
    assert!(stage.backend.requests().is_empty());
    // Not announced: as soon as it is too much.
    let mut client = stage.edge.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunk = format!("1000\r\n{}\r\n", "z".repeat(4096));
    let sent = (0..100_000).take_while(|_| client.wire().send(chunk.as_bytes()).is_ok()).count();
    assert!(sent < 100_000, "400 MB of body were taken");
    let complete = stage.backend.requests().into_iter().filter(|request| request.complete);
    assert_eq!(complete.count(), 0);
    // The same, by a client that looks before it sends on.
    let mut client = stage.edge.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send(chunk.repeat(17));
    assert_eq!(client.response().status, 413);
    assert!(client.is_closed());
}

#[test]
fn a_head_must_come_in_time() {
    let stage = Stage::new();
    // Nothing at all, the start of a head, and a head that never stops coming.
    let mut silent = stage.edge.client();
    let mut slow = stage.edge.client();
    slow.send("GET / HTTP/1.1\r\nHos");
    let mut dripping = stage.edge.client();
    dripping.send("GET / HTTP/1.1\r\n");
    dripping.wire().patience = Duration::from_millis(50);
    let mut answer = None;
    for i in 0..200 {
        // An error here is the end that is waited for below.
        let _ = dripping.wire().send(format!("X-{i}: y\r\n").as_bytes());
        match dripping.try_response("GET") {
            Err(Broken::Nothing(End::Open)) => {}
            other => {
                answer = Some(other);
                break;
            }
        }
    }
    match answer {
        Some(Ok(response)) => assert_eq!(response.status, 408),
        Some(Err(Broken::Nothing(_))) => {}
        other => panic!("a head may take longer than its deadline: {other:?}"),
    }
    assert!(silent.is_closed());
    let late = slow.try_response("GET");
    match late {
        Ok(response) => assert_eq!(response.status, 408),
        Err(Broken::Nothing(End::Closed | End::Reset)) => {}
        Err(other) => panic!("{other:?}"),
    }
    stage.still_serves();
}

#[test]
fn garbage_is_answered_without_waiting_for_more() {
    let stage = Stage::new();
    for bytes in ["\u{16}\u{3}\u{1}\u{2}", "SSH-2.0-OpenSSH_9\r\n", "GET / HTTP/9.9\r\n", "{}\r\n"]
    {
        let mut client = Client::connect(stage.edge.address());
        // Well under the deadline of a head.
        client.wire().patience = Duration::from_millis(700);
        let answer = client.send(bytes).try_response("GET");
        assert!(matches!(&answer, Ok(r) if matches!(r.status, 400 | 505)), "{bytes:?}: {answer:?}");
        assert!(client.is_closed());
    }
    stage.still_serves();
}
