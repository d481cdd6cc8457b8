//! Listening sockets: one per worker and address, shared out by the kernel (SO_REUSEPORT).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use meridian_config::Listener;
use meridian_control::Readers;
use meridian_routing::EdgeCounters;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::identify::is_trusted;
use crate::tls::Offer;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// Bytes that the kernel holds for a client beyond what is on its way to it. Without a bound it takes up to 4 MiB
/// (net.ipv4.tcp_wmem) of each answer that is not read, and a few hundred slow readers use up what all connections of
/// the machine share (net.ipv4.tcp_mem). What is on its way is not counted, so that long paths stay as fast.
const UNSENT: u32 = 512 * 1024;

/// What the connections of a listener share.
pub(crate) struct ListenerState {
    pub(crate) settings: Listener,
    pub(crate) counters: Arc<EdgeCounters>,
    /// Connections begin with a handshake.
    pub(crate) tls: Option<Offer>,
}

impl ListenerState {
    /// # Errors
    /// There is no randomness for the keys of session tickets.
    pub(crate) fn new(
        settings: Listener,
        counters: Arc<EdgeCounters>,
        readers: &Readers,
    ) -> Result<Self, rustls::Error> {
        let tls = settings.tls.as_ref();
        let tls = tls.map(|tls| {
            Offer::new(&settings, tls, (readers.certificates.clone(), readers.acme.clone()))
        });
        Ok(Self { tls: tls.transpose()?, settings, counters })
    }

    /// Whether only proxies may connect and this is none; counts those.
    pub(crate) fn is_barred(&self, peer: SocketAddr) -> bool {
        let Listener { proxy_protocol, trusted_proxies, .. } = &self.settings;
        let barred = *proxy_protocol && !is_trusted(peer.ip().to_canonical(), trusted_proxies);
        if barred {
            self.counters.refused_proxy_peer.fetch_add(1, Relaxed);
        }
        barred
    }
}

/// Binds one address until there are `count` sockets of it, those that were inherited included. A port of 0 is chosen
/// once.
///
/// # Errors
/// As the operating system gives them.
pub(crate) fn bind(
    address: SocketAddr,
    count: usize,
    inherited: Vec<TcpListener>,
) -> io::Result<Vec<TcpListener>> {
    let mut sockets = inherited;
    let mut address = address;
    if let Some(first) = sockets.first() {
        address = first.local_addr()?;
    } else if address.port() != 0 {
        // SO_REUSEPORT would share the port with another process of the same user without a word.
        socket(address, false)?;
    }
    while sockets.len() < count {
        let socket = socket(address, true)?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        address = listener.local_addr()?;
        sockets.push(listener);
    }
    for socket in &sockets {
        // Connections have it from their listener.
        if let Err(error) = SockRef::from(socket).set_tcp_notsent_lowat(UNSENT) {
            // Some sandboxes and compatibility layers lack it; what is lost is a bound for slow readers.
            tracing::warn!(target: "edge", %address, %error, "the kernel does not bound what it holds for a client (TCP_NOTSENT_LOWAT)");
            break;
        }
    }
    Ok(sockets)
}

/// A bound socket. Without `shared`, binding fails where anybody listens already.
fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        // `[::]` serves IPv4 as well; mapped peers are unmapped when they are identified.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_holds_a_bounded_part_of_an_answer() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = bind(any, 1, vec![]).expect("a free port").remove(0);
        listener.set_nonblocking(false).expect("a socket");
        let address = listener.local_addr().expect("bound");
        let _client = std::net::TcpStream::connect(address).expect("a connection");
        let (accepted, _) = listener.accept().expect("a connection");
        let unsent = SockRef::from(&accepted).tcp_notsent_lowat().expect("a socket");
        assert_eq!(unsent, UNSENT);
    }

    #[test]
    fn workers_share_a_port_but_a_second_edge_is_refused() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let first = bind(any, 3, vec![]).expect("a free port");
        let address = first[0].local_addr().expect("bound");
        assert!(first.iter().all(|socket| socket.local_addr().is_ok_and(|a| a == address)));
        let second = bind(address, 1, vec![]).map(|_| ()).map_err(|error| error.kind());
        assert_eq!(second, Err(io::ErrorKind::AddrInUse));
        // One that takes over has what there is, and more if it wants more.
        let handed = first.iter().map(|socket| socket.try_clone().expect("a descriptor")).collect();
        drop(first);
        let third = bind(any, 4, handed).expect("bound already");
        assert_eq!(third.len(), 4);
        assert!(third.iter().all(|socket| socket.local_addr().is_ok_and(|a| a == address)));
        drop(third);
        assert!(bind(address, 2, vec![]).is_ok());
    }
}
