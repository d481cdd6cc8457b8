//! Keys of session tickets from files, so that edges which share them go on with one another's sessions.
//!
//! The files are those of nginx and HAProxy: keys of 80 bytes, a name of 16, then 32 for the seal (HMAC-SHA256), then 32
//! for the cipher (AES-256-CBC); the construction is that of RFC 5077 section 4. The first key makes tickets, all open them.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::cipher::{
    AES_256, DecryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey,
    UnboundCipherKey,
};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use rustls::server::ProducesTickets;

const NAME: usize = 16;
const SEAL: usize = 32;
const KEY: usize = NAME + SEAL + 32;
const IV: usize = 16;
/// The most keys that a listener may have: each that does not fit costs a comparison.
const MOST: usize = 16;
/// A ticket opens for so long (as long as those of rustls), and RFC 8446 allows a week at the most.
const LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// Edges' clocks may differ by so much, seconds.
const SKEW: u64 = 300;

/// Some keys, the first of which makes tickets.
pub(super) struct TicketKeys(Vec<Key>);

struct Key {
    name: [u8; NAME],
    seal: hmac::Key,
    encrypt: PaddedBlockEncryptingKey,
    decrypt: PaddedBlockDecryptingKey,
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TicketKeys({})", self.0.len())
    }
}

impl TicketKeys {
    /// All keys of all files, in order.
    ///
    /// # Errors
    /// In words, which tell nothing of a key: there are none, too many, or two of one name.
    pub(super) fn new(files: Vec<Vec<[u8; KEY]>>) -> Result<Arc<Self>, String> {
        let mut keys: Vec<Key> = Vec::new();
        for bytes in files.iter().flatten() {
            let key = Key::new(bytes).ok_or("holds a key that cannot be used")?;
            if keys.iter().any(|known| known.name == key.name) {
                return Err("holds two keys of the same name (the first 16 bytes)".into());
            }
            keys.push(key);
        }
        if !(1..=MOST).contains(&keys.len()) {
            return Err(format!("{} keys in all: 1 to {MOST} are needed", keys.len()));
        }
        Ok(Arc::new(Self(keys)))
    }
}

/// The keys in a file: 80 bytes each, or 160 hexadecimal digits a line.
///
/// # Errors
/// In words, which tell nothing of a key.
pub(super) fn keys(content: &[u8]) -> Result<Vec<[u8; KEY]>, String> {
    let wrong = || {
        format!(
            "holds {} bytes: keys of session tickets are {KEY} bytes each, or {} hexadecimal digits \
             a line",
            content.len(),
            2 * KEY
        )
    };
    let text = content.iter().all(|b| b.is_ascii_hexdigit() || b.is_ascii_whitespace());
    if text {
        let lines = content.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let lines = lines.filter(|line| !line.is_empty());
        let keys: Option<Vec<_>> = lines.map(unhex).collect();
        return keys.filter(|keys| !keys.is_empty()).ok_or_else(wrong);
    }
    let (keys, rest) = content.as_chunks::<KEY>();
    if keys.is_empty() || !rest.is_empty() { Err(wrong()) } else { Ok(keys.to_vec()) }
}

fn unhex(line: &[u8]) -> Option<[u8; KEY]> {
    let mut key = [0; KEY];
    let (pairs, rest) = line.as_chunks::<2>();
    if pairs.len() != KEY || !rest.is_empty() {
        return None;
    }
    for (byte, pair) in key.iter_mut().zip(pairs) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(key)
}

impl Key {
    fn new(bytes: &[u8; KEY]) -> Option<Self> {
        let (name, rest) = bytes.split_first_chunk::<NAME>()?;
        let (seal, cipher) = rest.split_at(SEAL);
        let unbound = || UnboundCipherKey::new(&AES_256, cipher).ok();
        Some(Self {
            name: *name,
            seal: hmac::Key::new(hmac::HMAC_SHA256, seal),
            encrypt: PaddedBlockEncryptingKey::cbc_pkcs7(unbound()?).ok()?,
            decrypt: PaddedBlockDecryptingKey::cbc_pkcs7(unbound()?).ok()?,
        })
    }

    /// Name, initialization vector, ciphertext of time and session, seal over all of them.
    fn seal(&self, session: &[u8], now: u64) -> Option<Vec<u8>> {
        let mut sealed = [&now.to_be_bytes(), session].concat();
        let context = self.encrypt.encrypt(&mut sealed).ok()?;
        let iv: &[u8] = (&context).try_into().ok()?;
        let mut ticket = [&self.name, iv, &sealed].concat();
        let seal = hmac::sign(&self.seal, &ticket);
        ticket.extend_from_slice(seal.as_ref());
        Some(ticket)
    }

