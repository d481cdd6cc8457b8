//! `[services.tls]`: how connections to endpoints are encrypted. Types only.

use std::path::PathBuf;

use crate::load::Fingerprint;
use crate::model::CertificateFiles;

/// `[services.tls]`
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceTls {
    /// The name that endpoints are asked for (SNI) and that their certificates must be for, in lower case; `None`: what
    /// the endpoint's address says.
    pub server_name: Option<String>,
    /// What is the same for all services whose files are.
    pub files: TlsFiles,
}

/// The files that connections to endpoints go by. None of their contents is part of a configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsFiles {
    /// PEM: the roots that an endpoint's certificate must lead to; absolute. `None`: the system's.
    pub ca: Option<PathBuf>,
    /// What endpoints are shown that ask for a certificate.
    pub client: Option<CertificateFiles>,
    /// Tells these files apart from others: a hash of their paths.
    pub id: Fingerprint,
}

impl TlsFiles {
    /// These files.
    pub fn new(ca: Option<PathBuf>, client: Option<CertificateFiles>) -> Self {
        let client_files = client.iter().flat_map(|pair| [&pair.certificate, &pair.private_key]);
        let mut text = Vec::new();
        for path in ca.iter().chain(client_files) {
            text.extend_from_slice(path.as_os_str().as_encoded_bytes());
            text.push(0);
        }
        // One file is the roots, two are a certificate and its key.
        text.push(u8::from(ca.is_some()));
        Self { id: Fingerprint::of(&text), ca, client }
    }
}
