//! What is said about wrong settings of `[acme]`.

use std::path::Path;

use meridian_config::{AcmeChallenge, Config, ConfigErrors, Loaded};

const MINIMAL: &str = include_str!("../minimal.toml");
const TLS: &str =
    "\n[[listeners]]\nname = \"tls\"\naddress = \"127.0.0.1:8443\"\ntls = { acme = true }\n";
const DOMAINS: &str = "certificates = [{ domains = [\"a.example\"] }]\n";

fn parse(directory: &Path, acme: &str, listener: &str) -> Result<Loaded, ConfigErrors> {
    let text = format!("{MINIMAL}{listener}\n[acme]\n{acme}");
    Config::parse(&text, &directory.join("m.toml"), &|_| None)
}

/// `path: message` of what is wrong.
fn errors(acme: &str, listener: &str) -> Vec<String> {
    let errors = parse(Path::new("/nowhere"), acme, listener).expect_err("it is wrong").errors;
    let line = |error: &meridian_config::Finding| {
        error.to_string().splitn(4, ':').nth(3).unwrap_or_default().trim().to_owned()
    };
    errors.iter().map(line).collect()
}

#[test]
fn defaults() {
    let text = format!("agree_to_terms = true\n{DOMAINS}");
    let loaded = parse(Path::new("/etc"), &text, TLS).unwrap_or_else(|errors| panic!("{errors}"));
    let acme = loaded.config.acme.expect("it is there");
    assert_eq!(acme.directory.to_string(), "https://acme-v02.api.letsencrypt.org/directory");
    assert_eq!(acme.challenges, [AcmeChallenge::Http01]);
    assert_eq!((acme.renew_before, acme.backoff.as_secs()), (None, 60));
    assert_eq!(acme.certificates[0].name(), "a.example");
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    for (lines, expected) in [
        ("", "acme.agree_to_terms: is required"),
        (
            "agree_to_terms = false",
            "acme.agree_to_terms: must be true: authorities issue only to those who agree to their terms",
        ),
        (
            "directory = \"http://ca.example/\"",
            "acme.directory: a directory is asked by https only (RFC 8555 section 6.1)",
        ),
        (
            "directory = \"https://u:p@ca.example/\"",
            "acme.directory: a URL holds no user or password here",
        ),
        ("contact = [\"mailto:a@b.example\"]", "acme.contact[0]: is written without \"mailto:\""),
        ("contact = [\"a\"]", "acme.contact[0]: \"a\" is not a mail address"),
        ("challenges = []", "acme.challenges: at least one: \"http-01\", \"tls-alpn-01\""),
        (
            "challenges = [\"dns-01\"]",
            "acme.challenges[0]: \"dns-01\" is not offered: this edge writes no DNS records",
        ),
        ("challenges = [\"http-01\", \"http-01\"]", "acme.challenges[1]: is there twice"),
        (
            "challenges = [\"http-1\"]",
            "acme.challenges[0]: unknown value \"http-1\"; did you mean \"http-01\"?",
        ),
        ("renew_before = \"0s\"", "acme.renew_before: 0s is not from 1s to 9552h"),
        ("backoff = \"2h\"", "acme.backoff: 2h is not from 10ms to 1h"),
        (
            "external_account = { key_id = \"k\" }",
            "acme.external_account.hmac_key_file: is required",
        ),
        ("emails = []", "acme.emails: unknown key"),
    ] {
        let agreed = if lines.is_empty() || lines.starts_with("agree") {
            ""
        } else {
            "agree_to_terms = true\n"
        };
        let text = format!("{agreed}{lines}\n{DOMAINS}");
        assert_eq!(errors(&text, TLS), [expected], "{lines}");
    }
}

