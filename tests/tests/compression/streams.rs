//! Bodies that come slowly, break off, are not taken, or are much work.

use std::io::Write;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use meridian_tests::{Answer, Backend, Body, Broken, Client, Meridian, eventually, regions};

use crate::{CODINGS, PATIENCE, ask, decoded, edge, html, page, text};

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
fn stepwise(content_type: &'static str) -> (Backend, Sender<Option<&'static str>>) {
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
    let backend = fountain();
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

/// An endpoint that sends as much as is taken, of what does not come again within any window.
fn fountain() -> Backend {
    let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(1 << 20).collect();
    Backend::speaking("here", move |wire| {
        while let Some(request) = wire.request_head()? {
            if request.target == "/small" {
                wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
                continue;
            }
            let fields = "Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n";
            wire.send(format!("HTTP/1.1 200 OK\r\n{fields}\r\n").as_bytes())?;
            for piece in noise.chunks(32_768).cycle().take(20_000) {
                wire.send(b"8000\r\n")?;
                wire.send(piece)?;
                wire.send(b"\r\n")?;
            }
            wire.send(b"0\r\n\r\n")?;
        }
        Ok(())
    })
}

/// How long it takes here to compress 16 KiB with each coding.
fn a_slice_of_each() -> Duration {
    const SLICES: u32 = 16;
    let noise: Vec<u8> =
        std::iter::repeat_with(|| fastrand::u8(..)).take(16_384 * SLICES as usize).collect();
    let since = Instant::now();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(9));
    let mut brotli = brotli::CompressorWriter::new(Vec::new(), 4096, 6, 18);
    let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), 9).expect("zstd");
    for encoder in [&mut gzip as &mut dyn Write, &mut brotli, &mut zstd] {
        encoder.write_all(&noise).expect("memory");
        encoder.flush().expect("memory");
    }
    since.elapsed() / SLICES
}

#[test]
fn others_have_their_turn_while_a_large_answer_is_compressed() {
    let backend = fountain();
    let lines = "levels = { gzip = 9, br = 6, zstd = 9 }";
    let edge = Meridian::start(&format!("[edge]\nworker_threads = 1\n{}", text(&backend, lines)));
    let reader = |coding: &'static str| {
        let mut client = edge.client();
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {coding}\r\n\r\n"));
        let head = client.try_head().expect("a head");
        assert_eq!(head.header("content-encoding"), Some(coding));
        // Taken as fast as it comes, until the other side of this test has seen enough.
        let socket = client.wire().duplicate().expect("a socket");
        let taking =
            std::thread::spawn(
                move || while !client.wire().read_some().unwrap_or_default().is_empty() {},
            );
        (socket, taking)
    };
    let readers: Vec<_> = CODINGS.into_iter().map(reader).collect();
    let mut bystander = edge.client();
    let mut waits: Vec<_> = (0..30)
        .map(|_| {
            let since = Instant::now();
            assert_eq!(bystander.get("/small").text(), "ok");
            since.elapsed()
        })
        .collect();
    waits.sort();
    // Before each of its turns there is a slice of each of the three, or two; unbounded, there would be many.
    let round = a_slice_of_each();
    assert!(waits[7] < round * 4, "{round:?}: {waits:?}");
    for (socket, taking) in readers {
        socket.shutdown(std::net::Shutdown::Both).expect("a socket");
        taking.join().expect("a reader");
    }
}

#[test]
fn a_late_read_that_another_endpoint_answers_is_compressed_once() {
    let slow = Backend::answering("us", |_| html(page(50_000)).delay(Duration::from_millis(900)));
    let quick = Backend::answering("us", |_| html(page(50_000)));
    let service = "balance = \"round_robin\"\nhealth.kind = \"none\"\n";
    let text = regions(&[("us", slow.address()), ("us", quick.address())], service);
    let edge = Meridian::start(&format!(
        "{text}[[routes]]\nname = \"all\"\nservice = \"api\"\n\
         hedge = {{ after = \"40ms\", budget = 1.0 }}\n[routes.compress]\n"
    ));
    let mut client = edge.client();
    for _ in 0..4 {
        let answer = ask(&mut client, "GET", "/", "zstd");
        assert_eq!(answer.header("content-encoding"), Some("zstd"));
        assert_eq!(decoded("zstd", &answer.body), (page(50_000), true));
    }
    eventually("each is counted once", PATIENCE, || {
        edge.admin().metric_sum("meridian_compressed_responses_total", &[]) == 4.0
    });
    assert!(edge.admin().metric_sum("meridian_hedges_total", &["outcome=\"won\""]) >= 1.0);
}
