//! Values of settings that this version does not have yet, all in this one place.
//!
//! Promises: such a value is an error that says so. A later version that builds one takes it and removes its line here.

/// Table path without indexes, key, value.
const VALUES: &[(&str, &str, &str)] = &[("routes[]", "methods", "CONNECT")];

/// Whether a text is a value that a later version takes for this key.
pub(crate) fn is_unavailable_value(path: &str, key: &str, text: &str) -> bool {
    let table: String = path.chars().filter(|c| !c.is_ascii_digit()).collect();
    VALUES.iter().any(|(t, k, v)| *t == table && *k == key && *v == text)
}
