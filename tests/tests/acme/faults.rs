//! What goes wrong, and that it disturbs nobody.

use std::sync::Arc;
use std::time::{Duration, Instant};

use meridian_tests::{
    Answer, Backend, Body, Meridian, Pebble, PebblePlace, Signal, Site, eventually, free_address,
    loopback, pebble_is_installed,
};
use serde_json::json;

use crate::stage::{HOST, PATIENCE, Stage, failing, issued, open, shake, view};

/// Something at a directory's place that is no directory.
fn impostor(answer: impl Fn() -> Answer + Send + Sync + 'static) -> (Backend, Site, String) {
    let site = Site::new(&[]);
    let pair = site.issue(&[&loopback().to_string()]);
    let backend = Backend::answering("authority", move |_| answer());
    backend.secure(site.server_config(&pair, rustls::ALL_VERSIONS, None));
    let acme = format!(
        "[acme]\ndirectory = \"https://{}/dir\"\nca = \"{}\"\nagree_to_terms = true\nbackoff = \"300ms\"\n",
        backend.address(),
        site.root().display()
    );
    (backend, site, acme)
}

#[test]
fn a_directory_that_is_none_is_told_and_left_alone_when_it_says_so() {
    let stage = Stage::new();
    let page = || Answer::new(500, Body::Whole(b"<html>".to_vec()));
    let (backend, _site, acme) = impostor(page);
    let edge = Meridian::start(&stage.text(&acme, &[&[HOST]], &stage.file_line()));
    let why = failing(&edge, HOST);
    assert!(why.contains("directory") || why.contains("500"), "{why}");
    assert!(why.contains("it answered 500 Internal Server Error"), "{why}");
    // Pauses grow.
    eventually("it is tried again", PATIENCE, || view(&edge, HOST)["failures"].as_u64() >= Some(3));
    let often = backend.requests().len();
    assert!(often <= 6, "{often}");
    backend.set(|_| Answer::new(200, Body::Whole(b"<html>".to_vec())));
    eventually("what is no ACME is told", PATIENCE, || {
        let why = view(&edge, HOST)["last_error"].clone();
        why.as_str().unwrap_or_default().contains("it answered what is not ACME")
    });
    let problem = json!({ "type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many" });
    backend.set(move |_| {
        Answer::new(429, Body::Whole(problem.to_string().into_bytes()))
            .header("Retry-After", "3600")
    });
    // A change is tried at once.
    let other = acme.replace("300ms", "200ms");
    assert_eq!(edge.reload(&stage.text(&other, &[&[HOST]], &stage.file_line())).status, 200);
    eventually("the limit is told", PATIENCE, || {
        let why = view(&edge, HOST)["last_error"].clone();
        why.as_str().unwrap_or_default().contains("429 Too Many Requests: too many (rateLimited)")
    });
    let next = view(&edge, HOST)["next_order_unix_ms"].as_f64().expect("a time") / 1000.0;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let wait = next - now.expect("after 1970").as_secs_f64();
    assert!((3500.0..3700.0).contains(&wait), "{wait}");
    let status = String::from_utf8(edge.cli(&["status"]).stdout).expect("text");
    assert!(status.contains("shop.example is NOT issued: "), "{status}");
    let file = Arc::new(stage.files.client_config(rustls::ALL_VERSIONS));
    shake(&stage.files, &file, stage.tls, "file.example").expect("others are served");
    assert_eq!(edge.admin().metric_sum("meridian_acme_failures_in_a_row", &[]), 1.0);
}

#[test]
fn a_directory_with_another_root_is_not_believed() {
    if !pebble_is_installed() {
        return;
    }
    let stage = Stage::new();
    let pebble = open(&stage);
    let ours = Site::new(&[]);
    let acme: String = pebble
        .acme()
        .lines()
        .map(|line| match line.starts_with("ca = ") {
            true => format!("ca = \"{}\"\n", ours.root().display()),
            false => format!("{line}\n"),
        })
        .collect();
    let edge = Meridian::start(&stage.text(&acme, &[&[HOST]], ""));
    let why = failing(&edge, HOST);
    assert!(why.contains("certificate"), "{why}");
    assert_eq!(pebble.requests(), 0);
    let missing = acme.replace("root.pem", "missing.pem");
    let refused = edge.reload(&stage.text(&missing, &[&[HOST]], ""));
    assert_eq!(refused.status, 422);
    assert!(refused.text().contains("acme: ca: "), "{}", refused.text());
    assert_eq!(edge.reload(&stage.text(&pebble.acme(), &[&[HOST]], "")).status, 200);
    issued(&pebble, &stage, HOST);
}

