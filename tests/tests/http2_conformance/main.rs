//! What RFC 9113 asks of a server, case by case; the sections are those of h2spec's cases and of httpwg's.
//!
//! Each case speaks to the binary on a connection of its own, after both sides have introduced themselves.

mod frames;
mod requests;

use std::process::Command;
use std::time::Duration;

use meridian_tests::h2_frames::{
    Frame, H2, PREFACE, code, data, fields, flag, frame, get, headers, kind, request_block, reset,
    settings, window,
};
use meridian_tests::{Answer, Backend, End, Meridian, one_region};

pub(crate) use Expected::{Connection, Nothing, Served, Stream};

const SOON: Duration = Duration::from_secs(10);
/// The largest payload of a frame that is accepted.
const LARGEST: usize = 16_384;

/// What comes of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The connection ends with this code.
    Connection(u32),
    /// The stream ends with this code, and the connection goes on.
    Stream(u32, u32),
    /// The request on this stream is answered with 200.
    Served(u32),
    /// No error, and no answer.
    Nothing,
}

/// An edge that speaks nothing but HTTP/2 here, with a small limit for streams.
pub(crate) fn edge() -> (Backend, Meridian) {
    let backend = Backend::answering("here", |request| match request.target.as_str() {
        "/slow" => Answer::ok("slow").delay(Duration::from_secs(3)),
        _ => Answer::ok("x".repeat(1000)),
    });
    let listener = "[limits]\nh2_streams = 20\n\
                    [[listeners]]\nname = \"public\"\nprotocols = [\"h2c\"]\n";
    let edge = Meridian::start(&(listener.to_owned() + &one_region(&backend)));
    (backend, edge)
}

/// What came of a case that was said.
#[track_caller]
pub(crate) fn judge(case: &str, h2: &mut H2, expected: Expected) {
    h2.wire.patience = SOON;
    match expected {
        Connection(code) => {
            let ending = h2.ending(SOON);
            assert_eq!((ending.goodbye(), ending.end), (Some(code), End::Closed), "{case}");
        }
        Stream(stream, code) => {
            let is_end = |f: &Frame| f.kind == kind::GOAWAY || f.kind == kind::RST_STREAM;
            let end = h2.expect(case, is_end);
            assert_eq!((end.kind, end.stream), (kind::RST_STREAM, stream), "{case}");
            assert_eq!(end.code(), Some(code), "{case}");
            h2.settle();
        }
        Served(stream) => {
            let answer = h2.expect(case, |f| f.code().is_some() || f.status().is_some());
            assert_eq!((answer.stream, answer.status()), (stream, Some(200)), "{case}: {answer:?}");
        }
        Nothing => {
            h2.send(&frame(kind::PING, 0, 0, b"anything")).expect("a connection");
            let next = h2.receive();
            let is_pong = |f: &Frame| f.kind == kind::PING && f.has(flag::ACK);
            assert!(next.as_ref().is_ok_and(is_pong), "{case}: {next:?}");
        }
    }
}

/// Says each case after the greeting.
#[track_caller]
pub(crate) fn check(cases: &[(&str, Vec<u8>, Expected)]) {
    let (_backend, edge) = edge();
    for (case, bytes, expected) in cases {
        let mut h2 = H2::connect(edge.address(), &[]);
        h2.send(bytes).expect("a connection");
        judge(case, &mut h2, *expected);
    }
}

pub(crate) fn post(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    headers(stream, false, &request_block("POST", "/", more))
}

/// A request that is under way for as long as the case takes.
pub(crate) fn slow(stream: u32, end: bool) -> Vec<u8> {
    headers(stream, end, &request_block("POST", "/slow", &[]))
}

pub(crate) fn trailers(stream: u32) -> Vec<u8> {
    headers(stream, true, &fields(&[("x-t", "1")]))
}

