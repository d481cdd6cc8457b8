//! The table of requests.

use std::time::{Duration, Instant};

use meridian_tests::{Answer, Backend, Broken, End, eventually};

use crate::{Then, World, answered, refused, rows, still_serves};

const LIMITS: &str = "[limits]\nheader_bytes = \"8KiB\"\nheaders = 32\nrequest_line_bytes = \"1KiB\"\n\
                      body_bytes = \"64KiB\"\nheader_timeout = \"4s\"\n";
const LINE: &str = "GET / HTTP/1.1\r\n";
const NAMED: &str = "Host: a.example\r\n{offer}";

fn world() -> World {
    let backend = Backend::answering("here", |request| {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        Answer::ok(if body.is_empty() { request.target.clone() } else { body })
    });
    World::new(backend, LIMITS, "")
}

/// Heads, and the statuses that are right for all of them.
fn heads(statuses: &'static [u16], sent: impl IntoIterator<Item = String>) -> impl FnOnce(&str) {
    let sent: Vec<_> = sent.into_iter().collect();
    move |row: &str| {
        let world = world();
        sent.iter().for_each(|sent| refused(&world, row, sent, statuses));
        still_serves(&world);
    }
}

/// Lines of fields of a good request.
fn fields(statuses: &'static [u16], lines: &[&str]) -> impl FnOnce(&str) + use<> {
    let all = lines.iter().map(|lines| format!("{LINE}{NAMED}{lines}\r\n\r\n"));
    heads(statuses, all.collect::<Vec<_>>())
}

