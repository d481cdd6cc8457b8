//! WebSocket over TLS, and what an upgrade leaves behind.

use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use meridian_tests::{
    Backend, Broken, Client, End, Meridian, Signal, Site, Wire, block, eventually, one_region,
    open_websocket, ping_pong,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use tokio_tungstenite::tungstenite;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

const PATIENCE: Duration = Duration::from_secs(20);
const HOST: &str = "a.example";
const OFFER: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

type Secure = StreamOwned<ClientConnection, TcpStream>;

struct Stage {
    site: Site,
    backend: Backend,
    edge: Meridian,
}

/// Refuses `/refused` and `/large`, which has a mebibyte to say, breaks off `/cut`, and echoes the rest.
fn endpoint() -> Backend {
    Backend::speaking("here", |wire: &mut Wire| {
        while let Some(mut request) = wire.request_head()? {
            wire.request_body(&mut request)?;
            let refused = match request.target.as_str() {
                "/refused" => Some(b"no".to_vec()),
                "/large" | "/cut" => Some(block().repeat(17)[..1 << 20].to_vec()),
                _ => None,
            };
            let key = request.header("sec-websocket-key").filter(|_| refused.is_none());
            if let Some(key) = key {
                return echo(wire, key);
            }
            let body = refused.unwrap_or(request.target.clone().into_bytes());
            wire.send(
                format!("HTTP/1.1 403 No\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(),
            )?;
            if request.target == "/cut" {
                return wire.send(&body[..500_000]);
            }
            wire.send(&body)?;
        }
        Ok(())
    })
}

fn echo(wire: &mut Wire, key: &str) -> io::Result<()> {
    let accept = derive_accept_key(key.as_bytes());
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    // The first message in one segment with the head.
    wire.send(&[head.as_bytes(), b"\x81\x05first"].concat())?;
    let ahead = wire.ahead().to_vec();
    let mut socket = WebSocket::from_partially_read(wire.duplicate()?, ahead, Role::Server, None);
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

fn stage() -> Stage {
    let site = Site::new(&[("a", &[HOST])]);
    let backend = endpoint();
    let edge = Meridian::start(&(one_region(&backend) + &site.listener(&["a"], "")));
    Stage { site, backend, edge }
}

impl Stage {
    fn client(&self) -> Client {
        self.site.client(self.edge.address(), HOST)
    }

    fn open(&self, path: &str) -> WebSocket<Secure> {
        let config = Arc::new(self.site.client_config(rustls::ALL_VERSIONS));
        let host = ServerName::try_from(HOST).expect("a name");
        let session = ClientConnection::new(config, host).expect("a session");
        let stream = TcpStream::connect(self.edge.address()).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket");
        open_websocket(format!("wss://{HOST}{path}"), StreamOwned::new(session, stream))
    }
}

fn offer(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{OFFER}\r\n")
}

#[test]
fn messages_of_every_size_pass_both_ways() {
    let stage = stage();
    for n in 0..10 {
        let mut socket = stage.open(&format!("/ws/{n}"));
        ping_pong(&mut socket, "hello");
        socket.close(None).expect("an open socket");
    }
    let mut socket = stage.open("/ws");
    let all = block().repeat(66);
    for size in [0, 1, 125, 126, 16_383, 16_384, 16_385, 65_536, 1 << 20, 4 << 20, 7] {
        let sent = all[..size].to_vec();
        socket.send(Message::binary(sent)).expect("an open socket");
        let echoed = socket.read().expect("an echo").into_data();
        assert!(echoed.as_ref() == &all[..size], "{size}: {} bytes", echoed.len());
    }
    assert_eq!(stage.edge.logged(|line| line["target"] == "/ws/7")["status"], 101);
}

#[test]
fn both_sides_may_talk_at_once() {
    let stage = stage();
    let mut socket = stage.open("/ws");
    // The echoes pile up on the way back while the client only writes.
    for n in 0..200_u32 {
        let mut message = n.to_be_bytes().to_vec();
        message.extend_from_slice(&block()[..2000]);
        socket.send(Message::binary(message)).expect("an open socket");
    }
    for n in 0..200_u32 {
        let echoed = socket.read().expect("an echo").into_data();
        assert!(echoed[..4] == n.to_be_bytes() && echoed[4..] == block()[..2000], "{n}");
    }
}

/// A Python with websockets: of the tests' own environment, else the machine's.
fn python() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/venv/bin/python");
    let able = |python: &PathBuf| {
        let output = Command::new(python).args(["-c", "import websockets.sync.client"]).output();
        output.is_ok_and(|output| output.status.success())
    };
    let found = [own, PathBuf::from("python3")].into_iter().find(able);
    found.expect("a Python that can import websockets: `scripts/setup.sh test` makes one")
}

#[test]
fn python_s_websockets_talk_over_tls() {
    let stage = stage();
    let script = "import ssl, sys, socket
from websockets.sync.client import connect
trust = ssl.create_default_context(cafile=sys.argv[1])
raw = socket.create_connection((sys.argv[2], int(sys.argv[3])), 20)
with connect('wss://a.example/ws', sock=raw, ssl=trust, server_hostname='a.example') as ws:
    assert ws.recv(20) == 'first'
    for size in (0, 1, 70000, 900000):
        ws.send(b'x' * size)
        assert ws.recv(20) == b'x' * size
    ws.send('bye')
    assert ws.recv(20) == 'bye'
print('closed', ws.close_code)
";
    let address = stage.edge.address();
    let mut command = Command::new(python());
    command.args(["-c", script]).arg(stage.site.root());
    command.arg(address.ip().to_string()).arg(address.port().to_string());
    let out = command.output().expect("python");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(String::from_utf8_lossy(&out.stdout), "closed 1000\n", "{stderr}");
}

#[test]
fn a_refused_offer_is_answered_and_says_whether_the_connection_goes_on() {
    let stage = stage();
    for (path, length) in [("/refused", 2), ("/large", 1 << 20)] {
        let mut client = stage.client();
        client.send(offer(path));
        let refused = client.response();
        assert_eq!((refused.status, refused.body.len()), (403, length));
        assert!(length == 2 || refused.body == block().repeat(17)[..length]);
        if refused.header("connection") == Some("close") {
            assert!(client.is_closed());
        } else {
            assert_eq!(client.get("/next").text(), "/next", "nothing said that it ends");
        }
    }
}

#[test]
fn a_refused_offer_is_never_a_tunnel() {
    let stage = stage();
    let mut client = stage.client();
    client.send(format!("{}GET /next HTTP/1.1\r\nHost: b\r\n\r\n", offer("/refused")));
    assert_eq!(client.response().status, 403);
    match client.try_response("GET") {
        Ok(answer) => assert_eq!(answer.text(), "/next"),
        Err(Broken::Nothing(end)) => assert_ne!(end, End::Open),
        Err(other) => panic!("{other:?}"),
    }
    let mut client = stage.client();
    client.send(offer("/cut"));
    let outcome = client.try_response("GET");
    assert!(matches!(outcome, Err(Broken::Early(..))), "{outcome:?}");
    assert!(!client.wire().heard_goodbye(), "a goodbye after half a body");
}

#[test]
fn the_end_of_a_tunnel_is_a_goodbye() {
    let stage = stage();
    let mut client = stage.client();
    client.send(offer("/ws"));
    assert_eq!(client.try_head().expect("an answer").status, 101);
    // A close frame of status 1000: the endpoint answers with its own and ends.
    client.send([0x88, 0x82, 0, 0, 0, 0, 3, 0xe8]);
    let (_, end) = client.end();
    assert!(end == End::Closed && client.wire().heard_goodbye());
}

#[test]
fn an_endpoint_that_is_gone_is_a_503() {
    let stage = stage();
    stage.backend.kill();
    let mut client = stage.client();
    client.send(offer("/ws").replace("Host:", "X-Request-Id: id-3\r\nHost:"));
    let answer = client.response();
    assert_eq!((answer.status, answer.header("x-request-id")), (503, Some("id-3")));
}

#[test]
fn a_tunnel_ends_on_both_sides_however_it_ends() {
    let stage = stage();
    let before = stage.edge.open_files();
    // Closed in order, without TLS's goodbye, with a reset, and with a broken record.
    for how in ["goodbye", "closed", "reset", "broken"] {
        let mut socket = stage.open("/ws");
        ping_pong(&mut socket, "hello");
        assert_eq!(stage.backend.open_connections(), 1, "{how}");
        let stream = socket.get_mut();
        match how {
            "goodbye" => {
                stream.conn.send_close_notify();
                stream.conn.complete_io(&mut stream.sock).expect("an open connection");
            }
            "broken" => {
                let record = [[0x17, 3, 3, 0, 40].as_slice(), &[7; 40]].concat();
                io::Write::write_all(&mut stream.sock, &record).expect("an open connection");
            }
            "reset" => {
                let socket = socket2::SockRef::from(&stream.sock);
                socket.set_linger(Some(Duration::ZERO)).expect("a socket");
            }
            _ => {}
        }
        if how != "goodbye" && how != "broken" {
            drop(socket);
        }
        eventually(&format!("{how}: the endpoint sees the end"), PATIENCE, || {
            stage.backend.open_connections() == 0
        });
    }
    eventually("nothing is left", PATIENCE, || stage.edge.open_files() <= before);
    let mut socket = stage.open("/ws");
    stage.backend.close_connections();
    assert!(socket.read().is_err(), "the client sees the end");
}

#[test]
fn a_drain_gives_tunnels_their_grace() {
    let mut stage = stage();
    let mut socket = stage.open("/ws");
    ping_pong(&mut socket, "before");
    stage.edge.signal(Signal::TERM);
    let refused =
        || TcpStream::connect_timeout(&stage.edge.address(), Duration::from_secs(1)).is_err();
    eventually("nobody listens any more", PATIENCE, refused);
    ping_pong(&mut socket, "during");
    assert!(stage.edge.is_running());
    socket.close(None).expect("an open socket");
    assert!(stage.edge.wait_exit().success());
}
