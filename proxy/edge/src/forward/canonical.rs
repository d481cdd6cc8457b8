//! Canonical heads: what an endpoint is sent, and which fields of its answer a client gets.
//!
//! One Host, one framing, CRLF, no hop-by-hop fields and none that `Connection` names, forwarding fields that say what
//! this edge knows instead of what the client claims.

use std::fmt::Write;

use meridian_config::{HeaderEdits, HostHeader, Route, Service};
use meridian_control::{SESSION_HEADER, may_hold_token};
use meridian_routing::{EndpointView, SESSION_COOKIE};

use super::Upload;
use crate::client_certificate::is_claim;
use crate::compress::{Recoded, recoded};
use crate::http1::body::{Lines, push_field};
use crate::http1::bytes::is_name;
use crate::http1::response::ResponseHead;
use crate::identify::Peer;
use crate::request::{Fields, Notes, Protocol, Request, text};
use crate::session::Given;

/// What the head towards an endpoint is made of, beside the request.
pub(crate) struct HeadContext<'a> {
    pub(crate) route: &'a Route,
    pub(crate) service: &'a Service,
    pub(crate) endpoint: &'a EndpointView,
    pub(crate) peer: &'a Peer,
    pub(crate) ids: &'a RequestIds,
    pub(crate) upload: Upload,
    /// The client waits for 100 Continue.
    pub(crate) expect_continue: bool,
    /// Keep `Upgrade` and its `Connection`.
    pub(crate) upgrade: bool,
    /// Some route keeps sessions: their cookies are the edge's alone.
    pub(crate) sessions: bool,
    /// What the request is fenced by: the epoch of the primary that it is for; 0: none.
    pub(crate) epoch: u64,
}

/// The request id and the trace of one request, 16 random bytes as text.
#[derive(Clone, Debug)]
pub(crate) struct RequestIds {
    /// The client's own id where it sent a sane one.
    given: Option<String>,
    random: [u8; 32],
    traced: bool,
}

impl RequestIds {
    /// From the request's own `X-Request-Id` and `traceparent` where they are sane, else from `random`.
    pub(crate) fn new(notes: &Notes<'_>, random: u128) -> Self {
        let given = text(notes.request_id).filter(|id| is_sane_id(id)).map(str::to_owned);
        let traced = text(notes.trace_parent).is_some_and(is_trace_parent);
        Self { given, random: hex(random), traced }
    }

    /// The request's id.
    pub(crate) fn id(&self) -> &str {
        self.given.as_deref().unwrap_or_else(|| self.random_text())
    }

    fn random_text(&self) -> &str {
        std::str::from_utf8(&self.random).unwrap_or_default()
    }
}

/// Eight digits at a time, in the bytes of a number.
fn hex(random: u128) -> [u8; 32] {
    let mut text = [0; 32];
    for (digits, part) in text.chunks_exact_mut(8).zip(random.to_be_bytes().chunks_exact(4)) {
        let part = part.iter().fold(0, |whole, byte| (whole << 8) | u64::from(*byte));
        // Each byte apart, then each half of a byte.
        let apart = (part | (part << 16)) & 0x0000_ffff_0000_ffff;
        let apart = (apart | (apart << 8)) & 0x00ff_00ff_00ff_00ff;
        let apart = (apart | (apart << 4)) & 0x0f0f_0f0f_0f0f_0f0f;
        // From ten on letters, which stand 39 behind where the digits would go on.
        let letters = ((apart + 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101;
        let ascii = apart + 0x3030_3030_3030_3030 + letters * 39;
        digits.copy_from_slice(&ascii.to_be_bytes());
    }
    text
}

fn is_sane_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic() && b != b'"')
}

/// W3C Trace Context: `version-traceid-parentid-flags`, lower-case hexadecimal, ids not all zero.
fn is_trace_parent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |part: &str, len: usize| {
        part.len() == len && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let set = |part: &str| part.bytes().any(|b| b != b'0');
    matches!(parts.as_slice(), [version, trace, parent, flags, ..]
        if hex(version, 2) && *version != "ff" && hex(trace, 32) && set(trace)
            && hex(parent, 16) && set(parent) && hex(flags, 2)
            && (parts.len() == 4 || *version != "00"))
}

/// What the fields of a request mean for forwarding.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Passed on as it is.
    Pass,
    /// Hop-by-hop, or written anew below.
    Drop,
    Cookie,
    MaxForwards,
    /// `X-Forwarded-For`, `-Proto`, `-Host`, `Forwarded`, by number.
    Forwarding(usize),
    RequestId,
    TraceParent,
}

