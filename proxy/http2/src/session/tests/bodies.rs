use super::super::*;
use super::peer::*;
use crate::frame::{LARGEST, flag};

/// What the client may still send, by what it was told: on a stream, and on all together.
struct Allowance(i64);

impl Allowance {
    fn of(all: &[Frame], stream: u32, first: u32) -> Self {
        let more = all.iter().filter(|f| f.kind == kind::WINDOW_UPDATE && f.stream == stream);
        Self(i64::from(first) + more.map(|f| i64::from(f.number(0))).sum::<i64>())
    }
}

#[test]
fn a_body_comes_as_it_was_sent() {
    let mut peer = Peer::new();
    let key = peer.request(1, false);
    assert_eq!(peer.read(key), (vec![], Ok(None)));
    peer.say(&[data(1, false, b"one"), padded(1, false, b"two", 9)].concat());
    assert_eq!(peer.read(key), (b"onetwo".to_vec(), Ok(Some(Body::More))));
    peer.say(&padded(1, true, b"three", 0));
    assert_eq!(peer.read(key), (b"three".to_vec(), Ok(Some(Body::End))));
    assert_eq!(peer.read(key), (vec![], Ok(Some(Body::End))));
}

#[test]
fn its_bytes_are_there_before_the_frame_is_whole() {
    let mut peer = Peer::new();
    let key = peer.request(1, false);
    let frame = padded(1, true, b"body", 3);
    peer.say(&frame[..12]);
    assert_eq!(peer.read(key), (b"bo".to_vec(), Ok(Some(Body::More))));
    peer.say(&frame[12..16]);
    // The end comes with the last of the padding.
    assert_eq!(peer.read(key), (b"dy".to_vec(), Ok(Some(Body::More))));
    assert_eq!(peer.read(key), (vec![], Ok(None)));
    peer.say(&frame[16..]);
    assert_eq!(peer.read(key), (vec![], Ok(Some(Body::End))));
}

#[test]
fn whoever_waits_for_a_body_is_woken() {
    let mut peer = Peer::new();
    let key = peer.request(1, false);
    let flag = std::sync::Arc::new(Flag::default());
    let waker = flag.clone().into();
    let wait = |peer: &mut Peer| {
        let cx = Context::from_waker(&waker);
        peer.session.poll_body(key, &cx, |_| ())
    };
    for more in [data(1, false, b"x"), data(1, true, b"")] {
        assert!(wait(&mut peer).is_pending() && !flag.take());
        peer.say(&more);
        assert!(flag.take());
        assert!(wait(&mut peer).is_ready());
    }
    peer.say(&reset(1));
    assert!(flag.take());
    assert_eq!(wait(&mut peer), Poll::Ready(Err(Gone)));
}

#[test]
fn padding_longer_than_its_frame_ends_the_connection() {
    let mut peer = Peer::new();
    peer.request(1, false);
    peer.say(&frame(kind::DATA, flag::PADDED, 1, &[3, 0, 0, 0]));
    for wrong in [&[3, 0, 0][..], &[1], &[]] {
        let mut peer = Peer::new();
        peer.request(1, false);
        // What comes behind is not looked at.
        let wrong = [frame(kind::DATA, flag::PADDED, 1, wrong), ping(b"01234567")].concat();
        assert_eq!(peer.fails(&wrong), Reason::PROTOCOL_ERROR);
    }
}

#[test]
fn a_stream_may_not_be_sent_more_than_its_window() {
    let mut peer = Peer::new();
    let key = peer.request(1, false);
    for _ in 0..STREAM_WINDOW as usize / LARGEST {
        peer.say(&data(1, false, &[7; LARGEST]));
    }
    assert_eq!(peer.frames(), []);
    peer.say(&data(1, false, &[7]));
    peer.assert_reset(1, Reason::FLOW_CONTROL_ERROR);
    assert_eq!(peer.read(key).1, Err(Gone));
    // The window of all streams has it back when the stream is closed.
    peer.close(key);
    assert_eq!(peer.session.receive_window + peer.session.read, CONNECTION_WINDOW);
}

#[test]
fn all_streams_together_may_not_be_sent_more_than_the_window_of_the_connection() {
    let mut peer = Peer::new();
    for id in [1, 3, 5, 7] {
        peer.request(id, false);
        for _ in 0..STREAM_WINDOW as usize / LARGEST {
            peer.say(&data(id, false, &[7; LARGEST]));
        }
    }
    peer.request(9, false);
    assert_eq!(peer.fails(&data(9, false, b"x")), Reason::FLOW_CONTROL_ERROR);
}

#[test]
fn what_was_read_may_be_sent_again() {
    let mut peer = Peer::new();
    let key = peer.request(1, false);
    let (mut sent, mut told) = (0, Vec::new());
    while sent < 4 * i64::from(CONNECTION_WINDOW) {
        let allowed = [(1, STREAM_WINDOW), (0, CONNECTION_WINDOW)]
            .map(|(stream, first)| Allowance::of(&told, stream, first).0 - sent);
        assert!(
            allowed[0] >= 2 * LARGEST as i64 && allowed[1] >= 2 * LARGEST as i64,
            "{allowed:?}"
        );
        peer.say(&data(1, false, &[7; LARGEST]));
        sent += LARGEST as i64;
        assert_eq!(peer.read(key).1, Ok(Some(Body::More)));
        told.extend(peer.frames());
    }
    let updates = told.len() as i64;
    assert!(
        updates <= sent / i64::from(STREAM_WINDOW / 2) + sent / i64::from(CONNECTION_WINDOW / 2)
    );
}

