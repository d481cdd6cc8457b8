//! Session tokens: what a session has seen of a service's data, sealed.
//!
//! A token is, in base64url without padding, a version, the time of issue, what it says, encrypted, and a tag of 128 bits,
//! as affinity cookies are, so that nobody without a key can tell positions, or whether two tokens are of the same session,
//! but for those that say the same and were issued in the same millisecond. Its length is always the same.

use meridian_routing::{MAX_POSITION, SessionToken, TokenFault};

use super::seal::{Broken, Opened, Seal, sealed_bytes, sealed_length};
use super::{AHEAD_S, SessionKeys};

/// Milliseconds since 1970, until the year 10889.
const ISSUED_BYTES: usize = 6;
/// Service, session, epoch, position, and how long the primary is needed.
const HIDDEN_BYTES: usize = 32;
const BYTES: usize = sealed_bytes(ISSUED_BYTES, HIDDEN_BYTES);
/// The length of a token.
pub const TOKEN_LENGTH: usize = sealed_length(ISSUED_BYTES, HIDDEN_BYTES);
/// How long a token lasts, and its cookie, milliseconds.
pub const TOKEN_TTL_MS: u64 = 300_000;

/// A token with a good signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenedToken {
    /// What it says.
    pub token: SessionToken,
    /// More than half of its time is over, or a key that goes has signed it: the client should get a new one.
    pub stale: bool,
    /// Its time is over, or it is from the future.
    pub expired: bool,
}

impl SessionKeys {
    /// The text of a token; `None` without a key.
    pub fn seal_token(&self, token: &SessionToken) -> Option<String> {
        let issued = issued_bytes(token.issued_unix_ms);
        let key = &self.0.first()?.session;
        key.close::<ISSUED_BYTES, HIDDEN_BYTES, BYTES>(issued, plain_of(token))
    }

    /// What a token says at `unix_ms`, to the service of this identity.
    ///
    /// # Errors
    /// [`TokenFault::Malformed`], [`TokenFault::Forged`], [`TokenFault::Foreign`]
    pub fn open_token(
        &self,
        text: &[u8],
        service: u32,
        unix_ms: u64,
    ) -> Result<OpenedToken, TokenFault> {
        let keys = self.0.iter().map(|keys| &keys.session);
        let opened = Seal::open::<ISSUED_BYTES, HIDDEN_BYTES, BYTES>(keys, text);
        let Opened { issued, plain, key } = opened.map_err(|broken| match broken {
            Broken::Malformed => TokenFault::Malformed,
            Broken::Forged => TokenFault::Forged,
        })?;
        let token = token_of(issued, plain).ok_or(TokenFault::Malformed)?;
        if token.service != service {
            return Err(TokenFault::Foreign);
        }
        let age = unix_ms.saturating_sub(token.issued_unix_ms);
        let ahead = token.issued_unix_ms > unix_ms.saturating_add(AHEAD_S * 1000);
        let expired = age > TOKEN_TTL_MS || ahead;
        Ok(OpenedToken { token, stale: key > 0 || age * 2 > TOKEN_TTL_MS || expired, expired })
    }
}

fn issued_bytes(unix_ms: u64) -> [u8; ISSUED_BYTES] {
    let [_, _, rest @ ..] = unix_ms.min((1 << 48) - 1).to_be_bytes();
    rest
}

fn plain_of(token: &SessionToken) -> [u8; HIDDEN_BYTES] {
    let mut bytes = [0; HIDDEN_BYTES];
    let position = token.position.map_or(0, |position| position.min(MAX_POSITION) + 1);
    let primary_ms = token.primary_until_unix_ms.saturating_sub(token.issued_unix_ms);
    bytes[..4].copy_from_slice(&token.service.to_be_bytes());
    bytes[4..12].copy_from_slice(&token.session.to_be_bytes());
    bytes[12..20].copy_from_slice(&token.epoch.to_be_bytes());
    bytes[20..28].copy_from_slice(&position.to_be_bytes());
    bytes[28..].copy_from_slice(&u32::try_from(primary_ms).unwrap_or(u32::MAX).to_be_bytes());
    bytes
}

/// `None`: no version of this format says so.
fn token_of(issued: [u8; ISSUED_BYTES], bytes: [u8; HIDDEN_BYTES]) -> Option<SessionToken> {
    let (service, rest) = bytes.split_first_chunk::<4>()?;
    let (session, rest) = rest.split_first_chunk::<8>()?;
    let (epoch, rest) = rest.split_first_chunk::<8>()?;
    let (position, rest) = rest.split_first_chunk::<8>()?;
    let primary_ms = u32::from_be_bytes(*rest.first_chunk::<4>()?);
    let mut wide = [0; 8];
    wide[2..].copy_from_slice(&issued);
    let issued_unix_ms = u64::from_be_bytes(wide);
    let until = issued_unix_ms.saturating_add(primary_ms.into());
    let position = u64::from_be_bytes(*position).checked_sub(1);
    let token = SessionToken {
        service: u32::from_be_bytes(*service),
        session: u64::from_be_bytes(*session),
        epoch: u64::from_be_bytes(*epoch),
        position,
        primary_until_unix_ms: if primary_ms == 0 { 0 } else { until },
        issued_unix_ms,
    };
    position.is_none_or(|position| position <= MAX_POSITION).then_some(token)
}

#[cfg(test)]
#[path = "tokens_tests.rs"]
mod tests;
