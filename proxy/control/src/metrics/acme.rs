//! Certificates that an authority issues.

use std::sync::atomic::Ordering::Relaxed;

use super::family::Family;
use super::names;
use crate::acme::AcmeReport;

pub(super) fn acme(report: &AcmeReport, families: &mut Vec<Family>) {
    if report.certificates.is_empty() {
        return;
    }
    let mut orders = Family::counter(names::ACME_ORDERS);
    let mut failures = Family::gauge(names::ACME_FAILURES);
    let mut next = Family::gauge(names::ACME_NEXT);
    for one in &report.certificates {
        let name = ("certificate", &*one.name);
        for (outcome, count) in [("issued", one.issued), ("failed", one.failed)] {
            orders.count(&[name, ("outcome", outcome)], count);
        }
        failures.count(&[name], u64::from(one.failures));
        if let Some(unix_ms) = one.next_order_unix_ms {
            next.add(&[name], unix_ms as f64 / 1000.0);
        }
    }
    let mut answered = Family::counter(names::ACME_ANSWERED);
    for (kind, count) in [("http-01", &report.answered.http), ("tls-alpn-01", &report.answered.tls)]
    {
        answered.count(&[("challenge", kind)], count.load(Relaxed));
    }
    families.extend([orders, failures, next, answered]);
}
