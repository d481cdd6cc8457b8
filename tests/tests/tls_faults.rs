//! TLS with clients and endpoints that break off, fall silent or talk nonsense.

use std::io;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use meridian_tests::{
    Answer, Backend, Body, Broken, Client, End, Meridian, Site, Wire, eventually, exchange,
    one_region, request_bytes,
};

const PATIENCE: Duration = Duration::from_secs(20);
const HOST: &str = "a.example";

struct Stage {
    site: Site,
    backend: Backend,
    edge: Meridian,
}

/// An edge with TLS in front of an endpoint; `lines` are further sections.
fn stage_before(backend: Backend, lines: &str) -> Stage {
    let site = Site::new(&[("a", &[HOST])]);
    let timeouts = "[services.timeouts]\nfirst_byte = \"2s\"\nidle = \"1s\"\nrequest = \"30s\"\n";
    let text = one_region(&backend)
        .replace("[[services.endpoints]]", &format!("{timeouts}[[services.endpoints]]"));
    let edge = Meridian::start(&(text + &site.listener(&["a"], "") + lines));
    Stage { site, backend, edge }
}

fn stage(lines: &str) -> Stage {
    let backend = Backend::answering("here", |request| match request.target.as_str() {
        "/endless" => Answer::new(200, Body::Pattern(200 << 20)),
        target => Answer::ok(target.to_owned()),
    });
    stage_before(backend, lines)
}

impl Stage {
    fn client(&self) -> Client {
        self.site.client(self.edge.address(), HOST)
    }

    /// curl, which trusts the root and finds the host at the edge.
    fn curl(&self, path: &str, args: &[&str]) -> Command {
        let address = self.edge.address();
        let mut command = Command::new("curl");
        command.args(["--silent", "--max-time", "40", "--cacert"]).arg(self.site.root());
        command.arg("--resolve").arg(format!("{HOST}:{}:{}", address.port(), address.ip()));
        command.args(args).arg(format!("https://{HOST}:{}{path}", address.port()));
        command
    }

    #[track_caller]
    fn serves(&self) {
        let mut client = self.client();
        assert_eq!(client.get("/fine").text(), "/fine");
    }
}

/// Waits until the edge has as many descriptors as before.
#[track_caller]
fn lets_go(edge: &Meridian, before: usize) {
    let mut open = 0;
    let flat = meridian_tests::poll(PATIENCE, || {
        open = edge.open_files();
        (open <= before).then_some(())
    });
    assert!(flat.is_some(), "{open} descriptors are open, {before} were");
}

#[test]
fn what_is_no_handshake_is_turned_away_at_once() {
    let stage = stage("");
    let began = Instant::now();
    for bytes in [
        b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n" as &[u8],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\r\n\r\n\r\n\r\n\r\n",
        b"SSH-2.0-OpenSSH_9\r\n",
        &[0; 600],
        &[0xff; 600],
        // A record that is longer than any may be; a ClientHello that is none; an alert.
        &[0x16, 3, 1, 0xff, 0xff, 1, 0, 0, 0],
        &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0],
        &[0x15, 3, 1, 0, 2, 2, 40],
    ] {
        let answer = exchange(stage.edge.address(), bytes, PATIENCE);
        assert_ne!(answer.end, End::Open, "{bytes:?}");
        // An alert and nothing else.
        let silent = answer.answer.is_empty();
        assert!(silent || answer.answer[0] == 0x15, "{:?} to {bytes:?}", answer.answer);
        assert!(answer.answer.len() < 20, "{:?}", answer.answer);
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(stage.backend.requests().is_empty());
    stage.serves();
}

