//! The PROXY protocol to endpoints: whom they are told, on which connections, and that no client gets another's.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use meridian_tests::{
    Answer, Backend, Client, Meridian, Received, Site, Wire, by_priority, eventually, free_address,
    loopback, one_region, regions,
};
use socket2::{Domain, Socket, Type};

const PATIENCE: Duration = Duration::from_secs(20);
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const OFFER: [(&str, &str); 4] = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

fn backend() -> Backend {
    let backend = Backend::answering("here", |request| Answer::ok(request.target.clone()));
    backend.expect_introductions(true);
    backend
}

/// The text of [`one_region`] with further lines of its service.
fn with(backend: &Backend, service: &str) -> String {
    one_region(backend).replace("name = \"api\"\n", &format!("name = \"api\"\n{service}\n"))
}

fn start(backend: &Backend, version: &str, lines: &str) -> Meridian {
    Meridian::start(&(with(backend, &format!("send_proxy_protocol = \"{version}\"")) + lines))
}

/// As the specification has them, written down here a second time.
fn expected(version: &str, client: SocketAddr, reached: SocketAddr) -> Vec<u8> {
    let (from, to) = (client.ip(), reached.ip());
    let v4 = client.is_ipv4();
    if version == "v1" {
        let family = if v4 { "TCP4" } else { "TCP6" };
        let ports = format!("{} {}", client.port(), reached.port());
        return format!("PROXY {family} {from} {to} {ports}\r\n").into_bytes();
    }
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let fixed: &[u8] = if v4 { &[0x21, 0x11, 0, 12] } else { &[0x21, 0x21, 0, 36] };
    let ports = [client.port().to_be_bytes(), reached.port().to_be_bytes()].concat();
    [SIGNATURE, fixed, &octets(from), &octets(to), &ports].concat()
}

fn own(version: &str) -> Vec<u8> {
    match version {
        "v1" => b"PROXY UNKNOWN\r\n".to_vec(),
        _ => [SIGNATURE, &[0x20, 0, 0, 0]].concat(),
    }
}

/// A connection, and where it comes from.
fn connect(source: IpAddr, to: SocketAddr) -> (TcpStream, SocketAddr) {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::new(source, 0).into()).expect("a loopback address");
    socket.connect(&to.into()).expect("accepts");
    let stream = TcpStream::from(socket);
    let from = stream.local_addr().expect("bound");
    (stream, from)
}

fn client(source: &str, to: SocketAddr) -> (Client, SocketAddr) {
    let (stream, from) = connect(source.parse().expect("an address"), to);
    (Client::on(Wire::new(stream, PATIENCE)), from)
}

fn last(backend: &Backend) -> Received {
    backend.requests().pop().expect("a request")
}

#[test]
fn each_connection_begins_with_its_client_and_where_that_came_to() {
    for version in ["v1", "v2"] {
        let backend = backend();
        let any = SocketAddr::new([0, 0, 0, 0].into(), free_address().port());
        let six: SocketAddr = format!("[::1]:{}", free_address().port()).parse().expect("one");
        // `[::]` is reached by IPv4 as well.
        let both: SocketAddr = format!("[::]:{}", free_address().port()).parse().expect("one");
        let listeners = [("public", free_address()), ("any", any), ("six", six), ("both", both)];
        let text = listeners.map(|(name, address)| {
            format!("[[listeners]]\nname = \"{name}\"\naddress = \"{address}\"\n")
        });
        let edge = start(&backend, version, &text.concat());
        let at = |ip: &str, address: SocketAddr| {
            SocketAddr::new(ip.parse().expect("an address"), address.port())
        };
        for (source, reached) in [
            ("127.7.7.7", listeners[0].1),
            ("127.7.7.7", at("127.0.0.5", any)),
            ("::1", six),
            ("::1", at("::1", both)),
            ("127.7.7.8", at("127.0.0.6", both)),
        ] {
            let (mut client, from) = client(source, reached);
            assert_eq!(client.get("/a").text(), "/a");
            let told = last(&backend).introduction;
            let wanted = expected(version, from, reached);
            assert_eq!(told, wanted, "{version} {source} {reached}: {:?}", told.escape_ascii());
        }
        drop(edge);
    }
}

