use super::super::*;
use super::peer::*;
use crate::frame::LARGEST;

const MUCH: u32 = 1 << 24;

/// Streams with much to send, on a connection without narrow windows.
fn wide(count: u32) -> (Peer, Vec<StreamKey>) {
    let mut peer = Peer::greeted(Limits { streams: 100, header_bytes: 4096 });
    peer.say(&[settings_frame(&[(4, MUCH)]), window(0, MUCH)].concat());
    peer.frames();
    let keys = (0..count).map(|n| peer.request(2 * n + 1, true)).collect();
    (peer, keys)
}

#[test]
fn streams_that_wait_for_room_take_turns() {
    let (mut peer, keys) = wide(5);
    let data = vec![7; LARGEST];
    let mut turns = vec![0; keys.len()];
    // All want to send all the time; the client takes a frame at a time.
    for _ in 0..200 {
        for (key, turns) in keys.iter().zip(&mut turns) {
            *turns += peer.send_all(*key, &data);
        }
        let some = peer.session.output().len().min(LARGEST);
        peer.session.sent(some);
    }
    let (least, most) = (turns.iter().min(), turns.iter().max());
    let (least, most) = (least.copied().unwrap_or(0), most.copied().unwrap_or(0));
    assert!(least > 30 * LARGEST && most - least <= 6 * LARGEST, "{turns:?}");
}

#[test]
fn a_newcomer_waits_behind_those_that_wait() {
    let (mut peer, keys) = wide(3);
    let data = vec![7; 1 << 20];
    let hog = peer.send_all(keys[0], &data);
    assert!(hog > 60_000);
    assert_eq!(peer.send_all(keys[1], &data), 0);
    let waiting = peer.session.output().len();
    peer.session.sent(waiting / 2);
    // It is the first one's turn, then the second one's; the third has not asked before.
    assert_eq!(peer.send_all(keys[2], &data), 0);
    assert_eq!(peer.send(keys[0], &data), Poll::Ready(Ok(LARGEST)));
    assert!(peer.send(keys[1], &data).is_ready());
}

#[test]
fn a_turn_that_is_not_taken_goes_to_the_next() {
    for leaves in [
        |peer: &mut Peer, key| peer.close(key),
        |peer: &mut Peer, key: StreamKey| peer.say(&reset(key.id)),
        // Its window has shrunk meanwhile.
        |peer: &mut Peer, _| peer.say(&settings_frame(&[(4, 0)])),
        // It sends a head.
        |peer: &mut Peer, key| assert!(peer.session.poll_room(key, &nobody()).is_ready()),
    ] {
        let (mut peer, keys) = wide(3);
        let data = vec![7; 1 << 20];
        peer.say(&[window(3, MUCH), window(5, MUCH)].concat());
        while peer.session.out.room() > 0 {
            assert!(peer.send(keys[2], &data).is_ready());
        }
        let flags: [std::sync::Arc<Flag>; 2] = Default::default();
        for (key, flag) in keys.iter().zip(&flags) {
            let waker = flag.clone().into();
            let polled = peer.session.poll_send(*key, &data, &Context::from_waker(&waker));
            assert!(polled.is_pending());
        }
        // Room for less than one frame.
        peer.session.sent(LARGEST / 2);
        assert!(flags[0].take() && !flags[1].take());
        leaves(&mut peer, keys[0]);
        let waker = flags[1].clone().into();
        let second = |peer: &mut Peer| {
            let cx = Context::from_waker(&waker);
            flags[1].take() && peer.session.poll_send(keys[1], &data, &cx).is_ready()
        };
        // It may have been woken by something else, and may even be the next by now.
        if second(&mut peer) {
            continue;
        }
        if peer.session.streams.find(1).is_some() {
            match peer.send(keys[0], &data) {
                Poll::Ready(Err(Gone)) => peer.close(keys[0]),
                polled => assert!(polled.is_pending()),
            }
        }
        assert!(second(&mut peer), "nobody's turn");
    }
}

#[test]
fn what_a_small_answer_leaves_of_its_turn_goes_to_the_next() {
    let (mut peer, keys) = wide(3);
    while peer.session.out.room() > 0 {
        assert!(peer.send(keys[2], &[7; LARGEST]).is_ready());
    }
    assert!(peer.send(keys[0], b"small").is_pending());
    assert!(peer.send(keys[1], b"small").is_pending());
    peer.session.sent(100);
    assert_eq!(peer.send(keys[0], b"small"), Poll::Ready(Ok(5)));
    assert_eq!(peer.send(keys[1], b"small"), Poll::Ready(Ok(5)));
}

#[test]
fn a_stream_without_window_does_not_stand_in_line() {
    let (mut peer, keys) = wide(2);
    peer.say(&settings_frame(&[(4, 0)]));
    peer.frames();
    peer.say(&window(3, 100));
    assert!(peer.send(keys[0], b"x").is_pending());
    assert_eq!(peer.send(keys[1], b"y"), Poll::Ready(Ok(1)));
}
