//! Sides that fall silent or go away: an honest answer or a visible abort, in the time that is set.

use std::time::{Duration, Instant};

use meridian_tests::{
    Answer, Backend, Body, Broken, Client, End, Meridian, Wire, eventually, one_region,
};

const PATIENCE: Duration = Duration::from_secs(15);
const TIMEOUTS: &str =
    "[services.timeouts]\nfirst_byte = \"1s\"\nidle = \"1s\"\nrequest = \"4s\"\n";

/// An edge with short patience; the timeouts belong to the service, which the text names last.
fn stage(backend: &Backend) -> Meridian {
    let text = one_region(backend);
    Meridian::start(
        &text.replace("[[services.endpoints]]", &format!("{TIMEOUTS}[[services.endpoints]]")),
    )
}

/// What comes of `work`, which must take as long as one of the timeouts and not much longer.
fn timed<T>(work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let outcome = work();
    let took = began.elapsed();
    assert!(took > Duration::from_millis(700) && took < Duration::from_secs(8), "{took:?}");
    outcome
}

fn is_cut(outcome: &Result<meridian_tests::Response, Broken>) -> bool {
    matches!(outcome, Err(Broken::Early(End::Closed | End::Reset, _) | Broken::Nothing(End::Reset)))
}

#[test]
fn an_endpoint_that_never_answers_is_a_gateway_timeout() {
    let backend = Backend::start("here");
    let edge = stage(&backend);
    let mut client = edge.client();
    assert_eq!(client.get("/").status, 200);
    backend.stop();
    let answer = timed(|| client.request("POST", "/", &[("X-Request-Id", "id-5")], b"x"));
    assert_eq!((answer.status, answer.header("x-request-id")), (504, Some("id-5")));
    backend.resume();
    eventually("it serves again", PATIENCE, || edge.get("/").status == 200);
    assert_eq!(edge.logged(|line| line["request_id"] == "id-5")["status"], 504);
}

#[test]
fn a_body_that_stops_coming_from_the_endpoint_is_cut() {
    let backend = Backend::speaking("here", |wire: &mut Wire| {
        wire.request_head()?;
        wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234")?;
        wire.drain();
        Ok(())
    });
    let edge = stage(&backend);
    let mut client = edge.client();
    let outcome = timed(|| client.try_request("GET", "/", &[], b""));
    assert!(is_cut(&outcome), "{outcome:?}");
    eventually("the endpoint is let go", PATIENCE, || backend.open_connections() == 0);
}

#[test]
fn a_body_that_never_ends_is_cut_when_the_request_is_over() {
    let backend = Backend::speaking("here", |wire: &mut Wire| {
        wire.request_head()?;
        wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        // Until the edge has had enough.
        while wire.send(b"1\r\nx\r\n").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    });
    let edge = stage(&backend);
    let mut client = edge.client();
    let outcome = timed(|| client.try_request("GET", "/", &[], b""));
    assert!(is_cut(&outcome), "{outcome:?}");
    eventually("the endpoint is let go", PATIENCE, || backend.open_connections() == 0);
}

#[test]
fn a_client_that_stops_sending_is_told_or_dropped() {
    let backend = Backend::start("here");
    let edge = stage(&backend);
    for start in
        ["Content-Length: 10\r\n\r\n01234", "Transfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n"]
    {
        let mut client = edge.client();
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{start}"));
        match timed(|| client.try_response("POST")) {
            Ok(answer) => {
                assert_eq!((answer.status, answer.header("connection")), (408, Some("close")))
            }
            Err(Broken::Nothing(End::Closed | End::Reset)) => {}
            Err(other) => panic!("{other:?}"),
        }
        assert!(client.is_closed());
    }
    eventually("the endpoint is let go", PATIENCE, || backend.open_connections() == 0);
    assert!(backend.requests().iter().all(|request| !request.complete));
}

#[test]
fn a_client_that_reads_nothing_is_dropped() {
    let backend = Backend::answering("here", |_| Answer::new(200, Body::Pattern(100 << 20)));
    let edge = stage(&backend);
    let mut client = edge.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the endpoint is let go", PATIENCE, || {
        backend.requests().len() == 1 && backend.open_connections() == 0
    });
    let (got, end) = client.end();
    assert!(got.len() < 100 << 20);
    assert_ne!(end, End::Open);
}

#[test]
fn a_client_that_goes_away_takes_its_work_along() {
    let backend = Backend::answering("here", |_| Answer::new(200, Body::Pattern(100 << 20)));
    let edge = stage(&backend);
    for reset in [false, true] {
        let mut client: Client = edge.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.try_head().expect("an answer").status, 200);
        if reset {
            client.wire().reset_when_dropped();
        }
        drop(client);
        eventually("the endpoint hears of it", PATIENCE, || backend.open_connections() == 0);
    }
    let mut uploading = edge.client();
    uploading.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n01234");
    eventually("the upload begins", PATIENCE, || backend.open_connections() == 1);
    drop(uploading);
    eventually("the endpoint hears of it", PATIENCE, || backend.open_connections() == 0);
    let requests = backend.requests();
    assert!(requests.iter().all(|request| request.method == "GET" || !request.complete));
}
