//! The least that a proxy which copies can cost: reads what comes on one side, writes it to the other, and looks at nothing.
//! Each client's connection has one of its own to the backend. It balances, steers and repairs nothing: what it costs is
//! the kernel, and the yardstick has it as its lower end.
//!
//!     floor ADDRESS BACKEND

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};

const LISTENER: Token = Token(usize::MAX);
const BATCH: usize = 1024;
const READ: usize = 64 << 10;

struct Side {
    stream: TcpStream,
    /// Of the other side, and not taken by this one yet.
    unsent: Vec<u8>,
}

/// Client and backend. The tokens of pair `n` are `2n` and `2n + 1`.
type Pair = [Side; 2];

fn main() -> io::Result<()> {
    let usage = || io::Error::new(ErrorKind::InvalidInput, "floor ADDRESS BACKEND");
    let mut arguments = std::env::args().skip(1);
    let mut address = || -> io::Result<SocketAddr> {
        arguments.next().and_then(|text| text.parse().ok()).ok_or_else(usage)
    };
    let (here, backend) = (address()?, address()?);
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(here)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let (mut events, mut buffer) = (Events::with_capacity(BATCH), vec![0; READ]);
    let mut pairs: Vec<Option<Pair>> = Vec::new();
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                accept_all(&listener, backend, poll.registry(), &mut pairs)?;
                continue;
            }
            let (number, side) = (event.token().0 / 2, event.token().0 % 2);
            let Some(pair) = &mut pairs[number] else { continue };
            let [client, server] = pair;
            let (own, other) = if side == 0 { (client, server) } else { (server, client) };
            let read = !event.is_readable() || carry(own, other, &mut buffer);
            let wrote = own.unsent.is_empty() || carry(other, own, &mut buffer);
            if !(read && wrote) {
                pairs[number] = None;
            }
        }
    }
}

fn accept_all(
    listener: &TcpListener,
    backend: SocketAddr,
    registry: &Registry,
    pairs: &mut Vec<Option<Pair>>,
) -> io::Result<()> {
    loop {
        let client = match listener.accept() {
            Ok((client, _)) => client,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let number = pairs.iter().position(Option::is_none).unwrap_or(pairs.len());
        let mut pair = [client, TcpStream::connect(backend)?]
            .map(|stream| Side { stream, unsent: Vec::new() });
        for (side, Side { stream, .. }) in pair.iter_mut().enumerate() {
            stream.set_nodelay(true)?;
            let both = Interest::READABLE | Interest::WRITABLE;
            registry.register(stream, Token(number * 2 + side), both)?;
        }
        if number == pairs.len() {
            pairs.push(None);
        }
        pairs[number] = Some(pair);
    }
}

/// Until nothing comes or nothing goes; false if one side has ended.
fn carry(from: &mut Side, to: &mut Side, buffer: &mut [u8]) -> bool {
    loop {
        if !to.unsent.is_empty() {
            let Some(sent) = done(to.stream.write(&to.unsent)) else { return false };
            to.unsent.drain(..sent);
            if !to.unsent.is_empty() {
                return true;
            }
        }
        let read = match from.stream.read(buffer) {
            Ok(0) => return false,
            read => read,
        };
        let Some(read) = done(read) else { return false };
        if read == 0 {
            return true;
        }
        let Some(sent) = done(to.stream.write(&buffer[..read])) else { return false };
        to.unsent.extend_from_slice(&buffer[sent..read]);
        // A short read has emptied the socket: epoll(7).
        if read < buffer.len() && to.unsent.is_empty() {
            return true;
        }
    }
}

/// Bytes that went; none if the socket is not ready.
fn done(result: io::Result<usize>) -> Option<usize> {
    match result {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Some(0),
        Err(_) => None,
    }
}
