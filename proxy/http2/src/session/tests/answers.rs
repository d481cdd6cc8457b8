use super::super::*;
use super::peer::*;
use crate::frame::{HEAD, LARGEST, flag};

const END: u8 = flag::END_STREAM;
const WHOLE: u8 = flag::END_HEADERS;

fn sent(frames: &[Frame], stream: u32) -> usize {
    let data = frames.iter().filter(|f| f.kind == kind::DATA && f.stream == stream);
    data.map(|f| f.payload.len()).sum()
}

fn shape(frames: &[Frame]) -> Vec<(u8, u8, usize)> {
    frames.iter().map(|f| (f.kind, f.flags, f.payload.len())).collect()
}

#[test]
fn the_end_is_marked_on_the_last_frame_that_has_not_gone() {
    let mut peer = Peer::new();
    for (id, ends_head, body) in [(1, true, 0), (3, false, 0), (5, false, 5)] {
        let key = peer.request(id, true);
        peer.session.send_head(key, ends_head, |head| head.status(204));
        assert_eq!(peer.send_all(key, &vec![7; body]), body);
        peer.session.end(key);
        let expected = match body {
            0 => vec![(kind::HEADERS, WHOLE | END, 1)],
            _ => vec![(kind::HEADERS, WHOLE, 1), (kind::DATA, END, body)],
        };
        assert_eq!(shape(&peer.frames()), expected, "{id}");
        peer.close(key);
        assert_eq!(peer.frames(), []);
    }
}

#[test]
fn the_end_is_a_frame_of_its_own_where_the_last_one_has_gone_or_others_stand_behind_it() {
    let mut peer = Peer::new();
    let (one, two) = (peer.request(1, true), peer.request(3, true));
    peer.begin(one);
    // One byte of it is enough.
    peer.session.sent(1);
    peer.session.end(one);
    let rest = peer.session.output().to_vec();
    let whole = [&[0][..], &rest].concat();
    assert_eq!(shape(&frames(&whole))[1], (kind::DATA, END, 0));
    peer.session.sent(rest.len());

    let three = peer.request(5, true);
    peer.begin(two);
    peer.begin(three);
    peer.session.end(two);
    peer.session.end(three);
    let frames = peer.frames();
    let ends: Vec<_> = frames.iter().map(|f| (f.stream, f.kind, f.flags & END)).collect();
    let heads = [(3, kind::HEADERS, 0), (5, kind::HEADERS, 0)];
    assert_eq!(ends, [&heads[..], &[(3, kind::DATA, END), (5, kind::DATA, END)]].concat());
}

#[test]
fn small_writes_share_a_frame_up_to_the_largest() {
    let mut peer = Peer::new();
    let key = peer.request(1, true);
    peer.begin(key);
    for _ in 0..5 {
        assert_eq!(peer.send_all(key, &[7; 4000]), 4000);
    }
    peer.session.end(key);
    let sizes: Vec<_> = peer.frames()[1..].iter().map(|f| (f.payload.len(), f.flags)).collect();
    assert_eq!(sizes.iter().map(|(len, _)| len).sum::<usize>(), 20_000);
    assert!(sizes.iter().all(|(len, _)| *len <= LARGEST), "{sizes:?}");
    assert_eq!(sizes.last().map(|(_, flags)| *flags), Some(END));
}

#[test]
fn a_long_head_goes_on_in_continuations() {
    for (long, pieces) in [(LARGEST - 100, 1), (2 * LARGEST, 3), (3 * LARGEST, 4)] {
        let mut peer = Peer::new();
        let key = peer.request(1, true);
        let value = vec![b'v'; long];
        peer.session.send_head(key, true, |head| {
            head.status(200);
            head.field("x-long", &value);
        });
        let frames = peer.frames();
        let mut kinds = vec![kind::CONTINUATION; pieces];
        kinds[0] = kind::HEADERS;
        assert_eq!(frames.iter().map(|f| f.kind).collect::<Vec<_>>(), kinds);
        assert!(frames.iter().all(|f| f.payload.len() <= LARGEST && f.stream == 1));
        let flags = |f: &Frame| (f.flags & END != 0, f.flags & WHOLE != 0);
        for (n, frame) in frames.iter().enumerate() {
            assert_eq!(flags(frame), (n == 0, n + 1 == pieces), "{n} of {pieces}");
        }
        let block = frames.into_iter().flat_map(|f| f.payload).collect::<Vec<_>>();
        assert_eq!(fields(&block)[1].1.len(), long);
    }
}

