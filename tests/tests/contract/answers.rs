//! What clients get: of endpoints that do wrong, of answers without a body, of this edge itself; and tunnels.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use meridian_tests::{Answer, Backend, Broken, End, Wire, eventually};

use crate::{PATIENCE, Way, World, rows};

const ASK: &str = "GET /fault HTTP/1.1\r\nHost: a.example\r\nX-Request-Id: id-1\r\n{offer}\r\n";
const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";

/// What an endpoint does after its bytes.
#[derive(Clone, Copy, PartialEq)]
enum Ends {
    /// Waits for more, and tells if a request comes: its connection was used again.
    Waits,
    Closes,
    Resets,
}

/// An endpoint that answers `/fault` with bytes that can be changed, and `/next` with itself.
struct Faulty {
    world: World,
    said: Arc<Mutex<(Vec<u8>, Ends)>>,
    reused: Arc<AtomicUsize>,
}

impl Faulty {
    fn new() -> Self {
        let said = Arc::new(Mutex::new((Vec::new(), Ends::Waits)));
        let reused = Arc::new(AtomicUsize::new(0));
        let (bytes, again) = (said.clone(), reused.clone());
        let backend = Backend::speaking("here", move |wire: &mut Wire| {
            let mut spoilt = false;
            while let Some(mut request) = wire.request_head()? {
                again.fetch_add(usize::from(spoilt), SeqCst);
                wire.request_body(&mut request)?;
                if request.target != "/fault" {
                    let body = &request.target;
                    let head =
                        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                    wire.send(head.as_bytes())?;
                    continue;
                }
                let (bytes, ends) = bytes.lock().unwrap_or_else(PoisonError::into_inner).clone();
                wire.send(&bytes)?;
                spoilt = true;
                match ends {
                    Ends::Waits => {}
                    Ends::Closes => return Ok(()),
                    Ends::Resets => {
                        wire.reset_when_dropped();
                        return Ok(());
                    }
                }
            }
            Ok(())
        });
        Self { world: World::new(backend, "", ""), said, reused }
    }

    /// Asks for these bytes every way; then whether anybody meets them again.
    fn each(
        &self,
        bytes: impl AsRef<[u8]>,
        ends: Ends,
        check: impl Fn(&Way<'_>, Result<meridian_tests::Response, Broken>),
    ) {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = (bytes.as_ref().to_vec(), ends);
        for way in self.world.ways(ASK) {
            let mut client = way.client();
            way.send(&mut client, ASK);
            check(&way, client.try_response("GET"));
            for _ in 0..2 {
                let mut next = way.client();
                assert_eq!(next.get("/next").text(), "/next", "{way}");
                let offer = way.filled("GET /next HTTP/1.1\r\nHost: a.example\r\n{offer}\r\n");
                next.send(offer);
                assert_eq!(next.response().text(), "/next", "{way}");
            }
            let shown = String::from_utf8_lossy(&bytes.as_ref()[..bytes.as_ref().len().min(120)])
                .into_owned();
            assert_eq!(
                self.reused.load(SeqCst),
                0,
                "its connection was used again: {shown:?} ({way})"
            );
        }
    }
}

fn broken_framing(row: &str) {
    let faulty = Faulty::new();
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nevil!",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 4, 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nContent-Length: +4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nevil",
        "HTTP/1.1 200 OK\nContent-Length: 4\n\nevil",
        "HTTP/1.1 200 OK\r\nX : y\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nX: \u{0}\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX: y\r\n folded\r\n\r\nevil",
        "HTTP/2.0 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        "evil\r\n\r\n",
    ] {
        faulty.each(head, Ends::Waits, |way, answer| {
            let case = format!("{row}: {head:?} ({way})");
            let answer = answer.unwrap_or_else(|broken| panic!("{case}: {broken:?}"));
            assert_eq!(
                (answer.status, answer.header("x-request-id")),
                (502, Some("id-1")),
                "{case}"
            );
            assert!(!answer.text().contains("evil"), "{case}");
        });
    }
}

