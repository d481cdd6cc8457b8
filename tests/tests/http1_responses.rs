//! Endpoints that break the protocol or the connection: the client gets an honest error or sees an
//! abort, never somebody else's bytes, and a broken connection is not used again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use meridian_tests::{
    Answer, Backend, Body, Broken, Client, End, Meridian, Wire, eventually, one_region,
};

const PATIENCE: Duration = Duration::from_secs(10);
const FINE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine";

fn stage(backend: &Backend) -> Meridian {
    Meridian::start(&one_region(backend))
}

/// Answers `/fine` well, and anything else with these bytes; `then` says what comes after them.
fn faulty(
    bytes: impl Into<Vec<u8>>,
    then: impl Fn(&mut Wire) -> io::Result<()> + Send + Sync + 'static,
) -> Backend {
    let bytes = bytes.into();
    Backend::speaking("here", move |wire: &mut Wire| {
        while let Some(mut request) = wire.request_head()? {
            wire.request_body(&mut request)?;
            if request.target == "/fine" {
                wire.send(FINE)?;
            } else {
                wire.send(&bytes)?;
                then(wire)?;
            }
        }
        Ok(())
    })
}

#[test]
fn broken_heads_are_bad_gateways_and_their_connections_are_not_used_again() {
    let long =
        format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "y".repeat(200_000));
    let many: String = (0..500).map(|i| format!("X-{i}: y\r\n")).collect();
    let many = format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 0\r\n\r\n");
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nevil!",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 4, 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nContent-Length: +4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nevil",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 4\n\nevil",
        "HTTP/1.1 200 OK\r\nX: y\r\n folded\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nX : y\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nX: \u{0}\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/2.0 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/1.1 20 OK\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nevil",
        "evil\r\n\r\n",
        "SSH-2.0-OpenSSH_9\r\n",
        &long,
        &many,
    ] {
        let backend = faulty(head, |wire| {
            wire.drain();
            Ok(())
        });
        let edge = stage(&backend);
        let mut client = edge.client();
        let shown: String = head.chars().take(80).collect();
        let answer = client.request("GET", "/fault", &[("X-Request-Id", "id-1")], b"");
        assert_eq!(
            (answer.status, answer.header("x-request-id")),
            (502, Some("id-1")),
            "{shown:?}"
        );
        assert!(!answer.text().contains("evil"), "{shown:?}");
        let before = backend.connections();
        assert_eq!(client.get("/fine").text(), "fine", "{shown:?}");
        assert_eq!(backend.connections(), before + 1, "{shown:?}");
    }
}

#[test]
fn an_endpoint_that_ends_before_it_answers_is_a_bad_gateway() {
    for head in ["", "HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 103 Hints\r\n\r\n"] {
        for reset in [false, true] {
            let backend = Backend::speaking("here", move |wire: &mut Wire| {
                let Some(request) = wire.request_head()? else { return Ok(()) };
                if request.target == "/fine" {
                    return wire.send(FINE);
                }
                wire.send(head.as_bytes())?;
                if reset {
                    wire.reset_when_dropped();
                }
                Ok(())
            });
            let edge = stage(&backend);
            let mut client = edge.client();
            for method in ["GET", "POST"] {
                let answer = client.request(method, "/fault", &[], b"");
                assert_eq!(answer.status, 502, "{method} {head:?} {reset}");
            }
            assert_eq!(client.get("/fine").text(), "fine");
        }
    }
}

/// The client must not take what it got for a whole answer.
#[track_caller]
fn is_visibly_cut(client: &mut Client, what: &str) {
    match client.try_request("GET", "/fault", &[], b"") {
        Err(Broken::Early(End::Closed | End::Reset, response)) => {
            assert_eq!(response.status, 200, "{what}");
        }
        Err(Broken::Nothing(End::Reset)) => {}
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn a_body_that_ends_early_never_looks_complete() {
    let whole = || Answer::ok("0123456789");
    let chunks = || Answer::new(200, Body::Chunks(vec![b"01234".to_vec(), b"56789".to_vec()]));
    let large = || Answer::ok(vec![b'x'; 300_000]);
    for (what, answer) in [
        ("length, closed", whole().cut_after(5)),
        ("length, nothing of it", whole().cut_after(0)),
        ("length, reset", whole().reset_after(5)),
        ("large, closed", large().cut_after(200_000)),
        ("large, reset", large().reset_after(200_000)),
        ("in a chunk", chunks().cut_after(6)),
        ("between chunks", chunks().cut_after(10)),
        ("before the last line", chunks().cut_after(23)),
        ("chunks, reset", chunks().reset_after(10)),
    ] {
        let faulty = answer.clone();
        let backend = Backend::answering("here", move |request| match request.target.as_str() {
            "/fine" => Answer::ok("fine"),
            _ => faulty.clone(),
        });
        let edge = stage(&backend);
        is_visibly_cut(&mut edge.client(), what);
        assert_eq!(edge.get("/fine").text(), "fine", "{what}");
    }
}

#[test]
fn broken_chunks_are_cut_off() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in [
        "5\r\nhello\r\n+5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\nxyz\r\n0\r\n\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
        "5\r\nhello\r\n5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\nffffffffffffffff\r\nhello",
    ] {
        let backend = faulty(format!("{HEAD}{body}"), |wire| {
            wire.drain();
            Ok(())
        });
        let edge = stage(&backend);
        is_visibly_cut(&mut edge.client(), body);
        let before = backend.connections();
        assert_eq!(edge.get("/fine").text(), "fine");
        assert_eq!(backend.connections(), before + 1, "{body:?}");
    }
}

#[test]
fn more_than_was_announced_is_nobody_s_answer() {
    const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 204 None\r\n\r\n",
        "HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n",
    ] {
        for late in [false, true] {
            let sent = Arc::new(AtomicUsize::new(0));
            let count = sent.clone();
            let first = if late { head.to_owned() } else { format!("{head}{EVIL}") };
            let backend = faulty(first, move |wire| {
                if late {
                    std::thread::sleep(Duration::from_millis(30));
                    wire.send(EVIL.as_bytes())?;
                }
                count.fetch_add(1, SeqCst);
                Ok(())
            });
            let edge = stage(&backend);
            let mut client = edge.client();
            let answer = client.get("/fault");
            assert!(matches!(answer.status, 200 | 204 | 304) && answer.text() != "evil");
            eventually("the rest is sent", PATIENCE, || sent.load(SeqCst) == 1);
            for _ in 0..3 {
                assert_eq!(client.get("/fine").text(), "fine", "late: {late}, {head:?}");
            }
            assert_eq!(backend.connections(), 2, "late: {late}, {head:?}");
        }
    }
}

