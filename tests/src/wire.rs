//! One connection, plain or under TLS, read with a deadline: heads, bodies and what comes after.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConnection, ServerConfig, ServerConnection, StreamOwned};
use socket2::SockRef;

use crate::message::{Fields, Framing, Received, framing};

const LONGEST_HEAD: usize = 1 << 20;

/// A connection and what was read ahead of it.
#[derive(Debug)]
pub struct Wire {
    /// `None`: there is nothing but what was read ahead.
    stream: Option<Stream>,
    ahead: Vec<u8>,
    goodbye: bool,
    /// Every read waits at most so long.
    pub patience: Duration,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    /// This side is the server.
    Served(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &stream.sock,
            Self::Served(stream) => &stream.sock,
        }
    }
}

impl Wire {
    /// Takes over a connection.
    pub fn new(stream: TcpStream, patience: Duration) -> Self {
        // Not having it only makes tests slower.
        let _ = stream.set_nodelay(true);
        Self { stream: Some(Stream::Plain(stream)), ahead: Vec::new(), goodbye: false, patience }
    }

    /// Takes over a connection for TLS; hands are shaken with the first bytes that move.
    pub fn secure(session: ClientConnection, stream: TcpStream, patience: Duration) -> Self {
        let plain = Self::new(stream, patience);
        let stream = plain.stream.map(|stream| match stream {
            Stream::Plain(stream) => Stream::Tls(StreamOwned::new(session, stream).into()),
            tls => tls,
        });
        Self { stream, ..plain }
    }

