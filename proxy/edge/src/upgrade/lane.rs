//! The offer in pingora's hands: its callbacks, from the choice of the endpoint to the answer.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderName};
use meridian_routing::{Fault, Filter, Refusal};
use pingora_core::protocols::l4::{self};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};

use super::KEEPALIVE;
use super::passage::Passage;
use crate::forward::canonical::{is_response_hop, named_by};
use crate::respond::OwnAnswer;

pub(super) struct Lane;

#[async_trait]
impl ProxyHttp for Lane {
    type CTX = Option<Passage>;

    fn new_ctx(&self) -> Self::CTX {
        None
    }

    /// The decision arrives as the context of the connection.
    fn on_connection_reuse(
        &self,
        _: &mut Session,
        ctx: &mut Self::CTX,
        previous: Box<dyn std::any::Any + Send + Sync>,
    ) {
        *ctx = previous.downcast::<Passage>().ok().map(|passage| *passage);
    }

    async fn upstream_peer(&self, _: &mut Session, ctx: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        let none_left = || Error::new(ErrorType::ConnectNoRoute);
        let passage = ctx.as_mut().ok_or_else(none_left)?;
        let candidate = passage.candidates.get(passage.tried).ok_or_else(none_left)?;
        let mut peer = HttpPeer::new(candidate.address, false, String::new());
        peer.options.custom_l4 = Some(candidate.dial.clone());
        // An endpoint that does not take the offer loses the connection: it is this client's, and pingora, which tells kept
        // ones apart by their descriptors, finds none.
        peer.group_key = fastrand::u64(..);
        peer.options.idle_timeout = Some(Duration::ZERO);
        peer.options.connection_timeout = Some(passage.connect);
        peer.options.total_connection_timeout = Some(passage.connect);
        // A tunnel may be silent; TCP keep-alive tells whether its ends are there.
        peer.options.read_timeout = None;
        peer.options.write_timeout = Some(passage.first_byte);
        peer.options.tcp_keepalive = Some(l4::ext::TcpKeepalive {
            idle: KEEPALIVE,
            interval: KEEPALIVE,
            count: 3,
            user_timeout: KEEPALIVE,
        });
        Ok(Box::new(peer))
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        upstream: &mut RequestHeader,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        if let Some(fence) = ctx.as_mut().and_then(|passage| passage.fence.as_mut())
            && !fence.enter()
        {
            return Error::e_explain(ErrorType::ConnectNoRoute, "the primary has changed");
        }
        let host = ctx.as_ref().and_then(|p| p.candidates.get(p.tried)?.host.clone());
        match host {
            Some(host) => upstream.insert_header("host", host),
            None => Ok(()),
        }
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        ctx: &mut Self::CTX,
        mut error: Box<Error>,
    ) -> Box<Error> {
        if let Some(passage) = ctx {
            passage.blame(Fault::Connection);
            passage.tried += 1;
            error.set_retry(passage.tried < passage.candidates.len());
        }
        error
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Self::CTX,
        _: bool,
    ) -> Box<Error> {
        let answered = session.response_written().is_some();
        if let Some(passage) = ctx.as_ref().filter(|_| !answered)
            && *error.esource() == ErrorSource::Upstream
        {
            passage.blame(Fault::Connection);
        }
        // Bytes have left: an offer is not made twice.
        let mut error = error.more_context(format!("Peer: {peer}"));
        error.retry = false.into();
        error
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        let Some(passage) = ctx else { return Ok(()) };
        let misdirected = passage.hear(response) && passage.fence.is_some();
        if misdirected {
            // Nothing was executed; offers do not wait for the primary.
            response.set_status(503)?;
            response.insert_header("retry-after", "1")?;
        }
        let status = response.status.as_u16();
        if status == 101 && !was_offered(session.req_header(), response) {
            let why = "a switch to a protocol that was not asked for";
            return Err(Error::explain(ErrorType::InvalidHTTPHeader, why).into_up());
        }
        remove_hops(response);
        if passage.last_answer && status >= 200 {
            // Reading the request has set it anew.
            session.set_keepalive(None);
        }
        for name in &passage.removed {
            response.remove_header(name.as_str());
        }
        for (name, value) in &passage.set {
            response.insert_header(name.clone(), value.as_str())?;
        }
        if let Some(value) = &passage.served_by {
            response.insert_header("meridian-served-by", value.as_str())?;
        }
        let set_cookie = passage.candidates.get(passage.tried).and_then(|c| c.set_cookie.as_ref());
        if let Some(value) = set_cookie.filter(|_| matches!(status, 101 | 200..=499)) {
            response.append_header("set-cookie", value.as_str())?;
        }
        if status == 101 || status >= 200 {
            // What was misdirected says nothing of the endpoint's health.
            passage.learn(if misdirected { 421 } else { status });
            passage.tell(status);
            if let Some(fence) = &mut passage.fence {
                fence.inside = None;
            }
        }
        Ok(())
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Self::CTX,
    ) -> FailToProxy {
        if matches!(error.esource(), ErrorSource::Downstream) {
            // The client went away, or broke the protocol: says nothing of the endpoint.
            if let Some(passage) = ctx {
                passage.tell(499);
            }
            return FailToProxy { error_code: 499, can_reuse_downstream: false };
        }
        let outdated = |passage: &Passage| passage.fence.as_ref().is_some_and(|f| f.outdated);
        let answer = match error.etype() {
            _ if ctx.as_ref().is_some_and(outdated) => OwnAnswer::refusal(&Refusal {
                route: None,
                filter: Filter::PrimaryUnknown,
                status: 503,
            }),
            ErrorType::ReadTimedout | ErrorType::WriteTimedout => {
                OwnAnswer::new(504, "gateway_timeout", "the service did not answer in time")
            }
            kind if is_connect(kind) => OwnAnswer::unavailable(1),
            _ => OwnAnswer::new(502, "bad_gateway", "the service answered incorrectly"),
        };
        let status = answer.status;
        if session.response_written().is_none() {
            let (json, id) = ctx.as_ref().map_or((false, "-"), |p| (p.json, p.id.as_str()));
            // The client may be gone: then nobody reads the answer.
            let _ = write_answer(session, &answer, json, id).await;
        }
        if let Some(passage) = ctx {
            passage.tell(status);
        }
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }

