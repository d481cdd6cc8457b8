//! What an endpoint's headers say of it.
//!
//! Promises: only plain digits and the two roles are heard; what is malformed, too large or there twice counts as
//! nothing said. Refuses to know: what is made of it.

use std::time::Duration;

use http::HeaderMap;
use meridian_routing::{Claim, MAX_EPOCH, MAX_POSITION, Role};

/// The header that says the role.
pub const ROLE_HEADER: &str = "meridian-role";
/// The header that says the epoch.
pub const EPOCH_HEADER: &str = "meridian-epoch";
/// The header that says the position.
pub const POSITION_HEADER: &str = "meridian-position";
/// The header that reports lag in milliseconds.
pub const LAG_HEADER: &str = "meridian-lag-ms";
/// No believable lag is longer: 31 years.
pub(super) const MAX_LAG_MS: u64 = 1_000_000_000_000;

/// Reads a lag in milliseconds as text: plain digits, at most 10^12. `None` for anything else.
pub fn parse_lag_ms(text: &str) -> Option<Duration> {
    digits(text, MAX_LAG_MS).map(Duration::from_millis)
}

/// Reads an epoch as text: plain digits, below 2^53. `None` for anything else.
pub fn parse_epoch(text: &str) -> Option<u64> {
    digits(text, MAX_EPOCH)
}

/// Reads a position as text: plain digits, below 2^63. `None` for anything else.
pub fn parse_position(text: &str) -> Option<u64> {
    digits(text, MAX_POSITION)
}

fn digits(text: &str, most: u64) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok())?.filter(|number| *number <= most)
}

/// What an answer's headers say.
pub(crate) fn claim_of_headers(headers: &HeaderMap) -> Claim {
    let only = |name| {
        let mut values = headers.get_all(name).iter();
        let only = values.next().filter(|_| values.next().is_none())?;
        Some(only.to_str().ok()?.trim_matches([' ', '\t']))
    };
    Claim {
        role: only(ROLE_HEADER).and_then(Role::parse),
        epoch: only(EPOCH_HEADER).and_then(parse_epoch),
        position: only(POSITION_HEADER).and_then(parse_position),
        lag: only(LAG_HEADER).and_then(parse_lag_ms),
    }
}

/// What is wrong with the headers that speak of its endpoint; `None`: nothing, or there are none. Not for a hot path.
pub(crate) fn fault_of_headers(headers: &HeaderMap) -> Option<String> {
    let said = claim_of_headers(headers);
    let heard = [
        (ROLE_HEADER, said.role.is_some(), "primary or replica"),
        (EPOCH_HEADER, said.epoch.is_some(), "plain digits, below 2^53"),
        (POSITION_HEADER, said.position.is_some(), "plain digits, below 2^63"),
        (LAG_HEADER, said.lag.is_some(), "plain digits, at most 10^12"),
    ];
    heard.iter().filter(|(_, heard, _)| !heard).find_map(|(name, _, wanted)| {
        let mut values = headers.get_all(*name).iter();
        let first = values.next()?;
        if values.next().is_some() {
            return Some(format!("header {name} is there twice"));
        }
        let said = shown(&String::from_utf8_lossy(first.as_bytes()));
        Some(format!("header {name} is \"{said}\", not {wanted}"))
    })
}

/// What an endpoint said, short and without control characters.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 120;
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn each_header_is_heard_by_itself() {
        let whole = Claim {
            role: Some(Role::Replica),
            epoch: Some(3),
            position: Some(99),
            lag: Some(Duration::from_millis(7)),
        };
        let all = [
            (ROLE_HEADER, "replica"),
            (EPOCH_HEADER, "3"),
            (POSITION_HEADER, " 99 "),
            (LAG_HEADER, "7"),
        ];
        assert_eq!(claim_of_headers(&headers(&all)), whole);
        for (name, bad) in [
            (ROLE_HEADER, "Primary"),
            (ROLE_HEADER, "master"),
            (EPOCH_HEADER, "9007199254740992"),
            (EPOCH_HEADER, "+3"),
            (POSITION_HEADER, "9223372036854775808"),
            (POSITION_HEADER, "18446744073709551615"),
            (POSITION_HEADER, "0/3000060"),
            (LAG_HEADER, "-1"),
        ] {
            let kept = all.iter().filter(|(known, _)| *known != name).copied();
            let with: Vec<_> = kept.chain([(name, bad)]).collect();
            let claim = claim_of_headers(&headers(&with));
            let missing = [
                claim.role.is_none(),
                claim.epoch.is_none(),
                claim.position.is_none(),
                claim.lag.is_none(),
            ];
            assert_eq!(missing.iter().filter(|missing| **missing).count(), 1, "{name}: {bad}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_header_is_said() {
        let fault = |fields: &[_]| fault_of_headers(&headers(fields));
        assert_eq!(fault(&[]), None);
        assert_eq!(fault(&[(ROLE_HEADER, "primary"), (EPOCH_HEADER, "3")]), None);
        let said = fault(&[(ROLE_HEADER, "primary"), (EPOCH_HEADER, "+3")]);
        assert_eq!(
            said.as_deref(),
            Some("header meridian-epoch is \"+3\", not plain digits, below 2^53")
        );
        let said = fault(&[(LAG_HEADER, "3"), (LAG_HEADER, "3")]);
        assert_eq!(said.as_deref(), Some("header meridian-lag-ms is there twice"));
        let long = "9".repeat(500);
        let mut much = HeaderMap::new();
        much.insert(LAG_HEADER, HeaderValue::from_str(&long).expect("a value"));
        assert!(fault_of_headers(&much).is_some_and(|said| said.len() < 250));
    }

    #[test]
    fn what_is_said_twice_is_not_said() {
        let twice = headers(&[(EPOCH_HEADER, "3"), (EPOCH_HEADER, "3"), (ROLE_HEADER, "primary")]);
        let claim = claim_of_headers(&twice);
        assert_eq!((claim.role, claim.epoch), (Some(Role::Primary), None));
    }

    #[test]
    fn numbers_are_plain_digits_within_bounds() {
        for text in ["", "-1", "+1", "1.0", "0x1", "1 ", "1000000000001", "99999999999999999999999"]
        {
            assert_eq!(parse_lag_ms(text), None, "{text}");
        }
        assert_eq!(parse_lag_ms("1000000000000"), Some(Duration::from_millis(MAX_LAG_MS)));
        assert_eq!(parse_epoch("9007199254740991"), Some(MAX_EPOCH));
        assert_eq!(parse_position("9223372036854775807"), Some(MAX_POSITION));
    }
}
