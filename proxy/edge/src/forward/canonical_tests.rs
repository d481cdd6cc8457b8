//! What endpoints are sent: one Host, one framing, nothing hop-by-hop, forwarding fields that can be believed.

use std::path::Path;
use std::sync::Arc;

use meridian_config::{Config, RouteIndex, ServiceIndex};
use meridian_routing::{
    Desired, EndpointIndex, HotRegistry, Observed, Overrides, RoutingTable, build,
};

use super::*;
use crate::http1::head::{HeadFacts, HeadScan, with_head};
use crate::http1::response::with_response;

/// A table of one route and one endpoint; `route` and `service` are lines of their sections.
fn table(route: &str, service: &str) -> RoutingTable {
    let text = format!(
        "[[listeners]]\nname = \"public\"\naddress = \"127.0.0.1:1\"\n\
         [[regions]]\nid = \"here\"\nrole = \"primary\"\ncoordinates = [1.0, 2.0]\n\
         [[services]]\nname = \"api\"\n{service}\n\
         [[services.endpoints]]\nregion = \"here\"\naddress = \"192.0.2.1:3000\"\n\
         [[routes]]\nname = \"all\"\nservice = \"api\"\n{route}\n"
    );
    let loaded = Config::parse(&text, Path::new("test.toml"), &|_| None);
    let config = Arc::new(loaded.unwrap_or_else(|errors| panic!("{errors}")).config);
    let mut hot = HotRegistry::default();
    let desired = Desired::new(config).expect("no expressions");
    build(&desired, &Overrides::default(), &Observed::default(), None, &mut hot, 1)
}

const RANDOM: u128 = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;

struct Setting {
    table: RoutingTable,
    trusted: bool,
    peer: &'static str,
    upgrade: bool,
    epoch: u64,
}

impl Setting {
    fn new(route: &str, service: &str) -> Self {
        let (table, peer) = (table(route, service), "203.0.113.9");
        Self { table, trusted: false, peer, upgrade: false, epoch: 0 }
    }

    fn try_head(&self, read: &[u8]) -> Option<(String, HeadFacts)> {
        let networks = ["0.0.0.0/0", "::/0"].map(|n| n.parse().expect("a network"));
        let address = self.peer.parse::<std::net::IpAddr>().expect("an address");
        let mut listener = self.table.config.listeners[0].clone();
        listener.trusted_proxies = if self.trusted { networks.to_vec() } else { Vec::new() };
        let peer = Peer::new((address, 5).into(), ([198, 51, 100, 1], 80).into(), &listener);
        let service = self.table.service(ServiceIndex(0));
        let limits = &self.table.config.limits;
        let len = HeadScan::default().complete(read, limits).ok()??;
        with_head(&read[..len], limits, |request, facts| {
            let ids = RequestIds::new(&request.notes, RANDOM);
            let context = HeadContext {
                route: self.table.route(RouteIndex(0)),
                service: &service.settings,
                endpoint: service.endpoint(EndpointIndex(0)),
                peer: &peer,
                ids: &ids,
                upload: facts.framing.into(),
                expect_continue: facts.expect_continue,
                upgrade: self.upgrade,
                sessions: true,
                epoch: self.epoch,
            };
            let mut out = Vec::new();
            request_head(request, &context, &mut out);
            (String::from_utf8_lossy(&out).into_owned(), facts)
        })
        .ok()
    }

    /// The canonical head of a request with these lines of fields.
    fn head(&self, line: &str, fields: &str) -> String {
        let read = format!("{line} HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n");
        self.try_head(read.as_bytes()).unwrap_or_else(|| panic!("refused: {read:?}")).0
    }

    fn values(&self, fields: &str, name: &str) -> Vec<String> {
        values(&self.head("GET /", fields), name)
    }
}

/// All values of a field in a head.
fn values(head: &str, name: &str) -> Vec<String> {
    let lines = head.split("\r\n").filter_map(|line| line.split_once(": "));
    lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_owned()).collect()
}

