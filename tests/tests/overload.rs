//! Caps on what is in flight and on connections: who is turned away, with what, and that the rest is served.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use meridian_tests::{
    Answer, Ask, Backend, Client, Load, Meridian, Response, eventually, one_region, regions,
    request_bytes,
};

const SOON: Duration = Duration::from_secs(10);
const US: &str = "us-east-1";

/// What a request on behalf of this client is, on a connection of its own.
fn held(edge: &Meridian, backend: &Backend, client: &str, path: &str) -> Client {
    let before = backend.requests().len();
    let mut connection = edge.client();
    connection.send(request_bytes("GET", path, &[("X-Forwarded-For", client)], b""));
    eventually("it is at the endpoint", SOON, || backend.requests().len() > before);
    connection
}

/// An edge that believes this machine, in front of a backend that answers /slow after a while.
fn edge(sections: &str, route: &str) -> (Backend, Meridian) {
    let backend = Backend::answering(US, |request| {
        let answer = Answer::ok("");
        if request.target.contains("slow") { answer.delay(Duration::from_secs(2)) } else { answer }
    });
    let listener = "[[listeners]]\nname = \"public\"\nprotocols = [\"http1\", \"h2c\"]\n\
                    trusted_proxies = [\"127.0.0.0/8\", \"::1\"]\n";
    let text = format!("{sections}\n{listener}{}{route}", one_region(&backend));
    let edge = Meridian::start(&text);
    (backend, edge)
}

fn from(edge: &Meridian, client: &str, path: &str) -> Response {
    Ask::get(path).from(client).send(&mut edge.client())
}

#[track_caller]
fn is_shed(answer: &Response, status: u16) {
    assert_eq!((answer.status, answer.header("retry-after")), (status, Some("1")), "{answer:?}");
}

#[track_caller]
fn is_counted(edge: &Meridian, reason: &str, count: f64) {
    let label = format!("filter=\"{reason}\"");
    assert_eq!(edge.admin().metric_sum("meridian_refusals_total", &[label.as_str()]), count);
    let line = edge.logged(|line| line["reason"] == reason);
    assert_eq!(line["route"], "all", "{line}");
}

#[test]
fn a_client_has_so_many_requests_in_flight() {
    let (backend, edge) = edge("[limits]\nrequests_per_client = 2\n", "");
    let held: Vec<_> = ["192.0.2.1", "192.0.2.1", "2001:db8::1", "2001:db8::2"]
        .map(|client| held(&edge, &backend, client, "/slow"))
        .into();
    is_shed(&from(&edge, "192.0.2.1", "/"), 429);
    is_shed(&from(&edge, "2001:db8::3", "/"), 429);
    assert_eq!(from(&edge, "192.0.2.2", "/").status, 200);
    assert_eq!(from(&edge, "2001:db8:0:1::1", "/").status, 200);
    is_counted(&edge, "client-requests", 2.0);
    for mut connection in held {
        assert_eq!(connection.response().status, 200);
    }
    assert_eq!(from(&edge, "192.0.2.1", "/").status, 200, "its requests are over");
}

#[test]
fn a_route_and_the_edge_have_so_many_requests_in_flight() {
    let second = "max_requests = 1\n[[routes]]\nname = \"other\"\npath_prefix = \"/other\"\n\
                  service = \"api\"\n";
    let (backend, edge) = edge("[edge]\nmax_requests = 2\n", second);
    let mut first = held(&edge, &backend, "192.0.2.1", "/slow");
    is_shed(&from(&edge, "192.0.2.2", "/"), 503);
    assert_eq!(from(&edge, "192.0.2.2", "/other").status, 200);
    is_counted(&edge, "route-requests", 1.0);
    // A client that goes away makes room.
    let second = held(&edge, &backend, "192.0.2.1", "/other/slow");
    is_shed(&from(&edge, "192.0.2.2", "/other"), 503);
    assert_eq!(edge.admin().get("/readyz").status, 200, "the operator is not counted");
    let label = ["filter=\"edge-requests\""];
    assert_eq!(edge.admin().metric_sum("meridian_refusals_total", &label), 1.0);
    assert_eq!(first.response().status, 200);
    drop(second);
    eventually("there is room again", SOON, || from(&edge, "192.0.2.2", "/").status == 200);
}

