//! The strict request head: what HTTP_CONTRACT allows and nothing else, in one place before any forwarding.
//!
//! `httparse` finds the parts; what it tolerates and a proxy must not (bare LF, two framings, odd lengths, a host that
//! disagrees with the target) is turned down here.

use std::mem::MaybeUninit;
use std::sync::LazyLock;

use httparse::Header;
use memchr::memmem::Finder;
use meridian_config::Limits;

use super::body::Framing;
use super::bytes::{has_bare_lf, is_name, is_token, legal_in_name, legal_in_target};
use crate::request::{Fields, Protocol, Request};

/// Finds the end of a head; built once, because building costs more than a search through a head.
static END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));

/// Why a head is refused. Every one of them closes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadError {
    /// 400
    Bad(&'static str),
    /// 405: CONNECT
    Connect,
    /// 414
    TargetTooLong,
    /// 431
    TooLarge,
    /// 413, known from the announced length
    BodyTooLarge,
    /// 501: a transfer coding that is not `chunked`
    UnknownCoding,
    /// 505
    Version,
}

impl HeadError {
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::Bad(_) => 400,
            Self::Connect => 405,
            Self::TargetTooLong => 414,
            Self::TooLarge => 431,
            Self::BodyTooLarge => 413,
            Self::UnknownCoding => 501,
            Self::Version => 505,
        }
    }

    pub(crate) fn message(self) -> &'static str {
        match self {
            Self::Bad(why) => why,
            Self::Connect => "CONNECT is not served here",
            Self::TargetTooLong => "the request target is too long",
            Self::TooLarge => "the request head is too large",
            Self::BodyTooLarge => "the request body is too large",
            Self::UnknownCoding => "this transfer coding is not supported",
            Self::Version => "this HTTP version is not supported",
        }
    }
}

/// What the head says beyond the request itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct HeadFacts {
    /// Bytes of the head, with the empty line.
    pub(crate) len: usize,
    pub(crate) framing: Framing,
    pub(crate) keep_alive: bool,
    pub(crate) http10: bool,
    pub(crate) is_head: bool,
    pub(crate) expect_continue: bool,
    /// `Upgrade` is asked for, and `Connection` names it.
    pub(crate) upgrade: bool,
}

/// Looks for the end of a head in what has been read so far; remembers how far it looked.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HeadScan {
    searched: usize,
    tried_at: usize,
}

