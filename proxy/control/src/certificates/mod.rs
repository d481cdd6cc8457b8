//! Certificates of TLS listeners, found by the name that a client asks for, and what TLS to endpoints goes by: read and
//! verified.
//!
//! Promises: a [`CertificateSet`] that exists is whole: every certificate of the configuration is in it, together with
//! the key that belongs to it. What is wrong is told for all files at once. No message has anything of a key in it.
//! Refuses to know: handshakes, when files change.

mod client;
mod endpoints;
mod load;
mod ocsp;
mod revocation;
mod set;
#[cfg(test)]
mod tests;
mod tickets;
mod verify;

use std::fmt;

pub use client::ClientCertificate;
pub use endpoints::{EndpointTls, name_of_endpoint};
pub(crate) use load::Snapshot;
pub(crate) use set::plain;
pub use set::{Certificate, CertificateSet, ListenerCertificates, Stapled};
pub(crate) use verify::{Issued, Verified, issued};

use meridian_config::Config;

/// What is wrong or odd about a file of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFinding {
    /// Which key of the configuration names the file, such as `listeners[1].tls.certificates[0].private_key`.
    pub path: String,
    /// The file, and what about it.
    pub message: String,
}

impl fmt::Display for CertificateFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Everything that is wrong with the certificates of a configuration, in its order; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct CertificateErrors(pub Vec<CertificateFinding>);

impl fmt::Display for CertificateErrors {
    /// One a line, without a line end after the last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

/// Reads and verifies all certificates that a configuration names; also tells what is odd about them at `unix_s`,
/// such as that one has expired. Blocks.
///
/// # Errors
/// [`CertificateErrors`]
pub fn load_certificates(
    config: &Config,
    unix_s: i64,
) -> Result<(CertificateSet, Vec<CertificateFinding>), CertificateErrors> {
    let Verified { set, warnings } = Snapshot::take(config).verify(unix_s)?;
    Ok((set, warnings))
}
