//! One access-log line. What it says of the request is written when the request is at hand, the rest when it is over.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use meridian_config::{EndpointAddress, LogFormat, ReplicationSource};
use meridian_routing::{Decision, Micros};

use crate::client_certificate::Shown;
use crate::http1::bytes::{is_token, legal_in_target};
use crate::http1::head::valid_host;
use crate::identify::Peer;
use crate::log_clock::LogClock;
use crate::observe::Observation;
use crate::request::{Protocol, Request};
use crate::worker::Worker;

/// So much of the target of a request that was not read whole is shown, bytes: it may be as long as a head.
const MOST_OF_TARGET: usize = 1024;
/// Of its method, and of its host, whatever is longer is not shown.
const LONGEST_METHOD: usize = 64;
const LONGEST_HOST: usize = 264;

/// The first line of a request that was not read whole, as far as it is one; empty where it is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Beginning<'a> {
    method: &'a str,
    authority: &'a str,
    target: &'a str,
    protocol: &'a str,
}

/// The part, if it is of one or more of these bytes.
fn known(part: &[u8], legal: fn(u8) -> bool) -> Option<&str> {
    let sound = !part.is_empty() && part.iter().all(|b| legal(*b));
    std::str::from_utf8(part).ok().filter(|_| sound)
}

fn known_method(part: &[u8]) -> Option<&str> {
    known(part, is_token).filter(|method| method.len() <= LONGEST_METHOD)
}

fn known_target(part: &[u8]) -> Option<&str> {
    known(&part[..part.len().min(MOST_OF_TARGET)], legal_in_target)
}

impl<'a> Beginning<'a> {
    /// Of HTTP/2, where each part came by itself.
    pub(crate) fn of_stream(method: &'a str, authority: &'a str, target: &'a str) -> Self {
        let host = valid_host(authority.as_bytes()).filter(|host| host.len() <= LONGEST_HOST);
        Self {
            method: known_method(method.as_bytes()).unwrap_or_default(),
            authority: host.unwrap_or_default(),
            target: known_target(target.as_bytes()).unwrap_or_default(),
            protocol: Protocol::Http2.label(),
        }
    }

    /// Of HTTP/1.1 in the bytes that have come.
    pub(crate) fn of(read: &'a [u8]) -> Self {
        let line = &read[..memchr::memchr(b'\n', read).unwrap_or(read.len())];
        let mut parts = line.strip_suffix(b"\r").unwrap_or(line).splitn(3, |b| *b == b' ');
        let mut seen = Self::default();
        // What stands before the first space is a method only if something stands behind it.
        let first = parts.next();
        let Some(target) = parts.next() else { return seen };
        let Some(method) = first.and_then(known_method) else { return seen };
        seen.method = method;
        let Some(target) = known_target(target) else { return seen };
        seen.target = target;
        let protocol = parts.next().filter(|part| part.starts_with(b"HTTP/") && part.len() <= 8);
        let protocol = protocol.and_then(|part| known(part, legal_in_target));
        seen.protocol = protocol.unwrap_or_default();
        seen
    }
}

/// What a log line needs of the request, written before its bytes go; only made while the log is on.
#[derive(Debug)]
pub(crate) struct Described {
    format: LogFormat,
    /// The line's middle, no longer than it is: it stays for as long as the request does.
    text: Box<[u8]>,
    /// Of `text`: where the part ends that stands before what the answer adds.
    split: usize,
}

impl Described {
    pub(crate) fn of(worker: &Worker, peer: &Peer, request: &Request<'_>) -> Self {
        let format = worker.log.format();
        let mut text = worker.buffers.take();
        let split = match format {
            LogFormat::Json => json_request(peer, request, &mut text),
            LogFormat::Combined => combined_request(request, &mut text),
        };
        let kept = text.as_slice().into();
        worker.buffers.give(text);
        Self { format, text: kept, split }
    }

