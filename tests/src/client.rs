//! A small HTTP/1.1 client that keeps its connection and forgives nothing.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::message::{Framing, Response, framing};
use crate::raw::{End, end_of};
use crate::wire::Wire;

const PATIENCE: Duration = Duration::from_secs(20);

/// One connection of a client.
#[derive(Debug)]
pub struct Client {
    wire: Wire,
    host: String,
}

/// Why there is no whole response.
#[derive(Clone, Debug)]
pub enum Broken {
    /// The connection ended before the first byte of one.
    Nothing(End),
    /// It ended in the middle; what had come until then.
    Early(End, Box<Response>),
    /// What came is no response.
    Malformed(String),
}

/// The bytes of a request; its body has a length.
pub fn request_bytes(method: &str, path: &str, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\n");
    if !fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head.push_str("Host: test.example\r\n");
    }
    for (name, value) in fields {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH") {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

impl Client {
    /// Connects.
    ///
    /// # Panics
    /// If nobody accepts.
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        match Self::try_connect(address) {
            Ok(client) => client,
            Err(error) => panic!("{address}: {error}"),
        }
    }

    /// Connects.
    ///
    /// # Errors
    /// As the operating system gives them.
    pub fn try_connect(address: SocketAddr) -> io::Result<Self> {
        Wire::connect(address, PATIENCE).map(Self::on)
    }

    /// A client on a connection that is there already.
    pub fn on(wire: Wire) -> Self {
        Self { wire, host: "test.example".to_owned() }
    }

    pub(crate) fn recorded(answer: Vec<u8>) -> Self {
        Self { wire: Wire::recorded(answer), host: String::new() }
    }

    /// Requests name this host from here on.
    #[must_use]
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = host.into();
        self
    }

    /// The connection underneath.
    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    /// Sends bytes as they are.
    ///
    /// # Panics
    /// If the connection does not take them.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        if let Err(error) = self.wire.send(bytes.as_ref()) {
            panic!("cannot send: {error}");
        }
        self
    }

    /// A request and its answer.
    ///
    /// # Panics
    /// If there is no whole answer.
    #[track_caller]
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        match self.try_request(method, path, fields, body) {
            Ok(response) => response,
            Err(broken) => panic!("{method} {path}: {broken:?}"),
        }
    }

    /// A request and its answer.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub fn try_request(
        &mut self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response, Broken> {
        let mut fields = fields.to_vec();
        let host = self.host.clone();
        if !fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            fields.insert(0, ("Host", &host));
        }
        let bytes = request_bytes(method, path, &fields, body);
        // A refused upload may still have been answered.
        let sent = self.wire.send(&bytes);
        let answer = self.try_response(method);
        match (sent, answer) {
            (Err(error), Err(Broken::Nothing(_))) => Err(Broken::Nothing(end_of(&error))),
            (_, answer) => answer,
        }
    }

    /// A GET and its answer.
    ///
    /// # Panics
    /// If there is no whole answer.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Response {
        self.request("GET", path, &[], b"")
    }

    /// The answer to what was sent; not to a HEAD.
    ///
    /// # Panics
    /// If there is no whole answer.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        match self.try_response("GET") {
            Ok(response) => response,
            Err(broken) => panic!("{broken:?}"),
        }
    }

    /// The answer to what was sent.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub fn try_response(&mut self, method: &str) -> Result<Response, Broken> {
        let mut response = self.try_head()?;
        let mut body = Vec::new();
        let outcome = self.try_body(method, &response, |piece| body.extend_from_slice(piece));
        response.body = body;
        match outcome {
            Ok(trailers) => response.trailers = trailers,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(Broken::Malformed(error.to_string()));
            }
            Err(error) => return Err(Broken::Early(end_of(&error), response.into())),
        }
        Ok(response)
    }

    /// The heads of an answer, up to the final one; the body is still to come.
    ///
    /// # Errors
    /// When there is none.
    pub fn try_head(&mut self) -> Result<Response, Broken> {
        let mut interim = Vec::new();
        loop {
            let head = match self.wire.head() {
                Ok(Some(head)) => head,
                Ok(None) => return Err(Broken::Nothing(End::Closed)),
                Err(error) if self.wire.ahead().is_empty() => {
                    return Err(Broken::Nothing(end_of(&error)));
                }
                Err(error) => return Err(Broken::Early(end_of(&error), Box::default())),
            };
            let response = Response::parse(&head).map_err(Broken::Malformed)?;
            if (100..200).contains(&response.status) && response.status != 101 {
                interim.push((response.status, response.fields));
                continue;
            }
            return Ok(Response { interim, ..response });
        }
    }

    /// The body that belongs to a head, piece by piece; its trailers.
    ///
    /// # Errors
    /// When it does not come to its end.
    pub fn try_body(
        &mut self,
        method: &str,
        head: &Response,
        piece: impl FnMut(&[u8]),
    ) -> io::Result<crate::message::Fields> {
        let bodiless = method == "HEAD" || matches!(head.status, 101 | 204 | 304);
        let framing = framing(&head.fields).map_err(|why| crate::wire::malformed(&why))?;
        let framing =
            if bodiless { Framing::Length(0) } else { framing.unwrap_or(Framing::UntilClose) };
        self.wire.body(framing, piece)
    }

    /// How the connection ends, and what comes before.
    pub fn end(&mut self) -> (Vec<u8>, End) {
        crate::raw::until_end(&mut self.wire)
    }

    /// Whether the other side ends the connection with nothing more to say.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.end(), (rest, End::Closed | End::Reset) if rest.is_empty())
    }
}
