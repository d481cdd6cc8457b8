use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;

use super::seal::{VERSION, decode};
use super::*;

const NOW: u64 = 1_900_000_000;
const HOUR: Duration = Duration::from_secs(3600);

fn keys(texts: &[&str]) -> SessionKeys {
    let lines: Vec<_> = texts.iter().map(|text| text.repeat(32)).collect();
    SessionKeys::new(&SessionSecrets::parse(&lines.join("\n")).expect("keys"))
}

fn some() -> EndpointIdentity {
    EndpointIdentity { service: 0x1234_5678, endpoint: 0x9abc_def0_1122_3344 }
}

#[test]
fn a_cookie_says_what_was_put_into_it() {
    let keys = keys(&["a"]);
    let value = keys.seal(some(), NOW).expect("a key");
    assert_eq!(value.len(), COOKIE_LENGTH);
    assert!(value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
    let opened = keys.open(value.as_bytes(), NOW, HOUR);
    assert_eq!(opened, Ok(Presented { identity: some(), stale: false }));
    assert_eq!(SessionKeys::default().seal(some(), NOW), None);
    let none = SessionKeys::default().open(value.as_bytes(), NOW, HOUR);
    assert_eq!(none, Err(AffinityOutcome::Forged));
}

/// Edges of different versions share cookies: the format may not change under the same version. The value was worked out by
/// another implementation (AESGCMSIV of Python's cryptography).
#[test]
fn the_format_is_fixed() {
    let value = keys(&["a"]).seal(some(), NOW).expect("a key");
    let bytes = decode::<BYTES>(value.as_bytes()).expect("decodes");
    assert_eq!(bytes[..5], [2, 0x71, 0x3f, 0xb3, 0x00]);
    assert_eq!(value, "AnE_swBe-Vj814Ty2MLE8PeZeKj7nLcvtPTV2SlRS7hK");
}

#[test]
fn no_changed_byte_goes_unnoticed() {
    let keys = keys(&["a"]);
    let value = keys.seal(some(), NOW).expect("a key");
    let bytes = decode::<BYTES>(value.as_bytes()).expect("decodes");
    for at in 0..BYTES {
        for bit in 0..8 {
            let mut changed = bytes;
            changed[at] ^= 1 << bit;
            let opened = keys.open(URL_SAFE_NO_PAD.encode(changed).as_bytes(), NOW, HOUR);
            let expected =
                if at == 0 { AffinityOutcome::Malformed } else { AffinityOutcome::Forged };
            assert_eq!(opened, Err(expected), "byte {at}, bit {bit}");
        }
    }
    for at in 0..value.len() {
        let mut changed = value.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        assert!(keys.open(&changed, NOW, HOUR).is_err(), "character {at}");
    }
}

#[test]
fn cookies_grow_old() {
    let keys = keys(&["a"]);
    let value = keys.seal(some(), NOW).expect("a key");
    let at = |now| keys.open(value.as_bytes(), now, HOUR).map(|presented| presented.stale);
    assert_eq!(at(NOW + 1800), Ok(false));
    assert_eq!(at(NOW + 1801), Ok(true));
    assert_eq!(at(NOW + 3600), Ok(true));
    assert_eq!(at(NOW + 3601), Err(AffinityOutcome::Expired));
    // Another edge's clock is ahead.
    assert_eq!(at(NOW - 60), Ok(false));
    assert_eq!(at(NOW - 61), Err(AffinityOutcome::Expired));
}

#[test]
fn keys_rotate() {
    let (old, both, swapped, new) =
        (keys(&["a"]), keys(&["a", "b"]), keys(&["b", "a"]), keys(&["b"]));
    let by_old = old.seal(some(), NOW).expect("a key");
    let by_new = swapped.seal(some(), NOW).expect("a key");
    let open = |keys: &SessionKeys, value: &str| {
        keys.open(value.as_bytes(), NOW, HOUR).map(|presented| presented.stale)
    };
    assert_eq!(both.seal(some(), NOW).as_ref(), Some(&by_old), "the first signs");
    assert_eq!(open(&both, &by_old), Ok(false));
    // Edges that have the new key as their second one understand those that sign with it already.
    assert_eq!(open(&both, &by_new), Ok(true));
    assert_eq!(open(&swapped, &by_old), Ok(true), "to be replaced by the new key's");
    assert_eq!(open(&swapped, &by_new), Ok(false));
    assert_eq!(open(&new, &by_old), Err(AffinityOutcome::Forged));
}

/// Neither the endpoint nor whether two cookies are for the same one can be seen.
#[test]
fn a_cookie_reveals_nothing() {
    let keys = keys(&["a"]);
    let decoded = |identity, now| {
        let value = keys.seal(identity, now).expect("a key");
        decode::<BYTES>(value.as_bytes()).expect("decodes")
    };
    let (one, later) = (decoded(some(), NOW), decoded(some(), NOW + 1));
    let other = decoded(EndpointIdentity { endpoint: 7, ..some() }, NOW);
    for (a, b) in [(one, later), (one, other)] {
        let same = a[5..].iter().zip(&b[5..]).filter(|(a, b)| a == b).count();
        assert!(same < 6, "{a:?} {b:?}");
    }
    let plain = bytes_of(some());
    assert!(!one.windows(4).any(|window| plain.windows(4).any(|other| window == other)));
}

#[test]
fn the_cookie_is_found_among_others() {
    let affinity = Affinity {
        cookie: "stick".into(),
        ttl: HOUR,
        secure: meridian_config::CookieSecure::Auto,
        same_site: meridian_config::SameSite::Lax,
    };
    let keys = keys(&["a"]);
    let value = keys.seal(some(), NOW).expect("a key");
    let look = |fields: &[String]| {
        let fields = fields.iter().map(|field| field.as_bytes());
        keys.look(fields, &affinity, NOW).map(|presented| presented.identity)
    };
    for fields in [
        vec![format!("stick={value}")],
        vec![format!("a=b; stick={value}; c=d")],
        vec!["a=b".into(), format!("c=d;stick={value} ")],
        vec![format!("xstick=1; stick2=2; Stick=3; stick={value}")],
    ] {
        assert_eq!(look(&fields), Ok(some()), "{fields:?}");
    }
    for fields in [vec![], vec![String::new()], vec!["a=b; Stick=x; stick".into()]] {
        assert_eq!(look(&fields), Err(AffinityOutcome::Absent), "{fields:?}");
    }
    for fields in [
        vec!["stick=".into()],
        vec![format!("stick={value}x")],
        vec![format!("stick=\"{value}\"")],
        vec![format!("stick={}", "A".repeat(100_000))],
    ] {
        assert_eq!(look(&fields), Err(AffinityOutcome::Malformed));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn garbage_is_no_affinity(value in prop::collection::vec(any::<u8>(), 0..80)) {
        prop_assert!(keys(&["a"]).open(&value, NOW, HOUR).is_err());
    }

    #[test]
    fn well_formed_garbage_is_forged(bytes in prop::collection::vec(any::<u8>(), BYTES - 1)) {
        let value = URL_SAFE_NO_PAD.encode([&[VERSION][..], &bytes].concat());
        let opened = keys(&["a", "b"]).open(value.as_bytes(), NOW, HOUR);
        prop_assert_eq!(opened, Err(AffinityOutcome::Forged));
    }

    #[test]
    fn every_identity_comes_back(service in any::<u32>(), endpoint in any::<u64>(), now in 0..u64::from(u32::MAX)) {
        let (keys, identity) = (keys(&["a"]), EndpointIdentity { service, endpoint });
        let value = keys.seal(identity, now).expect("a key");
        let opened = keys.open(value.as_bytes(), now, HOUR);
        prop_assert_eq!(opened, Ok(Presented { identity, stale: false }));
    }
}
