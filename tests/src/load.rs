//! Load: clients that ask without a pause and keep account of every answer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::message::Response;
use crate::wait::poll;

/// Between two requests of one client, so that two cores are not all there is.
const PAUSE: Duration = Duration::from_millis(3);
/// An answer that takes longer than this is none.
const PATIENCE: Duration = Duration::from_secs(10);

/// One request to be sent.
#[derive(Clone, Debug)]
pub struct Ask {
    /// `GET`
    pub method: &'static str,
    /// With its query.
    pub path: String,
    /// Beside Host and Content-Length.
    pub fields: Vec<(&'static str, String)>,
    /// Its body.
    pub body: Vec<u8>,
}

/// What came of one request.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Of this load, from 0 in the order of sending.
    pub serial: u64,
    /// As asked.
    pub method: &'static str,
    /// Just before it was sent.
    pub begun: Instant,
    /// From then to the answer's last byte.
    pub took: Duration,
    /// The answer, or why there is none.
    pub answer: Result<Response, String>,
}

impl Ask {
    /// A GET.
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: "GET", path: path.into(), fields: Vec::new(), body: Vec::new() }
    }

    /// A POST.
    pub fn post(path: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self { method: "POST", body: body.into(), ..Self::get(path) }
    }

    /// With one more field.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    /// On behalf of this client, as a trusted proxy would.
    #[must_use]
    pub fn from(self, client: impl ToString) -> Self {
        self.with("X-Forwarded-For", client.to_string())
    }

    /// Sends it.
    ///
    /// # Panics
    /// If there is no whole answer.
    #[track_caller]
    pub fn send(&self, client: &mut Client) -> Response {
        match self.try_send(client) {
            Ok(response) => response,
            Err(why) => panic!("{} {}: {why}", self.method, self.path),
        }
    }

    fn try_send(&self, client: &mut Client) -> Result<Response, String> {
        let fields: Vec<_> = self.fields.iter().map(|(name, value)| (*name, &**value)).collect();
        let answer = client.try_request(self.method, &self.path, &fields, &self.body);
        answer.map_err(|broken| format!("{broken:?}"))
    }
}

impl Outcome {
    /// The status; `None` if there is no answer.
    pub fn status(&self) -> Option<u16> {
        self.answer.as_ref().ok().map(|response| response.status)
    }

    /// Whether it was answered with 2xx.
    pub fn is_fine(&self) -> bool {
        self.status().is_some_and(|status| (200..300).contains(&status))
    }

    /// The region that answered, by its own account.
    pub fn region(&self) -> Option<&str> {
        self.answer.as_ref().ok()?.header("X-Served-Region")
    }

    /// The endpoint that answered, by its own account.
    pub fn endpoint(&self) -> Option<&str> {
        self.answer.as_ref().ok()?.header("X-Served-By")
    }
}