#[test]
fn an_answer_behind_a_long_head_does_not_touch_it() {
    let mut peer = Peer::new();
    let key = peer.request(1, true);
    peer.session.send_head(key, false, |head| head.field("x-long", &[b'v'; 2 * LARGEST]));
    peer.session.end(key);
    let frames = peer.frames();
    assert_eq!(shape(&frames[3..]), [(kind::DATA, END, 0)]);
}

#[test]
fn interim_heads_trailers_and_nothing_after_the_end() {
    let mut peer = Peer::new();
    let key = peer.request(1, true);
    peer.session.send_head(key, false, |head| head.status(103));
    peer.begin(key);
    assert_eq!(peer.send_all(key, b"body"), 4);
    peer.session.send_head(key, true, |head| head.field("x-sum", b"7"));
    // All of this comes too late.
    peer.begin(key);
    peer.session.end(key);
    assert_eq!(peer.send(key, b"more"), Poll::Ready(Err(Gone)));
    let frames = peer.frames();
    let kinds: Vec<_> = frames.iter().map(|f| (f.kind, f.flags)).collect();
    let expected = [
        (kind::HEADERS, WHOLE),
        (kind::HEADERS, WHOLE),
        (kind::DATA, 0),
        (kind::HEADERS, WHOLE | END),
    ];
    assert_eq!(kinds, expected);
    assert_eq!(fields(&frames[3].payload), [("x-sum".to_owned(), "7".to_owned())]);
}

#[test]
fn a_stream_sends_as_much_as_its_window_allows() {
    let mut peer = Peer::new();
    peer.say(&settings_frame(&[(setting::INITIAL_WINDOW_SIZE, 10)]));
    let key = peer.request(1, true);
    peer.begin(key);
    assert_eq!(peer.send_all(key, &[7; 100]), 10);
    peer.say(&window(1, 5));
    assert_eq!(peer.send_all(key, &[7; 90]), 5);
    assert_eq!(sent(&peer.frames(), 1), 15);
    // A change of the first window moves those of all streams, below zero as well (RFC 9113 section 6.9.2).
    peer.say(&settings_frame(&[(setting::INITIAL_WINDOW_SIZE, 2)]));
    peer.say(&window(1, 8));
    assert_eq!(peer.send_all(key, &[7; 85]), 0);
    peer.say(&window(1, 1));
    assert_eq!(peer.send_all(key, &[7; 85]), 1);
    peer.say(&settings_frame(&[(setting::INITIAL_WINDOW_SIZE, 20)]));
    assert_eq!(peer.send_all(key, &[7; 84]), 18);
    // An end needs no window.
    peer.session.end(key);
    assert_eq!(peer.frames().last().map(|f| f.flags), Some(END));
}

#[test]
fn all_streams_together_send_as_much_as_the_window_of_the_connection_allows() {
    let mut peer = Peer::new();
    peer.say(&settings_frame(&[(setting::INITIAL_WINDOW_SIZE, 1 << 20)]));
    let keys = [peer.request(1, true), peer.request(3, true)];
    let mut total = 0;
    loop {
        let before = total;
        total += keys.map(|key| peer.send_all(key, &[7; 1 << 18])).iter().sum::<usize>();
        peer.frames();
        if total == before {
            break;
        }
    }
    assert_eq!(total, FIRST_WINDOW as usize);
    peer.say(&window(0, 1000));
    let more: usize = keys.map(|key| peer.send_all(key, &[7; 1 << 18])).iter().sum();
    assert_eq!(more, 1000);
}