#[test]
fn a_client_that_a_trusted_proxy_speaks_for_has_no_port() {
    for version in ["v1", "v2"] {
        let backend = backend();
        let trusting = "[[listeners]]\nname = \"public\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n";
        let edge = start(&backend, version, trusting);
        let reached = edge.address();
        let mut client = edge.client();
        let mut told = |said: &str| {
            let answer = client.request("GET", "/a", &[("X-Forwarded-For", said)], b"");
            assert_eq!(answer.status, 200);
            last(&backend).introduction
        };
        let from = |text: &str| text.parse::<SocketAddr>().expect("an address");
        assert_eq!(told("192.0.2.66"), expected(version, from("192.0.2.66:0"), reached));
        // One of the addresses is of IPv6: both are told as such.
        let IpAddr::V4(ip) = reached.ip() else { panic!("{reached}") };
        let mapped = SocketAddr::new(ip.to_ipv6_mapped().into(), reached.port());
        let wanted = expected(version, from("[2001:db8::9]:0"), mapped);
        assert_eq!(told("2001:db8::9"), wanted);
        if version == "v1" {
            let text = format!("PROXY TCP6 2001:db8::9 ::ffff:{ip} 0 {}\r\n", reached.port());
            assert_eq!(wanted, text.as_bytes());
        }
        // And the two do not share a connection, though they share the client's.
        let connections: Vec<_> = ["192.0.2.66", "2001:db8::9", "192.0.2.66", "2001:db8::9"]
            .map(|said| {
                told(said);
                last(&backend).connection
            })
            .into();
        assert_eq!(connections[..2], connections[2..], "each keeps its own");
        assert_ne!(connections[0], connections[1]);
    }
}

#[test]
fn kept_connections_are_used_again_for_their_client_only() {
    let backend = backend();
    let edge = start(&backend, "v2", "[edge]\nworker_threads = 1\n");
    let (mut one, from_one) = client("127.7.7.1", edge.address());
    let (mut two, from_two) = client("127.7.7.1", edge.address());
    for _ in 0..5 {
        for (client, from) in [(&mut one, from_one), (&mut two, from_two)] {
            client.get("/a");
            assert_eq!(last(&backend).introduction, expected("v2", from, edge.address()));
        }
    }
    assert_eq!(backend.connections(), 2, "one for each");
    // A kept connection that the endpoint has closed is replaced by another with its header, for a POST as well.
    backend.close_connections();
    eventually("they are closed", PATIENCE, || backend.open_connections() == 0);
    assert_eq!(one.request("POST", "/p", &[], b"x").status, 200);
    assert_eq!(last(&backend).introduction, expected("v2", from_one, edge.address()));
    // Many clients, one after the other: whoever has gone leaves connections behind, but not without bound.
    for _ in 0..700 {
        let (mut next, from) = client("127.7.7.2", edge.address());
        next.get("/many");
        let told = last(&backend).introduction;
        assert_eq!(told, expected("v2", from, edge.address()));
    }
    assert!(backend.open_connections() <= 514, "{}", backend.open_connections());
    assert_eq!(two.get("/still").text(), "/still");
}

#[test]
fn what_is_switched_on_or_off_counts_for_the_next_request() {
    let backend = Backend::answering("here", |request| Answer::ok(request.target.clone()));
    let off = one_region(&backend);
    let edge = Meridian::start(&off);
    let mut client = edge.client();
    client.get("/off");
    assert!(last(&backend).introduction.is_empty());
    for version in ["v1", "v2", "off"] {
        backend.expect_introductions(version != "off");
        let text = with(&backend, &format!("send_proxy_protocol = \"{version}\""));
        assert_eq!(edge.reload(&text).status, 200);
        assert_eq!(client.get("/again").text(), "/again", "{version}");
        let told = last(&backend).introduction;
        match version {
            "v1" => assert!(told.starts_with(b"PROXY TCP4 "), "{told:?}"),
            "v2" => assert!(told.starts_with(SIGNATURE), "{told:?}"),
            _ => assert!(told.is_empty(), "{told:?}"),
        }
    }
}

#[test]
fn probes_and_status_pages_speak_for_nobody() {
    let quick = "interval = \"50ms\", fast_interval = \"50ms\"";
    for version in ["v1", "v2"] {
        for kind in ["http", "tcp"] {
            let backend = backend();
            let text = by_priority(&[&backend]).replace(
                "policy = \"priority\"\n",
                &format!(
                    "policy = \"priority\"\nsend_proxy_protocol = \"{version}\"\n\
                     health = {{ kind = \"{kind}\", {quick} }}\n"
                ),
            );
            let _edge = Meridian::start(&text);
            eventually("it is probed", PATIENCE, || {
                backend.introductions().len() >= 2 || backend.probes() >= 2
            });
            for told in backend.introductions() {
                assert_eq!(told, own(version), "{kind}");
            }
            assert_eq!(kind == "http", backend.probes() > 0);
        }
        // A status page on the endpoint's own port is asked so, one elsewhere is another server's.
        let (at_home, elsewhere) = (backend(), Backend::start("page"));
        let service = |status: &str| {
            format!(
                "health = {{ kind = \"none\" }}\nsend_proxy_protocol = \"{version}\"\n\
                 replication = {{ source = \"status\", interval = \"50ms\"{status} }}\n"
            )
        };
        let text = regions(&[("here", at_home.address())], &service(""));
        let route = "[[routes]]\nname = \"all\"\nservice = \"api\"\n";
        let edge = Meridian::start(&(text + route));
        eventually("it is asked", PATIENCE, || !at_home.requests().is_empty());
        assert_eq!(last(&at_home).target, "/meridian/status");
        assert_eq!(last(&at_home).introduction, own(version));
        drop(edge);
        let port = format!(", port = {}", elsewhere.address().port());
        let text = regions(&[("here", at_home.address())], &service(&port));
        let _edge = Meridian::start(&(text + route));
        eventually("it is asked", PATIENCE, || !elsewhere.requests().is_empty());
        assert!(last(&elsewhere).introduction.is_empty());
    }
}

