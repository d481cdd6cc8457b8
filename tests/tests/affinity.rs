//! Sessions that stay with their endpoint, and when they must not.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use meridian_tests::{Ask, Backend, Load, Meridian, Response, eventually, regions};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
const PROBES: &str = "policy = \"weighted\"\nbalance = \"random\"\n\
    health = { kind = \"http\", path = \"/health\", interval = \"200ms\" }\n";
const EAST: &str = "us-east-1";
const WEST: &str = "eu-west-1";
const IRISH: &str = "193.1.1.1";

fn backends<const N: usize>(names: [&str; N]) -> [Backend; N] {
    names.map(Backend::start)
}

/// One edge over these endpoints; `edge` holds lines of `[edge]`, `service` and `route` more of theirs.
fn text(endpoints: &[(&str, SocketAddr)], edge: &str, service: &str, route: &str) -> String {
    let middle = regions(endpoints, &format!("{PROBES}{service}"));
    format!(
        "[edge]\n{edge}\n[shutdown]\nlame_duck = \"300ms\"\ngrace = \"5s\"\n\
         [[listeners]]\nname = \"public\"\nprotocols = [\"http1\", \"h2c\"]\n\
         trusted_proxies = [\"127.0.0.0/8\"]\n{middle}\
         [[routes]]\nname = \"all\"\nservice = \"api\"\naccess = \"read\"\naffinity = {{}}\n{route}\n"
    )
}

fn in_east(backends: &[Backend]) -> Vec<(&'static str, SocketAddr)> {
    backends.iter().map(|backend| (EAST, backend.address())).collect()
}

/// The name of the backend that answered.
fn who(response: &Response) -> String {
    assert_eq!(response.status, 200, "{response:?}");
    response.text().split(' ').next().unwrap_or_default().to_owned()
}

/// `name=value` of the affinity cookie, if the answer sets one.
fn cookie(response: &Response) -> Option<String> {
    let set = response.fields.all("set-cookie");
    let ours: Vec<_> = set.iter().filter(|c| c.starts_with("meridian-affinity=")).collect();
    assert!(ours.len() <= 1, "{set:?}");
    ours.first().map(|cookie| cookie.split(';').next().unwrap_or_default().to_owned())
}

fn get(edge: &Meridian, cookie: &str) -> Response {
    edge.client().request("GET", "/", &[("Cookie", cookie), ("Connection", "close")], b"")
}

/// A new session: its cookie and who has it.
fn begin(edge: &Meridian) -> (String, String) {
    let response = edge.get("/");
    (cookie(&response).expect("a new session's cookie"), who(&response))
}

/// All requests go to `name`, and the client's cookie is good as it is.
#[track_caller]
fn assert_sticks(edge: &Meridian, cookie_: &str, name: &str) {
    for _ in 0..12 {
        let response = get(edge, cookie_);
        assert_eq!((who(&response).as_str(), cookie(&response)), (name, None));
    }
}

fn count(edge: &Meridian, result: &str) -> f64 {
    let labels = ["route=\"all\"".to_owned(), format!("result=\"{result}\"")];
    let labels: Vec<_> = labels.iter().map(String::as_str).collect();
    edge.admin().metric_sum("meridian_affinity_total", &labels)
}

fn address(backends: &[Backend], name: &str) -> SocketAddr {
    backends.iter().find(|b| b.name() == name).expect("one of them").address()
}