#[test]
fn padding_and_what_is_thrown_away_may_be_sent_again() {
    let mut peer = Peer::new();
    let key = peer.request(1, false);
    peer.session.reset(key, Reason::CANCEL);
    let whole = |peer: &Peer| peer.session.receive_window + peer.session.read;
    peer.say(&padded(1, false, &[7; 1000], 99));
    assert_eq!(whole(&peer), CONNECTION_WINDOW, "of a stream that is over");
    peer.close(key);
    peer.say(&padded(1, false, &[7; 1000], 99));
    assert_eq!(whole(&peer), CONNECTION_WINDOW, "of a stream that is closed");
    let key = peer.request(3, false);
    peer.say(&padded(3, false, &[7; 1000], 99));
    assert_eq!(whole(&peer), CONNECTION_WINDOW - 1000, "padding");
    peer.close(key);
    assert_eq!(whole(&peer), CONNECTION_WINDOW, "what was not read");
    let key = peer.request(5, false);
    peer.say(&data(5, true, &[7; 1000])[..500]);
    peer.close(key);
    peer.say(&data(5, true, &[7; 1000])[500..]);
    assert_eq!(whole(&peer), CONNECTION_WINDOW, "closed in the middle of a frame");
}

#[test]
fn streams_that_are_not_read_do_not_keep_the_window_from_the_others() {
    let mut peer = Peer::new();
    let mut told = Vec::new();
    for id in [1, 3, 5] {
        peer.request(id, false);
        for _ in 0..STREAM_WINDOW as usize / LARGEST {
            peer.say(&data(id, false, &[7; LARGEST]));
        }
    }
    let key = peer.request(7, false);
    let mut sent = 3 * i64::from(STREAM_WINDOW);
    for _ in 0..500 {
        told.extend(peer.frames());
        let allowed = Allowance::of(&told, 0, CONNECTION_WINDOW).0 - sent;
        assert!(allowed >= LARGEST as i64, "{allowed}");
        peer.say(&data(7, false, &[7; LARGEST]));
        sent += LARGEST as i64;
        assert_eq!(peer.read(key).1, Ok(Some(Body::More)));
    }
}

#[test]
fn a_body_of_another_length_than_announced_is_reset() {
    for (length, body) in [
        ("3", vec![data(1, true, b"ab")]),
        ("3", vec![data(1, false, b"abcd")]),
        ("3", vec![data(1, false, b"ab"), data(1, false, b"cd")]),
        ("3", vec![data(1, false, b"ab"), data(1, true, b"")]),
        ("3", vec![data(1, false, b"ab"), head(1, true, &literals(&[("x-t", "1")]))]),
        ("0", vec![data(1, false, b"a")]),
    ] {
        let mut peer = Peer::new();
        peer.say(&head(1, false, &post(&[("content-length", length)])));
        peer.say(&body.concat());
        peer.assert_reset(1, Reason::PROTOCOL_ERROR);
    }
    for body in [
        vec![padded(1, true, b"abc", 5)],
        vec![data(1, false, b"abc"), data(1, true, b"")],
        vec![data(1, false, b"abc"), head(1, true, &literals(&[("x-t", "1")]))],
    ] {
        let mut peer = Peer::new();
        peer.say(&head(1, false, &post(&[("content-length", "3")])));
        peer.say(&body.concat());
        let key = peer.opened[0].stream;
        assert_eq!(peer.read(key), (b"abc".to_vec(), Ok(Some(Body::End))));
    }
}

#[test]
fn trailers_come_with_the_end() {
    let mut peer = Peer::new();
    let key = peer.request(1, false);
    peer.say(&[data(1, false, b"body"), head(1, true, &literals(&[("x-sum", "7")]))].concat());
    assert_eq!(peer.read(key), (b"body".to_vec(), Ok(Some(Body::End))));
    let trailers = peer.session.take_trailers(key).expect("trailers");
    assert_eq!(trailers.first("x-sum"), Some(&b"7"[..]));
    assert!(peer.session.take_trailers(key).is_none());
}

#[test]
fn trailers_that_do_not_end_or_are_malformed_are_reset() {
    let long: Vec<_> = (0..40).map(|_| ("x-t", "v")).chain([("x-t", "v")]).collect();
    for (end, block) in [
        (false, literals(&[("x-t", "1")])),
        (true, literals(&[(":path", "/")])),
        (true, literals(&[("X-T", "1")])),
        (true, literals(&[("connection", "x")])),
        (true, [literals(&long), literals(&long), literals(&long)].concat()),
    ] {
        let mut peer = Peer::new();
        let key = peer.request(1, false);
        peer.say(&head(1, end, &block));
        peer.assert_reset(1, Reason::PROTOCOL_ERROR);
        assert_eq!(peer.read(key).1, Err(Gone));
    }
}
