//! Revocation lists for the certificates of clients, made by openssl: who stays out, from when on, and what is said of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use meridian_tests::{Answer, Backend, Client, Meridian, Site, eventually, one_region, program};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);
const HOST: &str = "a.example";
const EACH: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// Authorities that openssl keeps, all in one directory.
struct Openssl(TempDir);

impl Openssl {
    /// With a root "root".
    fn new() -> Self {
        let own = Self(TempDir::new().expect("a directory"));
        own.root("root", "root");
        own
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn run(&self, args: &[&str]) {
        let out = Command::new("openssl").args(args).current_dir(self.0.path()).output();
        let out = out.expect("openssl");
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    }

    /// A new key, and what is asked for with it.
    fn request(&self, kind: &str, key: &str, out: &str, name: &str, more: &[&str]) {
        let subject = format!("/CN={name}");
        let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let all = ["req", kind, "-keyout", key, "-out", out, "-subj", &subject];
        self.run(&[&all[..], &curve, more].concat());
    }

    fn root(&self, file: &str, name: &str) {
        let (key, pem) = (format!("{file}.key"), format!("{file}.pem"));
        let more = ["-days", "30", "-addext", "keyUsage=critical,keyCertSign,cRLSign"];
        self.request("-x509", &key, &pem, name, &more);
        self.keep_books(file);
    }

    fn keep_books(&self, ca: &str) {
        fs::write(self.path(&format!("{ca}.index")), "").expect("writes");
        fs::write(self.path(&format!("{ca}.number")), "01\n").expect("writes");
        let config = format!(
            "[ca]\ndefault_ca = d\n[d]\ndatabase = {ca}.index\ncrlnumber = {ca}.number\n\
             default_md = sha256\ncertificate = {ca}.pem\nprivate_key = {ca}.key\n\
             default_crl_days = 30\nunique_subject = no\n"
        );
        fs::write(self.path(&format!("{ca}.cnf")), config).expect("writes");
    }

    /// A certificate by an authority; an authority itself, or a client's.
    fn issue(&self, by: &str, file: &str, authority: bool) {
        let (key, pem, request) =
            (format!("{file}.key"), format!("{file}.pem"), format!("{file}.csr"));
        self.request("-new", &key, &request, file, &[]);
        let kind = match authority {
            true => "basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign\n",
            false => "basicConstraints=CA:false\nextendedKeyUsage=clientAuth\n",
        };
        fs::write(self.path("kind"), kind).expect("writes");
        self.run(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            &format!("{by}.pem"),
            "-CAkey",
            &format!("{by}.key"),
            "-CAcreateserial",
            "-days",
            "30",
            "-out",
            &pem,
            "-extfile",
            "kind",
        ]);
        if authority {
            self.keep_books(file);
        }
    }

    fn revoke(&self, by: &str, file: &str) {
        self.run(&["ca", "-config", &format!("{by}.cnf"), "-revoke", &format!("{file}.pem")]);
    }

    /// The list of an authority, PEM; `args`: how long it holds.
    fn list(&self, by: &str, args: &[&str]) -> String {
        let config = format!("{by}.cnf");
        self.run(&[&["ca", "-config", &config, "-gencrl", "-out", "list"], args].concat());
        fs::read_to_string(self.path("list")).expect("a list")
    }

    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.path(file)).expect("a file")
    }

    /// Puts a file in place as a whole.
    fn put(&self, file: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path("next"), content).expect("writes");
        fs::rename(self.path("next"), self.path(file)).expect("renames");
    }
}

struct Stage {
    site: Site,
    backend: Backend,
    edge: Meridian,
}

fn listener(site: &Site, auth: &str, ca: &Path, lists: &[PathBuf]) -> String {
    let lists: Vec<_> = lists.iter().map(|list| format!("\"{}\"", list.display())).collect();
    site.listener(
        &["a"],
        &format!(
            "tls.client_auth = \"{auth}\"\ntls.client_ca = \"{}\"\ntls.client_crl = [{}]",
            ca.display(),
            lists.join(", ")
        ),
    )
}

