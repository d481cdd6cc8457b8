//! The park: who waits, in what order and for how long, and who does not.

use std::time::{Duration, Instant};

use meridian_tests::{
    Answer, Ask, Backend, Client, Meridian, Response, eventually, regions, request_bytes,
};

use crate::scene::{EU, SOON, Scene, US, is_refused};

/// Nobody is the primary: the one there was says so.
fn without_primary(service: &str) -> Scene {
    unseated(Scene::new(service))
}

fn unseated(scene: Scene) -> Scene {
    scene.regions[0].is(false, 1);
    scene.hear(US);
    eventually("the edge knows", SOON, || {
        let label = ["state=\"settled\""];
        scene.edge.admin().metric_sum("meridian_primary_state", &label) == 0.0
    });
    scene
}

/// Sends a write and does not wait for its answer.
fn begun(scene: &Scene, path: &str) -> Client {
    let mut client = scene.edge.client();
    client.send(request_bytes("POST", path, &[], b"a write"));
    client
}

fn refusals(scene: &Scene, filter: &str) -> f64 {
    let label = format!("filter=\"{filter}\"");
    scene.edge.admin().metric_sum("meridian_refusals_total", &[&label])
}

#[test]
fn writes_wait_for_a_primary_in_order_and_reads_do_not() {
    // One worker, and one request at a time at the endpoint: what it gets to see has an order.
    let one = "failover.write_park.time = \"20s\"\n\
               overload = { max_requests = 1, queue_time = \"20s\" }";
    let scene = unseated(Scene::with(one, "[edge]\nworker_threads = 1\n"));
    let mut waiting = Vec::new();
    for number in 0..6 {
        waiting.push(begun(&scene, &format!("/{number}")));
        scene.wait_parked(f64::from(number + 1));
    }
    assert!(scene.edge.admin().metric_sum("meridian_parked_bytes", &[]) > 6.0 * 50.0);
    assert_eq!(scene.edge.get(&format!("/only/{EU}")).status, 200, "reads go on");
    scene.promote_eu(2);
    scene.hear(EU);
    for client in &mut waiting {
        let answer = client.response();
        assert_eq!((answer.status, answer.text().as_str()), (200, EU));
    }
    assert_eq!((scene.parked(), scene.outcome("released")), (0.0, 6.0));
    assert_eq!(scene.edge.admin().metric_sum("meridian_parked_bytes", &[]), 0.0);
    let waited = scene.edge.admin().metric_sum("meridian_parked_seconds_count", &[]);
    assert_eq!(waited, 6.0);
    let received = scene.backends[1].requests();
    let writes = received.iter().filter(|request| request.method == "POST");
    let targets: Vec<_> = writes.map(|request| request.target.as_str()).collect();
    assert_eq!(targets, ["/0", "/1", "/2", "/3", "/4", "/5"]);
    scene.check();
}

#[test]
fn a_wait_has_an_end() {
    let scene = without_primary("failover.write_park.time = \"1s\"");
    let since = Instant::now();
    let answer = scene.post();
    let took = since.elapsed();
    is_refused(&answer);
    assert!((Duration::from_secs(1)..Duration::from_secs(4)).contains(&took), "{took:?}");
    assert_eq!((scene.outcome("time"), refusals(&scene, "park-time")), (1.0, 1.0));
    scene.edge.logged(|line| line["reason"] == "park-time" && line["status"] == 503);
    // The request's own deadline comes first.
    let scene = without_primary("failover.write_park.time = \"60s\"\ntimeouts.request = \"1s\"");
    let since = Instant::now();
    is_refused(&scene.post());
    assert!(since.elapsed() < Duration::from_secs(5));
}

#[test]
fn only_so_many_requests_and_bytes_wait() {
    let scene = without_primary("failover.write_park = { requests = 2, time = \"20s\" }");
    let held = [begun(&scene, "/1"), begun(&scene, "/2")];
    scene.wait_parked(2.0);
    is_refused(&scene.post());
    assert_eq!((scene.outcome("full"), refusals(&scene, "park-full")), (1.0, 1.0));
    // Who goes away makes room.
    drop(held);
    scene.wait_parked(0.0);
    assert_eq!(scene.outcome("gone"), 2.0);
    let third = begun(&scene, "/3");
    scene.wait_parked(1.0);
    drop(third);
    let scene = without_primary("failover.write_park = { bytes = \"1KiB\", time = \"20s\" }");
    let small = begun(&scene, "/small");
    scene.wait_parked(1.0);
    is_refused(&Ask::post("/", vec![b'x'; 2_000]).send(&mut scene.edge.client()));
    assert_eq!(refusals(&scene, "park-full"), 1.0);
    drop(small);
    let scene = without_primary("failover.write_park = { requests = 0 }");
    let since = Instant::now();
    is_refused(&scene.post());
    assert!(since.elapsed() < Duration::from_secs(3));
}

#[test]
fn bodies_stay_with_their_clients_meanwhile() {
    let scene = without_primary("failover.write_park.time = \"20s\"");
    let mut client = scene.edge.client();
    let whole = request_bytes("POST", "/", &[], &vec![b'x'; 8 << 20]);
    let sending = std::thread::scope(|scope| {
        let sender = scope.spawn(|| client.wire().send(&whole));
        scene.wait_parked(1.0);
        std::thread::sleep(Duration::from_millis(300));
        let held = scene.edge.admin().metric_sum("meridian_parked_bytes", &[]);
        assert!(held < 300_000.0, "{held}");
        scene.promote_eu(2);
        scene.hear(EU);
        sender.join().expect("no panic")
    });
    assert!(sending.is_ok(), "{sending:?}");
    assert_eq!(client.response().text(), EU);
    let upload = scene.backends[1].requests();
    let upload = upload.iter().find(|r| r.method == "POST").expect("it came");
    assert_eq!(upload.checked.length, 8 << 20);
}

