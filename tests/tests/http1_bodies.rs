//! Bodies of every framing, in both directions, of any size, as fast as the slower side.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use meridian_tests::{
    Answer, Backend, Body, Checked, Client, Meridian, Wire, block, one_region, pattern_stream, poll,
};

const MIB: u64 = 1 << 20;
const LARGE: u64 = 100 * MIB;
/// What may be added to a process by one transfer, whatever its size.
const FLAT: u64 = 16 * MIB;

fn stage(backend: &Backend) -> Meridian {
    Meridian::start(&one_region(backend))
}

/// Watches the highest resident size while `work` runs; how much it grew, bytes.
fn growth(edge: &Meridian, work: impl FnOnce() + Send) -> u64 {
    let before = edge.resident_bytes();
    let mut most = before;
    std::thread::scope(|scope| {
        let running = scope.spawn(work);
        while !running.is_finished() {
            most = most.max(edge.resident_bytes());
            std::thread::sleep(Duration::from_millis(5));
        }
        running.join().expect("the transfer");
    });
    most - before
}

fn download(client: &mut Client, path: &str) -> Checked {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    let head = client.try_head().expect("an answer");
    assert_eq!(head.status, 200);
    let mut checked = Checked::default();
    client.try_body("GET", &head, |piece| checked.take(piece)).expect("a whole body");
    checked
}

#[test]
fn chunks_pass_both_ways() {
    let backend = Backend::answering("here", |request| {
        let chunks = request.body.chunks(3).map(<[u8]>::to_vec).collect();
        Answer::new(200, Body::Chunks(chunks))
    });
    let edge = stage(&backend);
    let mut client = edge.client();
    let body = b"5\r\nhello\r\n1;x=y\r\n \r\n00a\r\n0123456789\r\n0\r\n\r\n";
    for size in [body.len(), 1, 2, 5] {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        for piece in body.chunks(size) {
            client.send(piece);
        }
        assert_eq!(client.response().text(), "hello 0123456789");
    }
    for request in backend.requests() {
        assert_eq!(request.fields.all("transfer-encoding"), ["chunked"]);
        assert_eq!(request.header("content-length"), None);
    }
}

#[test]
fn trailers_pass_both_ways_but_not_those_that_decide() {
    let backend = Backend::answering("here", |_| {
        Answer::new(200, Body::Chunks(vec![b"hi".to_vec()]))
            .trailer("X-Checksum", "abc")
            .trailer("Content-Length", "7")
            .trailer("Meridian-Epoch", "9")
            .trailer("Server-Timing", "db")
    });
    let edge = stage(&backend);
    let mut client = edge.client();
    for _ in 0..2 {
        client.send(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Digest\r\n\r\n\
             2\r\nhi\r\n0\r\nX-Digest: 1\r\nHost: evil\r\nAuthorization: x\r\nX-More: 2\r\n\r\n",
        );
        let answer = client.response();
        assert_eq!(answer.text(), "hi");
        let names: Vec<_> =
            answer.trailers.0.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(names, [("X-Checksum", "abc"), ("Server-Timing", "db")]);
    }
    for request in backend.requests() {
        let trailers: Vec<_> = request.trailers.0.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(trailers, ["X-Digest", "X-More"]);
    }
}

#[test]
fn bodies_with_a_length_pass_in_any_pieces() {
    let backend = Backend::answering("here", |request| Answer::ok(request.body.clone()));
    let edge = stage(&backend);
    let mut client = edge.client();
    for size in [1, 100, 16_383, 16_384, 16_385, 65_536, 200_000] {
        let body = block().repeat(4)[..size].to_vec();
        let answer = client.request("POST", "/", &[], &body);
        assert!(answer.body == body, "{size} bytes came back as {}", answer.body.len());
    }
    for request in backend.requests() {
        let length = request.checked.length.to_string();
        assert_eq!(request.fields.all("content-length"), [length.as_str()]);
        assert!(!request.checked.differs);
    }
}

#[test]
fn head_204_and_304_have_no_body() {
    let backend = Backend::answering("here", |request| match request.target.as_str() {
        "/204" => Answer::status(204),
        "/304" => Answer::raw("HTTP/1.1 304 Same\r\nContent-Length: 5\r\nETag: x\r\n\r\n"),
        "/chunked" => Answer::new(200, Body::Chunks(vec![b"hello".to_vec()])),
        _ => Answer::ok("hello"),
    });
    let edge = stage(&backend);
    let mut client = edge.client();
    let head = client.try_request("HEAD", "/", &[], b"").expect("an answer");
    assert_eq!((head.status, head.header("content-length")), (200, Some("5")));
    let head = client.try_request("HEAD", "/chunked", &[], b"").expect("an answer");
    assert_eq!((head.status, head.header("content-length")), (200, None));
    let none = client.get("/204");
    assert_eq!((none.status, none.header("content-length"), none.body.len()), (204, None, 0));
    let same = client.get("/304");
    assert_eq!((same.status, same.header("etag"), same.body.len()), (304, Some("x"), 0));
    // Had a body come with any of them, this would not be its own answer.
    assert_eq!(client.get("/").text(), "hello");
    assert_eq!(backend.connections(), 1, "every one of them leaves the connection usable");
}

