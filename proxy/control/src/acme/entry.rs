//! One certificate of `[acme]`: what is in force, when there is an order, how orders went.

use std::sync::Arc;
use std::time::Duration;

use meridian_config::AcmeCertificate;
use tokio::task::AbortHandle;

use super::book::Awaited;
use super::report::{CertificateReport, CertificateState};
use super::schedule::{Until, renewal_ms, rest_ms};
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

impl Held {
    /// How long nothing is ordered after it was issued, milliseconds.
    pub(super) fn rest_ms(&self, backoff: Duration) -> u64 {
        rest_ms(backoff, self.not_before_unix_s, self.certificate.not_after_unix_s)
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
    pub(super) save_after: Until,
    /// What an earlier process has left could not be read: no order before it was.
    pub(super) is_unread: bool,
    /// The order that is under way.
    order: Option<(u64, AbortHandle)>,
    /// In a row.
    pub(super) failures: u32,
    failing_since_ms: Option<u64>,
    retry: Until,
    last_error: Option<String>,
    issued: u64,
    failed: u64,
}

impl Entry {
    pub(super) fn new(key: Arc<str>) -> Self {
        Self {
            key,
            wanted: AcmeCertificate { domains: Vec::new() },
            held: None,
            awaited: Arc::default(),
            unsaved: None,
            save_after: Until::default(),
            is_unread: false,
            order: None,
            failures: 0,
            failing_since_ms: None,
            retry: Until::default(),
            last_error: None,
            issued: 0,
            failed: 0,
        }
    }

    /// Goes on where orders of an earlier process have ended.
    pub(super) fn resume(&mut self, attempt: &Attempt, now_ms: u64) {
        self.failures = attempt.failures;
        self.retry = Until::kept(attempt.next_unix_ms, now_ms);
    }

    /// What an earlier process has left cannot be read, and is looked at again.
    pub(super) fn leave_unread(&mut self, why: String) {
        let certificate = &*self.key;
        tracing::error!(target: "acme", certificate, error = why, "what was kept cannot be read");
        self.is_unread = true;
        self.last_error = Some(why);
    }

    /// It was read in the end.
    pub(super) fn read(&mut self, stored: Option<StoredCertificate>) {
        self.is_unread = false;
        (self.last_error, self.failing_since_ms) = (None, None);
        match stored {
            Some(stored) if self.held.is_some() => drop(self.catch_up(&stored)),
            Some(stored) => self.restore(stored),
            None => {}
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
        wanted.max(self.retry.unix_ms())
    }

    /// Looks at the clock, which may have been set.
    pub(super) fn heed(&mut self, now_ms: u64) {
        self.retry.heed(now_ms);
        self.save_after.heed(now_ms);
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
        (self.failures, self.retry) = (0, Until::default());
    }

    pub(super) fn take(&mut self, stored: StoredCertificate, held: Held) {
        self.held = Some(held);
        (self.unsaved, self.save_after) = (Some(stored), Until::default());
        self.issued += 1;
    }

    /// Whether the certificate that was just issued is to be renewed already.
    pub(super) fn is_due_on_arrival(&self, now_ms: u64) -> bool {
        self.held.as_ref().is_some_and(|held| held.renew_unix_ms <= now_ms)
    }

    /// No order for so long.
    pub(super) fn succeed(&mut self, now_ms: u64, rest_ms: u64) {
        (self.failures, self.last_error, self.failing_since_ms) = (0, None, None);
        self.retry = Until::after(now_ms, rest_ms);
    }

    pub(super) fn fail(&mut self, error: String, now_ms: u64, wait_ms: u64) {
        self.failures += 1;
        self.failed += 1;
        self.failing_since_ms.get_or_insert(now_ms);
        self.retry = Until::after(now_ms, wait_ms);
        self.last_error = Some(error);
    }

    /// How long orders have failed; `None`: the last one did not.
    pub(super) fn failing_for_ms(&self) -> Option<u64> {
        self.failing_since_ms.map(|since| unix_ms().saturating_sub(since))
    }

    /// `hold_unix_ms`: no order before.
    pub(super) fn report(
        &self,
        directory: &str,
        hold_unix_ms: u64,
        now_ms: u64,
    ) -> CertificateReport {
        // What is due waits for its turn.
        let next = self.due_ms(directory).max(hold_unix_ms).max(now_ms);
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
            next_order_unix_ms: (!self.is_ordering()).then_some(next),
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
