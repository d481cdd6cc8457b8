//! WebSocket through the edge, and what an upgrade must not do to the connection it came on.

use std::io;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use meridian_tests::{
    Answer, Backend, Client, Meridian, Received, Wire, block, eventually, one_region,
    open_websocket, ping_pong,
};
use tokio_tungstenite::tungstenite;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

const PATIENCE: Duration = Duration::from_secs(20);
/// A whole text frame from a server: "first".
const FIRST: &[u8] = b"\x81\x05first";
const OFFER: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

type Seen = Arc<Mutex<Vec<Received>>>;

fn seen(requests: &Seen) -> Vec<Received> {
    requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Answers plain requests, refuses `/refused`, and takes any other offer: 101 and the first message in
/// one segment, then an echo.
fn endpoint() -> (Backend, Seen) {
    let requests = Seen::default();
    let noted = requests.clone();
    let backend = Backend::speaking("here", move |wire: &mut Wire| {
        while let Some(mut request) = wire.request_head()? {
            wire.request_body(&mut request)?;
            noted.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
            let key = request.header("sec-websocket-key").filter(|_| request.target != "/refused");
            if request.target == "/other" {
                let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                              Upgrade: websocket, chat\r\n\r\nfirst";
                return wire.send(switch.as_bytes());
            }
            if request.header("upgrade").is_some()
                && let Some(key) = key
            {
                return echo(wire, key);
            }
            let status = if request.target == "/refused" { "403 No" } else { "200 OK" };
            let body = request.target.clone();
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            wire.send(head.as_bytes())?;
        }
        Ok(())
    });
    (backend, requests)
}

fn echo(wire: &mut Wire, key: &str) -> io::Result<()> {
    let accept = derive_accept_key(key.as_bytes());
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    wire.send(&[head.as_bytes(), FIRST].concat())?;
    let ahead = wire.ahead().to_vec();
    let stream = wire.duplicate()?;
    let mut socket = WebSocket::from_partially_read(stream, ahead, Role::Server, None);
    loop {
        match socket.read() {
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => {
                socket.send(message).map_err(io::Error::other)?;
            }
            Ok(_) => {}
            Err(_) => return Ok(()),
        }
    }
}

fn open(edge: &Meridian, path: &str) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(edge.address()).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream.set_write_timeout(Some(PATIENCE)).expect("a socket");
    open_websocket(format!("ws://a.example{path}"), stream)
}

fn offer(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n{OFFER}\r\n")
}

