//! Version 2: a signature, a version and command, a family, a length, then addresses and additions (TLVs).

use std::net::{IpAddr, SocketAddr};

use super::{LONGEST, Malformed, Origin, Progress, agree};

pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED: usize = 16;
/// A checksum of the whole header (section 2.2.3).
const CRC32C: u8 = 0x03;

pub(super) fn begins(bytes: &[u8]) -> bool {
    agree(bytes, SIGNATURE)
}

pub(super) fn read(bytes: &[u8]) -> Result<Progress, Malformed> {
    // Each byte is judged as it comes: what can be no header is not waited for.
    let command = match bytes.get(12) {
        None => return Ok(Progress::More),
        Some(0x20) => Command::Local,
        Some(0x21) => Command::Proxy,
        Some(_) => return Err(Malformed("unknown version or command")),
    };
    let Some([family, high, low]) = bytes.get(13..FIXED) else { return Ok(Progress::More) };
    let whole = FIXED + usize::from(u16::from_be_bytes([*high, *low]));
    if whole > LONGEST {
        return Err(Malformed("the header is too long"));
    }
    let Some(header) = bytes.get(..whole) else { return Ok(Progress::More) };
    let origin = match (command, *family) {
        // The rest says nothing then, whatever it is.
        (Command::Local, _) | (_, 0x00) => Origin::Unknown,
        // TCP over IPv4, TCP over IPv6; datagrams and unix sockets do not come to a listener of HTTP.
        (Command::Proxy, 0x11) => addresses::<4>(header)?,
        (Command::Proxy, 0x21) => addresses::<16>(header)?,
        (Command::Proxy, _) => return Err(Malformed("not TCP over IPv4 or IPv6")),
    };
    Ok(Progress::Whole(whole, origin))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Command {
    Local,
    Proxy,
}

/// Two addresses of `N` bytes each and two ports; what follows them must be whole.
fn addresses<const N: usize>(header: &[u8]) -> Result<Origin, Malformed>
where
    IpAddr: From<[u8; N]>,
{
    let short = Malformed("too short for its addresses");
    let rest = header.get(FIXED + 2 * N + 4..).ok_or(short)?;
    let place = |address: usize, port: usize| {
        let address = header[FIXED + address..].first_chunk::<N>().ok_or(short)?;
        let port = header[FIXED + 2 * N + port..].first_chunk::<2>().ok_or(short)?;
        Ok(SocketAddr::new(IpAddr::from(*address), u16::from_be_bytes(*port)))
    };
    let (client, reached) = (place(0, 0)?, place(N, 2)?);
    additions(header, rest)?;
    Ok(Origin::Client { client, reached })
}

/// Walks the additions at the end of a header; only a checksum is looked at.
fn additions(header: &[u8], rest: &[u8]) -> Result<(), Malformed> {
    let mut rest = rest;
    while let [kind, high, low, values @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, next) =
            values.split_at_checked(length).ok_or(Malformed("an addition is cut off"))?;
        if *kind == CRC32C {
            let told = value.try_into().map_err(|_| Malformed("a checksum has four bytes"))?;
            let at = header.len() - values.len();
            // The field itself counts as zeros.
            let (before, after) = (&header[..at], &header[at + 4..]);
            if crc32c([before, &[0; 4], after]) != u32::from_be_bytes(told) {
                return Err(Malformed("the checksum is wrong"));
            }
        }
        rest = next;
    }
    if rest.is_empty() { Ok(()) } else { Err(Malformed("an addition is cut off")) }
}

