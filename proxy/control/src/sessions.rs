//! Affinity cookies: what they say, who has signed them, and the keys for that.
//!
//! A cookie is, in base64url without padding, a version, the time of issue, the endpoint's identity, masked, and the tag:
//! HMAC-SHA256 over the three, cut to 128 bits. The mask is HMAC-SHA256 over the tag (a synthetic IV, as in RFC 5297), so
//! that nobody without a key can tell addresses, or whether two clients share an endpoint.

mod keys;
mod look;
mod tokens;

use std::time::Duration;

use aws_lc_rs::{constant_time, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meridian_config::{Affinity, SessionSecrets};
use meridian_routing::{AffinityOutcome, EndpointIdentity};

pub(crate) use keys::{KeyFile, OpenedKeys};
pub use look::{FoundToken, SESSION_HEADER, TokenLook};
pub use tokens::{OpenedToken, TOKEN_LENGTH, TOKEN_TTL_MS};

/// What is signed starts with this, so that a signature for another purpose is none here.
const TAG: &[u8] = b"meridian affinity 1 tag";
const MASK: &[u8] = b"meridian affinity 1 mask";
const VERSION: u8 = 1;
const TAG_BYTES: usize = 16;
const HIDDEN_BYTES: usize = 12;
/// Version, time of issue, identity, tag.
const BYTES: usize = 1 + 4 + HIDDEN_BYTES + TAG_BYTES;
/// The length of a cookie's value.
pub const COOKIE_LENGTH: usize = BYTES * 4 / 3;
/// Other edges' clocks may be ahead by so much, seconds.
const AHEAD_S: u64 = 60;

/// The keys of affinity cookies and session tokens; the first signs, all verify. Without keys nothing is signed and
/// nothing verifies.
#[derive(Debug, Default)]
pub struct SessionKeys(Vec<hmac::Key>);

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
        Self(secrets.keys().map(|key| hmac::Key::new(hmac::HMAC_SHA256, key)).collect())
    }

    /// The value of a cookie for an endpoint, issued at `unix_s`; `None` without a key.
    pub fn seal(&self, identity: EndpointIdentity, unix_s: u64) -> Option<String> {
        let key = self.0.first()?;
        let issued = u32::try_from(unix_s).unwrap_or(u32::MAX).to_be_bytes();
        let plain = bytes_of(identity);
        let tag = tag(key, issued, plain);
        let mut bytes = [0; BYTES];
        bytes[0] = VERSION;
        bytes[1..5].copy_from_slice(&issued);
        bytes[5..17].copy_from_slice(&masked(key, &tag, plain));
        bytes[17..].copy_from_slice(&tag);
        Some(URL_SAFE_NO_PAD.encode(bytes))
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
        let bytes = decode(value).ok_or(AffinityOutcome::Malformed)?;
        let [VERSION, rest @ ..] = bytes else { return Err(AffinityOutcome::Malformed) };
        let (issued, rest) = rest.split_first_chunk::<4>().ok_or(AffinityOutcome::Malformed)?;
        let (hidden, given) =
            rest.split_first_chunk::<HIDDEN_BYTES>().ok_or(AffinityOutcome::Malformed)?;
        let verified = self.0.iter().enumerate().find_map(|(position, key)| {
            let plain = masked(key, given, *hidden);
            let expected = tag(key, *issued, plain);
            let same = constant_time::verify_slices_are_equal(&expected, given).is_ok();
            same.then_some((position, plain))
        });
        let (position, plain) = verified.ok_or(AffinityOutcome::Forged)?;
        let issued = u64::from(u32::from_be_bytes(*issued));
        let age = unix_s.saturating_sub(issued);
        if age > ttl.as_secs() || issued > unix_s.saturating_add(AHEAD_S) {
            return Err(AffinityOutcome::Expired);
        }
        let stale = position > 0 || age * 2 > ttl.as_secs();
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

fn decode(value: &[u8]) -> Option<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    let fits = value.len() == COOKIE_LENGTH;
    let length = URL_SAFE_NO_PAD.decode_slice(value.get(..COOKIE_LENGTH)?, &mut bytes).ok()?;
    (fits && length == BYTES).then_some(bytes)
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

fn tag(key: &hmac::Key, issued: [u8; 4], plain: [u8; HIDDEN_BYTES]) -> [u8; TAG_BYTES] {
    let mut context = hmac::Context::with_key(key);
    context.update(TAG);
    context.update(&issued);
    context.update(&plain);
    cut(&context.sign())
}

/// Hides what is plain, and the reverse.
fn masked(key: &hmac::Key, tag: &[u8], mut bytes: [u8; HIDDEN_BYTES]) -> [u8; HIDDEN_BYTES] {
    let mut context = hmac::Context::with_key(key);
    context.update(MASK);
    context.update(tag);
    let mask: [u8; HIDDEN_BYTES] = cut(&context.sign());
    bytes.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    bytes
}

/// The front of a tag of 32 bytes.
fn cut<const N: usize>(tag: &hmac::Tag) -> [u8; N] {
    let mut out = [0; N];
    out.iter_mut().zip(tag.as_ref()).for_each(|(out, byte)| *out = *byte);
    out
}

#[cfg(test)]
mod tests;