fn hosts(row: &str) {
    let lines = [
        "X: y\r\n{offer}",
        "{offer}",
        "Host:\r\n{offer}",
        "Host: \r\n{offer}",
        "Host: a\r\nHost: a\r\n{offer}",
        "Host: a\r\n{offer}hOST: b\r\n",
    ];
    let hosts = [
        "a b", "a/b", "u@a", "a:x", "a:-1", "a:99999", "[::1", "::1", "[::g]", "a?b", "a#b",
        "http://a", "\u{e9}", "a\u{0}", "a\\b", "<a>",
    ];
    let targets = [
        ("http://a.example/", "b.example"),
        ("http://a.example:81/", "a.example"),
        ("http://u@a.example/", "a.example"),
        ("HTTP://b.example", "a.example"),
        ("http:///", "a.example"),
        ("http://", "a.example"),
        ("ftp://a.example/", "a.example"),
        ("http://a.example?q", "a.example"),
    ];
    let lines = lines.map(|lines| format!("{LINE}{lines}\r\n"));
    let hosts = hosts.map(|host| format!("{LINE}Host: {host}\r\n{{offer}}\r\n"));
    let targets = targets
        .map(|(target, host)| format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{{offer}}\r\n"));
    heads(&[400], lines.into_iter().chain(hosts).chain(targets))(row);
}

fn lengths(row: &str) {
    fields(
        &[400],
        &[
            "Content-Length: +1",
            "Content-Length: -1",
            "Content-Length: 0x1",
            "Content-Length: 1, 1",
            "Content-Length: 1 1",
            "Content-Length:",
            "Content-Length: 1a",
            "Content-Length: 1.0",
            "Content-Length: 99999999999999999999",
            "Content-Length: 18446744073709551616",
            "Content-Length:\t1",
            "Content-Length: 1\t",
            "Content-Length: 1 ",
            "Content-Length: 1\r\nContent-Length: 2",
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: 0\r\ncontent-length: 44",
            "Content-Length: 44\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 44",
            "Transfer-Encoding: chunked\r\nContent-Length: 0",
        ],
    )(row);
}

fn codings(row: &str) {
    fields(
        &[400],
        &[
            "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked, gzip",
            "Transfer-Encoding: chunked\t",
            "Transfer-Encoding:\tchunked",
            "Transfer-Encoding: chunked ",
            "Transfer-Encoding: chunked;q=1",
            "Transfer-Encoding: \u{b}chunked",
            "Transfer-Encoding: \"chunked\"",
            "Transfer-Encoding:",
            "Transfer-Encoding: ,chunked",
            "Transfer-Encoding: chunked,",
            "Transfer-Encoding: chunked x",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            "Transfer-Encoding : chunked",
            "Transfer-Encoding: chun\u{0}ked",
        ],
    )(row);
    let unknown = ["xchunked", "gzip", "identity", "chunkedd", "chunke", "gzip, deflate"];
    let unknown = unknown.map(|coding| format!("{LINE}{NAMED}Transfer-Encoding: {coding}\r\n\r\n"));
    heads(&[400, 501], unknown)(row);
    let old = format!("GET / HTTP/1.0\r\n{NAMED}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    heads(&[400], [old])(row);
}

fn lines(row: &str) {
    let whole = [
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\nHost: a\r\n{offer}\r\n",
        "GET / HTTP/1.1\r\nHost: a\n{offer}\r\n",
        "GET / HTTP/1.1\r\nHost: a\nX: y\r\n{offer}\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n{offer}X: y\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n{offer}\n\r\n",
        "GET / HTTP/1.1\rHost: a\r\n{offer}\r\n",
        "GET / HTTP/1.1\r\nHost: a\rX: y\r\n{offer}\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n{offer}X: y\rZ: z\r\n\r\n",
        "GET / HTTP/1.1\r\r\nHost: a\r\n{offer}\r\n",
        "\nGET / HTTP/1.1\r\nHost: a\r\n{offer}\r\n",
        "\rGET / HTTP/1.1\r\nHost: a\r\n{offer}\r\n",
        " \r\nGET / HTTP/1.1\r\nHost: a\r\n{offer}\r\n",
    ];
    heads(&[400], whole.map(str::to_owned))(row);
    fields(
        &[400],
        &[
            "X : y",
            "X\t: y",
            " X: y",
            "\tX: y",
            "X: y\r\n z",
            "X: y\r\n\tz",
            "X:\r\n y",
            "X: y\r\n \r\nZ: z",
            ": y",
            ":",
            "X",
            "X y",
            "(x): y",
            "X@: y",
            "X/: y",
            "X[]: y",
            "\"X\": y",
            "X,Y: z",
            "X=: y",
            "X{}: y",
            "X\u{0}: y",
            "X: y\u{0}",
            "X: \u{0}",
            "X: \u{1}",
            "X: \u{8}y",
            "X: \u{b}",
            "X: \u{c}",
            "X: \u{1b}[2J",
            "X: \u{7f}",
            "\u{e9}: y",
            "X\u{7f}: y",
        ],
    )(row);
}

fn request_lines(row: &str) {
    let behind = |line: &str| format!("{line}\r\nHost: a.example\r\n{{offer}}\r\n");
    let bad = [
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET /\tHTTP/1.1",
        "GET / HTTP/1.1\t",
        "GET /",
        "GET",
        "GET / ",
        "GET  HTTP/1.1",
        "G@T / HTTP/1.1",
        "G\u{0}T / HTTP/1.1",
        "(GET) / HTTP/1.1",
        "\u{e9}GET / HTTP/1.1",
        "GET /\u{0} HTTP/1.1",
        "GET /\u{7f} HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "GET /a\u{1}b HTTP/1.1",
        "GET /a\\b HTTP/1.1",
        "GET /a\"b HTTP/1.1",
        "GET /a#b HTTP/1.1",
        "GET x HTTP/1.1",
        "GET * HTTP/1.1",
        "GET a.example:80 HTTP/1.1",
        "GET /a b HTTP/1.1",
        "\u{0}\u{1}\u{2}",
        "{\"json\": 1}",
        "<xml/>",
        "SSH-2.0-OpenSSH_9",
        "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}",
    ];
    heads(&[400, 505], bad.map(behind))(row);
    let versions = [
        "HTTP/2.0",
        "HTTP/3",
        "HTTP/1.2",
        "HTTP/0.9",
        "http/1.1",
        "HTTP/1.10",
        "HTTP/01.1",
        "HTTP/1,1",
        "HTTQ/1.1",
        "HTTP/1.1x",
        "HTTP/",
        "ICAP/1.0",
    ];
    heads(&[400, 505], versions.map(|version| behind(&format!("GET / {version}"))))(row);
    // The preface of HTTP/2 on a listener that does not speak it is text like any other.
    heads(&[400, 505], ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()])(row);
}

fn chunks(row: &str) {
    let head = "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    let bodies = [
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\t\r\nhello\r\n0\r\n\r\n",
        "5 ;a\r\nhello\r\n0\r\n\r\n",
        "\r\n",
        ";a\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "5g\r\nhello\r\n0\r\n\r\n",
        "5_0\r\nhello\r\n0\r\n\r\n",
        "5\u{0}\r\nhello\r\n0\r\n\r\n",
        "\u{665}\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\r\nhello\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5;a\u{0}\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
        "5\r\nhello\r\n\r\n0\r\n\r\n",
        "ffffffffffffffff\r\nhello",
        "10000000000000000\r\n",
        "8000000000000000\r\nhello",
        "0\nA: b\r\n\r\n",
        "0\r\nA: b\nC: d\r\n\r\n",
        "0\r\nA : b\r\n\r\n",
        "0\r\n: b\r\n\r\n",
        "0\r\nA: b\r\n c\r\n\r\n",
        "0\r\nA: \u{0}\r\n\r\n",
        "0\r\nA\r\n\r\n",
    ];
    heads(&[400], bodies.map(|body| format!("{head}{body}")))(row);
    // The same behind a chunk that was good, which may have reached the endpoint by then.
    heads(&[400], bodies[..27].iter().map(|body| format!("{head}3\r\nabc\r\n{body}")))(row);
}