fn kind(name: &str) -> Kind {
    match name.len() {
        2 if is_name(name, b"te") => Kind::Drop,
        4 if is_name(name, b"host") => Kind::Drop,
        6 if is_name(name, b"cookie") => Kind::Cookie,
        6 if is_name(name, b"expect") => Kind::Drop,
        7 if is_name(name, b"upgrade") => Kind::Drop,
        9 if is_name(name, b"forwarded") => Kind::Forwarding(3),
        10 if is_name(name, b"connection") || is_name(name, b"keep-alive") => Kind::Drop,
        11 if is_name(name, b"traceparent") => Kind::TraceParent,
        12 if is_name(name, b"max-forwards") => Kind::MaxForwards,
        12 if is_name(name, b"x-request-id") => Kind::RequestId,
        14 if is_name(name, b"content-length") || is_name(name, b"http2-settings") => Kind::Drop,
        15 if is_name(name, b"x-forwarded-for") => Kind::Forwarding(0),
        16 if is_name(name, b"proxy-connection") => Kind::Drop,
        16 if is_name(name, b"x-forwarded-host") => Kind::Forwarding(2),
        17 if is_name(name, b"x-forwarded-proto") => Kind::Forwarding(1),
        17 if is_name(name, b"transfer-encoding") => Kind::Drop,
        12 | 15..=17 if is_disguised(name) => Kind::Drop,
        19 if is_name(name, b"proxy-authorization") => Kind::Drop,
        9.. if is_own(name) || is_claim(name) => Kind::Drop,
        _ => Kind::Pass,
    }
}

/// `Meridian-*`: between this edge and its endpoints, never believed from a client and never shown to one. Many programs
/// take `_` for `-`.
pub(crate) fn is_own(name: &str) -> bool {
    let dash = matches!(name.as_bytes().get(8), Some(b'-' | b'_'));
    dash && name.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("meridian"))
}

/// A field that the edge sets itself, written with `_` for `-`: many programs (CGI, WSGI) take both for one, and would
/// put what a client claims beside what the edge knows, or in its place.
pub(crate) fn is_disguised(name: &str) -> bool {
    const SET: [&str; 4] =
        ["x-request-id", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];
    let plain = |b: u8| if b == b'_' { b'-' } else { b.to_ascii_lowercase() };
    let same = |set: &&str| set.bytes().eq(name.bytes().map(plain));
    matches!(name.as_bytes().first(), Some(b'x' | b'X'))
        && name.as_bytes().contains(&b'_')
        && SET.iter().any(same)
}