#[test]
fn rejected_nonces_are_tried_again() {
    if !pebble_is_installed() {
        return;
    }
    let stage = Stage::new();
    let authority = stage.authority().variable("PEBBLE_WFE_NONCEREJECT", "35");
    let pebble = PebblePlace::new().start(&authority);
    let acme = pebble.acme().replace("500ms", "50ms");
    let lists: &[&[&str]] = &[&[HOST, "b.example"], &["c.example"], &["d.example"]];
    let _edge = Meridian::start(&stage.text(&acme, lists, ""));
    for host in [HOST, "b.example", "c.example", "d.example"] {
        issued(&pebble, &stage, host);
    }
    assert!(
        pebble.log().contains("badNonce") || pebble.log().contains("reject"),
        "none was rejected"
    );
}

#[test]
fn a_challenge_that_fails_leaves_the_certificate_before() {
    if !pebble_is_installed() {
        return;
    }
    let stage = Stage::new();
    let pebble = open(&stage);
    let edge = Meridian::start(&stage.text(&pebble.acme(), &[&[HOST]], ""));
    let first = issued(&pebble, &stage, HOST);
    let config = Arc::new(pebble.client_config());

    // Another authority, which does not reach this edge: it asks somewhere else.
    let mut astray = stage.authority();
    astray.http = free_address();
    let other = PebblePlace::new().start(&astray);
    assert_eq!(edge.reload(&stage.text(&other.acme(), &[&[HOST]], "")).status, 200);
    let why = failing(&edge, HOST);
    for part in ["shop.example: http-01: ", "nobody asked this edge for the challenge"] {
        assert!(why.contains(part), "{why}");
    }
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        assert_eq!(shake(pebble.site(), &config, stage.tls, HOST).expect("it stays"), first);
    }
    assert!(edge.stderr().contains("not issued; the one before stays"));
    let of = view(&edge, HOST);
    assert!(of["not_after_unix_s"].is_i64() && of["failures"].as_u64() > Some(0), "{of}");
    let failed = "meridian_acme_orders_total{certificate=\"shop.example\",outcome=\"failed\"}";
    assert!(edge.admin().metric(failed) >= Some(1.0));

    // The next kind of challenge gets through.
    let both = other.acme() + "challenges = [\"http-01\", \"tls-alpn-01\"]\n";
    assert_eq!(edge.reload(&stage.text(&both, &[&[HOST]], "")).status, 200);
    let second = issued(&other, &stage, HOST);
    assert_ne!(second, first);
    eventually("all is well again", PATIENCE, || view(&edge, HOST)["state"] == "valid");
    let history = edge.admin().json("/api/v1/history").to_string();
    assert!(history.contains("\"to\":\"issued\""), "{history}");
}

#[test]
fn names_that_do_not_exist_do_not_hold_up_others() {
    if !pebble_is_installed() {
        return;
    }
    let stage = Stage::new();
    let pebble = open(&stage);
    let lists: &[&[&str]] =
        &[&["nowhere.one.example"], &["nowhere.two.example"], &["nowhere.three.example"], &[HOST]];
    let edge = Meridian::start(&stage.text(&pebble.acme(), lists, ""));
    issued(&pebble, &stage, HOST);
    let why = failing(&edge, "nowhere.one.example");
    assert!(why.contains("nowhere.one.example: http-01: "), "{why}");
    let refused =
        shake(pebble.site(), &Arc::new(pebble.client_config()), stage.tls, "nowhere.one.example");
    assert!(refused.is_err());
}

/// Accounts that were asked for.
fn accounts(pebble: &Pebble) -> usize {
    pebble.log().matches("/sign-me-up -> calling handler()").count()
}

#[test]
fn a_disk_that_takes_nothing_costs_one_account() {
    if !pebble_is_installed() {
        return;
    }
    let stage = Stage::new();
    let pebble = open(&stage);
    let without = stage.text("", &[], &stage.file_line()).replace("tls.acme = true\n", "");
    let edge = Meridian::start(&without);
    // Nothing is found there, and nothing can be written.
    let (link, target) = (edge.dir().join("state/acme"), edge.dir().join("elsewhere"));
    std::os::unix::fs::symlink(&target, link).expect("made");
    let text = stage.text(&pebble.acme(), &[&[HOST]], &stage.file_line());
    assert_eq!(edge.reload(&text).status, 200);
    eventually("it is tried again", PATIENCE, || view(&edge, HOST)["failures"].as_u64() >= Some(3));
    let why = failing(&edge, HOST);
    assert!(why.contains("the account cannot be kept in state_dir"), "{why}");
    assert_eq!(accounts(&pebble), 1);
    std::fs::create_dir(&target).expect("made");
    issued(&pebble, &stage, HOST);
    assert_eq!(accounts(&pebble), 1);
}

