//! Both sides of rustls' session, alike for the stream that drives them.

use rustls::CommonState;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::UnbufferedStatus;

/// This edge is the server: its side of a session with a client.
pub(crate) type Server = UnbufferedServerConnection;
/// This edge is the client: its side of a session with an endpoint.
pub(crate) type Client = UnbufferedClientConnection;

/// Either side of a session.
pub(crate) trait Session {
    /// What rustls keeps for this side.
    type Data;
    /// Whether the end of the connection without a goodbye is an error: an answer may have been cut short.
    const NEEDS_GOODBYE: bool;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;

    fn state(&self) -> &CommonState;
}

impl Session for Server {
    type Data = ServerConnectionData;
    const NEEDS_GOODBYE: bool = false;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn state(&self) -> &CommonState {
        self
    }
}

impl Session for Client {
    type Data = ClientConnectionData;
    const NEEDS_GOODBYE: bool = true;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn state(&self) -> &CommonState {
        self
    }
}
