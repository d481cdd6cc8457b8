//! An endpoint inside the test's own process: it answers as it is told and remembers what it got.

use std::fmt;
use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustls::{HandshakeKind, ProtocolVersion, ServerConfig};

use crate::address::loopback;
use crate::answer::{After, Answer};
use crate::message::Received;
use crate::wait::eventually;
use crate::wire::Wire;

/// A connection that says nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// What health checks ask for.
const HEALTH: &str = "/health";

type Script = Arc<dyn Fn(&Received) -> Answer + Send + Sync>;
type WireScript = Arc<dyn Fn(&mut Wire) -> io::Result<()> + Send + Sync>;

#[derive(Clone)]
enum Behaviour {
    Answers(Script),
    Speaks(WireScript),
}

/// How a handshake ended, as the endpoint sees it.
#[derive(Clone, Debug, PartialEq)]
pub enum Shaken {
    /// Well.
    Hands {
        /// The name that was asked for (SNI).
        name: Option<String>,
        /// An earlier session was resumed.
        resumed: bool,
        /// What the other side has shown.
        certificate: Option<Vec<u8>>,
        /// The version that was agreed on.
        version: Option<ProtocolVersion>,
    },
    /// Not at all.
    Failed,
}

/// An endpoint; it is gone when it is dropped.
pub struct Backend {
    shared: Arc<Shared>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    name: String,
    address: SocketAddr,
    behaviour: Mutex<Behaviour>,
    requests: Mutex<Vec<Received>>,
    open: Mutex<Vec<(usize, TcpStream)>>,
    connections: AtomicUsize,
    probes: AtomicUsize,
    health: AtomicU16,
    introduced: AtomicBool,
    introductions: Mutex<Vec<Vec<u8>>>,
    tls: Mutex<Option<Arc<ServerConfig>>>,
    handshakes: Mutex<Vec<Shaken>>,
    killed: AtomicBool,
    stopped: Mutex<bool>,
    resumed: Condvar,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Backend({} at {})", self.shared.name, self.shared.address)
    }
}

impl Backend {
    /// Starts one that answers every request with 200, its name and the request's method and target.
    ///
    /// # Panics
    /// If there is no port for it.
    pub fn start(name: &str) -> Self {
        let text = name.to_owned();
        Self::answering(name, move |request| {
            Answer::ok(format!("{text} {} {}\n", request.method, request.target))
        })
    }

    /// Starts one that answers as `script` says. `X-Served-Region` is added, and `/health` is answered
    /// by itself.
    ///
    /// # Panics
    /// If there is no port for it.
    pub fn answering(
        name: &str,
        script: impl Fn(&Received) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::behaving(name, None, Behaviour::Answers(Arc::new(script)))
    }

    /// The same, at an address.
    ///
    /// # Errors
    /// If it cannot listen there.
    pub fn answering_at(
        name: &str,
        address: SocketAddr,
        script: impl Fn(&Received) -> Answer + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        Ok(Self::behaving(name, Some(listener), Behaviour::Answers(Arc::new(script))))
    }

    /// Starts one that gives every connection to `script`; it closes when the script returns.
    ///
    /// # Panics
    /// If there is no port for it.
    pub fn speaking(
        name: &str,
        script: impl Fn(&mut Wire) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::behaving(name, None, Behaviour::Speaks(Arc::new(script)))
    }

