//! `[routes.compress]`: what clients get of answers that are compressed on their way, and what is left alone.

use std::io::Read;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use meridian_tests::{
    Answer, Backend, Body, Broken, Checked, Client, H2Backend, H2Settings, Meridian, Response,
    eventually, one_region, regions,
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
fn head_204_and_304_carry_no_body_and_head_says_what_get_would() {
    let backend = Backend::answering("here", |request| match &*request.target {
        "/204" => Answer::status(204).header("Content-Type", "text/html"),
        "/empty" => html(""),
        _ => html(page(5_000)).header("ETag", "\"v1\"").header("Accept-Ranges", "bytes"),
    });
    let edge = edge(&backend, "");
    let mut client = edge.client();
    let get = ask(&mut client, "GET", "/", "br");
    let head = ask(&mut client, "HEAD", "/", "br");
    assert!(head.body.is_empty());
    for name in
        ["content-encoding", "etag", "vary", "content-type", "content-length", "accept-ranges"]
    {
        assert_eq!(head.header(name), get.header(name), "{name}");
    }
    assert_eq!(head.header("etag"), Some("W/\"v1\""));
    let plain = ask(&mut client, "HEAD", "/", "");
    assert_eq!(
        (plain.header("content-length"), plain.header("etag")),
        (Some("5000"), Some("\"v1\""))
    );
    assert_eq!(ask(&mut client, "GET", "/204", "br").header("vary"), None);
    let empty = ask(&mut client, "GET", "/empty", "br");
    assert_eq!(
        (empty.header("content-length"), empty.header("content-encoding")),
        (Some("0"), None)
    );
    assert_eq!(client.get("/").status, 200, "the connection goes on");
}

/// An endpoint that has one page with a strong tag, and compares as RFC 9110 section 13.1.2 says.
fn tagged() -> Backend {
    Backend::answering("here", |request| {
        let asked = request.header("if-none-match").unwrap_or_default();
        let known = asked.split(',').map(|tag| tag.trim().trim_start_matches("W/"));
        let answer = if known.clone().any(|tag| tag == "\"v1\"" || tag == "*") {
            Answer::status(304)
        } else {
            html(page(5_000))
        };
        answer.header("ETag", "\"v1\"").header("Cache-Control", "max-age=0")
    })
}

#[test]
fn a_cache_revalidates_what_it_has_in_each_coding() {
    let backend = tagged();
    let edge = edge(&backend, "");
    let mut client = edge.client();
    for accepts in ["zstd", "br", "gzip", "identity"] {
        let first = ask(&mut client, "GET", "/", accepts);
        let tag = first.header("etag").expect("a tag").to_owned();
        assert_eq!(tag.starts_with("W/"), accepts != "identity", "{accepts}");
        let fields = [("Accept-Encoding", accepts), ("If-None-Match", &*tag)];
        let again = client.request("GET", "/", &fields, b"");
        assert_eq!((again.status, again.body.len()), (304, 0), "{accepts}");
        // A cache finds what it has by the tag (RFC 9111 section 4.3.4), and under which request.
        assert_eq!(again.header("etag"), Some(&*tag), "{accepts}");
        assert_eq!(again.header("vary"), Some("accept-encoding"));
        assert_eq!(again.header("content-encoding"), None);
    }
    let changed = [("Accept-Encoding", "gzip"), ("If-None-Match", "W/\"v0\"")];
    assert_eq!(client.request("GET", "/", &changed, b"").status, 200);
}

#[test]
fn curl_as_a_cache_is_told_that_nothing_has_changed() {
    let backend = tagged();
    let edge = edge(&backend, "");
    let dir = tempfile::tempdir().expect("a directory");
    let run = || {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "20", "--compressed", "--write-out", "%{http_code}"]);
        curl.arg("--etag-compare").arg(dir.path().join("tag"));
        curl.arg("--etag-save").arg(dir.path().join("tag"));
        curl.arg("--output").arg(dir.path().join("page"));
        let out = curl.arg(format!("http://{}/", edge.address())).output().expect("curl");
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    assert_eq!(run(), "200");
    let tag = std::fs::read_to_string(dir.path().join("tag")).expect("a tag");
    assert_eq!(tag.trim(), "W/\"v1\"");
    assert_eq!(run(), "304");
    assert_eq!(std::fs::read(dir.path().join("page")).expect("a page"), page(5_000));
}