fn upgrade(edge: &mut Meridian) {
    let output = edge.cli(&["upgrade", "--output", "json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let pid = answer["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid");
    edge.has_handed_over_to(pid);
}

#[test]
fn a_session_stays_across_connections_protocols_reloads_restarts_and_upgrades() {
    let backends = backends(["a", "b", "c"]);
    let config = |route: &str| text(&in_east(&backends), "", "", route);
    let mut edge = Meridian::start(&config(""));
    let first = edge.get("/");
    let set = first.fields.all("set-cookie").join("|");
    assert!(set.ends_with("; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax"), "{set}");
    for backend in &backends {
        assert!(!set.contains(&backend.address().to_string()));
    }
    let (session, name) = (cookie(&first).expect("a cookie"), who(&first));
    assert_sticks(&edge, &session, &name);
    // One connection, the cookie among others; it is not passed on.
    let mut client = edge.client();
    for _ in 0..12 {
        let mixed = format!("x=1; {session}; y=2");
        assert_eq!(who(&client.request("GET", "/m", &[("Cookie", &mixed)], b"")), name);
    }
    let owner = backends.iter().find(|b| b.name() == name).expect("one of them");
    let seen = owner.requests().into_iter().filter(|r| r.target == "/m");
    seen.for_each(|request| assert_eq!(request.header("cookie"), Some("x=1; y=2")));
    assert_eq!(http2(&edge, &session), (vec![name.clone(); 12], 0));
    assert_eq!(edge.reload(&config("expose_decision = true")).status, 200);
    assert_sticks(&edge, &session, &name);
    let served = get(&edge, &session);
    assert!(served.header("meridian-served-by").is_some_and(|by| by.ends_with("reason=affinity")));
    edge.logged(|line| line["reason"] == "affinity");
    edge.restart();
    assert_sticks(&edge, &session, &name);
    edge.crash_and_restart();
    assert_sticks(&edge, &session, &name);
    upgrade(&mut edge);
    assert_sticks(&edge, &session, &name);
    let asked = json!({"path": "/", "headers": {"cookie": session}});
    let told = edge.admin().post("/api/v1/explain", &asked).json();
    assert_eq!(told["decision"]["reason"], "affinity", "{told}");
    assert_eq!(told["decision"]["endpoint"], address(&backends, &name).to_string());
}

/// Who answers twelve requests on one HTTP/2 connection, the cookie in a field of its own; and how many set a cookie.
fn http2(edge: &Meridian, session: &str) -> (Vec<String>, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let stream = tokio::net::TcpStream::connect(edge.address()).await.expect("a connection");
        let (mut sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
        tokio::spawn(connection);
        let (mut names, mut set) = (Vec::new(), 0);
        for _ in 0..12 {
            let request = http::Request::get("http://a.example/");
            let request = request.header("cookie", "x=1").header("cookie", session);
            std::future::poll_fn(|cx| sender.poll_ready(cx)).await.expect("room");
            let request = request.body(()).expect("a request");
            let (response, _) = sender.send_request(request, true).expect("a stream");
            let response = response.await.expect("an answer");
            set += usize::from(response.headers().contains_key("set-cookie"));
            let mut body = response.into_body();
            let data = body.data().await.expect("a body").expect("a body");
            let text = String::from_utf8_lossy(&data).into_owned();
            names.push(text.split(' ').next().unwrap_or_default().to_owned());
        }
        (names, set)
    })
}

#[test]
fn http2_sets_cookies_too_and_those_of_the_endpoint_stay() {
    let backend = Backend::answering("a", |_| {
        meridian_tests::Answer::ok("a x")
            .header("Set-Cookie", "own=1")
            .header("Set-Cookie", "two=2")
    });
    let edge = Meridian::start(&text(&[(EAST, backend.address())], "", "", ""));
    let response = edge.get("/");
    let set = response.fields.all("set-cookie");
    assert_eq!(set.len(), 3, "{set:?}");
    assert_eq!(set[..2], ["own=1", "two=2"]);
    assert_eq!(http2(&edge, "nothing=1"), (vec!["a".to_owned(); 12], 12));
}

#[test]
fn edges_share_cookies_by_a_file_and_keys_rotate() {
    let backends = backends(["a", "b", "c"]);
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("keys");
    let (old, new) = ("o".repeat(40), "n".repeat(40));
    let put = |text: String| {
        let next = directory.path().join("next");
        fs::write(&next, text).expect("writes");
        fs::rename(&next, &path).expect("renames");
    };
    put(old.clone());
    let line = format!("session_secret_file = {:?}", path.display().to_string());
    let config = text(&in_east(&backends), &line, "", "");
    let (one, two) = (Meridian::start(&config), Meridian::start(&config));
    let (session, name) = begin(&one);
    assert_sticks(&two, &session, &name);
    let alone = Meridian::start(&text(&in_east(&backends), "", "", ""));
    assert!(cookie(&get(&alone, &session)).is_some(), "another key's cookie is none here");
    assert!(count(&alone, "forged") >= 1.0);
    put(format!("{new}\n{old}"));
    let mut renewed = None;
    eventually("the new key signs", SOON, || {
        let response = get(&one, &session);
        assert_eq!(who(&response), name, "the old one still verifies");
        renewed = cookie(&response);
        renewed.is_some()
    });
    let renewed = renewed.expect("a new cookie");
    assert_ne!(renewed, session);
    assert_sticks(&one, &renewed, &name);
    // What cannot be used changes nothing.
    put("short".into());
    eventually("it is refused", SOON, || one.stderr().contains("the running session keys stay"));
    assert_sticks(&one, &renewed, &name);
    put(new);
    eventually("the old key is gone", SOON, || {
        get(&one, &session);
        count(&one, "forged") > 0.0
    });
    assert_sticks(&one, &renewed, &name);
    for edge in [&one, &two] {
        let shown = edge.admin().get("/api/v1/config").text();
        for secret in ["oooooooo", "nnnnnnnn"] {
            assert!(!shown.contains(secret) && !edge.stderr().contains(secret), "never shown");
        }
    }
}

#[test]
fn what_is_no_good_cookie_is_no_affinity() {
    let backends = backends(["a", "b"]);
    let config = |ttl: &str| {
        let other = format!(
            "[[services]]\nname = \"other\"\nhealth = {{ kind = \"none\" }}\n\
             [[services.endpoints]]\nregion = \"{EAST}\"\naddress = \"{}\"\n",
            backends[0].address()
        );
        let main = text(&in_east(&backends), "", "", "").replace("affinity = {}", ttl);
        format!(
            "{main}{other}[[routes]]\nname = \"other\"\nservice = \"other\"\naccess = \"read\"\n\
             path_prefix = \"/other\"\naffinity = {{}}\n"
        )
    };
    let edge = Meridian::start(&config("affinity = {}"));
    let (session, name) = begin(&edge);
    let mut forged = session.clone().into_bytes();
    let last = forged.len() - 5;
    forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).expect("text");
    let foreign = cookie(&edge.get("/other")).expect("a cookie");
    let long = format!("meridian-affinity={}", "x".repeat(4000));
    for (cookie_, result) in [
        ("a=b", "absent"),
        ("meridian-affinity=", "malformed"),
        (&long, "malformed"),
        (&forged, "forged"),
        (&foreign, "foreign"),
    ] {
        let before = count(&edge, result);
        let response = get(&edge, cookie_);
        assert_eq!(response.status, 200, "never an error");
        assert!(cookie(&response).is_some_and(|new| new != cookie_), "{result}: a new one");
        assert_eq!(count(&edge, result), before + 1.0, "{result}");
    }
    assert_sticks(&edge, &session, &name);
    assert_eq!(edge.reload(&config("affinity = { ttl = \"2s\" }")).status, 200);
    eventually("it grows old", SOON, || {
        get(&edge, &session);
        count(&edge, "expired") > 0.0
    });
    // A cookie that is used is renewed when half of its time is over.
    let (mut session, name) = begin(&edge);
    let mut renewed = 0;
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(200));
        let response = get(&edge, &session);
        assert_eq!(who(&response), name);
        if let Some(next) = cookie(&response) {
            (session, renewed) = (next, renewed + 1);
        }
    }
    assert!((1..=4).contains(&renewed), "{renewed} times in 4 s");
}

