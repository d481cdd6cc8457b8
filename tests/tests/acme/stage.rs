//! An edge with a listener in the clear and one under TLS, and clients that look at its certificates.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meridian_tests::{
    Answer, Backend, Client, Meridian, Pebble, PebblePlace, PebbleSettings, Site, free_address,
    one_region, poll, program, run,
};
use rustls::ClientConfig;
use serde_json::Value;

/// A busy machine takes its time for an order.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const HOST: &str = "shop.example";

pub(crate) struct Stage {
    pub(crate) backend: Backend,
    pub(crate) plain: SocketAddr,
    pub(crate) tls: SocketAddr,
    /// Of a certificate from files, for `file.example`.
    pub(crate) files: Site,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self {
            backend: Backend::answering("here", |request| Answer::ok(request.target.clone())),
            plain: free_address(),
            tls: free_address(),
            files: Site::new(&[("file", &["file.example"])]),
        }
    }

    /// An authority that looks where this edge listens.
    pub(crate) fn authority(&self) -> PebbleSettings {
        PebbleSettings::new(self.plain, self.tls)
    }

    /// A configuration: `acme` is `[acme]`, `lines` are further ones of the listener under TLS.
    pub(crate) fn text(&self, acme: &str, lists: &[&[&str]], lines: &str) -> String {
        let lists: String = lists
            .iter()
            .map(|domains| format!("[[acme.certificates]]\ndomains = {domains:?}\n"))
            .collect();
        format!(
            "{}[[listeners]]\nname = \"plain\"\naddress = \"{}\"\nredirect_https = {{}}\n\
             [[listeners]]\nname = \"tls\"\naddress = \"{}\"\ntls.acme = true\n{lines}\n{acme}{lists}",
            one_region(&self.backend),
            self.plain,
            self.tls
        )
    }

    /// The line that gives the listener the certificate from files.
    pub(crate) fn file_line(&self) -> String {
        let line = self.files.listener(&["file"], "");
        line.lines().last().expect("a line").to_owned()
    }
}

/// A handshake with whatever the listener shows for a host, which must be good; the certificate.
pub(crate) fn shake(
    site: &Site,
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    host: &str,
) -> io::Result<Vec<u8>> {
    let mut wire = site.wire(config.clone(), address, host);
    wire.handshake()?;
    let chain = wire.session().peer_certificates().expect("hands were shaken");
    let shown = chain[0].to_vec();
    let answer = Client::on(wire).host(host).get("/x");
    assert_eq!((answer.status, answer.text()), (200, "/x".to_owned()));
    Ok(shown)
}

/// Waits until a host's certificate is there and good.
#[track_caller]
pub(crate) fn issued(pebble: &Pebble, stage: &Stage, host: &str) -> Vec<u8> {
    let config = Arc::new(pebble.client_config());
    let shown = poll(PATIENCE, || shake(pebble.site(), &config, stage.tls, host).ok());
    shown.unwrap_or_else(|| panic!("no certificate for {host}"))
}

/// What the edge says of one certificate.
pub(crate) fn view(edge: &Meridian, name: &str) -> Value {
    let all = edge.admin().json("/api/v1/acme");
    let mut all = all.as_array().expect("an array").iter();
    all.find(|one| one["name"] == name).cloned().unwrap_or_default()
}

/// Waits until the last order of a certificate has failed; why.
#[track_caller]
pub(crate) fn failing(edge: &Meridian, name: &str) -> String {
    let failed = || {
        let view = view(edge, name);
        view["last_error"].as_str().map(str::to_owned).filter(|_| view["failures"] != 0)
    };
    poll(PATIENCE, failed).unwrap_or_else(|| panic!("{name} does not fail: {}", view(edge, name)))
}

/// Whatever the edge shows to anybody but its own user: logs, answers, the printed configuration.
pub(crate) fn shown(edge: &Meridian) -> String {
    let mut text = edge.stderr();
    for path in ["acme", "status", "config", "history", "services", "routes"] {
        text += &edge.admin().get(&format!("/api/v1/{path}")).text();
    }
    text += &edge.admin().get("/metrics").text();
    let path = edge.config_path();
    let file = path.to_str().expect("a path");
    for args in [&["config", "print", "--effective"][..], &["check"]] {
        let args = [args, &["--config", file]].concat();
        let out = run(&args, edge.dir());
        text += &String::from_utf8_lossy(&out.stdout);
        text += &String::from_utf8_lossy(&out.stderr);
    }
    assert!(text.contains("acme") && program().exists());
    text
}

/// Texts in the edge's files below `state_dir/acme` that are keys.
pub(crate) fn secrets(edge: &Meridian) -> Vec<String> {
    let below = edge.dir().join("state/acme");
    let files = std::fs::read_dir(&below).unwrap_or_else(|error| panic!("{below:?}: {error}"));
    let mut secrets = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file.expect("an entry").path()).expect("a text");
        let value: Value = serde_json::from_str(&text).expect("JSON");
        if let Some(pem) = value["private_key"].as_str() {
            secrets.extend(pem.lines().filter(|line| line.len() > 40).map(str::to_owned));
        }
        if let Some(key) = value["credentials"]["key_pkcs8"].as_str() {
            secrets.push(key.to_owned());
        }
    }
    secrets
}

/// A place for an authority, and one that is there already.
pub(crate) fn open(stage: &Stage) -> Pebble {
    PebblePlace::new().start(&stage.authority())
}
