//! A second reader of requests, by the grammar of RFC 9112 alone: strict, slow, and without a line of the first one.

/// One request, as it was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) method: String,
    /// In origin form, or `*`.
    pub(super) target: String,
    /// Of the target where it has one, else of the Host field; `None`: HTTP/1.0 without one.
    pub(super) host: Option<String>,
    /// Names in lower case, values without the space around them.
    pub(super) fields: Vec<(String, Vec<u8>)>,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Vec<(String, Vec<u8>)>,
    /// Bytes that it took up.
    pub(super) used: usize,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Not {
    /// The grammar does not allow it.
    Legal(&'static str),
    /// There would have to be more bytes.
    Whole,
}

struct Input<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Input<'b> {
    /// Up to the next CRLF; a CR or LF by itself is an error.
    fn line(&mut self) -> Result<&'b [u8], Not> {
        let rest = &self.bytes[self.at..];
        for (i, byte) in rest.iter().enumerate() {
            match (*byte, rest.get(i + 1)) {
                (b'\r', Some(b'\n')) => {
                    self.at += i + 2;
                    return Ok(&rest[..i]);
                }
                (b'\r', None) => return Err(Not::Whole),
                (b'\r' | b'\n', _) => return Err(Not::Legal("a bare CR or LF")),
                _ => {}
            }
        }
        Err(Not::Whole)
    }

    fn take(&mut self, count: usize) -> Result<&'b [u8], Not> {
        let taken = self.bytes.get(self.at..self.at.saturating_add(count)).ok_or(Not::Whole)?;
        self.at += count;
        Ok(taken)
    }

    fn fields(&mut self) -> Result<Vec<(String, Vec<u8>)>, Not> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let colon = line.iter().position(|b| *b == b':').ok_or(Not::Legal("no colon"))?;
            let (name, value) = (&line[..colon], &line[colon + 1..]);
            if name.is_empty() || !name.iter().all(|b| token(*b)) {
                return Err(Not::Legal("a field's name is no token"));
            }
            if !value.iter().all(|b| matches!(b, b'\t' | b' '..=b'~' | 0x80..)) {
                return Err(Not::Legal("a control byte in a field's value"));
            }
            let value = trimmed(value).to_vec();
            fields.push((String::from_utf8_lossy(name).to_ascii_lowercase(), value));
        }
    }
}

/// Reads one request off the front.
pub(super) fn read(bytes: &[u8]) -> Result<Read, Not> {
    let mut input = Input { bytes, at: 0 };
    // Empty lines before a request line are ignored (section 2.2).
    let mut line = input.line()?;
    while line.is_empty() {
        line = input.line()?;
    }
    let (method, target, old) = first_line(line)?;
    let fields = input.fields()?;
    let hosts = all(&fields, "host");
    let named = match hosts[..] {
        [] if old => None,
        [host] => Some(authority(host)?),
        _ => return Err(Not::Legal("not one Host")),
    };
    let (target, host) = origin_form(&method, target, named)?;
    let lengths = all(&fields, "content-length");
    let codings = all(&fields, "transfer-encoding");
    let (mut body, mut trailers) = (Vec::new(), Vec::new());
    match (&lengths[..], &codings[..]) {
        ([], []) => {}
        ([length], []) => {
            let digits = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
            let length = std::str::from_utf8(length).ok().filter(|_| digits);
            let length = length.and_then(|digits| digits.parse().ok());
            body = input.take(length.ok_or(Not::Legal("no length"))?)?.to_vec();
        }
        ([], [coding]) if !old && coding.eq_ignore_ascii_case(b"chunked") => {
            loop {
                let size = chunk_size(input.line()?)?;
                if size == 0 {
                    break;
                }
                body.extend_from_slice(input.take(size)?);
                // Without it the next two bytes say what is wrong, if there are two.
                match input.take(2) {
                    Ok(b"\r\n") => {}
                    Ok(_) => return Err(Not::Legal("no CRLF behind a chunk")),
                    Err(not) => return Err(not),
                }
            }
            trailers = input.fields()?;
        }
        _ => return Err(Not::Legal("not one framing")),
    }
    Ok(Read { method, target, host, fields, body, trailers, used: input.at })
}