    /// Of a request that was refused before it was read whole, while the log is on.
    pub(crate) fn unread(worker: &Worker, seen: Beginning<'_>) -> Option<Self> {
        if !worker.log.is_on() {
            return None;
        }
        let format = worker.log.format();
        let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        let [method, host, target, protocol] =
            [seen.method, seen.authority, seen.target, seen.protocol].map(or_dash);
        let mut text = Vec::new();
        let split = match format {
            LogFormat::Json => {
                text.push(b'\0');
                json_line_of(&method, &host, &target, &protocol, &mut text);
                let split = text.len();
                json_option(",\"user_agent\":", None, &mut text);
                split
            }
            LogFormat::Combined => {
                combined_line_of(&method, &target, &protocol, &mut text);
                let split = text.len();
                text.extend_from_slice(b" \"-\" \"-\"");
                split
            }
        };
        Some(Self { format, text: text.into(), split })
    }

    /// Appends the whole line, with its newline.
    pub(crate) fn write(
        &self,
        seen: &Observation<'_>,
        took: Duration,
        now: Micros,
        clock: &mut LogClock,
        out: &mut Vec<u8>,
    ) {
        let (before, after) = self.text.split_at(self.split);
        match self.format {
            LogFormat::Json => json_line(seen, before, after, took, now, clock, out),
            LogFormat::Combined => combined_line(seen, before, after, clock, out),
        }
    }
}

/// `"method":…,"host":…,"target":…,"protocol":…,`, then what the line ends with.
fn json_request(peer: &Peer, request: &Request<'_>, out: &mut Vec<u8>) -> usize {
    if let Some(parent) = request.fields.text("traceparent") {
        json_text(",\"traceparent\":", parent, out);
    }
    // The client stands between trace and method; it is not known to the request.
    out.push(b'\0');
    let protocol = request.protocol.label();
    json_line_of(request.method, request.authority, request.target, protocol, out);
    let split = out.len();
    json_option(",\"user_agent\":", request.fields.text("user-agent"), out);
    if let Some(certificate) = peer.shown.as_deref().and_then(Shown::certificate) {
        json_text(",\"client_subject\":", &certificate.subject, out);
        json_text(",\"client_fingerprint\":", &certificate.names.fingerprint, out);
    }
    split
}

fn json_line_of(method: &str, host: &str, target: &str, protocol: &str, out: &mut Vec<u8>) {
    json_text(",\"method\":", method, out);
    json_text(",\"host\":", host, out);
    json_text(",\"target\":", target, out);
    json_text(",\"protocol\":", protocol, out);
}

fn json_line(
    seen: &Observation<'_>,
    before: &[u8],
    after: &[u8],
    took: Duration,
    now: Micros,
    clock: &mut LogClock,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"{\"time\":\"");
    clock.rfc3339(out);
    json_text("\",\"request_id\":", seen.id, out);
    let (trace, request) = split_once(before, b'\0');
    out.extend_from_slice(trace);
    out.extend_from_slice(b",\"client\":\"");
    address(seen.client, out);
    out.push(b'"');
    out.extend_from_slice(request);
    json_number(",\"status\":", u64::from(seen.status), out);
    json_number(",\"bytes\":", seen.bytes, out);
    if let Some((coding, before)) = seen.compressed {
        json_text(",\"compressed\":", coding.label(), out);
        json_number(",\"uncompressed_bytes\":", before, out);
    }
    json_decision(seen, now, out);
    json_number(",\"attempts\":", u64::from(seen.attempts), out);
    out.extend_from_slice(b",\"duration_ms\":");
    milliseconds(took, out);
    out.extend_from_slice(b",\"upstream_ms\":");
    match seen.upstream_time {
        Some(time) => milliseconds(time, out),
        None => out.extend_from_slice(b"null"),
    }
    if let Some(error) = seen.error {
        json_text(",\"error\":", error, out);
    }
    out.extend_from_slice(after);
    out.extend_from_slice(b"}\n");
}

