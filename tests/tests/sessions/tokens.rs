//! Tokens that are not as they should be, keys, services, protocols, restarts.

use std::fs;

use meridian_tests::{Backend, Meridian, eventually};

use crate::scene::{EU, SOON, Scene, US, faults, read, served, settle, token, write};

fn with_cookies(edge: &Meridian, cookies: &[&str]) -> meridian_tests::Response {
    let mut fields: Vec<_> = cookies.iter().map(|cookie| ("Cookie", *cookie)).collect();
    fields.push(("Connection", "close"));
    edge.client().request("GET", "/c", &fields, b"")
}

#[test]
fn what_is_wrong_with_a_token_is_counted_and_never_an_error() {
    let scene = Scene::new();
    let edge = scene.edge();
    scene.database.pause(1);
    scene.database.pause(2);
    let good = token(&write(&edge, "")).expect("a token");
    let mut forged = good.clone().into_bytes();
    forged[40] = if forged[40] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).expect("text");
    let long = "x".repeat(5000);
    for (value, fault) in
        [("x", "malformed"), ("", "malformed"), (&long, "malformed"), (&forged, "forged")]
    {
        let before = faults(&edge, fault);
        assert_eq!(served(&read(&edge, value)), EU, "as without one");
        assert_eq!(faults(&edge, fault), before + 1.0, "{fault}");
    }
    // The strictest of several counts, and what is wrong beside it does no harm.
    for value in [format!("{forged}, {good}"), format!("{good},x"), format!("{good}, {good}")] {
        assert_eq!(served(&read(&edge, &value)), US, "{value}");
    }
    let many = format!("{}{good}", "x,".repeat(40));
    assert_eq!(served(&read(&edge, &many)), US, "what is not looked at may need the primary");
    assert!(faults(&edge, "too-many") >= 1.0);
    // As cookies.
    assert_eq!(served(&with_cookies(&edge, &[&format!("a=b; __meridian={good}; c=d")])), US);
    assert_eq!(served(&with_cookies(&edge, &["a=b", &format!("__meridian={good}")])), US);
    assert_eq!(served(&with_cookies(&edge, &[&format!("x__meridian={good}")])), EU);
    let doubled = format!("__meridian={forged}; __meridian={good}");
    assert_eq!(served(&with_cookies(&edge, &[&doubled])), US);
    let seen: Vec<_> = scene.backends[0].requests();
    let cookies: Vec<_> =
        seen.iter().filter(|r| r.target == "/c").map(|r| r.header("cookie")).collect();
    assert_eq!(cookies, [Some("a=b; c=d"), Some("a=b"), None]);
}

