//! Many sessions at once, with replicas that lag, stop and catch up: what each session sees only grows.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use meridian_tests::Meridian;

use crate::scene::{Scene, position, reads, token};

/// Operations of each session's two clients.
const OPERATIONS: u64 = 500;

/// One session, as two clients at a time have it: a cookie jar, and the highest that either has seen.
#[derive(Default)]
struct Jar {
    token: Mutex<String>,
    seen: AtomicU64,
}

impl Jar {
    /// One write or read; what it shows must not be below what had been seen when it began.
    fn operate(&self, edge: &Meridian, is_write: bool) {
        let (token_then, seen) = {
            let token = self.token.lock().expect("no panic").clone();
            (token, self.seen.load(SeqCst))
        };
        let cookie = format!("__meridian={token_then}");
        let mut fields = vec![("Connection", "close")];
        if !token_then.is_empty() {
            fields.push(("Cookie", &cookie));
        }
        let method = if is_write { "POST" } else { "GET" };
        let answer = edge.client().request(method, "/", &fields, b"");
        assert_eq!(answer.status, 200, "never an error while the primary lives: {answer:?}");
        let shown = position(&answer);
        let began_in_session = !token_then.is_empty();
        assert!(is_write || !began_in_session || shown >= seen, "{shown} after {seen} was seen");
        // As a browser does: the last one that comes in counts, whatever it says.
        if let Some(token) = token(&answer) {
            *self.token.lock().expect("no panic") = token;
        }
        if began_in_session || is_write {
            self.seen.fetch_max(shown, SeqCst);
        }
    }
}

/// Who fails ends the test for the others.
struct EndsWithAPanic<'a>(&'a AtomicBool);

impl Drop for EndsWithAPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, SeqCst);
        }
    }
}

fn disturb(scene: &Scene, stop: &AtomicBool) {
    let mut dice = fastrand::Rng::with_seed(7);
    while !stop.load(SeqCst) {
        let region = dice.usize(1..3);
        match dice.u32(0..3) {
            0 => scene.database.pause(region),
            1 => scene.database.follow(region, 0),
            _ => scene.database.follow(region, dice.u64(0..80)),
        }
        thread::sleep(Duration::from_millis(dice.u64(5..60)));
    }
}

#[test]
fn two_clients_of_a_session_never_see_it_go_back() {
    let scene = Scene::new();
    let edge = scene.edge();
    let stop = AtomicBool::new(false);
    let jars: Vec<Jar> = (0..4).map(|_| Jar::default()).collect();
    thread::scope(|scope| {
        scope.spawn(|| disturb(&scene, &stop));
        let clients: Vec<_> = jars
            .iter()
            .enumerate()
            .flat_map(|(n, jar)| [(n, jar, 0), (n, jar, 1)])
            .map(|(n, jar, client)| {
                let edge = &edge;
                let stop = &stop;
                scope.spawn(move || {
                    let _ends = EndsWithAPanic(stop);
                    let mut dice = fastrand::Rng::with_seed(n as u64 * 2 + client);
                    if client == 0 {
                        jar.operate(edge, true);
                    }
                    // The session has begun once there is a token; before that there are two of them.
                    while jar.token.lock().expect("no panic").is_empty() && !stop.load(SeqCst) {
                        thread::yield_now();
                    }
                    for _ in 0..OPERATIONS {
                        if stop.load(SeqCst) {
                            break;
                        }
                        jar.operate(edge, dice.u32(0..4) == 0);
                    }
                })
            })
            .collect();
        let fine: Vec<_> = clients.into_iter().map(|client| client.join().is_ok()).collect();
        assert!(fine.iter().all(|fine| *fine), "a client saw its session go back");
        stop.store(true, SeqCst);
    });
    let told: Vec<_> = ["replica", "waited", "primary", "primary-anyway", "refuted"]
        .map(|outcome| (outcome, reads(&edge, outcome)))
        .into();
    assert!(reads(&edge, "replica") > 0.0 && reads(&edge, "primary") > 0.0, "{told:?}");
}
