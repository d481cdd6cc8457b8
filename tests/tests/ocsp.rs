//! What an authority says of a certificate (OCSP), shown in handshakes from a file.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use meridian_tests::{Backend, Meridian, Site, one_region, poll};

const PATIENCE: Duration = Duration::from_secs(15);
const HOST: &str = "a.example";

struct Stage {
    site: Site,
    backend: Backend,
}

/// A certificate "a" with its issuer behind it, and another one, "b".
fn stage() -> Stage {
    let site = Site::new(&[("a", &[HOST]), ("b", &["b.example"])]);
    let root = fs::read_to_string(site.root()).expect("a root");
    let own = fs::read_to_string(site.dir().join("a.pem")).expect("a certificate");
    site.put_file("a.pem", &format!("{own}{root}"));
    Stage { site, backend: Backend::start("here") }
}

impl Stage {
    fn file(&self, name: &str) -> PathBuf {
        self.site.dir().join(name)
    }

    fn openssl(&self, args: &[&str]) -> Vec<u8> {
        let out = Command::new("openssl").args(args).current_dir(self.site.dir()).output();
        let out = out.expect("openssl");
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    }

    /// What the authority says of a certificate, for a week: `V`, valid, or `R`, revoked.
    fn response(&self, of: &str, status: char) -> Vec<u8> {
        self.response_at("+0s", &["-ndays", "7"], of, status)
    }

    /// The same, said at another time and for so long.
    fn response_at(&self, time: &str, long: &[&str], of: &str, status: char) -> Vec<u8> {
        let certificate = format!("{of}.pem");
        let serial = self.openssl(&["x509", "-in", &certificate, "-noout", "-serial"]);
        let serial = String::from_utf8_lossy(&serial).trim().replace("serial=", "");
        let revoked = if status == 'R' { "250101000000Z" } else { "" };
        let line = format!("{status}\t400101000000Z\t{revoked}\t{serial}\tunknown\t/CN={of}\n");
        fs::write(self.file("index"), line).expect("writes");
        self.openssl(&[
            "ocsp",
            "-issuer",
            "root.pem",
            "-cert",
            &certificate,
            "-no_nonce",
            "-reqout",
            "request",
        ]);
        let mut command = Command::new("faketime");
        command.args(["-f", time, "openssl"]).current_dir(self.site.dir());
        command.args([
            "ocsp",
            "-index",
            "index",
            "-CA",
            "root.pem",
            "-rsigner",
            "root.pem",
            "-rkey",
            "root.key",
            "-reqin",
            "request",
            "-respout",
            "response",
            "-noverify",
        ]);
        let out = command.args(long).output().expect("faketime");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        fs::read(self.file("response")).expect("a response")
    }

    fn put(&self, content: &[u8]) {
        fs::write(self.file(".next"), content).expect("writes");
        fs::rename(self.file(".next"), self.file("a.der")).expect("renames");
    }

    fn text(&self) -> String {
        let text = one_region(&self.backend) + &self.site.listener(&["a"], "");
        let key = format!("private_key = \"{}\"", self.file("a.key").display());
        text.replace(&key, &format!("{key}, ocsp = \"{}\"", self.file("a.der").display()))
    }

