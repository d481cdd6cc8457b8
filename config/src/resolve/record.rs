//! `[history]` and `[alerts]`.

use std::time::Duration;

use super::edge::{file_path, read_token};
use super::{headers, warn_without_effect};
use crate::names;
use crate::reader::{Item, Table};
use crate::record::{AlertClass, AlertSecret, Alerts, History, WebhookUrl};
use crate::values;

/// Headers that the sender writes itself.
const OWN_HEADERS: &[&str] = &["content-type", "user-agent", "host"];
/// Words in the name of a header whose value is a secret.
const SECRET_WORDS: &[&str] = &["authorization", "cookie", "key", "secret", "signature", "token"];
/// The longest time that one attempt, or a pause between two, may take.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

pub(super) fn history(table: &Table<'_>) -> History {
    let file_bytes = |item: &Item<'_>| {
        let bytes = item.size(0..=1 << 30)?;
        if (1..64 << 10).contains(&bytes) {
            return item.fail(format!(
                "{} is neither 0B, which is no file, nor from 64KiB to 1GiB",
                values::show_size(bytes)
            ));
        }
        Some(bytes)
    };
    History {
        entries: table.or("entries", 1000, |item| item.whole(1..=100_000)),
        file_bytes: table.or("file_bytes", 8 << 20, file_bytes),
    }
}

/// `None` without a URL.
pub(super) fn alerts(table: &Table<'_>) -> Option<Alerts> {
    let given = table.item("url").filter(|item| item.word().as_deref() != Some(""));
    let url_as_written = given.as_ref().and_then(|item| item.with_variables()).map(str::to_owned);
    let is_on = given.is_some();
    let (sent, headers_as_written) = headers::sent(table, "headers", check_header);
    let secret = path(table, "secret_file").and_then(secret);
    let ca = path(table, "ca").and_then(|item| file_path(&item));
    let classes = AlertClass::ALL.map(|class| (class.label(), class));
    let wait = |key, seconds| {
        let range = Duration::from_millis(1)..=LONGEST_WAIT;
        table.or(key, Duration::from_secs(seconds), |item| item.duration(range))
    };
    let alerts = Alerts {
        url: given.and_then(|item| item.parsed(webhook_url)).unwrap_or_else(nowhere),
        url_as_written,
        headers: sent,
        headers_as_written,
        secret,
        ca,
        events: table.or("events", AlertClass::ALL.to_vec(), |item| events(item, &classes)),
        timeout: wait("timeout", 5),
        retries: table.or("retries", 5, |item| item.whole(0..=100)),
        backoff: wait("backoff", 1),
        queue: table.or("queue", 256, |item| item.whole(1..=10_000)),
    };
    if is_on {
        return Some(alerts);
    }
    let off = "while alerts.url is empty";
    warn_without_effect(table, "headers", &alerts.headers.is_empty(), &true, off);
    warn_without_effect(table, "secret_file", &alerts.secret.is_none(), &true, off);
    warn_without_effect(table, "ca", &alerts.ca.is_none(), &true, off);
    None
}

fn events(item: &Item<'_>, classes: &[(&str, AlertClass)]) -> Option<Vec<AlertClass>> {
    let mut events = item.list(|item| item.choice(classes));
    if item.is_empty_array() {
        return item.fail("at least one; to send nothing, leave alerts.url empty");
    }
    events.sort_unstable();
    events.dedup();
    Some(events)
}

/// A path that may be `""`: none.
fn path<'t>(table: &'t Table<'_>, key: &'static str) -> Option<Item<'t>> {
    table.item(key).filter(|item| item.word().as_deref() != Some(""))
}

fn secret(item: Item<'_>) -> Option<AlertSecret> {
    let file = file_path(&item)?;
    match read_token(&file) {
        Ok(key) => Some(AlertSecret { file, key }),
        Err(why) => item.fail(format!("{}: {why}", file.display())),
    }
}

/// A header that may be sent; a secret must not stand in the file, which is shown to whoever may read.
fn check_header(item: &Item<'_>, name: &str) -> Option<()> {
    if OWN_HEADERS.contains(&name) || name.starts_with("x-meridian-") {
        return item.fail(format!("header {name:?} is written by Meridian"));
    }
    let is_secret = SECRET_WORDS.iter().any(|word| name.contains(word));
    if is_secret && item.with_variables().is_none() {
        return item.fail("holds a secret, which belongs in the environment: write \"${NAME}\"");
    }
    Some(())
}

fn nowhere() -> WebhookUrl {
    WebhookUrl { https: false, host: String::new(), port: 0, target: "/".into() }
}

/// What a URL must not have.
const NO_USER: &str = "a URL holds no user or password here";

fn webhook_url(text: &str) -> Result<WebhookUrl, String> {
    url(text).map_err(|why| match &*why {
        NO_USER => format!("{NO_USER}; use alerts.headers"),
        _ => why,
    })
}

/// `https://host[:port][/path][?query]`
pub(super) fn url(text: &str) -> Result<WebhookUrl, String> {
    let (https, rest) = match text.split_once("://") {
        Some(("http", rest)) => (false, rest),
        Some(("https", rest)) => (true, rest),
        _ => return Err("a URL starts with \"http://\" or \"https://\"".into()),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    if authority.contains('@') {
        return Err(NO_USER.into());
    }
    let authority = names::authority(authority)?;
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host.to_owned(), port.parse().ok()),
        _ => (authority, Some(if https { 443 } else { 80 })),
    };
    let port = port.filter(|port| *port > 0).ok_or("0 is not a port")?;
    let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    names::path_and_query(&target)?;
    Ok(WebhookUrl { https, host, port, target })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let parts = |text: &str| url(text).map(|url| (url.https, url.host, url.port, url.target));
        let expected = |https, host: &str, port, target: &str| {
            Ok((https, host.to_owned(), port, target.to_owned()))
        };
        for (text, wanted) in [
            ("http://a.example", expected(false, "a.example", 80, "/")),
            ("https://A.example/x?y=1", expected(true, "a.example", 443, "/x?y=1")),
            ("https://[::1]:8443?y", expected(true, "[::1]", 8443, "/?y")),
            ("http://[::1]/", expected(false, "[::1]", 80, "/")),
            ("http://10.0.0.1:81/", expected(false, "10.0.0.1", 81, "/")),
        ] {
            assert_eq!(parts(text), wanted, "{text}");
        }
        for bad in [
            "a.example",
            "ftp://a.example",
            "http://",
            "http:///x",
            "http://a b/",
            "http://u:p@a.example/",
            "http://a.example:0/",
            "http://a.example:x/",
            "http://a.example/#x",
            "http://a.example/ x",
        ] {
            assert!(parts(bad).is_err(), "{bad}");
        }
    }
}
