//! An endpoint that speaks HTTP/2 only, by the `h2` crate: what it does stands in the target.

use std::future::poll_fn;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use crate::address::loopback;
use crate::pattern;

/// What it does, and how much of it.
#[derive(Clone, Debug)]
pub struct H2Settings {
    /// Streams at once on a connection.
    pub streams: u32,
    /// Requests after which a connection says GOAWAY; 0: never.
    pub goaway_after: usize,
    /// Refuses every stream.
    pub refuses: bool,
    /// Bytes of a body that it takes before it reads.
    pub window: u32,
    /// Speaks TLS.
    pub tls: Option<Arc<ServerConfig>>,
}

impl Default for H2Settings {
    fn default() -> Self {
        Self { streams: 100, goaway_after: 0, refuses: false, window: 64 * 1024, tls: None }
    }
}

/// A request that has come.
#[derive(Clone, Debug)]
pub struct H2Request {
    /// `METHOD scheme://authority/path`.
    pub line: String,
    /// Its fields.
    pub fields: HeaderMap,
}

/// An endpoint; it is gone when it is dropped.
#[derive(Debug)]
pub struct H2Backend {
    shared: Arc<Shared>,
    address: SocketAddr,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    settings: H2Settings,
    requests: Mutex<Vec<H2Request>>,
    connections: AtomicUsize,
    active: AtomicUsize,
    most_active: AtomicUsize,
    resets: Mutex<Vec<(Reason, Instant)>>,
    held: AtomicUsize,
    /// What `/held` got in all, once that is over; and whether it was whole.
    ends: Mutex<Vec<(usize, bool)>>,
    open: Notify,
    stop: Notify,
    drop_all: Notify,
}

impl H2Backend {
    /// Starts one. `/echo` sends the body back with its trailers, `/large` three mebibytes of the pattern, `/text` the same with a type and a tag, `/huge` 64, `/early`
    /// 103 before its answer, `/only-trailers` a head that is all, `/hang` nothing, `/cut` some and a reset,
    /// `/half` an answer before it has read the body, `/deaf` the same and never reads it, `/held` reads once it is
    /// [let](Self::read_held), `/epoch/7` says that it is the primary of that epoch, `/health`
    /// a lag of 0; anything else its target and how long the body was.
    ///
    /// # Panics
    /// If there is no port for it.
    pub fn start(settings: H2Settings) -> Self {
        let listener = TcpListener::bind((loopback(), 0)).expect("a loopback port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("a bound socket");
        let shared = Arc::new(Shared { settings, ..Shared::default() });
        let inside = shared.clone();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(accept(inside, listener));
        });
        Self { shared, address, thread: Some(thread) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has come; health checks are not in it.
    pub fn requests(&self) -> Vec<H2Request> {
        lock(&self.shared.requests).clone()
    }

    /// Connections it accepted.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(SeqCst)
    }

    /// The most requests that were being answered at a time.
    pub fn most_active(&self) -> usize {
        self.shared.most_active.load(SeqCst)
    }

    /// Streams that were reset from the other side while they waited, and when.
    pub fn resets(&self) -> Vec<(Reason, Instant)> {
        lock(&self.shared.resets).clone()
    }

    /// Requests for `/held` that wait.
    pub fn held(&self) -> usize {
        self.shared.held.load(SeqCst)
    }

    /// Lets those that wait now read their bodies.
    pub fn read_held(&self) {
        self.shared.open.notify_waiters();
    }

    /// Bytes that each of them got, once that was over, and whether the body was whole.
    pub fn held_ends(&self) -> Vec<(usize, bool)> {
        lock(&self.shared.ends).clone()
    }

    /// Breaks all connections.
    pub fn break_connections(&self) {
        self.shared.drop_all.notify_waiters();
    }
}

