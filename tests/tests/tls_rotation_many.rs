//! A hundred rotations under two hundred handshakes a second.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use meridian_tests::{Answer, Backend, Client, Meridian, Site, one_region};

const HOST: &str = "a.example";
const ROTATIONS: usize = 100;
/// A second.
const HANDSHAKES: u64 = 200;
const CLIENTS: u64 = 8;
const EVERY: Duration = Duration::from_millis(100);

/// Sets its flag also when a test fails.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn a_hundred_rotations_fail_no_handshake() {
    let site = Site::new(&[("a", &[HOST])]);
    let backend = Backend::answering("here", |request| Answer::ok(request.target.clone()));
    let edge = Meridian::start(&(one_region(&backend) + &site.listener(&["a"], "")));
    let (done, shaken, slowest) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicU64::new(0));
    let began = Instant::now();
    let took = std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (site, edge, done, shaken, slowest) = (&site, &edge, &done, &shaken, &slowest);
            scope.spawn(move || {
                let pause = Duration::from_micros(1_000_000 * CLIENTS / HANDSHAKES);
                let mut due = began + pause / CLIENTS as u32 * client as u32;
                while !done.load(SeqCst) {
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    due += pause;
                    let version = if client % 2 == 0 {
                        &rustls::version::TLS13
                    } else {
                        &rustls::version::TLS12
                    };
                    let config = site.client_config(&[version]);
                    let start = Instant::now();
                    let mut wire = site.wire(config, edge.address(), HOST);
                    // Panics where one fails, also if its certificate and key do not belong together.
                    wire.handshake().expect("a handshake");
                    assert_eq!(Client::on(wire).host(HOST).get("/x").text(), "/x");
                    let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
                    slowest.fetch_max(micros, SeqCst);
                    shaken.fetch_add(1, SeqCst);
                }
            });
        }
        let guard = OnDrop(&done);
        for n in 0..ROTATIONS {
            let due = began + EVERY * u32::try_from(n).unwrap_or(u32::MAX);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let pair = site.issue(&[HOST]);
            // The certificate first, then its key: between the two they do not fit.
            site.put("a", &pair);
            let reload = edge.admin().post("/api/v1/reload", &serde_json::json!({}));
            assert_eq!(reload.status, 200, "{}", reload.text());
            let mut client = site.client(edge.address(), HOST);
            let shown =
                client.wire().session().peer_certificates().expect("a certificate")[0].to_vec();
            assert!(shown == pair.der, "rotation {n} is not in force");
        }
        drop(guard);
        began.elapsed()
    });
    let (shaken, seconds) = (shaken.load(SeqCst), took.as_secs_f64());
    let rate = shaken as f64 / seconds;
    let slowest = slowest.load(SeqCst) / 1000;
    println!("{shaken} handshakes in {seconds:.1} s: {rate:.0} a second, the slowest {slowest} ms");
    let full = edge.admin().metric_sum("meridian_tls_handshakes_total", &["result=\"full\""]);
    let failed = ["failed", "late", "unproven"].map(|result| {
        edge.admin().metric_sum("meridian_tls_handshakes_total", &[&format!("\"{result}\"")])
    });
    assert_eq!(failed, [0.0; 3]);
    assert_eq!(full, (shaken + ROTATIONS) as f64);
    // A machine that is busy with other tests may not manage all of them.
    assert!(rate > HANDSHAKES as f64 / 2.0, "only {rate:.0} a second");
}
