//! Live traffic from everywhere: reads and writes at a steady rate, each from an address of the list.
//!
//! Promises: sends at the rate whatever the answers take, up to a bound of requests in flight; never
//! repeats a request. Refuses to know: regions, and what ought to happen.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fastrand::Rng;
use http::{Request, Response, header};
use http_body_util::Full;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::clients::DemoClient;
use super::ledger::{Ending, Kind, Lane, Ledger, Sample, ServedBy};
use crate::http_client::{Address, Connection, NoAnswer};

/// Requests a second, unless told otherwise.
pub(crate) const DEFAULT_RATE: u32 = 100;
const TICK: Duration = Duration::from_millis(10);
const DEADLINE: Duration = Duration::from_secs(10);
const MAX_IN_FLIGHT: usize = 512;
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// Well below the edge's keep-alive, so that it never closes a connection just as it is used.
const KEEP_IDLE: Duration = Duration::from_secs(20);
/// Of all requests, writes; of the reads, those by latency. Percent.
const WRITES: u32 = 20;
const BY_LATENCY: u32 = 25;
/// Keys in use.
const KEYS: u32 = 500;

/// Sends until it is dropped.
#[derive(Debug)]
pub(crate) struct Traffic {
    shared: Arc<Shared>,
    rate: watch::Sender<u32>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    edge: Address,
    clients: Vec<DemoClient>,
    idle: Mutex<Vec<(Connection, Instant)>>,
    ledger: Mutex<Ledger>,
}

impl Traffic {
    /// Sends `rate` requests a second to `edge`, on the current runtime. The same seed sends the same.
    pub(crate) fn start(edge: Address, clients: Vec<DemoClient>, rate: u32, seed: u64) -> Self {
        let (idle, ledger) = (Mutex::default(), Mutex::default());
        let shared = Arc::new(Shared { edge, clients, idle, ledger });
        let (rate, wanted) = watch::channel(rate);
        let task = tokio::spawn(send_on(shared.clone(), wanted, Rng::with_seed(seed)));
        Self { shared, rate, task }
    }

    /// What has been seen so far.
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.shared.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends no more, and waits until everything that was sent has ended.
    pub(crate) async fn finish(mut self) -> Ledger {
        self.rate.send_replace(0);
        let _ = (&mut self.task).await;
        std::mem::take(&mut *self.ledger())
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A rate of 0 ends it.
async fn send_on(shared: Arc<Shared>, rate: watch::Receiver<u32>, mut dice: Rng) {
    let places = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
    let mut requests = tokio::task::JoinSet::new();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut due, mut last) = (0.0, Instant::now());
    loop {
        let now = ticks.tick().await.into_std();
        let rate = *rate.borrow();
        if rate == 0 {
            break;
        }
        due += f64::from(rate) * now.saturating_duration_since(last).as_secs_f64().min(0.1);
        last = now;
        while requests.try_join_next().is_some() {}
        while due >= 1.0 {
            due -= 1.0;
            let Ok(place) = places.clone().try_acquire_owned() else { continue };
            let Some(errand) = Errand::draw(&shared.clients, &mut dice) else { continue };
            let shared = shared.clone();
            requests.spawn(async move {
                shared.run(errand).await;
                drop(place);
            });
        }
    }
    while requests.join_next().await.is_some() {}
}

/// A request to be sent.
#[derive(Debug)]
struct Errand {
    client: DemoClient,
    kind: Kind,
    lane: Lane,
    key: u32,
}

impl Errand {
    fn draw(clients: &[DemoClient], dice: &mut Rng) -> Option<Self> {
        let client = *dice.choice(clients)?;
        let kind = if dice.u32(0..100) < WRITES { Kind::Write } else { Kind::Read };
        let by_latency = kind == Kind::Read && dice.u32(0..100) < BY_LATENCY;
        let lane = if by_latency { Lane::Latency } else { Lane::Geo };
        Some(Self { client, kind, lane, key: dice.u32(0..KEYS) })
    }

