//! A decoded head: its texts in two strings, its fields as places in them.

use crate::hpack::Field;

/// What an entry of a header list counts beyond its texts (RFC 9113 section 6.5.2).
const OVERHEAD: usize = 32;

/// A request's head, or a trailer section.
#[derive(Debug, Default)]
pub struct Head {
    /// Names, and values of pseudo fields.
    text: String,
    values: Vec<u8>,
    fields: Vec<Place>,
    method: Option<Span>,
    scheme: Option<Span>,
    path: Option<Span>,
    authority: Option<Span>,
    /// By the rules of RFC 9113 section 6.5.2.
    size: usize,
    verdict: Verdict,
}

/// Whether a head can be worked with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    #[default]
    Sound,
    /// It is longer than the limit; only its beginning is here.
    TooLarge,
    /// It breaks RFC 9113 section 8: the stream is reset.
    Malformed,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    from: u32,
    to: u32,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    name: Span,
    value: Span,
}

impl Head {
    /// The method; empty in trailers.
    #[must_use]
    pub fn method(&self) -> &str {
        self.part(self.method)
    }

    /// Path and query, as they were sent; empty with CONNECT and in trailers.
    #[must_use]
    pub fn path(&self) -> &str {
        self.part(self.path)
    }

    /// `:authority`, or the first Host where that is missing.
    #[must_use]
    pub fn authority(&self) -> &str {
        match self.authority {
            Some(_) => self.part(self.authority),
            None => self
                .first("host")
                .and_then(|host| std::str::from_utf8(host).ok())
                .unwrap_or_default(),
        }
    }

