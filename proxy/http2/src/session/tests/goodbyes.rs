use super::super::*;
use super::peer::*;
use crate::frame::{MOST, flag};

/// The last stream and the reason of a GOAWAY.
#[track_caller]
fn goodbye(frame: &Frame) -> (u32, Reason) {
    assert_eq!((frame.kind, frame.stream), (kind::GOAWAY, 0), "{frame:?}");
    (frame.number(0), Reason(frame.number(4)))
}

#[test]
fn leaving_takes_two_steps() {
    let mut peer = Peer::new();
    let served = peer.request(1, true);
    peer.session.leave();
    peer.session.leave();
    let said = peer.frames();
    assert_eq!(goodbye(&said[0]), (MOST, Reason::NO_ERROR));
    assert_eq!((said[1].kind, said[1].flags, said.len()), (kind::PING, 0, 2));
    // What was sent meanwhile is served.
    let late = peer.request(3, true);
    assert!(!peer.session.is_last());
    // Another PING's answer is not that of the goodbye.
    peer.say(&frame(kind::PING, flag::ACK, 0, b"whatever"));
    assert!(!peer.session.is_last());
    peer.say(&frame(kind::PING, flag::ACK, 0, &said[1].payload));
    assert_eq!(goodbye(&peer.frame()), (3, Reason::NO_ERROR));
    assert!(peer.session.is_last() && !peer.session.is_over());
    // Nothing new is served; its table stays in step.
    let block = [&post(&[])[..], b"\x40\x04x-in\x05table"].concat();
    peer.say(&[head(5, false, &block), data(5, true, b"x"), window(5, 1), reset(5)].concat());
    assert_eq!((peer.opened.len(), peer.frames().len()), (2, 0));
    assert_eq!(peer.session.decoder.decode(&[0x80 | 62], |_| ()), Ok(()));
    for key in [served, late] {
        peer.session.send_head(key, true, |head| head.status(204));
        peer.close(key);
    }
    assert!(!peer.session.is_over(), "something is to be said");
    peer.frames();
    assert!(peer.session.is_over());
}

#[test]
fn whoever_moves_the_bytes_is_woken_by_what_is_to_be_said() {
    let flag = std::sync::Arc::new(Flag::default());
    let waker = flag.clone().into();
    let mut peer = Peer::new();
    let key = peer.request(1, true);
    let park = |peer: &mut Peer, by: &dyn Fn(&mut Peer)| {
        peer.session.park(&Context::from_waker(&waker));
        assert!(!flag.take());
        by(peer);
        flag.take()
    };
    assert!(park(&mut peer, &|peer| peer.begin(key)));
    assert!(park(&mut peer, &|peer| assert_eq!(peer.send_all(key, b"x"), 1)));
    assert!(park(&mut peer, &|peer| peer.session.end(key)));
    assert!(park(&mut peer, &|peer| peer.session.leave()));
    assert!(park(&mut peer, &|peer| peer.session.leave_now()));
    // The last stream has been served: the connection is over.
    assert!(park(&mut peer, &|peer| peer.close(key)));
}

#[test]
fn windows_that_are_given_back_wake_whoever_moves_the_bytes() {
    let flag = std::sync::Arc::new(Flag::default());
    let waker = flag.clone().into();
    let mut peer = Peer::new();
    let key = peer.request(1, false);
    for _ in 0..8 {
        peer.say(&data(1, false, &[7; 16_384]));
    }
    peer.session.park(&Context::from_waker(&waker));
    assert_eq!(peer.read(key).1, Ok(Some(Body::More)));
    assert!(flag.take());
    assert_eq!(peer.frame().kind, kind::WINDOW_UPDATE);
}

#[test]
fn a_client_that_leaves_may_still_speak() {
    let mut peer = Peer::new();
    let bye = frame(kind::GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0xff]);
    peer.say(&bye);
    assert!(peer.session.client_leaves() && !peer.session.is_last());
    peer.say(&ping(b"01234567"));
    assert_eq!(peer.frame().kind, kind::PING);
    peer.request(1, true);
}

#[test]
fn an_error_is_told_with_the_last_stream_and_all_streams_are_gone() {
    let mut peer = Peer::new();
    let key = peer.request(7, false);
    let flag = std::sync::Arc::new(Flag::default());
    let waker = flag.clone().into();
    assert!(peer.session.poll_gone(key, &Context::from_waker(&waker)).is_pending());
    let error = peer.tell(&data(9, true, b"no stream")).expect_err("an error");
    assert_eq!(goodbye(&peer.frame()), (7, error.reason));
    assert!(flag.take() && peer.session.is_gone(key) && !peer.session.is_over());
    peer.close(key);
    assert!(peer.session.is_over());
}

#[test]
fn a_connection_that_is_lost_takes_its_streams_along() {
    let mut peer = Peer::new();
    let key = peer.request(1, false);
    peer.session.lose();
    assert_eq!(peer.read(key).1, Err(Gone));
    peer.close(key);
    assert_eq!(peer.frames(), []);
}

#[test]
fn a_quiet_connection_lets_go_of_what_it_does_not_need() {
    let mut peer = Peer::new();
    let key = peer.request(1, false);
    peer.session.rest();
    assert_eq!(peer.session.active(), 1, "not while streams are served");
    peer.close(key);
    peer.session.rest();
    assert!(peer.session.spare.is_empty() && peer.session.streams.find(1).is_none());
    // It goes on as if nothing had been.
    peer.frames();
    let key = peer.request(3, false);
    peer.say(&data(3, true, b"x"));
    assert_eq!(peer.read(key), (b"x".to_vec(), Ok(Some(Body::End))));
}
