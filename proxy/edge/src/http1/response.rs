//! The response head of an endpoint: strict about framing, because a mistake here answers the wrong client.

use std::mem::MaybeUninit;

use httparse::Header;

use super::body::Framing;
use super::bytes::{has_bare_lf, is_name};
use super::head::content_length;

/// The longest head an endpoint may send, bytes.
pub(crate) const LONGEST_HEAD: usize = 128 * 1024;
/// The most fields an endpoint may send.
const MOST_FIELDS: usize = 200;

/// What the head of a response says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResponseHead<'h, 'b> {
    pub(crate) status: u16,
    pub(crate) reason: &'b str,
    pub(crate) fields: &'h [Header<'b>],
    pub(crate) facts: ResponseFacts,
    /// `Connection` may name fields that are for this hop only.
    pub(crate) names_fields: bool,
    /// The bytes that the fields stand in as lines.
    pub(crate) lines: &'b [u8],
}

/// What outlives the head's bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResponseFacts {
    pub(crate) status: u16,
    /// Bytes of the head, with the empty line.
    pub(crate) len: usize,
    pub(crate) framing: Framing,
    /// The announced Content-Length, even where there is no body (HEAD, 304).
    pub(crate) announced: Option<u64>,
    /// Whether the endpoint keeps the connection.
    pub(crate) keep_alive: bool,
}

impl ResponseFacts {
    /// 1xx but 101: another head follows.
    pub(crate) fn interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }
}

/// The endpoint broke the protocol: 502.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadResponse(pub(crate) &'static str);

/// Parses the head at the start of `read`; `None` if more bytes are needed.
pub(crate) fn with_response<R>(
    read: &[u8],
    to_head_request: bool,
    then: impl FnOnce(&ResponseHead<'_, '_>) -> R,
) -> Result<Option<R>, BadResponse> {
    let mut slots = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let parsed = config.parse_response_with_uninit_headers(&mut response, read, &mut slots);
    let len = match parsed {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if read.len() < LONGEST_HEAD => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(BadResponse("the response head is too large")),
        Err(_) => return Err(BadResponse("the response head is malformed")),
    };
    let (Some(status), Some(minor)) = (response.code, response.version) else {
        return Err(BadResponse("the status line is malformed"));
    };
    if has_bare_lf(&read[..len]) {
        return Err(BadResponse("response lines must end in CRLF"));
    }
    if status < 100 {
        return Err(BadResponse("the status code is out of range"));
    }
    let fields: &[Header<'_>] = response.headers;
    let (facts, names_fields) = facts(status, minor, fields, len, to_head_request)?;
    let reason = response.reason.unwrap_or_default();
    let lines = &read[..len];
    Ok(Some(then(&ResponseHead { status, reason, fields, facts, names_fields, lines })))
}

/// What the fields say of the answer; and whether `Connection` may name some of them.
fn facts(
    status: u16,
    minor: u8,
    fields: &[Header<'_>],
    len: usize,
    to_head_request: bool,
) -> Result<(ResponseFacts, bool), BadResponse> {
    let (mut announced, mut chunked) = (None, false);
    let (mut close, mut keep_alive, mut names_fields) = (false, false, false);
    for field in fields {
        match field.name.len() {
            10 if is_name(field.name, b"connection") => {
                for token in field.value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                    let closes = token.eq_ignore_ascii_case(b"close");
                    let keeps = token.eq_ignore_ascii_case(b"keep-alive");
                    close |= closes;
                    keep_alive |= keeps;
                    names_fields |= !closes && !keeps;
                }
            }
            14 if is_name(field.name, b"content-length") => {
                let value = content_length(field.value);
                let value = value.ok_or(BadResponse("the response's length is malformed"))?;
                if announced.replace(value).is_some_and(|before| before != value) {
                    return Err(BadResponse("the response has two lengths"));
                }
            }
            17 if is_name(field.name, b"transfer-encoding") => {
                let legal = field.value.eq_ignore_ascii_case(b"chunked") && minor == 1;
                if std::mem::replace(&mut chunked, true) || !legal {
                    return Err(BadResponse("the response's transfer coding is not chunked"));
                }
            }
            _ => {}
        }
    }
    if chunked && announced.is_some() {
        return Err(BadResponse("the response has a length and a transfer coding"));
    }
    let bodiless = to_head_request || status < 200 || status == 204 || status == 304;
    let framing = match (bodiless, chunked, announced) {
        (true, ..) | (false, false, Some(0)) => Framing::Empty,
        (false, true, _) => Framing::Chunked,
        (false, false, Some(length)) => Framing::Length(length),
        (false, false, None) => Framing::UntilClose,
    };
    let persistent = if minor == 0 { keep_alive && !close } else { !close };
    let keep_alive = persistent && framing != Framing::UntilClose;
    Ok((ResponseFacts { status, len, framing, announced, keep_alive }, names_fields))
}

#[cfg(test)]
#[path = "response_tests.rs"]
mod tests;
