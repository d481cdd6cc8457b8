//! Large responses over plain HTTP/1.1, with and without splice(2): whole, in time, and nobody else's.

use std::fs;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use meridian_tests::{
    Answer, Backend, Body, Broken, Checked, Client, End, Meridian, Wire, eventually, one_region,
    pattern_stream, request_bytes,
};

const PATIENCE: Duration = Duration::from_secs(20);
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const BOTH: [bool; 2] = [true, false];
const EVIL: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";

/// Around the sizes of buffers, of what is spliced, and of pipes.
fn sizes() -> Vec<u64> {
    let mut sizes = vec![0, 1, MIB, 20 * MIB];
    for edge in [16 * KIB, 64 * KIB, 80 * KIB, 128 * KIB, 256 * KIB, 320 * KIB] {
        // A head takes some of the first buffer.
        for more in [-1, 0, 1, 100, 300] {
            sizes.push(edge.saturating_add_signed(more));
        }
    }
    sizes
}

/// An edge that splices, or does not; its service has short patience where `timeouts` says so.
fn stage(backend: &Backend, splice: bool, timeouts: &str) -> Meridian {
    let text = one_region(backend)
        .replace("[[services.endpoints]]", &format!("{timeouts}[[services.endpoints]]"));
    Meridian::start(&format!("{text}[edge]\nsplice = {splice}\n"))
}

fn bytes(length: u64) -> Vec<u8> {
    pattern_stream(length).collect::<Vec<_>>().concat()
}

/// `/pattern/N`: in pieces; `/whole/N`: in one with its head; `/chunks/N`; else the target itself.
fn library() -> Backend {
    Backend::answering("here", |request| {
        let (kind, length) = request.target.rsplit_once('/').unwrap_or_default();
        let length = length.parse().unwrap_or(0);
        match kind {
            "/pattern" => Answer::new(200, Body::Pattern(length)),
            "/whole" => Answer::ok(bytes(length)),
            "/chunks" => Answer::new(200, Body::PatternChunks(length)),
            _ => Answer::ok(request.target.clone()),
        }
    })
}

/// The body of the next answer is that much of the pattern.
#[track_caller]
fn is_pattern(client: &mut Client, length: u64, what: &str) {
    let head = client.try_head().expect("an answer");
    assert_eq!(head.status, 200, "{what}");
    let mut checked = Checked::default();
    let outcome = client.try_body("GET", &head, |piece| checked.take(piece));
    assert!(outcome.is_ok() && checked.is(length), "{what}: {outcome:?}, {checked:?}");
}

fn get(path: &str) -> Vec<u8> {
    request_bytes("GET", path, &[], b"")
}

#[test]
fn bodies_of_every_size_are_whole_and_their_connections_go_on() {
    for splice in BOTH {
        let backend = library();
        let edge = stage(&backend, splice, "");
        let mut client = edge.client();
        for size in sizes() {
            for kind in ["pattern", "whole", "chunks"] {
                let path = format!("/{kind}/{size}");
                client.send(get(&path));
                is_pattern(&mut client, size, &path);
                let head = client.request("HEAD", &path, &[], b"");
                assert!(head.body.is_empty(), "HEAD {path}");
                if kind != "chunks" {
                    assert_eq!(head.header("content-length"), Some(&*size.to_string()));
                }
                assert_eq!(client.get("/after").text(), "/after", "{path}");
            }
        }
        assert_eq!(backend.connections(), 1, "splice: {splice}");
        let line = edge.logged(|line| line["target"] == format!("/pattern/{MIB}").as_str());
        assert_eq!(line["bytes"], MIB, "{line}");
    }
}

#[test]
fn pipelined_requests_get_large_answers_in_order() {
    for splice in BOTH {
        let backend = library();
        let edge = stage(&backend, splice, "");
        let mut client = edge.client();
        let sizes = [MIB, 10, 70_000, 300_000, 0, MIB, 200_000];
        let all: Vec<u8> = sizes.iter().flat_map(|n| get(&format!("/pattern/{n}"))).collect();
        client.send(all);
        for size in sizes {
            is_pattern(&mut client, size, "pipelined");
        }
        assert_eq!(client.get("/after").text(), "/after");
    }
}

#[test]
fn older_clients_get_large_answers() {
    for splice in BOTH {
        let backend = library();
        let edge = stage(&backend, splice, "");
        for size in [MIB, 64 * KIB, 300_000] {
            for kind in ["pattern", "whole", "chunks"] {
                let mut client = edge.client();
                client.send(format!("GET /{kind}/{size} HTTP/1.0\r\nHost: a\r\n\r\n"));
                is_pattern(&mut client, size, kind);
                assert!(client.is_closed());
            }
            let mut client = edge.client();
            for _ in 0..3 {
                let keep = "Connection: keep-alive\r\n";
                client.send(format!("GET /pattern/{size} HTTP/1.0\r\nHost: a\r\n{keep}\r\n"));
                is_pattern(&mut client, size, "kept alive");
            }
        }
    }
}

/// Pipes that a process holds.
fn pipes(edge: &Meridian) -> usize {
    let all = fs::read_dir(format!("/proc/{}/fd", edge.pid())).expect("a running process");
    let links = all.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("pipe:")).count()
}