    /// The fields in the order in which they came, names in lower case.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter().map(|place| {
            let value = &self.values[place.value.from as usize..place.value.to as usize];
            (self.span(place.name), value)
        })
    }

    /// The first value under a lower-case name.
    #[must_use]
    pub fn first(&self, name: &str) -> Option<&[u8]> {
        self.fields().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// How many fields there are, pseudo fields apart.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there is no field.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Whether it can be worked with.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    fn span(&self, span: Span) -> &str {
        &self.text[span.from as usize..span.to as usize]
    }

    fn part(&self, span: Option<Span>) -> &str {
        span.map_or("", |span| self.span(span))
    }

    /// Bytes that it has room for, whatever is in it.
    pub(crate) fn room(&self) -> usize {
        let places = self.fields.capacity() * size_of::<Place>();
        self.text.capacity() + self.values.capacity() + places
    }

    /// Makes it empty, for the next one to come.
    pub(crate) fn clear(&mut self) {
        let Self { text, values, fields, .. } = std::mem::take(self);
        *self = Self { text, values, fields, ..Self::default() };
        self.text.clear();
        self.values.clear();
        self.fields.clear();
    }

    /// Takes a field in; `most` is the largest size of a header list.
    pub(crate) fn push(&mut self, field: Field<'_>, most: usize) {
        self.size += field.name.len() + field.value.len() + OVERHEAD;
        if self.verdict != Verdict::Sound {
            return;
        }
        if self.size > most {
            self.verdict = Verdict::TooLarge;
        } else if !field.sound || !self.take(field) {
            self.verdict = Verdict::Malformed;
        }
    }

    /// Whether the field may stand where it does.
    fn take(&mut self, field: Field<'_>) -> bool {
        if field.name.starts_with(':') {
            return self.take_pseudo(field);
        }
        let forbidden = match field.name.len() {
            2 => field.name == "te" && !field.value.eq_ignore_ascii_case(b"trailers"),
            4 => field.name == "host" && self.is_elsewhere(field.value),
            7 => field.name == "upgrade",
            10 => matches!(field.name, "connection" | "keep-alive"),
            16 => field.name == "proxy-connection",
            17 => field.name == "transfer-encoding",
            _ => false,
        };
        if forbidden {
            return false;
        }
        let name = self.keep(field.name);
        let from = self.values.len() as u32;
        self.values.extend_from_slice(field.value);
        let value = Span { from, to: self.values.len() as u32 };
        self.fields.push(Place { name, value });
        true
    }

    /// Whether a Host disagrees with `:authority`.
    fn is_elsewhere(&self, host: &[u8]) -> bool {
        self.authority.is_some_and(|named| !self.span(named).as_bytes().eq_ignore_ascii_case(host))
    }

    fn take_pseudo(&mut self, field: Field<'_>) -> bool {
        let Ok(value) = std::str::from_utf8(field.value) else { return false };
        let span = self.keep(value);
        let part = match field.name {
            ":method" => &mut self.method,
            ":scheme" => &mut self.scheme,
            ":path" => &mut self.path,
            ":authority" => &mut self.authority,
            _ => return false,
        };
        // Each once, and all before the first field.
        part.replace(span).is_none() && self.fields.is_empty()
    }

    fn keep(&mut self, text: &str) -> Span {
        let from = self.text.len() as u32;
        self.text.push_str(text);
        Span { from, to: self.text.len() as u32 }
    }

    /// The last word on a request's head: the parts that it must have (RFC 9113 section 8.3.1).
    pub(crate) fn seal_request(&mut self) {
        let whole = if self.method() == "CONNECT" {
            self.authority.is_some() && self.scheme.is_none() && self.path.is_none()
        } else {
            !self.method().is_empty() && self.scheme.is_some() && !self.path().is_empty()
        };
        if !whole && self.verdict == Verdict::Sound {
            self.verdict = Verdict::Malformed;
        }
    }

    /// The last word on a trailer section, which has no pseudo fields.
    pub(crate) fn seal_trailers(&mut self) {
        let pseudo = [self.method, self.scheme, self.path, self.authority];
        if pseudo.iter().any(Option::is_some) {
            self.verdict = Verdict::Malformed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[(&str, &str)], most: usize) -> Head {
        let mut head = Head::default();
        for (name, value) in fields {
            head.push(Field { name, value: value.as_bytes(), sound: true }, most);
        }
        head.seal_request();
        head
    }

    const START: [(&str, &str); 3] = [(":method", "GET"), (":scheme", "http"), (":path", "/a?b")];

    #[test]
    fn its_parts_are_found_again() {
        let rest = [(":authority", "a.example"), ("x-a", "1"), ("cookie", "c"), ("x-a", "2")];
        let mut head = head(&[&START[..], &rest].concat(), 1000);
        assert_eq!(head.verdict(), Verdict::Sound);
        assert_eq!((head.method(), head.path(), head.authority()), ("GET", "/a?b", "a.example"));
        let fields: Vec<_> = head.fields().collect();
        assert_eq!(fields, [("x-a", &b"1"[..]), ("cookie", b"c"), ("x-a", b"2")]);
        assert_eq!((head.first("x-a"), head.first("x-b")), (Some(&b"1"[..]), None));
        head.clear();
        assert!(head.is_empty() && head.method().is_empty() && head.size == 0);
    }

    #[test]
    fn host_stands_in_for_the_authority() {
        let host = [("host", "b.example"), ("host", "c.example")];
        assert_eq!(head(&[&START[..], &host].concat(), 1000).authority(), "b.example");
        assert_eq!(head(&START, 1000).authority(), "");
    }

    #[test]
    fn a_long_list_is_told_from_a_malformed_one() {
        let size: usize = START.iter().map(|(n, v)| n.len() + v.len() + 32).sum();
        assert_eq!(head(&START, size).verdict(), Verdict::Sound);
        assert_eq!(head(&START, size - 1).verdict(), Verdict::TooLarge);
    }

    #[test]
    fn a_host_that_disagrees_with_the_authority_is_malformed() {
        for (host, expected) in [("A.example", Verdict::Sound), ("b.example", Verdict::Malformed)] {
            let fields = [(":authority", "a.example"), ("host", host)];
            assert_eq!(head(&[&START[..], &fields].concat(), 1000).verdict(), expected);
        }
    }

    #[test]
    fn what_section_8_forbids_is_malformed() {
        for fields in [
            &[(":method", "GET"), (":scheme", "http")][..],
            &[(":method", "GET"), (":path", "/")],
            &[(":scheme", "http"), (":path", "/")],
            &[(":method", "GET"), (":scheme", "http"), (":path", "")],
            &[(":method", "GET"), (":method", "GET"), (":scheme", "http"), (":path", "/")],
            &[(":method", "GET"), ("x", "y"), (":scheme", "http"), (":path", "/")],
            &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":status", "200")],
            &[(":method", "GET"), (":scheme", "http"), (":path", "/"), ("connection", "x")],
            &[(":method", "GET"), (":scheme", "http"), (":path", "/"), ("te", "gzip")],
            &[(":method", "GET"), (":scheme", "http"), (":path", "/"), ("transfer-encoding", "x")],
            &[(":method", "GET"), (":scheme", "http"), (":path", "/"), ("upgrade", "x")],
            &[(":method", "GET"), (":scheme", "http"), (":path", "/"), ("keep-alive", "x")],
            &[(":method", "GET"), (":scheme", "http"), (":path", "/"), ("proxy-connection", "x")],
            &[(":method", "CONNECT"), (":authority", "a"), (":path", "/")],
            &[(":method", "CONNECT")],
        ] {
            assert_eq!(head(fields, 1000).verdict(), Verdict::Malformed, "{fields:?}");
        }
        let connect = [(":method", "CONNECT"), (":authority", "a:1")];
        assert_eq!(head(&connect, 1000).verdict(), Verdict::Sound);
        let te = [&START[..], &[("te", "trailers")]].concat();
        assert_eq!(head(&te, 1000).verdict(), Verdict::Sound);
    }

    #[test]
    fn trailers_have_no_pseudo_fields() {
        for (name, expected) in [("x", Verdict::Sound), (":path", Verdict::Malformed)] {
            let mut trailers = Head::default();
            trailers.push(Field { name, value: b"/", sound: true }, 100);
            trailers.seal_trailers();
            assert_eq!(trailers.verdict(), expected);
        }
    }
}
