//! A challenge that is pending, and what answers it.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};

/// How TLS names the protocol of a challenge (RFC 8737 section 6.2).
pub const ALPN_ACME: &[u8] = b"acme-tls/1";

/// A challenge that is pending.
#[derive(Clone)]
pub(super) struct Challenge {
    /// The order that it is about.
    pub(super) order: u64,
    pub(super) answer: Answer,
    /// How often somebody asked.
    pub(super) asked: Arc<AtomicU64>,
}

/// What answers it.
#[derive(Clone)]
pub(super) enum Answer {
    /// A request for the token gets the text (RFC 8555 section 8.3).
    Http { token: String, text: Arc<str> },
    /// A handshake for the host is shaken by this (RFC 8737).
    Tls { host: String, config: Arc<ServerConfig> },
}

impl Answer {
    /// A certificate that signs itself, with the digest in it.
    ///
    /// # Errors
    /// In words: there is no randomness for its key.
    pub(super) fn tls(host: &str, digest: &[u8]) -> Result<Self, String> {
        let words = |error: rcgen::Error| error.to_string();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(words)?;
        let mut params = CertificateParams::new([host.to_owned()]).map_err(words)?;
        params.distinguished_name = DistinguishedName::new();
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
        let certificate = params.self_signed(&key).map_err(words)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let words = |error: rustls::Error| error.to_string();
        let key = aws_lc_rs::sign::any_supported_type(&der).map_err(words)?;
        let certified = CertifiedKey::new(vec![certificate.der().clone()], key);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(words)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![ALPN_ACME.to_vec()];
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self::Tls { host: host.to_owned(), config: Arc::new(config) })
    }
}