    /// What openssl is shown, and what it makes of it.
    fn shown(&self, edge: &Meridian, version: &str) -> String {
        let out = Command::new("timeout")
            .args(["20", "openssl", "s_client", "-status", "-connect", &edge.address().to_string()])
            .args(["-servername", HOST, version, "-CAfile"])
            .arg(self.site.root())
            .stdin(Stdio::null())
            .output()
            .expect("openssl");
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
}

fn is_good(said: &str) -> bool {
    said.contains("OCSP Response Status: successful") && said.contains("Cert Status: good")
}

fn is_bare(said: &str) -> bool {
    said.contains("OCSP response: no response sent") && said.contains("Verification: OK")
}

#[test]
fn handshakes_show_what_the_authority_says() {
    let stage = stage();
    stage.put(&stage.response("a", 'V'));
    let edge = Meridian::start(&stage.text());
    for version in ["-tls1_2", "-tls1_3"] {
        let said = stage.shown(&edge, version);
        assert!(is_good(&said), "{said}");
    }
    let name =
        "meridian_ocsp_response_expiry_timestamp_seconds{listener=\"tls\",name=\"a.example\"}";
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock").as_secs_f64();
    let left = edge.admin().metric(name).expect("a gauge") - now;
    assert!((left - 7.0 * 86400.0).abs() < 300.0, "{left}");
    // A newer one is shown without a restart.
    let before = stage.shown(&edge, "-tls1_3");
    std::thread::sleep(Duration::from_millis(1100));
    stage.put(&stage.response("a", 'V'));
    let produced =
        |said: &str| said.lines().find(|line| line.contains("Produced At")).map(str::to_owned);
    let changed = poll(PATIENCE, || {
        let said = stage.shown(&edge, "-tls1_3");
        (is_good(&said) && produced(&said) != produced(&before)).then_some(())
    });
    assert!(changed.is_some(), "the newer response is not shown");
}

#[test]
fn what_does_not_hold_is_not_shown_and_keeps_nobody_out() {
    let stage = stage();
    stage.put(&stage.response("b", 'V'));
    let edge = Meridian::start(&stage.text());
    assert!(is_bare(&stage.shown(&edge, "-tls1_3")));
    assert!(edge.stderr().contains("a.der: is not about this certificate: it is not shown"));
    stage.put(&stage.response("a", 'R'));
    let reload = || edge.admin().post("/api/v1/reload", &serde_json::json!({}));
    let said = reload().text();
    let warned = poll(PATIENCE, || {
        edge.stderr().contains("says that the certificate is revoked").then_some(())
    });
    assert!(warned.is_some(), "{said}");
    assert!(is_bare(&stage.shown(&edge, "-tls1_3")));
    stage.put(&stage.response("a", 'V'));
    let good = poll(PATIENCE, || is_good(&stage.shown(&edge, "-tls1_3")).then_some(()));
    assert!(good.is_some());
    // What is no response at all changes nothing: the last good one stays.
    for bad in [&b"nothing"[..], b"", &stage.response("a", 'V')[..100]] {
        stage.put(bad);
        assert_eq!(reload().status, 422);
        assert!(is_good(&stage.shown(&edge, "-tls1_3")));
    }
    fs::remove_file(stage.file("a.der")).expect("removes");
    assert_eq!(reload().status, 422);
    assert!(is_good(&stage.shown(&edge, "-tls1_3")));
    // A certificate that is renewed before its response: it is taken, and shown without one.
    let next = stage.site.issue(&[HOST]);
    stage.put(&stage.response("b", 'V'));
    stage.site.put("a", &next);
    let bare = poll(PATIENCE, || is_bare(&stage.shown(&edge, "-tls1_3")).then_some(()));
    assert!(bare.is_some(), "a renewal waits for a response");
}

#[test]
fn what_goes_out_of_date_is_left_out_from_then_on() {
    let stage = stage();
    // Good for a minute, of which some seconds are left.
    stage.put(&stage.response_at("-48s", &["-nmin", "1"], "a", 'V'));
    let edge = Meridian::start(&stage.text());
    let said = stage.shown(&edge, "-tls1_3");
    assert!(is_good(&said), "{said}");
    let bare = poll(2 * PATIENCE, || is_bare(&stage.shown(&edge, "-tls1_3")).then_some(()));
    assert!(bare.is_some(), "it is still shown");
    let warned = || edge.stderr().matches("its OCSP response is out of date").count();
    let once = poll(PATIENCE, || (warned() == 1).then_some(()));
    assert!(once.is_some() && is_bare(&stage.shown(&edge, "-tls1_2")) && warned() == 1);
    // One that was out of date before.
    stage.put(&stage.response_at("-8d", &["-ndays", "7"], "a", 'V'));
    let told = poll(PATIENCE, || {
        edge.stderr().contains("a.der: is out of date: it is not shown").then_some(())
    });
    assert!(told.is_some(), "{}", edge.stderr());
    assert!(is_bare(&stage.shown(&edge, "-tls1_3")));
}

#[test]
fn meridian_check_tells_of_both() {
    let stage = stage();
    let check = || {
        let text =
            stage.text().replacen("name = \"tls\"", "name = \"tls\"\naddress = \"127.0.0.1:1\"", 1);
        fs::write(stage.file("m.toml"), text).expect("writes");
        let out = Command::new(meridian_tests::program())
            .args(["check", "-c"])
            .arg(stage.file("m.toml"))
            .output();
        let out = out.expect("runs");
        let said = [out.stdout, out.stderr].concat();
        (out.status.code(), String::from_utf8_lossy(&said).into_owned())
    };
    stage.put(&stage.response("b", 'V'));
    let (code, said) = check();
    assert!(
        code == Some(0) && said.contains("certificates[0].ocsp") && said.contains("not about this"),
        "{said}"
    );
    stage.put(b"nothing");
    let (code, said) = check();
    assert!(code == Some(1) && said.contains("is not an OCSP response in DER"), "{said}");
}
