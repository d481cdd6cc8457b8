//! Asks a running edge through its admin endpoint.
//!
//! Promises: every answer within a deadline; what goes wrong is one clear line. Refuses to know: what
//! the answers are for.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::Value;

use crate::cli::EdgeArgs;
use crate::http_client::{Address, Connection};

const CONNECT_LIMIT: Duration = Duration::from_secs(3);
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// An edge's admin endpoint, and who we are there.
#[derive(Clone, Debug)]
pub(crate) struct AdminClient {
    address: Address,
    /// `Bearer ...`
    authorization: Option<HeaderValue>,
    /// An answer must come within so long.
    patience: Duration,
}

/// What the edge answered.
#[derive(Clone, Debug)]
pub(crate) struct AdminAnswer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

#[derive(Deserialize)]
struct ErrorAnswer {
    error: ErrorBody,
}

#[derive(Deserialize)]
struct ErrorBody {
    code: String,
    message: String,
}

impl AdminClient {
    /// Without a token.
    pub(crate) fn new(address: Address) -> Self {
        Self { address, authorization: None, patience: ANSWER_LIMIT }
    }

    /// As the command line says.
    ///
    /// # Errors
    /// When the token file cannot be used.
    pub(crate) fn from_args(args: &EdgeArgs) -> anyhow::Result<Self> {
        let token = args.token_file.as_deref().map(bearer).transpose()?;
        Ok(Self { authorization: token, ..Self::new(args.admin.clone()) })
    }

    /// Waits longer, or not as long, for an answer.
    pub(crate) fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Asks; the body, if there is one, is JSON. Any status is an answer.
    ///
    /// # Errors
    /// When there is no answer.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<AdminAnswer> {
        let mut connection = self.connect().await?;
        let request = self.request(method, path, body)?;
        let answer = connection.send(request, self.patience, MAX_ANSWER_BYTES).await;
        let (parts, body) = answer.with_context(|| self.no_answer())?.into_parts();
        Ok(AdminAnswer { status: parts.status, body })
    }

    /// Asks, and takes anything but success as an error.
    ///
    /// # Errors
    /// When there is no answer, or with what the edge says.
    pub(crate) async fn request_ok(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<AdminAnswer> {
        let answer = self.ask(method, path, body).await?;
        if answer.status.is_success() { Ok(answer) } else { Err(answer.complaint()) }
    }

    /// Opens a stream of server-sent events.
    ///
    /// # Errors
    /// As [`Self::request_ok`].
    pub(crate) async fn follow(&self, path: &str) -> anyhow::Result<(Connection, Incoming)> {
        let mut connection = self.connect().await?;
        let request = self.request(Method::GET, path, None)?;
        let answer = connection.stream(request, ANSWER_LIMIT).await;
        let (parts, body) = answer.with_context(|| self.no_answer())?.into_parts();
        if !parts.status.is_success() {
            bail!("the edge answers {}", parts.status);
        }
        Ok((connection, body))
    }

    async fn connect(&self) -> anyhow::Result<Connection> {
        let connection = Connection::open(&self.address, CONNECT_LIMIT).await;
        connection.with_context(|| self.no_answer())
    }

    fn no_answer(&self) -> String {
        format!("no answer from the edge's admin endpoint at {}", self.address)
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address.authority())
            .header(header::USER_AGENT, concat!("meridian/", env!("CARGO_PKG_VERSION")));
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let body = match body {
            Some(json) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Full::from(serde_json::to_vec(json)?)
            }
            None => Full::default(),
        };
        Ok(request.body(body)?)
    }
}

impl AdminAnswer {
    /// Reads the body.
    ///
    /// # Errors
    /// When it is not what was expected: an edge of another version, most likely.
    pub(crate) fn read<T: for<'de> Deserialize<'de>>(&self) -> anyhow::Result<T> {
        let unexpected = "the edge's answer is not understood; is it of another version?";
        serde_json::from_slice(&self.body).context(unexpected)
    }

    /// What the edge says went wrong.
    pub(crate) fn complaint(&self) -> anyhow::Error {
        match serde_json::from_slice::<ErrorAnswer>(&self.body) {
            Ok(ErrorAnswer { error }) => anyhow!("{} ({})", error.message, error.code),
            Err(_) => anyhow!("the edge answers {}", self.status),
        }
    }
}

fn bearer(file: &Path) -> anyhow::Result<HeaderValue> {
    let name = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("token file {name}"))?;
    let token = text.trim();
    if token.is_empty() {
        bail!("token file {name} is empty");
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .with_context(|| format!("token file {name} holds characters that no token has"))?;
    value.set_sensitive(true);
    Ok(value)
}
