//! Offers of an upgrade that end in an ordinary answer or a fault: the rules of ordinary requests hold.

use std::time::Duration;

use meridian_tests::{
    Answer, Backend, Body, Broken, Client, End, Meridian, Response, Wire, one_region,
};

const OFFER: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn offer(client: &mut Client, method: &str, path: &str, rest: &str) -> Result<Response, Broken> {
    client.send(format!("{method} {path} HTTP/1.1\r\nHost: a.example\r\n{OFFER}{rest}"));
    client.try_response(method)
}

/// Answers `/fine` well and anything else with these bytes, then reads on.
fn faulty(bytes: &'static str) -> Backend {
    Backend::speaking("here", move |wire: &mut Wire| {
        while let Some(mut request) = wire.request_head()? {
            wire.request_body(&mut request)?;
            if request.target == "/fine" {
                wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine")?;
            } else {
                wire.send(bytes.as_bytes())?;
            }
        }
        Ok(())
    })
}

#[test]
fn an_ambiguous_answer_to_an_offer_is_not_passed_on() {
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nevil!",
        "HTTP/1.1 200 OK\r\nContent-Length: 4, 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nevil",
        "evil\r\n\r\n",
    ] {
        let backend = faulty(head);
        let edge = Meridian::start(&one_region(&backend));
        let mut client = edge.client();
        client.wire().patience = Duration::from_secs(5);
        match offer(&mut client, "GET", "/fault", "\r\n") {
            Ok(answer) => assert_eq!(answer.status, 502, "{head:?}: {answer:?}"),
            Err(Broken::Early(End::Closed | End::Reset, _)) => {}
            Err(Broken::Nothing(End::Closed | End::Reset)) => {}
            Err(other) => panic!("{head:?}: {other:?}"),
        }
        for _ in 0..3 {
            assert_eq!(edge.get("/fine").text(), "fine", "{head:?}");
        }
    }
}

#[test]
fn a_cut_answer_to_an_offer_never_looks_complete() {
    let chunks = || Answer::new(200, Body::Chunks(vec![b"01234".to_vec(), b"56789".to_vec()]));
    for answer in [
        Answer::ok("0123456789").cut_after(5),
        Answer::ok("0123456789").reset_after(5),
        chunks().cut_after(6),
        chunks().cut_after(10),
        chunks().cut_after(23),
    ] {
        let shown = format!("{answer:?}");
        let backend = Backend::answering("here", move |_| answer.clone());
        let edge = Meridian::start(&one_region(&backend));
        let mut client = edge.client();
        match offer(&mut client, "GET", "/fault", "\r\n") {
            Err(Broken::Early(End::Closed | End::Reset, _) | Broken::Nothing(_)) => {}
            Ok(answer) if answer.status == 502 => {}
            other => panic!("{shown}: {other:?}"),
        }
    }
}

#[test]
fn more_than_was_announced_to_an_offer_is_nobody_s_answer() {
    let backend = faulty(
        "HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nnoHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    );
    let edge = Meridian::start(&one_region(&backend));
    let mut client = edge.client();
    let answer = offer(&mut client, "GET", "/fault", "\r\n").expect("an answer");
    assert_eq!((answer.status, answer.text().as_str()), (403, "no"));
    for _ in 0..3 {
        assert_eq!(edge.get("/fine").text(), "fine");
        let mut next = edge.client();
        let answer = offer(&mut next, "GET", "/fine", "\r\n").expect("an answer");
        assert_eq!(answer.text(), "fine");
    }
}

#[test]
fn offers_with_every_method_and_framing_leave_the_connection_in_step() {
    let backend = Backend::answering("here", |request| {
        let text = format!("{} {}", request.method, String::from_utf8_lossy(&request.body));
        match request.target.as_str() {
            "/chunks" => Answer::new(200, Body::Chunks(vec![text.into_bytes()])),
            "/close" => Answer::new(200, Body::UntilClose(text.into_bytes())),
            "/204" => Answer::status(204),
            _ => Answer::ok(text),
        }
    });
    let edge = Meridian::start(&one_region(&backend));
    for path in ["/length", "/chunks", "/close", "/204"] {
        let mut client = edge.client();
        let length = "Content-Length: 5\r\n\r\nhello";
        let chunked = "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n";
        let waits = "Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello";
        for (method, rest, body) in [
            ("GET", "\r\n", "GET "),
            ("HEAD", "\r\n", ""),
            ("POST", length, "POST hello"),
            ("PUT", chunked, "PUT hello"),
            ("POST", waits, "POST hello"),
            ("DELETE", "\r\n", "DELETE "),
        ] {
            let answer = match offer(&mut client, method, path, rest) {
                Ok(answer) => answer,
                // It may end the connection after an answer, never in the middle of one.
                Err(Broken::Nothing(End::Closed)) => {
                    client = edge.client();
                    offer(&mut client, method, path, rest).expect("an answer on a new connection")
                }
                Err(broken) => panic!("{method} {path}: {broken:?}"),
            };
            let body = if path == "/204" { "" } else { body };
            assert_eq!(answer.text(), body, "{method} {path}");
        }
    }
}

#[test]
fn an_offer_never_meets_a_connection_that_the_endpoint_closed() {
    let backend = Backend::answering("here", |_| Answer::status(403));
    let edge = Meridian::start(&one_region(&backend));
    let mut client = edge.client();
    for round in 0..20 {
        let answer = offer(&mut client, "GET", "/x", "\r\n").expect("an answer");
        assert_eq!(answer.status, 403, "round {round}");
        backend.close_connections();
    }
}

#[test]
fn an_answer_to_an_offer_is_stripped_like_any_other() {
    let backend = Backend::answering("here", |_| {
        Answer::ok("no")
            .header("Connection", "x-hop")
            .header("X-Hop", "1")
            .header("Keep-Alive", "timeout=5")
            .header("Proxy-Connection", "keep-alive")
            .header("Meridian-Role", "primary")
            .header("X-Kept", "1")
    });
    let edge = Meridian::start(&one_region(&backend));
    let answer = offer(&mut edge.client(), "GET", "/x", "\r\n").expect("an answer");
    assert_eq!((answer.text().as_str(), answer.header("x-kept")), ("no", Some("1")));
    for gone in ["x-hop", "keep-alive", "proxy-connection", "meridian-role"] {
        assert_eq!(answer.header(gone), None, "{gone}: {answer:?}");
    }
}

#[test]
fn an_endpoint_s_own_504_is_passed_on_whole_however_late_its_body_comes() {
    let backend = Backend::speaking("here", move |wire: &mut Wire| {
        while let Some(mut request) = wire.request_head()? {
            wire.request_body(&mut request)?;
            wire.send(b"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 300\r\n\r\n")?;
            // The body comes when the head has long been passed on.
            std::thread::sleep(Duration::from_millis(300));
            wire.send(&[b'x'; 300])?;
        }
        Ok(())
    });
    let edge = Meridian::start(&one_region(&backend));
    let mut client = edge.client();
    let answer = offer(&mut client, "GET", "/late", "\r\n").expect("an answer");
    assert_eq!((answer.status, answer.text()), (504, "x".repeat(300)));
}
