//! One kept-alive connection to one endpoint, of HTTP/1.1 or HTTP/2, for probes and status pages.
//!
//! Promises: an answer's body is read up to a bound; a kept connection that the other side has closed meanwhile is
//! replaced at once, once, and is no failure. Refuses to know: deadlines, and which answer is a good one.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::dial::{Dialer, Dialled, Speaks};

/// The most that is read of an answer's body, bytes.
pub(crate) const BODY_LIMIT: usize = 64 << 10;
/// The most that is read of an answer's head, bytes.
const HEAD_LIMIT: usize = 64 << 10;

/// Why there is no answer, in words.
pub(crate) type Failure = Arc<str>;

/// An error and what caused it, in words.
pub(crate) fn failure(error: &(dyn std::error::Error + 'static)) -> Failure {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.into()
}

/// Connects to the first address that answers; also says how long that connect took.
pub(crate) async fn connect(addresses: &[SocketAddr]) -> Result<(TcpStream, Duration), Failure> {
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "no address is known");
    for address in addresses {
        let begun = Instant::now();
        match TcpStream::connect(address).await {
            Ok(stream) => {
                let took = begun.elapsed();
                stream.set_nodelay(true).map_err(|error| failure(&error))?;
                return Ok((stream, took));
            }
            Err(error) => last = error,
        }
    }
    Err(failure(&last))
}

/// A task that ends when this is dropped.
#[derive(Debug)]
pub(crate) struct AbortOnDrop(pub(crate) JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// The body's beginning, at most [`BODY_LIMIT`].
    pub(crate) body: Vec<u8>,
    /// The network round trip, if this answer tells: from request to response head on a connection that was in use
    /// before, or the connect where the endpoint never keeps one.
    pub(crate) round_trip: Option<Duration>,
}

enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Sender {
    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }

    async fn ready(&mut self) -> hyper::Result<()> {
        match self {
            Self::Http1(sender) => sender.ready().await,
            Self::Http2(sender) => sender.ready().await,
        }
    }

    async fn send(&mut self, request: Request<Empty<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => sender.send_request(request).await,
            Self::Http2(sender) => sender.send_request(request).await,
        }
    }
}

struct Connection {
    sender: Sender,
    peer: SocketAddr,
    /// As [`Dialled::tls`].
    tls: u64,
    _driver: AbortOnDrop,
}

/// Asks one endpoint again and again.
#[derive(Default)]
pub(crate) struct KeptClient {
    dialer: Dialer,
    speaks: Speaks,
    kept: Option<Connection>,
    /// Whether the endpoint has answered twice on one connection.
    keeps_alive: bool,
    answered: bool,
}

impl KeptClient {
    /// Asks over connections of this dialer's.
    pub(crate) fn new(dialer: Dialer, speaks: Speaks) -> Self {
        Self { dialer, speaks, ..Self::default() }
    }

    /// One GET. May be dropped while it waits; the connection goes with it.
    pub(crate) async fn get(
        &mut self,
        addresses: &[SocketAddr],
        host: &str,
        path: &str,
    ) -> Result<Answer, Failure> {
        if let Some(mut connection) = self.kept.take()
            && !connection.sender.is_closed()
            && addresses.contains(&connection.peer)
            && connection.tls == self.dialer.present()
            && let Ok((answer, reusable)) = exchange(&mut connection, host, path).await
        {
            self.keeps_alive = true;
            self.kept = reusable.then_some(connection);
            return Ok(answer);
        }
        let (mut connection, took) = self.open(addresses).await?;
        let (mut answer, reusable) = exchange(&mut connection, host, path).await?;
        answer.round_trip = (self.answered && !self.keeps_alive).then_some(took);
        self.answered = true;
        self.kept = reusable.then_some(connection);
        Ok(answer)
    }
}

impl KeptClient {
    /// A new connection, and how long the connect took.
    async fn open(&self, addresses: &[SocketAddr]) -> Result<(Connection, Duration), Failure> {
        let dialled = self.dialer.dial(addresses, self.speaks).await?;
        let Dialled { stream, peer, took, tls } = dialled;
        let stream = TokioIo::new(stream);
        // The request that a connection carries learns of its error.
        let (sender, driver) = match self.speaks {
            Speaks::Http1 => {
                let mut builder = http1::Builder::new();
                builder.max_buf_size(HEAD_LIMIT);
                let shaken = builder.handshake(stream).await;
                let (sender, driver) = shaken.map_err(|error| failure(&error))?;
                (Sender::Http1(sender), tokio::spawn(async move { drop(driver.await) }))
            }
            Speaks::Http2 => {
                let mut builder = http2::Builder::new(TokioExecutor::new());
                builder.max_header_list_size(HEAD_LIMIT as u32);
                let shaken = builder.handshake(stream).await;
                let (sender, driver) = shaken.map_err(|error| failure(&error))?;
                (Sender::Http2(sender), tokio::spawn(async move { drop(driver.await) }))
            }
        };
        Ok((Connection { sender, peer, tls, _driver: AbortOnDrop(driver) }, took))
    }
}

