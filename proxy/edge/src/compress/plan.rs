//! Whether an answer is compressed, by its head and its request.

use meridian_config::{Coding, Compress};

use super::accept::Accepted;
use super::fields::is_digest;
use crate::http1::body::Framing;
use crate::http1::response::ResponseHead;
use crate::request::{Fields, Protocol, Request};

/// What becomes of an answer that its route may compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recoded {
    /// `None`: it goes as it is, and says that it might have been otherwise.
    pub(crate) coding: Option<Coding>,
    /// Its entity tag becomes a weak one. Not the same bytes are sent to everybody, not even with the same coding: where
    /// the body is flushed depends on when it comes. So the tag cannot be strong (RFC 9110 section 8.8.1).
    pub(crate) weakens: bool,
}

/// The plan for an answer; `None`: it is not touched.
pub(crate) fn plan(
    settings: &Compress,
    head: &ResponseHead<'_, '_>,
    is_head: bool,
    request: &Request<'_>,
) -> Option<Recoded> {
    if head.status == 304 {
        return Some(Recoded { coding: None, weakens: has_weakened(head, &request.fields) });
    }
    if !is_eligible(settings, head, is_head) {
        return None;
    }
    let coding = coding(settings, head, request);
    Some(Recoded { coding, weakens: coding.is_some() })
}

/// Whether the answer might be compressed, for some client.
fn is_eligible(settings: &Compress, head: &ResponseHead<'_, '_>, is_head: bool) -> bool {
    if head.status < 200 || matches!(head.status, 204..=206) || head.facts.announced == Some(0) {
        return false;
    }
    if head.facts.framing == Framing::Empty && !is_head {
        return false;
    }
    let mut fits = false;
    for field in head.fields {
        let is = |other: &str| field.name.eq_ignore_ascii_case(other);
        match field.name.len() {
            7 if is("trailer") && tokens(field.value).any(is_digest_token) => return false,
            12 if is("content-type") => fits = is_wanted(settings, field.value),
            13 if is("content-range") => return false,
            13 if is("cache-control") && tokens(field.value).any(is_no_transform) => return false,
            16 if is("content-encoding")
                && !tokens(field.value).all(|token| token.eq_ignore_ascii_case(b"identity")) =>
            {
                return false;
            }
            _ if is_digest(field.name) => return false,
            _ => {}
        }
    }
    fits
}

fn coding(
    settings: &Compress,
    head: &ResponseHead<'_, '_>,
    request: &Request<'_>,
) -> Option<Coding> {
    // An answer whose length is not known takes the connection with it under HTTP/1.0.
    if request.protocol == Protocol::Http10 {
        return None;
    }
    let mut accepted = Accepted::default();
    let mut stays = false;
    request.fields.each(|name, value| {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        match name.len() {
            13 if is("cache-control") => stays |= tokens(value).any(is_no_transform),
            15 if is("accept-encoding") => accepted.read(value),
            _ => {}
        }
    });
    let small = head.facts.announced.is_some_and(|length| length < settings.min_size);
    if stays || (small && !accepted.refuses_identity()) {
        return None;
    }
    accepted.best(&settings.algorithms)
}

/// Whether the client asks by the weakened form of this answer's tag. Then this is the one that it knows, and a cache would
/// not find what it has by another (RFC 9111 section 4.3.4).
fn has_weakened(head: &ResponseHead<'_, '_>, fields: &Fields<'_>) -> bool {
    let tag = head.fields.iter().find(|field| field.name.eq_ignore_ascii_case("etag"));
    let Some(tag) = tag.map(|field| field.value).filter(|tag| tag.starts_with(b"\"")) else {
        return false;
    };
    let (mut weak, mut strong) = (false, false);
    fields.each(|name, value| {
        if name.eq_ignore_ascii_case("if-none-match") {
            for at in memchr::memmem::find_iter(value, tag) {
                let by_weak = value[..at].ends_with(b"W/");
                weak |= by_weak;
                strong |= !by_weak;
            }
        }
    });
    weak && !strong
}

fn is_wanted(settings: &Compress, content_type: &[u8]) -> bool {
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    let Ok(essence) = std::str::from_utf8(essence.trim_ascii()) else { return false };
    let is_grpc = |start: &str| start.eq_ignore_ascii_case("application/grpc");
    !essence.get(.."application/grpc".len()).is_some_and(is_grpc)
        && settings.types.iter().any(|pattern| pattern.matches(essence))
}

fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

fn is_no_transform(token: &[u8]) -> bool {
    token.eq_ignore_ascii_case(b"no-transform")
}

fn is_digest_token(token: &[u8]) -> bool {
    std::str::from_utf8(token).is_ok_and(is_digest)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
