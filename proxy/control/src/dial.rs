//! Connections of the control plane to endpoints, for probes and status pages: cleartext, or the service's TLS.
//!
//! Promises: the same roots, certificate and name as the data path's connections, and a PROXY header where the service's
//! have one: it speaks for nobody, since no client is behind these. Refuses to know: deadlines, HTTP.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use meridian_config::{EndpointKey, ProxyVersion, Service, ServiceTls, UpstreamProtocol};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::certificates::{EndpointTls, name_of_endpoint};
use crate::http_client::{Failure, connect, failure};
use crate::published::CertificateReader;

/// How an endpoint is connected to.
#[derive(Clone, Default)]
pub(crate) struct Dialer {
    secure: Option<Secure>,
    proxy: Option<ProxyVersion>,
}

/// What says in front of a connection that it is nobody's but this edge's own
/// (<https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>, sections 2.1 and 2.2).
fn own_header(version: ProxyVersion) -> &'static [u8] {
    match version {
        ProxyVersion::V1 => b"PROXY UNKNOWN\r\n",
        // Version 2, LOCAL; no family, no addresses.
        ProxyVersion::V2 => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    }
}

#[derive(Clone)]
struct Secure {
    settings: ServiceTls,
    key: EndpointKey,
    certificates: CertificateReader,
}

/// What is to be spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Speaks {
    #[default]
    Http1,
    Http2,
}

impl Speaks {
    /// What a service's requests are in.
    pub(crate) fn of(service: &Service) -> Self {
        match service.protocol {
            UpstreamProtocol::Http1 => Self::Http1,
            UpstreamProtocol::H2 | UpstreamProtocol::H2c => Self::Http2,
        }
    }
}

/// A connection.
pub(crate) struct Dialled {
    pub(crate) stream: Stream,
    pub(crate) peer: SocketAddr,
    /// The connect took so long, without TLS' handshake.
    pub(crate) took: Duration,
    /// Of the TLS that it goes by; 0: none.
    pub(crate) tls: u64,
}

/// Cleartext or TLS.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Dialer {
    /// For an endpoint of a service.
    pub(crate) fn new(
        tls: Option<&ServiceTls>,
        proxy: Option<ProxyVersion>,
        key: &EndpointKey,
        certificates: &CertificateReader,
    ) -> Self {
        let secure = tls.map(|settings| Secure {
            settings: settings.clone(),
            key: key.clone(),
            certificates: certificates.clone(),
        });
        Self { secure, proxy }
    }

    /// Which TLS a new connection would go by, as [`Dialled::tls`].
    pub(crate) fn present(&self) -> u64 {
        self.secure.as_ref().and_then(Secure::present).map_or(0, |tls| tls.id)
    }

    /// Connects to the first address that answers, says whom it is for, and shakes hands.
    pub(crate) async fn dial(
        &self,
        addresses: &[SocketAddr],
        speaks: Speaks,
    ) -> Result<Dialled, Failure> {
        let (mut stream, took) = connect(addresses).await?;
        let peer = stream.peer_addr().map_err(|error| failure(&error))?;
        if let Some(version) = self.proxy {
            let sent = stream.write_all(own_header(version)).await;
            sent.map_err(|error| failure(&error))?;
        }
        let Some(secure) = &self.secure else {
            return Ok(Dialled { stream: Stream::Plain(stream), peer, took, tls: 0 });
        };
        let tls = secure.present().ok_or("its certificates are not loaded")?;
        let config = match speaks {
            Speaks::Http1 => &tls.http1,
            Speaks::Http2 => &tls.h2,
        };
        let shaken = secure.shake(config, stream).await;
        let stream = shaken.inspect_err(|error| tls.failed(&secure.key, error));
        let stream = stream.map_err(|error| failure(&error))?;
        tls.answered(&secure.key);
        Ok(Dialled { stream: Stream::Tls(Box::new(stream)), peer, took, tls: tls.id })
    }
}

impl Secure {
    fn present(&self) -> Option<Arc<EndpointTls>> {
        self.certificates.load().endpoints(&self.settings.files).cloned()
    }

    async fn shake(
        &self,
        config: &Arc<ClientConfig>,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = name_of_endpoint(&self.settings, &self.key.address).map_err(io::Error::other)?;
        TlsConnector::from(config.clone()).connect(name, stream).await
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