/// Where the request went, and why.
fn json_decision(seen: &Observation<'_>, now: Micros, out: &mut Vec<u8>) {
    let table = seen.table;
    let decision = seen.outcome.ok();
    let route = match seen.outcome {
        Ok(decision) => Some(decision.route),
        Err(refusal) => refusal.route,
    };
    let service = decision.map(|d| table.service(d.service));
    let region = decision.map(|d| d.region.region);
    let primary = decision.and_then(|d| table.primary(d.service));
    json_option(",\"route\":", route.map(|index| table.route(index).name.as_str()), out);
    json_option(",\"service\":", service.map(|service| service.settings.name.as_str()), out);
    json_option(",\"access\":", decision.map(|d| d.class.access.label()), out);
    json_option(",\"region\":", region.map(|r| table.region(r).settings.id.as_str()), out);
    let role = |r| if primary == Some(r) { "primary" } else { "replica" };
    json_option(",\"role\":", region.map(role), out);
    if let Some(lag) = decision.and_then(|decision| lag(seen, decision, now)) {
        json_number(",\"lag_ms\":", lag.as_millis() as u64, out);
    }
    out.extend_from_slice(b",\"endpoint\":");
    match decision.zip(service) {
        // An address holds nothing that would have to be escaped.
        Some((d, s)) => {
            out.push(b'"');
            endpoint(&s.endpoint(d.endpoint.endpoint).key.address, out);
            out.push(b'"');
        }
        None => out.extend_from_slice(b"null"),
    }
    let reason = match seen.outcome {
        Ok(decision) => match seen.shed {
            Some(filter) => filter.label(),
            None => decision.region.reason.label(),
        },
        Err(refusal) => seen.reason.unwrap_or(refusal.filter.label()),
    };
    json_text(",\"reason\":", reason, out);
}

/// The lag of the replica that answered, where it is known.
fn lag(seen: &Observation<'_>, decision: &Decision, now: Micros) -> Option<Duration> {
    let service = seen.table.service(decision.service);
    let region = decision.region.region;
    let known = service.settings.replication.source != ReplicationSource::None;
    if !known || seen.table.primary(decision.service) == Some(region) {
        return None;
    }
    service.pool(region)?.load.0.lag(now).map(|(lag, _)| lag)
}

/// `"GET / HTTP/1.1"`, then `"referer" "user agent"`.
fn combined_request(request: &Request<'_>, out: &mut Vec<u8>) -> usize {
    combined_line_of(request.method, request.target, request.protocol.label(), out);
    let split = out.len();
    for name in ["referer", "user-agent"] {
        out.extend_from_slice(b" \"");
        unquoted(request.fields.text(name).unwrap_or("-"), out);
        out.push(b'"');
    }
    split
}

fn combined_line_of(method: &str, target: &str, protocol: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    unquoted(method, out);
    out.push(b' ');
    unquoted(target, out);
    out.push(b' ');
    out.extend_from_slice(protocol.as_bytes());
    out.push(b'"');
}

fn combined_line(
    seen: &Observation<'_>,
    before: &[u8],
    after: &[u8],
    clock: &mut LogClock,
    out: &mut Vec<u8>,
) {
    address(seen.client, out);
    out.extend_from_slice(b" - - [");
    clock.common(out);
    out.extend_from_slice(b"] ");
    out.extend_from_slice(before);
    out.push(b' ');
    number(u64::from(seen.status), out);
    out.push(b' ');
    number(seen.bytes, out);
    out.extend_from_slice(after);
    out.push(b'\n');
}

/// A text without what would end its quotes.
fn unquoted(text: &str, out: &mut Vec<u8>) {
    out.extend(text.bytes().map(|b| if matches!(b, b'"' | b'\\') { b'_' } else { b }));
}

fn split_once(bytes: &[u8], at: u8) -> (&[u8], &[u8]) {
    match memchr::memchr(at, bytes) {
        Some(i) => (&bytes[..i], &bytes[i + 1..]),
        None => (&[], bytes),
    }
}

fn json_option(key: &str, text: Option<&str>, out: &mut Vec<u8>) {
    match text {
        Some(text) => json_text(key, text, out),
        None => {
            out.extend_from_slice(key.as_bytes());
            out.extend_from_slice(b"null");
        }
    }
}

