//! The fields of an answer that a coding changes: Content-Encoding, Vary, ETag, Accept-Ranges, digests.

use std::borrow::Cow;

use super::plan::Recoded;
use crate::http1::body::{push_field, with_trailers};

/// Visits the fields that `fields` visits, changed as the answer's coding demands. What a route sets or removes itself has
/// been seen to before, so that caches are told in any case.
pub(crate) fn recoded(
    recoded: &Recoded,
    fields: impl FnOnce(&mut dyn FnMut(&str, &[u8])),
    visit: &mut dyn FnMut(&str, &[u8]),
) {
    let mut vary: Vec<u8> = Vec::new();
    fields(&mut |name, value| {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        match name.len() {
            4 if is("vary") => {
                if !vary.is_empty() {
                    vary.extend_from_slice(b", ");
                }
                vary.extend_from_slice(value);
            }
            4 if is("etag") && recoded.weakens && value.starts_with(b"\"") => {
                visit(name, &[b"W/", value].concat());
            }
            13 if is("accept-ranges") && recoded.coding.is_some() => {}
            // It has been seen that it says `identity` at most.
            16 if is("content-encoding") && recoded.coding.is_some() => {}
            _ => visit(name, value),
        }
    });
    let names = |token: &[u8]| token == b"*" || token.eq_ignore_ascii_case(b"accept-encoding");
    if !vary.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).any(names) {
        if !vary.is_empty() {
            vary.extend_from_slice(b", ");
        }
        vary.extend_from_slice(b"accept-encoding");
    }
    visit("vary", &vary);
    if let Some(coding) = recoded.coding {
        visit("content-encoding", coding.label().as_bytes());
    }
}

/// Whether a field is a digest of the very bytes of an answer (RFC 9530, RFC 3230, RFC 1864).
pub(crate) fn is_digest(name: &str) -> bool {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    match name.len() {
        6 => is("digest"),
        11 => is("content-md5") || is("repr-digest"),
        14 => is("content-digest"),
        _ => false,
    }
}

/// A trailer section without digests of what the body was before it was compressed.
pub(crate) fn without_digests(section: &[u8]) -> Cow<'_, [u8]> {
    let kept = with_trailers(section, |fields| {
        fields.iter().any(|field| is_digest(field.name)).then(|| {
            let mut kept = Vec::with_capacity(section.len());
            for field in fields.iter().filter(|field| !is_digest(field.name)) {
                push_field(field.name, field.value, &mut kept);
            }
            if !kept.is_empty() {
                kept.extend_from_slice(b"\r\n");
            }
            kept
        })
    });
    match kept {
        Ok(Some(kept)) => Cow::Owned(kept),
        // One that is broken is for whoever passes it on to find.
        Ok(None) | Err(_) => Cow::Borrowed(section),
    }
}

#[cfg(test)]
mod tests {
    use meridian_config::Coding;

    use super::*;

    fn fields(plan: Recoded, given: &[(&str, &str)]) -> String {
        let mut out = String::new();
        let each = |visit: &mut dyn FnMut(&str, &[u8])| {
            given.iter().for_each(|(name, value)| visit(name, value.as_bytes()));
        };
        recoded(&plan, each, &mut |name, value| {
            out.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value)));
        });
        out
    }

    #[test]
    fn vary_is_merged_and_never_said_twice() {
        let plan = Recoded { coding: None, weakens: false };
        for (given, vary) in [
            (&[][..], "accept-encoding"),
            (&[("Vary", "Origin")], "Origin, accept-encoding"),
            (&[("Vary", "Origin"), ("vary", "Cookie")], "Origin, Cookie, accept-encoding"),
            (&[("Vary", "origin,Accept-Encoding")], "origin,Accept-Encoding"),
            (&[("Vary", "*")], "*"),
            (&[("Vary", "x-accept-encoding")], "x-accept-encoding, accept-encoding"),
        ] {
            assert_eq!(fields(plan, given), format!("vary: {vary}\n"));
        }
    }

    #[test]
    fn a_coding_is_said_and_what_it_voids_is_not() {
        let given = [
            ("ETag", "\"a\""),
            ("Accept-Ranges", "bytes"),
            ("Content-Encoding", "identity"),
            ("Content-Type", "text/html"),
        ];
        let plan = Recoded { coding: Some(Coding::Brotli), weakens: true };
        let expected = "ETag: W/\"a\"\nContent-Type: text/html\nvary: accept-encoding\n\
                        content-encoding: br\n";
        assert_eq!(fields(plan, &given), expected);
        let weak = [("etag", "W/\"a\"")];
        let start = "etag: W/\"a\"\nvary:";
        assert!(fields(plan, &weak).starts_with(start));
        let plain = fields(Recoded { coding: None, weakens: false }, &given);
        assert!(plain.starts_with("ETag: \"a\"\nAccept-Ranges: bytes\n"), "{plain}");
    }

    #[test]
    fn digests_in_trailers_are_dropped_and_the_rest_stays() {
        let section = b"grpc-status: 0\r\nContent-Digest: sha-256=:AA==:\r\nx: 1\r\n\r\n";
        assert_eq!(&*without_digests(section), b"grpc-status: 0\r\nx: 1\r\n\r\n");
        assert_eq!(&*without_digests(b"repr-digest: a\r\n\r\n"), b"");
        assert_eq!(&*without_digests(b"x: 1\r\n\r\n"), b"x: 1\r\n\r\n");
        assert_eq!(&*without_digests(b""), b"");
    }
}