#[test]
fn a_fast_endpoint_s_first_message_is_not_lost() {
    let (backend, requests) = endpoint();
    let edge = Meridian::start(&one_region(&backend));
    for n in 0..20 {
        let mut socket = open(&edge, &format!("/ws/{n}"));
        ping_pong(&mut socket, "hello");
        ping_pong(&mut socket, "again");
        socket.close(None).expect("an open socket");
    }
    for request in seen(&requests) {
        assert_eq!(request.fields.all("host"), ["a.example"]);
        assert_eq!(request.fields.all("upgrade"), ["websocket"]);
        let connection = request.fields.all("connection");
        assert!(matches!(connection[..], [value] if value.eq_ignore_ascii_case("upgrade")));
        assert_eq!(request.fields.all("x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(request.fields.all("content-length"), [""; 0]);
    }
    let line = edge.logged(|line| line["target"] == "/ws/7");
    assert_eq!(line["status"], 101);
}

#[test]
fn a_mebibyte_passes_both_ways() {
    let (backend, _) = endpoint();
    let edge = Meridian::start(&one_region(&backend));
    let mut socket = open(&edge, "/ws");
    let large = block().repeat(17)[..1 << 20].to_vec();
    for _ in 0..4 {
        let sending = large.clone();
        socket.send(Message::binary(sending)).expect("an open socket");
        let echoed = socket.read().expect("an echo").into_data();
        assert!(echoed.as_ref() == large, "{} bytes came back", echoed.len());
    }
}

#[test]
fn a_client_may_send_before_it_is_answered() {
    let (backend, _) = endpoint();
    let edge = Meridian::start(&one_region(&backend));
    let mut client = edge.client();
    // A masked frame, "hi", right behind the offer.
    let frame = [0x81, 0x82, 0, 0, 0, 0, b'h', b'i'];
    client.send([offer("/ws").as_bytes(), &frame].concat());
    let head = client.try_head().expect("an answer");
    assert_eq!(head.status, 101);
    let mut got = Vec::new();
    eventually("both messages", PATIENCE, || {
        got.extend(client.wire().read_some().expect("an open tunnel"));
        got.len() >= FIRST.len() + 4
    });
    assert_eq!(got, [FIRST, b"\x81\x02hi"].concat());
}

#[test]
fn a_refused_offer_leaves_the_connection_to_requests() {
    let (backend, requests) = endpoint();
    let edge = Meridian::start(&one_region(&backend));
    let mut client = edge.client();
    for round in 0..3 {
        assert_eq!(client.get("/direct").text(), "/direct", "round {round}");
        client.send(offer("/refused"));
        let refused = client.response();
        assert_eq!((refused.status, refused.text().as_str()), (403, "/refused"), "round {round}");
        assert_eq!(client.request("POST", "/post", &[], b"x").text(), "/post", "round {round}");
    }
    client.send(offer("/ws"));
    assert_eq!(client.try_head().expect("an answer").status, 101);
    eventually("the first message", PATIENCE, || {
        client.wire().read_some().expect("an open tunnel") == FIRST
    });
    assert_eq!(seen(&requests).len(), 10);
}

#[test]
fn a_refused_offer_followed_by_bytes_is_not_a_tunnel() {
    let (backend, requests) = endpoint();
    let edge = Meridian::start(&one_region(&backend));
    let mut client = edge.client();
    client.wire().patience = Duration::from_secs(5);
    let next = "GET /next HTTP/1.1\r\nHost: b.example\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n";
    client.send(format!("{}{next}", offer("/refused")));
    let refused = client.response();
    assert_eq!(refused.status, 403);
    // Whoever is told that the connection goes on gets an answer.
    let goes_on = refused.header("connection") != Some("close");
    // Answered in its turn, or the connection ends so that the client asks again; never silence.
    match client.try_response("GET") {
        Ok(answer) => assert_eq!(answer.text(), "/next"),
        Err(meridian_tests::Broken::Nothing(end)) => {
            assert!(!goes_on, "the next request is dropped without a word");
            assert_ne!(
                end,
                meridian_tests::End::Open,
                "the next request is neither answered nor refused"
            );
        }
        Err(other) => panic!("{other:?}"),
    }
    for request in seen(&requests).iter().filter(|request| request.target == "/next") {
        // As a request of its own, not as bytes in a tunnel.
        assert_eq!(request.fields.all("x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(request.fields.all("via").len(), 1);
    }
}

#[test]
fn a_switch_to_another_protocol_than_was_asked_for_is_refused() {
    let (backend, requests) = endpoint();
    let edge = Meridian::start(&one_region(&backend));
    let mut client = edge.client();
    client.send(offer("/other"));
    let answer = client.response();
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert!(!answer.text().contains("first") && answer.header("upgrade").is_none());
    assert!(client.is_closed());
    assert_eq!(seen(&requests).len(), 1, "it is not offered twice");
    let id = answer.header("x-request-id").expect("an id");
    assert_eq!(edge.logged(|line| line["request_id"] == id)["status"], 502);
}

#[test]
fn an_offer_that_is_ignored_is_an_ordinary_request() {
    let backend = Backend::answering("here", |request| {
        let body = format!("{} {}", request.method, request.body.len());
        Answer::ok(body)
    });
    let edge = Meridian::start(&one_region(&backend));
    let mut client = edge.client();
    for _ in 0..2 {
        client.send(offer("/x"));
        assert_eq!(client.response().text(), "GET 0");
        client
            .send(format!("POST /x HTTP/1.1\r\nHost: a\r\n{OFFER}Content-Length: 5\r\n\r\nhello"));
        assert_eq!(client.response().text(), "POST 5");
    }
}

#[test]
fn h2c_and_half_an_offer_are_not_passed_on() {
    let (backend, requests) = endpoint();
    let edge = Meridian::start(&one_region(&backend));
    let mut client = edge.client();
    for lines in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n",
        "Upgrade: websocket\r\n",
        "Connection: upgrade\r\n",
    ] {
        client.send(format!("GET /plain HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n"));
        assert_eq!(client.response().text(), "/plain", "{lines:?}");
    }
    for request in seen(&requests) {
        for name in ["upgrade", "connection", "http2-settings"] {
            assert_eq!(request.header(name), None, "{}", request.raw_head);
        }
    }
}

#[test]
fn a_tunnel_ends_on_both_sides() {
    let (backend, _) = endpoint();
    let edge = Meridian::start(&one_region(&backend));
    let mut socket = open(&edge, "/ws");
    assert_eq!(backend.open_connections(), 1);
    ping_pong(&mut socket, "hello");
    drop(socket);
    eventually("the endpoint sees the end", PATIENCE, || backend.open_connections() == 0);
    let mut socket = open(&edge, "/ws");
    backend.close_connections();
    assert!(socket.read().is_err(), "the client sees the end");
}

#[test]
fn an_endpoint_that_is_gone_is_a_503_with_the_request_s_id() {
    let (backend, _) = endpoint();
    let edge = Meridian::start(&one_region(&backend));
    backend.kill();
    let mut client = edge.client();
    client.send(offer("/ws").replace("Host:", "X-Request-Id: id-3\r\nHost:"));
    let answer = client.response();
    assert_eq!((answer.status, answer.header("x-request-id")), (503, Some("id-3")));
    assert!(answer.header("retry-after").is_some());
}

#[test]
fn a_reload_does_not_touch_a_tunnel() {
    let (backend, _) = endpoint();
    let text = one_region(&backend);
    let edge = Meridian::start(&text);
    let mut socket = open(&edge, "/ws");
    ping_pong(&mut socket, "before");
    for n in 0..5 {
        let more = format!(
            "{text}[[routes]]\nname = \"r{n}\"\nhosts = [\"r{n}.example\"]\nservice = \"api\"\n"
        );
        let answer = edge.reload(&more);
        assert_eq!(answer.status, 200, "{}", answer.text());
        ping_pong(&mut socket, "after");
    }
    // Not even when its own endpoint is replaced: what is open stays open.
    let (other, _) = endpoint();
    assert_eq!(edge.reload(&one_region(&other)).status, 200);
    ping_pong(&mut socket, "still");
    let mut fresh = open(&edge, "/ws");
    ping_pong(&mut fresh, "elsewhere");
    assert_eq!((backend.open_connections(), other.open_connections()), (1, 1));
    drop((socket, fresh));
    let mut client = Client::connect(edge.address());
    assert_eq!(client.get("/direct").text(), "/direct");
}
