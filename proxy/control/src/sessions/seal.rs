//! The seal that affinity cookies and session tokens share: a version, the time of issue, what is hidden, a tag.
//!
//! Promises: what is opened was sealed with one of the keys for the same purpose. Refuses to know: what is hidden, and how
//! long it holds.

use aws_lc_rs::{constant_time, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

pub(super) const TAG_BYTES: usize = 16;
pub(super) const VERSION: u8 = 1;

/// What is signed starts with these, so that a signature for another purpose is none here.
pub(super) struct Seal {
    pub(super) tag: &'static [u8],
    pub(super) mask: &'static [u8],
}

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
    /// In base64url without padding. `BYTES` is [`sealed_bytes`].
    pub(super) fn close<const ISSUED: usize, const HIDDEN: usize, const BYTES: usize>(
        &self,
        key: &hmac::Key,
        issued: [u8; ISSUED],
        plain: [u8; HIDDEN],
    ) -> String {
        let tag = self.tag(key, issued, plain);
        let hidden = self.masked(key, &tag, plain);
        let mut bytes = [0; BYTES];
        bytes[0] = VERSION;
        bytes[1..=ISSUED].copy_from_slice(&issued);
        bytes[1 + ISSUED..][..HIDDEN].copy_from_slice(&hidden);
        bytes[1 + ISSUED + HIDDEN..].copy_from_slice(&tag);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The reverse. `BYTES` is [`sealed_bytes`].
    pub(super) fn open<const ISSUED: usize, const HIDDEN: usize, const BYTES: usize>(
        &self,
        keys: &[hmac::Key],
        text: &[u8],
    ) -> Result<Opened<ISSUED, HIDDEN>, Broken> {
        let bytes = decode::<BYTES>(text).ok_or(Broken::Malformed)?;
        let [VERSION, rest @ ..] = &bytes[..] else { return Err(Broken::Malformed) };
        let (issued, rest) = rest.split_first_chunk::<ISSUED>().ok_or(Broken::Malformed)?;
        let (hidden, given) = rest.split_first_chunk::<HIDDEN>().ok_or(Broken::Malformed)?;
        let verified = keys.iter().enumerate().find_map(|(key, with)| {
            let plain = self.masked(with, given, *hidden);
            let expected = self.tag(with, *issued, plain);
            let same = constant_time::verify_slices_are_equal(&expected, given).is_ok();
            same.then_some(Opened { issued: *issued, plain, key })
        });
        verified.ok_or(Broken::Forged)
    }

    fn tag<const ISSUED: usize, const HIDDEN: usize>(
        &self,
        key: &hmac::Key,
        issued: [u8; ISSUED],
        plain: [u8; HIDDEN],
    ) -> [u8; TAG_BYTES] {
        let mut context = hmac::Context::with_key(key);
        context.update(self.tag);
        context.update(&issued);
        context.update(&plain);
        cut(&context.sign())
    }

    /// Hides what is plain, and the reverse: HMAC over the tag as a synthetic IV (RFC 5297).
    fn masked<const HIDDEN: usize>(
        &self,
        key: &hmac::Key,
        tag: &[u8],
        mut bytes: [u8; HIDDEN],
    ) -> [u8; HIDDEN] {
        let mut context = hmac::Context::with_key(key);
        context.update(self.mask);
        context.update(tag);
        let mask: [u8; HIDDEN] = cut(&context.sign());
        bytes.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
        bytes
    }
}

pub(super) fn decode<const BYTES: usize>(text: &[u8]) -> Option<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    let fits = text.len() == (BYTES * 4).div_ceil(3);
    let length = fits.then(|| URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok())??;
    (length == BYTES).then_some(bytes)
}

/// The front of a tag of 32 bytes.
fn cut<const N: usize>(tag: &hmac::Tag) -> [u8; N] {
    let mut out = [0; N];
    out.iter_mut().zip(tag.as_ref()).for_each(|(out, byte)| *out = *byte);
    out
}