    fn behaving(name: &str, listener: Option<TcpListener>, behaviour: Behaviour) -> Self {
        let fresh = || TcpListener::bind((loopback(), 0)).expect("a loopback port");
        let listener = listener.unwrap_or_else(fresh);
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            address: listener.local_addr().expect("the address of a bound socket"),
            behaviour: Mutex::new(behaviour),
            requests: Mutex::default(),
            open: Mutex::default(),
            connections: AtomicUsize::new(0),
            probes: AtomicUsize::new(0),
            health: AtomicU16::new(200),
            introduced: AtomicBool::new(false),
            introductions: Mutex::default(),
            tls: Mutex::default(),
            handshakes: Mutex::default(),
            killed: AtomicBool::new(false),
            stopped: Mutex::new(false),
            resumed: Condvar::new(),
        });
        let accepting = Mutex::new(Some(accept(shared.clone(), listener)));
        Self { shared, accepting }
    }

    /// New connections begin with a PROXY header from here on, or not; one that lacks it is closed.
    pub fn expect_introductions(&self, expected: bool) {
        self.shared.introduced.store(expected, SeqCst);
    }

    /// The PROXY headers that there were, byte for byte, health checks' among them.
    pub fn introductions(&self) -> Vec<Vec<u8>> {
        lock(&self.shared.introductions).clone()
    }

    /// New connections begin with TLS from here on.
    pub fn secure(&self, config: impl Into<Arc<ServerConfig>>) {
        *lock(&self.shared.tls) = Some(config.into());
    }

    /// The handshakes there were, health checks' among them.
    pub fn handshakes(&self) -> Vec<Shaken> {
        lock(&self.shared.handshakes).clone()
    }

    /// Its name, the region it stands for.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Answers as this script says from here on.
    pub fn set(&self, script: impl Fn(&Received) -> Answer + Send + Sync + 'static) {
        *lock(&self.shared.behaviour) = Behaviour::Answers(Arc::new(script));
    }

    /// Answers health checks with this status from here on.
    pub fn set_health(&self, status: u16) {
        self.shared.health.store(status, SeqCst);
    }

    /// Everything that was asked of it but health checks; recorded before it is answered.
    pub fn requests(&self) -> Vec<Received> {
        lock(&self.shared.requests).clone()
    }

    /// The only request.
    ///
    /// # Panics
    /// If there were none or more.
    #[track_caller]
    pub fn only_request(&self) -> Received {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:#?}");
        requests.remove(0)
    }

    /// Connections it accepted, health checks' among them.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(SeqCst)
    }

    /// Connections that are open.
    pub fn open_connections(&self) -> usize {
        lock(&self.shared.open).len()
    }

    /// Health checks it answered.
    pub fn probes(&self) -> usize {
        self.shared.probes.load(SeqCst)
    }

    /// Refuses connections from here on and closes those that are open, as a dead process does.
    ///
    /// # Panics
    /// If its own threads panicked.
    pub fn kill(&self) {
        self.shared.killed.store(true, SeqCst);
        // Wakes the thread that accepts; there is nobody else to tell it.
        drop(TcpStream::connect_timeout(&self.shared.address, Duration::from_secs(5)));
        if let Some(accepting) = lock(&self.accepting).take() {
            accepting.join().expect("the accepting thread");
        }
        self.close_connections();
    }

    /// Closes every open connection and goes on accepting.
    pub fn close_connections(&self) {
        let all = std::mem::take(&mut *lock(&self.shared.open));
        for (_, stream) in all {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Listens again where it did before it was killed.
    ///
    /// # Panics
    /// If the address does not become free.
    pub fn revive(&self) {
        self.shared.killed.store(false, SeqCst);
        let mut listener = None;
        eventually("the address is free again", Duration::from_secs(10), || {
            listener = TcpListener::bind(self.shared.address).ok();
            listener.is_some()
        });
        *lock(&self.accepting) = listener.map(|found| accept(self.shared.clone(), found));
    }

    /// Accepts, and answers nothing, from here on.
    pub fn stop(&self) {
        *lock(&self.shared.stopped) = true;
    }

    /// Answers again, also what has come meanwhile.
    pub fn resume(&self) {
        *lock(&self.shared.stopped) = false;
        self.shared.resumed.notify_all();
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.resume();
        self.shared.killed.store(true, SeqCst);
        drop(TcpStream::connect_timeout(&self.shared.address, Duration::from_secs(5)));
        if let Some(accepting) = lock(&self.accepting).take() {
            // A panic over there has been printed; here it must not become a second one.
            drop(accepting.join());
        }
        self.close_connections();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(shared: Arc<Shared>, listener: TcpListener) -> JoinHandle<()> {
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            if shared.killed.load(SeqCst) {
                return;
            }
            let number = shared.connections.fetch_add(1, SeqCst) + 1;
            let Ok(copy) = stream.try_clone() else { continue };
            lock(&shared.open).push((number, copy));
            let shared = shared.clone();
            thread::spawn(move || {
                // How a connection ends is for the other side to judge.
                let _ = shared
                    .begin(stream)
                    .and_then(|(wire, introduction)| shared.serve(wire, number, &introduction));
                lock(&shared.open).retain(|(n, _)| *n != number);
            });
        }
    })
}

