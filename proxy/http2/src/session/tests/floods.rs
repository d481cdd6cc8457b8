use super::super::*;
use super::peer::*;

/// How often this can be said before it is too much; `None`: more than 5,000 times.
fn patience(peer: &mut Peer, mut say: impl FnMut(u32) -> Vec<u8>) -> Option<u32> {
    for n in 0..5_000 {
        if let Err(error) = peer.tell(&say(n)) {
            assert_eq!(error.reason, Reason::ENHANCE_YOUR_CALM, "{error:?}");
            return Some(n);
        }
        peer.frames();
    }
    None
}

#[test]
fn frames_that_bring_nothing_are_too_much_at_some_point() {
    let cases: [(&str, Vec<u8>); 11] = [
        ("PING", ping(b"01234567")),
        ("PING's answer", frame(kind::PING, 1, 0, b"01234567")),
        ("SETTINGS", settings_frame(&[])),
        ("SETTINGS' answer", frame(kind::SETTINGS, 1, 0, &[])),
        ("PRIORITY", frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 0, 16])),
        ("empty DATA", data(1, false, b"")),
        ("padding alone", padded(1, false, b"", 20)),
        ("unknown", frame(0xfe, 0, 0, b"x")),
        ("GOAWAY", frame(kind::GOAWAY, 0, 0, &[0; 8])),
        ("WINDOW_UPDATE of a stream that is over", window(3, 1)),
        ("the end of a stream that is over", data(3, true, b"")),
    ];
    for (name, flood) in cases {
        let mut peer = Peer::new();
        peer.request(1, false);
        let over = peer.request(3, false);
        peer.session.reset(over, Reason::CANCEL);
        peer.close(over);
        let most = patience(&mut peer, |_| flood.clone());
        assert!(most.is_some_and(|most| (900..=1000).contains(&most)), "{name}: {most:?}");
    }
}

#[test]
fn headers_of_streams_that_are_over_or_not_served_any_more_are_too_much_at_some_point() {
    let mut peer = Peer::new();
    let key = peer.request(1, false);
    peer.session.reset(key, Reason::CANCEL);
    assert!(patience(&mut peer, |_| request(1, true)).is_some());
    let mut peer = Peer::new();
    peer.session.leave_now();
    assert!(patience(&mut peer, |n| request(2 * n + 1, true)).is_some());
}

#[test]
fn every_setting_counts() {
    let mut peer = Peer::new();
    let most = patience(&mut peer, |_| settings_frame(&[(4, 1); 100]));
    assert!(most.is_some_and(|most| most <= 10), "{most:?}");
}

#[test]
fn noise_is_forgiven_in_time_and_for_requests() {
    let mut peer = Peer::new();
    peer.session.forgive();
    for _ in 0..5 {
        for _ in 0..900 {
            peer.say(&ping(b"01234567"));
            peer.frames();
        }
        assert_eq!(peer.session.unrest(), 900);
        peer.session.forgive();
    }
    for n in 0..1000 {
        let key = peer.request(2 * n + 1, true);
        peer.session.send_head(key, true, |head| head.status(204));
        peer.close(key);
        for _ in 0..10 {
            peer.say(&ping(b"01234567"));
        }
        peer.frames();
    }
}

#[test]
fn rapid_resets_are_too_much_at_some_point() {
    let mut peer = Peer::new();
    let most = patience(&mut peer, |n| {
        let id = 2 * n + 1;
        [request(id, true), reset(id)].concat()
    });
    // Those beyond what may be served at once are refused, which counts as well.
    assert!(most.is_some_and(|most| most <= 101), "{most:?}");
}

#[test]
fn resets_that_the_client_provokes_are_too_much_at_some_point() {
    let provoke: [fn(u32) -> Vec<u8>; 6] = [
        |id| [request(id, false), window(id, 0)].concat(),
        |id| [request(id, false), window(id, frame::MOST)].concat(),
        |id| [request(id, true), data(id, true, b"x")].concat(),
        |id| [request(id, true), request(id, true)].concat(),
        |id| head(id, true, &post(&[("connection", "x")])),
        |id| [head(id, false, &post(&[("content-length", "1")])), data(id, true, b"xx")].concat(),
    ];
    for (which, provoke) in provoke.iter().enumerate() {
        let mut peer = Peer::new();
        let mut served = 0;
        let mut resets = 0;
        let most = (0..5_000).find(|n| {
            let failed = peer.tell(&provoke(2 * n + 1)).is_err();
            served += peer.opened.len();
            for Opened { stream, head, .. } in std::mem::take(&mut peer.opened) {
                peer.session.close(stream, head);
            }
            resets += peer.frames().iter().filter(|f| f.kind == kind::RST_STREAM).count();
            failed
        });
        assert!(most.is_some_and(|most| most <= 101), "{which}: {most:?}");
        assert!(resets <= 101 && served <= 101, "{which}: {resets} resets, {served} served");
    }
}

#[test]
fn a_client_that_gives_up_now_and_then_is_served_for_ever() {
    let mut peer = Peer::new();
    for n in 0..2_000 {
        let key = peer.request(2 * n + 1, true);
        if n % 5 < 2 {
            peer.say(&reset(2 * n + 1));
        } else {
            peer.session.send_head(key, true, |head| head.status(204));
        }
        peer.close(key);
        peer.frames();
    }
    // And one that gives up all of them, if there are few in a time.
    let mut peer = Peer::new();
    for n in 0..2_000 {
        let key = peer.request(2 * n + 1, true);
        peer.say(&reset(2 * n + 1));
        peer.close(key);
        if n % 40 == 0 {
            peer.session.forgive();
        }
    }
}

#[test]
fn no_more_streams_are_served_at_once_than_allowed() {
    let mut peer = Peer::new();
    for n in 0..20 {
        peer.say(&request(2 * n + 1, false));
    }
    assert_eq!((peer.opened.len(), peer.session.active()), (8, 8));
    let refused = peer.frames();
    assert_eq!(refused[0], reset_frame(17, Reason::REFUSED_STREAM));
    assert_eq!(refused.len(), 12);
    // One that was reset may be followed by another at once, but not for ever: it is served until whoever serves it has
    // let go of it.
    let first = peer.opened[0].stream;
    for n in 0..8 {
        let last = if n == 0 { 1 } else { 39 + 2 * n };
        peer.say(&reset(last));
        peer.request(41 + 2 * n, true);
    }
    peer.say(&[reset(55), request(57, true)].concat());
    peer.assert_reset(57, Reason::REFUSED_STREAM);
    peer.close(first);
    peer.request(59, true);
}

#[test]
fn a_client_that_reads_nothing_is_not_read() {
    let mut peer = Peer::new();
    let mut told = 0;
    while peer.session.wants_input() {
        let frame = [ping(b"01234567"), window(0, 1)].concat();
        if peer.tell(&frame).is_err() {
            break;
        }
        peer.session.forgive();
        told += 1;
    }
    assert!((3_000..5_000).contains(&told), "{told}");
    assert!(peer.session.output().len() <= 64 * 1024 + 17);
}
