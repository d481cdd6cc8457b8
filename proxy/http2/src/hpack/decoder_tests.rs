use proptest::prelude::*;

use super::*;

type Seen = Vec<(String, String, bool)>;

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Seen, BadBlock> {
    let mut seen = Vec::new();
    decoder.decode(block, |field| {
        let value = String::from_utf8_lossy(field.value).into_owned();
        seen.push((field.name.to_owned(), value, field.sound));
    })?;
    Ok(seen)
}

fn sound(fields: &[(&str, &str)]) -> Result<Seen, BadBlock> {
    Ok(fields.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned(), true)).collect())
}

/// RFC 7541 appendices C.3 and C.4: three requests on one connection, plain and under Huffman's code.
#[test]
fn the_requests_of_the_rfc() {
    let plain: [&[u8]; 3] = [
        b"\x82\x86\x84\x41\x0fwww.example.com",
        b"\x82\x86\x84\xbe\x58\x08no-cache",
        b"\x82\x87\x85\xbf\x40\x0acustom-key\x0ccustom-value",
    ];
    let coded: [&[u8]; 3] = [
        b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff",
        b"\x82\x86\x84\xbe\x58\x86\xa8\xeb\x10\x64\x9c\xbf",
        b"\x82\x87\x85\xbf\x40\x88\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f\x89\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf",
    ];
    for blocks in [plain, coded] {
        let mut decoder = Decoder::default();
        let start = [(":method", "GET"), (":scheme", "http"), (":path", "/")];
        let mut expected = start.to_vec();
        expected.push((":authority", "www.example.com"));
        assert_eq!(decode(&mut decoder, blocks[0]), sound(&expected));
        assert_eq!(decoder.size, 57);
        expected.push(("cache-control", "no-cache"));
        assert_eq!(decode(&mut decoder, blocks[1]), sound(&expected));
        assert_eq!(decoder.size, 110);
        let expected = [
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            (":authority", "www.example.com"),
            ("custom-key", "custom-value"),
        ];
        assert_eq!(decode(&mut decoder, blocks[2]), sound(&expected));
        assert_eq!(decoder.size, 164);
    }
}

#[test]
fn the_table_forgets_the_oldest_and_follows_its_limit() {
    let mut decoder = Decoder::default();
    // 42 bytes each: 97 of them fit.
    for n in 0..100 {
        let block = format!("\x40\x05x-{n:03}\x05v-{n:03}");
        decode(&mut decoder, block.as_bytes()).expect("a block");
    }
    assert_eq!((decoder.entries.len(), decoder.size), (97, 97 * 42));
    let newest = decode(&mut decoder, &[0x80 | 62]).expect("a block");
    assert_eq!(newest[0].0, "x-099");
    // A limit of 100 bytes keeps two; of 0, none.
    assert_eq!(decode(&mut decoder, &[0x3f, 100 - 31, 0x80 | 63]).expect("a block")[0].0, "x-098");
    assert_eq!(decode(&mut decoder, &[0x80 | 64]), Err(BadBlock));
    assert_eq!(decode(&mut decoder, &[0x20]), Ok(vec![]));
    assert_eq!(decoder.size, 0);
    // An entry that does not fit is seen all the same.
    assert_eq!(decode(&mut decoder, b"\x40\x01a\x01b"), sound(&[("a", "b")]));
    assert_eq!(decoder.entries.len(), 0);
}

#[test]
fn a_decoder_that_lets_go_keeps_its_table() {
    let mut decoder = Decoder::default();
    let coded = b"\x40\x01a\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff";
    decode(&mut decoder, coded).expect("a block");
    assert!(decoder.value.capacity() > 0);
    decoder.let_go();
    assert_eq!(decoder.value.capacity(), 0);
    assert_eq!(decode(&mut decoder, &[0x80 | 62]), sound(&[("a", "www.example.com")]));
}

#[test]
fn what_cannot_be_decoded_is_refused() {
    for block in [
        &b"\x80"[..],                    // index 0
        b"\xbe",                         // beyond the table
        b"\x7f\x00\x01a",                // a name beyond the table
        b"\x0f\x80",                     // an integer without its end
        b"\x0f\xff\xff\xff\xff\xff\x01", // too large a one
        b"\x00\x05abc",                  // a string without its end
        b"\x00\x81\xff\x01a",            // bad padding
        b"\x82\x20",                     // a limit behind a field
        b"\x3f\xe2\x1f",                 // a limit of 4097
        b"\x40\x01a",                    // no value
    ] {
        assert_eq!(decode(&mut Decoder::default(), block), Err(BadBlock), "{block:x?}");
    }
    assert_eq!(decode(&mut Decoder::default(), b"\x3f\xe1\x1f"), Ok(vec![]));
}

#[test]
fn what_is_not_sound_is_told_each_time() {
    for (name, value, sound) in [
        ("a", "b", true),
        ("a-b_c.1", "\tb", false),
        ("a", "", true),
        ("a", "b ", false),
        ("a", "b\r\nc", false),
        ("a", "b\0", false),
        ("a", "b\tc", true),
        ("A", "b", false),
        ("a b", "c", false),
        ("", "c", false),
        ("a:", "c", false),
        (":", "c", false),
        (":odd", "c", true),
        ("\u{e9}", "c", false),
        ("a", "\u{e9}", true),
        ("a", "\x7f", false),
    ] {
        let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
        let literal = |first: u8| [&[first][..], &text(name), &text(value)].concat();
        let mut decoder = Decoder::default();
        for block in [literal(0x00), literal(0x10), literal(0x40), vec![0x80 | 62]] {
            let seen = decode(&mut decoder, &block).expect("a block");
            assert_eq!(seen[0].2, sound, "{name:?} {value:?} {block:x?}");
        }
        // Its name alone, used again.
        let again = decode(&mut decoder, &[&[0x0f, 62 - 15][..], &text("v")].concat());
        assert_eq!(again.expect("a block")[0].2, is_name(name.as_bytes()), "{name:?}");
    }
}

proptest! {
    #[test]
    fn anything_is_decoded_or_refused_and_the_table_keeps_its_size(
        blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 1..20),
    ) {
        let mut decoder = Decoder::default();
        for block in blocks {
            let _ = decode(&mut decoder, &block);
            prop_assert!(decoder.size <= decoder.limit && decoder.limit <= TABLE);
            let sizes: usize = decoder.entries.iter().map(Entry::size).sum();
            prop_assert_eq!(sizes, decoder.size);
        }
    }
}
