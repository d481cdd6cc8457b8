//! Session tickets with keys from files: edges that share them go on with one another's sessions.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use meridian_tests::{Answer, Backend, Meridian, Site, eventually, one_region, poll};

const PATIENCE: Duration = Duration::from_secs(15);
const HOST: &str = "a.example";
const EACH: [&str; 2] = ["-tls1_2", "-tls1_3"];

struct Stage {
    site: Site,
    backend: Backend,
}

fn stage() -> Stage {
    let backend = Backend::answering("here", |request| Answer::ok(request.target.clone()));
    Stage { site: Site::new(&[("a", &[HOST])]), backend }
}

/// A key of 80 bytes.
fn key(n: u8) -> Vec<u8> {
    (0..80).map(|i: u8| n.wrapping_mul(17).wrapping_add(i ^ 0x80)).collect()
}

impl Stage {
    fn put(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.site.dir().join(name);
        let next = self.site.dir().join(format!(".{name}.next"));
        fs::write(&next, content).expect("a writable directory");
        fs::rename(&next, &path).expect("a writable directory");
        path
    }

    fn text(&self, keys: &[&str]) -> String {
        let keys: Vec<_> = keys.iter().map(|name| self.site.dir().join(name)).collect();
        let lines = format!("tls.session_ticket_keys = {keys:?}");
        one_region(&self.backend) + &self.site.listener(&["a"], &lines)
    }

    fn edge(&self, keys: &[&str]) -> Meridian {
        Meridian::start(&self.text(keys))
    }

    /// What openssl says of a handshake; `way` is `-sess_out` or `-sess_in`.
    fn shake(&self, edge: &Meridian, version: &str, way: &str, ticket: &Path) -> String {
        let mut command = Command::new("timeout");
        command.args(["20", "openssl", "s_client", "-connect", &edge.address().to_string()]);
        command.args(["-servername", HOST, "-ign_eof", version, "-CAfile"]);
        command.arg(self.site.root()).arg(way).arg(ticket);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("openssl");
        let request = b"GET /s HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
        child.stdin.take().expect("a pipe").write_all(request).expect("a reader");
        let out = child.wait_with_output().expect("an end");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(text.contains("HTTP/1.1 200 "), "{text}");
        text
    }

    fn ticket_of(&self, edge: &Meridian, version: &str) -> PathBuf {
        let number = fs::read_dir(edge.dir()).expect("a directory").count();
        let ticket = edge.dir().join(format!("ticket-{number}"));
        let said = self.shake(edge, version, "-sess_out", &ticket);
        assert!(said.contains("New, "), "{said}");
        ticket
    }

    fn resumes(&self, edge: &Meridian, version: &str, ticket: &Path) -> bool {
        let said = self.shake(edge, version, "-sess_in", ticket);
        assert!(said.contains("Reused, ") != said.contains("New, "), "{said}");
        said.contains("Reused, ")
    }
}

#[test]
fn edges_that_share_keys_resume_one_another_s_sessions() {
    let stage = stage();
    stage.put("one", key(1));
    let hex = |key: &[u8]| key.iter().map(|byte| format!("{byte:02X}")).collect::<String>();
    stage.put("one.hex", format!("{}\n{}\n", hex(&key(2)), hex(&key(1))));
    stage.put("other", key(3));
    let (first, second) = (stage.edge(&["one"]), stage.edge(&["one.hex"]));
    let (stranger, alone) = (stage.edge(&["other"]), stage.edge(&[]));
    for version in EACH {
        let ticket = stage.ticket_of(&first, version);
        assert!(stage.resumes(&first, version, &ticket));
        assert!(stage.resumes(&second, version, &ticket), "its second key, in digits");
        assert!(!stage.resumes(&stranger, version, &ticket));
        assert!(!stage.resumes(&alone, version, &ticket));
        // The other way round the first edge lacks the key.
        let ticket = stage.ticket_of(&second, version);
        assert!(!stage.resumes(&first, version, &ticket));
        assert!(stage.resumes(&second, version, &ticket));
    }
    let name = "meridian_tls_handshakes_total{listener=\"tls\",result=\"resumed\"}";
    assert_eq!(second.admin().metric(name), Some(4.0));
}

#[test]
fn keys_rotate_while_the_edge_runs() {
    let stage = stage();
    stage.put("keys", key(1));
    let edge = stage.edge(&["keys"]);
    let version = "-tls1_3";
    let old = stage.ticket_of(&edge, version);
    let takes_over = |keys: &[u8], file: &str| {
        stage.put(file, keys);
        let reload = edge.admin().post("/api/v1/reload", &serde_json::json!({}));
        assert_eq!(reload.status, 200, "{}", reload.text());
    };
    takes_over(&[key(2), key(1)].concat(), "keys");
    assert!(stage.resumes(&edge, version, &old));
    let new = stage.ticket_of(&edge, version);
    takes_over(&key(2), "keys");
    assert!(!stage.resumes(&edge, version, &old), "its key has gone");
    assert!(stage.resumes(&edge, version, &new));
    // Also by itself, when the file changes.
    stage.put("keys", key(4));
    let gone = poll(PATIENCE, || (!stage.resumes(&edge, version, &new)).then_some(()));
    assert!(gone.is_some(), "the new keys are not taken over");
    // What cannot be used changes nothing.
    let fourth = stage.ticket_of(&edge, version);
    let failures = || {
        let name = "meridian_certificate_reload_failures_total";
        edge.admin().metric(name).unwrap_or_default()
    };
    for bad in [&key(5)[..79], b"", b"00", &[key(5), key(5)].concat()] {
        let before = failures();
        stage.put("keys", bad);
        eventually("it is refused", PATIENCE, || failures() > before);
        assert!(stage.resumes(&edge, version, &fourth));
    }
    // Without files again: own keys.
    fs::write(edge.config_path(), edge.filled_in(&stage.text(&[]))).expect("writes");
    let reload = edge.admin().post("/api/v1/reload", &serde_json::json!({}));
    assert_eq!(reload.status, 200, "{}", reload.text());
    assert!(!stage.resumes(&edge, version, &fourth));
    let own = stage.ticket_of(&edge, version);
    assert!(stage.resumes(&edge, version, &own));
}

#[test]
fn bad_keys_are_told_and_never_shown() {
    let stage = stage();
    let secret: String = key(9).iter().map(|byte| format!("{byte:02x}")).collect();
    stage.put("short", &secret[..158]);
    stage.put("twice", format!("{secret}\n{secret}\n"));
    for (file, message) in [
        ("short", "holds 158 bytes"),
        ("twice", "two keys of the same name"),
        ("missing", "cannot be read"),
    ] {
        let mut edge = Meridian::launch(&stage.text(&[file]), &[]);
        assert_eq!(edge.wait_exit().code(), Some(1));
        let said = edge.stderr();
        let place = "listeners[0].tls.session_ticket_keys[0]";
        assert!(said.contains(place) && said.contains(message), "{said}");
        assert!(!said.contains(&secret[..16]), "{said}");
    }
    stage.put("good", &secret);
    let edge = stage.edge(&["good"]);
    stage.ticket_of(&edge, "-tls1_3");
    for text in [edge.stderr(), edge.admin().get("/api/v1/config").text()] {
        assert!(!text.contains(&secret[..16]), "{text}");
    }
}
