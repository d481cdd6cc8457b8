//! One certificate of `[acme]`: what is in force, when there is an order, how orders went.

use std::sync::Arc;
use std::time::Duration;

use meridian_config::AcmeCertificate;
use tokio::task::AbortHandle;

use super::book::Awaited;
use super::failure::LONGEST_HOLD;
use super::report::{CertificateReport, CertificateState};
use super::schedule::renewal_ms;
use super::store::{Attempt, StoredCertificate};
use crate::certificates::{Certificate, Issued, issued};
use crate::clock::unix_ms;

/// A certificate that is in force.
pub(super) struct Held {
    pub(super) certificate: Arc<Certificate>,
    pub(super) not_before_unix_s: i64,
    /// Of the authority that issued it.
    directory: String,
    /// Where in the time for renewals its own is, from 0 to 1.
    roll: f64,
    renew_unix_ms: u64,
}

impl Held {
    /// # Errors
    /// In words: it cannot be used, or is not for its domains.
    pub(super) fn of(stored: &StoredCertificate) -> Result<Self, String> {
        let made = issued(stored.certificate.as_bytes(), stored.private_key.as_bytes())?;
        let Issued { certificate, not_before_unix_s } = made;
        if let Some(missing) = stored.domains.iter().find(|d| !certificate.hosts.contains(d)) {
            return Err(format!("the certificate is not for {missing}"));
        }
        Ok(Self {
            certificate: Arc::new(certificate),
            not_before_unix_s,
            directory: stored.directory.clone(),
            roll: fastrand::f64(),
            renew_unix_ms: 0,
        })
    }
}

/// One certificate.
pub(super) struct Entry {
    pub(super) key: Arc<str>,
    pub(super) wanted: AcmeCertificate,
    pub(super) held: Option<Held>,
    pub(super) awaited: Arc<Awaited>,
    /// What the disk has not taken yet, and when that is tried again, Unix milliseconds.
    pub(super) unsaved: Option<StoredCertificate>,
    pub(super) save_after_ms: u64,
    /// The order that is under way.
    order: Option<(u64, AbortHandle)>,
    /// In a row.
    pub(super) failures: u32,
    failing_since_ms: Option<u64>,
    retry_unix_ms: u64,
    last_error: Option<String>,
    issued: u64,
    failed: u64,
}

impl Entry {
    /// `attempt`: how orders of an earlier process went.
    pub(super) fn new(key: Arc<str>, attempt: Option<&Attempt>) -> Self {
        Self {
            key,
            wanted: AcmeCertificate { domains: Vec::new() },
            held: None,
            awaited: Arc::default(),
            unsaved: None,
            save_after_ms: 0,
            order: None,
            failures: attempt.map_or(0, |attempt| attempt.failures),
            failing_since_ms: None,
            // The clock may have been wrong.
            retry_unix_ms: attempt.map_or(0, |attempt| {
                attempt.next_unix_ms.min(unix_ms() + LONGEST_HOLD.as_millis() as u64)
            }),
            last_error: None,
            issued: 0,
            failed: 0,
        }
    }

    /// Takes what an earlier process has left; what cannot be used is told and will be issued anew.
    pub(super) fn restore(&mut self, stored: StoredCertificate) {
        match Held::of(&stored) {
            Ok(held) => self.held = Some(held),
            Err(error) => {
                let certificate = &*self.key;
                tracing::error!(target: "acme", certificate, error, "what was kept cannot be used");
            }
        }
    }

    /// Takes what the process before has left meanwhile, if it is newer.
    pub(super) fn catch_up(&mut self, stored: &StoredCertificate) -> bool {
        let ends = |held: &Held| held.certificate.not_after_unix_s;
        match Held::of(stored) {
            Ok(held) if self.held.as_ref().is_none_or(|old| ends(old) < ends(&held)) => {
                self.held = Some(held);
                true
            }
            _ => false,
        }
    }

    /// When it is renewed.
    pub(super) fn schedule(&mut self, before: Option<Duration>) {
        if let Some(held) = &mut self.held {
            let ends = held.certificate.not_after_unix_s;
            held.renew_unix_ms = renewal_ms(held.not_before_unix_s, ends, before, held.roll);
        }
    }

    /// When the next order may begin, Unix milliseconds: at once if the authority is another one.
    pub(super) fn due_ms(&self, directory: &str) -> u64 {
        let wanted = match &self.held {
            Some(held) if held.directory == directory => held.renew_unix_ms,
            _ => 0,
        };
        wanted.max(self.retry_unix_ms)
    }

    pub(super) fn begin(&mut self, number: u64, order: AbortHandle) {
        self.order = Some((number, order));
    }

    /// Whether this order is its own, and under way.
    pub(super) fn is_of(&self, number: u64) -> bool {
        self.order.as_ref().is_some_and(|(own, _)| *own == number)
    }

    /// Whether an order is under way.
    pub(super) fn is_ordering(&self) -> bool {
        self.order.is_some()
    }

    pub(super) fn end(&mut self) {
        self.order = None;
    }

    /// Gives an order up, and forgets failures.
    pub(super) fn start_anew(&mut self) {
        if let Some((_, order)) = self.order.take() {
            order.abort();
        }
        (self.failures, self.retry_unix_ms) = (0, 0);
    }

    pub(super) fn take(&mut self, stored: StoredCertificate, held: Held) {
        self.held = Some(held);
        (self.unsaved, self.save_after_ms) = (Some(stored), 0);
        (self.failures, self.retry_unix_ms, self.last_error) = (0, 0, None);
        self.failing_since_ms = None;
        self.issued += 1;
    }

    pub(super) fn fail(&mut self, error: String, now_ms: u64, wait_ms: u64) {
        self.failures += 1;
        self.failed += 1;
        self.failing_since_ms.get_or_insert(now_ms);
        self.retry_unix_ms = now_ms + wait_ms;
        self.last_error = Some(error);
    }

    /// How long orders have failed; `None`: the last one did not.
    pub(super) fn failing_for_ms(&self) -> Option<u64> {
        self.failing_since_ms.map(|since| unix_ms().saturating_sub(since))
    }

    pub(super) fn report(&self, directory: &str) -> CertificateReport {
        let state = match (self.is_ordering(), self.last_error.is_some(), &self.held) {
            (true, _, _) => CertificateState::Ordering,
            (false, true, _) => CertificateState::Failing,
            (false, false, Some(_)) => CertificateState::Valid,
            (false, false, None) => CertificateState::Awaited,
        };
        CertificateReport {
            name: self.wanted.name().to_owned(),
            domains: self.wanted.domains.clone(),
            state,
            not_after_unix_s: self.held.as_ref().map(|held| held.certificate.not_after_unix_s),
            next_order_unix_ms: (!self.is_ordering()).then(|| self.due_ms(directory)),
            failures: self.failures,
            last_error: self.last_error.clone(),
            issued: self.issued,
            failed: self.failed,
        }
    }
}

#[cfg(test)]
pub(super) fn held_for(hosts: &[&str], not_before_unix_s: i64) -> Held {
    let domains: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(domains.clone()).expect("made");
    let stored = StoredCertificate {
        directory: "https://ca/".into(),
        domains,
        certificate: made.cert.pem(),
        private_key: made.signing_key.serialize_pem(),
    };
    Held { not_before_unix_s, ..Held::of(&stored).expect("good") }
}
