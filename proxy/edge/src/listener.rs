//! Listening sockets: one per worker and address, shared out by the kernel (SO_REUSEPORT).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use meridian_config::Listener;
use meridian_routing::EdgeCounters;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// What the connections of a listener share.
#[derive(Debug)]
pub(crate) struct ListenerState {
    pub(crate) settings: Listener,
    pub(crate) counters: Arc<EdgeCounters>,
}

/// Binds one address `count` times. A port of 0 is chosen once.
///
/// # Errors
/// As the operating system gives them.
pub(crate) fn bind(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    let mut address = address;
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        if address.is_ipv6() {
            // `[::]` serves IPv4 as well; mapped peers are unmapped when they are identified.
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        address = listener.local_addr()?;
        sockets.push(listener);
    }
    Ok(sockets)
}