impl HeadScan {
    /// The length of the whole head, if `read` holds it. An error if it can never become an acceptable one.
    pub(crate) fn complete(
        &mut self,
        read: &[u8],
        limits: &Limits,
    ) -> Result<Option<usize>, HeadError> {
        let from = self.searched.saturating_sub(3);
        if let Some(at) = END.find(&read[from..]) {
            let end = from + at + 4;
            let fits = end <= limits.header_bytes;
            return if fits { Ok(Some(end)) } else { Err(too_long(read, limits)) };
        }
        self.searched = read.len();
        if read.len() >= limits.header_bytes {
            return Err(too_long(read, limits));
        }
        if read.len() > limits.request_line_bytes + 1 && !first_line_fits(read, limits) {
            return Err(HeadError::TargetTooLong);
        }
        // Garbage should not have to wait for the deadline; looking only when the bytes have doubled keeps this linear.
        if read.len() >= self.tried_at * 2 {
            self.tried_at = read.len();
            let mut slots = [const { MaybeUninit::uninit() }; SLOTS];
            match find(read, &mut slots) {
                Ok(Found::Whole(_)) => return Err(HeadError::Bad("lines must end in CRLF")),
                // There may be more than fit here; the limit is looked at when the head is whole.
                Ok(Found::Partial) | Err(HeadError::TooLarge) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

fn first_line_fits(read: &[u8], limits: &Limits) -> bool {
    // The line ends before its CR.
    memchr::memchr(b'\n', read).is_some_and(|end| end <= limits.request_line_bytes + 1)
}

fn too_long(read: &[u8], limits: &Limits) -> HeadError {
    if first_line_fits(read, limits) { HeadError::TooLarge } else { HeadError::TargetTooLong }
}

/// Fields that fit without an allocation; a higher limit takes one.
const SLOTS: usize = 128;

enum Found<'h, 'b> {
    Whole(httparse::Request<'h, 'b>),
    Partial,
}

fn find<'h, 'b>(
    read: &'b [u8],
    slots: &'h mut [MaybeUninit<Header<'b>>],
) -> Result<Found<'h, 'b>, HeadError> {
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(read, slots) {
        Ok(httparse::Status::Complete(_)) => Ok(Found::Whole(request)),
        Ok(httparse::Status::Partial) => Ok(Found::Partial),
        Err(httparse::Error::TooManyHeaders) => Err(HeadError::TooLarge),
        Err(httparse::Error::Version) => Err(HeadError::Version),
        Err(httparse::Error::HeaderName) => Err(HeadError::Bad("a header name is malformed")),
        Err(httparse::Error::HeaderValue) => Err(HeadError::Bad("a header value is malformed")),
        Err(_) => Err(HeadError::Bad("the request line is malformed")),
    }
}

/// Parses a whole head, as long as [`HeadScan`] found it, and hands it to `then`.
pub(crate) fn with_head<R>(
    head: &[u8],
    limits: &Limits,
    then: impl FnOnce(&Request<'_>, HeadFacts) -> R,
) -> Result<R, HeadError> {
    if limits.headers <= SLOTS {
        let mut slots = [const { MaybeUninit::uninit() }; SLOTS];
        parse(head, limits, &mut slots[..limits.headers], then)
    } else {
        let mut slots = vec![MaybeUninit::uninit(); limits.headers];
        parse(head, limits, &mut slots, then)
    }
}

fn parse<'b, R>(
    head: &'b [u8],
    limits: &Limits,
    slots: &mut [MaybeUninit<Header<'b>>],
    then: impl FnOnce(&Request<'_>, HeadFacts) -> R,
) -> Result<R, HeadError> {
    if has_bare_lf(head) {
        return Err(HeadError::Bad("lines must end in CRLF"));
    }
    let Found::Whole(parsed) = find(head, slots)? else {
        return Err(HeadError::Bad("the head has no end"));
    };
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(HeadError::Bad("the request line is malformed"));
    };
    // Method, target and version, with two spaces between.
    if method.len() + target.len() + 10 > limits.request_line_bytes {
        return Err(HeadError::TargetTooLong);
    }
    let fields: &[Header<'_>] = parsed.headers;
    let seen = survey(head, fields, minor)?;
    let (target, host) = authority_and_target(method, target, seen.host, minor)?;
    if let Framing::Length(length) = seen.framing
        && length > limits.body_bytes
    {
        return Err(HeadError::BodyTooLarge);
    }
    let protocol = if minor == 0 { Protocol::Http10 } else { Protocol::Http11 };
    let fields = Fields::Http1(fields);
    let request = Request::new(protocol, method, target, host, fields, head);
    let facts = HeadFacts {
        len: head.len(),
        framing: seen.framing,
        keep_alive: if minor == 0 { seen.keep_alive && !seen.close } else { !seen.close },
        http10: minor == 0,
        is_head: method == "HEAD",
        expect_continue: seen.expect_continue && minor == 1,
        // Anything else may ignore the offer (RFC 9110 section 7.8), and keeps its limits that way.
        upgrade: seen.upgrade == Some(true)
            && seen.connection_upgrade
            && minor == 1
            && method == "GET"
            && seen.framing == Framing::Empty,
    };
    Ok(then(&request, facts))
}

#[derive(Default)]
struct Survey<'b> {
    host: Option<&'b [u8]>,
    framing: Framing,
    close: bool,
    keep_alive: bool,
    connection_upgrade: bool,
    /// There is an `Upgrade`, and whether it is one to forward.
    upgrade: Option<bool>,
    expect_continue: bool,
}

/// The most options that `Connection` may list: each field is held against all of them.
const MOST_OPTIONS: usize = 64;

/// One pass over the fields for everything that decides framing, host and persistence.
fn survey<'b>(head: &[u8], fields: &[Header<'b>], minor: u8) -> Result<Survey<'b>, HeadError> {
    let mut seen = Survey::default();
    let mut length = None;
    let mut chunked = false;
    let mut options = 0;
    for field in fields {
        match field.name.len() {
            4 if is_name(field.name, b"host") && seen.host.replace(field.value).is_some() => {
                return Err(HeadError::Bad("there must be one Host"));
            }
            6 if is_name(field.name, b"expect") => {
                seen.expect_continue = field.value.eq_ignore_ascii_case(b"100-continue");
            }
            7 if is_name(field.name, b"upgrade") => {
                seen.upgrade = Some(seen.upgrade.is_none() && may_be_tunnelled(field.value));
            }
            10 if is_name(field.name, b"connection") => {
                for token in field.value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                    options += 1;
                    seen.close |= token.eq_ignore_ascii_case(b"close");
                    seen.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                    seen.connection_upgrade |= token.eq_ignore_ascii_case(b"upgrade");
                }
            }
            14 if is_name(field.name, b"content-length") => {
                let value = content_length(field.value).filter(|_| bare(head, field.value));
                let value = value.ok_or(HeadError::Bad("the Content-Length is malformed"))?;
                if length.replace(value).is_some() {
                    return Err(HeadError::Bad("there must be one Content-Length"));
                }
            }
            17 if is_name(field.name, b"transfer-encoding") => {
                if std::mem::replace(&mut chunked, true) || minor == 0 {
                    return Err(HeadError::Bad("this use of Transfer-Encoding is ambiguous"));
                }
                transfer_encoding(head, field.value)?;
            }
            _ => {}
        }
    }
    if options > MOST_OPTIONS {
        return Err(HeadError::Bad("the Connection lists too much"));
    }
    seen.framing = match (length, chunked) {
        (Some(_), true) => return Err(HeadError::Bad("Content-Length with Transfer-Encoding")),
        (None, true) => Framing::Chunked,
        (Some(0) | None, false) => Framing::Empty,
        (Some(length), false) => Framing::Length(length),
    };
    Ok(seen)
}

