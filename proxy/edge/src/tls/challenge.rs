//! The first words of a handshake, looked at before it is known who answers: a client, or an authority that has its
//! challenge answered (RFC 8737).

use std::io;

use meridian_control::ALPN_ACME;
use rustls::server::Acceptor;
use tokio::net::TcpStream;

/// First words that are longer are left to the session, bytes.
const LONGEST: usize = 64 * 1024;

/// Reads a ClientHello; the bytes, and the host whose challenge it is about: that of a client which offers nothing but the
/// challenge's protocol.
///
/// # Errors
/// The connection broke or ended.
pub(crate) async fn first_words(socket: &TcpStream) -> io::Result<(Vec<u8>, Option<String>)> {
    let mut acceptor = Acceptor::default();
    let mut bytes = Vec::with_capacity(4096);
    while bytes.len() < LONGEST {
        socket.readable().await?;
        let before = bytes.len();
        match socket.try_read_buf(&mut bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        let mut new = &bytes[before..];
        while !new.is_empty() {
            // What it does not take, the session will not take either.
            if acceptor.read_tls(&mut new).is_err() {
                return Ok((bytes, None));
            }
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let only = hello.alpn().is_some_and(|mut offered| {
                    offered.next() == Some(ALPN_ACME) && offered.next().is_none()
                });
                let host = hello.server_name().filter(|_| only).map(str::to_owned);
                return Ok((bytes, host));
            }
            // The session will say the same, to the client too.
            Err(_) => return Ok((bytes, None)),
        }
    }
    Ok((bytes, None))
}
