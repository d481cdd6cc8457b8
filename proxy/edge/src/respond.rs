//! This edge's own answers: short, typed by `Accept`, with the request id, telling nothing internal.

use std::io::Write;

use meridian_routing::{Filter, Refusal};

use crate::forward::{ClientGone, Cut, Ending, Failed};
use crate::http1::body::push_field;
use crate::http1::head::HeadError;

/// An answer that no endpoint gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnAnswer {
    pub(crate) status: u16,
    /// For programs.
    pub(crate) code: &'static str,
    /// For people.
    pub(crate) message: &'static str,
    /// Seconds.
    pub(crate) retry_after: Option<u32>,
}

impl OwnAnswer {
    pub(crate) fn head_error(error: HeadError) -> Self {
        let code = match error {
            HeadError::Bad(_) => "bad_request",
            HeadError::Connect => "method_not_allowed",
            HeadError::TargetTooLong => "uri_too_long",
            HeadError::TooLarge => "header_too_large",
            HeadError::BodyTooLarge => "content_too_large",
            HeadError::UnknownCoding => "not_implemented",
            HeadError::Version => "version_not_supported",
        };
        Self::new(error.status(), code, error.message())
    }

    pub(crate) fn client(gone: ClientGone) -> Option<Self> {
        Some(match gone {
            ClientGone::Closed => return None,
            ClientGone::Malformed(why) => Self::new(400, "bad_request", why),
            ClientGone::TooLarge => {
                Self::new(413, "content_too_large", "the request body is too large")
            }
            ClientGone::TimedOut => {
                Self::new(408, "request_timeout", "the request did not come in time")
            }
        })
    }

    pub(crate) fn refusal(refusal: &Refusal) -> Self {
        let (code, message) = match refusal.filter {
            Filter::Malformed => ("bad_request", "the request is malformed"),
            Filter::Https if refusal.status == 400 => ("bad_request", "the host is missing"),
            Filter::Https => ("https", "this is served by https"),
            Filter::Route => ("no_route", "nothing is served at this address"),
            Filter::Residency => {
                ("residency", "this is not available where the request comes from")
            }
            Filter::Capability => ("no_capable_region", "no region can serve this request"),
            Filter::Role
            | Filter::PrimaryUnknown
            | Filter::PrimaryContested
            | Filter::PrimaryMoved
            | Filter::ParkFull
            | Filter::ParkTime => ("no_primary", "writes are not possible at the moment"),
            Filter::Capacity => ("at_capacity", "all regions are at capacity"),
            Filter::ClientRequests => {
                ("too_many_requests", "this client has too many requests under way")
            }
            Filter::RouteRequests
            | Filter::EdgeRequests
            | Filter::Memory
            | Filter::QueueFull
            | Filter::QueueTime => ("overloaded", "too many requests are under way"),
            Filter::Drain | Filter::Health | Filter::Freshness | Filter::Session => {
                ("unavailable", "the service is not available at the moment")
            }
        };
        Self { status: refusal.status, code, message, retry_after: refusal.retry_after() }
    }

    pub(crate) const fn new(status: u16, code: &'static str, message: &'static str) -> Self {
        Self { status, code, message, retry_after: None }
    }

    pub(crate) const fn unavailable(retry_after: u32) -> Self {
        let message = "the service is not available at the moment";
        Self { status: 503, code: "unavailable", message, retry_after: Some(retry_after) }
    }

    /// For a client that has as many connections as it may.
    pub(crate) const fn too_many_connections() -> Self {
        let message = "this client has too many connections";
        Self { status: 429, code: "too_many_connections", message, retry_after: Some(1) }
    }

    /// The body and its type: JSON where the client accepts it rather than text.
    pub(crate) fn body(&self, json: bool, id: &str) -> (&'static str, Vec<u8>) {
        if json {
            let error = serde_json::json!({
                "error": { "code": self.code, "message": self.message, "request_id": id }
            });
            return ("application/json", error.to_string().into_bytes());
        }
        let text = format!("{} {}: {}\nrequest id: {id}\n", self.status, self.code, self.message);
        ("text/plain; charset=utf-8", text.into_bytes())
    }

