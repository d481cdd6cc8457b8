//! What is kept: over renewals, restarts, crashes and reloads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread;

use meridian_tests::{Meridian, PebblePlace, eventually, pebble_is_installed};

use crate::stage::{HOST, PATIENCE, Stage, failing, issued, open, shake, shown, view};

#[test]
fn renewal_loses_no_handshake() {
    if !pebble_is_installed() {
        return;
    }
    let stage = Stage::new();
    let mut authority = stage.authority();
    authority.validity_s = 12;
    let pebble = PebblePlace::new().start(&authority);
    // Longer than they live: a third of their time must be over.
    let acme = pebble.acme() + "renew_before = \"1h\"\n";
    let edge = Meridian::start(&stage.text(&acme, &[&[HOST]], ""));
    let first = issued(&pebble, &stage, HOST);
    let config = Arc::new(pebble.client_config());
    let (over, shaken) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    let shown = shake(pebble.site(), &config, stage.tls, HOST);
                    assert!(shown.is_ok(), "{shown:?}");
                    shaken.fetch_add(1, Relaxed);
                }
            });
        }
        eventually("it is renewed three times", PATIENCE, || {
            view(&edge, HOST)["issued"].as_u64() >= Some(4)
        });
        over.store(true, Relaxed);
    });
    assert!(shaken.load(Relaxed) > 100, "{shaken:?}");
    assert_ne!(issued(&pebble, &stage, HOST), first);
    assert_eq!(view(&edge, HOST)["failed"], 0);
    let said = edge.stderr();
    assert!(!said.contains("not issued") && said.contains("renewal=true"), "{said}");
}

#[test]
fn a_restart_asks_nobody() {
    if !pebble_is_installed() {
        return;
    }
    let stage = Stage::new();
    let pebble = open(&stage);
    let mut edge = Meridian::start(&stage.text(&pebble.acme(), &[&[HOST], &["b.example"]], ""));
    let before = [issued(&pebble, &stage, HOST), issued(&pebble, &stage, "b.example")];
    let config = Arc::new(pebble.client_config());
    let requests = pebble.requests();
    for crash in [false, true, true] {
        match crash {
            true => edge.crash_and_restart(),
            false => edge.restart(),
        }
        // Ready is enough.
        for (host, before) in [HOST, "b.example"].into_iter().zip(&before) {
            let shown = shake(pebble.site(), &config, stage.tls, host).expect("it is there");
            assert_eq!(shown, *before);
        }
        assert_eq!(view(&edge, HOST)["state"], "valid");
    }
    assert_eq!(pebble.requests(), requests, "nobody was asked");
    // Nor does it need anybody.
    let place = pebble.stop();
    edge.crash_and_restart();
    shake(&stage.files, &config, stage.tls, HOST).expect("it is there");

    // An authority that has forgotten the account makes it anew when something new is to be issued.
    let pebble = place.start(&stage.authority());
    let more = stage.text(&pebble.acme(), &[&[HOST], &["b.example"], &["c.example"]], "");
    assert_eq!(edge.reload(&more).status, 200);
    issued(&pebble, &stage, "c.example");
    assert!(edge.stderr().contains("a new account is made"), "{}", edge.stderr());
    assert_eq!(shake(&stage.files, &config, stage.tls, HOST).expect("it stays"), before[0]);
}

#[test]
fn killed_in_the_middle_of_an_order_it_begins_anew() {
    if !pebble_is_installed() {
        return;
    }
    let stage = Stage::new();
    let slow =
        stage.authority().variable("PEBBLE_VA_NOSLEEP", "0").variable("PEBBLE_VA_SLEEPTIME", "2");
    let pebble = PebblePlace::new().start(&slow);
    let mut edge = Meridian::start(&stage.text(&pebble.acme(), &[&[HOST]], ""));
    for _ in 0..2 {
        eventually("an order is under way", PATIENCE, || {
            let asked = pebble.log().contains("/chalZ/");
            asked && view(&edge, HOST)["state"] == "ordering"
        });
        edge.crash_and_restart();
        // What was begun counts as failed: whoever crashes again and again does not ask again and again.
        let attempts = std::fs::read_to_string(edge.dir().join("state/acme/attempts.json"));
        assert!(attempts.expect("kept").contains("\"failures\":"));
    }
    issued(&pebble, &stage, HOST);
    let accounts = std::fs::read_dir(edge.dir().join("state/acme")).expect("a directory");
    let named = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("an entry").file_name();
    let names: Vec<_> = accounts.map(named).collect();
    let account = |name: &&std::ffi::OsString| name.to_string_lossy().starts_with("account-");
    assert_eq!(names.iter().filter(account).count(), 1, "{names:?}");
    let attempts = std::fs::read_to_string(edge.dir().join("state/acme/attempts.json"));
    eventually("failures are forgotten", PATIENCE, || {
        let path = edge.dir().join("state/acme/attempts.json");
        std::fs::read_to_string(path).is_ok_and(|text| text == "{}")
    });
    drop(attempts);
}

