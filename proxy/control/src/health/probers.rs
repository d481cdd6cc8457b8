//! What a probe asks: HTTP, TCP, gRPC.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use meridian_routing::Claim;
use tokio::time::Instant;

use crate::dial::{Dialer, Dialled, Speaks};
use crate::http_client::{AbortOnDrop, BODY_LIMIT, Failure, KeptClient, failure};
use crate::replication::{claim_of_headers, fault_of_headers};

/// What a probe that passed has learnt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    /// The network round trip, if this probe tells.
    pub(crate) round_trip: Option<Duration>,
    /// What the answer's headers say of the endpoint.
    pub(crate) claim: Claim,
    /// What is wrong with those headers.
    pub(crate) fault: Option<String>,
}

/// Asks an endpoint whether it is well. A probe may be dropped while it waits.
pub(crate) trait Prober: Send + Sync + 'static {
    /// One probe, without a deadline of its own.
    fn probe(
        &mut self,
        addresses: &[SocketAddr],
    ) -> impl Future<Output = Result<Passed, Failure>> + Send;
}

/// GET with an expected answer.
pub(crate) struct HttpProber {
    pub(crate) client: KeptClient,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) expect_status: Vec<(u16, u16)>,
    pub(crate) expect_body: String,
}

impl Prober for HttpProber {
    async fn probe(&mut self, addresses: &[SocketAddr]) -> Result<Passed, Failure> {
        let answer = self.client.get(addresses, &self.host, &self.path).await?;
        let status = answer.status.as_u16();
        if !self.expect_status.iter().any(|(low, high)| (*low..=*high).contains(&status)) {
            return Err(format!("status {status}").into());
        }
        let wanted = self.expect_body.as_bytes();
        let found = || answer.body.windows(wanted.len()).any(|window| window == wanted);
        if !wanted.is_empty() && !found() {
            return Err("the body lacks the expected text".into());
        }
        let claim = claim_of_headers(&answer.headers);
        let fault = fault_of_headers(&answer.headers);
        Ok(Passed { round_trip: answer.round_trip, claim, fault })
    }
}

/// The connection is accepted, and where the service has TLS, hands are shaken.
pub(crate) struct TcpProber(pub(crate) Dialer, pub(crate) Speaks);

impl Prober for TcpProber {
    async fn probe(&mut self, addresses: &[SocketAddr]) -> Result<Passed, Failure> {
        let dialled = self.0.dial(addresses, self.1).await?;
        Ok(Passed { round_trip: Some(dialled.took), ..Passed::default() })
    }
}

/// `grpc.health.v1.Health/Check` for the whole server, over HTTP/2.
#[derive(Default)]
pub(crate) struct GrpcProber {
    pub(crate) authority: String,
    dialer: Dialer,
    kept: Option<GrpcConnection>,
}

struct GrpcConnection {
    sender: http2::SendRequest<Full<Bytes>>,
    peer: SocketAddr,
    tls: u64,
    _driver: AbortOnDrop,
}

impl GrpcProber {
    pub(crate) fn new(authority: String, dialer: Dialer) -> Self {
        Self { authority, dialer, kept: None }
    }

    async fn open(&self, addresses: &[SocketAddr]) -> Result<GrpcConnection, Failure> {
        let dialled = self.dialer.dial(addresses, Speaks::Http2).await?;
        let Dialled { stream, peer, tls, .. } = dialled;
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, driver) = handshake.await.map_err(|error| failure(&error))?;
        let driver = tokio::spawn(async move {
            // The request that the connection carries learns of the error.
            let _ = driver.await;
        });
        Ok(GrpcConnection { sender, peer, tls, _driver: AbortOnDrop(driver) })
    }

    /// The time to the response head, once the answer says that the server is serving. The outer error is the
    /// connection's, the inner one the server's.
    async fn check(
        &self,
        connection: &mut GrpcConnection,
    ) -> Result<Result<Duration, Failure>, Failure> {
        // An empty HealthCheckRequest: no compression flag, four bytes of length 0.
        let request =
            Request::post(format!("http://{}/grpc.health.v1.Health/Check", self.authority))
                .header(header::CONTENT_TYPE, "application/grpc")
                .header(header::TE, "trailers")
                .header(header::USER_AGENT, concat!("meridian/", env!("CARGO_PKG_VERSION")))
                .body(Full::new(Bytes::from_static(&[0; 5])))
                .map_err(|error| failure(&error))?;
        connection.sender.ready().await.map_err(|error| failure(&error))?;
        let begun = Instant::now();
        let response = connection.sender.send_request(request).await;
        let (head, body) = response.map_err(|error| failure(&error))?.into_parts();
        let took = begun.elapsed();
        let body = Limited::new(body, BODY_LIMIT).collect().await;
        let body = body.map_err(|error| Failure::from(error.to_string()))?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        let verdict = grpc_verdict(head.status, &head.headers, &trailers, &body.to_bytes());
        Ok(verdict.map(|()| took))
    }
}

