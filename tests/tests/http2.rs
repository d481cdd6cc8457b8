//! Cleartext HTTP/2 in, HTTP/1.1 out, on the same listener as HTTP/1.1.

use std::future::poll_fn;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, Request};
use meridian_tests::{
    Answer, Backend, Body, Checked, H2Backend, H2Settings, Meridian, Wire, eventually, one_region,
    pattern_stream, regions,
};
use tokio::net::TcpStream;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;

/// What came back on a stream.
#[derive(Debug)]
struct Reply {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    checked: Checked,
    trailers: Option<HeaderMap>,
}

impl Reply {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// One test: an edge, and a runtime for the client.
fn run<F: Future<Output = ()>>(work: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async { timeout(Duration::from_secs(90), work).await.expect("in time") });
}

async fn connect(edge: &Meridian) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(edge.address()).await.expect("a connection");
    stream.set_nodelay(true).expect("a socket");
    let (sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(async move {
        // Its end is seen by the streams.
        let _ = connection.await;
    });
    sender
}

fn request(method: Method, path: &str) -> Request<()> {
    let uri = format!("http://a.example{path}");
    Request::builder().method(method).uri(uri).body(()).expect("a request")
}

async fn send(
    sender: &mut SendRequest<Bytes>,
    request: Request<()>,
    end: bool,
) -> (ResponseFuture, SendStream<Bytes>) {
    poll_fn(|cx| sender.poll_ready(cx)).await.expect("room for a stream");
    sender.send_request(request, end).expect("a stream")
}

/// Sends as the window allows.
async fn send_data(stream: &mut SendStream<Bytes>, data: &'static [u8]) -> Result<(), h2::Error> {
    let mut data = Bytes::from_static(data);
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let granted = poll_fn(|cx| stream.poll_capacity(cx)).await;
        let granted = granted.unwrap_or(Err(Reason::CANCEL.into()))?;
        stream.send_data(data.split_to(granted.min(data.len())), false)?;
    }
    Ok(())
}

async fn receive(response: ResponseFuture) -> Result<Reply, h2::Error> {
    let response = timeout(PATIENCE, response).await.expect("an answer in time")?;
    let (parts, mut body) = response.into_parts();
    let mut reply = Reply {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: Vec::new(),
        checked: Checked::default(),
        trailers: None,
    };
    while let Some(data) = timeout(PATIENCE, next(&mut body)).await.expect("a body in time") {
        let data = data?;
        reply.checked.take(&data);
        if reply.body.len() < 100_000 {
            reply.body.extend_from_slice(&data);
        }
    }
    reply.trailers = body.trailers().await?;
    Ok(reply)
}

async fn next(body: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    let data = body.data().await?;
    if let Ok(data) = &data {
        body.flow_control().release_capacity(data.len()).expect("what was received");
    }
    Some(data)
}

async fn get(sender: &mut SendRequest<Bytes>, path: &str) -> Result<Reply, h2::Error> {
    let (response, _) = send(sender, request(Method::GET, path), true).await;
    receive(response).await
}

#[test]
fn requests_arrive_as_http_1_1_and_answers_come_back() {
    let backend = Backend::answering("here", |request| {
        Answer::ok(request.body.clone())
            .header("X-Answer", "1")
            .header("Connection", "x-hop")
            .header("X-Hop", "2")
            .header("Meridian-Role", "primary")
    });
    let edge = Meridian::start(&one_region(&backend));
    run(async {
        let mut sender = connect(&edge).await;
        let mut post = request(Method::POST, "/a?b=c");
        post.headers_mut().insert("x-kept", "1".parse().expect("a value"));
        post.headers_mut().append("cookie", "a=1".parse().expect("a value"));
        post.headers_mut().append("cookie", "b=2".parse().expect("a value"));
        post.headers_mut().insert("meridian-role", "primary".parse().expect("a value"));
        let (response, mut stream) = send(&mut sender, post, false).await;
        stream.send_data(Bytes::from_static(b"hel"), false).expect("a stream");
        stream.send_data(Bytes::from_static(b"lo"), true).expect("a stream");
        let reply = receive(response).await.expect("an answer");
        assert_eq!((reply.status, reply.text().as_str()), (200, "hello"));
        assert_eq!(
            (reply.header("x-answer"), reply.header("x-served-region")),
            (Some("1"), Some("here"))
        );
        for gone in ["connection", "x-hop", "meridian-role", "transfer-encoding"] {
            assert_eq!(reply.header(gone), None, "{gone}");
        }
    });
    let seen = backend.only_request();
    assert!(seen.raw_head.starts_with("POST /a?b=c HTTP/1.1\r\n"), "{}", seen.raw_head);
    assert_eq!(seen.fields.all("host"), ["a.example"]);
    assert_eq!(seen.fields.all("cookie"), ["a=1; b=2"]);
    assert_eq!(seen.fields.all("x-kept"), ["1"]);
    assert_eq!(seen.fields.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.header("meridian-role"), None);
}

