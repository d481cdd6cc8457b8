//! Heads between the canonical text, which the forwarder speaks, and HTTP/2.
//!
//! Promises: nothing is added to a request but what HTTP/2 asks for; no field that HTTP/2 forbids goes either way.

use std::io::{self, Write};

use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};

use crate::http1::body::{Framing, push_field};

/// A canonical head as a request of HTTP/2, and how its body is framed in the text that follows.
///
/// # Errors
/// HTTP/2's request cannot say it.
pub(super) fn request(head: &[u8], secure: bool) -> io::Result<(Request<()>, Framing)> {
    let broken = || io::Error::from(io::ErrorKind::InvalidInput);
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.trim_ascii_end());
    let mut first = lines.next().ok_or_else(broken)?.split(|byte| *byte == b' ');
    let (method, target) = (first.next().ok_or_else(broken)?, first.next().ok_or_else(broken)?);
    let method = Method::from_bytes(method).map_err(io::Error::other)?;
    let (mut fields, mut authority, mut framing) = (HeaderMap::new(), None, Framing::Empty);
    for line in lines.take_while(|line| !line.is_empty()) {
        let colon = line.iter().position(|byte| *byte == b':').ok_or_else(broken)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let name = HeaderName::from_bytes(name).map_err(io::Error::other)?;
        match name.as_str() {
            "host" => authority = Some(Authority::try_from(value).map_err(io::Error::other)?),
            "transfer-encoding" => framing = Framing::Chunked,
            "connection" | "upgrade" => {}
            _ => {
                let value = HeaderValue::from_bytes(value).map_err(io::Error::other)?;
                if name == CONTENT_LENGTH {
                    let length = value.to_str().ok().and_then(|text| text.parse().ok());
                    framing = match length.ok_or_else(broken)? {
                        0 => Framing::Empty,
                        length => Framing::Length(length),
                    };
                }
                fields.append(name, value);
            }
        }
    }
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(if secure { Scheme::HTTPS } else { Scheme::HTTP });
    uri.authority = Some(authority.ok_or_else(broken)?);
    uri.path_and_query = Some(PathAndQuery::try_from(target).map_err(io::Error::other)?);
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from_parts(uri).map_err(io::Error::other)?;
    *request.headers_mut() = fields;
    Ok((request, framing))
}

/// Appends a 1xx head.
pub(super) fn interim(response: &Response<()>, out: &mut Vec<u8>) {
    status_line(response.status(), out);
    fields(response.headers(), out);
    out.extend_from_slice(b"\r\n");
}

/// Appends a final head; how the body that follows is framed. `ended`: it has none, nor trailers.
pub(super) fn response<B>(
    response: &Response<B>,
    is_head: bool,
    ended: bool,
    out: &mut Vec<u8>,
) -> Framing {
    let (status, map) = (response.status(), response.headers());
    status_line(status, out);
    fields(map, out);
    let bodiless = is_head || matches!(status.as_u16(), 204 | 304);
    let kind = map.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let length = map.get(CONTENT_LENGTH).filter(|_| status != StatusCode::NO_CONTENT);
    // gRPC has trailers, which a body with a length cannot have.
    let length = length.filter(|_| bodiless || ended || !kind.starts_with(b"application/grpc"));
    let number = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let framing = match number {
        Some(length) => {
            push_field("content-length", length.to_string().as_bytes(), out);
            Framing::Length(length)
        }
        None if bodiless => Framing::Empty,
        None if ended => {
            out.extend_from_slice(b"content-length: 0\r\n");
            Framing::Empty
        }
        None => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
            Framing::Chunked
        }
    };
    out.extend_from_slice(b"\r\n");
    if bodiless { Framing::Empty } else { framing }
}

fn status_line(status: StatusCode, out: &mut Vec<u8>) {
    let reason = status.canonical_reason().unwrap_or("Status");
    // Writing to a Vec cannot fail.
    let _ = write!(out, "HTTP/1.1 {} {reason}\r\n", status.as_u16());
}

/// Appends fields; what frames a message of HTTP/1.1 is no field of HTTP/2.
pub(super) fn fields(map: &HeaderMap, out: &mut Vec<u8>) {
    for (name, value) in map {
        let hop = matches!(
            name.as_str(),
            "connection" | "content-length" | "keep-alive" | "transfer-encoding" | "upgrade"
        );
        if !hop {
            push_field(name.as_str(), value.as_bytes(), out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canonical_head_becomes_a_request() {
        let head =
            b"POST /a?b=1 HTTP/1.1\r\nhost: x.example:81\r\nx-a: 1\r\nx-a: 2\r\nte: trailers\r\n\
                     transfer-encoding: chunked\r\n\r\n";
        let (made, framing) = request(head, true).expect("sound");
        assert_eq!(made.method(), Method::POST);
        assert_eq!(made.uri().to_string(), "https://x.example:81/a?b=1");
        assert_eq!(made.headers().get_all("x-a").iter().count(), 2);
        assert_eq!(made.headers()["te"], "trailers");
        assert!(!made.headers().contains_key("host"));
        assert!(!made.headers().contains_key("transfer-encoding"));
        assert_eq!(framing, Framing::Chunked);
        let (made, framing) =
            request(b"OPTIONS * HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n", false)
                .expect("sound");
        assert_eq!((made.uri().path(), framing), ("*", Framing::Length(3)));
        assert!(request(b"GET / HTTP/1.1\r\n\r\n", false).is_err(), "no host");
    }

    #[test]
    fn answers_are_framed_by_what_is_known_of_their_body() {
        let framed = |status: u16, length: Option<u64>, grpc: bool, head: bool, ended: bool| {
            let mut builder = Response::builder().status(status);
            if let Some(length) = length {
                builder = builder.header("content-length", length);
            }
            if grpc {
                builder = builder.header("content-type", "application/grpc");
            }
            let mut out = Vec::new();
            let framing = response(&builder.body(()).expect("sound"), head, ended, &mut out);
            (framing, String::from_utf8(out).expect("text"))
        };
        let (framing, text) = framed(200, Some(5), false, false, false);
        assert_eq!(framing, Framing::Length(5));
        assert!(text.ends_with("content-length: 5\r\n\r\n"), "{text}");
        let (framing, text) = framed(200, Some(5), true, false, false);
        assert_eq!(framing, Framing::Chunked);
        assert!(!text.contains("content-length"), "{text}");
        assert_eq!(framed(200, None, false, false, false).0, Framing::Chunked);
        let (framing, text) = framed(200, None, true, false, true);
        assert_eq!(framing, Framing::Empty);
        assert!(text.contains("content-length: 0\r\n"), "{text}");
        assert!(framed(200, Some(9), false, true, true).1.contains("content-length: 9\r\n"));
        for status in [204, 304] {
            let (framing, text) = framed(status, None, false, false, true);
            assert_eq!(framing, Framing::Empty);
            assert!(!text.contains("content-length"), "{text}");
        }
    }
}
