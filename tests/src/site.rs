//! A site with TLS: a root that clients trust, what it issues, and clients.

use std::fmt;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, SupportedProtocolVersion,
};
use tempfile::TempDir;

use crate::client::Client;
use crate::wire::Wire;

const PATIENCE: Duration = Duration::from_secs(20);

/// A root, and a directory for what it issues.
pub struct Site {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
    roots: Arc<RootCertStore>,
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Pair {
    /// As a client gets it.
    pub der: Vec<u8>,
    /// PEM.
    pub certificate: String,
    /// PEM.
    pub key: String,
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Site({})", self.dir.path().display())
    }
}

impl Site {
    /// A site with these certificates, each a name for its files and the hosts it is for.
    ///
    /// # Panics
    /// If there is no directory for it.
    pub fn new(certificates: &[(&str, &[&str])]) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "root of a test");
        let key = KeyPair::generate().expect("a key");
        let root = params.self_signed(&key).expect("a signature");
        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone()).expect("a root");
        let dir = TempDir::new().expect("a temporary directory");
        fs::write(dir.path().join("root.pem"), root.pem()).expect("a writable directory");
        fs::write(dir.path().join("root.key"), key.serialize_pem()).expect("a writable directory");
        let site = Self { dir, issuer: Issuer::new(params, key), roots: Arc::new(roots) };
        for (name, hosts) in certificates {
            site.put(name, &site.issue(hosts));
        }
        site
    }

    /// A certificate for these hosts, and a key of its own.
    ///
    /// # Panics
    /// If one of them is no name.
    pub fn issue(&self, hosts: &[&str]) -> Pair {
        self.issue_with(hosts, |_| {})
    }

    fn issue_with(&self, hosts: &[&str], adjust: impl FnOnce(&mut CertificateParams)) -> Pair {
        let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(hosts).expect("names");
        adjust(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("a signature");
        Pair {
            der: certificate.der().to_vec(),
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// A server that shows this pair; with `clients` it asks for certificates that lead to the root: `true`, it
    /// insists on them.
    ///
    /// # Panics
    /// If the pair is none.
    pub fn server_config(
        &self,
        pair: &Pair,
        versions: &[&'static SupportedProtocolVersion],
        clients: Option<bool>,
    ) -> ServerConfig {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone());
        let builder = builder.with_protocol_versions(versions).expect("versions");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(required) => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider);
                let verifier = if required { verifier } else { verifier.allow_unauthenticated() };
                builder.with_client_cert_verifier(verifier.build().expect("a root"))
            }
        };
        let chain = vec![CertificateDer::from(pair.der.clone())];
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
        let mut config = builder.with_single_cert(chain, key).expect("a pair");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config
    }

    /// A certificate for these hosts that has expired.
    ///
    /// # Panics
    /// If one of them is no name.
    pub fn issue_expired(&self, hosts: &[&str]) -> Pair {
        self.issue_with(hosts, |params| {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        })
    }

    /// Puts a pair in place of that with this name, first the certificate, then the key.
    ///
    /// # Panics
    /// If the directory cannot be written.
    pub fn put(&self, name: &str, pair: &Pair) {
        self.put_file(&format!("{name}.pem"), &pair.certificate);
        self.put_file(&format!("{name}.key"), &pair.key);
    }

    /// Replaces one file as a whole.
    ///
    /// # Panics
    /// If the directory cannot be written.
    pub fn put_file(&self, file: &str, text: &str) {
        let next = self.dir.path().join(format!(".{file}.next"));
        fs::write(&next, text).expect("a writable directory");
        fs::rename(&next, self.dir.path().join(file)).expect("a writable directory");
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The root's certificate, PEM.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root.pem")
    }

    /// The configuration of a listener "tls" with these pairs; `lines` are further lines of it.
    pub fn listener(&self, names: &[&str], lines: &str) -> String {
        let dir = self.dir.path().display();
        let pairs: Vec<_> = names
            .iter()
            .map(|name| {
                let files = format!("{dir}/{name}");
                format!("{{ certificate = \"{files}.pem\", private_key = \"{files}.key\" }}")
            })
            .collect();
        let pairs = pairs.join(", ");
        format!("[[listeners]]\nname = \"tls\"\n{lines}\ntls.certificates = [{pairs}]\n")
    }

    /// A client that trusts the root, offers HTTP/1.1 and shakes hands anew each time.
    ///
    /// # Panics
    /// Never: the versions are there.
    pub fn client_config(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        self.client_config_with(aws_lc_rs::default_provider(), versions)
    }

    /// The same, with these cipher suites, in this order.
    ///
    /// # Panics
    /// If none of them is for one of the versions.
    pub fn client_config_with(
        &self,
        provider: CryptoProvider,
        versions: &[&'static SupportedProtocolVersion],
    ) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(Arc::new(provider));
        let builder = builder.with_protocol_versions(versions).expect("versions");
        let mut config = builder.with_root_certificates(self.roots.clone()).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::disabled();
        config
    }

    /// Connects without shaking hands yet.
    ///
    /// # Panics
    /// If nobody accepts.
    #[track_caller]
    pub fn wire(
        &self,
        config: impl Into<Arc<ClientConfig>>,
        address: SocketAddr,
        host: &str,
    ) -> Wire {
        let host = ServerName::try_from(host.to_owned()).expect("a name");
        let session = ClientConnection::new(config.into(), host).expect("a session");
        let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("a connection");
        Wire::secure(session, stream, PATIENCE)
    }

    /// A client that has shaken hands.
    ///
    /// # Panics
    /// If the handshake fails.
    #[track_caller]
    pub fn client(&self, address: SocketAddr, host: &str) -> Client {
        let mut wire = self.wire(self.client_config(rustls::ALL_VERSIONS), address, host);
        wire.handshake().expect("a handshake");
        Client::on(wire).host(host)
    }
}
