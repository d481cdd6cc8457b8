//! Clients that are slower than `limits.min_rate`, that are slow for a reason, or that go away while they wait.

use std::future::poll_fn;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian_tests::{
    Answer, Backend, Body, Broken, Client, End, Meridian, Wire, eventually, one_region,
};

const SOON: Duration = Duration::from_secs(10);
/// The grace, then ticks of deadlines and a busy machine.
const GIVEN_UP: std::ops::Range<Duration> = Duration::from_secs(9)..Duration::from_secs(18);

fn edge(backend: &Backend, limits: &str) -> Meridian {
    Meridian::start(&format!("[limits]\n{limits}\n{}", one_region(backend)))
}

/// Sends a byte of a body now and then until an answer comes.
fn trickle(client: &mut Client) -> Result<meridian_tests::Response, Broken> {
    client.wire().patience = Duration::from_millis(200);
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(30) {
        if client.wire().send(b"x").is_err() {
            break;
        }
        match client.try_response("POST") {
            Err(Broken::Nothing(End::Open)) => {}
            outcome => return outcome,
        }
    }
    Err(Broken::Nothing(End::Open))
}

#[test]
fn a_body_that_trickles_in_is_answered_408() {
    let backend = Backend::start("here");
    let edge = edge(&backend, "");
    let mut client = edge.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
    let since = Instant::now();
    let answer = trickle(&mut client).expect("an answer");
    assert_eq!((answer.status, answer.header("connection")), (408, Some("close")));
    assert!(GIVEN_UP.contains(&since.elapsed()), "{:?}", since.elapsed());
    eventually("the endpoint is let go", SOON, || backend.open_connections() == 0);
    assert_eq!(edge.logged(|line| line["status"] == 408)["method"], "POST");
}

#[test]
fn a_body_of_unknown_length_may_take_its_time() {
    let backend = Backend::start("here");
    let edge = edge(&backend, "min_rate = \"1MiB\"");
    let mut client = edge.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..12 {
        std::thread::sleep(Duration::from_secs(1));
        client.send("1\r\nx\r\n");
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.response().status, 200);
    assert_eq!(backend.only_request().body, b"xxxxxxxxxxxx");
}

#[test]
fn an_http2_body_that_trickles_in_is_answered_408() {
    let backend = Backend::start("here");
    let edge = edge(&backend, "");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let stream = tokio::net::TcpStream::connect(edge.address()).await.expect("a connection");
        let (mut sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
        tokio::spawn(connection);
        poll_fn(|cx| sender.poll_ready(cx)).await.expect("room for a stream");
        let request = http::Request::builder().method("POST").uri("http://a.example/");
        let request = request.header("content-length", "100000").body(()).expect("a request");
        let (response, mut body) = sender.send_request(request, false).expect("a stream");
        let since = Instant::now();
        let mut response = std::pin::pin!(response);
        let answer = loop {
            // The stream may have been reset.
            let _ = body.send_data(Bytes::from_static(b"x"), false);
            tokio::select! {
                answer = &mut response => break answer.expect("an answer"),
                () = tokio::time::sleep(Duration::from_millis(200)) => {}
            }
        };
        assert_eq!(answer.status(), 408);
        assert!(GIVEN_UP.contains(&since.elapsed()), "{:?}", since.elapsed());
    });
    eventually("the endpoint is let go", SOON, || backend.open_connections() == 0);
}

#[test]
fn an_answer_that_is_taken_too_slowly_is_cut_off() {
    let backend = Backend::answering("here", |_| Answer::new(200, Body::Pattern(100 << 20)));
    let edge = edge(&backend, "min_rate = \"4MiB\"");
    let mut client = edge.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let since = Instant::now();
    // Some now and then: it is not silent, only slow.
    while client.wire().read_some().is_ok_and(|bytes| !bytes.is_empty()) {
        std::thread::sleep(Duration::from_millis(100));
        assert!(since.elapsed() < Duration::from_secs(40), "it is not cut off");
    }
    assert!(since.elapsed() > GIVEN_UP.start, "{:?}", since.elapsed());
    eventually("the endpoint is let go", SOON, || backend.open_connections() == 0);
    let line = edge.logged(|line| line["error"] == "the client takes too little");
    assert_eq!(line["status"], 200);
}

