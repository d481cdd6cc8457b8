//! The chunked coding: what is refused, and that no way of cutting the bytes changes what they mean.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// What was decoded: the body, its trailer section, and how many bytes were spoken for.
type Decoded = Result<(Vec<u8>, Vec<u8>, usize), BrokenFraming>;

/// Decodes bytes that come in pieces, as a connection does: what is not spoken for stays.
fn decode(framing: Framing, pieces: &[&[u8]]) -> Option<Decoded> {
    let mut decoder = Decoder::new(framing);
    let (mut read, mut data, mut used) = (Vec::new(), Vec::new(), 0);
    for piece in pieces {
        read.extend_from_slice(piece);
        loop {
            let step = match decoder.step(&read[used..]) {
                Ok(step) => step,
                Err(broken) => return Some(Err(broken)),
            };
            used += step.used;
            match step.part {
                Part::Data(more) => data.extend_from_slice(more),
                Part::End(trailers) => {
                    assert!(decoder.done());
                    return Some(Ok((data, trailers.to_vec(), used)));
                }
                Part::Nothing if step.used == 0 => break,
                Part::Nothing => {}
            }
        }
    }
    None
}

fn chunked(pieces: &[&[u8]]) -> Option<Decoded> {
    decode(Framing::Chunked, pieces)
}

fn bytes(read: &[u8]) -> Vec<&[u8]> {
    read.chunks(1).collect()
}

/// The same outcome whole, byte by byte and cut anywhere.
fn however_it_comes(read: &[u8]) -> Option<Decoded> {
    let whole = chunked(&[read]);
    // The end of a body does not depend on what is read behind it, the message of an error may.
    let same = |other: Option<Decoded>| match (&whole, &other) {
        (Some(Err(_)), Some(Err(_))) => true,
        (whole, other) => whole == other,
    };
    let shown = String::from_utf8_lossy(read);
    assert!(same(chunked(&bytes(read))), "byte by byte: {shown:?}");
    for at in 0..read.len() {
        assert!(same(chunked(&[&read[..at], &read[at..]])), "cut at {at}: {shown:?}");
    }
    whole
}

#[test]
fn a_chunked_body_is_its_chunks() {
    for (read, body, trailers) in [
        ("0\r\n\r\n", "", ""),
        ("000\r\n\r\n", "", ""),
        ("5\r\nhello\r\n0\r\n\r\n", "hello", ""),
        ("1\r\nh\r\n04\r\nello\r\n0\r\n\r\n", "hello", ""),
        ("A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789", ""),
        ("2;a=b;c=\"d e\"\r\nhi\r\n0;x\r\n\r\n", "hi", ""),
        ("2\r\n\r\n\r\n0\r\n\r\n", "\r\n", ""),
        ("2\r\nhi\r\n0\r\nA: b\r\nC: d\r\n\r\n", "hi", "A: b\r\nC: d\r\n\r\n"),
    ] {
        let expected = (body.as_bytes().to_vec(), trailers.as_bytes().to_vec(), read.len());
        assert_eq!(however_it_comes(read.as_bytes()), Some(Ok(expected)), "{read:?}");
    }
}

#[test]
fn what_is_not_exactly_a_chunk_is_refused() {
    for read in [
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5 ;a\r\nhello\r\n0\r\n\r\n",
        "\t5\r\nhello\r\n0\r\n\r\n",
        "5\t\r\nhello\r\n0\r\n\r\n",
        "5_0\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        ";a\r\nhello\r\n0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\rhello\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5;a\u{0}b\r\nhello\r\n0\r\n\r\n",
        "5;\u{e9}\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhello\r\r\n0\r\n\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
        "10000000000000000\r\nx",
        "ffffffffffffffff\r\nx",
        "fffffffffffffffff\r\nx",
        "0000000000000005\r\nhello\r\n0\r\n\r\n",
        "0\r\nA: b\nC: d\r\n\r\n",
        "0\r\n\nA: b\r\n\r\n",
    ] {
        let seen = however_it_comes(read.as_bytes());
        assert!(matches!(seen, Some(Err(_))), "{seen:?}: {read:?}");
    }
}

#[test]
fn an_unfinished_body_has_no_end() {
    let read = b"5;a=b\r\nhello\r\n2\r\nhi\r\n0\r\nA: b\r\n\r\n";
    for end in 0..read.len() {
        assert_eq!(chunked(&bytes(&read[..end])), None, "{end}");
    }
}

#[test]
fn lines_and_trailers_have_limits() {
    let line = |n: usize| format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(n));
    assert!(matches!(chunked(&[line(4000).as_bytes()]), Some(Ok(_))));
    for n in 4085..4100 {
        // Where exactly does not matter; that it is the same place for every cut does.
        let read = line(n);
        let whole = chunked(&[read.as_bytes()]).map(|decoded| decoded.is_ok());
        for at in n..read.len() {
            let (first, second) = read.as_bytes().split_at(at);
            let cut = chunked(&[first, second]).map(|decoded| decoded.is_ok());
            assert_eq!(cut, whole, "{n} cut at {at}");
        }
    }
    assert!(matches!(chunked(&[line(5000).as_bytes()]), Some(Err(_))));
    let endless = "5;x".repeat(5000);
    assert!(matches!(chunked(&endless.as_bytes().chunks(100).collect::<Vec<_>>()), Some(Err(_))));
    let trailers = |n: usize| format!("0\r\nA: {}\r\n\r\n", "x".repeat(n));
    for (length, fits) in [(16_000, true), (17_000, false)] {
        let read = trailers(length);
        for size in [read.len(), 100] {
            let pieces: Vec<_> = read.as_bytes().chunks(size).collect();
            assert_eq!(chunked(&pieces).map(|decoded| decoded.is_ok()), Some(fits), "{length}");
        }
    }
}

