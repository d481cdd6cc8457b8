//! The admin endpoint, asked as an operator's script asks it.

use std::net::SocketAddr;

use serde_json::Value;

use crate::client::{Broken, Client};
use crate::message::Response;

/// One admin endpoint.
#[derive(Clone, Debug)]
pub struct Admin {
    address: SocketAddr,
    token: Option<String>,
}

impl Admin {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, token: None }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Shows this bearer token from here on.
    #[must_use]
    pub fn token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    /// `GET path`
    ///
    /// # Panics
    /// If there is no whole answer.
    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.ask("GET", path, None)
    }

    /// `GET path`; the answer must be 200 and JSON.
    ///
    /// # Panics
    /// If it is not.
    #[track_caller]
    pub fn json(&self, path: &str) -> Value {
        let response = self.get(path);
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        response.json()
    }

    /// `POST path`
    ///
    /// # Panics
    /// If there is no whole answer.
    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.ask("POST", path, Some(body))
    }

    /// `PUT path`
    ///
    /// # Panics
    /// If there is no whole answer.
    #[track_caller]
    pub fn put(&self, path: &str, body: &Value) -> Response {
        self.ask("PUT", path, Some(body))
    }

    /// `DELETE path`
    ///
    /// # Panics
    /// If there is no whole answer.
    #[track_caller]
    pub fn delete(&self, path: &str) -> Response {
        self.ask("DELETE", path, None)
    }

    /// The value of a sample of `/metrics`, such as `meridian_build_info{version="1"}`; labels must
    /// stand as they are printed. `None` if it is not there.
    ///
    /// # Panics
    /// If there is no whole answer.
    #[track_caller]
    pub fn metric(&self, series: &str) -> Option<f64> {
        let text = self.get("/metrics").text();
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    /// The sum over all samples of a metric whose labels contain each of `labels`, such as
    /// `region="a"`.
    ///
    /// # Panics
    /// If there is no whole answer.
    #[track_caller]
    pub fn metric_sum(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.get("/metrics").text();
        let samples = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let (set, value) = rest.rsplit_once(' ')?;
            let ours = set.is_empty() || set.starts_with('{');
            (ours && labels.iter().all(|label| set.contains(label))).then(|| value.parse::<f64>())
        });
        samples.filter_map(Result::ok).sum()
    }

    /// A request and its answer.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub fn try_ask(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Response, Broken> {
        let unreachable = |error: std::io::Error| Broken::Nothing(crate::raw::end_of(&error));
        let client = Client::try_connect(self.address).map_err(unreachable)?;
        let mut fields = vec![("Connection", "close")];
        let token = self.token.as_ref().map(|token| format!("Bearer {token}"));
        if let Some(token) = &token {
            fields.push(("Authorization", token));
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        if !body.is_empty() {
            fields.push(("Content-Type", "application/json"));
        }
        client.host(self.address.to_string()).try_request(method, path, &fields, body.as_bytes())
    }

    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Response {
        match self.try_ask(method, path, body) {
            Ok(response) => response,
            Err(broken) => panic!("{method} {path}: {broken:?}"),
        }
    }
}
