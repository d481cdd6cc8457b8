//! Requests in the clear that are sent to https, and what answers over TLS say of it.

use std::process::Command;

use meridian_tests::{Answer, Backend, Body, Client, Meridian, Response, Site, one_region};

const HOST: &str = "a.example";
const HSTS: &str = "strict-transport-security";

/// A plain listener with these lines.
fn plain(backend: &Backend, lines: &str) -> Meridian {
    Meridian::start(&format!(
        "{}[[listeners]]\nname = \"public\"\nprotocols = [\"http1\", \"h2c\"]\n{lines}\n",
        one_region(backend)
    ))
}

fn moved(answer: &Response) -> (u16, Option<&str>) {
    (answer.status, answer.fields.get("location"))
}

#[test]
fn requests_in_the_clear_are_told_where_https_is() {
    let backend = Backend::start("here");
    let edge = plain(&backend, "redirect_https = {}");
    let mut client = edge.client();
    for (host, target, location) in [
        ("a.example", "/", "https://a.example/"),
        ("a.example:8080", "/a%20b?c=d&e", "https://a.example/a%20b?c=d&e"),
        ("[2001:db8::1]:80", "/x", "https://[2001:db8::1]/x"),
        ("A.Example", "//evil.example/", "https://A.Example//evil.example/"),
        (
            "a.example",
            "/.well-known/acme-challenges",
            "https://a.example/.well-known/acme-challenges",
        ),
        ("a.example", "http://a.example/absolute", "https://a.example/absolute"),
    ] {
        // On one connection: it goes on.
        let answer = client.request("GET", target, &[("Host", host)], b"");
        assert_eq!(moved(&answer), (308, Some(location)));
    }
    let post = client.request("POST", "/form", &[("Host", HOST)], b"");
    assert_eq!(moved(&post), (308, Some("https://a.example/form")));
    let head = edge.client().try_request("HEAD", "/", &[("Host", HOST)], b"").expect("an answer");
    assert_eq!((moved(&head), head.body.len()), ((308, Some("https://a.example/")), 0));
    let body = edge.client().request("POST", "/b", &[("Host", HOST)], &[b'x'; 9000]);
    assert_eq!(moved(&body), (308, Some("https://a.example/b")));
    let offer = [("Host", HOST), ("Connection", "Upgrade"), ("Upgrade", "websocket")];
    let offer = edge.client().request("GET", "/socket", &offer, b"");
    assert_eq!(moved(&offer), (308, Some("https://a.example/socket")));
    assert!(backend.requests().is_empty());
    let line = edge.logged(|line| line["target"] == "/form");
    assert_eq!((line["status"].as_u64(), line["reason"].as_str()), (Some(308), Some("https")));
    let refused = edge.admin().metric_sum("meridian_refusals_total", &["filter=\"https\""]);
    assert!(refused >= 9.0, "{refused}");
}

#[test]
fn without_a_host_nobody_knows_where() {
    let backend = Backend::start("here");
    let edge = plain(&backend, "redirect_https = {}");
    let mut client = edge.client();
    let answer = client.send("GET / HTTP/1.0\r\n\r\n").response();
    assert_eq!(moved(&answer), (400, None));
    for bad in [
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
    ] {
        assert_eq!(moved(&edge.client().send(bad).response()), (400, None), "{bad}");
    }
    assert!(backend.requests().is_empty());
}

#[test]
fn what_is_spared_is_served_and_nothing_else() {
    let backend = Backend::start("here");
    let edge = plain(
        &backend,
        "redirect_https = { port = 8443, status = 301, except = [\"/health\"] }\n\
         trusted_proxies = [\"127.0.0.2/32\"]",
    );
    for (path, status) in [
        ("/.well-known/acme-challenge/token", 200),
        ("/.well-known/acme-challenge", 200),
        ("/health", 200),
        ("/health/db?x", 200),
        ("/healthy", 301),
        ("/x/health", 301),
        ("/HEALTH", 301),
        ("/", 301),
    ] {
        let answer = edge.get(path);
        assert_eq!(answer.status, status, "{path}");
        let expected = format!("https://test.example:8443{path}");
        assert_eq!(answer.fields.get("location"), (status == 301).then_some(&*expected));
    }
    // Who is not trusted cannot say that it came by https.
    let forged = edge.client().request("GET", "/", &[("X-Forwarded-Proto", "https")], b"");
    assert_eq!(forged.status, 301);
    let trusting = plain(&backend, "redirect_https = {}\ntrusted_proxies = [\"127.0.0.0/8\"]");
    for (proto, status) in [("https", 200), ("http", 308)] {
        let answer = trusting.client().request("GET", "/", &[("X-Forwarded-Proto", proto)], b"");
        assert_eq!(answer.status, status);
    }
}