/// Appends the head of an attempt.
pub(crate) fn request_head(request: &Request<'_>, context: &HeadContext<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(request.method.as_bytes());
    out.push(b' ');
    target(request.target, context.route, out);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let host = match &context.service.host_header {
        HostHeader::Preserve => None,
        HostHeader::Endpoint => Some(context.endpoint.key.address.to_string()),
        HostHeader::Literal(host) => Some(host.clone()),
    };
    let preserved = if request.authority.is_empty() { "-" } else { request.authority };
    push_field("host", host.as_deref().unwrap_or(preserved).as_bytes(), out);
    fields(request, context, out);
    own_fields(request, context, out);
    if context.upgrade
        && let Some(protocol) = request.fields.first("upgrade")
    {
        push_field("upgrade", protocol, out);
        push_field("connection", b"upgrade", out);
    }
    if is_grpc(&request.notes) {
        out.extend_from_slice(b"te: trailers\r\n");
    }
    match context.upload {
        Upload::Length(length) => {
            out.extend_from_slice(b"content-length: ");
            out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        Upload::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Upload::Nothing if matches!(request.method, "POST" | "PUT" | "PATCH") => {
            out.extend_from_slice(b"content-length: 0\r\n");
        }
        Upload::Nothing => {}
    }
    if context.epoch > 0 {
        push_field("meridian-epoch", itoa::Buffer::new().format(context.epoch).as_bytes(), out);
    }
    if context.expect_continue {
        out.extend_from_slice(b"expect: 100-continue\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the request's id, its trace, and where it has been.
fn own_fields(request: &Request<'_>, context: &HeadContext<'_>, out: &mut Vec<u8>) {
    const ID: &[u8; 14] = b"x-request-id: ";
    const TRACE: &[u8; 18] = b"\r\ntraceparent: 00-";
    let HeadContext { ids, route, .. } = context;
    let edits = &route.request_headers;
    let random = &ids.random;
    if ids.given.is_none() && !ids.traced && !edits.any() {
        // The usual case, in one piece.
        let mut lines = [0; ID.len() + 32 + TRACE.len() + 32 + 1 + 16 + 5];
        lines[..14].copy_from_slice(ID);
        lines[14..46].copy_from_slice(random);
        lines[46..64].copy_from_slice(TRACE);
        lines[64..96].copy_from_slice(random);
        lines[96] = b'-';
        lines[97..113].copy_from_slice(&random[..16]);
        lines[113..].copy_from_slice(b"-00\r\n");
        out.extend_from_slice(&lines);
    } else {
        if ids.given.is_none() && !edits.touches("x-request-id") {
            push_field("x-request-id", random, out);
        }
        if !ids.traced && !edits.touches("traceparent") {
            let (trace, parent) = (ids.random_text(), &ids.random_text()[..16]);
            push_field("traceparent", format!("00-{trace}-{parent}-00").as_bytes(), out);
        }
    }
    if !edits.touches("via") {
        out.extend_from_slice(match request.protocol {
            Protocol::Http10 => b"via: 1.0 meridian\r\n".as_slice(),
            Protocol::Http11 => b"via: 1.1 meridian\r\n",
            Protocol::Http2 => b"via: 2.0 meridian\r\n",
        });
    }
}

fn fields(request: &Request<'_>, context: &HeadContext<'_>, out: &mut Vec<u8>) {
    let named = named_by_connection(request);
    let edits = &context.route.request_headers;
    let edited = edits.any();
    let mut earlier: [Vec<&[u8]>; 4] = Default::default();
    let mut cookies: Vec<&[u8]> = Vec::new();
    let sticky = context.route.affinity.as_ref().map(|affinity| affinity.cookie.as_bytes());
    let sessions = context.sessions && request.notes.may_hold_tokens;
    let own = OwnCookies { sticky, sessions };
    let mut lines = Lines::of(request.lines);
    // Of these the first counts, and only it goes on.
    let (mut id, mut trace) = (false, false);
    request.fields.each(|name, value| {
        let pass = match kind(name) {
            Kind::Pass => !is_named(&named, name),
            Kind::Drop => false,
            Kind::Cookie if request.protocol == Protocol::Http2 || own.may_be_in(value) => {
                if !is_named(&named, name) {
                    crumbs(value, &own, &mut cookies);
                }
                false
            }
            Kind::Cookie => !is_named(&named, name),
            Kind::MaxForwards => {
                lines.end(out);
                max_forwards(request.method, value, out);
                false
            }
            Kind::Forwarding(n) => {
                if context.peer.trusted {
                    earlier[n].push(value);
                }
                false
            }
            Kind::RequestId => context.ids.given.is_some() && !std::mem::replace(&mut id, true),
            Kind::TraceParent => context.ids.traced && !std::mem::replace(&mut trace, true),
        };
        if pass && !(edited && edits.touches(name)) {
            lines.push(name, value, out);
        }
    });
    lines.end(out);
    // HTTP/2 may split Cookie into several fields (RFC 9113 section 8.2.3).
    if !cookies.is_empty() && !edits.touches("cookie") {
        push_field("cookie", &cookies.join(&b"; "[..]), out);
    }
    forwarding(request, context, &earlier, out);
    if let Some(shown) = &context.peer.shown {
        shown.write(edits, |name| edits.touches(name), out);
    }
    for (name, value) in &edits.set {
        push_field(name, value.as_bytes(), out);
    }
}

/// The cookies that this edge signs.
struct OwnCookies<'a> {
    /// The name of the route's affinity cookie.
    sticky: Option<&'a [u8]>,
    sessions: bool,
}

impl OwnCookies<'_> {
    /// Whether a `Cookie` field has to be taken apart.
    fn may_be_in(&self, value: &[u8]) -> bool {
        self.sticky.is_some() || (self.sessions && may_hold_token(value))
    }

    fn has(&self, crumb: &[u8]) -> bool {
        let sticky = self.sticky.and_then(|name| crumb.strip_prefix(name));
        sticky.is_some_and(|rest| rest.first() == Some(&b'='))
            || (self.sessions
                && crumb
                    .strip_prefix(SESSION_COOKIE.as_bytes())
                    .is_some_and(|rest| matches!(rest.first(), Some(b'=' | b'-'))))
    }
}

/// A `Cookie` field as it is, or its crumbs without our own: what this edge signs is nobody else's business.
fn crumbs<'v>(value: &'v [u8], own: &OwnCookies<'_>, out: &mut Vec<&'v [u8]>) {
    let all = || value.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    if all().any(|crumb| own.has(crumb)) {
        out.extend(all().filter(|crumb| !own.has(crumb) && !crumb.is_empty()));
    } else {
        out.push(value);
    }
}

/// Appends the forwarding fields: anew for an untrusted peer, continued for a trusted one.
fn forwarding(
    request: &Request<'_>,
    context: &HeadContext<'_>,
    earlier: &[Vec<&[u8]>; 4],
    out: &mut Vec<u8>,
) {
    if !context.peer.trusted
        && !context.route.request_headers.any()
        && !request.authority.is_empty()
    {
        out.extend_from_slice(context.peer.forwarding.as_bytes());
        out.extend_from_slice(request.authority.as_bytes());
        return out.extend_from_slice(b"\r\n");
    }
    let [addresses, protos, hosts, forwarded] = earlier;
    // What the route sets or removes is the route's business.
    let ours = |name: &str| !context.route.request_headers.touches(name);
    if ours("x-forwarded-for") {
        out.extend_from_slice(b"x-forwarded-for: ");
        for address in addresses {
            out.extend_from_slice(address);
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(context.peer.text.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if ours("x-forwarded-proto") {
        let proto = protos.first().copied().unwrap_or(context.peer.scheme.as_bytes());
        push_field("x-forwarded-proto", proto, out);
    }
    let host = hosts.first().copied().unwrap_or(request.authority.as_bytes());
    if !host.is_empty() && ours("x-forwarded-host") {
        push_field("x-forwarded-host", host, out);
    }
    if !forwarded.is_empty() && ours("forwarded") {
        let mut own = String::new();
        let peer = &context.peer.text;
        let quoted = if peer.contains(':') { format!("\"[{peer}]\"") } else { peer.clone() };
        let _ = write!(own, "for={quoted};proto={}", context.peer.scheme);
        let mut all = forwarded.clone();
        all.push(own.as_bytes());
        push_field("forwarded", &all.join(&b", "[..]), out);
    }
}

/// `Max-Forwards` counts down on TRACE and OPTIONS (RFC 9110 section 7.6.2); zero never gets here.
fn max_forwards(method: &str, value: &[u8], out: &mut Vec<u8>) {
    let count = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse::<u32>().ok());
    match count {
        Some(count) if matches!(method, "TRACE" | "OPTIONS") => {
            push_field(
                "max-forwards",
                itoa::Buffer::new().format(count.saturating_sub(1)).as_bytes(),
                out,
            );
        }
        _ => push_field("max-forwards", value, out),
    }
}

/// Appends path and query, its prefix taken off and replaced as the route says.
fn target(target: &str, route: &Route, out: &mut Vec<u8>) {
    let (strip, rewrite) = (&route.strip_prefix, &route.rewrite_prefix);
    if (strip.is_empty() && rewrite.is_empty()) || target == "*" {
        out.extend_from_slice(target.as_bytes());
        return;
    }
    let strip = strip.trim_end_matches('/');
    let rest =
        target.strip_prefix(strip).filter(|rest| rest.is_empty() || rest.starts_with(['/', '?']));
    // A target that lacks the prefix is not the route's to rewrite.
    let Some(rest) = rest else {
        out.extend_from_slice(target.as_bytes());
        return;
    };
    let rewrite = rewrite.trim_end_matches('/');
    out.extend_from_slice(rewrite.as_bytes());
    if !rest.starts_with('/') && (rewrite.is_empty() || rest.is_empty() && rewrite.is_empty()) {
        out.push(b'/');
    }
    out.extend_from_slice(rest.as_bytes());
}

/// Whether the request is gRPC, which needs `TE: trailers` and trailers.
fn is_grpc(notes: &Notes<'_>) -> bool {
    notes.content_type.is_some_and(|value| value.starts_with(b"application/grpc"))
}

/// Lower-case names that `Connection` adds to the hop-by-hop ones.
fn named_by_connection(request: &Request<'_>) -> Vec<String> {
    let mut named = Vec::new();
    if request.notes.has_connection
        && let Fields::Http1(list) = request.fields
    {
        for field in list.iter().filter(|f| f.name.eq_ignore_ascii_case("connection")) {
            named_by(field.value, &mut named);
        }
    }
    named
}

/// What a `Connection` value names, without options and without end-to-end fields that must survive.
pub(crate) fn named_by(value: &[u8], named: &mut Vec<String>) {
    const KEPT: [&str; 9] = [
        "close",
        "keep-alive",
        "upgrade",
        "te",
        "host",
        "via",
        "x-request-id",
        "traceparent",
        "tracestate",
    ];
    for token in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
        let kept = KEPT.iter().any(|kept| token.eq_ignore_ascii_case(kept.as_bytes()));
        if !kept && !token.is_empty() {
            named.push(String::from_utf8_lossy(token).to_ascii_lowercase());
        }
    }
}

fn is_named(named: &[String], name: &str) -> bool {
    !named.is_empty() && named.iter().any(|other| name.eq_ignore_ascii_case(other))
}

/// RFC 6797
pub(crate) const HSTS: &str = "strict-transport-security";

/// What changes on the way back to the client.
pub(crate) struct ResponseEdits<'a> {
    pub(crate) route: &'a HeaderEdits,
    /// The value of `Meridian-Served-By`, where the route shows it.
    pub(crate) served_by: Option<&'a str>,
    /// A `Set-Cookie` of this edge.
    pub(crate) set_cookie: Option<&'a str>,
    /// The session's token.
    pub(crate) session: Option<&'a Given>,
    /// `Strict-Transport-Security`, in place of the endpoint's; a route that edits this field itself is left alone.
    pub(crate) hsts: Option<&'a str>,
    /// Where the route compresses and might have compressed this answer.
    pub(crate) recoded: Option<Recoded>,
}

/// Visits the fields of a response that the client gets: no hop-by-hop ones, no `Content-Length` (the protocol's side
/// writes its own framing), nothing of `Meridian-*` but this edge's own.
pub(crate) fn response_fields<'b>(
    head: &ResponseHead<'_, 'b>,
    edits: &ResponseEdits<'_>,
    mut visit: impl FnMut(&str, &[u8]),
) {
    match &edits.recoded {
        None => fields_of_answer(head, edits, visit),
        Some(how) => recoded(how, |each| fields_of_answer(head, edits, each), &mut visit),
    }
}

