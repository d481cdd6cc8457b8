use meridian_config::{Levels, MediaPattern};

use super::*;
use crate::http1::response::with_response;

const AS_IT_IS: Option<Recoded> = Some(Recoded { coding: None, weakens: false });
const GZIP: Option<Recoded> = Some(Recoded { coding: Some(Coding::Gzip), weakens: true });

fn settings() -> Compress {
    let types = ["text/", "application/"].map(|start| MediaPattern::Any(start.to_owned()));
    let algorithms = vec![Coding::Brotli, Coding::Gzip];
    Compress { algorithms, min_size: 1024, types: types.into(), levels: Levels::default() }
}

/// The plan for an answer with these lines, to a request with those.
fn planned(
    method: &str,
    status: u16,
    answer: &str,
    protocol: Protocol,
    request: &str,
) -> Option<Recoded> {
    let mut slots = [httparse::EMPTY_HEADER; 16];
    let lines = format!("{request}\r\n");
    let (_, fields) = match httparse::parse_headers(lines.as_bytes(), &mut slots) {
        Ok(httparse::Status::Complete(parsed)) => parsed,
        other => panic!("{other:?}"),
    };
    let request = Request::new(protocol, method, "/", "a.example", Fields::Http1(fields), b"");
    let head = format!("HTTP/1.1 {status} X\r\n{answer}\r\n");
    let is_head = method == "HEAD";
    let plan =
        with_response(head.as_bytes(), is_head, |head| plan(&settings(), head, is_head, &request));
    plan.expect("a head").expect("a whole head")
}

fn get(status: u16, answer: &str, request: &str) -> Option<Recoded> {
    planned("GET", status, answer, Protocol::Http11, request)
}

const TEXT: &str = "Content-Type: text/html; charset=utf-8\r\nContent-Length: 5000\r\n";
const TAKES: &str = "Accept-Encoding: gzip\r\n";

#[test]
fn an_answer_is_compressed_for_who_takes_it_and_varies_for_all() {
    assert_eq!(get(200, TEXT, TAKES), GZIP);
    assert_eq!(get(404, TEXT, TAKES), GZIP);
    assert_eq!(get(200, TEXT, ""), AS_IT_IS);
    assert_eq!(get(200, TEXT, "Accept-Encoding: identity\r\n"), AS_IT_IS);
    let chunked = "Content-Type: TEXT/plain\r\nTransfer-Encoding: chunked\r\n";
    assert_eq!(get(200, chunked, TAKES), GZIP);
    assert_eq!(get(200, "Content-Type: text/css\r\n", TAKES), GZIP);
    let best = get(200, TEXT, "Accept-Encoding: gzip, br\r\n");
    assert_eq!(best.and_then(|plan| plan.coding), Some(Coding::Brotli));
    assert_eq!(planned("GET", 200, TEXT, Protocol::Http10, TAKES), AS_IT_IS);
    assert_eq!(planned("GET", 200, TEXT, Protocol::Http2, TAKES), GZIP);
}

#[test]
fn what_must_not_be_transformed_is_not_touched() {
    for status in [204, 205, 206] {
        assert_eq!(get(status, TEXT, TAKES), None, "{status}");
    }
    for line in [
        "Content-Encoding: br",
        "Content-Encoding: identity, gzip",
        "Content-Encoding: unknown",
        "Cache-Control: public, No-Transform",
        "Content-Range: bytes 0-4999/9000",
        "Content-Digest: sha-256=:AA==:",
        "Repr-Digest: sha-256=:AA==:",
        "Digest: sha-256=AA==",
        "Content-MD5: AA==",
        "Trailer: grpc-status, Content-Digest",
    ] {
        assert_eq!(get(200, &format!("{TEXT}{line}\r\n"), TAKES), None, "{line}");
    }
    for content_type in [
        "image/png",
        "text",
        "",
        "application/grpc",
        "Application/gRPC-web+proto",
        "text/event-stream",
    ] {
        let answer = format!("Content-Type: {content_type}\r\nContent-Length: 5000\r\n");
        assert_eq!(get(200, &answer, TAKES), None, "{content_type}");
    }
    assert_eq!(get(200, "Content-Length: 5000\r\n", TAKES), None);
    let identity = format!("{TEXT}Content-Encoding: identity\r\nTrailer: x\r\n");
    assert_eq!(get(200, &identity, TAKES), GZIP);
}

#[test]
fn a_client_may_want_it_as_it_is() {
    let request = format!("{TAKES}Cache-Control: no-cache, no-transform\r\n");
    assert_eq!(get(200, TEXT, &request), AS_IT_IS);
}

#[test]
fn small_answers_stay_unless_the_client_takes_no_others() {
    let small = |length| format!("Content-Type: text/html\r\nContent-Length: {length}\r\n");
    assert_eq!(get(200, &small(1023), TAKES), AS_IT_IS);
    assert_eq!(get(200, &small(1024), TAKES), GZIP);
    assert_eq!(get(200, &small(1), "Accept-Encoding: gzip, identity;q=0\r\n"), GZIP);
    assert_eq!(get(200, &small(0), TAKES), None);
}

#[test]
fn head_is_told_what_get_would_be() {
    let head = |answer| planned("HEAD", 200, answer, Protocol::Http11, TAKES);
    assert_eq!(head(TEXT), GZIP);
    assert_eq!(head("Content-Type: text/html\r\n"), GZIP);
    assert_eq!(head("Content-Type: text/html\r\nContent-Length: 10\r\n"), AS_IT_IS);
    assert_eq!(head("Content-Type: text/html\r\nContent-Length: 0\r\n"), None);
}

#[test]
fn a_304_has_the_tag_that_was_asked_for() {
    let weak = Some(Recoded { coding: None, weakens: true });
    for (tag, asked, plan) in [
        ("\"a\"", "W/\"a\"", weak),
        ("\"a\"", "\"b\", W/\"a\"", weak),
        ("\"a\"", "\"a\"", AS_IT_IS),
        ("\"a\"", "W/\"a\", \"a\"", AS_IT_IS),
        ("\"a\"", "*", AS_IT_IS),
        ("\"a\"", "W/\"aa\"", AS_IT_IS),
        ("W/\"a\"", "W/\"a\"", AS_IT_IS),
        ("a", "W/\"a\"", AS_IT_IS),
    ] {
        let asked = format!("If-None-Match: {asked}\r\n");
        assert_eq!(get(304, &format!("ETag: {tag}\r\n"), &asked), plan, "{tag} for {asked}");
    }
    assert_eq!(get(304, "", "If-None-Match: W/\"a\"\r\n"), AS_IT_IS);
}
