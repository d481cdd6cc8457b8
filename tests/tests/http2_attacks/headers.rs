//! Header blocks: without end, out of proportion, and byte by byte.

use std::thread::sleep;
use std::time::{Duration, Instant};

use meridian_tests::End;
use meridian_tests::h2_frames::{H2, PREFACE, code, flag, frame, headers, kind, request_block};

use crate::scene::{SOON, Scene, assert_told_off, repeat};

/// `name: value` that enters the table.
fn indexed(name: &str, value: &[u8]) -> Vec<u8> {
    let mut block = vec![0x40, name.len() as u8];
    block.extend_from_slice(name.as_bytes());
    // 127 and the rest, in two bytes.
    let rest = value.len() - 127;
    block.extend_from_slice(&[0x7f, 0x80 | (rest % 128) as u8, (rest / 128) as u8]);
    block.extend_from_slice(value);
    block
}

#[test]
fn continuations_without_end() {
    let scene = Scene::new();
    for piece in [0, 1, 16_384] {
        scene.suffer(&format!("CONTINUATION flood, {piece} bytes each"), || {
            let mut attacker = scene.attacker(&[]);
            let begun = frame(kind::HEADERS, flag::END_STREAM, 1, &[]);
            attacker.send(&begun).expect("a connection");
            let piece = frame(kind::CONTINUATION, 0, 1, &vec![0x82; piece]);
            repeat(&mut attacker, 20_000, |_| piece.clone());
            assert_told_off(&mut attacker);
        });
    }
    assert_eq!(scene.asked(), 0);
}

/// An entry of nearly the whole table, named again 16,000 times in each request: 64 MB in each frame of 16 KB.
#[test]
fn a_bomb_of_references() {
    let scene = Scene::new();
    let refused = scene.suffer("HPACK bomb", || {
        let mut attacker = scene.attacker(&[]);
        let bomb = indexed("x-bomb", &[b'x'; 4000]);
        let mut block = request_block("GET", "/attack", &[]);
        block.extend_from_slice(&bomb);
        block.resize(16_000, 0x80 | 62);
        for n in 0..100 {
            attacker.send(&headers(2 * n + 1, true, &block)).expect("a connection");
            attacker.expect("an answer", |f| f.stream == 2 * n + 1 && f.status() == Some(431));
        }
        100
    });
    assert_eq!((refused, scene.asked()), (100, 0));
}

/// Each field enters the table and pushes another one out.
#[test]
fn a_table_that_is_churned() {
    let scene = Scene::new();
    scene.suffer("HPACK table churned", || {
        let mut attacker = scene.attacker(&[]);
        let mut block = request_block("GET", "/attack", &[]);
        while block.len() < 16_000 {
            let [a, b] = (block.len() as u16).to_be_bytes();
            block.extend_from_slice(&[0x40, 1, b'a' + (b % 26), 1, b'a' + (a % 26)]);
        }
        for n in 0..200 {
            attacker.send(&headers(2 * n + 1, true, &block)).expect("a connection");
            attacker.expect("an answer", |f| f.stream == 2 * n + 1 && f.status() == Some(431));
        }
    });
    assert_eq!(scene.asked(), 0);
}

/// Lists just below what is allowed, of requests whose answers are not waited for.
#[test]
fn large_heads_on_every_stream() {
    let scene = Scene::new();
    scene.suffer("large heads on every stream", || {
        let mut attacker = scene.attacker(&[]);
        let mut block = request_block("GET", "/attack", &[]);
        for n in 0..15 {
            block.extend_from_slice(&indexed(&format!("x-{n}"), &[b'x'; 4000]));
        }
        let pieces: Vec<_> = block.chunks(16_384).collect();
        repeat(&mut attacker, 150, |n| {
            let last = pieces.len() - 1;
            let frames = pieces.iter().enumerate().flat_map(|(at, piece)| {
                let end = if at == last { flag::END_HEADERS } else { 0 };
                match at {
                    0 => frame(kind::HEADERS, end | flag::END_STREAM, 2 * n + 1, piece),
                    _ => frame(kind::CONTINUATION, end, 2 * n + 1, piece),
                }
            });
            frames.collect()
        });
    });
    assert!(scene.asked() <= 150);
}

#[test]
fn a_head_of_a_byte_at_a_time() {
    let scene = Scene::new();
    scene.suffer("slow head, HTTP/2", || {
        // After settings, and from the beginning.
        let rested = scene.attacker(&[]);
        sleep(Duration::from_millis(300));
        let fresh = H2::silent(scene.edge.address());
        let head = headers(1, true, &request_block("GET", "/attack", &[]));
        let slow = |mut attacker: H2, bytes: &[u8]| {
            let begun = Instant::now();
            let mut bytes = bytes.iter();
            while begun.elapsed() < Duration::from_secs(3)
                && let Some(byte) = bytes.next()
                && attacker.send(&[*byte]).is_ok()
            {
                sleep(Duration::from_millis(250));
            }
            let ending = attacker.ending(SOON);
            assert_ne!(ending.end, End::Open);
            assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
            assert!(matches!(ending.goodbye(), None | Some(code::ENHANCE_YOUR_CALM)));
        };
        std::thread::scope(|scope| {
            scope.spawn(|| slow(fresh, PREFACE));
            scope.spawn(|| slow(rested, &head));
        });
    });
    assert_eq!(scene.asked(), 0);
}
