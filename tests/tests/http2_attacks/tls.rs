//! The same under TLS, where what is to be sent waits in another place.

use std::time::Duration;

use meridian_tests::h2_frames::{H2, frame, get, headers, kind, request_block, reset, window};
use meridian_tests::{End, Site};
use rustls::ALL_VERSIONS;

use crate::scene::{SOON, Scene, assert_told_off, repeat};

fn scene() -> (Site, Scene) {
    let site = Site::new(&[("a", &["a.example"])]);
    let plain = "[[listeners]]\nname = \"public\"\nprotocols = [\"http1\", \"h2c\"]\n";
    let scene = Scene::with(&(plain.to_owned() + &site.listener(&["a"], "")));
    (site, scene)
}

fn attacker(site: &Site, scene: &Scene, settings: &[(u16, u32)]) -> H2 {
    let mut config = site.client_config(ALL_VERSIONS);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut wire = site.wire(config, scene.edge.listener("tls"), "a.example");
    wire.handshake().expect("a handshake");
    let mut attacker = H2::on(wire);
    attacker.greet(settings);
    attacker.wire.patience = SOON;
    attacker
}

#[test]
fn pings() {
    let (site, scene) = scene();
    scene.suffer("flood: PING, under TLS", || {
        let mut attacker = attacker(&site, &scene, &[]);
        let many = frame(kind::PING, 0, 0, b"01234567").repeat(4000);
        repeat(&mut attacker, 1024, |_| many.clone());
        assert_told_off(&mut attacker);
    });
}

#[test]
fn rapid_resets() {
    let (site, scene) = scene();
    scene.suffer("rapid reset, under TLS", || {
        let mut attacker = attacker(&site, &scene, &[]);
        repeat(&mut attacker, 200, |n| {
            let one =
                |m: u32| [get(2 * (100 * n + m) + 1, "/attack"), reset(2 * (100 * n + m) + 1)];
            (0..100).flat_map(one).flatten().collect()
        });
        assert_told_off(&mut attacker);
    });
    assert!(scene.asked() <= 5, "{}", scene.asked());
}

#[test]
fn answers_that_are_never_read() {
    let (site, scene) = scene();
    scene.suffer("slow reader, HTTP/2 under TLS", || {
        let mut attacker = attacker(&site, &scene, &[(4, 1 << 20)]);
        attacker.send(&window(0, 1 << 30)).expect("a connection");
        for n in 0..50 {
            let block = request_block("GET", "/attack/large", &[]);
            attacker.send(&headers(2 * n + 1, true, &block)).expect("a connection");
        }
        std::thread::sleep(Duration::from_secs(8));
        // What has come in the meantime is read; then it is over.
        assert_ne!(attacker.ending(SOON).end, End::Open);
    });
}
