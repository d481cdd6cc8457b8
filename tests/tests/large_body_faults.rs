//! Large responses over plain HTTP/1.1 whose clients or endpoints are slow, silent or gone, with and
//! without splice(2).

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meridian_tests::{
    Answer, Backend, Body, Broken, Checked, Client, End, Meridian, Wire, block, eventually,
    one_region, pattern_stream, poll, request_bytes,
};
use socket2::{Domain, Socket, Type};

const PATIENCE: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;
const BOTH: [bool; 2] = [true, false];
const SHORT: &str = "[services.timeouts]\nfirst_byte = \"2s\"\nidle = \"1s\"\nrequest = \"20s\"\n";
/// Pipes that two workers keep for reuse, and endpoints' connections.
const KEPT: usize = 2 * 4 * 2 + 4;

/// An edge that splices, or does not.
fn stage(backend: &Backend, splice: bool, timeouts: &str) -> Meridian {
    let text = one_region(backend)
        .replace("[[services.endpoints]]", &format!("{timeouts}[[services.endpoints]]"));
    Meridian::start(&format!("{text}[edge]\nsplice = {splice}\n"))
}

/// `/N`: so much of the pattern; else the target itself.
fn library() -> Backend {
    Backend::answering("here", |request| match request.target[1..].parse() {
        Ok(length) => Answer::new(200, Body::Pattern(length)),
        Err(_) => Answer::ok(request.target.clone()),
    })
}

fn get(path: &str) -> Vec<u8> {
    request_bytes("GET", path, &[], b"")
}

fn is_cut(outcome: &Result<meridian_tests::Response, Broken>) -> bool {
    matches!(outcome, Err(Broken::Early(End::Closed | End::Reset, _) | Broken::Nothing(End::Reset)))
}

/// A client behind a narrow line: little room here, and small segments, so that the kernel holds little
/// for it (some 150 KB).
fn narrow(edge: &Meridian) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(8 * 1024).expect("a socket");
    socket.set_tcp_mss(500).expect("a socket");
    socket.connect(&edge.address().into()).expect("a connection");
    Client::on(Wire::new(TcpStream::from(socket), PATIENCE))
}

/// Reads `size` bytes at 80 KB a second; what became of it.
fn read_slowly(client: &mut Client, size: u64) -> Result<(), String> {
    let mut stream = client.wire().duplicate().expect("a socket");
    let (mut taken, began) = (0_u64, Instant::now());
    let mut space = [0; 2000];
    while taken < size {
        match stream.read(&mut space) {
            Ok(n @ 1..) => taken += n as u64,
            other => return Err(format!("{other:?} after {taken} bytes, {:?}", began.elapsed())),
        }
        let due = Duration::from_micros(taken * 1_000_000 / 80_000);
        std::thread::sleep(due.saturating_sub(began.elapsed()));
    }
    Ok(())
}

#[test]
fn a_reader_that_is_slow_but_steady_is_not_idle() {
    const SIZE: u64 = 700_000;
    // What a pipe holds takes such a reader more than three seconds; between two writes there is far less.
    let timeouts = SHORT.replace("1s", "2s");
    std::thread::scope(|scope| {
        for splice in BOTH {
            let timeouts = timeouts.as_str();
            scope.spawn(move || {
                let backend = library();
                let edge = stage(&backend, splice, timeouts);
                let mut client = narrow(&edge);
                client.send(get(&format!("/{SIZE}")));
                let read = read_slowly(&mut client, SIZE);
                assert!(read.is_ok(), "splice: {splice}: {read:?}");
            });
        }
    });
}

#[test]
fn a_reader_that_takes_nothing_is_dropped() {
    for splice in BOTH {
        let backend = library();
        let edge = stage(&backend, splice, SHORT);
        let mut client = edge.client();
        client.send(get(&format!("/{}", 100 * MIB)));
        let began = Instant::now();
        eventually("the endpoint is let go", PATIENCE, || {
            backend.requests().len() == 1 && backend.open_connections() == 0
        });
        assert!(began.elapsed() > Duration::from_millis(700), "{:?}", began.elapsed());
        let (got, end) = client.end();
        assert!(got.len() < 100 << 20 && end != End::Open);
        assert_eq!(edge.get("/fine").text(), "/fine");
    }
}