fn stage(auth: &str, ca: &Path, lists: &[PathBuf]) -> Stage {
    let site = Site::new(&[("a", &[HOST])]);
    let backend = Backend::answering("here", |request| Answer::ok(request.target.clone()));
    let text = one_region(&backend) + &listener(&site, auth, ca, lists);
    let edge = Meridian::start(&text);
    Stage { site, backend, edge }
}

impl Stage {
    fn config(
        &self,
        own: &Openssl,
        version: &'static SupportedProtocolVersion,
        client: &str,
        others: &[&str],
    ) -> ClientConfig {
        let files = [&[client], others].concat();
        let chain = files.iter().map(|file| {
            CertificateDer::from_pem_slice(own.text(&format!("{file}.pem")).as_bytes())
        });
        let chain: Vec<_> = chain.collect::<Result<_, _>>().expect("PEM");
        let key = own.text(&format!("{client}.key"));
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
        let key = CertifiedKey::from_der(chain, key, &default_provider()).expect("a pair");
        let mut config = self.site.client_config(&[version]);
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(key));
        config.resumption = Resumption::in_memory_sessions(8);
        config
    }

    fn try_get(&self, config: impl Into<Arc<ClientConfig>>) -> io::Result<Option<HandshakeKind>> {
        let mut wire = self.site.wire(config, self.edge.listener("tls"), HOST);
        wire.handshake()?;
        let mut client = Client::on(wire).host(HOST);
        let answer = client.try_request("GET", "/", &[], b"");
        let answer = answer.map_err(|broken| io::Error::other(format!("{broken:?}")))?;
        assert_eq!(answer.status, 200);
        Ok(client.wire().session().handshake_kind())
    }

    #[track_caller]
    fn lets_in(&self, own: &Openssl, client: &str, others: &[&str], expected: bool) {
        for version in EACH {
            let seen = self.backend.requests().len();
            let result = self.try_get(self.config(own, version, client, others));
            assert_eq!(result.is_ok(), expected, "{client} {version:?}: {result:?}");
            assert_eq!(self.backend.requests().len(), seen + usize::from(expected));
        }
    }

    fn metric(&self, name: &str) -> f64 {
        self.edge.admin().metric(name).unwrap_or_default()
    }
}

#[test]
fn who_stands_in_a_list_is_not_let_in() {
    let own = Openssl::new();
    own.issue("root", "good", false);
    own.issue("root", "bad", false);
    own.revoke("root", "bad");
    own.put("root.crl", own.list("root", &[]));
    let lists = [own.path("root.crl")];
    for auth in ["required", "optional"] {
        let stage = stage(auth, &own.path("root.pem"), &lists);
        stage.lets_in(&own, "good", &[], true);
        stage.lets_in(&own, "bad", &[], false);
        eventually("it is counted", PATIENCE, || {
            stage.metric("meridian_tls_handshakes_total{listener=\"tls\",result=\"failed\"}") >= 2.0
        });
        // The list holds for 30 days.
        let until = stage.metric("meridian_client_crl_expiry_timestamp_seconds{listener=\"tls\"}");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let days = (until - now.expect("after 1970").as_secs_f64()) / 86_400.0;
        assert!((29.0..30.1).contains(&days), "{days}");
        // Without a certificate `optional` lets in as ever.
        let without = stage.try_get(stage.site.client_config(&[&TLS13]));
        assert_eq!(without.is_ok(), auth == "optional");
    }
}