fn more_than_announced(row: &str) {
    let faulty = Faulty::new();
    for (head, status, body) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            200,
            "hello",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, ""),
        ("HTTP/1.1 204 None\r\n\r\n", 204, ""),
        ("HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n", 304, ""),
    ] {
        faulty.each(format!("{head}{EVIL}"), Ends::Waits, |way, answer| {
            let case = format!("{row}: {head:?} ({way})");
            let answer = answer.unwrap_or_else(|broken| panic!("{case}: {broken:?}"));
            assert_eq!((answer.status, answer.text().as_str()), (status, body), "{case}");
        });
    }
}

fn early_ends(row: &str) {
    let faulty = Faulty::new();
    let large =
        [&b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n"[..], &[b'x'; 200_000]].concat();
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for bytes in [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234".to_vec(),
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n".to_vec(),
        large,
        format!("{chunked}5\r\n012").into_bytes(),
        format!("{chunked}5\r\n01234\r\n").into_bytes(),
        format!("{chunked}5\r\n01234\r\n0\r\n").into_bytes(),
        format!("{chunked}5\r\n01234\r\n0x5\r\n56789\r\n0\r\n\r\n").into_bytes(),
        format!("{chunked}5\r\n01234!\r\n0\r\n\r\n").into_bytes(),
        format!("{chunked}5\r\n01234\r\nffffffffffffffff\r\n5").into_bytes(),
    ] {
        for ends in [Ends::Closes, Ends::Resets] {
            faulty.each(&bytes, ends, |way, answer| {
                let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(100)]).into_owned();
                match answer {
                    Err(
                        Broken::Early(End::Closed | End::Reset, _) | Broken::Nothing(End::Reset),
                    ) => {}
                    // The reset has overtaken the head.
                    Ok(answer)
                        if answer.status == 502
                            && (ends == Ends::Resets || !shown.contains("01")) => {}
                    other => panic!("{row}: {shown:?} ({way}): {other:?}"),
                }
            });
        }
    }
}

fn bodiless(row: &str) {
    let faulty = Faulty::new();
    for (head, status, length) in [
        ("HTTP/1.1 204 None\r\n\r\n", 204, None),
        ("HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n", 304, Some("5")),
        ("HTTP/1.1 304 Same\r\n\r\n", 304, None),
    ] {
        *faulty.said.lock().unwrap_or_else(PoisonError::into_inner) = (head.into(), Ends::Waits);
        for way in faulty.world.ways(ASK) {
            let mut client = way.client();
            way.send(&mut client, ASK);
            let answer = client.try_response("GET").expect("an answer");
            let case = format!("{row}: {head:?} ({way})");
            assert_eq!(
                (answer.status, answer.header("content-length")),
                (status, length),
                "{case}"
            );
            assert_eq!(answer.header("transfer-encoding"), None, "{case}");
            if way.ends_anyway() {
                assert!(client.is_closed(), "{case}");
            } else {
                assert_eq!(client.get("/next").text(), "/next", "{case}");
            }
        }
    }
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n";
    *faulty.said.lock().unwrap_or_else(PoisonError::into_inner) = (head.into(), Ends::Waits);
    let ask = ASK.replace("GET", "HEAD").replace("{offer}", "");
    for way in faulty.world.ways(&ask) {
        let mut client = way.client();
        way.send(&mut client, &ask);
        let answer = client.try_response("HEAD").expect("an answer");
        assert_eq!(
            (answer.status, answer.header("content-length")),
            (200, Some("4")),
            "{row} ({way})"
        );
        assert_eq!(client.get("/next").text(), "/next", "{row} ({way})");
    }
}

