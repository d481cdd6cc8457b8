//! TLS with a client, or with an endpoint: rustls' unbuffered session over the worker's socket.
//!
//! Promises: between records it holds no buffer; records are sealed in the worker's scratch space and go out
//! from there, so that only what the socket does not take is copied. Refuses to know: HTTP.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, ServerConfig};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::order::Orders;
use super::session::{Client, Server, Session};
use crate::buffers::Buffers;
use crate::socket;

/// Plaintext sealed before the socket is tried, bytes: four records of the largest size.
const AT_ONCE: usize = 64 * 1024;
/// The longest record (RFC 8446 section 5.1), and more than any version adds to one.
const RECORD: usize = 16 * 1024;
const OVERHEAD: usize = 128;
/// A session that has failed has not more left to say than so many steps.
const LAST_STEPS: u32 = 8;
/// Room for [`AT_ONCE`] and what the session itself has to say.
pub(crate) const SCRATCH: usize = AT_ONCE + (AT_ONCE / RECORD + 2) * OVERHEAD + RECORD;

/// The stream after its handshake.
pub(crate) struct TlsStream<S = Server> {
    pub(crate) socket: TcpStream,
    session: S,
    buffers: Rc<Buffers>,
    /// Ciphertext as it came; the session is done with what stands before `at`.
    incoming: Vec<u8>,
    at: usize,
    /// Plaintext that no reader has taken yet.
    plain: Vec<u8>,
    /// Ciphertext that the socket did not take.
    outgoing: Vec<u8>,
    /// The other side has said goodbye, or its side of the connection has ended.
    ended: bool,
    /// It has said goodbye.
    goodbye: bool,
    /// What broke the session, until a reader hears of it.
    failed: Option<io::Error>,
}

/// What the session waits for.
enum Waits {
    /// For bytes of the client.
    Incoming,
    /// For nothing: it can seal.
    Nothing,
}

impl TlsStream<Server> {
    /// Shakes hands with a client.
    ///
    /// # Errors
    /// The client broke the protocol, offered nothing that this edge accepts, or went away.
    pub(crate) async fn accept(
        socket: TcpStream,
        orders: Orders,
        buffers: &Rc<Buffers>,
    ) -> io::Result<Self> {
        let mut incoming = Vec::new();
        let first = poll_fn(|cx| {
            incoming = buffers.take();
            let polled = socket::poll_read_into(&socket, &mut incoming, cx);
            if incoming.is_empty() {
                buffers.give(std::mem::take(&mut incoming));
            }
            polled
        });
        if first.await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let config = orders.of(&incoming);
        Self::accept_after(incoming, socket, config, buffers).await
    }

    /// The same with a client whose first words were read already.
    ///
    /// # Errors
    /// As [`Self::accept`].
    pub(crate) async fn accept_after(
        first: Vec<u8>,
        socket: TcpStream,
        config: Arc<ServerConfig>,
        buffers: &Rc<Buffers>,
    ) -> io::Result<Self> {
        let session = Server::new(config).map_err(io::Error::other)?;
        Self::shake(first, socket, session, buffers).await
    }
}

impl TlsStream<Client> {
    /// Shakes hands with an endpoint, which must show a certificate for this name.
    ///
    /// # Errors
    /// The endpoint's certificate is not good ([`rustls::Error::InvalidCertificate`]), it broke the protocol, does not
    /// speak what `config` offers, or went away.
    pub(crate) async fn connect(
        socket: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        buffers: &Rc<Buffers>,
    ) -> io::Result<Self> {
        let session = Client::new(config, name).map_err(invalid)?;
        Self::shake(Vec::new(), socket, session, buffers).await
    }

