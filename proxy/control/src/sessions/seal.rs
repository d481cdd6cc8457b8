//! The seal that affinity cookies and session tokens share: a version, the time of issue, what is hidden, a tag.
//!
//! AES-256-GCM-SIV (RFC 8452), with the time of issue as nonce: that two texts share one is no harm, but for showing that
//! they say the same. Promises: what is opened was sealed with one of the keys for the same purpose. Refuses to know: what is
//! hidden, and how long it holds.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

pub(super) const TAG_BYTES: usize = 16;
pub(super) const VERSION: u8 = 2;

/// A key for one purpose.
#[derive(Debug)]
pub(super) struct Seal(LessSafeKey);

/// Why there is nothing in a text.
#[derive(Debug)]
pub(super) enum Broken {
    Malformed,
    Forged,
}

/// The contents of a text with a good seal.
pub(super) struct Opened<const ISSUED: usize, const HIDDEN: usize> {
    pub(super) issued: [u8; ISSUED],
    pub(super) plain: [u8; HIDDEN],
    /// Which of the keys has sealed it.
    pub(super) key: usize,
}

/// The bytes of a sealed text.
pub(super) const fn sealed_bytes(issued: usize, hidden: usize) -> usize {
    1 + issued + hidden + TAG_BYTES
}

/// The length of a sealed text.
pub(super) const fn sealed_length(issued: usize, hidden: usize) -> usize {
    (sealed_bytes(issued, hidden) * 4).div_ceil(3)
}

impl Seal {
    /// The key of a secret for a purpose: HMAC-SHA256 of its name.
    pub(super) fn new(secret: &[u8], purpose: &[u8]) -> Self {
        let key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), purpose);
        let key = UnboundKey::new(&AES_256_GCM_SIV, key.as_ref());
        Self(LessSafeKey::new(key.expect("HMAC-SHA256 has the length of a key")))
    }

    /// In base64url without padding; `None`: the library failed. `BYTES` is [`sealed_bytes`].
    pub(super) fn close<const ISSUED: usize, const HIDDEN: usize, const BYTES: usize>(
        &self,
        issued: [u8; ISSUED],
        mut plain: [u8; HIDDEN],
    ) -> Option<String> {
        let aad = Aad::from([VERSION]);
        let tag = self.0.seal_in_place_separate_tag(nonce(issued), aad, &mut plain).ok()?;
        let mut bytes = [0; BYTES];
        bytes[0] = VERSION;
        bytes[1..=ISSUED].copy_from_slice(&issued);
        bytes[1 + ISSUED..][..HIDDEN].copy_from_slice(&plain);
        bytes[1 + ISSUED + HIDDEN..].copy_from_slice(tag.as_ref());
        Some(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The reverse, with the first of these keys that fits. `BYTES` is [`sealed_bytes`].
    pub(super) fn open<'k, const ISSUED: usize, const HIDDEN: usize, const BYTES: usize>(
        keys: impl Iterator<Item = &'k Self>,
        text: &[u8],
    ) -> Result<Opened<ISSUED, HIDDEN>, Broken> {
        let bytes = decode::<BYTES>(text).ok_or(Broken::Malformed)?;
        let [VERSION, rest @ ..] = &bytes[..] else { return Err(Broken::Malformed) };
        let (issued, rest) = rest.split_first_chunk::<ISSUED>().ok_or(Broken::Malformed)?;
        let (hidden, tag) = rest.split_first_chunk::<HIDDEN>().ok_or(Broken::Malformed)?;
        let mut plain = [0; HIDDEN];
        let key = keys.enumerate().find_map(|(place, Self(key))| {
            let (nonce, aad) = (nonce(*issued), Aad::from([VERSION]));
            key.open_separate_gather(nonce, aad, hidden, tag, &mut plain).ok().map(|()| place)
        });
        Ok(Opened { issued: *issued, plain, key: key.ok_or(Broken::Forged)? })
    }
}

fn nonce<const ISSUED: usize>(issued: [u8; ISSUED]) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[..ISSUED].copy_from_slice(&issued);
    Nonce::assume_unique_for_key(bytes)
}

pub(super) fn decode<const BYTES: usize>(text: &[u8]) -> Option<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    let fits = text.len() == (BYTES * 4).div_ceil(3);
    let length = fits.then(|| URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok())??;
    (length == BYTES).then_some(bytes)
}
