//! Which requests are sent again, to whom, and which are not.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use meridian_tests::{Answer, Ask, Backend, Meridian, Response, regions};

const US: &str = "us-east-1";
const WEST: &str = "us-west-2";

/// Two endpoints of which one breaks every request's connection once it has read it.
struct Pair {
    backends: [Backend; 2],
    edge: Meridian,
}

impl Pair {
    /// They have turns, and neither is ejected, so that it is known who gets what.
    fn new(retry: &str) -> Self {
        let breaks = Backend::answering(US, |_| Answer::raw("").then_close());
        let backends = [breaks, Backend::start(US)];
        let endpoints = backends.each_ref().map(|b| (US, b.address()));
        let service = format!(
            "balance = \"round_robin\"\nhealth.kind = \"none\"\noutlier.connection_failures = 0\n\
             outlier.success_ratio = 0\n{retry}"
        );
        let text = regions(&endpoints, &service);
        let text = format!("{text}[[routes]]\nname = \"all\"\nservice = \"api\"\n");
        Self { backends, edge: Meridian::start(&text) }
    }

    /// Sends a request twice, so that each backend has its turn; the answers' statuses, lower first.
    fn statuses(&self, ask: &Ask) -> [u16; 2] {
        let mut client = self.edge.client();
        let mut statuses = [(); 2].map(|()| ask.send(&mut client).status);
        statuses.sort_unstable();
        statuses
    }

    fn retries(&self, reason: &str) -> f64 {
        let label = format!("reason=\"{reason}\"");
        self.edge.admin().metric_sum("meridian_retries_total", &[label.as_str()])
    }

    fn suppressed(&self, reason: &str) -> f64 {
        let label = format!("reason=\"{reason}\"");
        self.edge.admin().metric_sum("meridian_retries_suppressed_total", &[label.as_str()])
    }

    /// How often each backend got a request.
    fn met(&self) -> [usize; 2] {
        self.backends.each_ref().map(|b| b.requests().len())
    }
}

fn method(method: &'static str) -> Ask {
    Ask { method, ..Ask::post("/", "a body") }
}

#[test]
fn a_post_is_sent_once_unless_it_has_a_key_that_is_honoured() {
    let keyed = method("POST").with("Idempotency-Key", "\"4711\"");
    let pair = Pair::new("");
    assert_eq!(pair.statuses(&method("POST")), [200, 502]);
    assert_eq!(pair.statuses(&keyed), [200, 502], "the service does not honour it");
    assert_eq!(pair.suppressed("not-idempotent"), 2.0);
    assert_eq!(pair.met(), [2, 2]);
    let pair = Pair::new("retry.idempotency_key = true");
    assert_eq!(pair.statuses(&method("POST")), [200, 502]);
    let empty = method("POST").with("Idempotency-Key", " ");
    assert_eq!(pair.statuses(&empty), [200, 502]);
    assert_eq!(pair.statuses(&keyed), [200, 200]);
    assert_eq!(pair.statuses(&method("PATCH").with("idempotency-key", "x")), [200, 200]);
    assert_eq!((pair.retries("idempotency-key"), pair.retries("idempotent")), (2.0, 0.0));
    assert_eq!(pair.met(), [4, 6]);
    let sent_twice = pair.backends[1].requests();
    let last = sent_twice.last().expect("a request");
    assert_eq!((last.header("idempotency-key"), &*last.body), (Some("x"), &b"a body"[..]));
}

#[test]
fn put_and_delete_are_repeated_where_the_service_opts_in() {
    let pair = Pair::new("");
    assert_eq!(pair.statuses(&method("PUT")), [200, 502]);
    assert_eq!(pair.statuses(&method("GET")), [200, 200]);
    let methods = "retry.idempotent_methods = [\"GET\", \"PUT\", \"DELETE\"]";
    let pair = Pair::new(methods);
    for name in ["PUT", "DELETE", "GET"] {
        assert_eq!(pair.statuses(&method(name)), [200, 200], "{name}");
    }
    assert_eq!(pair.statuses(&method("POST")), [200, 502]);
    assert_eq!(pair.retries("idempotent"), 3.0);
}