#[inline]
fn fields_of_answer<'b>(
    head: &ResponseHead<'_, 'b>,
    edits: &ResponseEdits<'_>,
    mut visit: impl FnMut(&str, &[u8]),
) {
    let mut named = Vec::new();
    if head.names_fields {
        let all = head.fields.iter().filter(|f| f.name.eq_ignore_ascii_case("connection"));
        all.for_each(|field| named_by(field.value, &mut named));
    }
    let edited = edits.route.any();
    let hsts = edits.hsts.filter(|_| !edits.route.touches(HSTS));
    for field in head.fields {
        let stays = is_response_hop(field.name)
            || is_named(&named, field.name)
            || (edited && edits.route.touches(field.name))
            || (hsts.is_some() && field.name.eq_ignore_ascii_case(HSTS));
        if !stays {
            visit(field.name, field.value);
        }
    }
    for (name, value) in &edits.route.set {
        visit(name, value.as_bytes());
    }
    if let Some(value) = edits.served_by {
        visit("meridian-served-by", value.as_bytes());
    }
    if let Some(value) = hsts {
        visit(HSTS, value.as_bytes());
    }
    if let Some(value) = edits.set_cookie {
        visit("set-cookie", value.as_bytes());
    }
    if let Some(given) = edits.session {
        visit("set-cookie", given.cookie.as_bytes());
        visit(SESSION_HEADER, given.token.as_bytes());
    }
}

/// Whether a response's field is for this hop only, or written anew.
pub(crate) fn is_response_hop(name: &str) -> bool {
    match name.len() {
        7 => is_name(name, b"upgrade"),
        9.. if is_own(name) => true,
        10 => is_name(name, b"connection") || is_name(name, b"keep-alive"),
        14 => is_name(name, b"content-length"),
        16 => is_name(name, b"proxy-connection"),
        17 => is_name(name, b"transfer-encoding"),
        _ => false,
    }
}

/// Whether a route's edits remove or replace a field.
trait Touches {
    /// Whether there is any edit.
    fn any(&self) -> bool;
    /// Whether there is one of this field.
    fn touches(&self, name: &str) -> bool;
}

impl Touches for HeaderEdits {
    #[inline]
    fn any(&self) -> bool {
        !(self.set.is_empty() && self.remove.is_empty())
    }

    #[inline]
    fn touches(&self, name: &str) -> bool {
        let is = |other: &String| name.eq_ignore_ascii_case(other);
        self.any() && (self.remove.iter().any(is) || self.set.keys().any(is))
    }
}

#[cfg(test)]
#[path = "canonical_tests.rs"]
mod tests;