#[test]
fn clients_that_leave_take_everything_along() {
    for splice in BOTH {
        let backend = library();
        let edge = stage(&backend, splice, SHORT);
        assert_eq!(edge.get("/fine").text(), "/fine");
        let before = edge.open_files();
        for n in 0..40 {
            let mut client = edge.client();
            client.send(get(&format!("/{}", 100 * MIB)));
            assert_eq!(client.try_head().expect("an answer").status, 200);
            if n % 2 == 0 {
                client.wire().reset_when_dropped();
            }
        }
        eventually("their endpoints hear of it", PATIENCE, || backend.open_connections() <= 1);
        let mut open = 0;
        let flat = poll(PATIENCE, || {
            open = edge.open_files();
            (open <= before + KEPT).then_some(())
        });
        assert!(flat.is_some(), "splice: {splice}: {open} descriptors, {before} before");
        // What was left unread of those bodies is nobody's answer.
        let mut client = edge.client();
        for _ in 0..20 {
            assert_eq!(client.get("/fine").text(), "/fine", "splice: {splice}");
        }
    }
}

#[test]
fn thirty_downloads_at_a_time_are_whole() {
    for splice in BOTH {
        let backend = library();
        let edge = stage(&backend, splice, "");
        let before = edge.open_files();
        std::thread::scope(|scope| {
            for n in 0..30_u64 {
                let mut client = edge.client();
                scope.spawn(move || {
                    for round in 0..3 {
                        let size = 4 * MIB + 1009 * n + round;
                        client.send(get(&format!("/{size}")));
                        let head = client.try_head().expect("an answer");
                        let mut checked = Checked::default();
                        let outcome = client.try_body("GET", &head, |piece| checked.take(piece));
                        assert!(outcome.is_ok() && checked.is(size), "{n}: {outcome:?}");
                    }
                });
            }
        });
        backend.close_connections();
        let mut open = 0;
        let flat = poll(PATIENCE, || {
            open = edge.open_files();
            (open <= before + KEPT).then_some(())
        });
        assert!(flat.is_some(), "splice: {splice}: {open} descriptors, {before} before");
    }
}

/// Answers while it reads, so that both bodies are under way at the same time; the last byte says that
/// it has read all.
fn both_ways(size: u64) -> Backend {
    Backend::speaking("here", move |wire: &mut Wire| {
        while let Some(mut request) = wire.request_head()? {
            let mut answering = wire.duplicate()?;
            let answer = std::thread::spawn(move || {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n");
                let mut write = |bytes: &[u8]| answering.write_all(bytes);
                write(head.as_bytes())?;
                pattern_stream(size - 1).try_for_each(write)
            });
            let read = wire.request_body(&mut request);
            assert!(read.is_ok() && request.checked.is(size), "{read:?}");
            answer.join().expect("a thread")?;
            wire.send(&pattern_byte(size - 1))?;
        }
        Ok(())
    })
}

/// The byte at this place of the pattern.
fn pattern_byte(at: u64) -> [u8; 1] {
    let block = block();
    [block[usize::try_from(at % block.len() as u64).expect("below a block")]]
}

/// Sends an upload of the pattern while it reads an answer of `answer` bytes of it; how the upload went.
#[track_caller]
fn exchange_both(edge: &Meridian, upload: u64, answer: u64, what: &str) -> io::Result<()> {
    let mut client = edge.client();
    let mut sending = client.wire().duplicate().expect("a socket");
    let uploading = std::thread::spawn(move || {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {upload}\r\n\r\n");
        let mut write = |bytes: &[u8]| sending.write_all(bytes);
        write(head.as_bytes())?;
        pattern_stream(upload).try_for_each(write)
    });
    let head = client.try_head().expect("an answer");
    let mut checked = Checked::default();
    let outcome = client.try_body("GET", &head, |piece| checked.take(piece));
    assert!(outcome.is_ok() && checked.is(answer), "{what}: {outcome:?}, {checked:?}");
    uploading.join().expect("a thread")
}