    fn open(&self, ticket: &[u8], now: u64) -> Option<Vec<u8>> {
        let (sealed, seal) = ticket.split_last_chunk::<SEAL>()?;
        hmac::verify(&self.seal, sealed, seal).ok()?;
        let (iv, sealed) = sealed.get(NAME..)?.split_first_chunk::<IV>()?;
        let mut bytes = sealed.to_vec();
        let context = DecryptionContext::Iv128(FixedLength::from(iv));
        let opened = self.decrypt.decrypt(&mut bytes, context).ok()?;
        let (made, session) = opened.split_first_chunk::<8>()?;
        let made = u64::from_be_bytes(*made);
        let fresh =
            made <= now.saturating_add(SKEW) && now.saturating_sub(made) <= LIFETIME.as_secs();
        fresh.then(|| session.to_vec())
    }
}

impl TicketKeys {
    fn seal(&self, session: &[u8], now: u64) -> Option<Vec<u8>> {
        self.0.first()?.seal(session, now)
    }

    fn open(&self, ticket: &[u8], now: u64) -> Option<Vec<u8>> {
        let name = ticket.first_chunk::<NAME>()?;
        self.0.iter().find(|key| key.name == *name)?.open(ticket, now)
    }
}

impl ProducesTickets for TicketKeys {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(LIFETIME.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, now())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher, now())
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_782_864_000;

    fn key(n: u8) -> [u8; KEY] {
        std::array::from_fn(|i| n.wrapping_add(i as u8))
    }

    fn made(of: &[u8]) -> Arc<TicketKeys> {
        TicketKeys::new(vec![of.iter().map(|n| key(*n)).collect()]).expect("keys")
    }

    #[test]
    fn the_first_makes_and_all_open() {
        let (old, both, new) = (made(&[1]), made(&[2, 1]), made(&[2]));
        let ticket = old.seal(b"a session", NOW).expect("a ticket");
        assert_eq!(both.open(&ticket, NOW).as_deref(), Some(&b"a session"[..]));
        assert_eq!(new.open(&ticket, NOW), None);
        let ticket = both.seal(b"", NOW).expect("a ticket");
        assert_eq!((new.open(&ticket, NOW), old.open(&ticket, NOW)), (Some(vec![]), None));
        assert_ne!(both.seal(b"x", NOW), both.seal(b"x", NOW), "never the same twice");
        let ticket = both.encrypt(b"now").expect("a ticket");
        assert_eq!(both.decrypt(&ticket).as_deref(), Some(&b"now"[..]));
    }

    #[test]
    fn a_ticket_has_its_time() {
        let keys = made(&[1]);
        let ticket = keys.seal(b"s", NOW).expect("a ticket");
        let life = LIFETIME.as_secs();
        for (now, opens) in [
            (NOW + life, true),
            (NOW + life + 1, false),
            (NOW - SKEW, true),
            (NOW - SKEW - 1, false),
            (u64::MAX, false),
            (0, false),
        ] {
            assert_eq!(keys.open(&ticket, now).is_some(), opens, "{now}");
        }
    }

    #[test]
    fn what_was_changed_does_not_open() {
        let keys = made(&[1, 2]);
        let ticket = keys.seal(&[7; 40], NOW).expect("a ticket");
        for at in 0..ticket.len() {
            let mut bytes = ticket.clone();
            bytes[at] ^= 1;
            assert_eq!(keys.open(&bytes, NOW), None, "{at}");
            assert_eq!(keys.open(&ticket[..at], NOW), None, "{at}");
        }
        assert_eq!(keys.open(&[ticket, vec![0]].concat(), NOW), None);
    }

    #[test]
    fn files_of_keys() {
        let hex = |key: &[u8]| key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let (a, b) = (key(200), key(7));
        assert_eq!(keys(&a), Ok(vec![a]));
        assert_eq!(keys(&[a, b].concat()), Ok(vec![a, b]));
        assert_eq!(keys(hex(&a).as_bytes()), Ok(vec![a]));
        let lines = format!("\n{}\r\n  {}\n\n", hex(&a).to_uppercase(), hex(&b));
        assert_eq!(keys(lines.as_bytes()), Ok(vec![a, b]));
        for wrong in [
            &b""[..],
            b"\n \n",
            &a[..79],
            &[&a[..], b"\n"].concat(),
            &hex(&a).as_bytes()[1..],
            format!("{} {}", hex(&a), hex(&b)).as_bytes(),
            format!("{}\n00", hex(&a)).as_bytes(),
        ] {
            let why = keys(wrong).expect_err("not keys");
            assert!(why.contains("80 bytes") && !why.contains("c8c9"), "{why}");
        }
        assert!(
            TicketKeys::new(vec![]).is_err() && TicketKeys::new(vec![vec![a], vec![a]]).is_err()
        );
        assert!(TicketKeys::new(vec![(0..17).map(|n| key(n * 3)).collect()]).is_err());
        assert_eq!(format!("{:?}", made(&[1, 2])), "TicketKeys(2)");
    }
}
