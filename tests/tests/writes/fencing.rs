//! The epoch on the wire: where it goes, where it never goes, and what a 421 does.

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use meridian_tests::{Answer, Ask, Load, eventually, request_bytes};

use crate::scene::{EU, SOON, Scene, US, is_refused};

#[test]
fn writes_carry_the_epoch_of_their_primary_and_clients_see_nothing_of_it() {
    let primary = "[[routes]]\nname = \"careful\"\npath_prefix = \"/careful\"\n\
                   service = \"api\"\naccess = \"read_primary\"\n";
    let scene = Scene::with("", primary);
    let mut client = scene.edge.client();
    let forged = [("Meridian-Epoch", "99"), ("meridian-role", "primary"), ("Meridian-X", "1")];
    for (method, path, expected) in
        [("POST", "/", Some("1")), ("GET", "/careful", Some("1")), ("GET", "/", None)]
    {
        let answer = client.request(method, path, &forged, b"");
        assert_eq!(answer.status, 200, "{method} {path}: {answer:?}");
        // Of what begins so a client gets its session's token alone.
        let fields = format!("{:?}", answer.fields).to_lowercase().replace("meridian-session", "");
        assert!(!fields.contains("meridian-"), "{answer:?}");
        let seen = scene.backends[0].requests();
        let seen = seen.iter().rfind(|r| r.method == method && r.target == path);
        let seen = seen.expect("it was asked");
        assert_eq!(seen.fields.all("meridian-epoch"), expected.as_slice(), "{method} {path}");
        let own = seen.raw_head.to_lowercase().matches("meridian-").count();
        assert_eq!(own, expected.iter().count(), "{}", seen.raw_head);
    }
}

#[test]
fn what_endpoints_say_is_taken_out_of_interim_answers_and_trailers_too() {
    let scene = Scene::new("");
    scene.backends[0].set(|_| {
        Answer::raw(
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nMeridian-Epoch: 1\r\n\r\n\
             HTTP/1.1 200 OK\r\nMeridian-Role: primary\r\nmeridian-: 1\r\nMERIDIAN-LAG-MS: 5\r\n\
             Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nMeridian-Position: 9\r\nX-T: 1\r\n\r\n",
        )
    });
    let answer = scene.post();
    assert_eq!((answer.status, answer.text().as_str()), (200, "hi"));
    assert_eq!(answer.interim.len(), 1, "{answer:?}");
    assert_eq!(answer.trailers.get("x-t"), Some("1"));
    let all = format!("{answer:?}").to_lowercase().replace("meridian-session", "");
    assert!(!all.contains("meridian-"), "{answer:?}");
}

#[test]
fn a_write_that_was_not_executed_follows_the_primary() {
    let scene = Scene::new("");
    assert_eq!(scene.post().text(), US);
    scene.promote_eu(2);
    let edge = scene.edge.address();
    let write = std::thread::spawn(move || {
        Ask::post("/", "a write").send(&mut meridian_tests::Client::connect(edge))
    });
    eventually("it was turned down", SOON, || {
        scene.backends[0].requests().iter().filter(|r| r.method == "POST").count() == 2
    });
    scene.hear(EU);
    let answer = write.join().expect("no panic");
    assert_eq!((answer.status, answer.text().as_str()), (200, EU), "{answer:?}");
    let last = scene.executed().pop().expect("a write");
    assert_eq!((last.region, last.epoch.as_deref()), (EU, Some("2")));
    assert_eq!(scene.check().values().sum::<usize>(), 2);
    let line = scene.edge.logged(|line| line["method"] == "POST" && line["region"] == EU);
    assert_eq!(line["attempts"], 2, "{line}");
}

#[test]
fn a_421_that_says_nothing_of_epochs_is_an_application_s_answer() {
    let scene = Scene::new("");
    assert_eq!(scene.post().status, 200);
    // The first write may have waited for the table with the epoch that was just heard.
    let waited = scene.outcome("released");
    scene.backends[0].set(|_| Answer::status(421));
    let answer = scene.post();
    assert_eq!((answer.status, answer.header("retry-after")), (421, None));
    assert_eq!(scene.outcome("released") + scene.parked(), waited);
}

