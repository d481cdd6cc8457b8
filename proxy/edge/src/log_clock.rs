//! The access log's clock: the text of a second is made once.

use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, UtcDateTime};

const RFC3339: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].");
const COMMON_LOG: &[BorrowedFormatItem<'_>] =
    format_description!("[day]/[month repr:short]/[year]:[hour]:[minute]:[second] +0000");

/// A worker's clock on the wall.
#[derive(Debug, Default)]
pub(crate) struct LogClock {
    /// Seconds since 1970 that the texts are of.
    second: i64,
    rfc3339: String,
    common: String,
}

impl LogClock {
    /// `2026-01-31T23:59:59.123Z`
    pub(crate) fn rfc3339(&mut self, out: &mut Vec<u8>) {
        let now = self.now();
        out.extend_from_slice(self.rfc3339.as_bytes());
        let digit = |n: u16| b'0' + (n % 10) as u8;
        let ms = now.millisecond();
        out.extend_from_slice(&[digit(ms / 100), digit(ms / 10), digit(ms), b'Z']);
    }

    /// `31/Jan/2026:23:59:59 +0000`
    pub(crate) fn common(&mut self, out: &mut Vec<u8>) {
        self.now();
        out.extend_from_slice(self.common.as_bytes());
    }

    fn now(&mut self) -> OffsetDateTime {
        let now = OffsetDateTime::from(UtcDateTime::now());
        let second = now.unix_timestamp();
        if second != self.second || self.rfc3339.is_empty() {
            self.second = second;
            self.rfc3339 = now.format(RFC3339).unwrap_or_default();
            self.common = now.format(COMMON_LOG).unwrap_or_default();
        }
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::format_description::well_known::Rfc3339;

    #[test]
    fn a_line_has_the_time_it_was_written_at() {
        let mut clock = LogClock::default();
        for _ in 0..3 {
            let before = OffsetDateTime::now_utc();
            let mut out = Vec::new();
            clock.rfc3339(&mut out);
            let text = String::from_utf8(out).expect("text");
            let written = OffsetDateTime::parse(&text, &Rfc3339).expect("a time");
            assert!((written - before).whole_milliseconds().abs() < 1000, "{text}");
            assert_eq!(text.len(), "2026-01-31T23:59:59.123Z".len());
            let mut out = Vec::new();
            clock.common(&mut out);
            assert_eq!(out.len(), "31/Jan/2026:23:59:59 +0000".len());
        }
    }
}
