//! `[history]` and `[alerts]` as text.

use super::{Printer, values};
use crate::model::Config;

impl Config {
    pub(super) fn print_record(&self, out: &mut Printer) {
        out.section("[history]");
        out.whole("entries", self.history.entries);
        out.size("file_bytes", self.history.file_bytes);
        let Some(alerts) = &self.alerts else { return };
        out.section("[alerts]");
        match &alerts.url_as_written {
            Some(written) => out.value("url", written.clone().into()),
            None => out.text("url", &alerts.url.to_string()),
        }
        out.value("headers", values(&alerts.headers, &alerts.headers_as_written));
        if let Some(secret) = &alerts.secret {
            out.path("secret_file", &secret.file);
        }
        if let Some(ca) = &alerts.ca {
            out.path("ca", ca);
        }
        out.texts("events", alerts.events.iter().map(|class| class.label()));
        out.duration("timeout", alerts.timeout);
        out.whole("retries", alerts.retries as usize);
        out.duration("backoff", alerts.backoff);
        out.whole("queue", alerts.queue);
    }
}