fn trailers(row: &str) {
    let backend = Backend::answering("here", |request| {
        if request.target == "/next" {
            return Answer::ok("/next");
        }
        let chunks = meridian_tests::Body::Chunks(vec![b"ab".to_vec(), b"c".to_vec()]);
        Answer::new(200, chunks)
            .trailer("X-Sum", "7")
            .trailer("Content-Length", "9")
            .header("Trailer", "X-Sum")
    });
    let world = World::new(backend, "", "");
    let sent = "POST /a HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n\
                2\r\nhi\r\n0\r\nX-Up: 1\r\nHost: evil\r\nContent-Length: 3\r\nTransfer-Encoding: x\r\n\r\n";
    for way in world.ways(sent) {
        let mut client = way.client();
        way.send(&mut client, sent);
        let answer = client.response();
        assert_eq!(
            (answer.text().as_str(), answer.trailers.get("x-sum")),
            ("abc", Some("7")),
            "{row} ({way})"
        );
        assert_eq!(answer.trailers.get("content-length"), None, "{row} ({way})");
        let seen = world.seen().pop().expect("a request");
        assert_eq!(seen.trailers.0, [("X-Up".to_owned(), "1".to_owned())], "{row} ({way})");
        assert_eq!(client.get("/next").text(), "/next", "{row} ({way})");
    }
}

fn own_answers(row: &str) {
    let backend = Backend::start("here");
    let world = World::new(backend, "[limits]\nbody_bytes = \"1KiB\"\n", "");
    let head = |line: &str, more: &str| {
        format!("{line}\r\nHost: a.example\r\nX-Request-Id: id-9\r\n{more}{{offer}}\r\n")
    };
    world.backend.kill();
    for (sent, status) in [
        (head("GET /secret?token=1 HTTP/1.1", ""), 503),
        (head("GET /secret?token=1 HTTP/1.1", "Content-Length: x\r\n"), 400),
        (head("POST /secret?token=1 HTTP/1.1", "Content-Length: 9999\r\n"), 413),
        (head("CONNECT secret:1 HTTP/1.1", ""), 405),
    ] {
        for json in [false, true] {
            let accept = if json { "application/json" } else { "text/html, */*" };
            let sent = sent.replace("Host:", &format!("Accept: {accept}\r\nHost:"));
            for way in world.ways(&sent) {
                let case = format!("{row}: {sent:?} ({way})");
                let mut client = way.client();
                way.send(&mut client, &sent);
                let answer = client.response();
                assert_eq!(answer.status, status, "{case}");
                let id = answer.header("x-request-id").expect("an id").to_owned();
                // Of a head that could not be read nothing is believed.
                let read = matches!(status, 503);
                assert!(!read || id == "id-9", "{case}: {id}");
                let kind = answer.header("content-type").unwrap_or_default();
                let expected = if json && read { "application/json" } else { "text/plain" };
                assert!(kind.starts_with(expected), "{case}: {kind}");
                let text = answer.text();
                assert!(text.contains(&id) && text.len() < 300, "{case}: {text}");
                for internal in ["secret", "token", "127.", "api"] {
                    assert!(!text.contains(internal), "{case}: {text:?} tells {internal:?}");
                }
                assert_eq!(answer.header("retry-after").is_some(), status == 503, "{case}");
            }
        }
    }
}

fn retry_after(row: &str) {
    let backend = Backend::answering("here", |request| {
        let time = if request.target == "/slow" { 1500 } else { 0 };
        Answer::ok(request.target.clone()).delay(Duration::from_millis(time))
    });
    let world = World::new(backend, "[limits]\nrequests_per_client = 1\n", "");
    let ask = "GET /a HTTP/1.1\r\nHost: a.example\r\n{offer}\r\n";
    for way in world.ways(ask) {
        let mut first = way.client();
        let before = world.backend.requests().len();
        // What was under way before may be counted out a moment after its answer.
        eventually("it is under way", PATIENCE, || {
            first = way.client();
            first.send("GET /slow HTTP/1.1\r\nHost: a.example\r\n\r\n");
            std::thread::sleep(Duration::from_millis(100));
            world.backend.requests().len() > before
        });
        let mut second = way.client();
        way.send(&mut second, ask);
        let answer = second.response();
        assert_eq!(answer.status, 429, "{row} ({way})");
        let seconds = answer.header("retry-after").and_then(|text| text.parse::<u32>().ok());
        assert!(seconds.is_some_and(|seconds| seconds >= 1), "{row} ({way}): {answer:?}");
        assert_eq!(first.response().text(), "/slow", "{row} ({way})");
    }
}

