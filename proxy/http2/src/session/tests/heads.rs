use super::super::*;
use super::peer::*;
use crate::frame::flag;
use crate::head::Verdict;

fn texts(head: &Head) -> Vec<(String, String)> {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    head.fields().map(|(name, value)| (name.to_owned(), text(value))).collect()
}

#[test]
fn a_request_comes_with_its_parts() {
    let mut peer = Peer::new();
    peer.say(&head(1, false, &post(&[("x-a", "1")])));
    let Opened { stream, head, ended } = &peer.opened[0];
    assert_eq!((stream.id, *ended, head.verdict()), (1, false, Verdict::Sound));
    assert_eq!((head.method(), head.path(), head.authority()), ("POST", "/", "a"));
    assert_eq!(texts(head), [("x-a".to_owned(), "1".to_owned())]);
}

#[test]
fn a_block_in_pieces_at_every_position_is_the_same() {
    let block = post(&[("x-first", "one"), ("x-second", "two")]);
    for at in 0..=block.len() {
        for between in at..=block.len() {
            let mut peer = Peer::new();
            let (a, b, c) = (&block[..at], &block[at..between], &block[between..]);
            peer.say(&frame(kind::HEADERS, flag::END_STREAM, 1, a));
            peer.say(&frame(kind::CONTINUATION, 0, 1, b));
            assert!(peer.opened.is_empty());
            peer.say(&frame(kind::CONTINUATION, flag::END_HEADERS, 1, c));
            assert_eq!(texts(&peer.opened[0].head).len(), 2);
            assert!(peer.opened[0].ended);
        }
    }
}

#[test]
fn padding_and_priority_stand_around_the_block() {
    let block = post(&[]);
    let all = flag::PADDED | flag::PRIORITY | flag::END_HEADERS | flag::END_STREAM;
    let mut peer = Peer::new();
    let payload = [&[3][..], &[0, 0, 0, 9, 16], &block, &[0; 3]].concat();
    peer.say(&frame(kind::HEADERS, all, 1, &payload));
    assert_eq!(peer.opened[0].head.method(), "POST");
    // More padding than there is room for.
    let room = payload.len() - 6;
    for (padding, fine) in [(room, true), (room + 1, false)] {
        let mut peer = Peer::new();
        let payload = [&[padding as u8][..], &payload[1..]].concat();
        let told = peer.tell(&frame(kind::HEADERS, all, 1, &payload));
        assert_eq!(told.is_ok(), fine, "{padding}: {told:?}");
    }
}

#[test]
fn nothing_comes_between_the_pieces_of_a_block() {
    let piece = |stream| frame(kind::CONTINUATION, 0, stream, &[]);
    for wrong in
        [ping(b"12345678"), data(1, false, b""), request(5, true), piece(5), frame(99, 0, 0, &[])]
    {
        let mut peer = Peer::new();
        peer.request(1, false);
        peer.say(&frame(kind::HEADERS, 0, 3, &[]));
        peer.say(&piece(3));
        assert_eq!(peer.fails(&wrong), Reason::PROTOCOL_ERROR, "{wrong:?}");
    }
}

#[test]
fn a_block_that_does_not_end_ends_the_connection() {
    // By its pieces.
    let mut peer = Peer::new();
    peer.say(&frame(kind::HEADERS, 0, 1, &[]));
    let piece = frame(kind::CONTINUATION, 0, 1, &[]);
    let pieces = (0..100).take_while(|_| peer.tell(&piece).is_ok()).count();
    assert!((32..40).contains(&pieces), "{pieces}");
    // By its length.
    let mut peer = Peer::new();
    peer.say(&frame(kind::HEADERS, 0, 1, &[]));
    let piece = frame(kind::CONTINUATION, 0, 1, &[0; 16_000]);
    let pieces = (0..100).take_while(|_| peer.tell(&piece).is_ok()).count();
    assert_eq!(pieces, 2);
}

