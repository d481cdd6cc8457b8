//! How HTTP/2 connections end, and which deadlines they are under.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use meridian_tests::h2_frames::{Frame, H2, PREFACE, code, flag, frame, get, headers, kind};
use meridian_tests::h2_frames::{data, request_block, settings, window};
use meridian_tests::{Answer, Backend, Body, End, Meridian, Signal, Site, Wire, one_region};
use rustls::pki_types::ServerName;
use rustls::{ALL_VERSIONS, ClientConnection};
use socket2::{Domain, Socket, Type};

const SOON: Duration = Duration::from_secs(10);
const LARGE: u64 = 1 << 20;

/// An edge that answers with a large body under `/large`.
fn edge(limits: &str) -> (Backend, Meridian) {
    let backend = Backend::answering("here", |request| match request.target.as_str() {
        "/large" => Answer::new(200, Body::Pattern(LARGE)),
        "/slow" => Answer::ok("slow").delay(Duration::from_millis(1500)),
        _ => Answer::ok("fine"),
    });
    let edge = Meridian::start(&format!("[limits]\n{limits}\n{}", one_region(&backend)));
    (backend, edge)
}

fn is_end(frame: &Frame) -> bool {
    matches!(frame.kind, kind::DATA | kind::HEADERS) && frame.has(flag::END_STREAM)
}

#[test]
fn an_idle_connection_is_told_that_it_ends() {
    let (_backend, edge) = edge("keepalive_timeout = \"1s\"");
    // Never used, and used once.
    for used in [false, true] {
        let mut client = H2::connect(edge.address(), &[]);
        if used {
            client.send(&get(1, "/")).expect("a connection");
            client.expect("an answer", is_end);
        }
        let ending = client.ending(SOON);
        assert_eq!((ending.end, ending.goodbye()), (End::Closed, Some(code::NO_ERROR)), "{used}");
        assert!(ending.after >= Duration::from_millis(900), "{:?}", ending.after);
        assert!(ending.after < Duration::from_secs(6), "{:?}", ending.after);
    }
}

#[test]
fn a_connection_that_owes_nothing_is_not_under_the_deadline_of_heads() {
    let (_backend, edge) = edge("header_timeout = \"1s\"");
    let mut fresh = H2::connect(edge.address(), &[]);
    let mut used = H2::connect(edge.address(), &[]);
    used.send(&get(1, "/")).expect("a connection");
    used.expect("an answer", is_end);
    std::thread::sleep(Duration::from_secs(4));
    for client in [&mut fresh, &mut used] {
        client.settle();
        client.send(&get(5, "/")).expect("a connection");
        client.expect("an answer", is_end);
    }
}

#[test]
fn a_connection_that_owes_the_rest_of_something_is_ended_in_time() {
    let (_backend, edge) = edge("header_timeout = \"1s\"");
    let block = request_block("GET", "/", &[]);
    let begun = frame(kind::HEADERS, flag::END_STREAM, 1, &block[..5]);
    // Its preface, the first settings, a frame, a header block: each begun after silence.
    for (greeted, rest) in [
        (false, &PREFACE[..20]),
        (false, PREFACE),
        (true, &frame(kind::PING, 0, 0, b"12345678")[..12]),
        (true, &begun),
    ] {
        let mut client = H2::silent(edge.address());
        if greeted {
            client.greet(&[]);
            std::thread::sleep(Duration::from_millis(2500));
        }
        client.send(rest).expect("a connection");
        let ending = client.ending(SOON);
        assert_ne!(ending.end, End::Open, "{rest:?}");
        assert!(ending.after < Duration::from_secs(3), "{rest:?}: {:?}", ending.after);
        if greeted {
            assert_eq!(ending.goodbye(), Some(code::ENHANCE_YOUR_CALM), "{rest:?}");
        }
    }
}