impl Prober for GrpcProber {
    async fn probe(&mut self, addresses: &[SocketAddr]) -> Result<Passed, Failure> {
        if let Some(mut connection) = self.kept.take()
            && !connection.sender.is_closed()
            && addresses.contains(&connection.peer)
            && connection.tls == self.dialer.present()
            && let Ok(verdict) = self.check(&mut connection).await
        {
            self.kept = Some(connection);
            return verdict.map(|took| Passed { round_trip: Some(took), ..Passed::default() });
        }
        let mut connection = self.open(addresses).await?;
        let verdict = self.check(&mut connection).await?;
        self.kept = Some(connection);
        verdict.map(|_| Passed::default())
    }
}

fn grpc_verdict(
    status: StatusCode,
    headers: &HeaderMap,
    trailers: &HeaderMap,
    body: &[u8],
) -> Result<(), Failure> {
    if status != StatusCode::OK {
        return Err(format!("HTTP status {}", status.as_u16()).into());
    }
    let grpc = trailers.get("grpc-status").or_else(|| headers.get("grpc-status"));
    match grpc.map(|value| value.as_bytes()) {
        Some(b"0") => {}
        Some(code) => {
            return Err(format!("grpc-status {}", String::from_utf8_lossy(code)).into());
        }
        None => return Err("no grpc-status".into()),
    }
    match serving_status(body) {
        Some(1) => Ok(()),
        Some(other) => Err(format!("serving status {other}").into()),
        None => Err("not a HealthCheckResponse".into()),
    }
}

