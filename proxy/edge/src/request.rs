//! One view of a request for both protocols: what routing, canonical heads and logs read.

use httparse::Header;
use meridian_http2::Head;
use meridian_routing::{HeaderLookup, cookie_of};

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
}

impl<'a> Request<'a> {
    pub(crate) fn new(
        protocol: Protocol,
        method: &'a str,
        target: &'a str,
        authority: &'a str,
        fields: Fields<'a>,
    ) -> Self {
        let query = target.as_bytes().iter().position(|b| *b == b'?');
        let path = query.map_or(target, |at| &target[..at]);
        Self { protocol, method, target, path, authority, fields }
    }

    /// The authority without its port, in lower case.
    pub(crate) fn host<'s>(&self, space: &'s mut HostSpace) -> &'s str
    where
        'a: 's,
    {
        // A colon behind which the name goes on is part of an IPv6 address.
        let last = self.authority.bytes().rposition(|b| matches!(b, b':' | b']'));
        let name = match last {
            Some(at) if self.authority.as_bytes()[at] == b':' => &self.authority[..at],
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
