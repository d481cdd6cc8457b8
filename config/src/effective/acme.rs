//! `[acme]` as text.

use toml::Value;

use super::Printer;
use crate::acme::Acme;
use crate::values::escape;

pub(super) fn print(out: &mut Printer, acme: &Acme) {
    out.section("[acme]");
    out.text("directory", &acme.directory.to_string());
    out.value("agree_to_terms", true.into());
    out.texts("contact", &acme.contact);
    out.texts("challenges", acme.challenges.iter().map(|kind| kind.label()));
    if let Some(ca) = &acme.ca {
        out.path("ca", ca);
    }
    if let Some(account) = &acme.external_account {
        let mut table = toml::Table::new();
        let id = account.key_id_as_written.clone().unwrap_or_else(|| escape(&account.key_id));
        table.insert("key_id".into(), id.into());
        let file = escape(&account.hmac_key_file.display().to_string());
        table.insert("hmac_key_file".into(), file.into());
        out.value("external_account", Value::Table(table));
    }
    out.auto("renew_before", acme.renew_before);
    out.duration("backoff", acme.backoff);
    for certificate in &acme.certificates {
        out.section("[[acme.certificates]]");
        out.texts("domains", &certificate.domains);
    }
}
