//! What a listener asks of its clients, and a route of a certificate.

use toml::Value;

use crate::door::{CertificateMatch, Handshakes, Hsts, Redirect};
use crate::values::{escape, show_duration};

pub(super) fn certificate_match(wanted: &CertificateMatch) -> Value {
    let mut table = toml::Table::new();
    let texts = |list: Vec<String>| {
        Value::Array(list.iter().map(|text| Value::String(escape(text))).collect())
    };
    if !wanted.san.is_empty() {
        table.insert("san".into(), texts(wanted.san.iter().map(ToString::to_string).collect()));
    }
    if !wanted.fingerprint.is_empty() {
        table.insert("fingerprint".into(), texts(wanted.fingerprint.clone()));
    }
    Value::Table(table)
}

pub(super) fn redirect(redirect: &Redirect) -> Value {
    let mut table = toml::Table::new();
    table.insert("port".into(), i64::from(redirect.port).into());
    table.insert("status".into(), i64::from(redirect.status).into());
    let except = redirect.except.iter().map(|path| Value::String(escape(path)));
    table.insert("except".into(), Value::Array(except.collect()));
    Value::Table(table)
}

pub(super) fn hsts(hsts: &Hsts) -> Value {
    let mut table = toml::Table::new();
    table.insert("max_age".into(), show_duration(hsts.max_age).into());
    table.insert("include_subdomains".into(), hsts.include_subdomains.into());
    table.insert("preload".into(), hsts.preload.into());
    Value::Table(table)
}

pub(super) fn handshakes(limits: &Handshakes) -> Value {
    let Handshakes { rate, concurrent, client_rate, client_concurrent } = *limits;
    let keys = [
        ("rate", rate),
        ("concurrent", concurrent),
        ("client_rate", client_rate),
        ("client_concurrent", client_concurrent),
    ];
    let given = keys.into_iter().filter_map(|(key, limit)| Some((key.into(), limit?.into())));
    Value::Table(given.collect())
}
