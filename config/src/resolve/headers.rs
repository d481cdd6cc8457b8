//! Header matches and header edits of routes.

use std::collections::BTreeMap;

use crate::model::HeaderEdits;
use crate::names;
use crate::reader::{Item, Table};

/// `headers = { name = "value" }`: what a route asks of a request.
pub(super) fn matches(table: &Table<'_>) -> Vec<(String, String)> {
    let mut matches = BTreeMap::new();
    table.entries("headers", |item| {
        let Some((name, value)) = entry(item, names::header_name) else { return };
        if name == "host" {
            item.fail::<()>("hosts are matched by the key `hosts`");
        } else if matches.insert(name, value).is_some() {
            item.fail::<()>("stands here twice; letter case makes no difference");
        }
    });
    matches.into_iter().collect()
}

/// `{ set = { name = "value" }, remove = ["name"] }`
pub(super) fn edits(table: &Table<'_>) -> HeaderEdits {
    let mut edits = HeaderEdits::default();
    table.entries("set", |item| {
        let Some((name, value)) = entry(item, names::editable_header) else { return };
        if let Some(written) = item.with_variables() {
            edits.as_written.insert(name.clone(), written.to_owned());
        }
        if edits.set.insert(name, value).is_some() {
            item.fail::<()>("stands here twice; letter case makes no difference");
        }
    });
    edits.remove = table.or("remove", Vec::new(), |item| {
        Some(item.list(|item| item.parsed(names::editable_header)))
    });
    edits
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