#[test]
fn trailers_pass_both_ways() {
    let backend = Backend::answering("here", |_| {
        Answer::new(200, Body::Chunks(vec![b"hi".to_vec()]))
            .trailer("grpc-status", "0")
            .trailer("Content-Length", "9")
    });
    let edge = Meridian::start(&one_region(&backend));
    run(async {
        let mut sender = connect(&edge).await;
        let mut post = request(Method::POST, "/s/m");
        let grpc = "application/grpc".parse().expect("a value");
        post.headers_mut().insert("content-type", grpc);
        let (response, mut stream) = send(&mut sender, post, false).await;
        stream.send_data(Bytes::from_static(b"hello"), false).expect("a stream");
        let mut trailers = HeaderMap::new();
        trailers.insert("x-digest", "1".parse().expect("a value"));
        stream.send_trailers(trailers).expect("a stream");
        let reply = receive(response).await.expect("an answer");
        let trailers = reply.trailers.expect("trailers");
        assert_eq!(trailers.get("grpc-status").map(|v| v.as_bytes()), Some(&b"0"[..]));
        assert_eq!(trailers.len(), 1, "{trailers:?}");
    });
    let seen = backend.only_request();
    assert_eq!((seen.body.as_slice(), seen.trailers.get("x-digest")), (&b"hello"[..], Some("1")));
    assert_eq!(seen.header("te"), Some("trailers"));
}

#[test]
fn many_streams_at_once_do_not_wait_for_each_other() {
    let backend = Backend::answering("here", |request| {
        let slow = request.target == "/0";
        let delay = Duration::from_millis(if slow { 1500 } else { 20 });
        Answer::ok(request.target.clone()).delay(delay)
    });
    let edge = Meridian::start(&one_region(&backend));
    run(async {
        let mut sender = connect(&edge).await;
        let (slow, _) = send(&mut sender, request(Method::GET, "/0"), true).await;
        let mut slow = tokio::spawn(receive(slow));
        let mut others = Vec::new();
        for n in 1..=90 {
            let (response, _) =
                send(&mut sender, request(Method::GET, &format!("/{n}")), true).await;
            others.push(tokio::spawn(receive(response)));
        }
        for (n, other) in others.into_iter().enumerate() {
            let reply = other.await.expect("a task").expect("an answer");
            assert_eq!(reply.text(), format!("/{}", n + 1));
        }
        assert!(timeout(Duration::ZERO, &mut slow).await.is_err(), "the slow one was waited for");
        assert_eq!(slow.await.expect("a task").expect("an answer").text(), "/0");
    });
}

#[test]
fn a_reset_stream_takes_its_own_work_along_and_nothing_else() {
    let backend = Backend::speaking("here", |wire: &mut Wire| {
        while let Some(request) = wire.request_head()? {
            if request.target == "/never" {
                wire.drain();
                return Ok(());
            }
            wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")?;
        }
        Ok(())
    });
    let edge = Meridian::start(&one_region(&backend));
    run(async {
        let mut sender = connect(&edge).await;
        let (response, mut stream) = send(&mut sender, request(Method::GET, "/never"), true).await;
        assert_eq!(get(&mut sender, "/fine").await.expect("an answer").text(), "hi");
        assert_eq!(backend.open_connections(), 2);
        stream.send_reset(Reason::CANCEL);
        drop(response);
        let there = tokio::task::spawn_blocking(move || {
            eventually("the endpoint hears of it", PATIENCE, || backend.open_connections() == 1);
            backend
        });
        let backend = there.await.expect("a task");
        assert_eq!(get(&mut sender, "/fine").await.expect("an answer").text(), "hi");
        drop(backend);
    });
}