/// Field 1 of the one message in a gRPC body, 0 if it is absent; `None` if this is not such a body.
fn serving_status(body: &[u8]) -> Option<u64> {
    let (prefix, message) = body.split_at_checked(5)?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    if prefix[0] != 0 || message.len() != usize::try_from(length).ok()? {
        return None;
    }
    let mut rest = message;
    let mut status = 0;
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => status = varint(&mut rest)?,
            (_, 0) => {
                varint(&mut rest)?;
            }
            (_, 1) => rest = rest.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            (_, 5) => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use http::Response;
    use hyper::body::Incoming;
    use hyper::server::conn as server;
    use hyper::service::service_fn;
    use tokio::net::TcpListener;

    use super::*;

    /// A gRPC server that serves a health response with this status, and counts its connections.
    async fn grpc_server(status: u8) -> (SocketAddr, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("has an address");
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = connections.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accepts");
                counter.fetch_add(1, Relaxed);
                let service = service_fn(move |request: Request<Incoming>| async move {
                    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                    let sent = request.into_body().collect().await.expect("a body").to_bytes();
                    assert_eq!(*sent, [0; 5]);
                    let body = Full::new(Bytes::from(vec![0, 0, 0, 0, 2, 0x08, status]));
                    let trailers = HeaderMap::from_iter([(
                        http::HeaderName::from_static("grpc-status"),
                        http::HeaderValue::from_static("0"),
                    )]);
                    let body = body.with_trailers(async move { Some(Ok(trailers)) });
                    Ok::<_, Infallible>(Response::new(body))
                });
                let server = server::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
            }
        });
        (address, connections)
    }

    #[tokio::test]
    async fn a_serving_grpc_server_passes_on_one_connection() {
        let (address, connections) = grpc_server(1).await;
        let mut prober = GrpcProber::new(address.to_string(), Dialer::default());
        let first = prober.probe(&[address]).await;
        assert_eq!(first, Ok(Passed::default()));
        let second = prober.probe(&[address]).await.expect("passes");
        assert!(second.round_trip.is_some());
        assert_eq!(connections.load(Relaxed), 1);
    }

    #[tokio::test]
    async fn a_grpc_server_that_does_not_serve_fails() {
        let (address, _) = grpc_server(2).await;
        let failed =
            GrpcProber::new(address.to_string(), Dialer::default()).probe(&[address]).await;
        assert_eq!(failed.expect_err("fails").as_ref(), "serving status 2");
    }

    #[tokio::test]
    async fn an_http_probe_checks_status_and_body() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("has an address");
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accepts");
                let service = service_fn(|request: Request<Incoming>| async move {
                    assert_eq!(request.headers()[header::HOST], "probe.example");
                    let answer = Response::builder().status(204).header("meridian-lag-ms", "30");
                    let answer = if request.uri().path() == "/teapot" {
                        answer.status(418).body(Full::new(Bytes::new()))
                    } else {
                        answer.status(200).body(Full::new(Bytes::from("all is well")))
                    };
                    Ok::<_, Infallible>(answer.expect("builds"))
                });
                let server = server::http1::Builder::new();
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
            }
        });
        for (path, text, status, expected) in [
            ("/", "", 200, Ok(Some(Duration::from_millis(30)))),
            ("/", "is well", 200, Ok(Some(Duration::from_millis(30)))),
            ("/", "unwell", 200, Err("the body lacks the expected text")),
            ("/", "", 201, Err("status 200")),
            ("/teapot", "", 418, Ok(Some(Duration::from_millis(30)))),
        ] {
            let mut prober = HttpProber {
                client: KeptClient::default(),
                host: "probe.example".into(),
                path: path.into(),
                expect_status: vec![(status, status)],
                expect_body: text.into(),
            };
            let result = prober.probe(&[address]).await.map(|passed| passed.claim.lag);
            assert_eq!(
                result.as_ref().map_err(|error| &**error),
                expected.as_ref().map_err(|e| *e)
            );
        }
    }

    #[test]
    fn health_check_responses_are_read() {
        assert_eq!(serving_status(&[0, 0, 0, 0, 2, 0x08, 1]), Some(1));
        assert_eq!(serving_status(&[0, 0, 0, 0, 2, 0x08, 2]), Some(2));
        assert_eq!(serving_status(&[0, 0, 0, 0, 0]), Some(0));
        // Unknown fields of every wire type before it.
        let message =
            [0x10, 0x96, 1, 0x19, 0, 0, 0, 0, 0, 0, 0, 0, 0x22, 1, b'x', 0x2d, 0, 0, 0, 0];
        let mut body = vec![0, 0, 0, 0, message.len() as u8 + 2];
        body.extend(message);
        body.extend([0x08, 1]);
        assert_eq!(serving_status(&body), Some(1));
    }

    #[test]
    fn what_is_no_health_check_response_does_not_pass() {
        let bodies: [&[u8]; 7] = [
            b"",
            &[0, 0, 0],
            &[1, 0, 0, 0, 2, 0x08, 1],
            &[0, 0, 0, 0, 9, 0x08, 1],
            &[0, 0, 0, 0, 1, 0x08],
            &[0, 0, 0, 0, 3, 0x12, 200, 1],
            &[0, 0, 0, 0, 2, 0x0b, 1],
        ];
        for body in bodies {
            assert_eq!(serving_status(body), None, "{body:?}");
        }
        let endless = [&[0, 0, 0, 0, 12, 0x08][..], &[0xff; 11]].concat();
        assert_eq!(serving_status(&endless), None);
    }

    #[test]
    fn the_grpc_status_decides_first() {
        let ok = [0, 0, 0, 0, 2, 0x08, 1];
        let with = |code: &'static str| {
            HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                http::HeaderValue::from_static(code),
            )])
        };
        let none = HeaderMap::new();
        assert_eq!(grpc_verdict(StatusCode::OK, &none, &with("0"), &ok), Ok(()));
        assert_eq!(grpc_verdict(StatusCode::OK, &with("0"), &none, &ok), Ok(()));
        assert!(grpc_verdict(StatusCode::OK, &none, &with("12"), &ok).is_err());
        assert!(grpc_verdict(StatusCode::OK, &none, &none, &ok).is_err());
        assert!(grpc_verdict(StatusCode::NOT_FOUND, &none, &with("0"), &ok).is_err());
    }
}
