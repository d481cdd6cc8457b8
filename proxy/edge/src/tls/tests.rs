//! Handshakes in memory, between rustls as a client and a listener's configuration.

use std::sync::Arc;

use meridian_config::{Config, Listener};
use meridian_control::{AcmeReader, CertificateReader, Publisher, load_certificates, publish};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, Error, HandshakeKind, ProtocolVersion,
    RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion,
};
use tempfile::TempDir;

use super::{Offer, TLS12, TLS13};

const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// A root that clients trust, and a directory for what it issues.
struct Site {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
    roots: Arc<RootCertStore>,
}

impl Site {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let root = params.self_signed(&key).expect("signs");
        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone()).expect("a root");
        let directory = tempfile::tempdir().expect("a directory");
        Self { directory, issuer: Issuer::new(params, key), roots: Arc::new(roots) }
    }

    fn issue(&self, name: &str, hosts: &[&str]) {
        let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(hosts).expect("names");
        let certificate = params.signed_by(&key, &self.issuer).expect("signs");
        let write = |file: String, text: String| {
            std::fs::write(self.directory.path().join(file), text).expect("writes");
        };
        write(format!("{name}.pem"), certificate.pem());
        write(format!("{name}.key"), key.serialize_pem());
    }

    /// A configuration whose listener has the pairs "a" and "b" and these further lines.
    fn config(&self, lines: &str) -> Config {
        let text = format!(
            "[[listeners]]\nname = \"public\"\naddress = \"127.0.0.1:443\"\n{lines}\n\
             tls.certificates = [{{ certificate = \"a.pem\", private_key = \"a.key\" }}, \
             {{ certificate = \"b.pem\", private_key = \"b.key\" }}]\n\
             [[regions]]\nid = \"here\"\n[[services]]\nname = \"api\"\n\
             endpoints = [{{ region = \"here\", address = \"127.0.0.1:1\" }}]\n\
             [[routes]]\nname = \"api\"\nservice = \"api\"\n"
        );
        let source = self.directory.path().join("meridian.toml");
        let parsed = Config::parse(&text, &source, &|_| None);
        parsed.unwrap_or_else(|errors| panic!("{errors}")).config
    }

    fn published(
        &self,
        config: &Config,
    ) -> (Publisher<meridian_control::CertificateSet>, CertificateReader) {
        publish(Arc::new(load_certificates(config, 0).expect("certificates").0))
    }

    fn server(&self, lines: &str) -> Arc<ServerConfig> {
        let config = self.config(lines);
        made(&config.listeners[0], self.published(&config).1)
    }

    fn client(
        &self,
        alpn: &[&[u8]],
        versions: &[&'static SupportedProtocolVersion],
    ) -> ClientConfig {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_protocol_versions(versions).expect("versions");
        let mut config = builder.with_root_certificates(self.roots.clone()).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config
    }
}

fn made(listener: &Listener, certificates: CertificateReader) -> Arc<ServerConfig> {
    let tls = listener.tls.as_ref().expect("TLS");
    let readers = (certificates, AcmeReader::fixed(Arc::default()));
    Offer::new(listener, tls, readers).expect("randomness").config().edge()
}

struct Shaken {
    client: ClientConnection,
    server: ServerConnection,
}

/// Both sides after their handshake, or the first error of either.
fn shake(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
    host: &str,
) -> Result<Shaken, Error> {
    let host = ServerName::try_from(host.to_owned()).expect("a name");
    let mut client = ClientConnection::new(client.clone(), host)?;
    let mut server = ServerConnection::new(server.clone())?;
    while client.is_handshaking() || server.is_handshaking() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).expect("memory");
        }
        let mut unread = &*bytes;
        while !unread.is_empty() {
            server.read_tls(&mut unread).expect("memory");
            server.process_new_packets()?;
        }
        bytes.clear();
        while server.wants_write() {
            server.write_tls(&mut bytes).expect("memory");
        }
        let mut unread = &*bytes;
        while !unread.is_empty() {
            client.read_tls(&mut unread).expect("memory");
            client.process_new_packets()?;
        }
    }
    Ok(Shaken { client, server })
}

