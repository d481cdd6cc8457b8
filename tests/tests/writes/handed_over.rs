//! What outlives a crash of the edge, and the ways of HTTP/2 and of upgrades.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use meridian_tests::{Answer, Ask, Load, eventually};
use tokio::net::TcpStream;

use crate::scene::{EU, SOON, Scene, US, is_refused};

fn run<F: Future<Output = ()>>(work: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), work).await.expect("in time");
    });
}

async fn connect(scene: &Scene) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(scene.edge.address()).await.expect("a connection");
    let (sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(async move {
        // Its end is seen by the streams.
        let _ = connection.await;
    });
    sender
}

/// Sends a write as a stream; the handle of its answer.
async fn write(sender: &mut SendRequest<Bytes>) -> h2::client::ResponseFuture {
    let request = http::Request::post("http://a.example/").header("meridian-epoch", "99");
    poll_fn(|cx| sender.poll_ready(cx)).await.expect("room for a stream");
    let request = request.body(()).expect("a request");
    let (response, mut stream) = sender.send_request(request, false).expect("a stream");
    stream.send_data(Bytes::from_static(b"a write"), true).expect("room");
    response
}

/// Lets the client's connection send what it has to send, before the test waits without it.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}

#[test]
fn streams_wait_follow_and_are_given_up_like_requests() {
    let scene = Scene::new("failover.write_park.time = \"20s\"");
    scene.regions[0].is(false, 1);
    scene.hear(US);
    run(async {
        let mut sender = connect(&scene).await;
        let first = write(&mut sender).await;
        let second = write(&mut sender).await;
        settle().await;
        scene.wait_parked(2.0);
        drop(second);
        settle().await;
        scene.wait_parked(1.0);
        assert_eq!(scene.outcome("gone"), 1.0);
        scene.promote_eu(2);
        scene.hear(EU);
        let answer = first.await.expect("an answer");
        assert_eq!(answer.status(), 200);
        let internal = |name: &http::HeaderName| {
            name.as_str().starts_with("meridian-") && name != "meridian-session"
        };
        assert!(!answer.headers().keys().any(internal));
    });
    let executed = scene.executed();
    assert_eq!(executed.len(), 1, "{executed:?}");
    assert_eq!((executed[0].region, executed[0].epoch.as_deref()), (EU, Some("2")));
}

#[test]
fn a_stream_that_was_not_executed_follows_the_primary() {
    let scene = Scene::new("");
    scene.promote_eu(2);
    run(async {
        let mut sender = connect(&scene).await;
        let answer = write(&mut sender).await;
        settle().await;
        scene.hear(EU);
        assert_eq!(answer.await.expect("an answer").status(), 200);
    });
    assert_eq!(scene.check().get(EU), Some(&1));
}

#[test]
fn a_killed_edge_remembers_the_epoch() {
    let mut scene = Scene::new("failover.write_park.time = \"20s\"");
    scene.promote_eu(7);
    scene.hear(EU);
    assert_eq!(scene.post().text(), EU);
    scene.edge.crash_and_restart();
    // The old primary believes in itself again; the edge knows better before anybody tells.
    scene.regions[0].is(true, 1);
    let answer = scene.post();
    assert_eq!((answer.status, answer.text().as_str()), (200, EU), "{answer:?}");
    assert_eq!(scene.executed().pop().expect("a write").epoch.as_deref(), Some("7"));
}

#[test]
fn a_primary_that_dies_under_load_loses_and_doubles_nothing() {
    let scene = Scene::new("failover.write_park.time = \"20s\"\nhealth.interval = \"100ms\"");
    let load = Load::start(scene.edge.address(), 8, |serial| {
        Ask::post("/", "a write").with("X-Request-Id", format!("write-{serial}"))
    });
    load.run_for(300);
    scene.backends[0].kill();
    std::thread::sleep(Duration::from_millis(500));
    scene.promote_eu(2);
    scene.hear(EU);
    load.run_for(300);
    let account = load.stop();
    scene.check();
    let executed = scene.executed();
    let mut failed = 0;
    for outcome in &account.0 {
        let id = format!("write-{}", outcome.serial);
        let times = executed.iter().filter(|write| write.id == id).count();
        if outcome.is_fine() {
            assert_eq!(times, 1, "{id} was acknowledged");
        } else {
            assert!(times <= 1, "{id}");
            assert_eq!(outcome.status(), Some(502), "{outcome:?}");
            failed += 1;
        }
    }
    assert!(failed <= 8, "only those in flight: {failed}");
}

#[test]
fn offers_to_switch_protocols_are_fenced_and_do_not_wait() {
    let route = "[[routes]]\nname = \"socket\"\npath_prefix = \"/socket\"\nservice = \"api\"\n\
                 access = \"write\"\n";
    let scene = Scene::with("", route);
    let offer = |scene: &Scene| {
        let fields = [("Connection", "upgrade"), ("Upgrade", "test"), ("Meridian-Epoch", "99")];
        scene.edge.client().request("GET", "/socket", &fields, b"")
    };
    scene.backends[0].set(|request| {
        let seen = request.fields.all("meridian-epoch").join("|");
        Answer::ok("").header("X-Seen", seen).header("Meridian-Epoch", 1).header("Meridian-X", 1)
    });
    let answer = offer(&scene);
    assert_eq!((answer.status, answer.header("x-seen")), (200, Some("1")), "{answer:?}");
    assert!(!format!("{:?}", answer.fields).to_lowercase().contains("meridian-"), "{answer:?}");
    scene.backends[0].set(|_| {
        Answer::status(421).header("Meridian-Role", "replica").header("Meridian-Epoch", 2)
    });
    is_refused(&offer(&scene));
    // What it said was heard: the primary is not known any more.
    eventually("offers are refused at once", SOON, || {
        let before = scene.backends[0].requests().len();
        is_refused(&offer(&scene));
        scene.backends[0].requests().len() == before
    });
}

/// What goes through a tunnel nobody can refuse: on a route for writes it ends with the primary that it leads to.
#[test]
fn a_tunnel_for_writes_ends_with_its_primary_and_one_for_reads_does_not() {
    let route = "[[routes]]\nname = \"socket\"\npath_prefix = \"/socket\"\nservice = \"api\"\n\
                 access = \"write\"\n";
    let scene = Scene::with("", route);
    scene.backends[0].set(|request| match request.header("upgrade") {
        Some(_) => Answer::raw(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        ),
        None => Answer::ok("{\"role\": \"primary\", \"epoch\": 1, \"lag_ms\": 0}"),
    });
    let tunnel = |path: &str| {
        let mut client = scene.edge.client();
        client.send(format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ));
        let head = client.try_head().expect("an answer");
        assert_eq!(head.status, 101, "{path}: {head:?}");
        client
    };
    let (mut writes, reads) = (tunnel("/socket"), tunnel(&format!("/only/{US}")));
    scene.regions[1].is(true, 2);
    scene.hear(EU);
    let begun = std::time::Instant::now();
    assert!(writes.end().0.is_empty());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let open = ["protocol=\"upgraded\""];
    let count = || scene.edge.admin().metric_sum("meridian_connections", &open);
    eventually("one is left", SOON, || count() == 1.0);
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(count(), 1.0, "it goes on");
    drop(reads);
    eventually("none is left", SOON, || count() == 0.0);
}