#[test]
fn a_new_binary_takes_everything_over() {
    if !pebble_is_installed() {
        return;
    }
    let stage = Stage::new();
    let pebble = open(&stage);
    let text = |lists: &[&[&str]]| {
        format!("[shutdown]\nlame_duck = \"300ms\"\n{}", stage.text(&pebble.acme(), lists, ""))
    };
    let mut edge = Meridian::start(&text(&[&[HOST]]));
    let first = issued(&pebble, &stage, HOST);
    let requests = pebble.requests();
    let output = edge.cli(&["upgrade", "--output", "json"]);
    assert!(output.status.success(), "{output:?}");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let pid = answer["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid");
    edge.has_handed_over_to(pid);
    let config = Arc::new(pebble.client_config());
    for _ in 0..20 {
        assert_eq!(shake(pebble.site(), &config, stage.tls, HOST).expect("it is there"), first);
    }
    eventually("the first process ends", PATIENCE, || edge.first_has_ended());
    assert_eq!(pebble.requests(), requests, "nobody was asked");
    // The new one asks from now on.
    assert_eq!(edge.reload(&text(&[&[HOST], &["b.example"]])).status, 200);
    issued(&pebble, &stage, "b.example");
    assert_eq!(shake(pebble.site(), &config, stage.tls, HOST).expect("it stays"), first);
}

#[test]
fn domains_come_and_go_with_a_reload() {
    if !pebble_is_installed() {
        return;
    }
    let stage = Stage::new();
    let pebble = open(&stage);
    let text = |lists: &[&[&str]]| stage.text(&pebble.acme(), lists, &stage.file_line());
    let edge = Meridian::start(&text(&[&[HOST]]));
    let first = issued(&pebble, &stage, HOST);
    assert_eq!(edge.reload(&text(&[&[HOST], &["new.example"]])).status, 200);
    issued(&pebble, &stage, "new.example");
    assert_eq!(issued(&pebble, &stage, HOST), first, "what was there stays");
    assert_eq!(edge.reload(&text(&[&["new.example"]])).status, 200);
    let config = Arc::new(pebble.client_config());
    eventually("it is not shown any more", PATIENCE, || {
        shake(pebble.site(), &config, stage.tls, HOST).is_err()
    });
    // It was kept: coming back costs no order.
    let requests = pebble.requests();
    assert_eq!(edge.reload(&text(&[&["new.example"], &[HOST]])).status, 200);
    assert_eq!(issued(&pebble, &stage, HOST), first);
    assert_eq!(pebble.requests(), requests);
    // Off and on again, for the listener as a whole.
    let off = text(&[&["new.example"], &[HOST]]).replace("tls.acme = true", "tls.acme = false");
    assert_eq!(edge.reload(&off).status, 200);
    eventually("none of them is shown", PATIENCE, || {
        shake(pebble.site(), &config, stage.tls, "new.example").is_err()
    });
    assert_eq!(edge.reload(&text(&[&["new.example"], &[HOST]])).status, 200);
    issued(&pebble, &stage, "new.example");
    assert!(shown(&edge).contains("new.example"));
}

#[test]
fn a_list_that_changes_takes_no_host_away() {
    if !pebble_is_installed() {
        return;
    }
    let stage = Stage::new();
    let pebble = open(&stage);
    let text = |lists: &[&[&str]]| stage.text(&pebble.acme(), lists, &stage.file_line());
    let mut edge = Meridian::start(&text(&[&[HOST, "b.example"]]));
    let first = issued(&pebble, &stage, HOST);
    let config = Arc::new(pebble.client_config());
    let stays = |edge: &Meridian, hosts: &[&str]| {
        for host in hosts {
            let shown = shake(pebble.site(), &config, stage.tls, host);
            assert_eq!(shown.expect("it stays"), first, "{host}: {}", edge.stderr());
        }
    };
    // With a host that nothing can be issued for.
    for list in [&[HOST, "b.example", "nowhere.example"][..], &[HOST, "nowhere.example"]] {
        assert_eq!(edge.reload(&text(&[list])).status, 200);
        eventually("the new list is followed", PATIENCE, || {
            view(&edge, HOST)["domains"].as_array().is_some_and(|all| all.len() == list.len())
        });
        failing(&edge, HOST);
        let there = &list[..list.len() - 1];
        stays(&edge, there);
        assert!(shake(pebble.site(), &config, stage.tls, "nowhere.example").is_err());
        edge.crash_and_restart();
        stays(&edge, there);
        assert!(shake(pebble.site(), &config, stage.tls, "nowhere.example").is_err());
    }
    // What is not wanted any more is not shown, though the certificate has it.
    assert!(shake(pebble.site(), &config, stage.tls, "b.example").is_err());
    // The list becomes one that can be issued for: a newer one takes over.
    assert_eq!(edge.reload(&text(&[&[HOST]])).status, 200);
    eventually("it has its own", PATIENCE, || {
        shake(pebble.site(), &config, stage.tls, HOST).is_ok_and(|shown| shown != first)
    });
}
