//! The certificate for a handshake.

use std::fmt;
use std::sync::Arc;

use meridian_config::ListenerName;
use meridian_control::{AcmeReader, CertificateReader, unix_ms};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Finds a listener's certificate by the host that the client names.
pub(super) struct ByServerName {
    listener: ListenerName,
    certificates: CertificateReader,
    acme: AcmeReader,
}

impl ByServerName {
    pub(super) fn new(
        listener: ListenerName,
        certificates: CertificateReader,
        acme: AcmeReader,
    ) -> Self {
        Self { listener, certificates, acme }
    }
}

impl ResolvesServerCert for ByServerName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let set = self.certificates.load();
        let schemes = hello.signature_schemes();
        let usable = |key: &CertifiedKey| key.key.choose_scheme(schemes).is_some();
        let (files, host) = (set.listener(&self.listener)?, hello.server_name());
        let issued = self.acme.load();
        let certificate = match issued.is_shown_by(&self.listener) {
            false => files.choose(host, usable)?,
            true => issued.choose(files, host, usable)?,
        };
        Some(certificate.at(|| i64::try_from(unix_ms() / 1000).unwrap_or(i64::MAX)))
    }
}

impl fmt::Debug for ByServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ByServerName({})", self.listener)
    }
}