#[test]
fn vary_and_the_route_s_own_fields_are_merged() {
    let backend = Backend::answering("here", |_| {
        html(page(5_000)).header("Vary", "Origin").header("Vary", "Cookie")
    });
    let edge = Meridian::start(&format!(
        "{}response_headers = {{ set = {{ x-a = \"1\" }}, remove = [\"server\"] }}\n\
         [routes.compress]\n",
        one_region(&backend)
    ));
    for accepts in ["gzip", ""] {
        let answer = ask(&mut edge.client(), "GET", "/", accepts);
        assert_eq!(answer.fields.all("vary"), ["Origin, Cookie, accept-encoding"]);
        assert_eq!(answer.header("x-a"), Some("1"));
    }
    let set = text(&backend, "").replace(
        "[routes.compress]",
        "response_headers = { set = { vary = \"X-Tenant\" } }\n[routes.compress]",
    );
    assert_eq!(edge.reload(&set).status, 200);
    let answer = ask(&mut edge.client(), "GET", "/", "gzip");
    assert_eq!(answer.fields.all("vary"), ["X-Tenant, accept-encoding"]);
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
fn an_answer_that_breaks_off_never_ends_well() {
    let body = page(200_000);
    let backend = Backend::answering("here", |request| {
        let body = page(200_000);
        let chunks = body.chunks(5_000).map(<[u8]>::to_vec).collect();
        let answer = match request.target.contains("chunks") {
            true => Answer::new(200, Body::Chunks(chunks)),
            false => Answer::ok(body),
        };
        let answer = answer.header("Content-Type", "text/html");
        if request.target.contains("reset") {
            answer.reset_after(150_000)
        } else {
            answer.cut_after(150_000)
        }
    });
    let edge = edge(&backend, "");
    for coding in CODINGS {
        for path in ["/whole", "/chunks", "/whole-reset", "/chunks-reset"] {
            let fields = [("Accept-Encoding", coding)];
            let outcome = edge.client().try_request("GET", path, &fields, b"");
            let Err(Broken::Early(_, got)) = outcome else {
                panic!("{coding} {path}: {outcome:?}")
            };
            assert_eq!(got.header("content-encoding"), Some(coding));
            let (plain, ended) = decoded(coding, &got.body);
            assert!(!ended && body.starts_with(&plain), "{coding} {path}");
        }
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "20", "--http2-prior-knowledge", "--output"]);
        curl.args(["/dev/null", "--header", &format!("Accept-Encoding: {coding}")]);
        let out = curl.arg(format!("http://{}/whole", edge.address())).output().expect("curl");
        assert!(!out.status.success(), "over HTTP/2: {coding}");
    }
    let line = edge.logged(|line| line["target"] == "/whole");
    assert_eq!(line["error"], "the response ended early");
}

/// An endpoint that sends a chunk whenever it is told to.
fn stepwise(
    content_type: &'static str,
) -> (Backend, std::sync::mpsc::Sender<Option<&'static str>>) {
    let (steps, told) = channel();
    let told: Mutex<Receiver<Option<&'static str>>> = Mutex::new(told);
    let backend = Backend::speaking("here", move |wire| {
        if wire.request_head()?.is_none() {
            return Ok(());
        }
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        wire.send(head.as_bytes())?;
        let told = told.lock().unwrap_or_else(PoisonError::into_inner);
        while let Ok(Some(text)) = told.recv_timeout(PATIENCE) {
            wire.send(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes())?;
        }
        wire.send(b"0\r\n\r\n")
    });
    (backend, steps)
}

/// A decoder that tells what is known so far.
enum Live {
    Gzip(flate2::write::GzDecoder<Vec<u8>>),
    Brotli(Box<brotli::DecompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Decoder<'static, Vec<u8>>),
}

impl Live {
    fn new(coding: &str) -> Self {
        match coding {
            "gzip" => Self::Gzip(flate2::write::GzDecoder::new(Vec::new())),
            "br" => Self::Brotli(Box::new(brotli::DecompressorWriter::new(Vec::new(), 1 << 20))),
            _ => Self::Zstd(zstd::stream::write::Decoder::new(Vec::new()).expect("zstd")),
        }
    }

