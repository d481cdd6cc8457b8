//! What is said about wrong settings of a listener's door: redirects, HSTS, clients' certificates.

use std::path::Path;

use meridian_config::{Config, Loaded};

const MINIMAL: &str = include_str!("../minimal.toml");
const ADDRESS: &str = "address = \"127.0.0.1:8080\"";
const TLS: &str = "tls.certificates = [{ certificate = \"a.pem\", private_key = \"a.key\" }]";

fn parse(text: &str) -> Result<Loaded, meridian_config::ConfigErrors> {
    Config::parse(text, Path::new("/etc/m.toml"), &|_| None)
}

/// The minimal configuration with further lines of its listener and its route.
fn text(listener: &str, route: &str) -> String {
    let text = MINIMAL.replacen(ADDRESS, &format!("{ADDRESS}\n{listener}"), 1);
    text.replacen("service = \"api\"\n", &format!("service = \"api\"\n{route}\n"), 1)
}

/// `path: message` of the only error.
fn error(listener: &str, route: &str) -> String {
    let errors = parse(&text(listener, route)).expect_err("it is wrong").errors;
    assert_eq!(errors.len(), 1, "{errors:#?}");
    let line = errors[0].to_string();
    line.splitn(4, ':').nth(3).unwrap_or_default().trim().to_owned()
}

fn warnings(listener: &str, route: &str) -> Vec<String> {
    let loaded = parse(&text(listener, route)).unwrap_or_else(|errors| panic!("{errors}"));
    let line = |w: &meridian_config::Warning| {
        w.to_string().splitn(4, ':').nth(3).unwrap_or_default().trim().to_owned()
    };
    loaded.warnings.iter().map(line).collect()
}

#[test]
fn redirects_are_for_listeners_in_the_clear() {
    for (line, message) in [
        (
            "redirect_https = { status = 302 }",
            "redirect_https.status: a redirect is 301 or 308, not 302",
        ),
        ("redirect_https = { port = 0 }", "redirect_https.port: 0 is not from 1 to 65535"),
        (
            "redirect_https = { except = [\"/\"] }",
            "redirect_https.except[0]: \"/\" would spare everything",
        ),
        (
            "redirect_https = { ports = 1 }",
            "redirect_https.ports: unknown key; did you mean \"port\"?",
        ),
        ("redirect_https = true", "redirect_https: expected a table, found boolean"),
        ("hsts = {}", "hsts: is for listeners with TLS: browsers take no heed of it in the clear"),
    ] {
        assert_eq!(error(line, ""), format!("listeners[0].{message}"));
    }
    assert_eq!(
        error(&format!("{TLS}\nredirect_https = {{}}"), ""),
        "listeners[0].redirect_https: is for listeners without TLS: this one has [listeners.tls]"
    );
    let bad = error("redirect_https = { except = [\"health\"] }", "");
    assert!(bad.starts_with("listeners[0].redirect_https.except[0]: "), "{bad}");
    let loaded = parse(&text("redirect_https = { except = [\"/health/\"] }", "")).expect("is fine");
    let to = loaded.config.listeners[0].redirect_https.as_ref().expect("is there");
    assert_eq!((to.port, to.status, &*to.except[0]), (443, 308, "/health"));
    assert!(to.spares("/health") && to.spares("/health/x") && !to.spares("/healthy"));
}

#[test]
fn hsts_is_what_browsers_take() {
    for (line, message) in [
        (
            "hsts = { preload = true }",
            "hsts.preload: needs include_subdomains = true and a max_age of 8760h at least",
        ),
        (
            "hsts = { max_age = \"24h\", include_subdomains = true, preload = true }",
            "hsts.preload: needs include_subdomains = true and a max_age of 8760h at least",
        ),
        ("hsts = { max_age = \"1500ms\" }", "hsts.max_age: is told in whole seconds"),
        ("hsts = { max_age = \"87601h\" }", "hsts.max_age: 87601h is not from 0s to 87600h"),
        ("hsts = { maxage = \"1h\" }", "hsts.maxage: unknown key; did you mean \"max_age\"?"),
    ] {
        assert_eq!(error(&format!("{TLS}\n{line}"), ""), format!("listeners[0].{message}"));
        assert_eq!(error("", line), format!("routes[0].{message}"));
    }
    let value = |line: &str| {
        let loaded = parse(&text("", line)).expect("is fine");
        loaded.config.routes[0].hsts.as_ref().expect("is there").value.to_string()
    };
    assert_eq!(value("hsts = {}"), "max-age=31536000");
    assert_eq!(value("hsts = { max_age = \"0s\" }"), "max-age=0");
    let all = "hsts = { max_age = \"17520h\", include_subdomains = true, preload = true }";
    assert_eq!(value(all), "max-age=63072000; includeSubDomains; preload");
}

#[test]
fn certificates_are_asked_for_by_listeners_before_routes() {
    let asks = format!("{TLS}\ntls.client_auth = \"optional\"\ntls.client_ca = \"ca.pem\"");
    assert_eq!(warnings(&asks, "client_certificate = {}"), [""; 0]);
    assert_eq!(
        warnings("", "client_certificate = {}"),
        ["routes[0]: no request can have a client_certificate: no listener has client_auth"]
    );
    assert_eq!(
        warnings(&format!("{TLS}\ntls.client_ca = \"ca.pem\""), ""),
        ["listeners[0].tls.client_ca: has no effect while client_auth = \"off\""]
    );
    assert_eq!(
        warnings(&format!("{asks}\ntls.client_crl = [\"a.crl\"]"), "client_certificate = {}"),
        [""; 0]
    );
    assert_eq!(
        warnings(&format!("{TLS}\ntls.client_crl = [\"a.crl\"]"), ""),
        ["listeners[0].tls.client_crl: has no effect while client_auth = \"off\""]
    );
    for (line, message) in [
        (
            "client_certificate = { san = [] }",
            "client_certificate.san: names nothing; leave it out for any",
        ),
        (
            "client_certificate = { san = \"spiffe://*\" }",
            "client_certificate.san: \"spiffe://*\" is not a URI; \"*\" may only stand at its end, \
             behind the host's \"/\"",
        ),
        (
            "client_certificate = { fingerprint = [\"ab\"] }",
            "client_certificate.fingerprint[0]: \"ab\" is not a SHA-256 fingerprint: 64 hexadecimal digits",
        ),
        (
            "headers = { X-Client-Cert-Verified = \"true\" }",
            "headers.X-Client-Cert-Verified: whoever asks could write it; certificates are matched \
             by the key `client_certificate`",
        ),
    ] {
        assert_eq!(error(&asks, line), format!("routes[0].{message}"));
    }
}
