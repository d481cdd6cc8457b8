//! Version 1: a line of text, `PROXY TCP4 192.0.2.1 198.51.100.1 56324 443`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Malformed, Origin, Progress, agree};

const START: &[u8] = b"PROXY ";
/// The longest line, its end included (section 2.1).
const LONGEST: usize = 107;

pub(super) fn begins(bytes: &[u8]) -> bool {
    agree(bytes, START)
}

pub(super) fn read(bytes: &[u8]) -> Result<Progress, Malformed> {
    let Some(end) = bytes.iter().take(LONGEST).position(|byte| *byte == b'\n') else {
        let whole = bytes.len() >= LONGEST;
        return if whole { Err(Malformed("the line is too long")) } else { Ok(Progress::More) };
    };
    let line = bytes[..end].strip_suffix(b"\r").ok_or(Malformed("the line ends without CR"))?;
    let text = line.strip_prefix(START).and_then(|rest| std::str::from_utf8(rest).ok());
    let origin = text.and_then(origin).ok_or(Malformed("the line is not a good one"))?;
    Ok(Progress::Whole(end + 1, origin))
}

/// What stands behind `PROXY `.
fn origin(text: &str) -> Option<Origin> {
    if text.contains('\r') {
        return None;
    }
    let (family, rest) = text.split_once(' ').unwrap_or((text, ""));
    if family == "UNKNOWN" {
        // Whatever follows is to be ignored.
        return Some(Origin::Unknown);
    }
    let mut parts = rest.split(' ');
    let mut address = || -> Option<IpAddr> {
        let text = parts.next()?;
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::from),
            _ => None,
        }
    };
    let (source, destination) = (address()?, address()?);
    let (source_port, destination_port) = (port(parts.next()?)?, port(parts.next()?)?);
    if parts.next().is_some() {
        return None;
    }
    let client = SocketAddr::new(source, source_port);
    Some(Origin::Client { client, reached: SocketAddr::new(destination, destination_port) })
}

/// Digits only, without leading zeros.
fn port(text: &str) -> Option<u16> {
    let plain =
        text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_lines() {
        for (line, told) in [
            (
                "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n",
                Some(["192.0.2.1:56324", "198.51.100.1:443"]),
            ),
            (
                "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
                Some(["255.255.255.255:65535"; 2]),
            ),
            ("PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", Some(["0.0.0.0:0"; 2])),
            ("PROXY TCP6 2001:db8::1 ::1 1 2\r\n", Some(["[2001:db8::1]:1", "[::1]:2"])),
            (
                "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
                Some(["[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"; 2]),
            ),
            ("PROXY UNKNOWN\r\n", None),
            (
                "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
                None,
            ),
        ] {
            let told = told.map(|both| both.map(|text| text.parse().expect("an address")));
            let origin = told
                .map_or(Origin::Unknown, |[client, reached]| Origin::Client { client, reached });
            let behind = [line.as_bytes(), b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(read(&behind), Ok(Progress::Whole(line.len(), origin)), "{line:?}");
            for cut in 0..line.len() {
                assert!(begins(&line.as_bytes()[..cut]));
                assert_eq!(read(&line.as_bytes()[..cut]), Ok(Progress::More), "{line:?} {cut}");
            }
        }
    }

    #[test]
    fn bad_lines() {
        for line in [
            "PROXY \r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP5 192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY tcp4 192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY UNKNOWNX\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 \r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 7\r\n",
            "PROXY TCP4  192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.01 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100 56324 443\r\n",
            "PROXY TCP4 192.0.2.256 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 2001:db8::1 ::1 1 2\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY TCP6 [2001:db8::1] ::1 1 2\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 056324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 +56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 65536 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 65536\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 -1 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1  443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\r\n",
            "PROXY\tTCP4 192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY UNKNOWN\rX\r\n",
        ] {
            assert!(!begins(line.as_bytes()) || read(line.as_bytes()).is_err(), "{line:?}");
        }
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(LONGEST - 16 + 1));
        assert!(read(long.as_bytes()).is_err());
        assert!(read(&long.as_bytes()[..LONGEST]).is_err(), "no need to wait for more");
        let just = format!("PROXY UNKNOWN {}\r\n", "x".repeat(LONGEST - 16));
        assert_eq!(read(just.as_bytes()), Ok(Progress::Whole(LONGEST, Origin::Unknown)));
    }
}
