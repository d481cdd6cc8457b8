//! The PROXY protocol, out: whom a connection to an endpoint is for, as a header in front of it.
//!
//! Promises: what is written reads back as the same two addresses. Refuses to know: whether an endpoint expects one.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use meridian_config::ProxyVersion;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::version2::SIGNATURE;

/// Names the client of a connection to an endpoint. Connections are used again for the same one only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Introduction {
    version: ProxyVersion,
    /// Both are of one family: a header has no room for two.
    client: SocketAddr,
    reached: SocketAddr,
}

impl Introduction {
    /// For a client that has reached this edge at that address. Where one is of IPv4 and the other of IPv6, both are
    /// told as IPv6, the former mapped (RFC 4291 section 2.5.5.2).
    pub(crate) fn new(version: ProxyVersion, client: SocketAddr, reached: SocketAddr) -> Self {
        let (client, reached) = (plain(client), plain(reached));
        if client.is_ipv4() == reached.is_ipv4() {
            return Self { version, client, reached };
        }
        Self { version, client: mapped(client), reached: mapped(reached) }
    }

    /// Writes the header, before anything else.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) async fn send(&self, stream: &mut TcpStream) -> io::Result<()> {
        stream.write_all(&self.header()).await
    }

    fn header(&self) -> Vec<u8> {
        match self.version {
            ProxyVersion::V1 => self.line(),
            ProxyVersion::V2 => self.binary(),
        }
    }

    /// Section 2.1.
    fn line(&self) -> Vec<u8> {
        let Self { client, reached, .. } = self;
        let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
        let (from, to) = (client.ip(), reached.ip());
        let (from_port, to_port) = (client.port(), reached.port());
        format!("PROXY {family} {from} {to} {from_port} {to_port}\r\n").into_bytes()
    }

    /// Section 2.2: version 2, PROXY; TCP; no additions.
    fn binary(&self) -> Vec<u8> {
        let mut header = Vec::with_capacity(52);
        header.extend_from_slice(SIGNATURE);
        let (family, length) = if self.client.is_ipv4() { (0x11, 12) } else { (0x21, 36) };
        header.extend_from_slice(&[0x21, family, 0, length]);
        for address in [self.client.ip(), self.reached.ip()] {
            match address {
                IpAddr::V4(address) => header.extend_from_slice(&address.octets()),
                IpAddr::V6(address) => header.extend_from_slice(&address.octets()),
            }
        }
        for port in [self.client.port(), self.reached.port()] {
            header.extend_from_slice(&port.to_be_bytes());
        }
        header
    }
}

/// Without a scope, which means nothing to others; mapped IPv4 as IPv4.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn mapped(address: SocketAddr) -> SocketAddr {
    let ip: Ipv6Addr = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    SocketAddr::new(ip.into(), address.port())
}

#[cfg(test)]
mod tests {
    use super::super::{Origin, Progress, read};
    use super::*;

    fn header(version: ProxyVersion, client: &str, reached: &str) -> Vec<u8> {
        let [client, reached] = [client, reached].map(|text| text.parse().expect("an address"));
        Introduction::new(version, client, reached).header()
    }

    #[test]
    fn lines() {
        for (client, reached, line) in [
            (
                "192.0.2.1:56324",
                "198.51.100.1:443",
                "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n",
            ),
            ("[2001:db8::1]:1", "[2001:db8::2]:80", "PROXY TCP6 2001:db8::1 2001:db8::2 1 80\r\n"),
            (
                "[::ffff:192.0.2.1]:7",
                "[::ffff:198.51.100.1]:8",
                "PROXY TCP4 192.0.2.1 198.51.100.1 7 8\r\n",
            ),
            ("192.0.2.1:0", "[2001:db8::2]:80", "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 0 80\r\n"),
            (
                "[2001:db8::1]:9",
                "198.51.100.1:443",
                "PROXY TCP6 2001:db8::1 ::ffff:198.51.100.1 9 443\r\n",
            ),
            ("[fe80::1%3]:9", "[fe80::2%3]:443", "PROXY TCP6 fe80::1 fe80::2 9 443\r\n"),
        ] {
            let made = header(ProxyVersion::V1, client, reached);
            assert_eq!(String::from_utf8_lossy(&made), line);
        }
    }

    #[test]
    fn binary() {
        let made = header(ProxyVersion::V2, "192.0.2.1:56324", "198.51.100.1:443");
        let body = [0x21, 0x11, 0, 12, 192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb];
        assert_eq!(made, [SIGNATURE, &body].concat());
        let made = header(ProxyVersion::V2, "192.0.2.1:1", "[2001:db8::2]:2");
        let mut body = vec![0x21, 0x21, 0, 36];
        body.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1]);
        body.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0, 2]);
        assert_eq!(made, [SIGNATURE, &body].concat());
    }

    #[test]
    fn what_is_written_reads_back() {
        let places = ["0.0.0.0:0", "255.255.255.255:65535", "[::]:1", "[2001:db8::ffff]:65535"];
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            for (client, reached) in places.iter().flat_map(|a| places.map(|b| (*a, b))) {
                let made = header(version, client, reached);
                let read = read(&made);
                let Ok(Progress::Whole(length, Origin::Client { client: c, reached: r })) = read
                else {
                    panic!("{client} {reached}: {read:?}");
                };
                assert_eq!(length, made.len());
                let told = [plain(c), plain(r)].map(|address| address.to_string());
                assert_eq!(told, [client, reached], "{version:?}");
            }
        }
    }
}