#[test]
fn small_steps_are_no_steps() {
    let (_backend, edge) = edge("header_timeout = \"1s\"");
    let mut client = H2::connect(edge.address(), &[]);
    let block = request_block("GET", "/", &[]);
    client.send(&frame(kind::HEADERS, flag::END_STREAM, 1, &[])).expect("a connection");
    let begun = Instant::now();
    // A byte of the block at a time, each in a frame of its own.
    for byte in block.iter().take(30) {
        if client.send(&frame(kind::CONTINUATION, 0, 1, &[*byte])).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    client.wire.patience = SOON;
    let ending = client.ending(SOON);
    assert_ne!(ending.end, End::Open);
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    // The goodbye may be lost to what was sent behind it.
    assert!(matches!(ending.goodbye(), None | Some(code::ENHANCE_YOUR_CALM)));
}

#[test]
fn a_client_that_is_always_in_the_middle_of_a_frame_is_served() {
    let (_backend, edge) = edge("header_timeout = \"1s\"");
    let mut client = H2::connect(edge.address(), &[]);
    let mut rest = Vec::new();
    let begun = Instant::now();
    let mut id = 1;
    while begun.elapsed() < Duration::from_secs(3) {
        // The end of the last request and the beginning of the next.
        let next = get(id, "/");
        client.send(&[&rest[..], &next[..20]].concat()).expect("a connection");
        rest = next[20..].to_vec();
        std::thread::sleep(Duration::from_millis(20));
        id += 2;
    }
    client.send(&rest).expect("a connection");
    client.expect("the last answer", |frame| is_end(frame) && frame.stream == id - 2);
}

#[test]
fn the_last_answer_reaches_a_slow_client_whole() {
    let (_backend, edge) = edge("requests_per_connection = 1");
    let mut client = H2::on(Wire::new(narrow(edge.address()), SOON));
    client.greet(&[(4, LARGE as u32)]);
    client.send(&window(0, 1 << 24)).expect("a connection");
    client.send(&get(1, "/large")).expect("a connection");
    assert_slow_answer_is_whole(&mut client);
}

#[test]
fn the_last_answer_reaches_a_slow_client_whole_under_tls() {
    let site = Site::new(&[("a", &["a.example"])]);
    let backend = Backend::answering("here", |_| Answer::new(200, Body::Pattern(LARGE)));
    let text = one_region(&backend) + &site.listener(&["a"], "");
    let edge = Meridian::start(&format!("[limits]\nrequests_per_connection = 1\n{text}"));
    let mut config = site.client_config(ALL_VERSIONS);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let host = ServerName::try_from("a.example").expect("a name");
    let session = ClientConnection::new(config.into(), host).expect("a session");
    let mut wire = Wire::secure(session, narrow(edge.address()), SOON);
    wire.handshake().expect("a handshake");
    let mut client = H2::on(wire);
    client.greet(&[(4, LARGE as u32)]);
    client.send(&window(0, 1 << 24)).expect("a connection");
    let block = request_block("GET", "/large", &[]);
    let block =
        String::from_utf8_lossy(&block).replace("test.example", "aaaa.example").into_bytes();
    client.send(&headers(1, true, &block)).expect("a connection");
    assert_slow_answer_is_whole(&mut client);
}

/// A connection whose client has little room, so that most of what is sent to it waits at the edge.
fn narrow(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(8 * 1024).expect("a socket");
    socket.connect(&address.into()).expect("a connection");
    socket.into()
}

/// Reads it in small pieces and gives windows back all the while.
#[track_caller]
fn assert_slow_answer_is_whole(client: &mut H2) {
    let (mut body, mut ended) = (0, false);
    let end = loop {
        match client.receive() {
            Ok(frame) if frame.kind == kind::DATA => {
                body += frame.payload.len() as u64;
                ended |= frame.has(flag::END_STREAM);
                // The edge has closed its side; that it does not want to hear this is no reason to fail.
                let _ = client.send(&[window(1, 1000), window(0, 1000)].concat());
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(_) => {}
            Err(end) => break end,
        }
    };
    assert_eq!((body, ended, end), (LARGE, true, End::Closed));
}

#[test]
fn a_connection_that_has_served_enough_leaves_in_two_steps() {
    let (backend, edge) = edge("requests_per_connection = 3");
    let mut client = H2::connect(edge.address(), &[]);
    for id in [1, 3, 5] {
        client.send(&get(id, "/slow")).expect("a connection");
    }
    let first = client.expect("a goodbye", |frame| frame.kind == kind::GOAWAY);
    assert_eq!((first.number(0), first.code()), (0x7fff_ffff, Some(code::NO_ERROR)));
    // Sent before the goodbye was read: it is served.
    client.send(&get(7, "/")).expect("a connection");
    client.expect("an answer", |frame| is_end(frame) && frame.stream == 7);
    // The PING of the goodbye is not answered: a second later it is meant.
    let last = client.expect("the last goodbye", |frame| frame.kind == kind::GOAWAY);
    assert_eq!((last.number(0), last.code()), (7, Some(code::NO_ERROR)));
    client.send(&get(9, "/")).expect("a connection");
    let ending = client.ending(SOON);
    let ends: Vec<_> = ending.frames.iter().filter(|f| is_end(f)).map(|f| f.stream).collect();
    assert_eq!(ends.len(), 3, "{ends:?}");
    assert_eq!((ending.end, backend.requests().len()), (End::Closed, 4));
}

#[test]
fn an_edge_that_ends_lets_streams_finish() {
    let (_backend, edge) = edge("");
    let mut busy = H2::connect(edge.address(), &[]);
    let mut idle = H2::connect(edge.address(), &[]);
    busy.send(&get(1, "/slow")).expect("a connection");
    busy.settle();
    edge.signal(Signal::TERM);
    for client in [&mut busy, &mut idle] {
        client.wire.patience = SOON;
        let first = client.expect("a goodbye", |frame| frame.kind == kind::GOAWAY);
        assert_eq!(first.number(0), 0x7fff_ffff);
        let ping = client.expect("a PING", |frame| frame.kind == kind::PING);
        client.send(&frame(kind::PING, flag::ACK, 0, &ping.payload)).expect("a connection");
    }
    let ending = idle.ending(SOON);
    assert_eq!((ending.end, ending.goodbye()), (End::Closed, Some(code::NO_ERROR)));
    let ending = busy.ending(SOON);
    assert_eq!((ending.end, ending.goodbye()), (End::Closed, Some(code::NO_ERROR)));
    assert_eq!(ending.body(1), 4, "{:?}", ending.frames);
}

#[test]
fn a_client_that_leaves_is_seen_off() {
    let (_backend, edge) = edge("");
    let mut client = H2::connect(edge.address(), &[]);
    client.send(&get(1, "/slow")).expect("a connection");
    client.send(&frame(kind::GOAWAY, 0, 0, &[0; 8])).expect("a connection");
    client.settle();
    let ending = client.ending(SOON);
    assert_eq!((ending.end, ending.body(1)), (End::Closed, 4), "{:?}", ending.frames);
    assert!(ending.after < Duration::from_secs(6), "{:?}", ending.after);
}

#[test]
fn whoever_breaks_the_protocol_hears_why_before_the_end() {
    let (_backend, edge) = edge("");
    let mut client = H2::connect(edge.address(), &[]);
    // What follows the error is not answered by a reset that would take the goodbye along.
    let junk = vec![0xff; 200_000];
    match client.send(&[&data(0, true, b"x")[..], &settings(&[]), &junk].concat()) {
        Ok(()) => {}
        Err(error) => assert_ne!(error.kind(), ErrorKind::ConnectionReset),
    }
    let ending = client.ending(SOON);
    assert_eq!((ending.end, ending.goodbye()), (End::Closed, Some(code::PROTOCOL_ERROR)));
}
