//! What caches and those who ask them see: tags, `Vary`, HEAD, and the same from nginx.

use std::fs;
use std::process::{Child, Command, Stdio};

use meridian_tests::{Answer, Backend, Client, Meridian, free_address, one_region, poll};

use crate::{PATIENCE, ask, decoded, edge, html, page, text};

#[test]
fn head_204_and_304_carry_no_body_and_head_says_what_get_would() {
    let backend = Backend::answering("here", |request| match &*request.target {
        "/204" => Answer::status(204).header("Content-Type", "text/html"),
        "/empty" => html(""),
        _ => html(page(5_000)).header("ETag", "\"v1\"").header("Accept-Ranges", "bytes"),
    });
    let edge = edge(&backend, "");
    let mut client = edge.client();
    let get = ask(&mut client, "GET", "/", "br");
    let head = ask(&mut client, "HEAD", "/", "br");
    assert!(head.body.is_empty());
    for name in
        ["content-encoding", "etag", "vary", "content-type", "content-length", "accept-ranges"]
    {
        assert_eq!(head.header(name), get.header(name), "{name}");
    }
    assert_eq!(head.header("etag"), Some("W/\"v1\""));
    let plain = ask(&mut client, "HEAD", "/", "");
    assert_eq!(
        (plain.header("content-length"), plain.header("etag")),
        (Some("5000"), Some("\"v1\""))
    );
    assert_eq!(ask(&mut client, "GET", "/204", "br").header("vary"), None);
    let empty = ask(&mut client, "GET", "/empty", "br");
    assert_eq!(
        (empty.header("content-length"), empty.header("content-encoding")),
        (Some("0"), None)
    );
    assert_eq!(client.get("/").status, 200, "the connection goes on");
}

/// An endpoint that has one page with a strong tag, and compares as RFC 9110 section 13.1.2 says.
fn tagged() -> Backend {
    Backend::answering("here", |request| {
        let asked = request.header("if-none-match").unwrap_or_default();
        let known = asked.split(',').map(|tag| tag.trim().trim_start_matches("W/"));
        let answer = if known.clone().any(|tag| tag == "\"v1\"" || tag == "*") {
            Answer::status(304)
        } else {
            html(page(5_000))
        };
        answer.header("ETag", "\"v1\"").header("Cache-Control", "max-age=0")
    })
}

#[test]
fn a_cache_revalidates_what_it_has_in_each_coding() {
    let backend = tagged();
    let edge = edge(&backend, "");
    let mut client = edge.client();
    for accepts in ["zstd", "br", "gzip", "identity"] {
        let first = ask(&mut client, "GET", "/", accepts);
        let tag = first.header("etag").expect("a tag").to_owned();
        assert_eq!(tag.starts_with("W/"), accepts != "identity", "{accepts}");
        let fields = [("Accept-Encoding", accepts), ("If-None-Match", &*tag)];
        let again = client.request("GET", "/", &fields, b"");
        assert_eq!((again.status, again.body.len()), (304, 0), "{accepts}");
        // A cache finds what it has by the tag (RFC 9111 section 4.3.4), and under which request.
        assert_eq!(again.header("etag"), Some(&*tag), "{accepts}");
        assert_eq!(again.header("vary"), Some("accept-encoding"));
        assert_eq!(again.header("content-encoding"), None);
    }
    let changed = [("Accept-Encoding", "gzip"), ("If-None-Match", "W/\"v0\"")];
    assert_eq!(client.request("GET", "/", &changed, b"").status, 200);
}

#[test]
fn curl_as_a_cache_is_told_that_nothing_has_changed() {
    let backend = tagged();
    let edge = edge(&backend, "");
    let dir = tempfile::tempdir().expect("a directory");
    let run = || {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "20", "--compressed", "--write-out", "%{http_code}"]);
        curl.arg("--etag-compare").arg(dir.path().join("tag"));
        curl.arg("--etag-save").arg(dir.path().join("tag"));
        curl.arg("--output").arg(dir.path().join("page"));
        let out = curl.arg(format!("http://{}/", edge.address())).output().expect("curl");
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    assert_eq!(run(), "200");
    let tag = fs::read_to_string(dir.path().join("tag")).expect("a tag");
    assert_eq!(tag.trim(), "W/\"v1\"");
    assert_eq!(run(), "304");
    assert_eq!(fs::read(dir.path().join("page")).expect("a page"), page(5_000));
}

