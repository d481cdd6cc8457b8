//! Field names for the HTTP/2 codec's header map: those that responses usually have are not looked up.

use http::header::{self, HeaderName};

/// The name, in whatever case it was sent; `None` if it is none.
pub(crate) fn header_name(name: &str) -> Option<HeaderName> {
    usual(name).or_else(|| HeaderName::from_bytes(name.as_bytes()).ok())
}

fn usual(name: &str) -> Option<HeaderName> {
    let candidates: &[HeaderName] = match name.len() {
        3 => &[header::AGE],
        4 => &[header::DATE, header::ETAG, header::VARY, header::LINK],
        6 => &[header::SERVER],
        7 => &[header::EXPIRES],
        8 => &[header::LOCATION],
        10 => &[header::SET_COOKIE],
        12 => &[header::CONTENT_TYPE],
        13 => &[header::CACHE_CONTROL, header::LAST_MODIFIED, header::ACCEPT_RANGES],
        16 => &[header::CONTENT_ENCODING, header::CONTENT_LANGUAGE],
        _ => &[],
    };
    candidates.iter().find(|known| name.eq_ignore_ascii_case(known.as_str())).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_what_the_codec_itself_makes_of_it() {
        for name in [
            "Age",
            "date",
            "ETag",
            "Vary",
            "Link",
            "Server",
            "Expires",
            "Location",
            "Set-Cookie",
            "Content-Type",
            "cache-control",
            "Last-Modified",
            "accept-ranges",
            "content-encoding",
            "Content-Language",
            "Alt-Svc",
            "X-Own",
            "dat_",
            "x",
        ] {
            assert_eq!(header_name(name), HeaderName::from_bytes(name.as_bytes()).ok(), "{name}");
            let usual = usual(name).map(|known| known.as_str().len());
            assert!(usual.is_none_or(|len| len == name.len()), "{name}");
        }
        assert_eq!(header_name("bad name"), None);
        assert_eq!(header_name(""), None);
    }
}