#[test]
fn a_plain_request_gets_exactly_this_head() {
    let setting = Setting::new("", "");
    assert_eq!(
        setting.head("GET /a?b", "Accept: x\r\nAccept: y\r\n"),
        "GET /a?b HTTP/1.1\r\nhost: a.example\r\nAccept: x\r\nAccept: y\r\n\
         x-forwarded-for: 203.0.113.9\r\nx-forwarded-proto: http\r\nx-forwarded-host: a.example\r\n\
         x-request-id: 0123456789abcdef0123456789abcdef\r\n\
         traceparent: 00-0123456789abcdef0123456789abcdef-0123456789abcdef-00\r\n\
         via: 1.1 meridian\r\n\r\n"
    );
}

#[test]
fn digits_are_those_of_the_number() {
    for random in [0, 1, u128::MAX, RANDOM, 0xfedc_ba98_7654_3210_a09f_0a90_5af0_0fa5] {
        assert_eq!(hex(random), *format!("{random:032x}").as_bytes());
    }
}

#[test]
fn hop_by_hop_fields_stay_here() {
    let setting = Setting::new("", "");
    for field in [
        "Connection: x",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "TE: trailers, gzip",
        "Upgrade: websocket",
        "HTTP2-Settings: AAMAAABk",
        "Proxy-Authorization: Basic x",
        "Meridian-Role: primary",
        "meridian-epoch: 9",
        "Meridian-Position: 1",
        "Expect: something",
    ] {
        let name = field.split(':').next().expect("a name");
        let fields = format!("{field}\r\nX-Kept: y\r\n");
        assert_eq!(setting.values(&fields, name), [""; 0], "{field}");
        assert_eq!(setting.values(&fields, "x-kept"), ["y"]);
    }
}

#[test]
fn fields_that_connection_names_go_but_not_the_edge_s_own() {
    let setting = Setting::new("", "");
    let named = "Connection: X-A, x-b ,close\r\nConnection: X-C\r\nX-a: 1\r\nX-B: 2\r\nX-C: 3\r\nX-D: 4\r\n";
    for name in ["x-a", "x-b", "x-c", "connection"] {
        assert_eq!(setting.values(named, name), [""; 0], "{name}");
    }
    assert_eq!(setting.values(named, "x-d"), ["4"]);
    let cookie = "Connection: cookie\r\nCookie: a=b\r\n";
    assert_eq!(setting.values(cookie, "cookie"), [""; 0]);
    for (name, expected) in [
        ("host", "a.example"),
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "a.example"),
        ("via", "1.1 meridian"),
        ("x-request-id", "given"),
    ] {
        let fields = format!("Connection: {name}\r\nX-Request-Id: given\r\n");
        assert_eq!(setting.values(&fields, name), [expected], "{name}");
    }
    let framed = setting.head("POST /", "Connection: content-length\r\nContent-Length: 5\r\n");
    assert_eq!(values(&framed, "content-length"), ["5"]);
    let framed =
        setting.head("POST /", "Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n");
    assert_eq!(values(&framed, "transfer-encoding"), ["chunked"]);
}

const CLAIMS: &str = "X-Forwarded-For: 1.1.1.1\r\nx-forwarded-for: 2.2.2.2\r\nX-Forwarded-Proto: https\r\n\
                      X-Forwarded-Host: evil.example\r\nForwarded: for=1.1.1.1\r\n";

#[test]
fn claims_with_underscores_are_dropped_whoever_makes_them() {
    for setting in [Setting::new("", ""), Setting { trusted: true, ..Setting::new("", "") }] {
        for name in [
            "X_Forwarded_For",
            "x_forwarded-for",
            "X-Forwarded_Host",
            "X_FORWARDED_PROTO",
            "x_request_id",
            "X-Request_Id",
        ] {
            let head = setting.head("GET /", &format!("{name}: 1.1.1.1\r\nX_Other: y\r\n"));
            assert_eq!(values(&head, name), [""; 0], "{name}");
            assert_eq!(values(&head, "x_other"), ["y"], "other names are the client's");
            assert_eq!(values(&head, "x-forwarded-for").len(), 1, "{head}");
        }
    }
}

