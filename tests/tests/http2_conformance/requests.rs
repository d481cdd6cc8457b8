//! Section 8: requests.

use meridian_tests::h2_frames::{
    H2, PREFACE, code, data, fields, headers, kind, request_block, settings,
};

use crate::{Served, Stream, check, edge, judge, post, slow, trailers};

#[test]
fn section_8_requests() {
    let head = |pseudo: &[(&str, &str)]| headers(1, true, &fields(pseudo));
    let with = |name, value| headers(1, true, &request_block("GET", "/", &[(name, value)]));
    let (method, scheme, path) = ((":method", "GET"), (":scheme", "http"), (":path", "/"));
    let host = (":authority", "test.example");
    let length = |n| post(1, &[("content-length", n)]);
    let malformed = Stream(1, code::PROTOCOL_ERROR);
    let no_end = headers(1, false, &fields(&[("x-t", "1")]));
    let pseudo_end = headers(1, true, &fields(&[method]));
    check(&[
        ("8.1: a second head without an end", [slow(1, false), no_end].concat(), malformed),
        ("8.1: trailers", [post(1, &[]), data(1, false, b"x"), trailers(1)].concat(), Served(1)),
        ("8.1.1: a longer body", [length("1"), data(1, true, b"test")].concat(), malformed),
        (
            "8.1.1: a longer body in frames",
            [length("5"), data(1, false, b"test"), data(1, true, b"test")].concat(),
            malformed,
        ),
        ("8.1.1: a shorter body", [length("9"), data(1, true, b"test")].concat(), malformed),
        (
            "8.1.1: no body",
            headers(1, true, &request_block("POST", "/", &[("content-length", "4")])),
            malformed,
        ),
        ("8.2.1: an upper-case name", with("X-TEST", "ok"), malformed),
        ("8.2.1: a space in a name", with("x test", "ok"), malformed),
        ("8.2.1: a colon in a name", with("x:test", "ok"), malformed),
        ("8.2.1: no name", with("", "ok"), malformed),
        ("8.2.1: NUL in a value", with("x-test", "a\0b"), malformed),
        ("8.2.1: a line end in a value", with("x-test", "a\r\nb: c"), malformed),
        ("8.2.1: space around a value", with("x-test", " a"), malformed),
        ("8.2.2: Connection", with("connection", "keep-alive"), malformed),
        ("8.2.2: Transfer-Encoding", with("transfer-encoding", "chunked"), malformed),
        ("8.2.2: TE but trailers", with("te", "trailers, deflate;q=0.5"), malformed),
        ("8.2.2: TE: trailers", with("te", "trailers"), Served(1)),
        (
            "8.3: an unknown pseudo field",
            head(&[method, scheme, path, host, (":test", "ok")]),
            malformed,
        ),
        ("8.3: one of answers", head(&[method, scheme, path, host, (":status", "200")]), malformed),
        ("8.3: one in trailers", [slow(1, false), pseudo_end].concat(), malformed),
        (
            "8.3: one behind a field",
            head(&[method, scheme, ("x-test", "ok"), path, host]),
            malformed,
        ),
        ("8.3.1: an empty path", head(&[method, scheme, (":path", ""), host]), malformed),
        ("8.3.1: no method", head(&[scheme, path, host]), malformed),
        ("8.3.1: no scheme", head(&[method, path, host]), malformed),
        ("8.3.1: no path", head(&[method, scheme, host]), malformed),
        ("8.3.1: two methods", head(&[method, method, scheme, path, host]), malformed),
        ("8.3.1: two schemes", head(&[method, scheme, scheme, path, host]), malformed),
        ("8.3.1: two paths", head(&[method, scheme, path, path, host]), malformed),
        ("8.3.1: another Host", with("host", "other.example"), malformed),
        ("8.3.1: the same Host", with("host", "test.example"), Served(1)),
        ("8.5: CONNECT with a path", head(&[(":method", "CONNECT"), path, host]), malformed),
    ]);
}

/// RFC 8441 is not spoken: it is not announced, and whoever tries all the same has sent an unknown pseudo field.
#[test]
fn a_websocket_over_http2_is_not_offered_and_not_begun() {
    const ENABLE_CONNECT_PROTOCOL: u16 = 8;
    let (backend, edge) = edge();
    let mut h2 = H2::silent(edge.address());
    h2.send(&[PREFACE, &settings(&[(ENABLE_CONNECT_PROTOCOL, 1)])].concat()).expect("a connection");
    let told = h2.receive().expect("settings");
    assert_eq!((told.kind, told.payload.len() % 6), (kind::SETTINGS, 0));
    let announced = |setting: &[u8]| u16::from_be_bytes([setting[0], setting[1]]);
    assert!(!told.payload.is_empty());
    assert!(told.payload.chunks(6).all(|s| announced(s) != ENABLE_CONNECT_PROTOCOL), "{told:?}");
    let websocket = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":path", "/socket"),
        (":authority", "test.example"),
        ("sec-websocket-version", "13"),
    ];
    // Also where the client says that it would speak it, and whatever the order.
    for (end, turn) in [(false, 0), (true, 0), (false, 1), (false, 4)] {
        let mut pseudo = websocket[..5].to_vec();
        pseudo.rotate_left(turn);
        let block = fields(&[&pseudo[..], &websocket[5..]].concat());
        let mut h2 = H2::connect(edge.address(), &[(ENABLE_CONNECT_PROTOCOL, 1)]);
        h2.send(&headers(1, end, &block)).expect("a connection");
        judge("an extended CONNECT", &mut h2, Stream(1, code::PROTOCOL_ERROR));
        // The connection goes on.
        h2.send(&headers(3, true, &request_block("GET", "/", &[]))).expect("a connection");
        judge("the next request", &mut h2, Served(3));
    }
    // With another method it is as unknown.
    let get = [(":method", "GET"), (":protocol", "websocket"), (":scheme", "http"), (":path", "/")];
    let mut h2 = H2::connect(edge.address(), &[]);
    h2.send(&headers(1, true, &fields(&get))).expect("a connection");
    judge("GET with :protocol", &mut h2, Stream(1, code::PROTOCOL_ERROR));
    // CONNECT itself is well-formed, and not served.
    let connect = [(":method", "CONNECT"), (":authority", "test.example:443")];
    let mut h2 = H2::connect(edge.address(), &[]);
    h2.send(&headers(1, false, &fields(&connect))).expect("a connection");
    let answer = h2.expect("CONNECT", |f| f.code().is_some() || f.status().is_some());
    assert_eq!((answer.stream, answer.status()), (1, Some(405)), "{answer:?}");
    assert!(backend.requests().iter().all(|request| request.target == "/"));
}