#[test]
fn it_stands_before_tls_and_tunnels_have_it_as_well() {
    let site = Site::new(&[]);
    let pair = site.issue(&[&loopback().to_string()]);
    for version in ["v1", "v2"] {
        for secure in [false, true] {
            let backend = backend();
            let mut service = format!("send_proxy_protocol = \"{version}\"");
            if secure {
                backend.secure(site.server_config(&pair, rustls::ALL_VERSIONS, None));
                service += &format!("\ntls = {{ ca = \"{}\" }}", site.root().display());
            }
            let edge = Meridian::start(&with(&backend, &service));
            let (mut one, from) = client("127.7.7.1", edge.address());
            assert_eq!(one.get("/a").text(), "/a");
            assert_eq!(last(&backend).introduction, expected(version, from, edge.address()));
            // An offer that is not taken, then one that is, each from another client.
            for accepted in [false, true] {
                backend.set(move |request| match (request.header("upgrade"), accepted) {
                    (Some(_), true) => Answer::raw(
                        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                         Upgrade: websocket\r\n\r\nhello",
                    ),
                    _ => Answer::ok("no"),
                });
                let (mut two, from) = client("127.7.7.2", edge.address());
                let offer = meridian_tests::request_bytes("GET", "/socket", &OFFER, b"");
                two.send(offer);
                let head = two.wire().head().expect("an answer").expect("a head");
                let status: &[u8] = if accepted { b"HTTP/1.1 101" } else { b"HTTP/1.1 200" };
                assert!(head.starts_with(status), "{}", head.escape_ascii());
                let told = last(&backend);
                assert_eq!(told.target, "/socket");
                let wanted = expected(version, from, edge.address());
                assert_eq!(told.introduction, wanted, "{version} {secure} {accepted}");
                if accepted {
                    assert_eq!(two.wire().read_some().expect("open"), b"hello");
                }
            }
        }
    }
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

fn run(program: &str, args: &[&str], at: SocketAddr) -> Running {
    let child = std::process::Command::new(program).args(args).spawn();
    let running = Running(child.unwrap_or_else(|error| panic!("{program}: {error}")));
    eventually("it listens", PATIENCE, || TcpStream::connect(at).is_ok());
    running
}

/// What an endpoint that answers with the addresses that it was told says.
#[track_caller]
fn is_told(endpoint: SocketAddr, version: &str, tls: &str) {
    let text = regions(
        &[("here", endpoint)],
        &format!(
            "send_proxy_protocol = \"{version}\"\n{tls}\
             health = {{ interval = \"100ms\", fast_interval = \"100ms\", path = \"/\" }}"
        ),
    );
    let six: SocketAddr = format!("[::1]:{}", free_address().port()).parse().expect("one");
    let edge = Meridian::start(&format!(
        "{text}[[routes]]\nname = \"all\"\nservice = \"api\"\n[[listeners]]\nname = \"public\"\n\
         [[listeners]]\nname = \"six\"\naddress = \"{six}\"\n"
    ));
    for (source, reached) in
        [("127.7.7.7", edge.address()), ("127.7.7.9", edge.address()), ("::1", six)]
    {
        let (mut client, from) = client(source, reached);
        for _ in 0..3 {
            let wanted =
                format!("{} {} {} {}", from.ip(), from.port(), reached.ip(), reached.port());
            assert_eq!(client.get("/").text().trim(), wanted, "{version}");
        }
        let offer = client.request("GET", "/socket", &OFFER, b"");
        assert!(offer.text().starts_with(&format!("{} ", from.ip())), "{offer:?}");
    }
    // Its probes were taken for what they are: the endpoint is well.
    let health = edge.admin().get("/api/v1/services").text();
    assert!(health.contains("healthy") && !health.contains("unhealthy"), "{health}");
}

#[test]
fn nginx_takes_it() {
    let site = Site::new(&[("a", &[&loopback().to_string()])]);
    let dir = site.dir();
    let (plain, secure) = (free_address(), free_address());
    let path = |name: &str| dir.join(name).display().to_string();
    let answer = "return 200 \"$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr \
                  $proxy_protocol_server_port\";";
    let config = format!(
        "daemon off; master_process off; pid {pid}; error_log {log};\n\
         events {{}}\n\
         http {{ access_log off; client_body_temp_path {t}; proxy_temp_path {t}; fastcgi_temp_path {t};\n\
         uwsgi_temp_path {t}; scgi_temp_path {t};\n\
         server {{ listen {plain} proxy_protocol; location / {{ {answer} }} }}\n\
         server {{ listen {secure} ssl proxy_protocol; ssl_certificate {pem}; ssl_certificate_key {key};\n\
         location / {{ {answer} }} }} }}\n",
        pid = path("pid"),
        log = path("error.log"),
        t = path("temp"),
        pem = path("a.pem"),
        key = path("a.key"),
    );
    site.put_file("nginx.conf", &config);
    let log = path("error.log");
    let _nginx = run("nginx", &["-e", &log, "-p", &path(""), "-c", &path("nginx.conf")], plain);
    for version in ["v1", "v2"] {
        is_told(plain, version, "");
        is_told(secure, version, &format!("tls = {{ ca = \"{}\" }}\n", site.root().display()));
    }
}

#[test]
fn haproxy_takes_it() {
    let site = Site::new(&[("a", &[&loopback().to_string()])]);
    let pair = site.issue(&[&loopback().to_string()]);
    site.put_file("both.pem", &(pair.certificate + &pair.key));
    let (plain, secure) = (free_address(), free_address());
    let both = site.dir().join("both.pem");
    let config = format!(
        "defaults\n mode http\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n\
         frontend f\n bind {plain} accept-proxy\n bind {secure} accept-proxy ssl crt {}\n\
         http-request return status 200 content-type text/plain lf-string \"%[src] %[src_port] %[dst] %[dst_port]\"\n",
        both.display()
    );
    site.put_file("haproxy.cfg", &config);
    let file = site.dir().join("haproxy.cfg").display().to_string();
    let _haproxy = run("haproxy", &["-f", &file, "-db"], plain);
    for version in ["v1", "v2"] {
        is_told(plain, version, "");
        is_told(secure, version, &format!("tls = {{ ca = \"{}\" }}\n", site.root().display()));
    }
}

#[test]
fn an_edge_behind_an_edge_knows_the_client_and_what_it_has_reached() {
    let site = Site::new(&[("a", &[&loopback().to_string()])]);
    for (version, further) in [("v1", "v2"), ("v2", "v1")] {
        for secure in [false, true] {
            let backend = backend();
            let lines = "proxy_protocol = true\ntrusted_proxies = [\"127.0.0.0/8\"]";
            let listener = match secure {
                true => site.listener(&["a"], lines),
                false => format!("[[listeners]]\nname = \"tls\"\n{lines}\n"),
            };
            let inner = Meridian::start(
                &(with(&backend, &format!("send_proxy_protocol = \"{further}\"")) + &listener),
            );
            let tls = match secure {
                true => format!("tls = {{ ca = \"{}\" }}\n", site.root().display()),
                false => String::new(),
            };
            let middle = regions(
                &[("inner", inner.listener("tls"))],
                &format!(
                    "send_proxy_protocol = \"{version}\"\n{tls}\
                     health = {{ kind = \"http\", path = \"/probe\", interval = \"100ms\" }}"
                ),
            );
            let outer =
                Meridian::start(&(middle + "[[routes]]\nname = \"all\"\nservice = \"api\"\n"));
            let (mut client, from) = client("127.7.7.7", outer.address());
            for _ in 0..2 {
                let answer = client.request("GET", "/a", &[], b"");
                assert_eq!(answer.text(), "/a");
                let request = backend
                    .requests()
                    .into_iter()
                    .rfind(|request| request.target == "/a")
                    .expect("it came");
                // What the outer edge was reached at goes all the way.
                assert_eq!(request.introduction, expected(further, from, outer.address()));
            }
            inner.logged(|line| line["client"] == "127.7.7.7" && line["target"] == "/a");
            let answer = client.request("GET", "/socket", &OFFER, b"");
            assert_eq!(answer.text(), "/socket");
            let socket = backend.requests().into_iter().rfind(|r| r.target == "/socket");
            let told = socket.expect("it came").introduction;
            assert_eq!(told, expected(further, from, outer.address()), "{version} {secure}");
        }
    }
}
