//! Response heads: how a body is framed, and what is not believed.

use super::*;

fn facts(read: &[u8], to_head: bool) -> Result<Option<ResponseFacts>, BadResponse> {
    with_response(read, to_head, |head| head.facts)
}

/// The facts of a whole head, the same however late its bytes come.
fn whole(head: &str, to_head: bool) -> Result<ResponseFacts, BadResponse> {
    let read = format!("{head}\r\n\r\n");
    for end in 0..read.len() {
        if let Ok(Some(early)) = facts(&read.as_bytes()[..end], to_head) {
            panic!("{early:?} out of {:?}", &read[..end]);
        }
    }
    facts(read.as_bytes(), to_head).map(|facts| facts.expect("a whole head"))
}

#[test]
fn a_body_is_framed_by_status_method_and_fields() {
    for (head, to_head, framing, announced, keep_alive) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5", false, Framing::Length(5), Some(5), true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0", false, Framing::Empty, Some(0), true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5", true, Framing::Empty, Some(5), true),
        ("HTTP/1.1 200\r\nTransfer-Encoding: Chunked", false, Framing::Chunked, None, true),
        ("HTTP/1.1 200 \r\nTransfer-Encoding: chunked", true, Framing::Empty, None, true),
        ("HTTP/1.1 200 OK", false, Framing::UntilClose, None, false),
        ("HTTP/1.1 204 None", false, Framing::Empty, None, true),
        ("HTTP/1.1 204 None\r\nContent-Length: 5", false, Framing::Empty, Some(5), true),
        ("HTTP/1.1 304 Same\r\nContent-Length: 5", false, Framing::Empty, Some(5), true),
        ("HTTP/1.1 304 Same\r\nTransfer-Encoding: chunked", false, Framing::Empty, None, true),
        ("HTTP/1.1 103 Hints", false, Framing::Empty, None, true),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: x, Close",
            false,
            Framing::Length(5),
            Some(5),
            false,
        ),
        ("HTTP/1.0 200 OK\r\nContent-Length: 5", false, Framing::Length(5), Some(5), false),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: Keep-Alive",
            false,
            Framing::Length(5),
            Some(5),
            true,
        ),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive", false, Framing::UntilClose, None, false),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5",
            false,
            Framing::Length(5),
            Some(5),
            true,
        ),
    ] {
        let seen = whole(head, to_head).unwrap_or_else(|bad| panic!("{bad:?}: {head:?}"));
        let expected = (framing, announced, keep_alive);
        assert_eq!((seen.framing, seen.announced, seen.keep_alive), expected, "{head:?}");
        assert_eq!(seen.len, head.len() + 4);
    }
}

#[test]
fn interim_is_1xx_but_switching() {
    for (status, interim) in [(100, true), (103, true), (199, true), (101, false), (200, false)] {
        let seen = whole(&format!("HTTP/1.1 {status} x"), false).expect("a head");
        assert_eq!((seen.status, seen.interim()), (status, interim));
    }
}

#[test]
fn broken_heads_are_not_believed() {
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6",
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 5",
        "HTTP/1.1 200 OK\r\nContent-Length: +5",
        "HTTP/1.1 200 OK\r\nContent-Length: -5",
        "HTTP/1.1 200 OK\r\nContent-Length: 0x5",
        "HTTP/1.1 200 OK\r\nContent-Length: ",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked",
        "HTTP/1.1 204 OK\r\nContent-Length: x",
        "HTTP/1.1 99 Low",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 OK",
        "HTTP/2.0 200 OK",
        "ICY 200 OK",
        "garbage",
        "HTTP/1.1 200 OK\r\nA : b",
        "HTTP/1.1 200 OK\r\nA: b\r\n c",
        "HTTP/1.1 200 OK\r\nA: b\nC: d",
        "HTTP/1.1 200 OK\nA: b",
        "HTTP/1.1 200 OK\r\nA: \u{0}",
        "HTTP/1.1 200 O\u{0}K",
        "HTTP/1.1 200 OK\r\n: b",
    ] {
        let seen = whole(head, false);
        assert!(seen.is_err(), "{seen:?}: {head:?}");
    }
}

#[test]
fn a_head_without_end_is_given_up() {
    let many: String = (0..300).map(|i| format!("X-{i}: y\r\n")).collect();
    assert!(facts(format!("HTTP/1.1 200 OK\r\n{many}\r\n").as_bytes(), false).is_err());
    let long = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(LONGEST_HEAD));
    assert!(facts(long.as_bytes(), false).is_err());
    assert_eq!(facts(&long.as_bytes()[..LONGEST_HEAD - 1], false).map(|f| f.is_none()), Ok(true));
}