/// One request and its answer; also whether the connection can carry another.
async fn exchange(
    connection: &mut Connection,
    host: &str,
    path: &str,
) -> Result<(Answer, bool), Failure> {
    let request = Request::get(match &connection.sender {
        Sender::Http1(_) => path.to_owned(),
        // Where it goes is part of the target.
        Sender::Http2(_) => {
            let scheme = if connection.tls == 0 { "http" } else { "https" };
            format!("{scheme}://{host}{path}")
        }
    });
    let request = match &connection.sender {
        Sender::Http1(_) => request.header(header::HOST, host),
        Sender::Http2(_) => request,
    };
    let request = request
        .header(header::USER_AGENT, concat!("meridian/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "*/*")
        .body(Empty::new())
        .map_err(|error| failure(&error))?;
    connection.sender.ready().await.map_err(|error| failure(&error))?;
    let begun = Instant::now();
    let response = connection.sender.send(request).await.map_err(|error| failure(&error))?;
    let round_trip = Some(begun.elapsed());
    let (head, body) = response.into_parts();
    let (body, whole) = beginning(body).await?;
    let answer = Answer { status: head.status, headers: head.headers, body, round_trip };
    Ok((answer, whole && !connection.sender.is_closed()))
}

/// The body's first [`BODY_LIMIT`] bytes, and whether that is all of it.
async fn beginning(mut body: Incoming) -> Result<(Vec<u8>, bool), Failure> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| failure(&error))?;
        let Some(data) = frame.data_ref() else { continue };
        let room = BODY_LIMIT - bytes.len();
        bytes.extend_from_slice(&data[..data.len().min(room)]);
        if data.len() > room {
            return Ok((bytes, false));
        }
    }
    Ok((bytes, true))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Serves connections one after another, each for so many requests with these raw answers, then closes.
    async fn server(answer: &'static str, per_connection: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("has an address");
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("accepts");
                for _ in 0..per_connection {
                    let mut buffer = [0; 4096];
                    if stream.read(&mut buffer).await.unwrap_or(0) == 0 {
                        break;
                    }
                    stream.write_all(answer.as_bytes()).await.expect("writes");
                }
            }
        });
        address
    }

    const SAYS_NEW: &str = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nnew";
    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    #[tokio::test]
    async fn the_first_request_gives_no_sample_and_the_second_does() {
        let address = server(OK, 100).await;
        let mut client = KeptClient::default();
        let first = client.get(&[address], "h", "/").await.expect("an answer");
        assert_eq!((first.round_trip, &*first.body), (None, &b"ok"[..]));
        let second = client.get(&[address], "h", "/").await.expect("an answer");
        assert!(second.round_trip.is_some());
    }

    #[tokio::test]
    async fn a_connection_closed_meanwhile_is_no_failure() {
        let address = server(OK, 2).await;
        let mut client = KeptClient::default();
        for round in 0..7 {
            let answer = client.get(&[address], "h", "/").await;
            assert!(answer.is_ok(), "{round}: {answer:?}");
        }
    }

    #[tokio::test]
    async fn the_connect_counts_where_nothing_is_kept_alive() {
        let address = server("HTTP/1.1 204 No\r\nconnection: close\r\n\r\n", 1).await;
        let mut client = KeptClient::default();
        let first = client.get(&[address], "h", "/").await.expect("an answer");
        assert_eq!(first.round_trip, None);
        let second = client.get(&[address], "h", "/").await.expect("an answer");
        assert!(second.round_trip.is_some());
    }

    #[tokio::test]
    async fn a_connection_to_an_address_that_is_gone_is_not_used() {
        let (old, new) = (server(OK, 100).await, server(SAYS_NEW, 100).await);
        let mut client = KeptClient::default();
        client.get(&[old], "h", "/").await.expect("an answer");
        let answer = client.get(&[new], "h", "/").await.expect("an answer");
        assert_eq!(&*answer.body, b"new");
    }

    #[tokio::test]
    async fn an_endless_body_is_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("has an address");
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accepts");
            assert!(stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0));
            let head = "HTTP/1.1 200 OK\r\n\r\n";
            stream.write_all(head.as_bytes()).await.expect("writes");
            while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
        });
        let answer = KeptClient::default().get(&[address], "h", "/").await.expect("an answer");
        assert_eq!(answer.body.len(), BODY_LIMIT);
    }

    #[tokio::test]
    async fn a_refused_connection_says_so() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("has an address");
        drop(listener);
        let error = KeptClient::default().get(&[address], "h", "/").await.expect_err("refused");
        assert!(error.to_lowercase().contains("refused"), "{error}");
    }
}
