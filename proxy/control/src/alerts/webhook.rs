//! One webhook: how an event gets there.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use aws_lc_rs::hmac;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use meridian_config::{Alerts, Config};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use crate::history::HistoryEvent;
use crate::http_client::{AbortOnDrop, connect, failure};
use crate::resolve::addresses_of;
use crate::roots::connector;

/// Settings, and what was made of the files they name.
pub(crate) struct Webhook {
    pub(crate) settings: Alerts,
    /// With https.
    tls: Option<TlsConnector>,
    signer: Option<hmac::Key>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

/// What is wrong with the files that `[alerts]` names, or with the system's roots if these are asked for. Blocks.
///
/// # Errors
/// In words, with the key.
pub fn check_alerts(config: &Config) -> Result<(), String> {
    Webhook::read(config).map(drop)
}

impl Webhook {
    /// [`Self::read`] on a thread that may block.
    pub(crate) async fn of(config: &Arc<Config>) -> Result<Option<Self>, String> {
        if config.alerts.is_none() {
            return Ok(None);
        }
        let config = config.clone();
        let job = tokio::task::spawn_blocking(move || Self::read(&config));
        job.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// The webhook that a configuration asks for. Blocks.
    pub(crate) fn read(config: &Config) -> Result<Option<Self>, String> {
        let Some(settings) = &config.alerts else { return Ok(None) };
        let mut headers = Vec::new();
        for (name, value) in &settings.headers {
            // Whoever reads the configuration has checked both.
            let parsed = HeaderName::try_from(name).ok().zip(HeaderValue::try_from(value).ok());
            let (name, mut value) = parsed.ok_or(format!("headers.{name}: not a header"))?;
            value.set_sensitive(true);
            headers.push((name, value));
        }
        let signer = settings.secret.as_ref();
        let signer = signer.map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.key.as_bytes()));
        let tls = settings.url.https.then(|| connector(settings.ca.as_deref())).transpose()?;
        Ok(Some(Self { settings: settings.clone(), tls, signer, headers }))
    }

    /// One attempt.
    ///
    /// # Errors
    /// In words, without the URL's path.
    pub(super) async fn post(&self, event: &HistoryEvent) -> Result<(), String> {
        let timeout = self.settings.timeout;
        match tokio::time::timeout(timeout, self.exchange(event)).await {
            Ok(Ok(response)) if response.status().is_success() => Ok(()),
            Ok(Ok(response)) => Err(format!("the webhook answered {}", response.status())),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(format!("no answer within {} ms", timeout.as_millis())),
        }
    }

    async fn exchange(&self, event: &HistoryEvent) -> Result<Response<Incoming>, String> {
        let request = self.request(event)?;
        let url = &self.settings.url;
        let host = url.host.trim_start_matches('[').trim_end_matches(']');
        let addresses = match host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => addresses_of(host).await.map_err(|error| format!("{host}: {error}"))?,
        };
        let addresses: Vec<_> =
            addresses.into_iter().map(|address| SocketAddr::new(address, url.port)).collect();
        let (stream, _) = connect(&addresses).await.map_err(|error| error.to_string())?;
        let Some(tls) = &self.tls else { return send(stream, request).await };
        let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        let stream = tls.connect(name, stream).await.map_err(|e| failure(&e).to_string())?;
        send(stream, request).await
    }

    fn request(&self, event: &HistoryEvent) -> Result<Request<Full<Bytes>>, String> {
        let url = &self.settings.url;
        let body = serde_json::to_vec(event).map_err(|error| error.to_string())?;
        let authority = match (url.https, url.port) {
            (false, 80) | (true, 443) => url.host.clone(),
            (_, port) => format!("{}:{port}", url.host),
        };
        let class = event.class().map_or("", |class| class.label());
        let mut request = Request::post(&url.target)
            .header(header::HOST, authority)
            .header(header::USER_AGENT, concat!("meridian/", env!("CARGO_PKG_VERSION")))
            .header(header::CONTENT_TYPE, "application/json")
            .header("x-meridian-event", class)
            // The same in every attempt, so that the other side can tell a repetition.
            .header("x-meridian-delivery", format!("{}-{}", event.edge, event.seq));
        if let Some(key) = &self.signer {
            let tag = hmac::sign(key, &body);
            let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            request = request.header("x-meridian-signature", format!("sha256={hex}"));
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(Full::from(body)).map_err(|error| error.to_string())
    }
}

/// One request on a connection of its own; the answer's body is not read.
async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let told = |error: hyper::Error| failure(&error).to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(told)?;
    let _driver = AbortOnDrop(tokio::spawn(async move {
        // The request that it carries learns of the error.
        let _ = connection.await;
    }));
    sender.send_request(request).await.map_err(told)
}