#[test]
fn a_list_that_changes_counts_for_new_handshakes_and_for_sessions_that_go_on() {
    for version in EACH {
        let own = Openssl::new();
        own.issue("root", "client", false);
        own.put("root.crl", own.list("root", &[]));
        let stage = stage("required", &own.path("root.pem"), &[own.path("root.crl")]);
        let config = Arc::new(stage.config(&own, version, "client", &[]));
        let full = stage.try_get(config.clone()).expect("is let in");
        assert_eq!(full, Some(HandshakeKind::Full));
        let again = stage.try_get(config.clone()).expect("is let in");
        assert_eq!(again, Some(HandshakeKind::Resumed));
        own.revoke("root", "client");
        own.put("root.crl", own.list("root", &[]));
        let refused = || stage.try_get(stage.config(&own, version, "client", &[])).is_err();
        eventually("the new list is in force", PATIENCE, refused);
        let seen = stage.backend.requests().len();
        let unproven = "meridian_tls_handshakes_total{listener=\"tls\",result=\"unproven\"}";
        assert_eq!(stage.metric(unproven), 0.0);
        let late = stage.try_get(config);
        assert!(late.is_err(), "{version:?}: its session goes on: {late:?}");
        eventually("it was the session", PATIENCE, || stage.metric(unproven) >= 1.0);
        assert_eq!(stage.backend.requests().len(), seen);
        // A broken file changes nothing: the last good list stays.
        own.put("root.crl", "nothing");
        eventually("it is refused", PATIENCE, || {
            stage.metric("meridian_certificate_reload_failures_total") > 0.0
        });
        assert!(refused());
        let said = stage.edge.stderr();
        assert!(
            said.contains("client_crl[0]") && said.contains("holds no revocation list"),
            "{said}"
        );
    }
}

#[test]
fn a_list_that_is_out_of_date_lets_nobody_in() {
    let own = Openssl::new();
    own.issue("root", "client", false);
    let old = ["-crl_lastupdate", "20200101000000Z", "-crl_nextupdate", "20200201000000Z"];
    own.put("root.crl", own.list("root", &old));
    let stage = stage("required", &own.path("root.pem"), &[own.path("root.crl")]);
    stage.lets_in(&own, "client", &[], false);
    let mut check = Command::new(program());
    let out = check.args(["check", "-c"]).arg(stage.edge.config_path()).output().expect("a binary");
    let said = [out.stdout, out.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("the list of CN=root held until"), "{said}");
    // One that runs out while it is in force, without anybody touching it.
    own.put("root.crl", own.list("root", &["-crlsec", "8"]));
    let admitted = || stage.try_get(stage.config(&own, &TLS13, "client", &[])).is_ok();
    let config = Arc::new(stage.config(&own, &TLS13, "client", &[]));
    eventually("the new list is in force", PATIENCE, || stage.try_get(config.clone()).is_ok());
    eventually("it has run out", PATIENCE, || !admitted());
    // A session that goes on is no way around it.
    assert!(stage.try_get(config).is_err());
    own.put("root.crl", own.list("root", &[]));
    eventually("there is a new one", PATIENCE, admitted);
}

#[test]
fn each_authority_needs_a_list() {
    let own = Openssl::new();
    own.root("other", "other");
    own.issue("root", "inner", true);
    own.issue("root", "direct", false);
    own.issue("inner", "client", false);
    own.issue("inner", "gone", false);
    own.issue("other", "foreign", false);
    own.revoke("inner", "gone");
    own.put("roots.pem", own.text("root.pem") + &own.text("other.pem"));
    own.put("root.crl", own.list("root", &[]));
    let ca = own.path("roots.pem");
    // Only the root's: what another authority says of its own is not known.
    let stage_of = |lists: &[&str]| {
        let lists: Vec<_> = lists.iter().map(|list| own.path(list)).collect();
        stage("required", &ca, &lists)
    };
    let stage = stage_of(&["root.crl"]);
    stage.lets_in(&own, "direct", &[], true);
    stage.lets_in(&own, "client", &["inner"], false);
    stage.lets_in(&own, "foreign", &[], false);
    let said = stage.edge.stderr();
    assert!(said.contains("client_crl has no list of CN=other"), "{said}");
    drop(stage);
    // All of them, some in one file, one as DER.
    own.put("both.crl", own.list("root", &[]) + &own.list("inner", &[]));
    let pem = own.list("other", &[]);
    own.put("other.list", pem);
    own.run(&["crl", "-in", "other.list", "-outform", "der", "-out", "other.crl"]);
    let stage = stage_of(&["both.crl", "other.crl"]);
    for (client, others, expected) in [
        ("direct", &[][..], true),
        ("client", &["inner"], true),
        ("gone", &["inner"], false),
        ("foreign", &[], true),
    ] {
        stage.lets_in(&own, client, others, expected);
    }
    // An authority that was revoked takes all its clients with it.
    own.revoke("root", "inner");
    own.put("both.crl", own.list("root", &[]) + &own.list("inner", &[]));
    eventually("the new list is in force", PATIENCE, || {
        stage.try_get(stage.config(&own, &TLS13, "client", &["inner"])).is_err()
    });
    stage.lets_in(&own, "direct", &[], true);
}

