use std::time::Instant;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response};
use http_body_util::Full;
use tokio_tungstenite::tungstenite::Message;

use super::*;
use crate::http_client::{Address, Connection, NoAnswer};

const LIMIT: Duration = Duration::from_secs(5);

fn spec(id: &str, role: Role) -> RegionSpec {
    RegionSpec {
        id: id.to_owned(),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        role,
        epoch: 7,
        follows: None,
        distance: Duration::ZERO,
        lag: Duration::from_millis(40),
        controlled: false,
    }
}

async fn ask(
    at: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> Result<Response<Bytes>, NoAnswer> {
    let mut connection = Connection::open(&Address::Tcp(at.to_string()), LIMIT).await?;
    let request = Request::builder().method(method).uri(path).header("host", "test");
    let request = request.header("x-probe", "one").body(Full::from(body.to_owned()));
    connection.send(request.expect("a request"), LIMIT, 1 << 20).await
}

async fn eventually<F: Future<Output = bool>>(what: &str, check: impl Fn() -> F) {
    let deadline = Instant::now() + LIMIT;
    while !check().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn header<'a>(answer: &'a Response<Bytes>, name: &str) -> &'a str {
    answer.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

fn body(answer: &Response<Bytes>) -> serde_json::Value {
    serde_json::from_slice(answer.body()).unwrap()
}

#[tokio::test]
async fn a_primary_stores_and_says_what_it_is() {
    let region = Region::start(spec("us-east-1", Role::Primary)).unwrap();
    let missing = ask(region.address, "GET", "/kv/a", "").await.unwrap();
    assert_eq!(missing.status(), 404);
    let stored = ask(region.address, "PUT", "/kv/a", "one").await.unwrap();
    assert_eq!((stored.status().as_u16(), body(&stored)["position"].as_u64()), (200, Some(1)));
    assert_eq!(header(&stored, "meridian-position"), "1");
    let read = ask(region.address, "GET", "/kv/a", "").await.unwrap();
    assert_eq!(&read.body()[..], b"one");
    for (name, value) in [
        ("meridian-role", "primary"),
        ("meridian-epoch", "7"),
        ("meridian-lag-ms", "0"),
        ("x-served-region", "us-east-1"),
    ] {
        assert_eq!(header(&read, name), value, "{name}");
    }
    let status = ask(region.address, "GET", "/meridian/status", "").await.unwrap();
    let expected = serde_json::json!({"role": "primary", "epoch": 7, "position": 1, "lag_ms": 0});
    assert_eq!(body(&status), expected);
    let echo = body(&ask(region.address, "POST", "/any?x=1", "12345").await.unwrap());
    assert_eq!(
        (&echo["request"], &echo["body_bytes"]),
        (&"POST /any?x=1 HTTP/1.1".into(), &5.into())
    );
    assert!(echo["headers"].as_array().unwrap().contains(&"x-probe: one".into()));
}

#[tokio::test]
async fn writes_of_another_epoch_are_refused_before_they_are_applied() {
    let region = Region::start(spec("us-east-1", Role::Primary)).unwrap();
    let address = Address::Tcp(region.address.to_string());
    for (epoch, status) in [("6", 421), ("8", 421), ("x", 421), ("7", 200)] {
        let mut connection = Connection::open(&address, LIMIT).await.unwrap();
        let request = Request::put("/kv/a").header("meridian-epoch", epoch);
        let request = request.header("host", "test").body(Full::from("v")).unwrap();
        let answer = connection.send(request, LIMIT, 1 << 20).await.unwrap();
        assert_eq!(answer.status(), status, "{epoch}");
    }
    assert_eq!(region.state.facts().position, 1);
}

#[tokio::test]
async fn a_replica_follows_at_its_lag_and_refuses_writes() {
    let primary = Region::start(spec("us-east-1", Role::Primary)).unwrap();
    let follows = Some(primary.address.to_string());
    let replica =
        Region::start(RegionSpec { follows, ..spec("eu-west-1", Role::Replica) }).unwrap();
    let refused = ask(replica.address, "POST", "/kv/a", "one").await.unwrap();
    assert_eq!((refused.status().as_u16(), header(&refused, "meridian-epoch")), (421, "7"));
    ask(primary.address, "POST", "/kv/a", "one").await.unwrap();
    let at = replica.address;
    eventually("the write arrives", || async move {
        &ask(at, "GET", "/kv/a", "").await.unwrap().body()[..] == b"one"
    })
    .await;
    let status = body(&ask(replica.address, "GET", "/meridian/status", "").await.unwrap());
    let expected = serde_json::json!({"role": "replica", "epoch": 7, "position": 1, "lag_ms": 40});
    assert_eq!(status, expected);
    // A longer lag is reported at once and holds back what comes next.
    replica.state.set_lag(Duration::from_secs(60));
    ask(primary.address, "POST", "/kv/a", "two").await.unwrap();
    eventually("the write is received", || async {
        let received = replica.state.store().received();
        received == 2
    })
    .await;
    assert_eq!(replica.state.facts().position, 1);
    assert_eq!(replica.state.facts().lag_ms, Some(60_000));
}

#[tokio::test]
async fn lag_is_unknown_until_the_primary_was_heard() {
    let gone = Region::start(spec("us-east-1", Role::Primary)).unwrap();
    gone.state.set_alive(false);
    let follows = Some(gone.address.to_string());
    let replica =
        Region::start(RegionSpec { follows, ..spec("eu-west-1", Role::Replica) }).unwrap();
    let status = ask(replica.address, "GET", "/meridian/status", "").await.unwrap();
    assert_eq!(body(&status).get("lag_ms"), None);
    assert!(!status.headers().contains_key("meridian-lag-ms"));
    gone.state.set_alive(true);
    eventually("lag is known", || async { replica.state.facts().lag_ms == Some(40) }).await;
}

#[tokio::test]
async fn a_killed_region_refuses_connections_and_comes_back_with_its_data() {
    let region = Region::start(spec("us-east-1", Role::Primary)).unwrap();
    let at = region.address;
    ask(at, "PUT", "/kv/a", "one").await.unwrap();
    let mut open = Connection::open(&Address::Tcp(at.to_string()), LIMIT).await.unwrap();
    region.state.set_alive(false);
    eventually("connections are refused", || async move {
        matches!(ask(at, "GET", "/", "").await, Err(NoAnswer::Connect(error))
            if error.kind() == io::ErrorKind::ConnectionRefused)
    })
    .await;
    let on_open = Request::get("/").header("host", "test").body(Full::default()).unwrap();
    assert!(open.send(on_open, LIMIT, 1 << 20).await.is_err());
    region.state.set_alive(true);
    eventually("it is back", || async move { ask(at, "GET", "/", "").await.is_ok() }).await;
    assert_eq!(&ask(at, "GET", "/kv/a", "").await.unwrap().body()[..], b"one");
}

#[tokio::test]
async fn control_over_http_exists_only_when_asked_for() {
    let open = Region::start(RegionSpec { controlled: true, ..spec("a", Role::Replica) }).unwrap();
    let at = open.address;
    let told = ask(at, "POST", "/_demo/lag?ms=9000", "").await.unwrap();
    assert_eq!((told.status().as_u16(), body(&told)["lag_ms"].as_u64()), (200, Some(9_000)));
    assert_eq!(header(&ask(at, "GET", "/", "").await.unwrap(), "meridian-lag-ms"), "9000");
    assert_eq!(ask(at, "GET", "/_demo/kill", "").await.unwrap().status(), 405);
    assert_eq!(ask(at, "POST", "/_demo/lag", "").await.unwrap().status(), 400);
    assert_eq!(ask(at, "POST", "/_demo/nothing", "").await.unwrap().status(), 404);
    ask(at, "POST", "/_demo/kill", "").await.unwrap();
    assert!(ask(at, "GET", "/health", "").await.is_err());
    ask(at, "POST", "/_demo/revive", "").await.unwrap();
    assert_eq!(ask(at, "GET", "/health", "").await.unwrap().status(), 200);

    let closed = Region::start(spec("b", Role::Replica)).unwrap();
    ask(closed.address, "POST", "/_demo/kill", "").await.unwrap();
    assert!(closed.state.is_alive());
}

#[tokio::test]
async fn distance_delays_every_answer() {
    let far = RegionSpec { distance: Duration::from_millis(80), ..spec("far", Role::Replica) };
    let region = Region::start(far).unwrap();
    for path in ["/health", "/kv/none", "/meridian/status"] {
        let began = Instant::now();
        ask(region.address, "GET", path, "").await.unwrap();
        assert!(began.elapsed() >= Duration::from_millis(80), "{path}");
    }
}

#[tokio::test]
async fn a_websocket_echoes_until_the_region_dies() {
    let region = Region::start(spec("us-east-1", Role::Primary)).unwrap();
    let plain = ask(region.address, "GET", "/ws", "").await.unwrap();
    assert_eq!(plain.status(), 426);
    let stream = TcpStream::connect(region.address).await.unwrap();
    let url = format!("ws://{}/ws", region.address);
    let (mut socket, answer) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    assert_eq!(answer.headers()["x-served-region"], "us-east-1");
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
    region.state.set_alive(false);
    let end = tokio::time::timeout(LIMIT, socket.next()).await.unwrap();
    assert!(!matches!(end, Some(Ok(_))));
}
