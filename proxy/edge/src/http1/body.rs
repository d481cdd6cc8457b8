//! Body framings: a strict decoder that yields slices, and the chunked encoding.

use std::io::Write;

use super::bytes::has_bare_lf;
use crate::client_certificate::is_claim;
use crate::forward::canonical::{is_disguised, is_own};

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none.
    #[default]
    Empty,
    /// So many bytes, at least one.
    Length(u64),
    /// Transfer-Encoding: chunked.
    Chunked,
    /// The connection's end is the body's end; responses only.
    UntilClose,
}

/// The framing is broken; nothing after it can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BrokenFraming(pub(crate) &'static str);

/// The longest chunk-size line with its extension, and the longest trailer section, bytes.
const LONGEST_LINE: usize = 4096;
pub(crate) const LONGEST_TRAILERS: usize = 16 * 1024;
/// The most fields in a trailer section.
const MOST_TRAILERS: usize = 64;

/// Decodes one body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decoder {
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Done,
    Length(u64),
    UntilClose,
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
}

/// One step of decoding: `used` bytes of the input are spoken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step<'b> {
    pub(crate) used: usize,
    pub(crate) part: Part<'b>,
}

/// What a step found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part<'b> {
    /// Bytes of the body, at least one.
    Data(&'b [u8]),
    /// Framing only, or nothing: more input is needed if `used` is 0.
    Nothing,
    /// The body ends here; these lines are its trailer section (with the last empty line), usually empty.
    End(&'b [u8]),
}

impl Decoder {
    pub(crate) fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Empty | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkSize,
            Framing::UntilClose => State::UntilClose,
        };
        Self { state }
    }

    /// Whether the end has been seen.
    pub(crate) fn done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes until the end of the body, where nothing but they are on the way there.
    pub(crate) fn rest(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Done => Some(0),
            _ => None,
        }
    }

    /// So many bytes of [`rest`](Self::rest) went by unseen.
    pub(crate) fn pass(&mut self, bytes: u64) {
        if let State::Length(left) = self.state {
            let left = left.saturating_sub(bytes);
            self.state = if left == 0 { State::Done } else { State::Length(left) };
        }
    }

    /// Whether the end of the connection is the proper end of the body.
    pub(crate) fn ends_with_connection(&self) -> bool {
        self.state == State::UntilClose
    }

    /// Takes one step. After `End` the decoder is done and takes nothing more.
    pub(crate) fn step<'b>(&mut self, input: &'b [u8]) -> Result<Step<'b>, BrokenFraming> {
        match self.state {
            State::Done => Ok(Step { used: 0, part: Part::End(&[]) }),
            State::Length(left) => {
                let (data, left) = take(input, left);
                self.state = if left == 0 { State::Done } else { State::Length(left) };
                Ok(some(data))
            }
            State::UntilClose => Ok(some(input)),
            State::ChunkSize => self.chunk_size(input),
            State::ChunkData(left) => {
                let (data, left) = take(input, left);
                self.state = if left == 0 { State::ChunkEnd } else { State::ChunkData(left) };
                Ok(some(data))
            }
            State::ChunkEnd => match input {
                [b'\r', b'\n', ..] => {
                    self.state = State::ChunkSize;
                    Ok(Step { used: 2, part: Part::Nothing })
                }
                [] | [b'\r'] => Ok(Step { used: 0, part: Part::Nothing }),
                _ => Err(BrokenFraming("a chunk must end in CRLF")),
            },
            State::Trailers => self.trailers(input),
        }
    }

    /// `chunk-size [ chunk-ext ] CRLF`: hexadecimal digits only, at most 15 of them.
    fn chunk_size<'b>(&mut self, input: &'b [u8]) -> Result<Step<'b>, BrokenFraming> {
        let Some(end) = memchr::memchr(b'\n', input) else {
            let waiting = input.len() < LONGEST_LINE && plausible_size(input);
            return if waiting {
                Ok(Step { used: 0, part: Part::Nothing })
            } else {
                Err(BrokenFraming("a chunk size is malformed"))
            };
        };
        let Some(line) = input[..end].strip_suffix(b"\r").filter(|l| l.len() + 1 < LONGEST_LINE)
        else {
            return Err(BrokenFraming("a chunk size must end in CRLF"));
        };
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let extension = &line[digits..];
        if digits == 0 || digits > 15 || !(extension.is_empty() || extension[0] == b';') {
            return Err(BrokenFraming("a chunk size is malformed"));
        }
        if extension.iter().any(|b| (b.is_ascii_control() && *b != b'\t') || *b >= 0x80) {
            return Err(BrokenFraming("a chunk extension is malformed"));
        }
        let size = line[..digits].iter().fold(0_u64, |sum, digit| {
            sum * 16 + u64::from((*digit as char).to_digit(16).unwrap_or(0))
        });
        self.state = if size == 0 { State::Trailers } else { State::ChunkData(size) };
        Ok(Step { used: end + 1, part: Part::Nothing })
    }

    /// Waits for the whole trailer section: lines up to an empty one.
    fn trailers<'b>(&mut self, input: &'b [u8]) -> Result<Step<'b>, BrokenFraming> {
        let end = if input.starts_with(b"\r\n") {
            Some(2)
        } else {
            memchr::memmem::find(input, b"\r\n\r\n").map(|at| at + 4)
        };
        match end {
            Some(end) if end <= LONGEST_TRAILERS => {
                let section = &input[..end];
                if has_bare_lf(section) {
                    return Err(BrokenFraming("a trailer line must end in CRLF"));
                }
                self.state = State::Done;
                Ok(Step { used: end, part: Part::End(if end == 2 { &[] } else { section }) })
            }
            None if input.len() < LONGEST_TRAILERS => Ok(Step { used: 0, part: Part::Nothing }),
            _ => Err(BrokenFraming("the trailers are too long")),
        }
    }
}

