//! What a listener's handshakes share, made anew when the roots of clients' certificates change.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use meridian_config::{ClientAuth, Listener, ListenerName, ListenerTls};
use meridian_control::{AcmeBook, AcmeReader, CertificateReader, ClientCertificate, Clock};
use meridian_routing::TlsCounters;
use rustls::pki_types::UnixTime;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, ProducesTickets};
use rustls::{Error, HandshakeKind};

use super::gate::{Gate, Pass};
use super::tickets::Tickets;
use super::{Orders, TlsStream, server_config};
use crate::client_certificate::Shown;
use crate::identify::Peer;

/// What a TLS listener offers.
pub(crate) struct Offer {
    listener: Listener,
    certificates: CertificateReader,
    acme: AcmeReader,
    ticketer: Option<Arc<dyn ProducesTickets>>,
    made: ArcSwap<Made>,
    gate: Option<Gate>,
}

struct Made {
    /// Of clients' certificates; `None`: they are not asked.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    config: Orders,
}

impl Offer {
    /// # Errors
    /// There is no randomness for the keys of session tickets.
    pub(crate) fn new(
        listener: &Listener,
        tls: &ListenerTls,
        (certificates, acme): (CertificateReader, AcmeReader),
    ) -> Result<Self, Error> {
        let tickets = || Tickets::new(listener.name.clone(), certificates.clone());
        let ticketer = if tls.session_tickets { Some(tickets()?) } else { None };
        let ticketer = ticketer.map(|tickets| Arc::new(tickets) as _);
        let verifier = verifier(&certificates, &listener.name, tls.client_auth)?;
        let readers = (certificates.clone(), acme.clone());
        let config = make(listener, tls, readers, verifier.clone(), ticketer.clone())?;
        let made = ArcSwap::from_pointee(Made { verifier, config });
        let gate = Gate::new(tls.handshakes);
        Ok(Self { listener: listener.clone(), certificates, acme, ticketer, made, gate })
    }

    /// Lets a handshake begin: a pass where there are limits, to be held until it is over.
    ///
    /// # Errors
    /// There are too many; it was counted.
    pub(crate) fn begin(
        &self,
        peer: &Peer,
        clock: Clock,
        counters: &TlsCounters,
    ) -> Result<Option<Pass<'_>>, ()> {
        let Some(gate) = &self.gate else { return Ok(None) };
        let client = (!peer.trusted).then_some(peer.address);
        gate.enter(client, clock.now(), counters).map(Some).ok_or(())
    }

    /// For one handshake, with the roots in force. What was made before is used as long as they are the same.
    pub(crate) fn config(&self) -> Orders {
        let made = self.made.load();
        let Some(before) = &made.verifier else { return made.config.clone() };
        let Some(tls) = &self.listener.tls else { return made.config.clone() };
        let now = verifier(&self.certificates, &self.listener.name, tls.client_auth).ok().flatten();
        let Some(now) = now.filter(|now| !Arc::ptr_eq(now, before)) else {
            return made.config.clone();
        };
        let (listener, ticketer) = (&self.listener, self.ticketer.clone());
        let readers = (self.certificates.clone(), self.acme.clone());
        match make(listener, tls, readers, Some(now.clone()), ticketer) {
            Ok(config) => {
                self.made.store(Arc::new(Made { verifier: Some(now), config: config.clone() }));
                config
            }
            // It was made of the same settings at the start.
            Err(_) => made.config.clone(),
        }
    }

    /// What answers challenges, while a handshake may be about one.
    pub(crate) fn challenges(&self) -> Option<Arc<AcmeBook>> {
        let book = self.acme.load();
        let awaits = book.awaits_handshakes() && book.is_shown_by(&self.listener.name);
        awaits.then_some(book)
    }

    /// Who a client is, after its handshake; `None` where clients are not asked. A session that is resumed brings the
    /// certificate of its first handshake, and rustls does not verify it again, so that this does: the roots may be
    /// others now, it may have expired, or the ticket is of a listener that asks for less.
    ///
    /// # Errors
    /// It has not proved who it is, as the listener demands.
    pub(crate) fn client(&self, stream: &TlsStream) -> io::Result<Option<Shown>> {
        let auth = self.listener.tls.as_ref().map_or(ClientAuth::Off, |tls| tls.client_auth);
        if auth == ClientAuth::Off {
            return Ok(None);
        }
        let Some([own, rest @ ..]) = stream.client_chain() else {
            return match auth {
                ClientAuth::Required => Err(denied("no certificate")),
                ClientAuth::Off | ClientAuth::Optional => Ok(Some(Shown::nothing())),
            };
        };
        if stream.handshake_kind() == Some(HandshakeKind::Resumed) {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let now = UnixTime::since_unix_epoch(now.unwrap_or_default());
            let verifier = verifier(&self.certificates, &self.listener.name, auth);
            let verifier = verifier.ok().flatten().ok_or_else(|| denied("no roots"))?;
            verifier.verify_client_cert(own, rest, now).map_err(denied)?;
        }
        let read = ClientCertificate::of(own).map_err(denied)?;
        Ok(Some(Shown::verified(read, own)))
    }
}

fn denied(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

/// What verifies the certificates of a listener's clients now.
///
/// # Errors
/// They are to be verified, but there is nothing to do it with.
fn verifier(
    certificates: &CertificateReader,
    listener: &ListenerName,
    auth: ClientAuth,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, Error> {
    if auth == ClientAuth::Off {
        return Ok(None);
    }
    let set = certificates.load();
    let verifier = set.listener(listener).and_then(|of| of.client_verifier()).cloned();
    verifier.map(Some).ok_or_else(|| Error::General("the roots of clients are not there".into()))
}

fn make(
    listener: &Listener,
    tls: &ListenerTls,
    readers: (CertificateReader, AcmeReader),
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    ticketer: Option<Arc<dyn ProducesTickets>>,
) -> Result<Orders, Error> {
    let verifier = verifier.unwrap_or_else(|| Arc::new(NoClientAuth));
    server_config(listener, tls, readers, verifier, ticketer)
}