#[test]
fn section_3_and_4_connections_and_frames() {
    let (_backend, edge) = edge();
    let mut h2 = H2::silent(edge.address());
    h2.send(&[PREFACE, &settings(&[])].concat()).expect("a connection");
    assert_eq!(
        h2.receive().map(|f| (f.kind, f.flags)),
        Ok((kind::SETTINGS, 0)),
        "3.4: settings first"
    );
    for (case, bytes) in [
        ("3.4: another preface", b"INVALID CONNECTION PREFACE\r\n\r\n".to_vec()),
        ("3.4: another first frame", [PREFACE, &get(1, "/")].concat()),
    ] {
        let mut h2 = H2::silent(edge.address());
        h2.send(&bytes).expect("a connection");
        judge(case, &mut h2, Connection(code::PROTOCOL_ERROR));
    }
    let block = request_block("GET", "/", &[]);
    let odd = frame(kind::HEADERS, 0x80 | flag::END_HEADERS | flag::END_STREAM, 1, &block);
    let too_large = vec![0; LARGEST + 1];
    let reserved = frame(kind::PING, 0, 0x8000_0000, b"01234567");
    check(&[
        ("4.1: an unknown kind", [frame(0xff, 0, 0, b"01234567"), get(1, "/")].concat(), Served(1)),
        ("4.1: an unknown flag", odd, Served(1)),
        ("4.1: the reserved bit", reserved, Nothing),
        (
            "4.2: a body of the largest size",
            [post(1, &[]), data(1, true, &[0; LARGEST])].concat(),
            Served(1),
        ),
        (
            "4.2: DATA too large",
            [slow(1, false), data(1, true, &too_large)].concat(),
            Connection(code::FRAME_SIZE_ERROR),
        ),
        (
            "4.2: HEADERS too large",
            headers(1, true, &too_large),
            Connection(code::FRAME_SIZE_ERROR),
        ),
        ("4.3: no block", headers(1, true, b"\x40\x80"), Connection(code::COMPRESSION_ERROR)),
        (
            "4.3: PRIORITY in a block",
            [frame(kind::HEADERS, 1, 1, &block), frame(kind::PRIORITY, 0, 1, &[0; 5])].concat(),
            Connection(code::PROTOCOL_ERROR),
        ),
        (
            "4.3: another block in a block",
            [frame(kind::HEADERS, 1, 1, &block), get(3, "/")].concat(),
            Connection(code::PROTOCOL_ERROR),
        ),
        (
            "HPACK 2.3.3: an index beyond the tables",
            headers(1, true, b"\xc6"),
            Connection(code::COMPRESSION_ERROR),
        ),
        (
            "HPACK 4.2: a change of size at the end",
            headers(1, true, &[&block[..], b"\x21"].concat()),
            Connection(code::COMPRESSION_ERROR),
        ),
        (
            "HPACK 5.2: long padding",
            headers(1, true, b"\x82\x84\x87\x00\x81\xff\x01a"),
            Connection(code::COMPRESSION_ERROR),
        ),
        (
            "HPACK 5.2: the end in the middle",
            headers(1, true, b"\x82\x84\x87\x00\x84\xff\xff\xff\xff\x01a"),
            Connection(code::COMPRESSION_ERROR),
        ),
        ("HPACK 6.1: index 0", headers(1, true, b"\x80"), Connection(code::COMPRESSION_ERROR)),
        (
            "HPACK 6.3: a size beyond the limit",
            headers(1, true, b"\x3f\xe2\x1f"),
            Connection(code::COMPRESSION_ERROR),
        ),
    ]);
}