#[test]
fn vary_and_the_route_s_own_fields_are_merged() {
    let backend = Backend::answering("here", |_| {
        html(page(5_000)).header("Vary", "Origin").header("Vary", "Cookie")
    });
    let edge = Meridian::start(&format!(
        "{}response_headers = {{ set = {{ x-a = \"1\" }}, remove = [\"server\"] }}\n\
         [routes.compress]\n",
        one_region(&backend)
    ));
    for accepts in ["gzip", ""] {
        let answer = ask(&mut edge.client(), "GET", "/", accepts);
        assert_eq!(answer.fields.all("vary"), ["Origin, Cookie, accept-encoding"]);
        assert_eq!(answer.header("x-a"), Some("1"));
    }
    let set = text(&backend, "").replace(
        "[routes.compress]",
        "response_headers = { set = { vary = \"X-Tenant\" } }\n[routes.compress]",
    );
    assert_eq!(edge.reload(&set).status, 200);
    let answer = ask(&mut edge.client(), "GET", "/", "gzip");
    assert_eq!(answer.fields.all("vary"), ["X-Tenant, accept-encoding"]);
}

/// nginx in front of the same endpoint; it ends with this value.
struct Nginx {
    child: Child,
    address: std::net::SocketAddr,
    _dir: tempfile::TempDir,
}

impl Nginx {
    fn start(backend: &Backend) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (address, path) = (free_address(), dir.path().display());
        let text = format!(
            "daemon off;\nmaster_process off;\npid {path}/pid;\nerror_log {path}/error;\n\
             events {{ }}\nhttp {{\n access_log off;\n client_body_temp_path {path}/a;\n\
             proxy_temp_path {path}/b;\n fastcgi_temp_path {path}/c;\n uwsgi_temp_path {path}/d;\n\
             scgi_temp_path {path}/e;\n gzip on;\n gzip_proxied any;\n gzip_vary on;\n\
             gzip_min_length 1024;\n gzip_types text/css application/json;\n\
             server {{ listen {address}; location / {{ proxy_pass http://{}; \
             proxy_http_version 1.1; }} }}\n}}\n",
            backend.address()
        );
        fs::write(dir.path().join("nginx.conf"), text).expect("a file");
        let mut nginx = Command::new("nginx");
        nginx.arg("-c").arg(dir.path().join("nginx.conf")).arg("-p").arg(dir.path());
        let child = nginx.stderr(Stdio::null()).spawn().expect("nginx");
        let started = Self { child, address, _dir: dir };
        assert!(
            poll(PATIENCE, || Client::try_connect(address).ok()).is_some(),
            "nginx is not there"
        );
        started
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // One that has ended is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn gzip_is_given_where_nginx_gives_it_with_the_same_fields() {
    let backend = Backend::answering("here", |request| match &*request.target {
        "/small" => html(page(500)),
        "/encoded" => html(page(5_000)).header("Content-Encoding", "br"),
        "/image" => Answer::ok(page(5_000)).header("Content-Type", "image/png"),
        "/json" => Answer::ok(page(5_000)).header("Content-Type", "application/json"),
        "/weak" => html(page(5_000)).header("ETag", "W/\"w\""),
        _ => html(page(5_000)).header("ETag", "\"v1\"").header("Accept-Ranges", "bytes"),
    });
    let edge = edge(&backend, "algorithms = [\"gzip\"]");
    let nginx = Nginx::start(&backend);
    let (mut ours, mut theirs) = (edge.client(), Client::connect(nginx.address));
    for (path, accepts) in [
        ("/", "gzip"),
        ("/", "br, gzip;q=0.5"),
        ("/", "gzip;q=0"),
        ("/", "identity"),
        ("/small", "gzip"),
        ("/encoded", "gzip"),
        ("/image", "gzip"),
        ("/json", "gzip"),
        ("/weak", "gzip"),
    ] {
        let (one, two) =
            (ask(&mut ours, "GET", path, accepts), ask(&mut theirs, "GET", path, accepts));
        for name in ["content-encoding", "content-type", "content-length", "etag", "accept-ranges"]
        {
            assert_eq!(one.header(name), two.header(name), "{name} of {path} for {accepts}");
        }
        if one.header("content-encoding") == Some("gzip") {
            assert_eq!(decoded("gzip", &one.body), decoded("gzip", &two.body), "{path}");
        } else {
            assert!(one.body == two.body, "{path}");
        }
    }
}
