//! `[services.tls]`.

use super::Printer;
use crate::upstream::ServiceTls;

pub(super) fn print_tls(out: &mut Printer, tls: &ServiceTls) {
    out.section("[services.tls]");
    if let Some(name) = &tls.server_name {
        out.text("server_name", name);
    }
    if let Some(ca) = &tls.files.ca {
        out.path("ca", ca);
    }
    if let Some(client) = &tls.files.client {
        out.path("certificate", &client.certificate);
        out.path("private_key", &client.private_key);
    }
}
