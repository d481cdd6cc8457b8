//! The PROXY protocol on a listener: who the client is, and what becomes of those who may not say so, or say it badly.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use meridian_tests::{
    Answer, Backend, Client, End, Meridian, Site, Wire, eventually, exchange, one_region,
    request_bytes,
};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use socket2::{Domain, Socket, Type};

const PATIENCE: Duration = Duration::from_secs(20);
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V1: &[u8] = b"PROXY TCP4 203.0.113.7 198.51.100.1 56324 443\r\n";

fn version2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("short").to_be_bytes();
    [SIGNATURE, &[command, family], &length, body].concat()
}

/// From 203.0.113.8, with a client's certificate of a kind behind the addresses.
fn v2() -> Vec<u8> {
    let addresses = [203, 0, 113, 8, 198, 51, 100, 1, 0xdc, 4, 1, 0xbb];
    version2(0x21, 0x11, &[&addresses[..], &[0x20, 3, 0], &[7; 768]].concat())
}

fn v6() -> Vec<u8> {
    let mut body = [0; 36];
    body[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
    body[15] = 9;
    version2(0x21, 0x21, &body)
}

fn backend() -> Backend {
    Backend::answering("here", |request| {
        Answer::ok(request.header("x-forwarded-for").unwrap_or("nobody").to_owned())
    })
}

/// A listener that takes what comes from 127.0.0.1, and these further lines.
fn start(backend: &Backend, listener: &str, lines: &str) -> Meridian {
    Meridian::start(&format!(
        "{}[[listeners]]\nname = \"public\"\nprotocols = [\"http1\", \"h2c\"]\nproxy_protocol = true\n\
         trusted_proxies = [\"127.0.0.0/8\", \"198.51.100.0/24\"]\n{listener}\n{lines}",
        one_region(backend)
    ))
}

fn refused(edge: &Meridian, reason: &str) -> f64 {
    let name =
        format!("meridian_connections_refused_total{{listener=\"public\",reason=\"{reason}\"}}");
    edge.admin().metric(&name).unwrap_or_default()
}

#[track_caller]
fn client(edge: &Meridian, header: &[u8]) -> Client {
    let mut client = edge.client();
    client.send(header);
    client
}

#[test]
fn the_client_is_whom_the_header_names() {
    let backend = backend();
    let edge = start(&backend, "", "");
    for (header, address) in
        [(V1.to_vec(), "203.0.113.7"), (v2(), "203.0.113.8"), (v6(), "2001:db8::9")]
    {
        let mut client = client(&edge, &header);
        assert_eq!(client.get("/a").text(), address);
        // Header, request and the next one in one piece.
        let both = [&header[..], &request_bytes("GET", "/b", &[], b"")].concat();
        let mut client = edge.client();
        client.send(&both);
        assert_eq!(client.response().text(), address);
        let forged = client.request("GET", "/c", &[("X-Forwarded-For", "192.0.2.66")], b"");
        assert_eq!(forged.text(), address, "the client itself is not trusted");
        edge.logged(|line| line["client"] == address && line["target"] == "/c");
    }
    // One piece after the other, as small as they can be.
    for header in [V1.to_vec(), v6()] {
        let mut stream = TcpStream::connect(edge.address()).expect("accepts");
        stream.set_nodelay(true).expect("a socket");
        for byte in header.iter().take(60) {
            stream.write_all(&[*byte]).expect("is open");
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut client = Client::on(Wire::new(stream, PATIENCE));
        assert_ne!(client.get("/d").text(), "127.0.0.1");
    }
    // A proxy behind the proxy that is trusted itself is believed in its own fields.
    let mut chained = client(&edge, b"PROXY TCP4 198.51.100.9 198.51.100.1 1 443\r\n");
    let said = chained.request("GET", "/e", &[("X-Forwarded-For", "192.0.2.66")], b"");
    assert_eq!(said.text(), "192.0.2.66, 198.51.100.9");
    edge.logged(|line| line["client"] == "192.0.2.66" && line["target"] == "/e");
}

#[test]
fn who_speaks_for_nobody_has_its_own_address_and_no_say() {
    let backend = backend();
    let edge = start(&backend, "", "");
    for header in [
        version2(0x20, 0, &[]),
        version2(0x20, 0x11, &[1; 12]),
        version2(0x21, 0, &[]),
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN and so on\r\n".to_vec(),
    ] {
        let mut client = client(&edge, &header);
        let forged = client.request("GET", "/", &[("X-Forwarded-For", "192.0.2.66")], b"");
        assert_eq!(forged.text(), "127.0.0.1");
    }
    assert_eq!(refused(&edge, "proxy-header"), 0.0);
}

#[test]
fn what_is_no_header_ends_the_connection_without_a_word() {
    let backend = backend();
    let edge = start(&backend, "", "");
    let mut wrong = 0.0;
    let request = request_bytes("GET", "/smuggled", &[], b"");
    for header in [
        b"" as &[u8],
        b"PROXY TCP4 203.0.113.7 198.51.100.1 56324\r\n",
        b"PROXY TCP4 203.0.113.7 198.51.100.1 56324 443\n",
        b"PROXY TCP4 203.0.113.777 198.51.100.1 56324 443\r\n",
        b" PROXY UNKNOWN\r\n",
        b"proxy unknown\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        &version2(0x21, 0x12, &[1; 12]),
        &version2(0x21, 0x31, &[1; 216]),
        &version2(0x21, 0x11, &[1; 11]),
        &version2(0x31, 0x11, &[1; 12]),
        &version2(0x21, 0x11, &[1; 13]),
        &version2(0x20, 0, &[0; 4081]),
        // A checksum that does not fit.
        &version2(0x21, 0x11, &[&[1; 12][..], &[3, 0, 4, 1, 2, 3, 4]].concat()),
    ] {
        let bytes = [header, &request].concat();
        let seen = exchange(edge.address(), &bytes, PATIENCE);
        assert_ne!(seen.end, End::Open, "{header:?}");
        assert!(seen.answer.is_empty(), "{header:?}: {:?}", seen.answer);
        wrong += 1.0;
    }
    // Twice is once too often: the second is the request.
    let seen = exchange(edge.address(), &[V1, V1, &request].concat(), PATIENCE);
    assert!(seen.answer.starts_with(b"HTTP/1.1 505 "), "{:?}", seen.answer);
    // A client that goes away in the middle.
    for part in [0, 3, 20] {
        let mut stream = TcpStream::connect(edge.address()).expect("accepts");
        stream.write_all(&V1[..part]).expect("is open");
        drop(stream);
        wrong += 1.0;
    }
    eventually("all are counted", PATIENCE, || refused(&edge, "proxy-header") >= wrong);
    assert_eq!(refused(&edge, "proxy-header"), wrong);
    assert!(backend.requests().is_empty(), "{:?}", backend.requests());
    assert_eq!(client(&edge, V1).get("/").text(), "203.0.113.7");
}

#[test]
fn half_a_header_is_held_to_the_deadline_of_a_head() {
    let backend = backend();
    let edge = start(&backend, "", "[limits]\nheader_timeout = \"1s\"\n");
    let began = Instant::now();
    let long = v2();
    let started: Vec<_> = [&b""[..], b"P", b"PROXY TCP4 203", SIGNATURE, &long[..100]]
        .into_iter()
        .map(|part| (part, client(&edge, part)))
        .collect();
    // One that never rests is late all the same.
    let mut trickling = TcpStream::connect(edge.address()).expect("accepts");
    let header = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 80]].concat();
    let gave_up = header.iter().position(|byte| {
        std::thread::sleep(Duration::from_millis(100));
        trickling.write_all(&[*byte]).is_err()
    });
    assert!(gave_up.is_some(), "it was let go on");
    for (part, mut client) in started {
        assert!(client.is_closed(), "{part:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    eventually("all are counted", PATIENCE, || refused(&edge, "proxy-header") >= 6.0);
    assert_eq!(client(&edge, V1).get("/").text(), "203.0.113.7");
}

#[test]
fn a_peer_that_is_not_trusted_is_closed_whatever_it_says() {
    let backend = backend();
    let edge = Meridian::start(&format!(
        "{}[[listeners]]\nname = \"public\"\nproxy_protocol = true\n\
         trusted_proxies = [\"192.0.2.0/24\"]\n",
        one_region(&backend)
    ));
    let request = request_bytes("GET", "/", &[], b"");
    for (n, header) in [b"", V1, &v2()].into_iter().enumerate() {
        let seen = exchange(edge.address(), &[header, &request].concat(), PATIENCE);
        assert_ne!(seen.end, End::Open);
        assert!(seen.answer.is_empty(), "{:?}", seen.answer);
        eventually("it is counted", PATIENCE, || refused(&edge, "proxy-peer") > n as f64);
    }
    assert!(backend.requests().is_empty());
}

#[test]
fn clients_are_counted_as_the_header_names_them() {
    let backend = backend();
    let edge = start(&backend, "", "[limits]\nconnections_per_client = 1\n");
    let mut first = client(&edge, V1);
    assert_eq!(first.get("/").status, 200);
    let mut second = client(&edge, V1);
    assert_eq!(second.response().status, 429);
    assert_eq!(client(&edge, &v2()).get("/").status, 200, "somebody else");
    assert_eq!(refused(&edge, "client"), 1.0);
    drop(first);
    eventually("it has left", PATIENCE, || {
        client(&edge, V1).try_request("GET", "/", &[], b"").is_ok_and(|r| r.status == 200)
    });
}

#[test]
fn it_stands_before_tls_and_before_http2() {
    let backend = backend();
    let site = Site::new(&[("a", &["a.example"])]);
    let listener = site.listener(
        &["a"],
        "proxy_protocol = true\ntrusted_proxies = [\"127.0.0.1\"]\nprotocols = [\"h2\", \"http1\"]",
    );
    let edge = Meridian::start(&(one_region(&backend) + &listener));
    for header in [V1.to_vec(), v2()] {
        let expected = if header == V1 { "203.0.113.7" } else { "203.0.113.8" };
        let mut stream = TcpStream::connect(edge.address()).expect("accepts");
        stream.write_all(&header).expect("is open");
        let name = ServerName::try_from("a.example").expect("a name");
        let config = site.client_config(rustls::ALL_VERSIONS);
        let session = ClientConnection::new(config.into(), name).expect("a session");
        let mut client = Client::on(Wire::secure(session, stream, PATIENCE)).host("a.example");
        assert_eq!(client.get("/").text(), expected);
    }
    for (flags, version) in [(["--http2"], "2"), (["--http1.1"], "1.1")] {
        let address = edge.address();
        let out = std::process::Command::new("curl")
            .args(["--silent", "--max-time", "20", "--haproxy-protocol", "--cacert"])
            .arg(site.root())
            .arg("--resolve")
            .arg(format!("a.example:{}:{}", address.port(), address.ip()))
            .args(flags)
            .args(["--write-out", " %{http_version}"])
            .arg(format!("https://a.example:{}/", address.port()))
            .output()
            .expect("curl");
        assert_eq!(String::from_utf8_lossy(&out.stdout), format!("127.0.0.1 {version}"));
    }
    let plain = start(&backend, "", "");
    let out = std::process::Command::new("curl")
        .args(["--silent", "--max-time", "20", "--haproxy-protocol", "--http2-prior-knowledge"])
        .args(["--write-out", " %{http_version}"])
        .arg(format!("http://{}/", plain.address()))
        .output()
        .expect("curl");
    assert_eq!(String::from_utf8_lossy(&out.stdout), "127.0.0.1 2");
}

#[test]
fn tunnels_are_the_named_client_s_as_well() {
    let backend = backend();
    let edge = start(&backend, "", "");
    let offer = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("X-Forwarded-For", "192.0.2.66"),
    ];
    let answer = client(&edge, V1).request("GET", "/socket", &offer, b"");
    assert_eq!(answer.text(), "203.0.113.7", "an endpoint that does not take the offer");
    assert_eq!(backend.requests()[0].header("upgrade"), Some("websocket"));
}

/// A process that dies with this value.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A client that connects from this address.
fn client_from(source: &str, to: SocketAddr) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let source: IpAddr = source.parse().expect("an address");
    socket.bind(&SocketAddr::new(source, 0).into()).expect("a loopback address");
    socket.connect(&to.into()).expect("accepts");
    Client::on(Wire::new(socket.into(), PATIENCE))
}

