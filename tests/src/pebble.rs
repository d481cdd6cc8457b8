//! An authority to test against: Debian's `pebble`, with a name server that knows one address for all names.

use std::fmt;
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tempfile::TempDir;

use crate::address::{free_address, loopback};
use crate::site::Site;
use crate::wait::poll;

const READY_WITHIN: Duration = Duration::from_secs(20);
/// The name server looks so often whether it is over.
const LOOK: Duration = Duration::from_millis(100);

/// How the authority works.
#[derive(Clone, Debug)]
pub struct PebbleSettings {
    /// Where it directs requests for challenges.
    pub http: SocketAddr,
    /// Where it shakes hands for challenges.
    pub tls: SocketAddr,
    /// How long its certificates are valid, seconds.
    pub validity_s: u64,
    /// Only these customers get an account: id and key.
    pub customers: Vec<(String, String)>,
    /// Environment variables of its own, such as `PEBBLE_WFE_NONCEREJECT`.
    pub variables: Vec<(String, String)>,
}

impl PebbleSettings {
    /// An authority that looks at once, rejects nothing, and issues for an hour.
    pub fn new(http: SocketAddr, tls: SocketAddr) -> Self {
        let variables = [
            ("PEBBLE_VA_NOSLEEP", "1"),
            ("PEBBLE_WFE_NONCEREJECT", "0"),
            ("PEBBLE_AUTHZREUSE", "0"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self { http, tls, validity_s: 3600, customers: Vec::new(), variables: variables.into() }
    }

    /// With another value of a variable.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// Where an authority will be: its address is known before it is started.
pub struct PebblePlace {
    dir: TempDir,
    site: Site,
    address: SocketAddr,
    management: SocketAddr,
}

impl fmt::Debug for PebblePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PebblePlace({})", self.address)
    }
}

/// A running authority; it dies with this value.
#[derive(Debug)]
pub struct Pebble {
    place: PebblePlace,
    child: Child,
    _names: NameServer,
}

/// Whether there is an authority to test against. Where tests are not run by people (`CI`) its absence is a failure.
///
/// # Panics
/// If it is not there, and `CI` is set.
pub fn pebble_is_installed() -> bool {
    let there = Command::new("pebble").arg("-h").output().is_ok();
    assert!(there || std::env::var_os("CI").is_none(), "pebble is missing: scripts/setup.sh test");
    if !there {
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            b"skipped: pebble is not installed (scripts/setup.sh test)\n",
        );
    }
    there
}

impl Default for PebblePlace {
    fn default() -> Self {
        Self::new()
    }
}

impl PebblePlace {
    /// A place where nobody listens yet.
    ///
    /// # Panics
    /// If there is no directory for it.
    pub fn new() -> Self {
        let own = loopback().to_string();
        Self {
            dir: TempDir::new().expect("a temporary directory"),
            site: Site::new(&[("ca", &[&own])]),
            address: free_address(),
            management: free_address(),
        }
    }

    /// The lines of `[acme]` for it: directory, roots, consent, short pauses.
    pub fn acme(&self) -> String {
        format!(
            "[acme]\ndirectory = \"https://{}/dir\"\nca = \"{}\"\nagree_to_terms = true\nbackoff = \"500ms\"\n",
            self.address,
            self.site.root().display()
        )
    }

    /// Where its directory is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts it.
    ///
    /// # Panics
    /// If it does not accept connections.
    #[track_caller]
    pub fn start(self, settings: &PebbleSettings) -> Pebble {
        let names = NameServer::start(loopback());
        let files = self.site.dir();
        let keys: serde_json::Map<_, _> =
            settings.customers.iter().map(|(id, key)| (id.clone(), json!(key))).collect();
        let config = json!({ "pebble": {
            "listenAddress": self.address.to_string(),
            "managementListenAddress": self.management.to_string(),
            "certificate": files.join("ca.pem"),
            "privateKey": files.join("ca.key"),
            "httpPort": settings.http.port(),
            "tlsPort": settings.tls.port(),
            "certificateValidityPeriod": settings.validity_s,
            "externalAccountBindingRequired": !keys.is_empty(),
            "externalAccountMACKeys": keys,
        }});
        let file = self.dir.path().join("pebble.json");
        fs::write(&file, config.to_string()).expect("a writable directory");
        let log = File::options().append(true).create(true).open(self.log_path());
        let log = log.expect("a writable directory");
        let child = Command::new("pebble")
            .arg("-config")
            .arg(file)
            .arg("-dnsserver")
            .arg(names.address.to_string())
            .envs(settings.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .expect("pebble can be started");
        let pebble = Pebble { place: self, child, _names: names };
        let up = |address| poll(READY_WITHIN, || TcpStream::connect(address).ok());
        let both = up(pebble.place.address).is_some() && up(pebble.place.management).is_some();
        assert!(both, "pebble does not listen; it said:\n{}", pebble.log());
        pebble
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("pebble.log")
    }
}

impl Pebble {
    /// As [`PebblePlace::acme`].
    pub fn acme(&self) -> String {
        self.place.acme()
    }