#[test]
fn large_bodies_pass_both_ways_within_the_windows() {
    const LARGE: u64 = 20 * MIB;
    let backend = Backend::answering("here", |request| match request.target.as_str() {
        "/length" => Answer::new(200, Body::Pattern(LARGE)),
        "/chunked" => Answer::new(200, Body::PatternChunks(LARGE)),
        _ => Answer::ok("taken"),
    });
    let edge = Meridian::start(&one_region(&backend));
    run(async {
        let mut sender = connect(&edge).await;
        for path in ["/length", "/chunked"] {
            let reply = get(&mut sender, path).await.expect("an answer");
            assert!(reply.checked.is(LARGE), "{path}: {} bytes", reply.checked.length);
        }
        let (response, mut stream) = send(&mut sender, request(Method::POST, "/up"), false).await;
        for piece in pattern_stream(LARGE) {
            send_data(&mut stream, piece).await.expect("a window");
        }
        stream.send_data(Bytes::new(), true).expect("a stream");
        assert_eq!(receive(response).await.expect("an answer").text(), "taken");
    });
    assert!(backend.requests().iter().any(|r| r.target == "/up" && r.checked.is(LARGE)));
}

#[test]
fn a_stream_nobody_reads_holds_up_neither_its_neighbours_nor_memory() {
    let backend = Backend::answering("here", |request| match request.target.as_str() {
        "/large" => Answer::new(200, Body::Pattern(200 * MIB)),
        _ => Answer::ok("hi"),
    });
    let edge = Meridian::start(&one_region(&backend));
    let before = edge.resident_bytes();
    run(async {
        let mut sender = connect(&edge).await;
        let mut unread = Vec::new();
        for _ in 0..4 {
            let (response, _) = send(&mut sender, request(Method::GET, "/large"), true).await;
            let response = timeout(PATIENCE, response).await.expect("in time").expect("a head");
            unread.push(response.into_body());
        }
        let mut other = connect(&edge).await;
        for _ in 0..50 {
            assert_eq!(get(&mut other, "/x").await.expect("an answer").text(), "hi");
        }
        let grown = edge.resident_bytes().saturating_sub(before);
        assert!(grown < 24 * MIB, "{grown} bytes");
        drop(unread);
    });
}

#[test]
fn an_answer_that_is_cut_ends_in_a_reset() {
    for answer in [
        Answer::ok("0123456789").cut_after(5),
        Answer::ok("0123456789").reset_after(5),
        Answer::new(200, Body::Chunks(vec![b"01234".to_vec(), b"56789".to_vec()])).cut_after(10),
    ] {
        let backend = Backend::answering("here", move |request| match request.target.as_str() {
            "/fine" => Answer::ok("fine"),
            _ => answer.clone(),
        });
        let edge = Meridian::start(&one_region(&backend));
        run(async {
            let mut sender = connect(&edge).await;
            let error = get(&mut sender, "/fault").await.expect_err("no whole answer");
            assert!(error.is_reset(), "{error:?}");
            assert_eq!(get(&mut sender, "/fine").await.expect("an answer").text(), "fine");
        });
    }
}

#[test]
fn own_answers_and_refusals_are_the_same_as_over_http_1_1() {
    let backend = Backend::start("here");
    let text = regions(&[("here", backend.address())], "health = { kind = \"none\" }");
    let text =
        format!("{text}[[routes]]\nname = \"a\"\nservice = \"api\"\nhosts = [\"a.example\"]\n");
    let edge = Meridian::start(&format!("[limits]\nbody_bytes = \"64KiB\"\nheaders = 20\n{text}"));
    run(async {
        let mut sender = connect(&edge).await;
        let mut elsewhere = request(Method::GET, "/");
        *elsewhere.uri_mut() = "http://other.example/".parse().expect("a URI");
        elsewhere.headers_mut().insert("accept", "application/json".parse().expect("a value"));
        let (response, _) = send(&mut sender, elsewhere, true).await;
        let reply = receive(response).await.expect("an answer");
        assert_eq!((reply.status, reply.header("content-type")), (404, Some("application/json")));
        assert!(reply.text().contains(reply.header("x-request-id").expect("an id")));

        let mut many = request(Method::GET, "/");
        for n in 0..30 {
            let name: http::HeaderName = format!("x-{n}").parse().expect("a name");
            many.headers_mut().insert(name, "y".parse().expect("a value"));
        }
        let (response, _) = send(&mut sender, many, true).await;
        assert_eq!(receive(response).await.expect("an answer").status, 431);

        let (response, mut stream) = send(&mut sender, request(Method::POST, "/"), false).await;
        // It may be told to stop before it has sent everything.
        let _ = send_data(&mut stream, &[b'x'; 100_000]).await;
        assert_eq!(receive(response).await.expect("an answer").status, 413);

        let (response, _) = send(&mut sender, request(Method::HEAD, "/x"), true).await;
        let reply = receive(response).await.expect("an answer");
        assert_eq!((reply.status, reply.body.len()), (200, 0));
        assert!(reply.header("content-length").is_some());
        backend.kill();
        let reply = get(&mut sender, "/").await.expect("an answer");
        assert_eq!(reply.status, 503);
        assert!(reply.header("retry-after").is_some());
    });
}

