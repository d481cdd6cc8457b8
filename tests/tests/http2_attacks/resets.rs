//! Streams that are begun and given up: rapid reset (CVE-2023-44487), and resets that the edge is made to send
//! (MadeYouReset, CVE-2025-8671).

use meridian_tests::h2_frames::{
    data, fields, flag, get, headers, kind, request_block, reset, window,
};

use crate::scene::{Scene, assert_told_off, repeat};

/// What is said on a stream.
type Frames<'a> = &'a dyn Fn(u32) -> Vec<u8>;

/// Requests that reach the endpoint of those that are given up at once: those whose reset came in another read.
const MOST_ASKED: usize = 130;
/// Requests to warm up with.
const WARM: u32 = 60;
/// The largest window.
const MOST: u32 = 0x7fff_ffff;

fn upload(id: u32, more: &[(&str, &str)]) -> Vec<u8> {
    headers(id, false, &request_block("POST", "/attack", more))
}

/// Does the same on 10,000 streams of a connection, fifty in a breath, and on the next one when that is ended.
#[track_caller]
fn cut_off_again_and_again(scene: &Scene, name: &str, one: Frames<'_>) {
    scene.suffer(name, || {
        for _ in 0..5 {
            let mut attacker = scene.attacker(&[]);
            repeat(&mut attacker, 200, |n| {
                (0..50).flat_map(|m| one(2 * (50 * n + m) + 1)).collect()
            });
            assert_told_off(&mut attacker);
        }
    });
}

#[test]
fn rapid_resets_in_one_breath_reach_no_endpoint() {
    let scene = Scene::new();
    // Connections to the endpoint lie ready: nothing has to be waited for.
    let mut client = scene.attacker(&[]);
    for n in 0..WARM {
        client.send(&get(2 * n + 1, "/attack")).expect("a connection");
    }
    for _ in 0..WARM {
        client.expect("an answer", |f| f.kind == kind::DATA && f.has(flag::END_STREAM));
    }
    cut_off_again_and_again(&scene, "rapid reset, in one breath", &|id| {
        [get(id, "/attack"), reset(id)].concat()
    });
    assert!(scene.asked() <= WARM as usize + 5, "{}", scene.asked());
}

#[test]
fn rapid_resets_one_by_one_are_cut_off() {
    let scene = Scene::new();
    scene.suffer("rapid reset, one by one", || {
        let mut attacker = scene.attacker(&[]);
        for n in 0..5_000 {
            let id = 2 * n + 1;
            // The request is at the endpoint before it is given up.
            if attacker.send(&get(id, "/attack")).is_err() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
            if attacker.send(&reset(id)).is_err() {
                break;
            }
            assert!(n < 4_000, "it goes on for ever");
        }
        assert_told_off(&mut attacker);
    });
    assert!(scene.asked() <= MOST_ASKED, "{}", scene.asked());
}

#[test]
fn resets_that_are_provoked_reach_no_endpoint() {
    let length = [("content-length", "1")];
    let trailers = |id| headers(id, true, &fields(&[(":path", "/")]));
    let hop = request_block("GET", "/attack", &[("connection", "x")]);
    let provoke: [(&str, Frames<'_>); 7] = [
        ("a window of nothing", &|id| [upload(id, &[]), window(id, 0)].concat()),
        ("a window that overflows", &|id| [get(id, "/attack"), window(id, MOST)].concat()),
        ("data behind the end", &|id| [get(id, "/attack"), data(id, true, b"x")].concat()),
        ("a second head", &|id| get(id, "/attack").repeat(2)),
        ("trailers that are none", &|id| [upload(id, &[]), trailers(id)].concat()),
        ("a long body", &|id| [upload(id, &length), data(id, true, b"xx")].concat()),
        ("malformed heads", &|id| headers(id, true, &hop)),
    ];
    let scene = Scene::new();
    for (name, one) in provoke {
        cut_off_again_and_again(&scene, &format!("MadeYouReset: {name}"), one);
    }
    assert!(scene.asked() <= 20, "{}", scene.asked());
}

#[test]
fn more_streams_than_allowed() {
    let scene = Scene::new();
    scene.suffer("more streams than allowed", || {
        let mut attacker = scene.attacker(&[(4, 0)]);
        repeat(&mut attacker, 200, |n| {
            (0..100).flat_map(|m| get(2 * (100 * n + m) + 1, "/attack/large")).collect()
        });
        assert_told_off(&mut attacker);
    });
}