#[test]
fn haproxy_tells_whom_it_relays_for() {
    let backend = backend();
    let edge = start(&backend, "", "");
    let dir = tempfile::TempDir::new().expect("a directory");
    let mut config = String::from(
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n",
    );
    let ways = [
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority",
        "send-proxy-v2-ssl-cn proxy-v2-options crc32c",
    ];
    let places: Vec<SocketAddr> = ways.iter().map(|_| meridian_tests::free_address()).collect();
    for (n, (way, place)) in ways.iter().zip(&places).enumerate() {
        // Its checks speak for nobody.
        config.push_str(&format!(
            "listen l{n}\n bind {place}\n unique-id-format %pid-%rt\n\
             server edge {} {way} check inter 200ms check-send-proxy\n",
            edge.address()
        ));
    }
    let file = dir.path().join("haproxy.cfg");
    std::fs::write(&file, config).expect("writes");
    let haproxy = std::process::Command::new("haproxy").arg("-f").arg(&file).arg("-db").spawn();
    let _haproxy = Running(haproxy.expect("haproxy"));
    for (way, place) in ways.iter().zip(&places) {
        eventually("it listens", PATIENCE, || TcpStream::connect(place).is_ok());
        for source in ["127.0.0.9", "127.7.7.7"] {
            let mut client = client_from(source, *place);
            assert_eq!(client.get("/a").text(), source, "{way}");
            assert_eq!(client.get("/b").text(), source, "{way}");
        }
    }
}
