//! An edge with one worker, its bystander, and what an attack may do to them.
//!
//! How long the bystander may wait is held against what it waited before the attack, and against a bystander of another
//! edge on the same machine, which is not attacked: what the machine does to both of them is not the attack's doing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use meridian_tests::h2_frames::{Ending, H2, code};
use meridian_tests::{Answer, Backend, Body, Client, End, Meridian};

/// Between two requests of the bystander.
const PACE: Duration = Duration::from_millis(20);
/// What a debug binary on a shared machine of two cores may keep anybody waiting at any time.
const FLOOR: Duration = Duration::from_millis(400);
/// An attacker is rid of within so long after it was too much.
pub(crate) const SOON: Duration = Duration::from_secs(5);
/// The body under `/attack/large`, bytes.
pub(crate) const LARGE: u64 = 1 << 20;
/// Memory that one attacker may cost, bytes: its windows, its answers, its heads, and what the allocator keeps of that.
const MOST_MEMORY: u64 = 24 << 20;

/// Deadlines short enough for tests.
const LIMITS: &str = "[limits]\nheader_timeout = \"1s\"\nkeepalive_timeout = \"2s\"\n\
                      [edge]\nworker_threads = 1\n";

pub(crate) struct Scene {
    pub(crate) edge: Meridian,
    elsewhere: Meridian,
    /// Requests of attackers that have reached the endpoint.
    asked: Arc<AtomicUsize>,
    quiet: Duration,
    memory: u64,
    _backend: Backend,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    /// With further listeners.
    pub(crate) fn with(listeners: &str) -> Self {
        let asked = Arc::<AtomicUsize>::default();
        let count = asked.clone();
        let backend = Backend::answering("here", move |request| {
            match request.target.as_str() {
                "/bystander" => return Answer::ok("fine"),
                "/attack/large" => return Answer::new(200, Body::Pattern(LARGE)),
                _ => {}
            }
            count.fetch_add(1, SeqCst);
            // Long enough that whoever resets it can do so before.
            Answer::ok("fine").delay(Duration::from_millis(50))
        });
        let text = meridian_tests::one_region(&backend);
        let timeouts =
            "[services.timeouts]\nidle = \"1s\"\nrequest = \"6s\"\n[[services.endpoints]]";
        let text = text.replacen("[[services.endpoints]]", timeouts, 1);
        let edge = Meridian::start(&format!("{LIMITS}{listeners}{text}"));
        let elsewhere = Meridian::start(&format!("{LIMITS}{text}"));
        // What is allocated once is there before it counts.
        let bystander = Bystander::start(http1(&edge));
        sleep(Duration::from_millis(500));
        let quiet = bystander.stop();
        let memory = edge.resident_bytes();
        Self { edge, elsewhere, asked, quiet, memory, _backend: backend }
    }

    /// Runs an attack and holds it against what it may do; what it says of itself.
    #[track_caller]
    pub(crate) fn suffer<T>(&self, name: &str, attack: impl FnOnce() -> T) -> T {
        let bystander = Bystander::start(http1(&self.edge));
        let elsewhere = Bystander::start(http1(&self.elsewhere));
        let said = attack();
        let (p99, elsewhere) = (bystander.stop(), elsewhere.stop());
        let most = FLOOR.max(3 * self.quiet.max(elsewhere));
        let otherwise = format!("before that {:?}, elsewhere {elsewhere:?}", self.quiet);
        assert!(p99 <= most, "{name}: the bystander waited {p99:?}; {otherwise}");
        let grown = self.edge.resident_bytes().saturating_sub(self.memory);
        assert!(grown <= MOST_MEMORY, "{name}: memory has grown by {grown} bytes");
        assert!(self.edge.is_running());
        said
    }

    pub(crate) fn attacker(&self, settings: &[(u16, u32)]) -> H2 {
        let mut attacker = H2::connect(http1(&self.edge), settings);
        attacker.wire.patience = SOON;
        attacker
    }

    /// Requests of attackers that have reached the endpoint; those that are on their way are waited for.
    pub(crate) fn asked(&self) -> usize {
        sleep(Duration::from_millis(200));
        self.asked.load(SeqCst)
    }
}

/// The listener without TLS.
fn http1(edge: &Meridian) -> SocketAddr {
    edge.listener("public")
}

/// Says something again and again, until the edge does not take it any more or it was said `most` times; how often.
pub(crate) fn repeat(
    attacker: &mut H2,
    most: usize,
    mut what: impl FnMut(u32) -> Vec<u8>,
) -> usize {
    (0..most).take_while(|n| attacker.send(&what(*n as u32)).is_ok()).count()
}

/// The connection is ended, because it was too much; by a goodbye that arrives, if it was not lost to what was sent
/// after it.
#[track_caller]
pub(crate) fn assert_told_off(attacker: &mut H2) -> Ending {
    let ending = attacker.ending(SOON);
    assert_ne!(ending.end, End::Open, "{:?}", ending.frames.last());
    let told = ending.goodbye();
    let lost = told.is_none() && ending.end == End::Reset;
    assert!(told == Some(code::ENHANCE_YOUR_CALM) || lost, "{told:?}, {:?}", ending.end);
    ending
}

/// A client that asks for little, about 50 times a second.
struct Bystander {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
}

impl Bystander {
    fn start(address: SocketAddr) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let seen = stop.clone();
        let thread = spawn(move || {
            let mut client = Client::connect(address);
            let mut took = Vec::new();
            while !seen.load(SeqCst) || took.len() < 10 {
                let begun = Instant::now();
                let answer = client.request("GET", "/bystander", &[], b"");
                took.push(begun.elapsed());
                assert_eq!(answer.status, 200, "the bystander is not served");
                sleep(PACE.saturating_sub(begun.elapsed()));
            }
            took
        });
        Self { stop, thread }
    }

    /// The time within which 99 of 100 answers came.
    #[track_caller]
    fn stop(self) -> Duration {
        self.stop.store(true, SeqCst);
        let mut took = self.thread.join().expect("a bystander without errors");
        took.sort_unstable();
        took[(took.len() * 99).div_ceil(100) - 1]
    }
}
