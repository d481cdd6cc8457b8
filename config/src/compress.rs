//! `[routes.compress]`: what answers are compressed with, and which. Types only; `resolve` builds them.

use std::fmt;

/// A content coding that answers can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coding {
    /// RFC 8878
    Zstd,
    /// RFC 7932
    Brotli,
    /// RFC 1952
    Gzip,
}

impl Coding {
    /// All of them, in the order of preference that a route has by default.
    pub const ALL: [Self; 3] = [Self::Zstd, Self::Brotli, Self::Gzip];

    /// As `Content-Encoding`, the file and the metrics write it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }
}

/// `[routes.compress]`: answers are compressed where their client takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compress {
    /// In order of preference, where the client has none; never empty, none twice.
    pub algorithms: Vec<Coding>,
    /// Answers that are announced to be shorter, bytes, are left as they are.
    pub min_size: u64,
    /// Which answers; never empty.
    pub types: Vec<MediaPattern>,
    /// How hard is tried.
    pub levels: Levels,
}

/// `routes.compress.levels`: more is smaller and slower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    /// 1 to 9.
    pub zstd: u8,
    /// 1 to 6: more takes tens of MiB a body.
    pub brotli: u8,
    /// 1 to 9.
    pub gzip: u8,
}

impl Default for Levels {
    fn default() -> Self {
        Self { zstd: 3, brotli: 4, gzip: 6 }
    }
}

impl Levels {
    /// That of a coding.
    pub fn of(&self, coding: Coding) -> u8 {
        match coding {
            Coding::Zstd => self.zstd,
            Coding::Brotli => self.brotli,
            Coding::Gzip => self.gzip,
        }
    }
}

/// Media types that are text, or that shrink like text.
pub(crate) const DEFAULT_TYPES: [&str; 10] = [
    "text/*",
    "+json",
    "+xml",
    "application/json",
    "application/javascript",
    "application/xml",
    "application/x-ndjson",
    "application/wasm",
    "font/ttf",
    "font/otf",
];

/// Some media types, without parameters, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediaPattern {
    /// `text/html`
    Exact(String),
    /// `text/*`, kept as `text/`: all but `text/event-stream`, which somebody waits for event by event.
    Any(String),
    /// `+json`, all of a structured syntax (RFC 6839).
    Suffix(String),
}

impl MediaPattern {
    /// Whether a media type is one of them; `essence` has no parameters, its letter case does not matter.
    pub fn matches(&self, essence: &str) -> bool {
        let is =
            |part: Option<&str>, other: &str| part.is_some_and(|p| p.eq_ignore_ascii_case(other));
        match self {
            Self::Exact(exact) => essence.eq_ignore_ascii_case(exact),
            Self::Any(start) => {
                is(essence.get(..start.len()), start)
                    && !essence.eq_ignore_ascii_case("text/event-stream")
            }
            Self::Suffix(end) => {
                let at = essence.len().checked_sub(end.len());
                is(at.filter(|at| *at > 0).and_then(|at| essence.get(at..)), end)
            }
        }
    }
}

impl fmt::Display for MediaPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) | Self::Suffix(text) => f.write_str(text),
            Self::Any(start) => write!(f, "{start}*"),
        }
    }
}