#[test]
fn http2_is_sent_there_as_well() {
    let backend = Backend::start("here");
    let edge = plain(&backend, "redirect_https = {}");
    let out = Command::new("curl")
        .args(["--silent", "--max-time", "20", "--http2-prior-knowledge", "--output", "/dev/null"])
        .args(["--write-out", "%{http_version} %{http_code} %{redirect_url}"])
        .args(["--header", "Host: a.example"])
        .arg(format!("http://{}/x?y", edge.address()))
        .output()
        .expect("curl");
    assert_eq!(String::from_utf8_lossy(&out.stdout), "2 308 https://a.example/x?y");
    assert!(backend.requests().is_empty());
}

#[test]
fn answers_over_tls_say_that_it_stays_so_once() {
    let site = Site::new(&[("a", &[HOST])]);
    let said = || {
        Answer::new(200, Body::Whole(b"x".to_vec()))
            .header("Strict-Transport-Security", "max-age=1")
    };
    let backend = Backend::answering("here", move |request| match request.target.as_str() {
        "/says" | "/own/says" | "/edited/says" | "/kept/says" => said(),
        _ => Answer::ok("x"),
    });
    let route = |name: &str, lines: &str| {
        format!(
            "[[routes]]\nname = \"{name}\"\nservice = \"api\"\npath_prefix = \"/{name}\"\n{lines}\n"
        )
    };
    let text = one_region(&backend)
        + &route("own", "hsts = { max_age = \"0s\" }")
        + &route("edited", "response_headers.set = { strict-transport-security = \"max-age=7\" }")
        + &route("kept", "response_headers.remove = [\"strict-transport-security\"]")
        + "[[listeners]]\nname = \"plain\"\n"
        + &site.listener(&["a"], "hsts = { max_age = \"17520h\", include_subdomains = true }");
    let edge = Meridian::start(&text);
    let ours = "max-age=63072000; includeSubDomains";
    let mut client = site.client(edge.listener("tls"), HOST);
    for (path, expected) in [
        ("/", &[ours][..]),
        ("/says", &[ours]),
        ("/own/x", &["max-age=0"]),
        ("/own/says", &["max-age=0"]),
        ("/edited/x", &["max-age=7"]),
        ("/edited/says", &["max-age=7"]),
        ("/kept/x", &[]),
        ("/kept/says", &[]),
    ] {
        let answer = client.get(path);
        assert_eq!(answer.fields.all(HSTS), expected, "{path}");
        // Offers of tunnels, which the endpoint does not take.
        let offer = [("Connection", "Upgrade"), ("Upgrade", "websocket")];
        let mut other = site.client(edge.listener("tls"), HOST);
        let answer = other.request("GET", path, &offer, b"");
        assert_eq!(answer.fields.all(HSTS), expected, "upgrade {path}");
    }
    for (path, expected) in [("/", &[][..]), ("/own/x", &[]), ("/says", &["max-age=1"])] {
        let mut plain = Client::connect(edge.listener("plain"));
        assert_eq!(plain.get(path).fields.all(HSTS), expected, "in the clear: {path}");
    }
    let address = edge.listener("tls");
    let out = Command::new("curl")
        .args(["--silent", "--max-time", "20", "--http2", "--include", "--cacert"])
        .arg(site.root())
        .arg("--resolve")
        .arg(format!("{HOST}:{}:{}", address.port(), address.ip()))
        .arg(format!("https://{HOST}:{}/says", address.port()))
        .output()
        .expect("curl");
    let text = String::from_utf8_lossy(&out.stdout);
    assert_eq!(text.matches(HSTS).count(), 1, "{text}");
    assert!(text.contains(ours) && text.starts_with("HTTP/2 200"), "{text}");
}