#[test]
fn only_large_bodies_of_known_length_and_only_where_it_is_on_use_pipes() {
    for (splice, path, expected) in [
        (true, format!("/pattern/{}", 100 * MIB), true),
        (true, format!("/chunks/{}", 100 * MIB), false),
        (true, format!("/pattern/{}", 20 * KIB), false),
        (false, format!("/pattern/{}", 100 * MIB), false),
    ] {
        let backend = library();
        let edge = stage(&backend, splice, "");
        let before = pipes(&edge);
        let mut client = edge.client();
        client.send(get(&path));
        assert_eq!(client.try_head().expect("an answer").status, 200);
        let mut taken = 0;
        while taken < 10 * KIB as usize {
            taken += client.wire().read_some().expect("a body").len();
        }
        if expected {
            eventually("a pipe", PATIENCE, || pipes(&edge) > before);
        } else {
            assert_eq!(pipes(&edge), before, "splice: {splice}, {path}");
        }
    }
}

/// An endpoint that sends a head and then each piece when it is told to.
fn dripping(pieces: Vec<Vec<u8>>) -> (Backend, Sender<()>) {
    let (go, told) = channel();
    let told: Mutex<Receiver<()>> = Mutex::new(told);
    let length: usize = pieces.iter().map(Vec::len).sum();
    let backend = Backend::speaking("here", move |wire: &mut Wire| {
        while wire.request_head()?.is_some() {
            wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes())?;
            let told = told.lock().unwrap_or_else(PoisonError::into_inner);
            for piece in &pieces {
                told.recv_timeout(PATIENCE).map_err(io::Error::other)?;
                wire.send(piece)?;
            }
        }
        Ok(())
    });
    (backend, go)
}

#[test]
fn nothing_is_held_back_while_the_endpoint_pauses() {
    let lengths = [1, 100, 70_000, 1, 1, 300_000, 5, 65_536, 600_000, 1];
    let all = bytes(lengths.iter().sum::<usize>() as u64);
    let mut rest = all.as_slice();
    let cut = |n: &usize| rest.split_off(..*n).expect("long enough").to_vec();
    let pieces: Vec<_> = lengths.iter().map(cut).collect();
    for splice in BOTH {
        let (backend, go) = dripping(pieces.clone());
        let edge = stage(&backend, splice, "");
        let mut client = edge.client();
        for _ in 0..2 {
            client.send(get("/"));
            assert_eq!(client.try_head().expect("an answer").status, 200);
            let (mut seen, mut due) = (Vec::new(), 0);
            for length in lengths {
                go.send(()).expect("an endpoint");
                due += length;
                while seen.len() < due {
                    // Fails when nothing comes in time.
                    seen.extend(client.wire().read_some().expect("what was sent"));
                }
            }
            assert!(seen == all, "splice: {splice}");
        }
        assert_eq!(backend.connections(), 1);
    }
}

#[test]
fn a_body_that_ends_early_is_cut_for_the_client_too() {
    for splice in BOTH {
        for (at, reset) in [65_536, 70_000, 140_000, 300_000, 1_048_575]
            .map(|at| [(at, false), (at, true)])
            .concat()
        {
            let backend = Backend::answering("here", move |request| {
                let answer = Answer::ok(bytes(MIB));
                match request.target.as_str() {
                    "/cut" if reset => answer.reset_after(at),
                    "/cut" => answer.cut_after(at),
                    _ => Answer::ok("fine"),
                }
            });
            let edge = stage(&backend, splice, "");
            let mut client = edge.client();
            let what = format!("splice: {splice}, after {at}, reset: {reset}");
            match client.try_request("GET", "/cut", &[], b"") {
                Err(Broken::Early(End::Closed | End::Reset, got)) => {
                    assert!(got.body == bytes(got.body.len() as u64), "{what}");
                    assert!(got.body.len() <= at, "{what}");
                }
                Err(Broken::Nothing(End::Reset)) => {}
                other => panic!("{what}: {other:?}"),
            }
            assert_eq!(edge.get("/fine").text(), "fine", "{what}");
            assert_eq!(backend.connections(), 2, "{what}");
        }
    }
}

#[test]
fn more_than_was_announced_reaches_nobody() {
    for splice in BOTH {
        for size in [64 * KIB, 100_000, MIB] {
            for late in [false, true] {
                let (go, told) = channel::<()>();
                let told = Mutex::new(told);
                let (sent, is_sent) = channel::<()>();
                let backend = Backend::speaking("here", move |wire: &mut Wire| {
                    while let Some(request) = wire.request_head()? {
                        if request.target == "/fine" {
                            wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine")?;
                            continue;
                        }
                        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n");
                        wire.send(&[head.as_bytes(), &bytes(size)].concat())?;
                        if late {
                            let told = told.lock().unwrap_or_else(PoisonError::into_inner);
                            told.recv_timeout(PATIENCE).map_err(io::Error::other)?;
                        }
                        wire.send(EVIL)?;
                        sent.send(()).map_err(io::Error::other)?;
                    }
                    Ok(())
                });
                let edge = stage(&backend, splice, "");
                let mut client = edge.client();
                client.send(get("/much"));
                let what = format!("splice: {splice}, {size}, late: {late}");
                is_pattern(&mut client, size, &what);
                go.send(()).expect("an endpoint");
                is_sent.recv_timeout(PATIENCE).expect("the rest is sent");
                for _ in 0..3 {
                    assert_eq!(client.get("/fine").text(), "fine", "{what}");
                }
                assert_eq!(backend.connections(), 2, "{what}");
            }
        }
    }
}