#[test]
fn windows_that_grow_too_large_are_refused() {
    let most = frame::MOST;
    assert_eq!(Peer::new().fails(&window(0, most)), Reason::FLOW_CONTROL_ERROR);
    Peer::new().say(&window(0, most - FIRST_WINDOW));
    let mut peer = Peer::new();
    peer.request(1, true);
    peer.say(&window(1, most));
    peer.assert_reset(1, Reason::FLOW_CONTROL_ERROR);
    // By a change of the first window, that of a stream that was given more before.
    let mut peer = Peer::new();
    peer.request(1, true);
    peer.say(&window(1, most - FIRST_WINDOW));
    let change = settings_frame(&[(setting::INITIAL_WINDOW_SIZE, FIRST_WINDOW + 1)]);
    assert_eq!(peer.fails(&change), Reason::FLOW_CONTROL_ERROR);
}

#[test]
fn a_window_update_of_nothing_is_an_error() {
    assert_eq!(Peer::new().fails(&window(0, 0)), Reason::PROTOCOL_ERROR);
    let mut peer = Peer::new();
    peer.request(1, true);
    peer.say(&window(1, 0));
    peer.assert_reset(1, Reason::PROTOCOL_ERROR);
}

#[test]
fn what_the_client_does_not_take_is_not_made() {
    let mut peer = Peer::new();
    peer.say(&[settings_frame(&[(4, 1 << 24)]), window(0, 1 << 24)].concat());
    peer.frames();
    let key = peer.request(1, true);
    let made = peer.send_all(key, &vec![7; 1 << 20]);
    assert!((60_000..=64 * 1024).contains(&made), "{made}");
    assert!(!peer.session.wants_input());
    // Interim heads wait as well.
    assert!(peer.session.poll_room(key, &nobody()).is_pending());
    let waiting = peer.session.output().len();
    peer.session.sent(waiting / 2);
    assert!(peer.session.wants_input());
    assert_eq!(peer.session.poll_room(key, &nobody()), Poll::Ready(Ok(())));
    let more = peer.send_all(key, &vec![7; 1 << 20]);
    assert!(more > 0 && peer.session.output().len() <= 64 * 1024 + 100 * HEAD);
}

#[test]
fn a_client_with_a_smaller_table_is_told_once_that_none_is_used() {
    let mut peer = Peer::new();
    peer.say(&settings_frame(&[(setting::HEADER_TABLE_SIZE, 0)]));
    peer.frames();
    let updates = [1, 3].map(|id| {
        let key = peer.request(id, true);
        peer.begin(key);
        peer.frame().payload[0] == 0x20
    });
    assert_eq!(updates, [true, false]);
}

#[test]
fn a_request_of_which_only_the_end_is_missing_is_not_reset_when_it_is_answered() {
    let late = [data(1, true, b""), head(1, true, &literals(&[("x-t", "1")])), reset(1)];
    for late in late {
        let mut peer = Peer::new();
        peer.say(&head(1, false, &post(&[("content-length", "3")])));
        let key = peer.opened[0].stream;
        peer.say(&data(1, false, b"abc"));
        peer.session.send_head(key, true, |head| head.status(204));
        peer.close(key);
        assert_eq!(peer.frames().len(), 1, "the answer and nothing else");
        peer.say(&late);
        assert_eq!(peer.frames(), [], "{late:?}");
        peer.request(3, true);
    }
}

#[test]
fn a_stream_that_is_closed_before_its_end_is_reset() {
    let mut peer = Peer::new();
    // Nothing was answered.
    let key = peer.request(1, true);
    peer.close(key);
    peer.assert_reset(1, Reason::INTERNAL_ERROR);
    // Half an answer.
    let key = peer.request(3, true);
    peer.begin(key);
    peer.close(key);
    assert_eq!(peer.frames().pop(), Some(reset_frame(3, Reason::INTERNAL_ERROR)));
    // A whole one to half a request: the rest is not wanted (RFC 9113 section 8.1).
    let key = peer.request(5, false);
    peer.session.send_head(key, true, |head| head.status(413));
    peer.close(key);
    assert_eq!(peer.frames().pop(), Some(reset_frame(5, Reason::NO_ERROR)));
    // One that the client has reset.
    let key = peer.request(7, true);
    peer.say(&reset(7));
    peer.close(key);
    assert_eq!(peer.frames(), []);
}