fn tunnels(row: &str) {
    let backend = Backend::speaking("here", |wire: &mut Wire| {
        while let Some(mut request) = wire.request_head()? {
            wire.request_body(&mut request)?;
            let refused = request.target != "/ws" || request.header("upgrade").is_none();
            if refused {
                let status = if request.target == "/refused" { "403 No" } else { "200 OK" };
                let body = &request.target;
                let answer =
                    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                wire.send(answer.as_bytes())?;
                continue;
            }
            wire.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst")?;
            return echo(wire);
        }
        Ok(())
    });
    let world = World::new(backend, "", "");
    let ask = "GET /ws HTTP/1.1\r\nHost: a.example\r\n{offer}\r\n";
    for way in world.ways(ask).into_iter().filter(|way| way.offered) {
        let mut client = way.client();
        // Bytes right behind the offer belong to the tunnel, whatever they look like.
        let early = "GET / HTTP/1.1\r\nHost: b\r\n\r\n";
        way.send(&mut client, &format!("{ask}{early}"));
        let answer = client.try_head();
        if way.hurries_and_is_cut_off(&answer) {
            continue;
        }
        assert!(matches!(&answer, Ok(a) if a.status == 101), "{row} ({way}): {answer:?}");
        let mut got = Vec::new();
        let wanted = [b"first", early.as_bytes(), b"and more\0\r\n\r\n"].concat();
        client.send("and more\0\r\n\r\n");
        eventually("all of it comes back", PATIENCE, || {
            got.extend(client.wire().read_some().expect("an open tunnel"));
            got.len() >= wanted.len()
        });
        assert_eq!(got, wanted, "{row} ({way})");
    }
    // A refusal: what stands behind it is a request, or nothing.
    let next = "GET /next HTTP/1.1\r\nHost: a.example\r\n\r\n";
    for way in world.ways(ask).into_iter().filter(|way| way.offered) {
        let mut client = way.client();
        way.send(&mut client, &format!("{}{next}", ask.replace("/ws", "/refused")));
        let refused = client.try_response("GET");
        if way.hurries_and_is_cut_off(&refused) {
            continue;
        }
        assert!(matches!(&refused, Ok(a) if a.status == 403), "{row} ({way}): {refused:?}");
        match client.try_response("GET") {
            Ok(answer) => assert_eq!(answer.text(), "/next", "{row} ({way})"),
            Err(Broken::Nothing(end)) => assert_ne!(end, End::Open, "{row} ({way})"),
            Err(other) => panic!("{row} ({way}): {other:?}"),
        }
    }
}

fn echo(wire: &mut Wire) -> io::Result<()> {
    loop {
        let bytes = wire.read_some()?;
        if bytes.is_empty() {
            return Ok(());
        }
        wire.send(&bytes)?;
    }
}

rows! {
    ambiguous_framing: "ambiguous or broken upstream framing: 502, and the connection is not reused", broken_framing;
    more_bytes: "more bytes than announced: not reused", more_than_announced;
    bodies_that_end_early: "an upstream body that ends early never looks complete to the client: h1 closes without the last chunk", early_ends;
    no_body: "HEAD, 204, 304 carry no body", bodiless;
    trailers_pass: "trailers pass both ways (early hints: see what is sent upstream)", trailers;
    errors_of_our_own: "own error answers are short, typed by `Accept`, carry the request id, and tell nothing internal; 503 carries `Retry-After`", own_answers;
    too_many: "429 carries `Retry-After`", retry_after;
    websocket: "upgrade over h1; a refused upgrade followed by pipelined bytes is not a tunnel", tunnels;
}
