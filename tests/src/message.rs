//! Messages as a strict but independent reader sees them.

use std::fmt;

use crate::pattern::Checked;

/// Header fields in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(pub Vec<(String, String)>);

impl Fields {
    /// The first value under a name, whatever its case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// All values under a name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let fields = self.0.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        fields.map(|(_, value)| value.as_str()).collect()
    }

    fn parse(lines: &str) -> Result<Self, String> {
        let lines = lines.split("\r\n").filter(|line| !line.is_empty());
        let pairs = lines.map(|line| {
            let (name, value) =
                line.split_once(':').ok_or_else(|| format!("no field: {line:?}"))?;
            let clean = !name.is_empty() && !name.contains([' ', '\t', '\r', '\n']);
            if !clean || value.contains(['\r', '\n']) {
                return Err(format!("no clean field: {line:?}"));
            }
            Ok((name.to_owned(), value.trim().to_owned()))
        });
        pairs.collect::<Result<_, _>>().map(Self)
    }
}

/// A request as an endpoint got it.
#[derive(Clone, Default)]
pub struct Received {
    /// The head, byte for byte, with its empty line.
    pub raw_head: String,
    /// `GET`
    pub method: String,
    /// As in the request line.
    pub target: String,
    /// In order.
    pub fields: Fields,
    /// Without its framing; only the first MiB is kept.
    pub body: Vec<u8>,
    /// The body's bytes, held against the pattern.
    pub checked: Checked,
    /// Of a chunked body.
    pub trailers: Fields,
    /// Whether the body came to its end.
    pub complete: bool,
    /// Counts from 1 in the order in which the endpoint accepted.
    pub connection: usize,
    /// The PROXY header that its connection began with; empty: none.
    pub introduction: Vec<u8>,
}

impl Received {
    /// Parses a head.
    pub(crate) fn parse(head: &[u8]) -> Result<Self, String> {
        let raw_head = String::from_utf8_lossy(head).into_owned();
        let (line, fields) = raw_head.split_once("\r\n").ok_or("no request line")?;
        let [method, target, "HTTP/1.1"] = line.split(' ').collect::<Vec<_>>()[..] else {
            return Err(format!("no canonical request line: {line:?}"));
        };
        let (method, target) = (method.to_owned(), target.to_owned());
        let fields = Fields::parse(fields)?;
        Ok(Self { method, target, fields, raw_head, ..Self::default() })
    }

    /// The first value of a field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.fields.get(name)
    }
}

/// A response as a client got it.
#[derive(Clone, Default)]
pub struct Response {
    /// As in the status line.
    pub version: String,
    /// As in the status line.
    pub status: u16,
    /// In order.
    pub fields: Fields,
    /// Without its framing.
    pub body: Vec<u8>,
    /// Of a chunked body.
    pub trailers: Fields,
    /// The 1xx heads that came before.
    pub interim: Vec<(u16, Fields)>,
}

impl Response {
    /// Parses a head.
    pub(crate) fn parse(head: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(head).map_err(|error| error.to_string())?;
        let (line, fields) = text.split_once("\r\n").ok_or("no status line")?;
        let mut words = line.splitn(3, ' ');
        let (Some(version @ ("HTTP/1.1" | "HTTP/1.0")), Some(status)) =
            (words.next(), words.next())
        else {
            return Err(format!("no status line: {line:?}"));
        };
        let status = status.parse().map_err(|_| format!("no status: {line:?}"))?;
        let fields = Fields::parse(fields)?;
        Ok(Self { version: version.to_owned(), status, fields, ..Self::default() })
    }

    /// The first value of a field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.fields.get(name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("{error}: status {}, body {:?}", self.status, self.text()),
        }
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { raw_head, body, checked, complete, connection, .. } = self;
        let (body, length) = (shown(body), checked.length);
        write!(f, "request on connection {connection}: {raw_head:?}, ")?;
        write!(f, "{length} bytes of body ({body:?}), complete: {complete}")
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, fields, body, trailers, interim, .. } = self;
        let (text, length) = (shown(body), body.len());
        write!(f, "response {status} {:?}, {length} bytes of body ({text:?})", fields.0)?;
        write!(f, ", trailers {:?}, interim {interim:?}", trailers.0)
    }
}

/// The start of a body, for people.
fn shown(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned()
}

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// The framing that fields announce; an error where they announce two.
pub(crate) fn framing(fields: &Fields) -> Result<Option<Framing>, String> {
    let (lengths, codings) = (fields.all("content-length"), fields.all("transfer-encoding"));
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(None),
        ([length], []) if length.bytes().all(|b| b.is_ascii_digit()) => {
            let length = length.parse().map_err(|_| format!("no length: {length:?}"))?;
            Ok(Some(Framing::Length(length)))
        }
        ([], ["chunked"]) => Ok(Some(Framing::Chunked)),
        _ => Err(format!("framed by {lengths:?} and {codings:?}")),
    }
}
