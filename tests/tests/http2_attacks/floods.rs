//! Frames that bring nothing, without end.

use meridian_tests::End;
use meridian_tests::h2_frames::{
    code, data, flag, frame, headers, kind, request_block, settings, window,
};

use crate::scene::{SOON, Scene, assert_told_off, repeat};

/// Many at once, so that the attacker is not what is slow.
fn many(one: &[u8]) -> Vec<u8> {
    one.repeat((64 * 1024_usize).div_ceil(one.len()))
}

#[test]
fn frames_that_bring_nothing() {
    let changes: Vec<_> = (0..2700).map(|n| (4, n)).collect();
    let scene = Scene::new();
    for (name, one) in [
        ("PING", frame(kind::PING, 0, 0, b"01234567")),
        ("empty SETTINGS", settings(&[])),
        ("SETTINGS that change all windows", settings(&changes)),
        ("PRIORITY", frame(kind::PRIORITY, 0, 5, &[0, 0, 0, 0, 1])),
        ("empty DATA", data(1, false, b"")),
        ("padding", frame(kind::DATA, flag::PADDED, 1, &[3, 0, 0, 0])),
        ("unknown frames", frame(0x77, 0, 0, b"anything")),
        ("GOAWAY", frame(kind::GOAWAY, 0, 0, &[0; 8])),
    ] {
        scene.suffer(&format!("flood: {name}"), || {
            let mut attacker = scene.attacker(&[]);
            let upload = headers(1, false, &request_block("POST", "/attack", &[]));
            attacker.send(&upload).expect("a connection");
            let many = many(&one);
            // 64 MiB, if they are taken.
            repeat(&mut attacker, 1024, |_| many.clone());
            assert_told_off(&mut attacker);
        });
    }
    assert!(scene.asked() <= 8);
}

#[test]
fn windows_that_overflow() {
    let scene = Scene::new();
    scene.suffer("window that overflows", || {
        let mut attacker = scene.attacker(&[]);
        attacker.send(&window(0, 0x7fff_ffff)).expect("a connection");
        let ending = attacker.ending(SOON);
        assert_eq!((ending.goodbye(), ending.end), (Some(code::FLOW_CONTROL_ERROR), End::Closed));
    });
}
