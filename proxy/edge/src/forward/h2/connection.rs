//! Connections of HTTP/2 to endpoints: few per worker, each with a task that moves its bytes.
//!
//! Promises: no more streams at a time than the endpoint takes; a connection that has gone silent while answers are
//! waited for is asked, and closed if it says nothing. Refuses to know: what requests mean.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use foldhash::fast::RandomState;
use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong};
use tokio::sync::{Mutex, Notify};

use super::exchange::Exchange;
use super::io::{Heard, Io};
use crate::forward::dial::{Blame, Place};
use crate::tls::Client;
use crate::transport::Transport;

/// Connections to one address of one endpoint, per worker. Another one is opened when the endpoint takes no more streams
/// on those there are; beyond these, requests wait for a stream.
const MOST: usize = 64;
/// What an endpoint may send on a stream before it is read, bytes.
const STREAM_WINDOW: u32 = 128 * 1024;
/// And on the connection: the most there is, so that streams whose clients take nothing do not hold up the others.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// The longest head of an answer, bytes.
const HEAD: u32 = 64 * 1024;
/// Silence for so long, while answers are waited for, makes us ask whether the endpoint is there.
const SILENCE: Duration = Duration::from_secs(10);
/// It has so long to say anything.
const PATIENCE: Duration = Duration::from_secs(10);
/// Questions in one silence before the long pause: gRPC servers close connections that ask more often (gRFC A8).
const QUESTIONS: u32 = 2;
const LONG_PAUSE: Duration = Duration::from_secs(305);
/// An idle connection is closed after this.
const LONGEST_IDLE: Duration = Duration::from_secs(55);

/// A worker's connections of HTTP/2.
#[derive(Default)]
pub(crate) struct SharedPool(RefCell<HashMap<Place, Lines, RandomState>>);

/// Those to one place.
#[derive(Default)]
struct Lines {
    open: Vec<Line>,
    /// Whoever opens one: others wait for it.
    turn: Rc<Mutex<()>>,
}

struct Line {
    sender: SendRequest<Bytes>,
    traffic: Rc<Traffic>,
}

/// What a connection and its requests know of each other.
struct Traffic {
    /// Requests on it.
    active: Cell<usize>,
    /// When the last one ended.
    idle_since: Cell<Instant>,
    heard: Rc<Heard>,
    used: Cell<bool>,
}

/// A request on a connection, as long as it lasts.
pub(crate) struct Busy(Rc<Traffic>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
        self.0.idle_since.set(Instant::now());
    }
}

impl SharedPool {
    /// A stream on an open connection that has room for it; and whether that has carried others.
    pub(crate) fn take(&self, place: Place) -> Option<(Exchange, bool)> {
        let mut all = self.0.borrow_mut();
        let lines = all.get_mut(&place)?;
        lines.open.retain_mut(Line::is_open);
        let full = lines.open.len() >= MOST;
        let line = lines.open.iter_mut().min_by_key(|line| line.traffic.active.get())?;
        let room = line.traffic.active.get() < line.sender.current_max_send_streams();
        (room || full).then(|| line.exchange(place))
    }

    /// Whoever wants to open a connection to a place waits for the one who does already.
    pub(crate) fn turn(&self, place: Place) -> Rc<Mutex<()>> {
        self.0.borrow_mut().entry(place).or_default().turn.clone()
    }

    /// A stream on a new connection.
    ///
    /// # Errors
    /// It broke before the endpoint has said how many streams it takes, or does not speak HTTP/2.
    pub(crate) async fn open(
        &self,
        place: Place,
        transport: Transport<Client>,
        blame: Option<Box<Blame>>,
    ) -> io::Result<(Exchange, bool)> {
        let now = Instant::now();
        let traffic = Rc::new(Traffic {
            active: Cell::new(0),
            idle_since: Cell::new(now),
            heard: Rc::new(Heard { at: Cell::new(now), news: Notify::new() }),
            used: Cell::new(false),
        });
        let io = Io::new(transport, blame, traffic.heard.clone());
        let mut builder = Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEAD)
            // How many it takes, the endpoint says first.
            .initial_max_send_streams(0)
            .enable_push(false);
        let (sender, mut connection) =
            builder.handshake::<_, Bytes>(io).await.map_err(io::Error::other)?;
        let ping = connection.ping_pong();
        let watched = traffic.clone();
        tokio::task::spawn_local(async move {
            // Whoever waits for an answer learns of its end.
            tokio::select! {
                _ = connection => {}
                () = watch(ping, &watched) => {}
            }
            watched.heard.news.notify_one();
        });
        let mut line = Line { sender, traffic };
        while line.sender.current_max_send_streams() == 0 {
            line.traffic.heard.news.notified().await;
            if !line.is_open() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
        let exchange = line.exchange(place);
        self.0.borrow_mut().entry(place).or_default().open.push(line);
        Ok(exchange)
    }

    /// Lets go of connections that are over, or were idle for too long: they close in good order.
    pub(crate) fn sweep(&self) {
        self.0.borrow_mut().retain(|_, lines| {
            lines.open.retain_mut(|line| {
                let traffic = &line.traffic;
                let idle = traffic.active.get() == 0;
                let long = traffic.idle_since.get().elapsed() > LONGEST_IDLE;
                line.is_open() && !(idle && long)
            });
            !lines.open.is_empty() || Rc::strong_count(&lines.turn) > 1
        });
    }
}

impl Line {
    /// Whether it takes requests: neither broken nor told to go away.
    fn is_open(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        !matches!(self.sender.clone().poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    fn exchange(&mut self, place: Place) -> (Exchange, bool) {
        let traffic = &self.traffic;
        traffic.active.set(traffic.active.get() + 1);
        let busy = Busy(traffic.clone());
        let used = traffic.used.replace(true);
        (Exchange::new(self.sender.clone(), place.is_secure(), busy), used)
    }
}

/// Ready when the connection is given up.
async fn watch(ping: Option<PingPong>, traffic: &Traffic) {
    let Some(mut ping) = ping else { return std::future::pending().await };
    let (mut questions, mut asked) = (0, Instant::now());
    loop {
        tokio::time::sleep(SILENCE / 2).await;
        let heard = traffic.heard.at.get();
        if traffic.active.get() == 0 || heard.elapsed() < SILENCE {
            if heard > asked + PATIENCE {
                questions = 0;
            }
            continue;
        }
        if questions >= QUESTIONS && asked.elapsed() < LONG_PAUSE {
            continue;
        }
        (questions, asked) = (questions + 1, Instant::now());
        let answered = tokio::time::timeout(PATIENCE, ping.ping(Ping::opaque())).await;
        if !matches!(answered, Ok(Ok(_))) && traffic.heard.at.get() <= asked {
            return;
        }
    }
}