#[test]
fn edges_share_tokens_by_a_file_and_they_outlive_restarts_and_upgrades() {
    let scene = Scene::new();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("keys");
    fs::write(&path, "k".repeat(40)).expect("writes");
    let line = format!("session_secret_file = {:?}", path.display().to_string());
    let mut one = scene.edge_of(&line, "", "");
    let (two, alone) = (scene.edge_of(&line, "", ""), scene.edge());
    scene.database.pause(1);
    scene.database.pause(2);
    let session = token(&write(&one, "")).expect("a token");
    assert_eq!(served(&read(&two, &session)), US);
    assert_eq!(served(&read(&alone, &session)), EU, "another key's token is none here");
    assert_eq!(faults(&alone, "forged"), 1.0);
    one.restart();
    assert_eq!(served(&read(&one, &session)), US);
    one.crash_and_restart();
    assert_eq!(served(&read(&one, &session)), US);
    let output = one.cli(&["upgrade", "--output", "json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let pid = answer["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid");
    one.has_handed_over_to(pid);
    assert_eq!(served(&read(&one, &session)), US);
    // Rotated: the old key still verifies, and the client gets a token of the new one.
    let next = directory.path().join("next");
    fs::write(&next, format!("{}\n{}", "n".repeat(40), "k".repeat(40))).expect("writes");
    fs::rename(&next, &path).expect("renames");
    let mut renewed = None;
    eventually("the new key signs", SOON, || {
        let answer = read(&two, &session);
        assert_eq!(served(&answer), US);
        renewed = token(&answer);
        renewed.is_some()
    });
    assert_ne!(renewed, Some(session));
}

#[test]
fn a_route_without_read_your_writes_neither_makes_nor_honours_them() {
    let scene = Scene::new();
    let text = scene.text("", "", "").replace(
        "[[routes]]",
        "[[routes]]\nname = \"plain\"\nservice = \"api\"\npath_prefix = \"/plain\"\n\
         read_your_writes = false\n[[routes]]",
    );
    let edge = Meridian::start(&text);
    eventually("the nearest is read", SOON, || served(&edge.get("/")) == EU);
    scene.database.pause(1);
    scene.database.pause(2);
    let session = token(&write(&edge, "")).expect("a token");
    let plain = |method: &str| {
        let fields = [("Meridian-Session", session.as_str()), ("Connection", "close")];
        edge.client().request(method, "/plain", &fields, b"")
    };
    assert_eq!(served(&plain("GET")), EU);
    assert_eq!(token(&plain("POST")), None);
    assert_eq!(served(&read(&edge, &session)), US);
}

#[test]
fn services_have_a_cookie_each_and_one_region_needs_none() {
    let scene = Scene::new();
    let other = Scene::new();
    let single = Backend::start("single");
    let second = other.text("", "", "");
    let second =
        second[second.find("[[services]]").expect("there")..].replace("\"api\"", "\"two\"");
    let second = second.replace("name = \"all\"", "name = \"second\"\npath_prefix = \"/two\"");
    let third = format!(
        "[[services]]\nname = \"three\"\n[[services.endpoints]]\nregion = \"{US}\"\n\
         address = \"{}\"\n[[routes]]\nname = \"third\"\nservice = \"three\"\npath_prefix = \"/three\"\n",
        single.address()
    );
    let both = format!("{}{second}{third}", scene.text("", "", ""));
    let edge = scene.edge();
    let before = token(&write(&edge, "")).expect("a token");
    assert_eq!(edge.reload(&both).status, 200);
    let post = |path: &str, cookie: &str| {
        let fields = [("Cookie", cookie), ("Connection", "close")];
        edge.client().request("POST", path, &fields, b"")
    };
    let mut set = None;
    eventually("the second one is known", SOON, || {
        let answer = post("/two", "x=1");
        set = answer.header("set-cookie").map(ToOwned::to_owned);
        answer.status == 200
    });
    let set = set.expect("a cookie");
    assert!(set.starts_with("__meridian-two="), "{set}");
    assert_eq!(
        post("/three", "x=1").header("set-cookie"),
        None,
        "one region: nothing to be behind"
    );
    settle();
    scene.database.pause(1);
    scene.database.pause(2);
    other.database.pause(1);
    other.database.pause(2);
    let first = post("/w", "x=1");
    let own = first.header("set-cookie").expect("a cookie").to_owned();
    assert!(own.starts_with("__meridian-api="), "{own}");
    let crumb = |set: &str| set.split(';').next().unwrap_or_default().to_owned();
    let jar = format!("{}; {}; __meridian={before}; y=2", crumb(&set), crumb(&own));
    let get = |path: &str, cookie: &str| {
        let fields = [("Cookie", cookie), ("Connection", "close")];
        edge.client().request("GET", path, &fields, b"")
    };
    assert_eq!(served(&get("/jar", &jar)), US);
    let seen = scene.backends[0].requests();
    let last = seen.iter().rfind(|request| request.target == "/jar").expect("it came");
    assert_eq!(last.header("cookie"), Some("y=2"), "what is signed is the edge's alone");
    // The name of before the reload is still read.
    scene.database.at[1].store(0, std::sync::atomic::Ordering::SeqCst);
    let foreign = faults(&edge, "foreign");
    let swapped = crumb(&set).replace("-two=", "-api=");
    assert_eq!(served(&get("/", &swapped)), EU);
    assert_eq!(faults(&edge, "foreign"), foreign + 1.0);
}

#[test]
fn http2_carries_them_and_splits_cookies() {
    let scene = Scene::new();
    let edge = scene.edge();
    scene.database.pause(1);
    scene.database.pause(2);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let stream = tokio::net::TcpStream::connect(edge.address()).await.expect("a connection");
        let (mut sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
        tokio::spawn(connection);
        let mut ask = async |request: http::request::Builder| {
            std::future::poll_fn(|cx| sender.poll_ready(cx)).await.expect("room");
            let request = request.uri("http://a.example/h2").body(()).expect("a request");
            let (response, _) = sender.send_request(request, true).expect("a stream");
            let response = response.await.expect("an answer");
            assert_eq!(response.status(), 200);
            response.headers().clone()
        };
        let wrote = ask(http::Request::builder().method("POST")).await;
        let session = wrote["meridian-session"].to_str().expect("text").to_owned();
        let cookie = wrote["set-cookie"].to_str().expect("text");
        assert!(cookie.starts_with(&format!("__meridian={session}; ")), "{cookie}");
        let crumb = format!("__meridian={session}");
        let split = http::Request::builder().header("cookie", "x=1").header("cookie", &crumb);
        assert_eq!(ask(split).await["x-served-region"], US);
        let header = http::Request::builder().header("meridian-session", &session);
        assert_eq!(ask(header).await["x-served-region"], US);
        assert_eq!(ask(http::Request::builder()).await["x-served-region"], EU);
    });
    let seen = scene.backends[0].requests();
    let cookies: Vec<_> = seen.iter().filter_map(|r| r.header("cookie")).collect();
    assert_eq!(cookies, ["x=1"]);
}

#[test]
fn a_consistent_hash_finds_its_cookie_in_any_field() {
    let [a, b, c] = ["a", "b", "c"].map(Backend::start);
    let endpoints = [a.address(), b.address(), c.address()].map(|address| (US, address));
    let service = "balance = \"consistent_hash\"\nhash_key = \"cookie:user\"\n\
                   health = { kind = \"none\" }\n";
    let middle = meridian_tests::regions(&endpoints, service);
    let edge = Meridian::start(&format!("{middle}[[routes]]\nname = \"all\"\nservice = \"api\"\n"));
    // One after another, so that none is in flight: a hash keeps to its endpoint while that is not overloaded.
    let mut client = edge.client();
    let mut who = |user: u32, fields: &[&str]| {
        let user = format!("user={user}");
        let mut all: Vec<_> = fields.iter().map(|field| ("Cookie", *field)).collect();
        all.push(("Cookie", &user));
        let answer = client.request("GET", "/", &all, b"");
        answer.text().split(' ').next().unwrap_or_default().to_owned()
    };
    let alone: Vec<_> = (0..24).map(|user| who(user, &[])).collect();
    let split: Vec<_> = (0..24).map(|user| who(user, &["x=1", "y=2; z=3"])).collect();
    assert_eq!(alone, split);
    assert!(alone.iter().collect::<std::collections::HashSet<_>>().len() > 1, "{alone:?}");
}
