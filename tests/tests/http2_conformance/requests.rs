//! Section 8: requests.

use meridian_tests::h2_frames::{code, data, fields, headers, request_block};

use crate::{Served, Stream, check, post, slow, trailers};

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
