//! One view of a request for both protocols: what routing, canonical heads and logs read.

use httparse::Header;
use meridian_control::may_hold_token;
use meridian_http2::Head;
use meridian_routing::{HeaderLookup, cookie_of};

use crate::http1::bytes::is_name;

/// What the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http10,
    Http11,
    Http2,
}

impl Protocol {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2.0",
        }
    }
}

/// With its colon.
const LONGEST_PORT: usize = 6;

/// The header fields, as the parser of the protocol left them.
#[derive(Clone, Copy)]
pub(crate) enum Fields<'a> {
    Http1(&'a [Header<'a>]),
    Http2(&'a Head),
}

/// A well-formed request, borrowed from where it was read.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) protocol: Protocol,
    pub(crate) method: &'a str,
    /// Origin form: path and query; or `*`.
    pub(crate) target: &'a str,
    /// The target without its query.
    pub(crate) path: &'a str,
    /// As sent; empty only with HTTP/1.0.
    pub(crate) authority: &'a str,
    pub(crate) fields: Fields<'a>,
    /// What this edge looks for in the fields.
    pub(crate) notes: Notes<'a>,
    /// The bytes that the fields stand in as lines; empty with HTTP/2.
    pub(crate) lines: &'a [u8],
}

impl<'a> Request<'a> {
    pub(crate) fn new(
        protocol: Protocol,
        method: &'a str,
        target: &'a str,
        authority: &'a str,
        fields: Fields<'a>,
        lines: &'a [u8],
    ) -> Self {
        let query = memchr::memchr(b'?', target.as_bytes());
        let path = query.map_or(target, |at| &target[..at]);
        let notes = Notes::of(&fields);
        Self { protocol, method, target, path, authority, fields, notes, lines }
    }

    /// The authority without its port, in lower case.
    pub(crate) fn host<'s>(&self, space: &'s mut HostSpace) -> &'s str
    where
        'a: 's,
    {
        // A colon behind which the name goes on is part of an IPv6 address; a port has five digits at the most.
        let bytes = self.authority.as_bytes();
        let from = bytes.len().saturating_sub(LONGEST_PORT);
        let last = bytes[from..].iter().rposition(|b| matches!(b, b':' | b']'));
        let name = match last {
            Some(at) if bytes[from + at] == b':' => &self.authority[..from + at],
            _ => self.authority,
        };
        if !name.bytes().any(|b| b.is_ascii_uppercase()) {
            return name;
        }
        space.0.clear();
        space.0.push_str(name);
        space.0.make_ascii_lowercase();
        &space.0
    }
}

/// The fields of a request that this edge looks at in every request, found in one pass: of each the value of the first
/// one, or that there is one. Whatever else is to be looked for in all requests belongs here.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Notes<'a> {
    pub(crate) accept: Option<&'a [u8]>,
    pub(crate) request_id: Option<&'a [u8]>,
    pub(crate) trace_parent: Option<&'a [u8]>,
    pub(crate) forwarded_proto: Option<&'a [u8]>,
    pub(crate) idempotency_key: Option<&'a [u8]>,
    pub(crate) content_type: Option<&'a [u8]>,
    pub(crate) has_connection: bool,
    pub(crate) has_max_staleness: bool,
    /// A session's token, or what may hold one.
    pub(crate) may_hold_tokens: bool,
}

impl<'a> Notes<'a> {
    pub(crate) fn of(fields: &Fields<'a>) -> Self {
        let mut notes = Self::default();
        fields.each(|name, value| notes.field(name, value));
        notes
    }

    fn field(&mut self, name: &str, value: &'a [u8]) {
        let first = match name.len() {
            6 if is_name(name, b"accept") => &mut self.accept,
            6 if is_name(name, b"cookie") => {
                self.may_hold_tokens |= may_hold_token(value);
                return;
            }
            10 if is_name(name, b"connection") => {
                self.has_connection = true;
                return;
            }
            11 if is_name(name, b"traceparent") => &mut self.trace_parent,
            12 if is_name(name, b"x-request-id") => &mut self.request_id,
            12 if is_name(name, b"content-type") => &mut self.content_type,
            15 if is_name(name, b"idempotency-key") => &mut self.idempotency_key,
            16 if is_name(name, b"meridian-session") => {
                self.may_hold_tokens = true;
                return;
            }
            17 if is_name(name, b"x-forwarded-proto") => &mut self.forwarded_proto,
            22 if is_name(name, b"meridian-max-staleness") => {
                self.has_max_staleness = true;
                return;
            }
            _ => return,
        };
        first.get_or_insert(value);
    }
}

