//! What TLS to endpoints goes by: roots, and the certificate that endpoints are shown. One for each set of files, however
//! many services name them.
//!
//! Promises: what is found wrong with an endpoint's TLS is logged when it is new and remembered until hands are shaken
//! with it. Refuses to know: how bytes move.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use meridian_config::{EndpointAddress, EndpointKey, Fingerprint, ServiceTls};
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::ServerName;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};

use crate::http_client::failure;

/// Endpoints of one set of files whose faults are remembered.
const MOST_FAULTS: usize = 4096;
/// The longest fault that is kept, bytes.
const LONGEST_FAULT: usize = 512;

/// Numbers of [`EndpointTls::id`].
static IDS: AtomicU64 = AtomicU64::new(1);

/// The client's side of TLS to endpoints.
pub struct EndpointTls {
    /// Another one whenever the files held something else; never 0.
    pub id: u64,
    /// Offers HTTP/1.1.
    pub http1: Arc<ClientConfig>,
    /// Offers HTTP/2.
    pub h2: Arc<ClientConfig>,
    /// Of what the files held.
    pub(super) content: Fingerprint,
    faults: Faults,
}

/// What is wrong with TLS to endpoints, in words.
#[derive(Default)]
struct Faults {
    any: AtomicBool,
    of: Mutex<BTreeMap<EndpointKey, String>>,
}

impl EndpointTls {
    /// Takes what was read from files of this content.
    ///
    /// # Errors
    /// As rustls gives them: the provider has no versions in common with it.
    pub(super) fn new(
        roots: RootCertStore,
        client: Option<CertifiedKey>,
        content: Fingerprint,
    ) -> Result<Self, rustls::Error> {
        let client = client.map(|key| Arc::new(SingleCertAndKey::from(key)));
        let client = client.map(|client| client as Arc<dyn ResolvesClientCert>);
        let roots = Arc::new(roots);
        let config = |protocol: &[u8]| -> Result<Arc<ClientConfig>, rustls::Error> {
            // Sessions that can be resumed are kept, 256 of them; all workers share them.
            let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
                .with_safe_default_protocol_versions()?
                .with_root_certificates(roots.clone());
            let mut config = match &client {
                Some(client) => builder.with_client_cert_resolver(client.clone()),
                None => builder.with_no_client_auth(),
            };
            config.alpn_protocols = vec![protocol.to_vec()];
            Ok(Arc::new(config))
        };
        let id = IDS.fetch_add(1, Relaxed);
        let (http1, h2) = (config(b"http/1.1")?, config(b"h2")?);
        Ok(Self { id, http1, h2, content, faults: Faults::default() })
    }

    /// Hands could not be shaken with an endpoint, or it has refused what it was shown. Logged if that is new.
    pub fn failed(&self, key: &EndpointKey, error: &(dyn std::error::Error + 'static)) {
        let mut why = failure(error).to_string();
        if let Some((end, _)) = why.char_indices().find(|(at, _)| *at >= LONGEST_FAULT) {
            why.truncate(end);
        }
        self.faults.any.store(true, Relaxed);
        let mut faults = self.faults.of.lock().unwrap_or_else(PoisonError::into_inner);
        if faults.get(key) == Some(&why) {
            return;
        }
        let (service, region, endpoint) = (&key.service, &key.region, key.address.to_string());
        tracing::warn!(target: "tls", %service, %region, endpoint, error = why, "no TLS to this endpoint");
        if faults.len() < MOST_FAULTS || faults.contains_key(key) {
            faults.insert(key.clone(), why);
        }
    }

    /// An endpoint has answered under TLS.
    pub fn answered(&self, key: &EndpointKey) {
        if !self.faults.any.load(Relaxed) {
            return;
        }
        let mut faults = self.faults.of.lock().unwrap_or_else(PoisonError::into_inner);
        if faults.remove(key).is_some() {
            let (service, region, endpoint) = (&key.service, &key.region, key.address.to_string());
            tracing::info!(target: "tls", %service, %region, endpoint, "TLS to this endpoint again");
        }
        self.faults.any.store(!faults.is_empty(), Relaxed);
    }

    /// What is wrong with TLS to an endpoint.
    pub fn fault(&self, key: &EndpointKey) -> Option<String> {
        let faults = self.faults.of.lock().unwrap_or_else(PoisonError::into_inner);
        faults.get(key).cloned()
    }
}

impl fmt::Debug for EndpointTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EndpointTls({})", self.id)
    }
}

/// The name that an endpoint is asked for and that its certificate must be for.
///
/// # Errors
/// It has none that a certificate could be for; in words.
pub fn name_of_endpoint(
    tls: &ServiceTls,
    address: &EndpointAddress,
) -> Result<ServerName<'static>, String> {
    let name = match (&tls.server_name, address) {
        (Some(name), _) => name.as_str(),
        (None, EndpointAddress::Ip(address)) => return Ok(address.ip().into()),
        (None, EndpointAddress::Name(host, _)) => host,
    };
    ServerName::try_from(name.to_owned())
        .map_err(|_| format!("{name:?} is not a name that a certificate can be for"))
}

#[cfg(test)]
#[path = "endpoints_tests.rs"]
mod tests;