/// Running clients.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<Mutex<Vec<Outcome>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts `clients` that each keep one connection. `ask` makes the request with a given serial number.
    pub fn start(
        address: SocketAddr,
        clients: usize,
        ask: impl Fn(u64) -> Ask + Send + Sync + 'static,
    ) -> Self {
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<_>>>::default());
        let (serial, ask) = (Arc::<AtomicU64>::default(), Arc::new(ask));
        let client = || {
            let (stop, done, serial, ask) =
                (stop.clone(), done.clone(), serial.clone(), ask.clone());
            spawn(move || {
                let mut connection = None;
                while !stop.load(Relaxed) {
                    let serial = serial.fetch_add(1, Relaxed);
                    let outcome = exchange(&mut connection, address, serial, &ask(serial));
                    lock(&done).push(outcome);
                    sleep(PAUSE);
                }
            })
        };
        let threads = (0..clients).map(|_| client()).collect();
        Self { stop, done, threads }
    }

    /// Requests answered so far, well or not.
    pub fn count(&self) -> usize {
        lock(&self.done).len()
    }

    /// Waits until `more` requests have been answered from here on.
    ///
    /// # Panics
    /// If that takes longer than 20 s.
    #[track_caller]
    pub fn run_for(&self, more: usize) {
        let goal = self.count() + more;
        let reached = poll(Duration::from_secs(20), || (self.count() >= goal).then_some(()));
        assert!(reached.is_some(), "only {} of {goal} requests were answered", self.count());
    }

    /// Looks at what there is so far.
    pub fn look<T>(&self, at: impl FnOnce(&[Outcome]) -> T) -> T {
        at(&lock(&self.done))
    }

    /// Ends it and gives the account, in the order of sending.
    ///
    /// # Panics
    /// If a client has.
    pub fn stop(mut self) -> Account {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a client that does not panic");
        }
        let mut outcomes = std::mem::take(&mut *lock(&self.done));
        outcomes.sort_by_key(|outcome| outcome.serial);
        Account(outcomes)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn exchange(
    connection: &mut Option<Client>,
    address: SocketAddr,
    serial: u64,
    ask: &Ask,
) -> Outcome {
    let begun = Instant::now();
    let answer = match connection.take().map_or_else(|| Client::try_connect(address), Ok) {
        Ok(mut client) => {
            client.wire().patience = PATIENCE;
            let answer = ask.try_send(&mut client);
            let stays = answer.as_ref().is_ok_and(|response| {
                !response.header("Connection").is_some_and(|v| v.eq_ignore_ascii_case("close"))
            });
            *connection = stays.then_some(client);
            answer
        }
        Err(error) => Err(format!("cannot connect: {error}")),
    };
    Outcome { serial, method: ask.method, begun, took: begun.elapsed(), answer }
}

/// All that came of a load.
#[derive(Debug)]
pub struct Account(pub Vec<Outcome>);

impl Account {
    /// How many there are by status; 0: no answer.
    pub fn statuses(&self) -> BTreeMap<u16, usize> {
        tally(self.0.iter().map(|outcome| outcome.status().unwrap_or(0)))
    }

    /// How many fine answers came from each region.
    pub fn regions(&self) -> BTreeMap<String, usize> {
        tally(self.0.iter().filter_map(|outcome| Some(outcome.region()?.to_owned())))
    }

    /// Those that were begun after `instant`.
    pub fn since(&self, instant: Instant) -> impl Iterator<Item = &Outcome> {
        self.0.iter().filter(move |outcome| outcome.begun > instant)
    }

    /// The time below which 99 of 100 of some of them stayed; 0 of none.
    pub fn p99(&self, which: impl Fn(&Outcome) -> bool) -> Duration {
        let mut took: Vec<_> = self.0.iter().filter(|o| which(o)).map(|o| o.took).collect();
        took.sort_unstable();
        took.get(took.len() * 99 / 100).copied().unwrap_or_default()
    }

    /// # Panics
    /// If one of the requests failed, with the first few of them, or there were fewer than `at_least`.
    #[track_caller]
    pub fn assert_all_fine(&self, at_least: usize) {
        self.assert_fine(at_least, |_| true);
    }

    /// The same for some of them.
    ///
    /// # Panics
    /// If one of them failed, or there were fewer than `at_least`.
    #[track_caller]
    pub fn assert_fine(&self, at_least: usize, which: impl Fn(&Outcome) -> bool) {
        let chosen = || self.0.iter().filter(|outcome| which(outcome));
        let failed: Vec<_> = chosen().filter(|outcome| !outcome.is_fine()).take(5).collect();
        assert!(failed.is_empty(), "{:?}, such as {failed:#?}", self.statuses());
        let count = chosen().count();
        assert!(count >= at_least, "only {count} requests: too few to say anything");
    }
}

/// Counts equal things.
pub fn tally<T: Ord>(things: impl Iterator<Item = T>) -> BTreeMap<T, usize> {
    let mut counts = BTreeMap::new();
    for thing in things {
        *counts.entry(thing).or_default() += 1;
    }
    counts
}