fn json_text(key: &str, text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(key.as_bytes());
    // Next to all texts are as they are: one look at every byte, without a branch for each.
    let escaped = |byte: &u8| *byte < b' ' || *byte == b'"' || *byte == b'\\';
    if text.as_bytes().iter().fold(false, |any, byte| any | escaped(byte)) {
        // Writing to a Vec cannot fail.
        let _ = serde_json::to_writer(out, text);
        return;
    }
    out.reserve(text.len() + 2);
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

fn json_number(key: &str, value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(key.as_bytes());
    number(value, out);
}

fn number(value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// With three digits behind the point.
fn milliseconds(duration: Duration, out: &mut Vec<u8>) {
    let micros = duration.as_micros() as u64;
    number(micros / 1000, out);
    let rest = micros % 1000;
    let digit = |n: u64| b'0' + (n % 10) as u8;
    out.extend_from_slice(&[b'.', digit(rest / 100), digit(rest / 10), digit(rest)]);
}

fn address(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(address) => {
            for (i, octet) in address.octets().into_iter().enumerate() {
                if i > 0 {
                    out.push(b'.');
                }
                number(u64::from(octet), out);
            }
        }
        IpAddr::V6(address) => write(out, format_args!("{address}")),
    }
}

fn endpoint(named: &EndpointAddress, out: &mut Vec<u8>) {
    match named {
        EndpointAddress::Ip(SocketAddr::V4(at)) => {
            address(IpAddr::V4(*at.ip()), out);
            out.push(b':');
            number(u64::from(at.port()), out);
        }
        other => write(out, format_args!("{other}")),
    }
}

/// Writing to a Vec cannot fail.
fn write(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_first_line_what_is_one_is_shown() {
        let seen = |bytes: &'static [u8]| {
            let Beginning { method, target, protocol, .. } = Beginning::of(bytes);
            [method, target, protocol]
        };
        for (bytes, expected) in [
            (&b"GET /a?b HTTP/1.1\r\nHost:"[..], ["GET", "/a?b", "HTTP/1.1"]),
            (b"GET /a HTTP/9.9 \n", ["GET", "/a", ""]),
            (b"GET /a\r\n", ["GET", "/a", ""]),
            (b"GET /\x01 HTTP/1.1\r\n", ["GET", "", ""]),
            (b"G\xffT / HTTP/1.1\r\n", ["", "", ""]),
            (b"\x16\x03\x01\x02", ["", "", ""]),
            (b"GE", ["", "", ""]),
            (b"", ["", "", ""]),
        ] {
            assert_eq!(seen(bytes), expected, "{}", String::from_utf8_lossy(bytes));
        }
        let long = [b"GET /".as_slice(), &[b'a'; 4 * MOST_OF_TARGET]].concat();
        assert_eq!(Beginning::of(&long).target.len(), MOST_OF_TARGET);
        let long = [&[b'G'; 9000], b" / HTTP/1.1\r\n".as_slice()].concat();
        assert_eq!(Beginning::of(&long), Beginning::default());
    }

    #[test]
    fn of_a_stream_each_part_is_shown_that_is_one() {
        let long = "a".repeat(9000);
        let seen = Beginning::of_stream(&long, &long, &long);
        assert_eq!((seen.method, seen.authority), ("", ""));
        assert_eq!((seen.target.len(), seen.protocol), (MOST_OF_TARGET, "HTTP/2.0"));
        let seen = Beginning::of_stream("G T", "a.example:80", "/\u{e9}");
        assert_eq!((seen.method, seen.authority, seen.target), ("", "a.example:80", ""));
    }

    #[test]
    fn numbers_and_addresses_are_written_as_everywhere() {
        let text = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut out);
            String::from_utf8(out).expect("text")
        };
        for micros in [0, 7, 70, 999, 1000, 1_234_567] {
            let written = text(&|out| milliseconds(Duration::from_micros(micros), out));
            assert_eq!(written, format!("{:.3}", micros as f64 / 1000.0));
        }
        for one in ["0.0.0.0", "203.0.113.255", "2001:db8::1"] {
            let parsed = one.parse().expect("an address");
            assert_eq!(text(&|out| address(parsed, out)), one);
        }
        for one in ["203.0.113.255:80", "[2001:db8::1]:65535", "api.example:443"] {
            let parsed = match one.parse() {
                Ok(address) => EndpointAddress::Ip(address),
                Err(_) => EndpointAddress::Name("api.example".into(), 443),
            };
            assert_eq!(text(&|out| endpoint(&parsed, out)), one);
        }
        assert_eq!(text(&|out| json_text("\"k\":", "a\"\\\u{1}é", out)), r#""k":"a\"\\\u0001é""#);
        let every = (0..=0x2ff).filter_map(char::from_u32);
        for one in every.map(String::from).chain(["".into(), "a b/é\u{7f}".into()]) {
            let expected = serde_json::to_string(&one).expect("text");
            assert_eq!(text(&|out| json_text("", &one, out)), expected);
        }
        assert_eq!(text(&|out| unquoted("a\"b\\c", out)), "a_b_c");
    }
}
