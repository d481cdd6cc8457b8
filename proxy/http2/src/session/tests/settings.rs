use super::super::*;
use super::peer::*;
use crate::PREFACE;
use crate::frame::{LARGEST, MOST, flag};

#[test]
fn settings_go_out_first_and_those_of_the_client_are_acknowledged() {
    let mut peer = Peer::silent(Limits { streams: 7, header_bytes: 9000 });
    let frames = peer.frames();
    let expected = [(3_u16, 7_u32), (4, STREAM_WINDOW), (6, 9000)];
    let payload: Vec<u8> = expected
        .iter()
        .flat_map(|(n, v)| [&n.to_be_bytes()[..], &v.to_be_bytes()].concat())
        .collect();
    assert_eq!(frames[0], Frame { kind: kind::SETTINGS, flags: 0, stream: 0, payload });
    assert_eq!((frames[1].kind, frames[1].stream), (kind::WINDOW_UPDATE, 0));
    assert_eq!(frames[1].number(0), CONNECTION_WINDOW - FIRST_WINDOW);
    assert_eq!(frames.len(), 2);
    peer.say(&greeting(&[]));
    let answer = Frame { kind: kind::SETTINGS, flags: flag::ACK, stream: 0, payload: vec![] };
    assert_eq!(peer.frame(), answer);
}

#[test]
fn anything_but_the_preface_ends_the_connection() {
    for wrong in [&b"GET / HTTP/1.1\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r", b"\0"] {
        let mut peer = Peer::silent(LIMITS);
        assert_eq!(peer.fails(wrong), Reason::PROTOCOL_ERROR, "{wrong:?}");
    }
}

#[test]
fn the_first_frame_is_settings() {
    let ack = frame(kind::SETTINGS, flag::ACK, 0, &[]);
    for wrong in [ping(b"12345678"), request(1, true), data(1, true, b""), ack] {
        let mut peer = Peer::silent(LIMITS);
        assert_eq!(peer.fails(&[PREFACE, &wrong].concat()), Reason::PROTOCOL_ERROR, "{wrong:?}");
    }
}

#[test]
fn settings_out_of_range_end_the_connection() {
    for (name, value, reason) in [
        (setting::ENABLE_PUSH, 2, Reason::PROTOCOL_ERROR),
        (setting::INITIAL_WINDOW_SIZE, MOST + 1, Reason::FLOW_CONTROL_ERROR),
        (setting::MAX_FRAME_SIZE, LARGEST as u32 - 1, Reason::PROTOCOL_ERROR),
        (setting::MAX_FRAME_SIZE, 1 << 24, Reason::PROTOCOL_ERROR),
    ] {
        assert_eq!(Peer::new().fails(&settings_frame(&[(name, value)])), reason, "{name} {value}");
    }
    for (name, value) in [
        (setting::ENABLE_PUSH, 1),
        (setting::INITIAL_WINDOW_SIZE, MOST),
        (setting::MAX_FRAME_SIZE, LARGEST as u32),
        (setting::MAX_FRAME_SIZE, (1 << 24) - 1),
        (setting::HEADER_TABLE_SIZE, u32::MAX),
        (0xfafa, 7),
    ] {
        Peer::new().say(&settings_frame(&[(name, value)]));
    }
}

#[test]
fn frames_of_a_wrong_size_end_the_connection() {
    for wrong in [
        frame(kind::SETTINGS, 0, 0, &[0; 5]),
        frame(kind::SETTINGS, flag::ACK, 0, &[0; 6]),
        frame(kind::PING, 0, 0, &[0; 7]),
        frame(kind::PRIORITY, 0, 1, &[0; 4]),
        frame(kind::RST_STREAM, 0, 1, &[0; 5]),
        frame(kind::WINDOW_UPDATE, 0, 1, &[0; 3]),
        frame(kind::GOAWAY, 0, 0, &[0; 7]),
        frame(kind::HEADERS, flag::PADDED, 3, &[]),
        frame(kind::HEADERS, flag::PRIORITY, 3, &[0; 4]),
        // Its head is enough.
        frame(0x7f, 0, 0, &[0; LARGEST + 1])[..9].to_vec(),
        frame(kind::DATA, 0, 1, &[0; LARGEST + 1])[..9].to_vec(),
    ] {
        let mut peer = Peer::new();
        peer.request(1, false);
        assert_eq!(peer.fails(&wrong), Reason::FRAME_SIZE_ERROR, "{:?}", &wrong[..9]);
    }
}

#[test]
fn frames_of_streams_belong_to_streams_and_those_of_the_connection_to_none() {
    for wrong in [
        data(0, false, b"x"),
        head(0, true, &post(&[])),
        head(2, true, &post(&[])),
        frame(kind::PRIORITY, 0, 0, &[0; 5]),
        frame(kind::RST_STREAM, 0, 0, &[0; 4]),
        frame(kind::SETTINGS, 0, 1, &[]),
        frame(kind::PING, 0, 1, &[0; 8]),
        frame(kind::GOAWAY, 0, 1, &[0; 8]),
        frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, &[0; 8]),
        frame(kind::CONTINUATION, flag::END_HEADERS, 1, &[]),
    ] {
        let mut peer = Peer::new();
        peer.request(1, false);
        assert_eq!(peer.fails(&wrong), Reason::PROTOCOL_ERROR, "{wrong:?}");
    }
}

#[test]
fn a_ping_is_answered_and_an_answer_is_not() {
    let mut peer = Peer::new();
    peer.say(&ping(b"01234567"));
    let payload = b"01234567".to_vec();
    assert_eq!(peer.frame(), Frame { kind: kind::PING, flags: flag::ACK, stream: 0, payload });
    peer.say(&frame(kind::PING, flag::ACK, 0, b"01234567"));
    assert_eq!(peer.frames(), []);
}

#[test]
fn frames_of_unknown_kinds_and_flags_are_passed_over() {
    let mut peer = Peer::new();
    peer.say(&frame(0xee, 0xff, 5, b"what"));
    peer.say(&frame(kind::PING, 0xfe, 0, b"01234567"));
    assert_eq!(peer.frame().kind, kind::PING);
    peer.request(1, true);
}

#[test]
fn what_the_client_owes_is_told_by_a_number() {
    let mut peer = Peer::silent(LIMITS);
    let owed = |peer: &Peer, unread| peer.session.owed(unread);
    let first = owed(&peer, false);
    assert!(first.is_some(), "the preface");
    peer.say(PREFACE);
    assert_eq!(owed(&peer, false), first, "the first settings");
    peer.say(&settings_frame(&[]));
    assert_eq!(owed(&peer, false), None);
    let begun = owed(&peer, true);
    assert!(begun.is_some() && begun != first, "{begun:?}");
    // The head of a frame of DATA is owed, its body is not.
    peer.request(1, false);
    peer.say(&data(1, false, &[7; 100])[..20]);
    assert_eq!(owed(&peer, false), None);
    peer.say(&data(1, false, &[7; 100])[20..]);
    // A block is owed from its first frame to its last.
    peer.say(&frame(kind::HEADERS, 0, 3, b"\x83\x86"));
    let block = owed(&peer, false);
    assert!(block.is_some() && block != begun);
    peer.say(&frame(kind::CONTINUATION, 0, 3, b"\x84"));
    assert_eq!(owed(&peer, true), block);
    peer.say(&frame(kind::CONTINUATION, flag::END_HEADERS, 3, b"\x01\x01a"));
    assert_eq!(owed(&peer, false), None);
    assert_ne!(owed(&peer, true), block);
}