#[test]
fn the_longest_list_that_is_allowed_comes_through_in_whole_frames() {
    let limits = Limits { streams: 1, header_bytes: 1 << 20 };
    let mut peer = Peer::greeted(limits);
    let mut block = post(&[]);
    while block.len() < 1 << 20 {
        // 100 bytes, of which 32 are overhead: no more than what is allowed.
        block.extend(literals(&[("x-a", &"v".repeat(95))]));
    }
    let mut pieces = block.chunks(LARGEST).peekable();
    let mut name = kind::HEADERS;
    while let Some(piece) = pieces.next() {
        let end = if pieces.peek().is_none() { flag::END_HEADERS } else { 0 };
        peer.say(&frame(name, end, 1, piece));
        name = kind::CONTINUATION;
    }
    assert_eq!(peer.opened.len(), 1);
    assert_eq!(peer.opened[0].head.verdict(), Verdict::TooLarge);
}

#[test]
fn a_long_list_is_told_and_the_table_stays_in_step() {
    let limits = Limits { streams: 8, header_bytes: 240 };
    let mut peer = Peer::greeted(limits);
    // `x-in: table` enters the table behind what is too much.
    let long = literals(&[("x-long", &"v".repeat(120))]);
    let block = [&post(&[])[..], &long, b"\x40\x04x-in\x05table"].concat();
    peer.say(&head(1, true, &block));
    assert_eq!(peer.opened[0].head.verdict(), Verdict::TooLarge);
    peer.say(&head(3, true, &[&post(&[])[..], &[0x80 | 62]].concat()));
    assert_eq!(texts(&peer.opened[1].head), [("x-in".to_owned(), "table".to_owned())]);
}

#[test]
fn a_malformed_head_is_reset_and_the_table_stays_in_step() {
    let mut peer = Peer::new();
    let bad = [&post(&[("UPPER", "x")])[..], b"\x40\x04x-in\x05table"].concat();
    peer.say(&head(1, true, &bad));
    peer.assert_reset(1, Reason::PROTOCOL_ERROR);
    assert!(peer.opened.is_empty());
    peer.say(&head(3, true, &[&post(&[])[..], &[0x80 | 62]].concat()));
    assert_eq!(texts(&peer.opened[0].head), [("x-in".to_owned(), "table".to_owned())]);
    // What is said about the stream afterwards is passed over.
    peer.say(&[data(1, true, b"late"), window(1, 5), reset(1)].concat());
    assert_eq!(peer.frames(), []);
}

#[test]
fn a_block_that_cannot_be_decoded_ends_the_connection() {
    assert_eq!(Peer::new().fails(&head(1, true, b"\x80")), Reason::COMPRESSION_ERROR);
    // Even if nobody wants it.
    let mut peer = Peer::new();
    let key = peer.request(1, false);
    peer.session.reset(key, Reason::CANCEL);
    assert_eq!(peer.fails(&head(1, true, b"\xff\xff\xff\xff\xff\xff")), Reason::COMPRESSION_ERROR);
}

#[test]
fn an_announced_length_that_cannot_be_kept_is_malformed() {
    let mut peer = Peer::new();
    peer.say(&head(1, true, &post(&[("content-length", "1")])));
    peer.assert_reset(1, Reason::PROTOCOL_ERROR);
    peer.say(&head(3, true, &post(&[("content-length", "0")])));
    assert_eq!(peer.opened.len(), 1);
}

#[test]
fn large_heads_are_not_kept_for_the_next() {
    let limits = Limits { streams: 8, header_bytes: 1 << 16 };
    let mut peer = Peer::greeted(limits);
    let mut block = post(&[]);
    for _ in 0..100 {
        block.extend(literals(&[("x-a", &"v".repeat(95))]));
    }
    peer.say(&head(1, true, &block));
    peer.say(&request(3, true));
    for Opened { stream, head, .. } in std::mem::take(&mut peer.opened) {
        peer.session.close(stream, head);
    }
    let kept: Vec<_> = peer.session.spare.iter().map(Head::room).collect();
    assert!(kept.len() == 1 && kept[0] <= SPARE_ROOM, "{kept:?}");
    peer.session.rest();
    assert!(peer.session.spare.is_empty());
}