#[test]
fn a_body_is_repeated_as_far_as_it_is_kept() {
    let pair = Pair::new("retry.idempotent_methods = [\"PUT\"]\nretry.buffer = \"32KiB\"");
    let put = |size: usize| Ask { body: vec![b'x'; size], ..method("PUT") };
    assert_eq!(pair.statuses(&put(30_000)), [200, 200]);
    let sizes: Vec<_> = pair.backends[1].requests().iter().map(|r| r.body.len()).collect();
    assert_eq!(sizes, [30_000, 30_000]);
    assert_eq!(pair.statuses(&put(300_000)), [200, 502]);
    assert_eq!(pair.suppressed("body-not-replayable"), 1.0);
}

#[test]
fn further_attempts_are_counted_and_end() {
    let backends: Vec<_> = (0..5)
        .map(|n| {
            Backend::answering(if n < 3 { US } else { WEST }, |_| Answer::raw("").then_close())
        })
        .collect();
    let endpoints: Vec<_> = backends.iter().map(|b| (b.name(), b.address())).collect();
    let service = "policy = \"priority\"\nhealth.kind = \"none\"\nretry.attempts = 3\n\
                   outlier.connection_failures = 0\noutlier.success_ratio = 0";
    let text = regions(&endpoints, service);
    let edge = Meridian::start(&format!("{text}[[routes]]\nname = \"all\"\nservice = \"api\"\n"));
    assert_eq!(edge.get("/").status, 502);
    let met: Vec<_> = backends.iter().map(|b| b.requests().len()).collect();
    assert!(met.iter().all(|times| *times <= 1), "never the same endpoint: {met:?}");
    // Two in the first region, then the next one.
    assert_eq!((met[..3].iter().sum::<usize>(), met[3..].iter().sum::<usize>()), (2, 2));
    let suppressed = edge.admin().metric_sum("meridian_retries_suppressed_total", &["attempts"]);
    assert_eq!(suppressed, 1.0);
    // The budget is a fifth of requests, and 100 in ten seconds in any case.
    let mut client = edge.client();
    let begun = Instant::now();
    for _ in 0..60 {
        assert_eq!(client.get("/").status, 502);
    }
    let retries = edge.admin().metric_sum("meridian_retries_total", &["idempotent"]);
    let spent = edge.admin().metric_sum("meridian_retries_suppressed_total", &["\"budget\""]);
    // Unless a new window has begun meanwhile.
    if begun.elapsed() < Duration::from_secs(5) && spent > 0.0 {
        assert!((100.0..=200.0).contains(&retries), "{retries}");
    } else {
        assert!(spent > 0.0 || begun.elapsed() > Duration::from_secs(5), "{retries}");
    }
}

#[test]
fn an_answer_that_breaks_off_is_not_begun_anew() {
    let count = AtomicUsize::new(0);
    let cut = Backend::answering(US, move |_| {
        let whole = Answer::ok("0123456789");
        if count.fetch_add(1, SeqCst) == 0 { whole.cut_after(4) } else { whole }
    });
    let endpoints = [(US, cut.address())];
    let text = regions(&endpoints, "health.kind = \"none\"");
    let edge = Meridian::start(&format!("{text}[[routes]]\nname = \"all\"\nservice = \"api\"\n"));
    let answer: Result<Response, _> = edge.client().try_request("GET", "/", &[], b"");
    assert!(answer.is_err(), "{answer:?}");
    assert_eq!(cut.requests().len(), 1);
    let label = "reason=\"response-started\"";
    assert_eq!(edge.admin().metric_sum("meridian_retries_suppressed_total", &[label]), 1.0);
}

/// The kernel counts the time in which an endpoint has no room for more as time without an acknowledgement.
#[test]
fn an_endpoint_that_reads_a_large_upload_slowly_is_given_time() {
    const SIZE: usize = 8 << 20;
    let slow = Backend::speaking(US, |wire| {
        let Some(mut request) = wire.request_head()? else { return Ok(()) };
        std::thread::sleep(Duration::from_secs(6));
        wire.request_body(&mut request)?;
        wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    });
    let text = regions(&[(US, slow.address())], "health.kind = \"none\"");
    let edge = Meridian::start(&format!("{text}[[routes]]\nname = \"all\"\nservice = \"api\"\n"));
    let answer = edge.client().request("POST", "/", &[], &vec![b'x'; SIZE]);
    assert_eq!(answer.status, 200);
}
