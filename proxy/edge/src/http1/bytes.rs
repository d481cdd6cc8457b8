//! Classes of bytes, looked up in a table, and a look at line ends that the compiler makes a vector of.

const TOKEN: u8 = 1;
const TARGET: u8 = 2;
const NAME: u8 = 4;

/// RFC 9110 `tchar`; RFC 3986 without what confuses parsers behind a proxy; RFC 3986 `reg-name`.
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    mark(&mut classes, b"!#$%&'*+-.^_`|~", TOKEN);
    mark(&mut classes, b"-._~%!$&'()*+,;=", NAME);
    let mut byte = 0x21;
    while byte < 0x7f {
        let class =
            if (byte as u8).is_ascii_alphanumeric() { TOKEN | TARGET | NAME } else { TARGET };
        classes[byte] |= class;
        byte += 1;
    }
    let barred = b"\"#<>\\^`";
    let mut i = 0;
    while i < barred.len() {
        classes[barred[i] as usize] &= !TARGET;
        i += 1;
    }
    classes
};

const fn mark(classes: &mut [u8; 256], bytes: &[u8], class: u8) {
    let mut i = 0;
    while i < bytes.len() {
        classes[bytes[i] as usize] |= class;
        i += 1;
    }
}

/// RFC 9110 `tchar`.
pub(crate) fn is_token(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & TOKEN != 0
}

/// Visible ASCII without those that RFC 3986 bars and that confuse parsers behind a proxy.
pub(crate) fn legal_in_target(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & TARGET != 0
}

/// RFC 3986 `reg-name`.
pub(crate) fn legal_in_name(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & NAME != 0
}

/// Whether a field's name, which is a token, is `lower`, in whatever case. `lower` is made of lower-case letters, digits and
/// `-`: of the bytes of a token only the same letter in the other case differs from one of these in this bit alone. The
/// length is known where this is called, so that a few words are compared; `eq_ignore_ascii_case` is a loop over bytes.
#[inline]
pub(crate) fn is_name<const N: usize>(name: &str, lower: &[u8; N]) -> bool {
    let Ok(name) = <&[u8; N]>::try_from(name.as_bytes()) else { return false };
    name.iter().zip(lower).fold(0, |differ, (a, b)| differ | ((a | 0x20) ^ b)) == 0
}

/// Whether a line ends in LF without CR before it.
pub(crate) fn has_bare_lf(bytes: &[u8]) -> bool {
    let Some(before) = bytes.split_last().map(|(_, before)| before) else { return false };
    let bare = |(cr, lf): (&u8, &u8)| u8::from(*lf == b'\n') & u8::from(*cr != b'\r');
    // All of it, without an early end: a loop that always runs to the end is a loop over vectors.
    let inside = before.iter().zip(&bytes[1..]).map(bare).fold(0, |any, one| any | one);
    inside != 0 || bytes[0] == b'\n'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_what_the_rules_say() {
        for byte in 0..=255_u8 {
            let alphanumeric = byte.is_ascii_alphanumeric();
            let token = alphanumeric || b"!#$%&'*+-.^_`|~".contains(&byte);
            let target = byte.is_ascii_graphic() && !b"\"#<>\\^`".contains(&byte);
            let name = alphanumeric || b"-._~%!$&'()*+,;=".contains(&byte);
            let seen = (is_token(byte), legal_in_target(byte), legal_in_name(byte));
            assert_eq!(seen, (token, target, name), "{byte:#x}");
        }
    }

    #[test]
    fn names_are_known_in_any_case() {
        for byte in (0..=255_u8).filter(|byte| is_token(*byte)).map(char::from) {
            for lower in *b"abcdefghijklmnopqrstuvwxyz0123456789-" {
                let name = format!("x{byte}-length");
                let other = [b'x', lower, b'-', b'l', b'e', b'n', b'g', b't', b'h'];
                let same = byte.to_ascii_lowercase() == char::from(lower);
                assert_eq!(is_name(&name, &other), same, "{name} {other:?}");
            }
        }
        assert!(is_name("CoNtEnT-LeNgTh", b"content-length"));
        assert!(!is_name("content-lengt", b"content-length"));
    }

    #[test]
    fn a_bare_line_end_is_seen_wherever_it_stands() {
        for (bytes, bare) in [
            (&b""[..], false),
            (b"\n", true),
            (b"a", false),
            (b"\r\n", false),
            (b"a\n", true),
            (b"\r\n\n", true),
            (b"\r", false),
        ] {
            assert_eq!(has_bare_lf(bytes), bare, "{bytes:?}");
        }
        let whole = b"GET / HTTP/1.1\r\nHost: a\r\nX: 0123456789012345678901234567890\r\n\r\n";
        assert!(!has_bare_lf(whole));
        for at in whole.iter().enumerate().filter(|(_, b)| **b == b'\r').map(|(at, _)| at) {
            let mut broken = whole.to_vec();
            broken[at] = b' ';
            assert!(has_bare_lf(&broken), "{at}");
        }
    }
}
