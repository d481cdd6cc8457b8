//! Loading, verifying and choosing, on certificates made here.

use std::path::Path;

use meridian_config::{Config, ListenerName};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, date_time_ymd};
use tempfile::TempDir;

use super::{CertificateErrors, CertificateFinding, CertificateSet, load_certificates};

/// 2026-07-01, inside the validity of whatever [`Site::pair`] makes.
const NOW: i64 = 1_782_864_000;

struct Site(TempDir);

impl Site {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn write(&self, file: &str, content: &str) {
        std::fs::write(self.0.path().join(file), content).expect("writes");
    }

    /// `NAME.pem` and `NAME.key`, for these hosts.
    fn pair(&self, name: &str, hosts: &[&str]) -> KeyPair {
        self.pair_with(name, hosts, |_| {})
    }

    fn pair_with(
        &self,
        name: &str,
        hosts: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> KeyPair {
        let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).expect("names");
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2027, 1, 1);
        change(&mut params);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let certificate = params.self_signed(&key).expect("signs");
        self.write(&format!("{name}.pem"), &certificate.pem());
        self.write(&format!("{name}.key"), &key.serialize_pem());
        key
    }

    /// A configuration with a plain listener, and one with TLS and these pairs.
    fn config(&self, names: &[&str]) -> Config {
        let pair =
            |name| format!("{{ certificate = \"{name}.pem\", private_key = \"{name}.key\" }}");
        let pairs: Vec<_> = names.iter().map(pair).collect();
        let text = format!(
            "[[listeners]]\nname = \"plain\"\naddress = \"127.0.0.1:80\"\n\
             [[listeners]]\nname = \"tls\"\naddress = \"127.0.0.1:443\"\n\
             tls.certificates = [{}]\n\
             [[regions]]\nid = \"here\"\n[[services]]\nname = \"api\"\n\
             endpoints = [{{ region = \"here\", address = \"127.0.0.1:1\" }}]\n\
             [[routes]]\nname = \"api\"\nservice = \"api\"\n",
            pairs.join(", ")
        );
        let source = self.0.path().join("meridian.toml");
        Config::parse(&text, &source, &|_| None).expect("a configuration").config
    }

    fn load(
        &self,
        names: &[&str],
    ) -> Result<(CertificateSet, Vec<CertificateFinding>), CertificateErrors> {
        load_certificates(&self.config(names), NOW)
    }

    fn set(&self, names: &[&str]) -> CertificateSet {
        let (set, warnings) = self.load(names).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(warnings, []);
        set
    }

    /// `path: message` of all findings, without the directory.
    fn told(&self, findings: &[CertificateFinding]) -> Vec<String> {
        let directory = format!("{}/", self.0.path().display());
        findings.iter().map(|finding| finding.to_string().replace(&directory, "")).collect()
    }

    fn errors(&self, names: &[&str]) -> Vec<String> {
        self.told(&self.load(names).expect_err("something is wrong").0)
    }

    fn warnings(&self, names: &[&str]) -> Vec<String> {
        self.told(&self.load(names).expect("odd, not wrong").1)
    }
}

fn chosen(set: &CertificateSet, host: Option<&str>) -> String {
    let listener = set.listener(&ListenerName::new("tls")).expect("has TLS");
    listener.choose(host, |_| true).expect("there is one").label.clone()
}

#[test]
fn the_name_picks_the_certificate() {
    let site = Site::new();
    site.pair("first", &["first.example"]);
    site.pair("any", &["*.Example.COM", "example.com"]);
    site.pair("api", &["api.example.com", "10.0.0.1"]);
    let set = site.set(&["first", "any", "api"]);
    for (host, label) in [
        (Some("first.example"), "first.example"),
        (Some("api.example.com"), "api.example.com"),
        (Some("API.Example.com"), "api.example.com"),
        (Some("api.example.com."), "api.example.com"),
        (Some("example.com"), "*.example.com"),
        (Some("shop.example.com"), "*.example.com"),
        (Some("SHOP.example.com"), "*.example.com"),
        (Some("a.shop.example.com"), "first.example"),
        (Some(".example.com"), "first.example"),
        (Some("10.0.0.1"), "first.example"),
        (Some("other.example"), "first.example"),
        (Some(""), "first.example"),
        (None, "first.example"),
    ] {
        assert_eq!(chosen(&set, host), label, "{host:?}");
    }
    assert!(set.listener(&ListenerName::new("plain")).is_none());
    let ends: Vec<_> =
        set.iter().map(|(name, one)| (name.as_str(), one.not_after_unix_s)).collect();
    assert_eq!(ends, [("tls", 1_798_761_600); 3]);
}

#[test]
fn of_two_for_the_same_name_the_client_gets_the_one_it_can_use() {
    let site = Site::new();
    site.pair("ecdsa", &["a.example"]);
    let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let params = CertificateParams::new(vec!["a.example".to_owned()]).expect("names");
    site.write("ed.pem", &params.self_signed(&key).expect("signs").pem());
    site.write("ed.key", &key.serialize_pem());
    site.pair("b", &["b.example"]);
    let set = site.set(&["ecdsa", "ed", "b"]);
    let listener = set.listener(&ListenerName::new("tls")).expect("has TLS");
    for (scheme, hosts) in [
        (rustls::SignatureScheme::ED25519, [Some("a.example"), None, Some("c.example")]),
        (
            rustls::SignatureScheme::ECDSA_NISTP256_SHA256,
            [Some("a.example"), None, Some("c.example")],
        ),
    ] {
        for host in hosts {
            let usable =
                |key: &rustls::sign::CertifiedKey| key.key.choose_scheme(&[scheme]).is_some();
            let chosen = listener.choose(host, usable).expect("there is one");
            assert!(usable(&chosen.key), "{host:?} {scheme:?}");
            assert_eq!(chosen.label, "a.example");
        }
    }
    let chosen = listener.choose(Some("b.example"), |_| false).expect("better than none");
    assert_eq!(chosen.label, "b.example");
}