#[test]
fn a_contested_primary_is_not_waited_for() {
    let scene = Scene::new("failover.write_park.time = \"60s\"");
    scene.regions.iter().for_each(|region| region.is(true, 2));
    eventually("it is contested", SOON, || {
        scene.post();
        refusals(&scene, "primary-contested") > 0.0
    });
    let (since, before) = (Instant::now(), scene.executed().len());
    is_refused(&scene.post());
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    assert_eq!(scene.executed().len(), before);
    scene.edge.logged(|line| line["reason"] == "primary-contested" && line["status"] == 503);
    // A higher epoch settles it.
    scene.promote_eu(3);
    eventually("it is settled", SOON, || scene.post().text() == EU);
    scene.check();
}

#[test]
fn where_the_primary_is_down_writes_wait_for_the_next_one_or_for_itself() {
    let scene = Scene::new("failover.write_park.time = \"30s\"");
    assert_eq!(scene.post().text(), US);
    scene.backends[0].kill();
    let mut waiting = [begun(&scene, "/1"), begun(&scene, "/2")];
    scene.wait_parked(2.0);
    scene.backends[0].revive();
    for client in &mut waiting {
        assert_eq!(client.response().text(), US, "it is back");
    }
    scene.backends[0].kill();
    let mut waiting = [begun(&scene, "/3"), begun(&scene, "/4")];
    scene.wait_parked(2.0);
    scene.promote_eu(2);
    scene.hear(EU);
    for client in &mut waiting {
        assert_eq!(client.response().text(), EU);
    }
    assert_eq!(scene.check().values().sum::<usize>(), 5);
}

#[test]
fn where_nothing_can_fail_over_the_answer_is_quick() {
    for mode in ["replication.source = \"none\"", "failover.mode = \"manual\""] {
        let [us, eu] = [US, EU].map(Backend::start);
        us.set(|_| Answer::ok(US));
        let endpoints = [(US, us.address()), (EU, eu.address())];
        let text = regions(&endpoints, &format!("policy = \"priority\"\n{mode}"));
        let route = "[[routes]]\nname = \"all\"\nservice = \"api\"\n";
        let edge = Meridian::start(&format!("{text}{route}"));
        assert_eq!(Ask::post("/", "").send(&mut edge.client()).status, 200);
        us.kill();
        let since = Instant::now();
        is_refused(&Ask::post("/", "").send(&mut edge.client()));
        assert!(since.elapsed() < Duration::from_secs(5), "{mode}: {:?}", since.elapsed());
    }
}

#[test]
fn who_waits_is_refused_when_its_route_goes() {
    let scene = without_primary("failover.write_park.time = \"30s\"");
    let mut waiting = begun(&scene, "/");
    scene.wait_parked(1.0);
    let text =
        scene.config().replace("name = \"all\"\n", "name = \"all\"\npath_prefix = \"/other\"\n");
    assert!(scene.edge.reload(&text).status < 300);
    assert_eq!(waiting.response().status, 404);
}

/// The route is another service's meanwhile: so is the session.
#[test]
fn who_waits_while_its_route_goes_to_another_service_gets_that_one_s_token() {
    let scene = Scene::new("failover.write_park.time = \"30s\"");
    let token =
        |answer: &Response| answer.header("meridian-session").map(str::to_owned).expect("a token");
    let first = token(&scene.post());
    scene.regions[0].is(false, 1);
    scene.hear(US);
    let label = ["state=\"settled\""];
    eventually("the edge knows", SOON, || {
        scene.edge.admin().metric_sum("meridian_primary_state", &label) == 0.0
    });
    let mut waiting = scene.edge.client();
    waiting.send(request_bytes("POST", "/", &[("Meridian-Session", &first)], b"a write"));
    scene.wait_parked(1.0);
    let says = |role: &'static str| {
        Backend::answering("other", move |_| {
            let answer = Answer::ok(role).header("Meridian-Role", role);
            answer.header("Meridian-Epoch", 1).header("Meridian-Position", 5)
        })
    };
    let [primary, replica] = ["primary", "replica"].map(says);
    let route = |service: &str| format!("name = \"all\"\nservice = \"{service}\"\n");
    let mut text = scene.config().replace(&route("api"), &route("other"));
    text +=
        "[[services]]\nname = \"other\"\nreplication.source = \"headers\"\npolicy = \"priority\"\n";
    for (region, backend) in [(US, &primary), (EU, &replica)] {
        let address = backend.address();
        text +=
            &format!("[[services.endpoints]]\nregion = \"{region}\"\naddress = \"{address}\"\n");
    }
    assert!(scene.edge.reload(&text).status < 300);
    let answer = waiting.response();
    assert_eq!((answer.status, answer.text().as_str()), (200, "primary"));
    let second = token(&answer);
    let read = Ask::get("/").with("Meridian-Session", second);
    assert_eq!(read.send(&mut scene.edge.client()).status, 200);
    let faults = scene.edge.admin().metric_sum("meridian_session_token_faults_total", &[]);
    assert_eq!(faults, 0.0, "the token is its service's");
}