#[test]
fn a_client_has_so_many_connections() {
    let backend = Backend::start(US);
    let text = format!("[limits]\nconnections_per_client = 3\n{}", one_region(&backend));
    let edge = Meridian::start(&text);
    let mut clients = [(); 3].map(|()| {
        let mut client = edge.client();
        assert_eq!(client.get("/").status, 200);
        client
    });
    let mut fourth = edge.client();
    is_shed(&fourth.get("/"), 429);
    assert!(fourth.is_closed());
    assert!(clients.iter_mut().all(|client| client.get("/").status == 200));
    let refused = "meridian_connections_refused_total";
    assert_eq!(edge.admin().metric_sum(refused, &["reason=\"client\""]), 1.0);
    assert_eq!(edge.admin().metric_sum(refused, &["reason=\"edge\""]), 0.0);
    drop(clients);
    eventually("they have left", SOON, || {
        edge.client().try_request("GET", "/", &[], b"").is_ok_and(|answer| answer.status == 200)
    });
}

#[test]
fn connections_of_trusted_proxies_are_not_the_client_s() {
    let (_backend, edge) = edge("[limits]\nconnections_per_client = 1\n", "");
    let mut clients = [(); 3].map(|()| edge.client());
    assert!(clients.iter_mut().all(|client| client.get("/").status == 200));
}

/// An edge in front of backends of one region, each with a cap, and the backends, which hold /slow for a while.
fn capped(count: usize, overload: &str) -> (Vec<Backend>, Meridian) {
    let answer = |request: &meridian_tests::Received| {
        let answer = Answer::ok("");
        if request.target.contains("slow") { answer.delay(SLOW) } else { answer }
    };
    let backends: Vec<_> = (0..count).map(|_| Backend::answering(US, answer)).collect();
    let endpoints: Vec<_> = backends.iter().map(|b| (US, b.address())).collect();
    let service = format!("health.kind = \"none\"\n[services.overload]\n{overload}\n");
    let text = regions(&endpoints, &service);
    let edge = Meridian::start(&format!("{text}[[routes]]\nname = \"all\"\nservice = \"api\"\n"));
    (backends, edge)
}

const SLOW: Duration = Duration::from_millis(1500);

/// Sends a request and does not wait for its answer.
fn begun(edge: &Meridian, path: &str) -> Client {
    let mut client = edge.client();
    client.send(request_bytes("GET", path, &[], b""));
    client
}

fn waiting(edge: &Meridian, count: f64) {
    eventually("so many wait", SOON, || {
        edge.admin().metric_sum("meridian_queue_waiting", &[]) == count
    });
}

fn total(backends: &[Backend]) -> usize {
    backends.iter().map(|backend| backend.requests().len()).sum()
}

#[test]
fn what_finds_no_room_goes_to_another_endpoint_then_waits_in_turn() {
    let (backends, edge) = capped(2, "max_requests = 1\nqueue = 2\nqueue_time = \"10s\"");
    let mut slow = [(); 2].map(|()| begun(&edge, "/slow"));
    eventually("both are busy", SOON, || backends.iter().all(|b| b.requests().len() == 1));
    let mut first = begun(&edge, "/first");
    waiting(&edge, 1.0);
    let mut second = begun(&edge, "/second/slow");
    waiting(&edge, 2.0);
    let begun = Instant::now();
    is_shed(&edge.get("/third"), 503);
    assert!(begun.elapsed() < SLOW, "at once");
    is_counted(&edge, "queue-full", 1.0);
    assert_eq!(total(&backends), 2, "nobody beyond the cap");
    assert!(slow.iter_mut().all(|client| client.response().status == 200));
    assert_eq!((first.response().status, second.response().status), (200, 200));
    waiting(&edge, 0.0);
    assert_eq!(edge.get("/").status, 200);
    assert_eq!(edge.admin().metric_sum("meridian_in_flight", &[]), 0.0);
}

#[test]
fn nobody_waits_for_longer_than_the_queue_s_time() {
    let (backends, edge) = capped(1, "max_requests = 1\nqueue_time = \"300ms\"");
    let mut slow = begun(&edge, "/slow");
    eventually("it is busy", SOON, || total(&backends) == 1);
    let begun = Instant::now();
    is_shed(&edge.get("/late"), 503);
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(290) && took < Duration::from_millis(1000), "{took:?}");
    is_counted(&edge, "queue-time", 1.0);
    assert_eq!(slow.response().status, 200);
    assert_eq!(total(&backends), 1, "what was turned down never reached it");
}

#[test]
fn a_client_that_goes_away_leaves_the_queue() {
    let (backends, edge) = capped(1, "max_requests = 1\nqueue = 1\nqueue_time = \"10s\"");
    let mut slow = begun(&edge, "/slow");
    eventually("it is busy", SOON, || total(&backends) == 1);
    let gone = begun(&edge, "/gone");
    waiting(&edge, 1.0);
    drop(gone);
    waiting(&edge, 0.0);
    let mut stays = begun(&edge, "/stays");
    waiting(&edge, 1.0);
    assert_eq!((slow.response().status, stays.response().status), (200, 200));
    let targets: Vec<_> = backends[0].requests().into_iter().map(|r| r.target).collect();
    assert_eq!(targets, ["/slow", "/stays"]);
}