#[test]
fn what_is_due_on_arrival_is_a_failure() {
    if !pebble_is_installed() {
        return;
    }
    let stage = Stage::new();
    let mut authority = stage.authority();
    // It ends in the second in which it begins.
    authority.validity_s = 1;
    let pebble = PebblePlace::new().start(&authority);
    let edge = Meridian::start(&stage.text(&pebble.acme(), &[&[HOST]], ""));
    eventually("it counts", PATIENCE, || view(&edge, HOST)["failures"].as_u64() >= Some(3));
    let of = view(&edge, HOST);
    assert!(of["issued"].as_u64() <= Some(4), "{of}");
    assert!(of["last_error"].as_str().is_some_and(|why| why.contains("clock right?")), "{of}");
    assert!(of["not_after_unix_s"].is_i64(), "it is shown all the same: {of}");
}

#[test]
fn what_cannot_be_read_is_neither_forgotten_nor_written_over() {
    if !pebble_is_installed() {
        return;
    }
    let stage = Stage::new();
    let pebble = open(&stage);
    let text = |lists: &[&[&str]]| stage.text(&pebble.acme(), lists, &stage.file_line());
    let mut edge = Meridian::start(&text(&[&[HOST]]));
    let first = issued(&pebble, &stage, HOST);
    eventually("it is settled", PATIENCE, || view(&edge, HOST)["state"] == "valid");
    let below = edge.dir().join("state/acme");
    let files = std::fs::read_dir(&below).expect("a directory");
    let names = files.map(|file| file.expect("an entry").file_name().into_string().expect("text"));
    let kept: Vec<_> = names.filter(|name| !name.starts_with("attempts")).collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
    let requests = pebble.requests();
    let aside = edge.dir().to_owned();
    for name in &kept {
        std::fs::rename(below.join(name), aside.join(name)).expect("moved");
        std::fs::create_dir(below.join(name)).expect("made");
    }
    let back = |prefix: &str| {
        let name = kept.iter().find(|name| name.starts_with(prefix)).expect("kept");
        std::fs::remove_dir(below.join(name)).expect("it is left alone");
        std::fs::rename(aside.join(name), below.join(name)).expect("moved");
    };
    edge.signal(Signal::KILL);
    edge.wait_exit();
    edge.start_again();
    let why = failing(&edge, HOST);
    assert!(why.contains("cannot be read") && why.contains("not a regular file"), "{why}");
    assert_eq!(pebble.requests(), requests, "nothing is ordered for want of a file");
    back("certificate-");
    assert_eq!(issued(&pebble, &stage, HOST), first);
    // Nor is another account made.
    assert_eq!(edge.reload(&text(&[&[HOST], &["b.example"]])).status, 200);
    let why = failing(&edge, "b.example");
    assert!(why.contains("the account: ") && why.contains("not a regular file"), "{why}");
    back("account-");
    issued(&pebble, &stage, "b.example");
    assert_eq!(accounts(&pebble), 1);
}

#[test]
fn roots_are_read_for_every_order() {
    if !pebble_is_installed() {
        return;
    }
    let stage = Stage::new();
    let pebble = open(&stage);
    let ours = Site::new(&[]);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("roots.pem");
    let acme = pebble.acme();
    let line = acme.lines().find(|line| line.starts_with("ca = ")).expect("its roots");
    let right = line.split('"').nth(1).expect("a path");
    let acme = acme.replace(right, file.to_str().expect("a path"));
    std::fs::copy(right, &file).expect("copied");
    let edge = Meridian::start(&stage.text(&acme, &[&[HOST]], ""));
    issued(&pebble, &stage, HOST);
    std::fs::copy(ours.root(), &file).expect("copied");
    assert_eq!(edge.reload(&stage.text(&acme, &[&[HOST], &["b.example"]], "")).status, 200);
    let why = failing(&edge, "b.example");
    assert!(why.contains("certificate"), "{why}");
    std::fs::copy(right, &file).expect("copied");
    issued(&pebble, &stage, "b.example");
}

#[test]
fn an_account_that_cannot_be_had_is_asked_for_once_for_all() {
    let stage = Stage::new();
    let page = || Answer::new(500, Body::Whole(b"<html>".to_vec()));
    let (backend, _site, acme) = impostor(page);
    let lists: &[&[&str]] = &[&[HOST], &["b.example"], &["c.example"], &["d.example"]];
    let edge = Meridian::start(&stage.text(&acme, lists, &stage.file_line()));
    eventually("it is tried again", PATIENCE, || view(&edge, HOST)["failures"].as_u64() >= Some(4));
    let often = backend.requests().len();
    assert!(often <= 6, "{often}");
}
