//! Certificates whose files change while clients shake hands.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use meridian_tests::{Answer, Backend, Meridian, Pair, Site, eventually, one_region, poll};

const HOST: &str = "a.example";

struct Stage {
    site: Site,
    edge: Meridian,
    _backend: Backend,
}

fn stage() -> Stage {
    let site = Site::new(&[("a", &[HOST])]);
    let backend = Backend::answering("here", |request| Answer::ok(request.target.clone()));
    let edge = Meridian::start(&(one_region(&backend) + &site.listener(&["a"], "")));
    Stage { site, edge, _backend: backend }
}

/// What the edge shows for the host.
fn shown(site: &Site, edge: &Meridian) -> Vec<u8> {
    let mut client = site.client(edge.address(), HOST);
    client.wire().session().peer_certificates().expect("a certificate")[0].to_vec()
}

#[track_caller]
fn is_served(site: &Site, edge: &Meridian, pair: &Pair) {
    let within = Duration::from_secs(15);
    let served = poll(within, || (shown(site, edge) == pair.der).then_some(()));
    assert!(served.is_some(), "the new certificate is not served");
}

#[test]
fn certificates_rotate_under_load_without_a_failure() {
    let stage = stage();
    let (done, shaken) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    // Panics where one fails.
                    let mut client = stage.site.client(stage.edge.address(), HOST);
                    assert_eq!(client.get("/x").text(), "/x");
                    shaken.fetch_add(1, SeqCst);
                }
            });
        }
        let guard = OnDrop(&done);
        let mut lasting = stage.site.client(stage.edge.address(), HOST);
        for n in 0..20 {
            let pair = stage.site.issue(&[HOST]);
            stage.site.put("a", &pair);
            if n % 2 == 0 {
                let reload = stage.edge.admin().post("/api/v1/reload", &serde_json::json!({}));
                assert_eq!(reload.status, 200, "{}", reload.text());
            }
            is_served(&stage.site, &stage.edge, &pair);
            assert_eq!(lasting.get("/y").text(), "/y", "an open connection goes on");
        }
        drop(guard);
    });
    assert!(shaken.load(SeqCst) > 50, "{}", shaken.load(SeqCst));
}

/// Sets its flag also when a test fails.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn a_broken_pair_keeps_the_last_good_one() {
    let stage = stage();
    let first = stage.site.issue(&[HOST]);
    stage.site.put("a", &first);
    is_served(&stage.site, &stage.edge, &first);
    let next = stage.site.issue(&[HOST]);
    for (file, text) in [
        ("a.pem", next.certificate.as_str()),
        ("a.pem", ""),
        ("a.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ("a.key", next.key.as_str()),
        ("a.key", &next.key[..next.key.len() / 2]),
    ] {
        let failures = || {
            let name = "meridian_certificate_reload_failures_total";
            stage.edge.admin().metric(name).expect("a counter")
        };
        let before = failures();
        stage.site.put_file(file, text);
        eventually("it is refused", Duration::from_secs(15), || failures() > before);
        assert!(shown(&stage.site, &stage.edge) == first.der, "{file}");
        // Nor by asking for it.
        let asked = stage.edge.admin().post("/api/v1/reload", &serde_json::json!({}));
        assert!(asked.status >= 400, "{}", asked.text());
        assert!(shown(&stage.site, &stage.edge) == first.der, "{file}");
        stage.site.put("a", &first);
        eventually("all is well again", Duration::from_secs(15), || {
            stage.edge.admin().post("/api/v1/reload", &serde_json::json!({})).status == 200
        });
    }
    stage.site.put("a", &next);
    is_served(&stage.site, &stage.edge, &next);
}
