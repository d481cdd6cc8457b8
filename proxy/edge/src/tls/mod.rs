//! What a TLS listener offers: versions, protocols, session tickets, certificates by server name. TLS streams with clients
//! and with endpoints.
//!
//! Promises: every handshake takes its certificate from the set in force. Refuses to know: where certificates come
//! from, how bytes move.

mod bridge;
mod challenge;
mod gate;
mod offer;
mod order;
mod resolver;
mod session;
mod stream;
#[cfg(test)]
mod tests;
mod tickets;

use std::io;
use std::sync::Arc;

use meridian_config::{Listener, ListenerTls, TlsVersion};
use meridian_control::{AcmeReader, CertificateReader};
use rustls::crypto::aws_lc_rs;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::version::{TLS12, TLS13};
use rustls::{Error, ServerConfig, SupportedProtocolVersion};

pub(crate) use bridge::bridge;
pub(crate) use challenge::first_words;
pub(crate) use offer::Offer;
pub(crate) use order::Orders;
pub(crate) use session::{Client, Server, Session};
pub(crate) use stream::{SCRATCH, TlsStream};

use resolver::ByServerName;

/// HTTP/2 as ALPN names it (RFC 9113, 3.1).
pub(crate) const ALPN_H2: &[u8] = b"h2";
/// HTTP/1.1 as ALPN names it (RFC 7301, 6).
pub(crate) const ALPN_HTTP1: &[u8] = b"http/1.1";

/// What all handshakes of a listener share.
///
/// # Errors
/// Never: the versions are there.
fn server_config(
    listener: &Listener,
    tls: &ListenerTls,
    (certificates, acme): (CertificateReader, AcmeReader),
    clients: Arc<dyn ClientCertVerifier>,
    ticketer: Option<Arc<dyn ProducesTickets>>,
) -> Result<Orders, Error> {
    let versions: &[&SupportedProtocolVersion] = match tls.min_version {
        TlsVersion::Tls12 => &[&TLS13, &TLS12],
        TlsVersion::Tls13 => &[&TLS13],
    };
    let resolver = ByServerName::new(listener.name.clone(), certificates, acme);
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::new(resolver));
    let protocols = [(ALPN_H2, listener.h2), (ALPN_HTTP1, listener.http1)];
    let protocols = protocols.iter().filter(|(_, on)| *on);
    config.alpn_protocols = protocols.map(|(name, _)| name.to_vec()).collect();
    // Early data can be replayed by whoever has seen it.
    config.max_early_data_size = 0;
    // Tickets keep sessions with the clients, and workers need not share them.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    match ticketer {
        Some(ticketer) => config.ticketer = ticketer,
        None => config.send_tls13_tickets = 0,
    }
    Ok(Orders::new(config))
}

/// Whether a handshake with an endpoint failed because its certificate is not good.
pub(crate) fn is_unverified(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
    matches!(cause, Some(Error::InvalidCertificate(_) | Error::NoCertificatesPresented))
}
