//! `Accept-Encoding` (RFC 9110 section 12.5.3).

use meridian_config::Coding;

/// A weight of 1, in thousandths.
const FULL: u16 = 1000;

/// What a client takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// By [`Coding`], in thousandths.
    codings: [Option<u16>; Coding::ALL.len()],
    identity: Option<u16>,
    /// All that are not named.
    any: Option<u16>,
}

impl Accepted {
    /// Takes one field's value. What is malformed does not count; of what is named twice the lesser weight does.
    pub(crate) fn read(&mut self, value: &[u8]) {
        for element in value.split(|byte| *byte == b',') {
            let mut parts = element.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let name = parts.next().unwrap_or_default();
            let Some(weight) = parts.try_fold(FULL, |weight, part| weight_of(part, weight)) else {
                continue;
            };
            let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
            let place = if is("*") {
                &mut self.any
            } else if is("identity") {
                &mut self.identity
            } else if let Some(coding) = Coding::ALL.iter().find(|coding| is(coding.label())) {
                &mut self.codings[*coding as usize]
            } else if is("x-gzip") {
                &mut self.codings[Coding::Gzip as usize]
            } else {
                continue;
            };
            *place = Some(place.map_or(weight, |before| before.min(weight)));
        }
    }

    /// The coding that the client likes best of those that are offered; of equals the first. `None`: none, or it likes the
    /// answer better as it is.
    pub(crate) fn best(&self, offers: &[Coding]) -> Option<Coding> {
        let mut best: Option<(Coding, u16)> = None;
        for coding in offers {
            let weight = self.codings[*coding as usize].or(self.any).unwrap_or(0);
            if weight > best.map_or(0, |(_, weight)| weight) {
                best = Some((*coding, weight));
            }
        }
        let (coding, weight) = best?;
        // Unless it is named, identity comes last.
        (weight >= self.identity.unwrap_or(0)).then_some(coding)
    }

    /// Whether the client does not take an answer without a coding.
    pub(crate) fn refuses_identity(&self) -> bool {
        self.identity.or(self.any.filter(|weight| *weight == 0)) == Some(0)
    }
}

/// The weight after a parameter: `q=0.5`; others change nothing. `None` if it is malformed.
fn weight_of(parameter: &[u8], before: u16) -> Option<u16> {
    let [b'q' | b'Q', b'=', value @ ..] = parameter else { return Some(before) };
    let (whole, digits) = match value {
        [whole] | [whole, b'.'] => (whole, &[][..]),
        [whole, b'.', digits @ ..] => (whole, digits),
        _ => return None,
    };
    if digits.len() > 3 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |place: usize| digits.get(place).map_or(0, |digit| u16::from(digit - b'0'));
    match (whole, digit(0) * 100 + digit(1) * 10 + digit(2)) {
        (b'0', thousandths) => Some(thousandths),
        (b'1', 0) => Some(FULL),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use Coding::{Brotli, Gzip, Zstd};

    use super::*;

    fn accepted(value: &str) -> Accepted {
        let mut accepted = Accepted::default();
        accepted.read(value.as_bytes());
        accepted
    }

    #[test]
    fn the_client_s_weights_come_first_and_then_the_route_s_order() {
        let all = [Zstd, Brotli, Gzip];
        for (value, offers, best) in [
            ("gzip", &all[..], Some(Gzip)),
            ("gzip, deflate, br, zstd", &all, Some(Zstd)),
            ("gzip, deflate, br, zstd", &[Gzip, Brotli], Some(Gzip)),
            ("GZIP;Q=1.000 , br;q=0.9", &all, Some(Gzip)),
            ("gzip;q=0.5,br;q=0.501", &all, Some(Brotli)),
            ("gzip;q=0", &all, None),
            ("gzip;q=0.000, br;q=0.001", &all, Some(Brotli)),
            ("*", &all, Some(Zstd)),
            ("*;q=0", &all, None),
            ("zstd;q=0, *;q=0.1", &all, Some(Brotli)),
            ("gzip, *;q=0", &all, Some(Gzip)),
            ("identity", &all, None),
            ("identity, gzip;q=0.5", &all, None),
            ("identity;q=0.5, gzip;q=0.5", &all, Some(Gzip)),
            ("identity;q=0.1, *;q=0.5", &all, Some(Zstd)),
            ("identity;q=0", &all, None),
            ("x-gzip", &all, Some(Gzip)),
            ("deflate, compress, dcb", &all, None),
            ("gzip;level=9;q=0.3, br;q=0.2", &all, Some(Gzip)),
            ("gzip;q=1;q=0", &all, None),
            ("gzip, gzip;q=0", &all, None),
            ("br", &[Gzip], None),
            ("", &all, None),
            (" , ,, ", &all, None),
        ] {
            assert_eq!(accepted(value).best(offers), best, "{value:?} of {offers:?}");
        }
    }

    #[test]
    fn what_is_malformed_does_not_count() {
        for value in [
            "gzip;q=",
            "gzip;q=2",
            "gzip;q=1.001",
            "gzip;q=0.1234",
            "gzip;q=.5",
            "gzip;q=-1",
            "gzip;q=a",
            "gz ip",
            "gzip;q=1.0.0",
            "\u{e9}",
            "gzip;q =1.5 x,;;,=",
        ] {
            let best = accepted(value).best(&Coding::ALL);
            // A parameter that is none of ours changes nothing.
            let expected = value.starts_with("gzip;q =").then_some(Gzip);
            assert_eq!(best, expected, "{value:?}");
        }
        assert_eq!(accepted("gzip;q=x, br").best(&Coding::ALL), Some(Brotli));
    }

    #[test]
    fn several_fields_are_one_list() {
        let mut both = accepted("gzip;q=0.2");
        both.read(b"br;q=0.1, *;q=0");
        assert_eq!(both.best(&Coding::ALL), Some(Gzip));
        assert!(both.refuses_identity());
    }

    #[test]
    fn identity_is_taken_unless_it_is_refused() {
        for (value, refused) in [
            ("", false),
            ("gzip", false),
            ("*;q=0", true),
            ("identity;q=0", true),
            ("identity;q=0.0, gzip", true),
            ("identity, *;q=0", false),
            ("*;q=0.5", false),
        ] {
            assert_eq!(accepted(value).refuses_identity(), refused, "{value:?}");
        }
    }
}