    fn suppress_error_log(&self, _: &Session, _: &Self::CTX, _: &Error) -> bool {
        true
    }
}

/// Whether an answer of 101 says what it switches to, and that is what the client has asked for (RFC 9110 section 7.8).
fn was_offered(request: &RequestHeader, response: &ResponseHeader) -> bool {
    let asked = protocols(&request.headers).unwrap_or_default();
    let told = protocols(&response.headers).unwrap_or_default();
    !told.is_empty() && told.iter().all(|name| asked.contains(name))
}

/// What `Upgrade` names, in lower case; `None` where that is not visible ASCII.
fn protocols(headers: &HeaderMap) -> Option<Vec<String>> {
    let mut names = Vec::new();
    for value in headers.get_all(UPGRADE) {
        let listed = value.to_str().ok()?.split(',').map(|name| name.trim().to_ascii_lowercase());
        names.extend(listed.filter(|name| !name.is_empty()));
    }
    Some(names)
}

/// Takes off what is not for the client; framing and what belongs to a switch of protocols is pingora's.
fn remove_hops(response: &mut ResponseHeader) {
    let mut named = Vec::new();
    for value in response.headers.get_all(CONNECTION) {
        named_by(value.as_bytes(), &mut named);
    }
    let status = response.status.as_u16();
    let (switches, interim) = (matches!(status, 101 | 426), status < 200 && status != 101);
    let goes = |name: &&HeaderName| match name.as_str() {
        "connection" | "content-length" | "transfer-encoding" => interim,
        "upgrade" => !switches,
        name => is_response_hop(name) || named.iter().any(|other| other == name),
    };
    let gone: Vec<_> = response.headers.keys().filter(goes).cloned().collect();
    for name in gone {
        response.remove_header(&name);
    }
}

fn is_connect(kind: &ErrorType) -> bool {
    matches!(
        kind,
        ErrorType::ConnectTimedout
            | ErrorType::ConnectRefused
            | ErrorType::ConnectNoRoute
            | ErrorType::ConnectError
            | ErrorType::ConnectProxyFailure
            | ErrorType::BindError
            | ErrorType::SocketError
    )
}

async fn write_answer(
    session: &mut Session,
    answer: &OwnAnswer,
    json: bool,
    id: &str,
) -> Result<()> {
    let (content_type, body) = answer.body(json, id);
    let mut head = ResponseHeader::build(answer.status, Some(6))?;
    head.insert_header("content-type", content_type)?;
    head.insert_header("content-length", body.len().to_string())?;
    head.insert_header("x-request-id", id)?;
    head.insert_header("cache-control", "no-store")?;
    if let Some(seconds) = answer.retry_after {
        head.insert_header("retry-after", seconds.to_string())?;
    }
    session.set_keepalive(None);
    session.write_response_header(Box::new(head), false).await?;
    session.write_response_body(Some(Bytes::from(body)), true).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_says_what_it_is_to() {
        let switches = |told: &[&[u8]]| {
            let mut request = RequestHeader::build("GET", b"/", None).expect("a request");
            request.append_header("upgrade", "websocket, Chat").expect("a field");
            let mut response = ResponseHeader::build(101, None).expect("an answer");
            for value in told {
                response.append_header("upgrade", *value).expect("a field");
            }
            was_offered(&request, &response)
        };
        assert!(switches(&[b"WebSocket"]));
        assert!(switches(&[b"chat", b"websocket"]));
        assert!(!switches(&[b"websocket", b"h2c"]));
        assert!(!switches(&[b"h2c"]));
        assert!(!switches(&[]), "without a word");
        assert!(!switches(&[b" , "]));
        assert!(!switches(&[b"websocket", b"\xff"]));
    }
}
