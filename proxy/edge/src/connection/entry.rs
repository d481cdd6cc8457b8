//! What comes before a connection's first request: whom it is from, and TLS. Each has the deadline of a head.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use meridian_control::AcmeBook;
use rustls::HandshakeKind;
use tokio::net::TcpStream;
use tracing::debug;

use super::turn_away;
use crate::alarm::Alarm;
use crate::client_certificate::Shown;
use crate::identify::Peer;
use crate::listener::ListenerState;
use crate::proxy_protocol::{self, Origin};
use crate::tls::{Offer, TlsStream, first_words};
use crate::worker::{OpenConnection, Worker};

/// Who the connection is from; `None`: it was turned away.
pub(super) async fn identify(
    worker: &Rc<Worker>,
    stream: &TcpStream,
    listener: &ListenerState,
    peer: SocketAddr,
    alarm: &Alarm,
    open: &mut OpenConnection,
) -> Option<Peer> {
    let reached = reached(stream, listener);
    if !listener.settings.proxy_protocol {
        return Some(Peer::new(peer, reached, &listener.settings));
    }
    match Box::pin(proxied(worker, stream, listener, alarm)).await? {
        Origin::Unknown => Some(Peer::new(peer, reached, &listener.settings).distrusted()),
        Origin::Client { client, reached } => match open.is_from(worker, client, listener) {
            Ok(()) => Some(Peer::new(client, reached, &listener.settings)),
            Err(full) => {
                if listener.tls.is_none() {
                    turn_away(worker, stream, client, &full);
                }
                None
            }
        },
    }
}

/// Where a connection has come to; no system call where the listener has one address only.
fn reached(stream: &TcpStream, listener: &ListenerState) -> SocketAddr {
    let own = listener.settings.address;
    if own.ip().is_unspecified() || own.port() == 0 {
        // A connection that has broken meanwhile has none: it carries no request either.
        return stream.local_addr().unwrap_or(own);
    }
    own
}

/// The PROXY header, within the deadline of a head; `None`: there is none, or not a good one.
async fn proxied(
    worker: &Worker,
    stream: &TcpStream,
    listener: &ListenerState,
    alarm: &Alarm,
) -> Option<Origin> {
    alarm.set(worker.with_limits(|limits| limits.header_timeout));
    let error = match alarm.race(proxy_protocol::receive(stream)).await {
        Ok(Ok(origin)) => return Some(origin),
        Ok(Err(error)) => error,
        Err(_) => io::ErrorKind::TimedOut.into(),
    };
    listener.counters.refused_proxy_header.fetch_add(1, Relaxed);
    debug!(target: "edge", listener = %listener.settings.name, %error, "no PROXY header");
    None
}

/// TLS, within the deadline of a head; and what the client has shown, where it was asked.
pub(super) async fn shake_hands(
    worker: &Worker,
    stream: TcpStream,
    offer: &Offer,
    listener: &ListenerState,
    peer: &Peer,
    alarm: &Alarm,
) -> Option<(Box<TlsStream>, Option<Box<Shown>>)> {
    let counters = &listener.counters.tls;
    let _pass = offer.begin(peer, worker.clock, counters).ok()?;
    alarm.set(worker.with_limits(|limits| limits.header_timeout));
    let shaken = match offer.challenges() {
        None => alarm.race(TlsStream::accept(stream, offer.config(), &worker.buffers)).await,
        Some(book) => match alarm.race(shake_or_answer(worker, stream, offer, &book)).await {
            Ok(Ok(None)) => {
                counters.full.fetch_add(1, Relaxed);
                return None;
            }
            Ok(Ok(Some(stream))) => Ok(Ok(stream)),
            Ok(Err(error)) => Ok(Err(error)),
            Err(late) => Err(late),
        },
    };
    let (counter, error) = match shaken {
        Ok(Ok(stream)) => match offer.client(&stream) {
            Ok(shown) => {
                let resumed = stream.handshake_kind() == Some(HandshakeKind::Resumed);
                let counter = if resumed { &counters.resumed } else { &counters.full };
                counter.fetch_add(1, Relaxed);
                return Some((Box::new(stream), shown.map(Box::new)));
            }
            Err(error) => (&counters.unproven, error),
        },
        Ok(Err(error)) => (&counters.failed, error),
        Err(_) => (&counters.late, io::ErrorKind::TimedOut.into()),
    };
    counter.fetch_add(1, Relaxed);
    debug!(target: "edge", listener = %listener.settings.name, %error, "TLS handshake failed");
    None
}

/// Shakes hands while an authority may ask for a challenge; `None`: it did, and has its answer.
async fn shake_or_answer(
    worker: &Worker,
    stream: TcpStream,
    offer: &Offer,
    book: &AcmeBook,
) -> io::Result<Option<TlsStream>> {
    let (first, host) = first_words(&stream).await?;
    match host.and_then(|host| book.handshake(&host)) {
        None => {
            let config = offer.config().of(&first);
            TlsStream::accept_after(first, stream, config, &worker.buffers).await.map(Some)
        }
        Some(config) => {
            let shaken = TlsStream::accept_after(first, stream, config, &worker.buffers).await;
            shaken?.say_goodbye();
            Ok(None)
        }
    }
}
