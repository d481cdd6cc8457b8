//! What a client may do without getting anywhere: the ledger against floods.

use crate::error::ConnectionError;

/// Frames without use between two times of forgiveness.
const MOST_NOISE: u32 = 1000;
/// A request is worth so many frames without use.
const REQUEST_IS_WORTH: u32 = 16;
/// A client that causes more resets than this, and of more than half of its streams, is not served any longer. What was
/// before the last time of forgiveness counts half.
const MOST_RESETS: u32 = 100;

/// One connection's ledger.
#[derive(Debug, Default)]
pub(super) struct Calm {
    noise: u32,
    resets: u32,
    streams: u32,
}

impl Calm {
    /// A frame that brings nothing: PING, a setting, PRIORITY, GOAWAY, an empty or unknown one, one for a stream that
    /// is over.
    pub(super) fn noise(&mut self) -> Result<(), ConnectionError> {
        self.noise += 1;
        if self.noise > MOST_NOISE {
            return Err(ConnectionError::calm("too many frames without use"));
        }
        Ok(())
    }

    /// Body bytes went one way or the other.
    pub(super) fn progress(&mut self) {
        self.noise = self.noise.saturating_sub(1);
    }

    /// A stream was opened.
    pub(super) fn stream(&mut self) {
        self.streams = self.streams.saturating_add(1);
        self.noise = self.noise.saturating_sub(REQUEST_IS_WORTH);
    }

    /// A stream ended early, by the client's RST_STREAM or because of something that it did (MadeYouReset).
    pub(super) fn reset(&mut self) -> Result<(), ConnectionError> {
        self.resets = self.resets.saturating_add(1);
        if self.resets > MOST_RESETS && self.resets > self.streams / 2 {
            return Err(ConnectionError::calm("too many streams were reset"));
        }
        Ok(())
    }

    /// Frames without use since the last time of forgiveness, requests counted against them.
    pub(super) fn unrest(&self) -> u32 {
        self.noise
    }

    pub(super) fn forgive(&mut self) {
        self.noise = 0;
        self.resets /= 2;
        self.streams /= 2;
    }
}
