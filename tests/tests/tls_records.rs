//! TLS on a listener, record by record: however requests are cut, and how connections begin and end.

use std::io::Write;

use meridian_tests::{
    Answer, Backend, Body, Client, Meridian, Site, Wire, block, one_region, request_bytes,
};
use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};

const HOST: &str = "a.example";
const LARGE: u64 = 5 << 20;
const EACH: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

struct Stage {
    site: Site,
    backend: Backend,
    edge: Meridian,
}

/// An edge with TLS; `lines` are further sections of its configuration.
fn stage(lines: &str) -> Stage {
    let site = Site::new(&[("a", &[HOST])]);
    let backend = Backend::answering("here", |request| match request.target.as_str() {
        "/large" => Answer::new(200, Body::Pattern(LARGE)),
        "/until-close" => Answer::new(200, Body::UntilClose(block()[..5000].to_vec())),
        target => Answer::ok(format!("{} {target} {}", request.method, request.checked.length)),
    });
    let edge = Meridian::start(&(one_region(&backend) + &site.listener(&["a"], "") + lines));
    Stage { site, backend, edge }
}

impl Stage {
    /// A connection that offers this version only.
    fn wire(&self, version: &'static SupportedProtocolVersion) -> Wire {
        self.site.wire(self.site.client_config(&[version]), self.edge.address(), HOST)
    }
}

#[test]
fn one_connection_carries_many_requests() {
    let stage = stage("");
    for version in EACH {
        let mut client = Client::on(stage.wire(version));
        for n in 0..200 {
            let body = &block()[..n * 97];
            let answer = client.request("POST", "/", &[], body);
            assert_eq!(answer.text(), format!("POST / {}", body.len()), "{version:?}");
        }
        assert_eq!(client.get("/large").body.len() as u64, LARGE);
        assert_eq!(client.get("/after").text(), "GET /after 0");
    }
    assert!(stage.backend.connections() <= 4, "{}", stage.backend.connections());
}

/// Requests `from` to `to`, some with a body.
fn requests(from: usize, to: usize) -> Vec<u8> {
    let one = |n| match n % 3 {
        0 => request_bytes("POST", &format!("/{n}"), &[], &block()[..n]),
        _ => request_bytes("GET", &format!("/{n}"), &[], b""),
    };
    (from..to).flat_map(one).collect()
}

#[track_caller]
fn are_answered(client: &mut Client, from: usize, to: usize) {
    for n in from..to {
        let expected = if n % 3 == 0 { format!("POST /{n} {n}") } else { format!("GET /{n} 0") };
        assert_eq!(client.response().text(), expected);
    }
}

#[test]
fn requests_and_records_need_not_begin_and_end_together() {
    let stage = stage("");
    for version in EACH {
        let mut client = Client::on(stage.wire(version));
        client.wire().handshake().expect("a handshake");
        // Many in one record, and many records in one segment.
        client.send(requests(0, 40));
        are_answered(&mut client, 0, 40);
        for byte in requests(40, 50) {
            client.wire().session().writer().write_all(&[byte]).expect("room");
        }
        let sealed = client.wire().sealed();
        client.wire().send_beneath(&sealed).expect("an open connection");
        are_answered(&mut client, 40, 50);
        // A record for every byte and a segment for every record.
        for byte in requests(50, 53) {
            client.send([byte]);
        }
        are_answered(&mut client, 50, 53);
        // Records that come in pieces: headers, bodies and tags are cut everywhere.
        client.wire().session().writer().write_all(&requests(53, 60)).expect("room");
        for piece in client.wire().sealed().chunks(7) {
            client.wire().send_beneath(piece).expect("an open connection");
        }
        are_answered(&mut client, 53, 60);
        // Full records, one after the other.
        let upload = &block()[..60_000];
        assert_eq!(client.request("PUT", "/full", &[], upload).text(), "PUT /full 60000");
    }
}

#[test]
fn the_first_request_may_come_with_the_end_of_the_handshake() {
    let stage = stage("");
    for version in EACH {
        // Whole, with another behind it, and only the beginning of one.
        for (first, rest) in [(requests(1, 2), 2), (requests(1, 9), 9), (requests(1, 3), 3)] {
            let half = if rest == 3 { first.len() - 20 } else { first.len() };
            let mut wire = stage.wire(version);
            wire.session().writer().write_all(&first[..half]).expect("room");
            let hello = wire.sealed();
            wire.send_beneath(&hello).expect("an open connection");
            // What the session answers to the server's flight goes out in one segment, the request in it.
            wire.handshake().expect("a handshake");
            let mut client = Client::on(wire);
            client.send(&first[half..]);
            are_answered(&mut client, 1, rest);
            assert_eq!(client.get("/more").text(), "GET /more 0", "{version:?}");
        }
    }
}

#[test]
fn keys_may_be_renewed_at_any_time() {
    let stage = stage("");
    let mut client = Client::on(stage.wire(&TLS13));
    for n in 0..20 {
        assert_eq!(client.get("/").text(), "GET / 0", "{n}");
        client.wire().handshake().expect("a handshake");
        client.wire().session().refresh_traffic_keys().expect("TLS 1.3");
    }
    // While an answer is on its way.
    client.send(request_bytes("GET", "/large", &[], b""));
    client.wire().session().refresh_traffic_keys().expect("TLS 1.3");
    let update = client.wire().sealed();
    client.wire().send_beneath(&update).expect("an open connection");
    assert_eq!(client.response().body.len() as u64, LARGE);
    assert_eq!(client.get("/").text(), "GET / 0");
}

#[test]
fn goodbyes_are_said_and_heard() {
    let stage = stage("");
    for version in EACH {
        let mut client = Client::on(stage.wire(version));
        let answer = client.request("GET", "/", &[("Connection", "close")], b"");
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(client.is_closed() && client.wire().heard_goodbye(), "{version:?}");
        // One that says goodbye right behind its request still gets the answer.
        let mut client = Client::on(stage.wire(version));
        client.send(request_bytes("GET", "/large", &[], b""));
        client.wire().say_goodbye().expect("an open connection");
        assert_eq!(client.response().body.len() as u64, LARGE, "{version:?}");
        assert!(client.is_closed(), "{version:?}");
        // And so does one that only ends its side.
        let mut client = Client::on(stage.wire(version));
        client.send(request_bytes("GET", "/", &[], b""));
        client.wire().finish();
        assert_eq!(client.response().text(), "GET / 0", "{version:?}");
        assert!(client.is_closed(), "{version:?}");
    }
    let mut old = stage.site.client(stage.edge.address(), HOST);
    old.send("GET /until-close HTTP/1.0\r\nHost: a.example\r\n\r\n");
    assert_eq!(old.response().body.len(), 5000);
    assert!(old.wire().heard_goodbye(), "the end of the body is the goodbye");
}

#[test]
fn an_idle_client_s_goodbye_is_answered() {
    let stage = stage("");
    for version in EACH {
        let mut client = Client::on(stage.wire(version));
        assert_eq!(client.get("/").text(), "GET / 0");
        client.wire().say_goodbye().expect("an open connection");
        assert!(client.is_closed() && client.wire().heard_goodbye(), "answered: {version:?}");
    }
}

#[test]
fn a_connection_that_was_idle_too_long_ends_with_a_goodbye() {
    let stage = stage("[limits]\nkeepalive_timeout = \"300ms\"\n");
    for version in EACH {
        let mut client = Client::on(stage.wire(version));
        assert_eq!(client.get("/").text(), "GET / 0");
        assert!(client.is_closed() && client.wire().heard_goodbye(), "{version:?}");
    }
}
