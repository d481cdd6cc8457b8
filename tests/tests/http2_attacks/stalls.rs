//! Clients that ask and do not take.

use std::thread::sleep;
use std::time::{Duration, Instant};

use meridian_tests::End;
use meridian_tests::h2_frames::{H2, code, get, headers, kind, request_block, settings, window};

use crate::scene::{LARGE, SOON, Scene, repeat};

/// Asks for as much as it may, and keeps the windows shut.
fn ask_for_much(attacker: &mut H2, streams: u32) {
    for n in 0..streams {
        attacker.send(&get(2 * n + 1, "/attack/large")).expect("a connection");
    }
}

#[test]
fn windows_of_nothing() {
    let scene = Scene::new();
    scene.suffer("zero window", || {
        let mut attacker = scene.attacker(&[(4, 0)]);
        ask_for_much(&mut attacker, 100);
        // All of them are given up when nothing has moved for a second; the connection when it has been idle for two.
        let ending = attacker.ending(Duration::from_secs(12));
        let resets = ending.frames.iter().filter(|f| f.kind == kind::RST_STREAM).count();
        assert_eq!((resets, ending.end), (100, End::Closed));
        assert_eq!(ending.goodbye(), Some(code::NO_ERROR));
    });
}

#[test]
fn a_window_of_the_connection_that_stays_shut() {
    let scene = Scene::new();
    scene.suffer("zero window of the connection", || {
        let mut attacker = scene.attacker(&[(4, 1 << 20)]);
        ask_for_much(&mut attacker, 100);
        let ending = attacker.ending(Duration::from_secs(12));
        let bodies: usize = (0..100).map(|n| ending.body(2 * n + 1)).sum();
        assert_eq!((bodies, ending.end), (65_535, End::Closed));
    });
}

#[test]
fn a_window_that_opens_byte_by_byte() {
    let scene = Scene::new();
    scene.suffer("window of a byte at a time", || {
        let mut attacker = scene.attacker(&[(4, 0)]);
        attacker.send(&get(1, "/attack/large")).expect("a connection");
        let begun = Instant::now();
        let mut said = 0;
        while begun.elapsed() < Duration::from_secs(8) {
            let more = window(1, 1).repeat(20);
            if attacker.send(&more).is_err() {
                break;
            }
            said += 20;
            sleep(Duration::from_millis(2));
        }
        // The whole request is over after six seconds, however it goes on.
        let ending = attacker.ending(SOON);
        let end = ending.frames.iter().find(|f| f.kind == kind::RST_STREAM && f.stream == 1);
        assert!(end.is_some() || ending.end != End::Open, "{:?}", ending.frames.last());
        assert!(ending.body(1) <= said.min(LARGE as usize));
    });
}

#[test]
fn windows_that_open_and_shut() {
    let scene = Scene::new();
    scene.suffer("windows that open and shut", || {
        let mut attacker = scene.attacker(&[(4, 0)]);
        ask_for_much(&mut attacker, 50);
        let said = repeat(&mut attacker, 2_000, |n| settings(&[(4, n % 2)]));
        let ending = attacker.ending(Duration::from_secs(12));
        assert!(said < 2_000 || ending.goodbye().is_some(), "{said}");
        assert_ne!(ending.end, End::Open);
    });
}

#[test]
fn answers_that_are_never_read() {
    let scene = Scene::new();
    scene.suffer("slow reader, HTTP/2", || {
        let mut attacker = scene.attacker(&[(4, 1 << 20)]);
        attacker.send(&window(0, 1 << 30)).expect("a connection");
        attacker.wire.patience = Duration::from_secs(1);
        let begun = Instant::now();
        // It asks as long as the edge listens, and reads nothing.
        repeat(&mut attacker, 100_000, |n| {
            sleep(Duration::from_millis(1));
            get(2 * n + 1, "/attack/large")
        });
        // By then nothing is there that could tell it so; that it is over is seen at the edge.
        let open = || {
            let text = scene
                .edge
                .admin()
                .metric("meridian_connections{listener=\"public\",protocol=\"http2\"}");
            text.unwrap_or(0.0)
        };
        while open() > 0.0 {
            assert!(begun.elapsed() < Duration::from_secs(20), "it is still there");
            sleep(Duration::from_millis(100));
        }
    });
}

#[test]
fn uploads_that_stop() {
    let scene = Scene::new();
    scene.suffer("slow body, HTTP/2", || {
        let mut attacker = scene.attacker(&[]);
        for n in 0..100 {
            let upload = headers(2 * n + 1, false, &request_block("POST", "/attack", &[]));
            attacker.send(&upload).expect("a connection");
        }
        let ending = attacker.ending(Duration::from_secs(12));
        let answered = ending.frames.iter().filter(|f| f.status() == Some(408)).count();
        assert_eq!((answered, ending.end), (100, End::Closed), "{:?}", ending.frames.last());
    });
}
