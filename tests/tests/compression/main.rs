//! `[routes.compress]`: what clients get of answers that are compressed on their way, and what is left alone.

mod caches;
mod streams;

use std::io::Read;
use std::process::Command;
use std::time::Duration;

use meridian_tests::{
    Answer, Backend, Body, Checked, Client, H2Backend, H2Settings, Meridian, Response, one_region,
    regions,
};

const PATIENCE: Duration = Duration::from_secs(20);
const CODINGS: [&str; 3] = ["gzip", "br", "zstd"];

/// An edge whose only route compresses; `lines` are further ones of `[routes.compress]`.
fn edge(backend: &Backend, lines: &str) -> Meridian {
    Meridian::start(&text(backend, lines))
}

fn text(backend: &Backend, lines: &str) -> String {
    format!("{}[routes.compress]\n{lines}\n", one_region(backend))
}

/// Something that shrinks.
fn page(length: usize) -> Vec<u8> {
    let mut page = Vec::with_capacity(length + 100);
    let mut dice = fastrand::Rng::with_seed(length as u64);
    while page.len() < length {
        let line = format!("<li class=\"entry\" id=\"{}\">{}</li>\n", page.len(), dice.u32(..));
        page.extend_from_slice(line.as_bytes());
    }
    page.truncate(length);
    page
}

fn html(body: impl Into<Vec<u8>>) -> Answer {
    Answer::ok(body).header("Content-Type", "text/html; charset=utf-8")
}

/// What a decoder makes of a body, up to where it ends or breaks off; and whether it has ended.
fn decoded(coding: &str, body: &[u8]) -> (Vec<u8>, bool) {
    let mut plain = Vec::new();
    let read = match coding {
        "gzip" => flate2::read::GzDecoder::new(body).read_to_end(&mut plain),
        "br" => brotli::Decompressor::new(body, 4096).read_to_end(&mut plain),
        "zstd" => zstd::stream::read::Decoder::new(body).expect("zstd").read_to_end(&mut plain),
        _ => panic!("no such coding: {coding}"),
    };
    (plain, read.is_ok())
}

fn ask(client: &mut Client, method: &str, path: &str, accepts: &str) -> Response {
    client.request(method, path, &[("Accept-Encoding", accepts)], b"")
}

#[track_caller]
fn is_plain(answer: &Response, body: &[u8]) {
    assert_eq!(answer.header("content-encoding"), None, "{answer:?}");
    assert_eq!(answer.body, body, "{answer:?}");
}

#[test]
fn clients_get_what_they_like_best_and_may_read_it() {
    let body = page(50_000);
    let copy = body.clone();
    let backend = Backend::answering("here", move |_| html(copy.clone()));
    let edge = edge(&backend, "");
    let mut client = edge.client();
    for coding in CODINGS {
        let answer = ask(&mut client, "GET", "/", coding);
        assert_eq!(answer.header("content-encoding"), Some(coding));
        assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
        assert_eq!(answer.header("content-length"), None);
        assert_eq!(answer.header("vary"), Some("accept-encoding"));
        assert!(answer.body.len() < body.len() / 2, "{} bytes", answer.body.len());
        assert_eq!(decoded(coding, &answer.body), (body.clone(), true), "{coding}");
        let line = edge.logged(|line| line["compressed"] == coding);
        assert_eq!(line["bytes"], answer.body.len());
        assert_eq!(line["uncompressed_bytes"], body.len());
    }
    for (accepts, coding) in [
        ("gzip, deflate, br, zstd", Some("zstd")),
        ("gzip;q=0.9, br;q=0.8", Some("gzip")),
        ("identity, gzip;q=0.5", None),
        ("deflate", None),
        ("", None),
    ] {
        let answer = ask(&mut client, "GET", "/", accepts);
        assert_eq!(answer.header("content-encoding"), coding, "{accepts}");
        assert_eq!(answer.header("vary"), Some("accept-encoding"));
    }
    let plain = client.get("/");
    is_plain(&plain, &body);
    assert_eq!(plain.header("content-length"), Some("50000"));
    assert_eq!(backend.connections(), 1, "connections go on");
    // The endpoint is asked as the client asks: it may compress better.
    assert_eq!(backend.requests()[0].header("accept-encoding"), Some("gzip"));
    let count = |name: &str, labels: &[&str]| edge.admin().metric_sum(name, labels);
    assert_eq!(count("meridian_compressed_responses_total", &["algorithm=\"gzip\""]), 2.0);
    let brotli = ["algorithm=\"br\"", "route=\"all\"", "side=\"in\""];
    assert_eq!(count("meridian_compression_bytes_total", &brotli), 50_000.0);
    assert_eq!(edge.admin().metric("meridian_compression_skipped_total{route=\"all\"}"), Some(0.0));
}

