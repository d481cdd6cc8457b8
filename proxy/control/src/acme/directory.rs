//! How an authority is asked: one request on a connection of its own, over TLS, within a time and a size.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::failure::Turned;
use crate::http_client::{AbortOnDrop, connect, failure};
use crate::resolve::addresses_of;

/// From the name's look-up to the answer's last byte.
const PATIENCE: Duration = Duration::from_secs(30);
/// A longer answer is none, bytes.
const LONGEST: usize = 1 << 20;

/// Asks the directory, and whatever it names.
pub(super) struct DirectoryClient(TlsConnector);

impl DirectoryClient {
    pub(super) fn new(connector: TlsConnector) -> Self {
        Self(connector)
    }
}

impl HttpClient for DirectoryClient {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let connector = self.0.clone();
        Box::pin(async move {
            let late = || format!("no answer within {} s", PATIENCE.as_secs());
            let exchanged = tokio::time::timeout(PATIENCE, exchange(connector, request)).await;
            let response = exchanged.unwrap_or_else(|_| Err(late()));
            let response = response.map_err(|words| Error::Other(words.into()))?;
            match turned(&response) {
                Some(turned) => Err(Error::Other(Box::new(turned))),
                None => Ok(response.map(Full::new).into()),
            }
        })
    }
}

async fn exchange(
    connector: TlsConnector,
    request: Request<BodyWrapper<Bytes>>,
) -> Result<Response<Bytes>, String> {
    let (mut head, body) = request.into_parts();
    let uri = std::mem::take(&mut head.uri);
    let (host, port) = place(&uri)?;
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let host_field = HeaderValue::from_str(authority).map_err(|error| error.to_string())?;
    head.headers.insert(header::HOST, host_field);
    let agent = HeaderValue::from_static(concat!("meridian/", env!("CARGO_PKG_VERSION")));
    head.headers.insert(header::USER_AGENT, agent);
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    head.uri = target.parse().map_err(|_| format!("{uri} is not a URL"))?;

    let addresses = match host.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => addresses_of(host).await.map_err(|error| format!("{host}: {error}"))?,
    };
    let addresses: Vec<_> = addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
    let told = |error: &(dyn std::error::Error + 'static)| format!("{host}: {}", failure(error));
    let (stream, _) = connect(&addresses).await.map_err(|error| format!("{host}: {error}"))?;
    let name = ServerName::try_from(host.to_owned()).map_err(|error| told(&error))?;
    let stream = connector.connect(name, stream).await.map_err(|error| told(&error))?;
    let shaken = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.map_err(|error| told(&error))?;
    let _driver = AbortOnDrop(tokio::spawn(async move {
        // The request that it carries learns of the error.
        let _ = connection.await;
    }));
    let response = sender.send_request(Request::from_parts(head, body)).await;
    let (head, body) = response.map_err(|error| told(&error))?.into_parts();
    let body = Limited::new(body, LONGEST).collect().await;
    let body = body.map_err(|error| format!("{host}: its answer: {error}"))?.to_bytes();
    Ok(Response::from_parts(head, body))
}

/// Host, without brackets, and port.
fn place(uri: &Uri) -> Result<(&str, u16), String> {
    if uri.scheme_str() != Some("https") {
        return Err(format!("{uri} is not https"));
    }
    let host = uri.host().ok_or_else(|| format!("{uri} names no host"))?;
    Ok((host.trim_start_matches('[').trim_end_matches(']'), uri.port_u16().unwrap_or(443)))
}

/// What is no answer of ACME: an error in other words than its own, or the wish to be left alone.
fn turned(response: &Response<Bytes>) -> Option<Turned> {
    let status = response.status();
    if status.is_success() || status.is_redirection() {
        return None;
    }
    let problem = serde_json::from_slice(response.body()).ok();
    let busy = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    if problem.is_some() && !busy {
        return None;
    }
    let retry_after = retry_after(response.headers()).filter(|_| busy);
    Some(Turned { status, problem, retry_after })
}

/// Seconds or a date (RFC 9110 section 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let when = httpdate::parse_http_date(text).ok()?;
    Some(when.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, fields: &[(&str, &str)], body: &'static str) -> Response<Bytes> {
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        response.body(Bytes::from_static(body.as_bytes())).expect("a response")
    }

    #[test]
    fn what_is_not_acme_is_told_by_its_status() {
        let problem = "{\"type\":\"urn:ietf:params:acme:error:badNonce\",\"detail\":\"again\"}";
        assert!(turned(&answer(200, &[], "")).is_none());
        assert!(turned(&answer(400, &[], problem)).is_none(), "the client tries again");
        let broken = turned(&answer(500, &[], "<html>")).expect("no answer");
        assert_eq!(broken.to_string(), "it answered 500 Internal Server Error");
        let limited = turned(&answer(429, &[("retry-after", "7")], problem)).expect("later");
        assert_eq!(limited.retry_after, Some(Duration::from_secs(7)));
        assert!(limited.to_string().ends_with("again (badNonce)"), "{limited}");
        let past = [("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")];
        let busy = turned(&answer(503, &past, "")).expect("later");
        assert_eq!(busy.retry_after, Some(Duration::ZERO));
        assert_eq!(
            turned(&answer(503, &[("retry-after", "soon")], "")).expect("no").retry_after,
            None
        );
    }

    #[test]
    fn only_https_is_asked() {
        let of = |text: &str| {
            text.parse()
                .ok()
                .and_then(|uri| place(&uri).ok().map(|(host, port)| (host.to_owned(), port)))
        };
        assert_eq!(of("https://ca.example/a"), Some(("ca.example".into(), 443)));
        assert_eq!(of("https://[::1]:14000/a"), Some(("::1".into(), 14000)));
        assert_eq!(of("http://ca.example/a"), None);
        assert_eq!(of("/a"), None);
    }
}