fn sizes(row: &str) {
    let (long, large) = ("x".repeat(1024), "y".repeat(8192));
    let many: String = (0..33).map(|i| format!("X-{i}: y\r\n")).collect();
    let head = |line: &str, more: &str| format!("{line}\r\nHost: a.example\r\n{{offer}}{more}\r\n");
    let line = "GET / HTTP/1.1";
    heads(&[431], [head(line, &format!("X: {large}\r\n")), head(line, &format!("{large}: x\r\n"))])(
        row,
    );
    heads(&[431], [head(line, &many)])(row);
    let long = [format!("GET /{long} HTTP/1.1"), format!("GET http://a.example/{long} HTTP/1.1")];
    heads(&[414], long.map(|line| head(&line, "")))(row);
}

fn bodies(row: &str) {
    let world = world();
    let head = "POST / HTTP/1.1\r\nHost: a.example\r\n";
    for lines in [
        "Content-Length: 65537\r\n",
        "Content-Length: 999999999999\r\n",
        "Content-Length: 65537\r\nExpect: 100-continue\r\n",
    ] {
        refused(&world, row, &format!("{head}{lines}\r\n"), &[413]);
    }
    // Not announced: as soon as it is too much. The endpoint may have got a part, never an end.
    let chunk = format!("1000\r\n{}\r\n", "z".repeat(4096));
    let long = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
    for way in world.ways(&long) {
        let mut client = way.client();
        way.send(&mut client, &long);
        let sent = (0..100_000).take_while(|_| client.wire().send(chunk.as_bytes()).is_ok());
        let sent = sent.count();
        assert!(sent < 100_000, "{row}: 400 MB of body were taken ({way})");
    }
    assert!(world.seen().is_empty());
    still_serves(&world);
}

fn late_heads(row: &str) {
    let world = world();
    for sent in
        ["", "G", "GET / HTTP/1.1\r\nHos", "GET / HTTP/1.1\r\nHost: a.example\r\n{offer}X: y\r\n"]
    {
        let begun = Instant::now();
        let started: Vec<_> = world
            .ways(sent)
            .into_iter()
            .map(|way| {
                let mut client = way.client();
                way.send(&mut client, sent);
                (way, client)
            })
            .collect();
        for (way, mut client) in started {
            match client.try_response("GET") {
                Ok(answer) => assert_eq!(answer.status, 408, "{row}: {sent:?} ({way})"),
                Err(Broken::Nothing(End::Closed | End::Reset)) => {}
                Err(other) => panic!("{row}: {sent:?} ({way}): {other:?}"),
            }
            assert!(client.is_closed(), "{row}: {sent:?} ({way})");
        }
        assert!(begun.elapsed() < Duration::from_secs(12), "{row}: {sent:?}");
    }
    assert!(world.seen().is_empty());
    still_serves(&world);
}

