//! The request tables of the HTTP contract, row by row, whole and in pieces.

use std::time::Duration;

use meridian_config::Limits;

use super::*;

pub(crate) fn limits() -> Limits {
    Limits {
        header_bytes: 4096,
        headers: 16,
        request_line_bytes: 256,
        body_bytes: 1 << 20,
        header_timeout: Duration::from_secs(10),
        keepalive_timeout: Duration::from_secs(75),
        requests_per_connection: 1000,
        h2_streams: 100,
        connections_per_client: None,
        requests_per_client: None,
        min_rate: 512,
    }
}

/// What became of some bytes: method, target, host and facts, or the status they are refused with.
type Outcome = Result<(String, String, String, HeadFacts), u16>;

fn whole(read: &[u8], limits: &Limits) -> Outcome {
    parsed(read, HeadScan::default().complete(read, limits), limits)
}

/// `found`: what the scan has to say of `read`; 0 stands for "not whole yet".
fn parsed(read: &[u8], found: Result<Option<usize>, HeadError>, limits: &Limits) -> Outcome {
    let len = found.map_err(HeadError::status)?.ok_or(0_u16)?;
    let copied = with_head(&read[..len], limits, |request, facts| {
        let text = |text: &str| text.to_owned();
        (text(request.method), text(request.target), text(request.authority), facts)
    });
    copied.map_err(HeadError::status)
}

/// The same bytes, in two reads.
fn split(read: &[u8], at: usize, limits: &Limits) -> Outcome {
    let mut scan = HeadScan::default();
    if at > 0 {
        let outcome = parsed(&read[..at], scan.complete(&read[..at], limits), limits);
        if outcome != Err(0) {
            return outcome;
        }
    }
    parsed(read, scan.complete(read, limits), limits)
}

/// Byte by byte, as a slow client sends it.
fn dripped(read: &[u8], limits: &Limits) -> Outcome {
    let mut scan = HeadScan::default();
    for end in 1..=read.len() {
        let outcome = parsed(&read[..end], scan.complete(&read[..end], limits), limits);
        if outcome != Err(0) {
            return outcome;
        }
    }
    Err(0)
}

/// A row: some bytes and every status they may be refused with, whatever way they come.
fn refused(read: &[u8], statuses: &[u16]) {
    let limits = limits();
    // In pieces, a head that never has its empty line may as well run into the deadline.
    let endless = memchr::memmem::find(read, b"\r\n\r\n").is_none();
    let check = |outcome: Outcome, how: &str| {
        let status = outcome.as_ref().err().copied().unwrap_or(200);
        let shown = String::from_utf8_lossy(read);
        let waits = status == 0 && endless && how != "whole";
        let fits = waits || statuses.contains(&status);
        assert!(fits, "{status} instead of {statuses:?}, {how}: {shown:?}");
    };
    check(whole(read, &limits), "whole");
    check(dripped(read, &limits), "byte by byte");
    for at in 0..read.len() {
        check(split(read, at, &limits), "split");
    }
}

fn refused_field(lines: &str, statuses: &[u16]) {
    refused(format!("POST / HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n\r\n").as_bytes(), statuses);
}

fn accepted(read: &[u8]) -> (String, String, String, HeadFacts) {
    let limits = limits();
    let seen = whole(read, &limits);
    let shown = String::from_utf8_lossy(read);
    assert_eq!(dripped(read, &limits), seen, "{shown:?}");
    for at in 0..read.len() {
        assert_eq!(split(read, at, &limits), seen, "split at {at}: {shown:?}");
    }
    seen.unwrap_or_else(|status| panic!("{status}: {shown:?}"))
}

