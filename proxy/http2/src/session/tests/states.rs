//! Frames on streams in each state (RFC 9113 section 5.1).

use super::super::*;
use super::peer::*;

fn trailers(id: u32) -> Vec<u8> {
    head(id, true, &literals(&[("x-t", "1")]))
}

fn priority(id: u32) -> Vec<u8> {
    frame(kind::PRIORITY, 0, id, &[0, 0, 0, 0, 16])
}

#[test]
fn on_an_idle_stream_only_headers_and_priority_may_come() {
    for wrong in [data(3, true, b"x"), window(3, 1), reset(3), window(4, 1), reset(2)] {
        let mut peer = Peer::new();
        peer.request(1, true);
        assert_eq!(peer.fails(&wrong), Reason::PROTOCOL_ERROR, "{wrong:?}");
    }
    let mut peer = Peer::new();
    peer.say(&[priority(3), priority(4)].concat());
    peer.request(3, true);
    assert_eq!(peer.frames(), []);
}

#[test]
fn on_a_half_closed_stream_data_and_headers_are_reset() {
    for wrong in [data(1, true, b"x"), data(1, false, b""), trailers(1)] {
        let mut peer = Peer::new();
        let key = peer.request(1, true);
        peer.say(&wrong);
        peer.assert_reset(1, Reason::STREAM_CLOSED);
        assert_eq!(peer.read(key).1, Err(Gone));
    }
    let mut peer = Peer::new();
    peer.request(1, true);
    peer.say(&[window(1, 1), priority(1)].concat());
    assert_eq!(peer.frames(), []);
    peer.say(&reset(1));
    assert_eq!(peer.frames(), []);
}

/// A stream that has ended on both sides.
fn ended() -> Peer {
    let mut peer = Peer::new();
    let key = peer.request(1, true);
    peer.session.send_head(key, true, |head| head.status(204));
    peer.close(key);
    peer.frames();
    peer
}

#[test]
fn on_a_stream_that_has_ended_data_is_reset_and_headers_end_the_connection() {
    let mut peer = ended();
    peer.say(&data(1, true, b"x"));
    peer.assert_reset(1, Reason::STREAM_CLOSED);
    assert_eq!(ended().fails(&trailers(1)), Reason::STREAM_CLOSED);
    let mut peer = ended();
    peer.say(&[window(1, 1), priority(1), reset(1)].concat());
    assert_eq!(peer.frames(), []);
}

#[test]
fn what_follows_the_clients_own_reset_is_an_error_whether_the_stream_is_still_served_or_not() {
    for closed in [false, true] {
        let begin = || {
            let mut peer = Peer::new();
            let key = peer.request(1, false);
            peer.say(&reset(1));
            if closed {
                peer.close(key);
            }
            peer
        };
        let mut peer = begin();
        peer.say(&data(1, true, b"x"));
        peer.assert_reset(1, Reason::STREAM_CLOSED);
        // It was said once.
        peer.say(&data(1, true, b"x"));
        assert_eq!(peer.frames(), []);
        assert_eq!(begin().fails(&trailers(1)), Reason::STREAM_CLOSED, "{closed}");
        let mut peer = begin();
        peer.say(&[window(1, 1), priority(1), reset(1)].concat());
        assert_eq!(peer.frames(), []);
    }
}

#[test]
fn what_was_on_its_way_when_this_side_reset_the_stream_is_passed_over() {
    for closed in [false, true] {
        for late in [data(1, true, b"x"), trailers(1), window(1, 1), window(1, 0), reset(1)] {
            let mut peer = Peer::new();
            let key = peer.request(1, false);
            peer.session.reset(key, Reason::CANCEL);
            if closed {
                peer.close(key);
            }
            peer.assert_reset(1, Reason::CANCEL);
            peer.say(&late);
            assert_eq!(peer.frames(), [], "{late:?}");
        }
    }
}

#[test]
fn as_many_resets_are_remembered_as_there_may_be_streams_twice() {
    let mut peer = Peer::greeted(Limits { streams: 500, header_bytes: 4096 });
    for n in 0..1000 {
        let key = peer.request(2 * n + 1, false);
        peer.session.reset(key, Reason::CANCEL);
        peer.close(key);
    }
    peer.frames();
    for n in 0..1000 {
        peer.say(&data(2 * n + 1, false, b"x"));
    }
    assert_eq!(peer.frames(), []);
}

#[test]
fn ids_go_up() {
    // One that was left out.
    let mut peer = Peer::new();
    peer.request(5, true);
    assert_eq!(peer.fails(&request(3, true)), Reason::PROTOCOL_ERROR);
    // One that was used.
    let mut peer = ended();
    peer.request(3, true);
    assert_eq!(peer.fails(&request(1, true)), Reason::STREAM_CLOSED);
}

#[test]
fn a_stream_that_depends_on_itself_ends_the_connection() {
    let itself = [&[0, 0, 0, 1, 16][..], &post(&[])].concat();
    let flags = frame::flag::PRIORITY | frame::flag::END_HEADERS;
    for wrong in
        [frame(kind::HEADERS, flags, 1, &itself), frame(kind::PRIORITY, 0, 1, &itself[..5])]
    {
        assert_eq!(Peer::new().fails(&wrong), Reason::PROTOCOL_ERROR);
    }
}

#[test]
fn a_reset_by_the_client_wakes_whoever_serves_the_stream() {
    let mut peer = Peer::new();
    let key = peer.request(1, true);
    let flag = std::sync::Arc::new(Flag::default());
    let waker = flag.clone().into();
    let cx = Context::from_waker(&waker);
    assert!(peer.session.poll_gone(key, &cx).is_pending() && !peer.session.is_gone(key));
    peer.say(&reset(1));
    assert!(flag.take() && peer.session.is_gone(key));
    assert_eq!(peer.session.poll_gone(key, &cx), Poll::Ready(()));
    peer.begin(key);
    peer.session.end(key);
    peer.session.reset(key, Reason::CANCEL);
    assert_eq!(peer.send(key, b"x"), Poll::Ready(Err(Gone)));
    assert_eq!(peer.frames(), []);
}

#[test]
fn a_slot_that_is_used_again_has_nothing_of_its_last_stream() {
    let mut peer = Peer::new();
    peer.say(&head(1, false, &post(&[("content-length", "5")])));
    let first = peer.opened[0].stream;
    peer.say(&[data(1, false, b"abc"), window(1, 77)].concat());
    peer.close(first);
    peer.frames();
    let second = peer.request(3, false);
    assert_eq!((second.slot, second.id), (first.slot, 3));
    let stream = peer.session.streams.get(second);
    assert_eq!((stream.send_window, stream.receive_window), (65_535, STREAM_WINDOW));
    assert_eq!((stream.expected, stream.inbox.len(), stream.is_gone()), (None, 0, false));
    // What still comes for the first one does not reach the second.
    peer.say(&[data(1, true, b"de"), reset(1)].concat());
    assert_eq!(peer.read(second), (vec![], Ok(None)));
}