#[test]
fn domains_are_hosts_each_in_one_certificate() {
    for (list, expected) in [
        ("[{}]", "acme.certificates[0].domains: is required"),
        ("[{ domains = [] }]", "acme.certificates[0].domains: at least one domain"),
        (
            "[{ domains = [\"*.a.example\"] }]",
            "acme.certificates[0].domains[0]: \"*.\" needs the challenge dns-01, which is not offered: \
             name each host",
        ),
        (
            "[{ domains = [\"192.0.2.1\"] }]",
            "acme.certificates[0].domains[0]: authorities are asked for hosts here, not for addresses",
        ),
        (
            "[{ domains = [\"b.example\", \"a.example\"] }, { domains = [\"A.example\", \"c.example\"] }]",
            "acme.certificates[1].domains[0]: duplicate domain \"a.example\", already at \
             acme.certificates[0].domains[1]",
        ),
    ] {
        let text = format!("agree_to_terms = true\ncertificates = {list}\n");
        let found = errors(&text, TLS);
        assert!(found.contains(&expected.to_owned()), "{list}: {found:?}");
    }
}

#[test]
fn listeners_and_challenges_belong_together() {
    let agreed = "agree_to_terms = true\n";
    let none = "acme: listener \"tls\" has tls.acme = true: name what is to be issued in [[acme.certificates]]";
    assert_eq!(errors(agreed, TLS), [none]);
    let without = Config::parse(&format!("{MINIMAL}{TLS}"), Path::new("/etc/m.toml"), &|_| None);
    assert!(without.expect_err("no [acme]").to_string().contains(none));
    let files = "tls = { certificates = [{ certificate = \"a.pem\", private_key = \"a.key\" }] }";
    let files = TLS.replace("tls = { acme = true }", files);
    let loaded = parse(Path::new("/etc"), &format!("{agreed}{DOMAINS}"), &files);
    let warnings = loaded.unwrap_or_else(|errors| panic!("{errors}")).warnings;
    let said = "no listener has tls.acme = true: the certificates are not shown";
    assert!(warnings.iter().any(|w| w.to_string().contains(said)), "{warnings:?}");
    let nothing = errors(&format!("{agreed}challenges = [\"tls-alpn-01\"]\n{DOMAINS}"), &files);
    assert!(nothing[0].starts_with("acme: nothing answers the challenges"), "{nothing:?}");
    // Of several, what nothing answers is told and left out.
    let both = format!("{agreed}challenges = [\"tls-alpn-01\", \"http-01\"]\n{DOMAINS}");
    let Loaded { config, warnings, .. } =
        parse(Path::new("/etc"), &both, &files).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.acme.map(|acme| acme.challenges), Some(vec![AcmeChallenge::Http01]));
    let said = "nothing answers the challenge tls-alpn-01, which needs one with tls.acme = true";
    assert!(warnings.iter().any(|w| w.to_string().contains(said)), "{warnings:?}");
    let kept = parse(Path::new("/etc"), &both, TLS).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(kept.config.acme.map(|acme| acme.challenges.len()), Some(2));
    assert!(kept.warnings.is_empty(), "{:?}", kept.warnings);
    let required =
        errors(&format!("{agreed}{DOMAINS}"), &TLS.replace("acme = true", "acme = false"));
    assert_eq!(required, ["listeners[1].tls.certificates: is required"]);
}

#[test]
fn the_key_of_an_external_account_is_read_and_never_shown() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("hmac");
    let text = format!(
        "agree_to_terms = true\nexternal_account = {{ key_id = \"kid\", hmac_key_file = \"hmac\" }}\n{DOMAINS}"
    );
    let missing = parse(directory.path(), &text, TLS).expect_err("no file").to_string();
    assert!(
        missing.contains("acme.external_account.hmac_key_file: ")
            && missing.contains("cannot be read")
    );
    std::fs::write(&file, "not-base64!").expect("writes");
    let bad = parse(directory.path(), &text, TLS).expect_err("no key").to_string();
    assert!(bad.contains("does not hold a key in base64") && !bad.contains("not-base64!"), "{bad}");
    std::fs::write(&file, "c2VjcmV0LWtleS0x\n").expect("writes");
    let config =
        parse(directory.path(), &text, TLS).unwrap_or_else(|errors| panic!("{errors}")).config;
    let account = config.acme.as_ref().and_then(|acme| acme.external_account.as_ref());
    assert_eq!(account.map(|account| &*account.hmac_key), Some("c2VjcmV0LWtleS0x"));
    let shown = format!("{}{config:?}", config.effective_toml());
    assert!(!shown.contains("c2VjcmV0LWtleS0x"), "{shown}");
    assert!(shown.contains("key_id = \"kid\""));
}