    /// Takes over a client's connection and shakes hands.
    ///
    /// # Errors
    /// The client refuses, or goes away.
    pub fn serve(
        config: Arc<ServerConfig>,
        stream: TcpStream,
        patience: Duration,
    ) -> io::Result<Self> {
        let session = ServerConnection::new(config).map_err(io::Error::other)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let mut stream = StreamOwned::new(session, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        let stream = Some(Stream::Served(stream.into()));
        Ok(Self { stream, ahead: Vec::new(), goodbye: false, patience })
    }

    /// The session of a connection on which hands were shaken with a client.
    pub fn served(&self) -> Option<&ServerConnection> {
        match &self.stream {
            Some(Stream::Served(stream)) => Some(&stream.conn),
            _ => None,
        }
    }

    /// Says TLS's goodbye to a client; without TLS nothing.
    ///
    /// # Errors
    /// As the operating system gives them.
    pub fn dismiss(&mut self) -> io::Result<()> {
        let Some(Stream::Served(stream)) = &mut self.stream else { return Ok(()) };
        stream.conn.send_close_notify();
        stream.flush()
    }

    /// What was recorded from a connection that has ended.
    pub(crate) fn recorded(bytes: Vec<u8>) -> Self {
        Self { stream: None, ahead: bytes, goodbye: false, patience: Duration::ZERO }
    }

    /// Connects.
    ///
    /// # Errors
    /// As the operating system gives them.
    pub fn connect(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        TcpStream::connect_timeout(&address, patience).map(|stream| Self::new(stream, patience))
    }

    fn socket(&self) -> io::Result<&TcpStream> {
        let stream = self.stream.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        Ok(stream.socket())
    }

    /// Shakes hands.
    ///
    /// # Errors
    /// The other side refuses, or there is no TLS here.
    pub fn handshake(&mut self) -> io::Result<()> {
        let patience = self.patience;
        let Some(Stream::Tls(stream)) = &mut self.stream else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        stream.sock.set_read_timeout(Some(patience))?;
        stream.sock.set_write_timeout(Some(patience))?;
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(())
    }

    /// The session of a connection with TLS.
    ///
    /// # Panics
    /// If there is no TLS here.
    #[track_caller]
    pub fn session(&mut self) -> &mut ClientConnection {
        match &mut self.stream {
            Some(Stream::Tls(stream)) => &mut stream.conn,
            _ => panic!("no TLS here"),
        }
    }

    /// What the session wants to send, sealed and not sent.
    ///
    /// # Panics
    /// If there is no TLS here.
    #[track_caller]
    pub fn sealed(&mut self) -> Vec<u8> {
        let (mut bytes, session) = (Vec::new(), self.session());
        while session.wants_write() {
            session.write_tls(&mut bytes).expect("memory takes everything");
        }
        bytes
    }

    /// Sends bytes beneath TLS.
    ///
    /// # Errors
    /// As the operating system gives them.
    pub fn send_beneath(&mut self, bytes: &[u8]) -> io::Result<()> {
        let patience = self.patience;
        let mut socket = self.socket()?;
        socket.set_write_timeout(Some(patience))?;
        socket.write_all(bytes)
    }

    /// Says TLS's goodbye and leaves the connection open.
    ///
    /// # Errors
    /// As the operating system gives them.
    pub fn say_goodbye(&mut self) -> io::Result<()> {
        self.session().send_close_notify();
        let bytes = self.sealed();
        self.send_beneath(&bytes)
    }

    /// Whether the other side has said TLS's goodbye.
    pub fn heard_goodbye(&self) -> bool {
        self.goodbye
    }

    /// Sends bytes, waiting at most as long as for a read.
    ///
    /// # Errors
    /// As the operating system gives them.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket()?.set_write_timeout(Some(self.patience))?;
        self.socket()?.set_read_timeout(Some(self.patience))?;
        match &mut self.stream {
            Some(Stream::Plain(stream)) => stream.write_all(bytes),
            Some(Stream::Tls(stream)) => {
                stream.write_all(bytes)?;
                stream.flush()
            }
            Some(Stream::Served(stream)) => {
                stream.write_all(bytes)?;
                stream.flush()
            }
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// The same connection once more, for another protocol; what was read ahead stays here, and so does TLS.
    ///
    /// # Errors
    /// As the operating system gives them.
    pub fn duplicate(&self) -> io::Result<TcpStream> {
        let stream = self.socket()?.try_clone()?;
        stream.set_read_timeout(Some(self.patience))?;
        stream.set_write_timeout(Some(self.patience))?;
        Ok(stream)
    }

    /// Ends this side; under TLS without a goodbye.
    pub fn finish(&self) {
        // The other side may have gone already.
        let _ = self.socket().and_then(|stream| stream.shutdown(Shutdown::Write));
    }

    /// The connection will end with a reset.
    pub fn reset_when_dropped(&self) {
        // Without it the connection ends all the same.
        let _ = self.socket().and_then(|s| SockRef::from(s).set_linger(Some(Duration::ZERO)));
    }

    /// Some bytes; none at the end of the connection, which under TLS is a goodbye.
    ///
    /// # Errors
    /// `WouldBlock` or `TimedOut` when nothing comes in time, `UnexpectedEof` at an end without a goodbye.
    pub fn read_some(&mut self) -> io::Result<Vec<u8>> {
        if !self.ahead.is_empty() {
            return Ok(std::mem::take(&mut self.ahead));
        }
        let Some(stream) = &mut self.stream else { return Ok(Vec::new()) };
        let mut buffer = vec![0; 64 * 1024];
        stream.socket().set_read_timeout(Some(self.patience))?;
        loop {
            let read = match stream {
                Stream::Plain(stream) => stream.read(&mut buffer),
                Stream::Tls(stream) => {
                    let read = stream.read(&mut buffer);
                    self.goodbye |= matches!(read, Ok(0));
                    read
                }
                Stream::Served(stream) => stream.read(&mut buffer),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => {
                    buffer.truncate(result?);
                    return Ok(buffer);
                }
            }
        }
    }

    fn more(&mut self) -> io::Result<()> {
        let mut all = std::mem::take(&mut self.ahead);
        let more = self.read_some()?;
        if more.is_empty() {
            self.ahead = all;
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        all.extend_from_slice(&more);
        self.ahead = all;
        Ok(())
    }

    /// What was read and not yet taken.
    pub fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    /// A head with its empty line; `None` if the connection ends before its first byte.
    ///
    /// # Errors
    /// The connection fails, ends inside the head, or the head has no end.
    pub fn head(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = find(&self.ahead, b"\r\n\r\n") {
                let rest = self.ahead.split_off(at + 4);
                return Ok(Some(std::mem::replace(&mut self.ahead, rest)));
            }
            if self.ahead.len() > LONGEST_HEAD {
                return Err(malformed("the head has no end"));
            }
            match self.more() {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return if self.ahead.is_empty() { Ok(None) } else { Err(error) };
                }
                result => result?,
            }
        }
    }

    /// A body, piece by piece; its trailers.
    ///
    /// # Errors
    /// The connection fails or ends early; the framing is broken.
    pub(crate) fn body(
        &mut self,
        framing: Framing,
        mut piece: impl FnMut(&[u8]),
    ) -> io::Result<Fields> {
        match framing {
            Framing::Length(length) => {
                self.exactly(length, &mut piece)?;
                Ok(Fields::default())
            }
            Framing::UntilClose => loop {
                let data = self.read_some()?;
                if data.is_empty() {
                    return Ok(Fields::default());
                }
                piece(&data);
            },
            Framing::Chunked => loop {
                let line = self.line()?;
                let size = line.split(';').next().unwrap_or_default();
                let digits = !size.is_empty() && size.bytes().all(|b| b.is_ascii_hexdigit());
                let size = u64::from_str_radix(size, 16).ok().filter(|_| digits);
                let size = size.ok_or_else(|| malformed(&format!("no chunk size: {line:?}")))?;
                if size == 0 {
                    return self.trailers();
                }
                self.exactly(size, &mut piece)?;
                if !self.line()?.is_empty() {
                    return Err(malformed("a chunk is longer than its size"));
                }
            },
        }
    }

    fn exactly(&mut self, mut left: u64, piece: &mut impl FnMut(&[u8])) -> io::Result<()> {
        while left > 0 {
            let mut data = self.read_some()?;
            if data.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let n = data.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.ahead = data.split_off(n);
            piece(&data);
            left -= n as u64;
        }
        Ok(())
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = find(&self.ahead, b"\n") {
                let rest = self.ahead.split_off(at + 1);
                let line = std::mem::replace(&mut self.ahead, rest);
                let line = line.strip_suffix(b"\r\n").filter(|line| !line.contains(&b'\r'));
                let line = line.ok_or_else(|| malformed("a line does not end in CRLF"))?;
                return Ok(String::from_utf8_lossy(line).into_owned());
            }
            self.more()?;
        }
    }

