//! One HTTP/1.1 connection as a client, over TCP or a unix socket.
//!
//! Promises: every wait has a deadline and every body a limit; a connection in an unknown state is not
//! ready. Refuses to know: what is asked and what the answers mean.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Where to connect to: `host:port`, or `unix:/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(String),
    Unix(PathBuf),
}

impl Address {
    /// For the `Host` header.
    pub(crate) fn authority(&self) -> &str {
        match self {
            Self::Tcp(authority) => authority,
            Self::Unix(_) => "localhost",
        }
    }
}

/// Not `host:port` or `unix:/path`.
#[derive(Debug, Error)]
#[error("expected HOST:PORT or unix:/path")]
pub(crate) struct NotAnAddress;

impl FromStr for Address {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(NotAnAddress) } else { Ok(Self::Unix(path.into())) };
        }
        let bare = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let authority: http::uri::Authority = bare.parse().map_err(|_| NotAnAddress)?;
        if authority.host().is_empty() || authority.port_u16().is_none() || bare.contains('@') {
            return Err(NotAnAddress);
        }
        Ok(Self::Tcp(bare.to_owned()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(authority) => f.write_str(authority),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why there was no answer.
#[derive(Debug, Error)]
pub(crate) enum NoAnswer {
    /// The connection could not be made.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// Something did not come in time.
    #[error("no {what} within {} ms", limit.as_millis())]
    TooLate { what: &'static str, limit: Duration },
    /// The connection broke, or what came was not HTTP.
    #[error("the connection broke")]
    Broken(#[source] hyper::Error),
    /// The answer's body broke off or is over the limit.
    #[error("the answer's body: {0}")]
    Body(String),
}

/// An open connection; it is closed when this is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Connection {
    /// Connects within `limit`.
    pub(crate) async fn open(address: &Address, limit: Duration) -> Result<Self, NoAnswer> {
        let opening = async {
            match address {
                Address::Tcp(authority) => {
                    let stream = TcpStream::connect(authority).await.map_err(NoAnswer::Connect)?;
                    stream.set_nodelay(true).map_err(NoAnswer::Connect)?;
                    Self::over(stream).await
                }
                Address::Unix(path) => {
                    Self::over(UnixStream::connect(path).await.map_err(NoAnswer::Connect)?).await
                }
            }
        };
        let late = NoAnswer::TooLate { what: "connection", limit };
        timeout(limit, opening).await.map_err(|_| late)?
    }

    async fn over<S>(stream: S) -> Result<Self, NoAnswer>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(NoAnswer::Broken)?;
        let driver = tokio::spawn(async move {
            // Whoever waits for an answer gets the error.
            let _ = connection.await;
        });
        Ok(Self { sender, driver })
    }

    /// Whether another request may be sent.
    pub(crate) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Sends a request and takes in the whole answer, of at most `max_bytes`, within `limit`.
    pub(crate) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
        limit: Duration,
        max_bytes: usize,
    ) -> Result<Response<Bytes>, NoAnswer> {
        let exchange = async {
            let answer = self.sender.send_request(request).await.map_err(NoAnswer::Broken)?;
            let (parts, body) = answer.into_parts();
            let body = Limited::new(body, max_bytes).collect().await;
            let body = body.map_err(|error| NoAnswer::Body(error.to_string()))?.to_bytes();
            // The connection is free again a moment after the body's end.
            self.sender.ready().await.ok();
            Ok(Response::from_parts(parts, body))
        };
        let late = NoAnswer::TooLate { what: "answer", limit };
        timeout(limit, exchange).await.map_err(|_| late)?
    }

    /// Sends a request and returns once the head of the answer is there; the body may never end.
    pub(crate) async fn stream(
        &mut self,
        request: Request<Full<Bytes>>,
        limit: Duration,
    ) -> Result<Response<Incoming>, NoAnswer> {
        let late = NoAnswer::TooLate { what: "answer", limit };
        let answer = timeout(limit, self.sender.send_request(request)).await.map_err(|_| late)?;
        answer.map_err(NoAnswer::Broken)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let tcp = |text: &str| Ok::<_, String>(Address::Tcp(text.to_owned()));
        let parse = |text: &str| text.parse::<Address>().map_err(|error| error.to_string());
        assert_eq!(parse("127.0.0.1:9901"), tcp("127.0.0.1:9901"));
        assert_eq!(parse("http://[::1]:9901/"), tcp("[::1]:9901"));
        assert_eq!(parse("unix:/run/m.sock"), Ok(Address::Unix("/run/m.sock".into())));
        for wrong in ["", "localhost", "unix:", ":80", "a b:1", "user@host:1", "host:99999"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
