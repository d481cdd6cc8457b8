//! Where a connection to an endpoint leads, and how: what the pool keeps connections apart by, and TLS' handshake.
//!
//! Promises: a connection is used again only where a new one would lead to the same endpoint by the same certificates, for
//! the same client where endpoints are told whose it is; a service without TLS pays one comparison, and so does one
//! without a PROXY header. Refuses to know: requests.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use meridian_config::{EndpointKey, ServiceTls, UpstreamProtocol};
use meridian_control::{EndpointTls, name_of_endpoint};
use meridian_routing::{EndpointView, Handshake, ServiceCounters, ServiceView};
use rustls::Error;
use tokio::net::TcpStream;

use super::journey::Journey;
use crate::buffers::Buffers;
use crate::proxy_protocol::Introduction;
use crate::tls::{ALPN_H2, Client, TlsStream, is_unverified};
use crate::transport::Transport;

/// What connections are kept apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) address: SocketAddr,
    /// [`EndpointTls::id`]; 0: cleartext.
    tls: u64,
    /// Under TLS the endpoint as well: its name is what its certificate was held against. 0: cleartext.
    endpoint: u64,
}

/// The time that there is for a connection by default: under TLS there are one or two round trips more than without.
pub(crate) fn automatic(connect: Duration, secure: bool) -> Duration {
    if secure { 2 * connect } else { connect }
}

impl Place {
    /// Whether there is TLS on the way.
    pub(super) fn is_secure(self) -> bool {
        self.tls != 0
    }
}

/// How to get to an endpoint.
pub(crate) struct Dial<'a> {
    secure: Option<Secure<'a>>,
    /// Where endpoints are told.
    pub(super) introduction: Option<Introduction>,
    protocol: UpstreamProtocol,
}

struct Secure<'a> {
    settings: &'a ServiceTls,
    endpoint: &'a EndpointView,
    counters: &'a ServiceCounters,
    /// `None`: not loaded, which a table that is in force never meets.
    tls: Option<Arc<EndpointTls>>,
}

/// The far end of a connection under TLS, to be blamed for what goes wrong with that.
#[derive(Debug)]
pub(crate) struct Blame {
    tls: Arc<EndpointTls>,
    key: EndpointKey,
}

impl<'a> Dial<'a> {
    pub(super) fn new(
        journey: &Journey<'_>,
        service: &'a ServiceView,
        endpoint: &'a EndpointView,
    ) -> Self {
        let secure = service.settings.tls.as_ref().map(|settings| Secure {
            settings,
            endpoint,
            counters: &service.counters,
            tls: journey.worker.endpoint_tls(&settings.files),
        });
        let version = service.settings.send_proxy_protocol;
        let introduction = version.map(|version| journey.peer.introduces(version, &journey.client));
        Self { secure, introduction, protocol: service.settings.protocol }
    }

    /// Whether requests share connections.
    pub(crate) fn is_shared(&self) -> bool {
        self.protocol != UpstreamProtocol::Http1
    }

    /// Where connections to one of its addresses are kept.
    pub(super) fn place(&self, address: SocketAddr) -> Place {
        let Some(secure) = &self.secure else { return Place { address, tls: 0, endpoint: 0 } };
        let tls = secure.tls.as_ref().map_or(u64::MAX, |tls| tls.id);
        Place { address, tls, endpoint: secure.endpoint.identity.endpoint }
    }

    /// Says whom the connection is for, and shakes hands, as the service asks.
    pub(crate) async fn secure(
        &self,
        mut socket: TcpStream,
        buffers: &Rc<Buffers>,
    ) -> io::Result<(Transport<Client>, Option<Box<Blame>>)> {
        if let Some(introduction) = &self.introduction {
            Box::pin(introduction.send(&mut socket)).await?;
        }
        let Some(secure) = &self.secure else { return Ok((Transport::Plain(socket), None)) };
        // Its future is large, and cleartext should not carry room for it.
        let (stream, blame) = Box::pin(secure.shake(socket, self.is_shared(), buffers)).await?;
        Ok((Transport::Tls(stream), Some(blame)))
    }
}

impl Secure<'_> {
    async fn shake(
        &self,
        socket: TcpStream,
        h2: bool,
        buffers: &Rc<Buffers>,
    ) -> io::Result<(Box<TlsStream<Client>>, Box<Blame>)> {
        let key = &self.endpoint.key;
        let Some(tls) = &self.tls else { return Err(io::ErrorKind::NotFound.into()) };
        let shaking = async {
            let name = name_of_endpoint(self.settings, &key.address).map_err(io::Error::other)?;
            let config = if h2 { &tls.h2 } else { &tls.http1 };
            let stream = TlsStream::connect(socket, config.clone(), name, buffers).await?;
            if h2 && stream.alpn() != Some(ALPN_H2) {
                return Err(io::Error::other("the endpoint does not speak HTTP/2 (ALPN)"));
            }
            Ok(stream)
        };
        // One that runs out of time is dropped here: that counts as well.
        let mut count = Count { counters: self.counters, how: Handshake::Failed };
        let shaken = shaking.await;
        let stream = shaken.inspect_err(|error| {
            tls.failed(key, error);
            if is_unverified(error) {
                count.how = Handshake::Unverified;
            }
        })?;
        tls.answered(key);
        count.how = if stream.is_resumed() { Handshake::Resumed } else { Handshake::Full };
        Ok((Box::new(stream), Box::new(Blame { tls: tls.clone(), key: key.clone() })))
    }
}

/// Counts a handshake however it ends.
struct Count<'a> {
    counters: &'a ServiceCounters,
    how: Handshake,
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.counters.shaken(self.how);
    }
}

impl Blame {
    /// Reading or writing has failed: if that was TLS, it is told.
    pub(crate) fn note(&self, error: &io::Error) {
        if error.get_ref().is_some_and(|cause| cause.is::<Error>()) {
            self.tls.failed(&self.key, error);
        }
    }
}