/// CRC-32C (Castagnoli; RFC 9260 appendix A), bit by bit: once per connection, over some hundred bytes.
fn crc32c(parts: [&[u8]; 3]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let bytes = parts.into_iter().flatten();
    !bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).expect("short").to_be_bytes();
        [SIGNATURE, &[command, family], &length, body].concat()
    }

    /// 192.0.2.1:56324 to 198.51.100.1:443.
    const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 0x04, 1, 0xbb];

    fn v4(additions: &[u8]) -> Vec<u8> {
        header(0x21, 0x11, &[&V4, additions].concat())
    }

    fn with_checksum(additions: &[u8], change: u32) -> Vec<u8> {
        let mut bytes = v4(&[additions, &[CRC32C, 0, 4, 0, 0, 0, 0]].concat());
        let sum = crc32c([&bytes, &[], &[]]).wrapping_add(change);
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    #[test]
    fn the_checksum_is_castagnoli_s() {
        // The check value of the catalogue of CRCs, and RFC 3720 appendix B.4.
        assert_eq!(crc32c([b"123456789", &[], &[]]), 0xe306_9283);
        assert_eq!(crc32c([&[0; 30], &[0; 2], &[]]), 0x8a91_36aa);
    }

    #[test]
    fn good_headers() {
        let v6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[1], &[0; 16], &[0, 7, 0, 8]].concat();
        let client = |client: &str, reached: &str| Origin::Client {
            client: client.parse().expect("an address"),
            reached: reached.parse().expect("an address"),
        };
        let known = client("192.0.2.1:56324", "198.51.100.1:443");
        for (bytes, origin) in [
            (v4(&[]), known),
            (header(0x21, 0x21, &v6), client("[2001:db8::1]:7", "[::]:8")),
            (v4(&[4, 0, 0, 4, 0, 1, 0, 0xea, 0, 2, 1, 2]), known),
            (with_checksum(&[], 0), known),
            (with_checksum(&[4, 0, 1, 0], 0), known),
            (header(0x20, 0x00, &[]), Origin::Unknown),
            (header(0x20, 0x11, &V4), Origin::Unknown),
            (header(0x20, 0xff, &[1, 2, 3]), Origin::Unknown),
            (header(0x21, 0x00, &[]), Origin::Unknown),
            (header(0x21, 0x00, &[9; 300]), Origin::Unknown),
            (header(0x21, 0x11, &[&V4[..], &[4, 0x0f, 0xe1], &[0; LONGEST - 31]].concat()), known),
        ] {
            let behind = [&bytes, &b"\x16\x03\x01"[..]].concat();
            assert_eq!(read(&behind), Ok(Progress::Whole(bytes.len(), origin)), "{bytes:?}");
            for cut in 0..bytes.len() {
                assert!(begins(&bytes[..cut]));
                assert_eq!(read(&bytes[..cut]), Ok(Progress::More), "{cut} of {bytes:?}");
            }
        }
    }

    #[test]
    fn bad_headers() {
        let long = header(0x21, 0x00, &[0; LONGEST - FIXED + 1]);
        assert!(read(&long[..FIXED]).is_err(), "no need to wait for more");
        for bytes in [
            header(0x11, 0x11, &V4),
            header(0x31, 0x11, &V4),
            header(0x22, 0x11, &V4),
            header(0x2f, 0x11, &V4),
            // Datagrams, unix sockets, and what there is not.
            header(0x21, 0x12, &V4),
            header(0x21, 0x22, &[0; 36]),
            header(0x21, 0x31, &[0; 216]),
            header(0x21, 0x01, &V4),
            header(0x21, 0x10, &V4),
            header(0x21, 0x41, &[0; 36]),
            // Too short, also for IPv6.
            header(0x21, 0x11, &V4[..11]),
            header(0x21, 0x11, &[]),
            header(0x21, 0x21, &[0; 35]),
            // Additions that are cut off.
            v4(&[4]),
            v4(&[4, 0]),
            v4(&[4, 0, 1]),
            v4(&[4, 0, 0, 4, 0, 9, 1]),
            v4(&[4, 0xff, 0xff, 0]),
            // Checksums.
            v4(&[CRC32C, 0, 4, 0, 0, 0, 0]),
            v4(&[CRC32C, 0, 3, 0, 0, 0]),
            v4(&[CRC32C, 0, 0]),
            with_checksum(&[], 1),
            with_checksum(&[4, 0, 1, 0], 1),
        ] {
            assert!(read(&bytes).is_err(), "{bytes:?}");
        }
        let flipped = |at: usize| {
            let mut bytes = with_checksum(&[], 0);
            bytes[at] ^= 1;
            bytes
        };
        for at in 16..28 {
            assert!(read(&flipped(at)).is_err(), "{at}");
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic_and_never_beyond_their_header() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..200_000 {
            let mut bytes = with_checksum(&[4, 0, 1, 0], random.u32(0..2));
            for _ in 0..random.usize(0..3) {
                let at = random.usize(12..bytes.len());
                bytes[at] = random.u8(..);
            }
            bytes.truncate(random.usize(0..=bytes.len()));
            if let Ok(Progress::Whole(length, _)) = read(&bytes) {
                assert!((FIXED..=bytes.len()).contains(&length), "{bytes:?}");
            }
        }
    }
}
