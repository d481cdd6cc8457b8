//! Certificates that an authority issues by itself (ACME, RFC 8555): asked for, kept, renewed.
//!
//! Promises: what was issued is on the disk before anybody needs it again, is shown at once after a restart without a word
//! to the authority, and stays in force until there is a newer one; a failure costs a pause that grows, and nothing else.
//! One task writes what handshakes and requests look up ([`AcmeBook`]). Refuses to know: certificates from files, who asks
//! for a certificate.

mod book;
mod challenge;
mod cover;
mod directory;
mod entry;
mod failure;
mod follow;
mod office;
mod order;
mod report;
mod schedule;
mod store;
mod task;

pub use book::AcmeBook;
pub use challenge::ALPN_ACME;
pub(crate) use report::{AcmeReport, CertificateReport};
pub(crate) use task::{AcmeParts, AcmeTask};

use meridian_config::Config;

use crate::roots::connector;

/// What is wrong with the files that `[acme]` names, or with the system's roots if these are asked for. Blocks.
///
/// # Errors
/// In words, with the key.
pub fn check_acme(config: &Config) -> Result<(), String> {
    let Some(acme) = &config.acme else { return Ok(()) };
    if acme.certificates.is_empty() {
        return Ok(());
    }
    office::external_key(acme)?;
    connector(acme.ca.as_deref()).map(drop)
}
