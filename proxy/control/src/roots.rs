//! TLS to servers that are no endpoints: a webhook, the directory of an authority.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

/// A larger file of roots is not one, bytes.
const MAX_ROOTS: u64 = 4 << 20;

/// What shakes hands with servers whose certificates lead to the roots of a PEM file; `None`: to the system's. Blocks.
///
/// # Errors
/// In words, with the file: it cannot be read, or holds no roots; or the system has none.
pub(crate) fn connector(ca: Option<&Path>) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(file) => {
            let told = |why: String| format!("ca: {}: {why}", file.display());
            let metadata = fs::metadata(file).map_err(|e| told(format!("cannot be read: {e}")))?;
            if !metadata.is_file() || metadata.len() > MAX_ROOTS {
                return Err(told("is not a regular file of at most 4 MiB".into()));
            }
            let certificates = CertificateDer::pem_file_iter(file)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| told(error.to_string()))?;
            for certificate in certificates {
                roots.add(certificate).map_err(|error| told(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(told("holds no certificate".into()));
            }
        }
        None => {
            // Systems carry roots that nobody can read any more; the others count.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err("this system has no root certificates; set ca".into());
            }
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
