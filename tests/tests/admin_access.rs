//! Who may ask the admin endpoint what, and how it takes nonsense.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::time::Duration;

use meridian_tests::{Backend, Client, Meridian, Response, exchange, one_region, run};
use serde_json::json;

const DRAIN: &str = "/api/v1/regions/us-east-1/drain";

fn ask(edge: &Meridian, method: &str, path: &str, fields: &[(&str, &str)], body: &str) -> Response {
    let mut client = Client::connect(edge.admin().address());
    client.request(method, path, fields, body.as_bytes())
}

fn error_code(answer: &Response) -> String {
    let body = answer.json();
    assert!(body["error"]["message"].as_str().is_some_and(|m| !m.is_empty()), "{body}");
    body["error"]["code"].as_str().expect("a code").to_owned()
}

#[test]
fn tokens_have_roles() {
    let backend = Backend::start("us-east-1");
    let dir = tempfile::tempdir().expect("a directory");
    let mut tokens = String::new();
    for role in ["read", "operator", "admin"] {
        let file = dir.path().join(role);
        fs::write(&file, format!("secret-of-{role}-0123456789\n")).expect("writes");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("own file");
        tokens.push_str(&format!("{{ role = \"{role}\", token_file = \"{}\" }},", file.display()));
    }
    let text = format!("[admin]\ntokens = [{tokens}]\n{}", one_region(&backend));
    let edge = Meridian::start(&text);
    let as_role = |role: &str| edge.admin().token(&format!("secret-of-{role}-0123456789"));
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(edge.admin().get(path).status, 200, "{path} is for machines without a token");
    }
    for path in ["/version", "/api/v1/status", "/api/v1/config", "/api/v1/nonsense"] {
        let answer = edge.admin().get(path);
        assert_eq!((answer.status, &*error_code(&answer)), (401, "unauthorized"), "{path}");
        assert!(answer.header("WWW-Authenticate").is_some_and(|v| v.starts_with("Bearer")));
        assert_eq!(edge.admin().token("guess").get(path).status, 401, "{path}");
    }
    assert_eq!(as_role("read").get("/api/v1/status").status, 200);
    assert_eq!(as_role("read").post("/api/v1/explain", &json!({})).status, 200);
    for (role, status) in [("read", 403), ("operator", 200), ("admin", 200)] {
        assert_eq!(as_role(role).put(DRAIN, &json!({})).status, status, "{role}");
        assert_eq!(as_role(role).delete(DRAIN).status, status, "{role}");
        assert_eq!(as_role(role).post("/api/v1/reload", &json!({})).status, status, "{role}");
    }
    // The configuration is shown without what it keeps secret.
    let shown = as_role("admin").get("/api/v1/config").text();
    assert!(!shown.contains("secret-of-"), "{shown}");
    assert!(!edge.stderr().contains("secret-of-"), "{}", edge.stderr());
    // The command line shows a token from a file.
    let admin = edge.admin().address().to_string();
    let status = |args: &[&str]| run(&[&["status", "--admin", &admin], args].concat(), dir.path());
    assert_eq!(status(&[]).status.code(), Some(1));
    assert_eq!(status(&["--token-file", "read"]).status.code(), Some(0));
    assert_eq!(status(&["--token-file", "missing"]).status.code(), Some(1));
}

#[test]
fn web_pages_of_others_are_kept_away() {
    let backend = Backend::start("us-east-1");
    let edge = Meridian::start(&one_region(&backend));
    let host = edge.admin().address().to_string();
    for foreign in ["evil.example", "evil.example:9901", "127.0.0.1.evil.example", "a.localhost"] {
        for path in ["/api/v1/status", "/metrics", "/api/v1/config"] {
            let answer = ask(&edge, "GET", path, &[("Host", foreign)], "");
            assert_eq!(answer.status, 403, "{foreign} {path}");
        }
    }
    assert_eq!(ask(&edge, "GET", "/api/v1/status", &[("Host", "localhost:1")], "").status, 200);
    for origin in ["http://evil.example", "null", "https://evil.example"] {
        let fields = [("Host", &*host), ("Origin", origin)];
        for (method, path) in [("PUT", DRAIN), ("DELETE", DRAIN), ("POST", "/api/v1/reload")] {
            let answer = ask(&edge, method, path, &fields, "");
            assert_eq!((answer.status, &*error_code(&answer)), (403, "forbidden"), "{origin}");
        }
    }
    let own = format!("http://{host}");
    assert_eq!(ask(&edge, "PUT", DRAIN, &[("Host", &host), ("Origin", &own)], "").status, 200);
    assert_eq!(edge.admin().json("/api/v1/overrides").as_array().map(Vec::len), Some(1));
}

