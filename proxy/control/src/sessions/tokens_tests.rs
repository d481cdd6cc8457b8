use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meridian_config::SessionSecrets;
use proptest::prelude::*;

use super::super::seal::{VERSION, decode};
use super::*;

const NOW: u64 = 1_900_000_000_000;
const API: u32 = 0x1234_5678;

fn keys(texts: &[&str]) -> SessionKeys {
    let lines: Vec<_> = texts.iter().map(|text| text.repeat(32)).collect();
    SessionKeys::new(&SessionSecrets::parse(&lines.join("\n")).expect("keys"))
}

fn some() -> SessionToken {
    SessionToken {
        service: API,
        session: 0x9abc_def0_1122_3344,
        epoch: 7,
        position: Some(0x0123_4567_89ab),
        primary_until_unix_ms: NOW + 2000,
        issued_unix_ms: NOW,
    }
}

fn sealed(keys: &SessionKeys, token: &SessionToken) -> String {
    keys.seal_token(token).expect("a key")
}

#[test]
fn a_token_says_what_was_put_into_it() {
    let keys = keys(&["a"]);
    for token in [
        some(),
        SessionToken { position: None, ..some() },
        SessionToken { position: Some(0), ..some() },
        SessionToken { position: Some(MAX_POSITION), ..some() },
        SessionToken { primary_until_unix_ms: 0, epoch: 0, ..some() },
    ] {
        let text = sealed(&keys, &token);
        assert_eq!(text.len(), TOKEN_LENGTH);
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        let opened = keys.open_token(text.as_bytes(), API, NOW);
        assert_eq!(opened, Ok(OpenedToken { token, stale: false, expired: false }));
    }
    assert_eq!(SessionKeys::default().seal_token(&some()), None);
    let text = sealed(&keys, &some());
    let none = SessionKeys::default().open_token(text.as_bytes(), API, NOW);
    assert_eq!(none, Err(TokenFault::Forged));
}

#[test]
fn no_changed_byte_goes_unnoticed() {
    let keys = keys(&["a"]);
    let text = sealed(&keys, &some());
    let bytes = decode::<BYTES>(text.as_bytes()).expect("decodes");
    for at in 0..BYTES {
        for bit in 0..8 {
            let mut changed = bytes;
            changed[at] ^= 1 << bit;
            let opened = keys.open_token(URL_SAFE_NO_PAD.encode(changed).as_bytes(), API, NOW);
            let expected = if at == 0 { TokenFault::Malformed } else { TokenFault::Forged };
            assert_eq!(opened, Err(expected), "byte {at}, bit {bit}");
        }
    }
    for wrong in [String::new(), format!("{text}x"), text[1..].into(), "x".repeat(100_000)] {
        assert_eq!(keys.open_token(wrong.as_bytes(), API, NOW), Err(TokenFault::Malformed));
    }
}

#[test]
fn an_affinity_cookie_is_no_token_nor_the_reverse() {
    let keys = keys(&["a"]);
    let text = sealed(&keys, &some());
    let hour = std::time::Duration::from_secs(3600);
    assert!(keys.open(text.as_bytes(), NOW / 1000, hour).is_err());
    let identity = meridian_routing::EndpointIdentity { service: API, endpoint: 1 };
    let cookie = keys.seal(identity, NOW / 1000).expect("a key");
    assert_eq!(keys.open_token(cookie.as_bytes(), API, NOW), Err(TokenFault::Malformed));
}

#[test]
fn tokens_are_their_services_and_grow_old() {
    let keys = keys(&["a"]);
    let text = sealed(&keys, &some());
    assert_eq!(keys.open_token(text.as_bytes(), API + 1, NOW), Err(TokenFault::Foreign));
    let at = |now| {
        let opened = keys.open_token(text.as_bytes(), API, now).expect("a good signature");
        (opened.stale, opened.expired)
    };
    assert_eq!(at(NOW + 150_000), (false, false));
    assert_eq!(at(NOW + 150_001), (true, false));
    assert_eq!(at(NOW + 300_000), (true, false));
    assert_eq!(at(NOW + 300_001), (true, true));
    // Another edge's clock is ahead.
    assert_eq!(at(NOW - 60_000), (false, false));
    assert_eq!(at(NOW - 60_001), (true, true));
}

#[test]
fn keys_rotate() {
    let (old, both, swapped, new) =
        (keys(&["a"]), keys(&["a", "b"]), keys(&["b", "a"]), keys(&["b"]));
    let (by_old, by_new) = (sealed(&old, &some()), sealed(&swapped, &some()));
    let open = |keys: &SessionKeys, text: &str| {
        keys.open_token(text.as_bytes(), API, NOW).map(|opened| opened.stale)
    };
    assert_eq!(sealed(&both, &some()), by_old, "the first signs");
    assert_eq!(open(&both, &by_old), Ok(false));
    assert_eq!(open(&both, &by_new), Ok(true));
    assert_eq!(open(&swapped, &by_old), Ok(true), "to be replaced by the new key's");
    assert_eq!(open(&new, &by_old), Err(TokenFault::Forged));
}

/// Neither positions nor whether two tokens are of one session can be seen.
#[test]
fn a_token_reveals_nothing() {
    let keys = keys(&["a"]);
    let decoded =
        |token: SessionToken| decode::<BYTES>(sealed(&keys, &token).as_bytes()).expect("decodes");
    let (one, later) = (some(), SessionToken { issued_unix_ms: NOW + 1, ..some() });
    let raised = SessionToken { position: Some(0x0123_4567_89ac), ..some() };
    for (a, b) in [(one, later), (one, raised)] {
        let (a, b) = (decoded(a), decoded(b));
        let same = a[7..].iter().zip(&b[7..]).filter(|(a, b)| a == b).count();
        assert!(same < 6, "{a:?} {b:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn garbage_is_no_token(value in prop::collection::vec(any::<u8>(), 0..120)) {
        prop_assert!(keys(&["a"]).open_token(&value, API, NOW).is_err());
    }

    #[test]
    fn well_formed_garbage_is_forged(bytes in prop::collection::vec(any::<u8>(), BYTES - 1)) {
        let text = URL_SAFE_NO_PAD.encode([&[VERSION][..], &bytes].concat());
        let opened = keys(&["a", "b"]).open_token(text.as_bytes(), API, NOW);
        prop_assert_eq!(opened, Err(TokenFault::Forged));
    }

    #[test]
    fn every_token_comes_back(
        session in any::<u64>(), epoch in any::<u64>(),
        position in prop::option::of(0..=MAX_POSITION), held in 0..300_000_u64, now in 0..1_u64 << 47,
    ) {
        let primary_until_unix_ms = if held == 0 { 0 } else { now + held };
        let token =
            SessionToken { service: API, session, epoch, position, primary_until_unix_ms, issued_unix_ms: now };
        let keys = keys(&["a"]);
        let opened = keys.open_token(sealed(&keys, &token).as_bytes(), API, now);
        prop_assert_eq!(opened.map(|opened| opened.token), Ok(token));
    }
}
