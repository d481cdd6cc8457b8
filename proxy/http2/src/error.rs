//! Error codes, and what ends a connection.

/// An error code (RFC 9113 section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason(pub u32);

impl Reason {
    /// All is well.
    pub const NO_ERROR: Self = Self(0);
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1);
    /// This side failed.
    pub const INTERNAL_ERROR: Self = Self(2);
    /// The peer sent more than its window allows.
    pub const FLOW_CONTROL_ERROR: Self = Self(3);
    /// A frame for a stream that had ended.
    pub const STREAM_CLOSED: Self = Self(5);
    /// A frame of a wrong size.
    pub const FRAME_SIZE_ERROR: Self = Self(6);
    /// Nothing was done for the stream: it may be sent again.
    pub const REFUSED_STREAM: Self = Self(7);
    /// Nobody wants the stream any more.
    pub const CANCEL: Self = Self(8);
    /// The header block cannot be decoded.
    pub const COMPRESSION_ERROR: Self = Self(9);
    /// The peer causes work to no end.
    pub const ENHANCE_YOUR_CALM: Self = Self(11);
}

/// What ends the whole connection; the client is told in a GOAWAY frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionError {
    /// The code.
    pub reason: Reason,
    /// In words, for the log and the client.
    pub why: &'static str,
}

impl ConnectionError {
    pub(crate) const fn protocol(why: &'static str) -> Self {
        Self { reason: Reason::PROTOCOL_ERROR, why }
    }

    pub(crate) const fn size(why: &'static str) -> Self {
        Self { reason: Reason::FRAME_SIZE_ERROR, why }
    }

    pub(crate) const fn calm(why: &'static str) -> Self {
        Self { reason: Reason::ENHANCE_YOUR_CALM, why }
    }
}
