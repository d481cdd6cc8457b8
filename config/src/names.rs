//! What names may look like: ids, hosts, header fields, methods, paths. Refuses to know: which key holds them.

/// The longest id or name.
const LONGEST_ID: usize = 128;

/// Headers that belong to one connection, frame the message or are this hop's to answer (RFC 9110, 7.6 and 10.1.1):
/// an edit would break them.
const NOT_EDITABLE: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// An id or name of the configuration: it stands in URLs, headers and metric labels.
pub(crate) fn id(text: &str) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if text.is_empty() || text.len() > LONGEST_ID || !text.chars().all(legal) {
        return Err(format!(
            "{text:?} is not a name: 1 to {LONGEST_ID} letters, digits, \".\", \"_\" or \"-\""
        ));
    }
    Ok(())
}

/// A host in lower case, without port: labels of letters, digits, `-` and `_`, or an IPv6 address in brackets.
pub(crate) fn host(text: &str) -> Result<(), String> {
    if let Some(inside) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        return match inside.parse::<std::net::Ipv6Addr>() {
            Ok(_) => Ok(()),
            Err(_) => Err(format!("{inside:?} is not an IPv6 address")),
        };
    }
    if text.contains(':') {
        return Err("a host is written without a port".into());
    }
    if !text.is_ascii() {
        return Err("a host in other letters is written in its \"xn--\" form".into());
    }
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(format!("hosts are in lower case; write {:?}", text.to_ascii_lowercase()));
    }
    if text.contains('*') {
        return Err("\"*.\" may only stand once and at the front, such as \"*.example.com\"".into());
    }
    let legal = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if text.len() > 253 || !text.split('.').all(legal) {
        return Err(format!("{text:?} is not a host such as \"api.example.com\""));
    }
    Ok(())
}

/// A host that a certificate may be for, or an address, without brackets and in lower case.
pub(crate) fn server_name(text: &str) -> Result<String, String> {
    let text = text.to_ascii_lowercase();
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Ok(text);
    }
    host(&text)?;
    let dashed = |label: &str| label.starts_with('-') || label.ends_with('-');
    let last = text.rsplit('.').next().unwrap_or_default();
    if text.split('.').any(dashed) || last.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("{text:?} is not a name that a certificate can be for"));
    }
    Ok(text.trim_matches(['[', ']']).to_owned())
}

/// A host with or without port, given back in lower case.
pub(crate) fn authority(text: &str) -> Result<String, String> {
    let text = text.to_ascii_lowercase();
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (text.as_str(), None),
    };
    host(name)?;
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(format!("{text:?} is not a host with or without port"));
    }
    Ok(text)
}

/// A token of RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(legal)
}

/// A header's name, given back in lower case.
pub(crate) fn header_name(text: &str) -> Result<String, String> {
    if is_token(text) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(format!("{text:?} is not a header name"))
    }
}

/// A header's name that a route may set or remove, given back in lower case.
pub(crate) fn editable_header(text: &str) -> Result<String, String> {
    let name = header_name(text)?;
    if NOT_EDITABLE.contains(&name.as_str()) {
        return Err(format!("header {name:?} belongs to the connection and cannot be edited"));
    }
    if name.starts_with("meridian-") {
        return Err(format!("header {name:?} is the edge's own and cannot be edited"));
    }
    Ok(name)
}

/// A header's value: no control characters but tab, no space at either end.
pub(crate) fn header_value(text: &str) -> Result<(), String> {
    if text.bytes().any(|b| (b < b' ' && b != b'\t') || b == 0x7f) {
        return Err("a header value has no line ends or other control characters".into());
    }
    if text.starts_with([' ', '\t']) || text.ends_with([' ', '\t']) {
        return Err("a header value has no space at its ends".into());
    }
    Ok(())
}

/// A method in upper case.
pub(crate) fn method(text: &str) -> Result<(), String> {
    if !is_token(text) {
        return Err(format!("{text:?} is not a method"));
    }
    if text.bytes().any(|b| b.is_ascii_lowercase()) {
        return Err(format!("methods are in upper case; write {:?}", text.to_ascii_uppercase()));
    }
    Ok(())
}

/// A path that starts with `/`, without query.
pub(crate) fn path(text: &str) -> Result<(), String> {
    if text.contains(['?', '#']) {
        return Err(format!("{text:?} has a query or fragment; only the path is matched"));
    }
    path_and_query(text)
}

/// A path that starts with `/`, with or without query.
pub(crate) fn path_and_query(text: &str) -> Result<(), String> {
    if !text.starts_with('/') {
        return Err(format!("{text:?} does not start with \"/\""));
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) || text.contains('#') {
        return Err(format!("{text:?} has characters that must be percent-encoded"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for good in ["localhost", "api.example.com", "10.0.0.1", "[::1]", "xn--bcher-kva.example"] {
            assert_eq!(host(good), Ok(()), "{good}");
        }
        for bad in
            ["", "A.example", "a.example:80", "a..b", ".a", "a.", "*", "bücher.example", "a b"]
        {
            assert!(host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn server_names() {
        for (text, name) in [
            ("API.internal", "api.internal"),
            ("10.0.0.1", "10.0.0.1"),
            ("::1", "::1"),
            ("[::1]", "::1"),
            ("a_b.c", "a_b.c"),
        ] {
            assert_eq!(server_name(text).as_deref(), Ok(name), "{text}");
        }
        for bad in ["", "a.example:443", "*.a.example", "-a.example", "a-.example", "a.1", "a b"] {
            assert!(server_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn headers() {
        assert_eq!(editable_header("X-Tenant").as_deref(), Ok("x-tenant"));
        for bad in ["", "x y", "x:", "Transfer-Encoding", "host", "Connection", "ü"] {
            assert!(editable_header(bad).is_err(), "{bad}");
        }
        assert_eq!(header_value("a b\tc ü"), Ok(()));
        for bad in ["a\r\nb: c", "a\0", " a", "a "] {
            assert!(header_value(bad).is_err(), "{bad:?}");
        }
    }
}