#[test]
fn uploads_and_downloads_may_be_large_at_the_same_time() {
    for splice in BOTH {
        let backend = both_ways(8 * MIB);
        let edge = stage(&backend, splice, "");
        for n in 0..5 {
            let uploaded = exchange_both(&edge, 8 * MIB, 8 * MIB, &format!("{splice}, {n}"));
            uploaded.expect("an open connection");
        }
    }
}

#[test]
fn an_early_answer_is_whole_for_a_client_that_reads_after_its_upload() {
    const ANSWER: u64 = 2 * MIB;
    for splice in BOTH {
        for upload in [MIB, 16 * MIB] {
            let backend = Backend::speaking("here", |wire: &mut Wire| {
                wire.request_head()?;
                let head = format!("HTTP/1.1 403 No\r\nContent-Length: {ANSWER}\r\n\r\n");
                wire.send(head.as_bytes())?;
                pattern_stream(ANSWER).try_for_each(|piece| wire.send(piece))?;
                wire.drain();
                Ok(())
            });
            let edge = stage(&backend, splice, "");
            let mut client = edge.client();
            client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {upload}\r\n\r\n"));
            let sent = pattern_stream(upload).try_for_each(|piece| client.wire().send(piece));
            let head = client.try_head().expect("an answer");
            let mut checked = Checked::default();
            let outcome = client.try_body("GET", &head, |piece| checked.take(piece));
            let what = format!("splice: {splice}, {upload} up, sent: {sent:?}");
            assert!(outcome.is_ok() && checked.is(ANSWER), "{what}: {outcome:?}, {checked:?}");
        }
    }
}

/// Announces a great deal, sends `at_once` of it, and then what `more` says until the edge has had enough.
fn unending(at_once: usize, more: Option<Duration>) -> Backend {
    let first: Arc<[u8]> = block().repeat(5)[..at_once].into();
    Backend::speaking("here", move |wire: &mut Wire| {
        wire.request_head()?;
        wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")?;
        wire.send(&first)?;
        let Some(pause) = more else {
            wire.drain();
            return Ok(());
        };
        while wire.send(b"a few more bytes").is_ok() {
            std::thread::sleep(pause);
        }
        Ok(())
    })
}

/// What comes of a GET, and how long it took.
fn timed(edge: &Meridian) -> (Result<meridian_tests::Response, Broken>, Duration) {
    let began = Instant::now();
    let outcome = edge.client().try_request("GET", "/", &[], b"");
    (outcome, began.elapsed())
}

#[test]
fn an_endpoint_that_falls_silent_is_cut_after_its_idle_time() {
    for splice in BOTH {
        for at_once in [0, 10, 100_000, 300_000] {
            let backend = unending(at_once, None);
            let edge = stage(&backend, splice, SHORT);
            let (outcome, took) = timed(&edge);
            assert!(is_cut(&outcome), "splice: {splice}, {at_once}: {outcome:?}");
            let range = Duration::from_millis(700)..Duration::from_secs(6);
            assert!(range.contains(&took), "splice: {splice}, {at_once}: {took:?}");
            eventually("it is let go", PATIENCE, || backend.open_connections() == 0);
        }
    }
}

#[test]
fn a_body_that_drips_for_ever_is_cut_when_the_request_is_over() {
    let timeouts = SHORT.replace("20s", "3s");
    for splice in BOTH {
        let backend = unending(100_000, Some(Duration::from_millis(50)));
        let edge = stage(&backend, splice, &timeouts);
        let (outcome, took) = timed(&edge);
        assert!(is_cut(&outcome), "splice: {splice}: {outcome:?}");
        let range = Duration::from_millis(2500)..Duration::from_secs(9);
        assert!(range.contains(&took), "splice: {splice}: {took:?}");
        eventually("it is let go", PATIENCE, || backend.open_connections() == 0);
    }
}