    fn trailers(&mut self) -> io::Result<Fields> {
        let mut fields = Fields::default();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').ok_or_else(|| malformed("no trailer"))?;
            fields.0.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// The head of a request; its body is still to be read. `None` at the end of the connection.
    ///
    /// # Errors
    /// As for [`head`](Self::head); also what is not canonical.
    pub fn request_head(&mut self) -> io::Result<Option<Received>> {
        let Some(head) = self.head()? else { return Ok(None) };
        Received::parse(&head).map(Some).map_err(|why| malformed(&why))
    }

    /// Reads the body of a request. What came of it is in `request` even if there is an error.
    ///
    /// # Errors
    /// As for [`head`](Self::head).
    pub fn request_body(&mut self, request: &mut Received) -> io::Result<()> {
        const KEPT: usize = 1 << 20;
        let framing = framing(&request.fields).map_err(|why| malformed(&why))?;
        let framing = framing.unwrap_or(Framing::Length(0));
        let Received { body, checked, .. } = request;
        let trailers = self.body(framing, |piece| {
            checked.take(piece);
            let room = KEPT.saturating_sub(body.len()).min(piece.len());
            body.extend_from_slice(&piece[..room]);
        })?;
        request.trailers = trailers;
        request.complete = true;
        Ok(())
    }

    /// Reads and drops everything up to the end of the connection.
    pub fn drain(&mut self) {
        while matches!(self.read_some(), Ok(data) if !data.is_empty()) {}
    }
}

pub(crate) fn malformed(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