#[test]
fn of_two_lists_of_an_authority_the_newer_counts_wherever_it_stands() {
    let own = Openssl::new();
    own.issue("root", "good", false);
    own.issue("root", "bad", false);
    let expired = ["-crl_lastupdate", "20200101000000Z", "-crl_nextupdate", "20200201000000Z"];
    for first in [&[][..], &expired] {
        let old = own.list("root", first);
        own.revoke("root", "bad");
        let new = own.list("root", &[]);
        own.put("old.crl", &old);
        own.put("new.crl", &new);
        own.put("grown.crl", old + &new);
        for files in [&["old.crl", "new.crl"][..], &["new.crl", "old.crl"], &["grown.crl"]] {
            let lists: Vec<_> = files.iter().map(|file| own.path(file)).collect();
            let stage = stage("required", &own.path("root.pem"), &lists);
            stage.lets_in(&own, "good", &[], true);
            stage.lets_in(&own, "bad", &[], false);
            let until =
                stage.metric("meridian_client_crl_expiry_timestamp_seconds{listener=\"tls\"}");
            assert!(until > 1.7e9, "of the one that counts: {until}");
            let said = stage.edge.stderr();
            assert!(said.contains("is not used: there is a newer one"), "{said}");
        }
        // The next round begins with nobody in a list.
        own.put("root.index", "");
    }
}

#[test]
fn two_keys_of_one_name_are_warned_of() {
    let own = Openssl::new();
    own.root("next", "root");
    own.put("roots.pem", own.text("root.pem") + &own.text("next.pem"));
    own.put("both.crl", own.list("root", &[]) + &own.list("next", &[]));
    let stage = stage("required", &own.path("roots.pem"), &[own.path("both.crl")]);
    let mut check = Command::new(program());
    let out = check.args(["check", "-c"]).arg(stage.edge.config_path()).output().expect("a binary");
    let said = [out.stdout, out.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("CN=root has two keys"), "{said}");
}

#[test]
fn a_list_that_somebody_else_has_signed_is_no_word_of_the_authority() {
    let own = Openssl::new();
    own.issue("root", "client", false);
    // The same name, another key.
    own.root("forged", "root");
    own.put("root.crl", own.list("forged", &[]));
    let stage = stage("required", &own.path("root.pem"), &[own.path("root.crl")]);
    stage.lets_in(&own, "client", &[], false);
}

#[test]
fn what_is_no_list_is_refused_at_the_start() {
    let own = Openssl::new();
    let list = own.list("root", &[]);
    own.put("empty.crl", "");
    own.put("certificate.crl", own.text("root.pem"));
    own.put("broken.crl", list.replace("MI", "MJ"));
    own.put("cut.crl", &list[..list.len() / 2]);
    let site = Site::new(&[("a", &[HOST])]);
    let backend = Backend::start("here");
    for (file, message) in [
        ("missing.crl", "cannot be read"),
        ("empty.crl", "holds no revocation list"),
        ("certificate.crl", "holds no revocation list"),
        ("broken.crl", "list 1 is broken"),
        ("cut.crl", "is not PEM"),
    ] {
        let text = one_region(&backend)
            + &listener(&site, "required", &own.path("root.pem"), &[own.path(file)]);
        let mut edge = Meridian::launch(&text, &[]);
        assert_eq!(edge.wait_exit().code(), Some(1), "{file}");
        eventually(&format!("{file} is blamed"), PATIENCE, || {
            let said = edge.stderr();
            said.contains("listeners[0].tls.client_crl[0]") && said.contains(message)
        });
    }
}