#[test]
fn a_dead_endpoint_lets_go_of_its_sessions_without_a_failed_read() {
    let backends = backends(["a", "b", "c"]);
    let edge = Meridian::start(&text(&in_east(&backends), "", "", ""));
    let (session, name) = begin(&edge);
    let ask = session.clone();
    let load = Load::start(edge.address(), 4, move |serial| {
        Ask::get(format!("/r/{serial}")).with("Cookie", ask.clone())
    });
    load.run_for(200);
    backends.iter().find(|b| b.name() == name).expect("one of them").kill();
    load.run_for(400);
    load.stop().assert_all_fine(600);
    let response = get(&edge, &session);
    let (moved, other) = (cookie(&response).expect("a new cookie"), who(&response));
    assert_ne!(other, name);
    assert_sticks(&edge, &moved, &other);
    // A file that does not name it any more.
    let left: Vec<_> = backends.iter().filter(|b| b.name() != name).collect();
    let left: Vec<_> = left.iter().map(|b| (EAST, b.address())).collect();
    assert_eq!(edge.reload(&text(&left, "", "", "")).status, 200);
    let before = count(&edge, "gone");
    assert!(cookie(&get(&edge, &session)).is_some());
    assert_eq!(count(&edge, "gone"), before + 1.0);
    assert_sticks(&edge, &moved, &other);
}