#[test]
fn an_answer_until_close_is_whole_and_the_client_s_connection_goes_on() {
    let backend =
        Backend::answering("here", |_| Answer::new(200, Body::UntilClose(b"hi".to_vec())));
    let edge = stage(&backend);
    let mut client = edge.client();
    for _ in 0..3 {
        let answer = client.get("/");
        assert_eq!(
            (answer.text().as_str(), answer.header("transfer-encoding")),
            ("hi", Some("chunked"))
        );
    }
    assert_eq!(backend.connections(), 3);
}

#[test]
fn large_downloads_need_no_memory() {
    let backend = Backend::answering("here", |request| match request.target.as_str() {
        "/chunked" => Answer::new(200, Body::PatternChunks(LARGE)),
        _ => Answer::new(200, Body::Pattern(LARGE)),
    });
    let edge = stage(&backend);
    let mut client = edge.client();
    for path in ["/length", "/chunked"] {
        let grown = growth(&edge, || assert!(download(&mut client, path).is(LARGE), "{path}"));
        assert!(grown < FLAT, "{path}: {grown} bytes");
    }
}

#[test]
fn large_uploads_need_no_memory() {
    let backend = Backend::start("here");
    let edge = stage(&backend);
    let mut client = edge.client();
    let grown = growth(&edge, || {
        client.send(format!("POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n"));
        for piece in pattern_stream(LARGE) {
            client.send(piece);
        }
        assert_eq!(client.response().status, 200);
        client.send("POST /chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        for piece in pattern_stream(LARGE) {
            let size = format!("{:x}\r\n", piece.len());
            client.send([size.as_bytes(), piece, b"\r\n"].concat());
        }
        client.send("0\r\n\r\n");
        assert_eq!(client.response().status, 200);
    });
    assert!(grown < FLAT, "{grown} bytes");
    let received = backend.requests();
    assert_eq!(received.len(), 2);
    assert!(received.iter().all(|request| request.complete && request.checked.is(LARGE)));
}

/// Waits until a counter has stood still for a while.
fn settled(counter: &AtomicU64) -> u64 {
    let (mut last, mut since) = (counter.load(SeqCst), Instant::now());
    let stood = poll(Duration::from_secs(20), || {
        let now = counter.load(SeqCst);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        (now > 0 && since.elapsed() > Duration::from_millis(500)).then_some(now)
    });
    stood.expect("it never stands still")
}

#[test]
fn a_slow_reader_holds_up_its_endpoint_and_nobody_else() {
    let sent = Arc::new(AtomicU64::new(0));
    let counted = sent.clone();
    let backend = Backend::speaking("here", move |wire: &mut Wire| {
        let Some(request) = wire.request_head()? else { return Ok(()) };
        if request.target != "/large" {
            return wire
                .send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi");
        }
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n").as_bytes())?;
        for piece in pattern_stream(LARGE) {
            wire.send(piece)?;
            counted.fetch_add(piece.len() as u64, SeqCst);
        }
        Ok(())
    });
    let edge = stage(&backend);
    let before = edge.resident_bytes();
    let mut slow = edge.client();
    slow.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
    let held = settled(&sent);
    // What fits in four sockets' buffers, and not the rest of it.
    assert!(held < LARGE / 2, "{held} bytes were taken from the endpoint");
    let grown = edge.resident_bytes().saturating_sub(before);
    assert!(grown < FLAT, "{grown} bytes");
    assert_eq!(edge.get("/other").text(), "hi");
    let head = slow.try_head().expect("an answer");
    let mut checked = Checked::default();
    slow.try_body("GET", &head, |piece| checked.take(piece)).expect("a whole body");
    assert!(checked.is(LARGE));
}

#[test]
fn a_slow_endpoint_holds_up_its_client() {
    let done = Arc::new(AtomicBool::new(false));
    let over = done.clone();
    let backend = Backend::speaking("here", move |wire: &mut Wire| {
        let Some(mut request) = wire.request_head()? else { return Ok(()) };
        if request.target == "/stuck" {
            // Reads nothing until the test is over.
            poll(Duration::from_secs(60), || over.load(SeqCst).then_some(()));
        }
        wire.request_body(&mut request)?;
        wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
    });
    let edge = stage(&backend);
    let before = edge.resident_bytes();
    let mut client = edge.client();
    client.send(format!("POST /stuck HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n"));
    client.wire().patience = Duration::from_secs(1);
    let taken = pattern_stream(LARGE).take_while(|piece| client.wire().send(piece).is_ok()).count();
    let grown = edge.resident_bytes().saturating_sub(before);
    done.store(true, SeqCst);
    assert!(taken < (LARGE / 2) as usize / block().len(), "{taken} pieces were taken");
    assert!(grown < FLAT, "{grown} bytes");
    assert_eq!(edge.get("/other").text(), "hi");
}