#[test]
fn an_untrusted_client_s_claims_are_replaced() {
    let setting = Setting::new("", "");
    assert_eq!(setting.values(CLAIMS, "x-forwarded-for"), ["203.0.113.9"]);
    assert_eq!(setting.values(CLAIMS, "x-forwarded-proto"), ["http"]);
    assert_eq!(setting.values(CLAIMS, "x-forwarded-host"), ["a.example"]);
    assert_eq!(setting.values(CLAIMS, "forwarded"), [""; 0]);
}

#[test]
fn a_trusted_proxy_s_claims_are_continued() {
    let mut setting = Setting { trusted: true, ..Setting::new("", "") };
    assert_eq!(setting.values(CLAIMS, "x-forwarded-for"), ["1.1.1.1, 2.2.2.2, 203.0.113.9"]);
    assert_eq!(setting.values(CLAIMS, "x-forwarded-proto"), ["https"]);
    assert_eq!(setting.values(CLAIMS, "x-forwarded-host"), ["evil.example"]);
    assert_eq!(setting.values(CLAIMS, "forwarded"), ["for=1.1.1.1, for=203.0.113.9;proto=http"]);
    assert_eq!(setting.values("", "x-forwarded-for"), ["203.0.113.9"]);
    assert_eq!(setting.values("", "forwarded"), [""; 0]);
    setting.peer = "2001:db8::9";
    assert_eq!(
        setting.values("Forwarded: for=1.1.1.1\r\n", "forwarded"),
        ["for=1.1.1.1, for=\"[2001:db8::9]\";proto=http"]
    );
}

#[test]
fn there_is_one_framing() {
    let setting = Setting::new("", "");
    let framing = |line: &str, fields: &str| {
        let head = setting.head(line, fields);
        (values(&head, "content-length").join("|"), values(&head, "transfer-encoding").join("|"))
    };
    let pair = |length: &str, coding: &str| (length.to_owned(), coding.to_owned());
    assert_eq!(framing("POST /", "Content-Length: 005\r\n"), pair("5", ""));
    assert_eq!(framing("POST /", "Transfer-Encoding: CHUNKED\r\n"), pair("", "chunked"));
    assert_eq!(framing("POST /", ""), pair("0", ""));
    assert_eq!(framing("PUT /", "Content-Length: 0\r\n"), pair("0", ""));
    assert_eq!(framing("GET /", ""), pair("", ""));
    assert_eq!(framing("GET /", "Content-Length: 0\r\n"), pair("", ""));
    assert_eq!(framing("DELETE /", "Content-Length: 3\r\n"), pair("3", ""));
}

#[test]
fn te_is_for_grpc_and_expect_for_who_waits() {
    let setting = Setting::new("", "");
    let grpc = "Content-Type: application/grpc+proto\r\nTE: trailers\r\n";
    assert_eq!(setting.values(grpc, "te"), ["trailers"]);
    let waits = "Expect: 100-continue\r\nContent-Length: 5\r\n";
    assert_eq!(setting.values(waits, "expect"), ["100-continue"]);
}

#[test]
fn an_upgrade_is_offered_only_in_its_lane() {
    let fields =
        "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Key: k\r\n";
    let mut setting = Setting::new("", "");
    assert_eq!(setting.values(fields, "upgrade"), [""; 0]);
    setting.upgrade = true;
    assert_eq!(setting.values(fields, "upgrade"), ["websocket"]);
    assert_eq!(setting.values(fields, "connection"), ["upgrade"]);
    assert_eq!(setting.values(fields, "sec-websocket-key"), ["k"]);
}