#[test]
fn a_drain_moves_sessions_at_once_or_after_its_grace() {
    let backends = backends(["a", "b"]);
    let mut edge = Meridian::start(&text(&in_east(&backends), "", "", ""));
    let (session, name) = begin(&edge);
    let target = format!("api/{}", address(&backends, &name));
    let drained = edge.cli(&["drain", &target, "--session-grace", "1h"]);
    assert!(drained.status.success(), "{drained:?}");
    assert_sticks(&edge, &session, &name);
    for _ in 0..12 {
        assert_ne!(who(&edge.get("/")), name, "no new session");
    }
    // The grace counts from the drain on, whatever becomes of the process.
    edge.restart();
    assert_sticks(&edge, &session, &name);
    assert!(edge.cli(&["drain", &target, "--session-grace", "2s"]).status.success());
    assert_sticks(&edge, &session, &name);
    eventually("the grace is over", SOON, || who(&get(&edge, &session)) != name);
    assert!(edge.cli(&["undrain", &target]).status.success());
    assert_sticks(&edge, &session, &name);
    // Without a grace, which is the default.
    assert!(edge.cli(&["drain", &target]).status.success());
    assert_ne!(who(&get(&edge, &session)), name);
    let refused = edge.cli(&["drain", &target, "--session-grace", "soon"]);
    assert!(!refused.status.success() && format!("{refused:?}").contains("session_grace"));
}

#[test]
fn a_region_that_the_file_drains_keeps_sessions_for_the_services_grace() {
    let backends = backends(["a", "b"]);
    let (a, b) = (backends[0].address(), backends[1].address());
    let config = |grace: &str, drain: bool| {
        let service = format!("session_grace = \"{grace}\"\n");
        let text = text(&[(EAST, a), (WEST, b)], "", &service, "");
        let line = format!("drain = {drain}\n[[services]]");
        text.replacen("[[services]]", &line, 1)
    };
    let edge = Meridian::start(&config("1h", false));
    let mut session = begin(&edge);
    eventually("a session in the west", SOON, || {
        session = begin(&edge);
        session.1 == "b"
    });
    assert_eq!(edge.reload(&config("1h", true)).status, 200);
    assert_sticks(&edge, &session.0, "b");
    for _ in 0..12 {
        assert_eq!(who(&edge.get("/")), "a", "no new session");
    }
    // Its endpoint dies: no other endpoint of the drained region, and health always wins.
    assert_eq!(edge.reload(&config("1s", true)).status, 200);
    eventually("the grace is over", SOON, || who(&get(&edge, &session.0)) == "a");
    assert_eq!(edge.reload(&config("1h", true)).status, 200);
    assert_sticks(&edge, &session.0, "b");
    backends[1].kill();
    assert_eq!(who(&get(&edge, &session.0)), "a");
}

#[test]
fn residency_comes_before_affinity() {
    let backends = backends(["a", "b"]);
    let (a, b) = (backends[0].address(), backends[1].address());
    let residency = format!("residency = {{ regions = [\"{WEST}\"], subject = [\"IE\"] }}");
    let edge = Meridian::start(&text(&[(EAST, a), (WEST, b)], "", "", &residency));
    let from = |client: &str, cookie: &str| {
        let fields = [("X-Forwarded-For", client), ("Cookie", cookie), ("Connection", "close")];
        edge.client().request("GET", "/", &fields, b"")
    };
    const AMERICAN: &str = "8.8.8.8";
    let mut session = String::new();
    eventually("a session in the east", SOON, || {
        let response = from(AMERICAN, "x=1");
        session = cookie(&response).expect("a cookie");
        who(&response) == "a"
    });
    for _ in 0..12 {
        assert_eq!(who(&from(AMERICAN, &session)), "a");
        let response = from(IRISH, &session);
        assert_eq!(who(&response), "b", "whatever the cookie says");
        assert!(cookie(&response).is_some());
    }
    assert!(count(&edge, "yielded") >= 12.0);
}

#[test]
fn offers_to_switch_protocols_are_bound_as_well() {
    let speaking = |name: &'static str| {
        Backend::speaking(name, move |wire| {
            let Some(_) = wire.request_head()? else { return Ok(()) };
            let head = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 X-Who: {name}\r\n\r\n"
            );
            wire.send(head.as_bytes())?;
            // The tunnel lasts until the client goes.
            wire.request_head().map(drop)
        })
    };
    let backends = ["a", "b", "c"].map(speaking);
    let config = text(&in_east(&backends), "", "", "");
    let edge = Meridian::start(&config.replace(
        "health = { kind = \"http\", path = \"/health\", interval = \"200ms\" }",
        "health = { kind = \"none\" }",
    ));
    let offer = |cookie: &str| {
        let mut client = edge.client();
        client.send(format!(
            "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nCookie: {cookie}\r\n\r\n"
        ));
        let head = client.try_head().expect("an answer");
        assert_eq!(head.status, 101, "{head:?}");
        head
    };
    let first = offer("x=1");
    let session = cookie(&first).expect("a cookie");
    for _ in 0..12 {
        let head = offer(&session);
        assert_eq!((head.header("x-who"), cookie(&head)), (first.header("x-who"), None));
    }
}
