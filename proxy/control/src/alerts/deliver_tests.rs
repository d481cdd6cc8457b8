use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use meridian_config::{AlertClass, Config};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::alerts::Webhook;
use crate::history::tests::event;

const SOON: Duration = Duration::from_secs(20);

/// A webhook that answers with these statuses, then 200 always; and how often it was asked.
async fn server(statuses: &'static [u16]) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("has an address").port();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let turn = count.fetch_add(1, SeqCst);
            let mut buffer = [0; 4096];
            // The rest of the request may stay unread.
            let _ = stream.read(&mut buffer).await;
            let status = statuses.get(turn).copied().unwrap_or(200);
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (port, asked)
}

fn webhook(port: u16, lines: &str) -> Webhook {
    let text = format!(
        "[[listeners]]\nname = \"l\"\naddress = \"127.0.0.1:1\"\n\
         [[regions]]\nid = \"us\"\ncoordinates = [1, 1]\n\
         [[services]]\nname = \"api\"\nendpoints = [{{ region = \"us\", address = \"10.0.0.1:80\" }}]\n\
         [[routes]]\nname = \"all\"\nservice = \"api\"\n\
         [alerts]\nurl = \"http://127.0.0.1:{port}/hook\"\nbackoff = \"10ms\"\n{lines}\n"
    );
    let loaded = Config::parse(&text, std::path::Path::new("/m.toml"), &|_| None);
    let config = loaded.unwrap_or_else(|errors| panic!("{errors}")).config;
    Webhook::read(&config).expect("nothing to read").expect("a webhook")
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(SOON, waiting).await.is_ok(), "not soon: {what}");
}

fn offer(queue: &AlertQueue, to: &str) {
    queue.offer(&Arc::new(event(Some("api"), Some("us"), to)));
}

#[tokio::test]
async fn an_event_is_tried_until_it_is_taken() {
    let (port, asked) = server(&[500, 503]).await;
    let queue = AlertQueue::new(Some(webhook(port, "")));
    let task = tokio::spawn(deliver(queue.clone()));
    offer(&queue, "down");
    until("delivered", || queue.status().delivered == 1).await;
    assert_eq!(asked.load(SeqCst), 3);
    let status = queue.status();
    assert_eq!((status.failed, status.waiting, status.last_error), (0, 0, None));
    assert_eq!(status.webhook, Some(format!("http://127.0.0.1:{port}")));
    task.abort();
}

#[tokio::test]
async fn attempts_are_bounded_and_failures_counted() {
    let (port, asked) = server(&[500, 500, 404]).await;
    let queue = AlertQueue::new(Some(webhook(port, "retries = 2")));
    let task = tokio::spawn(deliver(queue.clone()));
    offer(&queue, "down");
    until("given up", || queue.status().failed == 1).await;
    let error = queue.status().last_error.expect("why");
    assert!(error.contains("404") && !error.contains("hook/"), "{error}");
    offer(&queue, "down");
    until("the next one", || queue.status().delivered == 1).await;
    assert_eq!((asked.load(SeqCst), queue.status().last_error), (4, None));
    task.abort();
}

#[tokio::test]
async fn the_queue_is_bounded_and_takes_what_was_asked_for() {
    let queue = AlertQueue::new(Some(webhook(1, "queue = 3\nevents = [\"down\"]")));
    (0..5).for_each(|_| offer(&queue, "down"));
    (0..5).for_each(|_| offer(&queue, "degraded"));
    assert_eq!((queue.status().waiting, queue.status().dropped), (3, 2));
    queue.set(None);
    offer(&queue, "down");
    assert_eq!((queue.status().waiting, queue.status().webhook), (0, None));
}

#[tokio::test]
async fn a_reload_mends_an_event_under_way() {
    let (port, _) = server(&[]).await;
    let queue = AlertQueue::new(Some(webhook(1, "retries = 100")));
    let task = tokio::spawn(deliver(queue.clone()));
    offer(&queue, "down");
    until("the first attempt", || queue.status().last_error.is_some()).await;
    assert_eq!(queue.status().waiting, 1, "it is under way");
    queue.set(Some(webhook(port, "")));
    until("delivered", || queue.status().delivered == 1).await;
    task.abort();
}

#[test]
fn pauses_double_up_to_a_minute() {
    let first = Duration::from_secs(1);
    let pauses: Vec<_> = [0, 1, 5, 6, 100].map(|n| pause(first, n).as_secs()).into();
    assert_eq!(pauses, [1, 2, 32, 60, 60]);
}

#[test]
fn classes_have_the_words_of_the_file() {
    let of = |from: &str, to: &str| {
        let event = HistoryEvent { from: from.into(), ..event(Some("api"), Some("us"), to) };
        event.class()
    };
    for (from, to, class) in [
        ("healthy", "down", Some(AlertClass::Down)),
        ("drained", "down", Some(AlertClass::Down)),
        ("down", "degraded", Some(AlertClass::Degraded)),
        ("degraded", "healthy", Some(AlertClass::Recovered)),
        ("healthy", "drained", Some(AlertClass::Drain)),
        ("drained", "healthy", Some(AlertClass::Drain)),
        ("absent", "unknown", Some(AlertClass::Configuration)),
        ("unknown", "healthy", None),
        ("healthy", "unknown", None),
    ] {
        assert_eq!(of(from, to), class, "{from} -> {to}");
    }
}
