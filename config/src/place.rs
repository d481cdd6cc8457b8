//! Where a key stands in a text: for what is found out after the text was read.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::finding::{Finding, Note, locate};

/// Gives findings whose place is not known the place of their key, or of the deepest table on the way to it.
pub fn placed(findings: Vec<Finding>, text: &str) -> Vec<Finding> {
    let (root, _) = DeTable::parse_recoverable(text);
    let place = |finding: Finding| {
        if finding.line > 0 || finding.path.is_empty() {
            return finding;
        }
        let Some(offset) = offset_of(root.get_ref(), &finding.path) else { return finding };
        let note = Note { offset, path: finding.path.clone(), message: finding.message.clone() };
        let at = locate(std::path::Path::new(&*finding.file), text, vec![note]);
        at.into_iter().next().unwrap_or(finding)
    };
    findings.into_iter().map(place).collect()
}

/// `listeners[0].tls.client_ca`: a key after each dot, a place in an array in each pair of brackets.
fn offset_of(root: &DeTable<'_>, path: &str) -> Option<usize> {
    let mut found: Option<&Spanned<DeValue<'_>>> = None;
    for step in path.split('.') {
        let (key, indices) = step.split_at(step.find('[').unwrap_or(step.len()));
        let table = match found {
            None => Some(root),
            Some(value) => value.get_ref().as_table(),
        };
        let Some(value) = table.and_then(|table| table.get(key)) else { break };
        found = Some(value);
        for index in indices.split(['[', ']']).filter(|text| !text.is_empty()) {
            let array = found.and_then(|value| value.get_ref().as_array());
            let item = index.parse::<usize>().ok().and_then(|index| array?.get(index));
            let Some(item) = item else { break };
            found = Some(item);
        }
    }
    found.map(|value| value.span().start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_every_way_of_writing_them() {
        let text = "[edge]\nid = \"a\"\n[[listeners]]\nname = \"l\"\n\
                    tls.certificates = [\n  { certificate = \"c\", private_key = \"k\" },\n]\n\
                    [[listeners]]\nname = \"m\"\n[listeners.tls]\nclient_ca = \"ca\"\n";
        let at = |path: &str| {
            let file = "m.toml".into();
            let finding =
                Finding { file, line: 0, column: 0, path: path.into(), message: String::new() };
            let found = placed(vec![finding], text).remove(0);
            (found.line, found.column)
        };
        assert_eq!(at("edge.id"), (2, 6));
        assert_eq!(at("listeners[0].tls.certificates[0].private_key"), (6, 38));
        assert_eq!(at("listeners[1].tls.client_ca"), (11, 13));
        assert_eq!(at("listeners[1].tls.certificates[0].certificate"), (10, 1), "the table");
        assert_eq!(at("services[0]"), (0, 0), "nowhere");
        assert_eq!(at(""), (0, 0));
    }
}