#[test]
fn routes_that_do_not_ask_are_left_alone() {
    let backend = Backend::answering("here", |_| html(page(50_000)).header("ETag", "\"a\""));
    let edge = Meridian::start(&one_region(&backend));
    let answer = ask(&mut edge.client(), "GET", "/", "gzip, br, zstd");
    is_plain(&answer, &page(50_000));
    assert_eq!(answer.header("vary"), None);
    assert_eq!(answer.header("etag"), Some("\"a\""));
    assert!(!edge.admin().get("/metrics").text().contains("meridian_compress"));
}

#[test]
fn the_route_says_what_is_compressed_and_with_what() {
    let backend = Backend::answering("here", |request| {
        let (kind, length) = request.target[1..].split_once('-').unwrap_or_default();
        let body = page(length.parse().unwrap_or(0));
        Answer::ok(body).header("Content-Type", kind.replace('.', "/"))
    });
    let lines = "algorithms = [\"gzip\"]\nmin_size = \"2KiB\"\n\
                 types = [\"text/plain\", \"+json\"]\nlevels = { gzip = 1 }";
    let edge = edge(&backend, lines);
    let mut client = edge.client();
    for (path, coding) in [
        ("/text.plain-2048", Some("gzip")),
        ("/text.plain-2047", None),
        ("/application.problem+json-5000", Some("gzip")),
        ("/text.html-5000", None),
        ("/application.json-5000", None),
    ] {
        let answer = ask(&mut client, "GET", path, "zstd, br, gzip");
        assert_eq!(answer.header("content-encoding"), coding, "{path}");
    }
    // A client that takes no other gets it whatever its size.
    let small = ask(&mut client, "GET", "/text.plain-10", "gzip, identity;q=0");
    assert_eq!(decoded("gzip", &small.body), (page(10), true));
}

#[test]
fn curl_reads_every_coding_over_both_protocols() {
    let backend = Backend::answering("here", |request| match &*request.target {
        "/chunks" => {
            let body = page(300_000);
            let chunks = body.chunks(7_000).map(<[u8]>::to_vec).collect();
            Answer::new(200, Body::Chunks(chunks)).header("Content-Type", "application/json")
        }
        "/close" => {
            Answer::new(200, Body::UntilClose(page(300_000))).header("Content-Type", "text/css")
        }
        _ => html(page(300_000)),
    });
    let edge = edge(&backend, "");
    let dir = tempfile::tempdir().expect("a directory");
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        for (n, coding) in CODINGS.iter().enumerate() {
            for path in ["/whole", "/chunks", "/close"] {
                let file = dir.path().join(format!("{n}"));
                let mut curl = Command::new("curl");
                curl.args(["--silent", "--show-error", "--max-time", "20", "--compressed"]);
                curl.args([version, "--dump-header", "-", "--output"]).arg(&file);
                curl.args(["--header", &format!("Accept-Encoding: {coding}")]);
                let out = curl.arg(format!("http://{}{path}", edge.address())).output();
                let out = out.expect("curl");
                let head = String::from_utf8_lossy(&out.stdout).to_ascii_lowercase();
                assert!(out.status.success(), "{version} {coding} {path}: {out:?}");
                assert!(head.contains(&format!("content-encoding: {coding}\r\n")), "{head}");
                assert!(!head.contains("content-length"), "{head}");
                let got = std::fs::read(&file).expect("a file");
                assert!(got == page(300_000), "{version} {coding} {path}: {} bytes", got.len());
            }
        }
    }
}

#[test]
fn endpoints_of_http_2_are_compressed_too() {
    let far = H2Backend::start(H2Settings::default());
    let service = "protocol = \"h2c\"\nhealth = { kind = \"none\" }";
    let text = regions(&[("far", far.address())], service);
    let edge = Meridian::start(&format!(
        "{text}[[routes]]\nname = \"all\"\nservice = \"api\"\n[routes.compress]\n"
    ));
    let mut client = edge.client();
    for coding in CODINGS {
        let answer = ask(&mut client, "GET", "/text", coding);
        assert_eq!(answer.header("content-encoding"), Some(coding));
        assert_eq!(answer.header("etag"), Some("W/\"h2\""));
        let (plain, ended) = decoded(coding, &answer.body);
        let mut checked = Checked::default();
        checked.take(&plain);
        assert!(ended && checked.is(3 << 20), "{coding}: {checked:?}");
    }
    let untyped = ask(&mut client, "GET", "/untyped", "gzip");
    assert_eq!((untyped.header("content-encoding"), untyped.header("vary")), (None, None));
}

