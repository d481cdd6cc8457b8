//! Well-formed requests over HTTP/1.1 and 1.0: order, persistence, expectations, own answers.

use std::time::Duration;

use meridian_tests::{
    Answer, Backend, Body, End, Meridian, Response, Wire, eventually, exchange, one_region,
};

const PATIENCE: Duration = Duration::from_secs(10);

fn stage(backend: &Backend, extra: &str) -> Meridian {
    Meridian::start(&format!("{extra}{}", one_region(backend)))
}

#[test]
fn a_request_arrives_canonical_and_its_answer_comes_back() {
    let backend = Backend::answering("here", |_| {
        Answer::ok("hello")
            .header("X-Answer", "1")
            .header("Connection", "x-hop")
            .header("X-Hop", "2")
    });
    let edge = stage(&backend, "");
    let fields = [
        ("hOST", "A.example:80"),
        ("X-Kept", "a  b"),
        ("Connection", "x-gone, host"),
        ("X-Gone", "1"),
        ("Keep-Alive", "timeout=5"),
        ("TE", "trailers"),
        ("X-Forwarded-For", "6.6.6.6"),
        ("Forwarded", "for=6.6.6.6"),
        ("Meridian-Role", "primary"),
        ("X-Request-Id", "id-7"),
    ];
    let answer = edge.client().request("GET", "/a%20b?c=d&e", &fields, b"");
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    assert_eq!(answer.header("x-answer"), Some("1"));
    for gone in ["x-hop", "connection", "meridian-role"] {
        assert_eq!(answer.header(gone), None, "{gone}");
    }
    let seen = backend.only_request();
    assert!(seen.raw_head.starts_with("GET /a%20b?c=d&e HTTP/1.1\r\n"), "{}", seen.raw_head);
    assert_eq!(seen.fields.all("host"), ["A.example:80"]);
    assert_eq!(seen.fields.all("x-kept"), ["a  b"]);
    assert_eq!(seen.fields.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.fields.all("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.fields.all("x-forwarded-host"), ["A.example:80"]);
    assert_eq!(seen.fields.all("x-request-id"), ["id-7"]);
    assert_eq!(seen.fields.all("via").len(), 1);
    assert_eq!(seen.fields.all("traceparent").len(), 1);
    for gone in ["x-gone", "connection", "keep-alive", "te", "forwarded", "meridian-role"] {
        assert_eq!(seen.header(gone), None, "{gone}");
    }
}

#[test]
fn a_trusted_proxy_is_believed() {
    let backend = Backend::start("here");
    let listener = "[[listeners]]\nname = \"public\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n";
    let edge = stage(&backend, listener);
    let fields = [("X-Forwarded-For", "203.0.113.7"), ("X-Forwarded-Proto", "https")];
    edge.client().request("GET", "/", &fields, b"");
    let seen = backend.only_request();
    assert_eq!(seen.fields.all("x-forwarded-for"), ["203.0.113.7, 127.0.0.1"]);
    assert_eq!(seen.fields.all("x-forwarded-proto"), ["https"]);
    let line = edge.logged(|line| line["target"] == "/");
    assert_eq!(line["client"], "203.0.113.7");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let backend = Backend::answering("here", |request| {
        // The first ones are the slowest.
        let n: u64 = request.target[1..].parse().unwrap_or(0);
        Answer::ok(format!("{} {}", request.target, String::from_utf8_lossy(&request.body)))
            .delay(Duration::from_millis(40 * 5_u64.saturating_sub(n)))
    });
    let edge = stage(&backend, "");
    let mut bytes = Vec::new();
    for n in 0..6 {
        let request = match n % 3 {
            0 => format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n"),
            1 => format!("POST /{n} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nGET "),
            _ => format!(
                "PUT /{n} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nGET \r\n0\r\n\r\n"
            ),
        };
        bytes.extend_from_slice(request.as_bytes());
    }
    let expected = ["/0 ", "/1 GET ", "/2 GET ", "/3 ", "/4 GET ", "/5 GET "];
    let mut client = edge.client();
    client.send(&bytes);
    for body in expected {
        assert_eq!(client.response().text(), body);
    }
    // The same connection, a few bytes at a time, cut where it hurts.
    for piece in bytes.chunks(7) {
        client.send(piece);
    }
    for body in expected {
        assert_eq!(client.response().text(), body);
    }
    assert_eq!(backend.requests().len(), 12);
}

#[test]
fn empty_lines_before_a_request_are_ignored() {
    let backend = Backend::start("here");
    let edge = stage(&backend, "");
    let mut client = edge.client();
    client.send("\r\n\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status, 200);
    client.send("\r");
    client.send("\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status, 200);
}

#[test]
fn http_1_0_is_served_and_persistent_only_when_asked() {
    let backend = Backend::answering("here", |request| match request.target.as_str() {
        "/chunks" => Answer::new(200, Body::Chunks(vec![b"ab".to_vec(), b"c".to_vec()])),
        "/hints" => Answer::raw(
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
             HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        ),
        _ => Answer::ok("hi"),
    });
    let edge = stage(&backend, "");
    let plain = exchange(edge.address(), b"GET /x HTTP/1.0\r\n\r\n", PATIENCE);
    assert_eq!(plain.end, End::Closed);
    assert_eq!(plain.responses()[0].text(), "hi");
    let mut client = edge.client();
    for _ in 0..2 {
        client.send("GET /x HTTP/1.0\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n");
        let answer = client.response();
        assert_eq!(
            answer.header("connection").map(str::to_lowercase).as_deref(),
            Some("keep-alive")
        );
        assert_eq!(answer.text(), "hi");
    }
    // A version that knows no chunks gets none, and no interim answers.
    let chunks = exchange(
        edge.address(),
        b"GET /chunks HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        PATIENCE,
    );
    assert_eq!(chunks.end, End::Closed);
    let answer = &chunks.responses()[0];
    assert_eq!((answer.header("transfer-encoding"), answer.text().as_str()), (None, "abc"));
    let hints = exchange(edge.address(), b"GET /hints HTTP/1.0\r\n\r\n", PATIENCE);
    assert!(hints.responses()[0].interim.is_empty());
    assert_eq!(hints.responses()[0].text(), "hi");
}

#[test]
fn an_expectation_works_end_to_end() {
    let backend = Backend::answering("here", |request| Answer::ok(request.body.clone()));
    let edge = stage(&backend, "");
    let mut client = edge.client();
    for n in 0..2 {
        let head =
            "POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
        client.send(head);
        let go_on = client.wire().head().expect("an interim answer").expect("an interim answer");
        assert!(go_on.starts_with(b"HTTP/1.1 100 "), "{:?}", String::from_utf8_lossy(&go_on));
        assert_eq!(backend.requests().len(), n, "the endpoint has no body yet");
        client.send("hello");
        assert_eq!(client.response().text(), "hello");
        assert_eq!(backend.requests()[n].header("expect"), Some("100-continue"));
    }
}

#[test]
fn an_expectation_may_be_refused_and_the_body_stays_with_the_client() {
    let backend = Backend::speaking("here", |wire: &mut Wire| {
        wire.request_head()?;
        wire.send(b"HTTP/1.1 401 No\r\nContent-Length: 4\r\n\r\nwho?")?;
        wire.drain();
        Ok(())
    });
    let edge = stage(&backend, "");
    let mut client = edge.client();
    client.send("PUT /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let answer = client.response();
    assert_eq!((answer.status, answer.interim.len()), (401, 0));
    assert_eq!(answer.text(), "who?");
    // What follows could be the body or a request: nobody knows, so the connection ends.
    assert!(client.is_closed());
}

#[test]
fn interim_answers_pass() {
    let backend = Backend::speaking("here", |wire: &mut Wire| {
        while wire.request_head()?.is_some() {
            wire.send(
                b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nConnection: x\r\n\r\n",
            )?;
            wire.send(b"HTTP/1.1 103 Early Hints\r\nLink: </b>; rel=preload\r\n\r\n")?;
            wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")?;
        }
        Ok(())
    });
    let edge = stage(&backend, "");
    let mut client = edge.client();
    for _ in 0..2 {
        let answer = client.get("/");
        let links: Vec<_> = answer.interim.iter().map(|(s, f)| (*s, f.get("link"))).collect();
        assert_eq!(links, [(103, Some("</a>; rel=preload")), (103, Some("</b>; rel=preload"))]);
        assert_eq!((answer.status, answer.text().as_str()), (200, "hi"));
    }
}

#[test]
fn connections_end_after_their_limits() {
    let backend = Backend::start("here");
    let edge =
        stage(&backend, "[limits]\nkeepalive_timeout = \"1s\"\nrequests_per_connection = 3\n");
    let mut client = edge.client();
    for last in [false, false, true] {
        assert_eq!(client.get("/").header("connection") == Some("close"), last);
    }
    assert!(client.is_closed());
    let mut idle = edge.client();
    assert_eq!(idle.get("/").status, 200);
    assert!(idle.is_closed(), "an idle connection stays open");
    let mut asked = edge.client();
    let answer = asked.request("GET", "/", &[("Connection", "close")], b"");
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(asked.is_closed());
}

#[test]
fn own_answers_are_typed_and_carry_the_request_s_id() {
    let backend = Backend::start("here");
    let text = one_region(&backend)
        .replace("service = \"api\"\n", "service = \"api\"\nhosts = [\"a.example\"]\n");
    let edge = Meridian::start(&text);
    let mut client = edge.client();
    let mut ask = |accept: &str, method: &str| -> Response {
        let fields = [("Host", "other.example"), ("Accept", accept), ("X-Request-Id", "id-9")];
        match client.try_request(method, "/secret?token=1", &fields, b"") {
            Ok(response) => response,
            Err(broken) => panic!("{broken:?}"),
        }
    };
    for accept in ["application/json", "application/problem+json, */*;q=0.1"] {
        let answer = ask(accept, "GET");
        assert_eq!(answer.status, 404);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let error = &answer.json()["error"];
        assert_eq!(
            (&error["request_id"], answer.header("x-request-id")),
            (&"id-9".into(), Some("id-9"))
        );
        assert!(error["code"].is_string() && error["message"].is_string());
    }
    for accept in ["text/html, application/json;q=0.9", "*/*", ""] {
        let answer = ask(accept, "GET");
        assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")));
        let text = answer.text();
        assert!(text.contains("id-9") && text.len() < 200, "{text:?}");
        for internal in ["secret", "token", "127.", "api", "other.example"] {
            assert!(!text.contains(internal), "{text:?} tells {internal:?}");
        }
    }
    assert!(ask("*/*", "HEAD").body.is_empty());
    // A head without an answer's body in between: the connection goes on.
    assert_eq!(ask("*/*", "GET").status, 404);
    assert!(backend.requests().is_empty());
    let line = edge.logged(|line| line["request_id"] == "id-9");
    assert_eq!((&line["status"], &line["reason"]), (&404.into(), &"route".into()));
}

#[test]
fn with_nobody_there_the_answer_is_503_with_retry_after() {
    let backend = Backend::start("here");
    let edge = stage(&backend, "");
    let mut client = edge.client();
    assert_eq!(client.get("/").status, 200);
    backend.kill();
    for method in ["GET", "POST"] {
        let answer = client.request(method, "/", &[], b"");
        assert_eq!(answer.status, 503, "{method}");
        let seconds = answer.header("retry-after").and_then(|s| s.parse::<u32>().ok());
        assert!(seconds.is_some_and(|s| s >= 1), "{:?}", answer.fields);
    }
    backend.revive();
    eventually("it serves again", PATIENCE, || client.get("/").status == 200);
}

#[test]
fn the_last_hop_answers_trace_and_options_itself() {
    let backend = Backend::start("here");
    let edge = stage(&backend, "");
    let mut client = edge.client();
    let fields = [("Max-Forwards", "0"), ("Cookie", "secret=1")];
    let traced = client.request("TRACE", "/x", &fields, b"");
    assert_eq!((traced.status, traced.header("content-type")), (200, Some("message/http")));
    assert!(
        traced.text().starts_with("TRACE /x HTTP/1.1\r\n") && !traced.text().contains("secret")
    );
    assert_eq!(client.request("OPTIONS", "*", &fields, b"").status, 200);
    assert!(backend.requests().is_empty());
    client.request("OPTIONS", "/x", &[("Max-Forwards", "7")], b"");
    assert_eq!(backend.only_request().header("max-forwards"), Some("6"));
}