#[test]
fn those_who_wait_at_an_endpoint_that_is_drained_go_elsewhere() {
    let backends = [US, "us-west-2"].map(|region| {
        Backend::answering(region, |request| {
            let answer = Answer::ok("");
            if request.target == "/slow" { answer.delay(Duration::from_secs(4)) } else { answer }
        })
    });
    let endpoints = backends.each_ref().map(|b| (b.name(), b.address()));
    let service = "policy = \"priority\"\nhealth.kind = \"none\"\n\
                   overload = { max_requests = 1, queue_time = \"10s\" }";
    let text = regions(&endpoints, service);
    let edge = Meridian::start(&format!("{text}[[routes]]\nname = \"all\"\nservice = \"api\"\n"));
    let mut slow = begun(&edge, "/slow");
    eventually("it is busy", SOON, || total(&backends) == 1);
    let mut waits = [(); 3].map(|()| begun(&edge, "/waits"));
    waiting(&edge, 3.0);
    let path = format!("/api/v1/regions/{US}/drain");
    let drained = edge.admin().put(&path, &serde_json::json!({ "drain": true, "reason": "test" }));
    assert!(drained.status < 300, "{drained:?}");
    let since = Instant::now();
    for client in &mut waits {
        assert_eq!(client.response().header("x-served-region"), Some("us-west-2"));
    }
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    assert_eq!(slow.response().status, 200, "what is in flight goes on");
}

#[test]
fn under_a_crowd_no_endpoint_gets_more_than_its_cap_and_nobody_is_forgotten() {
    let busy = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let most = Arc::new(AtomicUsize::new(0));
    let backends = [0, 1].map(|number| {
        let (busy, most) = (busy.clone(), most.clone());
        Backend::answering(US, move |_| {
            most.fetch_max(busy[number].fetch_add(1, SeqCst) + 1, SeqCst);
            std::thread::sleep(Duration::from_millis(2));
            busy[number].fetch_sub(1, SeqCst);
            Answer::ok("")
        })
    });
    let endpoints = backends.each_ref().map(|b| (US, b.address()));
    let service = "health.kind = \"none\"\n\
                   overload = { max_requests = 3, queue = 100, queue_time = \"20s\" }";
    let text = regions(&endpoints, service);
    let edge = Meridian::start(&format!("{text}[[routes]]\nname = \"all\"\nservice = \"api\"\n"));
    let load = Load::start(edge.address(), 40, |_| Ask::get("/"));
    load.run_for(3_000);
    load.stop().assert_all_fine(3_000);
    assert_eq!(most.load(SeqCst), 3);
    waiting(&edge, 0.0);
}

#[test]
fn an_adaptive_limit_sheds_what_an_endpoint_cannot_do_and_lets_it_in_again() {
    // Four at a time, 10 ms each: more of them make all wait for longer.
    let busy = Arc::new((Mutex::new(0), Condvar::new()));
    let backend = Backend::answering(US, move |_| {
        let (count, free) = &*busy;
        let mut held = free.wait_while(count.lock().expect("whole"), |n| *n >= 4).expect("whole");
        *held += 1;
        drop(held);
        std::thread::sleep(Duration::from_millis(10));
        *count.lock().expect("whole") -= 1;
        free.notify_one();
        Answer::ok("")
    });
    let service = "health.kind = \"none\"\noverload = { adaptive = true, queue = 0 }";
    let text = regions(&[(US, backend.address())], service);
    let edge = Meridian::start(&format!("{text}[[routes]]\nname = \"all\"\nservice = \"api\"\n"));
    let limit = || edge.admin().metric_sum("meridian_endpoint_limit", &[]);
    let load = Load::start(edge.address(), 2, |_| Ask::get("/"));
    load.run_for(500);
    let account = load.stop();
    account.assert_all_fine(500);
    let unhurried = limit();
    let load = Load::start(edge.address(), 60, |_| Ask::get("/"));
    eventually("the limit comes down", Duration::from_secs(30), || limit() <= 14.0);
    load.stop();
    assert!(unhurried >= 20.0, "{unhurried}");
    let shed = ["filter=\"queue-full\""];
    assert!(edge.admin().metric_sum("meridian_refusals_total", &shed) > 0.0);
    eventually("it serves", SOON, || edge.get("/").status == 200);
    eventually("nothing is left behind", SOON, || {
        edge.admin().metric_sum("meridian_in_flight", &[]) == 0.0
    });
}
