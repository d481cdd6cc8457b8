//! Whether a GraphQL request over HTTP is a query. Anything that is not certainly a query is a write.
//!
//! Only what lies outside all braces matters: a document is a list of definitions, each a keyword, an optional
//! name and a `{...}`. The scanner knows strings, block strings, comments and nesting, and nothing else
//! (GraphQL specification, October 2021, section 2). Linear in the text, without recursion.

use serde::Deserialize;

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    query: std::borrow::Cow<'a, str>,
    #[serde(borrow, default, rename = "operationName")]
    operation_name: Option<std::borrow::Cow<'a, str>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Query,
    Other,
}

/// Whether the JSON envelope's selected operation is a query.
pub(crate) fn is_query(body: &[u8]) -> bool {
    let Ok(envelope) = serde_json::from_slice::<Envelope<'_>>(body) else { return false };
    let Some(operations) = operations(&envelope.query) else { return false };
    let wanted = envelope.operation_name.as_deref().filter(|name| !name.is_empty());
    match (wanted, operations.as_slice()) {
        (None, [(_, kind)]) => *kind == Kind::Query,
        (None, _) => false,
        (Some(name), all) => {
            let mut named = all.iter().filter(|(have, _)| *have == Some(name));
            matches!((named.next(), named.next()), (Some((_, Kind::Query)), None))
        }
    }
}

/// The operations of a document with their names; `None` if it is not well-formed as far as the scanner looks.
fn operations(document: &str) -> Option<Vec<(Option<&str>, Kind)>> {
    let mut found = Vec::new();
    let mut words: Vec<&str> = Vec::new();
    let (mut curly, mut round) = (0_u32, 0_u32);
    let mut rest = document;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = skip_ignored(rest, c)? {
            rest = after;
            continue;
        }
        match c {
            '{' if round == 0 => {
                if curly == 0 {
                    found.extend(operation(&words)?);
                    words.clear();
                }
                curly += 1;
            }
            '}' if round == 0 => curly = curly.checked_sub(1)?,
            '(' => round += 1,
            ')' => round = round.checked_sub(1)?,
            c if c.is_ascii_alphabetic() || c == '_' => {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
                if curly == 0 && round == 0 {
                    words.push(word);
                }
                rest = after;
                continue;
            }
            _ => {}
        }
        rest = &rest[c.len_utf8()..];
    }
    (curly == 0 && round == 0 && words.is_empty() && !found.is_empty()).then_some(found)
}

/// What follows a comment or a string that starts here; `Some(None)` if neither does, `None` if it never ends.
#[allow(clippy::option_option)]
fn skip_ignored(rest: &str, c: char) -> Option<Option<&str>> {
    match c {
        '#' => {
            let end = rest.find(['\n', '\r']).unwrap_or(rest.len());
            Some(Some(&rest[end..]))
        }
        '"' if rest.starts_with("\"\"\"") => {
            let mut from = 3;
            loop {
                let end = from + rest[from..].find("\"\"\"")?;
                if !rest[..end].ends_with('\\') {
                    return Some(Some(&rest[end + 3..]));
                }
                from = end + 3;
            }
        }
        '"' => {
            let mut escaped = false;
            let end = rest[1..].find(|c: char| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            })?;
            Some(Some(&rest[end + 2..]))
        }
        _ => Some(None),
    }
}

/// The operation that these words before a `{` open; no words: an anonymous query. `Some(None)`: a fragment.
#[allow(clippy::option_option)]
fn operation<'a>(words: &[&'a str]) -> Option<Option<(Option<&'a str>, Kind)>> {
    let name = words.get(1).copied();
    match words.first().copied() {
        None => Some(Some((None, Kind::Query))),
        Some("query") => Some(Some((name, Kind::Query))),
        Some("mutation" | "subscription") => Some(Some((name, Kind::Other))),
        Some("fragment") => Some(None),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::is_query;

    fn verdict(query: &str, operation: Option<&str>) -> bool {
        let body = serde_json::json!({"query": query, "operationName": operation});
        is_query(body.to_string().as_bytes())
    }

    #[test]
    fn queries_are_reads() {
        for text in [
            "{ me { name } }",
            "query { me }",
            "query Q($a: Int = 1) @live { me(x: {a: 2}) { ...F } } fragment F on U { id }",
            "# mutation {\nquery { me }",
            "query { a(s: \"} mutation {\") }",
            "query { a(s: \"\"\" \\\"\"\" } mutation { \"\"\") }",
        ] {
            assert!(verdict(text, None), "{text}");
        }
        assert!(verdict("query A { a } mutation B { b }", Some("A")));
    }

    #[test]
    fn everything_else_is_a_write() {
        for text in [
            "mutation { a }",
            "subscription { a }",
            "query A { a } mutation B { b }",
            "query { a",
            "query { a } }",
            "query { a(s: \"oops) }",
            "",
            "schema { query: Q }",
            "fragment F on U { id }",
            "query",
        ] {
            assert!(!verdict(text, None), "{text}");
        }
        assert!(!verdict("query A { a } mutation B { b }", Some("B")));
        assert!(!verdict("query A { a } mutation A { b }", Some("A")));
        assert!(!verdict("query A { a }", Some("C")));
        assert!(!is_query(b"not json"));
        assert!(!is_query(br#"[{"query": "{a}"}]"#));
        assert!(!is_query(br#"{"query": "{a}", "query": "mutation {a}"}"#));
        assert!(!verdict(&"{".repeat(60_000), None));
    }
}
