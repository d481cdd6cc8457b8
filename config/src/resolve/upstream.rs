//! `[services.tls]`

use super::edge::file_path;
use crate::model::CertificateFiles;
use crate::names;
use crate::reader::{Item, Table};
use crate::upstream::{ServiceTls, TlsFiles};

pub(super) fn tls(table: &Table<'_>) -> ServiceTls {
    let server_name = given(table, "server_name").and_then(|item| item.parsed(names::server_name));
    let ca = given(table, "ca").and_then(|item| file_path(&item));
    let certificate = given(table, "certificate").and_then(|item| file_path(&item));
    let private_key = given(table, "private_key").and_then(|item| file_path(&item));
    let client = match (certificate, private_key) {
        (Some(certificate), Some(private_key)) => {
            Some(CertificateFiles { certificate, private_key, ocsp: None })
        }
        (Some(_), None) => lacks(table, "private_key", "certificate"),
        (None, Some(_)) => lacks(table, "certificate", "private_key"),
        (None, None) => None,
    };
    ServiceTls { server_name, files: TlsFiles::new(ca, client) }
}

/// A key that may be `""`: not given.
fn given<'t>(table: &'t Table<'_>, key: &'static str) -> Option<Item<'t>> {
    table.item(key).filter(|item| item.word().as_deref() != Some(""))
}

fn lacks<T>(table: &Table<'_>, lacks: &'static str, has: &'static str) -> Option<T> {
    // What is there and wrong has been said.
    if given(table, lacks).is_none() {
        table.site_of(has).error(table.cx, format!("needs {lacks} beside it"));
    }
    None
}