/// An unfinished size line that may still become one: it starts with a digit and has no bare CR.
fn plausible_size(input: &[u8]) -> bool {
    let body = input.strip_suffix(b"\r").unwrap_or(input);
    body.first().is_none_or(u8::is_ascii_hexdigit) && !body.contains(&b'\r')
}

fn take(input: &[u8], left: u64) -> (&[u8], u64) {
    let n = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
    (&input[..n], left - n as u64)
}

fn some(data: &[u8]) -> Step<'_> {
    let part = if data.is_empty() { Part::Nothing } else { Part::Data(data) };
    Step { used: data.len(), part }
}

/// Appends one chunk; nothing for no data, which would end the body.
pub(crate) fn encode_chunk(data: &[u8], out: &mut Vec<u8>) {
    if !data.is_empty() {
        chunk_head(data.len(), out);
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends the size line of a chunk.
pub(crate) fn chunk_head(len: usize, out: &mut Vec<u8>) {
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{len:x}\r\n");
}

/// Appends the last chunk and the trailer section.
pub(crate) fn encode_end<'a>(
    trailers: impl Iterator<Item = (&'a str, &'a [u8])>,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        push_field(name, value, out);
    }
    out.extend_from_slice(b"\r\n");
}

/// The same of a request.
///
/// # Errors
/// There is more of it than a decoder takes: what is on its way to an endpoint may be decoded once more, and then it would
/// be too late to see that the client has sent too much.
pub(crate) fn encode_request_end<'a>(
    trailers: impl Iterator<Item = (&'a str, &'a [u8])>,
    out: &mut Vec<u8>,
) -> Result<(), BrokenFraming> {
    let (before, mut count) = (out.len() + b"0\r\n".len(), 0);
    encode_end(trailers.inspect(|_| count += 1), out);
    if count > MOST_TRAILERS || out.len() - before > LONGEST_TRAILERS {
        return Err(BrokenFraming("the trailers are too long"));
    }
    Ok(())
}

/// Appends one field line.
pub(crate) fn push_field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Passes field lines on. Those that stand one behind the other where they came from, in the form in which they are written
/// here, are copied in one piece.
pub(crate) struct Lines<'b> {
    /// Where they came from.
    from: &'b [u8],
    /// The part of it that is still to be copied.
    start: usize,
    end: usize,
}

impl<'b> Lines<'b> {
    /// Lines of fields that may stand in `from`.
    pub(crate) fn of(from: &'b [u8]) -> Self {
        Self { from, start: 0, end: 0 }
    }

    /// Appends one field line; perhaps only at the next call.
    #[inline]
    pub(crate) fn push(&mut self, name: &str, value: &[u8], out: &mut Vec<u8>) {
        match self.place(name, value) {
            Some((start, end)) if start == self.end => self.end = end,
            Some(place) => {
                self.end(out);
                (self.start, self.end) = place;
            }
            None => {
                self.end(out);
                push_field(name, value, out);
            }
        }
    }

    /// Appends what has not been appended yet.
    pub(crate) fn end(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.from[self.start..self.end]);
        self.start = self.end;
    }

    /// Where the line stands, if nothing but its name, `: `, its value and CRLF does.
    #[inline]
    fn place(&self, name: &str, value: &[u8]) -> Option<(usize, usize)> {
        // Addresses tell where in `from` a part of it is; of anything else they tell a place outside.
        let start = (name.as_ptr() as usize).wrapping_sub(self.from.as_ptr() as usize);
        let rest = self.from.get(start..)?;
        let colon = name.len();
        let end = colon + 2 + value.len();
        let apart = (value.as_ptr() as usize).wrapping_sub(name.as_ptr() as usize) == colon + 2;
        let bare =
            apart && rest.get(colon..colon + 2)? == b": " && rest.get(end..end + 2)? == b"\r\n";
        bare.then_some((start, start + end + 2))
    }
}

/// The fields of a trailer section that may be passed on: nothing that frames, routes or authenticates
/// (RFC 9110 section 6.5.1).
pub(crate) fn with_trailers<R>(
    section: &[u8],
    then: impl FnOnce(&[httparse::Header<'_>]) -> R,
) -> Result<R, BrokenFraming> {
    if section.is_empty() {
        return Ok(then(&[]));
    }
    let mut slots = [httparse::EMPTY_HEADER; MOST_TRAILERS];
    match httparse::parse_headers(section, &mut slots) {
        Ok(httparse::Status::Complete((_, fields))) => Ok(then(fields)),
        _ => Err(BrokenFraming("the trailers are malformed")),
    }
}

/// Whether a trailer field of this name may be passed on.
pub(crate) fn trailer_allowed(name: &str) -> bool {
    const BARRED: [&str; 27] = [
        "transfer-encoding",
        "content-length",
        "host",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "authorization",
        "set-cookie",
        "cookie",
        "content-encoding",
        "content-type",
        "content-range",
        "proxy-authorization",
        "proxy-authenticate",
        "location",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "forwarded",
        "via",
        "x-request-id",
        "traceparent",
        "http2-settings",
        "proxy-connection",
    ];
    !BARRED.iter().any(|barred| name.eq_ignore_ascii_case(barred))
        && !is_claim(name)
        && !is_own(name)
        && !is_disguised(name)
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
