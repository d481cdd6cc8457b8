//! Bytes in, bytes out, and how it ended.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::client::{Broken, Client};
use crate::message::Response;
use crate::wire::Wire;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// In good order.
    Closed,
    /// With a reset.
    Reset,
    /// Not at all in the time it was given.
    Open,
}

/// What came of some bytes.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// What came back.
    pub answer: Vec<u8>,
    /// How it ended.
    pub end: End,
}

/// Sends bytes on a connection of their own and reads to its end, or for `patience`.
///
/// # Panics
/// If nobody accepts.
#[track_caller]
pub fn exchange(address: SocketAddr, bytes: &[u8], patience: Duration) -> Exchange {
    let mut client = Client::connect(address);
    client.wire().patience = patience;
    // An edge that has seen enough may close before everything is sent.
    let _ = client.wire().send(bytes);
    let (answer, end) = client.end();
    Exchange { answer, end }
}

impl Exchange {
    /// The answers, all to requests that are not HEAD.
    ///
    /// # Panics
    /// If something else came back.
    #[track_caller]
    pub fn responses(&self) -> Vec<Response> {
        let mut client = Client::recorded(self.answer.clone());
        let mut responses = Vec::new();
        loop {
            match client.try_response("GET") {
                Ok(response) => responses.push(response),
                Err(Broken::Nothing(_)) => break,
                Err(broken) => panic!("{broken:?} in {:?}", String::from_utf8_lossy(&self.answer)),
            }
        }
        responses
    }
}

/// Everything up to the end.
pub(crate) fn until_end(wire: &mut Wire) -> (Vec<u8>, End) {
    let mut bytes = Vec::new();
    loop {
        match wire.read_some() {
            Ok(data) if data.is_empty() => return (bytes, End::Closed),
            Ok(data) => bytes.extend_from_slice(&data),
            Err(error) => return (bytes, end_of(&error)),
        }
    }
}

/// What an error says of the connection.
pub fn end_of(error: &io::Error) -> End {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => End::Closed,
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => End::Open,
        _ => End::Reset,
    }
}