#[test]
fn one_listener_speaks_both_and_another_only_one() {
    let backend = Backend::start("here");
    let listeners = "[[listeners]]\nname = \"both\"\nprotocols = [\"http1\", \"h2c\"]\n\
                     [[listeners]]\nname = \"old\"\nprotocols = [\"http1\"]\n\
                     [[listeners]]\nname = \"prior\"\nprotocols = [\"h2c\"]\n";
    let edge = Meridian::start(&format!("{listeners}{}", one_region(&backend)));
    let curl = |version: &str, listener: &str| {
        let url = format!("http://{}/x", edge.listener(listener));
        let args =
            ["-s", "-o", "/dev/null", "--max-time", "20", "-w", "%{http_code} %{http_version}"];
        let seen = Command::new("curl").args(args).arg(version).arg(url).output();
        String::from_utf8_lossy(&seen.expect("curl is installed").stdout).into_owned()
    };
    let (new, old) = ("--http2-prior-knowledge", "--http1.1");
    assert_eq!(curl(new, "both"), "200 2");
    assert_eq!(curl(old, "both"), "200 1.1");
    assert_eq!(curl(new, "prior"), "200 2");
    assert_eq!(curl(old, "old"), "200 1.1");
    // curl offers an upgrade to h2c, which is not taken and not passed on.
    assert_eq!(curl("--http2", "both"), "200 1.1");
    assert_ne!(curl(new, "old"), "200 2");
    assert_ne!(curl(old, "prior"), "200 1.1");
    assert!(backend.requests().iter().all(|r| r.header("upgrade").is_none()));
}

#[test]
fn trailers_that_are_too_much_are_the_clients_doing() {
    let spoken = H2Backend::start(H2Settings::default());
    let plain =
        Backend::answering("here", |request| Answer::ok(request.trailers.0.len().to_string()));
    for (address, lines) in [
        (spoken.address(), "protocol = \"h2c\"\nhealth.kind = \"none\"\n"),
        (plain.address(), "health.kind = \"none\"\n"),
    ] {
        let edge = Meridian::start(
            &(regions(&[("here", address)], lines)
                + "[[routes]]\nname = \"all\"\nservice = \"api\"\n"),
        );
        run(async {
            let mut sender = connect(&edge).await;
            for (count, size, fits) in [
                (30, 500, true),
                (64, 1, true),
                (40, 450, false),
                (65, 1, false),
                (2, 8184, true),
                (2, 8185, false),
            ] {
                let began = std::time::Instant::now();
                // One that reads all before it answers, where there is to be no other answer.
                let post = request(Method::POST, if fits { "/echo" } else { "/read" });
                let (response, mut stream) = send(&mut sender, post, false).await;
                stream.send_data(Bytes::from_static(b"hello"), false).expect("a stream");
                let mut trailers = HeaderMap::new();
                for number in 0..count {
                    let name = http::HeaderName::try_from(format!("x-{number}")).expect("a name");
                    trailers.insert(name, "y".repeat(size).parse().expect("a value"));
                }
                stream.send_trailers(trailers).expect("a stream");
                let reply = receive(response).await.expect("an answer");
                assert!(began.elapsed() < Duration::from_secs(5), "{count} of {size}");
                assert_eq!(reply.status, if fits { 200 } else { 400 }, "{count} of {size}");
                if fits {
                    let arrived = match &reply.trailers {
                        Some(trailers) => trailers.len().to_string(),
                        None => reply.text(),
                    };
                    assert_eq!(arrived, count.to_string(), "{count} of {size}");
                }
            }
        });
        let admin = edge.admin();
        for metric in ["meridian_retries_total", "meridian_ejections_total"] {
            assert_eq!(admin.metric_sum(metric, &[]), 0.0, "{metric}");
        }
    }
}
