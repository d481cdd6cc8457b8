//! Caps on what is in flight and on connections: who is turned away, with what, and that the rest is served.

use std::time::Duration;

use meridian_tests::{
    Answer, Ask, Backend, Client, Meridian, Response, eventually, one_region, request_bytes,
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