impl Drop for H2Backend {
    fn drop(&mut self) {
        self.shared.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic over there has been printed.
            drop(thread.join());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted.expect("a connection").0,
            () = shared.stop.notified() => return,
        };
        stream.set_nodelay(true).expect("a socket");
        shared.connections.fetch_add(1, SeqCst);
        let shared = shared.clone();
        tokio::spawn(async move {
            let broken = async {
                shared.drop_all.notified().await;
            };
            let served = async {
                match &shared.settings.tls {
                    None => serve(shared.clone(), stream).await,
                    Some(config) => {
                        let shaken = TlsAcceptor::from(config.clone()).accept(stream).await;
                        if let Ok(stream) = shaken {
                            serve(shared.clone(), stream).await;
                        }
                    }
                }
            };
            tokio::select! {
                () = served => {}
                () = broken => {}
            }
        });
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(shared: Arc<Shared>, stream: S) {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(shared.settings.streams)
        .initial_window_size(shared.settings.window);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    let mut count = 0;
    while let Some(Ok((request, answer))) = connection.accept().await {
        count += 1;
        if count == shared.settings.goaway_after {
            connection.graceful_shutdown();
        }
        if shared.settings.refuses {
            tokio::spawn(refuse(request, answer));
            continue;
        }
        let shared = shared.clone();
        tokio::spawn(async move {
            let active = shared.active.fetch_add(1, SeqCst) + 1;
            shared.most_active.fetch_max(active, SeqCst);
            // How a stream ends is for the other side to judge.
            let _ = respond(&shared, request, answer).await;
            shared.active.fetch_sub(1, SeqCst);
        });
    }
}

/// Refuses a stream; one for `/deaf` only once its body is there.
async fn refuse(request: Request<RecvStream>, mut answer: SendResponse<Bytes>) {
    let (head, mut body) = request.into_parts();
    while head.uri.path() == "/deaf"
        && let Some(Ok(data)) = body.data().await
    {
        // A stream that is gone is as good as refused.
        let _ = body.flow_control().release_capacity(data.len());
    }
    answer.send_reset(Reason::REFUSED_STREAM);
}

async fn respond(
    shared: &Shared,
    request: Request<RecvStream>,
    mut answer: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let (head, mut body) = request.into_parts();
    let (path, method) = (head.uri.path().to_owned(), head.method.clone());
    if path != "/health" {
        let line = format!("{} {}", head.method, head.uri);
        lock(&shared.requests).push(H2Request { line, fields: head.headers.clone() });
    }
    let ok = || Response::new(());
    match path.as_str() {
        "/echo" => {
            let mut stream = answer.send_response(ok(), false)?;
            while let Some(data) = body.data().await {
                let data = data?;
                body.flow_control().release_capacity(data.len())?;
                send(&mut stream, data).await?;
            }
            match body.trailers().await? {
                Some(trailers) => stream.send_trailers(trailers),
                None => stream.send_data(Bytes::new(), true),
            }
        }
        "/large" | "/huge" | "/text" => {
            let length = if path == "/huge" { 64 << 20 } else { 3 << 20 };
            let mut head = ok();
            if path == "/text" {
                let fields = head.headers_mut();
                fields.insert("content-type", HeaderValue::from_static("text/plain"));
                fields.insert("etag", HeaderValue::from_static("\"h2\""));
            }
            let mut stream = answer.send_response(head, false)?;
            for piece in pattern::stream(length) {
                send(&mut stream, Bytes::from_static(piece)).await?;
            }
            stream.send_data(Bytes::new(), true)
        }
        "/early" => {
            let hint = Response::builder().status(103).header("link", "</a.css>");
            answer.send_informational(hint.body(()).expect("a head"))?;
            tokio::time::sleep(Duration::from_millis(20)).await;
            answer.send_response(ok(), false)?.send_data(Bytes::from_static(b"late"), true)
        }
        "/only-trailers" => {
            let head = Response::builder().header("grpc-status", "5").body(()).expect("a head");
            answer.send_response(head, true).map(drop)
        }
        "/hang" => {
            let reason = poll_fn(|cx| answer.poll_reset(cx)).await?;
            lock(&shared.resets).push((reason, Instant::now()));
            Ok(())
        }
        "/held" => {
            shared.held.fetch_add(1, SeqCst);
            shared.open.notified().await;
            shared.held.fetch_sub(1, SeqCst);
            let (mut length, mut whole) = (0, true);
            while let Some(data) = body.data().await {
                let Ok(data) = data else {
                    whole = false;
                    break;
                };
                length += data.len();
                body.flow_control().release_capacity(data.len())?;
            }
            lock(&shared.ends).push((length, whole));
            answer.send_response(ok(), true).map(drop)
        }
        "/deaf" => {
            let head = Response::builder().status(403).header("content-length", "2");
            let head = head.body(()).expect("a head");
            let mut stream = answer.send_response(head, false)?;
            stream.send_data(Bytes::from_static(b"no"), false)?;
            let reason = poll_fn(|cx| stream.poll_reset(cx)).await?;
            lock(&shared.resets).push((reason, Instant::now()));
            drop(body);
            Ok(())
        }
        path if path.starts_with("/epoch/") => {
            let head = Response::builder().header("meridian-role", "primary");
            let head = head.header("meridian-epoch", path.trim_start_matches("/epoch/"));
            answer.send_response(head.body(()).expect("a head"), true).map(drop)
        }
        "/cut" => {
            let mut stream = answer.send_response(ok(), false)?;
            send(&mut stream, Bytes::from_static(b"some of it")).await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
            stream.send_reset(Reason::INTERNAL_ERROR);
            Ok(())
        }
        "/half" => {
            let head = Response::builder().status(403).header("content-length", "2");
            let head = head.body(()).expect("a head");
            answer.send_response(head, false)?.send_data(Bytes::from_static(b"no"), true)
        }
        _ => {
            let mut length = 0;
            while let Some(data) = body.data().await {
                let data = data?;
                length += data.len();
                body.flow_control().release_capacity(data.len())?;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
            let text = format!("{path} {length}");
            let mut head = Response::builder().header("content-length", text.len());
            if path == "/health" {
                head = head.header("meridian-lag-ms", "0");
            }
            let head = head.body(()).expect("a head");
            let ended = method == http::Method::HEAD;
            let mut stream = answer.send_response(head, ended)?;
            if ended { Ok(()) } else { stream.send_data(text.into(), true) }
        }
    }
}

/// Sends as the other side has a window for it.
async fn send(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let Some(room) = poll_fn(|cx| stream.poll_capacity(cx)).await else {
            return Err(Reason::CANCEL.into());
        };
        let room = room?.min(data.len());
        stream.send_data(data.split_to(room), false)?;
    }
    Ok(())
}