#[test]
fn an_endpoint_behind_its_time_is_asked_again_and_not_for_ever() {
    let scene = Scene::new("failover.write_park.time = \"2s\"");
    // It knows of epoch 1 alone, and the edge of epoch 2.
    scene.regions[1].is(true, 2);
    scene.regions[0].is(false, 1);
    scene.hear(EU);
    scene.regions[1].is(true, 1);
    let since = Instant::now();
    let answer = scene.post();
    is_refused(&answer);
    let took = since.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(6)).contains(&took), "{took:?}");
    let asked = scene.backends[1].requests();
    let asked = asked.iter().filter(|r| r.method == "POST").count();
    assert!((2..=8).contains(&asked), "{asked}");
    assert!(scene.executed().is_empty());
    scene.edge.logged(|line| line["reason"] == "park-time");
    // It learns.
    let edge = scene.edge.address();
    let write = std::thread::spawn(move || {
        Ask::post("/", "a write").send(&mut meridian_tests::Client::connect(edge))
    });
    eventually("it was asked", SOON, || {
        scene.backends[1].requests().iter().filter(|r| r.method == "POST").count() > asked
    });
    scene.regions[1].is(true, 2);
    assert_eq!(write.join().expect("no panic").text(), EU);
}

#[test]
fn a_body_that_is_not_held_any_more_is_not_sent_again() {
    let scene = Scene::new("retry.buffer = \"4KiB\"");
    scene.promote_eu(2);
    let body = vec![b'x'; 100_000];
    let answer = Ask::post("/", body).send(&mut scene.edge.client());
    is_refused(&answer);
    assert!(scene.executed().is_empty());
    scene.edge.logged(|line| line["reason"] == "primary-moved");
    let label = ["filter=\"primary-moved\""];
    assert_eq!(scene.edge.admin().metric_sum("meridian_refusals_total", &label), 1.0);
}

#[test]
fn the_rest_of_an_upload_does_not_go_to_a_primary_that_was_deposed() {
    let scene = Scene::new("");
    let mut client = scene.edge.client();
    let whole = request_bytes("POST", "/upload", &[], &vec![b'x'; 300_000]);
    let (begin, rest) = whole.split_at(100_000);
    client.send(begin);
    eventually("it has begun", SOON, || {
        scene.edge.admin().metric_sum("meridian_in_flight", &["region=\"us-east-1\""]) == 1.0
    });
    scene.promote_eu(2);
    scene.hear(EU);
    // The edge may have answered already and closed its side.
    let _ = client.wire().send(rest);
    let answer = client.try_response("POST");
    assert!(answer.is_err() || answer.is_ok_and(|a| a.status == 502));
    assert!(scene.backends[0].requests().iter().all(|r| r.target != "/upload" || !r.complete));
    assert!(scene.executed().is_empty());
    assert_eq!(scene.post().text(), EU);
}

#[test]
fn under_load_no_epoch_is_served_by_two_regions_however_often_the_primary_moves() {
    let scene = Scene::new("failover.write_park.time = \"20s\"");
    let load = Load::start(scene.edge.address(), 8, |_| Ask::post("/", "a write"));
    load.run_for(200);
    for epoch in 2..12 {
        let (next, last) = if epoch % 2 == 0 { (1, 0) } else { (0, 1) };
        scene.regions[last].is(false, epoch - 1);
        scene.regions[next].is(true, epoch);
        scene.hear([US, EU][next]);
        if epoch % 3 == 0 {
            assert!(scene.edge.reload(&scene.config()).status < 300);
        }
        load.run_for(150);
    }
    let account = load.stop();
    account.assert_all_fine(1_700);
    let regions = scene.check();
    assert_eq!(regions.values().sum::<usize>(), account.0.len(), "each once");
    assert!(regions.len() == 2 && regions.values().all(|count| *count > 400), "{regions:?}");
}

/// The deposed primary goes on believing in itself and executes whatever comes: only the edge is in its way.
#[test]
fn once_the_edge_has_heard_of_a_promotion_no_write_goes_to_the_old_primary() {
    let scene = Scene::new("");
    scene.regions.iter().for_each(|region| region.fences.store(false, SeqCst));
    let load = Load::start(scene.edge.address(), 8, |_| Ask::post("/", "a write"));
    load.run_for(300);
    for epoch in 2..8 {
        let next = usize::from(epoch % 2 == 0);
        scene.regions[next].is(true, epoch);
        scene.hear([US, EU][next]);
        let heard = Instant::now();
        load.run_for(200);
        load.look(|outcomes| {
            let since = outcomes.iter().filter(|outcome| outcome.begun > heard);
            let strays = since.filter(|o| o.is_fine() && o.region() != Some([US, EU][next]));
            assert_eq!(strays.count(), 0, "epoch {epoch}");
        });
    }
    load.stop().assert_all_fine(1_500);
    scene.check();
}