#[test]
fn section_5_streams() {
    let priority = |itself| frame(kind::PRIORITY, 0, 1, &[0, 0, 0, itself, 1]);
    let depends = [&[0, 0, 0, 1, 1][..], &request_block("GET", "/", &[])].concat();
    let all = flag::PRIORITY | flag::END_HEADERS | flag::END_STREAM;
    let many = |count: u32| (0..count).flat_map(|n| slow(2 * n + 1, true)).collect::<Vec<_>>();
    check(&[
        ("5.1: idle, DATA", data(1, true, b"x"), Connection(code::PROTOCOL_ERROR)),
        ("5.1: idle, RST_STREAM", reset(1), Connection(code::PROTOCOL_ERROR)),
        ("5.1: idle, WINDOW_UPDATE", window(1, 1), Connection(code::PROTOCOL_ERROR)),
        (
            "5.1: idle, CONTINUATION",
            frame(kind::CONTINUATION, 4, 1, &[]),
            Connection(code::PROTOCOL_ERROR),
        ),
        ("5.1: idle, PRIORITY", priority(0), Nothing),
        (
            "5.1: half closed, DATA",
            [slow(1, true), data(1, true, b"x")].concat(),
            Stream(1, code::STREAM_CLOSED),
        ),
        (
            "5.1: half closed, HEADERS",
            [slow(1, true), trailers(1)].concat(),
            Stream(1, code::STREAM_CLOSED),
        ),
        (
            "5.1: half closed, CONTINUATION",
            [slow(1, true), frame(kind::CONTINUATION, 4, 1, &[])].concat(),
            Connection(code::PROTOCOL_ERROR),
        ),
        ("5.1: half closed, WINDOW_UPDATE", [slow(1, true), window(1, 1)].concat(), Nothing),
        (
            "5.1: reset, DATA",
            [slow(1, false), reset(1), data(1, true, b"x")].concat(),
            Stream(1, code::STREAM_CLOSED),
        ),
        (
            "5.1: reset, HEADERS",
            [slow(1, false), reset(1), trailers(1)].concat(),
            Connection(code::STREAM_CLOSED),
        ),
        (
            "5.1: reset, CONTINUATION",
            [slow(1, false), reset(1), frame(kind::CONTINUATION, 4, 1, &[])].concat(),
            Connection(code::PROTOCOL_ERROR),
        ),
        ("5.1.1: an even id", get(2, "/"), Connection(code::PROTOCOL_ERROR)),
        (
            "5.1.1: an id below the last one",
            [slow(5, true), get(3, "/")].concat(),
            Connection(code::PROTOCOL_ERROR),
        ),
        ("5.1.2: as many streams as allowed", many(20), Nothing),
        ("5.1.2: one more", many(21), Stream(41, code::REFUSED_STREAM)),
        (
            "5.3.1: HEADERS that depend on themselves",
            frame(kind::HEADERS, all, 1, &depends),
            Connection(code::PROTOCOL_ERROR),
        ),
        ("5.3.1: PRIORITY that depends on itself", priority(1), Connection(code::PROTOCOL_ERROR)),
        (
            "5.5: unknown frames in a block",
            [frame(kind::HEADERS, 1, 1, &[]), frame(0xff, 0, 1, &[])].concat(),
            Connection(code::PROTOCOL_ERROR),
        ),
    ]);
}

#[test]
fn section_5_1_streams_that_have_ended() {
    let (_backend, edge) = edge();
    for (case, bytes, expected) in [
        ("5.1: closed, DATA", data(1, true, b"x"), Stream(1, code::STREAM_CLOSED)),
        ("5.1: closed, HEADERS", trailers(1), Connection(code::STREAM_CLOSED)),
        ("5.1: closed, WINDOW_UPDATE", window(1, 1), Nothing),
        ("5.1: closed, RST_STREAM", reset(1), Nothing),
        ("5.1: closed, PRIORITY", frame(kind::PRIORITY, 0, 1, &[0; 5]), Nothing),
        ("5.1.1: an id that was used", get(1, "/"), Connection(code::STREAM_CLOSED)),
    ] {
        let mut h2 = H2::connect(edge.address(), &[]);
        h2.send(&get(1, "/")).expect("a connection");
        h2.expect("an answer", |f| f.kind == kind::DATA && f.has(flag::END_STREAM));
        h2.send(&bytes).expect("a connection");
        judge(case, &mut h2, expected);
    }
}

/// The cases of the httpwg crate, all of them. `make test-conformance` installs its command and runs this.
#[test]
#[ignore = "needs the httpwg command and io_uring: make test-conformance"]
fn the_public_cases_of_httpwg() {
    let (_backend, edge) = edge();
    let mut command = Command::new("httpwg");
    command.args(["--connect-timeout", "10000", "--frame-timeout", "5000", "--verbose"]);
    command.arg("--address").arg(edge.address().to_string());
    let output = command.output().expect("httpwg is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    let passed = said.matches("Test passed").count();
    assert!(output.status.success() && passed >= 107, "{passed} cases have passed:\n{said}");
}
