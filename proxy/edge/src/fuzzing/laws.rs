//! What must hold between the bytes of a client, what would be forwarded of them, and the other reader.

use super::reader::{Read, all, read, trimmed};
use super::{Fate, Forwarded};

/// Fields that the edge writes itself, or of which it changes the value.
const OWN: [&str; 16] = [
    "host",
    "via",
    "te",
    "cookie",
    "expect",
    "upgrade",
    "connection",
    "max-forwards",
    "content-length",
    "transfer-encoding",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-request-id",
    "traceparent",
];
/// Between two hops only (RFC 9110 section 7.6.1).
const NEVER: [&str; 4] =
    ["keep-alive", "proxy-connection", "http2-settings", "proxy-authorization"];

/// Holds a fate against the other reader.
///
/// # Panics
/// If they disagree.
pub(super) fn hold(bytes: &[u8], fate: &Fate) {
    let original = read(bytes);
    match fate {
        // Stricter than the grammar is fine.
        Fate::Refused => {}
        Fate::Waits => {
            let whole = original.as_ref().is_ok();
            assert!(!whole, "more is waited for behind a whole request: {original:?}");
        }
        Fate::Forwarded(forwarded) => {
            let original = original.unwrap_or_else(|not| panic!("forwarded, but not {not:?}"));
            same(&original, forwarded);
            only_one(&original, forwarded);
        }
    }
}

/// The request was read as the other reader does.
fn same(original: &Read, forwarded: &Forwarded) {
    let Forwarded { used, method, target, host, .. } = forwarded;
    assert_eq!(original.used, *used, "where the request ends");
    assert_eq!((&original.method, &original.target), (method, target));
    assert_eq!(original.host.as_deref().unwrap_or_default(), host);
}

/// What is sent is the same request, and nothing else.
fn only_one(original: &Read, forwarded: &Forwarded) {
    let sent = &forwarded.sent;
    let again = read(sent).unwrap_or_else(|not| panic!("not {not:?}: {}", sent.escape_ascii()));
    let shown = || sent.escape_ascii().to_string();
    assert_eq!(again.used, sent.len(), "something follows it: {}", shown());
    assert_eq!((&again.method, &again.target), (&original.method, &original.target));
    let host = original.host.as_deref().unwrap_or("-");
    assert_eq!(again.host.as_deref(), Some(host), "{}", shown());
    assert_eq!(again.body, original.body, "{}", shown());
    let hops = all(&again.fields, "via");
    let own = hops.last().is_some_and(|hop| hop.ends_with(b" meridian"));
    let before = all(&original.fields, "via").len();
    assert!(own && hops.len() <= before + 1, "not this hop alone was added: {}", shown());
    for (name, value) in &again.trailers {
        let told = all(&original.trailers, name).contains(&value.as_slice());
        assert!(told, "a trailer {name} that nobody has sent: {}", shown());
    }
    let named = named_by_connection(original);
    for (name, value) in &again.fields {
        assert!(!NEVER.contains(&name.as_str()), "{name} is for one hop: {}", shown());
        assert!(!is_ours(name), "{name} is this edge's own: {}", shown());
        match name.as_str() {
            "connection" | "upgrade" => assert!(forwarded.upgrade, "{}", shown()),
            "te" => assert_eq!(value, b"trailers"),
            own if OWN.contains(&own) => {}
            other => {
                let told = all(&original.fields, other).contains(&value.as_slice());
                assert!(told, "a field {other} that nobody has sent: {}", shown());
                assert!(!named.contains(&other.to_owned()), "{other} is named: {}", shown());
            }
        }
    }
}

fn named_by_connection(original: &Read) -> Vec<String> {
    let lines = all(&original.fields, "connection");
    let tokens = lines.iter().flat_map(|line| line.split(|b| *b == b','));
    tokens.map(|token| String::from_utf8_lossy(trimmed(token)).to_ascii_lowercase()).collect()
}

/// Names under which endpoints are told what this edge knows.
fn is_ours(name: &str) -> bool {
    let name = name.replace('_', "-");
    let starts = ["meridian-", "client-cert-", "x-client-cert"];
    name == "client-cert" || starts.iter().any(|start| name.starts_with(start))
}