/// Whether an endpoint may be offered this `Upgrade`. A tunnel of HTTP/2 or TLS would carry requests
/// past every rule of this edge.
fn may_be_tunnelled(value: &[u8]) -> bool {
    let starts = |token: &[u8], with: &[u8]| {
        token.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with))
    };
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii).all(|token| {
        let barred = [&b"h2c"[..], b"http/", b"tls/"].iter().any(|name| starts(token, name));
        !token.is_empty() && !barred
    })
}

/// Whether nothing but spaces stands between the colon and the value, and nothing between the value and its CRLF:
/// the parser trims tabs and trailing blanks, which a less lenient one behind might not.
fn bare(head: &[u8], value: &[u8]) -> bool {
    let start = (value.as_ptr() as usize).wrapping_sub(head.as_ptr() as usize);
    let before = head.get(start.wrapping_sub(1));
    matches!(before, Some(b' ' | b':')) && head[start..].get(value.len()) == Some(&b'\r')
}

/// Digits only; `None` also where it does not fit 63 bits.
pub(crate) fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 {
        return None;
    }
    let digit = |sum: u64, b: &u8| b.is_ascii_digit().then(|| sum * 10 + u64::from(b & 15));
    value.iter().try_fold(0, digit)
}

fn transfer_encoding(head: &[u8], value: &[u8]) -> Result<(), HeadError> {
    if !bare(head, value) {
        return Err(HeadError::Bad("the Transfer-Encoding is malformed"));
    }
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let tokens = || value.split(|b| *b == b',').map(<[u8]>::trim_ascii);
    let legal = tokens().all(|t| !t.is_empty() && t.iter().all(|b| is_token(*b)));
    let has_chunked = tokens().any(|token| token.eq_ignore_ascii_case(b"chunked"));
    if legal && !has_chunked {
        Err(HeadError::UnknownCoding)
    } else {
        Err(HeadError::Bad("this use of Transfer-Encoding is ambiguous"))
    }
}

/// The target in origin form (or `*`) and the authority.
fn authority_and_target<'b>(
    method: &str,
    target: &'b str,
    host: Option<&'b [u8]>,
    minor: u8,
) -> Result<(&'b str, &'b str), HeadError> {
    if method == "CONNECT" {
        return Err(HeadError::Connect);
    }
    if !target.bytes().all(legal_in_target) {
        return Err(HeadError::Bad("the request target has an illegal character"));
    }
    let host = match host {
        Some(value) => valid_host(value).ok_or(HeadError::Bad("the Host is malformed"))?,
        None if minor == 0 => "",
        None => return Err(HeadError::Bad("there must be one Host")),
    };
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok((target, host));
    }
    let (scheme, rest) =
        target.split_once("://").ok_or(HeadError::Bad("the request target is malformed"))?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(HeadError::Bad("the request target's scheme is not served here"));
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let valid = valid_host(authority.as_bytes());
    let authority = valid.ok_or(HeadError::Bad("the request target is malformed"))?;
    if !host.is_empty() && !host.eq_ignore_ascii_case(authority) {
        return Err(HeadError::Bad("the Host disagrees with the request target"));
    }
    match path.as_bytes().first() {
        Some(b'/') => Ok((path, authority)),
        None => Ok(("/", authority)),
        // `http://host?query` has no path to stand before its query.
        Some(_) => Err(HeadError::Bad("the request target is malformed")),
    }
}

/// `uri-host [ ":" port ]` of RFC 3986, not empty.
pub(crate) fn valid_host(value: &[u8]) -> Option<&str> {
    let name = match value.strip_prefix(b"[") {
        Some(inside) => {
            let end = inside.iter().position(|b| *b == b']')?;
            std::str::from_utf8(&inside[..end]).ok()?.parse::<std::net::Ipv6Addr>().ok()?;
            end + 2
        }
        None => value.iter().position(|b| !legal_in_name(*b)).unwrap_or(value.len()),
    };
    let port_fits = match &value[name..] {
        [] => true,
        [b':', port @ ..] => {
            let digit =
                |port: u32, b: &u8| b.is_ascii_digit().then(|| port * 10 + u32::from(b & 15));
            port.len() <= 5 && port.iter().try_fold(0, digit).is_some_and(|port| port <= 65_535)
        }
        _ => false,
    };
    if name > 0 && port_fits { std::str::from_utf8(value).ok() } else { None }
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
