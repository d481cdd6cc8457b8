//! Header matches and header edits of routes.

use std::collections::BTreeMap;

use crate::model::HeaderEdits;
use crate::names;
use crate::reader::{Item, Table};

/// `headers = { name = "value" }`: what a route asks of a request, and the values as written.
pub(super) fn matches(table: &Table<'_>) -> (Vec<(String, String)>, BTreeMap<String, String>) {
    let (mut matches, mut as_written) = (BTreeMap::new(), BTreeMap::new());
    table.entries("headers", |item| {
        let Some((name, value)) = entry(item, names::header_name) else { return };
        if name == "host" {
            item.fail::<()>("hosts are matched by the key `hosts`");
        }
        if name.starts_with("client-cert") || name.starts_with("x-client-cert") {
            let message = "whoever asks could write it; certificates are matched by the key \
                           `client_certificate`";
            item.fail::<()>(message);
        }
        insert(item, name, value, &mut matches, &mut as_written);
    });
    (matches.into_iter().collect(), as_written)
}

/// `{ set = { name = "value" }, remove = ["name"] }`
pub(super) fn edits(table: &Table<'_>) -> HeaderEdits {
    let mut edits = HeaderEdits::default();
    table.entries("set", |item| {
        let Some((name, value)) = entry(item, names::editable_header) else { return };
        insert(item, name, value, &mut edits.set, &mut edits.as_written);
    });
    edits.remove = table.or("remove", Vec::new(), |item| {
        Some(item.list(|item| item.parsed(names::editable_header)))
    });
    edits
}

/// Whether a header, in lower case, is edited.
pub(super) fn touches(edits: &HeaderEdits, name: &str) -> bool {
    edits.set.contains_key(name) || edits.remove.iter().any(|other| other == name)
}

/// What a message of our own carries, and the values as written; `check` has a say in every one.
pub(super) fn sent(
    table: &Table<'_>,
    key: &'static str,
    check: impl Fn(&Item<'_>, &str) -> Option<()>,
) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let (mut values, mut as_written) = (BTreeMap::new(), BTreeMap::new());
    table.entries(key, |item| {
        let Some((name, value)) = entry(item, names::editable_header) else { return };
        if check(item, &name).is_some() {
            insert(item, name, value, &mut values, &mut as_written);
        }
    });
    (values, as_written)
}

fn insert(
    item: &Item<'_>,
    name: String,
    value: String,
    values: &mut BTreeMap<String, String>,
    as_written: &mut BTreeMap<String, String>,
) {
    if let Some(written) = item.with_variables() {
        as_written.insert(name.clone(), written.to_owned());
    }
    if values.insert(name, value).is_some() {
        item.fail::<()>("stands here twice; letter case makes no difference");
    }
}

/// A header's name and value.
fn entry(
    item: &Item<'_>,
    name: impl Fn(&str) -> Result<String, String>,
) -> Option<(String, String)> {
    let name = name(item.key).map_or_else(|message| item.fail(message), Some);
    let value = item.parsed(|text| names::header_value(text).map(|()| text.to_owned()));
    Some((name?, value?))
}