#[test]
fn an_answer_to_head_with_a_body_is_nobody_s_answer() {
    let backend = faulty("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", |_| Ok(()));
    let edge = stage(&backend);
    let mut client = edge.client();
    let head = client.try_request("HEAD", "/fault", &[], b"").expect("an answer");
    assert_eq!((head.status, head.header("content-length")), (200, Some("4")));
    assert_eq!(client.get("/fine").text(), "fine");
    assert_eq!(backend.connections(), 2);
}

#[test]
fn an_early_answer_reaches_a_client_that_is_still_uploading() {
    let backend = Backend::speaking("here", |wire: &mut Wire| {
        wire.request_head()?;
        wire.send(b"HTTP/1.1 403 No\r\nContent-Length: 4\r\n\r\nstop")?;
        wire.drain();
        Ok(())
    });
    let edge = stage(&backend);
    for framing in ["Content-Length: 1000000", "Transfer-Encoding: chunked"] {
        let mut client = edge.client();
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n5\r\nhello\r\n"));
        let answer = client.response();
        assert_eq!((answer.status, answer.text().as_str()), (403, "stop"), "{framing}");
        // The rest of the body could be taken for a request.
        assert!(client.is_closed(), "{framing}");
    }
}

#[test]
fn an_early_answer_reaches_a_client_that_never_looks() {
    let backend = Backend::speaking("here", |wire: &mut Wire| {
        wire.request_head()?;
        wire.send(b"HTTP/1.1 403 No\r\nContent-Length: 4\r\nConnection: close\r\n\r\nstop")
    });
    let edge = stage(&backend);
    let mut client = edge.client();
    let answer = client.request("POST", "/", &[], &vec![b'x'; 2_000_000]);
    assert_eq!((answer.status, answer.text().as_str()), (403, "stop"));
}

#[test]
fn a_get_never_meets_a_connection_that_the_endpoint_closed() {
    // Closed with every answer and without a word: the worst case of an idle timeout.
    let backend = Backend::answering("here", |_| Answer::ok("hi").then_close());
    let edge = stage(&backend);
    let mut client = edge.client();
    for _ in 0..300 {
        assert_eq!(client.get("/").status, 200);
    }
    // And closed while they lie idle, all of them.
    backend.set(|_| Answer::ok("hi"));
    for _ in 0..20 {
        assert_eq!(client.get("/").status, 200);
        backend.close_connections();
    }
}

#[test]
fn a_post_is_sent_once_whatever_happens_to_its_connection() {
    let backend = Backend::answering("here", |_| Answer::ok("hi").then_close());
    let edge = stage(&backend);
    let mut client = edge.client();
    let mut answered = 0;
    for n in 0..300 {
        let id = format!("post-{n}");
        let answer = client.request("POST", "/", &[("X-Request-Id", &id)], b"body");
        assert!(matches!(answer.status, 200 | 502), "{}", answer.status);
        answered += usize::from(answer.status == 200);
        let times =
            backend.requests().iter().filter(|r| r.header("x-request-id") == Some(&id)).count();
        let expected = if answer.status == 200 { 1..=1 } else { 0..=1 };
        assert!(expected.contains(&times), "{id}: {} and {times} times", answer.status);
    }
    assert!(answered > 150, "{answered} of 300");
}

#[test]
fn a_post_after_a_pause_does_not_use_a_closed_connection() {
    let backend = Backend::start("here");
    let edge = stage(&backend);
    let mut client = edge.client();
    for n in 1..=20 {
        let answer = client.request("POST", "/", &[], b"body");
        assert_eq!(answer.status, 200, "the {n}. one");
        backend.close_connections();
        // Idle for a moment, as after any pause; shorter, nobody could have heard of the end.
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(backend.requests().len(), 20);
}
