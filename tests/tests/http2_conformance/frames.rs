//! Section 6: what each kind of frame may say; and section 7: codes.

use meridian_tests::h2_frames::{
    H2, code, data, flag, frame, get, kind, request_block, reset, settings, window,
};

use crate::{Connection, Nothing, Served, Stream, check, edge, post, slow};

#[test]
fn section_6_frames() {
    let block = request_block("GET", "/", &[]);
    let padded = |kind, payload: &[u8]| frame(kind, flag::PADDED | 5, 1, payload);
    let begun = frame(kind::HEADERS, 1, 1, &block[..9]);
    let piece = |flags, stream, block: &[u8]| frame(kind::CONTINUATION, flags, stream, block);
    let ack = frame(kind::SETTINGS, flag::ACK, 0, &[0]);
    let pushed = frame(kind::PUSH_PROMISE, 4, 1, &[&[0, 0, 0, 2][..], &block].concat());
    let wrong = |kind, len| frame(kind, 0, 1, &vec![0; len]);
    let in_pieces = |last: &[u8]| [&begun[..], &piece(0, 1, &block[9..20]), last].concat();
    check(&[
        ("6.1: DATA on no stream", data(0, true, b"x"), Connection(code::PROTOCOL_ERROR)),
        (
            "6.1: DATA with much padding",
            [slow(1, false), padded(kind::DATA, &[5, 0, 0])].concat(),
            Connection(code::PROTOCOL_ERROR),
        ),
        (
            "6.1: DATA with padding",
            [post(1, &[]), padded(kind::DATA, &[2, 7, 0, 0])].concat(),
            Served(1),
        ),
        ("6.2: HEADERS on no stream", get(0, "/"), Connection(code::PROTOCOL_ERROR)),
        (
            "6.2: HEADERS with much padding",
            padded(kind::HEADERS, &[9, 0, 0]),
            Connection(code::PROTOCOL_ERROR),
        ),
        (
            "6.3: PRIORITY on no stream",
            frame(kind::PRIORITY, 0, 0, &[0; 5]),
            Connection(code::PROTOCOL_ERROR),
        ),
        (
            "6.3: PRIORITY of a wrong size",
            wrong(kind::PRIORITY, 4),
            Connection(code::FRAME_SIZE_ERROR),
        ),
        ("6.4: RST_STREAM on no stream", reset(0), Connection(code::PROTOCOL_ERROR)),
        (
            "6.4: RST_STREAM of a wrong size",
            [slow(1, true), wrong(kind::RST_STREAM, 3)].concat(),
            Connection(code::FRAME_SIZE_ERROR),
        ),
        ("6.5: an answer that says something", ack, Connection(code::FRAME_SIZE_ERROR)),
        (
            "6.5: SETTINGS on a stream",
            frame(kind::SETTINGS, 0, 1, &[]),
            Connection(code::PROTOCOL_ERROR),
        ),
        (
            "6.5: SETTINGS of a wrong size",
            frame(kind::SETTINGS, 0, 0, &[0; 3]),
            Connection(code::FRAME_SIZE_ERROR),
        ),
        ("6.5.2: ENABLE_PUSH of 2", settings(&[(2, 2)]), Connection(code::PROTOCOL_ERROR)),
        (
            "6.5.2: a window too large",
            settings(&[(4, 1 << 31)]),
            Connection(code::FLOW_CONTROL_ERROR),
        ),
        ("6.5.2: frames too small", settings(&[(5, 16_383)]), Connection(code::PROTOCOL_ERROR)),
        ("6.5.2: frames too large", settings(&[(5, 1 << 24)]), Connection(code::PROTOCOL_ERROR)),
        ("6.5.2: an unknown setting", [settings(&[(0xff, 1)]), get(1, "/")].concat(), Served(1)),
        ("6.6: PUSH_PROMISE", [slow(1, false), pushed].concat(), Connection(code::PROTOCOL_ERROR)),
        ("6.7: PING", vec![], Nothing),
        ("6.7: an answer to no PING", frame(kind::PING, flag::ACK, 0, b"invalid!"), Nothing),
        (
            "6.7: PING on a stream",
            frame(kind::PING, 0, 1, &[0; 8]),
            Connection(code::PROTOCOL_ERROR),
        ),
        (
            "6.7: PING of a wrong size",
            frame(kind::PING, 0, 0, &[0; 6]),
            Connection(code::FRAME_SIZE_ERROR),
        ),
        (
            "6.8: GOAWAY on a stream",
            frame(kind::GOAWAY, 0, 1, &[0; 8]),
            Connection(code::PROTOCOL_ERROR),
        ),
        ("6.9: WINDOW_UPDATE of nothing", window(0, 0), Connection(code::PROTOCOL_ERROR)),
        (
            "6.9: the same on a stream",
            [slow(1, true), window(1, 0)].concat(),
            Stream(1, code::PROTOCOL_ERROR),
        ),
        (
            "6.9: WINDOW_UPDATE of a wrong size",
            frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3]),
            Connection(code::FRAME_SIZE_ERROR),
        ),
        (
            "6.9.1: a window that overflows",
            window(0, 0x7fff_ffff),
            Connection(code::FLOW_CONTROL_ERROR),
        ),
        (
            "6.9.1: that of a stream",
            [slow(1, true), window(1, 0x7fff_ffff)].concat(),
            Stream(1, code::FLOW_CONTROL_ERROR),
        ),
        ("6.10: CONTINUATIONs", in_pieces(&piece(4, 1, &block[20..])), Served(1)),
        (
            "6.10: of another stream",
            in_pieces(&piece(4, 3, &block[20..])),
            Connection(code::PROTOCOL_ERROR),
        ),
        (
            "6.10: of no stream",
            in_pieces(&piece(4, 0, &block[20..])),
            Connection(code::PROTOCOL_ERROR),
        ),
        (
            "6.10: behind the last one",
            [in_pieces(&piece(4, 1, &block[20..])), piece(4, 1, &[])].concat(),
            Connection(code::PROTOCOL_ERROR),
        ),
        (
            "6.10: behind a whole block",
            [slow(1, true), piece(4, 1, &[])].concat(),
            Connection(code::PROTOCOL_ERROR),
        ),
        (
            "6.10: behind DATA",
            [slow(1, false), data(1, true, b"x"), piece(4, 1, &[])].concat(),
            Connection(code::PROTOCOL_ERROR),
        ),
        (
            "7: GOAWAY of an unknown code",
            frame(kind::GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0xff]),
            Nothing,
        ),
        (
            "7: RST_STREAM of an unknown code",
            [slow(1, true), frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 0xff])].concat(),
            Nothing,
        ),
    ]);
}

#[test]
fn section_6_9_windows_move_with_settings() {
    let (_backend, edge) = edge();
    let body = |h2: &mut H2| h2.expect("DATA", |f| f.kind == kind::DATA).payload.len();
    let mut h2 = H2::connect(edge.address(), &[(4, 3)]);
    h2.send(&get(1, "/")).expect("a connection");
    assert_eq!(body(&mut h2), 3);
    // One below zero, and two up again.
    h2.send(&[settings(&[(4, 2)]), window(1, 2)].concat()).expect("a connection");
    assert_eq!(body(&mut h2), 1);
    h2.send(&settings(&[(4, 100), (4, 7)])).expect("a connection");
    assert_eq!(body(&mut h2), 5);
}
