use std::io::Write;

use meridian_config::{Levels, MediaPattern};
use proptest::prelude::*;

use super::*;

fn settings(level: u8) -> Compress {
    let types = vec![MediaPattern::Any("text/".to_owned())];
    let levels = Levels { zstd: level, brotli: level.min(6), gzip: level };
    Compress { algorithms: Coding::ALL.to_vec(), min_size: 0, types, levels }
}

fn encoder(coding: Coding, level: u8, length: Option<u64>) -> Encoder {
    let memory = Arc::new(Memory::default());
    Encoder::new(&memory, u64::MAX, coding, &settings(level), length).expect("memory")
}

/// Somebody else's decoder, fed as a client would be.
enum Decoder {
    Gzip(flate2::write::MultiGzDecoder<Vec<u8>>),
    /// Its buffer is larger than any body: what does not fit it keeps until there is more to read.
    Brotli(Box<brotli::DecompressorWriter<Vec<u8>>>),
    /// This one does not tell an end from a pause: all that it was fed is kept for one that does.
    Zstd(zstd::stream::write::Decoder<'static, Vec<u8>>, Vec<u8>),
}

impl Decoder {
    fn new(coding: Coding) -> Self {
        match coding {
            Coding::Gzip => Self::Gzip(flate2::write::MultiGzDecoder::new(Vec::new())),
            Coding::Brotli => {
                Self::Brotli(Box::new(brotli::DecompressorWriter::new(Vec::new(), 1 << 20)))
            }
            Coding::Zstd => {
                let decoder = zstd::stream::write::Decoder::new(Vec::new());
                Self::Zstd(decoder.expect("a decoder"), Vec::new())
            }
        }
    }

    /// All that is known after these bytes.
    fn feed(&mut self, bytes: &[u8]) -> &[u8] {
        match self {
            Self::Gzip(decoder) => {
                decoder.write_all(bytes).expect("gzip");
                decoder.flush().expect("gzip");
                decoder.get_ref()
            }
            Self::Brotli(decoder) => {
                decoder.write_all(bytes).expect("brotli");
                decoder.flush().expect("brotli");
                decoder.get_ref()
            }
            Self::Zstd(decoder, all) => {
                all.extend_from_slice(bytes);
                decoder.write_all(bytes).expect("zstd");
                decoder.flush().expect("zstd");
                decoder.get_ref()
            }
        }
    }

    /// Whether the body has come to its end in good order.
    fn ends_well(self) -> bool {
        match self {
            Self::Gzip(decoder) => decoder.finish().is_ok(),
            Self::Brotli(mut decoder) => decoder.close().is_ok(),
            Self::Zstd(_, all) => zstd::stream::decode_all(&*all).is_ok(),
        }
    }
}

/// Runs a step to its end with an `out` of that capacity, which must not grow.
fn run(encoder: &mut Encoder, mut input: &[u8], op: Op, capacity: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut out = Vec::with_capacity(capacity);
    let before = out.capacity();
    for _ in 0..10_000_000 {
        let done = encoder.step(&mut input, op, &mut out).expect("a step");
        assert_eq!(out.capacity(), before, "the buffer grew");
        all.extend_from_slice(&out);
        if done {
            assert!(input.is_empty(), "something was left");
            return all;
        }
        assert!(!out.is_empty(), "it made no progress");
        out.clear();
    }
    panic!("it does not end");
}

/// Text that shrinks, with stretches that do not.
fn body(seed: u64, length: usize) -> Vec<u8> {
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut body = Vec::with_capacity(length + 64);
    while body.len() < length {
        match dice.u8(..4) {
            0 => body.extend((0..dice.usize(..64)).map(|_| dice.u8(..))),
            1 => body.extend(std::iter::repeat_n(b'a', dice.usize(..64))),
            _ => body.extend_from_slice(format!("\"id\": {}, ", dice.u16(..)).as_bytes()),
        }
    }
    body.truncate(length);
    body
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// However a body comes and whenever it is flushed: what was flushed is known, and all of it is the body.
    #[test]
    fn what_comes_out_is_what_went_in(
        seed: u64,
        pieces in prop::collection::vec((0_usize..40_000, any::<bool>()), 0..8),
        coding in prop::sample::select(Coding::ALL.to_vec()),
        level in 1_u8..=9,
        known: bool,
        capacity in prop::sample::select(vec![16_usize, 100, 4096, 16_384]),
    ) {
        let length: usize = pieces.iter().map(|(length, _)| length).sum();
        let body = body(seed, length);
        let mut encoder = encoder(coding, level, known.then_some(length as u64));
        let mut decoder = Decoder::new(coding);
        let mut at = 0;
        for (length, flush) in pieces {
            let piece = &body[at..at + length];
            at += length;
            decoder.feed(&run(&mut encoder, piece, Op::Take, capacity));
            if flush {
                let told = decoder.feed(&run(&mut encoder, &[], Op::Flush, capacity));
                prop_assert!(told == &body[..at], "{coding:?}: {} of {at}", told.len());
            }
        }
        let told = decoder.feed(&run(&mut encoder, &[], Op::Finish, capacity));
        prop_assert!(told == body, "{coding:?}: {} of {}", told.len(), body.len());
        prop_assert!(decoder.ends_well(), "{coding:?}");
    }
}

#[test]
fn what_is_not_finished_does_not_end_well() {
    for coding in Coding::ALL {
        let body = body(7, 100_000);
        let mut encoder = encoder(coding, 3, None);
        let mut decoder = Decoder::new(coding);
        let mut out = run(&mut encoder, &body, Op::Take, 16_384);
        out.extend(run(&mut encoder, &[], Op::Flush, 16_384));
        assert!(decoder.feed(&out) == body, "{coding:?}");
        assert!(!decoder.ends_well(), "{coding:?}");
    }
}

#[test]
fn compressors_share_a_bound_and_give_back_what_they_had() {
    let memory = Arc::new(Memory::default());
    let one = |length| {
        let settings = settings(6);
        Encoder::new(&memory, 1 << 20, Coding::Gzip, &settings, length)
    };
    let held: Vec<_> = (0..10).map_while(|_| one(None)).collect();
    assert_eq!(held.len(), 2);
    assert!(one(Some(1)).is_none(), "gzip takes as much for a short body");
    drop(held);
    assert_eq!(memory.held(), 0);
    assert!(one(None).is_some());
}

#[test]
fn a_short_body_needs_less_only_with_zstd() {
    assert!(need(Coding::Zstd, 4, Some(1024)) < need(Coding::Zstd, 4, None) / 4);
    assert_eq!(need(Coding::Zstd, 4, Some(u64::MAX)), need(Coding::Zstd, 4, None));
    for coding in [Coding::Gzip, Coding::Brotli] {
        assert_eq!(need(coding, 4, Some(1024)), need(coding, 4, None));
    }
}