    /// Whether an earlier session was resumed.
    pub(crate) fn is_resumed(&self) -> bool {
        self.session.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Whether nothing has come but what TLS sends by itself, such as tickets: no end, and no bytes that nobody asked
    /// for. `ask_kernel`: do not rely on what the reactor has heard.
    pub(crate) fn is_quiet(&mut self, ask_kernel: bool) -> bool {
        while !self.ended && self.failed.is_none() && self.plain.is_empty() {
            self.make_room();
            let (socket, incoming) = (&self.socket, &mut self.incoming);
            let read = match ask_kernel {
                true => socket::receive(socket, incoming),
                false => socket.try_io(Interest::READABLE, || socket::receive(socket, incoming)),
            };
            if self.incoming.is_empty() {
                self.buffers.give(std::mem::take(&mut self.incoming));
            }
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(1..) => {}
                Ok(0) | Err(_) => return false,
            }
            let mut plain = std::mem::take(&mut self.plain);
            let advanced = self.advance(&mut plain);
            self.plain = plain;
            if advanced.is_err() {
                return false;
            }
        }
        false
    }
}

impl<S: Session> TlsStream<S> {
    /// `incoming`: what the other side has sent already.
    async fn shake(
        incoming: Vec<u8>,
        socket: TcpStream,
        session: S,
        buffers: &Rc<Buffers>,
    ) -> io::Result<Self> {
        let mut stream = Self {
            socket,
            session,
            buffers: buffers.clone(),
            incoming,
            at: 0,
            plain: Vec::new(),
            outgoing: Vec::new(),
            ended: false,
            goodbye: false,
            failed: None,
        };
        poll_fn(|cx| stream.poll_handshake(cx)).await?;
        Ok(stream)
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut plain = std::mem::take(&mut self.plain);
            let mut shaken = false;
            if self.failed.is_none() {
                match self.advance(&mut plain) {
                    Ok(waits) => {
                        shaken = matches!(waits, Waits::Nothing)
                            && !self.session.state().is_handshaking();
                    }
                    Err(error) => self.failed = Some(error),
                }
            }
            self.plain = plain;
            // The client's last flight often brings its first request: tickets can go out with the answer, but not the
            // end of a handshake of TLS 1.2.
            let may_wait =
                self.session.state().protocol_version() == Some(ProtocolVersion::TLSv1_3);
            if shaken && may_wait && !self.plain.is_empty() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_flush(cx))?;
            if let Some(error) = self.failed.take() {
                return Poll::Ready(Err(error));
            }
            if shaken {
                return Poll::Ready(Ok(()));
            }
            if self.ended {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            ready!(self.poll_incoming(cx))?;
        }
    }

    /// The protocol that both sides chose (ALPN).
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        self.session.state().alpn_protocol()
    }

    /// The certificate that the client has shown, and those that lead to its root.
    pub(crate) fn client_chain(&self) -> Option<&[CertificateDer<'static>]> {
        self.session.state().peer_certificates()
    }

    /// Whether a session was resumed.
    pub(crate) fn handshake_kind(&self) -> Option<HandshakeKind> {
        self.session.state().handshake_kind()
    }

    /// Ready when there may be something to read.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let waits = self.plain.is_empty() && self.failed.is_none() && !self.ended;
        if waits { self.socket.poll_read_ready(cx) } else { Poll::Ready(Ok(())) }
    }

    /// Appends plaintext to `out`, which may grow; 0 at the end of the connection.
    pub(crate) fn poll_read_into(
        &mut self,
        out: &mut Vec<u8>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let before = out.len();
        if !self.plain.is_empty() {
            out.extend_from_slice(&self.plain);
            self.buffers.give(std::mem::take(&mut self.plain));
            return Poll::Ready(Ok(out.len() - before));
        }
        if let Some(error) = self.failed.take() {
            self.ended = true;
            return Poll::Ready(Err(error));
        }
        while !self.ended {
            // Anything but plaintext (tickets, a key update) is answered on the way.
            if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
                return Poll::Ready(Err(error));
            }
            ready!(self.poll_incoming(cx))?;
            let advanced = self.advance(out);
            if out.len() > before {
                // An error behind this plaintext shows at the next read.
                self.failed = advanced.err();
                return Poll::Ready(Ok(out.len() - before));
            }
            if let Err(error) = advanced {
                self.ended = true;
                let _ = self.poll_flush(cx);
                return Poll::Ready(Err(error));
            }
        }
        if S::NEEDS_GOODBYE && !self.goodbye {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        Poll::Ready(Ok(0))
    }

    /// Seals some bytes of `first`, then `second`, and sends them as far as the socket takes them; the rest goes
    /// out with the next write or [`poll_flush`](Self::poll_flush).
    pub(crate) fn poll_write_some(
        &mut self,
        first: &[u8],
        second: &[u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(cx))?;
        let first = &first[..first.len().min(AT_ONCE)];
        let second = &second[..second.len().min(AT_ONCE - first.len())];
        let buffers = self.buffers.clone();
        let mut scratch = buffers.scratch();
        let mut sealed = self.seal(first, &mut scratch)?;
        sealed += self.seal(second, &mut scratch[sealed..])?;
        if !self.outgoing.is_empty() {
            // The session itself had something to say, and said it first.
            self.outgoing.extend_from_slice(&scratch[..sealed]);
            let _ = self.poll_flush(cx)?;
            return Poll::Ready(Ok(first.len() + second.len()));
        }
        let (sent, result) = send(&self.socket, &scratch[..sealed], cx);
        let _ = result?;
        self.outgoing.extend_from_slice(&scratch[sent..sealed]);
        Poll::Ready(Ok(first.len() + second.len()))
    }

    /// Sends the ciphertext that waits.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (sent, result) = send(&self.socket, &self.outgoing, cx);
        if sent == self.outgoing.len() {
            self.outgoing = Vec::new();
        } else {
            self.outgoing.drain(..sent);
        }
        result
    }

    /// Says goodbye, as far as the socket takes it now.
    pub(crate) fn say_goodbye(&mut self) {
        if !self.outgoing.is_empty() {
            return;
        }
        let mut goodbye = [0; 2 * OVERHEAD];
        let incoming = &mut self.incoming[self.at..];
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) = self.session.process(incoming).state
            && let Ok(count) = traffic.queue_close_notify(&mut goodbye)
        {
            // Nobody may be there any more.
            let _ = self.socket.try_write(&goodbye[..count]);
        }
    }

    /// Makes room for ciphertext.
    fn make_room(&mut self) {
        if self.at == self.incoming.len() {
            self.incoming.clear();
            self.at = 0;
        } else if self.incoming.len() == self.incoming.capacity() {
            self.incoming.drain(..self.at);
            self.at = 0;
        }
        if self.incoming.capacity() == 0 {
            self.incoming = self.buffers.take();
        }
        Buffers::make_room(&mut self.incoming);
    }

    /// Reads ciphertext.
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.make_room();
        let polled = socket::poll_read_into(&self.socket, &mut self.incoming, cx);
        if self.incoming.is_empty() {
            self.buffers.give(std::mem::take(&mut self.incoming));
        }
        polled.map_ok(|count| self.ended |= count == 0)
    }

    /// Opens what has come, whole records of it.
    fn advance(&mut self, plain: &mut Vec<u8>) -> io::Result<Waits> {
        let waits = loop {
            match self.step(plain, None) {
                Ok(Step::Again) => {}
                Ok(Step::Waits(waits)) => break waits,
                Ok(Step::Sealed(_)) => break Waits::Nothing,
                Err(error) => {
                    // An alert tells the other side why, perhaps behind what the session had to say before. While it has
                    // something to say it does not look at what has come, which would only fail over the same record
                    // again, a goodbye too.
                    for _ in 0..LAST_STEPS {
                        let says = self.session.state().wants_write();
                        if !says || !matches!(self.step(plain, None), Ok(Step::Again)) {
                            break;
                        }
                    }
                    self.at = self.incoming.len();
                    return Err(error);
                }
            }
        };
        if self.at == self.incoming.len() {
            self.buffers.give(std::mem::take(&mut self.incoming));
            self.at = 0;
        }
        Ok(waits)
    }

    /// Seals `bytes` into `into`; the length of the records.
    fn seal(&mut self, bytes: &[u8], into: &mut [u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let mut plain = std::mem::take(&mut self.plain);
        let sealed = loop {
            match self.step(&mut plain, Some((bytes, &mut *into))) {
                Ok(Step::Again) => {}
                Ok(Step::Sealed(count)) => break Ok(count),
                Ok(Step::Waits(_)) => break Err(io::ErrorKind::NotConnected.into()),
                Err(error) => break Err(error),
            }
        };
        self.plain = plain;
        sealed
    }

    /// One state of the session.
    fn step(
        &mut self,
        plain: &mut Vec<u8>,
        mut sealing: Option<(&[u8], &mut [u8])>,
    ) -> io::Result<Step> {
        let Self { session, incoming, at, outgoing, ended, goodbye, .. } = self;
        let UnbufferedStatus { mut discard, state } = session.process(&mut incoming[*at..]);
        let step = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                match traffic.next_record() {
                    Some(Ok(record)) => {
                        discard += record.discard;
                        plain.extend_from_slice(record.payload);
                    }
                    Some(Err(error)) => break Err(invalid(error)),
                    None => break Ok(Step::Again),
                }
            },
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                let from = outgoing.len();
                outgoing.resize(from + RECORD + OVERHEAD, 0);
                let encoded = match data.encode(&mut outgoing[from..]) {
                    Err(EncodeError::InsufficientSize(needed)) => {
                        outgoing.resize(from + needed.required_size, 0);
                        data.encode(&mut outgoing[from..])
                    }
                    other => other,
                };
                outgoing.truncate(from + *encoded.as_ref().unwrap_or(&0));
                encoded.map(|_| Step::Again).map_err(io::Error::other)
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                Ok(Step::Again)
            }
            Ok(ConnectionState::WriteTraffic(mut traffic)) => match sealing.as_mut() {
                None => Ok(Step::Waits(Waits::Nothing)),
                Some((bytes, into)) => match traffic.encrypt(bytes, into) {
                    Ok(count) => Ok(Step::Sealed(count)),
                    Err(error) => Err(io::Error::other(error)),
                },
            },
            Ok(ConnectionState::PeerClosed) => {
                (*ended, *goodbye) = (true, true);
                Ok(Step::Again)
            }
            Ok(ConnectionState::BlockedHandshake) => Ok(Step::Waits(Waits::Incoming)),
            Ok(ConnectionState::Closed) => {
                (*ended, *goodbye) = (true, true);
                Ok(Step::Waits(Waits::Incoming))
            }
            // Early data is not accepted.
            Ok(_) => Err(io::ErrorKind::Unsupported.into()),
            Err(error) => Err(invalid(error)),
        };
        *at += discard;
        step
    }
}

/// What a state of the session led to.
enum Step {
    /// There is another one.
    Again,
    Waits(Waits),
    /// So many bytes of records were sealed.
    Sealed(usize),
}

/// Sends what the socket takes of `bytes`: how much that was, and whether the rest waits or the connection has broken.
fn send(socket: &TcpStream, bytes: &[u8], cx: &mut Context<'_>) -> (usize, Poll<io::Result<()>>) {
    let mut sent = 0;
    while sent < bytes.len() {
        match socket::poll_write_some(socket, &bytes[sent..], &[], cx) {
            Poll::Ready(Ok(count)) => sent += count,
            Poll::Ready(Err(error)) => return (sent, Poll::Ready(Err(error))),
            Poll::Pending => return (sent, Poll::Pending),
        }
    }
    (sent, Poll::Ready(Ok(())))
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