#[test]
fn what_must_not_be_transformed_arrives_byte_for_byte() {
    let backend = Backend::answering("here", |request| {
        let answer = html(page(5_000)).header("ETag", "\"a\"");
        match &*request.target {
            "/encoded" => answer.header("Content-Encoding", "br"),
            "/no-transform" => answer.header("Cache-Control", "no-transform, max-age=5"),
            "/digest" => answer.header("Content-Digest", "sha-256=:AA==:"),
            "/events" => Answer::ok(page(5_000)).header("Content-Type", "text/event-stream"),
            "/image" => Answer::ok(page(5_000)).header("Content-Type", "image/png"),
            "/grpc" => Answer::ok(page(5_000)).header("Content-Type", "application/grpc+json"),
            "/untyped" => Answer::ok(page(5_000)),
            "/part" => Answer::new(206, Body::Whole(page(5_000)))
                .header("Content-Type", "text/html")
                .header("Content-Range", "bytes 0-4999/9000"),
            other => panic!("{other}"),
        }
    });
    let edge = edge(&backend, "");
    let mut client = edge.client();
    for path in
        ["/encoded", "/no-transform", "/digest", "/events", "/image", "/grpc", "/untyped", "/part"]
    {
        let answer = ask(&mut client, "GET", path, "gzip, br, zstd");
        let coding = (path == "/encoded").then_some("br");
        assert_eq!(answer.header("content-encoding"), coding, "{path}");
        assert_eq!(answer.header("content-length"), Some("5000"), "{path}");
        assert_eq!(answer.header("vary"), None, "{path}");
        assert!(answer.body == page(5_000), "{path}");
    }
    let as_it_is = [("Accept-Encoding", "gzip"), ("Cache-Control", "no-transform")];
    backend.set(|_| html(page(5_000)));
    is_plain(&client.request("GET", "/", &as_it_is, b""), &page(5_000));
}

#[test]
fn clients_of_http_1_0_get_it_as_it_is() {
    let backend = Backend::answering("here", |_| html(page(5_000)));
    let edge = edge(&backend, "");
    let mut client = edge.client();
    let lines = "Host: a\r\nAccept-Encoding: gzip\r\nConnection: keep-alive\r\n";
    client.send(format!("GET / HTTP/1.0\r\n{lines}\r\n"));
    let answer = client.response();
    is_plain(&answer, &page(5_000));
    assert_eq!(answer.header("vary"), Some("accept-encoding"));
    assert_eq!(answer.header("connection"), Some("keep-alive"));
}

#[test]
fn trailers_and_interim_answers_pass_and_digests_of_other_bytes_do_not() {
    let chunks = || page(50_000).chunks(9_000).map(<[u8]>::to_vec).collect();
    let backend = Backend::answering("here", move |_| {
        let answer = Answer::new(200, Body::Chunks(chunks())).header("Content-Type", "text/plain");
        answer.trailer("X-Sum", "7").trailer("Content-Digest", "sha-256=:AA==:")
    });
    let edge = edge(&backend, "");
    let answer = ask(&mut edge.client(), "GET", "/", "gzip");
    assert_eq!(decoded("gzip", &answer.body), (page(50_000), true));
    assert_eq!(answer.trailers.get("x-sum"), Some("7"));
    assert_eq!(answer.trailers.get("content-digest"), None);
    backend.set(|_| {
        let early = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n";
        let body = String::from_utf8(page(5_000)).expect("text");
        Answer::raw(format!(
            "{early}HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5000\r\n\r\n{body}"
        ))
    });
    let answer = ask(&mut edge.client(), "GET", "/", "gzip");
    assert_eq!(answer.interim[0].0, 103);
    assert_eq!(decoded("gzip", &answer.body), (page(5_000), true));
}

#[test]
fn a_wrong_setting_is_told_and_changes_nothing() {
    let backend = Backend::answering("here", |_| html(page(5_000)));
    let edge = edge(&backend, "");
    let refused = edge.reload(&text(&backend, "algorithms = [\"gzib\"]"));
    assert_eq!(refused.status, 422, "{refused:?}");
    let said = refused.text();
    assert!(said.contains("routes[0].compress.algorithms[0]"), "{said}");
    assert!(said.contains("did you mean \\\"gzip\\\"?"), "{said}");
    let answer = ask(&mut edge.client(), "GET", "/", "gzip");
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    // And what a reload takes away is gone.
    assert_eq!(edge.reload(&one_region(&backend)).status, 200);
    is_plain(&ask(&mut edge.client(), "GET", "/", "gzip"), &page(5_000));
}
