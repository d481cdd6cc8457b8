//! An edge with one worker, its bystander, and what an attack may do to them.
//!
//! How long the bystander may wait is held against what it waited before the attack, and against a bystander of another
//! edge on the same machine, which is not attacked: what the machine does to both of them is not the attack's doing.
//! What was seen of each attack is printed, and put into the file that MERIDIAN_ATTACK_FIGURES names, a line of JSON each.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use meridian_tests::h2_frames::{Ending, H2, code};
use meridian_tests::{Answer, Backend, Body, Client, End, Meridian};
use serde_json::json;

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
    /// The same, with those for `/attack/large`.
    started: Arc<AtomicUsize>,
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
        let started = Arc::<AtomicUsize>::default();
        let (count, count_all) = (asked.clone(), started.clone());
        let backend = Backend::answering("here", move |request| {
            match request.target.as_str() {
                "/bystander" => return Answer::ok("fine"),
                _ => count_all.fetch_add(1, SeqCst),
            };
            if request.target == "/attack/large" {
                return Answer::new(200, Body::Pattern(LARGE));
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
        let quiet = bystander.stop().p99;
        let memory = edge.resident_bytes();
        Self { edge, elsewhere, asked, started, quiet, memory, _backend: backend }
    }

    /// Runs an attack and holds it against what it may do; what it says of itself.
    #[track_caller]
    pub(crate) fn suffer<T>(&self, name: &str, attack: impl FnOnce() -> T) -> T {
        let started = self.started.load(SeqCst);
        let before = self.edge.resident_bytes();
        let bystander = Bystander::start(http1(&self.edge));
        let elsewhere = Bystander::start(http1(&self.elsewhere));
        let said = attack();
        let (seen, elsewhere) = (bystander.stop(), elsewhere.stop().p99);
        let after = self.edge.resident_bytes();
        let started = self.started.load(SeqCst) - started;
        self.note(name, &seen, elsewhere, [before, after], started);
        let most = FLOOR.max(3 * self.quiet.max(elsewhere));
        let otherwise = format!("before that {:?}, elsewhere {elsewhere:?}", self.quiet);
        assert_eq!(seen.errors, 0, "{name}: the bystander is not served");
        assert!(seen.p99 <= most, "{name}: the bystander waited {:?}; {otherwise}", seen.p99);
        let grown = after.saturating_sub(self.memory);
        assert!(grown <= MOST_MEMORY, "{name}: memory has grown by {grown} bytes");
        assert!(self.edge.is_running());
        said
    }

    fn note(&self, name: &str, seen: &Seen, elsewhere: Duration, rss: [u64; 2], started: usize) {
        let ms = |time: Duration| (time.as_secs_f64() * 1e5).round() / 100.0;
        let figures = json!({
            "attack": name,
            "requests": seen.requests,
            "errors": seen.errors,
            "p99_ms": ms(seen.p99),
            "quiet_p99_ms": ms(self.quiet),
            "elsewhere_p99_ms": ms(elsewhere),
            "rss_before_kib": rss[0] / 1024,
            "rss_after_kib": rss[1] / 1024,
            "at_the_endpoint": started,
        });
        // The only way to tell it to whoever runs the test.
        #[expect(clippy::print_stderr)]
        {
            eprintln!("{figures}");
        }
        if let Some(path) = std::env::var_os("MERIDIAN_ATTACK_FIGURES") {
            let file = OpenOptions::new().append(true).create(true).open(path);
            // In one write: other tests append to it as well.
            let line = format!("{figures}\n");
            file.expect("a writable file").write_all(line.as_bytes()).expect("a writable file");
        }
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
pub(crate) fn http1(edge: &Meridian) -> SocketAddr {
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
    thread: JoinHandle<Seen>,
}

/// What a bystander saw.
struct Seen {
    requests: usize,
    errors: usize,
    /// The time within which 99 of 100 answers came.
    p99: Duration,
}

impl Bystander {
    fn start(address: SocketAddr) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let seen = stop.clone();
        let thread = spawn(move || {
            let mut client = Client::try_connect(address).ok();
            let (mut took, mut errors) = (Vec::new(), 0);
            while !seen.load(SeqCst) || took.len() < 10 {
                let begun = Instant::now();
                let ask = |client: &mut Client| client.try_request("GET", "/bystander", &[], b"");
                let answer = client.as_mut().and_then(|client| ask(client).ok());
                took.push(begun.elapsed());
                if answer.is_none_or(|answer| answer.status != 200) {
                    errors += 1;
                    client = Client::try_connect(address).ok();
                }
                sleep(PACE.saturating_sub(begun.elapsed()));
            }
            took.sort_unstable();
            let p99 = took[(took.len() * 99).div_ceil(100) - 1];
            Seen { requests: took.len(), errors, p99 }
        });
        Self { stop, thread }
    }

    fn stop(self) -> Seen {
        self.stop.store(true, SeqCst);
        self.thread.join().expect("a bystander")
    }
}