#[test]
fn sane_ids_are_kept_and_others_replaced() {
    let setting = Setting::new("", "");
    let fresh = "0123456789abcdef0123456789abcdef";
    let long = "x".repeat(129);
    for (given, expected) in [
        ("abc-123", "abc-123"),
        ("", fresh),
        ("a b", fresh),
        ("a\"b", fresh),
        (&long, fresh),
        ("caf\u{e9}", fresh),
    ] {
        let fields = format!("X-Request-Id: {given}\r\n");
        assert_eq!(setting.values(&fields, "x-request-id"), [expected], "{given:?}");
    }
    let own = format!("00-{fresh}-0123456789abcdef-00");
    let sane = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for (given, expected) in [
        (sane, sane),
        (
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        ),
        ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", &own),
        ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", &own),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", &own),
        ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", &own),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", &own),
        ("nonsense", &own),
    ] {
        let fields = format!("traceparent: {given}\r\ntracestate: a=b\r\n");
        assert_eq!(setting.values(&fields, "traceparent"), [expected], "{given:?}");
        assert_eq!(setting.values(&fields, "tracestate"), ["a=b"]);
    }
}

#[test]
fn prefixes_are_taken_off_and_put_on() {
    for (strip, rewrite, target, expected) in [
        ("", "", "/api/x?y", "/api/x?y"),
        ("/api", "", "/api/x?y", "/x?y"),
        ("/api", "", "/api", "/"),
        ("/api", "", "/api?y", "/?y"),
        ("/api", "", "/api/", "/"),
        ("/api/", "", "/api/x", "/x"),
        ("/api", "", "/apix", "/apix"),
        ("/api", "/v2", "/api/x", "/v2/x"),
        ("/api", "/v2/", "/api/x", "/v2/x"),
        ("/api", "/v2", "/api", "/v2"),
        ("/api", "/v2", "/api?y", "/v2?y"),
        ("/api", "/v2", "/other", "/other"),
        ("", "/v2", "/x", "/v2/x"),
        ("/", "/v2", "/x", "/v2/x"),
        ("/api", "", "/API/x", "/API/x"),
    ] {
        let route = format!("strip_prefix = \"{strip}\"\nrewrite_prefix = \"{rewrite}\"");
        let head = Setting::new(&route, "").head(&format!("GET {target}"), "");
        assert_eq!(head.split(' ').nth(1), Some(expected), "{strip:?} {rewrite:?} {target}");
    }
    let setting = Setting::new("strip_prefix = \"/api\"", "");
    assert!(setting.head("OPTIONS *", "").starts_with("OPTIONS * HTTP/1.1\r\n"));
}

#[test]
fn host_and_fields_follow_the_configuration() {
    for (service, host) in [
        ("", "a.example"),
        ("host_header = \"endpoint\"", "192.0.2.1:3000"),
        ("host_header = \"api.internal\"", "api.internal"),
    ] {
        let setting = Setting::new("", service);
        assert_eq!(setting.values("", "host"), [host]);
        assert_eq!(setting.values("", "x-forwarded-host"), ["a.example"]);
    }
    let edits =
        "request_headers = { set = { X-Edge = \"e1\", x-old = \"new\" }, remove = [\"x-secret\"] }";
    let setting = Setting::new(edits, "");
    let fields = "X-EDGE: forged\r\nX-Secret: s\r\nX-Secret: t\r\nX-Old: old\r\nX-Other: o\r\n";
    assert_eq!(setting.values(fields, "x-edge"), ["e1"]);
    assert_eq!(setting.values(fields, "x-old"), ["new"]);
    assert_eq!(setting.values(fields, "x-secret"), [""; 0]);
    assert_eq!(setting.values(fields, "x-other"), ["o"]);
}

#[test]
fn the_affinity_cookie_is_not_passed_on() {
    let setting = Setting::new("affinity = { cookie = \"stick\" }", "");
    for (fields, expected) in [
        ("Cookie: stick=x\r\n", vec![]),
        ("Cookie: a=b; stick=x; c=d\r\n", vec!["a=b; c=d"]),
        ("Cookie: stick=x;a=b;stick=y\r\n", vec!["a=b"]),
        ("Cookie: a=b\r\nCookie: stick=x\r\n", vec!["a=b"]),
        ("Cookie: a=b;  c=d\r\n", vec!["a=b;  c=d"]),
        ("Cookie: xstick=1; stick2=2; Stick=3\r\n", vec!["xstick=1; stick2=2; Stick=3"]),
        ("Connection: cookie\r\nCookie: a=b; stick=x\r\n", vec![]),
    ] {
        assert_eq!(setting.values(fields, "cookie"), expected, "{fields:?}");
    }
    let without = Setting::new("", "");
    assert_eq!(without.values("Cookie: stick=x\r\n", "cookie"), ["stick=x"]);
}