    fn request(&self, edge: &Address) -> Result<Request<Full<Bytes>>, http::Error> {
        let prefix = if self.lane == Lane::Latency { "/nearest" } else { "" };
        let request = Request::builder()
            .uri(format!("{prefix}/kv/key-{}", self.key))
            .header(header::HOST, edge.authority())
            .header("x-forwarded-for", self.client.address.to_string());
        match self.kind {
            Kind::Read => request.body(Full::default()),
            Kind::Write => {
                let value = format!("written from {}", self.client.country);
                request.method("POST").body(Full::from(value))
            }
        }
    }
}

impl Shared {
    async fn run(&self, errand: Errand) {
        let began = Instant::now();
        let answer = match errand.request(&self.edge) {
            Ok(request) => self.exchange(request).await,
            Err(error) => Err(NoAnswer::Body(error.to_string())),
        };
        let ended = Instant::now();
        let ending = match answer {
            Ok(answer) => ending(&answer),
            Err(error) => Ending::Lost(error.to_string()),
        };
        let Errand { client, kind, lane, .. } = errand;
        let sample = Sample { country: client.country, kind, lane, began, ended, ending };
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).record(sample);
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, NoAnswer> {
        let mut connection = match self.idle_connection() {
            Some(idle) => idle,
            None => Connection::open(&self.edge, DEADLINE).await?,
        };
        let answer = connection.send(request, DEADLINE, MAX_ANSWER_BYTES).await?;
        if connection.is_ready() {
            self.idle().push((connection, Instant::now()));
        }
        Ok(answer)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Connection, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle_connection(&self) -> Option<Connection> {
        let mut idle = self.idle();
        // The longest unused ones are in front.
        idle.retain(|(connection, used)| connection.is_ready() && used.elapsed() < KEEP_IDLE);
        idle.pop().map(|(connection, _)| connection)
    }
}

fn ending(answer: &Response<Bytes>) -> Ending {
    let served_by = answer.headers().get("meridian-served-by");
    let served_by = served_by.and_then(|value| ServedBy::parse(value.to_str().ok()?));
    match served_by {
        // A key that nobody has written yet is an answer, too.
        Some(by) if answer.status().is_success() || answer.status() == 404 => Ending::Served(by),
        _ => Ending::Refused(answer.status().as_u16()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::SocketAddr;

    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::net::TcpListener;

    use super::*;
    use crate::demo::clients::all_clients;

    /// Answers everything as an edge would; 503 for writes.
    async fn pretend_edge() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service_fn(|request: Request<hyper::body::Incoming>| async move {
                    let from = request.headers()["x-forwarded-for"].to_str().unwrap().to_owned();
                    let write = request.method() == "POST";
                    let mut answer = Response::builder().status(if write { 503 } else { 404 });
                    if !write {
                        let by = format!("r{}; role=replica; reason=nearest", from.len() % 2);
                        answer = answer.header("meridian-served-by", by);
                    }
                    answer.body(Full::<Bytes>::default())
                });
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        address
    }

    #[tokio::test]
    async fn requests_are_sent_at_the_rate_and_all_are_accounted_for() {
        let edge = Address::Tcp(pretend_edge().await.to_string());
        let traffic = Traffic::start(edge, all_clients().unwrap(), 200, 1);
        let deadline = Instant::now() + Duration::from_secs(10);
        while traffic.ledger().reads.requests < 200 {
            assert!(Instant::now() < deadline, "too slow");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let ledger = traffic.finish().await;
        assert_eq!(ledger.reads.failures, 0);
        assert!(ledger.writes.requests > 0);
        assert_eq!(ledger.writes.failures, ledger.writes.requests);
        let mut regions = HashMap::<_, u64>::new();
        for ((_, _, _, by), count) in &ledger.flows {
            *regions.entry(by.region.as_str()).or_default() += count;
        }
        assert_eq!(regions.values().sum::<u64>(), ledger.reads.requests);
        assert_eq!(regions.len(), 2);
    }

    #[tokio::test]
    async fn an_edge_that_is_gone_is_a_lost_request_each() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let edge = Address::Tcp(listener.local_addr().unwrap().to_string());
        drop(listener);
        let traffic = Traffic::start(edge, all_clients().unwrap(), 500, 1);
        let deadline = Instant::now() + Duration::from_secs(10);
        while traffic.ledger().reads.failures < 3 {
            assert!(Instant::now() < deadline, "no failures");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let ledger = traffic.finish().await;
        assert_eq!(ledger.reads.failures, ledger.reads.requests);
        assert!(ledger.last_failure.unwrap().contains("cannot connect"));
    }
}