/// Method, target, and whether it is HTTP/1.0.
fn first_line(line: &[u8]) -> Result<(String, String, bool), Not> {
    let parts: Vec<_> = line.split(|b| *b == b' ').collect();
    let [method, target, version] = parts[..] else { return Err(Not::Legal("not three words")) };
    if method.is_empty() || !method.iter().all(|b| token(*b)) {
        return Err(Not::Legal("the method is no token"));
    }
    // Section 3.2, RFC 3986: nothing outside of ASCII, no control bytes, and no fragment.
    if target.is_empty() || !target.iter().all(|b| b.is_ascii_graphic() && *b != b'#') {
        return Err(Not::Legal("the target has an illegal byte"));
    }
    let old = match version {
        b"HTTP/1.1" => false,
        b"HTTP/1.0" => true,
        _ => return Err(Not::Legal("the version")),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((text(method), text(target), old))
}

fn origin_form(
    method: &str,
    target: String,
    named: Option<String>,
) -> Result<(String, Option<String>), Not> {
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok((target, named));
    }
    let lower = target.to_ascii_lowercase();
    let scheme = ["http://", "https://"].into_iter().find(|scheme| lower.starts_with(scheme));
    let rest = &target[scheme.ok_or(Not::Legal("the target's form"))?.len()..];
    let (host, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    let host = authority(host.as_bytes())?;
    if named.is_some_and(|named| !named.eq_ignore_ascii_case(&host)) {
        return Err(Not::Legal("two hosts"));
    }
    Ok((path.to_owned(), Some(host)))
}

/// `host [ ":" port ]`: RFC 3986, section 3.2.2, without userinfo, and not empty.
fn authority(text: &[u8]) -> Result<String, Not> {
    let text = std::str::from_utf8(text).map_err(|_| Not::Legal("the host"))?;
    let bad = Err(Not::Legal("the host"));
    let (host, port) = match text.rfind(']') {
        Some(end) => text.split_at(end + 1),
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port_is_fine = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(port) => port.bytes().all(|b| b.is_ascii_digit()),
    };
    let host_is_fine = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inside) => inside.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&b))
        }
    };
    if port_is_fine && host_is_fine { Ok(text.to_owned()) } else { bad }
}

/// `chunk-size [ chunk-ext ]` (section 7.1).
fn chunk_size(line: &[u8]) -> Result<usize, Not> {
    let digits = line.iter().position(|b| !b.is_ascii_hexdigit()).unwrap_or(line.len());
    let (size, extension) = line.split_at(digits);
    if !(extension.is_empty() || extension[0] == b';') {
        return Err(Not::Legal("what follows a chunk's size is no extension"));
    }
    if !extension.iter().all(|b| matches!(b, b'\t' | b' '..=b'~')) {
        return Err(Not::Legal("an illegal byte in an extension"));
    }
    let size = std::str::from_utf8(size).ok().filter(|size| !size.is_empty());
    let size = size.and_then(|size| usize::from_str_radix(size, 16).ok());
    size.ok_or(Not::Legal("a chunk's size"))
}

/// All values under a name.
pub(super) fn all<'f>(fields: &'f [(String, Vec<u8>)], name: &str) -> Vec<&'f [u8]> {
    let fields = fields.iter().filter(|(known, _)| known == name);
    fields.map(|(_, value)| value.as_slice()).collect()
}

/// Without the space and tabs around it.
pub(super) fn trimmed(value: &[u8]) -> &[u8] {
    let is_space = |b: &u8| matches!(b, b' ' | b'\t');
    let from = value.iter().position(|b| !is_space(b)).unwrap_or(value.len());
    let to = value.iter().rposition(|b| !is_space(b)).map_or(from, |last| last + 1);
    &value[from..to]
}

fn token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_and_it_refuses() {
        let bytes = b"\r\nPOST http://A.example/b?c HTTP/1.1\r\nHost: a.example\r\n\
            Transfer-Encoding: Chunked\r\n\r\n5;x\r\nhello\r\n0\r\nX-T: 1\r\n\r\nGET";
        let read = read(bytes).expect("a request");
        assert_eq!((read.method.as_str(), read.target.as_str()), ("POST", "/b?c"));
        assert_eq!((read.host.as_deref(), read.used), (Some("A.example"), bytes.len() - 3));
        assert_eq!((&*read.body, read.trailers.len()), (&b"hello"[..], 1));
        for (bytes, why) in [
            (&b"GET / HTTP/1.1\r\nHost: a\r\n"[..], Not::Whole),
            (b"GET / HTTP/1.1\nHost: a\r\n\r\n", Not::Legal("a bare CR or LF")),
            (b"GET / HTTP/1.1\r\n\r\n", Not::Legal("not one Host")),
            (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", Not::Legal("a field's name is no token")),
        ] {
            assert_eq!(super::read(bytes), Err(why), "{}", bytes.escape_ascii());
        }
    }
}
