//! Header blocks of answers. Names come from the static table where they are in it; nothing enters a dynamic table and
//! nothing is put under Huffman's code: that costs some bytes on the wire and no look at what was sent before.

/// Writes the fields of one block.
#[derive(Debug)]
pub struct HeadWriter<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> HeadWriter<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    /// Says that no dynamic table is used, for a client that allows less than the default one.
    pub(crate) fn no_table(&mut self) {
        self.out.push(0x20);
    }

    /// Appends `:status`, which comes first.
    pub fn status(&mut self, status: u16) {
        let index = match status {
            200 => 8,
            204 => 9,
            206 => 10,
            304 => 11,
            400 => 12,
            404 => 13,
            500 => 14,
            _ => {
                let digit = |place: u16| b'0' + (status / place % 10) as u8;
                return self.out.extend_from_slice(&[8, 3, digit(100), digit(10), digit(1)]);
            }
        };
        self.out.push(0x80 | index);
    }

    /// Appends a field, its name in lower case; nothing if HTTP/2 forbids it (RFC 9113 section 8.2.2).
    pub fn field(&mut self, name: &str, value: &[u8]) {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        let forbidden = match name.len() {
            7 => is("upgrade"),
            10 => is("connection") || is("keep-alive"),
            16 => is("proxy-connection"),
            17 => is("transfer-encoding"),
            _ => false,
        };
        if forbidden {
            return;
        }
        match index_of(name) {
            Some(index) => integer(self.out, 0, 4, index),
            None => {
                self.out.push(0);
                integer(self.out, 0, 7, name.len());
                let from = self.out.len();
                self.out.extend_from_slice(name.as_bytes());
                self.out[from..].make_ascii_lowercase();
            }
        }
        integer(self.out, 0, 7, value.len());
        self.out.extend_from_slice(value);
    }

    /// Appends `content-length`.
    pub fn content_length(&mut self, length: u64) {
        self.field("content-length", itoa::Buffer::new().format(length).as_bytes());
    }
}

/// Where the static table has the name of a field of answers.
fn index_of(name: &str) -> Option<usize> {
    let candidates: &[(&str, usize)] = match name.len() {
        3 => &[("age", 21), ("via", 60)],
        4 => &[("date", 33), ("etag", 34), ("vary", 59), ("link", 45)],
        5 => &[("allow", 22)],
        6 => &[("server", 54)],
        7 => &[("expires", 36), ("refresh", 52)],
        8 => &[("location", 46)],
        10 => &[("set-cookie", 55)],
        11 => &[("retry-after", 53)],
        12 => &[("content-type", 31)],
        13 => &[
            ("cache-control", 24),
            ("last-modified", 44),
            ("accept-ranges", 18),
            ("content-range", 30),
        ],
        14 => &[("content-length", 28)],
        16 => &[
            ("content-encoding", 26),
            ("content-language", 27),
            ("content-location", 29),
            ("www-authenticate", 61),
        ],
        19 => &[("content-disposition", 25)],
        25 => &[("strict-transport-security", 56)],
        27 => &[("access-control-allow-origin", 20)],
        _ => &[],
    };
    candidates.iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|(_, index)| *index)
}

/// An integer behind the bits `first` (RFC 7541 section 5.1).
fn integer(out: &mut Vec<u8>, first: u8, bits: u32, value: usize) {
    let full = (1_usize << bits) - 1;
    if value < full {
        return out.push(first | value as u8);
    }
    out.push(first | full as u8);
    let mut rest = value - full;
    while rest >= 0x80 {
        out.push(0x80 | rest as u8);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hpack::Decoder;
    use crate::hpack::static_table::STATIC;

    fn written(write: impl FnOnce(&mut HeadWriter<'_>)) -> Vec<(String, String)> {
        let mut out = Vec::new();
        write(&mut HeadWriter::new(&mut out));
        let mut seen = Vec::new();
        let read = Decoder::default().decode(&out, |field| {
            assert!(field.sound, "{field:?}");
            let value = String::from_utf8_lossy(field.value).into_owned();
            seen.push((field.name.to_owned(), value));
        });
        assert_eq!(read, Ok(()));
        seen
    }

    #[test]
    fn every_status_reads_as_it_was_written() {
        for status in 100..=999 {
            let expected = vec![(":status".to_owned(), status.to_string())];
            assert_eq!(written(|head| head.status(status)), expected);
        }
    }

    #[test]
    fn every_name_of_the_static_table_and_others_read_as_they_were_written() {
        let own = ["x-own", "X-Own", "Date", "CONTENT-TYPE", "datf", "Strict-Transport-Security"];
        let names = STATIC.iter().map(|(name, _)| *name).chain(own);
        for name in names.filter(|name| !name.starts_with(':') && *name != "transfer-encoding") {
            for value in ["", "v", &"long".repeat(500)] {
                let seen = written(|head| head.field(name, value.as_bytes()));
                assert_eq!(seen, vec![(name.to_ascii_lowercase(), value.to_owned())]);
            }
        }
        let long = "n".repeat(300);
        assert_eq!(written(|head| head.field(&long, b"v"))[0].0, long);
    }

    #[test]
    fn fields_of_http_1_connections_are_left_out() {
        for name in ["Connection", "keep-alive", "Proxy-Connection", "transfer-encoding", "upgrade"]
        {
            assert_eq!(written(|head| head.field(name, b"x")), vec![]);
        }
    }
}