#[test]
fn all_that_is_wrong_is_told_at_once_with_its_place() {
    let site = Site::new();
    site.pair("good", &["good.example"]);
    site.pair("mixed", &["mixed.example"]);
    site.pair("other", &["other.example"]);
    std::fs::copy(site.0.path().join("other.key"), site.0.path().join("mixed.key"))
        .expect("copies");
    site.write("empty.pem", "");
    site.write("empty.key", "");
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    site.write("broken.pem", broken);
    site.write("broken.key", &broken.replace("CERTIFICATE", "PRIVATE KEY"));
    site.write("locked.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n");
    site.write("locked.key", &broken.replace("CERTIFICATE", "ENCRYPTED PRIVATE KEY"));
    std::fs::create_dir(site.0.path().join("folder.pem")).expect("makes");
    let errors = site.errors(&["good", "mixed", "empty", "broken", "locked", "folder"]);
    let at = |number: u32, key: &str| format!("listeners[1].tls.certificates[{number}].{key}: ");
    let expected = [
        (1, "private_key", "mixed.key: does not belong to certificate mixed.pem"),
        (2, "certificate", "empty.pem: holds no certificate in PEM"),
        (2, "private_key", "empty.key: holds no private key in PEM"),
        (3, "certificate", "broken.pem: certificate 1 is broken: "),
        (3, "private_key", "broken.key: cannot be used: "),
        (4, "certificate", "locked.pem: is not PEM: a section has no end"),
        (4, "private_key", "locked.key: is encrypted; a key without a passphrase is needed"),
        (5, "certificate", "folder.pem: is not a regular file"),
        (5, "private_key", "folder.key: cannot be read: No such file or directory"),
    ];
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    for (error, (number, key, message)) in errors.iter().zip(expected) {
        assert!(error.starts_with(&format!("{}{message}", at(number, key))), "{error}");
    }
}

#[test]
fn nothing_of_a_key_is_told() {
    let site = Site::new();
    let key = site.pair("a", &["a.example"]).serialize_pem();
    let secret = key.lines().nth(1).expect("its first line").to_owned();
    let on_one_line = key.replace('\n', "");
    let halved = key.replace(&secret[10..], "!");
    let (start, end) = (format!("-----BEGIN {secret}"), key.replace("-----END", ""));
    // Also not as the numbers of its bytes.
    let numbers = format!("{:?}", &secret.as_bytes()[..8]);
    let numbers = numbers.trim_matches(['[', ']']);
    for content in [&*on_one_line, &*halved, &*start, &*end, &*secret] {
        site.write("a.key", content);
        let errors = site.errors(&["a"]);
        assert_eq!(errors.len(), 1, "{errors:?}");
        let told = &errors[0];
        assert!(!told.contains(&secret[..8]) && !told.contains(numbers), "{told}");
    }
    site.write("a.key", &key);
    let set = site.set(&["a"]);
    assert_eq!(format!("{set:?}").matches("Certificate(\"a.example\")").count(), 1);
    assert!(!format!("{set:?}").contains("key:"), "{set:?}");
}

#[test]
fn oddities_are_warnings() {
    let site = Site::new();
    let past = |params: &mut CertificateParams| params.not_after = date_time_ymd(2026, 2, 1);
    site.pair_with("past", &["past.example"], past);
    let future = |params: &mut CertificateParams| params.not_before = date_time_ymd(2026, 12, 1);
    site.pair_with("future", &["future.example"], future);
    site.pair("nameless", &[]);
    site.pair("address", &["192.0.2.1", "2001:db8::1"]);
    let read = |file: &str| std::fs::read_to_string(site.0.path().join(file)).expect("reads");
    site.pair_with("chain", &["chain.example"], |params| {
        params.distinguished_name.push(rcgen::DnType::CommonName, "chain");
    });
    site.write("chain.pem", &format!("{}{}", read("chain.pem"), read("address.pem")));
    let at = |number: u32| format!("listeners[1].tls.certificates[{number}].certificate: ");
    assert_eq!(
        site.warnings(&["past", "future", "nameless", "address", "chain"]),
        [
            format!(
                "{}past.pem: has expired: it was valid until Feb  1 00:00:00 2026 +00:00",
                at(0)
            ),
            format!(
                "{}future.pem: is not valid yet: it will be from Dec  1 00:00:00 2026 +00:00",
                at(1)
            ),
            format!(
                "{}nameless.pem: names no host (subjectAltName): clients will not accept it",
                at(2)
            ),
            format!(
                "{}chain.pem: certificate 2 did not issue the one before it: the chain is out of order",
                at(4)
            ),
        ]
    );
    let (set, _) = site.load(&["nameless"]).expect("odd, not wrong");
    assert_eq!(chosen(&set, Some("x.example")), "nameless.pem");
}

#[test]
fn what_cannot_be_read_is_part_of_what_tells_contents_apart() {
    let site = Site::new();
    site.pair("a", &["a.example"]);
    let config = site.config(&["a"]);
    let fingerprint = || super::Snapshot::take(&config).fingerprint();
    let first = fingerprint();
    assert_eq!(fingerprint(), first);
    std::fs::remove_file(site.0.path().join("a.key")).expect("removes");
    let without = fingerprint();
    site.write("a.key", "other");
    let other = fingerprint();
    assert!(first != without && without != other && other != first);
    assert!(Path::new(&site.0.path().join("a.pem")).exists());
}
