//! Affinity cookies: what they say, who has signed them, and the keys for that.
//!
//! A cookie is, in base64url without padding, a version, the time of issue, the endpoint's identity, encrypted, and a tag of
//! 128 bits (AES-256-GCM-SIV), so that nobody without a key can tell addresses, or whether two clients share an endpoint,
//! but for those that were given their cookies in the same second.

mod keys;
mod look;
mod seal;
mod tokens;

use std::time::Duration;

use meridian_config::{Affinity, SessionSecrets};
use meridian_routing::{AffinityOutcome, EndpointIdentity};

pub(crate) use keys::{KeyFile, OpenedKeys};
pub use look::{FoundToken, SESSION_HEADER, TokenLook, may_hold_token};
use seal::{Broken, Opened, Seal, sealed_bytes, sealed_length};
pub use tokens::{OpenedToken, TOKEN_LENGTH, TOKEN_TTL_MS};

/// Seconds since 1970.
const ISSUED_BYTES: usize = 4;
/// The identity.
const HIDDEN_BYTES: usize = 12;
const BYTES: usize = sealed_bytes(ISSUED_BYTES, HIDDEN_BYTES);
/// The length of a cookie's value.
pub const COOKIE_LENGTH: usize = sealed_length(ISSUED_BYTES, HIDDEN_BYTES);
/// Other edges' clocks may be ahead by so much, seconds.
const AHEAD_S: u64 = 60;

/// The keys of affinity cookies and session tokens; the first signs, all verify. Without keys nothing is signed and
/// nothing verifies.
#[derive(Debug, Default)]
pub struct SessionKeys(Vec<Keys>);

/// What follows from one secret.
#[derive(Debug)]
struct Keys {
    affinity: Seal,
    session: Seal,
}

/// What a valid cookie says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presented {
    /// The endpoint.
    pub identity: EndpointIdentity,
    /// More than half of its time is over, or a key that goes has signed it: the client should get a new one.
    pub stale: bool,
}

impl SessionKeys {
    /// Of secrets.
    pub fn new(secrets: &SessionSecrets) -> Self {
        let keys = secrets.keys().map(|secret| Keys {
            affinity: Seal::new(secret, b"meridian affinity 2"),
            session: Seal::new(secret, b"meridian session 2"),
        });
        Self(keys.collect())
    }

    /// The value of a cookie for an endpoint, issued at `unix_s`; `None` without a key.
    pub fn seal(&self, identity: EndpointIdentity, unix_s: u64) -> Option<String> {
        let issued = u32::try_from(unix_s).unwrap_or(u32::MAX).to_be_bytes();
        let key = &self.0.first()?.affinity;
        key.close::<ISSUED_BYTES, HIDDEN_BYTES, BYTES>(issued, bytes_of(identity))
    }

    /// What a cookie's value says at `unix_s` to a route that lets cookies live for `ttl`.
    ///
    /// # Errors
    /// [`AffinityOutcome::Malformed`], [`AffinityOutcome::Forged`], [`AffinityOutcome::Expired`]
    pub fn open(
        &self,
        value: &[u8],
        unix_s: u64,
        ttl: Duration,
    ) -> Result<Presented, AffinityOutcome> {
        let keys = self.0.iter().map(|keys| &keys.affinity);
        let opened = Seal::open::<ISSUED_BYTES, HIDDEN_BYTES, BYTES>(keys, value);
        let Opened { issued, plain, key } = opened.map_err(|broken| match broken {
            Broken::Malformed => AffinityOutcome::Malformed,
            Broken::Forged => AffinityOutcome::Forged,
        })?;
        let issued = u64::from(u32::from_be_bytes(issued));
        let age = unix_s.saturating_sub(issued);
        if age > ttl.as_secs() || issued > unix_s.saturating_add(AHEAD_S) {
            return Err(AffinityOutcome::Expired);
        }
        let stale = key > 0 || age * 2 > ttl.as_secs();
        Ok(Presented { identity: identity_of(plain), stale })
    }

    /// What the `Cookie` fields of a request say of this route's affinity.
    ///
    /// # Errors
    /// As [`SessionKeys::open`], and [`AffinityOutcome::Absent`].
    pub fn look<'f>(
        &self,
        mut fields: impl Iterator<Item = &'f [u8]>,
        affinity: &Affinity,
        unix_s: u64,
    ) -> Result<Presented, AffinityOutcome> {
        let value = fields.find_map(|field| cookie(field, affinity.cookie.as_bytes()));
        self.open(value.ok_or(AffinityOutcome::Absent)?, unix_s, affinity.ttl)
    }
}

/// The first value of a cookie in a `Cookie` field.
fn cookie<'f>(field: &'f [u8], name: &[u8]) -> Option<&'f [u8]> {
    field
        .split(|byte| *byte == b';')
        .find_map(|crumb| crumb.trim_ascii().strip_prefix(name)?.strip_prefix(b"="))
}

fn bytes_of(identity: EndpointIdentity) -> [u8; HIDDEN_BYTES] {
    let mut bytes = [0; HIDDEN_BYTES];
    bytes[..4].copy_from_slice(&identity.service.to_be_bytes());
    bytes[4..].copy_from_slice(&identity.endpoint.to_be_bytes());
    bytes
}

fn identity_of(bytes: [u8; HIDDEN_BYTES]) -> EndpointIdentity {
    let [a, b, c, d, endpoint @ ..] = bytes;
    EndpointIdentity {
        service: u32::from_be_bytes([a, b, c, d]),
        endpoint: u64::from_be_bytes(endpoint),
    }
}

#[cfg(test)]
mod tests;