#[test]
fn max_forwards_counts_down_where_it_counts() {
    let setting = Setting::new("", "");
    for (method, expected) in [("TRACE", "4"), ("OPTIONS", "4"), ("GET", "5")] {
        let head = setting.head(&format!("{method} /"), "Max-Forwards: 5\r\n");
        assert_eq!(values(&head, "max-forwards"), [expected], "{method}");
    }
}

#[test]
fn a_client_gets_no_hop_by_hop_field_and_nothing_internal() {
    let read = b"HTTP/1.1 200 OK\r\nConnection: x-named, keep-alive\r\nX-Named: 1\r\nKeep-Alive: 5\r\n\
        Meridian-Role: primary\r\nMeridian-Lag-Ms: 7\r\nMeridian-Served-By: forged\r\nUpgrade: h2c\r\n\
        Transfer-Encoding: chunked\r\nX-A: 1\r\nX-Gone: 2\r\nX-Set: old\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n";
    let table =
        table("response_headers = { set = { x-set = \"new\" }, remove = [\"x-gone\"] }", "");
    let edits = ResponseEdits {
        recoded: None,
        route: &table.route(RouteIndex(0)).response_headers,
        served_by: Some("here; role=primary"),
        set_cookie: Some("c"),
        session: Some(&Given { cookie: "d".into(), token: "t".into() }),
        hsts: None,
    };
    let mut seen = Vec::new();
    with_response(read, false, |head| {
        response_fields(head, &edits, |name, value| {
            seen.push(format!("{}={}", name.to_ascii_lowercase(), String::from_utf8_lossy(value)));
        });
    })
    .expect("a head");
    let expected = [
        "x-a=1",
        "set-cookie=a",
        "set-cookie=b",
        "x-set=new",
        "meridian-served-by=here; role=primary",
        "set-cookie=c",
        "set-cookie=d",
        "meridian-session=t",
    ];
    assert_eq!(seen, expected);
}

#[test]
fn the_cookies_of_sessions_are_this_edge_s_alone() {
    let mut setting = Setting::new("", "");
    for (given, passed) in [
        ("__meridian=t", None),
        ("a=1; __meridian=t; b=2;__meridian-api=u", Some("a=1; b=2")),
        ("a=__meridian;  b=2", Some("a=__meridian;  b=2")),
        ("__meridianx=1", Some("__meridianx=1")),
    ] {
        let head = setting.head("GET /", &format!("Cookie: {given}\r\nMeridian-Session: t\r\n"));
        let cookie = head
            .lines()
            .find_map(|line| line.to_lowercase().strip_prefix("cookie: ").map(str::to_owned));
        assert_eq!(cookie.as_deref(), passed, "{head}");
        assert!(!head.to_lowercase().contains("meridian-session"), "{head}");
    }
    setting.trusted = true;
    assert!(!setting.head("GET /", "Meridian-Session: t\r\n").to_lowercase().contains("session"));
}

#[path = "differential_tests.rs"]
mod differential;

#[test]
fn the_epoch_is_this_edge_s_word_and_nobody_else_s() {
    let mut setting = Setting::new("", "");
    let forged = "Meridian-Epoch: 9\r\nmeridian-epoch: 10\r\nMeridian-: 1\r\n";
    assert!(!setting.head("POST /", forged).to_lowercase().contains("meridian-"));
    setting.epoch = 7;
    let head = setting.head("POST /", forged);
    assert_eq!(head.matches("meridian-epoch").count(), 1, "{head}");
    assert!(head.contains("\r\nmeridian-epoch: 7\r\n"), "{head}");
}