    /// What it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.place.log_path()).unwrap_or_default()
    }

    /// Requests so far.
    pub fn requests(&self) -> usize {
        self.log().matches(" -> calling handler()").count()
    }

    /// Ends it; it can be started again at its place.
    pub fn stop(mut self) -> PebblePlace {
        self.end();
        // What ends with the place is gone from it already.
        let dir = TempDir::new().expect("a temporary directory");
        let place = PebblePlace {
            dir,
            site: Site::new(&[]),
            address: self.place.address,
            management: self.place.management,
        };
        std::mem::replace(&mut self.place, place)
    }

    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// A client that trusts what it issues, and shakes hands anew each time.
    ///
    /// # Panics
    /// If it does not tell its root.
    pub fn client_config(&self) -> ClientConfig {
        let host = self.place.management.ip().to_string();
        let answer = self.place.site.client(self.place.management, &host).get("/roots/0");
        let root = CertificateDer::from_pem_slice(&answer.body).expect("a certificate");
        let mut roots = RootCertStore::empty();
        roots.add(root).expect("a root");
        let mut config = self.place.site.client_config(rustls::ALL_VERSIONS);
        let provider = config.crypto_provider().clone();
        let verifier =
            rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        config.dangerous().set_certificate_verifier(verifier.build().expect("a root"));
        config
    }

    /// Connects to a listener without shaking hands yet.
    pub fn site(&self) -> &Site {
        &self.place.site
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        self.end();
        if thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(6000);
            let tail = log.get(from..).unwrap_or(&log);
            let _ = std::io::Write::write_fmt(
                &mut std::io::stderr(),
                format_args!("---- pebble said:\n{tail}----\n"),
            );
        }
    }
}

/// A name server: every name has one IPv4 address, but those that begin with `nowhere.` do not exist.
#[derive(Debug)]
struct NameServer {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    fn start(ip: IpAddr) -> Self {
        let socket = UdpSocket::bind((ip, 0)).expect("a loopback port");
        socket.set_read_timeout(Some(LOOK)).expect("a timeout");
        let address = socket.local_addr().expect("the address of a bound socket");
        let over = Arc::<AtomicBool>::default();
        let ended = over.clone();
        let thread = thread::spawn(move || {
            let mut query = [0; 1500];
            while !ended.load(Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut query) else { continue };
                if let Some(answer) = answer(&query[..length], ip) {
                    // Whoever asks asks again.
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Self { address, over, thread: Some(thread) }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The answer to a question (RFC 1035 section 4.1).
fn answer(query: &[u8], ip: IpAddr) -> Option<Vec<u8>> {
    let mut at = 12;
    while *query.get(at)? > 0 {
        at += 1 + usize::from(query[at]);
    }
    let question = query.get(12..at + 5)?;
    let is_a = question[question.len() - 4..] == [0, 1, 0, 1];
    let exists = !question.starts_with(b"\x07nowhere");
    let octets = match ip {
        IpAddr::V4(ip) if is_a && exists => Some(ip.octets()),
        _ => None,
    };
    let mut out = query.get(..2)?.to_vec();
    let code = if exists { 0x80 } else { 0x83 };
    out.extend_from_slice(&[0x85, code, 0, 1, 0, u8::from(octets.is_some()), 0, 0, 0, 0]);
    out.extend_from_slice(question);
    if let Some(octets) = octets {
        out.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        out.extend_from_slice(&octets);
    }
    Some(out)
}
