//! The settings of `reference.toml` that this version does not have yet, all in this one place.
//!
//! Promises: such a setting is a clear error wherever it would change anything. A later version that builds one
//! reads its key and removes its line here.

use toml::de::DeValue;

use Off::{Absent, False, Text, Zero};

/// What a setting may say although it is not available, because it then says "off".
enum Off {
    /// Nothing.
    Absent,
    /// `false`
    False,
    /// `0`
    Zero,
    /// This text.
    Text(&'static str),
}

/// Keys, by table path without indexes.
const KEYS: &[(&str, &str, Off)] = &[
    ("listeners[]", "proxy_protocol", False),
    ("listeners[].tls", "client_ca", Text("")),
    ("listeners[].tls", "client_auth", Text("off")),
    ("regions[]", "failover_order", Zero),
    ("services[]", "tls", Absent),
];

/// Single values of keys that are otherwise available.
const VALUES: &[(&str, &str, &str)] = &[
    ("services[]", "protocol", "h2"),
    ("services[]", "protocol", "h2c"),
    ("routes[]", "methods", "CONNECT"),
];

/// What the table has to say of a key that nothing reads.
pub(crate) enum Verdict {
    /// There is no such key in any version.
    Unknown,
    /// It says "off", as this version does.
    Off,
    /// It asks for what is not there.
    Unavailable,
}

/// Judges a key of the table at `path` (such as `services[2].retry`).
pub(crate) fn judge_key(path: &str, key: &str, value: &DeValue<'_>) -> Verdict {
    let table = without_indexes(path);
    let Some((_, _, off)) = KEYS.iter().find(|(t, k, _)| *t == table && *k == key) else {
        return Verdict::Unknown;
    };
    let is_off = match off {
        Absent => false,
        False => value.as_bool() == Some(false),
        Zero => value.as_integer().is_some_and(|integer| integer.as_str() == "0"),
        Text(text) => value.as_str() == Some(text),
    };
    if is_off { Verdict::Off } else { Verdict::Unavailable }
}

/// Whether a text is a value that a later version takes for this key.
pub(crate) fn is_unavailable_value(path: &str, key: &str, text: &str) -> bool {
    let table = without_indexes(path);
    VALUES.iter().any(|(t, k, v)| *t == table && *k == key && *v == text)
}

/// Names of the keys of a table that a later version takes, for suggestions.
pub(crate) fn later_keys(path: &str) -> impl Iterator<Item = &'static str> {
    let table = without_indexes(path);
    KEYS.iter().filter(move |(t, _, _)| *t == table).map(|(_, key, _)| *key)
}

/// `services[2].retry` becomes `services[].retry`.
fn without_indexes(path: &str) -> String {
    path.chars().filter(|c| !c.is_ascii_digit()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(path: &str, key: &str, value: &str) -> &'static str {
        let value = DeValue::parse(value).expect("a TOML value");
        match judge_key(path, key, value.get_ref()) {
            Verdict::Unknown => "unknown",
            Verdict::Off => "off",
            Verdict::Unavailable => "unavailable",
        }
    }

    #[test]
    fn only_the_off_value_passes() {
        assert_eq!(verdict("listeners[12]", "proxy_protocol", "false"), "off");
        assert_eq!(verdict("listeners[12]", "proxy_protocol", "true"), "unavailable");
        assert_eq!(verdict("listeners[0].tls", "client_ca", "\"\""), "off");
        assert_eq!(verdict("listeners[0].tls", "client_ca", "\"ca.pem\""), "unavailable");
        assert_eq!(verdict("listeners[0].tls", "client_auth", "\"off\""), "off");
        assert_eq!(verdict("listeners[0].tls", "client_auth", "\"required\""), "unavailable");
        assert_eq!(verdict("regions[0]", "failover_order", "0"), "off");
        assert_eq!(verdict("regions[0]", "failover_order", "1"), "unavailable");
        assert_eq!(verdict("edge", "proxy_protocol", "true"), "unknown");
        assert!(is_unavailable_value("services[3]", "protocol", "h2"));
        assert!(!is_unavailable_value("services[3]", "protocol", "http1"));
    }
}
