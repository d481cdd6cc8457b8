//! The code of strings (RFC 7541 appendix B): canonical, so that the lengths of its codes say everything.

/// The string is not a whole number of codes, or its padding is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadCode;

const LONGEST: usize = 30;
const END: u16 = 256;

/// What follows from the lengths of the codes.
struct Tables {
    /// By the first eight bits: symbol and length; length 0 where the code is longer.
    short: [(u8, u8); 256],
    /// Symbols by length, then by value: the order of their codes.
    sorted: [u16; 257],
    /// Of each length: the first code, how many there are, and where they stand in `sorted`.
    first: [u32; LONGEST + 1],
    count: [u32; LONGEST + 1],
    from: [u32; LONGEST + 1],
}

static TABLES: Tables = tables();

const fn tables() -> Tables {
    let mut t = Tables {
        short: [(0, 0); 256],
        sorted: [0; 257],
        first: [0; LONGEST + 1],
        count: [0; LONGEST + 1],
        from: [0; LONGEST + 1],
    };
    let (mut code, mut placed, mut len) = (0_u32, 0_usize, 1_usize);
    while len <= LONGEST {
        code <<= 1;
        t.first[len] = code;
        t.from[len] = placed as u32;
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as usize == len {
                t.sorted[placed] = symbol as u16;
                if len <= 8 {
                    let from = (code as usize) << (8 - len);
                    let mut i = 0;
                    while i < 1 << (8 - len) {
                        t.short[from + i] = (symbol as u8, len as u8);
                        i += 1;
                    }
                }
                placed += 1;
                code += 1;
            }
            symbol += 1;
        }
        t.count[len] = code - t.first[len];
        len += 1;
    }
    t
}

/// Appends what `coded` stands for.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), BadCode> {
    let mut coded = coded.iter();
    // The next bits, the first of them on top.
    let (mut bits, mut held) = (0_u64, 0_u32);
    loop {
        while held <= 56
            && let Some(byte) = coded.next()
        {
            bits |= u64::from(*byte) << (56 - held);
            held += 8;
        }
        let (symbol, len) = match TABLES.short[(bits >> 56) as usize] {
            (_, 0) => long(bits).ok_or(BadCode)?,
            (symbol, len) => (u16::from(symbol), u32::from(len)),
        };
        if len > held {
            break;
        }
        if symbol == END {
            return Err(BadCode);
        }
        out.push(symbol as u8);
        bits <<= len;
        held -= len;
    }
    // What is left is the beginning of the end's code: ones, fewer than eight.
    let ones = (1_u64 << held) - 1;
    if held < 8 && (held == 0 || bits >> (64 - held) == ones) { Ok(()) } else { Err(BadCode) }
}

/// A code of more than eight bits.
fn long(bits: u64) -> Option<(u16, u32)> {
    (9..=LONGEST).find_map(|len| {
        let code = (bits >> (64 - len)) as u32;
        let nth = code.checked_sub(TABLES.first[len]).filter(|nth| *nth < TABLES.count[len])?;
        Some((TABLES.sorted[(TABLES.from[len] + nth) as usize], len as u32))
    })
}

/// The length of each symbol's code in bits; the last is the end of the string.
pub(super) const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(text: &[u8]) -> Vec<u8> {
        let mut bits = Vec::new();
        for byte in text {
            let len = usize::from(LENGTHS[usize::from(*byte)]);
            let nth = TABLES.sorted.iter().position(|s| *s == u16::from(*byte)).expect("a code");
            let code = TABLES.first[len] + nth as u32 - TABLES.from[len];
            bits.extend((0..len).rev().map(|bit| code >> bit & 1 == 1));
        }
        while bits.len() % 8 != 0 {
            bits.push(true);
        }
        let byte = |bits: &[bool]| bits.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
        bits.chunks(8).map(byte).collect()
    }

    fn decoded(coded: &[u8]) -> Result<Vec<u8>, BadCode> {
        let mut out = Vec::new();
        decode(coded, &mut out).map(|()| out)
    }

    #[test]
    fn the_examples_of_the_rfc() {
        for (text, coded) in [
            (
                "www.example.com",
                &[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff][..],
            ),
            ("no-cache", &[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]),
            ("custom-value", &[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf]),
            ("307", &[0x64, 0x0e, 0xff]),
            ("", &[]),
        ] {
            assert_eq!(decoded(coded), Ok(text.as_bytes().to_vec()), "{text}");
            assert_eq!(encode(text.as_bytes()), coded, "{text}");
        }
    }

    #[test]
    fn padding_is_ones_and_shorter_than_a_byte() {
        // `0` is five bits of zero.
        assert_eq!(decoded(&[0b0000_0111]), Ok(b"0".to_vec()));
        assert_eq!(decoded(&[0b0000_0110]), Err(BadCode));
        assert_eq!(decoded(&[0b0000_0111, 0xff]), Err(BadCode));
        assert_eq!(decoded(&[0xff]), Err(BadCode));
        // The end itself may not be sent.
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff]), Err(BadCode));
    }

    proptest! {
        #[test]
        fn what_was_coded_is_decoded(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(decoded(&encode(&text)), Ok(text));
        }

        #[test]
        fn anything_is_decoded_or_refused(coded in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(text) = decoded(&coded) {
                prop_assert_eq!(encode(&text), coded);
            }
        }
    }
}