    fn feed(&mut self, bytes: &[u8]) -> String {
        use std::io::Write;
        let feed = |decoder: &mut dyn Write| {
            decoder.write_all(bytes).and_then(|()| decoder.flush()).expect("a good stream");
        };
        let known = match self {
            Self::Gzip(decoder) => {
                feed(decoder);
                decoder.get_ref()
            }
            Self::Brotli(decoder) => {
                feed(decoder);
                decoder.get_ref()
            }
            Self::Zstd(decoder) => {
                feed(decoder);
                decoder.get_ref()
            }
        };
        String::from_utf8(known.clone()).expect("text")
    }
}

/// Reads chunks until the decoder knows `text`.
fn hears(client: &mut Client, live: &mut Live, seen: &mut Vec<u8>, text: &str) {
    let until = Instant::now() + PATIENCE;
    loop {
        // One chunk: its size, its bytes, its end.
        while let Some(end) = seen.windows(2).position(|pair| pair == b"\r\n") {
            let size = std::str::from_utf8(&seen[..end]).expect("a size");
            let size = usize::from_str_radix(size, 16).expect("a size");
            if seen.len() < end + 2 + size + 2 {
                break;
            }
            let chunk: Vec<u8> = seen.drain(..end + 2 + size + 2).collect();
            if live.feed(&chunk[end + 2..end + 2 + size]).ends_with(text) {
                return;
            }
        }
        assert!(Instant::now() < until, "{text:?} is not heard of");
        let more = client.wire().read_some().expect("more");
        assert!(!more.is_empty(), "it ended before {text:?}");
        seen.extend(more);
    }
}

#[test]
fn what_a_slow_endpoint_has_sent_is_known_before_it_sends_more() {
    // Events are compressed only where the route names their type.
    for (content_type, lines) in
        [("text/plain", ""), ("text/event-stream", "types = [\"text/event-stream\"]")]
    {
        for coding in CODINGS {
            let (backend, steps) = stepwise(content_type);
            let edge = edge(&backend, lines);
            let mut client = edge.client();
            client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {coding}\r\n\r\n"));
            // The head comes before there is any body.
            let head = client.try_head().expect("a head");
            assert_eq!(head.header("content-encoding"), Some(coding));
            let (mut live, mut seen) = (Live::new(coding), Vec::new());
            for text in ["data: one\n\n", "data: two\n\n", "x", "data: three\n\n"] {
                steps.send(Some(text)).expect("an endpoint");
                hears(&mut client, &mut live, &mut seen, text);
            }
            steps.send(None).expect("an endpoint");
            eventually("the end", PATIENCE, || {
                if !seen.ends_with(b"\r\n0\r\n\r\n") && !seen.starts_with(b"0\r\n\r\n") {
                    seen.extend(client.wire().read_some().unwrap_or_default());
                }
                seen.ends_with(b"0\r\n\r\n")
            });
        }
    }
}

/// Big bodies that nobody takes: what compressors hold is bounded, and so is everything else.
#[test]
fn slow_readers_do_not_fill_the_memory() {
    // Nothing of it comes again within any window.
    let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(1 << 20).collect();
    let backend = Backend::speaking("here", move |wire| {
        while wire.request_head()?.is_some() {
            let fields = "Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n";
            wire.send(format!("HTTP/1.1 200 OK\r\n{fields}\r\n").as_bytes())?;
            for piece in noise.chunks(32_768).cycle().take(2_000) {
                wire.send(b"8000\r\n")?;
                wire.send(piece)?;
                wire.send(b"\r\n")?;
            }
            wire.send(b"0\r\n\r\n")?;
        }
        Ok(())
    });
    let text = format!("[edge]\ncompress_memory = \"8MiB\"\n{}", text(&backend, ""));
    let edge = Meridian::start(&text);
    let before = edge.resident_bytes();
    let mut clients: Vec<_> = (0..200)
        .map(|n| {
            let mut client = edge.client();
            let coding = CODINGS[n % 3];
            client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {coding}\r\n\r\n"));
            client
        })
        .collect();
    let heads: Vec<_> = clients.iter_mut().map(|c| c.try_head().expect("a head")).collect();
    let compressed = heads.iter().filter(|head| head.header("content-encoding").is_some()).count();
    assert!((4..30).contains(&compressed), "{compressed} of 200");
    assert!(heads.iter().all(|head| head.header("vary") == Some("accept-encoding")));
    // Everybody's buffers and windows fill up meanwhile.
    std::thread::sleep(Duration::from_secs(3));
    let grown = edge.resident_bytes().saturating_sub(before);
    // 8 MiB of codecs, and up to 160 KiB a connection of buffers as without compression.
    assert!(grown < (8 << 20) + 200 * (160 << 10), "{} KiB", grown >> 10);
    let metrics = edge.admin().get("/metrics").text();
    let skipped =
        format!("meridian_compression_skipped_total{{route=\"all\"}} {}", 200 - compressed);
    assert!(metrics.contains(&skipped), "no {skipped} in {metrics}");
    // What they held is there again when they are gone.
    drop(clients);
    backend.set(|_| html(page(5_000)));
    eventually("there is room again", PATIENCE, || {
        let all: Vec<_> = (0..4).map(|_| ask(&mut edge.client(), "GET", "/", "gzip")).collect();
        all.iter().all(|answer| answer.header("content-encoding") == Some("gzip"))
    });
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