#[test]
fn an_ordinary_request_is_what_it_says() {
    let read = b"GET /a/b?c=%20d HTTP/1.1\r\nhOST: A.example:8080\r\nX-Y: \xc3\xa9 z\r\n\r\n";
    let (method, target, host, facts) = accepted(read);
    assert_eq!((&*method, &*target, &*host), ("GET", "/a/b?c=%20d", "A.example:8080"));
    let expected = HeadFacts {
        len: read.len(),
        framing: Framing::Empty,
        keep_alive: true,
        http10: false,
        is_head: false,
        expect_continue: false,
        upgrade: false,
    };
    assert_eq!(facts, expected);
}

#[test]
fn connection_lists_only_so_much() {
    let lists = |lines: usize, of: usize| {
        let line = format!("Connection: {}\r\n", vec!["x"; of].join(","));
        format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", line.repeat(lines))
    };
    accepted(lists(2, MOST_OPTIONS / 2).as_bytes());
    for (lines, of) in [(1, MOST_OPTIONS + 1), (5, MOST_OPTIONS / 4)] {
        refused(lists(lines, of).as_bytes(), &[400]);
    }
}

#[test]
fn there_is_one_valid_host_that_agrees_with_the_target() {
    for line in ["", "Host:\r\n", "Host: \r\n", "Host: a\r\nHost: a\r\n", "Host: a\r\nHost: b\r\n"]
    {
        refused(format!("GET / HTTP/1.1\r\n{line}\r\n").as_bytes(), &[400]);
    }
    for host in [
        "a b",
        "a/b",
        "a@b",
        "user@host",
        "a:b",
        "a:99999",
        "a:80:80",
        "[::1",
        "[::g]",
        "::1",
        "a?b",
        "a#b",
        "a\\b",
        "[::1]x",
        "http://a",
        "a\tb",
        "\u{e9}",
        ":80",
        "a,b c",
    ] {
        refused(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes(), &[400]);
    }
    for host in
        ["a", "a.example:80", "127.0.0.1", "[::1]", "[2001:db8::1]:443", "a_b", "xn--4ca", "a:"]
    {
        let (.., seen, _) = accepted(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
        assert_eq!(seen, host);
    }
    for (target, host) in [
        ("http://a.example/", "b.example"),
        ("http://a.example", "a.example.evil"),
        ("http://a.example:81/", "a.example"),
        ("http://x@a.example/", "a.example"),
        ("http:///", "a.example"),
        ("http://a.example?x", "a.example"),
        ("ftp://a.example/", "a.example"),
        ("//", ""),
    ] {
        refused(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes(), &[400]);
    }
}

#[test]
fn an_absolute_target_gives_path_and_host() {
    for (target, path) in
        [("http://a.example/x?y", "/x?y"), ("HTTP://A.example/", "/"), ("https://a.example", "/")]
    {
        let read = format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n");
        let (_, seen, host, _) = accepted(read.as_bytes());
        assert_eq!(seen, path);
        assert!(host.eq_ignore_ascii_case("a.example"));
    }
    let (_, target, ..) = accepted(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(target, "*");
    refused(b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", &[400]);
    refused(b"GET a.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n", &[400]);
    let (_, target, host, _) = accepted(b"GET http://a.example/x HTTP/1.0\r\n\r\n");
    assert_eq!((&*target, &*host), ("/x", "a.example"));
}

#[test]
fn a_length_is_one_plain_number() {
    for value in [
        "+1",
        "-1",
        "0x1",
        "1, 1",
        "1,1",
        "1 1",
        "",
        "1a",
        "a",
        "1.0",
        "1e3",
        "\u{b2}",
        "18446744073709551615",
        "18446744073709551616",
        "99999999999999999999999999",
        "\t1",
        "1\t",
        "1 ",
    ] {
        refused_field(&format!("Content-Length: {value}"), &[400]);
    }
    for lines in [
        "Content-Length: 1\r\nContent-Length: 2",
        "Content-Length: 1\r\ncontent-length: 1",
        "Content-Length: 1\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 1",
        "Transfer-Encoding: chunked\r\nContent-Length: 0",
    ] {
        refused_field(lines, &[400]);
    }
    for (value, framing) in [
        ("0", Framing::Empty),
        ("1", Framing::Length(1)),
        ("0000000000000007", Framing::Length(7)),
        ("1048576", Framing::Length(1 << 20)),
    ] {
        let read = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:{value}\r\n\r\n");
        assert_eq!(accepted(read.as_bytes()).3.framing, framing);
    }
    refused_field("Content-Length: 1048577", &[413]);
    refused_field("Content-Length: 100000000000000000", &[413]);
}

#[test]
fn a_transfer_coding_is_exactly_chunked() {
    for (value, statuses) in [
        ("chunked, chunked", &[400][..]),
        ("gzip, chunked", &[400]),
        ("chunked, gzip", &[400]),
        ("chunked,", &[400]),
        (",chunked", &[400]),
        ("\tchunked", &[400]),
        ("chunked\t", &[400]),
        ("chunked ", &[400]),
        ("chunked;a=b", &[400]),
        ("\u{b}chunked", &[400]),
        ("chunked\u{0}", &[400]),
        ("\"chunked\"", &[400]),
        ("chunked identity", &[400]),
        ("", &[400]),
        ("xchunked", &[400, 501]),
        ("gzip", &[501]),
        ("identity", &[501]),
        ("gzip, deflate", &[501]),
    ] {
        refused_field(&format!("Transfer-Encoding: {value}"), statuses);
    }
    refused_field("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", &[400]);
    refused_field("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", &[400]);
    refused(b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", &[400]);
    for value in ["chunked", "Chunked", "CHUNKED"] {
        let read = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {value}\r\n\r\n");
        assert_eq!(accepted(read.as_bytes()).3.framing, Framing::Chunked);
    }
}

#[test]
fn lines_end_in_crlf_and_fields_are_clean() {
    for read in [
        &b"GET / HTTP/1.1\nHost: a\n\n"[..],
        b"GET / HTTP/1.1\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        b"GET / HTTP/1.1\rHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\r\n\r\n",
        b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        refused(read, &[400]);
    }
    for lines in [
        "X : y",
        "X\t: y",
        " X: y",
        "X: y\r\n folded",
        "X: y\r\n\tfolded",
        ": y",
        "X",
        "X y",
        "(): y",
        "X\u{0}Y: z",
        "X: y\u{0}z",
        "X: y\u{1}",
        "X: \u{7f}",
        "X: a\u{8}b",
        "\u{e9}: y",
        "X@Y: z",
        "X\"Y: z",
        "X Y: z",
    ] {
        refused_field(lines, &[400]);
    }
    // The first line of fields may not be a continuation either.
    refused(b"GET / HTTP/1.1\r\n Host: a\r\nHost: b\r\n\r\n", &[400]);
}

#[test]
fn a_request_line_is_three_words() {
    for line in [
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET / x HTTP/1.1",
        "GET /",
        "GET",
        "GET / HTTP",
        "G@T / HTTP/1.1",
        "G(T / HTTP/1.1",
        "GET /\u{0} HTTP/1.1",
        "GET /\u{7f} HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "GET /<x> HTTP/1.1",
        "GET /a\\b HTTP/1.1",
        "GET /a\"b HTTP/1.1",
        "GET /a#b HTTP/1.1",
        "GET /a^b HTTP/1.1",
        "GET /a`b HTTP/1.1",
        "GET x HTTP/1.1",
        "GET ?x HTTP/1.1",
        "/ HTTP/1.1",
        "\u{0}\u{1}\u{2}",
        "\u{16}\u{3}\u{1}\u{2}\u{0}",
        "{\"json\": 1}",
    ] {
        refused(format!("{line}\r\nHost: a\r\n\r\n").as_bytes(), &[400, 505]);
    }
    for version in
        ["HTTP/2.0", "HTTP/1.2", "HTTP/0.9", "http/1.1", "HTTP/3", "HTTP/1.10", "HTTQ/1.1"]
    {
        let read = format!("GET / {version}\r\nHost: a\r\n\r\n");
        refused(read.as_bytes(), &[400, 505]);
    }
    refused(b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n", &[405]);
    refused(b"CONNECT a.example:443 HTTP/1.0\r\n\r\n", &[405]);
}

#[test]
fn limits_have_their_own_statuses() {
    let at_most = limits();
    let long = "x".repeat(at_most.request_line_bytes);
    refused(format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), &[414]);
    let fits = "x".repeat(at_most.request_line_bytes - "GET / HTTP/1.1".len());
    accepted(format!("GET /{fits} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
    refused(format!("GET /x{fits} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), &[414]);

    let many = |n: usize| (0..n).map(|i| format!("X-{i}: y\r\n")).collect::<String>();
    accepted(format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", many(15)).as_bytes());
    refused(format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", many(16)).as_bytes(), &[431]);

    let head =
        |fill: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(fill));
    let rest = at_most.header_bytes - head(0).len();
    assert!(whole(head(rest).as_bytes(), &at_most).is_ok());
    for read in [head(rest + 1), head(rest + 100_000)] {
        assert_eq!(whole(read.as_bytes(), &at_most), Err(431));
        assert_eq!(dripped(read.as_bytes(), &at_most), Err(431));
    }
}

#[test]
fn more_fields_than_usual_are_allowed_where_the_limit_says_so() {
    let generous = Limits { headers: 300, header_bytes: 64 * 1024, ..limits() };
    let fields: String = (0..200).map(|i| format!("X-{i}: y\r\n")).collect();
    let read = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    assert!(whole(read.as_bytes(), &generous).is_ok());
    assert!(dripped(read.as_bytes(), &generous).is_ok());
}

#[test]
fn persistence_follows_version_and_connection() {
    for (version, connection, keep_alive) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: x, Close\r\n", false),
        ("1.1", "Connection: x\r\nConnection: close\r\n", false),
        ("1.1", "Connection: closed\r\n", true),
        ("1.0", "", false),
        ("1.0", "Connection: keep-alive\r\n", true),
        ("1.0", "Connection: Keep-Alive, close\r\n", false),
    ] {
        let read = format!("GET / HTTP/{version}\r\nHost: a\r\n{connection}\r\n");
        assert_eq!(accepted(read.as_bytes()).3.keep_alive, keep_alive, "{read:?}");
    }
    let (.., host, facts) = accepted(b"GET / HTTP/1.0\r\n\r\n");
    assert!(host.is_empty() && facts.http10);
}

#[test]
fn expectations_and_upgrades_are_for_http_1_1_and_never_for_h2c() {
    let facts = |lines: &str, version: &str| {
        accepted(format!("GET / HTTP/{version}\r\nHost: a\r\n{lines}\r\n").as_bytes()).3
    };
    assert!(facts("Expect: 100-Continue\r\n", "1.1").expect_continue);
    assert!(!facts("Expect: 100-continue\r\n", "1.0").expect_continue);
    assert!(!facts("Expect: x\r\n", "1.1").expect_continue);
    assert!(facts("Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n", "1.1").upgrade);
    assert!(!facts("Upgrade: websocket\r\n", "1.1").upgrade);
    assert!(!facts("Connection: upgrade\r\n", "1.1").upgrade);
    assert!(!facts("Upgrade: websocket\r\nConnection: upgrade\r\n", "1.0").upgrade);
    // An endpoint that took it would speak a protocol behind this edge's back.
    for protocol in ["h2c", "H2C", "websocket, h2c", "h2c,websocket", "HTTP/2.0", "TLS/1.3"] {
        let lines = format!("Upgrade: {protocol}\r\nConnection: Upgrade, HTTP2-Settings\r\n");
        assert!(!facts(&lines, "1.1").upgrade, "{protocol}");
    }
}

#[test]
fn what_follows_the_head_is_left_alone() {
    let read = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n";
    let (_, target, _, facts) = accepted(read);
    assert_eq!((&*target, facts.len), ("/a", 28));
}