fn site() -> Site {
    let site = Site::new();
    site.issue("a", &["a.example", "127.0.0.1"]);
    site.issue("b", &["b.example", "*.b.example"]);
    site
}

#[test]
fn every_host_gets_a_certificate_that_it_accepts() {
    let site = site();
    let (server, client) = (site.server(""), Arc::new(site.client(&[], BOTH)));
    for host in ["a.example", "b.example", "x.b.example", "X.B.example", "127.0.0.1"] {
        assert!(shake(&server, &client, host).is_ok(), "{host}");
    }
    let refused = shake(&server, &client, "c.example").map(|_| ());
    assert!(matches!(refused, Err(Error::InvalidCertificate(_))), "{refused:?}");
}

#[test]
fn a_handshake_sees_what_was_published_last() {
    let site = site();
    let config = site.config("");
    let (mut publisher, reader) = site.published(&config);
    let server = made(&config.listeners[0], reader);
    let client = Arc::new(site.client(&[], BOTH));
    assert!(shake(&server, &client, "new.example").is_err());
    site.issue("b", &["new.example"]);
    publisher.publish(Arc::new(load_certificates(&config, 0).expect("certificates").0));
    assert!(shake(&server, &client, "new.example").is_ok());
    assert!(shake(&server, &client, "b.example").is_err());
}

#[test]
fn protocols_are_those_of_the_listener() {
    let site = site();
    let agreed = |lines: &str, alpn: &[&[u8]]| {
        let client = Arc::new(site.client(alpn, BOTH));
        let shaken = shake(&site.server(lines), &client, "a.example")?;
        Ok(shaken.server.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()))
    };
    let (h2, http1): (&[u8], &[u8]) = (b"h2", b"http/1.1");
    assert_eq!(agreed("", &[http1, h2]), Ok(Some("h2".into())));
    assert_eq!(agreed("", &[http1]), Ok(Some("http/1.1".into())));
    assert_eq!(agreed("", &[]), Ok(None));
    assert_eq!(agreed("protocols = [\"http1\"]", &[h2, http1]), Ok(Some("http/1.1".into())));
    let none = Error::AlertReceived(AlertDescription::NoApplicationProtocol);
    let refused = agreed("protocols = [\"h2\"]", &[http1]);
    assert!(
        matches!(&refused, Err(Error::NoApplicationProtocol)) || refused == Err(none),
        "{refused:?}"
    );
}

#[test]
fn older_versions_are_turned_away_where_the_file_says_so() {
    let site = site();
    let old = Arc::new(site.client(&[], &[&TLS12]));
    let new = Arc::new(site.client(&[], BOTH));
    let version = |lines: &str, client| {
        let shaken = shake(&site.server(lines), client, "a.example")?;
        Ok::<_, Error>(shaken.server.protocol_version())
    };
    assert_eq!(version("", &old), Ok(Some(ProtocolVersion::TLSv1_2)));
    assert_eq!(version("", &new), Ok(Some(ProtocolVersion::TLSv1_3)));
    assert_eq!(version("tls.min_version = \"1.3\"", &new), Ok(Some(ProtocolVersion::TLSv1_3)));
    assert!(version("tls.min_version = \"1.3\"", &old).is_err());
}

#[test]
fn sessions_are_resumed_by_ticket_only_where_tickets_are_on() {
    let site = site();
    for versions in [&[&TLS13] as &[_], &[&TLS12]] {
        for (lines, expected) in
            [("", HandshakeKind::Resumed), ("tls.session_tickets = false", HandshakeKind::Full)]
        {
            let (server, client) = (site.server(lines), Arc::new(site.client(&[], versions)));
            let first = shake(&server, &client, "a.example").expect("a handshake");
            assert_eq!(first.server.handshake_kind(), Some(HandshakeKind::Full));
            let again = shake(&server, &client, "a.example").expect("a handshake");
            assert_eq!(again.client.handshake_kind(), Some(expected), "{versions:?} {lines}");
        }
    }
}

#[test]
fn early_data_is_never_taken() {
    assert_eq!(site().server("").max_early_data_size, 0);
}