/// Bytes that wait in the kernel for the client at `port`, sent or not; as /proc/net/tcp has it.
fn queued(edge: SocketAddr, port: u16) -> Option<u64> {
    let sockets = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    let (own, other) = (format!(":{:04X}", edge.port()), format!(":{port:04X}"));
    sockets.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let is_it = fields.next()?.ends_with(&own) && fields.next()?.ends_with(&other);
        let queue = fields.nth(1)?.split_once(':')?.0;
        is_it.then(|| u64::from_str_radix(queue, 16).ok())?
    })
}

#[test]
fn an_answer_that_is_not_taken_does_not_fill_the_kernel_s_memory() {
    let backend = Backend::answering("here", |_| Answer::new(200, Body::Pattern(32 << 20)));
    for splice in [true, false] {
        let edge = Meridian::start(&format!("{}[edge]\nsplice = {splice}\n", one_region(&backend)));
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a socket");
        socket.connect(&edge.address().into()).expect("a connection");
        let mut client = TcpStream::from(socket);
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("a connection");
        let port = client.local_addr().expect("a connection").port();
        let queue = || queued(edge.address(), port).unwrap_or(0);
        eventually("something waits", SOON, || queue() > 64 << 10);
        std::thread::sleep(Duration::from_secs(1));
        // 512 KiB, and one write that was begun before.
        assert!(queue() <= 1 << 20, "splice {splice}: {} bytes", queue());
    }
}

#[test]
fn a_stream_of_events_is_not_slow() {
    let backend = Backend::speaking("here", |wire: &mut Wire| {
        wire.request_head()?;
        wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        for _ in 0..13 {
            std::thread::sleep(Duration::from_secs(1));
            wire.send(b"1\r\nx\r\n")?;
        }
        wire.send(b"0\r\n\r\n")
    });
    let edge = edge(&backend, "min_rate = \"1MiB\"");
    assert_eq!(edge.get("/events").body, b"xxxxxxxxxxxxx");
}

#[test]
fn a_client_that_only_ends_its_side_gets_what_comes_soon() {
    let backend = Backend::start("here");
    let edge = edge(&backend, "");
    for _ in 0..20 {
        let mut client = edge.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.wire().finish();
        assert_eq!(client.response().status, 200);
    }
}

/// The endpoint hears of it long before it would have answered.
#[test]
fn a_client_that_goes_away_while_it_waits_cancels_the_work() {
    let backend = Backend::answering("here", |_| Answer::ok("").delay(Duration::from_secs(30)));
    let edge = edge(&backend, "");
    for (path, reset, end_only) in
        [("/close", false, false), ("/reset", true, false), ("/half", false, true)]
    {
        let mut client = edge.client();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        eventually("it is at the endpoint", SOON, || {
            backend.requests().iter().any(|request| request.target == path)
        });
        assert_eq!(edge.admin().metric_sum("meridian_in_flight", &[]), 1.0, "{path}");
        let since = Instant::now();
        if reset {
            client.wire().reset_when_dropped();
        }
        let kept = if end_only {
            client.wire().finish();
            Some(client)
        } else {
            drop(client);
            None
        };
        eventually("the work is cancelled", Duration::from_secs(2), || {
            edge.admin().metric_sum("meridian_in_flight", &[]) == 0.0
        });
        assert!(since.elapsed() < Duration::from_secs(2));
        assert_eq!(edge.logged(|line| line["target"] == path)["status"], 499);
        drop(kept);
    }
}

#[test]
fn what_a_client_has_pipelined_is_no_end_and_hides_none() {
    let backend = Backend::answering("here", |request| match &*request.target {
        "/slow" => Answer::ok("slow").delay(Duration::from_secs(1)),
        "/late" => Answer::ok("late").delay(Duration::from_secs(30)),
        _ => Answer::ok("fast"),
    });
    let edge = edge(&backend, "");
    let two = |first: &str| {
        format!("GET {first} HTTP/1.1\r\nHost: a\r\n\r\nGET /fast HTTP/1.1\r\nHost: a\r\n\r\n")
    };
    let mut client = edge.client();
    client.send(two("/slow"));
    assert_eq!(
        (client.response().text(), client.response().text()),
        ("slow".into(), "fast".into())
    );
    client.send("GET /late HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is at the endpoint", SOON, || backend.requests().len() == 3);
    client.send("GET /never HTTP/1.1\r\nHost: a\r\n\r\n");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(edge.admin().metric_sum("meridian_in_flight", &[]), 1.0);
    drop(client);
    eventually("the work is cancelled", Duration::from_secs(2), || {
        edge.admin().metric_sum("meridian_in_flight", &[]) == 0.0
    });
    assert!(backend.requests().iter().all(|request| request.target != "/never"));
}
