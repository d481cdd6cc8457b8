//! What is sent upstream is always canonical.

use std::time::Duration;

use meridian_tests::{Answer, Backend, Received, Wire};

use crate::{Then, Way, World, answered, rows};

fn world(listener: &str) -> World {
    let backend = Backend::answering("here", |request| Answer::ok(request.target.clone()));
    World::new(backend, "", listener)
}

/// Sends a request for `/a` with these lines, every way; what the endpoint got of it.
fn forwarded(
    world: &World,
    row: &str,
    line: &str,
    lines: &str,
    check: impl Fn(&Way<'_>, &Received),
) {
    let sent = format!("{line}\r\n{lines}{{offer}}\r\n");
    for way in world.ways(&sent) {
        let mut client = way.client();
        way.send(&mut client, &sent);
        let answer = client.response();
        assert_eq!(answer.status, 200, "{row}: {sent:?} ({way})");
        let seen = world.seen().pop().expect("a request");
        is_canonical(&way, &seen);
        check(&way, &seen);
    }
}

/// What holds for every request: one Host, one framing, CRLF, nothing hop-by-hop.
#[track_caller]
fn is_canonical(way: &Way<'_>, seen: &Received) {
    let head = &seen.raw_head;
    assert!(
        head.ends_with("\r\n\r\n") && head.matches("\r\n\r\n").count() == 1,
        "{head:?} ({way})"
    );
    assert!(!head.replace("\r\n", "").contains(['\r', '\n', '\0']), "{head:?} ({way})");
    assert_eq!(seen.fields.all("host").len(), 1, "{head} ({way})");
    let framings =
        seen.fields.all("content-length").len() + seen.fields.all("transfer-encoding").len();
    assert!(framings <= 1, "{head} ({way})");
    for (name, value) in &seen.fields.0 {
        assert!(
            !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        );
        assert!(value.bytes().all(|b| b == b'\t' || (b >= b' ' && b != 0x7f)), "{head} ({way})");
    }
    for hop in ["keep-alive", "proxy-connection", "http2-settings", "proxy-authorization"] {
        assert_eq!(seen.header(hop), None, "{head} ({way})");
    }
    for switch in ["connection", "upgrade"] {
        assert_eq!(seen.fields.all(switch).len(), usize::from(way.offered), "{head} ({way})");
    }
    assert_eq!(seen.fields.all("via").len(), 1, "{head} ({way})");
}

const LINE: &str = "GET /a HTTP/1.1";
const HOST: &str = "Host: a.example\r\n";

fn plain(row: &str) {
    let world = world("");
    for (line, lines) in [
        (LINE, "hOsT:   a.example  \r\nX-A:\tb\t\r\nx-a: c\r\n"),
        ("GET http://a.example/a HTTP/1.1", HOST),
        ("GET HTTP://a.example/a HTTP/1.1", "Host: A.example\r\n"),
        (LINE, "Host: a.example\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n"),
        (
            LINE,
            "Host: a.example\r\nHTTP2-Settings: AAMAAABk\r\nProxy-Authorization: Basic eA==\r\n",
        ),
        (LINE, "Host: a.example\r\nConnection: keep-alive\r\nTrailer: x\r\n"),
    ] {
        forwarded(&world, row, line, lines, |way, seen| {
            assert!(seen.raw_head.starts_with("GET /a HTTP/1.1\r\n"), "{} ({way})", seen.raw_head);
            assert!(
                seen.fields.all("host")[0].eq_ignore_ascii_case("a.example"),
                "{}",
                seen.raw_head
            );
        });
    }
}

fn framings(row: &str) {
    let world = world("");
    let head = "POST /a HTTP/1.1\r\nHost: a.example\r\n";
    for (lines, body, framing) in [
        ("Content-Length: 5\r\n", "hello", ("content-length", "5")),
        ("Content-Length: 0005\r\n", "hello", ("content-length", "5")),
        (
            "Transfer-Encoding: CHUNKED\r\n",
            "5;a=\"b\"\r\nhello\r\n0;x\r\nX-T: 1\r\n\r\n",
            ("transfer-encoding", "chunked"),
        ),
        (
            "Transfer-Encoding: chunked\r\n",
            "2\r\nhe\r\n003\r\nllo\r\n000\r\n\r\n",
            ("transfer-encoding", "chunked"),
        ),
    ] {
        let sent = format!("{head}{lines}\r\n{body}");
        answered(&world, row, &sent, &[("POST", 200, "/a")], Then::Open);
        let all = world.seen();
        let seen = all.iter().rev().find(|request| request.target == "/a").expect("it came");
        assert_eq!(
            (seen.fields.all(framing.0), &*seen.body),
            (vec![framing.1], &b"hello"[..]),
            "{row}: {sent:?}"
        );
    }
}

fn named_by_connection(row: &str) {
    let world = world("");
    let lines = "Host: a.example\r\nConnection: X-A, x-b ,close, host, x-forwarded-for, content-length\r\n\
                 Connection: via, x-request-id, X-C\r\nX-a: 1\r\nX-B: 2\r\nx-c: 3\r\nX-D: 4\r\n\
                 Cookie: a=b\r\n";
    forwarded(&world, row, LINE, lines, |way, seen| {
        for gone in ["x-a", "x-b", "x-c"] {
            assert_eq!(seen.header(gone), None, "{} ({way})", seen.raw_head);
        }
        for kept in ["x-d", "cookie", "x-forwarded-for", "x-request-id"] {
            assert_eq!(seen.fields.all(kept).len(), 1, "{kept}: {} ({way})", seen.raw_head);
        }
    });
}

fn te(row: &str) {
    let world = world("");
    for (kind, kept) in
        [("application/grpc", true), ("application/grpc+proto", true), ("text/plain", false)]
    {
        let lines = format!("{HOST}TE: trailers, deflate\r\nContent-Type: {kind}\r\n");
        forwarded(&world, row, LINE, &lines, |way, seen| {
            let told = seen.fields.all("te");
            // No call of gRPC is an offer.
            let kept = kept && !way.offered;
            assert_eq!(
                told,
                vec!["trailers"; usize::from(kept)],
                "{kind}: {} ({way})",
                seen.raw_head
            );
        });
    }
}

const CLAIMS: &str = "X-Forwarded-For: 6.6.6.6\r\nx-forwarded-for: 7.7.7.7\r\nX-Forwarded-Proto: https\r\n\
                      X-Forwarded-Host: evil\r\nForwarded: for=6.6.6.6\r\n";

fn untrusted(row: &str) {
    let world = world("");
    forwarded(&world, row, LINE, &format!("{HOST}{CLAIMS}"), |way, seen| {
        assert_eq!(seen.fields.all("x-forwarded-for"), ["127.0.0.1"], "({way})");
        let scheme = if way.secure { "https" } else { "http" };
        assert_eq!(seen.fields.all("x-forwarded-proto"), [scheme], "({way})");
        assert_eq!(seen.fields.all("x-forwarded-host"), ["a.example"], "({way})");
        assert_eq!(seen.header("forwarded"), None, "({way})");
    });
    // Nor by way of trailers, which some endpoints add to the head.
    let sent = format!(
        "POST /a HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n0\r\n{CLAIMS}X-T: 1\r\nVia: 1.1 evil\r\n\r\n"
    );
    answered(&world, row, &sent, &[("POST", 200, "/a")], Then::Open);
    let all = world.seen();
    let seen = all.iter().rev().find(|request| request.method == "POST").expect("it came");
    assert_eq!(seen.trailers.0, [("X-T".to_owned(), "1".to_owned())], "{row}");
}

fn trusted(row: &str) {
    let world = world("trusted_proxies = [\"127.0.0.0/8\"]");
    let lines = format!(
        "{HOST}X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: b.example\r\n"
    );
    forwarded(&world, row, LINE, &lines, |way, seen| {
        assert_eq!(seen.fields.all("x-forwarded-for"), ["203.0.113.7, 127.0.0.1"], "({way})");
        assert_eq!(seen.fields.all("x-forwarded-proto"), ["https"], "({way})");
        assert_eq!(seen.fields.all("x-forwarded-host"), ["b.example"], "({way})");
    });
}

fn max_forwards(row: &str) {
    let world = world("");
    let ask = |line: &str, count: &str| {
        format!("{line} HTTP/1.1\r\n{HOST}Max-Forwards: {count}\r\nCookie: s=1\r\n\r\n")
    };
    for way in world.ways("") {
        let mut client = way.client();
        way.send(&mut client, &ask("TRACE /x", "0"));
        let traced = client.response();
        assert_eq!(
            (traced.status, traced.header("content-type")),
            (200, Some("message/http")),
            "{row}"
        );
        assert!(
            traced.text().starts_with("TRACE /x HTTP/1.1\r\n") && !traced.text().contains("s=1")
        );
        for line in ["OPTIONS *", "OPTIONS /x"] {
            way.send(&mut client, &ask(line, "0"));
            assert_eq!(client.response().status, 200, "{row}: {line} ({way})");
        }
        assert!(world.seen().iter().all(|request| request.header("max-forwards") != Some("0")));
        for (line, target) in [("OPTIONS /x", "/x"), ("TRACE /x", "/x"), ("OPTIONS *", "*")] {
            way.send(&mut client, &ask(line, "7"));
            assert_eq!(client.response().status, 200, "{row}: {line} ({way})");
            let seen = world.seen().pop().expect("a request");
            assert_eq!(
                (seen.target.as_str(), seen.header("max-forwards")),
                (target, Some("6")),
                "{row}: {line}"
            );
        }
    }
}

fn expectations(row: &str) {
    let backend = Backend::answering("here", |request| Answer::ok(request.body.clone()));
    let world = World::new(backend, "", "");
    let head = "POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    for way in world.ways(head) {
        let mut client = way.client();
        let before = world.seen().len();
        way.send(&mut client, head);
        let go_on = client.wire().head().expect("an interim answer").expect("an interim answer");
        assert!(go_on.starts_with(b"HTTP/1.1 100 "), "{row} ({way}): {}", go_on.escape_ascii());
        assert_eq!(world.seen().len(), before, "{row} ({way}): the endpoint has no body yet");
        client.send("hello");
        assert_eq!(client.response().text(), "hello", "{row} ({way})");
        let seen = world.seen().pop().expect("a request");
        assert_eq!(seen.header("expect"), Some("100-continue"), "{row} ({way})");
    }
}

