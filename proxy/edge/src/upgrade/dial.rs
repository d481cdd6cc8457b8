//! Connections to endpoints for the pingora lane: the endpoint is told whom one is for, hands are shaken, and heads of
//! answers are looked at before pingora is.
//!
//! Promises: the same PROXY header, roots, certificate and name as the direct lane's connections. Refuses to know: what
//! moves over them.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use meridian_config::{EndpointKey, ServiceTls};
use meridian_control::{EndpointTls, name_of_endpoint};
use meridian_routing::{Handshake, ServiceCounters};
use pingora_core::connectors::l4::Connect;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::l4::virt::{VirtualSocket, VirtualSocketStream};
use pingora_core::{Error, ErrorType, Result};
use rustls::HandshakeKind;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::guarded::Guarded;
use crate::proxy_protocol::Introduction;
use crate::tls::is_unverified;

/// How pingora connects to an endpoint.
pub(super) struct TunnelDial {
    /// Where endpoints are told.
    pub(super) introduction: Option<Introduction>,
    /// Where the service has TLS.
    pub(super) secure: Option<TunnelTls>,
    /// Connect, header and handshake.
    pub(super) within: Duration,
    /// A silent tunnel is asked so often whether its end is there.
    pub(super) keepalive: Duration,
}

pub(super) struct TunnelTls {
    pub(super) settings: ServiceTls,
    pub(super) key: EndpointKey,
    /// `None`: not loaded, which a table that is in force never meets.
    pub(super) tls: Option<Arc<EndpointTls>>,
    pub(super) counters: Arc<ServiceCounters>,
}

impl TunnelDial {
    async fn open(&self, address: std::net::SocketAddr) -> io::Result<Stream> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new().with_time(self.keepalive).with_interval(self.keepalive);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        if let Some(introduction) = &self.introduction {
            introduction.send(&mut stream).await?;
        }
        let socket: Box<dyn VirtualSocket> = match &self.secure {
            None => Box::new(Guarded::new(stream)),
            Some(secure) => Box::new(Guarded::new(Box::new(secure.shake(stream).await?))),
        };
        Ok(VirtualSocketStream::new(socket).into())
    }
}

impl TunnelTls {
    async fn shake(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let tls = self.tls.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let shaken = match name_of_endpoint(&self.settings, &self.key.address) {
            Ok(name) => TlsConnector::from(tls.http1.clone()).connect(name, stream).await,
            Err(why) => Err(io::Error::other(why)),
        };
        let how = match &shaken {
            Ok(stream) => match stream.get_ref().1.handshake_kind() {
                Some(HandshakeKind::Resumed) => Handshake::Resumed,
                _ => Handshake::Full,
            },
            Err(error) if is_unverified(error) => Handshake::Unverified,
            Err(_) => Handshake::Failed,
        };
        self.counters.shaken(how);
        let stream = shaken.inspect_err(|error| tls.failed(&self.key, error))?;
        tls.answered(&self.key);
        Ok(stream)
    }
}

#[async_trait]
impl Connect for TunnelDial {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let address = address.as_inet().ok_or_else(|| Error::new(ErrorType::ConnectNoRoute))?;
        match tokio::time::timeout(self.within, self.open(*address)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => {
                Err(Error::because(ErrorType::ConnectError, "connecting to the endpoint", error))
            }
            Err(_) => Err(Error::new(ErrorType::ConnectTimedout)),
        }
    }
}

impl fmt::Debug for TunnelDial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secure = self.secure.is_some();
        write!(f, "TunnelDial({:?}, secure: {secure})", self.introduction)
    }
}