fn pipelined(row: &str) {
    let backend = Backend::answering("here", |request| {
        // The first are the slowest.
        let n: u64 = request.target[1..].parse().unwrap_or(9);
        let body = [request.target.as_bytes(), &request.body].join(&b' ');
        let answer =
            if request.target == "/next" { request.target.clone().into_bytes() } else { body };
        Answer::ok(answer).delay(Duration::from_millis(30 * 4_u64.saturating_sub(n)))
    });
    let world = World::new(backend, "", "");
    let sent = "GET /0 HTTP/1.1\r\nHost: a\r\n\r\n\
                POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 26\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n\
                PUT /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nGET \r\n0\r\n\r\n\
                \r\nHEAD /3 HTTP/1.1\r\nHost: a\r\n\r\nGET /4 HTTP/1.1\r\nHost: a\r\n\r\n";
    answered(
        &world,
        row,
        sent,
        &[
            ("GET", 200, "/0 "),
            ("POST", 200, "/1 GET /smuggled HTTP/1.1\r\n\r\n"),
            ("PUT", 200, "/2 GET "),
            ("HEAD", 200, ""),
            ("GET", 200, "/4 "),
        ],
        Then::Open,
    );
    let targets: Vec<_> = world.seen().into_iter().map(|request| request.target).collect();
    for turn in targets.chunks(6) {
        assert_eq!(turn, ["/0", "/1", "/2", "/3", "/4", "/next"], "{row}");
    }
}

fn old_version(row: &str) {
    let world = world();
    let one = &[("GET", 200, "/a")][..];
    for (sent, then) in [
        ("GET /a HTTP/1.0\r\n\r\n", Then::Closed),
        ("GET /a HTTP/1.0\r\nHost: a\r\n\r\n", Then::Closed),
        ("GET /a HTTP/1.0\r\nHost: a\r\nConnection: close, keep-alive\r\n\r\n", Then::Closed),
        ("GET /a HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", Then::Open),
        ("GET /a HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", Then::Open),
        // It knows no switch of protocols: an offer is an ordinary request.
        (
            "GET /a HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            Then::Closed,
        ),
    ] {
        answered(&world, row, sent, one, then);
    }
    answered(
        &world,
        row,
        "POST /a HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello",
        &[("POST", 200, "hello")],
        Then::Closed,
    );
    for request in world.seen().iter().filter(|request| request.target == "/a") {
        assert_eq!(request.header("upgrade"), None);
        assert_eq!(request.fields.all("host").len(), 1, "{}", request.raw_head);
    }
}

/// A chunk that breaks after the endpoint has got the ones before: it sees no end of that request.
fn late_chunks(row: &str) {
    let world = world();
    let head = "POST /late HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    for way in world.ways(head) {
        let before = world.backend.connections();
        let mut client = way.client();
        way.send(&mut client, head);
        eventually("it reaches the endpoint", Duration::from_secs(10), || {
            world.backend.connections() > before || world.backend.open_connections() > 0
        });
        client.send("0x5\r\nGET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n");
        assert_eq!(client.response().status, 400, "{row} ({way})");
        assert!(client.is_closed(), "{row} ({way})");
    }
    assert!(world.seen().is_empty(), "{row}: {:#?}", world.seen());
}

rows! {
    no_host_two_hosts: "no Host, two Hosts, invalid Host, Host that disagrees with an absolute-form target: 400, closed", hosts;
    content_lengths: "Content-Length with Transfer-Encoding; two different Content-Lengths; `+1`, `0x1`, `1, 1`, negative, overflowing lengths: 400, closed", lengths;
    transfer_encodings: "Transfer-Encoding other than exactly `chunked`; TE on HTTP/1.0: 400 (501 for an unknown coding), closed", codings;
    line_ends_and_fields: "bare LF or bare CR as line end; space before the colon; obs-fold; NUL or control bytes in a value; empty or illegal header name: 400, closed", lines;
    first_lines: "illegal bytes in the request line; more than one space; lower-case version; HTTP/2.0 in text; a first line of garbage: 400 (505 for a version), closed", request_lines;
    chunk_sizes: "chunk size with sign, `0x`, spaces, overflow; missing CRLF after a chunk; bare LF in a chunk extension: 400, closed, nothing of the next bytes taken as a request", chunks;
    chunks_that_break_late: "the same, after good chunks have reached the endpoint", late_chunks;
    large_heads: "head over the limit, too many headers, long target: 431, 431, 414", sizes;
    large_bodies: "body over the limit: 413, without reading it all", bodies;
    heads_in_time: "head not complete within its deadline: 408 or closed", late_heads;
    connect: "CONNECT, unless a route allows it: 405", heads(&[405], [
        "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n{offer}\r\n".to_owned(),
        "CONNECT / HTTP/1.1\r\nHost: a.example\r\n\r\n".to_owned(),
        "CONNECT a.example:443 HTTP/1.0\r\n\r\n".to_owned(),
    ]);
    pipelining: "pipelined requests: answered in order", pipelined;
    http_1_0: "HTTP/1.0: served; keep-alive only when asked", old_version;
}