impl Shared {
    /// The connection behind what comes before its first request.
    fn begin(&self, mut stream: TcpStream) -> io::Result<(Wire, Vec<u8>)> {
        let introduction = if self.introduced.load(SeqCst) {
            stream.set_read_timeout(Some(PATIENCE))?;
            let header = introduction(&mut stream)?;
            lock(&self.introductions).push(header.clone());
            header
        } else {
            Vec::new()
        };
        Ok((self.wire(stream)?, introduction))
    }

    /// The connection, after a handshake if there is to be one.
    fn wire(&self, stream: TcpStream) -> io::Result<Wire> {
        let Some(config) = lock(&self.tls).clone() else {
            return Ok(Wire::new(stream, PATIENCE));
        };
        let wire = Wire::serve(config, stream, PATIENCE);
        let session = wire.as_ref().ok().and_then(Wire::served);
        let shaken = match session {
            Some(session) => Shaken::Hands {
                name: session.server_name().map(str::to_owned),
                resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
                certificate: session.peer_certificates().map(|chain| chain[0].to_vec()),
                version: session.protocol_version(),
            },
            None => Shaken::Failed,
        };
        lock(&self.handshakes).push(shaken);
        wire
    }

    fn serve(&self, mut wire: Wire, number: usize, introduction: &[u8]) -> io::Result<()> {
        loop {
            let behaviour = lock(&self.behaviour).clone();
            if let Behaviour::Speaks(script) = behaviour {
                return script(&mut wire);
            }
            let Some(mut request) = wire.request_head()? else { return Ok(()) };
            request.connection = number;
            request.introduction = introduction.to_vec();
            self.wait_while_stopped();
            let waits =
                request.header("expect").is_some_and(|e| e.eq_ignore_ascii_case("100-continue"));
            if waits {
                wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            let read = wire.request_body(&mut request);
            self.wait_while_stopped();
            let answer = self.answer(&request, read.is_ok());
            read?;
            match answer.give(&mut wire, &request)? {
                After::Keep => {}
                After::Close => return wire.dismiss(),
                After::Vanish => return Ok(()),
                After::Reset => {
                    wire.reset_when_dropped();
                    return Ok(());
                }
            }
        }
    }

    fn answer(&self, request: &Received, complete: bool) -> Answer {
        if request.target == HEALTH {
            self.probes.fetch_add(1, SeqCst);
            return Answer::status(self.health.load(SeqCst));
        }
        lock(&self.requests).push(request.clone());
        let behaviour = lock(&self.behaviour).clone();
        let mut answer = match behaviour {
            Behaviour::Answers(script) if complete => script(request),
            _ => Answer::status(400),
        };
        answer.default_header("X-Served-Region", &self.name);
        answer
    }

    fn wait_while_stopped(&self) {
        let stopped = lock(&self.stopped);
        drop(self.resumed.wait_while(stopped, |stopped| *stopped));
    }
}

/// Takes a PROXY header of either version off the front of a connection.
fn introduction(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut header = vec![0; 6];
    stream.read_exact(&mut header)?;
    let more = |stream: &mut TcpStream, header: &mut Vec<u8>, count: usize| {
        let begun = header.len();
        header.resize(begun + count, 0);
        stream.read_exact(&mut header[begun..])
    };
    if header == b"PROXY " {
        while !header.ends_with(b"\r\n") && header.len() < 107 {
            more(stream, &mut header, 1)?;
        }
        return Ok(header);
    }
    more(stream, &mut header, 10)?;
    if !header.starts_with(b"\r\n\r\n\0\r\nQUIT\n") {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let rest = u16::from_be_bytes([header[14], header[15]]);
    more(stream, &mut header, rest.into())?;
    Ok(header)
}