#[test]
fn other_framings_count_or_wait() {
    let read = b"helloGET / HTTP/1.1";
    let hello = Some(Ok((b"hello".to_vec(), Vec::new(), 5)));
    assert_eq!(decode(Framing::Length(5), &[read]), hello);
    assert_eq!(decode(Framing::Length(5), &bytes(read)), hello);
    assert_eq!(decode(Framing::Length(50), &[read]), None);
    for framing in [Framing::Empty, Framing::Length(0)] {
        assert_eq!(decode(framing, &[read]), Some(Ok((Vec::new(), Vec::new(), 0))));
    }
    assert_eq!(decode(Framing::UntilClose, &[read]), None);
    assert!(Decoder::new(Framing::UntilClose).ends_with_connection());
    assert!(!Decoder::new(Framing::Chunked).ends_with_connection());
}

#[test]
fn trailers_that_frame_route_or_authenticate_stay_behind() {
    for name in [
        "Content-Length",
        "transfer-encoding",
        "Host",
        "Authorization",
        "Connection",
        "Set-Cookie",
        "Trailer",
        "X-Forwarded-For",
        "Meridian-Epoch",
        "MERIDIAN-Role",
        "X-Request-Id",
        "traceparent",
        "HTTP2-Settings",
        "Proxy-Connection",
    ] {
        assert!(!trailer_allowed(name), "{name}");
    }
    for name in ["grpc-status", "Server-Timing", "x-checksum", "meridia", "Digest"] {
        assert!(trailer_allowed(name), "{name}");
    }
    let names = |section: &[u8]| {
        with_trailers(section, |fields| {
            fields.iter().map(|f| f.name.to_owned()).collect::<Vec<_>>()
        })
    };
    assert_eq!(names(b"A: b\r\nC: d\r\n\r\n"), Ok(vec!["A".to_owned(), "C".to_owned()]));
    assert_eq!(names(b""), Ok(Vec::new()));
    for section in [
        &b"A : b\r\n\r\n"[..],
        b"A: b\r\n c\r\n\r\n",
        b": b\r\n\r\n",
        b"A: \0\r\n\r\n",
        b"A\r\n\r\n",
    ] {
        assert!(names(section).is_err(), "{section:?}");
    }
}

/// Cuts `read` at the given places.
fn cut<'b>(mut read: &'b [u8], places: &[usize]) -> Vec<&'b [u8]> {
    let mut pieces = Vec::new();
    for place in places {
        let (piece, rest) = read.split_at((*place).min(read.len()));
        pieces.push(piece);
        read = rest;
    }
    pieces.push(read);
    pieces
}

proptest! {
    #[test]
    fn encoding_then_decoding_gives_the_same_however_cut(
        chunks in vec(vec(any::<u8>(), 0..300), 0..12),
        trailers in vec(("[a-z]{1,8}", "[!-~]{0,12}"), 0..4),
        places in vec(0_usize..60, 0..40),
        behind in vec(any::<u8>(), 0..40),
    ) {
        let mut encoded = Vec::new();
        for chunk in &chunks {
            encode_chunk(chunk, &mut encoded);
        }
        encode_end(trailers.iter().map(|(n, v)| (n.as_str(), v.as_bytes())), &mut encoded);
        let length = encoded.len();
        encoded.extend_from_slice(&behind);
        let decoded = chunked(&cut(&encoded, &places));
        let (body, section, used) = decoded.expect("an end").expect("well framed");
        prop_assert_eq!(body, chunks.concat());
        prop_assert_eq!(used, length, "what follows belongs to the next request");
        let fields = with_trailers(&section, |fields| {
            fields.iter().map(|f| (f.name.to_owned(), f.value.to_vec())).collect::<Vec<_>>()
        });
        let sent: Vec<_> = trailers.into_iter().map(|(n, v)| (n, v.into_bytes())).collect();
        prop_assert_eq!(fields, Ok(sent));
    }

    #[test]
    fn any_bytes_mean_the_same_however_cut(
        read in vec(prop_oneof![
            4 => prop::sample::select(b"\r\n0123aF;: x".to_vec()),
            1 => any::<u8>(),
        ], 0..80),
        places in vec(0_usize..10, 0..20),
    ) {
        let (whole, pieces) = (chunked(&[&read]), chunked(&cut(&read, &places)));
        match (whole, pieces) {
            (Some(Err(_)), Some(Err(_))) => {}
            (whole, pieces) => prop_assert_eq!(whole, pieces),
        }
    }
}

#[test]
fn lines_that_are_copied_together_are_the_same_as_one_by_one() {
    let head =
        b"GET / HTTP/1.1\r\nHost: a\r\nb: 1\r\nC:2\r\nD:  3\r\nE: 4 \r\nF:\r\ng: 7\r\nH: 8\r\n\r\n";
    let mut slots = [httparse::EMPTY_HEADER; 16];
    let mut request = httparse::Request::new(&mut slots);
    request.parse(head).expect("a head");
    let fields = request.headers;
    assert_eq!(fields.len(), 8);
    for chosen in 0_u32..1 << fields.len() {
        let (mut together, mut one_by_one) = (Vec::new(), Vec::new());
        let mut lines = Lines::of(head);
        for (i, field) in fields.iter().enumerate().filter(|(i, _)| chosen & (1 << i) != 0) {
            lines.push(field.name, field.value, &mut together);
            push_field(field.name, field.value, &mut one_by_one);
            if i == 5 {
                // One that stands elsewhere.
                lines.push("x", b"y", &mut together);
                push_field("x", b"y", &mut one_by_one);
            }
        }
        lines.end(&mut together);
        assert_eq!(String::from_utf8_lossy(&together), String::from_utf8_lossy(&one_by_one));
    }
}