#[test]
fn half_a_handshake_is_held_to_the_head_s_deadline() {
    let stage = stage("[limits]\nheader_timeout = \"1s\"\n");
    let before = stage.edge.open_files();
    let mut held = Vec::new();
    for part in [0, 1, 5, 100] {
        let config = stage.site.client_config(rustls::ALL_VERSIONS);
        let mut wire = stage.site.wire(config, stage.edge.address(), HOST);
        let hello = wire.sealed();
        wire.send_beneath(&hello[..part.min(hello.len())]).expect("an open connection");
        held.push((part, wire));
    }
    // The whole hello, and nothing after it; a whole handshake, and no request.
    let config = stage.site.client_config(rustls::ALL_VERSIONS);
    let mut wire = stage.site.wire(config, stage.edge.address(), HOST);
    let hello = wire.sealed();
    wire.send_beneath(&hello).expect("an open connection");
    held.push((1000, wire));
    held.push((2000, std::mem::replace(stage.client().wire(), wire_of(&stage))));
    let began = Instant::now();
    stage.serves();
    for (part, wire) in held {
        let mut beneath = wire.duplicate().expect("a socket");
        let ended = io::copy(&mut beneath, &mut io::sink());
        let reset = ended.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::ConnectionReset);
        assert!(ended.is_ok() || reset, "{part}: {ended:?}");
    }
    let took = began.elapsed();
    assert!(took > Duration::from_millis(500) && took < Duration::from_secs(8), "{took:?}");
    lets_go(&stage.edge, before + 2);
}

fn wire_of(stage: &Stage) -> Wire {
    stage.site.wire(stage.site.client_config(rustls::ALL_VERSIONS), stage.edge.address(), HOST)
}

#[test]
fn a_record_that_was_tampered_with_ends_the_connection() {
    let stage = stage("");
    let mut client = stage.client();
    assert_eq!(client.get("/one").text(), "/one");
    let bytes = request_bytes("GET", "/two", &[], b"");
    io::Write::write_all(&mut client.wire().session().writer(), &bytes).expect("room");
    let mut sealed = client.wire().sealed();
    let last = sealed.len() - 1;
    sealed[last] ^= 1;
    client.wire().send_beneath(&sealed).expect("an open connection");
    let (answer, end) = client.end();
    assert_eq!((answer.len(), end == End::Open), (0, false));
    assert_eq!(stage.backend.requests().len(), 1);
    stage.serves();
}

#[test]
fn a_client_that_stops_reading_is_dropped_and_disturbs_nobody() {
    let stage = stage("");
    stage.serves();
    let before = stage.edge.open_files();
    let mut stuck = Vec::new();
    for _ in 0..3 {
        let mut client = stage.client();
        client.send(request_bytes("GET", "/endless", &[], b""));
        assert_eq!(client.try_head().expect("an answer").status, 200);
        stuck.push(client);
    }
    // As soon as nobody reads what it says, curl reads nothing more.
    let mut curl = stage.curl("/endless", &["--http2"]);
    let silent = curl.stdout(Stdio::piped()).spawn().expect("curl");
    eventually("all are served", PATIENCE, || stage.backend.open_connections() >= 4);
    // A worker may keep one for the next request.
    eventually("their endpoints are let go", PATIENCE, || {
        let mut client = stage.client();
        let began = Instant::now();
        assert_eq!(client.get("/fine").text(), "/fine");
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        stage.backend.open_connections() <= 2
    });
    for mut client in stuck {
        let head = meridian_tests::Response::default();
        let mut read = 0;
        let outcome = client.try_body("GET", &head, |piece| read += piece.len());
        assert!(outcome.is_err(), "{read} bytes and a clean end");
        assert!(read < 200 << 20 && !client.wire().heard_goodbye());
    }
    let ended = silent.wait_with_output().expect("an end");
    assert!(!ended.status.success() && ended.stdout.len() < 200 << 20, "{}", ended.status);
    lets_go(&stage.edge, before + 2);
}

