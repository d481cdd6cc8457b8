//! The slow ones of HTTP/1.1, a hundred at a time: heads, bodies, readers.

use std::thread::sleep;
use std::time::{Duration, Instant};

use meridian_tests::{End, Wire};

use crate::scene::{SOON, Scene, http1};

const MANY: usize = 100;
/// Between two pieces.
const PACE: Duration = Duration::from_millis(200);
/// Between two that come to read.
const ARRIVAL: Duration = Duration::from_millis(15);
const PATIENCE: Duration = Duration::from_millis(1);

fn connected(scene: &Scene) -> Vec<Wire> {
    let one = |_| Wire::connect(http1(&scene.edge), PATIENCE).expect("a connection");
    (0..MANY).map(one).collect()
}

/// Sends all of them another piece now and then, until none takes it any more: how long that was.
#[track_caller]
fn until_all_are_gone(wires: &mut Vec<Wire>, most: Duration, piece: &[u8]) -> Duration {
    let begun = Instant::now();
    while !wires.is_empty() {
        assert!(begun.elapsed() < most, "{} are still there", wires.len());
        wires.retain_mut(|wire| wire.send(piece).is_ok() && !is_over(wire));
        sleep(PACE);
    }
    begun.elapsed()
}

/// The other side has ended it; an answer that comes before that is read.
fn is_over(wire: &mut Wire) -> bool {
    match wire.read_some() {
        Ok(bytes) => bytes.is_empty(),
        Err(error) => meridian_tests::end_of(&error) != End::Open,
    }
}

#[test]
fn heads() {
    let scene = Scene::new();
    scene.suffer("slow head, HTTP/1.1", || {
        let mut wires = connected(&scene);
        for wire in &mut wires {
            wire.send(b"GET /attack HTTP/1.1\r\nHost: a\r\n").expect("a connection");
        }
        // The whole head has a second.
        until_all_are_gone(&mut wires, Duration::from_secs(1) + SOON, b"x-more: 1\r\n");
    });
    assert_eq!(scene.asked(), 0);
}

#[test]
fn bodies() {
    let scene = Scene::new();
    scene.suffer("slow body, HTTP/1.1", || {
        let mut wires = connected(&scene);
        for wire in &mut wires {
            let head = b"POST /attack HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n";
            wire.send(head).expect("a connection");
        }
        // The whole request has six seconds.
        until_all_are_gone(&mut wires, Duration::from_secs(6) + SOON, b"x");
    });
    assert!(scene.asked() <= MANY, "{}", scene.asked());
}

#[test]
fn readers() {
    let scene = Scene::new();
    scene.suffer("slow reader, HTTP/1.1", || {
        let mut wires = connected(&scene);
        for wire in &mut wires {
            // Much more than a socket holds.
            let asks = b"GET /attack/large HTTP/1.1\r\nHost: a\r\n\r\n".repeat(20);
            wire.send(&asks).expect("a connection");
            // A crowd at once is another matter: all of it is work.
            sleep(ARRIVAL);
        }
        let open = || {
            let name = "meridian_connections{listener=\"public\",protocol=\"http1\"}";
            scene.edge.admin().metric(name).unwrap_or(0.0)
        };
        let begun = Instant::now();
        // The bystander's own is left.
        while open() > 1.0 {
            assert!(begun.elapsed() < Duration::from_secs(20), "{} are still there", open());
            sleep(PACE);
        }
    });
}