/// Answers everything with a hint first.
fn hints(row: &str) {
    let backend = Backend::speaking("here", |wire: &mut Wire| {
        while let Some(mut request) = wire.request_head()? {
            wire.request_body(&mut request)?;
            wire.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\n\r\n")?;
            std::thread::sleep(Duration::from_millis(5));
            wire.send(b"HTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")?;
        }
        Ok(())
    });
    let world = World::new(backend, "", "");
    for (version, expected) in [("1.1", &["</a>", "</b>"][..]), ("1.0", &[])] {
        let room = if version == "1.1" { "{offer}" } else { "" };
        let sent = format!("GET /a HTTP/{version}\r\n{HOST}{room}\r\n");
        for way in world.ways(&sent) {
            let mut client = way.client();
            way.send(&mut client, &sent);
            let answer = client.response();
            assert_eq!(answer.text(), "hi", "{row}: {version} ({way})");
            let links: Vec<_> =
                answer.interim.iter().map(|(_, fields)| fields.get("link").unwrap_or("")).collect();
            assert_eq!(links, expected, "{row}: {version} ({way})");
            assert!(
                answer
                    .interim
                    .iter()
                    .all(|(status, fields)| *status == 103 && fields.get("connection").is_none())
            );
        }
    }
}

rows! {
    one_host_one_framing: "what is sent upstream is canonical: one Host, CRLF, no hop-by-hop fields, `Via` added", plain;
    one_framing: "what is sent upstream is canonical: one framing", framings;
    what_connection_names: "none that `Connection` names (but `Connection: host` or `x-forwarded-for` must not remove those)", named_by_connection;
    trailers_for_grpc: "`TE: trailers` only for gRPC", te;
    forwarding_fields_of_strangers: "`X-Forwarded-For`, `-Proto`, `-Host`, `Forwarded` of untrusted clients are replaced", untrusted;
    forwarding_fields_of_proxies: "of trusted ones appended to", trusted;
    max_forwards_is_honoured: "`Max-Forwards` on TRACE and OPTIONS is honoured", max_forwards;
    expect_end_to_end: "`Expect: 100-continue` works end to end", expectations;
    interim_answers: "1xx are forwarded (not to 1.0)", hints;
}