    /// The whole HTTP/1.1 answer.
    pub(crate) fn http1(&self, json: bool, id: &str, close: bool, is_head: bool) -> Vec<u8> {
        self.http1_at(None, json, id, close, is_head)
    }

    /// The same, with where the client should go.
    pub(crate) fn http1_at(
        &self,
        location: Option<&str>,
        json: bool,
        id: &str,
        close: bool,
        is_head: bool,
    ) -> Vec<u8> {
        let (content_type, body) = self.body(json, id);
        let mut out = Vec::with_capacity(256 + body.len());
        // Writing to a Vec cannot fail.
        let _ = write!(out, "HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        push_field("content-type", content_type.as_bytes(), &mut out);
        push_field("content-length", body.len().to_string().as_bytes(), &mut out);
        push_field("x-request-id", id.as_bytes(), &mut out);
        push_field("cache-control", b"no-store", &mut out);
        if let Some(location) = location {
            push_field("location", location.as_bytes(), &mut out);
        }
        if let Some(seconds) = self.retry_after {
            push_field("retry-after", seconds.to_string().as_bytes(), &mut out);
        }
        if close {
            push_field("connection", b"close", &mut out);
        }
        out.extend_from_slice(b"\r\n");
        if !is_head {
            out.extend_from_slice(&body);
        }
        out
    }
}

fn reason(status: u16) -> &'static str {
    let code = http::StatusCode::from_u16(status).ok();
    code.and_then(|code| code.canonical_reason()).unwrap_or("Error")
}

/// Status, body bytes and own answer of an ending.
pub(crate) fn summary(ending: &Ending) -> (u16, u64, Option<OwnAnswer>) {
    let own = |answer: OwnAnswer| (answer.status, 0, Some(answer));
    match ending.result {
        Ok(relayed) => (relayed.status, relayed.bytes, None),
        Err(Failed::Unreachable) => own(OwnAnswer::unavailable(1)),
        Err(Failed::Shed(filter)) => {
            own(OwnAnswer::refusal(&Refusal { route: None, filter, status: 503 }))
        }
        Err(Failed::Refused) => match &ending.decided {
            Err(refusal) => own(OwnAnswer::refusal(refusal)),
            Ok(_) => own(OwnAnswer::unavailable(1)),
        },
        Err(Failed::Broken(_)) => {
            own(OwnAnswer::new(502, "bad_gateway", "the service answered incorrectly"))
        }
        Err(Failed::TimedOut) => {
            own(OwnAnswer::new(504, "gateway_timeout", "the service did not answer in time"))
        }
        // 499, as nginx logs a client that went away.
        Err(Failed::Client(gone)) => OwnAnswer::client(gone).map_or((499, 0, None), own),
        Err(Failed::Cut { status, .. }) => (status, 0, None),
    }
}

/// For the access log.
pub(crate) fn error_text(ending: &Ending) -> Option<&'static str> {
    match ending.result {
        // The reason says it.
        Ok(_) | Err(Failed::Shed(_) | Failed::Refused) => None,
        Err(Failed::Unreachable) => Some("no endpoint accepted a connection"),
        Err(Failed::Broken(why)) => Some(why),
        Err(Failed::TimedOut) => Some("the endpoint did not answer in time"),
        Err(Failed::Client(_)) => Some("the client's side failed"),
        Err(Failed::Cut { cause: Cut::Client, .. }) => Some("the client went away"),
        Err(Failed::Cut { cause: Cut::Slow, .. }) => Some("the client takes too little"),
        Err(Failed::Cut { cause: Cut::Deadline, .. }) => Some("the request took too long"),
        Err(Failed::Cut { cause: Cut::Endpoint, .. }) => Some("the response ended early"),
        Err(Failed::Cut { cause: Cut::Edge, .. }) => Some("the response could not be compressed"),
    }
}
