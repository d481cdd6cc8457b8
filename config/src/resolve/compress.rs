//! `[routes.compress]`

use crate::compress::{Coding, Compress, DEFAULT_TYPES, Levels, MediaPattern};
use crate::names;
use crate::reader::{Item, Table};

/// `{ algorithms = ["zstd", "br", "gzip"], min_size = "1KiB", types = [..], levels = {..} }`; `None` where it is not there.
pub(super) fn read(table: &Table<'_>) -> Option<Compress> {
    if !table.is_present() {
        return None;
    }
    Some(Compress {
        algorithms: table.or("algorithms", Coding::ALL.to_vec(), algorithms),
        min_size: table.or("min_size", 1 << 10, |item| item.size(0..=1 << 30)),
        types: table.or("types", default_types(), types),
        levels: table.section("levels", levels),
    })
}

fn algorithms(item: &Item<'_>) -> Option<Vec<Coding>> {
    let known = Coding::ALL.map(|coding| (coding.label(), coding));
    let mut seen = Vec::new();
    let list = item.list(|item| {
        let coding = item.choice(&known)?;
        if seen.contains(&coding) {
            return item.fail(format!("{:?} stands here twice", coding.label()));
        }
        seen.push(coding);
        Some(coding)
    });
    if item.is_empty_array() {
        return item.fail("without an algorithm nothing is compressed: leave `compress` out");
    }
    Some(list)
}

fn default_types() -> Vec<MediaPattern> {
    // Each of them is a good one, as a test says.
    DEFAULT_TYPES.iter().filter_map(|text| pattern(text).ok()).collect()
}

fn types(item: &Item<'_>) -> Option<Vec<MediaPattern>> {
    if item.is_empty_array() {
        return item.fail("without a type nothing is compressed: leave `compress` out");
    }
    Some(item.list(|item| item.parsed(pattern)))
}

/// `text/html`, `text/*` or `+json`.
fn pattern(text: &str) -> Result<MediaPattern, String> {
    let is_token = |part: &str| names::header_name(part).is_ok();
    let lower = text.to_ascii_lowercase();
    if lower == "*" || lower.starts_with("*/") {
        return Err("most of what is not text is compressed already: name types, such as \
                    \"text/*\""
            .into());
    }
    if lower.starts_with("application/grpc") {
        return Err("gRPC compresses its messages by itself".into());
    }
    if lower.strip_prefix('+').is_some_and(|rest| is_token(rest) && !rest.contains('*')) {
        return Ok(MediaPattern::Suffix(lower));
    }
    match lower.split_once('/') {
        Some((kind, "*")) if is_token(kind) && !kind.contains('*') => {
            Ok(MediaPattern::Any(format!("{kind}/")))
        }
        Some((kind, rest)) if is_token(kind) && is_token(rest) && !lower.contains('*') => {
            Ok(MediaPattern::Exact(lower))
        }
        _ => Err(format!("{text:?} is not a media type: \"text/html\", \"text/*\" or \"+json\"")),
    }
}

fn levels(table: &Table<'_>) -> Levels {
    let default = Levels::default();
    Levels {
        zstd: table.or("zstd", default.zstd, |item| item.whole(1..=9)),
        brotli: table.or("br", default.brotli, |item| item.whole(1..=6)),
        gzip: table.or("gzip", default.gzip, |item| item.whole(1..=9)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_type_is_one() {
        assert_eq!(default_types().len(), DEFAULT_TYPES.len());
        let shown: Vec<String> = default_types().iter().map(ToString::to_string).collect();
        assert_eq!(shown, DEFAULT_TYPES);
    }

    #[test]
    fn types_match_as_they_are_written() {
        let matching = |essence: &str| default_types().iter().any(|p| p.matches(essence));
        for essence in [
            "text/html",
            "TEXT/CSS",
            "application/json",
            "application/problem+json",
            "image/svg+XML",
            "application/wasm",
        ] {
            assert!(matching(essence), "{essence}");
        }
        for essence in
            ["", "text", "+json", "text/event-stream", "image/png", "application/jsonx", "é+jso"]
        {
            assert!(!matching(essence), "{essence}");
        }
        let events = pattern("text/event-stream").expect("a type");
        assert!(events.matches("Text/Event-Stream"));
    }
}
