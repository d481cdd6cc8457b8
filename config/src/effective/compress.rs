//! `[routes.compress]` as text.

use toml::Value;

use crate::compress::{Coding, Compress};
use crate::values::{escape, show_size};

pub(super) fn table(compress: &Compress) -> Value {
    let algorithms = compress.algorithms.iter().map(|coding| coding.label().into());
    let types = compress.types.iter().map(|one| Value::String(escape(&one.to_string())));
    let levels = Coding::ALL
        .map(|coding| (coding.label().to_owned(), i64::from(compress.levels.of(coding)).into()));
    let mut table = toml::Table::new();
    table.insert("algorithms".into(), Value::Array(algorithms.collect()));
    table.insert("min_size".into(), show_size(compress.min_size).into());
    table.insert("types".into(), Value::Array(types.collect()));
    table.insert("levels".into(), Value::Table(levels.into_iter().collect()));
    Value::Table(table)
}