/// Asks for what breaks off and says how that looked.
fn cut(client: &mut Client) -> (Result<usize, Broken>, bool) {
    let outcome = client.try_request("GET", "/cut", &[], b"").map(|answer| answer.body.len());
    let rest = client.end();
    assert_ne!(rest.1, End::Open);
    (outcome, client.wire().heard_goodbye())
}

#[test]
fn a_body_that_ends_early_never_looks_complete() {
    let chunks = || Answer::new(200, Body::Chunks(vec![vec![b'x'; 5000], vec![b'y'; 5000]]));
    for (what, answer) in [
        ("length", Answer::ok("0123456789").cut_after(5)),
        ("nothing of it", Answer::ok("0123456789").cut_after(0)),
        ("length, reset", Answer::ok("0123456789").reset_after(5)),
        ("large", Answer::ok(vec![b'x'; 300_000]).cut_after(200_000)),
        ("large, reset", Answer::ok(vec![b'x'; 300_000]).reset_after(200_000)),
        ("in a chunk", chunks().cut_after(3000)),
        ("between chunks", chunks().cut_after(5008)),
        ("before the last line", chunks().cut_after(10_018)),
        ("chunks, reset", chunks().reset_after(6000)),
    ] {
        let backend = Backend::answering("here", move |request| match request.target.as_str() {
            "/cut" => answer.clone(),
            target => Answer::ok(target.to_owned()),
        });
        let stage = stage_before(backend, "");
        let (outcome, goodbye) = cut(&mut stage.client());
        let early = matches!(
            outcome,
            Err(Broken::Early(End::Closed | End::Reset, _) | Broken::Nothing(End::Reset))
        );
        assert!(early && !goodbye, "{what}: {outcome:?}, goodbye: {goodbye}");
        // An older client knows the end of a chunked body by that of the connection alone.
        let mut old = stage.client();
        old.send("GET /cut HTTP/1.0\r\nHost: a.example\r\n\r\n");
        let outcome = old.try_response("GET");
        assert!(outcome.is_err() && !old.wire().heard_goodbye(), "{what}, HTTP/1.0: {outcome:?}");
        let ended = stage.curl("/cut", &["--http2"]).output();
        // CURLE_HTTP2_STREAM: it was reset.
        assert_eq!(ended.expect("curl").status.code(), Some(92), "{what}, HTTP/2");
        stage.serves();
    }
}

#[test]
fn what_is_refused_in_cleartext_is_refused_under_tls() {
    let stage = stage("[limits]\nbody_bytes = \"1KiB\"\n");
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n",
            400,
        ),
        ("GET / HTTP/1.1\nHost: a\n\n", 400),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", 400),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\nx", 413),
        ("\x01\x02\x03\x04\r\n\r\n", 400),
    ] {
        let mut client = stage.client();
        let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
        client.send(format!("{request}{smuggled}"));
        let answer = client.response();
        assert_eq!(answer.status, status, "{request:?}");
        assert!(client.is_closed() && client.wire().heard_goodbye(), "{request:?}");
    }
    assert!(stage.backend.requests().iter().all(|r| r.target != "/smuggled"));
}

#[test]
fn clients_that_vanish_leave_nothing_behind() {
    let stage = stage("");
    stage.serves();
    eventually("idle", PATIENCE, || stage.backend.open_connections() <= 2);
    let before = stage.edge.open_files();
    for n in 0..60 {
        let mut client = stage.client();
        match n % 4 {
            0 => client.send(request_bytes("GET", "/endless", &[], b"")),
            1 => client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf"),
            2 => client.send("GET / HT"),
            _ => &mut client,
        };
        if n % 3 == 0 {
            client.wire().reset_when_dropped();
        }
    }
    for _ in 0..20 {
        // In the middle of the handshake.
        drop(TcpStream::connect(stage.edge.address()));
        let mut wire = wire_of(&stage);
        let hello = wire.sealed();
        wire.send_beneath(&hello).expect("an open connection");
    }
    lets_go(&stage.edge, before + 3);
    stage.serves();
}