#[test]
fn nonsense_is_refused_in_words() {
    let backend = Backend::start("us-east-1");
    let edge = Meridian::start(&one_region(&backend));
    let host = edge.admin().address().to_string();
    let ask =
        |method: &str, path: &str, body: &str| ask(&edge, method, path, &[("Host", &host)], body);
    let weight = "/api/v1/regions/us-east-1/weight";
    for (method, path, body, status, code) in [
        ("PUT", DRAIN, "{bad", 400, "bad_request"),
        ("PUT", DRAIN, "[]", 400, "bad_request"),
        ("PUT", DRAIN, "{\"drian\": true}", 400, "bad_request"),
        ("PUT", DRAIN, "{\"ttl\": \"soon\"}", 400, "bad_request"),
        ("PUT", DRAIN, "{\"ttl\": 0}", 400, "bad_request"),
        ("PUT", DRAIN, "{\"reason\": \"a\\nb\"}", 400, "bad_request"),
        ("PUT", weight, "", 400, "bad_request"),
        ("PUT", weight, "{}", 400, "bad_request"),
        ("PUT", weight, "{\"weight\": -1}", 400, "bad_request"),
        ("PUT", weight, "{\"weight\": 65536}", 400, "bad_request"),
        ("PUT", weight, "{\"weight\": \"5\"}", 400, "bad_request"),
        ("PUT", "/api/v1/regions/mars/drain", "{}", 404, "not_found"),
        ("DELETE", "/api/v1/regions/mars/drain", "", 404, "not_found"),
        ("PUT", "/api/v1/endpoints/api/127.0.0.1:1/drain", "{}", 404, "not_found"),
        ("PUT", "/api/v1/endpoints/nope/127.0.0.1:1/drain", "{}", 404, "not_found"),
        ("GET", "/api/v1/nonsense", "", 404, "not_found"),
        ("GET", "/", "", 404, "not_found"),
        ("POST", DRAIN, "{}", 405, "method_not_allowed"),
        ("GET", "/api/v1/reload", "", 405, "method_not_allowed"),
        ("POST", "/api/v1/explain", "{\"client\": \"nobody\"}", 400, "bad_request"),
        ("POST", "/api/v1/explain", "{\"path\": \"no-slash\"}", 400, "bad_request"),
        ("POST", "/api/v1/failover", "{}", 404, "not_found"),
        ("POST", "/api/v1/services/nope/failover", "{}", 404, "not_found"),
        ("POST", "/api/v1/services/api/failover", "{\"to\": 5}", 400, "bad_request"),
        ("GET", "/api/v1/services/api/failover", "", 405, "method_not_allowed"),
    ] {
        let answer = ask(method, path, body);
        assert_eq!(
            (answer.status, &*error_code(&answer)),
            (status, code),
            "{method} {path} {body}"
        );
        assert_eq!(answer.header("Allow").is_some(), status == 405);
        assert_eq!(answer.header("Content-Type"), Some("application/json"));
    }
    let large = format!("{{\"reason\": \"{}\"}}", "x".repeat(70 << 10));
    let answer = ask("PUT", DRAIN, &large);
    assert_eq!((answer.status, &*error_code(&answer)), (413, "body_too_large"));
    let chunked = format!(
        "PUT {DRAIN} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{large}\r\n",
        large.len()
    );
    let came = exchange(edge.admin().address(), chunked.as_bytes(), Duration::from_secs(2));
    let first = String::from_utf8_lossy(&came.answer).lines().next().unwrap_or_default().to_owned();
    assert!(first.contains(" 413 "), "{first:?}");
    assert_eq!(edge.admin().json("/api/v1/overrides"), json!([]), "none of it did anything");
    assert_eq!(ask("GET", "/livez", "").status, 200);
}

#[test]
fn the_endpoint_may_be_a_unix_socket() {
    let backend = Backend::start("us-east-1");
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("admin.sock");
    // The harness asks over TCP, so this edge is started by hand.
    let address = meridian_tests::free_address();
    let text = format!(
        "[edge]\nstate_dir = \"state\"\n[access_log]\noutput = \"off\"\n\
         [shutdown]\nlame_duck = \"0s\"\n[admin]\naddress = \"unix:{}\"\n\
         [[listeners]]\nname = \"public\"\naddress = \"{address}\"\n{}",
        socket.display(),
        one_region(&backend)
    );
    fs::write(dir.path().join("meridian.toml"), text).expect("writes");
    let mut edge = meridian_tests::Process::start(&["run", "-c", "meridian.toml"], dir.path());
    let admin = format!("unix:{}", socket.display());
    let status = || run(&["status", "--quiet", "--admin", &admin], dir.path());
    meridian_tests::eventually("it is ready", Duration::from_secs(20), || {
        status().status.success()
    });
    let metadata = fs::metadata(&socket).expect("a socket");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    let drained = run(&["drain", "us-east-1", "--admin", &admin, "-o", "json"], dir.path());
    assert!(drained.status.success(), "{drained:?}");
    assert!(edge.stderr().contains("@unix:"), "the audit trail names the user: {}", edge.stderr());
    edge.signal(meridian_tests::Signal::TERM);
    assert!(edge.wait(Duration::from_secs(20)).success());
    assert!(!socket.exists(), "it takes its socket away");
}
