//! Challenges that authorities ask for in the clear (RFC 8555 section 8.3).

use meridian_config::{ACME_PATH, Listener};

use crate::http1::body::push_field;
use crate::request::{Protocol, Request};
use crate::worker::Worker;

/// The whole HTTP/1.1 answer to an authority; `None`: the request is one like any other. Of nearly all requests the second
/// character of the path settles it.
pub(crate) fn challenge(
    worker: &Worker,
    listener: &Listener,
    request: &Request<'_>,
) -> Option<Vec<u8>> {
    if request.path.as_bytes().get(1) != Some(&b'.') {
        return None;
    }
    answer(worker, listener, request)
}

#[cold]
fn answer(worker: &Worker, listener: &Listener, request: &Request<'_>) -> Option<Vec<u8>> {
    let is_head = request.method == "HEAD";
    let asks = is_head || request.method == "GET";
    if listener.tls.is_some() || request.protocol == Protocol::Http2 || !asks {
        return None;
    }
    let token = request.path.strip_prefix(ACME_PATH)?.strip_prefix('/')?;
    let text = worker.challenge_answer(token)?;
    tracing::debug!(target: "acme", listener = %listener.name, "a challenge was asked for");
    let mut out = b"HTTP/1.1 200 OK\r\n".to_vec();
    push_field("content-type", b"application/octet-stream", &mut out);
    push_field("content-length", text.len().to_string().as_bytes(), &mut out);
    push_field("cache-control", b"no-store", &mut out);
    out.extend_from_slice(b"\r\n");
    if !is_head {
        out.extend_from_slice(text.as_bytes());
    }
    Some(out)
}