/// A field's value, if it is text.
pub(crate) fn text(value: Option<&[u8]>) -> Option<&str> {
    value.and_then(|value| std::str::from_utf8(value).ok())
}

/// Room for a host name that has to be lower-cased.
#[derive(Default)]
pub(crate) struct HostSpace(String);

impl<'a> Fields<'a> {
    /// Calls `visit` with every field, in order where the protocol has one.
    pub(crate) fn each(&self, mut visit: impl FnMut(&'a str, &'a [u8])) {
        match *self {
            Self::Http1(fields) => fields.iter().for_each(|f| visit(f.name, f.value)),
            Self::Http2(head) => head.fields().for_each(|(name, value)| visit(name, value)),
        }
    }

    /// The first value under a lower-case name.
    pub(crate) fn first(&self, name: &str) -> Option<&'a [u8]> {
        match *self {
            Self::Http1(fields) => {
                fields.iter().find(|f| f.name.eq_ignore_ascii_case(name)).map(|f| f.value)
            }
            Self::Http2(head) => head.first(name),
        }
    }

    /// The first value under a lower-case name, if it is text.
    pub(crate) fn text(&self, name: &str) -> Option<&'a str> {
        self.first(name).and_then(|value| std::str::from_utf8(value).ok())
    }
}

impl HeaderLookup for Fields<'_> {
    fn header(&self, name: &str) -> Option<&str> {
        self.text(name)
    }

    fn cookie(&self, name: &str) -> Option<&str> {
        let mut found = None;
        self.each(|field, value| {
            if found.is_none() && field.len() == 6 && field.eq_ignore_ascii_case("cookie") {
                found = std::str::from_utf8(value).ok().and_then(|value| cookie_of(value, name));
            }
        });
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes<'a>(fields: &'a [Header<'a>]) -> Notes<'a> {
        Notes::of(&Fields::Http1(fields))
    }

    fn field<'a>(name: &'a str, value: &'a str) -> Header<'a> {
        Header { name, value: value.as_bytes() }
    }

    #[test]
    fn the_first_field_of_a_name_is_noted_in_any_case() {
        let fields = [
            field("ACCEPT", "first"),
            field("accept", "second"),
            field("X-Request-ID", "id"),
            field("TraceParent", "trace"),
            field("X-Forwarded-Proto", "https"),
            field("Idempotency-Key", ""),
            field("content-type", "text/plain"),
        ];
        let seen = notes(&fields);
        assert_eq!(text(seen.accept), Some("first"));
        assert_eq!(text(seen.request_id), Some("id"));
        assert_eq!(text(seen.trace_parent), Some("trace"));
        assert_eq!(text(seen.forwarded_proto), Some("https"));
        assert_eq!(seen.idempotency_key, Some(&b""[..]));
        assert_eq!(text(seen.content_type), Some("text/plain"));
        assert!(!seen.has_connection && !seen.has_max_staleness && !seen.may_hold_tokens);
        assert_eq!(text(Some(&b"\xff"[..])), None);
    }

    #[test]
    fn tokens_are_suspected_where_there_may_be_some() {
        for (name, value, suspected) in [
            ("Cookie", "a=1; __meridian=x", true),
            ("cookie", "__meridian-api=x", true),
            ("cookie", "a=__meridia; b=2", false),
            ("Meridian-Session", "", true),
            ("x-cookie", "__meridian=x", false),
        ] {
            assert_eq!(notes(&[field(name, value)]).may_hold_tokens, suspected, "{name}: {value}");
        }
        assert!(notes(&[field("Connection", "close")]).has_connection);
        assert!(notes(&[field("MERIDIAN-MAX-STALENESS", "1s")]).has_max_staleness);
    }

    #[test]
    fn a_host_is_without_its_port_and_in_lower_case() {
        for (authority, host) in [
            ("a.example", "a.example"),
            ("A.Example:65535", "a.example"),
            ("a:1", "a"),
            ("a:", "a"),
            ("[::1]", "[::1]"),
            ("[2001:db8::1]:443", "[2001:db8::1]"),
            ("[::1:2345]", "[::1:2345]"),
            ("", ""),
        ] {
            let fields = Fields::Http1(&[]);
            let request = Request::new(Protocol::Http11, "GET", "/", authority, fields, b"");
            assert_eq!(request.host(&mut HostSpace::default()), host, "{authority}");
        }
    }
}
